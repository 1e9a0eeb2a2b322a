// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2 as far as the controller can tell: fleets with tokens, instances with a life, lists that lag.

use std::collections::{BTreeMap, BTreeSet};

use ec2fleet_core::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, FleetReply, FleetType,
    Instance, InstanceState, LaunchedInstances, PoolError,
};
use ec2fleet_core::hostlist;
use ec2fleet_core::site::{Account, Lifecycle, NodeNaming};
use ec2fleet_core::tag;

use super::chaos::Fault;
use super::fleets::MaintainFleet;
use super::kernel::{Action, Kernel};
use super::plan::CLUSTER;

/// One instance.
#[derive(Clone, Debug)]
pub struct Machine {
    pub id: String,
    pub account: Account,
    pub ip: String,
    pub instance_type: String,
    pub subnet: String,
    pub lifecycle: Lifecycle,
    pub reservation: String,
    pub index: u32,
    pub launched: u64,
    running: u64,
    /// `private_ip` is shown from here on.
    addressed: u64,
    /// When its operating system came up.
    pub booted: u64,
    /// shutting-down and terminated, with the reason.
    end: Option<(u64, u64, String)>,
    /// The tags, each set with the moment from which it is shown.
    tags: Vec<(u64, BTreeMap<String, String>)>,
    /// Another cluster's instance, in the same account.
    pub foreign: bool,
    /// The name under which its slurmd runs.
    pub node: Option<String>,
    pub boot_fails: bool,
    /// Its slurmd starts late.
    pub slow: bool,
    /// The maintain fleet that holds it.
    pub fleet: Option<usize>,
    /// An interruption puts it to sleep.
    pub hibernates: bool,
    pub naps: Vec<Nap>,
    /// Addresses that it had before.
    pub past_ips: Vec<String>,
}

/// One sleep of an instance: stopping, stopped, then pending and running again.
#[derive(Clone, Copy, Debug)]
pub struct Nap {
    pub stopping: u64,
    pub stopped: u64,
    pub back: Option<(u64, u64)>,
}

impl Machine {
    /// Hibernated by EC2, or not yet back from that.
    pub fn is_asleep(&self, now: u64) -> bool {
        self.is_alive(now)
            && self
                .naps
                .iter()
                .any(|nap| nap.stopping <= now && nap.back.is_none_or(|(_, running)| now < running))
    }

    /// Alive, and its slurmd can answer.
    pub fn is_awake(&self, now: u64) -> bool {
        self.is_alive(now) && !self.is_asleep(now)
    }

    /// Still costs money, and its slurmd may run.
    pub fn is_alive(&self, now: u64) -> bool {
        self.end.as_ref().is_none_or(|(shutting, ..)| *shutting > now)
    }

    pub fn is_terminated(&self, now: u64) -> bool {
        self.end.as_ref().is_some_and(|(_, terminated, _)| *terminated <= now)
    }

    pub fn state_at(&self, at: u64) -> InstanceState {
        let nap = self.naps.iter().rev().find(|nap| nap.stopping <= at);
        match (&self.end, nap) {
            (Some((_, terminated, _)), _) if *terminated <= at => InstanceState::Terminated,
            (Some((shutting, ..)), _) if *shutting <= at => InstanceState::ShuttingDown,
            (_, Some(nap)) => match nap.back {
                Some((_, running)) if running <= at => InstanceState::Running,
                Some((pending, _)) if pending <= at => InstanceState::Pending,
                _ if nap.stopped <= at => InstanceState::Stopped,
                _ => InstanceState::Stopping,
            },
            _ if self.running <= at => InstanceState::Running,
            _ => InstanceState::Pending,
        }
    }

    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags[self.tags.len() - 1].1
    }

    fn tags_at(&self, at: u64) -> &BTreeMap<String, String> {
        let known = self.tags.iter().rev().find(|(since, _)| *since <= at);
        &known.unwrap_or(&self.tags[0]).1
    }

    /// As a describe shows it that looks at the state of `at`.
    pub fn shown(&self, at: u64) -> Instance {
        let state = self.state_at(at);
        Instance {
            id: self.id.clone(),
            state,
            private_ip: (self.addressed <= at && state != InstanceState::Terminated).then(|| self.ip.clone()),
            private_dns: None,
            instance_type: self.instance_type.clone(),
            zone: format!("{}a", self.account.region),
            subnet_id: Some(self.subnet.clone()),
            lifecycle: self.lifecycle,
            reservation_id: self.reservation.clone(),
            ami_launch_index: self.index,
            launch_unix_ms: self.launched,
            tags: self.tags_at(at).clone().into(),
            state_reason: match &self.end {
                Some((shutting, _, reason)) if *shutting <= at => Some(reason.clone()),
                _ => None,
            },
            spot_request_id: (self.fleet.is_some() && self.lifecycle == Lifecycle::Spot)
                .then(|| format!("sir-{}", self.id)),
        }
    }
}

