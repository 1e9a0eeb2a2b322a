// SPDX-License-Identifier: GPL-3.0-or-later
//! What the journal's state says, found without walking it.
//!
//! The only writer is `Persisted::apply_telling`, which tells of each change it makes: so the index is always what a recount
//! of the state gives.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ec2_api::{CloudRequest, Instance};
use crate::engine::cx::Cx;
use crate::name_map::{NameMap, find_near};
use crate::record::{Binding, Changes, Intent, NodeFleet, Persisted};
use crate::relocation::Relocation;
use crate::site::{Account, FleetScope, Lifecycle, Site};
use crate::tag;
use crate::tag::FLEET_ID;

/// What is bound in one node group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) spot: u32,
    pub(crate) on_demand: u32,
}

/// Instance id and lifecycle, by node.
pub(crate) type Members = BTreeMap<String, (String, Lifecycle)>;

/// What follows from the journal's state.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ledger {
    site: Arc<Site>,
    /// Nodes by instance id.
    owners: NameMap<String>,
    /// Nodes by reservation.
    reservations: NameMap<BTreeSet<String>>,
    /// By the stem of the group; nodes that the configuration does not know are not counted.
    bound: NameMap<Bound>,
    /// What is bound in each maintain fleet.
    members: NameMap<Members>,
    /// Ids in open TerminateInstances and DeleteFleets intents, with the number of intents that name them.
    ending: NameMap<u32>,
    deleting: NameMap<u32>,
    /// Nodes by the id of their fleet.
    fleets: NameMap<String>,
    fleet_counts: BTreeMap<Account, usize>,
}

impl Ledger {
    fn empty(site: Arc<Site>) -> Self {
        Self {
            site,
            owners: NameMap::default(),
            reservations: NameMap::default(),
            bound: NameMap::default(),
            members: NameMap::default(),
            ending: NameMap::default(),
            deleting: NameMap::default(),
            fleets: NameMap::default(),
            fleet_counts: BTreeMap::new(),
        }
    }

    /// Count everything anew.
    pub(crate) fn of(persisted: &Persisted, site: Arc<Site>) -> Self {
        let mut index = Self::empty(site);
        for binding in persisted.bindings.values() {
            index.bound(binding);
        }
        for intent in persisted.open.values() {
            index.opened(intent);
        }
        for (node, fleet) in &persisted.fleets {
            index.fleet_added(node, fleet);
        }
        index
    }

    /// The node that has this instance.
    pub(crate) fn owner(&self, instance_id: &str) -> Option<&str> {
        self.owners.get(instance_id).map(String::as_str)
    }

    /// Where the instance stands among all that are bound, and the node that has it; `guess` is looked at first.
    pub(crate) fn owner_near(&self, instance_id: &str, guess: usize) -> Option<(usize, &str)> {
        let place = find_near(&self.owners, instance_id, guess)?;
        Some((place, self.owners[place].as_str()))
    }

    /// Bound instances, each with its node.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (&String, &String)> {
        self.owners.iter()
    }

    pub(crate) fn is_bound(&self, instance_id: &str) -> bool {
        self.owners.contains_key(instance_id)
    }

    /// In the order of their names.
    pub(crate) fn nodes_of_reservation(&self, reservation_id: &str) -> impl Iterator<Item = &String> {
        self.reservations.get(reservation_id).into_iter().flatten()
    }

    pub(crate) fn bound_in(&self, stem: &str) -> Bound {
        self.bound.get(stem).copied().unwrap_or_default()
    }

    /// What is bound in this fleet; `None` if nothing is.
    pub(crate) fn members(&self, fleet_id: &str) -> Option<&Members> {
        self.members.get(fleet_id)
    }

    /// An open TerminateInstances intent names this instance.
    pub(crate) fn is_ending(&self, instance_id: &str) -> bool {
        self.ending.contains_key(instance_id)
    }

    /// An open DeleteFleets intent names this fleet.
    pub(crate) fn is_deleting(&self, fleet_id: &str) -> bool {
        self.deleting.contains_key(fleet_id)
    }

    /// The node that holds this fleet.
    pub(crate) fn fleet_node(&self, fleet_id: &str) -> Option<&str> {
        self.fleets.get(fleet_id).map(String::as_str)
    }

    /// A node holds this fleet.
    pub(crate) fn is_fleet(&self, fleet_id: &str) -> bool {
        self.fleets.contains_key(fleet_id)
    }

    /// Fleets that nodes hold in this account.
    pub(crate) fn fleets_of(&self, account: &Account) -> usize {
        self.fleet_counts.get(account).copied().unwrap_or_default()
    }

    fn count_bound(&mut self, binding: &Binding, change: impl Fn(u32) -> u32) {
        let Some((stem, ..)) = self.site.place_of(&binding.node) else { return };
        let mut bound = self.bound.get(stem).copied().unwrap_or_default();
        match binding.lifecycle {
            Lifecycle::Spot => bound.spot = change(bound.spot),
            Lifecycle::OnDemand => bound.on_demand = change(bound.on_demand),
        }
        if bound == Bound::default() {
            self.bound.swap_remove(stem);
        } else {
            self.bound.insert(stem.to_owned(), bound);
        }
    }
}

impl Changes for Ledger {
    fn bound(&mut self, binding: &Binding) {
        self.owners.insert(binding.instance_id.clone(), binding.node.clone());
        self.reservations.entry(binding.reservation_id.clone()).or_default().insert(binding.node.clone());
        self.count_bound(binding, |count| count + 1);
        if let Some(fleet) = &binding.fleet {
            let member = (binding.instance_id.clone(), binding.lifecycle);
            self.members.entry(fleet.clone()).or_default().insert(binding.node.clone(), member);
        }
    }

