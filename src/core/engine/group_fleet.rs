// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Group`: one maintain fleet per partition and node group, its target as large as Slurm wants.
//!
//! Capacity goes down in three steps that must not change places: lower the target without termination, wait
//! until EC2 is done modifying, then end exactly the instances of the suspended nodes. The other way round EC2
//! ends a random instance and launches another.

use std::collections::{BTreeMap, BTreeSet};

use super::fleet::FLEET_ID;
use super::group_form::{digest, form_of, group_fleet_request, template_of};
use super::outbox::{Purpose, WaitingFor};
use super::watched::Watched;
use super::{Cx, Ground};
use crate::core::ec2_api::{
    CloudReply, CloudRequest, CloudResult, ErrorClass, Fleet, FleetTemplate, Instance, InstanceState,
};
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{Binding, GroupFleet, Intent, Outcome, Record};
use crate::core::site::{Account, FleetScope, Lifecycle, NodeGroup};
use crate::core::tag;

/// How long the list of what a fleet has already may delay a power-up.
const LOOK_FIRST_MS: u64 = 10_000;

/// How long after a change of ours a list may still show the target of before.
const TARGET_LAG_MS: u64 = 30_000;

/// How long a call that EC2 refused for good is left alone.
const REFUSED_MS: u64 = 30_000;

/// What is under way for one group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    /// Nodes that wait for an instance of the fleet, and since when.
    pub(super) awaiting: Watched<String, u64>,
    /// Of these, how many are to come on-demand because Spot did not deliver.
    pub(super) on_demand_wanted: u32,
    /// An intent (create or modify) is open and not to be repeated before this `mono_ms`.
    pub(super) open_intent: Option<u64>,
    pub(super) in_flight: bool,
    pub(super) attempts: u32,
    pub(super) next_at: u64,
    /// EC2 has finished what ModifyFleet began.
    pub(super) settled: bool,
    /// EC2 takes no ModifyFleet while it carries one out.
    pub(super) modifying: bool,
    /// `mono_ms` of the last accepted change: an older list says nothing about it.
    pub(super) changed_at: u64,
    /// EC2's lists do not show the fleet, since this `mono_ms`.
    pub(super) unseen_since: Option<u64>,
    /// To be looked at once, for instances that are nobody's.
    pub(super) look: bool,
    /// This process has read the fleet's own list.
    pub(super) looked: bool,
    /// Nodes have begun to wait for a fleet at rest: until this `mono_ms` its own list comes first. What is in it already was
    /// not launched for them.
    pub(super) before_raise: Option<u64>,
    /// The last look found no instance behind which Slurm runs a job that we know nothing of.
    pub(super) clear: bool,
    /// What the site now wants instances made from, although the fleet's digest says it has it (`$Latest`).
    pub(super) apply_again: bool,
    /// Digest of a template that EC2 refused: not tried again before the configuration changes.
    pub(super) refused: Option<String>,
    pub(super) poll_in_flight: bool,
    pub(super) poll_at: u64,
    /// Instances that belong to nobody, as the last look saw them.
    pub(super) spare: BTreeSet<String>,
    pub(super) last_arrival: u64,
    /// EC2's history has said why no Spot instance comes to those that wait.
    pub(super) short: bool,
}

impl GroupState {
    pub(super) fn awaits(&self, node: &str) -> bool {
        self.awaiting.contains_key(node)
    }

    pub(super) fn touch(&mut self, node: &str) {
        self.awaiting.touch(node);
    }

    pub(super) fn touch_all(&mut self) {
        self.awaiting.touch_all();
    }

    fn is_quiet(&self) -> bool {
        self.awaiting.is_empty() && self.spare.is_empty() && self.open_intent.is_none()
    }
}

/// Instances that go once the target of their fleet is lowered.
#[derive(Debug, Default)]
pub(super) struct Lowering {
    /// By the key of the fleet: instances of suspended nodes, with their Spot requests.
    owed: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Spot requests of instances, by instance.
    pub(super) spot_requests: BTreeMap<String, String>,
}

