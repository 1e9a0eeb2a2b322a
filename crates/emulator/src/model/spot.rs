// SPDX-License-Identifier: GPL-3.0-or-later
//! Spot: requests, prices, interruption, hibernation and return ("Spot Instances", EC2 User Guide).

use std::borrow::Cow;

use crate::api::error::{ApiError, absent};
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::capacity::{Lifecycle, PoolKey};
use crate::model::instance::{Instance, Notice, State};
use crate::model::launch::Launch;
use crate::model::launch_data::write_tags;
use crate::model::region::{Event, Region};
use crate::model::time::{HOUR, Millis, iso, parse};

#[derive(Debug)]
pub struct SpotRequest {
    pub id: String,
    /// `open`, `active`, `closed`, `cancelled`, `failed` or `disabled`.
    pub state: &'static str,
    pub status: &'static str,
    pub updated: Millis,
    pub created: Millis,
    pub persistent: bool,
    pub interruption: String,
    pub max_price: Option<String>,
    pub instance: Option<String>,
    pub instance_type: &'static str,
    pub image: String,
    pub subnet: String,
    pub zone: String,
    pub key_name: Option<String>,
    pub fleet: Option<String>,
    pub valid_until: Option<Millis>,
    pub on_demand_price: f64,
}

/// The sentences that EC2 shows with Spot status codes ("Spot request status", EC2 User Guide).
fn status_message(code: &str) -> &'static str {
    match code {
        "fulfilled" => "Your Spot request is fulfilled.",
        "marked-for-stop" => "Your Spot Instance is marked for stopping.",
        "marked-for-termination" => "Your Spot Instance is marked for termination.",
        "instance-stopped-no-capacity" => {
            "Your Spot Instance was stopped because there is no Spot capacity available."
        }
        "instance-stopped-by-user" => "You stopped your Spot Instance.",
        "instance-terminated-by-user" => "Spot Instance terminated due to user-initiated termination.",
        "instance-terminated-no-capacity" => {
            "Your Spot Instance was terminated because there is no Spot capacity available."
        }
        "request-canceled-and-instance-running" => {
            "Your Spot request is canceled, but your Spot Instance is still running."
        }
        "canceled-before-fulfillment" => "Your Spot request is canceled before it was fulfilled.",
        "instance-terminated-launch-failed" => "Your Spot Instance failed to launch.",
        "pending-evaluation" => "Your Spot request has been submitted for review, and is pending evaluation.",
        _ => "",
    }
}

impl Region {
    fn spot_request(&self, id: &str) -> Option<&SpotRequest> {
        self.spot_requests.get(self.spot_index.get(id)?)
    }

    fn spot_request_mut(&mut self, id: &str) -> Option<&mut SpotRequest> {
        self.spot_requests.get_mut(self.spot_index.get(id)?)
    }

    pub(crate) fn open_spot_request(&mut self, launch: &Launch, instance: &str, zone: &str) -> String {
        self.serial += 1;
        let serial = self.serial;
        let id = loop {
            let id = format!("sir-{}", crate::model::region::hex(&mut self.rng, 8));
            if !self.spot_index.contains_key(&id) {
                break id;
            }
        };
        let tags = launch.data.tags_for("spot-instances-request");
        if !tags.is_empty() {
            self.tags.insert(id.clone(), tags);
        }
        let request = SpotRequest {
            id: id.clone(),
            state: "active",
            status: "fulfilled",
            updated: self.now,
            created: self.now,
            persistent: launch.persistent,
            interruption: launch.interruption().to_owned(),
            max_price: launch.data.spot.max_price.clone(),
            instance: Some(instance.to_owned()),
            instance_type: launch.facts.name,
            image: launch.data.image.clone().unwrap_or_default(),
            subnet: launch.subnet.clone(),
            zone: zone.to_owned(),
            key_name: launch.data.key_name.clone(),
            fleet: launch.fleet.clone(),
            valid_until: launch.data.spot.valid_until.as_deref().and_then(parse),
            on_demand_price: launch.facts.price,
        };
        if let Some(fleet) = &launch.fleet {
            let fleet = fleet.clone();
            self.note(&fleet, "spotInstanceRequestChange", "active", id.clone(), Some(instance));
        }
        self.spot_index.insert(id.clone(), serial);
        self.spot_requests.insert(serial, request);
        id
    }

