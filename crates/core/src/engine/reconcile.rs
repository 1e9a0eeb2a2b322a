// SPDX-License-Identifier: GPL-3.0-or-later
//! Comparing a complete list of EC2's instances with what Slurm wants and what we know.
//!
//! Only complete lists come here, each older than the Slurm nodes it is compared with: a node that became busy
//! after the list was made is then seen as busy. A list that failed or was cut short is never compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, Instance};
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::cx::nodes::{Desire, busy_addresses};
use crate::engine::ground::Ground;
use crate::engine::ground::adopt::Strangers;
use crate::engine::ground::failures::{Cause, reason};
use crate::engine::groups::GroupFleets;
use crate::fact::FactKind;
use crate::name_map::find_near;
use crate::record::{NodeFleet, Record};
use crate::site::{Account, FleetScope};
use crate::slurm_api::NodeFlags;
use crate::tag::FLEET_ID;

/// Who compares what EC2 and slurmctld show with what is known.
#[derive(Debug)]
pub(crate) struct Reconcile;

impl Reconcile {
    /// One look-up for an instance that is where it should be: nearly all are.
    pub(crate) fn judge(
        &mut self,
        g: &mut Ground,
        groups: &mut GroupFleets,
        account: &Account,
        started: u64,
        instances: &[Instance],
    ) {
        g.cx.sightings.begin_list();
        let may_sleep = g.cx.site.groups().iter().any(|group| group.hibernates());
        let mut moved = Vec::new();
        let mut strangers = Strangers::default();
        // EC2 lists instances in much the same order each time.
        let (mut near, mut near_binding) = (0, 0);
        for instance in instances.iter().filter(|instance| !instance.state.is_ended()) {
            let Some((place, node)) = g.cx.ledger.owner_near(&instance.id, near) else {
                strangers.by_id.insert(&instance.id, instance);
                continue;
            };
            near = place + 1;
            // The list may have waited for slurmctld while a look showed the instance asleep.
            let overtaken = g.sleepers.sleeping.get(node).is_some_and(|sleep| sleep.since > started);
            g.cx.sightings.list(&instance.id, place, (!overtaken).then_some(instance.state));
            if let Some(addr) = &instance.private_ip
                && let Some(place) = find_near(&g.cx.persisted.bindings, node, near_binding)
            {
                near_binding = place + 1;
                let binding = &g.cx.persisted.bindings[place];
                if binding.addr != *addr {
                    moved.push((binding.clone(), addr.clone()));
                }
            }
            if may_sleep && !overtaken {
                g.sleepers.note_instance_state(&mut g.cx, instance);
            }
        }
        g.addresses.follow_addresses(&mut g.cx, moved);
        g.adopt(account, &mut strangers);
        if g.cx.keeps_fleets(account) {
            self.follow_fleets(g, account, instances);
        }
        self.end_leaving(g, account, &strangers);
        groups.look_at_group_fleets(g, account, &strangers);
        self.judge_orphans(g, account, &mut strangers);
        self.confirm_missing(g, account, started);
        self.judge_bare_nodes(g, account, started);
    }

