// SPDX-License-Identifier: GPL-3.0-or-later
//! What an instance is launched with: the members that RunInstances and launch templates share.

use crate::api::error::ApiError;
use crate::api::query::Node;
use crate::api::xml::Xml;

/// Ordered key and value pairs.
pub type TagList = Vec<(String, String)>;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct TagSpec {
    pub resource_type: String,
    pub tags: TagList,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockDevice {
    pub device: String,
    pub virtual_name: Option<String>,
    pub no_device: bool,
    pub encrypted: Option<bool>,
    pub delete_on_termination: Option<bool>,
    pub iops: Option<i64>,
    pub throughput: Option<i64>,
    pub kms_key: Option<String>,
    pub snapshot: Option<String>,
    pub size: Option<i64>,
    pub volume_type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct InterfaceSpec {
    pub index: i64,
    pub subnet: Option<String>,
    pub interface_id: Option<String>,
    pub interface_type: Option<String>,
    pub description: Option<String>,
    pub groups: Vec<String>,
    pub delete_on_termination: Option<bool>,
    pub public_ip: Option<bool>,
    pub private_ip: Option<String>,
    pub network_card: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MetadataOptions {
    pub tokens: Option<String>,
    pub hop_limit: Option<i64>,
    pub endpoint: Option<String>,
    pub ipv6: Option<String>,
    pub tags: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpotMarket {
    pub max_price: Option<String>,
    pub kind: Option<String>,
    pub interruption: Option<String>,
    pub valid_until: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    pub zone: Option<String>,
    pub zone_id: Option<String>,
    pub group: Option<String>,
    pub group_id: Option<String>,
    pub tenancy: Option<String>,
    pub partition: Option<i64>,
}

/// The shared launch parameters. Members that are absent were not given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LaunchData {
    pub image: Option<String>,
    pub instance_type: Option<String>,
    pub key_name: Option<String>,
    pub user_data: Option<String>,
    pub ebs_optimized: Option<bool>,
    pub profile_arn: Option<String>,
    pub profile_name: Option<String>,
    pub monitoring: Option<bool>,
    pub placement: Placement,
    pub disable_termination: Option<bool>,
    pub disable_stop: Option<bool>,
    pub shutdown_behavior: Option<String>,
    pub block_devices: Vec<BlockDevice>,
    pub interfaces: Vec<InterfaceSpec>,
    pub groups: Vec<String>,
    pub group_names: Vec<String>,
    pub tag_specs: Vec<TagSpec>,
    pub market: Option<String>,
    pub spot: SpotMarket,
    pub credit: Option<String>,
    pub core_count: Option<i64>,
    pub threads_per_core: Option<i64>,
    pub reservation_preference: Option<String>,
    pub reservation_id: Option<String>,
    pub hibernation: Option<bool>,
    pub metadata: MetadataOptions,
    pub enclave: Option<bool>,
    pub auto_recovery: Option<String>,
}

/// Reads `TagSpecification.N`.
pub fn read_tag_specs(node: &Node) -> Result<Vec<TagSpec>, ApiError> {
    node.list("TagSpecification")
        .into_iter()
        .map(|spec| {
            Ok(TagSpec {
                resource_type: spec.owned("ResourceType").unwrap_or_default(),
                tags: read_tags(spec)?,
            })
        })
        .collect()
}

/// Reads `Tag.N.Key`, `Tag.N.Value` and checks EC2's limits ("Tag restrictions", EC2 User Guide).
pub fn read_tags(node: &Node) -> Result<TagList, ApiError> {
    let tags: TagList = node
        .list("Tag")
        .into_iter()
        .map(|tag| (tag.owned("Key").unwrap_or_default(), tag.owned("Value").unwrap_or_default()))
        .collect();
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() {
            return Err(ApiError::new("InvalidParameterValue", "Tag key cannot be empty"));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(ApiError::new(
                "InvalidParameterValue",
                "Tag keys starting with 'aws:' are reserved for internal use",
            ));
        }
        if key.chars().count() > 127 + 1 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Tag key exceeds the maximum length of 128 characters: '{key}'"),
            ));
        }
        if value.chars().count() > 256 {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Tag value exceeds the maximum length of 256 characters: '{value}'"),
            ));
        }
        if tags[..at].iter().any(|(other, _)| other == key) {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!("Duplicate tag key '{key}' specified."),
            ));
        }
    }
    Ok(tags)
}

