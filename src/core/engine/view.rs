// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine knows, as reports for people.

use std::collections::BTreeMap;

use super::{Desire, Engine, Node};
use crate::core::record::Binding;
use crate::core::report::{self, CloudReport, Cooldown, GroupReport, LaunchError, NodeReport, SlurmReport};
use crate::core::site::{FleetScope, Lifecycle, NodeGroup};
use crate::core::slurm_api::{NodeBase, NodeFlags, SlurmNode};

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
        if let Some(pressure) = self.g.pools.pressure.get(&stem) {
            report.protected = pressure.is_protected();
            report.protected_reason = pressure
                .is_protected()
                .then(|| format!("{} launches in a row gave no instance", pressure.failures()));
            report.last_error = pressure.last_error().cloned();
        }
        report.cooldowns = self
            .g
            .pools
            .cooling
            .iter()
            .filter(|(pool, cooling)| cooling.until > self.g.cx.now.mono_ms && pool.serves(group))
            .map(|(pool, cooling)| Cooldown {
                until_unix_ms: self.g.cx.now.unix_ms + (cooling.until - self.g.cx.now.mono_ms),
                code: "InsufficientInstanceCapacity".into(),
                refusals: 1,
                ..pool.report()
            })
            .collect();
        report.fleet_target = (group.scope != FleetScope::Launch).then(|| {
            if let Some(fleet) = self.g.cx.persisted.group_fleets.get(&stem) {
                return fleet.spot_target.saturating_add(fleet.on_demand_target);
            }
            let fleets = self
                .g
                .cx
                .persisted
                .fleets
                .keys()
                .filter(|node| self.g.cx.site.locate(node).is_some_and(|(g, _)| g.stem() == stem));
            u32::try_from(fleets.count()).unwrap_or(u32::MAX)
        });
        report
    }

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
                .and_then(|b| self.g.cx.ledger.owners.get(&b.instance_id)?.state)
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

    fn phase(&self, name: &str, node: &Node, binding: Option<&Binding>) -> &'static str {
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

    #[must_use]
    pub fn cloud_reports(&self) -> Vec<CloudReport> {
        self.g
            .sight
            .views
            .iter()
            .map(|(account, view)| CloudReport {
                region: account.region.clone(),
                profile: account.profile.clone(),
                listed_unix_ms: view.last_ok_unix_ms,
                error: view.last_error.clone(),
                instances: u32::try_from(view.instances).unwrap_or(u32::MAX),
                calls: self.g.cx.calls.counts.get(account).map_or(0, |counts| counts.calls),
                throttled: self.g.cx.calls.counts.get(account).map_or(0, |counts| counts.throttled),
                in_flight: u32::try_from(
                    self.g
                        .cx
                        .calls
                        .open
                        .values()
                        .filter(|purpose| purpose.account() == Some(account))
                        .count(),
                )
                .unwrap_or(u32::MAX),
            })
            .collect()
    }

    /// What the engine knows of slurmctld; scans and locks are the host thread's to add.
    #[must_use]
    pub fn slurm_report(&self) -> SlurmReport {
        SlurmReport {
            loaded_unix_ms: self.g.sight.slurm.last_ok_unix_ms,
            error: self.g.sight.slurm.last_error.clone(),
            updates: self.g.cx.calls.slurm_updates,
            ..SlurmReport::default()
        }
    }

    /// Intents that EC2 has not answered.
    #[must_use]
    pub fn open_intents(&self) -> usize {
        self.g.cx.persisted.open.len()
    }

    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        self.g.cx.calls.open.len()
    }

    /// Instances without a node that wait for the grace time to end.
    #[must_use]
    pub fn orphans(&self) -> Vec<String> {
        self.g.sight.orphans.keys().cloned().collect()
    }
}

/// What `ec2fleet status` shows of the last failed launch.
pub(super) fn launch_error(
    unix_ms: u64,
    code: &str,
    class: &str,
    message: &str,
    nodes: usize,
) -> LaunchError {
    LaunchError {
        at_unix_ms: unix_ms,
        code: code.to_owned(),
        class: class.to_owned(),
        message: message.to_owned(),
        nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
    }
}
