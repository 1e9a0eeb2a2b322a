// SPDX-License-Identifier: GPL-3.0-or-later
//! The target of a group's fleet, and what is done to reach it.

use std::collections::BTreeMap;

use crate::ec2_api::{CloudRequest, FleetTemplate, InstanceState};
use crate::engine::cx::agenda::Watched;
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::cx::ledger::stem_of_key;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::engine::groups::fingerprint::{form_of, group_fleet_request, template_of};
use crate::engine::groups::state::{Awaiting, GroupState, Seen};
use crate::fact::FactKind;
use crate::record::{GroupFleet, Record, Target};
use crate::site::{Account, FleetScope, Lifecycle, NodeGroup};

impl GroupFleets {
    /// (spot, on-demand) capacity that Slurm wants of this fleet now.
    fn group_target(&self, g: &Ground, key: &str) -> (u32, u32) {
        let (mut spot, mut on_demand) = (0, 0);
        let fleet = g.cx.persisted.group_fleets.get(key);
        let members = fleet.and_then(|fleet| g.cx.ledger.members(&fleet.fleet_id));
        for (instance_id, lifecycle) in members.into_iter().flat_map(BTreeMap::values) {
            let counted = fleet.is_none_or(|fleet| !fleet.uncounted.contains(instance_id))
                || g.cx.sightings.state(instance_id) == Some(InstanceState::Running);
            match lifecycle {
                Lifecycle::Spot => spot += u32::from(counted),
                Lifecycle::OnDemand => on_demand += u32::from(counted),
            }
        }
        if let Some(state) = self.states.get(key) {
            let lifecycle = g.cx.site.group(key).map_or(Lifecycle::OnDemand, |group| group.lifecycle);
            let waiting = state.awaiting.count();
            match lifecycle {
                Lifecycle::OnDemand => on_demand += waiting,
                Lifecycle::Spot => {
                    // A node may have been bound or given up since the wish was counted.
                    let wanted = state.awaiting.on_demand.min(waiting);
                    on_demand += wanted;
                    spot += waiting - wanted;
                }
            }
        }
        (spot, on_demand)
    }

    pub(crate) fn mind_group_fleet(&mut self, g: &mut Ground, stem: &str) -> Deadline {
        let now = g.cx.now.mono_ms;
        let (spot, on_demand) = self.group_target(g, stem);
        let fleet = g.cx.persisted.group_fleets.get(stem).cloned();
        let group = g.cx.site.group(stem).cloned();
        // Before EC2 and Slurm are known, what is bound is not known either, and a target would be a guess.
        let account =
            fleet.as_ref().map(|fleet| &fleet.account).or(group.as_ref().map(|group| &group.account));
        let known = g.sight.is_slurm_known() && account.is_some_and(|account| g.sight.view_ready(account));
        let state = self.states.entry(stem.to_owned()).or_default();
        let in_flight = state.call.attempt.in_flight();
        let ending = fleet.as_ref().is_some_and(|fleet| g.deletions.is_fleet_ending(&g.cx, &fleet.fleet_id));
        if in_flight || ending || g.cx.persisted.paused || !known {
            return Deadline::NONE;
        }
        let Some(state) = self.states.get(stem) else { return Deadline::NONE };
        let not_before = state.call.attempt.next().max(state.before_raise);
        if let Some(at) = not_before.filter(|at| *at > now) {
            return Deadline::at(at);
        }
        if let Some(intent) = state.call.intent {
            // The same call again, with its token.
            if let Some(open) = g.cx.persisted.open.get(&intent).cloned() {
                self.send_group_call(g, stem, intent, open.account, open.request);
            }
            return Deadline::NONE;
        }
        match (fleet, group) {
            // The account's fleets must have been listed once: a fleet is never made twice.
            (None, Some(group)) if spot + on_demand > 0 && g.sight.are_fleets_listed(&group.account) => {
                let token = g.cx.new_token();
                let request =
                    CloudRequest::CreateFleet(Box::new(group_fleet_request(&g.cx.site, &group, &token)));
                self.begin_group_call(g, stem, &group.account, request);
            }
            (Some(fleet), group) => match group.filter(|group| group.scope == FleetScope::Group) {
                Some(group) => return self.follow_site(g, stem, fleet, &group, (spot, on_demand)),
                None => self.wind_down(g, stem, fleet, (spot, on_demand)),
            },
            _ => {}
        }
        Deadline::NONE
    }

