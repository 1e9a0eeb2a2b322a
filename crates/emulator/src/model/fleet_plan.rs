// SPDX-License-Identifier: GPL-3.0-or-later
//! How a fleet's target becomes launches: candidates, allocation strategies, plans.

use std::collections::{HashMap, VecDeque};

use crate::api::error::ApiError;
use crate::model::capacity::{Lifecycle, PoolKey};
use crate::model::fleet::{Fleet, FleetError, FleetLaunch, FleetType, Options, Override};
use crate::model::launch::Launch;
use crate::model::region::Region;

/// One way to launch: an override in one subnet with one type.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub config: usize,
    pub over: usize,
    pub launch: Launch,
    pub zone: String,
    pub weight: f64,
    pub priority: f64,
}

/// What a plan has already given away; it is not launched yet.
#[derive(Debug, Default, Clone)]
pub(crate) struct Planned {
    pools: HashMap<PoolKey, u32>,
    subnets: HashMap<String, u32>,
    vcpus: HashMap<Lifecycle, u64>,
    counts: HashMap<Lifecycle, u64>,
    price: f64,
}

impl Planned {
    pub fn in_pool(&self, key: &PoolKey) -> u32 {
        self.pools.get(key).copied().unwrap_or(0)
    }

    pub fn in_subnet(&self, subnet: &str) -> u32 {
        self.subnets.get(subnet).copied().unwrap_or(0)
    }

    pub fn vcpus(&self, lifecycle: Lifecycle) -> u64 {
        self.vcpus.get(&lifecycle).copied().unwrap_or(0)
    }

    pub fn count(&self, lifecycle: Lifecycle) -> u64 {
        self.counts.get(&lifecycle).copied().unwrap_or(0)
    }

