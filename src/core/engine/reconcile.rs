// SPDX-License-Identifier: GPL-3.0-or-later
//! Comparing a complete list of EC2's instances with what Slurm wants and what we know.
//!
//! Only complete lists come here, each older than the Slurm nodes it is compared with: a node that became busy
//! after the list was made is then seen as busy. A list that failed or was cut short is never compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::launch::Launch;
use super::outbox::Purpose;
use super::report::{Cause, reason};
use super::{Addresses, Cx, Desire, Engine, Ground, GroupFleets, Node};
use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult, Instance, InstanceState};
use crate::core::fact::FactKind;
use crate::core::hostlist;
use crate::core::name_map::{NameMap, find_near};
use crate::core::record::{Binding, Record};
use crate::core::site::Account;
use crate::core::slurm_api::NodeFlags;
use crate::core::tag;

/// Nodes in a tag that are looked at: more never fit a tag value.
const MAX_TAG_NODES: usize = 10_000;

/// Who compares what EC2 and slurmctld show with what is known.
#[derive(Debug)]
pub(super) struct Reconcile;

impl Reconcile {
    /// One look-up for an instance that is where it should be: nearly all are.
    pub(super) fn judge(
        &mut self,
        g: &mut Ground,
        groups: &mut GroupFleets,
        account: &Account,
        started: u64,
        instances: &[Instance],
    ) {
        g.sight.lists += 1;
        let may_sleep = g.cx.site.groups().iter().any(|group| group.hibernates());
        let mut moved = Vec::new();
        let mut strangers = Strangers::default();
        // EC2 lists instances in much the same order each time.
        let (mut near, mut near_binding) = (0, 0);
        for instance in instances.iter().filter(|instance| !instance.state.is_ended()) {
            let Some(place) = find_near(&g.cx.ledger.owners, &instance.id, near) else {
                strangers.by_id.insert(&instance.id, instance);
                continue;
            };
            near = place + 1;
            let owner = &mut g.cx.ledger.owners[place];
            owner.listed = g.sight.lists;
            // The list may have waited for slurmctld while a look showed the instance asleep.
            let overtaken = g.sleepers.sleeping.get(&owner.node).is_some_and(|sleep| sleep.since > started);
            if !overtaken {
                owner.state = Some(instance.state);
            }
            if let Some(addr) = &instance.private_ip
                && let Some(place) = find_near(&g.cx.persisted.bindings, &owner.node, near_binding)
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
                _ if g.terminations.ended.contains_key(id) => end.push(id.clone()),
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
            if let Some(view) = g.sight.views.get_mut(account) {
                view.hasten(now + grace);
            }
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
        for (id, owner) in &g.cx.ledger.owners {
            if owner.listed == g.sight.lists || g.cx.relocates_from(id) {
                continue;
            }
            let Some(binding) = g.cx.persisted.bindings.get(&owner.node) else { continue };
            if binding.account == *account
                && g.cx.nodes.get(&owner.node).is_some_and(|n| n.bound_at < started)
            {
                ids.push(id.clone());
            }
        }
        g.sight
            .missing
            .retain(|id, _| g.cx.ledger.owners.get(id).is_none_or(|owner| owner.listed != g.sight.lists));
        if !ids.is_empty() {
            let request = CloudRequest::DescribeInstances { ids: ids.clone() };
            g.cx.cloud(Purpose::Confirm { account: account.clone(), ids }, request);
        }
    }

    pub(super) fn take_confirmation(
        &mut self,
        g: &mut Ground,
        account: &Account,
        ids: &[String],
        result: CloudResult,
    ) {
        let Ok(CloudReply::Instances(instances)) = result else { return };
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
        if unsure && let Some(view) = g.sight.views.get_mut(account) {
            view.hasten(now.mono_ms + grace / 2);
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
        if waiting && let Some(view) = g.sight.views.get_mut(account) {
            view.hasten(now.mono_ms + grace);
        }
        if lost.is_empty() {
            return;
        }
        let text = format!("{} nodes are up in Slurm without an instance in EC2", lost.len());
        g.cx.fact(g.cx.new_fact(FactKind::NodeWithoutInstance, text).nodes(&lost));
        g.failures.add(Cause::Bare, &reason("NoInstance", "no EC2 instance stands behind this node"), lost);
    }
}

impl Addresses {
    /// Bound instances whose private address is another than before.
    pub(super) fn follow_addresses(&mut self, cx: &mut Cx, moved: Vec<(Binding, String)>) {
        if moved.is_empty() {
            return;
        }
        let changed: Vec<Binding> = moved
            .into_iter()
            .map(|(binding, addr)| Binding {
                hostname: super::bind::hostname_of(&addr),
                addr,
                told: false,
                ..binding
            })
            .collect();
        let names: Vec<String> = changed.iter().map(|binding| binding.node.clone()).collect();
        cx.fact(cx.new_fact(FactKind::AddressChanged, "instances have a new private address").nodes(&names));
        for name in names {
            self.want(name);
        }
        cx.record(Record::Bound { bindings: changed });
    }
}

impl Ground {
    /// Instances without a node that belong to one after all: by address, by tag, or because a node waits.
    pub(super) fn adopt(&mut self, account: &Account, strangers: &mut Strangers<'_>) {
        let mut ownerless = self.unclaimed(strangers);
        if ownerless.is_empty() {
            return;
        }
        // Of two that were told the same name the older one is what an earlier power-up left behind.
        ownerless.sort_by_key(|instance| std::cmp::Reverse(instance.launch_unix_ms));
        let mut by_addr: BTreeMap<&str, &String> = BTreeMap::new();
        for (name, node) in &self.cx.nodes {
            if let Some(addr) = &node.slurm_addr
                && matches!(node.desire, Desire::Keep | Desire::Waking)
                && !self.cx.persisted.bindings.contains_key(name)
            {
                by_addr.entry(addr).and_modify(|other| *other = (*other).max(name)).or_insert(name);
            }
        }
        let mut taken: BTreeSet<String> = BTreeSet::new();
        let mut placed: BTreeSet<&str> = BTreeSet::new();
        let mut pairs: Vec<(String, Instance)> = Vec::new();
        for instance in &ownerless {
            let Some(addr) = instance.private_ip.as_deref() else { continue };
            // Slurm may show a past instance's address for a node: an instance that was told a name is that node.
            let candidate = strangers
                .tagged_node(instance)
                .or_else(|| by_addr.get(addr).map(|name| (*name).clone()))
                .filter(|node| self.may_adopt(node, instance));
            if let Some(node) = candidate
                && taken.insert(node.clone())
            {
                placed.insert(&instance.id);
                pairs.push((node, (*instance).clone()));
            }
        }
        // What is left goes to nodes that wait in no launch (an earlier process launched for them). An instance that
        // was told its node name runs under that name to its end, and is of no use to another node.
        let mut waiting: BTreeMap<String, VecDeque<String>> = BTreeMap::new();
        for instance in &ownerless {
            if instance.private_ip.is_none()
                || !matches!(instance.state, InstanceState::Pending | InstanceState::Running)
                || self.cx.persisted.leaving.contains_key(&instance.id)
                || placed.contains(instance.id.as_str())
                || strangers.tagged_node(instance).is_some()
                || self.cx.in_group_fleet(instance)
            {
                continue;
            }
            let Some(stem) = stem_of(instance) else { continue };
            let waiting = waiting.entry(stem).or_insert_with_key(|stem| {
                self.waiting
                    .queued_nodes(&self.cx, stem, usize::MAX)
                    .into_iter()
                    .filter(|node| !taken.contains(node))
                    .collect()
            });
            let fit = waiting
                .iter()
                .position(|node| !self.cx.is_from_before(node, self.sight.orphans.get(&instance.id)));
            if let Some(node) = fit.and_then(|at| waiting.remove(at)) {
                pairs.push((node, (*instance).clone()));
            }
        }
        if pairs.is_empty() {
            return;
        }
        let fact = self
            .cx
            .new_fact(FactKind::InstanceAdopted, format!("{} running instances belong to nodes", pairs.len()))
            .nodes(pairs.iter().map(|(node, _)| node))
            .instances(pairs.iter().map(|(_, instance)| instance.id.clone()));
        self.cx.fact(fact);
        self.bind(account, None, pairs, 0);
    }

    fn may_adopt(&self, node: &str, instance: &Instance) -> bool {
        let stem = stem_of(instance).or_else(|| self.cx.stem_by_fleet(instance));
        let in_group =
            self.cx.site.locate(node).is_some_and(|(group, _)| stem.is_none_or(|stem| stem == group.stem()));
        let fleet = instance.tags.get(super::fleet::FLEET_ID);
        if fleet.is_some_and(|fleet| self.deletions.is_fleet_ending(&self.cx, fleet)) {
            // The order to end it may reach EC2 at any time.
            return false;
        }
        // What was about to be ended is from before this power-up, and Slurm ignores a slurmd that booted before.
        let earlier = self.cx.persisted.leaving.contains_key(&instance.id)
            || self.cx.is_from_before(node, self.sight.orphans.get(&instance.id));
        let wanted = self.cx.nodes.get(node).is_some_and(|n| {
            n.desire == Desire::Keep
                || (n.desire == Desire::Waking && !n.reported && n.launch.is_none() && !earlier)
        });
        in_group && wanted && !self.cx.persisted.bindings.contains_key(node)
    }

    /// Of these instances those that are neither bound, nor expected by a launch, nor on their way out.
    fn unclaimed<'a>(&self, strangers: &Strangers<'a>) -> Vec<&'a Instance> {
        if strangers.by_id.is_empty() {
            return Vec::new();
        }
        let tokens: BTreeSet<&str> =
            self.launches.open.values().map(|launch| launch.token.as_str()).collect();
        let ids: BTreeSet<&str> = self.launches.open.values().flat_map(Launch::expected).collect();
        let is_ownerless = |instance: &Instance| {
            let expected = ids.contains(instance.id.as_str())
                || instance.tags.get(tag::LAUNCH).is_some_and(|token| tokens.contains(token));
            // A fleet's instance comes to its node by itself, unless that node is up and has lost it from the journal.
            let in_fleet = instance
                .tags
                .get(super::fleet::FLEET_ID)
                .and_then(|id| self.cx.ledger.fleet_node(id))
                .is_some_and(|node| !self.cx.is_bare(node));
            !self.cx.ledger.is_bound(&instance.id)
                && !expected
                && !in_fleet
                && !self.lowering.is_lowering(&instance.id)
                && !self.terminations.is_ending(&self.cx, &instance.id)
                && !self.cx.in_relocation(instance)
        };
        strangers.by_id.values().copied().filter(|instance| is_ownerless(instance)).collect()
    }

