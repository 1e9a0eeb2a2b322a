// SPDX-License-Identifier: GPL-3.0-or-later
//! Fleets: their specification, members and life ("EC2 Fleet", EC2 User Guide).

use std::collections::{BTreeMap, VecDeque};

use crate::api::error::ApiError;
use crate::model::capacity::Lifecycle;
use crate::model::fleet_plan::Planned;
use crate::model::launch_data::TagList;
use crate::model::region::{Event, Region};
use crate::model::time::{HOUR, Millis};

/// EC2 keeps a fleet's events, and a deleted fleet itself, for 48 hours (API_DescribeFleetHistory).
pub(crate) const KEPT: Millis = 48 * HOUR;
/// Bound of the emulator: a fleet that never gets capacity must not fill memory with events.
const MAX_HISTORY: usize = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetType {
    Instant,
    Request,
    Maintain,
}

impl FleetType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Request => "request",
            Self::Maintain => "maintain",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FleetState {
    Submitted,
    Active,
    Modifying,
    DeletedRunning,
    DeletedTerminating,
    Deleted,
}

impl FleetState {
    /// The text of `fleetState` (API_FleetData).
    pub fn name(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Active => "active",
            Self::Modifying => "modifying",
            Self::DeletedRunning => "deleted_running",
            Self::DeletedTerminating => "deleted_terminating",
            Self::Deleted => "deleted",
        }
    }

    pub fn deleted(self) -> bool {
        matches!(self, Self::DeletedRunning | Self::DeletedTerminating | Self::Deleted)
    }
}

/// One override of a launch template, as the request gave it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Override {
    pub instance_type: Option<String>,
    pub max_price: Option<String>,
    pub subnet: Option<String>,
    pub zone: Option<String>,
    pub weight: Option<f64>,
    pub priority: Option<f64>,
    pub group: Option<String>,
    pub image: Option<String>,
    pub block_devices: Vec<crate::model::launch_data::BlockDevice>,
    pub requirements: Option<crate::model::requirements::Requirements>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    pub template_id: Option<String>,
    pub template_name: Option<String>,
    pub version: Option<String>,
    pub overrides: Vec<Override>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub total: i64,
    pub on_demand: i64,
    pub spot: i64,
    pub default: Lifecycle,
}

impl Target {
    pub fn of(self, lifecycle: Lifecycle) -> i64 {
        match lifecycle {
            Lifecycle::OnDemand => self.on_demand,
            Lifecycle::Spot => self.spot,
        }
    }
}

/// `SpotOptions` or `OnDemandOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    pub strategy: Option<String>,
    pub pools_to_use: Option<i64>,
    pub single_type: bool,
    pub single_zone: bool,
    pub min_target: Option<i64>,
    pub max_total_price: Option<f64>,
    pub interruption: Option<String>,
    pub rebalance: Option<String>,
    pub rebalance_delay: Option<i64>,
    pub reservations_first: bool,
}

#[derive(Debug, Clone)]
pub struct FleetError {
    pub config: usize,
    pub over: usize,
    pub lifecycle: Lifecycle,
    pub error: ApiError,
}

/// Instances that one override launched.
#[derive(Debug, Clone)]
pub struct FleetLaunch {
    pub config: usize,
    pub over: usize,
    pub lifecycle: Lifecycle,
    pub instance_type: &'static str,
    pub subnet: String,
    pub zone: String,
    pub template: Option<(String, u64)>,
    pub ids: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct HistoryRecord {
    pub at: Millis,
    pub event_type: &'static str,
    pub sub_type: &'static str,
    pub description: String,
    pub instance: Option<String>,
}

#[derive(Debug)]
pub struct Fleet {
    pub id: String,
    pub kind: FleetType,
    pub state: FleetState,
    pub created: Millis,
    pub client_token: String,
    pub excess_policy: &'static str,
    pub configs: Vec<Config>,
    pub target: Target,
    pub unit: Option<String>,
    pub valid_from: Option<Millis>,
    pub valid_until: Option<Millis>,
    pub terminate_on_expiry: bool,
    pub replace_unhealthy: bool,
    pub spot: Options,
    pub on_demand: Options,
    pub tags_at_launch: Vec<crate::model::launch_data::TagSpec>,
    /// Weight and lifecycle of each living member.
    pub members: BTreeMap<String, (f64, Lifecycle)>,
    /// Instances that are not terminated yet.
    pub unended: usize,
    pub launches: Vec<FleetLaunch>,
    pub errors: Vec<FleetError>,
    pub history: VecDeque<HistoryRecord>,
    pub reconcile_at: Option<Millis>,
    /// Capacity that a request fleet has launched: what it loses later is not replaced.
    pub launched: BTreeMap<Lifecycle, f64>,
    pub context: Option<String>,
    pub expired: bool,
    pub ended: Option<Millis>,
}

impl Fleet {
    pub fn options(&self, lifecycle: Lifecycle) -> &Options {
        match lifecycle {
            Lifecycle::OnDemand => &self.on_demand,
            Lifecycle::Spot => &self.spot,
        }
    }
}

impl Region {
    pub(crate) fn fleet(&self, id: &str) -> Option<&Fleet> {
        self.fleets.get(self.fleet_index.get(id)?)
    }