fn read_block_device(node: &Node) -> BlockDevice {
    BlockDevice {
        device: node.owned("DeviceName").unwrap_or_default(),
        virtual_name: node.owned("VirtualName"),
        no_device: node.text("NoDevice").is_some(),
        encrypted: node.flag("Ebs.Encrypted"),
        delete_on_termination: node.flag("Ebs.DeleteOnTermination"),
        iops: node.int("Ebs.Iops"),
        throughput: node.int("Ebs.Throughput"),
        kms_key: node.owned("Ebs.KmsKeyId"),
        snapshot: node.owned("Ebs.SnapshotId"),
        size: node.int("Ebs.VolumeSize"),
        volume_type: node.owned("Ebs.VolumeType"),
    }
}

/// Reads `BlockDeviceMapping.N`.
pub fn read_block_devices(node: &Node) -> Vec<BlockDevice> {
    node.list("BlockDeviceMapping").into_iter().map(read_block_device).collect()
}

fn read_interface(node: &Node) -> InterfaceSpec {
    let mut groups: Vec<String> = Vec::new();
    for name in ["SecurityGroupId", "Groups", "Group"] {
        groups.extend(node.texts(name).into_iter().map(str::to_owned));
    }
    InterfaceSpec {
        index: node.int("DeviceIndex").unwrap_or(0),
        subnet: node.owned("SubnetId"),
        interface_id: node.owned("NetworkInterfaceId"),
        interface_type: node.owned("InterfaceType"),
        description: node.owned("Description"),
        groups,
        delete_on_termination: node.flag("DeleteOnTermination"),
        public_ip: node.flag("AssociatePublicIpAddress"),
        private_ip: node.owned("PrivateIpAddress"),
        network_card: node.int("NetworkCardIndex"),
    }
}

pub fn read_placement(node: &Node) -> Placement {
    Placement {
        zone: node.owned("AvailabilityZone"),
        zone_id: node.owned("AvailabilityZoneId"),
        group: node.owned("GroupName"),
        group_id: node.owned("GroupId"),
        tenancy: node.owned("Tenancy"),
        partition: node.int("PartitionNumber"),
    }
}

fn check_choice(path: &str, value: Option<&str>, choices: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !choices.contains(&value) => {
            Err(ApiError::invalid_value(path, value, &format!("Valid values: {}.", choices.join(", "))))
        }
        _ => Ok(()),
    }
}

