// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes whose instance sleeps, wakes or moves.

use std::collections::BTreeMap;

use crate::ec2_api::{Instance, InstanceState};
use crate::engine::cx::Cx;
use crate::engine::cx::agenda::{Agenda, Watched};
use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::cx::nodes::Desire;
use crate::fact::FactKind;
use crate::record::Record;
use crate::relocation::Relocation;
use crate::slurm_api::{NodeFlags, NodeStateChange, NodeUpdate, SlurmRequest};
use crate::time::Now;

/// Reason of a node that is closed to new jobs while its instance sleeps.
pub(crate) const ASLEEP_REASON: &str = "hibernated by EC2";

pub(crate) const MINUTE_MS: u64 = 60_000;

/// One sleeping node.
#[derive(Clone, Debug)]
pub(crate) struct Sleep {
    pub(crate) since: u64,
    pub(crate) since_unix_ms: u64,
    /// Minutes already added to the job's time limit.
    pub(crate) extended: u64,
    /// The longest sleep has passed, and what is configured for that has been done.
    pub(crate) given_up: bool,
    /// `mono_ms` before which no move to on-demand is begun.
    pub(crate) move_at: u64,
    /// `mono_ms` at which slurmctld is to be asked to close the node to new jobs; `None`: it was.
    pub(crate) close_at: Option<u64>,
}

impl Sleep {
    pub(crate) fn begun(now: Now, since_unix_ms: u64) -> Self {
        Self {
            since: now.mono_ms,
            since_unix_ms,
            extended: 0,
            given_up: false,
            move_at: 0,
            close_at: Some(0),
        }
    }

    /// A move that failed is not tried again before `at`.
    pub(crate) fn not_before(&mut self, at: u64) {
        self.move_at = at;
    }
}

/// When a move goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) in_flight: bool,
    pub(crate) next_at: u64,
    pub(crate) attempts: u32,
    pub(crate) stage_since: u64,
    /// The trouble that was told last.
    pub(crate) told: Option<String>,
}

/// Nodes whose instance sleeps, wakes or moves.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    /// `mono_ms` at which slurmctld is told again that sleeping nodes respond.
    pub(crate) alive_at: u64,
    pub(crate) sleeping: Watched<String, Sleep>,
    /// Nodes whose instance is back, until slurmd must have answered.
    pub(crate) woken: Agenda<String>,
    /// Of these, for which the time is over, and since when: EC2's and Slurm's next answers decide.
    pub(crate) overdue: BTreeMap<String, u64>,
    /// Pace of the moves to on-demand, by node; their state is in the journal.
    pub(crate) paces: BTreeMap<String, Pace>,
}

