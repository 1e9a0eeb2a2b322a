// SPDX-License-Identifier: GPL-3.0-or-later
//! Maintain fleets: capacity that EC2 keeps at a target, and Spot instances that it puts to sleep.
//!
//! From the EC2 user guide ("EC2 Fleet request types", "Hibernate interrupted Spot Instances", "Modify an EC2 Fleet")
//! and the API reference: fulfilment is asynchronous and says nothing of a shortage; what is lost is replaced, also
//! what sleeps, where another pool has room; only EC2 wakes what EC2 put to sleep; deleting a fleet ends its
//! sleepers too; ModifyFleet has no client token, and a fleet that is `modifying` refuses another one.

use std::collections::BTreeMap;

use ec2fleet_core::ec2_api::{
    CloudReply, CloudResult, CreateFleet, ErrorClass, Fleet, FleetHistoryRecord, FleetReply, FleetTemplate,
    InstanceState,
};
use ec2fleet_core::site::{Account, Lifecycle};
use ec2fleet_core::tag;

use super::chaos::Fault;
use super::ec2::{Ec2, Nap, error};
use super::kernel::{Action, Kernel};

/// EC2's own tag on the instances of a maintain fleet (EC2 user guide, "Tag an EC2 Fleet").
pub const FLEET_ID: &str = "aws:ec2:fleet-id";

/// Events are shown this long after they happened at the latest (API_DescribeFleetHistory).
const HISTORY_DELAY_MS: u64 = 30_000;

/// One fleet of type maintain.
#[derive(Clone, Debug)]
pub struct MaintainFleet {
    pub id: String,
    pub account: Account,
    pub request: CreateFleet,
    pub created: u64,
    pub spot_target: u32,
    pub on_demand_target: u32,
    modifying: Option<(u64, u64)>,
    pub deleted: Option<u64>,
    fulfil_planned: bool,
    history: Vec<(u64, FleetHistoryRecord)>,
}

impl MaintainFleet {
    pub fn is_active(&self) -> bool {
        self.deleted.is_none()
    }

    pub fn target(&self) -> u32 {
        self.spot_target.saturating_add(self.on_demand_target)
    }

    pub fn tag(&self, key: &str) -> Option<&String> {
        self.request.fleet_tags.get(key)
    }

    fn state_at(&self, at: u64) -> &'static str {
        match self.modifying {
            Some((from, until)) if from <= at && at < until => "modifying",
            _ if at < self.created + 2_000 => "submitted",
            _ => "active",
        }
    }

    fn note(&mut self, k: &Kernel, event_type: &str, sub_type: &str, instance_id: Option<String>) {
        let record = FleetHistoryRecord {
            unix_ms: k.unix_ms(),
            event_type: event_type.into(),
            event_sub_type: sub_type.into(),
            description: String::new(),
            instance_id,
        };
        self.history.push((k.now, record));
    }
}

impl Ec2 {
    pub fn fleet(&self, id: &str) -> Option<usize> {
        let number = id.strip_prefix("fleet-m")?.parse().ok()?;
        (number < self.fleets.len()).then_some(number)
    }

    pub(super) fn create_maintain_fleet(
        &mut self,
        k: &mut Kernel,
        account: &Account,
        request: &CreateFleet,
    ) -> CloudResult {
        let number = self.fleets.len();
        let (spot_target, on_demand_target) = match request.lifecycle {
            Lifecycle::Spot => (request.target, 0),
            Lifecycle::OnDemand => (0, request.target),
        };
        let fleet = MaintainFleet {
            id: format!("fleet-m{number}"),
            account: account.clone(),
            request: request.clone(),
            created: k.now,
            spot_target,
            on_demand_target,
            modifying: None,
            deleted: None,
            fulfil_planned: false,
            history: Vec::new(),
        };
        k.note(|| format!("EC2 makes {} with target {} {:?}", fleet.id, request.target, request.fleet_tags));
        let reply = FleetReply { fleet_id: fleet.id.clone(), ..FleetReply::default() };
        self.fleets.push(fleet);
        self.plan_fulfilment(k, number);
        Ok(CloudReply::Fleet(reply))
    }

    pub(super) fn plan_fulfilment(&mut self, k: &mut Kernel, number: usize) {
        let fleet = &mut self.fleets[number];
        if !fleet.is_active() || fleet.fulfil_planned {
            return;
        }
        fleet.fulfil_planned = true;
        let late = k.strikes(Fault::LateFulfilment, 0.1);
        let delay = if late { k.between(30_000, 300_000) } else { k.between(1_000, 15_000) };
        k.after(delay, Action::Fulfil { fleet: number });
    }