impl LaunchData {
    /// Reads the members of RunInstances or of `LaunchTemplateData`.
    ///
    /// # Errors
    /// `InvalidParameterValue` for values outside EC2's lists.
    pub fn read(node: &Node) -> Result<Self, ApiError> {
        check_choice(
            "InstanceMarketOptions.MarketType",
            node.text("InstanceMarketOptions.MarketType"),
            &["spot", "capacity-block", "interruptible-capacity-reservation", "on-demand"],
        )?;
        check_choice(
            "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
            node.text("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"),
            &["hibernate", "stop", "terminate"],
        )?;
        check_choice(
            "InstanceMarketOptions.SpotOptions.SpotInstanceType",
            node.text("InstanceMarketOptions.SpotOptions.SpotInstanceType"),
            &["one-time", "persistent"],
        )?;
        for (name, choices) in [
            ("MetadataOptions.HttpTokens", ["optional", "required"]),
            ("MetadataOptions.HttpEndpoint", ["enabled", "disabled"]),
            ("MetadataOptions.InstanceMetadataTags", ["enabled", "disabled"]),
            ("InstanceInitiatedShutdownBehavior", ["stop", "terminate"]),
        ] {
            check_choice(name, node.text(name), &choices)?;
        }
        let owned = |name: &str| node.texts(name).into_iter().map(str::to_owned).collect();
        Ok(Self {
            image: node.owned("ImageId"),
            instance_type: node.owned("InstanceType"),
            key_name: node.owned("KeyName"),
            user_data: node.owned("UserData"),
            ebs_optimized: node.flag("EbsOptimized"),
            profile_arn: node.owned("IamInstanceProfile.Arn"),
            profile_name: node.owned("IamInstanceProfile.Name"),
            monitoring: node.flag("Monitoring.Enabled"),
            placement: node.at("Placement").map(read_placement).unwrap_or_default(),
            disable_termination: node.flag("DisableApiTermination"),
            disable_stop: node.flag("DisableApiStop"),
            shutdown_behavior: node.owned("InstanceInitiatedShutdownBehavior"),
            block_devices: read_block_devices(node),
            interfaces: node.list("NetworkInterface").into_iter().map(read_interface).collect(),
            groups: owned("SecurityGroupId"),
            group_names: owned("SecurityGroup"),
            tag_specs: read_tag_specs(node)?,
            market: node.owned("InstanceMarketOptions.MarketType"),
            spot: SpotMarket {
                max_price: node.owned("InstanceMarketOptions.SpotOptions.MaxPrice"),
                kind: node.owned("InstanceMarketOptions.SpotOptions.SpotInstanceType"),
                interruption: node.owned("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"),
                valid_until: node.owned("InstanceMarketOptions.SpotOptions.ValidUntil"),
            },
            credit: node.owned("CreditSpecification.CpuCredits"),
            core_count: node.int("CpuOptions.CoreCount"),
            threads_per_core: node.int("CpuOptions.ThreadsPerCore"),
            reservation_preference: node
                .owned("CapacityReservationSpecification.CapacityReservationPreference"),
            reservation_id: node
                .owned("CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId"),
            hibernation: node.flag("HibernationOptions.Configured"),
            metadata: MetadataOptions {
                tokens: node.owned("MetadataOptions.HttpTokens"),
                hop_limit: node.int("MetadataOptions.HttpPutResponseHopLimit"),
                endpoint: node.owned("MetadataOptions.HttpEndpoint"),
                ipv6: node.owned("MetadataOptions.HttpProtocolIpv6"),
                tags: node.owned("MetadataOptions.InstanceMetadataTags"),
            },
            enclave: node.flag("EnclaveOptions.Enabled"),
            auto_recovery: node.owned("MaintenanceOptions.AutoRecovery"),
        })
    }