#[derive(Default)]
pub struct Ec2 {
    pub machines: Vec<Machine>,
    /// Instances that are not terminated, by their place in `machines`.
    pub live: BTreeSet<usize>,
    tokens: BTreeMap<String, (CreateFleet, FleetReply)>,
    /// Instances that a pool has left; what is not named has plenty.
    capacity: BTreeMap<(String, String, String), u32>,
    used_ips: BTreeSet<u32>,
    instant_fleets: u64,
    pub fleets: Vec<MaintainFleet>,
    pub max_lag: u64,
    pub page: usize,
}

/// An EC2 error as `cloud` gives it.
pub fn error(class: ErrorClass, code: &str) -> CloudError {
    CloudError { class, code: code.into(), message: format!("{code} (simulated)"), request_id: None }
}

impl Ec2 {
    pub fn new(max_lag: u64, page: usize) -> Self {
        Self { max_lag, page, ..Self::default() }
    }

    /// The node group whose instance it is, by its tags or its fleet's.
    pub fn group_of(&self, number: usize) -> Option<&String> {
        let machine = &self.machines[number];
        let fleet = machine.fleet.map(|fleet| &self.fleets[fleet]);
        machine.tags().get(tag::GROUP).or_else(|| fleet.and_then(|fleet| fleet.tag(tag::GROUP)))
    }

    pub fn machine(&self, id: &str) -> Option<usize> {
        let index = usize::from_str_radix(id.strip_prefix("i-")?, 16).ok()?;
        (index < self.machines.len()).then_some(index)
    }

    pub fn perform(&mut self, k: &mut Kernel, account: &Account, request: &CloudRequest) -> CloudResult {
        match request {
            CloudRequest::CreateFleet(request) => self.create_fleet(k, account, request),
            CloudRequest::DescribeCluster { cluster } => self.describe_cluster(k, account, cluster),
            CloudRequest::DescribeInstances { ids } => Ok(self.describe_ids(k, account, ids)),
            CloudRequest::TerminateInstances { ids } => Ok(self.terminate(k, account, ids)),
            CloudRequest::CreateTags { ids, tags } => self.create_tags(k, account, ids, tags),
            CloudRequest::ModifyFleet {
                fleet_id,
                target,
                spot_target,
                on_demand_target,
                terminate_excess,
                template,
            } => {
                if spot_target.checked_add(*on_demand_target) != Some(*target) {
                    return Err(error(ErrorClass::Configuration, "InvalidTargetCapacitySpecification"));
                }
                self.modify_fleet(
                    k,
                    fleet_id,
                    (*spot_target, *on_demand_target),
                    *terminate_excess,
                    template.as_deref(),
                )
            }
            CloudRequest::DeleteFleets { ids, terminate_instances } => {
                Ok(self.delete_fleets(k, ids, *terminate_instances))
            }
            CloudRequest::DescribeFleets { cluster } => Ok(self.describe_fleets(k, account, cluster)),
            CloudRequest::DescribeFleetInstances { fleet_ids } => {
                Ok(self.describe_fleet_instances(k, account, fleet_ids))
            }
            CloudRequest::DescribeFleetHistory { fleet_id, start_unix_ms } => {
                self.describe_history(k, fleet_id, *start_unix_ms)
            }
            CloudRequest::CancelSpotInstanceRequests { ids } => Ok(self.cancel_requests(k, ids)),
            // What only the move of a hibernated instance asks for: no scenario has that.
            other => Err(error(ErrorClass::Configuration, other.action())),
        }
    }

