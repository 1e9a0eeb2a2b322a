// SPDX-License-Identifier: GPL-3.0-or-later
//! Launches: what may be launched, and making it: instance, volumes, interfaces, Spot request.

use std::net::Ipv4Addr;

use crate::api::error::ApiError;
use crate::control::scenario::{BootOutcome, matches};
use crate::model::capacity::{Lifecycle, PoolKey};
use crate::model::catalog::TypeFacts;
use crate::model::fleet_plan::Planned;
use crate::model::instance::{Instance, State};
use crate::model::interface::Interface;
use crate::model::launch_data::{LaunchData, TagList, merge_tags};
use crate::model::region::{Event, Region};
use crate::model::storage::{Attachment, Volume};
use crate::model::time::Millis;

/// What to launch: one type in one subnet.
#[derive(Debug, Clone)]
pub struct Launch {
    pub facts: &'static TypeFacts,
    pub subnet: String,
    pub lifecycle: Lifecycle,
    /// With every override applied.
    pub data: LaunchData,
    pub fleet: Option<String>,
    pub weight: f64,
    pub template: Option<(String, u64)>,
    pub client_token: String,
    /// Spot: keep the request after an interruption.
    pub persistent: bool,
    /// Each instance in a reservation of its own.
    pub alone: bool,
}

impl Launch {
    pub fn pool(&self, zone: &str) -> PoolKey {
        PoolKey { instance_type: self.facts.name, zone: zone.to_owned(), lifecycle: self.lifecycle }
    }

    pub fn interruption(&self) -> &str {
        self.data.spot.interruption.as_deref().unwrap_or("terminate")
    }
}

impl Region {
    /// How many of `wanted` instances can be launched now beside the ones planned, and why not more.
    pub(crate) fn admit(&self, launch: &Launch, wanted: u32, planned: &Planned) -> (u32, Option<ApiError>) {
        if let Some(denied) = &self.launch_denied {
            return (0, Some(denied.clone()));
        }
        let mut granted = wanted;
        let mut why = None;
        if let Err(error) = self.check_launch(launch) {
            return (0, Some(error));
        }
        let Some(subnet) = self.subnet(&launch.subnet) else {
            return (
                0,
                Some(ApiError::new(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet ID '{}' does not exist", launch.subnet),
                )),
            );
        };
        let key = launch.pool(&subnet.zone);
        if launch.lifecycle == Lifecycle::Spot
            && let Some(bid) = &launch.data.spot.max_price
        {
            let price = self.pools.price(&key, launch.facts);
            if bid.parse::<f64>().is_ok_and(|bid| bid < price) {
                return (
                    0,
                    Some(ApiError::new(
                        "SpotMaxPriceTooLow",
                        format!(
                            "Your Spot request price of {bid} is lower than the minimum required Spot request fulfillment price of {price:.4}."
                        ),
                    )),
                );
            }
        }
        let reserved = self.reserved_slots(launch, &subnet.zone);
        let mut bound = |count: u32, error: ApiError| {
            if count < granted {
                granted = count;
                why = Some(error);
            }
        };
        if let Some(id) = &launch.data.reservation_id {
            bound(
                reserved.saturating_sub(planned.in_pool(&key)),
                ApiError::new(
                    "ReservationCapacityExceeded",
                    format!(
                        "The requested Capacity Reservation '{id}' does not have sufficient compatible and available capacity for this request."
                    ),
                ),
            );
        } else if let Some(free) = self.pools.free(&key) {
            bound(free.saturating_add(reserved).saturating_sub(planned.in_pool(&key)), no_capacity(&key));
        }
        for spec in &launch.data.interfaces {
            if let Some(error) = spec.interface_id.as_deref().and_then(|id| self.free_interface(id).err()) {
                bound(0, error);
            }
        }
        let (count, error) = self.quota_left(launch, planned);
        if let Some(count) = count {
            bound(count, error);
        }
        if launch.data.interfaces.iter().any(|spec| spec.index == 0 && spec.interface_id.is_some()) {
            return (granted, why);
        }
        bound(
            subnet.free().saturating_sub(planned.in_subnet(&subnet.id)),
            ApiError::new(
                "InsufficientFreeAddressesInSubnet",
                format!(
                    "There are not enough free addresses in subnet '{}' to satisfy the requested number of instances.",
                    subnet.id
                ),
            ),
        );
        (granted, why)
    }