    /// The fleet has what the site wants and the capacity that Slurm wants, or is brought there.
    fn follow_site(
        &mut self,
        g: &mut Ground,
        stem: &str,
        fleet: GroupFleet,
        group: &NodeGroup,
        target: (u32, u32),
    ) -> Deadline {
        let wanted = form_of(&group_fleet_request(&g.cx.site, group, ""));
        if !fleet.options.is_empty() && fleet.options != wanted.options || fleet.account != group.account {
            self.retire(g, stem, fleet, "ModifyFleet cannot give it the new options");
            return Deadline::at(g.cx.now.mono_ms);
        }
        let Some(state) = self.states.get(stem) else { return Deadline::NONE };
        let other = fleet.template != wanted.template || state.apply_again;
        let template = other && state.refused.as_ref() != Some(&wanted.template);
        self.reach(g, stem, &fleet, target, template.then(|| template_of(&g.cx.site, group)));
        Deadline::NONE
    }

    /// A fleet that takes no new nodes goes when its last node is down.
    fn wind_down(&mut self, g: &mut Ground, key: &str, fleet: GroupFleet, target: (u32, u32)) {
        let Some(state) = self.states.get(key) else { return };
        if target != (0, 0) || g.lowering.owes(key) {
            self.reach(g, key, &fleet, target, None);
        } else if state.clear {
            self.states.remove(key);
            let text = format!("the last node of fleet {} is down", fleet.fleet_id);
            g.cx.fact(g.cx.new_fact(FactKind::FleetDeleted, text).group(stem_of_key(key)));
            g.deletions.end_fleet(&g.cx, &fleet.account, fleet.fleet_id);
        }
    }

    fn reach(
        &mut self,
        g: &mut Ground,
        key: &str,
        fleet: &GroupFleet,
        (spot, on_demand): (u32, u32),
        template: Option<FleetTemplate>,
    ) {
        if template.is_none() && fleet.target == Some(Target { spot, on_demand }) {
            self.end_lowered(g, key, &fleet.account);
            return;
        }
        if self.states.get(key).is_some_and(|state| state.fleet == Seen::Modifying) {
            // Refused by EC2 until the fleet is active again, which the next look tells.
            return;
        }
        let request = CloudRequest::ModifyFleet {
            fleet_id: fleet.fleet_id.clone(),
            target: spot + on_demand,
            spot_target: spot,
            on_demand_target: on_demand,
            terminate_excess: false,
            template: template.map(Box::new),
        };
        self.begin_group_call(g, key, &fleet.account, request);
    }

    /// Its nodes keep the fleet to their end, and the next nodes get another one.
    pub(crate) fn retire(&mut self, g: &mut Ground, stem: &str, fleet: GroupFleet, why: &str) {
        let text = format!(
            "fleet {} takes no more nodes of {stem} and goes with its last one: {why}",
            fleet.fleet_id
        );
        g.cx.fact(g.cx.new_fact(FactKind::FleetReplaced, text).group(stem));
        let key = format!("{stem}@{}", fleet.fleet_id);
        g.cx.record(Record::GroupFleet { stem: key.clone(), fleet: Some(fleet) });
        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet: None });
        let now = g.cx.now.mono_ms;
        g.lowering.rename(stem, &key);
        let mut nodes = Watched::default();
        if let Some(mut old) = self.states.remove(stem) {
            nodes = std::mem::take(&mut old.awaiting.nodes);
            old.awaiting.on_demand = 0;
            old.clear = false;
            // Its answer will be taken for one about the next fleet.
            old.poll.answered();
            self.states.insert(key, old);
        }
        let awaiting = Awaiting { nodes, last_arrival: now, ..Awaiting::default() };
        self.states.insert(stem.to_owned(), GroupState { awaiting, ..GroupState::default() });
    }

    /// The target is what Slurm wants and EC2 has finished: the suspended nodes' instances can go.
    fn end_lowered(&mut self, g: &mut Ground, stem: &str, account: &Account) {
        let Some(state) = self.states.get(stem) else { return };
        if state.fleet != Seen::Settled || !g.lowering.owes(stem) {
            return;
        }
        let lowering = g.lowering.take(stem);
        let requests: Vec<String> = lowering
            .iter()
            .filter_map(|(id, request)| {
                request.as_ref().or_else(|| g.lowering.spot_requests.get(id)).cloned()
            })
            .collect();
        for id in lowering.into_keys() {
            g.end_instance(account, id);
        }
        if !requests.is_empty() {
            let request = CloudRequest::CancelSpotInstanceRequests { ids: requests };
            let id = g.cx.record_intent(account, request.clone(), None);
            g.cx.cloud(CloudPurpose::CancelSpot { account: account.clone(), intent: id }, request);
        }
    }
}