    fn create_fleet(&mut self, k: &mut Kernel, account: &Account, request: &CreateFleet) -> CloudResult {
        if let Some((first, reply)) = self.tokens.get(&request.client_token) {
            return if first == request {
                Ok(CloudReply::Fleet(reply.clone()))
            } else {
                Err(error(ErrorClass::IdempotentMismatch, "IdempotentParameterMismatch"))
            };
        }
        if request.fleet_type == FleetType::Maintain {
            let reply = self.create_maintain_fleet(k, account, request);
            if let Ok(CloudReply::Fleet(reply)) = &reply {
                self.tokens.insert(request.client_token.clone(), (request.clone(), reply.clone()));
            }
            return reply;
        }
        self.instant_fleets += 1;
        let mut reply =
            FleetReply { fleet_id: format!("fleet-{}", self.instant_fleets), ..FleetReply::default() };
        let mut open = request.target;
        let minimum = match request.lifecycle {
            Lifecycle::Spot => request.spot_options.min_target_capacity,
            Lifecycle::OnDemand => request.on_demand_options.min_target_capacity,
        };
        let mut grants = Vec::new();
        for over in &request.overrides {
            let kind = over.instance_type.clone().unwrap_or_default();
            let subnet = over.subnet_id.clone().unwrap_or_default();
            let granted = self.room(account, &kind, &subnet).min(open);
            if granted < open {
                reply.errors.push(PoolError {
                    code: "InsufficientInstanceCapacity".into(),
                    message: format!("no {kind} in {subnet}"),
                    class: ErrorClass::Capacity,
                    lifecycle: request.lifecycle,
                    instance_type: Some(kind.clone()),
                    subnet_id: Some(subnet.clone()),
                    zone: None,
                });
            }
            if granted > 0 {
                grants.push((kind, subnet, granted));
                open -= granted;
            }
        }
        if minimum.is_some_and(|minimum| {
            u32::try_from(minimum).is_ok_and(|minimum| request.target - open < minimum)
        }) {
            grants.clear();
        }
        for (kind, subnet, count) in grants {
            let reservation = format!("r-{:x}-{kind}-{subnet}", self.instant_fleets);
            self.take_capacity(account, &kind, &subnet, count);
            let ids = (0..count)
                .map(|index| self.launch(k, account, request, (&kind, &subnet, &reservation), (None, index)))
                .collect();
            reply.instances.push(LaunchedInstances {
                ids,
                instance_type: kind,
                lifecycle: request.lifecycle,
                subnet_id: Some(subnet),
                zone: None,
            });
        }
        self.tokens.insert(request.client_token.clone(), (request.clone(), reply.clone()));
        Ok(CloudReply::Fleet(reply))
    }

    fn room(&self, account: &Account, kind: &str, subnet: &str) -> u32 {
        let pool = (account.region.clone(), kind.to_owned(), subnet.to_owned());
        self.capacity.get(&pool).copied().unwrap_or(u32::MAX)
    }

    /// Take up to `count` instances from a pool.
    pub(super) fn take_capacity(&mut self, account: &Account, kind: &str, subnet: &str, count: u32) -> u32 {
        let granted = self.room(account, kind, subnet).min(count);
        let pool = (account.region.clone(), kind.to_owned(), subnet.to_owned());
        if let Some(left) = self.capacity.get_mut(&pool) {
            *left -= granted;
        }
        granted
    }

