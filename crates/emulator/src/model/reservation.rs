// SPDX-License-Identifier: GPL-3.0-or-later
//! On-Demand Capacity Reservations and placement groups.

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::capacity::{Lifecycle, PoolKey};
use crate::model::launch::Launch;
use crate::model::launch_data::{TagList, read_tags, write_tags};
use crate::model::region::Region;
use crate::model::time::{Millis, iso, parse};

#[derive(Debug)]
pub struct CapacityReservation {
    pub id: String,
    pub instance_type: &'static str,
    pub platform: String,
    pub zone: String,
    pub zone_id: String,
    pub total: u32,
    pub used: u32,
    /// `active`, `cancelled` or `expired`.
    pub state: &'static str,
    pub created: Millis,
    pub end: Option<Millis>,
    /// Only launches that name it use it.
    pub targeted: bool,
    pub tenancy: String,
}

impl CapacityReservation {
    fn free(&self, now: Millis) -> u32 {
        if self.state_at(now) == "active" { self.total.saturating_sub(self.used) } else { 0 }
    }

    fn state_at(&self, now: Millis) -> &'static str {
        if self.state == "active" && self.end.is_some_and(|end| end <= now) { "expired" } else { self.state }
    }
}

#[derive(Debug)]
pub struct PlacementGroup {
    pub id: String,
    pub name: String,
    pub strategy: String,
    pub partitions: Option<i64>,
    pub spread_level: Option<String>,
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(
        "InvalidCapacityReservationId.NotFound",
        format!("The capacity reservation '{id}' does not exist"),
    )
}

/// CreateCapacityReservation says `TagSpecifications.N` where other actions say `TagSpecification.N`.
fn read_tag_specifications(request: &Node) -> Result<TagList, ApiError> {
    let mut tags = TagList::new();
    for name in ["TagSpecifications", "TagSpecification"] {
        for spec in request.list(name) {
            tags.extend(read_tags(spec)?);
        }
    }
    Ok(tags)
}

impl Region {
    fn matching_reservation(&self, launch: &Launch, zone: &str) -> Option<&CapacityReservation> {
        if launch.lifecycle == Lifecycle::Spot
            || launch.data.reservation_preference.as_deref() == Some("none")
        {
            return None;
        }
        let fits = |reservation: &&CapacityReservation| {
            reservation.instance_type == launch.facts.name
                && reservation.zone == zone
                && reservation.free(self.now) > 0
        };
        match &launch.data.reservation_id {
            Some(id) => self.reservations.get(id).filter(fits),
            None => self.reservations.values().filter(|reservation| !reservation.targeted).find(fits),
        }
    }

    /// How many instances of the launch would fit into capacity reservations.
    pub(crate) fn reserved_slots(&self, launch: &Launch, zone: &str) -> u32 {
        if launch.data.reservation_id.is_some() {
            return self
                .matching_reservation(launch, zone)
                .map_or(0, |reservation| reservation.free(self.now));
        }
        if launch.lifecycle == Lifecycle::Spot
            || launch.data.reservation_preference.as_deref() == Some("none")
        {
            return 0;
        }
        self.reservations
            .values()
            .filter(|reservation| {
                !reservation.targeted
                    && reservation.instance_type == launch.facts.name
                    && reservation.zone == zone
            })
            .map(|reservation| reservation.free(self.now))
            .sum()
    }

    pub(crate) fn take_reserved_slot(&mut self, launch: &Launch, zone: &str) -> Option<String> {
        let id = self.matching_reservation(launch, zone)?.id.clone();
        self.reservations.get_mut(&id)?.used += 1;
        Some(id)
    }

    /// A stopped instance that names its reservation starts in it.
    pub(crate) fn take_slot(&mut self, id: &str) -> bool {
        let now = self.now;
        let Some(reservation) = self.reservations.get_mut(id).filter(|r| r.free(now) > 0) else {
            return false;
        };
        reservation.used += 1;
        true
    }

    pub(crate) fn has_slot(&self, id: &str) -> bool {
        self.reservations.get(id).is_some_and(|reservation| reservation.free(self.now) > 0)
    }

    pub(crate) fn free_reserved_slot(&mut self, id: &str) {
        let Some(reservation) = self.reservations.get_mut(id) else { return };
        reservation.used = reservation.used.saturating_sub(1);
        // Its slot of the pool was taken when the reservation was made; a cancelled one gives it back.
        if reservation.state != "active" {
            let key = PoolKey {
                instance_type: reservation.instance_type,
                zone: reservation.zone.clone(),
                lifecycle: Lifecycle::OnDemand,
            };
            self.pools.give_back(&key);
        }
    }

