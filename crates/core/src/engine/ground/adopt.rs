// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances that no node has, and those that belong to a node after all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ec2_api::{Instance, InstanceState};
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::Ground;
use crate::engine::ground::launches::Launch;
use crate::fact::FactKind;
use crate::site::Account;
use crate::tag::FLEET_ID;
use crate::{hostlist, tag};

/// Nodes in a tag that are looked at: more never fit a tag value.
const MAX_TAG_NODES: usize = 10_000;

impl Ground {
    /// Instances without a node that belong to one after all: by address, by tag, or because a node waits.
    pub(crate) fn adopt(&mut self, account: &Account, strangers: &mut Strangers<'_>) {
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
        let fleet = instance.tags.get(FLEET_ID);
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
    pub(crate) fn unclaimed<'a>(&self, strangers: &Strangers<'a>) -> Vec<&'a Instance> {
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
                .get(FLEET_ID)
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
}

/// `<partition>-<group>` by the tags from the instance's birth.
fn stem_of(instance: &Instance) -> Option<String> {
    Some(format!("{}-{}", instance.tags.get(tag::PARTITION)?, instance.tags.get(tag::GROUP)?))
}

/// Instances of a list that no node has.
#[derive(Default)]
pub(crate) struct Strangers<'a> {
    pub(crate) by_id: BTreeMap<&'a str, &'a Instance>,
    /// Instances of one reservation carry the same list of nodes.
    expanded: BTreeMap<&'a str, Vec<String>>,
}

impl<'a> Strangers<'a> {
    pub(crate) fn of(instances: &'a [Instance]) -> Self {
        let by_id = instances.iter().map(|instance| (instance.id.as_str(), instance)).collect();
        Self { by_id, ..Self::default() }
    }

    /// The node that the instance's own tags name, read as deploy/node/ec2fleet-node reads them.
    pub(crate) fn tagged_node(&mut self, instance: &'a Instance) -> Option<String> {
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
