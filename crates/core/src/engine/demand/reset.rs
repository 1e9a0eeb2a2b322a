// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes that Slurm holds DOWN after a failed power-up, brought back into service.

use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::demand::Demand;
use crate::engine::ground::Ground;
use crate::engine::ground::failures::REASON_PREFIX;
use crate::engine::ground::sleepers::ASLEEP_REASON;
use crate::fact::FactKind;
use crate::slurm_api::{NodeBase, NodeFlags, NodeStateChange, NodeUpdate, SlurmRequest};

/// A stuck node is not reset more often than this.
const RESET_INTERVAL_MS: u64 = 60_000;

impl Demand {
    /// Bring nodes back that Slurm holds DOWN though nothing but a failed power-up was wrong with them.
    pub(crate) fn reset_stuck(&mut self, g: &mut Ground) {
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

    pub(crate) fn reset_nodes(&mut self, g: &mut Ground, nodes: &[String]) {
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
        g.cx.slurm_call(SlurmPurpose::Reset { nodes: names }, SlurmRequest::UpdateNodes(update));
    }
}

/// Reasons that Slurm or we give when a power-up fails; any other was set by people or health checks and stays.
fn is_power_reason(reason: &str) -> bool {
    reason.starts_with(REASON_PREFIX)
        || reason.starts_with("ResumeTimeout reached")
        || reason.starts_with("Not responding")
}
