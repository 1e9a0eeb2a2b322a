// SPDX-License-Identifier: GPL-3.0-or-later
//! Network interfaces.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use crate::api::error::{ApiError, absent};
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::launch_data::{read_tag_specs, write_tags};
use crate::model::network::Subnet;
use crate::model::region::{Event, Region};
use crate::model::storage::Attachment;
use crate::model::time::iso;

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

impl Region {
    /// The instance of an interface has ended.
    pub(crate) fn interface_owner_gone(&mut self, id: &str) {
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

    /// An interface that a launch names: it must exist and be free.
    pub(crate) fn free_interface(&self, id: &str) -> Result<&Interface, ApiError> {
        let interface = self.interfaces.get(id).ok_or_else(|| no_interface(&[id]))?;
        if interface.attachment.is_some() {
            return Err(ApiError::new("InvalidNetworkInterface.InUse", format!("Interface: [{id}] in use.")));
        }
        Ok(interface)
    }

    /// An attach or detach of an interface is over.
    pub(crate) fn interface_step(&mut self, id: &str) {
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

    pub(crate) fn create_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(crate) fn delete_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(crate) fn attach_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(crate) fn detach_network_interface(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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

    pub(crate) fn modify_network_interface_attribute(
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

    pub(crate) fn describe_network_interfaces(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
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
                xml.time("attachTime", attachment.since);
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
    pub(crate) fn take_address(&mut self, subnet: &str) -> Option<Ipv4Addr> {
        self.subnet_mut(subnet).and_then(Subnet::take)
    }
}

pub(crate) fn private_dns(address: Ipv4Addr, region: &str) -> String {
    let [a, b, c, d] = address.octets();
    let domain =
        if region == "us-east-1" { "ec2.internal".to_owned() } else { format!("{region}.compute.internal") };
    format!("ip-{a}-{b}-{c}-{d}.{domain}")
}

fn no_interface(ids: &[&str]) -> ApiError {
    ApiError::new("InvalidNetworkInterfaceID.NotFound", absent("networkInterface", ids))
}
