// SPDX-License-Identifier: GPL-3.0-or-later
//! What is under way for the fleet of one group.

use std::collections::BTreeSet;

use crate::engine::cx::agenda::Watched;
use crate::engine::cx::attempt::Attempt;

/// Nodes that wait for an instance of their group's fleet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Awaiting {
    /// Each with the `mono_ms` since when it waits.
    pub(crate) nodes: Watched<String, u64>,
    /// Of these, how many are to come on-demand because Spot did not deliver.
    pub(crate) on_demand: u32,
    /// `mono_ms` at which the last instance came.
    pub(crate) last_arrival: u64,
    /// EC2's history has said why no Spot instance comes to those that wait.
    pub(crate) short: bool,
}

impl Awaiting {
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)
    }
}

/// CreateFleet or ModifyFleet: none, one in flight, or one that backs off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Call {
    /// The intent that EC2 has not answered; it is sent again with its token.
    pub(crate) intent: Option<u64>,
    pub(crate) attempt: Attempt,
}

/// The fleet, as EC2 last showed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not since it was made, or in a state that says nothing.
    #[default]
    Unknown,
    /// EC2 has finished what ModifyFleet began.
    Settled,
    /// EC2 takes no ModifyFleet while it carries one out.
    Modifying,
}

impl Seen {
    /// The state of a fleet (API_FleetData, `FleetState`).
    pub(crate) fn of(state: &str) -> Self {
        match state {
            "active" => Self::Settled,
            "modifying" => Self::Modifying,
            _ => Self::Unknown,
        }
    }
}

/// What is under way for one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct GroupState {
    pub(crate) awaiting: Awaiting,
    pub(crate) call: Call,
    pub(crate) fleet: Seen,
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
    pub(crate) poll: Attempt,
    /// Instances that belong to nobody, as the last look saw them.
    pub(crate) spare: BTreeSet<String>,
}

impl GroupState {
    pub(crate) fn awaits(&self, node: &str) -> bool {
        self.awaiting.nodes.contains_key(node)
    }

    pub(crate) fn touch(&mut self, node: &str) {
        self.awaiting.nodes.touch(node);
    }

    pub(crate) fn touch_all(&mut self) {
        self.awaiting.nodes.touch_all();
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.awaiting.nodes.is_empty() && self.spare.is_empty() && self.call.intent.is_none()
    }
}
