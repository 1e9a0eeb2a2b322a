// SPDX-License-Identifier: GPL-3.0-or-later
//! What Slurm wants: which nodes are to have an instance, and when they are asked for together.

mod batches;
mod jobs;
pub(crate) mod power;
mod reset;

use std::collections::BTreeMap;

/// What Slurm wants, as far as it takes time.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// Nodes of ours that are no longer configured and not up, and since when.
    unconfigured: BTreeMap<String, u64>,
    /// When slurmctld is asked to start jobs.
    pub(crate) start_jobs_at: Option<u64>,
}