impl Lowering {
    pub(super) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Instances of this fleet wait for its target.
    pub(super) fn owes(&self, key: &str) -> bool {
        self.owed.contains_key(key)
    }

    fn take(&mut self, key: &str) -> BTreeMap<String, Option<String>> {
        self.owed.remove(key).unwrap_or_default()
    }

    fn rename(&mut self, key: &str, new: &str) {
        if let Some(owed) = self.owed.remove(key) {
            self.owed.insert(new.to_owned(), owed);
        }
    }
}

/// Fleets of whole groups.
#[derive(Debug, Default)]
pub(super) struct GroupFleets {
    /// By the key of the fleet.
    pub(super) states: BTreeMap<String, GroupState>,
}

/// The group of a fleet's key; a fleet that takes no new nodes has a key of its own.
pub(super) fn stem_of_key(key: &str) -> &str {
    key.split_once('@').map_or(key, |(stem, _)| stem)
}

impl GroupFleets {
    pub(super) fn group_fleets_quiet(&self, g: &Ground) -> bool {
        g.lowering.is_empty() && self.states.values().all(GroupState::is_quiet)
    }

    /// These nodes wait for instances of their group's fleet.
    pub(super) fn await_group_fleet(&mut self, g: &mut Ground, group: &NodeGroup, nodes: &[String]) {
        let now = g.cx.now.mono_ms;
        let stem = group.stem();
        let has_fleet = g.cx.persisted.group_fleets.contains_key(&stem);
        let state = self.states.entry(stem).or_default();
        if state.awaiting.is_empty() {
            state.last_arrival = now;
            state.short = false;
            // After a restart what comes may have been launched for them.
            if has_fleet && state.looked {
                state.before_raise = Some(now + LOOK_FIRST_MS);
                state.look = true;
                state.poll_at = now;
            }
        }
        for node in nodes {
            if !state.awaiting.contains_key(node) {
                state.awaiting.insert(node.clone(), now);
            }
        }
    }

    pub(super) fn awaits_group_fleet(&self, stem: &str, node: &str) -> bool {
        self.states.get(stem).is_some_and(|state| state.awaits(node))
    }

