// SPDX-License-Identifier: GPL-3.0-or-later
//! Comparing a complete list of EC2's instances with what Slurm wants and what we know.
//!
//! Only complete lists come here, each older than the Slurm nodes it is compared with: a node that became busy
//! after the list was made is then seen as busy. A list that failed or was cut short is never compared.

use std::collections::{BTreeMap, BTreeSet};

use super::outbox::Purpose;
use super::tell::reason;
use super::{Desire, Engine, Node};
use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult, Instance, InstanceState};
use crate::core::fact::FactKind;
use crate::core::hostlist;
use crate::core::record::Record;
use crate::core::site::Account;
use crate::core::slurm_api::NodeFlags;
use crate::core::tag;

/// Nodes in a tag that are looked at: more never fit a tag value.
const MAX_TAG_NODES: usize = 10_000;

impl Engine {
    pub(super) fn judge(&mut self, account: &Account, started: u64, instances: &[Instance]) {
        let alive: BTreeMap<&str, &Instance> = instances
            .iter()
            .filter(|instance| !instance.state.is_ended())
            .map(|instance| (instance.id.as_str(), instance))
            .collect();
        for instance in alive.values() {
            self.note_instance_state(instance);
        }
        self.follow_addresses(&alive);
        self.adopt(account, &alive);
        self.end_leaving(account);
        self.judge_orphans(account, &alive);
        self.confirm_missing(account, started, &alive);
        self.judge_bare_nodes(account, started);
    }

    /// A bound instance whose private address is another than before.
    fn follow_addresses(&mut self, alive: &BTreeMap<&str, &Instance>) {
        let mut changed = Vec::new();
        for (id, instance) in alive {
            let Some(node) = self.by_instance.get(*id) else { continue };
            let Some(binding) = self.persisted.bindings.get(node) else { continue };
            let Some(addr) = &instance.private_ip else { continue };
            if binding.addr != *addr {
                let mut binding = binding.clone();
                binding.addr.clone_from(addr);
                binding.hostname = super::bind::hostname_of(addr);
                binding.told = false;
                changed.push(binding);
            }
        }
        if changed.is_empty() {
            return;
        }
        let names: Vec<String> = changed.iter().map(|binding| binding.node.clone()).collect();
        self.fact(
            self.new_fact(FactKind::AddressChanged, "instances have a new private address").nodes(&names),
        );
        for name in names {
            self.tell.want(name);
        }
        self.record(Record::Bound { bindings: changed });
    }

    /// Instances without a node that belong to one after all: by address, by tag, or because a node waits.
    fn adopt(&mut self, account: &Account, alive: &BTreeMap<&str, &Instance>) {
        let mut ownerless: Vec<&Instance> =
            alive.values().copied().filter(|instance| self.is_ownerless(instance)).collect();
        if ownerless.is_empty() {
            return;
        }
        // Of two that were told the same name the older one is what an earlier power-up left behind.
        ownerless.sort_by_key(|instance| std::cmp::Reverse(instance.launch_unix_ms));
        let mut by_addr: BTreeMap<&str, &String> = BTreeMap::new();
        for (name, node) in &self.nodes {
            if let Some(addr) = &node.slurm_addr
                && matches!(node.desire, Desire::Keep | Desire::Waking)
                && !self.persisted.bindings.contains_key(name)
            {
                by_addr.insert(addr, name);
            }
        }
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let mut pairs: Vec<(String, Instance)> = Vec::new();
        for instance in &ownerless {
            let Some(addr) = instance.private_ip.as_deref() else { continue };
            // Slurm may show a past instance's address for a node: an instance that was told a name is that node.
            let candidate = tagged_node(instance)
                .or_else(|| by_addr.get(addr).map(|name| (*name).clone()))
                .filter(|node| self.may_adopt(node, instance));
            if let Some(node) = candidate
                && taken.insert(node.clone())
            {
                pairs.push((node, (*instance).clone()));
            }
        }
        // What is left goes to nodes that wait in no launch (an earlier process launched for them). An instance that
        // was told its node name runs under that name to its end, and is of no use to another node.
        for instance in &ownerless {
            if instance.private_ip.is_none()
                || tagged_node(instance).is_some()
                || self.persisted.leaving.contains_key(&instance.id)
                || pairs.iter().any(|(_, other)| other.id == instance.id)
            {
                continue;
            }
            if !matches!(instance.state, InstanceState::Pending | InstanceState::Running) {
                continue;
            }
            let Some(stem) = stem_of(instance) else { continue };
            let waiting =
                self.queued_nodes(&stem, taken.len() + 1).into_iter().find(|node| !taken.contains(node));
            if let Some(node) = waiting {
                taken.insert(node.clone());
                pairs.push((node, (*instance).clone()));
            }
        }
        if pairs.is_empty() {
            return;
        }
        let fact = self
            .new_fact(FactKind::InstanceAdopted, format!("{} running instances belong to nodes", pairs.len()))
            .nodes(pairs.iter().map(|(node, _)| node))
            .instances(pairs.iter().map(|(_, instance)| instance.id.clone()));
        self.fact(fact);
        self.bind(account, None, pairs, 0);
    }