    /// Of these instances those that are unclaimed and not the affair of a group's fleet.
    fn ownerless<'a>(&self, g: &Ground, strangers: &Strangers<'a>) -> Vec<&'a Instance> {
        g.unclaimed(strangers).into_iter().filter(|instance| !g.cx.in_group_fleet(instance)).collect()
    }

    fn judge_orphans(&mut self, g: &mut Ground, account: &Account, strangers: &mut Strangers<'_>) {
        let now = g.cx.now.mono_ms;
        let grace = u64::from(g.cx.site.settings.orphan_grace_s) * 1000;
        let ownerless = self.ownerless(g, strangers);
        let still: BTreeSet<&str> = ownerless.iter().map(|instance| instance.id.as_str()).collect();
        g.sight.orphans.retain(|id, at| {
            // Of this account or not: what no list shows for long is pruned by its age.
            let shown = strangers.by_id.contains_key(id.as_str());
            still.contains(id.as_str()) || (!shown && g.cx.now.since(*at) <= 10 * grace)
        });
        let busy = if ownerless.is_empty() { BTreeSet::new() } else { busy_addresses(&g.cx.nodes) };
        let (mut seen, mut end) = (Vec::new(), Vec::new());
        for instance in ownerless {
            let id = &instance.id;
            // Whatever we believe: behind this address Slurm runs a job.
            if instance.private_ip.as_deref().is_some_and(|addr| busy.contains(addr)) {
                continue;
            }
            let node = strangers.tagged_node(instance);
            if node.as_ref().is_some_and(|node| g.cx.is_locked(node)) {
                continue;
            }
            let node = node.and_then(|node| g.cx.nodes.get(&node));
            let powered_down = node.is_some_and(|node| node.desire == Desire::Down);
            // Of two that were told one name, either may be where the node's job began: a lost address and a list that
            // lacked one of them may have given the node to the other.
            let may_run_job = node.is_some_and(|node| node.desire == Desire::Keep && node.has_job);
            match g.sight.orphans.get(id) {
                // We asked EC2 to end it a while ago, and it still runs.
                _ if g.terminations.was_ordered(id) => end.push(id.clone()),
                // Its node is powered down: it could only come back under a name that another instance will have.
                _ if powered_down => end.push(id.clone()),
                None => {
                    g.sight.orphans.insert(id.clone(), now);
                    seen.push(id.clone());
                }
                Some(first) if g.cx.now.since(*first) >= grace && !may_run_job => end.push(id.clone()),
                Some(_) => {}
            }
        }
        if !seen.is_empty() {
            let seconds = g.cx.site.settings.orphan_grace_s;
            let text = format!(
                "{} instances have no node; they are terminated in {seconds} s unless one is found",
                seen.len()
            );
            g.cx.fact(g.cx.new_fact(FactKind::OrphanSeen, text).instances(seen));
            // The next look is due when the grace time is over.
            g.sight.list_by(account, now + grace);
        }
        if !end.is_empty() {
            let text = format!("{} instances serve no node that Slurm wants", end.len());
            g.cx.fact(g.cx.new_fact(FactKind::OrphanTerminated, text).instances(end.iter().cloned()));
            for id in end {
                g.end_instance(account, id);
            }
        }
    }

    /// Bound instances that the list does not show are asked for by id before anything is concluded.
    fn confirm_missing(&mut self, g: &mut Ground, account: &Account, started: u64) {
        let mut ids = Vec::new();
        for (id, node) in g.cx.ledger.owners() {
            if g.cx.sightings.is_listed(id) || g.cx.relocates_from(id) {
                continue;
            }
            let Some(binding) = g.cx.persisted.bindings.get(node) else { continue };
            if binding.account == *account && g.cx.nodes.get(node).is_some_and(|n| n.bound_at < started) {
                ids.push(id.clone());
            }
        }
        g.sight.missing.retain(|id, _| !g.cx.ledger.is_bound(id) || !g.cx.sightings.is_listed(id));
        if !ids.is_empty() {
            let request = CloudRequest::DescribeInstances { ids: ids.clone() };
            g.cx.cloud(CloudPurpose::Confirm { account: account.clone(), ids }, request);
        }
    }

    pub(crate) fn take_confirmation(
        &mut self,
        g: &mut Ground,
        account: &Account,
        ids: &[String],
        result: CloudResult,
    ) {
        let Ok(instances) = result.and_then(CloudReply::into_instances) else { return };
        let now = g.cx.now;
        let grace = u64::from(g.cx.site.settings.consistency_grace_s) * 1000;
        let mut unsure = false;
        let found: BTreeMap<&str, &Instance> =
            instances.iter().map(|instance| (instance.id.as_str(), instance)).collect();
        for id in ids {
            let Some(node) = g.cx.ledger.owner(id).map(str::to_owned) else { continue };
            if g.cx.relocates_from(id) {
                continue;
            }
            match found.get(id.as_str()) {
                Some(instance) if instance.state.is_ended() => {
                    let why = instance.state_reason.clone().unwrap_or_else(|| "terminated".into());
                    g.lose_instance(&node, id, &why);
                }
                Some(_) => {
                    g.sight.missing.remove(id);
                }
                None => {
                    let since = *g.sight.missing.entry(id.clone()).or_insert(now.mono_ms);
                    if now.since(since) >= grace {
                        g.lose_instance(&node, id, "InvalidInstanceID.NotFound");
                    } else {
                        unsure = true;
                    }
                }
            }
        }
        if unsure {
            g.sight.list_by(account, now.mono_ms + grace / 2);
        }
    }

    /// Nodes that are up in Slurm with no instance behind them and no job on them.
    fn judge_bare_nodes(&mut self, g: &mut Ground, account: &Account, started: u64) {
        let now = g.cx.now;
        let grace = u64::from(g.cx.site.settings.orphan_grace_s) * 1000;
        let mut lost = Vec::new();
        let mut waiting = false;
        let names: Vec<String> =
            g.cx.nodes
                .iter()
                .filter(|(name, node)| {
                    node.desire == Desire::Keep
                        && node.since < started
                        && node.flags.has(NodeFlags::CLOUD)
                        && !node.has_job
                        && !node.flags.has(NodeFlags::POWER_DOWN)
                        && !node.flags.has(NodeFlags::POWER_UP)
                        && !g.cx.persisted.bindings.contains_key(*name)
                        && !g.cx.persisted.locked.contains(*name)
                })
                .map(|(name, _)| name.clone())
                .collect();
        for name in names {
            if g.cx.site.locate(&name).is_none_or(|(group, _)| group.account != *account) {
                continue;
            }
            let Some(node) = g.cx.nodes.get_mut(&name) else { continue };
            let since = *node.bare_since.get_or_insert(now.mono_ms);
            if now.since(since) >= grace {
                // Asked for anew if Slurm does not follow.
                node.bare_since = Some(now.mono_ms);
                lost.push(name);
            } else {
                waiting = true;
            }
        }
        if waiting {
            g.sight.list_by(account, now.mono_ms + grace);
        }
        if lost.is_empty() {
            return;
        }
        let text = format!("{} nodes are up in Slurm without an instance in EC2", lost.len());
        g.cx.fact(g.cx.new_fact(FactKind::NodeWithoutInstance, text).nodes(&lost));
        g.failures.add(Cause::Bare, &reason("NoInstance", "no EC2 instance stands behind this node"), lost);
    }

    /// What an earlier process was about to end, and no node has claimed since.
    pub(crate) fn end_leaving(&mut self, g: &mut Ground, account: &Account, strangers: &Strangers<'_>) {
        let leaving: Vec<String> =
            g.cx.persisted
                .leaving
                .iter()
                .filter(|(id, owner)| {
                    *owner == account && !g.terminations.is_ending(&g.cx, id) && !g.lowering.is_lowering(id)
                })
                .map(|(id, _)| id.clone())
                .collect();
        for id in leaving {
            if !strangers
                .by_id
                .get(id.as_str())
                .is_some_and(|instance| g.lowering.lower_leaving(&g.cx, instance))
            {
                g.end_instance(account, id);
            }
        }
    }

    /// A node's fleet is the one that holds its instance, whatever else is left of earlier power-ups.
    pub(crate) fn follow_fleets(&mut self, g: &mut Ground, account: &Account, instances: &[Instance]) {
        let mut held = Vec::new();
        for instance in instances {
            let Some(id) = instance.tags.get(FLEET_ID) else { continue };
            let Some(node) = g.cx.ledger.owner(&instance.id) else { continue };
            let in_scope = g.cx.site.locate(node).is_some_and(|(group, _)| group.scope == FleetScope::Node);
            let known = g.cx.persisted.fleets.get(node).is_some_and(|fleet| fleet.fleet_id == *id);
            if !in_scope || known || g.deletions.is_fleet_ending(&g.cx, id) {
                continue;
            }
            let launch = g.cx.persisted.bindings.get(node).and_then(|binding| binding.launch.clone());
            let fleet = NodeFleet {
                fleet_id: id.to_owned(),
                account: account.clone(),
                lifecycle: instance.lifecycle,
                instance_type: instance.instance_type.clone(),
                subnet_id: instance.subnet_id.clone(),
                launch: launch.unwrap_or_default(),
                created_unix_ms: g.cx.now.unix_ms,
            };
            held.push((node.to_owned(), fleet));
        }
        for (node, fleet) in held {
            let text = format!("fleet {} holds the instance of {node}", fleet.fleet_id);
            g.cx.fact(g.cx.new_fact(FactKind::InstanceAdopted, text).nodes([&node]));
            g.launches.fulfilling.remove(&node);
            g.cx.record(Record::FleetOf { node, fleet });
        }
    }
}