    /// These parameters with the ones of `over` in their place where `over` has them.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        fn pick<T: Clone>(over: &Option<T>, under: &Option<T>) -> Option<T> {
            over.clone().or_else(|| under.clone())
        }
        fn list<T: Clone>(over: &[T], under: &[T]) -> Vec<T> {
            if over.is_empty() { under } else { over }.to_vec()
        }
        let under = self;
        Self {
            image: pick(&over.image, &under.image),
            instance_type: pick(&over.instance_type, &under.instance_type),
            key_name: pick(&over.key_name, &under.key_name),
            user_data: pick(&over.user_data, &under.user_data),
            ebs_optimized: pick(&over.ebs_optimized, &under.ebs_optimized),
            profile_arn: pick(&over.profile_arn, &under.profile_arn),
            profile_name: pick(&over.profile_name, &under.profile_name),
            monitoring: pick(&over.monitoring, &under.monitoring),
            placement: Placement {
                zone: pick(&over.placement.zone, &under.placement.zone),
                zone_id: pick(&over.placement.zone_id, &under.placement.zone_id),
                group: pick(&over.placement.group, &under.placement.group),
                group_id: pick(&over.placement.group_id, &under.placement.group_id),
                tenancy: pick(&over.placement.tenancy, &under.placement.tenancy),
                partition: pick(&over.placement.partition, &under.placement.partition),
            },
            disable_termination: pick(&over.disable_termination, &under.disable_termination),
            disable_stop: pick(&over.disable_stop, &under.disable_stop),
            shutdown_behavior: pick(&over.shutdown_behavior, &under.shutdown_behavior),
            block_devices: overlay_devices(&under.block_devices, &over.block_devices),
            interfaces: list(&over.interfaces, &under.interfaces),
            groups: list(&over.groups, &under.groups),
            group_names: list(&over.group_names, &under.group_names),
            tag_specs: under.tag_specs.iter().chain(&over.tag_specs).cloned().collect(),
            market: pick(&over.market, &under.market),
            spot: SpotMarket {
                max_price: pick(&over.spot.max_price, &under.spot.max_price),
                kind: pick(&over.spot.kind, &under.spot.kind),
                interruption: pick(&over.spot.interruption, &under.spot.interruption),
                valid_until: pick(&over.spot.valid_until, &under.spot.valid_until),
            },
            credit: pick(&over.credit, &under.credit),
            core_count: pick(&over.core_count, &under.core_count),
            threads_per_core: pick(&over.threads_per_core, &under.threads_per_core),
            reservation_preference: pick(&over.reservation_preference, &under.reservation_preference),
            reservation_id: pick(&over.reservation_id, &under.reservation_id),
            hibernation: pick(&over.hibernation, &under.hibernation),
            metadata: MetadataOptions {
                tokens: pick(&over.metadata.tokens, &under.metadata.tokens),
                hop_limit: pick(&over.metadata.hop_limit, &under.metadata.hop_limit),
                endpoint: pick(&over.metadata.endpoint, &under.metadata.endpoint),
                ipv6: pick(&over.metadata.ipv6, &under.metadata.ipv6),
                tags: pick(&over.metadata.tags, &under.metadata.tags),
            },
            enclave: pick(&over.enclave, &under.enclave),
            auto_recovery: pick(&over.auto_recovery, &under.auto_recovery),
        }
    }

    /// The tags for one resource type, later specifications over earlier ones.
    pub fn tags_for(&self, resource_type: &str) -> TagList {
        let mut tags: TagList = Vec::new();
        for spec in &self.tag_specs {
            if spec.resource_type == resource_type {
                merge_tags(&mut tags, &spec.tags);
            }
        }
        tags
    }

    /// Writes the members of `launchTemplateData`.
    pub fn write(&self, xml: &mut Xml) {
        xml.maybe("ebsOptimized", self.ebs_optimized);
        if self.profile_arn.is_some() || self.profile_name.is_some() {
            xml.node("iamInstanceProfile", |xml| {
                xml.maybe("arn", self.profile_arn.as_ref());
                xml.maybe("name", self.profile_name.as_ref());
            });
        }
        if !self.block_devices.is_empty() {
            xml.set("blockDeviceMappingSet", &self.block_devices, write_block_device);
        }
        if !self.interfaces.is_empty() {
            xml.set("networkInterfaceSet", &self.interfaces, |xml, interface| {
                xml.maybe("associatePublicIpAddress", interface.public_ip);
                xml.maybe("deleteOnTermination", interface.delete_on_termination);
                xml.maybe("description", interface.description.as_ref());
                xml.put("deviceIndex", interface.index);
                if !interface.groups.is_empty() {
                    xml.node("groupSet", |xml| {
                        for group in &interface.groups {
                            xml.text("groupId", group);
                        }
                    });
                }
                xml.maybe("interfaceType", interface.interface_type.as_ref());
                xml.maybe("networkInterfaceId", interface.interface_id.as_ref());
                xml.maybe("privateIpAddress", interface.private_ip.as_ref());
                xml.maybe("subnetId", interface.subnet.as_ref());
                xml.maybe("networkCardIndex", interface.network_card);
            });
        }
        xml.maybe("imageId", self.image.as_ref());
        xml.maybe("instanceType", self.instance_type.as_ref());
        xml.maybe("keyName", self.key_name.as_ref());
        if let Some(enabled) = self.monitoring {
            xml.node("monitoring", |xml| xml.put("enabled", enabled));
        }
        if self.placement != Placement::default() {
            xml.node("placement", |xml| {
                xml.maybe("availabilityZone", self.placement.zone.as_ref());
                xml.maybe("availabilityZoneId", self.placement.zone_id.as_ref());
                xml.maybe("groupName", self.placement.group.as_ref());
                xml.maybe("groupId", self.placement.group_id.as_ref());
                xml.maybe("tenancy", self.placement.tenancy.as_ref());
                xml.maybe("partitionNumber", self.placement.partition);
            });
        }
        xml.maybe("disableApiTermination", self.disable_termination);
        xml.maybe("instanceInitiatedShutdownBehavior", self.shutdown_behavior.as_ref());
        xml.maybe("userData", self.user_data.as_ref());
        if !self.tag_specs.is_empty() {
            xml.set("tagSpecificationSet", &self.tag_specs, |xml, spec| {
                xml.text("resourceType", &spec.resource_type);
                write_tags(xml, &spec.tags);
            });
        }
        if !self.groups.is_empty() {
            xml.texts("securityGroupIdSet", &self.groups);
        }
        if !self.group_names.is_empty() {
            xml.texts("securityGroupSet", &self.group_names);
        }
        if self.market.is_some() {
            xml.node("instanceMarketOptions", |xml| {
                xml.maybe("marketType", self.market.as_ref());
                if self.spot != SpotMarket::default() {
                    xml.node("spotOptions", |xml| {
                        xml.maybe("maxPrice", self.spot.max_price.as_ref());
                        xml.maybe("spotInstanceType", self.spot.kind.as_ref());
                        xml.maybe("validUntil", self.spot.valid_until.as_ref());
                        xml.maybe("instanceInterruptionBehavior", self.spot.interruption.as_ref());
                    });
                }
            });
        }
        if let Some(credits) = &self.credit {
            xml.node("creditSpecification", |xml| xml.text("cpuCredits", credits));
        }
        if self.core_count.is_some() || self.threads_per_core.is_some() {
            xml.node("cpuOptions", |xml| {
                xml.maybe("coreCount", self.core_count);
                xml.maybe("threadsPerCore", self.threads_per_core);
            });
        }
        if self.reservation_preference.is_some() || self.reservation_id.is_some() {
            xml.node("capacityReservationSpecification", |xml| {
                xml.maybe("capacityReservationPreference", self.reservation_preference.as_ref());
                if let Some(id) = &self.reservation_id {
                    xml.node("capacityReservationTarget", |xml| {
                        xml.text("capacityReservationId", id);
                    });
                }
            });
        }
        if let Some(configured) = self.hibernation {
            xml.node("hibernationOptions", |xml| xml.put("configured", configured));
        }
        if self.metadata != MetadataOptions::default() {
            xml.node("metadataOptions", |xml| {
                xml.maybe("httpTokens", self.metadata.tokens.as_ref());
                xml.maybe("httpPutResponseHopLimit", self.metadata.hop_limit);
                xml.maybe("httpEndpoint", self.metadata.endpoint.as_ref());
                xml.maybe("httpProtocolIpv6", self.metadata.ipv6.as_ref());
                xml.maybe("instanceMetadataTags", self.metadata.tags.as_ref());
            });
        }
        if let Some(enabled) = self.enclave {
            xml.node("enclaveOptions", |xml| xml.put("enabled", enabled));
        }
        if let Some(recovery) = &self.auto_recovery {
            xml.node("maintenanceOptions", |xml| xml.text("autoRecovery", recovery));
        }
        xml.maybe("disableApiStop", self.disable_stop);
    }
}

