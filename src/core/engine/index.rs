// SPDX-License-Identifier: GPL-3.0-or-later
//! What the journal's state says, found without walking it.
//!
//! The only writer is [`Persisted::apply`], which tells of each change it makes: so the index is always what a recount
//! of the state gives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::ec2_api::{CloudRequest, InstanceState};
use crate::core::name_map::NameMap;
use crate::core::record::{Binding, Changes, Intent, NodeFleet, Persisted};
use crate::core::site::{Account, Lifecycle, Site};

/// The node that has an instance.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) node: String,
    /// As EC2 last showed it.
    pub(super) state: Option<InstanceState>,
    /// The number of the last list that showed the instance alive.
    pub(super) listed: u64,
}

impl PartialEq for Owner {
    /// State and list are no matter of the journal.
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// What is bound in one node group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) spot: u32,
    pub(super) on_demand: u32,
}

/// Instance id and lifecycle, by node.
pub(super) type Members = BTreeMap<String, (String, Lifecycle)>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Index {
    site: Arc<Site>,
    /// By instance id.
    pub(super) owners: NameMap<Owner>,
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

impl Index {
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
    pub(super) fn of(persisted: &Persisted, site: Arc<Site>) -> Self {
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
    pub(super) fn owner(&self, instance_id: &str) -> Option<&str> {
        self.owners.get(instance_id).map(|owner| owner.node.as_str())
    }

    pub(super) fn is_bound(&self, instance_id: &str) -> bool {
        self.owners.contains_key(instance_id)
    }

    /// In the order of their names.
    pub(super) fn nodes_of_reservation(&self, reservation_id: &str) -> impl Iterator<Item = &String> {
        self.reservations.get(reservation_id).into_iter().flatten()
    }

    pub(super) fn bound_in(&self, stem: &str) -> Bound {
        self.bound.get(stem).copied().unwrap_or_default()
    }

    /// What is bound in this fleet; `None` if nothing is.
    pub(super) fn members(&self, fleet_id: &str) -> Option<&Members> {
        self.members.get(fleet_id)
    }

    /// An open TerminateInstances intent names this instance.
    pub(super) fn is_ending(&self, instance_id: &str) -> bool {
        self.ending.contains_key(instance_id)
    }

    /// An open DeleteFleets intent names this fleet.
    pub(super) fn is_deleting(&self, fleet_id: &str) -> bool {
        self.deleting.contains_key(fleet_id)
    }

    /// The node that holds this fleet.
    pub(super) fn fleet_node(&self, fleet_id: &str) -> Option<&str> {
        self.fleets.get(fleet_id).map(String::as_str)
    }

    /// A node holds this fleet.
    pub(super) fn is_fleet(&self, fleet_id: &str) -> bool {
        self.fleets.contains_key(fleet_id)
    }

    /// Fleets that nodes hold in this account.
    pub(super) fn fleets_of(&self, account: &Account) -> usize {
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

impl Changes for Index {
    fn bound(&mut self, binding: &Binding) {
        let owner = Owner { node: binding.node.clone(), state: None, listed: 0 };
        self.owners.insert(binding.instance_id.clone(), owner);
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::core::record::{LaunchIntent, Outcome, Record, TagLevel};
    use crate::core::site::Settings;

    fn account(number: u8) -> Account {
        Account { region: format!("region-{}", number % 2), profile: None }
    }

    fn site(max_nodes: u32) -> Arc<Site> {
        let mut group = crate::core::engine::tests::group("g");
        group.max_nodes = max_nodes;
        Arc::new(Site::new("c".into(), Vec::new(), vec![group], Settings::default()))
    }

    fn node(number: u8) -> String {
        format!("p-g-{}", number % 6)
    }

    /// Whatever is said of an instance follows from its number.
    fn binding(number: u8, instance: u8) -> Binding {
        let instance = instance % 8;
        Binding {
            node: node(number),
            instance_id: format!("i-{instance}"),
            account: account(instance),
            launch: None,
            addr: format!("10.0.0.{number}"),
            hostname: String::new(),
            instance_type: String::new(),
            zone: String::new(),
            lifecycle: if instance.is_multiple_of(2) { Lifecycle::Spot } else { Lifecycle::OnDemand },
            reservation_id: format!("r-{}", instance % 3),
            ami_launch_index: 0,
            bound_unix_ms: 0,
            tags: TagLevel::Birth,
            told: false,
            fleet: (instance > 2).then(|| format!("fleet-{}", instance % 3)),
        }
    }

    fn fleet(number: u8) -> NodeFleet {
        let number = number % 5;
        NodeFleet {
            fleet_id: format!("fleet-{number}"),
            account: account(number),
            lifecycle: Lifecycle::Spot,
            instance_type: String::new(),
            subnet_id: None,
            launch: String::new(),
            created_unix_ms: 0,
        }
    }

    fn ids(prefix: &str, numbers: &[u8]) -> Vec<String> {
        numbers.iter().map(|number| format!("{prefix}-{}", number % 5)).collect()
    }

    fn records() -> impl Strategy<Value = Record> {
        let numbers = || vec(any::<u8>(), 0..4);
        prop_oneof![
            vec((any::<u8>(), any::<u8>()), 1..4).prop_map(|pairs| Record::Bound {
                bindings: pairs.into_iter().map(|(node, instance)| binding(node, instance)).collect()
            }),
            (numbers(), any::<bool>()).prop_map(|(nodes, ending)| Record::Unbound {
                nodes: nodes.into_iter().map(node).collect(),
                why: String::new(),
                ending
            }),
            (0..6u64, numbers(), any::<bool>()).prop_map(|(id, numbers, fleets)| {
                let request = if fleets {
                    CloudRequest::DeleteFleets { ids: ids("fleet", &numbers), terminate_instances: true }
                } else {
                    CloudRequest::TerminateInstances { ids: ids("i", &numbers) }
                };
                let launch = None::<LaunchIntent>;
                Record::Intent { id, intent: Intent { unix_ms: 0, account: account(0), request, launch } }
            }),
            (0..6u64).prop_map(|id| Record::Outcome { id, outcome: Outcome::Abandoned(String::new()) }),
            (any::<u8>(), any::<u8>())
                .prop_map(|(owner, id)| Record::FleetOf { node: node(owner), fleet: fleet(id) }),
            numbers().prop_map(|numbers| Record::FleetsGone { fleet_ids: ids("fleet", &numbers) }),
            numbers().prop_map(|numbers| Record::Told { nodes: numbers.into_iter().map(node).collect() }),
        ]
    }

    proptest! {
        #[test]
        fn the_index_is_what_a_recount_gives(records in vec(records(), 0..60)) {
            let site = site(4);
            let mut persisted = Persisted::default();
            let mut index = Index::of(&persisted, Arc::clone(&site));
            for record in &records {
                // One instance has one node, and one fleet: nothing else is ever recorded.
                if let Record::Bound { bindings } = record {
                    let mut ids = BTreeSet::new();
                    let free = bindings.iter().all(|new| {
                        ids.insert(&new.instance_id)
                            && persisted.bindings.values().all(|old| {
                                old.instance_id != new.instance_id || old.node == new.node
                            })
                    });
                    if !free {
                        continue;
                    }
                }
                if let Record::FleetOf { node, fleet } = record
                    && persisted.fleets.iter().any(|(other, old)| other != node && old.fleet_id == fleet.fleet_id)
                {
                    continue;
                }
                persisted.apply_telling(record, &mut index);
                prop_assert_eq!(&index, &Index::of(&persisted, Arc::clone(&site)));
            }
        }
    }
}