    pub(super) fn mind_group_fleets(&mut self, g: &mut Ground) {
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
            self.give_up_waiting(g, &stem);
            self.mind_group_fleet(g, &stem);
            self.poll_group_fleet(g, &stem);
        }
    }

    /// Nodes that are not wanted any more, that waited too long, or for which Spot delivered nothing.
    fn give_up_waiting(&mut self, g: &mut Ground, stem: &str) {
        let now = g.cx.now.mono_ms;
        let Some(state) = self.states.get_mut(stem) else { return };
        if state.awaiting.is_empty() {
            return;
        }
        let last_arrival = state.last_arrival;
        let mut late = Vec::new();
        let looks: Vec<(String, Option<u64>)> = state
            .awaiting
            .take_due(now)
            .into_iter()
            .map(|node| {
                let deadline =
                    g.cx.wants_instance(&node).then(|| g.cx.launch_deadline(std::slice::from_ref(&node)));
                (node, deadline)
            })
            .collect();
        let Some(state) = self.states.get_mut(stem) else { return };
        for (node, deadline) in looks {
            if deadline.is_some_and(|at| at > now) {
                state.awaiting.look_again(&node, deadline);
                continue;
            }
            state.awaiting.remove(&node);
            if deadline.is_some() {
                late.push(node);
            }
        }
        let look = state.awaiting.next_look();
        let waiting = u32::try_from(state.awaiting.len()).unwrap_or(u32::MAX);
        state.on_demand_wanted = state.on_demand_wanted.min(waiting);
        let silent = now.saturating_sub(last_arrival);
        let fallback =
            g.cx.site
                .group(stem)
                .filter(|group| group.lifecycle == Lifecycle::Spot)
                .and_then(|g| g.spot_fallback_s);
        if let Some(seconds) = fallback
            && waiting > 0
            && state.on_demand_wanted < waiting
        {
            let patience = u64::from(seconds) * 1000;
            if silent >= patience {
                state.on_demand_wanted = waiting;
                let text = format!(
                    "{waiting} nodes of {stem} go on-demand: no Spot instance in {} s",
                    silent / 1000
                );
                let fact = g.cx.new_fact(FactKind::SpotFallback, text).group(stem);
                g.cx.fact(fact);
            } else {
                g.cx.wake(last_arrival + patience);
            }
        }
        if let Some(at) = look {
            g.cx.wake(at);
        }
        g.fail_nodes(&late, "UnfulfillableCapacity", "EC2 gave no instance before ResumeTimeout");
    }

    /// (spot, on-demand) capacity that Slurm wants of this fleet now.
    fn group_target(&self, g: &Ground, key: &str) -> (u32, u32) {
        let (mut spot, mut on_demand) = (0, 0);
        let fleet = g.cx.persisted.group_fleets.get(key);
        let members = fleet.and_then(|fleet| g.cx.ledger.members(&fleet.fleet_id));
        for (instance_id, lifecycle) in members.into_iter().flat_map(BTreeMap::values) {
            let counted = fleet.is_none_or(|fleet| !fleet.uncounted.contains(instance_id))
                || g.cx
                    .ledger
                    .owners
                    .get(instance_id)
                    .is_some_and(|o| o.state == Some(InstanceState::Running));
            match lifecycle {
                Lifecycle::Spot => spot += u32::from(counted),
                Lifecycle::OnDemand => on_demand += u32::from(counted),
            }
        }
        if let Some(state) = self.states.get(key) {
            let lifecycle = g.cx.site.group(key).map_or(Lifecycle::OnDemand, |group| group.lifecycle);
            let waiting = u32::try_from(state.awaiting.len()).unwrap_or(u32::MAX);
            match lifecycle {
                Lifecycle::OnDemand => on_demand += waiting,
                Lifecycle::Spot => {
                    // A node may have been bound or given up since the wish was counted.
                    let wanted = state.on_demand_wanted.min(waiting);
                    on_demand += wanted;
                    spot += waiting - wanted;
                }
            }
        }
        (spot, on_demand)
    }

    /// Since when, where and by which fleet groups wait for Spot instances.
    pub(super) fn groups_waiting_for_spot(&self, g: &Ground) -> Vec<(u64, Account, String, WaitingFor)> {
        let mut waiting = Vec::new();
        for (key, state) in &self.states {
            let spot = g.cx.site.group(key).is_some_and(|group| group.lifecycle == Lifecycle::Spot);
            if spot
                && !state.short
                && state.on_demand_wanted < u32::try_from(state.awaiting.len()).unwrap_or(u32::MAX)
                && let Some(fleet) = g.cx.persisted.group_fleets.get(key)
            {
                let who = WaitingFor::Group(key.clone());
                waiting.push((state.last_arrival, fleet.account.clone(), fleet.fleet_id.clone(), who));
            }
        }
        waiting
    }

    /// EC2's history says that Spot gives this group nothing now.
    pub(super) fn spot_is_short(&mut self, g: &mut Ground, key: &str, code: &str, description: &str) {
        let fallback = g.cx.site.group(key).is_some_and(|group| group.spot_fallback_s.is_some());
        let Some(state) = self.states.get_mut(key) else { return };
        let waiting = u32::try_from(state.awaiting.len()).unwrap_or(u32::MAX);
        if waiting == 0 {
            return;
        }
        state.short = true;
        let (kind, text) = if fallback {
            state.on_demand_wanted = waiting;
            (FactKind::SpotFallback, format!("{waiting} nodes of {key} go on-demand: {description}"))
        } else {
            (FactKind::CreateFleetFailed, format!("{waiting} nodes of {key} wait for Spot: {description}"))
        };
        g.cx.fact(g.cx.new_fact(kind, text).group(key).code(code));
    }

    fn mind_group_fleet(&mut self, g: &mut Ground, stem: &str) {
        let now = g.cx.now.mono_ms;
        let (spot, on_demand) = self.group_target(g, stem);
        let fleet = g.cx.persisted.group_fleets.get(stem).cloned();
        let group = g.cx.site.group(stem).cloned();
        // Before EC2 and Slurm are known, what is bound is not known either, and a target would be a guess.
        let account =
            fleet.as_ref().map(|fleet| &fleet.account).or(group.as_ref().map(|group| &group.account));
        let known = g.sight.slurm.is_known() && account.is_some_and(|account| g.sight.view_ready(account));
        let state = self.states.entry(stem.to_owned()).or_default();
        let in_flight = state.in_flight;
        let ending = fleet.as_ref().is_some_and(|fleet| g.deletions.is_fleet_ending(&g.cx, &fleet.fleet_id));
        if in_flight || ending || g.cx.persisted.paused || !known {
            return;
        }
        let Some(state) = self.states.get(stem) else { return };
        let not_before = state.next_at.max(state.before_raise.unwrap_or(0));
        if not_before > now {
            g.cx.wake(not_before);
            return;
        }
        if let Some(intent) = state.open_intent {
            // The same call again, with its token.
            if let Some(open) = g.cx.persisted.open.get(&intent).cloned() {
                self.send_group_call(g, stem, intent, open.account, open.request);
            }
            return;
        }
        match (fleet, group) {
            // The account's fleets must have been listed once: a fleet is never made twice.
            (None, Some(group)) if spot + on_demand > 0 && g.sight.fleets_listed.contains(&group.account) => {
                let token = g.cx.new_token();
                let request =
                    CloudRequest::CreateFleet(Box::new(group_fleet_request(&g.cx.site, &group, &token)));
                self.begin_group_call(g, stem, &group.account, request);
            }
            (Some(fleet), group) => match group.filter(|group| group.scope == FleetScope::Group) {
                Some(group) => self.follow_site(g, stem, fleet, &group, (spot, on_demand)),
                None => self.wind_down(g, stem, fleet, (spot, on_demand)),
            },
            _ => {}
        }
    }

    /// The fleet has what the site wants and the capacity that Slurm wants, or is brought there.
    fn follow_site(
        &mut self,
        g: &mut Ground,
        stem: &str,
        fleet: GroupFleet,
        group: &NodeGroup,
        target: (u32, u32),
    ) {
        let wanted = form_of(&group_fleet_request(&g.cx.site, group, ""));
        if !fleet.options.is_empty() && fleet.options != wanted.options || fleet.account != group.account {
            self.retire(g, stem, fleet, "ModifyFleet cannot give it the new options");
            return;
        }
        let Some(state) = self.states.get(stem) else { return };
        let other = fleet.template != wanted.template || state.apply_again;
        let template = other && state.refused.as_ref() != Some(&wanted.template);
        self.reach(g, stem, &fleet, target, template.then(|| template_of(&g.cx.site, group)));
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
        if template.is_none() && (fleet.spot_target, fleet.on_demand_target) == (spot, on_demand) {
            self.end_lowered(g, key, &fleet.account);
            return;
        }
        if self.states.get(key).is_some_and(|state| state.modifying) {
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
    pub(super) fn retire(&mut self, g: &mut Ground, stem: &str, fleet: GroupFleet, why: &str) {
        let text = format!(
            "fleet {} takes no more nodes of {stem} and goes with its last one: {why}",
            fleet.fleet_id
        );
        g.cx.fact(g.cx.new_fact(FactKind::FleetReplaced, text).group(stem));
        let key = format!("{stem}@{}", fleet.fleet_id);
        g.cx.record(Record::GroupFleet { stem: key.clone(), fleet: Some(fleet) });
        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet: None });
        let now = g.cx.now.mono_ms;
        let awaiting = self.states.get_mut(stem).map(|s| std::mem::take(&mut s.awaiting)).unwrap_or_default();
        g.lowering.rename(stem, &key);
        if let Some(old) = self.states.remove(stem) {
            self.states
                .insert(key, GroupState { clear: false, on_demand_wanted: 0, poll_in_flight: false, ..old });
        }
        self.states
            .insert(stem.to_owned(), GroupState { awaiting, last_arrival: now, ..GroupState::default() });
        g.cx.wake(now);
    }

    /// The site has changed: templates that EC2 names by `$Latest` or `$Default` may be other ones now.
    pub(super) fn group_fleets_of_new_site(&mut self, g: &mut Ground) {
        for (key, state) in &mut self.states {
            state.refused = None;
            match g.cx.site.group(key).filter(|group| group.scope == FleetScope::Group) {
                Some(group) => {
                    let version = group.launch_template.version.as_deref();
                    state.apply_again = version.is_none_or(|version| version.starts_with('$'));
                }
                None => {
                    state.awaiting = Watched::default();
                    state.clear = false;
                }
            }
        }
    }

    /// The target is what Slurm wants and EC2 has finished: the suspended nodes' instances can go.
    fn end_lowered(&mut self, g: &mut Ground, stem: &str, account: &Account) {
        let Some(state) = self.states.get(stem) else { return };
        if !state.settled || !g.lowering.owes(stem) {
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
            g.cx.cloud(Purpose::CancelSpot { account: account.clone(), intent: id }, request);
        }
    }

    fn begin_group_call(&mut self, g: &mut Ground, stem: &str, account: &Account, request: CloudRequest) {
        let id = g.cx.record_intent(account, request.clone(), None);
        if let Some(state) = self.states.get_mut(stem) {
            state.open_intent = Some(id);
        }
        self.send_group_call(g, stem, id, account.clone(), request);
    }

    fn send_group_call(
        &mut self,
        g: &mut Ground,
        stem: &str,
        intent: u64,
        account: Account,
        request: CloudRequest,
    ) {
        if let Some(state) = self.states.get_mut(stem) {
            state.in_flight = true;
        }
        g.cx.cloud(Purpose::GroupFleet { account, intent, stem: stem.to_owned() }, request);
    }

    pub(super) fn take_group_call(&mut self, g: &mut Ground, id: u64, stem: &str, result: CloudResult) {
        let Some(intent) = g.cx.persisted.open.get(&id).cloned() else { return };
        let now = g.cx.now.mono_ms;
        let state = self.states.entry(stem.to_owned()).or_default();
        state.in_flight = false;
        match result {
            Ok(reply) => {
                state.open_intent = None;
                state.attempts = 0;
                state.settled = false;
                state.modifying = matches!(intent.request, CloudRequest::ModifyFleet { .. });
                state.changed_at = now;
                state.poll_at = now;
                if matches!(&intent.request, CloudRequest::ModifyFleet { template: Some(_), .. }) {
                    state.apply_again = false;
                }
                self.note_group_fleet(g, stem, &intent, &reply);
                g.cx.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
            }
            // Somebody else has begun to modify the fleet, or EC2 still carries this call out, whose first reply was lost.
            Err(error) if error.code.eq_ignore_ascii_case("FleetNotInModifiableState") => {
                state.open_intent = None;
                state.settled = false;
                state.modifying = true;
                state.changed_at = now;
                g.cx.record(Record::Outcome { id, outcome: Outcome::Failed(error) });
                self.forget_target(g, stem);
            }
            Err(error) => {
                state.attempts += 1;
                let retry = error.class.is_retryable();
                let template = match &intent.request {
                    CloudRequest::ModifyFleet { template, .. } => template.as_deref(),
                    _ => None,
                };
                if let Some(template) = template.filter(|_| !retry) {
                    // The fleet goes on with what it has.
                    state.refused = Some(digest(template));
                    state.apply_again = false;
                }
                let may_fail = template.is_none();
                state.next_at = now
                    + match (retry, may_fail) {
                        (true, _) => backoff_ms(state.attempts, &mut g.cx.rng),
                        (false, true) => REFUSED_MS,
                        (false, false) => 0,
                    };
                if !retry {
                    state.open_intent = None;
                }
                let nodes: Vec<String> = state.awaiting.keys().cloned().collect();
                let fact =
                    g.cx.new_fact(FactKind::CreateFleetFailed, error.message.clone())
                        .group(stem)
                        .nodes(&nodes)
                        .code(error.code.clone());
                g.cx.fact(fact);
                if !retry {
                    g.cx.record(Record::Outcome { id, outcome: Outcome::Failed(error.clone()) });
                    if error.class == ErrorClass::NotFound {
                        // Deleted behind our back: the next look at the tags finds another one, or a new one is made.
                        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet: None });
                    }
                    if may_fail
                        && matches!(
                            error.class,
                            ErrorClass::Configuration | ErrorClass::Permission | ErrorClass::Quota
                        )
                    {
                        self.fail_awaiting(g, stem, &error.code, &error.message);
                    }
                }
            }
        }
    }

    /// The fleet's target is set anew.
    fn forget_target(&mut self, g: &mut Ground, key: &str) {
        let Some(fleet) = g.cx.persisted.group_fleets.get(key).cloned() else { return };
        g.cx.record(Record::GroupFleet { stem: key.to_owned(), fleet: Some(fleet.of_unknown_target()) });
    }

    fn fail_awaiting(&mut self, g: &mut Ground, stem: &str, code: &str, message: &str) {
        let Some(state) = self.states.get_mut(stem) else { return };
        let nodes: Vec<String> = std::mem::take(&mut state.awaiting).keys().cloned().collect();
        g.fail_nodes(&nodes, code, message);
    }

    fn note_group_fleet(&mut self, g: &mut Ground, stem: &str, intent: &Intent, reply: &CloudReply) {
        let before = g.cx.persisted.group_fleets.get(stem).cloned();
        let fleet = match (&intent.request, reply) {
            (CloudRequest::CreateFleet(request), CloudReply::Fleet(made)) => {
                let form = form_of(request);
                Some(GroupFleet {
                    fleet_id: made.fleet_id.clone(),
                    account: intent.account.clone(),
                    spot_target: 0,
                    on_demand_target: 0,
                    launch: request.client_token.clone(),
                    template: form.template,
                    options: form.options,
                    uncounted: BTreeSet::new(),
                })
            }
            (CloudRequest::ModifyFleet { spot_target, on_demand_target, template, .. }, _) => {
                before.map(|fleet| GroupFleet {
                    spot_target: *spot_target,
                    on_demand_target: *on_demand_target,
                    template: template.as_deref().map_or_else(|| fleet.template.clone(), digest),
                    ..fleet
                })
            }
            _ => before,
        };
        let text = match &intent.request {
            CloudRequest::ModifyFleet { target, template: Some(_), .. } => {
                format!("the fleet of {stem} has target {target} and the configured template and overrides")
            }
            CloudRequest::ModifyFleet { target, .. } => format!("the fleet of {stem} has target {target}"),
            _ => format!("the fleet of {stem} is made"),
        };
        g.cx.fact(g.cx.new_fact(FactKind::FleetCreated, text).group(stem));
        g.cx.record(Record::GroupFleet { stem: stem.to_owned(), fleet });
    }

    /// What DescribeFleets says of the groups' fleets: done modifying, unknown, or gone.
    pub(super) fn take_group_fleets(
        &mut self,
        g: &mut Ground,
        account: &Account,
        started: u64,
        fleets: &[Fleet],
    ) {
        g.sight.fleets_listed.insert(account.clone());
        for fleet in fleets {
            let stem = match (fleet.tags.get(tag::PARTITION), fleet.tags.get(tag::GROUP)) {
                (Some(partition), Some(group)) if !fleet.tags.contains_key(tag::NODE) => {
                    format!("{partition}-{group}")
                }
                _ => continue,
            };
            if let Some(key) = g.cx.group_fleet_key(&fleet.id) {
                let look = self.may_hold_strangers(g, fleet);
                let Some(state) = self.states.get_mut(&key) else { continue };
                state.look |= look;
                if started >= state.changed_at {
                    state.unseen_since = None;
                    state.settled = fleet.state == "active";
                    state.modifying = fleet.state == "modifying";
                }
                // ModifyFleet has no client token: one that was given up for lost may be carried out after a later one.
                let is_past = started >= state.changed_at + TARGET_LAG_MS && !state.in_flight;
                if is_past && state.settled && state.open_intent.is_none() && !self.has_target(g, &key, fleet)
                {
                    let text = format!("fleet {} has target {}, which is set anew", fleet.id, fleet.target);
                    g.cx.fact(g.cx.new_fact(FactKind::FleetTargetChanged, text).group(stem_of_key(&key)));
                    self.forget_target(g, &key);
                }
                continue;
            }
            if g.deletions.is_fleet_ending(&g.cx, &fleet.id) {
                continue;
            }
            // One fleet of a group takes its new nodes; any other one goes with its last node.
            let takes =
                g.cx.site
                    .group(&stem)
                    .is_some_and(|group| group.scope == FleetScope::Group && group.account == *account)
                    && !g.cx.persisted.group_fleets.contains_key(&stem);
            let key = if takes { stem.clone() } else { format!("{stem}@{}", fleet.id) };
            let text = format!("fleet {} belongs to {stem}", fleet.id);
            g.cx.fact(g.cx.new_fact(FactKind::InstanceAdopted, text).group(stem));
            let form = fleet.tags.get(tag::FORM).and_then(|form| form.split_once('-'));
            let adopted = GroupFleet {
                fleet_id: fleet.id.clone(),
                account: account.clone(),
                spot_target: GroupFleet::UNKNOWN_TARGET,
                on_demand_target: GroupFleet::UNKNOWN_TARGET,
                launch: fleet.client_token.clone().unwrap_or_default(),
                template: form.map(|(template, _)| template.to_owned()).unwrap_or_default(),
                options: form.map(|(_, options)| options.to_owned()).unwrap_or_default(),
                uncounted: BTreeSet::new(),
            };
            self.states.entry(key.clone()).or_default().modifying = fleet.state == "modifying";
            g.cx.record(Record::GroupFleet { stem: key, fleet: Some(adopted) });
        }
        self.forget_lost_fleets(g, account, started, fleets);
    }

    /// Whether EC2 shows the target that was set last; true where it is set anew in any case.
    fn has_target(&self, g: &Ground, key: &str, shown: &Fleet) -> bool {
        let set = g.cx.persisted.group_fleets.get(key).and_then(GroupFleet::target);
        set.is_none_or(|target| target == shown.target)
    }

    /// Deleted behind our back: not shown any more, and not only for a moment.
    fn forget_lost_fleets(&mut self, g: &mut Ground, account: &Account, started: u64, fleets: &[Fleet]) {
        let now = g.cx.now;
        let grace = u64::from(g.cx.site.settings.consistency_grace_s) * 1000;
        let mut lost = Vec::new();
        for (key, fleet) in &g.cx.persisted.group_fleets {
            if fleet.account != *account || fleets.iter().any(|shown| shown.id == fleet.fleet_id) {
                continue;
            }
            let Some(state) = self.states.get_mut(key) else { continue };
            if started < state.changed_at || state.in_flight {
                continue;
            }
            let since = *state.unseen_since.get_or_insert(now.mono_ms);
            if now.since(since) >= grace {
                lost.push((key.clone(), fleet.fleet_id.clone()));
            }
        }
        for (key, fleet_id) in lost {
            let text = format!("fleet {fleet_id} is gone from EC2 without our doing");
            g.cx.fact(g.cx.new_fact(FactKind::FleetDeleted, text).group(stem_of_key(&key)));
            g.cx.record(Record::GroupFleet { stem: key.clone(), fleet: None });
            for id in g.lowering.take(&key).into_keys() {
                g.end_instance(account, id);
            }
        }
    }

    /// Fleets and open calls from the journal; instances of nodes that are down are found by the first look.
    pub(super) fn recover_group_fleets(&mut self, g: &mut Ground) {
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
            self.states.insert(key.clone(), GroupState { modifying: true, ..GroupState::default() });
        }
    }

    pub(super) fn recover_group_call(&mut self, g: &mut Ground, id: u64, request: &CloudRequest) -> bool {
        let stem = match request {
            CloudRequest::CreateFleet(request) if request.target == 0 => {
                match (request.fleet_tags.get(tag::PARTITION), request.fleet_tags.get(tag::GROUP)) {
                    (Some(partition), Some(group)) => format!("{partition}-{group}"),
                    _ => return false,
                }
            }
            CloudRequest::ModifyFleet { fleet_id, .. } => {
                let owner = g.cx.persisted.group_fleets.iter().find(|(_, fleet)| fleet.fleet_id == *fleet_id);
                match owner {
                    Some((stem, _)) => stem.clone(),
                    None => return false,
                }
            }
            _ => return false,
        };
        self.states.entry(stem).or_default().open_intent = Some(id);
        true
    }
}

