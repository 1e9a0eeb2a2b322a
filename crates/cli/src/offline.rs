// SPDX-License-Identifier: GPL-3.0-or-later
//! What can be told when no plugin answers: from Slurm's node states and the journal.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::error::{CliError, ErrorKind};
use crate::when;
use ec2fleet_core::hostlist;
use ec2fleet_core::record::Persisted;
use ec2fleet_core::report::{
    CloudReport, Desire, GroupReport, JournalReport, Mode, NodeReport, NodesReport, Paused, QueueReport,
    SCHEMA_VERSION, SlurmReport, StatusReport,
};
use ec2fleet_core::site::{Lifecycle, stem_of};
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, SlurmNode, SlurmReply, SlurmRequest};
use ec2fleet_journal::peek::{Peeked, peek};

/// Slurm's nodes and the journal, each as far as it could be read.
pub struct Offline {
    reason: String,
    /// There may be a plugin; the caller may not ask it.
    refused: bool,
    nodes: Result<Vec<SlurmNode>, String>,
    journal: Result<Option<Peeked>, String>,
}

impl Offline {
    /// `reason`: why there is no answer from the plugin.
    ///
    /// # Errors
    /// When neither Slurm nor the journal can be read either.
    pub fn read(context: &Context, reason: &CliError) -> Result<Self, CliError> {
        let nodes = match context.slurm().call_blocking(&SlurmRequest::LoadNodes) {
            Ok(SlurmReply::Nodes(nodes)) => Ok(nodes),
            Ok(SlurmReply::Done) => Err("scontrol gave no nodes".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let journal = peek(&context.state_dir()).map_err(|error| error.to_string());
        if let (Err(slurm), Err(journal)) = (&nodes, &journal) {
            let hint = reason.hint.clone().unwrap_or_default();
            let mut error = CliError::new(reason.kind, reason.message.clone()).hint(hint);
            error.causes.clone_from(&reason.causes);
            return Err(error.cause(slurm).cause(journal));
        }
        let refused = reason.kind == ErrorKind::NotPermitted;
        let reason = match reason.causes.first() {
            Some(cause) => format!("{} ({cause})", reason.message.trim_end_matches('.')),
            None => reason.message.clone(),
        };
        Ok(Self { reason, refused, nodes, journal })
    }

    fn state(&self) -> Option<&Persisted> {
        self.journal.as_ref().ok()?.as_ref().map(|peeked| &peeked.state)
    }

    #[must_use]
    pub fn node_reports(&self, context: &Context) -> NodesReport {
        let site = context.loaded().ok().map(|loaded| &loaded.site);
        let mut nodes: Vec<NodeReport> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| match site {
                Some(site) => site.locate(&node.name).is_some(),
                None => node.flags.has(NodeFlags::CLOUD),
            })
            .map(|node| self.node_report(node))
            .collect();
        // Nodes that Slurm did not show, and that have an instance.
        let shown: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        if let Some(state) = self.state() {
            for name in state.bindings.keys().filter(|name| !shown.contains(name)) {
                let unseen = SlurmNode { name: name.clone(), ..SlurmNode::default() };
                nodes.push(NodeReport {
                    slurm_state: "-".into(),
                    phase: "unknown".into(),
                    ..self.node_report(&unseen)
                });
            }
        }
        let mut order: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
        hostlist::sort(&mut order);
        let place: BTreeMap<&str, usize> =
            order.iter().enumerate().map(|(place, name)| (name.as_str(), place)).collect();
        nodes.sort_by_key(|node| place.get(node.name.as_str()).copied());
        NodesReport { schema: SCHEMA_VERSION, nodes }
    }

    fn node_report(&self, node: &SlurmNode) -> NodeReport {
        let binding = self.state().and_then(|state| state.bindings.get(&node.name));
        let locked = self.state().is_some_and(|state| state.locked.contains(&node.name));
        let stem = stem_of(&node.name);
        let (partition, group) = stem.split_once('-').unwrap_or((stem, ""));
        let phase = phase(node, binding.is_some());
        NodeReport {
            name: node.name.clone(),
            partition: partition.to_owned(),
            group: group.to_owned(),
            slurm_state: node.state_text(),
            desire: if matches!(phase, "powered-down" | "stopping") { Desire::Down } else { Desire::Up },
            phase: phase.to_owned(),
            since_unix_ms: 0,
            instance_id: binding.map(|b| b.instance_id.clone()).or_else(|| node.instance_id.clone()),
            instance_type: binding.map(|b| b.instance_type.clone()).or_else(|| node.instance_type.clone()),
            instance_state: None,
            zone: binding.map(|b| b.zone.clone()),
            lifecycle: binding.map(|b| b.lifecycle),
            addr: binding.map(|b| b.addr.clone()),
            fleet_id: self.state().and_then(|s| s.fleets.get(&node.name)).map(|fleet| fleet.fleet_id.clone()),
            reason: node.reason.clone(),
            locked,
        }
    }

    #[must_use]
    pub fn status_report(&self, context: &Context) -> StatusReport {
        let now = when::now_unix_ms();
        let journal = self.journal.as_ref().ok().and_then(Option::as_ref);
        let mut warnings = Vec::new();
        if let Err(errors) = context.loaded() {
            warnings.push(format!(
                "{} configuration errors in {}: see `ec2fleet validate`",
                errors.errors.len(),
                context.config_dir.display()
            ));
        }
        StatusReport {
            schema: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").into(),
            cluster: context
                .loaded()
                .ok()
                .map(|loaded| loaded.site.cluster.clone())
                .or_else(|| journal.map(|peeked| peeked.cluster.clone()))
                .or_else(|| context.facts.cluster_name().map(ToOwned::to_owned))
                .unwrap_or_default(),
            mode: match self.reason.clone() {
                reason if self.refused => Mode::NotPermitted { reason },
                reason => Mode::NotRunning { reason },
            },
            since_unix_ms: 0,
            now_unix_ms: now,
            slurm_release: context.slurm().release_text().unwrap_or_default(),
            pid: 0,
            paused: journal.filter(|peeked| peeked.state.paused).map(|_| Paused {
                since_unix_ms: 0,
                uid: 0,
                reason: String::new(),
            }),
            groups: self.group_reports(context),
            cloud: Vec::<CloudReport>::new(),
            slurm: SlurmReport {
                loaded_unix_ms: self.nodes.is_ok().then_some(now),
                error: self.nodes.as_ref().err().cloned(),
                ..SlurmReport::default()
            },
            queue: QueueReport::default(),
            journal: JournalReport {
                path: context.state_dir().join("journal").display().to_string(),
                bytes: journal.map_or(0, |peeked| peeked.bytes),
                open_intents: journal
                    .map_or(0, |peeked| u32::try_from(peeked.state.open.len()).unwrap_or(u32::MAX)),
                error: match &self.journal {
                    Err(error) => Some(error.clone()),
                    Ok(Some(peeked)) if peeked.damaged => Some("it is damaged".into()),
                    Ok(_) => None,
                },
            },
            warnings,
        }
    }

    fn group_reports(&self, context: &Context) -> Vec<GroupReport> {
        let mut groups: Vec<GroupReport> = Vec::new();
        if let Ok(loaded) = context.loaded() {
            groups.extend(loaded.site.groups().iter().map(|group| GroupReport {
                partition: group.partition.clone(),
                group: group.name.clone(),
                region: group.account.region.clone(),
                profile: group.account.profile.clone(),
                lifecycle: group.lifecycle,
                scope: group.scope,
                max_nodes: group.max_nodes,
                ..GroupReport::default()
            }));
        }
        for node in self.node_reports(context).nodes {
            let found = groups.iter().position(|g| g.partition == node.partition && g.group == node.group);
            let index = found.unwrap_or_else(|| {
                groups.push(GroupReport {
                    partition: node.partition.clone(),
                    group: node.group.clone(),
                    ..GroupReport::default()
                });
                groups.len() - 1
            });
            count(&mut groups[index], &node, found.is_none() || context.loaded().is_err());
        }
        for group in &mut groups {
            let elsewhere =
                group.pending + group.booting + group.ready + group.busy + group.stopping + group.failed;
            // Slurm hides powered-down nodes unless PrivateData=cloud is set.
            group.powered_down = group.powered_down.max(group.max_nodes.saturating_sub(elsewhere));
        }
        groups
    }
}

fn count(group: &mut GroupReport, node: &NodeReport, unconfigured: bool) {
    match node.phase.as_str() {
        "pending" => group.pending += 1,
        "booting" => group.booting += 1,
        "ready" => group.ready += 1,
        "busy" => group.busy += 1,
        "stopping" => group.stopping += 1,
        "failed" => group.failed += 1,
        "powered-down" => group.powered_down += 1,
        _ => {}
    }
    group.wanted += u32::from(node.desire == Desire::Up);
    group.locked += u32::from(node.locked);
    group.max_nodes += u32::from(unconfigured);
    if node.instance_id.is_some() {
        group.instances += 1;
        match node.lifecycle {
            Some(Lifecycle::Spot) => group.spot_instances += 1,
            Some(Lifecycle::OnDemand) => group.on_demand_instances += 1,
            None => {}
        }
    }
}

/// What Slurm's state alone tells.
fn phase(node: &SlurmNode, bound: bool) -> &'static str {
    let flags = node.flags;
    if flags.has(NodeFlags::POWERING_UP) || flags.has(NodeFlags::POWER_UP) {
        if bound { "booting" } else { "pending" }
    } else if flags.has(NodeFlags::POWERING_DOWN) || flags.has(NodeFlags::POWER_DOWN) {
        "stopping"
    } else if flags.has(NodeFlags::POWERED_DOWN) {
        "powered-down"
    } else if matches!(node.base, NodeBase::Down | NodeBase::Error) {
        "failed"
    } else if node.has_job() {
        "busy"
    } else {
        "ready"
    }
}
