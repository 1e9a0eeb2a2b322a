// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld has to be told: addresses of bound nodes, jobs that may start, nodes that are back in service.

use std::collections::BTreeSet;

use super::outbox::Purpose;
use super::report::REASON_PREFIX;
use super::sleep::ASLEEP_REASON;
use super::turn::Turn;
use super::{Cx, Demand, Ground, PowerSource, Sight};
use crate::core::fact::FactKind;
use crate::core::record::Record;
use crate::core::slurm_api::{
    NodeBase, NodeFlags, NodeStateChange, NodeUpdate, SlurmError, SlurmRequest, SlurmResult,
};

/// Nodes of one job register within moments of each other: one round serves them all.
const START_JOBS_DELAY_MS: u64 = 500;

/// Failures of nodes wait for the addresses of others until slurmctld has refused these so often.
const PATIENT_REFUSALS: u32 = 4;

/// A stuck node is not reset more often than this.
const RESET_INTERVAL_MS: u64 = 60_000;

/// How soon that is tried again which did not reach slurmctld.
const RESET_RETRY_MS: u64 = 5_000;

/// Nodes whose address slurmctld does not have yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    nodes: BTreeSet<String>,
    turn: Turn,
    /// How often slurmctld was reached and did not take them, in a row.
    refusals: u32,
}

impl Addresses {
    pub(super) fn want(&mut self, node: String) {
        self.nodes.insert(node);
    }

    pub(super) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.turn.in_flight()
    }

    /// Addresses are on their way or will be soon; those that slurmctld keeps refusing are nothing to wait for.
    pub(super) fn is_owed(&self) -> bool {
        self.turn.in_flight() || (!self.nodes.is_empty() && self.refusals < PATIENT_REFUSALS)
    }
}

impl Ground {
    pub(super) fn tell_addresses(&mut self) {
        if self.addresses.nodes.is_empty() || self.addresses.turn.in_flight() || self.placeholders.in_flight()
        {
            return;
        }
        if let Some(at) = self.addresses.turn.waits_until(self.cx.now.mono_ms) {
            self.cx.wake(at);
            return;
        }
        let nodes = std::mem::take(&mut self.addresses.nodes);
        let mut update =
            NodeUpdate { addrs: Some(Vec::new()), hostnames: Some(Vec::new()), ..NodeUpdate::default() };
        let (mut ids, mut types) = (Vec::new(), Vec::new());
        for node in nodes {
            let Some(binding) = self.cx.persisted.bindings.get(&node) else { continue };
            update.addrs.get_or_insert_default().push(binding.addr.clone());
            update.hostnames.get_or_insert_default().push(binding.hostname.clone());
            ids.push(binding.instance_id.clone());
            types.push(binding.instance_type.clone());
            update.names.push(node);
        }
        if update.names.is_empty() {
            return;
        }
        update.instance_ids = Some(ids);
        update.instance_types = Some(types);
        self.addresses.turn.begin();
        let nodes = update.names.clone();
        self.cx.slurm_call(Purpose::Tell { nodes }, SlurmRequest::UpdateNodes(update));
    }

    pub(super) fn take_told(&mut self, mut nodes: Vec<String>, result: SlurmResult) {
        match result {
            Ok(_) => {
                self.addresses.turn.succeeded();
                self.addresses.refusals = 0;
                // A node that got another instance or address meanwhile is yet to be told of it.
                nodes.retain(|node| !self.addresses.nodes.contains(node));
                if nodes.is_empty() {
                    return;
                }
                for name in &nodes {
                    let addr = self.cx.persisted.bindings.get(name).map(|binding| binding.addr.clone());
                    if let Some(node) = self.cx.nodes.get_mut(name) {
                        node.slurm_addr = addr;
                    }
                }
                let fact = self
                    .cx
                    .new_fact(FactKind::AddressesSet, format!("slurmctld has {} addresses", nodes.len()))
                    .nodes(&nodes)
                    .after_ms(self.cx.waited(&nodes));
                self.cx.fact(fact);
                self.sleepers.reach_woken(&mut self.cx, &nodes);
                self.cx.record(Record::Told { nodes });
            }
            Err(error) => {
                self.addresses.refusals += u32::from(!matches!(error, SlurmError::Unreachable { .. }));
                self.addresses.turn.failed(self.cx.now.mono_ms, 0, &mut self.cx.rng);
                self.cx.fact(self.cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
                for node in nodes {
                    if self.cx.persisted.bindings.contains_key(&node) {
                        self.addresses.nodes.insert(node);
                    }
                }
            }
        }
    }
}

impl Demand {
    /// Nodes registered: jobs that wait for them need not wait for slurmctld's next round of 30 s.
    pub(super) fn jobs_may_start(&mut self, g: &mut Ground) {
        if g.cx.options.source == PowerSource::Watch {
            self.start_jobs_at.get_or_insert(g.cx.now.mono_ms + START_JOBS_DELAY_MS);
        }
    }

