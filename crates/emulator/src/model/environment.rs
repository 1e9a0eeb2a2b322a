// SPDX-License-Identifier: GPL-3.0-or-later
//! What an account finds in a region: zones, VPCs, subnets, security groups, images, instance types.

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::catalog::{self, TypeFacts};
use crate::model::launch_data::{BlockDevice, LaunchData, write_tags};
use crate::model::network::Subnet;
use crate::model::region::Region;

/// An image, as far as launches need it. `architecture` is empty when any type may run it.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub id: String,
    pub name: String,
    pub architecture: String,
    pub root_gib: u32,
    pub encrypted: bool,
}

fn hexadecimal(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Region {
    /// Facts of an instance type.
    ///
    /// # Errors
    /// `InvalidInstanceType`.
    pub(crate) fn facts(&self, name: &str) -> Result<&'static TypeFacts, ApiError> {
        catalog::find(name).ok_or_else(|| {
            ApiError::new(
                "InvalidInstanceType",
                format!("The following supplied instance types do not exist: [{name}]"),
            )
        })
    }

    /// An image: one of the scenario's, or with none there, any well-formed id.
    pub(crate) fn image(&self, id: &str) -> Result<Image, ApiError> {
        let Some(digits) = id.strip_prefix("ami-").filter(|digits| hexadecimal(digits, &[8, 17])) else {
            return Err(ApiError::new(
                "InvalidAMIID.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"ami-...\")"),
            ));
        };
        if let Some(spec) = self.rules.images.iter().find(|spec| spec.id == id) {
            return Ok(Image {
                id: id.to_owned(),
                name: spec.name.clone().unwrap_or_else(|| format!("image-{digits}")),
                architecture: spec.architecture.clone(),
                root_gib: spec.root_gib,
                encrypted: spec.encrypted,
            });
        }
        if self.rules.images.is_empty() {
            return Ok(Image {
                id: id.to_owned(),
                name: format!("image-{digits}"),
                architecture: String::new(),
                root_gib: 8,
                encrypted: false,
            });
        }
        Err(ApiError::new("InvalidAMIID.NotFound", format!("The image id '[{id}]' does not exist")))
    }

    /// The root device of a launch: the image's, with what the launch says of it.
    pub(crate) fn root_device(&self, data: &LaunchData, image: &Image) -> BlockDevice {
        let given = data
            .block_devices
            .iter()
            .find(|device| ["/dev/xvda", "/dev/sda1"].contains(&device.device.as_str()));
        let mut root = given.cloned().unwrap_or_default();
        if root.device.is_empty() {
            "/dev/xvda".clone_into(&mut root.device);
        }
        root.encrypted = Some(root.encrypted.unwrap_or(false) || image.encrypted);
        root.size = root.size.or(Some(i64::from(image.root_gib)));
        root.snapshot =
            root.snapshot.or_else(|| Some(format!("snap-{}", image.id.trim_start_matches("ami-"))));
        root
    }

    /// # Errors
    /// `InvalidGroup.NotFound`, `InvalidGroupId.Malformed`.
    pub(crate) fn check_group(&self, id: &str) -> Result<(), ApiError> {
        let well_formed = id.strip_prefix("sg-").is_some_and(|digits| hexadecimal(digits, &[8, 17]));
        let known = id == self.default_group || self.rules.security_groups.iter().any(|group| group == id);
        if known || (well_formed && self.rules.security_groups.is_empty()) {
            Ok(())
        } else if well_formed {
            Err(ApiError::new("InvalidGroup.NotFound", format!("The security group '{id}' does not exist")))
        } else {
            Err(ApiError::new(
                "InvalidGroupId.Malformed",
                format!("Invalid id: \"{id}\" (expecting \"sg-...\")"),
            ))
        }
    }

    /// The security groups of a launch; by default the VPC's own.
    pub(crate) fn groups_of(&self, data: &LaunchData) -> Vec<String> {
        let mut groups = data.groups.clone();
        if let Some(interface) = data.interfaces.iter().find(|interface| interface.index == 0) {
            groups.extend(interface.groups.iter().cloned());
        }
        groups.dedup();
        if groups.is_empty() {
            groups.push(self.default_group.clone());
        }
        groups
    }

    pub(crate) fn write_group(&self, xml: &mut Xml, id: &str) {
        xml.text("groupId", id);
        xml.text("groupName", &self.group_name(id));
    }

    fn group_name(&self, id: &str) -> String {
        if id == self.default_group { "default".to_owned() } else { format!("group-{id}") }
    }

    pub(crate) fn describe_security_groups(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(
            request,
            &["description", "group-id", "group-name", "owner-id", "vpc-id", "tag-key"],
        )?;
        let page = Page::read("DescribeSecurityGroups", request, 5, 1000)?;
        let ids = request.texts("GroupId");
        let names = request.texts("GroupName");
        let mut groups: Vec<String> = vec![self.default_group.clone()];
        groups.extend(self.rules.security_groups.iter().cloned());
        for id in &ids {
            self.check_group(id)?;
            if !groups.iter().any(|group| group == id) {
                groups.push((*id).to_owned());
            }
        }
        let found: Vec<String> = groups
            .into_iter()
            .filter(|group| ids.is_empty() || ids.contains(&group.as_str()))
            .filter(|group| names.is_empty() || names.contains(&self.group_name(group).as_str()))
            .filter(|group| {
                filters.accept(|name| match name {
                    "group-id" => vec![Cow::Owned(group.clone())],
                    "group-name" | "description" => vec![Cow::Owned(self.group_name(group))],
                    "owner-id" => vec![Cow::Borrowed(self.rules.account.as_str())],
                    "vpc-id" => vec![Cow::Borrowed(self.vpc.as_str())],
                    other => self.tag_values(group, other),
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("securityGroupInfo", found, |xml, group| {
            xml.text("ownerId", &self.rules.account);
            xml.text("groupId", &group);
            xml.text("groupName", &self.group_name(&group));
            xml.text("groupDescription", &self.group_name(&group));
            xml.text("vpcId", &self.vpc);
            xml.set("ipPermissions", std::iter::empty::<&str>(), |_, _| {});
            xml.set("ipPermissionsEgress", std::iter::empty::<&str>(), |_, _| {});
            write_tags(xml, self.tags_of(&group));
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(crate) fn describe_subnets(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "availability-zone",
            "availabilityZone",
            "availability-zone-id",
            "available-ip-address-count",
            "cidr",
            "cidr-block",
            "cidrBlock",
            "default-for-az",
            "map-public-ip-on-launch",
            "owner-id",
            "state",
            "subnet-arn",
            "subnet-id",
            "tag-key",
            "vpc-id",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeSubnets", request, 5, 1000)?;
        let ids = request.texts("SubnetId");
        let missing: Vec<&str> = ids.iter().copied().filter(|id| self.subnet(id).is_none()).collect();
        if !missing.is_empty() {
            return Err(ApiError::new(
                "InvalidSubnetID.NotFound",
                crate::api::error::absent("subnet", &missing),
            ));
        }
        let found: Vec<&Subnet> = self
            .subnets
            .iter()
            .filter(|subnet| ids.is_empty() || ids.contains(&subnet.id.as_str()))
            .filter(|subnet| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    match name {
                        "availability-zone" | "availabilityZone" => one(&subnet.zone),
                        "availability-zone-id" => one(&subnet.zone_id),
                        "available-ip-address-count" => one(&subnet.free().to_string()),
                        "cidr" | "cidr-block" | "cidrBlock" => one(&subnet.cidr.to_string()),
                        "default-for-az" => one("true"),
                        "map-public-ip-on-launch" => one("false"),
                        "owner-id" => one(&self.rules.account),
                        "state" => one("available"),
                        "subnet-arn" => one(&self.subnet_arn(subnet)),
                        "subnet-id" => one(&subnet.id),
                        "vpc-id" => one(&subnet.vpc),
                        other => self.tag_values(&subnet.id, other),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("subnetSet", found, |xml, subnet| {
            xml.text("subnetId", &subnet.id);
            xml.text("subnetArn", &self.subnet_arn(subnet));
            xml.text("state", "available");
            xml.text("ownerId", &self.rules.account);
            xml.text("vpcId", &subnet.vpc);
            xml.put("cidrBlock", subnet.cidr);
            xml.put("availableIpAddressCount", subnet.free());
            xml.text("availabilityZone", &subnet.zone);
            xml.text("availabilityZoneId", &subnet.zone_id);
            xml.put("defaultForAz", true);
            xml.put("mapPublicIpOnLaunch", false);
            xml.put("assignIpv6AddressOnCreation", false);
            xml.put("ipv6Native", false);
            write_tags(xml, self.tags_of(&subnet.id));
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn subnet_arn(&self, subnet: &Subnet) -> String {
        format!("arn:aws:ec2:{}:{}:subnet/{}", self.name, self.rules.account, subnet.id)
    }

    pub(crate) fn describe_vpcs(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(
            request,
            &["cidr", "is-default", "isDefault", "owner-id", "state", "vpc-id", "tag-key"],
        )?;
        let page = Page::read("DescribeVpcs", request, 5, 1000)?;
        let ids = request.texts("VpcId");
        let mut vpcs = vec![self.vpc.clone()];
        for subnet in &self.subnets {
            if !vpcs.contains(&subnet.vpc) {
                vpcs.push(subnet.vpc.clone());
            }
        }
        for id in &ids {
            if !vpcs.iter().any(|vpc| vpc == id) {
                return Err(ApiError::new("InvalidVpcID.NotFound", crate::api::error::absent("vpc", &[id])));
            }
        }
        let found: Vec<String> = vpcs
            .into_iter()
            .filter(|vpc| ids.is_empty() || ids.contains(&vpc.as_str()))
            .filter(|vpc| {
                filters.accept(|name| match name {
                    "cidr" => vec![Cow::Borrowed("127.0.0.0/8")],
                    "is-default" | "isDefault" => vec![Cow::Owned((*vpc == self.vpc).to_string())],
                    "owner-id" => vec![Cow::Borrowed(self.rules.account.as_str())],
                    "state" => vec![Cow::Borrowed("available")],
                    "vpc-id" => vec![Cow::Owned(vpc.clone())],
                    other => self.tag_values(vpc, other),
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("vpcSet", found, |xml, vpc| {
            xml.text("vpcId", &vpc);
            xml.text("ownerId", &self.rules.account);
            xml.text("state", "available");
            xml.text("cidrBlock", "127.0.0.0/8");
            xml.text("instanceTenancy", "default");
            xml.put("isDefault", vpc == self.vpc);
            write_tags(xml, self.tags_of(&vpc));
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(crate) fn describe_availability_zones(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(
            request,
            &["region-name", "state", "zone-id", "zone-name", "zone-type", "opt-in-status", "group-name"],
        )?;
        let (names, ids) = (request.texts("ZoneName"), request.texts("ZoneId"));
        let zones: Vec<(String, String)> = self
            .rules
            .zones
            .iter()
            .map(|letter| (format!("{}{letter}", self.name), self.zone_id(letter)))
            .collect();
        if let Some(wrong) = names.iter().find(|name| !zones.iter().any(|(zone, _)| zone == *name)) {
            return Err(ApiError::invalid_value("ZoneName", wrong, "The zone does not exist."));
        }
        let found = zones
            .into_iter()
            .filter(|(name, id)| {
                (names.is_empty() || names.contains(&name.as_str()))
                    && (ids.is_empty() || ids.contains(&id.as_str()))
            })
            .filter(|(zone, id)| {
                filters.accept(|name| {
                    vec![Cow::Owned(match name {
                        "region-name" => self.name.clone(),
                        "zone-id" => id.clone(),
                        "zone-name" => zone.clone(),
                        "zone-type" => "availability-zone".to_owned(),
                        "opt-in-status" => "opt-in-not-required".to_owned(),
                        "group-name" => format!("{}-zg-1", self.name),
                        _ => self.zone_state(zone).to_owned(),
                    })]
                })
            });
        xml.set("availabilityZoneInfo", found, |xml, (zone, id)| {
            xml.text("zoneState", self.zone_state(&zone));
            xml.text("optInStatus", "opt-in-not-required");
            xml.set("messageSet", std::iter::empty::<&str>(), |_, _| {});
            xml.text("regionName", &self.name);
            xml.text("zoneName", &zone);
            xml.text("zoneId", &id);
            xml.text("groupName", &format!("{}-zg-1", self.name));
            xml.text("networkBorderGroup", &self.name);
            xml.text("zoneType", "availability-zone");
        });
        Ok(())
    }

    fn zone_state(&self, zone: &str) -> &'static str {
        if self.pools.zone_open(zone) { "available" } else { "impaired" }
    }

    pub(crate) fn describe_regions(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(request, &["endpoint", "opt-in-status", "region-name"])?;
        let mut names: Vec<String> = vec![self.rules.region.clone()];
        if self.name != self.rules.region {
            names.push(self.name.clone());
        }
        let wanted = request.texts("RegionName");
        for name in &wanted {
            if !names.iter().any(|known| known == name) {
                names.push((*name).to_owned());
            }
        }
        let found = names
            .into_iter()
            .filter(|name| wanted.is_empty() || wanted.contains(&name.as_str()))
            .filter(|region| {
                filters.accept(|name| {
                    vec![Cow::Owned(match name {
                        "endpoint" => format!("ec2.{region}.amazonaws.com"),
                        "opt-in-status" => "opt-in-not-required".to_owned(),
                        _ => region.clone(),
                    })]
                })
            });
        xml.set("regionInfo", found, |xml, name| {
            xml.text("regionName", &name);
            xml.text("regionEndpoint", &format!("ec2.{name}.amazonaws.com"));
            xml.text("optInStatus", "opt-in-not-required");
        });
        Ok(())
    }

    pub(crate) fn describe_images(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let filters = Filters::read(
            request,
            &[
                "architecture",
                "image-id",
                "image-type",
                "is-public",
                "name",
                "owner-id",
                "root-device-type",
                "state",
                "virtualization-type",
                "tag-key",
            ],
        )?;
        let page = Page::read("DescribeImages", request, 1, 1000)?;
        let ids = request.texts("ImageId");
        let owners = request.texts("Owner");
        let images: Vec<Image> = if ids.is_empty() {
            self.rules.images.iter().filter_map(|spec| self.image(&spec.id).ok()).collect()
        } else {
            ids.iter().map(|id| self.image(id)).collect::<Result<_, _>>()?
        };
        let mine =
            owners.is_empty() || owners.iter().any(|owner| *owner == "self" || *owner == self.rules.account);
        let found: Vec<Image> = images
            .into_iter()
            .filter(|_| mine)
            .filter(|image| {
                filters.accept(|name| {
                    let one = |text: &str| vec![Cow::Owned(text.to_owned())];
                    match name {
                        "architecture" => one(image.shown_architecture()),
                        "image-id" => one(&image.id),
                        "image-type" => one("machine"),
                        "is-public" => one("false"),
                        "name" => one(&image.name),
                        "owner-id" => one(&self.rules.account),
                        "root-device-type" => one("ebs"),
                        "state" => one("available"),
                        "virtualization-type" => one("hvm"),
                        other => self.tag_values(&image.id, other),
                    }
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("imagesSet", found, |xml, image| {
            xml.text("imageId", &image.id);
            xml.text("imageLocation", &format!("{}/{}", self.rules.account, image.name));
            xml.text("imageState", "available");
            xml.text("imageOwnerId", &self.rules.account);
            xml.text("creationDate", "2024-01-01T00:00:00.000Z");
            xml.put("isPublic", false);
            xml.text("architecture", image.shown_architecture());
            xml.text("imageType", "machine");
            xml.text("name", &image.name);
            xml.text("rootDeviceType", "ebs");
            xml.text("rootDeviceName", "/dev/xvda");
            xml.set("blockDeviceMapping", [&image], |xml, image| {
                xml.text("deviceName", "/dev/xvda");
                xml.node("ebs", |xml| {
                    xml.text("snapshotId", &format!("snap-{}", image.id.trim_start_matches("ami-")));
                    xml.put("volumeSize", image.root_gib);
                    xml.put("deleteOnTermination", true);
                    xml.text("volumeType", "gp3");
                    xml.put("encrypted", image.encrypted);
                });
            });
            xml.text("virtualizationType", "hvm");
            write_tags(xml, self.tags_of(&image.id));
            xml.text("hypervisor", "xen");
            xml.put("enaSupport", true);
            xml.text("platformDetails", "Linux/UNIX");
            xml.text("usageOperation", "RunInstances");
        });
        xml.maybe("nextToken", token);
        Ok(())
    }

    pub(crate) fn describe_account_attributes(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let attributes = [
            ("supported-platforms", "VPC".to_owned()),
            ("default-vpc", self.vpc.clone()),
            ("max-instances", "20".to_owned()),
            ("vpc-max-security-groups-per-interface", "5".to_owned()),
            ("max-elastic-ips", "5".to_owned()),
            ("vpc-max-elastic-ips", "5".to_owned()),
        ];
        let wanted = request.texts("AttributeName");
        if let Some(wrong) = wanted.iter().find(|name| !attributes.iter().any(|(known, _)| known == *name)) {
            return Err(ApiError::invalid_value("AttributeName", wrong, "Unknown attribute."));
        }
        let found = attributes.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
        xml.set("accountAttributeSet", found, |xml, (name, value)| {
            xml.text("attributeName", name);
            xml.set("attributeValueSet", [value], |xml, value| xml.text("attributeValue", &value));
        });
        Ok(())
    }
}

impl Image {
    fn shown_architecture(&self) -> &str {
        if self.architecture.is_empty() { "x86_64" } else { &self.architecture }
    }
}
