// SPDX-License-Identifier: GPL-3.0-or-later
//! RunInstances and the other actions on instances.

use std::collections::HashSet;

use crate::api::describe_instances::write_state;
use crate::api::error::ApiError;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::capacity::Lifecycle;
use crate::model::fleet_plan::Planned;
use crate::model::instance::{Instance, State};
use crate::model::launch::Launch;
use crate::model::launch_data::LaunchData;
use crate::model::region::{Moment, Region};

/// TerminateInstances takes at most 1,000 ids ("TerminateInstances", API reference).
const MAX_IDS: usize = 1_000;

fn well_formed(id: &str) -> bool {
    id.strip_prefix("i-").is_some_and(|rest| {
        (rest.len() == 17 || rest.len() == 8) && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

fn malformed(id: &str) -> ApiError {
    ApiError::new("InvalidInstanceID.Malformed", format!("Invalid id: \"{id}\""))
}

impl Region {
    /// Checks ids as EC2 does before it acts: one bad id and nothing is done.
    pub(crate) fn check_instance_ids(&self, ids: &[&str]) -> Result<(), ApiError> {
        if let Some(id) = ids.iter().find(|id| !well_formed(id)) {
            return Err(malformed(id));
        }
        let missing: Vec<&str> = ids
            .iter()
            .copied()
            .filter(|id| self.instances.get(id).is_none_or(|instance| instance.visible_at > self.now))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(ApiError::instance_not_found(&missing)) }
    }

    fn some_instances<'r>(&self, request: &'r Node) -> Result<Vec<&'r str>, ApiError> {
        let ids = request.texts("InstanceId");
        if ids.len() > MAX_IDS {
            return Err(ApiError::invalid_value(
                "InstanceId",
                &ids.len().to_string(),
                &format!("At most {MAX_IDS} instance ids are allowed."),
            ));
        }
        self.check_instance_ids(&ids)?;
        let mut seen = HashSet::new();
        Ok(ids.into_iter().filter(|id| seen.insert(*id)).collect())
    }

    /// What a RunInstances request launches: template, then the request's own parameters.
    fn read_launch(&self, request: &Node) -> Result<Launch, ApiError> {
        let own = LaunchData::read(request)?;
        let (data, template) = match request.at("LaunchTemplate") {
            Some(template) => {
                let (id, version) = self.resolve_template(
                    template.text("LaunchTemplateId"),
                    template.text("LaunchTemplateName"),
                    template.text("Version"),
                )?;
                (version.data.overlaid(&own), Some((id, version.number)))
            }
            None => (own, None),
        };
        let facts = self.facts(data.instance_type.as_deref().unwrap_or("m1.small"))?;
        let existing = data.interfaces.iter().find(|interface| interface.index == 0);
        let existing = match existing.and_then(|interface| interface.interface_id.as_deref()) {
            Some(id) => Some(self.free_interface(id)?.subnet.clone()),
            None => None,
        };
        if data.interfaces.iter().any(|interface| interface.interface_id.is_some()) && !data.groups.is_empty()
        {
            return Err(ApiError::combination(
                "Network interfaces and an instance-level security groups may not be specified on the same request",
            ));
        }
        let subnet = match existing.or_else(|| request.text("SubnetId").map(str::to_owned)).or_else(|| {
            data.interfaces
                .iter()
                .find(|interface| interface.index == 0)
                .and_then(|interface| interface.subnet.clone())
        }) {
            Some(id) => {
                if self.subnet(&id).is_none() {
                    return Err(ApiError::new(
                        "InvalidSubnetID.NotFound",
                        format!("The subnet ID '{id}' does not exist"),
                    ));
                }
                id
            }
            None => self
                .subnets
                .iter()
                .find(|subnet| data.placement.zone.as_ref().is_none_or(|zone| *zone == subnet.zone))
                .map(|subnet| subnet.id.clone())
                .ok_or_else(|| {
                    ApiError::invalid_value(
                        "Placement.AvailabilityZone",
                        data.placement.zone.as_deref().unwrap_or_default(),
                        "There is no subnet in this Availability Zone.",
                    )
                })?,
        };
        let lifecycle =
            if data.market.as_deref() == Some("spot") { Lifecycle::Spot } else { Lifecycle::OnDemand };
        let persistent = data.spot.kind.as_deref() == Some("persistent");
        let interruption = data.spot.interruption.as_deref().unwrap_or("terminate");
        if lifecycle == Lifecycle::Spot && interruption != "terminate" && !persistent {
            return Err(ApiError::combination(
                "InstanceInterruptionBehavior stop and hibernate need SpotInstanceType persistent.",
            ));
        }
        Ok(Launch {
            facts,
            subnet,
            lifecycle,
            data,
            fleet: None,
            weight: 1.0,
            template,
            client_token: request.owned("ClientToken").unwrap_or_default(),
            persistent,
            alone: false,
        })
    }

    pub(crate) fn run_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = self.once("RunInstances", request, |region| {
            let least = request.int("MinCount").unwrap_or(1);
            let most = request.int("MaxCount").unwrap_or(1);
            if least < 1 || most < least {
                return Err(ApiError::new(
                    "InvalidParameterValue",
                    format!("MinCount {least} and MaxCount {most} are not valid: 1 <= MinCount <= MaxCount."),
                ));
            }
            let launch = region.read_launch(request)?;
            let wanted = u32::try_from(most).unwrap_or(u32::MAX);
            let (granted, why) = region.admit(&launch, wanted, &Planned::default());
            if i64::from(granted) < least {
                return Err(why.unwrap_or_else(|| {
                    ApiError::new("InsufficientInstanceCapacity", "There is not enough capacity.")
                }));
            }
            let ids = region.launch(&launch, granted);
            if (ids.len() as i64) < least {
                // Only an address that was asked for by name can be lost between the check and the launch.
                for id in &ids {
                    region.terminate(id, ("Server.InternalError", "Server.InternalError"), "");
                }
                return Err(ApiError::new("InvalidIPAddress.InUse", "Address is in use."));
            }
            Ok(ids.join(","))
        })?;
        let instances: Vec<&Instance> = ids.split(',').filter_map(|id| self.instances.get(id)).collect();
        if let Some(first) = instances.first() {
            self.write_reservation_head(xml, first);
        }
        xml.set("instancesSet", instances, |xml, instance| self.write_instance(xml, instance));
        Ok(())
    }

    /// A RunInstances DryRun also checks what it names, as EC2 does.
    pub(crate) fn dry_run_instances(&self, request: &Node) -> Result<(), ApiError> {
        let launch = self.read_launch(request)?;
        if let Some(image) = &launch.data.image {
            self.image(image)?;
        }
        Ok(())
    }

    pub(crate) fn terminate_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = self.some_instances(request)?;
        let protected = ids.iter().find(|id| {
            self.instances.get(id).is_some_and(|instance| {
                instance.state.alive() && instance.data.disable_termination == Some(true)
            })
        });
        if let Some(id) = protected {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format!(
                    "The instance '{id}' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again."
                ),
            ));
        }
        let changes = self.change_each(&ids, |region, id| {
            region.terminate(
                id,
                ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"),
                "instance-terminated-by-user",
            );
        });
        write_changes(xml, &changes);
        Ok(())
    }

    fn change_each(
        &mut self,
        ids: &[&str],
        mut change: impl FnMut(&mut Self, &str),
    ) -> Vec<(String, State, State)> {
        ids.iter()
            .filter_map(|id| {
                let before = self.instances.get(id)?.state;
                change(self, id);
                let after = self.instances.get(id)?.state;
                Some(((*id).to_owned(), before, after))
            })
            .collect()
    }

    pub(crate) fn stop_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = self.some_instances(request)?;
        let hibernate = request.flag("Hibernate").unwrap_or(false);
        for id in &ids {
            let Some(instance) = self.instances.get(id) else { continue };
            if !matches!(instance.state, State::Running | State::Stopping | State::Stopped) {
                return Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!("The instance '{id}' is not in a state from which it can be stopped."),
                ));
            }
            if instance.data.disable_stop == Some(true) {
                return Err(ApiError::new(
                    "OperationNotPermitted",
                    format!(
                        "The instance '{id}' may not be stopped. Modify its 'disableApiStop' instance attribute and try again."
                    ),
                ));
            }
            if instance.is_spot() {
                let persistent = instance
                    .spot_request
                    .as_ref()
                    .and_then(|request| self.spot_requests.get(self.spot_index.get(request)?))
                    .is_some_and(|request| request.persistent && request.fleet.is_none());
                if !persistent {
                    return Err(ApiError::new(
                        "UnsupportedOperation",
                        format!(
                            "You can't stop the Spot Instance '{id}' because it is associated with a one-time Spot Instance request or a fleet. You can only stop Spot Instances associated with persistent Spot Instance requests."
                        ),
                    ));
                }
            }
            if hibernate && !instance.hibernation() {
                return Err(ApiError::new(
                    "UnsupportedHibernationConfiguration",
                    format!("The instance '{id}' is not configured for hibernation."),
                ));
            }
            // EC2 refuses until the agent in the instance is ready, about two minutes after boot.
            let ready = instance
                .running_since
                .is_some_and(|since| since + self.rules.delays.status_ok_ms <= self.now);
            if hibernate && instance.state == State::Running && !ready {
                return Err(ApiError::new(
                    "UnsupportedOperation",
                    "Instance is not ready to hibernate yet, retry in a few minutes.",
                ));
            }
        }
        let (code, message) = if hibernate {
            ("Client.UserInitiatedHibernate", "Client.UserInitiatedHibernate: User initiated hibernate")
        } else {
            ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
        };
        let changes = self.change_each(&ids, |region, id| {
            if region.instances.get(id).is_some_and(|instance| instance.state == State::Running) {
                region.stop(id, hibernate, (code, message));
            }
        });
        write_changes(xml, &changes);
        Ok(())
    }

    pub(crate) fn start_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = self.some_instances(request)?;
        let mut planned = Planned::default();
        for id in &ids {
            let Some(instance) = self.instances.get(id) else { continue };
            match instance.state {
                State::Pending | State::Running => continue,
                State::Stopped => {}
                _ => {
                    return Err(ApiError::new(
                        "IncorrectInstanceState",
                        format!("The instance '{id}' is not in a state from which it can be started."),
                    ));
                }
            }
            if instance.interrupted {
                return Err(ApiError::new(
                    "IncorrectSpotRequestState",
                    format!(
                        "You can't start the Spot Instance '{id}' because it was stopped by EC2; EC2 starts it when capacity is available."
                    ),
                ));
            }
            if instance.root_volume().is_none() {
                return Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!(
                        "Instance '{id}' does not have a volume attached at root ({})",
                        instance.root_device
                    ),
                ));
            }
            if let Some(reservation) = &instance.data.reservation_id {
                if !self.has_slot(reservation) {
                    return Err(ApiError::new(
                        "ReservationCapacityExceeded",
                        format!(
                            "The Capacity Reservation '{reservation}' does not have capacity for '{id}'."
                        ),
                    ));
                }
                continue;
            }
            let launch = Launch {
                facts: instance.facts,
                subnet: instance.subnet.clone(),
                lifecycle: instance.lifecycle,
                data: instance.data.clone(),
                fleet: instance.fleet.clone(),
                weight: instance.weight,
                template: None,
                client_token: String::new(),
                persistent: true,
                alone: true,
            };
            let free = self.pools.free(&instance.pool());
            let zone = instance.zone.clone();
            if free.is_some_and(|free| planned.in_pool(&launch.pool(&zone)) >= free) {
                return Err(crate::model::launch::no_capacity(&launch.pool(&zone)));
            }
            planned.add(&launch, &zone, 1, 0.0);
        }
        let changes = self.change_each(&ids, |region, id| {
            if region.instances.get(id).is_some_and(|instance| instance.state == State::Stopped) {
                region.start(id);
            }
        });
        write_changes(xml, &changes);
        Ok(())
    }

    pub(crate) fn reboot_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let ids = self.some_instances(request)?;
        for id in &ids {
            let state = self.instances.get(id).map(|instance| instance.state);
            if !matches!(state, Some(State::Running | State::Pending)) {
                return Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!("The instance '{id}' is not in the 'running' state."),
                ));
            }
        }
        for id in ids {
            self.reboot(id);
        }
        xml.put("return", true);
        Ok(())
    }

    /// The instance stays `running`; what runs in it ends and starts again.
    pub(crate) fn reboot(&mut self, id: &str) {
        let now = self.now;
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.state != State::Running {
            return;
        }
        instance.running_since = Some(now);
        instance.impaired = None;
        self.signal(id, Moment::End);
        self.signal(id, Moment::Boot);
    }

    pub(crate) fn maintenance_due(&mut self, id: &str, event: &str) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        let Some(at) = instance.maintenance.iter().position(|known| known.id == event) else { return };
        let event = instance.maintenance.remove(at);
        let running = instance.state == State::Running;
        match event.code.as_str() {
            "instance-retirement" => self.terminate(
                id,
                ("Server.ScheduledStop", "Server.ScheduledStop: Stopped due to a scheduled retirement"),
                "instance-terminated-by-user",
            ),
            "instance-stop" if running => self.stop(
                id,
                false,
                ("Server.ScheduledStop", "Server.ScheduledStop: Stopped due to a scheduled retirement"),
            ),
            "instance-reboot" | "system-reboot" => self.reboot(id),
            _ => {}
        }
    }
}

fn write_changes(xml: &mut Xml, changes: &[(String, State, State)]) {
    xml.set("instancesSet", changes, |xml, (id, before, after)| {
        xml.text("instanceId", id);
        write_state(xml, "currentState", *after);
        write_state(xml, "previousState", *before);
    });
}
