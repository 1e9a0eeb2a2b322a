// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's Weight of nodes, which follows the instance that each node has where the site wants it (NodeWeights).
//!
//! slurmctld goes back to the weights of slurm.conf whenever it reads it (update_node in scontrol(1)), so what it has is
//! compared with what it should have: nothing is written while they agree. Each write that gives a part of a NodeName line
//! another weight also costs the scheduler one more set of nodes to look at (_update_node_weight splits config records,
//! src/slurmctld/node_mgr.c): another reason to write only where they differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::engine::cx::Cx;
use crate::core::engine::cx::attempt::Turn;
use crate::core::engine::cx::calls::Purpose;
use crate::core::engine::cx::nodes::{Desire, Node};
use crate::core::engine::ground::Ground;
use crate::core::fact::FactKind;
use crate::core::record::Binding;
use crate::core::site::{NodeGroup, Site};
use crate::core::slurm_api::{NodeUpdate, SlurmRequest, SlurmResult};

/// Nodes whose weight may not be the wanted one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weights {
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
    pub(crate) fn of(site: &Site) -> Self {
        let on = site.groups().iter().any(|group| group.node_weights.is_some());
        Self { on, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.due.is_empty() && !self.turn.in_flight()
    }

    pub(crate) fn touch(&mut self, node: &str) {
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

impl Ground {
    /// slurmctld may have gone back to the weights of slurm.conf.
    pub(crate) fn forget_weights(&mut self) {
        let weights = &mut self.weights;
        weights.round += 1;
        if !weights.on {
            return;
        }
        for (name, node) in &mut self.cx.nodes {
            node.slurm_weight = None;
            weights.touch(name);
        }
        weights.unread = true;
        self.sight.load_slurm_again(&self.cx);
    }

    /// Other rules: every node may be weighed anew.
    pub(crate) fn weigh_by_new_site(&mut self) {
        let Weights { turn, round, .. } = self.weights;
        self.weights = Weights { turn: turn.forgiven(), round, ..Weights::of(&self.cx.site) };
        self.forget_weights();
    }

    /// One update for each weight, one after the other.
    pub(crate) fn set_weights(&mut self) {
        for node in std::mem::take(&mut self.cx.changed.weights) {
            self.weights.touch(&node);
        }
        if self.weights.due.is_empty()
            || self.weights.turn.in_flight()
            || self.weights.unread
            || !self.sight.slurm.is_known()
        {
            return;
        }
        if let Some(at) = self.weights.turn.waits_until(self.cx.now.mono_ms) {
            self.cx.wake(at);
            return;
        }
        let mut wrong: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for name in std::mem::take(&mut self.weights.due) {
            if let Some(weight) = self.weights.wrong_weight(&self.cx, &name) {
                wrong.entry(weight).or_default().push(name);
            }
        }
        let Some((weight, nodes)) = wrong.pop_first() else { return };
        self.weights.due.extend(wrong.into_values().flatten());
        self.weights.turn.begin();
        let update = NodeUpdate { names: nodes.clone(), weight: Some(weight), ..NodeUpdate::default() };
        let round = self.weights.round;
        self.cx.slurm_call(Purpose::Weigh { nodes, weight, round }, SlurmRequest::UpdateNodes(update));
    }
}

impl Weights {
    /// slurmctld has said what it has.
    pub(crate) fn weights_read(&mut self) {
        self.unread = false;
    }

    /// The weight that this node should have and, as far as is known, has not.
    fn wrong_weight(&self, cx: &Cx, name: &str) -> Option<u32> {
        let (group, _) = cx.site.locate(name)?;
        let node = cx.nodes.get(name)?;
        let weight = wanted(group, node, cx.persisted.bindings.get(name))?;
        (node.slurm_weight != Some(weight) && !cx.is_locked(name)).then_some(weight)
    }

    pub(crate) fn take_weighed(
        &mut self,
        cx: &mut Cx,
        nodes: Vec<String>,
        weight: u32,
        round: u64,
        result: SlurmResult,
    ) {
        match result {
            Ok(_) => {
                self.turn.succeeded();
                if round == self.round {
                    for name in &nodes {
                        if let Some(node) = cx.nodes.get_mut(name) {
                            node.slurm_weight = Some(weight);
                        }
                    }
                }
                let text = format!("slurmctld has weight {weight} for {} nodes", nodes.len());
                cx.fact(cx.new_fact(FactKind::WeightsSet, text).nodes(&nodes));
            }
            Err(error) => {
                self.turn.failed(cx.now.mono_ms, 0, &mut cx.rng);
                cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
            }
        }
        // What each should have may be another by now, or what was written undone.
        self.due.extend(nodes);
    }
}