    fn may_adopt(&self, node: &str, instance: &Instance) -> bool {
        let in_group = self
            .site
            .locate(node)
            .is_some_and(|(group, _)| stem_of(instance).is_none_or(|stem| stem == group.stem()));
        // What was about to be ended is from before this power-up, and Slurm ignores a slurmd that booted before.
        let leaving = self.persisted.leaving.contains_key(&instance.id);
        let wanted = self.nodes.get(node).is_some_and(|n| {
            n.desire == Desire::Keep
                || (n.desire == Desire::Waking && !n.reported && n.launch.is_none() && !leaving)
        });
        in_group && wanted && !self.persisted.bindings.contains_key(node)
    }

    /// Neither bound, nor expected by a launch, nor on its way out.
    fn is_ownerless(&self, instance: &Instance) -> bool {
        // Nearly every instance is bound: what follows looks at every launch and fleet.
        if self.by_instance.contains_key(&instance.id) {
            return false;
        }
        let launch = instance.tags.get(tag::LAUNCH);
        let expected =
            self.launches.values().any(|open| Some(&open.token) == launch || open.expects(&instance.id));
        let fleet = instance.tags.get(super::fleet::FLEET_ID);
        let in_fleet =
            fleet.is_some_and(|id| self.persisted.fleets.values().any(|known| known.fleet_id == *id));
        !expected && !in_fleet && !self.in_group_fleet(instance) && !self.is_ending(&instance.id)
    }

    fn judge_orphans(&mut self, account: &Account, alive: &BTreeMap<&str, &Instance>) {
        let now = self.now.mono_ms;
        let grace = u64::from(self.site.settings.orphan_grace_s) * 1000;
        let known: BTreeSet<&str> = alive.keys().copied().collect();
        let mine: BTreeSet<String> = self.orphans.keys().cloned().collect();
        for id in mine {
            // Of this account or not: what no list shows for long is pruned by its age.
            if !known.contains(id.as_str())
                && self.orphans.get(&id).is_some_and(|at| self.now.since(*at) > 10 * grace)
            {
                self.orphans.remove(&id);
            }
        }
        let busy = busy_addresses(&self.nodes);
        let (mut seen, mut end) = (Vec::new(), Vec::new());
        for (id, instance) in alive {
            if !self.is_ownerless(instance) {
                self.orphans.remove(*id);
                continue;
            }
            // Whatever we believe: behind this address Slurm runs a job.
            if instance.private_ip.as_deref().is_some_and(|addr| busy.contains(addr)) {
                continue;
            }
            let node = tagged_node(instance);
            if node.as_ref().is_some_and(|node| self.is_locked(node)) {
                continue;
            }
            let powered_down =
                node.and_then(|node| self.nodes.get(&node)).is_some_and(|node| node.desire == Desire::Down);
            match self.orphans.get(*id) {
                // We asked EC2 to end it a while ago, and it still runs.
                _ if self.ended.contains_key(*id) => end.push((*id).to_owned()),
                // Its node is powered down: it could only come back under a name that another instance will have.
                _ if powered_down => end.push((*id).to_owned()),
                None => {
                    self.orphans.insert((*id).to_owned(), now);
                    seen.push((*id).to_owned());
                }
                Some(first) if self.now.since(*first) >= grace => end.push((*id).to_owned()),
                Some(_) => {}
            }
        }
        if !seen.is_empty() {
            let seconds = self.site.settings.orphan_grace_s;
            let text = format!(
                "{} instances have no node; they are terminated in {seconds} s unless one is found",
                seen.len()
            );
            self.fact(self.new_fact(FactKind::OrphanSeen, text).instances(seen));
            // The next look is due when the grace time is over.
            if let Some(view) = self.views.get_mut(account) {
                view.hasten(now + grace);
            }
        }
        if !end.is_empty() {
            let text = format!("{} instances serve no node that Slurm wants", end.len());
            self.fact(self.new_fact(FactKind::OrphanTerminated, text).instances(end.iter().cloned()));
            for id in end {
                self.end_instance(account, id);
            }
        }
    }