    /// EC2 has ended the instance behind a node: Slurm must know now, not after SlurmdTimeout.
    pub(super) fn lose_instance(&mut self, node: &str, id: &str, why: &str) {
        self.sight.missing.remove(id);
        self.sleepers.forget_sleep(node);
        self.addresses.forget(node);
        self.tags.forget(node);
        // slurmctld talks to another address: a job there does not run on the instance that ended.
        let elsewhere = self.cx.persisted.bindings.get(node).is_some_and(|binding| {
            self.cx.nodes.get(node).is_some_and(|n| {
                n.has_job && binding.told && n.slurm_addr.as_deref().is_some_and(|addr| addr != binding.addr)
            })
        });
        self.cx.record(Record::Unbound {
            nodes: vec![node.to_owned()],
            why: format!("{id} ended in EC2: {why}"),
            ending: false,
        });
        let text = format!("EC2 ended {id} ({why}) while Slurm wanted {node}");
        self.cx.fact(
            self.cx
                .new_fact(FactKind::InstanceVanished, text)
                .nodes([node])
                .instances([id.to_owned()])
                .code(why),
        );
        if self.cx.is_locked(node) || elsewhere {
            return;
        }
        let message = format!("instance {id} ended in EC2");
        match self.cx.nodes.get_mut(node).map(|n| (n.desire, &mut n.reported)) {
            Some((Desire::Waking, _)) => self.fail_nodes(&[node.to_owned()], why, &message),
            Some((Desire::Keep, _)) => {
                self.failures.add(Cause::NoInstance, &reason(why, &message), [node.to_owned()])
            }
            _ => {}
        }
    }
}

