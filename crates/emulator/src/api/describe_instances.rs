// SPDX-License-Identifier: GPL-3.0-or-later
//! DescribeInstances and DescribeInstanceStatus.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::instance::{Instance, State};
use crate::model::interface::private_dns;
use crate::model::launch_data::write_tags;
use crate::model::region::Region;
use crate::model::time::{MINUTE, Millis, iso};

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

impl crate::model::instance::Maintenance {
    pub(crate) fn description(&self) -> String {
        match self.code.as_str() {
            "instance-retirement" => "The instance is running on degraded hardware".to_owned(),
            "instance-stop" => "The instance is scheduled to be stopped".to_owned(),
            code => format!("Scheduled {}", code.replace('-', " ")),
        }
    }
}

impl Region {
    pub(crate) fn describe_instances(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(crate) fn write_reservation_head(&self, xml: &mut Xml, first: &Instance) {
        xml.text("reservationId", &first.reservation);
        xml.text("ownerId", &self.rules.account);
        if first.fleet.is_some() {
            xml.text("requesterId", "AIDAEC2FLEETEXAMPLE00");
        }
        xml.set("groupSet", std::iter::empty::<&str>(), |_, _| {});
    }

    pub(crate) fn write_instance(&self, xml: &mut Xml, instance: &Instance) {
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
        xml.time("launchTime", instance.launched);
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
        xml.text("rootDeviceName", &instance.root_device);
        xml.set("blockDeviceMapping", &instance.volumes, |xml, (device, id)| {
            xml.text("deviceName", device);
            if let Some(attachment) = self.volumes.get(id).and_then(|volume| volume.attachment.as_ref()) {
                xml.node("ebs", |xml| {
                    xml.text("volumeId", id);
                    xml.text("status", attachment.state);
                    xml.time("attachTime", attachment.since);
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
        xml.time("usageOperationUpdateTime", instance.first_launched);
        xml.node("maintenanceOptions", |xml| {
            xml.text("autoRecovery", instance.data.auto_recovery.as_deref().unwrap_or("default"));
        });
    }

    fn write_instance_interface(&self, xml: &mut Xml, interface: &crate::model::interface::Interface) {
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
                xml.time("attachTime", attachment.since);
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

    pub(crate) fn describe_instance_status(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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
                    let events = |pick: fn(&crate::model::instance::Maintenance) -> String| {
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
                    xml.time("notBefore", event.not_before);
                    xml.time("notAfter", event.not_after);
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
}

fn instance_profile(instance: &Instance, account: &str) -> Option<String> {
    instance.data.profile_arn.clone().or_else(|| {
        let name = instance.data.profile_name.as_ref()?;
        Some(format!("arn:aws:iam::{account}:instance-profile/{name}"))
    })
}

pub(crate) fn write_metadata_options(xml: &mut Xml, instance: &Instance) {
    let options = &instance.data.metadata;
    xml.text("httpTokens", options.tokens.as_deref().unwrap_or("optional"));
    xml.put("httpPutResponseHopLimit", options.hop_limit.unwrap_or(1));
    xml.text("httpEndpoint", options.endpoint.as_deref().unwrap_or("enabled"));
    xml.text("httpProtocolIpv6", options.ipv6.as_deref().unwrap_or("disabled"));
    xml.text("instanceMetadataTags", options.tags.as_deref().unwrap_or("disabled"));
}

pub(crate) fn write_state(xml: &mut Xml, name: &str, state: State) {
    xml.node(name, |xml| {
        xml.put("code", state.code());
        xml.text("name", state.name());
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