    /// The end of the instance, and of its request.
    pub(crate) fn close_spot_request(&mut self, id: &str, status: &str) {
        let now = self.now;
        let code = match status {
            "instance-terminated-no-capacity" => "instance-terminated-no-capacity",
            "instance-terminated-launch-failed" => "instance-terminated-launch-failed",
            _ => "instance-terminated-by-user",
        };
        if let Some(request) = self.spot_request_mut(id) {
            request.status = code;
            request.updated = now;
            if request.state != "cancelled" {
                request.state = "closed";
            }
        }
    }

    /// The instance of a request is forgotten, and an ended request with it.
    pub(crate) fn forget_spot_request(&mut self, id: &str) {
        if self.spot_request(id).is_some_and(|request| matches!(request.state, "closed" | "cancelled"))
            && let Some(key) = self.spot_index.remove(id)
        {
            self.spot_requests.remove(&key);
            self.tags.remove(id);
        }
    }

    /// A Spot instance is stopped: its persistent request waits.
    pub(crate) fn spot_stopped(&mut self, id: &str) {
        let Some(instance) = self.instances.get(id) else { return };
        let interrupted = instance.interrupted;
        let Some(request) = instance.spot_request.clone() else { return };
        let now = self.now;
        if let Some(request) = self.spot_request_mut(&request) {
            request.updated = now;
            if interrupted {
                request.state = "open";
                request.status = "instance-stopped-no-capacity";
            } else {
                request.state = "disabled";
                request.status = "instance-stopped-by-user";
            }
        }
    }

    pub(crate) fn spot_started(&mut self, id: &str) {
        let Some(request) = self.instances.get(id).and_then(|instance| instance.spot_request.clone()) else {
            return;
        };
        let now = self.now;
        if let Some(request) = self.spot_request_mut(&request) {
            request.updated = now;
            request.state = "active";
            request.status = "fulfilled";
        }
    }

