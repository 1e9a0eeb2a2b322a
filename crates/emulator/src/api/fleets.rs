// SPDX-License-Identifier: GPL-3.0-or-later
//! CreateFleet, ModifyFleet, DeleteFleets, DescribeFleets, DescribeFleetInstances, DescribeFleetHistory.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use crate::api::error::{ApiError, absent};
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::capacity::Lifecycle;
use crate::model::fleet::{Config, Fleet, FleetState, FleetType, KEPT, Options, Override, Target};
use crate::model::launch_data::{read_tag_specs, write_block_device, write_tags};
use crate::model::region::{Event, Region};
use crate::model::requirements::Requirements;
use crate::model::time::{Millis, iso, parse};

/// At most 300 launch specifications and overrides in a fleet ("EC2 Fleet quotas", EC2 User Guide).
const MAX_OVERRIDES: usize = 300;
/// CreateFleet refuses more structures of this kind.
const MAX_REQUIREMENTS: usize = 4;
/// Target capacity of one fleet ("EC2 Fleet quotas").
const MAX_TARGET: i64 = 10_000;

fn choice(path: &str, value: Option<&str>, choices: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !choices.contains(&value) => {
            Err(ApiError::invalid_value(path, value, &format!("Valid values: {}.", choices.join(", "))))
        }
        _ => Ok(()),
    }
}

fn read_override(node: &Node) -> Override {
    Override {
        instance_type: node.owned("InstanceType"),
        max_price: node.owned("MaxPrice"),
        subnet: node.owned("SubnetId"),
        zone: node.owned("AvailabilityZone"),
        weight: node.number("WeightedCapacity"),
        priority: node.number("Priority"),
        group: node.owned("Placement.GroupName"),
        image: node.owned("ImageId"),
        block_devices: crate::model::launch_data::read_block_devices(node),
        requirements: node.at("InstanceRequirements").map(Requirements::read),
    }
}

fn read_configs(node: &Node, list: &str) -> Vec<Config> {
    node.list(list)
        .into_iter()
        .map(|config| Config {
            template_id: config.owned("LaunchTemplateSpecification.LaunchTemplateId"),
            template_name: config.owned("LaunchTemplateSpecification.LaunchTemplateName"),
            version: config.owned("LaunchTemplateSpecification.Version"),
            overrides: config.list("Overrides").into_iter().map(read_override).collect(),
        })
        .collect()
}

fn read_options(node: &Node, name: &str) -> Result<Options, ApiError> {
    let Some(options) = node.at(name) else {
        return Ok(Options::default());
    };
    let strategies: &[&str] = if name == "SpotOptions" {
        &[
            "lowest-price",
            "diversified",
            "capacity-optimized",
            "capacity-optimized-prioritized",
            "price-capacity-optimized",
        ]
    } else {
        &["lowest-price", "prioritized"]
    };
    choice(&format!("{name}.AllocationStrategy"), options.text("AllocationStrategy"), strategies)?;
    choice(
        &format!("{name}.InstanceInterruptionBehavior"),
        options.text("InstanceInterruptionBehavior"),
        &["hibernate", "stop", "terminate"],
    )?;
    Ok(Options {
        strategy: options.owned("AllocationStrategy"),
        pools_to_use: options.int("InstancePoolsToUseCount"),
        single_type: options.flag("SingleInstanceType").unwrap_or(false),
        single_zone: options.flag("SingleAvailabilityZone").unwrap_or(false),
        min_target: options.int("MinTargetCapacity"),
        max_total_price: options.number("MaxTotalPrice"),
        interruption: options.owned("InstanceInterruptionBehavior"),
        rebalance: options.owned("MaintenanceStrategies.CapacityRebalance.ReplacementStrategy"),
        rebalance_delay: options.int("MaintenanceStrategies.CapacityRebalance.TerminationDelay"),
        reservations_first: options.text("CapacityReservationOptions.UsageStrategy")
            == Some("use-capacity-reservations-first"),
    })
}

