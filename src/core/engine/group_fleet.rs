// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Group`: one maintain fleet per partition and node group, its target as large as Slurm wants.
//!
//! Capacity goes down in three steps that must not change places: lower the target without termination, wait
//! until EC2 is done modifying, then end exactly the instances of the suspended nodes. The other way round EC2
//! ends a random instance and launches another.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::fleet::FLEET_ID;
use super::index::Bound;
use super::launch::pools;
use super::outbox::Purpose;
use super::reconcile::busy_addresses;
use super::watched::Watched;
use crate::core::ec2_api::{
    CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, Fleet, FleetType, Instance, InstanceState,
};
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{GroupFleet, Intent, Outcome, Record};
use crate::core::site::{Account, FleetScope, Lifecycle, NodeGroup, Site};
use crate::core::tag;

/// How often a changing fleet is looked at.
const POLL_MS: u64 = 2_000;

/// How long a call that EC2 refused for good is left alone.
const REFUSED_MS: u64 = 30_000;

/// What is under way for one group.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupState {
    /// Nodes that wait for an instance of the fleet, and since when.
    awaiting: Watched<String, u64>,
    /// Of these, how many are to come on-demand because Spot did not deliver.
    on_demand_wanted: u32,
    /// Instances of suspended nodes, with their Spot requests: ended once the target is lowered.
    lowering: BTreeMap<String, Option<String>>,
    /// An intent (create or modify) is open and not to be repeated before this `mono_ms`.
    open_intent: Option<u64>,
    in_flight: bool,
    attempts: u32,
    next_at: u64,
    /// EC2 has finished what ModifyFleet began.
    settled: bool,
    poll_in_flight: bool,
    poll_at: u64,
    /// Instances that belong to nobody, as the last look saw them.
    spare: BTreeSet<String>,
    last_arrival: u64,
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
        self.awaiting.is_empty()
            && self.lowering.is_empty()
            && self.spare.is_empty()
            && self.open_intent.is_none()
    }
}

impl Engine {
    pub(super) fn group_fleets_quiet(&self) -> bool {
        self.group_states.values().all(GroupState::is_quiet)
    }

    /// These nodes wait for instances of their group's fleet.
    pub(super) fn await_group_fleet(&mut self, group: &NodeGroup, nodes: &[String]) {
        let now = self.now.mono_ms;
        let state = self.group_states.entry(group.stem()).or_default();
        if state.awaiting.is_empty() {
            state.last_arrival = now;
        }
        for node in nodes {
            if !state.awaiting.contains_key(node) {
                state.awaiting.insert(node.clone(), now);
            }
        }
    }

    pub(super) fn awaits_group_fleet(&self, stem: &str, node: &str) -> bool {
        self.group_states.get(stem).is_some_and(|state| state.awaits(node))
    }

    /// The node is suspended: its instance goes once the target is lowered. False if no group fleet holds it.
    pub(super) fn lower_for(&mut self, node: &str, instance_id: &str) -> bool {
        let Some((group, _)) = self.site.locate(node) else { return false };
        let stem = group.stem();
        if group.scope != FleetScope::Group || !self.persisted.group_fleets.contains_key(&stem) {
            return false;
        }
        let request = self.spot_requests.get(instance_id).cloned();
        self.group_states.entry(stem).or_default().lowering.insert(instance_id.to_owned(), request);
        true
    }

    pub(super) fn is_lowering(&self, instance_id: &str) -> bool {
        self.group_states.values().any(|state| state.lowering.contains_key(instance_id))
    }

    pub(super) fn mind_group_fleets(&mut self) {
        let stems: Vec<String> = self
            .site
            .groups()
            .iter()
            .filter(|group| group.scope == FleetScope::Group)
            .map(|group| group.stem())
            .chain(self.persisted.group_fleets.keys().cloned())
            .collect::<BTreeSet<String>>()
            .into_iter()
            .collect();
        for stem in stems {
            if !self.group_states.contains_key(&stem) && !self.persisted.group_fleets.contains_key(&stem) {
                continue;
            }
            self.give_up_waiting(&stem);
            self.mind_group_fleet(&stem);
            self.poll_group_fleet(&stem);
        }
    }