    fn unbound(&mut self, binding: &Binding) {
        // Another node may have been given the instance meanwhile.
        if self.owner(&binding.instance_id) == Some(&binding.node) {
            self.owners.swap_remove(&binding.instance_id);
        }
        if let Some(nodes) = self.reservations.get_mut(&binding.reservation_id) {
            nodes.remove(&binding.node);
            if nodes.is_empty() {
                self.reservations.swap_remove(&binding.reservation_id);
            }
        }
        self.count_bound(binding, |count| count - 1);
        if let Some(fleet) = &binding.fleet
            && let Some(members) = self.members.get_mut(fleet)
        {
            members.remove(&binding.node);
            if members.is_empty() {
                self.members.swap_remove(fleet);
            }
        }
    }

    fn opened(&mut self, intent: &Intent) {
        let (counts, ids) = match &intent.request {
            CloudRequest::TerminateInstances { ids } => (&mut self.ending, ids),
            CloudRequest::DeleteFleets { ids, .. } => (&mut self.deleting, ids),
            _ => return,
        };
        for id in ids {
            *counts.entry(id.clone()).or_default() += 1;
        }
    }

    fn closed(&mut self, intent: &Intent) {
        let (counts, ids) = match &intent.request {
            CloudRequest::TerminateInstances { ids } => (&mut self.ending, ids),
            CloudRequest::DeleteFleets { ids, .. } => (&mut self.deleting, ids),
            _ => return,
        };
        for id in ids {
            if let Some(count) = counts.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    counts.swap_remove(id);
                }
            }
        }
    }

    fn fleet_added(&mut self, node: &str, fleet: &NodeFleet) {
        self.fleets.insert(fleet.fleet_id.clone(), node.to_owned());
        *self.fleet_counts.entry(fleet.account.clone()).or_default() += 1;
    }

    fn fleet_removed(&mut self, node: &str, fleet: &NodeFleet) {
        if self.fleets.get(&fleet.fleet_id).is_some_and(|owner| owner == node) {
            self.fleets.swap_remove(&fleet.fleet_id);
        }
        if let Some(count) = self.fleet_counts.get_mut(&fleet.account) {
            *count -= 1;
            if *count == 0 {
                self.fleet_counts.remove(&fleet.account);
            }
        }
    }
}

/// The group of a fleet's key; a fleet that takes no new nodes has a key of its own.
pub(crate) fn stem_of_key(key: &str) -> &str {
    key.split_once('@').map_or(key, |(stem, _)| stem)
}

impl Cx {
    pub(crate) fn group_fleet_key(&self, fleet_id: &str) -> Option<String> {
        let mut fleets = self.persisted.group_fleets.iter();
        fleets.find(|(_, fleet)| fleet.fleet_id == fleet_id).map(|(key, _)| key.clone())
    }

    /// Whether the fleet belongs to a group, by the journal.
    pub(crate) fn is_group_fleet(&self, fleet_id: &str) -> bool {
        self.persisted.group_fleets.values().any(|fleet| fleet.fleet_id == fleet_id)
    }

    /// Whether the instance is of a group's fleet, which looks after it.
    pub(crate) fn in_group_fleet(&self, instance: &Instance) -> bool {
        instance.tags.get(FLEET_ID).is_some_and(|fleet| self.is_group_fleet(fleet))
    }

    /// The group of an instance that EC2 launched for a group's fleet, and that carries no tag of ours yet.
    pub(crate) fn stem_by_fleet(&self, instance: &Instance) -> Option<String> {
        let key = self.group_fleet_key(instance.tags.get(FLEET_ID)?)?;
        Some(stem_of_key(&key).to_owned())
    }

    /// Whether an account has groups that keep fleets.
    pub(crate) fn keeps_fleets(&self, account: &Account) -> bool {
        self.site.groups().iter().any(|group| group.account == *account && group.scope != FleetScope::Launch)
            || self.ledger.fleets_of(account) > 0
            || self.persisted.group_fleets.values().any(|fleet| fleet.account == *account)
    }

    pub(crate) fn is_relocating(&self, node: &str) -> bool {
        self.persisted.relocations.contains_key(node)
    }

    /// A Spot instance whose end is part of a move, and no loss.
    pub(crate) fn relocates_from(&self, instance: &str) -> bool {
        self.persisted.relocations.values().any(|moving| moving.from == instance && !moving.moved)
    }

    pub(crate) fn relocates_fleet(&self, fleet_id: &str) -> bool {
        self.persisted.relocations.values().any(|moving| moving.fleet_id == fleet_id)
    }

    /// Either instance of a move, also if EC2's answer to its launch was lost.
    pub(crate) fn in_relocation(&self, instance: &Instance) -> bool {
        self.persisted.relocations.values().any(|moving| {
            moving.from == instance.id
                || moving.to.as_ref() == Some(&instance.id)
                || instance.tags.get(tag::LAUNCH).is_some_and(|token| *token == moving.launch_token())
        })
    }

    pub(crate) fn moving(&self, node: &str) -> Option<Relocation> {
        self.persisted.relocations.get(node).map(|moving| (**moving).clone())
    }
}

impl Ledger {
    /// Instances that open TerminateInstances intents name.
    pub(crate) fn ending(&self) -> impl Iterator<Item = &String> {
        self.ending.keys()
    }
}