    /// Parameters that make a launch impossible whatever the capacity.
    fn check_launch(&self, launch: &Launch) -> Result<(), ApiError> {
        let facts = launch.facts;
        let Some(image) = &launch.data.image else {
            return Err(ApiError::missing("ImageId"));
        };
        let image = self.image(image)?;
        if !image.architecture.is_empty() && image.architecture != facts.architecture {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!(
                    "The architecture '{}' of the specified instance type does not match the architecture '{}' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
                    facts.architecture, image.architecture
                ),
            ));
        }
        for group in &launch.data.groups {
            self.check_group(group)?;
        }
        if launch.lifecycle == Lifecycle::Spot && !facts.sold_as_spot() {
            return Err(ApiError::new(
                "Unsupported",
                format!("The instance type '{}' is not available as a Spot Instance.", facts.name),
            ));
        }
        if launch.data.hibernation == Some(true) {
            if !facts.hibernation {
                return Err(ApiError::new(
                    "UnsupportedHibernationConfiguration",
                    format!("Hibernation is not supported for the instance type '{}'.", facts.name),
                ));
            }
            let root = self.root_device(&launch.data, &image);
            if root.encrypted != Some(true) {
                return Err(ApiError::new(
                    "UnsupportedHibernationConfiguration",
                    "The root volume must be encrypted to enable hibernation.",
                ));
            }
            let size = root.size.unwrap_or_else(|| i64::from(image.root_gib));
            if u64::try_from(size).unwrap_or(0) * 1024 < facts.memory_mib {
                return Err(ApiError::new(
                    "UnsupportedHibernationConfiguration",
                    format!(
                        "The root volume of {size} GiB has no room for {} MiB of memory.",
                        facts.memory_mib
                    ),
                ));
            }
        } else if launch.lifecycle == Lifecycle::Spot
            && launch.fleet.is_none()
            && launch.interruption() == "hibernate"
        {
            return Err(ApiError::combination(
                "InstanceInterruptionBehavior 'hibernate' needs an instance that is configured for hibernation.",
            ));
        }
        if let Some(group) = &launch.data.placement.group
            && !self.placement_groups.contains_key(group)
        {
            return Err(ApiError::new(
                "InvalidPlacementGroup.Unknown",
                format!("The Placement Group '{group}' is unknown."),
            ));
        }
        Ok(())
    }

    fn quota_left(&self, launch: &Launch, planned: &Planned) -> (Option<u32>, ApiError) {
        let limits = &self.rules.limits;
        let vcpus = u64::from(launch.facts.vcpus).max(1);
        let used = |lifecycle: Lifecycle| {
            self.instances
                .iter()
                .filter(|instance| instance.lifecycle == lifecycle && instance.state.alive())
                .map(|instance| (1, u64::from(instance.facts.vcpus)))
                .fold((planned.count(lifecycle), planned.vcpus(lifecycle)), |(n, v), (one, more)| {
                    (n + one, v + more)
                })
        };
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        match launch.lifecycle {
            Lifecycle::OnDemand => {
                let error = |limit: u64| {
                    ApiError::new(
                        "VcpuLimitExceeded",
                        format!(
                            "You have requested more vCPU capacity than your current vCPU limit of {limit} allows for the instance bucket that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
                        ),
                    )
                };
                let left = limits
                    .on_demand_vcpus
                    .map(|limit| narrow(limit.saturating_sub(used(Lifecycle::OnDemand).1) / vcpus));
                (left, error(limits.on_demand_vcpus.unwrap_or_default()))
            }
            Lifecycle::Spot => {
                let error = ApiError::new("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded");
                if limits.spot_vcpus.is_none() && limits.spot_instances.is_none() {
                    return (None, error);
                }
                let (count, cpus) = used(Lifecycle::Spot);
                let by_cpus = limits.spot_vcpus.map(|limit| limit.saturating_sub(cpus) / vcpus);
                let by_count = limits.spot_instances.map(|limit| limit.saturating_sub(count));
                let left = by_cpus.into_iter().chain(by_count).min().map(narrow);
                (left, error)
            }
        }
    }

    /// Launches `count` instances that were admitted; gives their ids in launch-index order.
    pub(crate) fn launch(&mut self, launch: &Launch, count: u32) -> Vec<String> {
        let mut reservation = self.new_id("r");
        let mut ids = Vec::with_capacity(count as usize);
        for index in 0..count {
            let mut index = index;
            if launch.alone || self.rules.reservation_per_instance {
                if index > 0 {
                    reservation = self.new_id("r");
                }
                index = 0;
            }
            match self.launch_one(launch, &reservation, index) {
                Some(id) => ids.push(id),
                None => break,
            }
        }
        ids
    }

    fn launch_one(&mut self, launch: &Launch, reservation: &str, index: u32) -> Option<String> {
        let wanted_ip: Option<Ipv4Addr> = launch
            .data
            .interfaces
            .iter()
            .find(|interface| interface.index == 0)
            .and_then(|interface| interface.private_ip.as_ref())
            .and_then(|text| text.parse().ok());
        // An existing interface brings its address along.
        let brought: Option<Ipv4Addr> = launch
            .data
            .interfaces
            .iter()
            .find(|interface| interface.index == 0)
            .and_then(|interface| self.interfaces.get(interface.interface_id.as_ref()?))
            .map(|interface| interface.private_ip);
        let subnet = self.subnet_mut(&launch.subnet)?;
        let private_ip = match (brought, wanted_ip) {
            (Some(ip), _) => ip,
            (None, Some(ip)) => subnet.take_this(ip).then_some(ip)?,
            (None, None) => subnet.take()?,
        };
        let (zone, zone_id, vpc) = (subnet.zone.clone(), subnet.zone_id.clone(), subnet.vpc.clone());
        let id = self.new_id("i");
        let groups = self.groups_of(&launch.data);
        let key = launch.pool(&zone);
        let reservation_used = self.take_reserved_slot(launch, &zone);
        let holds_capacity = reservation_used.is_none();
        if holds_capacity {
            self.pools.take(&key);
        }
        let visible_at = self.now + self.random_up_to(self.rules.consistency_ms);
        let mut tags = launch.data.tags_for("instance");
        let mut system: TagList = Vec::new();
        if let Some(fleet) = &launch.fleet {
            system.push(("aws:ec2:fleet-id".to_owned(), fleet.clone()));
        }
        if let Some((template, version)) = &launch.template {
            system.push(("aws:ec2launchtemplate:id".to_owned(), template.clone()));
            system.push(("aws:ec2launchtemplate:version".to_owned(), version.to_string()));
        }
        merge_tags(&mut tags, &system);
        if !tags.is_empty() {
            self.tags.insert(id.clone(), tags.clone());
        }
        let mut instance = Instance {
            seq: self.instances.next_seq(),
            reservation: reservation.to_owned(),
            launch_index: index,
            facts: launch.facts,
            image: launch.data.image.clone().unwrap_or_default(),
            zone: zone.clone(),
            zone_id,
            subnet: launch.subnet.clone(),
            vpc: vpc.clone(),
            private_ip,
            lifecycle: launch.lifecycle,
            state: State::Pending,
            step: 0,
            launched: self.now,
            first_launched: self.now,
            running_since: None,
            visible_at,
            reason: None,
            transition: String::new(),
            spot_request: None,
            fleet: launch.fleet.clone(),
            weight: launch.weight,
            client_token: launch.client_token.clone(),
            interfaces: Vec::new(),
            volumes: Vec::new(),
            root_device: String::new(),
            memory_of: id.clone(),
            groups: groups.clone(),
            holds_capacity,
            capacity_reservation: reservation_used,
            hibernated: false,
            interrupted: false,
            notice: None,
            held_until: None,
            rebalance: None,
            impaired: None,
            maintenance: Vec::new(),
            boot_failure: false,
            terminated_at: None,
            launch_tags: tags,
            data: launch.data.clone(),
            id: id.clone(),
        };
        if launch.lifecycle == Lifecycle::Spot {
            instance.spot_request = Some(self.open_spot_request(launch, &id, &zone));
        }
        self.make_volumes(&mut instance);
        self.make_interfaces(&mut instance, &vpc, groups);
        let mut delay = self.rules.delays.pending_ms + self.random_up_to(self.rules.delays.pending_jitter_ms);
        match self.boot_outcome(&instance) {
            None => {}
            Some(BootOutcome::Slow(more)) => delay += more,
            Some(BootOutcome::Terminated) => instance.boot_failure = true,
            Some(BootOutcome::Impaired) => instance.impaired = Some(self.now),
        }
        self.after(delay, Event::Pending { instance: id.clone(), step: 0 });
        self.instances.insert(instance);
        Some(id)
    }

    pub(crate) fn random_up_to(&mut self, most: Millis) -> Millis {
        if most > 0 { self.rng.i64(0..=most) } else { 0 }
    }

    fn boot_outcome(&mut self, instance: &Instance) -> Option<BootOutcome> {
        for rule in &self.rules.boots {
            if matches(&rule.instance_type, instance.facts.name)
                && matches(&rule.zone, &instance.zone)
                && matches(&rule.lifecycle, instance.lifecycle.name())
                && (rule.rate >= 1.0 || self.rng.f64() < rule.rate)
            {
                return Some(rule.outcome);
            }
        }
        None
    }

    fn make_volumes(&mut self, instance: &mut Instance) {
        let Ok(image) = self.image(&instance.image) else {
            return;
        };
        let root = self.root_device(&instance.data, &image);
        instance.root_device.clone_from(&root.device);
        let mut devices = vec![root.clone()];
        devices.extend(
            instance
                .data
                .block_devices
                .iter()
                .filter(|device| {
                    device.device != root.device && !device.no_device && device.virtual_name.is_none()
                })
                .cloned(),
        );
        let tags = instance.data.tags_for("volume");
        for (at, device) in devices.into_iter().enumerate() {
            let id = self.new_id("vol");
            if !tags.is_empty() {
                self.tags.insert(id.clone(), tags.clone());
            }
            self.volumes.insert(
                id.clone(),
                Volume {
                    id: id.clone(),
                    zone: instance.zone.clone(),
                    size: device.size.unwrap_or(8),
                    volume_type: device.volume_type.clone().unwrap_or_else(|| "gp3".to_owned()),
                    iops: device.iops,
                    throughput: device.throughput,
                    encrypted: device.encrypted.unwrap_or(false),
                    snapshot: device.snapshot.clone(),
                    created: self.now,
                    attachment: Some(Attachment {
                        instance: instance.id.clone(),
                        device: device.device.clone(),
                        since: self.now,
                        delete_on_termination: device.delete_on_termination.unwrap_or(at == 0),
                        state: "attached",
                    }),
                    memory: None,
                },
            );
            instance.volumes.push((device.device, id));
        }
    }

    fn make_interfaces(&mut self, instance: &mut Instance, vpc: &str, groups: Vec<String>) {
        let mut specs = instance.data.interfaces.clone();
        specs.sort_by_key(|spec| (spec.network_card.unwrap_or(0), spec.index));
        if specs.is_empty() {
            specs.push(crate::model::launch_data::InterfaceSpec::default());
        }
        let tags = instance.data.tags_for("network-interface");
        for (at, spec) in specs.into_iter().enumerate() {
            if let Some(id) = &spec.interface_id {
                self.take_interface(instance, id, spec.index);
                continue;
            }
            let private_ip = if at == 0 {
                instance.private_ip
            } else {
                let Some(ip) = self.take_address(&instance.subnet) else {
                    break;
                };
                ip
            };
            let id = self.new_id("eni");
            if !tags.is_empty() {
                self.tags.insert(id.clone(), tags.clone());
            }
            let interface = Interface {
                id: id.clone(),
                subnet: instance.subnet.clone(),
                vpc: vpc.to_owned(),
                zone: instance.zone.clone(),
                private_ip,
                mac: self.new_mac(),
                groups: if spec.groups.is_empty() { groups.clone() } else { spec.groups },
                description: spec.description.unwrap_or_default(),
                interface_type: spec.interface_type.unwrap_or_else(|| "interface".to_owned()),
                source_dest_check: true,
                network_card: spec.network_card.unwrap_or(0),
                attachment_id: self.new_id("eni-attach"),
                attachment: Some(Attachment {
                    instance: instance.id.clone(),
                    device: spec.index.to_string(),
                    since: self.now,
                    delete_on_termination: spec.delete_on_termination.unwrap_or(true),
                    state: "attached",
                }),
            };
            self.interfaces.insert(id.clone(), interface);
            instance.interfaces.push(id);
        }
    }

    /// An existing interface that the launch brought along; it outlives the instance ("Attach a network interface").
    fn take_interface(&mut self, instance: &mut Instance, id: &str, index: i64) {
        let attachment_id = self.new_id("eni-attach");
        let now = self.now;
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        interface.attachment_id = attachment_id;
        interface.attachment = Some(Attachment {
            instance: instance.id.clone(),
            device: index.to_string(),
            since: now,
            delete_on_termination: false,
            state: "attached",
        });
        instance.groups.clone_from(&interface.groups);
        instance.interfaces.push(id.to_owned());
    }

    pub(crate) fn new_mac(&mut self) -> String {
        let mut mac = "06".to_owned();
        for _ in 0..5 {
            mac.push_str(&format!(":{:02x}", self.rng.u8(..)));
        }
        mac
    }
}

pub(crate) fn no_capacity(key: &PoolKey) -> ApiError {
    let message = match key.lifecycle {
        Lifecycle::Spot => "There is no Spot capacity available that matches your request.".to_owned(),
        Lifecycle::OnDemand => format!(
            "We currently do not have sufficient {} capacity in the Availability Zone you requested ({}). Our system will be working on provisioning additional capacity.",
            key.instance_type, key.zone
        ),
    };
    ApiError::new("InsufficientInstanceCapacity", message)
}
