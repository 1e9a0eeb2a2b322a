// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Group`: one maintain fleet per partition and node group, its target as large as Slurm wants.
//!
//! Capacity goes down in three steps that must not change places: lower the target without termination, wait
//! until EC2 is done modifying, then end exactly the instances of the suspended nodes. The other way round EC2
//! ends a random instance and launches another.

mod adopt;
mod calls;
mod fingerprint;
mod members;
mod state;
mod target;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::cx::agenda::Watched;
use crate::engine::cx::attempt::Deadline;
use crate::engine::ground::Ground;
use crate::engine::groups::state::{GroupState, Seen};
use crate::record::Record;
use crate::site::FleetScope;

/// Fleets of whole groups.
#[derive(Debug, Default)]
pub(crate) struct GroupFleets {
    /// By the key of the fleet.
    pub(crate) states: BTreeMap<String, GroupState>,
}

impl GroupFleets {
    pub(crate) fn group_fleets_quiet(&self, g: &Ground) -> bool {
        g.lowering.is_empty() && self.states.values().all(GroupState::is_quiet)
    }

    pub(crate) fn mind_group_fleets(&mut self, g: &mut Ground) -> Deadline {
        let mut next = Deadline::NONE;
        for node in std::mem::take(&mut g.cx.changed.groups) {
            if let Some((stem, ..)) = g.cx.site.place_of(&node)
                && let Some(state) = self.states.get_mut(stem)
            {
                state.touch(&node);
            }
        }
        let stems: Vec<String> =
            g.cx.site
                .groups()
                .iter()
                .filter(|group| group.scope == FleetScope::Group)
                .map(|group| group.stem())
                .chain(g.cx.persisted.group_fleets.keys().cloned())
                .collect::<BTreeSet<String>>()
                .into_iter()
                .collect();
        for stem in stems {
            if !self.states.contains_key(&stem) && !g.cx.persisted.group_fleets.contains_key(&stem) {
                continue;
            }
            next = next
                .or(self.give_up_waiting(g, &stem))
                .or(self.mind_group_fleet(g, &stem))
                .or(self.poll_group_fleet(g, &stem));
        }
        next
    }

    /// The site has changed: templates that EC2 names by `$Latest` or `$Default` may be other ones now.
    pub(crate) fn group_fleets_of_new_site(&mut self, g: &mut Ground) {
        for (key, state) in &mut self.states {
            state.refused = None;
            match g.cx.site.group(key).filter(|group| group.scope == FleetScope::Group) {
                Some(group) => {
                    let version = group.launch_template.version.as_deref();
                    state.apply_again = version.is_none_or(|version| version.starts_with('$'));
                }
                None => {
                    state.awaiting.nodes = Watched::default();
                    state.clear = false;
                }
            }
        }
    }

    /// Fleets and open calls from the journal; instances of nodes that are down are found by the first look.
    pub(crate) fn recover_group_fleets(&mut self, g: &mut Ground) {
        // A crash between the two records of a fleet that was replaced leaves it under both keys.
        let fleets = &g.cx.persisted.group_fleets;
        let twice: Vec<String> = fleets
            .iter()
            .filter(|(key, fleet)| fleets.contains_key(&format!("{key}@{}", fleet.fleet_id)))
            .map(|(key, _)| key.clone())
            .collect();
        for stem in twice {
            g.cx.record(Record::GroupFleet { stem, fleet: None });
        }
        for key in g.cx.persisted.group_fleets.keys() {
            // What an earlier process began may still be under way.
            self.states.insert(key.clone(), GroupState { fleet: Seen::Modifying, ..GroupState::default() });
        }
    }
}