    /// EC2 looks whether the fleet has what it should have.
    pub fn fulfil(&mut self, k: &mut Kernel, number: usize) {
        self.fleets[number].fulfil_planned = false;
        if !self.fleets[number].is_active() {
            return;
        }
        let mut again = false;
        for lifecycle in [Lifecycle::OnDemand, Lifecycle::Spot] {
            let fleet = &self.fleets[number];
            let target = match lifecycle {
                Lifecycle::Spot => fleet.spot_target,
                Lifecycle::OnDemand => fleet.on_demand_target,
            };
            let have = self.awake_in_fleet(k.now, number, lifecycle);
            let mut open = target.saturating_sub(have);
            let (account, mut request) = (fleet.account.clone(), fleet.request.clone());
            request.lifecycle = lifecycle;
            request.instance_tags = BTreeMap::from([(FLEET_ID.to_owned(), fleet.id.clone())]);
            for over in request.overrides.clone() {
                let kind = over.instance_type.unwrap_or_default();
                let subnet = over.subnet_id.unwrap_or_default();
                // A pool from which EC2 took instances back has none to give, and wakes its sleepers first.
                let asleep =
                    lifecycle == Lifecycle::Spot && self.has_sleeper(k.now, &account, &kind, &subnet);
                let granted = if asleep { 0 } else { self.take_capacity(&account, &kind, &subnet, open) };
                open -= granted;
                for index in 0..granted {
                    let reservation = format!("r-{:x}", self.machines.len());
                    let id = self.launch(
                        k,
                        &account,
                        &request,
                        (&kind, &subnet, &reservation),
                        (Some(number), index),
                    );
                    self.fleets[number].note(k, "instanceChange", "launched", Some(id));
                }
            }
            again |= open > 0;
        }
        if again {
            self.fleets[number].fulfil_planned = true;
            let delay = k.between(10_000, 60_000);
            k.after(delay, Action::Fulfil { fleet: number });
        }
    }

    fn awake_in_fleet(&self, now: u64, number: usize, lifecycle: Lifecycle) -> u32 {
        let count = self.in_fleet(number).filter(|machine| {
            let machine = &self.machines[*machine];
            machine.lifecycle == lifecycle && machine.is_awake(now)
        });
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    }

    /// Instances of a fleet that are not terminated.
    pub fn in_fleet(&self, number: usize) -> impl Iterator<Item = usize> {
        self.live.iter().copied().filter(move |machine| self.machines[*machine].fleet == Some(number))
    }

    fn has_sleeper(&self, now: u64, account: &Account, kind: &str, subnet: &str) -> bool {
        self.live.iter().map(|number| &self.machines[*number]).any(|machine| {
            machine.is_asleep(now)
                && machine.account == *account
                && machine.instance_type == kind
                && machine.subnet == subnet
        })
    }

    pub(super) fn modify_fleet(
        &mut self,
        k: &mut Kernel,
        fleet_id: &str,
        (spot, on_demand): (u32, u32),
        terminate_excess: bool,
        template: Option<&FleetTemplate>,
    ) -> CloudResult {
        let known = self.fleet(fleet_id).filter(|number| self.fleets[*number].is_active());
        let Some(number) = known else {
            return Err(error(ErrorClass::NotFound, "InvalidFleetId.NotFound"));
        };
        let fleet = &mut self.fleets[number];
        if fleet.state_at(k.now) == "modifying" {
            return Err(error(ErrorClass::Other, "FleetNotInModifiableState"));
        }
        k.note(|| format!("EC2 sets the target of {fleet_id} to {spot} Spot and {on_demand} on-demand"));
        if let Some(template) = template {
            fleet.request.launch_template = template.launch_template.clone();
            fleet.request.overrides.clone_from(&template.overrides);
        }
        fleet.spot_target = spot;
        fleet.on_demand_target = on_demand;
        let until = k.now + k.between(500, 15_000);
        fleet.modifying = Some((k.now, until));
        fleet.note(k, "fleetRequestChange", "modify_in_progress", None);
        if terminate_excess {
            let excess = self.in_fleet(number).skip((spot + on_demand) as usize).collect::<Vec<_>>();
            for machine in excess {
                self.end(k, machine, "Server.SpotInstanceTermination");
            }
        }
        self.plan_fulfilment(k, number);
        Ok(CloudReply::Modified)
    }

    pub(super) fn delete_fleets(&mut self, k: &mut Kernel, ids: &[String], terminate: bool) -> CloudReply {
        let (mut deleted, mut failed) = (Vec::new(), Vec::new());
        for id in ids {
            let Some(number) = self.fleet(id) else {
                failed.push((id.clone(), "fleetIdDoesNotExist".to_owned()));
                continue;
            };
            deleted.push(id.clone());
            if !self.fleets[number].is_active() {
                continue;
            }
            k.note(|| format!("EC2 deletes {id}"));
            self.fleets[number].deleted = Some(k.now);
            if terminate {
                for machine in self.in_fleet(number).collect::<Vec<_>>() {
                    self.end(k, machine, "Client.UserInitiatedShutdown");
                }
            }
        }
        CloudReply::Deleted { deleted, failed }
    }