    pub fn add(&mut self, launch: &Launch, zone: &str, count: u32, price: f64) {
        let lifecycle = launch.lifecycle;
        *self.pools.entry(launch.pool(zone)).or_default() += count;
        *self.subnets.entry(launch.subnet.clone()).or_default() += count;
        *self.vcpus.entry(lifecycle).or_default() += u64::from(launch.facts.vcpus) * u64::from(count);
        *self.counts.entry(lifecycle).or_default() += u64::from(count);
        self.price += price * f64::from(count);
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Plan {
    /// Candidate index and number of instances.
    pub parts: Vec<(usize, u32)>,
    pub units: f64,
    pub errors: Vec<(usize, ApiError)>,
    planned: Planned,
}

impl Region {
    /// Every way that the fleet's configs allow to launch with this lifecycle.
    ///
    /// # Errors
    /// A launch template, type or subnet that does not exist.
    pub(crate) fn candidates(&self, fleet: &Fleet, lifecycle: Lifecycle) -> Result<Vec<Candidate>, ApiError> {
        let mut found = Vec::new();
        let plain = [Override::default()];
        for (config_at, config) in fleet.configs.iter().enumerate() {
            let (template_id, version) = self.resolve_template(
                config.template_id.as_deref(),
                config.template_name.as_deref(),
                config.version.as_deref(),
            )?;
            let overrides: &[Override] = if config.overrides.is_empty() { &plain } else { &config.overrides };
            for (over_at, over) in overrides.iter().enumerate() {
                let mut data = version.data.clone();
                data.market = None;
                data.tag_specs.extend(fleet.tags_at_launch.iter().cloned());
                data.image = over.image.clone().or(data.image);
                data.placement.group = over.group.clone().or(data.placement.group);
                if !over.block_devices.is_empty() {
                    data = data.overlaid(&crate::model::launch_data::LaunchData {
                        block_devices: over.block_devices.clone(),
                        ..Default::default()
                    });
                }
                if lifecycle == Lifecycle::Spot {
                    data.spot.max_price = over.max_price.clone().or(data.spot.max_price);
                    data.spot.interruption =
                        fleet.spot.interruption.clone().or_else(|| Some("terminate".to_owned()));
                } else {
                    data.spot = crate::model::launch_data::SpotMarket::default();
                }
                let types: Vec<&str> = match (&over.instance_type, &over.requirements) {
                    (Some(name), _) => vec![name.as_str()],
                    (None, Some(requirements)) => {
                        let architecture = data
                            .image
                            .as_deref()
                            .map(|image| self.image(image))
                            .transpose()?
                            .map(|image| image.architecture)
                            .unwrap_or_default();
                        requirements.types(&architecture)
                    }
                    (None, None) => data.instance_type.as_deref().into_iter().collect(),
                };
                if types.is_empty() && over.requirements.is_none() {
                    return Err(ApiError::new(
                        "InvalidFleetConfig",
                        "The fleet configuration is missing the instance type.",
                    ));
                }
                for subnet in self.subnets_for(over, &data)? {
                    for name in &types {
                        let facts = self.facts(name)?;
                        let mut data = data.clone();
                        data.instance_type = Some((*name).to_owned());
                        found.push(Candidate {
                            config: config_at,
                            over: over_at,
                            zone: subnet.1.clone(),
                            weight: over.weight.unwrap_or(match fleet.unit.as_deref() {
                                Some("vcpu") => f64::from(facts.vcpus),
                                #[allow(clippy::cast_precision_loss)]
                                Some("memory-mib") => facts.memory_mib as f64,
                                _ => 1.0,
                            }),
                            priority: over.priority.unwrap_or(f64::MAX),
                            launch: Launch {
                                facts,
                                subnet: subnet.0.clone(),
                                lifecycle,
                                data,
                                fleet: Some(fleet.id.clone()),
                                weight: 1.0,
                                template: Some((template_id.clone(), version.number)),
                                client_token: String::new(),
                                persistent: fleet.kind == FleetType::Maintain,
                                alone: fleet.kind != FleetType::Instant,
                            },
                        });
                    }
                }
            }
        }
        for candidate in &mut found {
            candidate.launch.weight = candidate.weight;
        }
        Ok(found)
    }

    /// Subnet ids and zones that an override allows.
    fn subnets_for(
        &self,
        over: &Override,
        data: &crate::model::launch_data::LaunchData,
    ) -> Result<Vec<(String, String)>, ApiError> {
        let from_template = data
            .interfaces
            .iter()
            .find(|interface| interface.index == 0)
            .and_then(|interface| interface.subnet.clone());
        let named = over.subnet.clone().or(from_template);
        if let Some(named) = named {
            return named
                .split(',')
                .map(str::trim)
                .map(|id| {
                    self.subnet(id).map(|subnet| (subnet.id.clone(), subnet.zone.clone())).ok_or_else(|| {
                        ApiError::new(
                            "InvalidSubnetID.NotFound",
                            format!("The subnet ID '{id}' does not exist"),
                        )
                    })
                })
                .collect();
        }
        let zone = over.zone.as_ref().or(data.placement.zone.as_ref());
        let found: Vec<_> = self
            .subnets
            .iter()
            .filter(|subnet| zone.is_none_or(|zone| *zone == subnet.zone))
            .map(|subnet| (subnet.id.clone(), subnet.zone.clone()))
            .collect();
        if found.is_empty() {
            return Err(ApiError::invalid_value(
                "AvailabilityZone",
                zone.map_or("", String::as_str),
                "There is no subnet in this Availability Zone.",
            ));
        }
        Ok(found)
    }

    /// Decides what to launch for `need` units; launches nothing.
    pub(crate) fn plan(
        &self,
        candidates: &[Candidate],
        lifecycle: Lifecycle,
        options: &Options,
        need: f64,
        before: &Planned,
    ) -> Plan {
        let single = options.single_type || options.single_zone;
        if !single {
            let all: Vec<usize> = (0..candidates.len()).collect();
            return self.plan_among(candidates, &all, lifecycle, options, need, before);
        }
        let mut groups: Vec<((String, String), Vec<usize>)> = Vec::new();
        for at in self.ranked(
            candidates,
            &(0..candidates.len()).collect::<Vec<_>>(),
            lifecycle,
            options,
            need,
            before,
        ) {
            let candidate = &candidates[at];
            let key = (
                if options.single_type { candidate.launch.facts.name.to_owned() } else { String::new() },
                if options.single_zone { candidate.zone.clone() } else { String::new() },
            );
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, members)) => members.push(at),
                None => groups.push((key, vec![at])),
            }
        }
        let mut best: Option<Plan> = None;
        let mut errors = Vec::new();
        for (_, members) in groups {
            let plan = self.plan_among(candidates, &members, lifecycle, options, need, before);
            if plan.units < need {
                errors.extend(plan.errors.iter().cloned());
            }
            if best.as_ref().is_none_or(|best| plan.units > best.units) {
                best = Some(plan);
            }
            if best.as_ref().is_some_and(|best| best.units >= need) {
                break;
            }
        }
        let mut best = best.unwrap_or_default();
        best.errors = errors;
        best
    }

    fn plan_among(
        &self,
        candidates: &[Candidate],
        among: &[usize],
        lifecycle: Lifecycle,
        options: &Options,
        need: f64,
        before: &Planned,
    ) -> Plan {
        let mut plan = Plan { planned: before.clone(), ..Plan::default() };
        let order = self.ranked(candidates, among, lifecycle, options, need, before);
        let strategy = options.strategy.as_deref().unwrap_or("lowest-price");
        let spread = match strategy {
            "diversified" => order.len(),
            "lowest-price" if lifecycle == Lifecycle::Spot => {
                usize::try_from(options.pools_to_use.unwrap_or(1)).unwrap_or(1)
            }
            _ => 1,
        };
        let mut counts: HashMap<usize, u32> = HashMap::new();
        // The first `spread` pools that can launch take turns; when one is used up the next in rank steps in.
        let mut waiting: VecDeque<usize> = order.into();
        let mut turn: VecDeque<usize> = VecDeque::new();
        while plan.units < need {
            while turn.len() < spread.max(1) {
                let Some(next) = waiting.pop_front() else { break };
                turn.push_back(next);
            }
            let Some(at) = turn.pop_front() else { break };
            let candidate = &candidates[at];
            let left = ((need - plan.units) / candidate.weight).ceil().max(1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let wanted = if spread > 1 { 1 } else { left.min(f64::from(u32::MAX)) as u32 };
            let price = self.pools.price(&candidate.launch.pool(&candidate.zone), candidate.launch.facts);
            let affordable = options.max_total_price.map_or(wanted, |most| {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let count = ((most - plan.planned.price).max(0.0) / price).floor() as u32;
                count.min(wanted)
            });
            let (mut granted, mut why) = self.admit(&candidate.launch, wanted, &plan.planned);
            if affordable < granted {
                granted = affordable;
                why = Some(ApiError::new(
                    "MaxTotalPriceExceeded",
                    "The launch would exceed the MaxTotalPrice of the fleet.",
                ));
            }
            if granted > 0 {
                *counts.entry(at).or_default() += granted;
                if !plan.parts.iter().any(|(other, _)| *other == at) {
                    plan.parts.push((at, 0));
                }
                plan.planned.add(&candidate.launch, &candidate.zone, granted, price);
                plan.units += candidate.weight * f64::from(granted);
            }
            match why {
                Some(error) if granted < wanted => plan.errors.push((at, error)),
                _ => turn.push_back(at),
            }
        }
        for (at, count) in &mut plan.parts {
            *count = counts[at];
        }
        plan
    }

    /// Candidates in the order in which the allocation strategy uses them.
    fn ranked(
        &self,
        candidates: &[Candidate],
        among: &[usize],
        lifecycle: Lifecycle,
        options: &Options,
        need: f64,
        before: &Planned,
    ) -> Vec<usize> {
        struct Rank {
            price: f64,
            free: f64,
            enough: u8,
            reserved: bool,
            priority: f64,
        }
        let ranks: HashMap<usize, Rank> = among
            .iter()
            .map(|&at| {
                let candidate = &candidates[at];
                let key = candidate.launch.pool(&candidate.zone);
                let free = self.pools.free(&key).map_or(f64::INFINITY, |free| {
                    f64::from(free.saturating_sub(before.in_pool(&key))) * candidate.weight
                });
                let rank = Rank {
                    price: self.pools.price(&key, candidate.launch.facts) / candidate.weight,
                    free,
                    enough: u8::from(free > 0.0) + u8::from(free >= need),
                    reserved: options.reservations_first
                        && self.reserved_slots(&candidate.launch, &candidate.zone) > 0,
                    priority: candidate.priority,
                };
                (at, rank)
            })
            .collect();
        let strategy = options.strategy.as_deref().unwrap_or("lowest-price");
        let mut order = among.to_vec();
        order.sort_by(|a, b| {
            let (a_rank, b_rank) = (&ranks[a], &ranks[b]);
            let by_price = a_rank.price.total_cmp(&b_rank.price);
            let by_priority = a_rank.priority.total_cmp(&b_rank.priority);
            let by_free = b_rank.free.total_cmp(&a_rank.free);
            let by_enough = b_rank.enough.cmp(&a_rank.enough);
            let by_strategy = match (lifecycle, strategy) {
                (Lifecycle::OnDemand, "prioritized") => by_priority,
                (Lifecycle::Spot, "capacity-optimized") => by_free.then(by_price),
                (Lifecycle::Spot, "capacity-optimized-prioritized") => {
                    by_enough.then(by_priority).then(by_free)
                }
                (Lifecycle::Spot, "price-capacity-optimized") => by_enough.then(by_price),
                (Lifecycle::Spot, "diversified") => std::cmp::Ordering::Equal,
                _ => by_price,
            };
            b_rank.reserved.cmp(&a_rank.reserved).then(by_strategy).then(a.cmp(b))
        });
        order
    }

    /// Launches what a plan says.
    pub(crate) fn carry_out(
        &mut self,
        fleet_id: &str,
        candidates: &[Candidate],
        plan: &Plan,
        lifecycle: Lifecycle,
        client_token: &str,
    ) {
        for (at, count) in &plan.parts {
            let candidate = &candidates[*at];
            let mut launch = candidate.launch.clone();
            launch.client_token = client_token.to_owned();
            let ids = self.launch(&launch, *count);
            for id in &ids {
                self.note(
                    fleet_id,
                    "instanceChange",
                    "launched",
                    format!(
                        "{{\"instanceType\":\"{}\",\"image\":\"{}\",\"productDescription\":\"Linux/UNIX\",\"availabilityZone\":\"{}\"}}",
                        launch.facts.name,
                        launch.data.image.as_deref().unwrap_or_default(),
                        candidate.zone
                    ),
                    Some(id),
                );
            }
            let Some(fleet) = self.fleet_mut(fleet_id) else { return };
            fleet.unended += ids.len();
            for id in &ids {
                fleet.members.insert(id.clone(), (candidate.weight, lifecycle));
                *fleet.launched.entry(lifecycle).or_default() += candidate.weight;
            }
            if fleet.kind == FleetType::Instant {
                fleet.launches.push(FleetLaunch {
                    config: candidate.config,
                    over: candidate.over,
                    lifecycle,
                    instance_type: launch.facts.name,
                    subnet: launch.subnet.clone(),
                    zone: candidate.zone.clone(),
                    template: launch.template.clone(),
                    ids,
                });
            }
        }
        let Some(fleet) = self.fleet_mut(fleet_id) else { return };
        for (at, error) in &plan.errors {
            let candidate = &candidates[*at];
            let same = |old: &FleetError| {
                old.config == candidate.config
                    && old.over == candidate.over
                    && old.lifecycle == lifecycle
                    && old.error.code == error.code
            };
            if !fleet.errors.iter().any(same) {
                fleet.errors.push(FleetError {
                    config: candidate.config,
                    over: candidate.over,
                    lifecycle,
                    error: error.clone(),
                });
            }
        }
    }

    /// The synchronous launch of an instant fleet.
    ///
    /// # Errors
    /// What makes the whole call fail; missing capacity does not.
    pub(crate) fn launch_instant(&mut self, fleet_id: &str) -> Result<(), ApiError> {
        let Some(fleet) = self.fleet(fleet_id) else { return Ok(()) };
        let token = fleet.client_token.clone();
        let mut plans = Vec::new();
        let mut planned = Planned::default();
        for lifecycle in [Lifecycle::OnDemand, Lifecycle::Spot] {
            #[allow(clippy::cast_precision_loss)]
            let need = fleet.target.of(lifecycle) as f64;
            let candidates = self.candidates(fleet, lifecycle)?;
            if need <= 0.0 {
                continue;
            }
            let options = fleet.options(lifecycle);
            let mut plan = self.plan(&candidates, lifecycle, options, need, &planned);
            #[allow(clippy::cast_precision_loss)]
            if options.min_target.is_some_and(|least| plan.units < least as f64) {
                plan.parts.clear();
                plan.units = 0.0;
                if plan.errors.is_empty() {
                    plan.errors.push((0, unfulfillable()));
                }
            } else {
                planned = plan.planned.clone();
            }
            plans.push((lifecycle, candidates, plan));
        }
        for (lifecycle, candidates, plan) in plans {
            self.carry_out(fleet_id, &candidates, &plan, lifecycle, &token);
        }
        Ok(())
    }
}

fn unfulfillable() -> ApiError {
    ApiError::new(
        "UnfulfillableCapacity",
        "Unable to fulfill capacity due to your request configuration. Please adjust your request and try again.",
    )
}
