// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2 last showed of the instances that nodes have. It is no matter of the journal: a new process knows nothing of it.

use crate::ec2_api::InstanceState;
use crate::engine::cx::ledger::Ledger;
use crate::name_map::{NameMap, find_near};
use crate::record::{Binding, Changes, Intent, NodeFleet};

/// One instance, as EC2 last showed it.
#[derive(Clone, Copy, Debug, Default)]
struct Sighting {
    state: Option<InstanceState>,
    /// The number of the last list that showed the instance alive.
    listed: u64,
}

/// By instance id: exactly the instances that the ledger knows to be bound, in the same order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings {
    instances: NameMap<Sighting>,
    /// Lists of instances that have been judged.
    lists: u64,
}

impl Sightings {
    /// Nothing has been seen of these instances.
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let instances = ledger.owners().map(|(id, _)| (id.clone(), Sighting::default())).collect();
        Self { instances, lists: 0 }
    }

    /// The site has changed, and nothing of what was seen counts; the lists go on.
    pub(crate) fn forget(&mut self, ledger: &Ledger) {
        *self = Self { lists: self.lists, ..Self::of(ledger) };
    }

    /// As EC2 last showed it; `None`: not yet.
    pub(crate) fn state(&self, instance_id: &str) -> Option<InstanceState> {
        self.instances.get(instance_id)?.state
    }

    /// A complete list is judged now.
    pub(crate) fn begin_list(&mut self) {
        self.lists += 1;
    }

    /// The list shows the instance alive, which stands near `guess`; `state` is none where a later look showed it.
    pub(crate) fn list(&mut self, instance_id: &str, guess: usize, state: Option<InstanceState>) {
        let Some(place) = find_near(&self.instances, instance_id, guess) else { return };
        let sighting = &mut self.instances[place];
        sighting.listed = self.lists;
        sighting.state = state.or(sighting.state);
    }

    /// The list that was judged last showed the instance, or the instance is not bound.
    pub(crate) fn is_listed(&self, instance_id: &str) -> bool {
        self.instances.get(instance_id).is_none_or(|sighting| sighting.listed == self.lists)
    }

    pub(crate) fn show(&mut self, instance_id: &str, state: InstanceState) {
        if let Some(sighting) = self.instances.get_mut(instance_id) {
            sighting.state = Some(state);
        }
    }

    /// Whether these are the instances that the ledger knows. For tests: it walks everything.
    pub(crate) fn agree(&self, ledger: &Ledger) -> bool {
        self.instances.keys().eq(ledger.owners().map(|(id, _)| id))
    }
}

/// Tells the ledger of a change of the journal's state, and the sightings of what that means for them.
pub(crate) struct Told<'a> {
    pub(crate) ledger: &'a mut Ledger,
    pub(crate) sightings: &'a mut Sightings,
}

impl Changes for Told<'_> {
    fn bound(&mut self, binding: &Binding) {
        self.ledger.bound(binding);
        self.sightings.instances.insert(binding.instance_id.clone(), Sighting::default());
    }

    fn unbound(&mut self, binding: &Binding) {
        self.ledger.unbound(binding);
        if !self.ledger.is_bound(&binding.instance_id) {
            self.sightings.instances.swap_remove(&binding.instance_id);
        }
    }

    fn opened(&mut self, intent: &Intent) {
        self.ledger.opened(intent);
    }

    fn closed(&mut self, intent: &Intent) {
        self.ledger.closed(intent);
    }

    fn fleet_added(&mut self, node: &str, fleet: &NodeFleet) {
        self.ledger.fleet_added(node, fleet);
    }

    fn fleet_removed(&mut self, node: &str, fleet: &NodeFleet) {
        self.ledger.fleet_removed(node, fleet);
    }
}
