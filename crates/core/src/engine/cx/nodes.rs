// SPDX-License-Identifier: GPL-3.0-or-later
//! What is known of Slurm's nodes, and what Slurm wants of each.

use std::collections::BTreeSet;

use crate::engine::cx::Cx;
use crate::name_map::NameMap;
use crate::slurm_api::{NodeBase, NodeFlags, SlurmNode};

/// What Slurm wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Desire {
    /// Slurm has not been asked yet.
    #[default]
    Unknown,
    /// Power save is waking it: it needs an instance.
    Waking,
    /// It is up, or was never down: whatever stands behind it stays.
    Keep,
    /// Power save has suspended it: its instance has to go.
    Down,
}

impl Desire {
    /// The desire that a node's state expresses (node_state flags, slurm.h).
    ///
    /// POWER_DOWN alone is only a wish that waits: for the node's jobs, so the node is kept, and for the end of its
    /// power-up, so the node is woken (`_node_state_suspendable` in power_save.c; POWER_DOWN_FORCE clears POWERING_UP).
    #[must_use]
    pub fn of(node: &SlurmNode) -> Self {
        let flags = node.flags;
        if flags.has(NodeFlags::POWERED_DOWN) || flags.has(NodeFlags::POWERING_DOWN) {
            Self::Down
        } else if flags.has(NodeFlags::POWERING_UP) {
            Self::Waking
        } else {
            Self::Keep
        }
    }
}

/// What is known of one Slurm node of ours.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub desire: Desire,
    /// `mono_ms` of the last change of `desire`.
    pub since: u64,
    pub base: NodeBase,
    pub flags: NodeFlags,
    /// NodeAddr as slurmctld last showed it.
    pub slurm_addr: Option<String>,
    pub reason: Option<String>,
    pub has_job: bool,
    /// As slurmctld last showed it, or was told; `None`: not known.
    pub(crate) slurm_weight: Option<u32>,
    /// The CreateFleet intent in which the node waits.
    pub(crate) launch: Option<u64>,
    /// The failure of this power-up has been handed to the report queue.
    pub(crate) reported: bool,
    /// `mono_ms` when the present binding began.
    pub(crate) bound_at: u64,
    /// `mono_ms` since when no instance has stood behind a node that is up.
    pub(crate) bare_since: Option<u64>,
    /// `mono_ms` of the last attempt to bring the node back from DOWN.
    pub(crate) reset_at: Option<u64>,
}

impl Cx {
    /// Half a minute before Slurm's ResumeTimeout would strike the first of the nodes, but never below a minute.
    pub(crate) fn launch_deadline(&self, nodes: &[String]) -> u64 {
        let patience =
            (u64::from(self.site.settings.resume_timeout_s) * 1000).saturating_sub(30_000).max(60_000);
        self.since_first(nodes).unwrap_or(self.now.mono_ms) + patience
    }

    /// `mono_ms` since which the first of these nodes is as Slurm wants it now.
    pub(crate) fn since_first(&self, nodes: &[String]) -> Option<u64> {
        nodes.iter().filter_map(|node| self.nodes.get(node)).map(|node| node.since).min()
    }

    /// Milliseconds since Slurm decided to power up the first of these nodes.
    pub(crate) fn waited(&self, nodes: &[String]) -> u64 {
        self.since_first(nodes).map_or(0, |since| self.now.since(since))
    }

    pub(crate) fn still_wanted(&self, nodes: &[String]) -> Vec<String> {
        nodes.iter().filter(|node| self.wants_instance(node)).cloned().collect()
    }

    /// These nodes no longer wait in this launch.
    pub(crate) fn release(&mut self, nodes: &[String], id: u64) {
        for name in nodes {
            if let Some(node) = self.nodes.get_mut(name)
                && node.launch == Some(id)
            {
                node.launch = None;
            }
        }
    }

    /// What was `seen` ownerless before the node's power-up began has booted before it, and slurmctld does not let it
    /// register (boot_req_time in waiting_for_node_boot, src/slurmctld/node_mgr.c, 24.11).
    pub(crate) fn is_from_before(&self, node: &str, seen: Option<&u64>) -> bool {
        let known = self.nodes.get(node).filter(|n| n.desire == Desire::Waking);
        known.zip(seen).is_some_and(|(node, seen)| *seen < node.since)
    }

    /// Up in Slurm, with no instance in the journal.
    pub(crate) fn is_bare(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep)
            && !self.persisted.bindings.contains_key(node)
    }
}

/// Behind these addresses Slurm runs jobs.
///
/// A job on a node that is powered down or has yet to register waits; the address is that of the instance before, and may
/// have become another's since.
pub(crate) fn busy_addresses(nodes: &NameMap<Node>) -> BTreeSet<&str> {
    let runs = |node: &&Node| match node.desire {
        Desire::Down => false,
        Desire::Waking => !node.flags.has(NodeFlags::POWERING_UP),
        Desire::Keep | Desire::Unknown => true,
    };
    let busy = nodes.values().filter(|node| node.has_job).filter(runs);
    busy.filter_map(|node| node.slurm_addr.as_deref()).collect()
}
