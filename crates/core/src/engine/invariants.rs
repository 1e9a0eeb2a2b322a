// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds after every step, whatever happened. Nothing here decides anything: the tests ask.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ec2_api::CloudRequest;
use crate::engine::Engine;
use crate::engine::cx::ledger::Ledger;
use crate::engine::ground::launches::Phase;

/// What a broken invariant says of the node, instance, fleet or intent that breaks it.
type Check = fn(&Engine) -> Result<(), String>;

/// Only a record changes these, and they walk everything that is bound.
const OF_THE_JOURNAL: [Check; 5] = [
    Engine::indexes_agree,
    Engine::an_instance_has_one_node,
    Engine::what_leaves_is_bound_to_nobody,
    Engine::every_intent_has_a_number_that_is_given,
    Engine::every_moving_instance_is_moved_once,
];

/// These walk what is under way.
const OF_THE_WORK: [Check; 11] = [
    Engine::an_open_intent_is_followed_up,
    Engine::a_launch_has_its_intent,
    Engine::a_node_waits_in_one_place,
    Engine::a_node_and_its_launch_name_each_other,
    Engine::what_ends_is_bound_to_nobody,
    Engine::what_is_lowered_is_bound_to_nobody,
    Engine::an_empty_fleet_is_its_nodes_fleet,
    Engine::a_groups_call_has_its_intent,
    Engine::a_woken_node_does_not_sleep,
    Engine::every_move_has_a_pace,
    Engine::the_deadline_is_the_first_of_all,
];

fn holds(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}

impl Engine {
    /// Whether what must hold between two steps holds. For tests: it walks all that is under way, and with `recount` also
    /// all that is bound, which only a step that wrote a record can have changed.
    ///
    /// # Errors
    ///
    /// What is broken, as a sentence.
    pub fn invariants(&self, recount: bool) -> Result<(), String> {
        let journal = OF_THE_JOURNAL.iter().filter(|_| recount);
        journal.chain(&OF_THE_WORK).try_for_each(|check| check(self))
    }

    fn indexes_agree(&self) -> Result<(), String> {
        let cx = &self.g.cx;
        let counted = Ledger::of(&cx.persisted, Arc::clone(&cx.site));
        holds(cx.ledger == counted, || "an index of the engine differs from a recount".to_owned())?;
        holds(cx.sightings.agree(&cx.ledger), || "not exactly the bound instances have a sighting".to_owned())
    }