    /// Bound instances that the list does not show are asked for by id before anything is concluded.
    fn confirm_missing(&mut self, account: &Account, started: u64, alive: &BTreeMap<&str, &Instance>) {
        let mut ids = Vec::new();
        for (id, node) in &self.by_instance {
            let Some(binding) = self.persisted.bindings.get(node) else { continue };
            if binding.account != *account {
                continue;
            }
            if alive.contains_key(id.as_str()) {
                self.missing.remove(id);
            } else if self.nodes.get(node).is_some_and(|n| n.bound_at < started) {
                ids.push(id.clone());
            }
        }
        if !ids.is_empty() {
            let request = CloudRequest::DescribeInstances { ids: ids.clone() };
            self.cloud(Purpose::Confirm { account: account.clone(), ids }, request);
        }
    }

    pub(super) fn take_confirmation(&mut self, account: &Account, ids: &[String], result: CloudResult) {
        let Ok(CloudReply::Instances(instances)) = result else { return };
        let now = self.now;
        let grace = u64::from(self.site.settings.consistency_grace_s) * 1000;
        let mut unsure = false;
        for id in ids {
            let Some(node) = self.by_instance.get(id).cloned() else { continue };
            match instances.iter().find(|instance| instance.id == *id) {
                Some(instance) if instance.state.is_ended() => {
                    let why = instance.state_reason.clone().unwrap_or_else(|| "terminated".into());
                    self.lose_instance(&node, id, &why);
                }
                Some(_) => {
                    self.missing.remove(id);
                }
                None => {
                    let since = *self.missing.entry(id.clone()).or_insert(now.mono_ms);
                    if now.since(since) >= grace {
                        self.lose_instance(&node, id, "InvalidInstanceID.NotFound");
                    } else {
                        unsure = true;
                    }
                }
            }
        }
        if unsure && let Some(view) = self.views.get_mut(account) {
            view.hasten(now.mono_ms + grace / 2);
        }
    }