    pub(crate) fn fleet_mut(&mut self, id: &str) -> Option<&mut Fleet> {
        let key = self.fleet_index.get(id)?;
        self.fleets.get_mut(key)
    }

    pub(crate) fn note(
        &mut self,
        fleet_id: &str,
        event_type: &'static str,
        sub_type: &'static str,
        description: String,
        instance: Option<&str>,
    ) {
        let now = self.now;
        if let Some(fleet) = self.fleet_mut(fleet_id) {
            if fleet.kind == FleetType::Instant {
                return;
            }
            fleet.history.push_back(HistoryRecord {
                at: now,
                event_type,
                sub_type,
                description,
                instance: instance.map(str::to_owned),
            });
            while fleet.history.len() > MAX_HISTORY
                || fleet.history.front().is_some_and(|first| first.at + KEPT < now)
            {
                fleet.history.pop_front();
            }
        }
    }

    pub(crate) fn change_fleet_state(&mut self, id: &str, state: FleetState) {
        let Some(fleet) = self.fleet_mut(id) else { return };
        let before = std::mem::replace(&mut fleet.state, state);
        if before == state {
            return;
        }
        let sub_type = match (before, state) {
            (FleetState::Modifying, FleetState::Active) => "modify_succeeded",
            (_, FleetState::Modifying) => "modify_in_progress",
            (_, other) => other.name(),
        };
        self.note(id, "fleetRequestChange", sub_type, String::new(), None);
    }

    /// A fleet leaves `submitted` or `modifying`.
    pub(crate) fn fleet_settled(&mut self, id: &str) {
        let Some(fleet) = self.fleet(id) else { return };
        if matches!(fleet.state, FleetState::Submitted | FleetState::Modifying) {
            self.reconcile_now(id);
            self.change_fleet_state(id, FleetState::Active);
        }
    }

    pub(crate) fn reconcile_soon(&mut self, id: &str, delay: Millis) {
        let due = self.now + delay;
        let Some(fleet) = self.fleet_mut(id) else { return };
        if fleet.reconcile_at.is_some_and(|at| at <= due) {
            return;
        }
        fleet.reconcile_at = Some(due);
        self.agenda.set(due, Event::Reconcile { fleet: id.to_owned() });
    }

    pub(crate) fn reconcile_fleet(&mut self, id: &str) {
        let now = self.now;
        let Some(fleet) = self.fleet_mut(id) else { return };
        match fleet.reconcile_at {
            Some(at) if at <= now => fleet.reconcile_at = None,
            _ => return,
        }
        if fleet.state == FleetState::Active {
            self.reconcile_now(id);
        }
    }

    /// What the fleet holds of a lifecycle, in units.
    pub(crate) fn fulfilled(&self, fleet: &Fleet, lifecycle: Lifecycle) -> f64 {
        fleet
            .members
            .iter()
            .filter(|(_, (_, of))| *of == lifecycle)
            .filter(|(id, _)| {
                !self.rules.replace_while_hibernated
                    || self.instances.get(id).is_none_or(|instance| !instance.interrupted)
            })
            .map(|(_, (weight, _))| *weight)
            .sum()
    }

