// SPDX-License-Identifier: GPL-3.0-or-later
//! Volumes and network interfaces: what survives an instance and what goes with it.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use super::error::{ApiError, absent};
use super::filter::Filters;
use super::instance::State;
use super::launch_data::{read_tag_specs, write_tags};
use super::network::Subnet;
use super::page::Page;
use super::query::Node;
use super::region::{Event, Region};
use super::time::{Millis, iso};
use super::xml::Xml;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub instance: String,
    /// Device name of a volume, device index of an interface.
    pub device: String,
    pub since: Millis,
    pub delete_on_termination: bool,
    /// `attaching`, `attached` or `detaching`.
    pub state: &'static str,
}

#[derive(Debug)]
pub struct Volume {
    pub id: String,
    pub zone: String,
    pub size: i64,
    pub volume_type: String,
    pub iops: Option<i64>,
    pub throughput: Option<i64>,
    pub encrypted: bool,
    pub snapshot: Option<String>,
    pub created: Millis,
    pub attachment: Option<Attachment>,
}

#[derive(Debug)]
pub struct Interface {
    pub id: String,
    pub subnet: String,
    pub vpc: String,
    pub zone: String,
    pub private_ip: Ipv4Addr,
    pub mac: String,
    pub groups: Vec<String>,
    pub description: String,
    pub interface_type: String,
    pub source_dest_check: bool,
    pub network_card: i64,
    pub attachment_id: String,
    pub attachment: Option<Attachment>,
}

impl Volume {
    fn state(&self) -> &'static str {
        if self.attachment.is_some() { "in-use" } else { "available" }
    }
}

impl Interface {
    fn state(&self) -> &'static str {
        match self.attachment.as_ref().map(|attachment| attachment.state) {
            None => "available",
            Some("attaching") => "attaching",
            Some("detaching") => "detaching",
            Some(_) => "in-use",
        }
    }
}

pub(super) fn private_dns(address: Ipv4Addr, region: &str) -> String {
    let [a, b, c, d] = address.octets();
    let domain =
        if region == "us-east-1" { "ec2.internal".to_owned() } else { format!("{region}.compute.internal") };
    format!("ip-{a}-{b}-{c}-{d}.{domain}")
}

fn no_volume(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The volume '{id}' does not exist."),
        ids => format!("The volumes '{}' do not exist.", ids.join(", ")),
    };
    ApiError::new("InvalidVolume.NotFound", message)
}

fn no_interface(ids: &[&str]) -> ApiError {
    ApiError::new("InvalidNetworkInterfaceID.NotFound", absent("networkInterface", ids))
}