impl Cx {
    /// What was `seen` ownerless before the node's power-up began has booted before it, and slurmctld does not let it
    /// register (boot_req_time in waiting_for_node_boot, src/slurmctld/node_mgr.c, 24.11).
    pub(super) fn is_from_before(&self, node: &str, seen: Option<&u64>) -> bool {
        let known = self.nodes.get(node).filter(|n| n.desire == Desire::Waking);
        known.zip(seen).is_some_and(|(node, seen)| *seen < node.since)
    }

    /// Up in Slurm, with no instance in the journal.
    fn is_bare(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep)
            && !self.persisted.bindings.contains_key(node)
    }
}

impl Engine {
    /// An administrator wants other instances for these nodes: Slurm powers them down, and up again when it needs them.
    pub(super) fn take_replace(&mut self, nodes: &[String]) {
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
}

/// Behind these addresses Slurm runs jobs.
///
/// A job on a node that is powered down or has yet to register waits; the address is that of the instance before, and may
/// have become another's since.
pub(super) fn busy_addresses(nodes: &NameMap<Node>) -> BTreeSet<&str> {
    let runs = |node: &&Node| match node.desire {
        Desire::Down => false,
        Desire::Waking => !node.flags.has(NodeFlags::POWERING_UP),
        Desire::Keep | Desire::Unknown => true,
    };
    let busy = nodes.values().filter(|node| node.has_job).filter(runs);
    busy.filter_map(|node| node.slurm_addr.as_deref()).collect()
}

/// `<partition>-<group>` by the tags from the instance's birth.
fn stem_of(instance: &Instance) -> Option<String> {
    Some(format!("{}-{}", instance.tags.get(tag::PARTITION)?, instance.tags.get(tag::GROUP)?))
}

/// Instances of a list that no node has.
#[derive(Default)]
pub(super) struct Strangers<'a> {
    pub(super) by_id: BTreeMap<&'a str, &'a Instance>,
    /// Instances of one reservation carry the same list of nodes.
    expanded: BTreeMap<&'a str, Vec<String>>,
}

impl<'a> Strangers<'a> {
    pub(super) fn of(instances: &'a [Instance]) -> Self {
        let by_id = instances.iter().map(|instance| (instance.id.as_str(), instance)).collect();
        Self { by_id, ..Self::default() }
    }

    /// The node that the instance's own tags name, read as deploy/node/ec2fleet-node reads them.
    fn tagged_node(&mut self, instance: &'a Instance) -> Option<String> {
        let Some(list) = instance.tags.get(tag::NODES) else {
            return instance.tags.get(tag::NODE).map(str::to_owned);
        };
        let names = self
            .expanded
            .entry(list)
            .or_insert_with(|| hostlist::expand_bounded(list, MAX_TAG_NODES).unwrap_or_default());
        names.get(instance.ami_launch_index as usize).cloned()
    }
}
