// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's Weight of nodes, which follows the instance that each node has where the site wants it (NodeWeights).
//!
//! slurmctld goes back to the weights of slurm.conf whenever it reads it (update_node in scontrol(1)), so what it has is
//! compared with what it should have: nothing is written while they agree. Each write that gives a part of a NodeName line
//! another weight also costs the scheduler one more set of nodes to look at (_update_node_weight splits config records,
//! src/slurmctld/node_mgr.c): another reason to write only where they differ.

use std::collections::{BTreeMap, BTreeSet};

use super::outbox::Purpose;
use super::turn::Turn;
use super::{Desire, Engine, Node};
use crate::core::fact::FactKind;
use crate::core::record::Binding;
use crate::core::site::{NodeGroup, Site};
use crate::core::slurm_api::{NodeUpdate, SlurmRequest, SlurmResult};

/// Nodes whose weight may not be the wanted one.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    due: BTreeSet<String>,
    turn: Turn,
    /// What slurmctld has is asked for before anything is written.
    unread: bool,
    /// Raised whenever slurmctld may have gone back to slurm.conf: an answer to what was sent before says nothing.
    round: u64,
    /// Some group has weights.
    on: bool,
}

impl Weights {
    pub(super) fn of(site: &Site) -> Self {
        let on = site.groups().iter().any(|group| group.node_weights.is_some());
        Self { on, ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && !self.turn.in_flight()
    }

    pub(super) fn touch(&mut self, node: &str) {
        if self.on {
            self.due.insert(node.to_owned());
        }
    }
}

/// The weight that a node should have; `None`: whatever it has.
///
/// A node without an instance is worth what the group's next instance will be worth: the scheduler weighs it before the
/// launch. One that is up with an instance that is not known keeps what it has.
fn wanted(group: &NodeGroup, node: &Node, binding: Option<&Binding>) -> Option<u32> {
    let weights = group.node_weights?;
    match (node.desire, binding) {
        (Desire::Unknown, _) | (Desire::Keep, None) => None,
        (_, Some(binding)) => Some(weights.of(binding.lifecycle)),
        (Desire::Waking | Desire::Down, None) => Some(weights.of(group.lifecycle)),
    }
}

impl Engine {
    /// slurmctld may have gone back to the weights of slurm.conf.
    pub(super) fn forget_weights(&mut self) {
        let weights = &mut self.g.weights;
        weights.round += 1;
        if !weights.on {
            return;
        }
        for (name, node) in &mut self.g.cx.nodes {
            node.slurm_weight = None;
            weights.touch(name);
        }
        weights.unread = true;
        self.load_slurm_again();
    }

    /// Other rules: every node may be weighed anew.
    pub(super) fn weigh_by_new_site(&mut self) {
        let Weights { turn, round, .. } = self.g.weights;
        self.g.weights = Weights { turn: turn.forgiven(), round, ..Weights::of(&self.g.cx.site) };
        self.forget_weights();
    }

    /// slurmctld has said what it has.
    pub(super) fn weights_read(&mut self) {
        self.g.weights.unread = false;
    }

    /// The weight that this node should have and, as far as is known, has not.
    fn wrong_weight(&self, name: &str) -> Option<u32> {
        let (group, _) = self.g.cx.site.locate(name)?;
        let node = self.g.cx.nodes.get(name)?;
        let weight = wanted(group, node, self.g.cx.persisted.bindings.get(name))?;
        (node.slurm_weight != Some(weight) && !self.is_locked(name)).then_some(weight)
    }

    /// One update for each weight, one after the other.
    pub(super) fn set_weights(&mut self) {
        for node in std::mem::take(&mut self.g.cx.changed.weights) {
            self.g.weights.touch(&node);
        }
        if self.g.weights.due.is_empty()
            || self.g.weights.turn.in_flight()
            || self.g.weights.unread
            || !self.g.sight.slurm.is_known()
        {
            return;
        }
        if let Some(at) = self.g.weights.turn.waits_until(self.g.cx.now.mono_ms) {
            self.wake(at);
            return;
        }
        let mut wrong: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for name in std::mem::take(&mut self.g.weights.due) {
            if let Some(weight) = self.wrong_weight(&name) {
                wrong.entry(weight).or_default().push(name);
            }
        }
        let Some((weight, nodes)) = wrong.pop_first() else { return };
        self.g.weights.due.extend(wrong.into_values().flatten());
        self.g.weights.turn.begin();
        let update = NodeUpdate { names: nodes.clone(), weight: Some(weight), ..NodeUpdate::default() };
        let round = self.g.weights.round;
        self.slurm_call(Purpose::Weigh { nodes, weight, round }, SlurmRequest::UpdateNodes(update));
    }

    pub(super) fn take_weighed(&mut self, nodes: Vec<String>, weight: u32, round: u64, result: SlurmResult) {
        match result {
            Ok(_) => {
                self.g.weights.turn.succeeded();
                if round == self.g.weights.round {
                    for name in &nodes {
                        if let Some(node) = self.g.cx.nodes.get_mut(name) {
                            node.slurm_weight = Some(weight);
                        }
                    }
                }
                let text = format!("slurmctld has weight {weight} for {} nodes", nodes.len());
                self.fact(self.new_fact(FactKind::WeightsSet, text).nodes(&nodes));
            }
            Err(error) => {
                self.g.weights.turn.failed(self.g.cx.now.mono_ms, 0, &mut self.g.cx.rng);
                self.fact(self.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
            }
        }
        // What each should have may be another by now, or what was written undone.
        self.g.weights.due.extend(nodes);
    }
}