    pub(crate) fn create_capacity_reservation(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = self.once("CreateCapacityReservation", request, |region| {
            let facts = region.facts(request.required("InstanceType")?)?;
            let zone = match (request.text("AvailabilityZone"), request.text("AvailabilityZoneId")) {
                (Some(zone), _) => zone.to_owned(),
                (None, Some(id)) => region
                    .rules
                    .zones
                    .iter()
                    .find(|letter| region.zone_id(letter) == id)
                    .map(|letter| format!("{}{letter}", region.name))
                    .unwrap_or_default(),
                (None, None) => return Err(ApiError::missing("AvailabilityZone")),
            };
            if !region.zone_names().contains(&zone) {
                return Err(ApiError::new(
                    "InvalidAvailabilityZone",
                    format!("The zone '{zone}' does not exist."),
                ));
            }
            let count = request.int("InstanceCount").unwrap_or(0);
            let Some(total) = u32::try_from(count).ok().filter(|count| (1..=1000).contains(count)) else {
                return Err(ApiError::invalid_value(
                    "InstanceCount",
                    &count.to_string(),
                    "It must be 1 to 1000.",
                ));
            };
            let key =
                PoolKey { instance_type: facts.name, zone: zone.clone(), lifecycle: Lifecycle::OnDemand };
            if region.pools.free(&key).is_some_and(|free| free < total) {
                return Err(crate::model::launch::no_capacity(&key));
            }
            for _ in 0..total {
                region.pools.take(&key);
            }
            let id = region.new_id("cr");
            region.put_tags(&id, &read_tag_specifications(request)?);
            let letter = zone.strip_prefix(&region.name).unwrap_or_default().to_owned();
            let reservation = CapacityReservation {
                id: id.clone(),
                instance_type: facts.name,
                platform: request.required("InstancePlatform")?.to_owned(),
                zone_id: region.zone_id(&letter),
                zone,
                total,
                used: 0,
                state: "active",
                created: region.now,
                end: request.text("EndDate").and_then(parse),
                targeted: request.text("InstanceMatchCriteria") == Some("targeted"),
                tenancy: request.owned("Tenancy").unwrap_or_else(|| "default".to_owned()),
            };
            region.reservations.insert(id.clone(), reservation);
            Ok(id)
        })?;
        if let Some(reservation) = self.reservations.get(&id) {
            xml.node("capacityReservation", |xml| self.write_reservation(xml, reservation));
        }
        Ok(())
    }