    pub(super) fn start_ready_jobs(&mut self, g: &mut Ground) {
        let Some(at) = self.start_jobs_at else { return };
        if at > g.cx.now.mono_ms {
            g.cx.wake(at);
            return;
        }
        self.start_jobs_at = None;
        g.cx.slurm_call(Purpose::StartJobs, SlurmRequest::StartReadyJobs);
    }

    /// Bring nodes back that Slurm holds DOWN though nothing but a failed power-up was wrong with them.
    pub(super) fn reset_stuck(&mut self, g: &mut Ground) {
        let now = g.cx.now;
        let stuck: Vec<String> =
            g.cx.nodes
                .iter()
                .filter(|(name, node)| {
                    let reason = node.reason.as_deref().unwrap_or_default();
                    // Closed while its instance slept: whatever became of that instance, the next one is another.
                    let closed = node.flags.has(NodeFlags::DRAIN);
                    let by_us = if closed { reason.contains(ASLEEP_REASON) } else { is_power_reason(reason) };
                    (node.base == NodeBase::Down || closed)
                        && by_us
                        && node.flags.has(NodeFlags::POWERED_DOWN)
                        && !node.flags.has(NodeFlags::POWERING_DOWN)
                        && node.reset_at.is_none_or(|at| now.since(at) >= RESET_INTERVAL_MS)
                        && !g.cx.persisted.bindings.contains_key(*name)
                        && !g.cx.is_locked(name)
                })
                .map(|(name, _)| name.clone())
                .collect();
        self.reset_nodes(g, &stuck);
    }

    pub(super) fn reset_nodes(&mut self, g: &mut Ground, nodes: &[String]) {
        let nodes: Vec<String> =
            nodes.iter().filter(|node| g.cx.site.locate(node).is_some()).cloned().collect();
        if nodes.is_empty() {
            return;
        }
        let now = g.cx.now.mono_ms;
        let names = nodes.clone();
        for name in &nodes {
            g.cx.nodes.entry(name.clone()).or_default().reset_at = Some(now);
        }
        g.cx.fact(
            g.cx.new_fact(FactKind::NodeReset, "back into service after a failed power-up").nodes(&nodes),
        );
        let update =
            NodeUpdate { names: nodes, state: Some(NodeStateChange::Resume), ..NodeUpdate::default() };
        g.cx.slurm_call(Purpose::Reset { nodes: names }, SlurmRequest::UpdateNodes(update));
    }
}

impl Cx {
    pub(super) fn take_minded(&mut self, result: SlurmResult) {
        if let Err(error) = result {
            self.fact(self.new_fact(FactKind::SlurmUnknown, error.to_string()));
        }
    }
}

impl Sight {
    /// slurmctld could not be reached: asked for anew after a look at the nodes, which a pass without a plugin waits for.
    pub(super) fn take_reset(&mut self, cx: &mut Cx, nodes: &[String], result: SlurmResult) {
        if !matches!(result, Err(SlurmError::Unreachable { .. })) {
            return;
        }
        for name in nodes {
            if let Some(node) = cx.nodes.get_mut(name) {
                node.reset_at = None;
            }
        }
        self.slurm.ask_again(cx.now.mono_ms + RESET_RETRY_MS);
    }
}

/// Reasons that Slurm or we give when a power-up fails; any other was set by people or health checks and stays.
fn is_power_reason(reason: &str) -> bool {
    reason.starts_with(REASON_PREFIX)
        || reason.starts_with("ResumeTimeout reached")
        || reason.starts_with("Not responding")
}