    /// Brings a maintain or request fleet to its target.
    fn reconcile_now(&mut self, id: &str) {
        let now = self.now;
        let Some(fleet) = self.fleet(id) else { return };
        if fleet.kind == FleetType::Instant || fleet.expired {
            return;
        }
        if let Some(from) = fleet.valid_from
            && from > now
        {
            self.reconcile_soon(id, from - now);
            return;
        }
        let mut short = false;
        for lifecycle in [Lifecycle::OnDemand, Lifecycle::Spot] {
            let Some(fleet) = self.fleet(id) else { return };
            #[allow(clippy::cast_precision_loss)]
            let target = fleet.target.of(lifecycle) as f64;
            let have = if fleet.kind == FleetType::Request {
                fleet.launched.get(&lifecycle).copied().unwrap_or(0.0)
            } else {
                self.fulfilled(fleet, lifecycle)
            };
            let need = target - have;
            if need <= 0.0 {
                continue;
            }
            let plan = match self.candidates(fleet, lifecycle) {
                Ok(candidates) => {
                    let plan = self.plan(
                        &candidates,
                        lifecycle,
                        fleet.options(lifecycle),
                        need,
                        &Planned::default(),
                    );
                    Some((candidates, plan))
                }
                Err(error) => {
                    // The template or subnet is gone: EC2 reports it in the history and keeps trying.
                    self.note(id, "error", "launchSpecUnusable", error.message, None);
                    None
                }
            };
            short |= match &plan {
                Some((_, plan)) => plan.units < need,
                None => true,
            };
            if let Some((candidates, plan)) = plan {
                for (_, error) in &plan.errors {
                    // A shortage of capacity is silence in the history; a wrong request is not.
                    let information = match error.code.as_ref() {
                        "InsufficientInstanceCapacity" => None,
                        "MaxSpotInstanceCountExceeded" | "VcpuLimitExceeded" => {
                            Some(("error", "spotInstanceCountLimitExceeded"))
                        }
                        _ => Some(("information", "launchSpecUnusable")),
                    };
                    if let Some((event_type, sub_type)) = information {
                        self.note(id, event_type, sub_type, error.message.clone(), None);
                    }
                }
                self.carry_out(id, &candidates, &plan, lifecycle, "");
            }
        }
        if short {
            self.reconcile_soon(id, self.rules.delays.fleet_retry_ms.max(1));
        } else if let Some(fleet) = self.fleet_mut(id) {
            fleet.errors.clear();
        }
    }

    /// Ends members beyond the target; EC2 chooses them, here at random.
    pub(crate) fn shrink_fleet(&mut self, id: &str) {
        for lifecycle in [Lifecycle::OnDemand, Lifecycle::Spot] {
            let Some(fleet) = self.fleet(id) else { return };
            #[allow(clippy::cast_precision_loss)]
            let mut excess = self.fulfilled(fleet, lifecycle) - fleet.target.of(lifecycle) as f64;
            let mut members: Vec<(String, f64)> = fleet
                .members
                .iter()
                .filter(|(_, (_, of))| *of == lifecycle)
                .map(|(id, (weight, _))| (id.clone(), *weight))
                .collect();
            self.rng.shuffle(&mut members);
            for (member, weight) in members {
                if weight <= excess {
                    excess -= weight;
                    self.end_member(&member);
                }
            }
        }
    }

    pub(crate) fn end_member(&mut self, instance: &str) {
        self.terminate(
            instance,
            (
                "Server.FleetInitiatedTermination",
                "Server.FleetInitiatedTermination: Instance terminated by its fleet",
            ),
            "instance-terminated-by-user",
        );
    }

    pub(crate) fn fleet_instance_running(&mut self, instance: &str) {
        let replace = self.instances.get(instance).is_some_and(|instance| instance.impaired.is_some());
        if replace {
            self.replace_unhealthy(instance);
        }
    }

    pub(crate) fn replace_unhealthy(&mut self, instance: &str) {
        let Some(fleet_id) = self.instances.get(instance).and_then(|instance| instance.fleet.clone()) else {
            return;
        };
        let replaces = self.fleet(&fleet_id).is_some_and(|fleet| {
            fleet.replace_unhealthy && fleet.kind == FleetType::Maintain && fleet.state == FleetState::Active
        });
        if replaces {
            self.end_member(instance);
        }
    }

    /// A member is on its way out.
    pub(crate) fn fleet_instance_lost(&mut self, instance: &str) {
        let Some(fleet_id) = self.instances.get(instance).and_then(|instance| instance.fleet.clone()) else {
            return;
        };
        let Some(fleet) = self.fleet_mut(&fleet_id) else { return };
        if fleet.members.remove(instance).is_none() {
            return;
        }
        let (kind, state) = (fleet.kind, fleet.state);
        self.note(&fleet_id, "instanceChange", "terminated", String::new(), Some(instance));
        if kind == FleetType::Maintain && !state.deleted() {
            self.reconcile_soon(&fleet_id, self.rules.delays.fleet_replace_ms);
        }
    }