    pub(super) fn launch(
        &mut self,
        k: &mut Kernel,
        account: &Account,
        request: &CreateFleet,
        (kind, subnet, reservation): (&str, &str, &str),
        (fleet, index): (Option<usize>, u32),
    ) -> String {
        let number = self.machines.len();
        let id = format!("i-{number:08x}");
        let running = k.now + k.between(1_000, 8_000);
        let slow = if k.strikes(Fault::SlowBoot, 0.05) { k.between(60_000, 400_000) } else { 0 };
        let addressed = if k.strikes(Fault::NoAddressYet, 0.3) { running + 2_000 } else { k.now };
        let booted = running + k.between(3_000, 10_000);
        let boot_fails = k.strikes(Fault::BootFailure, 0.05);
        let mut machine = Machine {
            id: id.clone(),
            account: account.clone(),
            ip: self.free_ip(k),
            instance_type: kind.into(),
            subnet: subnet.into(),
            lifecycle: request.lifecycle,
            reservation: reservation.into(),
            index,
            launched: k.now,
            running,
            addressed,
            booted,
            end: None,
            tags: vec![(k.now, request.instance_tags.clone())],
            foreign: request.fleet_tags.get(tag::CLUSTER).map(String::as_str) != Some(CLUSTER),
            node: None,
            boot_fails,
            slow: slow > 0,
            fleet,
            hibernates: request.spot_options.instance_interruption_behavior.as_deref() == Some("hibernate"),
            naps: Vec::new(),
            past_ips: Vec::new(),
        };
        if k.strikes(Fault::DeadOnArrival, 0.04) {
            let at = k.now + k.between(0, 20_000);
            machine.end = Some((at, at + 5_000, "Server.InternalError".into()));
            if let Some(fleet) = fleet {
                k.at(at, Action::Fulfil { fleet });
            }
        }
        if !boot_fails {
            let at = booted + slow + k.between(5_000, 60_000);
            k.at(at, Action::SlurmdStarts { instance: number });
        }
        k.note(|| format!("EC2 launches {id} at {} ({kind} {subnet})", machine.ip));
        self.machines.push(machine);
        self.live.insert(number);
        id
    }

    /// Addresses come from a small range, so that they are soon used again.
    pub(super) fn free_ip(&mut self, k: &mut Kernel) -> String {
        loop {
            let number = k.rng.u32(0..250);
            if self.used_ips.insert(number) {
                return format!("10.0.0.{number}");
            }
        }
    }

    /// Instances of another cluster, with the same node names.
    pub fn launch_foreign(&mut self, k: &mut Kernel, account: &Account, group: &str, node: &str) {
        let mut request = CreateFleet {
            client_token: format!("foreign-{node}"),
            fleet_type: FleetType::Instant,
            target: 1,
            lifecycle: Lifecycle::OnDemand,
            on_demand_options: Default::default(),
            spot_options: Default::default(),
            launch_template: Default::default(),
            overrides: Vec::new(),
            fleet_tags: BTreeMap::new(),
            instance_tags: BTreeMap::new(),
        };
        for (key, value) in [
            (tag::CLUSTER, "another"),
            (tag::PARTITION, "p"),
            (tag::GROUP, group),
            (tag::NODE, node),
            (tag::NAME, node),
        ] {
            request.instance_tags.insert(key.into(), value.into());
            request.fleet_tags.insert(key.into(), value.into());
        }
        let id = self.launch(k, account, &request, ("c5.large", "subnet-a", "r-foreign"), (None, 0));
        if let Some(number) = self.machine(&id) {
            let machine = &mut self.machines[number];
            machine.end = None;
            machine.boot_fails = true;
        }
    }

    pub(super) fn lag(&self, k: &mut Kernel) -> u64 {
        if self.max_lag > 0 && k.strikes(Fault::StaleList, 0.3) { k.between(0, self.max_lag) } else { 0 }
    }

    fn describe_cluster(&mut self, k: &mut Kernel, account: &Account, cluster: &str) -> CloudResult {
        self.forget_terminated(k.now);
        let mut instances = Vec::new();
        for number in self.live.clone() {
            let machine = &self.machines[number];
            let at = k.now.saturating_sub(self.lag(k));
            if machine.account != *account || at < machine.launched {
                continue;
            }
            let instance = machine.shown(at);
            if instance.tags.get(tag::CLUSTER) != Some(cluster) || instance.state.is_ended() {
                continue;
            }
            if k.strikes(Fault::MissingInstance, 0.01) {
                continue;
            }
            instances.push(instance);
        }
        if instances.len() > self.page && k.strikes(Fault::BrokenPage, 0.3) {
            return Err(error(ErrorClass::Transient, "PageFailed"));
        }
        Ok(CloudReply::Instances(instances))
    }

    fn describe_ids(&mut self, k: &mut Kernel, account: &Account, ids: &[String]) -> CloudReply {
        let mut instances = Vec::new();
        for id in ids {
            let Some(number) = self.machine(id) else { continue };
            let at = k.now.saturating_sub(self.lag(k));
            let machine = &self.machines[number];
            // EC2 shows a terminated instance for about an hour (EC2 user guide, "Terminate your instance").
            let forgotten = machine.end.as_ref().is_some_and(|(_, end, _)| end + 3_600_000 < k.now);
            if machine.account == *account && at >= machine.launched && !forgotten {
                instances.push(machine.shown(at));
            }
        }
        CloudReply::Instances(instances)
    }