    pub(super) fn describe_fleets(&self, k: &mut Kernel, account: &Account, cluster: &str) -> CloudReply {
        let mut fleets = Vec::new();
        for (number, fleet) in self.fleets.iter().enumerate() {
            let mine =
                fleet.account == *account && fleet.tag(tag::CLUSTER).map(String::as_str) == Some(cluster);
            // Whatever is older than any lag needs no dice.
            if !mine || fleet.deleted.is_some_and(|at| at + self.max_lag < k.now) {
                continue;
            }
            let at = k.now.saturating_sub(self.lag(k));
            if at < fleet.created || fleet.deleted.is_some_and(|deleted| deleted <= at) {
                continue;
            }
            let fulfilled = self.awake_in_fleet(k.now, number, Lifecycle::Spot)
                + self.awake_in_fleet(k.now, number, Lifecycle::OnDemand);
            fleets.push(Fleet {
                id: fleet.id.clone(),
                state: fleet.state_at(at).into(),
                activity: None,
                target: fleet.target(),
                fulfilled: f64::from(fulfilled),
                client_token: Some(fleet.request.client_token.clone()),
                tags: fleet.request.fleet_tags.clone(),
            });
        }
        CloudReply::Fleets(fleets)
    }

    pub(super) fn describe_fleet_instances(
        &self,
        k: &mut Kernel,
        account: &Account,
        fleet_ids: &[String],
    ) -> CloudReply {
        let mut instances = Vec::new();
        for number in fleet_ids.iter().filter_map(|id| self.fleet(id)) {
            for machine in self.in_fleet(number) {
                let machine = &self.machines[machine];
                let at = k.now.saturating_sub(self.lag(k));
                let shown = machine.account == *account && at >= machine.launched;
                if shown && !machine.state_at(at).is_ended() && !k.strikes(Fault::MissingInstance, 0.01) {
                    instances.push(machine.shown(at));
                }
            }
        }
        CloudReply::Instances(instances)
    }

    pub(super) fn describe_history(&self, k: &mut Kernel, id: &str, since_unix_ms: u64) -> CloudResult {
        let Some(number) = self.fleet(id) else {
            return Err(error(ErrorClass::NotFound, "InvalidFleetId.NotFound"));
        };
        let delay = k.between(0, HISTORY_DELAY_MS);
        let shown = self.fleets[number]
            .history
            .iter()
            .filter(|(at, record)| *at + delay <= k.now && record.unix_ms >= since_unix_ms);
        Ok(CloudReply::History(shown.map(|(_, record)| record.clone()).collect()))
    }

    /// A cancelled request leaves what runs alone, and ends what sleeps.
    pub(super) fn cancel_requests(&mut self, k: &mut Kernel, ids: &[String]) -> CloudReply {
        for id in ids {
            let machine = id.strip_prefix("sir-").and_then(|instance| self.machine(instance));
            if let Some(machine) = machine.filter(|machine| self.machines[*machine].is_asleep(k.now)) {
                self.end(k, machine, "Client.UserInitiatedShutdown");
            }
        }
        CloudReply::Cancelled
    }

    /// EC2 takes a Spot instance back: for good, or until there is room again.
    pub fn take_back(&mut self, k: &mut Kernel, number: usize, back_in: u64) {
        let machine = &mut self.machines[number];
        if !machine.hibernates || machine.lifecycle != Lifecycle::Spot {
            self.end(k, number, "Server.SpotInstanceTermination");
            return;
        }
        if machine.state_at(k.now) != InstanceState::Running || machine.is_asleep(k.now) {
            return;
        }
        k.chaos.note(Fault::Hibernation, k.now);
        let stopped = k.now + k.between(5_000, 60_000);
        machine.naps.push(Nap { stopping: k.now, stopped, back: None });
        k.note(|| format!("EC2 hibernates {}", machine.id));
        k.at(stopped + back_in, Action::Awaken { instance: number });
        if let Some(fleet) = machine.fleet {
            self.plan_fulfilment(k, fleet);
        }
    }

    /// There is room again for an instance that sleeps.
    pub fn awaken(&mut self, k: &mut Kernel, number: usize) {
        let machine = &mut self.machines[number];
        if !machine.is_asleep(k.now) || machine.naps.last().is_none_or(|nap| nap.back.is_some()) {
            return;
        }
        let running = k.now + k.between(3_000, 30_000);
        if let Some(nap) = machine.naps.last_mut() {
            nap.back = Some((k.now, running));
        }
        // The guide promises the same private address; whoever relies on that is wrong once in a while.
        let moved = k.strikes(Fault::NewAddress, 0.2).then(|| self.free_ip(k));
        let machine = &mut self.machines[number];
        if let Some(ip) = moved {
            machine.past_ips.push(std::mem::replace(&mut machine.ip, ip));
        }
        k.note(|| format!("EC2 wakes {} at {}", machine.id, machine.ip));
    }
}