    /// An instance of the fleet is terminated.
    pub(crate) fn fleet_member_ended(&mut self, fleet_id: &str) {
        if let Some(fleet) = self.fleet_mut(fleet_id) {
            fleet.unended = fleet.unended.saturating_sub(1);
        }
        self.close_fleet_if_empty(fleet_id);
    }

    /// A deleted fleet without instances is gone.
    pub(crate) fn close_fleet_if_empty(&mut self, fleet_id: &str) {
        let Some(fleet) = self.fleet(fleet_id) else { return };
        let deleting = matches!(fleet.state, FleetState::DeletedRunning | FleetState::DeletedTerminating);
        if fleet.kind == FleetType::Instant && fleet.unended == 0 && fleet.ended.is_none() && !deleting {
            self.bury_fleet(fleet_id);
        } else if deleting && fleet.unended == 0 {
            self.change_fleet_state(fleet_id, FleetState::Deleted);
            self.bury_fleet(fleet_id);
        }
    }

    pub(crate) fn bury_fleet(&mut self, fleet_id: &str) {
        let now = self.now;
        if let Some(fleet) = self.fleet_mut(fleet_id) {
            fleet.ended = Some(now);
        }
        self.after(KEPT, Event::FleetExpired { fleet: fleet_id.to_owned() });
    }

    /// ValidUntil is reached, or a deleted fleet is to be forgotten.
    pub(crate) fn fleet_expired(&mut self, id: &str) {
        let Some(fleet) = self.fleet_mut(id) else { return };
        if fleet.ended.is_some() {
            if let Some(key) = self.fleet_index.remove(id) {
                self.fleets.remove(&key);
                self.tags.remove(id);
            }
            return;
        }
        if fleet.state.deleted() || fleet.expired {
            return;
        }
        fleet.expired = true;
        let terminate = fleet.terminate_on_expiry;
        let members: Vec<String> = fleet.members.keys().cloned().collect();
        self.note(id, "fleetRequestChange", "expired", String::new(), None);
        if terminate {
            for member in members {
                self.end_member(&member);
            }
        }
    }

    /// Maintain fleets that wait for capacity look again.
    pub(crate) fn fleets_look_again(&mut self) {
        let waiting: Vec<String> = self
            .fleets
            .values()
            .filter(|fleet| fleet.reconcile_at.is_some() && fleet.state == FleetState::Active)
            .map(|fleet| fleet.id.clone())
            .collect();
        for id in waiting {
            self.reconcile_soon(&id, self.rules.delays.fleet_replace_ms);
        }
    }

    /// Rebalance recommendation of a member: capacity rebalancing launches its replacement.
    pub(crate) fn rebalance_member(&mut self, instance: &str) {
        let Some(member) = self.instances.get(instance) else { return };
        let Some(fleet_id) = member.fleet.clone() else { return };
        let Some(fleet) = self.fleet(&fleet_id) else { return };
        let Some(strategy) = fleet.spot.rebalance.clone() else { return };
        if fleet.kind != FleetType::Maintain || fleet.state != FleetState::Active {
            return;
        }
        let delay = fleet.spot.rebalance_delay.unwrap_or(120) * crate::model::time::SECOND;
        let (weight, old_zone, old_type) = (member.weight, member.zone.clone(), member.facts.name);
        let Ok(mut candidates) = self.candidates(fleet, Lifecycle::Spot) else { return };
        candidates.retain(|candidate| candidate.zone != old_zone || candidate.launch.facts.name != old_type);
        let options = fleet.options(Lifecycle::Spot);
        let plan = self.plan(&candidates, Lifecycle::Spot, options, weight, &Planned::default());
        if plan.units < weight {
            return;
        }
        self.carry_out(&fleet_id, &candidates, &plan, Lifecycle::Spot, "");
        if strategy == "launch-before-terminate" {
            self.after(delay, Event::Replaced { instance: instance.to_owned() });
        }
    }

    /// Tags for the instances of an instant fleet's request.
    pub(crate) fn fleet_tags(specs: &[crate::model::launch_data::TagSpec]) -> TagList {
        specs.iter().filter(|spec| spec.resource_type == "fleet").flat_map(|spec| spec.tags.clone()).collect()
    }
}