fn read_target(node: &Node, before: Option<Target>) -> Result<Target, ApiError> {
    let path = "TargetCapacitySpecification";
    let at = |name: &str| node.int(&format!("{path}.{name}"));
    let default_name = format!("{path}.DefaultTargetCapacityType");
    choice(&default_name, node.text(&default_name), &["spot", "on-demand"])?;
    let default = match node.text(&default_name) {
        Some("spot") => Lifecycle::Spot,
        Some(_) => Lifecycle::OnDemand,
        None => before.map_or(Lifecycle::OnDemand, |before| before.default),
    };
    let total = at("TotalTargetCapacity").unwrap_or(0);
    let (on_demand, spot) = (at("OnDemandTargetCapacity"), at("SpotTargetCapacity"));
    for (name, value) in [
        ("TotalTargetCapacity", Some(total)),
        ("OnDemandTargetCapacity", on_demand),
        ("SpotTargetCapacity", spot),
    ] {
        if let Some(value) = value
            && !(0..=MAX_TARGET).contains(&value)
        {
            return Err(ApiError::invalid_value(
                &format!("{path}.{name}"),
                &value.to_string(),
                &format!("It must be between 0 and {MAX_TARGET}."),
            ));
        }
    }
    let rest = total - on_demand.unwrap_or(0) - spot.unwrap_or(0);
    if rest < 0 {
        return Err(ApiError::combination(
            "TotalTargetCapacity must not be less than the sum of OnDemandTargetCapacity and SpotTargetCapacity.",
        ));
    }
    let mut target = Target { total, on_demand: on_demand.unwrap_or(0), spot: spot.unwrap_or(0), default };
    match default {
        Lifecycle::OnDemand => target.on_demand += rest,
        Lifecycle::Spot => target.spot += rest,
    }
    Ok(target)
}