fn overlay_devices(under: &[BlockDevice], over: &[BlockDevice]) -> Vec<BlockDevice> {
    let mut devices = under.to_vec();
    for device in over {
        match devices.iter_mut().find(|old| old.device == device.device) {
            Some(old) => *old = device.clone(),
            None => devices.push(device.clone()),
        }
    }
    devices
}

pub fn merge_tags(tags: &mut TagList, more: &[(String, String)]) {
    for (key, value) in more {
        match tags.iter_mut().find(|(old, _)| old == key) {
            Some(old) => old.1.clone_from(value),
            None => tags.push((key.clone(), value.clone())),
        }
    }
}

pub fn write_tags(xml: &mut Xml, tags: &[(String, String)]) {
    xml.set("tagSet", tags, |xml, (key, value)| {
        xml.text("key", key);
        xml.text("value", value);
    });
}

pub fn write_block_device(xml: &mut Xml, device: &BlockDevice) {
    xml.text("deviceName", &device.device);
    xml.maybe("virtualName", device.virtual_name.as_ref());
    if device.no_device {
        xml.text("noDevice", "");
        return;
    }
    if device.virtual_name.is_none() {
        xml.node("ebs", |xml| {
            xml.maybe("encrypted", device.encrypted);
            xml.maybe("deleteOnTermination", device.delete_on_termination);
            xml.maybe("iops", device.iops);
            xml.maybe("throughput", device.throughput);
            xml.maybe("kmsKeyId", device.kms_key.as_ref());
            xml.maybe("snapshotId", device.snapshot.as_ref());
            xml.maybe("volumeSize", device.size);
            xml.maybe("volumeType", device.volume_type.as_ref());
        });
    }
}