    fn interruption_of(&self, instance: &Instance) -> &'static str {
        let behavior = instance
            .spot_request
            .as_deref()
            .and_then(|request| self.spot_request(request))
            .map_or("terminate", |request| request.interruption.as_str());
        match behavior {
            "hibernate" => "hibernate",
            "stop" => "stop",
            _ => "terminate",
        }
    }

    /// EC2 takes a Spot instance: two minutes of notice for terminate and stop; hibernation begins at once.
    pub(crate) fn interrupt(&mut self, id: &str, hold: Option<Millis>) -> bool {
        let Some(instance) = self.instances.get(id) else { return false };
        if !instance.is_spot() || !matches!(instance.state, State::Running | State::Pending) {
            return false;
        }
        if instance.notice.is_some() {
            return false;
        }
        let action = self.interruption_of(instance);
        let pending = instance.state == State::Pending;
        let request = instance.spot_request.clone();
        let now = self.now;
        let status = if action == "terminate" { "marked-for-termination" } else { "marked-for-stop" };
        if let Some(request) = request.and_then(|id| self.spot_request_mut(&id)) {
            request.status = status;
            request.updated = now;
        }
        // What has not booted has nothing to write to disk.
        let notice =
            if action == "hibernate" || pending { 0 } else { self.rules.delays.interruption_notice_ms };
        if let Some(instance) = self.instances.get_mut(id) {
            instance.held_until = hold;
            instance.notice =
                Some(Notice { action: if pending { "terminate" } else { action }, due: now + notice });
        }
        if let Some(fleet) = self.instances.get(id).and_then(|instance| instance.fleet.clone()) {
            self.note(&fleet, "instanceChange", "termination_notified", String::new(), Some(id));
        }
        if notice == 0 {
            self.interruption_due(id);
        } else {
            self.after(notice, Event::Interruption { instance: id.to_owned() });
        }
        true
    }

    pub(crate) fn interruption_due(&mut self, id: &str) {
        let Some(instance) = self.instances.get(id) else { return };
        let Some(notice) = instance.notice.clone() else { return };
        if !matches!(instance.state, State::Running | State::Pending) {
            return;
        }
        match notice.action {
            "terminate" => self.terminate(
                id,
                (
                    "Server.SpotInstanceTermination",
                    "Server.SpotInstanceTermination: Instance terminated because of Spot capacity",
                ),
                "instance-terminated-no-capacity",
            ),
            action => {
                if let Some(instance) = self.instances.get_mut(id) {
                    instance.interrupted = true;
                }
                self.stop(
                    id,
                    action == "hibernate",
                    (
                        "Server.SpotInstanceStop",
                        "Server.SpotInstanceStop: Instance stopped because of Spot capacity",
                    ),
                );
                if self.rules.replace_while_hibernated
                    && let Some(fleet) = self.instances.get(id).and_then(|instance| instance.fleet.clone())
                {
                    self.reconcile_soon(&fleet, self.rules.delays.fleet_replace_ms);
                }
            }
        }
    }

    /// A pool may have room: wake what waits in it, oldest first, then let fleets look again.
    pub(crate) fn capacity_came(&mut self, key: &PoolKey) {
        if key.lifecycle == Lifecycle::Spot {
            self.wake_pool(key);
        }
        self.fleets_look_again();
    }

    fn wake_pool(&mut self, key: &PoolKey) {
        let now = self.now;
        let waiting: Vec<String> = self
            .interrupted
            .iter()
            .filter_map(|id| self.instances.get(id))
            .filter(|instance| instance.state == State::Stopped && instance.interrupted)
            .filter(|instance| instance.held_until.is_none_or(|until| until <= now))
            .filter(|instance| instance.pool() == *key)
            .map(|instance| instance.id.clone())
            .collect();
        for id in waiting {
            if self.pools.free(key) == Some(0) {
                return;
            }
            let Some(instance) = self.instances.get(&id) else { continue };
            let price = self.pools.price(key, instance.facts);
            let affordable =
                instance.spot_request.as_deref().and_then(|request| self.spot_request(request)).is_some_and(
                    |request| {
                        request.state == "open"
                            && request
                                .max_price
                                .as_deref()
                                .and_then(|bid| bid.parse::<f64>().ok())
                                .is_none_or(|bid| bid >= price)
                    },
                );
            if affordable && instance.root_volume().is_none() {
                // "Behavior of Spot Instance interruptions" (EC2 User Guide): the start fails, and EC2 ends the instance.
                self.interrupted.remove(&id);
                let reason =
                    ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: root volume missing");
                self.terminate(&id, reason, "instance-terminated-launch-failed");
            } else if affordable {
                self.interrupted.remove(&id);
                self.start(&id);
            }
        }
    }

    /// Pools that a rule changes are given back: what a command held in them may start again.
    pub(crate) fn release_holds(&mut self, rule: &crate::control::scenario::PoolRule) {
        for instance in self.instances.iter_mut().filter(|instance| instance.interrupted) {
            if rule.covers(&instance.pool()) {
                instance.held_until = None;
            }
        }
    }

    /// The time until which an interrupted instance was held is over.
    pub(crate) fn hold_over(&mut self, id: &str) {
        if let Some(key) = self.instances.get(id).map(Instance::pool) {
            self.wake_pool(&key);
        }
    }

    /// Capacity or prices of the pools in use changed: interrupt what no longer fits, wake what fits again.
    pub(crate) fn pools_changed(&mut self) {
        let mut keys: Vec<PoolKey> = self.pools.keys().cloned().collect();
        keys.retain(|key| key.lifecycle == Lifecycle::Spot);
        for key in keys {
            let mut running: Vec<(String, Option<f64>)> = self
                .instances
                .iter()
                .filter(|instance| matches!(instance.state, State::Running | State::Pending))
                .filter(|instance| {
                    instance.holds_capacity && instance.notice.is_none() && instance.pool() == key
                })
                .map(|instance| {
                    let bid = instance
                        .spot_request
                        .as_deref()
                        .and_then(|request| self.spot_request(request))
                        .and_then(|request| request.max_price.as_deref()?.parse::<f64>().ok());
                    (instance.id.clone(), bid)
                })
                .collect();
            let leaving = self
                .instances
                .iter()
                .filter(|instance| instance.holds_capacity && instance.pool() == key)
                .filter(|instance| {
                    instance.notice.is_some()
                        || matches!(instance.state, State::Stopping | State::ShuttingDown)
                })
                .count();
            let price = running
                .first()
                .and_then(|(id, _)| self.instances.get(id))
                .map_or(0.0, |instance| self.pools.price(&key, instance.facts));
            let mut victims: Vec<String> = Vec::new();
            running.retain(|(id, bid)| {
                let outbid = bid.is_some_and(|bid| bid < price);
                if outbid {
                    victims.push(id.clone());
                }
                !outbid
            });
            let excess =
                (self.pools.excess(&key) as usize).saturating_sub(leaving).saturating_sub(victims.len());
            self.rng.shuffle(&mut running);
            victims.extend(running.into_iter().take(excess).map(|(id, _)| id));
            for id in victims {
                self.interrupt(&id, None);
            }
            self.wake_pool(&key);
        }
        self.fleets_look_again();
    }

    pub(crate) fn describe_spot_instance_requests(
        &self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let known = [
            "create-time",
            "instance-id",
            "launch-group",
            "launch.image-id",
            "launch.instance-type",
            "launch.key-name",
            "launched-availability-zone",
            "product-description",
            "spot-instance-request-id",
            "spot-price",
            "state",
            "status-code",
            "status-message",
            "tag-key",
            "type",
            "valid-from",
            "valid-until",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeSpotInstanceRequests", request, 5, 1000)?;
        let ids = request.texts("SpotInstanceRequestId");
        self.check_spot_ids(&ids)?;
        let found: Vec<&SpotRequest> = self
            .spot_requests
            .values()
            .filter(|request| ids.is_empty() || ids.contains(&request.id.as_str()))
            .filter(|request| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    match name {
                        "create-time" | "valid-from" => one(&iso(request.created)),
                        "instance-id" => request.instance.iter().map(|id| Cow::Owned(id.clone())).collect(),
                        "launch.image-id" => one(&request.image),
                        "launch.instance-type" => one(request.instance_type),
                        "launched-availability-zone" => one(&request.zone),
                        "product-description" => one("Linux/UNIX"),
                        "spot-instance-request-id" => one(&request.id),
                        "spot-price" => one(&request.price_text()),
                        "state" => one(request.state),
                        "status-code" => one(request.status),
                        "status-message" => one(status_message(request.status)),
                        "type" => one(request.kind()),
                        other => self.tag_values(&request.id, other),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("spotInstanceRequestSet", found, |xml, request| self.write_spot_request(xml, request));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn check_spot_ids(&self, ids: &[&str]) -> Result<(), ApiError> {
        let missing: Vec<&str> =
            ids.iter().copied().filter(|id| !self.spot_index.contains_key(*id)).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(ApiError::new(
                "InvalidSpotInstanceRequestID.NotFound",
                absent("spot instance request", &missing),
            ))
        }
    }

    fn write_spot_request(&self, xml: &mut Xml, request: &SpotRequest) {
        xml.text("spotInstanceRequestId", &request.id);
        xml.text("spotPrice", &request.price_text());
        xml.text("type", request.kind());
        xml.text("state", request.state);
        xml.node("status", |xml| {
            xml.text("code", request.status);
            xml.time("updateTime", request.updated);
            xml.text("message", status_message(request.status));
        });
        xml.node("launchSpecification", |xml| {
            xml.text("imageId", &request.image);
            xml.text("instanceType", request.instance_type);
            xml.maybe("keyName", request.key_name.as_ref());
            xml.node("placement", |xml| xml.text("availabilityZone", &request.zone));
            xml.text("subnetId", &request.subnet);
            xml.node("monitoring", |xml| xml.put("enabled", false));
        });
        xml.maybe("instanceId", request.instance.as_ref());
        xml.time("createTime", request.created);
        xml.text("productDescription", "Linux/UNIX");
        xml.text("launchedAvailabilityZone", &request.zone);
        xml.maybe("validUntil", request.valid_until.map(iso));
        xml.text("instanceInterruptionBehavior", &request.interruption);
        write_tags(xml, self.tags_of(&request.id));
    }

    /// A cancelled request leaves a running instance alone and ends one that EC2 stopped
    /// ("Cancel a Spot Instance request", EC2 User Guide).
    pub(crate) fn cancel_spot_instance_requests(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let ids: Vec<String> =
            request.texts("SpotInstanceRequestId").into_iter().map(str::to_owned).collect();
        self.check_spot_ids(&ids.iter().map(String::as_str).collect::<Vec<_>>())?;
        let now = self.now;
        let mut sleeping = Vec::new();
        for id in &ids {
            let Some(request) = self.spot_request(id) else { continue };
            let state = request
                .instance
                .as_ref()
                .and_then(|id| self.instances.get(id))
                .map(|i| (i.state, i.interrupted));
            let instance = request.instance.clone();
            let Some(request) = self.spot_request_mut(id) else { continue };
            if request.state == "closed" {
                continue;
            }
            request.state = "cancelled";
            request.updated = now;
            request.status = match state {
                Some((State::Stopped | State::Stopping, _)) => "instance-terminated-by-user",
                Some((state, _)) if state.alive() => "request-canceled-and-instance-running",
                _ => "canceled-before-fulfillment",
            };
            if let Some((State::Stopped | State::Stopping, true)) = state {
                sleeping.extend(instance);
            }
        }
        for id in sleeping {
            self.terminate(
                &id,
                ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: Spot request cancelled"),
                "instance-terminated-by-user",
            );
        }
        xml.set("spotInstanceRequestSet", ids, |xml, id| {
            let state = self.spot_request(&id).map_or("cancelled", |request| request.state);
            xml.text("spotInstanceRequestId", &id);
            xml.text("state", state);
        });
        Ok(())
    }

    pub(crate) fn describe_spot_price_history(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = ["availability-zone", "instance-type", "product-description", "spot-price", "timestamp"];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeSpotPriceHistory", request, 1, 1000)?;
        let types = request.texts("InstanceType");
        let zone = request.text("AvailabilityZone");
        let products = request.texts("ProductDescription");
        let start = request.text("StartTime").and_then(parse).unwrap_or(self.now - HOUR);
        let mut rows = Vec::new();
        if products.is_empty() || products.iter().any(|product| product.starts_with("Linux/UNIX")) {
            for facts in crate::model::catalog::all().filter(|facts| facts.sold_as_spot()) {
                if !types.is_empty() && !types.contains(&facts.name) {
                    continue;
                }
                for name in self.zone_names() {
                    if zone.is_some_and(|zone| zone != name) {
                        continue;
                    }
                    let key = PoolKey { instance_type: facts.name, zone: name, lifecycle: Lifecycle::Spot };
                    let price = format!("{:.6}", self.pools.price(&key, facts));
                    let accepted = filters.accept(|filter| {
                        vec![Cow::Owned(match filter {
                            "availability-zone" => key.zone.clone(),
                            "instance-type" => facts.name.to_owned(),
                            "product-description" => "Linux/UNIX".to_owned(),
                            "spot-price" => price.clone(),
                            _ => iso(start),
                        })]
                    });
                    if accepted {
                        rows.push((key, price));
                    }
                }
            }
        }
        let (rows, token) = page.cut(rows);
        xml.set("spotPriceHistorySet", rows, |xml, (key, price)| {
            xml.text("availabilityZone", &key.zone);
            xml.text("instanceType", key.instance_type);
            xml.text("productDescription", "Linux/UNIX");
            xml.text("spotPrice", &price);
            xml.time("timestamp", start);
        });
        // EC2 sends an empty token on the last page of this action.
        xml.text("nextToken", token.as_deref().unwrap_or_default());
        Ok(())
    }

    /// Scores 1 to 10 by the part of the target that the pools of a zone could hold (API_GetSpotPlacementScores).
    pub(crate) fn get_spot_placement_scores(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let page = Page::read("GetSpotPlacementScores", request, 10, 1000)?;
        let target = request.int("TargetCapacity").unwrap_or(1);
        if target < 1 {
            return Err(ApiError::invalid_value(
                "TargetCapacity",
                &target.to_string(),
                "It must be at least 1.",
            ));
        }
        let mut types = Vec::new();
        for name in request.texts("InstanceType") {
            types.push(self.facts(name)?);
        }
        if let Some(node) = request.at("InstanceRequirementsWithMetadata.InstanceRequirements") {
            let architectures = request.texts("InstanceRequirementsWithMetadata.ArchitectureType");
            for architecture in if architectures.is_empty() { vec![""] } else { architectures } {
                let requirements = crate::model::requirements::Requirements::read(node);
                types.extend(
                    requirements.types(architecture).into_iter().filter_map(crate::model::catalog::find),
                );
            }
        }
        if types.is_empty() {
            return Err(ApiError::missing("InstanceType"));
        }
        let single_zone = request.flag("SingleAvailabilityZone").unwrap_or(false);
        let room = |zone: &str| -> u64 {
            types
                .iter()
                .map(|facts| {
                    let key = PoolKey {
                        instance_type: facts.name,
                        zone: zone.to_owned(),
                        lifecycle: Lifecycle::Spot,
                    };
                    if facts.sold_as_spot() {
                        self.pools.free(&key).map_or(u64::from(u32::MAX), u64::from)
                    } else {
                        0
                    }
                })
                .sum()
        };
        let score = |room: u64| {
            let tenths = room.saturating_mul(10) / u64::try_from(target).unwrap_or(1);
            tenths.clamp(1, 10)
        };
        let letters = self.rules.zones.clone();
        let rooms: Vec<(String, u64)> = letters
            .iter()
            .map(|letter| (self.zone_id(letter), room(&format!("{}{letter}", self.name))))
            .collect();
        let rows: Vec<(Option<String>, u64)> = if single_zone {
            rooms.into_iter().map(|(zone, room)| (Some(zone), score(room))).collect()
        } else {
            let total = rooms.iter().fold(0u64, |sum, (_, room)| sum.saturating_add(*room));
            vec![(None, score(total))]
        };
        let (rows, token) = page.cut(rows);
        xml.set("spotPlacementScoreSet", rows, |xml, (zone, score)| {
            xml.maybe("availabilityZoneId", zone);
            xml.text("region", &self.name);
            xml.put("score", score);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }
}

impl SpotRequest {
    fn kind(&self) -> &'static str {
        if self.persistent { "persistent" } else { "one-time" }
    }

    /// The maximum price; by default the on-demand price.
    fn price_text(&self) -> String {
        self.max_price.clone().unwrap_or_else(|| format!("{:.6}", self.on_demand_price))
    }
}