    pub(crate) fn cancel_capacity_reservation(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("CapacityReservationId")?;
        let reservation = self.reservations.get_mut(id).ok_or_else(|| not_found(id))?;
        if reservation.state != "active" {
            return Err(ApiError::new(
                "InvalidCapacityReservationState",
                format!("The capacity reservation '{id}' is not active."),
            ));
        }
        reservation.state = "cancelled";
        let unused = reservation.total.saturating_sub(reservation.used);
        let key = PoolKey {
            instance_type: reservation.instance_type,
            zone: reservation.zone.clone(),
            lifecycle: Lifecycle::OnDemand,
        };
        for _ in 0..unused {
            self.pools.give_back(&key);
        }
        self.capacity_came(&key);
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn describe_capacity_reservations(
        &self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let known = [
            "instance-type",
            "owner-id",
            "instance-platform",
            "availability-zone",
            "tenancy",
            "state",
            "instance-match-criteria",
            "start-date",
            "end-date-type",
            "tag-key",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeCapacityReservations", request, 1, 1000)?;
        let ids = request.texts("CapacityReservationId");
        for id in &ids {
            if !self.reservations.contains_key(*id) {
                return Err(not_found(id));
            }
        }
        let found: Vec<&CapacityReservation> = self
            .reservations
            .values()
            .filter(|reservation| ids.is_empty() || ids.contains(&reservation.id.as_str()))
            .filter(|reservation| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    match name {
                        "instance-type" => one(reservation.instance_type),
                        "owner-id" => one(&self.rules.account),
                        "instance-platform" => one(&reservation.platform),
                        "availability-zone" => one(&reservation.zone),
                        "tenancy" => one(&reservation.tenancy),
                        "state" => one(reservation.state_at(self.now)),
                        "instance-match-criteria" => {
                            one(if reservation.targeted { "targeted" } else { "open" })
                        }
                        "start-date" => one(&iso(reservation.created)),
                        "end-date-type" => {
                            one(if reservation.end.is_some() { "limited" } else { "unlimited" })
                        }
                        other => self.tag_values(&reservation.id, other),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("capacityReservationSet", found, |xml, reservation| self.write_reservation(xml, reservation));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_reservation(&self, xml: &mut Xml, reservation: &CapacityReservation) {
        let state = reservation.state_at(self.now);
        xml.text("capacityReservationId", &reservation.id);
        xml.text("ownerId", &self.rules.account);
        xml.text(
            "capacityReservationArn",
            &format!(
                "arn:aws:ec2:{}:{}:capacity-reservation/{}",
                self.name, self.rules.account, reservation.id
            ),
        );
        xml.text("availabilityZoneId", &reservation.zone_id);
        xml.text("instanceType", reservation.instance_type);
        xml.text("instancePlatform", &reservation.platform);
        xml.text("availabilityZone", &reservation.zone);
        xml.text("tenancy", &reservation.tenancy);
        xml.put("totalInstanceCount", reservation.total);
        xml.put("availableInstanceCount", reservation.free(self.now));
        xml.put("ebsOptimized", false);
        xml.put("ephemeralStorage", false);
        xml.text("state", state);
        xml.time("startDate", reservation.created);
        xml.maybe("endDate", reservation.end.map(iso));
        xml.text("endDateType", if reservation.end.is_some() { "limited" } else { "unlimited" });
        xml.text("instanceMatchCriteria", if reservation.targeted { "targeted" } else { "open" });
        xml.time("createDate", reservation.created);
        write_tags(xml, self.tags_of(&reservation.id));
    }

    pub(crate) fn create_placement_group(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let name = request.required("GroupName")?.to_owned();
        if self.placement_groups.contains_key(&name) {
            return Err(ApiError::new(
                "InvalidPlacementGroup.Duplicate",
                format!("The placement group '{name}' already exists."),
            ));
        }
        let strategy = request.text("Strategy").unwrap_or("cluster");
        if !["cluster", "spread", "partition"].contains(&strategy) {
            return Err(ApiError::invalid_value(
                "Strategy",
                strategy,
                "Valid values: cluster, spread, partition.",
            ));
        }
        let id = self.new_id("pg");
        self.put_tags(&id, &read_tag_specifications(request)?);
        let group = PlacementGroup {
            id,
            name: name.clone(),
            strategy: strategy.to_owned(),
            partitions: request.int("PartitionCount").or((strategy == "partition").then_some(2)),
            spread_level: request.owned("SpreadLevel"),
        };
        xml.put("return", true);
        xml.node("placementGroup", |xml| self.write_placement_group(xml, &group));
        self.placement_groups.insert(name, group);
        Ok(())
    }

    pub(crate) fn delete_placement_group(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let name = request.required("GroupName")?;
        if !self.placement_groups.contains_key(name) {
            return Err(ApiError::new(
                "InvalidPlacementGroup.Unknown",
                format!("The Placement Group '{name}' is unknown."),
            ));
        }
        let used = self
            .instances
            .iter()
            .any(|instance| instance.data.placement.group.as_deref() == Some(name) && instance.state.alive());
        if used {
            return Err(ApiError::new(
                "InvalidPlacementGroup.InUse",
                format!("The placement group '{name}' is in use and may not be deleted."),
            ));
        }
        if let Some(group) = self.placement_groups.remove(name) {
            self.tags.remove(&group.id);
        }
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn describe_placement_groups(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(
            request,
            &["group-name", "group-arn", "spread-level", "state", "strategy", "tag-key"],
        )?;
        let (names, ids) = (request.texts("GroupName"), request.texts("GroupId"));
        for name in &names {
            if !self.placement_groups.contains_key(*name) {
                return Err(ApiError::new(
                    "InvalidPlacementGroup.Unknown",
                    format!("The Placement Group '{name}' is unknown."),
                ));
            }
        }
        let found: Vec<&PlacementGroup> = self
            .placement_groups
            .values()
            .filter(|group| names.is_empty() || names.contains(&group.name.as_str()))
            .filter(|group| ids.is_empty() || ids.contains(&group.id.as_str()))
            .filter(|group| {
                filters.accept(|name| match name {
                    "group-name" => vec![Cow::Borrowed(group.name.as_str())],
                    "group-arn" => vec![Cow::Owned(self.group_arn(group))],
                    "spread-level" => group.spread_level.as_deref().map(Cow::Borrowed).into_iter().collect(),
                    "state" => vec![Cow::Borrowed("available")],
                    "strategy" => vec![Cow::Borrowed(group.strategy.as_str())],
                    other => self.tag_values(&group.id, other),
                })
            })
            .collect();
        xml.set("placementGroupSet", found, |xml, group| self.write_placement_group(xml, group));
        Ok(())
    }

    fn group_arn(&self, group: &PlacementGroup) -> String {
        format!("arn:aws:ec2:{}:{}:placement-group/{}", self.name, self.rules.account, group.name)
    }

    fn write_placement_group(&self, xml: &mut Xml, group: &PlacementGroup) {
        xml.text("groupName", &group.name);
        xml.text("state", "available");
        xml.text("strategy", &group.strategy);
        xml.maybe("partitionCount", group.partitions);
        xml.text("groupId", &group.id);
        write_tags(xml, self.tags_of(&group.id));
        xml.text("groupArn", &self.group_arn(group));
        xml.maybe("spreadLevel", group.spread_level.as_ref());
    }
}