impl Lowering {
    /// The node is suspended: its instance goes once the target is lowered. False if no group fleet holds it.
    pub(super) fn lower_for(&mut self, cx: &Cx, binding: &Binding) -> bool {
        let Some(key) = binding.fleet.as_deref().and_then(|fleet| cx.group_fleet_key(fleet)) else {
            return false;
        };
        self.lower(&key, &binding.instance_id);
        true
    }

    pub(super) fn lower(&mut self, key: &str, instance_id: &str) {
        let request = self.spot_requests.get(instance_id).cloned();
        self.owed.entry(key.to_owned()).or_default().insert(instance_id.to_owned(), request);
    }

    /// An instance that an earlier process was about to end. False if no group fleet holds it.
    pub(super) fn lower_leaving(&mut self, cx: &Cx, instance: &Instance) -> bool {
        let fleet = instance.tags.get(FLEET_ID);
        let Some(key) = fleet.and_then(|fleet| cx.group_fleet_key(fleet)) else { return false };
        self.lower(&key, &instance.id);
        true
    }

    pub(super) fn is_lowering(&self, instance_id: &str) -> bool {
        self.owed.values().any(|owed| owed.contains_key(instance_id))
    }

    /// A cancelled request that EC2 does not know any more has ended with its instance.
    pub(super) fn take_cancelled(&mut self, cx: &mut Cx, account: &Account, id: u64, result: CloudResult) {
        let outcome = match result {
            Ok(reply) => Outcome::Done(reply),
            Err(error) if error.class.is_retryable() => {
                // A persistent request that stays open would launch another instance.
                if let Some(request) = cx.open_request(id) {
                    cx.cloud(Purpose::CancelSpot { account: account.clone(), intent: id }, request);
                }
                return;
            }
            Err(error) => Outcome::Failed(error),
        };
        cx.record(Record::Outcome { id, outcome });
    }
}

impl Cx {
    fn group_fleet_key(&self, fleet_id: &str) -> Option<String> {
        let mut fleets = self.persisted.group_fleets.iter();
        fleets.find(|(_, fleet)| fleet.fleet_id == fleet_id).map(|(key, _)| key.clone())
    }

    /// Whether the fleet belongs to a group, by the journal.
    pub(super) fn is_group_fleet(&self, fleet_id: &str) -> bool {
        self.persisted.group_fleets.values().any(|fleet| fleet.fleet_id == fleet_id)
    }

    /// Whether the instance is of a group's fleet, which looks after it.
    pub(super) fn in_group_fleet(&self, instance: &Instance) -> bool {
        instance.tags.get(FLEET_ID).is_some_and(|fleet| self.is_group_fleet(fleet))
    }

    /// The group of an instance that EC2 launched for a group's fleet, and that carries no tag of ours yet.
    pub(super) fn stem_by_fleet(&self, instance: &Instance) -> Option<String> {
        let key = self.group_fleet_key(instance.tags.get(FLEET_ID)?)?;
        Some(stem_of_key(&key).to_owned())
    }
}
