// SPDX-License-Identifier: GPL-3.0-or-later
//! What is under way for the fleet of one group.

use std::collections::BTreeSet;

use crate::engine::cx::agenda::Watched;

/// What is under way for one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupState {
    /// Nodes that wait for an instance of the fleet, and since when.
    pub(crate) awaiting: Watched<String, u64>,
    /// Of these, how many are to come on-demand because Spot did not deliver.
    pub(crate) on_demand_wanted: u32,
    /// An intent (create or modify) is open and not to be repeated before this `mono_ms`.
    pub(crate) open_intent: Option<u64>,
    pub(crate) in_flight: bool,
    pub(crate) attempts: u32,
    pub(crate) next_at: u64,
    /// EC2 has finished what ModifyFleet began.
    pub(crate) settled: bool,
    /// EC2 takes no ModifyFleet while it carries one out.
    pub(crate) modifying: bool,
    /// `mono_ms` of the last accepted change: an older list says nothing about it.
    pub(crate) changed_at: u64,
    /// EC2's lists do not show the fleet, since this `mono_ms`.
    pub(crate) unseen_since: Option<u64>,
    /// To be looked at once, for instances that are nobody's.
    pub(crate) look: bool,
    /// This process has read the fleet's own list.
    pub(crate) looked: bool,
    /// Nodes have begun to wait for a fleet at rest: until this `mono_ms` its own list comes first. What is in it already was
    /// not launched for them.
    pub(crate) before_raise: Option<u64>,
    /// The last look found no instance behind which Slurm runs a job that we know nothing of.
    pub(crate) clear: bool,
    /// What the site now wants instances made from, although the fleet's digest says it has it (`$Latest`).
    pub(crate) apply_again: bool,
    /// Digest of a template that EC2 refused: not tried again before the configuration changes.
    pub(crate) refused: Option<String>,
    pub(crate) poll_in_flight: bool,
    pub(crate) poll_at: u64,
    /// Instances that belong to nobody, as the last look saw them.
    pub(crate) spare: BTreeSet<String>,
    pub(crate) last_arrival: u64,
    /// EC2's history has said why no Spot instance comes to those that wait.
    pub(crate) short: bool,
}

impl GroupState {
    pub(crate) fn awaits(&self, node: &str) -> bool {
        self.awaiting.contains_key(node)
    }

    pub(crate) fn touch(&mut self, node: &str) {
        self.awaiting.touch(node);
    }

    pub(crate) fn touch_all(&mut self) {
        self.awaiting.touch_all();
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.awaiting.is_empty() && self.spare.is_empty() && self.open_intent.is_none()
    }
}