impl Sleepers {
    /// slurmctld has these nodes' addresses: where an instance is back from sleep, its slurmd could not be reached before.
    pub(crate) fn reach_woken(&mut self, cx: &mut Cx, nodes: &[String]) {
        let mut reached = Vec::new();
        for node in nodes {
            if !self.woken.contains(node) && !self.overdue.contains_key(node) {
                continue;
            }
            self.expect_answer(cx, node);
            reached.push(node.clone());
        }
        if !reached.is_empty() {
            cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::KeepResponding { nodes: reached });
        }
    }

    /// From now on slurmd has WakeTimeoutSec to answer, whatever time it had before.
    fn expect_answer(&mut self, cx: &Cx, node: &str) {
        self.overdue.remove(node);
        if let Some((group, _)) = cx.site.locate(node) {
            let patience = u64::from(group.hibernation.wake_timeout_s) * 1000;
            self.woken.set(node.to_owned(), cx.now.mono_ms + patience);
        }
    }

    /// Asleep or awake, by what EC2 says of the instance.
    pub(crate) fn note_instance_state(&mut self, cx: &mut Cx, instance: &Instance) {
        let Some(node) = cx.ledger.owner(&instance.id) else { return };
        cx.sightings.show(&instance.id, instance.state);
        if !cx.site.locate(node).is_some_and(|(group, _)| group.hibernates()) {
            return;
        }
        let node = node.to_owned();
        match instance.state {
            InstanceState::Stopping | InstanceState::Stopped => self.fall_asleep(cx, &node),
            InstanceState::Running => self.wake_up(cx, &node),
            _ => {}
        }
    }

    fn fall_asleep(&mut self, cx: &mut Cx, node: &str) {
        let up = cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep);
        if !up || self.sleeping.contains_key(node) {
            return;
        }
        self.sleeping.insert(node.to_owned(), Sleep::begun(cx.now, cx.now.unix_ms));
        // The time to answer was of the waking before: asleep, slurmd cannot.
        self.woken.remove(node);
        self.overdue.remove(node);
        self.alive_at = cx.now.mono_ms;
        let text = format!("EC2 hibernated the instance of {node}; its job waits");
        cx.fact(cx.new_fact(FactKind::NodeAsleep, text).nodes([node]));
    }

    pub(crate) fn wake_up(&mut self, cx: &mut Cx, node: &str) {
        let drained = cx.nodes.get(node).is_some_and(|n| {
            n.flags.has(NodeFlags::DRAIN)
                && n.reason.as_deref().is_some_and(|reason| reason.contains(ASLEEP_REASON))
        });
        let slept = self.sleeping.remove(node);
        if slept.is_none() && !drained {
            return;
        }
        // From now on slurmd has SlurmdTimeout to answer, like any other.
        cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::KeepResponding { nodes: vec![node.to_owned()] });
        let update = NodeUpdate {
            names: vec![node.to_owned()],
            state: Some(NodeStateChange::Undrain),
            ..NodeUpdate::default()
        };
        cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::UpdateNodes(update));
        if let Some(n) = cx.nodes.get_mut(node) {
            n.flags = n.flags.without(NodeFlags::DRAIN);
        }
        self.expect_answer(cx, node);
        let ms = slept.map_or(0, |sleep| cx.now.since(sleep.since));
        let text = format!("the instance of {node} runs again after {} s asleep", ms / 1000);
        cx.fact(cx.new_fact(FactKind::NodeAwake, text).nodes([node]).after_ms(ms));
    }

    /// A node that is no longer up does not sleep.
    pub(crate) fn forget_sleep(&mut self, node: &str) {
        self.woken.remove(node);
        self.overdue.remove(node);
        self.sleeping.remove(node);
    }

    /// The job's instance is neither the one nor the other yet.
    pub(crate) fn is_moving(&self, cx: &Cx, node: &str) -> bool {
        self.sleeping.contains_key(node)
            && cx.persisted.relocations.get(node).is_some_and(|moving| !moving.moved)
    }

    pub(crate) fn recover_relocations(&mut self, cx: &Cx) {
        let now = cx.now;
        for (node, moving) in &cx.persisted.relocations {
            self.paces.insert(node.clone(), Pace { stage_since: now.mono_ms, ..Pace::default() });
            if !moving.moved && !moving.abandoned {
                // EC2 may list neither instance as stopped now: the journal alone knows that the node sleeps.
                self.sleeping.insert(node.clone(), Sleep::begun(now, moving.asleep_since_unix_ms));
            }
        }
    }

    /// The node is powered down. Whether its instance and fleet are the move's to end.
    pub(crate) fn abandon_relocation(&mut self, cx: &mut Cx, node: &str) -> bool {
        let Some(moving) = cx.persisted.relocations.get(node) else { return false };
        let newer = cx.persisted.fleets.get(node).is_some_and(|fleet| fleet.fleet_id != moving.fleet_id);
        if newer {
            return false;
        }
        if !moving.abandoned {
            let mut moving = (**moving).clone();
            moving.abandoned = true;
            self.remember(cx, moving);
            self.pace(node).next_at = 0;
        }
        true
    }

    pub(crate) fn pace(&mut self, node: &str) -> &mut Pace {
        self.paces.entry(node.to_owned()).or_default()
    }

    pub(crate) fn remember(&mut self, cx: &mut Cx, moving: Relocation) {
        cx.record(Record::Relocation { node: moving.node.clone(), relocation: Some(Box::new(moving)) });
    }
}