    /// EC2 has ended the instance behind a node: Slurm must know now, not after SlurmdTimeout.
    fn lose_instance(&mut self, node: &str, id: &str, why: &str) {
        self.missing.remove(id);
        self.instance_states.remove(id);
        self.forget_sleep(node);
        self.by_instance.remove(id);
        self.tell.forget(node);
        self.tags.forget(node);
        // slurmctld talks to another address: a job there does not run on the instance that ended.
        let elsewhere = self.persisted.bindings.get(node).is_some_and(|binding| {
            self.nodes.get(node).is_some_and(|n| {
                n.has_job && binding.told && n.slurm_addr.as_deref().is_some_and(|addr| addr != binding.addr)
            })
        });
        self.record(Record::Unbound {
            nodes: vec![node.to_owned()],
            why: format!("{id} ended in EC2: {why}"),
            ending: false,
        });
        let text = format!("EC2 ended {id} ({why}) while Slurm wanted {node}");
        self.fact(
            self.new_fact(FactKind::InstanceVanished, text)
                .nodes([node])
                .instances([id.to_owned()])
                .code(why),
        );
        if self.is_locked(node) || elsewhere {
            return;
        }
        let message = format!("instance {id} ended in EC2");
        match self.nodes.get_mut(node).map(|n| (n.desire, &mut n.reported)) {
            Some((Desire::Waking, _)) => self.fail_nodes(&[node.to_owned()], why, &message),
            Some((Desire::Keep, _)) => self.reports.add(reason(why, &message), vec![node.to_owned()]),
            _ => {}
        }
    }

    /// Nodes that are up in Slurm with no instance behind them and no job on them.
    fn judge_bare_nodes(&mut self, account: &Account, started: u64) {
        let now = self.now;
        let grace = u64::from(self.site.settings.orphan_grace_s) * 1000;
        let mut lost = Vec::new();
        let mut waiting = false;
        let names: Vec<String> = self
            .nodes
            .iter()
            .filter(|(name, node)| {
                node.desire == Desire::Keep
                    && node.since < started
                    && node.flags.has(NodeFlags::CLOUD)
                    && !node.has_job
                    && !node.flags.has(NodeFlags::POWER_DOWN)
                    && !node.flags.has(NodeFlags::POWER_UP)
                    && !self.persisted.bindings.contains_key(*name)
                    && !self.persisted.locked.contains(*name)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if self.site.locate(&name).is_none_or(|(group, _)| group.account != *account) {
                continue;
            }
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            let since = *node.bare_since.get_or_insert(now.mono_ms);
            if now.since(since) >= grace {
                // Asked for anew if Slurm does not follow.
                node.bare_since = Some(now.mono_ms);
                lost.push(name);
            } else {
                waiting = true;
            }
        }
        if waiting && let Some(view) = self.views.get_mut(account) {
            view.hasten(now.mono_ms + grace);
        }
        if lost.is_empty() {
            return;
        }
        let text = format!("{} nodes are up in Slurm without an instance in EC2", lost.len());
        self.fact(self.new_fact(FactKind::NodeWithoutInstance, text).nodes(&lost));
        self.reports.add(reason("NoInstance", "no EC2 instance stands behind this node"), lost);
    }

    /// An administrator wants other instances for these nodes: Slurm powers them down, and up again when it needs them.
    pub(super) fn take_replace(&mut self, nodes: &[String]) {
        let bound: Vec<String> =
            nodes.iter().filter(|node| self.persisted.bindings.contains_key(*node)).cloned().collect();
        if bound.is_empty() {
            return;
        }
        for node in &bound {
            self.end_fleet_of(node);
        }
        self.unbind(&bound, "replaced by an administrator");
        self.reports.add(reason("Replaced", "replaced by an administrator"), bound);
    }
}

/// Behind these addresses Slurm runs jobs.
pub(super) fn busy_addresses(nodes: &BTreeMap<String, Node>) -> BTreeSet<&str> {
    nodes.values().filter(|node| node.has_job).filter_map(|node| node.slurm_addr.as_deref()).collect()
}

/// `<partition>-<group>` by the tags from the instance's birth.
fn stem_of(instance: &Instance) -> Option<String> {
    Some(format!("{}-{}", instance.tags.get(tag::PARTITION)?, instance.tags.get(tag::GROUP)?))
}

/// The node that the instance's own tags name, read as deploy/node/ec2fleet-node reads them.
fn tagged_node(instance: &Instance) -> Option<String> {
    match instance.tags.get(tag::NODES) {
        Some(list) => {
            let names = hostlist::expand_bounded(list, MAX_TAG_NODES).ok()?;
            names.into_iter().nth(instance.ami_launch_index as usize)
        }
        None => instance.tags.get(tag::NODE).cloned(),
    }
}
