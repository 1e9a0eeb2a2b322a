// SPDX-License-Identifier: GPL-3.0-or-later
//! Node groups, for `ec2fleet status`.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::engine::cx::nodes::Desire;
use crate::record::Target;
use crate::report::GroupReport;
use crate::site::{FleetScope, Lifecycle, NodeGroup};

impl Engine {
    #[must_use]
    pub fn group_reports(&self) -> Vec<GroupReport> {
        let mut reports: BTreeMap<String, GroupReport> = BTreeMap::new();
        for (name, node) in &self.g.cx.nodes {
            let Some((group, _)) = self.g.cx.site.locate(name) else { continue };
            let report = reports.entry(group.stem()).or_default();
            let binding = self.g.cx.persisted.bindings.get(name);
            match self.phase(name, node, binding) {
                "pending" => report.pending += 1,
                "launching" => report.launching += 1,
                "booting" => report.booting += 1,
                "ready" => report.ready += 1,
                "busy" => report.busy += 1,
                "asleep" | "moving" => report.asleep += 1,
                "stopping" => report.stopping += 1,
                "failed" => report.failed += 1,
                _ => {}
            }
            report.wanted += u32::from(matches!(node.desire, Desire::Waking) || binding.is_some());
            report.locked += u32::from(self.g.cx.is_locked(name));
            if let Some(binding) = binding {
                report.instances += 1;
                match binding.lifecycle {
                    Lifecycle::Spot => report.spot_instances += 1,
                    Lifecycle::OnDemand => report.on_demand_instances += 1,
                }
            }
        }
        self.g
            .cx
            .site
            .groups()
            .iter()
            .map(|group| self.finish_group(group, reports.remove(&group.stem()).unwrap_or_default()))
            .collect()
    }

    fn finish_group(&self, group: &NodeGroup, mut report: GroupReport) -> GroupReport {
        let stem = group.stem();
        report.partition.clone_from(&group.partition);
        report.group.clone_from(&group.name);
        report.region.clone_from(&group.account.region);
        report.profile.clone_from(&group.account.profile);
        report.lifecycle = group.lifecycle;
        report.scope = group.scope;
        report.max_nodes = group.max_nodes;
        let elsewhere = report.pending
            + report.launching
            + report.booting
            + report.ready
            + report.busy
            + report.asleep
            + report.stopping
            + report.failed;
        report.powered_down = group.max_nodes.saturating_sub(elsewhere);
        let pressure = self.g.pools.pressure(&stem);
        report.protected = pressure.is_protected();
        report.protected_reason = pressure
            .is_protected()
            .then(|| format!("{} launches in a row gave no instance", pressure.failures()));
        report.last_error = pressure.last_error().cloned();
        report.cooldowns = self.g.pools.cooldowns(&self.g.cx, group);
        report.fleet_target = self.fleet_target(group);
        report
    }

    /// The capacity that the group's fleets are to have, where it has fleets and that is known.
    fn fleet_target(&self, group: &NodeGroup) -> Option<u32> {
        let (stem, state) = (group.stem(), &self.g.cx.persisted);
        if group.scope == FleetScope::Launch {
            return None;
        }
        if let Some(fleet) = state.group_fleets.get(&stem) {
            return fleet.target.map(Target::total);
        }
        let of_group = |node: &&String| self.g.cx.site.locate(node).is_some_and(|(g, _)| g.stem() == stem);
        Some(u32::try_from(state.fleets.keys().filter(of_group).count()).unwrap_or(u32::MAX))
    }
}
