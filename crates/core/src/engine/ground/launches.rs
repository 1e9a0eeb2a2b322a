// SPDX-License-Identifier: GPL-3.0-or-later
//! What was asked of EC2 and has not come yet.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudError, CreateFleet};
use crate::engine::cx::agenda::Watched;
use crate::engine::cx::pool::Pool;
use crate::record::LaunchJob;
use crate::site::{Account, Lifecycle};

/// An unanswered or unfinished CreateFleet.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    pub(crate) group: String,
    pub(crate) account: Account,
    pub(crate) token: String,
    pub(crate) lifecycle: Lifecycle,
    /// Nodes that still wait, in binding order.
    pub(crate) nodes: Vec<String>,
    /// The job whose nodes were asked for, all or none.
    pub(crate) job: Option<u64>,
    pub(crate) started: u64,
    /// `mono_ms` at which the nodes are reported as failed.
    pub(crate) deadline: u64,
    pub(crate) phase: Phase,
    pub(crate) last_error: Option<CloudError>,
}

impl Launch {
    /// Instances that EC2 named in its answer and that have no node yet.
    pub(crate) fn expected(&self) -> impl Iterator<Item = &str> {
        let pending = match &self.phase {
            Phase::Describing { pending, .. } => pending.as_slice(),
            Phase::Recovering | Phase::Creating { .. } => &[],
        };
        pending.iter().map(String::as_str)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Found in the journal; whether it is still wanted is decided when EC2 and Slurm have been listed.
    Recovering,
    Creating {
        in_flight: bool,
        attempts: u32,
        next_at: u64,
    },
    /// EC2 gave these instances; their addresses are asked for.
    Describing {
        pending: Vec<String>,
        in_flight: bool,
        attempts: u32,
        next_at: u64,
        since: u64,
    },
}

/// What was asked of EC2 and has not come yet.
#[derive(Debug, Default)]
pub(crate) struct Launches {
    /// CreateFleet calls, by intent.
    pub(crate) open: Watched<u64, Launch>,
    /// Pools that a node's fleet launch has tried, and since when, by intent.
    pub(crate) attempts_of: BTreeMap<u64, Tried>,
    /// Fleets that have no instance yet, by node.
    pub(crate) fulfilling: Watched<String, Fulfil>,
}

/// The job for which a fleet was asked for that gives all or nothing.
pub(crate) fn whole_job(request: &CreateFleet, jobs: &[LaunchJob]) -> Option<u64> {
    request.is_all_or_nothing().then(|| jobs.first().map(|job| job.id)).flatten()
}

/// Pools that have been asked for an instance of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    pub(crate) pools: BTreeSet<Pool>,
    /// `mono_ms` at which the first of them was asked.
    pub(crate) since: u64,
}

impl Tried {
    pub(crate) fn none(now_mono_ms: u64) -> Self {
        Self { pools: BTreeSet::new(), since: now_mono_ms }
    }
}

/// A fleet that has no instance yet.
#[derive(Clone, Debug)]
pub(crate) struct Fulfil {
    pub(crate) account: Account,
    pub(crate) group: String,
    pub(crate) fleet_id: String,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) tried: Tried,
    pub(crate) since: u64,
}
