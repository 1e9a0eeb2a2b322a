// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes, for `ec2fleet nodes` and `ec2fleet status`.

use crate::engine::Engine;
use crate::engine::cx::nodes::{Desire, Node};
use crate::record::Binding;
use crate::report;
use crate::report::NodeReport;
use crate::slurm_api::{NodeBase, NodeFlags, SlurmNode};

impl Engine {
    /// Nodes of which anything is known, in the order of their names.
    #[must_use]
    pub fn node_reports(&self) -> Vec<NodeReport> {
        // Group by group and in order of their numbers, without comparing names.
        let groups = self.g.cx.site.groups().iter();
        let names = groups.flat_map(|group| (0..group.max_nodes).map(|index| group.node_name(index)));
        names.filter_map(|name| self.g.cx.nodes.get(&name).and_then(|_| self.node_report(&name))).collect()
    }

    #[must_use]
    pub fn node_report(&self, name: &str) -> Option<NodeReport> {
        let (group, _) = self.g.cx.site.locate(name)?;
        let unseen = Node::default();
        let node = self.g.cx.nodes.get(name).unwrap_or(&unseen);
        let binding = self.g.cx.persisted.bindings.get(name);
        let slurm = SlurmNode { base: node.base, flags: node.flags, ..SlurmNode::default() };
        Some(NodeReport {
            name: name.to_owned(),
            partition: group.partition.clone(),
            group: group.name.clone(),
            slurm_state: slurm.state_text(),
            desire: if matches!(node.desire, Desire::Waking | Desire::Keep) {
                report::Desire::Up
            } else {
                report::Desire::Down
            },
            phase: self.phase(name, node, binding).to_owned(),
            since_unix_ms: self.g.sleepers.sleeping.get(name).map_or_else(
                || self.g.cx.now.unix_ms.saturating_sub(self.g.cx.now.since(node.since)),
                |sleep| sleep.since_unix_ms,
            ),
            instance_id: binding.map(|b| b.instance_id.clone()),
            instance_type: binding.map(|b| b.instance_type.clone()),
            instance_state: binding
                .and_then(|b| self.g.cx.sightings.state(&b.instance_id))
                .map(|state| state.as_str().to_owned()),
            zone: binding.map(|b| b.zone.clone()),
            lifecycle: binding.map(|b| b.lifecycle),
            addr: binding.map(|b| b.addr.clone()),
            fleet_id: (self.g.cx.persisted.fleets.get(name).map(|fleet| fleet.fleet_id.clone()))
                .or_else(|| binding.and_then(|b| b.fleet.clone())),
            reason: node.reason.clone(),
            locked: self.g.cx.is_locked(name),
        })
    }

    pub(crate) fn phase(&self, name: &str, node: &Node, binding: Option<&Binding>) -> &'static str {
        match node.desire {
            Desire::Waking if node.reported => "failed",
            Desire::Waking if binding.is_some() => "booting",
            Desire::Waking if node.launch.is_some() || self.g.launches.fulfilling.contains_key(name) => {
                "launching"
            }
            Desire::Waking => "pending",
            Desire::Keep if self.g.sleepers.is_moving(&self.g.cx, name) => "moving",
            Desire::Keep if self.g.sleepers.sleeping.contains_key(name) => "asleep",
            Desire::Keep if node.base == NodeBase::Down => "failed",
            Desire::Keep if node.has_job => "busy",
            Desire::Keep => "ready",
            Desire::Down if node.flags.has(NodeFlags::POWERING_DOWN) => "stopping",
            Desire::Down | Desire::Unknown => {
                if binding.is_some() && !self.g.cx.persisted.locked.contains(name) {
                    "stopping"
                } else {
                    "powered-down"
                }
            }
        }
    }
}
