// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's Weight of nodes, which follows the instance that each node has where the site wants it (NodeWeights).
//!
//! slurmctld goes back to the weights of slurm.conf whenever it reads it (update_node in scontrol(1)), so what it has is
//! compared with what it should have: nothing is written while they agree. Each write that gives a part of a NodeName line
//! another weight also costs the scheduler one more set of nodes to look at (_update_node_weight splits config records,
//! src/slurmctld/node_mgr.c): another reason to write only where they differ.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::cx::nodes::{Desire, Node};
use crate::fact::FactKind;
use crate::record::Binding;
use crate::site::{NodeGroup, Site};
use crate::slurm_api::{NodeUpdate, SlurmRequest, SlurmResult};

/// Nodes whose weight may not be the wanted one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Weights {
    due: BTreeSet<String>,
    attempt: Attempt,
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
        self.due.is_empty() && !self.attempt.in_flight()
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

impl Weights {
    /// slurmctld may have gone back to the weights of slurm.conf. True if it is to be asked what it has.
    pub(crate) fn forget(&mut self, cx: &mut Cx) -> bool {
        self.round += 1;
        if !self.on {
            return false;
        }
        for (name, node) in &mut cx.nodes {
            node.slurm_weight = None;
            self.touch(name);
        }
        self.unread = true;
        true
    }

    /// Other rules: every node may be weighed anew.
    pub(crate) fn of_new_site(&self, site: &Site) -> Self {
        Self { attempt: self.attempt.forgiven(), round: self.round, ..Self::of(site) }
    }

    /// One update for each weight, one after the other; none before slurmctld's nodes are known.
    pub(crate) fn set(&mut self, cx: &mut Cx, slurm_known: bool) -> Deadline {
        for node in std::mem::take(&mut cx.changed.weights) {
            self.touch(&node);
        }
        if self.due.is_empty() || self.attempt.in_flight() || self.unread || !slurm_known {
            return Deadline::NONE;
        }
        if let Some(at) = self.attempt.waits_until(cx.now.mono_ms) {
            return Deadline::at(at);
        }
        let mut wrong: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for name in std::mem::take(&mut self.due) {
            if let Some(weight) = wrong_weight(cx, &name) {
                wrong.entry(weight).or_default().push(name);
            }
        }
        let Some((weight, nodes)) = wrong.pop_first() else { return Deadline::NONE };
        self.due.extend(wrong.into_values().flatten());
        self.attempt.begin();
        let update = NodeUpdate { names: nodes.clone(), weight: Some(weight), ..NodeUpdate::default() };
        let round = self.round;
        cx.slurm_call(SlurmPurpose::Weigh { nodes, weight, round }, SlurmRequest::UpdateNodes(update));
        Deadline::NONE
    }

    /// slurmctld has said what it has.
    pub(crate) fn weights_read(&mut self) {
        self.unread = false;
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
                self.attempt.succeeded();
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
                self.attempt.failed(cx.now.mono_ms, 0, &mut cx.rng);
                cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
            }
        }
        // What each should have may be another by now, or what was written undone.
        self.due.extend(nodes);
    }
}

/// The weight that this node should have and, as far as is known, has not.
fn wrong_weight(cx: &Cx, name: &str) -> Option<u32> {
    let (group, _) = cx.site.locate(name)?;
    let node = cx.nodes.get(name)?;
    let weight = wanted(group, node, cx.persisted.bindings.get(name))?;
    (node.slurm_weight != Some(weight) && !cx.is_locked(name)).then_some(weight)
}