    fn an_instance_has_one_node(&self) -> Result<(), String> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for (node, binding) in &self.g.cx.persisted.bindings {
            holds(*node == binding.node, || format!("the binding of {node} is one of {}", binding.node))?;
            let other = owners.insert(&binding.instance_id, node);
            holds(other.is_none(), || {
                format!("{} is bound to {node} and to {}", binding.instance_id, other.unwrap_or_default())
            })?;
        }
        Ok(())
    }

    fn what_leaves_is_bound_to_nobody(&self) -> Result<(), String> {
        let cx = &self.g.cx;
        cx.persisted.leaving.keys().try_for_each(|id| {
            holds(!cx.ledger.is_bound(id), || {
                format!("{id} is to be ended by the journal, and {:?} has it", cx.ledger.owner(id))
            })
        })
    }

    fn every_intent_has_a_number_that_is_given(&self) -> Result<(), String> {
        let persisted = &self.g.cx.persisted;
        let last = persisted.open.last_key_value().map(|(id, _)| *id);
        holds(last.is_none_or(|id| id < persisted.next_id), || {
            format!("intent {last:?} is open, and {} is to be the next", persisted.next_id)
        })
    }

    fn every_moving_instance_is_moved_once(&self) -> Result<(), String> {
        let mut movers: BTreeMap<&str, &str> = BTreeMap::new();
        for (node, moving) in &self.g.cx.persisted.relocations {
            for id in moving.to.iter().chain([&moving.from]) {
                let other = movers.insert(id, node);
                holds(other.is_none(), || {
                    format!("{id} is moved for {node} and for {}", other.unwrap_or_default())
                })?;
            }
        }
        Ok(())
    }

    /// It has a call that is under way or waits for its token, or somebody sends it again.
    fn an_open_intent_is_followed_up(&self) -> Result<(), String> {
        let g = &self.g;
        if g.cx.persisted.open.is_empty() {
            return Ok(());
        }
        let mut followed: BTreeSet<u64> = g.cx.calls.intents().collect();
        followed.extend(g.launches.open.keys());
        followed.extend(self.groups.states.values().filter_map(|state| state.call.intent));
        followed.extend(g.terminations.repeats());
        followed.extend(g.deletions.repeats());
        g.cx.persisted.open.iter().try_for_each(|(id, intent)| {
            holds(followed.contains(id), || {
                format!("{} of intent {id} is open, and nobody follows it up", intent.request.action())
            })
        })
    }

    /// As long as EC2 has not answered it; then the fleet is there, and its instances are looked for.
    fn a_launch_has_its_intent(&self) -> Result<(), String> {
        self.g.launches.open.iter().try_for_each(|(id, launch)| {
            let open = self.g.cx.persisted.open.get(id).map(|intent| &intent.request);
            let right = match launch.phase {
                Phase::Recovering | Phase::Creating { .. } => {
                    matches!(open, Some(CloudRequest::CreateFleet(_)))
                }
                Phase::Describing { .. } => open.is_none(),
            };
            holds(right, || {
                let intent = open.map(CloudRequest::action);
                format!(
                    "the launch of {:?} is {:?}, and its intent {id} is {intent:?}",
                    launch.nodes, launch.phase
                )
            })
        })
    }

    /// In the queue of its group, in a launch, for an instance of its group's fleet, or of its own: in one of them.
    fn a_node_waits_in_one_place(&self) -> Result<(), String> {
        let g = &self.g;
        let queued = g.waiting.queued().map(|node| (node, "a queue"));
        let launching = g.launches.open.values().flat_map(|launch| &launch.nodes);
        let launching = launching.map(|node| (node, "a launch"));
        let awaiting = self.groups.states.values().flat_map(|state| state.awaiting.nodes.keys());
        let awaiting = awaiting.map(|node| (node, "its group's fleet"));
        // A process that ended between the two records of a fleet's birth leaves both, the launch to be sent again.
        let born = |node: &&String| {
            let launch = g.cx.nodes.get(*node).and_then(|known| g.launches.open.get(&known.launch?));
            let fleet = g.cx.persisted.fleets.get(*node);
            launch.zip(fleet).is_some_and(|(launch, fleet)| launch.token == fleet.launch)
        };
        let fulfilling = g.launches.fulfilling.keys().filter(|node| !born(node));
        let fulfilling = fulfilling.map(|node| (node, "its fleet"));
        let mut places: BTreeMap<&str, &str> = BTreeMap::new();
        queued.chain(launching).chain(awaiting).chain(fulfilling).try_for_each(|(node, place)| {
            let other = places.insert(node, place);
            holds(other.is_none(), || format!("{node} waits in {place} and in {}", other.unwrap_or_default()))
        })
    }

    /// A node that a list gave its instance before the launch was answered has left the launch, which still lists it.
    fn a_node_and_its_launch_name_each_other(&self) -> Result<(), String> {
        let g = &self.g;
        for (id, launch) in g.launches.open.iter() {
            for name in &launch.nodes {
                let of_node = g.cx.nodes.get(name).and_then(|node| node.launch);
                let has_left = of_node.is_none() && g.cx.persisted.bindings.contains_key(name);
                holds(of_node == Some(*id) || has_left, || {
                    format!("launch {id} is for {name}, which is in {of_node:?}")
                })?;
            }
        }
        Ok(())
    }

    fn what_ends_is_bound_to_nobody(&self) -> Result<(), String> {
        let cx = &self.g.cx;
        self.g.terminations.instances().chain(cx.ledger.ending()).try_for_each(|id| {
            holds(!cx.ledger.is_bound(id), || {
                format!("{id} is being ended, and {:?} has it", cx.ledger.owner(id))
            })
        })
    }

    fn what_is_lowered_is_bound_to_nobody(&self) -> Result<(), String> {
        let cx = &self.g.cx;
        self.g.lowering.instances().try_for_each(|id| {
            holds(!cx.ledger.is_bound(id), || {
                format!("{id} goes once its fleet is smaller, and {:?} has it", cx.ledger.owner(id))
            })
        })
    }

    fn an_empty_fleet_is_its_nodes_fleet(&self) -> Result<(), String> {
        let fleets = &self.g.cx.persisted.fleets;
        self.g.launches.fulfilling.iter().try_for_each(|(node, fulfil)| {
            let held = fleets.get(node).map(|fleet| &fleet.fleet_id);
            holds(held == Some(&fulfil.fleet_id), || {
                format!("{node} waits for fleet {}, and by the journal has {held:?}", fulfil.fleet_id)
            })
        })
    }

    fn a_groups_call_has_its_intent(&self) -> Result<(), String> {
        self.groups.states.iter().try_for_each(|(key, state)| {
            let id = state.call.intent;
            let open = id.is_none_or(|id| self.g.cx.persisted.open.contains_key(&id));
            holds(open, || format!("the fleet of {key} waits for intent {id:?}, which is not open"))
        })
    }

    fn a_woken_node_does_not_sleep(&self) -> Result<(), String> {
        let sleepers = &self.g.sleepers;
        sleepers.sleeping.keys().try_for_each(|node| {
            let woken = sleepers.woken.contains(node) || sleepers.overdue.contains_key(node);
            holds(!woken, || format!("the instance of {node} sleeps, and its slurmd is waited for"))
        })
    }

    fn every_move_has_a_pace(&self) -> Result<(), String> {
        let moving = &self.g.cx.persisted.relocations;
        let paced = &self.g.sleepers.paces;
        holds(moving.keys().eq(paced.keys()), || {
            format!("{:?} move, and {:?} have a pace", moving.keys(), paced.keys())
        })
    }

    /// Nobody has something to do at a moment at which no tick comes.
    fn the_deadline_is_the_first_of_all(&self) -> Result<(), String> {
        let g = &self.g;
        let deadline = self.next_deadline().unwrap_or(u64::MAX);
        let paused = g.cx.persisted.paused;
        let looks = [
            ("a launch", g.launches.open.next_look()),
            ("an empty fleet", g.launches.fulfilling.next_look()),
            ("a sleeping node", g.sleepers.sleeping.next_look()),
            ("a woken node", g.sleepers.woken.next()),
            ("a termination", g.terminations.next(&g.cx).filter(|_| !paused)),
            ("the deletion of a fleet", g.deletions.next(&g.cx)),
        ];
        looks.into_iter().try_for_each(|(what, at)| {
            holds(at.is_none_or(|at| deadline <= at), || {
                format!("{what} is to be looked at {at:?}, and the next tick comes at {deadline}")
            })
        })
    }
}