    /// Nodes that are not wanted any more, that waited too long, or for which Spot delivered nothing.
    fn give_up_waiting(&mut self, stem: &str) {
        let now = self.now.mono_ms;
        let Some(state) = self.group_states.get_mut(stem) else { return };
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
                    self.wants_instance(&node).then(|| self.launch_deadline(std::slice::from_ref(&node)));
                (node, deadline)
            })
            .collect();
        let Some(state) = self.group_states.get_mut(stem) else { return };
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
        let fallback = self
            .site
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
                let fact = self.new_fact(FactKind::SpotFallback, text).group(stem);
                self.fact(fact);
            } else {
                self.wake(last_arrival + patience);
            }
        }
        if let Some(at) = look {
            self.wake(at);
        }
        self.fail_nodes(&late, "UnfulfillableCapacity", "EC2 gave no instance before ResumeTimeout");
    }

    /// (spot, on-demand) capacity that Slurm wants of this group now.
    fn group_target(&self, stem: &str) -> (u32, u32) {
        let lifecycle = self.site.group(stem).map_or(Lifecycle::OnDemand, |group| group.lifecycle);
        let Bound { mut spot, mut on_demand } = self.index.bound_in(stem);
        if let Some(state) = self.group_states.get(stem) {
            let waiting = u32::try_from(state.awaiting.len()).unwrap_or(u32::MAX);
            match lifecycle {
                Lifecycle::OnDemand => on_demand += waiting,
                Lifecycle::Spot => {
                    on_demand += state.on_demand_wanted;
                    spot += waiting - state.on_demand_wanted;
                }
            }
        }
        (spot, on_demand)
    }

    fn mind_group_fleet(&mut self, stem: &str) {
        let now = self.now.mono_ms;
        let (spot, on_demand) = self.group_target(stem);
        let fleet = self.persisted.group_fleets.get(stem).cloned();
        let group = self.site.group(stem).cloned();
        // Before EC2 and Slurm are known, what is bound is not known either, and a target would be a guess.
        let account =
            fleet.as_ref().map(|fleet| &fleet.account).or(group.as_ref().map(|group| &group.account));
        let known = self.slurm.is_known() && account.is_some_and(|account| self.view_ready(account));
        let state = self.group_states.entry(stem.to_owned()).or_default();
        if state.in_flight || self.persisted.paused || !known {
            return;
        }
        if state.next_at > now {
            let at = state.next_at;
            self.wake(at);
            return;
        }
        if let Some(intent) = state.open_intent {
            // The same call again, with its token.
            if let Some(open) = self.persisted.open.get(&intent).cloned() {
                self.send_group_call(stem, intent, open.account, open.request);
            }
            return;
        }
        match (fleet, group) {
            // The account's fleets must have been listed once: a fleet is never made twice.
            (None, Some(group)) if spot + on_demand > 0 && self.fleets_listed.contains(&group.account) => {
                let token = self.new_token();
                let request =
                    CloudRequest::CreateFleet(Box::new(group_fleet_request(&self.site, &group, &token)));
                self.begin_group_call(stem, &group.account, request);
            }
            (Some(fleet), group) => {
                let removed = group.is_none_or(|group| group.scope != FleetScope::Group);
                if removed
                    && spot + on_demand == 0
                    && self.group_states.get(stem).is_none_or(|s| s.lowering.is_empty())
                {
                    self.group_states.remove(stem);
                    self.end_fleet(&fleet.account, fleet.fleet_id);
                } else if (fleet.spot_target, fleet.on_demand_target) != (spot, on_demand) {
                    let request = CloudRequest::ModifyFleet {
                        fleet_id: fleet.fleet_id,
                        target: spot + on_demand,
                        spot_target: spot,
                        on_demand_target: on_demand,
                        terminate_excess: false,
                    };
                    self.begin_group_call(stem, &fleet.account, request);
                } else {
                    self.end_lowered(stem, &fleet.account);
                }
            }
            _ => {}
        }
    }

    /// The target is what Slurm wants and EC2 has finished: the suspended nodes' instances can go.
    fn end_lowered(&mut self, stem: &str, account: &Account) {
        let Some(state) = self.group_states.get_mut(stem) else { return };
        if !state.settled || state.lowering.is_empty() {
            return;
        }
        let lowering = std::mem::take(&mut state.lowering);
        let requests: Vec<String> = lowering.values().flatten().cloned().collect();
        for id in lowering.into_keys() {
            self.end_instance(account, id);
        }
        if !requests.is_empty() {
            let request = CloudRequest::CancelSpotInstanceRequests { ids: requests };
            let id = self.record_intent(account, request.clone(), None);
            self.cloud(Purpose::CancelSpot { account: account.clone(), intent: id }, request);
        }
    }

    /// A cancelled request that EC2 does not know any more has ended with its instance.
    pub(super) fn take_cancelled(&mut self, id: u64, result: CloudResult) {
        let outcome = match result {
            Ok(reply) => Outcome::Done(reply),
            Err(error) => Outcome::Failed(error),
        };
        self.record(Record::Outcome { id, outcome });
    }

    fn begin_group_call(&mut self, stem: &str, account: &Account, request: CloudRequest) {
        let id = self.record_intent(account, request.clone(), None);
        if let Some(state) = self.group_states.get_mut(stem) {
            state.open_intent = Some(id);
        }
        self.send_group_call(stem, id, account.clone(), request);
    }

    fn send_group_call(&mut self, stem: &str, intent: u64, account: Account, request: CloudRequest) {
        if let Some(state) = self.group_states.get_mut(stem) {
            state.in_flight = true;
        }
        self.cloud(Purpose::GroupFleet { account, intent, stem: stem.to_owned() }, request);
    }

    pub(super) fn take_group_call(&mut self, id: u64, stem: &str, result: CloudResult) {
        let Some(intent) = self.persisted.open.get(&id).cloned() else { return };
        let now = self.now.mono_ms;
        let state = self.group_states.entry(stem.to_owned()).or_default();
        state.in_flight = false;
        match result {
            Ok(reply) => {
                state.open_intent = None;
                state.attempts = 0;
                state.settled = false;
                state.poll_at = now;
                self.note_group_fleet(stem, &intent, &reply);
                self.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
            }
            Err(error) => {
                state.attempts += 1;
                let retry = error.class.is_retryable();
                state.next_at =
                    now + if retry { backoff_ms(state.attempts, &mut self.rng) } else { REFUSED_MS };
                if !retry {
                    state.open_intent = None;
                }
                let nodes: Vec<String> = state.awaiting.keys().cloned().collect();
                let fact = self
                    .new_fact(FactKind::CreateFleetFailed, error.message.clone())
                    .group(stem)
                    .nodes(&nodes)
                    .code(error.code.clone());
                self.fact(fact);
                if !retry {
                    self.record(Record::Outcome { id, outcome: Outcome::Failed(error.clone()) });
                    if error.class == ErrorClass::NotFound {
                        // Deleted behind our back: the next look at the tags finds another one, or a new one is made.
                        self.record(Record::GroupFleet { stem: stem.to_owned(), fleet: None });
                    }
                    if matches!(
                        error.class,
                        ErrorClass::Configuration | ErrorClass::Permission | ErrorClass::Quota
                    ) {
                        self.fail_awaiting(stem, &error.code, &error.message);
                    }
                }
            }
        }
    }

    fn fail_awaiting(&mut self, stem: &str, code: &str, message: &str) {
        let Some(state) = self.group_states.get_mut(stem) else { return };
        let nodes: Vec<String> = std::mem::take(&mut state.awaiting).keys().cloned().collect();
        self.fail_nodes(&nodes, code, message);
    }

    fn note_group_fleet(&mut self, stem: &str, intent: &Intent, reply: &CloudReply) {
        let before = self.persisted.group_fleets.get(stem).cloned();
        let fleet = match (&intent.request, reply) {
            (CloudRequest::CreateFleet(request), CloudReply::Fleet(made)) => Some(GroupFleet {
                fleet_id: made.fleet_id.clone(),
                account: intent.account.clone(),
                spot_target: 0,
                on_demand_target: 0,
                launch: request.client_token.clone(),
            }),
            (CloudRequest::ModifyFleet { spot_target, on_demand_target, .. }, _) => before.map(|fleet| {
                GroupFleet { spot_target: *spot_target, on_demand_target: *on_demand_target, ..fleet }
            }),
            _ => before,
        };
        let text = match &intent.request {
            CloudRequest::ModifyFleet { target, .. } => format!("the fleet of {stem} has target {target}"),
            _ => format!("the fleet of {stem} is made"),
        };
        self.fact(self.new_fact(FactKind::FleetCreated, text).group(stem));
        self.record(Record::GroupFleet { stem: stem.to_owned(), fleet });
    }

    fn poll_group_fleet(&mut self, stem: &str) {
        let Some(fleet) = self.persisted.group_fleets.get(stem).cloned() else { return };
        let now = self.now.mono_ms;
        let Some(state) = self.group_states.get_mut(stem) else { return };
        let busy = !state.awaiting.is_empty()
            || !state.lowering.is_empty()
            || !state.spare.is_empty()
            || !state.settled;
        if !busy || state.poll_in_flight {
            return;
        }
        if state.poll_at > now {
            let at = state.poll_at;
            self.wake(at);
            return;
        }
        state.poll_in_flight = true;
        state.poll_at = now + POLL_MS;
        if !state.settled {
            let cluster = self.site.cluster.clone();
            self.cloud(
                Purpose::ListFleets { account: fleet.account.clone() },
                CloudRequest::DescribeFleets { cluster },
            );
        }
        let fleet_ids = vec![fleet.fleet_id];
        self.cloud(
            Purpose::PollGroup { account: fleet.account, stem: stem.to_owned() },
            CloudRequest::DescribeFleetInstances { fleet_ids },
        );
    }

    /// Instances that came whenever EC2 liked: each takes one waiting node, once.
    pub(super) fn take_group_instances(&mut self, account: &Account, stem: &str, result: CloudResult) {
        let now = self.now.mono_ms;
        let Some(state) = self.group_states.get_mut(stem) else { return };
        state.poll_in_flight = false;
        let Ok(CloudReply::Instances(instances)) = result else { return };
        for instance in &instances {
            if let Some(request) = &instance.spot_request_id {
                self.spot_requests.insert(instance.id.clone(), request.clone());
            }
            self.note_instance_state(instance);
        }
        let mut free: Vec<Instance> = instances
            .into_iter()
            .filter(|instance| {
                matches!(instance.state, InstanceState::Pending | InstanceState::Running)
                    && instance.private_ip.is_some()
                    && !self.index.is_bound(&instance.id)
                    && !self.is_lowering(&instance.id)
                    && !self.is_ending(&instance.id)
            })
            .collect();
        free.sort_by(|a, b| (a.launch_unix_ms, &a.id).cmp(&(b.launch_unix_ms, &b.id)));
        let waiting: Vec<String> = self
            .group_states
            .get(stem)
            .map(|state| state.awaiting.keys().cloned().collect())
            .unwrap_or_default();
        let waiting: Vec<String> = waiting.into_iter().filter(|node| self.wants_instance(node)).collect();
        let rest = free.split_off(free.len().min(waiting.len()));
        let pairs: Vec<(String, Instance)> = waiting.into_iter().zip(free).collect();
        // Nobody's on two looks in a row, while EC2 is not changing the fleet: launched beside a sleeping one, or
        // for a node that was suspended meanwhile.
        let busy = busy_addresses(&self.nodes);
        let spare: BTreeSet<String> = rest
            .into_iter()
            .filter(|instance| instance.private_ip.as_deref().is_none_or(|addr| !busy.contains(addr)))
            .map(|instance| instance.id)
            .collect();
        let known = self.slurm.is_known() && self.view_ready(account);
        let Some(state) = self.group_states.get_mut(stem) else { return };
        for (node, instance) in &pairs {
            state.awaiting.remove(node);
            state.last_arrival = now;
            if instance.lifecycle == Lifecycle::OnDemand {
                state.on_demand_wanted = state.on_demand_wanted.saturating_sub(1);
            }
        }
        let surplus: Vec<String> = if state.settled && known {
            state.spare.intersection(&spare).cloned().collect()
        } else {
            Vec::new()
        };
        state.spare = spare.into_iter().filter(|id| !surplus.contains(id)).collect();
        self.bind(account, None, pairs, 0);
        for id in surplus {
            self.end_instance(account, id);
        }
    }

    /// What DescribeFleets says of the groups' fleets: done modifying, unknown, or gone.
    pub(super) fn take_group_fleets(&mut self, account: &Account, fleets: &[Fleet]) {
        self.fleets_listed.insert(account.clone());
        for fleet in fleets {
            let stem = match (fleet.tags.get(tag::PARTITION), fleet.tags.get(tag::GROUP)) {
                (Some(partition), Some(group)) if !fleet.tags.contains_key(tag::NODE) => {
                    format!("{partition}-{group}")
                }
                _ => continue,
            };
            let known = self.persisted.group_fleets.get(&stem).map(|known| known.fleet_id.clone());
            match known {
                Some(id) if id == fleet.id => {
                    if let Some(state) = self.group_states.get_mut(&stem) {
                        state.settled = fleet.state == "active";
                    }
                }
                None if self.site.group(&stem).is_some_and(|group| group.scope == FleetScope::Group) => {
                    let text = format!("fleet {} belongs to {stem}", fleet.id);
                    self.fact(self.new_fact(FactKind::InstanceAdopted, text).group(stem.clone()));
                    let adopted = GroupFleet {
                        fleet_id: fleet.id.clone(),
                        account: account.clone(),
                        // Whatever its target is, it is set anew.
                        spot_target: u32::MAX,
                        on_demand_target: u32::MAX,
                        launch: fleet.client_token.clone().unwrap_or_default(),
                    };
                    self.group_states.entry(stem.clone()).or_default();
                    self.record(Record::GroupFleet { stem, fleet: Some(adopted) });
                }
                _ => {}
            }
        }
    }

    /// Whether the fleet belongs to a group, by the journal.
    pub(super) fn is_group_fleet(&self, fleet_id: &str) -> bool {
        self.persisted.group_fleets.values().any(|fleet| fleet.fleet_id == fleet_id)
    }

    /// Whether the instance is of a group's fleet, which looks after it.
    pub(super) fn in_group_fleet(&self, instance: &Instance) -> bool {
        instance.tags.get(FLEET_ID).is_some_and(|fleet| self.is_group_fleet(fleet))
    }

    /// Fleets and open calls from the journal; instances of nodes that are down are found by the first look.
    pub(super) fn recover_group_fleets(&mut self) {
        for stem in self.persisted.group_fleets.keys() {
            self.group_states.entry(stem.clone()).or_default();
        }
    }

    pub(super) fn recover_group_call(&mut self, id: u64, request: &CloudRequest) -> bool {
        let stem = match request {
            CloudRequest::CreateFleet(request) if request.target == 0 => {
                match (request.fleet_tags.get(tag::PARTITION), request.fleet_tags.get(tag::GROUP)) {
                    (Some(partition), Some(group)) => format!("{partition}-{group}"),
                    _ => return false,
                }
            }
            CloudRequest::ModifyFleet { fleet_id, .. } => {
                let owner = self.persisted.group_fleets.iter().find(|(_, fleet)| fleet.fleet_id == *fleet_id);
                match owner {
                    Some((stem, _)) => stem.clone(),
                    None => return false,
                }
            }
            _ => return false,
        };
        self.group_states.entry(stem).or_default().open_intent = Some(id);
        true
    }
}

/// Made empty: a target above zero is always set by ModifyFleet, so that creating it twice costs nothing.
fn group_fleet_request(site: &Site, group: &NodeGroup, token: &str) -> CreateFleet {
    CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Maintain,
        target: 0,
        lifecycle: group.lifecycle,
        on_demand_options: group.on_demand_options.clone(),
        spot_options: group.spot_options.clone(),
        launch_template: group.launch_template.clone(),
        overrides: pools(group, group.lifecycle, &[]),
        fleet_tags: tag::at_birth(site, group, token),
        instance_tags: BTreeMap::new(),
    }
}
