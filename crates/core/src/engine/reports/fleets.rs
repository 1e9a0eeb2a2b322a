// SPDX-License-Identifier: GPL-3.0-or-later
//! The fleets that hold nodes, for `ec2fleet fleets`.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::cx::ledger::stem_of_key;
use crate::engine::cx::nodes::Desire;
use crate::hostlist;
use crate::record::GroupFleet;
use crate::report::FleetReport;
use crate::site::{FleetScope, stem_of};

impl Engine {
    /// Maintain fleets that the journal knows, those of node groups first.
    #[must_use]
    pub fn fleet_reports(&self) -> Vec<FleetReport> {
        let groups =
            self.g.cx.persisted.group_fleets.iter().map(|(key, fleet)| self.group_fleet_report(key, fleet));
        let nodes = self.g.cx.persisted.fleets.iter().map(|(node, fleet)| {
            let instance = self.g.cx.persisted.bindings.get(node).map(|binding| binding.instance_id.clone());
            let report = FleetReport {
                fleet_id: fleet.fleet_id.clone(),
                group: stem_of(node).to_owned(),
                scope: FleetScope::Node,
                instances: instance.into_iter().collect(),
                region: fleet.account.region.clone(),
                ..FleetReport::default()
            };
            self.with_nodes(report, std::slice::from_ref(node))
        });
        groups.chain(nodes).collect()
    }

    fn group_fleet_report(&self, key: &str, fleet: &GroupFleet) -> FleetReport {
        let stem = stem_of_key(key);
        let empty = BTreeMap::new();
        let members = self.g.cx.ledger.members(&fleet.fleet_id).unwrap_or(&empty);
        let takes = self.g.cx.site.group(key).is_some_and(|group| group.scope == FleetScope::Group);
        let report = FleetReport {
            fleet_id: fleet.fleet_id.clone(),
            group: stem.to_owned(),
            scope: FleetScope::Group,
            instances: members.values().map(|(id, _)| id.clone()).collect(),
            region: fleet.account.region.clone(),
            spot_target: fleet.target.map(|target| target.spot),
            on_demand_target: fleet.target.map(|target| target.on_demand),
            takes_no_nodes: !takes,
            ..FleetReport::default()
        };
        let nodes: Vec<String> = members.keys().cloned().collect();
        self.with_nodes(report, &nodes)
    }

    fn with_nodes(&self, mut report: FleetReport, nodes: &[String]) -> FleetReport {
        report.nodes = hostlist::fold(nodes);
        report.phases =
            nodes.iter().filter_map(|node| self.node_report(node)).map(|node| node.phase).collect();
        report.phases.sort();
        report.phases.dedup();
        report
    }

    /// Nodes of the fleet that run jobs, asleep or not: it must not be deleted under them.
    #[must_use]
    pub fn busy_nodes_of_fleet(&self, fleet_id: &str) -> Vec<String> {
        let busy = |node: &&String| {
            self.g.sleepers.sleeping.contains_key(*node)
                || self.g.cx.is_locked(node)
                || self
                    .g
                    .cx
                    .nodes
                    .get(*node)
                    .is_some_and(|known| known.has_job || known.desire == Desire::Waking)
        };
        self.nodes_of_fleet(fleet_id).iter().filter(busy).cloned().collect()
    }

    pub(crate) fn nodes_of_fleet(&self, fleet_id: &str) -> Vec<String> {
        let own = self.g.cx.persisted.fleets.iter().filter(|(_, fleet)| fleet.fleet_id == fleet_id);
        let members = self.g.cx.ledger.members(fleet_id).into_iter().flat_map(BTreeMap::keys);
        let mut nodes: Vec<String> = own.map(|(node, _)| node).chain(members).cloned().collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }
}