impl Region {
    /// The instance of a volume has ended.
    pub(super) fn volume_owner_gone(&mut self, id: &str) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let Some(attachment) = volume.attachment.take() else { return };
        if attachment.delete_on_termination {
            self.volumes.remove(id);
            self.tags.remove(id);
        }
    }

    /// The instance of an interface has ended.
    pub(super) fn interface_owner_gone(&mut self, id: &str) {
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        let Some(attachment) = interface.attachment.take() else { return };
        if attachment.delete_on_termination {
            self.drop_interface(id);
        }
    }

    fn drop_interface(&mut self, id: &str) {
        if let Some(interface) = self.interfaces.remove(id) {
            self.tags.remove(id);
            if let Some(subnet) = self.subnet_mut(&interface.subnet) {
                subnet.give_back(interface.private_ip);
            }
        }
    }

    /// An attach or detach of a volume is over.
    pub(super) fn volume_step(&mut self, id: &str) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        match volume.attachment.as_mut() {
            Some(attachment) if attachment.state == "attaching" => attachment.state = "attached",
            Some(attachment) if attachment.state == "detaching" => {
                let instance = attachment.instance.clone();
                volume.attachment = None;
                if let Some(instance) = self.instances.get_mut(&instance) {
                    instance.volumes.retain(|(_, volume)| volume != id);
                }
            }
            _ => {}
        }
    }

    /// An attach or detach of an interface is over.
    pub(super) fn interface_step(&mut self, id: &str) {
        let Some(interface) = self.interfaces.get_mut(id) else { return };
        match interface.attachment.as_mut() {
            Some(attachment) if attachment.state == "attaching" => attachment.state = "attached",
            Some(attachment) if attachment.state == "detaching" => {
                let instance = attachment.instance.clone();
                interface.attachment = None;
                if let Some(instance) = self.instances.get_mut(&instance) {
                    instance.interfaces.retain(|interface| interface != id);
                }
            }
            _ => {}
        }
    }

    pub(super) fn create_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = self.once("CreateVolume", request, |region| {
            let zone = request.required("AvailabilityZone")?.to_owned();
            if !region.zone_names().contains(&zone) {
                return Err(ApiError::new(
                    "InvalidZone.NotFound",
                    format!("The zone '{zone}' does not exist."),
                ));
            }
            let snapshot = request.owned("SnapshotId");
            let size = match (request.int("Size"), &snapshot) {
                (Some(size), _) => size,
                (None, Some(_)) => 8,
                (None, None) => return Err(ApiError::missing("Size")),
            };
            if !(1..=65_536).contains(&size) {
                return Err(ApiError::invalid_value("Size", &size.to_string(), "It must be 1 to 65536 GiB."));
            }
            let id = region.new_id("vol");
            for spec in read_tag_specs(request)? {
                region.put_tags(&id, &spec.tags);
            }
            let volume = Volume {
                id: id.clone(),
                zone,
                size,
                volume_type: request.owned("VolumeType").unwrap_or_else(|| "gp2".to_owned()),
                iops: request.int("Iops"),
                throughput: request.int("Throughput"),
                encrypted: request.flag("Encrypted").unwrap_or(false),
                snapshot,
                created: region.now,
                attachment: None,
            };
            region.volumes.insert(id.clone(), volume);
            Ok(id)
        })?;
        if let Some(volume) = self.volumes.get(&id) {
            self.write_volume(xml, volume);
        }
        Ok(())
    }

    pub(super) fn delete_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("VolumeId")?;
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        if let Some(attachment) = &volume.attachment {
            return Err(ApiError::new(
                "VolumeInUse",
                format!("Volume {id} is currently attached to {}", attachment.instance),
            ));
        }
        self.volumes.remove(id);
        self.tags.remove(id);
        xml.put("return", true);
        Ok(())
    }

    fn living_instance(&self, id: &str) -> Result<(String, State), ApiError> {
        let instance = self.instances.get(id).ok_or_else(|| ApiError::instance_not_found(&[id]))?;
        if !instance.state.alive() {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Instance '{id}' is not 'running' or 'stopped'; it is '{}'.", instance.state.name()),
            ));
        }
        Ok((instance.zone.clone(), instance.state))
    }

    pub(super) fn attach_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let (id, instance) = (request.required("VolumeId")?, request.required("InstanceId")?);
        let device = request.required("Device")?;
        let (zone, state) = self.living_instance(instance)?;
        if !matches!(state, State::Running | State::Stopped) {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Instance '{instance}' is not 'running' or 'stopped'."),
            ));
        }
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        if let Some(attachment) = &volume.attachment {
            return Err(ApiError::new(
                "VolumeInUse",
                format!("{id} is already attached to an instance: {}", attachment.instance),
            ));
        }
        if volume.zone != zone {
            return Err(ApiError::new(
                "InvalidVolume.ZoneMismatch",
                format!("The volume '{id}' is not in the same availability zone as instance '{instance}'"),
            ));
        }
        let taken = self
            .instances
            .get(instance)
            .is_some_and(|instance| instance.volumes.iter().any(|(name, _)| name == device));
        if taken {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!(
                    "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
                ),
            ));
        }
        let attachment = Attachment {
            instance: instance.to_owned(),
            device: device.to_owned(),
            since: self.now,
            delete_on_termination: false,
            state: "attaching",
        };
        write_attachment(xml, id, &attachment);
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.attachment = Some(attachment);
        }
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.volumes.push((device.to_owned(), id.to_owned()));
        }
        self.after(self.rules.delays.attach_ms, Event::VolumeStep { volume: id.to_owned() });
        Ok(())
    }

    pub(super) fn detach_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("VolumeId")?;
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        let Some(attachment) = &volume.attachment else {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Volume '{id}' is in the 'available' state."),
            ));
        };
        if request.text("InstanceId").is_some_and(|instance| instance != attachment.instance) {
            return Err(ApiError::new(
                "InvalidAttachment.NotFound",
                format!("The volume '{id}' is not attached to the instance."),
            ));
        }
        let root = self.instances.get(&attachment.instance).is_some_and(|instance| {
            instance.state != State::Stopped && instance.volumes.first().is_some_and(|(_, root)| root == id)
        });
        if root {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format!("Unable to detach root volume '{id}' from instance '{}'", attachment.instance),
            ));
        }
        if let Some(attachment) = self.volumes.get_mut(id).and_then(|volume| volume.attachment.as_mut()) {
            attachment.state = "detaching";
            write_attachment(xml, id, attachment);
        }
        self.after(self.rules.delays.attach_ms, Event::VolumeStep { volume: id.to_owned() });
        Ok(())
    }

    pub(super) fn describe_volumes(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "attachment.attach-time",
            "attachment.delete-on-termination",
            "attachment.device",
            "attachment.instance-id",
            "attachment.status",
            "availability-zone",
            "create-time",
            "encrypted",
            "size",
            "snapshot-id",
            "status",
            "tag-key",
            "volume-id",
            "volume-type",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeVolumes", request, 5, 1000)?;
        let ids = request.texts("VolumeId");
        let missing: Vec<&str> = ids.iter().copied().filter(|id| !self.volumes.contains_key(*id)).collect();
        if !missing.is_empty() {
            return Err(no_volume(&missing));
        }
        let found: Vec<&Volume> = self
            .volumes
            .values()
            .filter(|volume| ids.is_empty() || ids.contains(&volume.id.as_str()))
            .filter(|volume| {
                filters.accept(|name| {
                    let attachment = volume.attachment.as_ref();
                    let value: Option<Cow<'_, str>> = match name {
                        "attachment.device" => attachment.map(|a| Cow::Borrowed(a.device.as_str())),
                        "attachment.instance-id" => attachment.map(|a| Cow::Borrowed(a.instance.as_str())),
                        "attachment.status" => attachment.map(|a| Cow::Borrowed(a.state)),
                        "attachment.attach-time" => attachment.map(|a| Cow::Owned(iso(a.since))),
                        "attachment.delete-on-termination" => {
                            attachment.map(|a| Cow::Owned(a.delete_on_termination.to_string()))
                        }
                        "availability-zone" => Some(Cow::Borrowed(volume.zone.as_str())),
                        "create-time" => Some(Cow::Owned(iso(volume.created))),
                        "encrypted" => Some(Cow::Owned(volume.encrypted.to_string())),
                        "size" => Some(Cow::Owned(volume.size.to_string())),
                        "snapshot-id" => volume.snapshot.as_deref().map(Cow::Borrowed),
                        "status" => Some(Cow::Borrowed(volume.state())),
                        "volume-id" => Some(Cow::Borrowed(volume.id.as_str())),
                        "volume-type" => Some(Cow::Borrowed(volume.volume_type.as_str())),
                        other => return self.tag_values(&volume.id, other),
                    };
                    value.into_iter().collect()
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("volumeSet", found, |xml, volume| self.write_volume(xml, volume));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_volume(&self, xml: &mut Xml, volume: &Volume) {
        xml.text("volumeId", &volume.id);
        xml.put("size", volume.size);
        xml.text("snapshotId", volume.snapshot.as_deref().unwrap_or_default());
        xml.text("availabilityZone", &volume.zone);
        xml.text("status", volume.state());
        xml.text("createTime", &iso(volume.created));
        xml.set("attachmentSet", &volume.attachment, |xml, attachment| {
            write_attachment(xml, &volume.id, attachment);
            xml.put("deleteOnTermination", attachment.delete_on_termination);
        });
        write_tags(xml, self.tags_of(&volume.id));
        xml.text("volumeType", &volume.volume_type);
        let iops = volume.iops.or(match volume.volume_type.as_str() {
            "gp3" => Some(3000),
            "gp2" => Some((volume.size * 3).clamp(100, 16_000)),
            _ => None,
        });
        xml.maybe("iops", iops);
        let throughput = volume.throughput.or((volume.volume_type == "gp3").then_some(125));
        xml.maybe("throughput", throughput);
        xml.put("encrypted", volume.encrypted);
        xml.put("multiAttachEnabled", false);
    }

    pub(super) fn create_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = self.once("CreateNetworkInterface", request, |region| {
            let subnet_id = request.required("SubnetId")?;
            let mut groups: Vec<String> =
                request.texts("SecurityGroupId").into_iter().map(str::to_owned).collect();
            for group in &groups {
                region.check_group(group)?;
            }
            if groups.is_empty() {
                groups.push(region.default_group.clone());
            }
            let wanted: Option<Ipv4Addr> = request.text("PrivateIpAddress").and_then(|text| text.parse().ok());
            let Some(subnet) = region.subnet_mut(subnet_id) else {
                return Err(ApiError::new(
                    "InvalidSubnetID.NotFound",
                    format!("The subnet ID '{subnet_id}' does not exist"),
                ));
            };
            let private_ip = match wanted {
                Some(ip) => subnet.take_this(ip).then_some(ip).ok_or_else(|| {
                    ApiError::new("InvalidIPAddress.InUse", format!("Address {ip} is in use or not of the subnet."))
                })?,
                None => subnet.take().ok_or_else(|| {
                    ApiError::new(
                        "InsufficientFreeAddressesInSubnet",
                        format!("The specified subnet '{subnet_id}' does not have enough free addresses to satisfy the request."),
                    )
                })?,
            };
            let (subnet, vpc, zone) = (subnet.id.clone(), subnet.vpc.clone(), subnet.zone.clone());
            let id = region.new_id("eni");
            for spec in read_tag_specs(request)? {
                region.put_tags(&id, &spec.tags);
            }
            let interface = Interface {
                id: id.clone(),
                subnet,
                vpc,
                zone,
                private_ip,
                mac: region.new_mac(),
                groups,
                description: request.owned("Description").unwrap_or_default(),
                interface_type: request.owned("InterfaceType").unwrap_or_else(|| "interface".to_owned()),
                source_dest_check: true,
                network_card: 0,
                attachment_id: String::new(),
                attachment: None,
            };
            region.interfaces.insert(id.clone(), interface);
            Ok(id)
        })?;
        if let Some(interface) = self.interfaces.get(&id) {
            xml.node("networkInterface", |xml| self.write_interface(xml, interface));
        }
        xml.maybe("clientToken", request.text("ClientToken"));
        Ok(())
    }

    pub(super) fn delete_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("NetworkInterfaceId")?;
        let interface = self.interfaces.get(id).ok_or_else(|| no_interface(&[id]))?;
        if interface.attachment.is_some() {
            return Err(ApiError::new(
                "InvalidNetworkInterface.InUse",
                format!("The networkInterface '{id}' is currently in use."),
            ));
        }
        self.drop_interface(id);
        xml.put("return", true);
        Ok(())
    }

    pub(super) fn attach_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let (id, instance) = (request.required("NetworkInterfaceId")?, request.required("InstanceId")?);
        let index = request.required("DeviceIndex")?;
        let (zone, _) = self.living_instance(instance)?;
        let interface = self.interfaces.get(id).ok_or_else(|| no_interface(&[id]))?;
        if interface.attachment.is_some() {
            return Err(ApiError::new("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use.")));
        }
        if interface.zone != zone {
            return Err(ApiError::new(
                "InvalidParameterCombination",
                format!(
                    "You may not attach a network interface to an instance if they are not in the same availability zone: {id}"
                ),
            ));
        }
        let Some(owner) = self.instances.get(instance) else { return Ok(()) };
        let limit = owner.facts.max_interfaces as usize;
        let taken = owner
            .interfaces
            .iter()
            .filter_map(|id| self.interfaces.get(id))
            .any(|other| other.attachment.as_ref().is_some_and(|attachment| attachment.device == index));
        if taken {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Instance '{instance}' already has an interface attached at device index '{index}'."),
            ));
        }
        if owner.interfaces.len() >= limit {
            return Err(ApiError::new(
                "AttachmentLimitExceeded",
                format!(
                    "Interface count {} exceeds the limit for {}",
                    owner.interfaces.len() + 1,
                    owner.facts.name
                ),
            ));
        }
        let attachment_id = self.new_id("eni-attach");
        let now = self.now;
        if let Some(interface) = self.interfaces.get_mut(id) {
            interface.attachment_id.clone_from(&attachment_id);
            interface.attachment = Some(Attachment {
                instance: instance.to_owned(),
                device: index.to_owned(),
                since: now,
                delete_on_termination: false,
                state: "attaching",
            });
        }
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.interfaces.push(id.to_owned());
        }
        self.after(self.rules.delays.attach_ms, Event::InterfaceStep { interface: id.to_owned() });
        xml.text("attachmentId", &attachment_id);
        xml.put("networkCardIndex", request.int("NetworkCardIndex").unwrap_or(0));
        Ok(())
    }

    fn attachment_owner(&self, attachment_id: &str) -> Result<String, ApiError> {
        self.interfaces
            .values()
            .find(|interface| interface.attachment.is_some() && interface.attachment_id == attachment_id)
            .map(|interface| interface.id.clone())
            .ok_or_else(|| {
                ApiError::new(
                    "InvalidAttachmentID.NotFound",
                    format!("The attachment '{attachment_id}' does not exist"),
                )
            })
    }

    pub(super) fn detach_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let attachment_id = request.required("AttachmentId")?;
        let id = self.attachment_owner(attachment_id)?;
        let attachment = self.interfaces.get(&id).and_then(|interface| interface.attachment.clone());
        let primary = attachment.is_some_and(|attachment| attachment.device == "0");
        if primary {
            return Err(ApiError::new(
                "OperationNotPermitted",
                "The network interface at device index 0 and networkCard index 0 cannot be detached.",
            ));
        }
        if let Some(attachment) = self.interfaces.get_mut(&id).and_then(|i| i.attachment.as_mut()) {
            attachment.state = "detaching";
        }
        self.after(self.rules.delays.attach_ms, Event::InterfaceStep { interface: id });
        xml.put("return", true);
        Ok(())
    }

    pub(super) fn modify_network_interface_attribute(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("NetworkInterfaceId")?;
        let groups: Vec<String> = request.texts("SecurityGroupId").into_iter().map(str::to_owned).collect();
        for group in &groups {
            self.check_group(group)?;
        }
        if let Some(attachment_id) = request.text("Attachment.AttachmentId") {
            let owner = self.attachment_owner(attachment_id)?;
            if owner != id {
                return Err(ApiError::new(
                    "InvalidAttachmentID.NotFound",
                    format!("The attachment '{attachment_id}' does not exist"),
                ));
            }
        }
        let interface = self.interfaces.get_mut(id).ok_or_else(|| no_interface(&[id]))?;
        if let Some(flag) = request.flag("Attachment.DeleteOnTermination") {
            match interface.attachment.as_mut() {
                Some(attachment) => attachment.delete_on_termination = flag,
                None => {
                    return Err(ApiError::new(
                        "IncorrectState",
                        format!("The networkInterface '{id}' is not attached."),
                    ));
                }
            }
        }
        if let Some(text) = request.text("Description.Value") {
            text.clone_into(&mut interface.description);
        }
        if let Some(flag) = request.flag("SourceDestCheck.Value") {
            interface.source_dest_check = flag;
        }
        if !groups.is_empty() {
            interface.groups = groups;
        }
        xml.put("return", true);
        Ok(())
    }

    pub(super) fn describe_network_interfaces(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "addresses.private-ip-address",
            "attachment.attach-time",
            "attachment.attachment-id",
            "attachment.delete-on-termination",
            "attachment.device-index",
            "attachment.instance-id",
            "attachment.status",
            "availability-zone",
            "description",
            "group-id",
            "interface-type",
            "mac-address",
            "network-interface-id",
            "owner-id",
            "private-ip-address",
            "source-dest-check",
            "status",
            "subnet-id",
            "tag-key",
            "vpc-id",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeNetworkInterfaces", request, 5, 1000)?;
        let ids = request.texts("NetworkInterfaceId");
        let missing: Vec<&str> =
            ids.iter().copied().filter(|id| !self.interfaces.contains_key(*id)).collect();
        if !missing.is_empty() {
            return Err(no_interface(&missing));
        }
        let found: Vec<&Interface> = self
            .interfaces
            .values()
            .filter(|interface| ids.is_empty() || ids.contains(&interface.id.as_str()))
            .filter(|interface| {
                filters.accept(|name| {
                    let attachment = interface.attachment.as_ref();
                    let value: Option<Cow<'_, str>> = match name {
                        "addresses.private-ip-address" | "private-ip-address" => {
                            Some(Cow::Owned(interface.private_ip.to_string()))
                        }
                        "attachment.attachment-id" => {
                            attachment.map(|_| Cow::Borrowed(interface.attachment_id.as_str()))
                        }
                        "attachment.attach-time" => attachment.map(|a| Cow::Owned(iso(a.since))),
                        "attachment.delete-on-termination" => {
                            attachment.map(|a| Cow::Owned(a.delete_on_termination.to_string()))
                        }
                        "attachment.device-index" => attachment.map(|a| Cow::Borrowed(a.device.as_str())),
                        "attachment.instance-id" => attachment.map(|a| Cow::Borrowed(a.instance.as_str())),
                        "attachment.status" => attachment.map(|a| Cow::Borrowed(a.state)),
                        "availability-zone" => Some(Cow::Borrowed(interface.zone.as_str())),
                        "description" => Some(Cow::Borrowed(interface.description.as_str())),
                        "group-id" => {
                            return interface
                                .groups
                                .iter()
                                .map(|group| Cow::Borrowed(group.as_str()))
                                .collect();
                        }
                        "interface-type" => Some(Cow::Borrowed(interface.interface_type.as_str())),
                        "mac-address" => Some(Cow::Borrowed(interface.mac.as_str())),
                        "network-interface-id" => Some(Cow::Borrowed(interface.id.as_str())),
                        "owner-id" => Some(Cow::Borrowed(self.rules.account.as_str())),
                        "source-dest-check" => Some(Cow::Owned(interface.source_dest_check.to_string())),
                        "status" => Some(Cow::Borrowed(interface.state())),
                        "subnet-id" => Some(Cow::Borrowed(interface.subnet.as_str())),
                        "vpc-id" => Some(Cow::Borrowed(interface.vpc.as_str())),
                        other => return self.tag_values(&interface.id, other),
                    };
                    value.into_iter().collect()
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("networkInterfaceSet", found, |xml, interface| self.write_interface(xml, interface));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_interface(&self, xml: &mut Xml, interface: &Interface) {
        let dns = private_dns(interface.private_ip, &self.name);
        xml.text("networkInterfaceId", &interface.id);
        xml.text("subnetId", &interface.subnet);
        xml.text("vpcId", &interface.vpc);
        xml.text("availabilityZone", &interface.zone);
        xml.text("description", &interface.description);
        xml.text("ownerId", &self.rules.account);
        xml.put("requesterManaged", false);
        xml.text("status", interface.state());
        xml.text("macAddress", &interface.mac);
        xml.put("privateIpAddress", interface.private_ip);
        xml.text("privateDnsName", &dns);
        xml.put("sourceDestCheck", interface.source_dest_check);
        xml.set("groupSet", &interface.groups, |xml, group| self.write_group(xml, group));
        if let Some(attachment) = &interface.attachment {
            xml.node("attachment", |xml| {
                xml.text("attachmentId", &interface.attachment_id);
                xml.text("instanceId", &attachment.instance);
                xml.text("instanceOwnerId", &self.rules.account);
                xml.text("deviceIndex", &attachment.device);
                xml.put("networkCardIndex", interface.network_card);
                xml.text("status", attachment.state);
                xml.text("attachTime", &iso(attachment.since));
                xml.put("deleteOnTermination", attachment.delete_on_termination);
            });
        }
        write_tags(xml, self.tags_of(&interface.id));
        xml.set("privateIpAddressesSet", [interface.private_ip], |xml, address| {
            xml.put("privateIpAddress", address);
            xml.text("privateDnsName", &dns);
            xml.put("primary", true);
        });
        xml.text("interfaceType", &interface.interface_type);
    }

    /// A free address for a further interface of an instance.
    pub(super) fn take_address(&mut self, subnet: &str) -> Option<Ipv4Addr> {
        self.subnet_mut(subnet).and_then(Subnet::take)
    }
}

fn write_attachment(xml: &mut Xml, volume: &str, attachment: &Attachment) {
    xml.text("volumeId", volume);
    xml.text("instanceId", &attachment.instance);
    xml.text("device", &attachment.device);
    xml.text("status", attachment.state);
    xml.text("attachTime", &iso(attachment.since));
}