impl Region {
    fn check_configs(&self, fleet: &Fleet) -> Result<(), ApiError> {
        let overrides: usize = fleet.configs.iter().map(|config| config.overrides.len()).sum();
        if overrides > MAX_OVERRIDES {
            return Err(ApiError::new(
                "InvalidFleetConfig",
                format!("The fleet has {overrides} overrides; at most {MAX_OVERRIDES} are allowed."),
            ));
        }
        let required =
            |config: &Config| config.overrides.iter().filter(|over| over.requirements.is_some()).count();
        if fleet.configs.iter().map(required).sum::<usize>() > MAX_REQUIREMENTS {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!(
                    "Your request contains more than the maximum allowed number of InstanceRequirements ({MAX_REQUIREMENTS})"
                ),
            ));
        }
        for config in &fleet.configs {
            if config.version.is_none() {
                return Err(ApiError::new(
                    "MissingParameter",
                    "The request must contain the parameter LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version",
                ));
            }
            for over in &config.overrides {
                if over.instance_type.is_some() && over.requirements.is_some() {
                    return Err(ApiError::combination(
                        "InstanceType and InstanceRequirements cannot be used in the same override.",
                    ));
                }
                if over.weight.is_some_and(|weight| weight <= 0.0) {
                    return Err(ApiError::invalid_value(
                        "WeightedCapacity",
                        &over.weight.unwrap_or_default().to_string(),
                        "It must be greater than 0.",
                    ));
                }
            }
        }
        let candidates = self.candidates(fleet, Lifecycle::OnDemand)?;
        // A pool is a type in a zone: two subnets of one zone are the same pool twice, and EC2 says it with these words.
        let mut pools: Vec<(&str, &str, usize)> = Vec::new();
        for candidate in &candidates {
            let pool = (candidate.launch.facts.name, candidate.zone.as_str(), candidate.config);
            if pools.contains(&pool) {
                return Err(ApiError::new(
                    "InvalidFleetConfig",
                    "The fleet configuration contains duplicate instance pools.",
                ));
            }
            pools.push(pool);
        }
        Ok(())
    }

    #[allow(clippy::too_many_lines)]
    fn read_fleet(&mut self, request: &Node) -> Result<Fleet, ApiError> {
        choice("Type", request.text("Type"), &["instant", "request", "maintain"])?;
        let kind = match request.text("Type") {
            Some("instant") => FleetType::Instant,
            Some("request") => FleetType::Request,
            _ => FleetType::Maintain,
        };
        choice(
            "ExcessCapacityTerminationPolicy",
            request.text("ExcessCapacityTerminationPolicy"),
            &["no-termination", "termination"],
        )?;
        let target = read_target(request, None)?;
        let spot = read_options(request, "SpotOptions")?;
        let on_demand = read_options(request, "OnDemandOptions")?;
        for (name, options) in [("SpotOptions", &spot), ("OnDemandOptions", &on_demand)] {
            if options.pools_to_use.is_some()
                && options.strategy.as_deref().is_some_and(|strategy| strategy != "lowest-price")
            {
                return Err(ApiError::combination(
                    "InstancePoolsToUseCount is valid only when AllocationStrategy is lowest-price.",
                ));
            }
            let only_instant = options.single_type || options.single_zone || options.min_target.is_some();
            if only_instant && kind != FleetType::Instant {
                return Err(ApiError::combination(format!(
                    "SingleInstanceType, SingleAvailabilityZone and MinTargetCapacity of {name} are supported only for fleets of type instant."
                )));
            }
            if let Some(least) = options.min_target {
                if !(options.single_type || options.single_zone) {
                    return Err(ApiError::combination(format!(
                        "MinTargetCapacity of {name} needs SingleInstanceType or SingleAvailabilityZone."
                    )));
                }
                if !(0..=1000).contains(&least) {
                    return Err(ApiError::invalid_value(
                        &format!("{name}.MinTargetCapacity"),
                        &least.to_string(),
                        "It must be at most 1000.",
                    ));
                }
            }
        }
        if kind == FleetType::Instant
            && spot.interruption.as_deref().is_some_and(|behavior| behavior != "terminate")
        {
            return Err(ApiError::combination(
                "InstanceInterruptionBehavior stop and hibernate are not supported for fleets of type instant.",
            ));
        }
        if spot.rebalance.is_some() && kind != FleetType::Maintain {
            return Err(ApiError::combination(
                "CapacityRebalance is supported only for fleets of type maintain.",
            ));
        }
        let replace_unhealthy = request.flag("ReplaceUnhealthyInstances").unwrap_or(false);
        if replace_unhealthy && kind != FleetType::Maintain {
            return Err(ApiError::combination(
                "ReplaceUnhealthyInstances is supported only for fleets of type maintain.",
            ));
        }
        let time = |name: &str| request.text(name).and_then(parse);
        let specs = read_tag_specs(request)?;
        for spec in &specs {
            let allowed: &[&str] = if kind == FleetType::Instant {
                &["fleet", "instance", "volume", "network-interface"]
            } else {
                &["fleet"]
            };
            if !allowed.contains(&spec.resource_type.as_str()) {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!(
                        "'{}' is not a valid taggable resource type for this operation. A fleet of type {} takes: {}.",
                        spec.resource_type,
                        kind.name(),
                        allowed.join(", ")
                    ),
                ));
            }
        }
        if kind != FleetType::Instant {
            let active = self
                .fleets
                .values()
                .filter(|fleet| fleet.kind != FleetType::Instant && !fleet.state.deleted())
                .count();
            if active as u64 >= self.rules.limits.fleets {
                return Err(ApiError::new(
                    "MaxFleetCountExceeded",
                    format!(
                        "You have reached the limit of {} active fleets in this Region.",
                        self.rules.limits.fleets
                    ),
                ));
            }
        }
        Ok(Fleet {
            id: format!("fleet-{}", self.new_uuid()),
            kind,
            state: if kind == FleetType::Instant { FleetState::Active } else { FleetState::Submitted },
            created: self.now,
            client_token: request.owned("ClientToken").unwrap_or_default(),
            excess_policy: match request.text("ExcessCapacityTerminationPolicy") {
                Some("no-termination") => "no-termination",
                _ => "termination",
            },
            configs: read_configs(request, "LaunchTemplateConfigs"),
            target,
            unit: request.owned("TargetCapacitySpecification.TargetCapacityUnitType"),
            valid_from: time("ValidFrom"),
            valid_until: time("ValidUntil"),
            terminate_on_expiry: request.flag("TerminateInstancesWithExpiration").unwrap_or(false),
            replace_unhealthy,
            spot,
            on_demand,
            tags_at_launch: if kind == FleetType::Instant { specs } else { Vec::new() },
            members: BTreeMap::new(),
            unended: 0,
            launches: Vec::new(),
            errors: Vec::new(),
            history: VecDeque::new(),
            reconcile_at: None,
            launched: BTreeMap::new(),
            context: request.owned("Context"),
            expired: false,
            ended: None,
        })
    }

    pub(crate) fn create_fleet(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let answer = self.once("CreateFleet", request, |region| {
            let fleet = region.read_fleet(request)?;
            region.check_configs(&fleet)?;
            let id = fleet.id.clone();
            let (kind, until) = (fleet.kind, fleet.valid_until);
            region.put_tags(&id, &Self::fleet_tags(&read_tag_specs(request)?));
            region.serial += 1;
            region.fleet_index.insert(id.clone(), region.serial);
            region.fleets.insert(region.serial, fleet);
            if kind == FleetType::Instant {
                if let Err(error) = region.launch_instant(&id) {
                    if let Some(key) = region.fleet_index.remove(&id) {
                        region.fleets.remove(&key);
                    }
                    return Err(error);
                }
                region.close_fleet_if_empty(&id);
            } else {
                region.note(&id, "fleetRequestChange", "submitted", String::new(), None);
                region
                    .after(region.rules.delays.fleet_submitted_ms, Event::FleetSettled { fleet: id.clone() });
                if let Some(until) = until {
                    region.after(until - region.now, Event::FleetExpired { fleet: id.clone() });
                }
            }
            let mut answer = Xml::new();
            answer.text("fleetId", &id);
            if let Some(fleet) = region.fleet(&id)
                && kind == FleetType::Instant
            {
                region.write_outcome(&mut answer, fleet);
            }
            Ok(answer.finish())
        })?;
        xml.raw(&answer);
        Ok(())
    }

    /// `errorSet` and `fleetInstanceSet` of an instant fleet.
    fn write_outcome(&self, xml: &mut Xml, fleet: &Fleet) {
        xml.set("errorSet", &fleet.errors, |xml, error| {
            xml.node("launchTemplateAndOverrides", |xml| {
                self.write_launch_template_and_overrides(xml, fleet, error.config, error.over, None);
            });
            xml.text("lifecycle", error.lifecycle.name());
            xml.text("errorCode", &error.error.code);
            xml.text("errorMessage", &error.error.message);
        });
        xml.set("fleetInstanceSet", &fleet.launches, |xml, launch| {
            xml.node("launchTemplateAndOverrides", |xml| {
                self.write_launch_template_and_overrides(
                    xml,
                    fleet,
                    launch.config,
                    launch.over,
                    Some(launch),
                );
            });
            xml.text("lifecycle", launch.lifecycle.name());
            xml.texts("instanceIds", &launch.ids);
            xml.text("instanceType", launch.instance_type);
        });
    }

    fn write_launch_template_and_overrides(
        &self,
        xml: &mut Xml,
        fleet: &Fleet,
        config: usize,
        over: usize,
        launch: Option<&crate::model::fleet::FleetLaunch>,
    ) {
        let Some(config) = fleet.configs.get(config) else { return };
        xml.node("launchTemplateSpecification", |xml| {
            let resolved = self
                .resolve_template(
                    config.template_id.as_deref(),
                    config.template_name.as_deref(),
                    config.version.as_deref(),
                )
                .ok()
                .map(|(id, version)| (id, version.number));
            match launch.and_then(|launch| launch.template.clone()).or(resolved) {
                Some((id, version)) => {
                    xml.text("launchTemplateId", &id);
                    xml.put("version", version);
                }
                None => {
                    xml.maybe("launchTemplateId", config.template_id.as_ref());
                    xml.maybe("launchTemplateName", config.template_name.as_ref());
                    xml.maybe("version", config.version.as_ref());
                }
            }
        });
        xml.node("overrides", |xml| {
            let plain = Override::default();
            let over = config.overrides.get(over).unwrap_or(&plain);
            let mut shown = over.clone();
            if let Some(launch) = launch {
                shown.instance_type = Some(launch.instance_type.to_owned());
                shown.subnet = Some(launch.subnet.clone());
                shown.zone = shown.zone.or_else(|| Some(launch.zone.clone()));
            }
            write_override(xml, &shown);
        });
    }

    fn check_fleet_ids(&self, ids: &[&str]) -> Result<(), ApiError> {
        for id in ids {
            if !well_formed(id) {
                return Err(ApiError::new(
                    "InvalidFleetId.Malformed",
                    format!("The fleet ID '{id}' is not valid"),
                ));
            }
        }
        let missing: Vec<&str> = ids.iter().copied().filter(|id| self.fleet(id).is_none()).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(ApiError::new("InvalidFleetId.NotFound", absent("fleet", &missing)))
        }
    }

    pub(crate) fn modify_fleet(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("FleetId")?.to_owned();
        self.check_fleet_ids(&[&id])?;
        choice(
            "ExcessCapacityTerminationPolicy",
            request.text("ExcessCapacityTerminationPolicy"),
            &["no-termination", "termination"],
        )?;
        let Some(fleet) = self.fleet(&id) else {
            return Err(ApiError::new("InvalidFleetId.NotFound", id));
        };
        if fleet.kind != FleetType::Maintain {
            return Err(ApiError::new(
                "FleetNotInModifiableState",
                format!("Fleet Request: {id} is not a modifiable fleet request type."),
            ));
        }
        if !matches!(fleet.state, FleetState::Submitted | FleetState::Active) {
            return Err(ApiError::new(
                "FleetNotInModifiableState",
                format!(
                    "Fleet Request: {id} is in state {}, in which it cannot be modified.",
                    fleet.state.name()
                ),
            ));
        }
        let old_target = fleet.target;
        let target = request
            .at("TargetCapacitySpecification")
            .map(|_| read_target(request, Some(old_target)))
            .transpose()?;
        let configs = read_configs(request, "LaunchTemplateConfig");
        if !configs.is_empty() {
            let Some(fleet) = self.fleet_mut(&id) else { return Ok(()) };
            let old = std::mem::replace(&mut fleet.configs, configs);
            let checked = self.fleet(&id).map_or(Ok(()), |fleet| self.check_configs(fleet));
            if let Err(error) = checked {
                if let Some(fleet) = self.fleet_mut(&id) {
                    fleet.configs = old;
                }
                return Err(error);
            }
        }
        let policy = match request.text("ExcessCapacityTerminationPolicy") {
            Some("no-termination") => Some("no-termination"),
            Some(_) => Some("termination"),
            None => None,
        };
        let Some(fleet) = self.fleet_mut(&id) else { return Ok(()) };
        if let Some(policy) = policy {
            fleet.excess_policy = policy;
        }
        if let Some(target) = target {
            fleet.target = target;
        }
        if request.text("Context").is_some() {
            fleet.context = request.owned("Context");
        }
        let shrink = fleet.excess_policy == "termination";
        if fleet.state == FleetState::Active {
            self.change_fleet_state(&id, FleetState::Modifying);
            self.after(self.rules.delays.fleet_modifying_ms, Event::FleetSettled { fleet: id.clone() });
        }
        if shrink && target.is_some_and(|target| target != old_target) {
            self.shrink_fleet(&id);
        }
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn delete_fleets(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids: Vec<String> = request.texts("FleetId").into_iter().map(str::to_owned).collect();
        let terminate = request.flag("TerminateInstances").unwrap_or(false);
        let instant = ids
            .iter()
            .filter(|id| self.fleet(id).is_some_and(|fleet| fleet.kind == FleetType::Instant))
            .count();
        if instant > 25 || ids.len() - instant > 100 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "One call deletes at most 25 fleets of type instant and 100 of the other types.",
            ));
        }
        if instant > 0 && !terminate {
            return Err(ApiError::combination(
                "NoTerminateInstances is not supported for fleets of type instant: TerminateInstances must be true.",
            ));
        }
        let mut done = Vec::new();
        let mut failed = Vec::new();
        for id in ids {
            if !well_formed(&id) {
                failed.push((id.clone(), "fleetIdMalformed", format!("The fleet ID '{id}' is not valid")));
                continue;
            }
            let Some(fleet) = self.fleet(&id) else {
                failed.push((id.clone(), "fleetIdDoesNotExist", absent("fleet", &[&id])));
                continue;
            };
            let before = fleet.state;
            // A fleet that was deleted and left its instances running can be deleted again with termination.
            if matches!(before, FleetState::Deleted | FleetState::DeletedTerminating)
                || (before == FleetState::DeletedRunning && !terminate)
            {
                failed.push((
                    id.clone(),
                    "fleetNotInDeletableState",
                    format!("The fleet {id} is in state {} and cannot be deleted.", before.name()),
                ));
                continue;
            }
            let members: Vec<String> = fleet.members.keys().cloned().collect();
            let after = if terminate { FleetState::DeletedTerminating } else { FleetState::DeletedRunning };
            self.change_fleet_state(&id, after);
            if terminate {
                for member in &members {
                    self.terminate(
                        member,
                        (
                            "Client.UserInitiatedShutdown",
                            "Client.UserInitiatedShutdown: User initiated shutdown",
                        ),
                        "instance-terminated-by-user",
                    );
                }
            }
            done.push((id.clone(), after, before));
            self.close_fleet_if_empty(&id);
        }
        xml.set("successfulFleetDeletionSet", done, |xml, (id, after, before)| {
            xml.text("currentFleetState", after.name());
            xml.text("previousFleetState", before.name());
            xml.text("fleetId", &id);
        });
        xml.set("unsuccessfulFleetDeletionSet", failed, |xml, (id, code, message)| {
            xml.node("error", |xml| {
                xml.text("code", code);
                xml.text("message", &message);
            });
            xml.text("fleetId", &id);
        });
        Ok(())
    }

    fn activity(&self, fleet: &Fleet) -> Option<&'static str> {
        if fleet.state.deleted() {
            return (fleet.state != FleetState::Deleted).then_some("pending_termination");
        }
        if fleet.kind == FleetType::Instant {
            return None;
        }
        let full = [Lifecycle::OnDemand, Lifecycle::Spot].into_iter().all(|lifecycle| {
            #[allow(clippy::cast_precision_loss)]
            let target = fleet.target.of(lifecycle) as f64;
            self.fulfilled(fleet, lifecycle) >= target
        });
        let over = !full && !fleet.errors.is_empty();
        Some(match (full, over) {
            (true, _) => "fulfilled",
            (false, true) => "error",
            (false, false) => "pending_fulfillment",
        })
    }

    pub(crate) fn describe_fleets(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "activity-status",
            "excess-capacity-termination-policy",
            "fleet-state",
            "replace-unhealthy-instances",
            "type",
            "tag-key",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeFleets", request, 1, 1000)?;
        let ids = request.texts("FleetId");
        self.check_fleet_ids(&ids)?;
        let found: Vec<&Fleet> = self
            .fleets
            .values()
            // An instant fleet appears only when its id is given (API_DescribeFleets).
            .filter(|fleet| {
                if ids.is_empty() {
                    fleet.kind != FleetType::Instant
                } else {
                    ids.contains(&fleet.id.as_str())
                }
            })
            .filter(|fleet| {
                filters.accept(|name| {
                    let one = |text: &'static str| vec![Cow::Borrowed(text)];
                    match name {
                        "activity-status" => self.activity(fleet).map(Cow::Borrowed).into_iter().collect(),
                        "excess-capacity-termination-policy" => one(fleet.excess_policy),
                        "fleet-state" => one(fleet.state.name()),
                        "replace-unhealthy-instances" => {
                            one(if fleet.replace_unhealthy { "true" } else { "false" })
                        }
                        "type" => one(fleet.kind.name()),
                        other => self.tag_values(&fleet.id, other),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("fleetSet", found, |xml, fleet| self.write_fleet(xml, fleet));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_fleet(&self, xml: &mut Xml, fleet: &Fleet) {
        xml.maybe("activityStatus", self.activity(fleet));
        xml.time("createTime", fleet.created);
        xml.text("fleetId", &fleet.id);
        xml.text("fleetState", fleet.state.name());
        if !fleet.client_token.is_empty() {
            xml.text("clientToken", &fleet.client_token);
        }
        xml.text("excessCapacityTerminationPolicy", fleet.excess_policy);
        let on_demand = self.fulfilled(fleet, Lifecycle::OnDemand);
        xml.put("fulfilledCapacity", on_demand + self.fulfilled(fleet, Lifecycle::Spot));
        xml.put("fulfilledOnDemandCapacity", on_demand);
        xml.set("launchTemplateConfigs", &fleet.configs, |xml, config| {
            xml.node("launchTemplateSpecification", |xml| {
                xml.maybe("launchTemplateId", config.template_id.as_ref());
                xml.maybe("launchTemplateName", config.template_name.as_ref());
                xml.maybe("version", config.version.as_ref());
            });
            xml.set("overrides", &config.overrides, write_override);
        });
        xml.node("targetCapacitySpecification", |xml| {
            xml.put("totalTargetCapacity", fleet.target.total);
            xml.put("onDemandTargetCapacity", fleet.target.on_demand);
            xml.put("spotTargetCapacity", fleet.target.spot);
            xml.text("defaultTargetCapacityType", fleet.target.default.name());
            xml.maybe("targetCapacityUnitType", fleet.unit.as_ref());
        });
        xml.put("terminateInstancesWithExpiration", fleet.terminate_on_expiry);
        xml.text("type", fleet.kind.name());
        xml.maybe("validFrom", fleet.valid_from.map(iso));
        xml.maybe("validUntil", fleet.valid_until.map(iso));
        xml.put("replaceUnhealthyInstances", fleet.replace_unhealthy);
        xml.node("spotOptions", |xml| {
            let spot = &fleet.spot;
            xml.text("allocationStrategy", shown_strategy(spot.strategy.as_deref()));
            if let Some(strategy) = &spot.rebalance {
                xml.node("maintenanceStrategies", |xml| {
                    xml.node("capacityRebalance", |xml| {
                        xml.text("replacementStrategy", strategy);
                        xml.maybe("terminationDelay", spot.rebalance_delay);
                    });
                });
            }
            xml.text("instanceInterruptionBehavior", spot.interruption.as_deref().unwrap_or("terminate"));
            let lowest = matches!(spot.strategy.as_deref(), None | Some("lowest-price"));
            xml.maybe("instancePoolsToUseCount", spot.pools_to_use.or(lowest.then_some(1)));
            write_single(xml, spot);
        });
        xml.node("onDemandOptions", |xml| {
            let options = &fleet.on_demand;
            xml.text("allocationStrategy", shown_strategy(options.strategy.as_deref()));
            if options.reservations_first {
                xml.node("capacityReservationOptions", |xml| {
                    xml.text("usageStrategy", "use-capacity-reservations-first");
                });
            }
            write_single(xml, options);
        });
        write_tags(xml, self.tags_of(&fleet.id));
        if fleet.kind == FleetType::Instant {
            self.write_outcome(xml, fleet);
        } else if !fleet.errors.is_empty() {
            xml.set("errorSet", &fleet.errors, |xml, error| {
                xml.node("launchTemplateAndOverrides", |xml| {
                    self.write_launch_template_and_overrides(xml, fleet, error.config, error.over, None);
                });
                xml.text("lifecycle", error.lifecycle.name());
                xml.text("errorCode", &error.error.code);
                xml.text("errorMessage", &error.error.message);
            });
        }
        xml.maybe("context", fleet.context.as_ref());
    }

    pub(crate) fn describe_fleet_instances(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(request, &["instance-type"])?;
        let page = Page::read("DescribeFleetInstances", request, 1, 1000)?;
        let id = request.required("FleetId")?;
        self.check_fleet_ids(&[id])?;
        let Some(fleet) = self.fleet(id) else {
            return Err(ApiError::new("InvalidFleetId.NotFound", id));
        };
        if fleet.kind == FleetType::Instant {
            return Err(ApiError::new(
                "Unsupported",
                format!(
                    "Fleet {id} is instant fleet. Describe fleet instances is not supported by this type of fleet"
                ),
            ));
        }
        let found: Vec<_> = fleet
            .members
            .keys()
            .filter_map(|id| self.instances.get(id))
            // Only pending and running members are active: a stopped (hibernated) one is not listed.
            .filter(|instance| matches!(instance.state.name(), "pending" | "running"))
            .filter(|instance| filters.accept(|_| vec![Cow::Borrowed(instance.facts.name)]))
            .collect();
        let (found, token) = page.cut(found);
        xml.set("activeInstanceSet", found, |xml, instance| {
            xml.text("instanceId", &instance.id);
            xml.text("instanceType", instance.facts.name);
            xml.maybe("spotInstanceRequestId", instance.spot_request.as_ref());
            let health = if instance.impaired.is_some() { "unhealthy" } else { "healthy" };
            xml.text("instanceHealth", health);
        });
        xml.maybe("nextToken", token);
        xml.text("fleetId", id);
        Ok(())
    }

    pub(crate) fn describe_fleet_history(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let page = Page::read("DescribeFleetHistory", request, 1, 1000)?;
        let id = request.required("FleetId")?;
        self.check_fleet_ids(&[id])?;
        choice(
            "EventType",
            request.text("EventType"),
            &["instance-change", "fleet-change", "service-error"],
        )?;
        let wanted: Option<&[&str]> = request.text("EventType").map(|name| match name {
            "instance-change" => ["instanceChange"].as_slice(),
            "fleet-change" => ["fleetRequestChange", "spotInstanceRequestChange", "information"].as_slice(),
            _ => ["error"].as_slice(),
        });
        let start = request.required("StartTime").map(parse)?.unwrap_or(0);
        let shown_until: Millis = self.now - self.rules.delays.fleet_history_ms;
        let Some(fleet) = self.fleet(id) else {
            return Err(ApiError::new("InvalidFleetId.NotFound", id));
        };
        if fleet.kind == FleetType::Instant {
            return Err(ApiError::new(
                "Unsupported",
                "DescribeFleetHistory is not supported for fleets of type instant.",
            ));
        }
        let found: Vec<_> = fleet
            .history
            .iter()
            .filter(|record| record.at >= start && record.at <= shown_until)
            .filter(|record| record.at + KEPT >= self.now)
            .filter(|record| wanted.is_none_or(|wanted| wanted.contains(&record.event_type)))
            .collect();
        let (found, token) = page.cut(found);
        let last = found.last().map_or(shown_until, |record| record.at);
        xml.set("historyRecordSet", found, |xml, record| {
            xml.node("eventInformation", |xml| {
                if !record.description.is_empty() {
                    xml.text("eventDescription", &record.description);
                }
                xml.text("eventSubType", record.sub_type);
                xml.maybe("instanceId", record.instance.as_ref());
            });
            xml.text("eventType", record.event_type);
            xml.time("timestamp", record.at);
        });
        // lastEvaluatedTime is given only when nothing is left to read (API_DescribeFleetHistory).
        if token.is_none() {
            xml.time("lastEvaluatedTime", last.max(start));
        }
        xml.maybe("nextToken", token);
        xml.text("fleetId", id);
        xml.time("startTime", start);
        Ok(())
    }
}

/// DescribeFleets answers `lowestPrice` where CreateFleet takes `lowest-price`, and so for the others.
fn shown_strategy(strategy: Option<&str>) -> &'static str {
    match strategy {
        Some("diversified") => "diversified",
        Some("capacity-optimized") => "capacityOptimized",
        Some("capacity-optimized-prioritized") => "capacityOptimizedPrioritized",
        Some("price-capacity-optimized") => "priceCapacityOptimized",
        Some("prioritized") => "prioritized",
        _ => "lowestPrice",
    }
}

fn write_single(xml: &mut Xml, options: &Options) {
    if options.single_type {
        xml.put("singleInstanceType", true);
    }
    if options.single_zone {
        xml.put("singleAvailabilityZone", true);
    }
    xml.maybe("minTargetCapacity", options.min_target);
    xml.maybe("maxTotalPrice", options.max_total_price);
}

fn write_override(xml: &mut Xml, over: &Override) {
    xml.maybe("instanceType", over.instance_type.as_ref());
    xml.maybe("maxPrice", over.max_price.as_ref());
    xml.maybe("subnetId", over.subnet.as_ref());
    xml.maybe("availabilityZone", over.zone.as_ref());
    xml.maybe("weightedCapacity", over.weight);
    xml.maybe("priority", over.priority);
    if let Some(group) = &over.group {
        xml.node("placement", |xml| xml.text("groupName", group));
    }
    if let Some(requirements) = &over.requirements {
        requirements.write(xml);
    }
    xml.maybe("imageId", over.image.as_ref());
    if !over.block_devices.is_empty() {
        xml.set("blockDeviceMappingSet", &over.block_devices, write_block_device);
    }
}

fn well_formed(id: &str) -> bool {
    id.strip_prefix("fleet-").is_some_and(|rest| {
        rest.len() == 36
            && rest
                .chars()
                .enumerate()
                .all(|(at, c)| if [8, 13, 18, 23].contains(&at) { c == '-' } else { c.is_ascii_hexdigit() })
    })
}
