// SPDX-License-Identifier: GPL-3.0-or-later
//! What administrators ask for.

use crate::engine::Engine;
use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::failures::{Cause, reason};
use crate::fact::FactKind;
use crate::record::Record;
use crate::slurm_api::{NodeStateChange, NodeUpdate, SlurmRequest};

impl Engine {
    pub(crate) fn take_lock(&mut self, nodes: Vec<String>, locked: bool) {
        let nodes: Vec<String> =
            nodes.into_iter().filter(|node| self.g.cx.site.locate(node).is_some()).collect();
        let text = if locked { "hands off until unlocked" } else { "managed again" };
        self.g.cx.fact(self.g.cx.new_fact(FactKind::NodeLocked, text).nodes(&nodes));
        for node in &nodes {
            self.g.cx.wish_changed(node);
        }
        self.g.cx.record(Record::Lock { nodes, locked });
        self.g.sight.rescan_now(&self.g.cx);
    }

    /// An administrator wants other instances for these nodes: Slurm powers them down, and up again when it needs them.
    pub(crate) fn take_replace(&mut self, nodes: &[String]) {
        let bound: Vec<String> =
            nodes.iter().filter(|node| self.g.cx.persisted.bindings.contains_key(*node)).cloned().collect();
        if bound.is_empty() {
            return;
        }
        for node in &bound {
            self.g.end_fleet_of(node);
        }
        self.g.unbind(&bound, "replaced by an administrator");
        self.g.failures.add(Cause::NoInstance, &reason("Replaced", "replaced by an administrator"), bound);
    }

    pub(crate) fn delete_asked_fleets(&mut self, fleet_ids: &[String]) {
        let mut power_down = Vec::new();
        for fleet_id in fleet_ids {
            if !self.busy_nodes_of_fleet(fleet_id).is_empty() {
                continue;
            }
            let mut nodes = self.nodes_of_fleet(fleet_id);
            nodes.retain(|node| self.g.cx.nodes.get(node).is_some_and(|known| known.desire == Desire::Keep));
            let current =
                self.g.cx.persisted.group_fleets.iter().find(|(_, fleet)| fleet.fleet_id == *fleet_id);
            // It takes no new nodes from now on, and goes with its last one.
            if let Some((stem, fleet)) = current.map(|(stem, fleet)| (stem.clone(), fleet.clone()))
                && !stem.contains('@')
            {
                self.groups.retire(&mut self.g, &stem, fleet, "an administrator deletes it");
            }
            power_down.extend(nodes);
        }
        if power_down.is_empty() {
            return;
        }
        // What Slurm runs there may be newer than our last look: POWER_DOWN waits for jobs, and the instances and their
        // fleets go when Slurm has the nodes down.
        let update = NodeUpdate {
            names: power_down,
            state: Some(NodeStateChange::PowerDown),
            ..NodeUpdate::default()
        };
        self.g.cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::UpdateNodes(update));
    }
}
