// SPDX-License-Identifier: GPL-3.0-or-later
//! RunInstances and the other actions on instances.

use std::borrow::Cow;
use std::collections::HashSet;

use super::capacity::Lifecycle;
use super::error::ApiError;
use super::filter::Filters;
use super::fleet::Planned;
use super::instance::{Instance, Launch, State};
use super::launch_data::{LaunchData, write_tags};
use super::page::Page;
use super::query::Node;
use super::region::{Moment, Region};
use super::storage::private_dns;
use super::time::{MINUTE, Millis, iso};
use super::xml::Xml;

/// TerminateInstances takes at most 1,000 ids ("TerminateInstances", API reference).
const MAX_IDS: usize = 1_000;
/// DescribeInstanceStatus takes at most 100 ids.
const MAX_STATUS_IDS: usize = 100;

const INSTANCE_FILTERS: &[&str] = &[
    "architecture",
    "availability-zone",
    "availability-zone-id",
    "block-device-mapping.device-name",
    "block-device-mapping.volume-id",
    "capacity-reservation-id",
    "client-token",
    "dns-name",
    "hibernation-options.configured",
    "hypervisor",
    "iam-instance-profile.arn",
    "image-id",
    "instance-id",
    "instance-lifecycle",
    "instance-state-code",
    "instance-state-name",
    "instance-type",
    "instance.group-id",
    "ip-address",
    "key-name",
    "launch-index",
    "launch-time",
    "metadata-options.http-tokens",
    "metadata-options.instance-metadata-tags",
    "network-interface.network-interface-id",
    "network-interface.subnet-id",
    "owner-id",
    "placement-group-name",
    "private-dns-name",
    "private-ip-address",
    "reservation-id",
    "root-device-type",
    "spot-instance-request-id",
    "state-reason-code",
    "subnet-id",
    "tag-key",
    "tenancy",
    "virtualization-type",
    "vpc-id",
];

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
    fn check_instance_ids(&self, ids: &[&str]) -> Result<(), ApiError> {
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
        let subnet = match request.text("SubnetId").map(str::to_owned).or_else(|| {
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

    pub(super) fn run_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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
    pub(super) fn dry_run_instances(&self, request: &Node) -> Result<(), ApiError> {
        let launch = self.read_launch(request)?;
        if let Some(image) = &launch.data.image {
            self.image(image)?;
        }
        Ok(())
    }

    pub(super) fn terminate_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(super) fn stop_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(super) fn start_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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
            if instance.volumes.is_empty() {
                return Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!("Instance '{id}' does not have a volume attached at root (/dev/xvda)"),
                ));
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
                return Err(super::instance::no_capacity(&launch.pool(&zone)));
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

    pub(super) fn reboot_instances(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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
    pub(super) fn reboot(&mut self, id: &str) {
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

    pub(super) fn describe_instances(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(request, INSTANCE_FILTERS)?;
        let page = Page::read("DescribeInstances", request, 5, 1000)?;
        let ids = request.texts("InstanceId");
        if !ids.is_empty() && request.text("MaxResults").is_some() {
            return Err(ApiError::combination(
                "The parameter instancesSet cannot be used with the parameter maxResults",
            ));
        }
        self.check_instance_ids(&ids)?;
        let limit = page.limit.unwrap_or(usize::MAX);
        let mut found: Vec<&Instance> = Vec::new();
        let mut token = None;
        let wanted: Option<HashSet<&str>> = (!ids.is_empty()).then(|| ids.into_iter().collect());
        let accept = |instance: &Instance| {
            instance.visible_at <= self.now
                && wanted.as_ref().is_none_or(|wanted| wanted.contains(instance.id.as_str()))
                && filters.accept(|name| self.instance_values(instance, name))
        };
        for instance in self.instances.after(page.after).filter(|instance| accept(instance)) {
            if found.len() == limit {
                token = found.last().map(|last| page.token(last.seq));
                break;
            }
            found.push(instance);
        }
        let mut groups: Vec<Vec<&Instance>> = Vec::new();
        for instance in found {
            match groups.last_mut() {
                Some(group) if group[0].reservation == instance.reservation => group.push(instance),
                _ => groups.push(vec![instance]),
            }
        }
        xml.set("reservationSet", groups, |xml, group| {
            self.write_reservation_head(xml, group[0]);
            xml.set("instancesSet", group, |xml, instance| self.write_instance(xml, instance));
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn instance_values<'a>(&'a self, instance: &'a Instance, filter: &str) -> Vec<Cow<'a, str>> {
        let borrowed = |text: &'a str| vec![Cow::Borrowed(text)];
        let owned = |text: String| vec![Cow::Owned(text)];
        let maybe = |text: Option<&'a String>| -> Vec<Cow<'a, str>> {
            text.map(|text| Cow::Borrowed(text.as_str())).into_iter().collect()
        };
        match filter {
            "architecture" => borrowed(instance.facts.architecture),
            "availability-zone" => borrowed(&instance.zone),
            "availability-zone-id" => borrowed(&instance.zone_id),
            "block-device-mapping.device-name" => {
                instance.volumes.iter().map(|(device, _)| Cow::Borrowed(device.as_str())).collect()
            }
            "block-device-mapping.volume-id" => {
                instance.volumes.iter().map(|(_, volume)| Cow::Borrowed(volume.as_str())).collect()
            }
            "capacity-reservation-id" => maybe(instance.capacity_reservation.as_ref()),
            "client-token" => borrowed(&instance.client_token),
            "hibernation-options.configured" => owned(instance.hibernation().to_string()),
            "hypervisor" | "virtualization-type" | "root-device-type" | "tenancy" => borrowed(match filter {
                "hypervisor" => "xen",
                "virtualization-type" => "hvm",
                "tenancy" => "default",
                _ => "ebs",
            }),
            "iam-instance-profile.arn" => {
                instance_profile(instance, &self.rules.account).map(Cow::Owned).into_iter().collect()
            }
            "image-id" => borrowed(&instance.image),
            "instance-id" => borrowed(&instance.id),
            // On-demand instances have no value here: EC2's values are spot, scheduled, capacity-block.
            "instance-lifecycle" if instance.is_spot() => borrowed("spot"),
            "instance-state-code" => owned(instance.state.code().to_string()),
            "instance-state-name" => borrowed(instance.state.name()),
            "instance-type" => borrowed(instance.facts.name),
            "instance.group-id" => {
                instance.groups.iter().map(|group| Cow::Borrowed(group.as_str())).collect()
            }
            "key-name" => maybe(instance.data.key_name.as_ref()),
            "launch-index" => owned(instance.launch_index.to_string()),
            "launch-time" => owned(iso(instance.launched)),
            "metadata-options.http-tokens" => {
                borrowed(instance.data.metadata.tokens.as_deref().unwrap_or("optional"))
            }
            "metadata-options.instance-metadata-tags" => {
                borrowed(instance.data.metadata.tags.as_deref().unwrap_or("disabled"))
            }
            "network-interface.network-interface-id" => {
                instance.interfaces.iter().map(|id| Cow::Borrowed(id.as_str())).collect()
            }
            "network-interface.subnet-id" | "subnet-id" => borrowed(&instance.subnet),
            "owner-id" => borrowed(&self.rules.account),
            "placement-group-name" => maybe(instance.data.placement.group.as_ref()),
            "private-dns-name" => owned(private_dns(instance.private_ip, &self.name)),
            "private-ip-address" => owned(instance.private_ip.to_string()),
            "reservation-id" => borrowed(&instance.reservation),
            "spot-instance-request-id" => maybe(instance.spot_request.as_ref()),
            "state-reason-code" => maybe(instance.reason.as_ref().map(|(code, _)| code)),
            "vpc-id" => borrowed(&instance.vpc),
            other => self.tag_values(&instance.id, other),
        }
    }

    fn write_reservation_head(&self, xml: &mut Xml, first: &Instance) {
        xml.text("reservationId", &first.reservation);
        xml.text("ownerId", &self.rules.account);
        if first.fleet.is_some() {
            xml.text("requesterId", "AIDAEC2FLEETEXAMPLE00");
        }
        xml.set("groupSet", std::iter::empty::<&str>(), |_, _| {});
    }

    pub(super) fn write_instance(&self, xml: &mut Xml, instance: &Instance) {
        let ended = instance.state == State::Terminated;
        let dns = private_dns(instance.private_ip, &self.name);
        xml.text("instanceId", &instance.id);
        xml.text("imageId", &instance.image);
        write_state(xml, "instanceState", instance.state);
        xml.text("privateDnsName", if ended { "" } else { &dns });
        xml.text("dnsName", "");
        xml.text("reason", &instance.transition);
        xml.maybe("keyName", instance.data.key_name.as_ref());
        xml.put("amiLaunchIndex", instance.launch_index);
        xml.text("productCodes", "");
        xml.text("instanceType", instance.facts.name);
        xml.text("launchTime", &iso(instance.launched));
        xml.node("placement", |xml| {
            xml.text("availabilityZone", &instance.zone);
            xml.text("availabilityZoneId", &instance.zone_id);
            xml.text("groupName", instance.data.placement.group.as_deref().unwrap_or_default());
            xml.text("tenancy", instance.data.placement.tenancy.as_deref().unwrap_or("default"));
            xml.maybe("partitionNumber", instance.data.placement.partition);
        });
        xml.node("monitoring", |xml| {
            xml.text("state", if instance.data.monitoring == Some(true) { "enabled" } else { "disabled" });
        });
        if !ended {
            xml.text("subnetId", &instance.subnet);
            xml.text("vpcId", &instance.vpc);
            xml.put("privateIpAddress", instance.private_ip);
            xml.put("sourceDestCheck", true);
        }
        xml.set("groupSet", if ended { &[] } else { instance.groups.as_slice() }, |xml, group| {
            self.write_group(xml, group);
        });
        if let Some((code, message)) = &instance.reason {
            xml.node("stateReason", |xml| {
                xml.text("code", code);
                xml.text("message", message);
            });
        }
        xml.text("architecture", instance.facts.architecture);
        xml.text("rootDeviceType", "ebs");
        xml.text(
            "rootDeviceName",
            instance.volumes.first().map_or("/dev/xvda", |(device, _)| device.as_str()),
        );
        xml.set("blockDeviceMapping", &instance.volumes, |xml, (device, id)| {
            xml.text("deviceName", device);
            if let Some(attachment) = self.volumes.get(id).and_then(|volume| volume.attachment.as_ref()) {
                xml.node("ebs", |xml| {
                    xml.text("volumeId", id);
                    xml.text("status", attachment.state);
                    xml.text("attachTime", &iso(attachment.since));
                    xml.put("deleteOnTermination", attachment.delete_on_termination);
                });
            }
        });
        xml.text("virtualizationType", "hvm");
        if instance.is_spot() {
            xml.text("instanceLifecycle", "spot");
        }
        xml.maybe("spotInstanceRequestId", instance.spot_request.as_ref());
        xml.text("clientToken", &instance.client_token);
        write_tags(xml, self.tags_of(&instance.id));
        // EC2 says "xen" here for Nitro types as well (API_Instance, hypervisor).
        xml.text("hypervisor", "xen");
        xml.set("networkInterfaceSet", &instance.interfaces, |xml, id| {
            if let Some(interface) = self.interfaces.get(id) {
                self.write_instance_interface(xml, interface);
            }
        });
        if let Some(arn) = instance_profile(instance, &self.rules.account) {
            xml.node("iamInstanceProfile", |xml| {
                xml.text("arn", &arn);
                xml.text("id", "AIPAEXAMPLEPROFILE000");
            });
        }
        xml.put("ebsOptimized", instance.data.ebs_optimized.unwrap_or(false));
        xml.put("enaSupport", true);
        xml.node("cpuOptions", |xml| {
            let cores = instance.data.core_count.unwrap_or_else(|| i64::from(instance.facts.cores()));
            let threads =
                instance.data.threads_per_core.unwrap_or_else(|| i64::from(instance.facts.threads_per_core));
            xml.put("coreCount", cores);
            xml.put("threadsPerCore", threads);
        });
        xml.maybe("capacityReservationId", instance.capacity_reservation.as_ref());
        xml.node("capacityReservationSpecification", |xml| {
            if let Some(id) = &instance.data.reservation_id {
                xml.node("capacityReservationTarget", |xml| xml.text("capacityReservationId", id));
            } else {
                xml.text(
                    "capacityReservationPreference",
                    instance.data.reservation_preference.as_deref().unwrap_or("open"),
                );
            }
        });
        xml.node("hibernationOptions", |xml| xml.put("configured", instance.hibernation()));
        xml.node("enclaveOptions", |xml| xml.put("enabled", instance.data.enclave.unwrap_or(false)));
        xml.node("metadataOptions", |xml| {
            xml.text("state", "applied");
            write_metadata_options(xml, instance);
        });
        xml.text("platformDetails", "Linux/UNIX");
        xml.text("usageOperation", "RunInstances");
        xml.text("usageOperationUpdateTime", &iso(instance.first_launched));
        xml.node("maintenanceOptions", |xml| {
            xml.text("autoRecovery", instance.data.auto_recovery.as_deref().unwrap_or("default"));
        });
    }

    fn write_instance_interface(&self, xml: &mut Xml, interface: &super::storage::Interface) {
        let dns = private_dns(interface.private_ip, &self.name);
        xml.text("networkInterfaceId", &interface.id);
        xml.text("subnetId", &interface.subnet);
        xml.text("vpcId", &interface.vpc);
        xml.text("description", &interface.description);
        xml.text("ownerId", &self.rules.account);
        xml.text("status", "in-use");
        xml.text("macAddress", &interface.mac);
        xml.put("privateIpAddress", interface.private_ip);
        xml.text("privateDnsName", &dns);
        xml.put("sourceDestCheck", interface.source_dest_check);
        xml.set("groupSet", &interface.groups, |xml, group| self.write_group(xml, group));
        if let Some(attachment) = &interface.attachment {
            xml.node("attachment", |xml| {
                xml.text("attachmentId", &interface.attachment_id);
                xml.text("deviceIndex", &attachment.device);
                xml.text("status", attachment.state);
                xml.text("attachTime", &iso(attachment.since));
                xml.put("deleteOnTermination", attachment.delete_on_termination);
                xml.put("networkCardIndex", interface.network_card);
            });
        }
        xml.set("privateIpAddressesSet", [interface.private_ip], |xml, address| {
            xml.put("privateIpAddress", address);
            xml.text("privateDnsName", &dns);
            xml.put("primary", true);
        });
        xml.text("interfaceType", &interface.interface_type);
    }

    pub(super) fn describe_instance_status(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "availability-zone",
            "availability-zone-id",
            "event.code",
            "event.description",
            "event.instance-event-id",
            "event.not-after",
            "event.not-before",
            "instance-state-code",
            "instance-state-name",
            "instance-status.reachability",
            "instance-status.status",
            "system-status.reachability",
            "system-status.status",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeInstanceStatus", request, 5, 1000)?;
        let ids = request.texts("InstanceId");
        if ids.len() > MAX_STATUS_IDS {
            return Err(ApiError::invalid_value(
                "InstanceId",
                &ids.len().to_string(),
                &format!("At most {MAX_STATUS_IDS} instance ids are allowed."),
            ));
        }
        if !ids.is_empty() && request.text("MaxResults").is_some() {
            return Err(ApiError::combination(
                "The parameter instancesSet cannot be used with the parameter maxResults",
            ));
        }
        self.check_instance_ids(&ids)?;
        let all = request.flag("IncludeAllInstances").unwrap_or(false);
        let found: Vec<&Instance> = self
            .instances
            .iter()
            .filter(|instance| instance.visible_at <= self.now)
            .filter(|instance| ids.is_empty() || ids.contains(&instance.id.as_str()))
            // Without IncludeAllInstances only running ones are described (API_DescribeInstanceStatus).
            .filter(|instance| all || instance.state == State::Running)
            .filter(|instance| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    let events = |pick: fn(&super::instance::Maintenance) -> String| {
                        instance.maintenance.iter().map(|event| Cow::Owned(pick(event))).collect()
                    };
                    let (status, reachability) = self.instance_check(instance);
                    match name {
                        "availability-zone" => one(&instance.zone),
                        "availability-zone-id" => one(&instance.zone_id),
                        "event.code" => events(|event| event.code.clone()),
                        "event.instance-event-id" => events(|event| event.id.clone()),
                        "event.description" => events(|event| event.description()),
                        "event.not-before" => events(|event| iso(event.not_before)),
                        "event.not-after" => events(|event| iso(event.not_after)),
                        "instance-state-code" => one(&instance.state.code().to_string()),
                        "instance-state-name" => one(instance.state.name()),
                        "instance-status.status" => one(status),
                        "instance-status.reachability" => one(reachability),
                        "system-status.status" => one(self.system_check(instance).0),
                        _ => one(self.system_check(instance).1),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("instanceStatusSet", found, |xml, instance| {
            xml.text("instanceId", &instance.id);
            xml.text("availabilityZone", &instance.zone);
            xml.text("availabilityZoneId", &instance.zone_id);
            if !instance.maintenance.is_empty() {
                xml.set("eventsSet", &instance.maintenance, |xml, event| {
                    xml.text("instanceEventId", &event.id);
                    xml.text("code", &event.code);
                    xml.text("description", &event.description());
                    xml.text("notBefore", &iso(event.not_before));
                    xml.text("notAfter", &iso(event.not_after));
                });
            }
            write_state(xml, "instanceState", instance.state);
            write_check(xml, "systemStatus", self.system_check(instance), None);
            write_check(xml, "instanceStatus", self.instance_check(instance), instance.impaired);
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    /// Status and reachability of the instance status check.
    fn instance_check(&self, instance: &Instance) -> (&'static str, &'static str) {
        match (instance.state, instance.running_since) {
            (State::Running, Some(since)) => {
                if instance.impaired.is_some() {
                    ("impaired", "failed")
                } else if since + self.rules.delays.status_ok_ms > self.now {
                    ("initializing", "initializing")
                } else {
                    ("ok", "passed")
                }
            }
            _ => ("not-applicable", "not-applicable"),
        }
    }

    fn system_check(&self, instance: &Instance) -> (&'static str, &'static str) {
        match self.instance_check(instance) {
            ("impaired", _) => ("ok", "passed"),
            other => other,
        }
    }

    pub(super) fn modify_instance_attribute(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        // Two forms: `InstanceType.Value=…`, and the older `Attribute=instanceType&Value=…`.
        let old = request.text("Attribute");
        let value = |name: &str, attribute: &str| -> Option<String> {
            request
                .owned(&format!("{name}.Value"))
                .or_else(|| (old == Some(attribute)).then(|| request.owned("Value")).flatten())
        };
        let stopped = self.instances.get(id).is_some_and(|instance| instance.state == State::Stopped);
        let need_stopped = |what: &str| {
            if stopped {
                Ok(())
            } else {
                Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!(
                        "The instance '{id}' is not in the 'stopped' state; {what} can be changed only then."
                    ),
                ))
            }
        };
        let facts = match value("InstanceType", "instanceType") {
            Some(name) => {
                need_stopped("its instanceType")?;
                let facts = self.facts(&name)?;
                if self.instances.get(id).is_some_and(|i| i.facts.architecture != facts.architecture) {
                    return Err(ApiError::new(
                        "InvalidInstanceAttributeValue",
                        format!("The instance type '{name}' has another architecture than the instance."),
                    ));
                }
                Some(facts)
            }
            None => None,
        };
        let user_data = value("UserData", "userData");
        if user_data.is_some() {
            need_stopped("its userData")?;
        }
        let groups: Vec<String> = request.texts("GroupId").into_iter().map(str::to_owned).collect();
        for group in &groups {
            self.check_group(group)?;
        }
        let flag = |text: Option<String>| text.map(|text| text == "true");
        let protection = flag(value("DisableApiTermination", "disableApiTermination"));
        let stop_protection = flag(value("DisableApiStop", "disableApiStop"));
        let optimized = flag(value("EbsOptimized", "ebsOptimized"));
        let shutdown = value("InstanceInitiatedShutdownBehavior", "instanceInitiatedShutdownBehavior");
        let mut deletions = Vec::new();
        for device in request.list("BlockDeviceMapping") {
            if let (Some(name), Some(keep)) =
                (device.text("DeviceName"), device.flag("Ebs.DeleteOnTermination"))
            {
                let volume = self
                    .instances
                    .get(id)
                    .and_then(|instance| instance.volumes.iter().find(|(device, _)| device == name))
                    .map(|(_, volume)| volume.clone())
                    .ok_or_else(|| {
                        ApiError::new(
                            "InvalidInstanceAttributeValue",
                            format!("No device is currently mapped at {name}"),
                        )
                    })?;
                deletions.push((volume, keep));
            }
        }
        let Some(instance) = self.instances.get_mut(id) else { return Ok(()) };
        if let Some(facts) = facts {
            instance.facts = facts;
        }
        if user_data.is_some() {
            instance.data.user_data = user_data;
        }
        instance.data.disable_termination = protection.or(instance.data.disable_termination);
        instance.data.disable_stop = stop_protection.or(instance.data.disable_stop);
        instance.data.ebs_optimized = optimized.or(instance.data.ebs_optimized);
        instance.data.shutdown_behavior = shutdown.or(instance.data.shutdown_behavior.take());
        if !groups.is_empty() {
            instance.groups = groups;
        }
        for (volume, delete) in deletions {
            if let Some(attachment) = self.volumes.get_mut(&volume).and_then(|v| v.attachment.as_mut()) {
                attachment.delete_on_termination = delete;
            }
        }
        xml.put("return", true);
        Ok(())
    }

    pub(super) fn describe_instance_attribute(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        let attribute = request.required("Attribute")?;
        let data = &instance.data;
        xml.text("instanceId", id);
        let mut value = |text: String| xml.node(attribute, |xml| xml.text("value", &text));
        match attribute {
            "instanceType" => value(instance.facts.name.to_owned()),
            "disableApiTermination" => value(data.disable_termination.unwrap_or(false).to_string()),
            "disableApiStop" => value(data.disable_stop.unwrap_or(false).to_string()),
            "ebsOptimized" => value(data.ebs_optimized.unwrap_or(false).to_string()),
            "enaSupport" | "sourceDestCheck" => value("true".to_owned()),
            "rootDeviceName" => value(
                instance.volumes.first().map_or_else(|| "/dev/xvda".to_owned(), |(device, _)| device.clone()),
            ),
            "instanceInitiatedShutdownBehavior" => {
                value(data.shutdown_behavior.clone().unwrap_or_else(|| "stop".to_owned()));
            }
            "userData" => match &data.user_data {
                Some(text) => value(text.clone()),
                None => xml.text("userData", ""),
            },
            "groupSet" => xml.set("groupSet", &instance.groups, |xml, group| self.write_group(xml, group)),
            "blockDeviceMapping" => {
                xml.set("blockDeviceMapping", &instance.volumes, |xml, (device, id)| {
                    xml.text("deviceName", device);
                    if let Some(attachment) = self.volumes.get(id).and_then(|v| v.attachment.as_ref()) {
                        xml.node("ebs", |xml| {
                            xml.text("volumeId", id);
                            xml.text("status", attachment.state);
                            xml.text("attachTime", &iso(attachment.since));
                            xml.put("deleteOnTermination", attachment.delete_on_termination);
                        });
                    }
                });
            }
            other => {
                return Err(ApiError::invalid_value("Attribute", other, "Unknown attribute."));
            }
        }
        Ok(())
    }

    pub(super) fn modify_instance_metadata_options(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get_mut(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        let options = &mut instance.data.metadata;
        options.tokens = request.owned("HttpTokens").or(options.tokens.take());
        options.hop_limit = request.int("HttpPutResponseHopLimit").or(options.hop_limit);
        options.endpoint = request.owned("HttpEndpoint").or(options.endpoint.take());
        options.ipv6 = request.owned("HttpProtocolIpv6").or(options.ipv6.take());
        options.tags = request.owned("InstanceMetadataTags").or(options.tags.take());
        xml.text("instanceId", id);
        let instance = self.instances.get(id);
        xml.node("instanceMetadataOptions", |xml| {
            xml.text("state", "applied");
            if let Some(instance) = instance {
                write_metadata_options(xml, instance);
            }
        });
        Ok(())
    }

    pub(super) fn get_console_output(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        xml.text("instanceId", id);
        xml.text("timestamp", &iso(self.now));
        let text = match (instance.state, instance.impaired) {
            (State::Pending, _) => String::new(),
            (_, Some(_)) => {
                format!("{id}: kernel panic - not syncing: boot failure of the emulator's scenario\n")
            }
            _ => format!("{id}: login:\n"),
        };
        xml.text("output", &base64(text.as_bytes()));
        Ok(())
    }

    pub(super) fn maintenance_due(&mut self, id: &str, event: &str) {
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

impl super::instance::Maintenance {
    pub(super) fn description(&self) -> String {
        match self.code.as_str() {
            "instance-retirement" => "The instance is running on degraded hardware".to_owned(),
            "instance-stop" => "The instance is scheduled to be stopped".to_owned(),
            code => format!("Scheduled {}", code.replace('-', " ")),
        }
    }
}

fn instance_profile(instance: &Instance, account: &str) -> Option<String> {
    instance.data.profile_arn.clone().or_else(|| {
        let name = instance.data.profile_name.as_ref()?;
        Some(format!("arn:aws:iam::{account}:instance-profile/{name}"))
    })
}

fn write_metadata_options(xml: &mut Xml, instance: &Instance) {
    let options = &instance.data.metadata;
    xml.text("httpTokens", options.tokens.as_deref().unwrap_or("optional"));
    xml.put("httpPutResponseHopLimit", options.hop_limit.unwrap_or(1));
    xml.text("httpEndpoint", options.endpoint.as_deref().unwrap_or("enabled"));
    xml.text("httpProtocolIpv6", options.ipv6.as_deref().unwrap_or("disabled"));
    xml.text("instanceMetadataTags", options.tags.as_deref().unwrap_or("disabled"));
}

pub(super) fn write_state(xml: &mut Xml, name: &str, state: State) {
    xml.node(name, |xml| {
        xml.put("code", state.code());
        xml.text("name", state.name());
    });
}

fn write_changes(xml: &mut Xml, changes: &[(String, State, State)]) {
    xml.set("instancesSet", changes, |xml, (id, before, after)| {
        xml.text("instanceId", id);
        write_state(xml, "currentState", *after);
        write_state(xml, "previousState", *before);
    });
}

fn write_check(xml: &mut Xml, name: &str, (status, reachability): (&str, &str), since: Option<Millis>) {
    xml.node(name, |xml| {
        xml.text("status", status);
        if status != "not-applicable" {
            xml.set("details", [reachability], |xml, reachability| {
                if status == "impaired" {
                    xml.maybe("impairedSince", since.map(|since| iso(since - since % MINUTE)));
                }
                xml.text("name", "reachability");
                xml.text("status", reachability);
            });
        }
    });
}

/// RFC 4648 base64, the form of console output and user data.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let block =
            chunk.iter().fold(0u32, |block, byte| block << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at <= chunk.len() {
                text.push(char::from(ALPHABET[(block >> (18 - 6 * at) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Decodes base64; `None` when it is not.
pub(super) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut block, mut bits) = (0u32, 0);
    for byte in text.bytes().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        block = block << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((block >> bits & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(base64_decode(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(base64_decode("%"), None);
    }
}