    fn terminate(&mut self, k: &mut Kernel, account: &Account, ids: &[String]) -> CloudReply {
        let (mut terminated, mut unknown) = (Vec::new(), Vec::new());
        for id in ids {
            let known = self.machine(id).filter(|number| {
                let machine = &self.machines[*number];
                machine.account == *account && k.now.saturating_sub(self.lag(k)) >= machine.launched
            });
            if let Some(number) = known {
                self.end(k, number, "Client.UserInitiatedShutdown");
                terminated.push(id.clone());
            } else {
                unknown.push(id.clone());
            }
        }
        CloudReply::Terminated { terminated, unknown }
    }

    pub fn end(&mut self, k: &mut Kernel, number: usize, reason: &str) {
        let machine = &mut self.machines[number];
        if machine.end.as_ref().is_some_and(|(shutting, ..)| *shutting <= k.now) {
            return;
        }
        let gone = k.now + k.between(5_000, 60_000);
        machine.end = Some((k.now, gone, reason.into()));
        k.note(|| format!("EC2 ends {} ({reason})", machine.id));
        if let Some(fleet) = machine.fleet {
            self.plan_fulfilment(k, fleet);
        }
    }

    fn create_tags(
        &mut self,
        k: &mut Kernel,
        account: &Account,
        ids: &[String],
        tags: &BTreeMap<String, String>,
    ) -> CloudResult {
        let mut numbers = Vec::new();
        for id in ids {
            let at = k.now.saturating_sub(self.lag(k));
            match self.machine(id).filter(|number| {
                let machine = &self.machines[*number];
                machine.account == *account && at >= machine.launched && !machine.is_terminated(k.now)
            }) {
                Some(number) => numbers.push(number),
                None => return Err(error(ErrorClass::NotFound, "InvalidInstanceID.NotFound")),
            }
        }
        k.note(|| format!("EC2 tags {} with {tags:?}", ids.join(",")));
        for number in numbers {
            let machine = &mut self.machines[number];
            let mut all = machine.tags().clone();
            all.extend(tags.iter().map(|(key, value)| (key.clone(), value.clone())));
            if machine.tags.len() > 3 {
                machine.tags.remove(0);
            }
            machine.tags.push((k.now, all));
        }
        Ok(CloudReply::Tagged)
    }

    /// Take terminated instances off the books.
    pub fn forget_terminated(&mut self, now: u64) {
        let machines = &self.machines;
        let mut freed = Vec::new();
        self.live.retain(|number| {
            let alive = !machines[*number].is_terminated(now);
            if !alive {
                freed.push(machines[*number].ip.clone());
                freed.extend(machines[*number].past_ips.iter().cloned());
            }
            alive
        });
        for ip in freed {
            if let Some(number) = ip.rsplit('.').next().and_then(|last| last.parse::<u32>().ok()) {
                self.used_ips.remove(&number);
            }
        }
    }

    /// Every pool's capacity is drawn anew; without shortage there is plenty.
    pub fn draw_capacity(&mut self, k: &mut Kernel, pools: &[(String, String, String)]) {
        self.capacity.clear();
        for pool in pools {
            if k.strikes(Fault::Shortage, 0.4) {
                let left = k.rng.u32(0..=3);
                self.capacity.insert(pool.clone(), left);
            }
        }
    }

    /// The node name that this instance finds in its own tags, as deploy/node/ec2fleet-node reads them.
    pub fn own_name(&self, number: usize, naming: NodeNaming) -> Option<String> {
        let machine = &self.machines[number];
        let tags = machine.tags();
        if naming == NodeNaming::NameTag {
            return tags.get(tag::NAME).cloned();
        }
        match tags.get(tag::NODES) {
            Some(list) => hostlist::expand(list).ok()?.into_iter().nth(machine.index as usize),
            None => tags.get(tag::NODE).cloned(),
        }
    }
}

impl Ec2 {
    /// What a careless reader makes of an id that EC2 did not name.
    pub fn as_terminated(&self, id: &str) -> Option<Instance> {
        let machine = &self.machines[self.machine(id)?];
        Some(Instance { state: InstanceState::Terminated, ..machine.shown(u64::MAX / 2) })
    }
}
