// SPDX-License-Identifier: GPL-3.0-or-later
//! What the administrator's tool asks of EC2: facts about types, templates, subnets, images and prices, and which
//! actions the credentials allow. Nothing here changes anything.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use ec2fleet_core::ec2_api::CloudError;
use ec2fleet_core::fleet_spec::{InstanceRequirements, LaunchTemplateSpecification};
use ec2fleet_core::site::Account;

pub type CatalogFuture<T> = Pin<Box<dyn Future<Output = Result<T, CloudError>> + Send>>;

/// Read-only questions to EC2. As with [`super::Cloud`], one call is one attempt.
pub trait Catalog: Send + Sync + 'static {
    /// Types by name; those that the region does not have are left out.
    fn instance_types(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<InstanceType>>;

    /// Names of the types that a fleet would choose from, for `InstanceRequirements` in an override.
    fn types_matching(
        &self,
        account: Account,
        requirements: InstanceRequirements,
        architectures: Vec<String>,
    ) -> CatalogFuture<Vec<String>>;

    /// Which of the types are offered in which zones.
    fn offerings(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<Offering>>;

    /// The version of a launch template that the specification means.
    fn launch_template(
        &self,
        account: Account,
        specification: LaunchTemplateSpecification,
    ) -> CatalogFuture<LaunchTemplate>;

    /// Subnets by id; unknown ones are left out.
    fn subnets(&self, account: Account, ids: Vec<String>) -> CatalogFuture<Vec<Subnet>>;

    /// Images by id; those that do not exist or may not be used are left out.
    fn images(&self, account: Account, ids: Vec<String>) -> CatalogFuture<Vec<Image>>;

    /// The Spot price of each type in each zone now, for Linux.
    fn spot_prices(&self, account: Account, names: Vec<String>) -> CatalogFuture<Vec<SpotPrice>>;

    /// The region's zones that the account may use.
    fn zones(&self, account: Account) -> CatalogFuture<Vec<Zone>>;

    /// Whose credentials these are.
    fn caller(&self, account: Account) -> CatalogFuture<Caller>;

    /// Asks EC2, with `DryRun`, whether an action is allowed.
    fn permission(&self, account: Account, action: Action, example: Example) -> CatalogFuture<Verdict>;

    /// The JSON that explains an encoded denial; needs the permission `sts:DecodeAuthorizationMessage`.
    fn decode_denial(&self, account: Account, encoded: String) -> CatalogFuture<String>;
}

/// `InstanceTypeInfo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceType {
    pub name: String,
    pub vcpus: u32,
    pub cores: u32,
    pub threads_per_core: u32,
    pub memory_mib: u64,
    pub gpus: Vec<Accelerator>,
    /// Inferentia and Trainium.
    pub neuron_devices: Vec<Accelerator>,
    /// `x86_64`, `arm64`, `i386`.
    pub architectures: Vec<String>,
    /// `Intel`, `AMD`, `AWS`.
    pub manufacturer: Option<String>,
    pub sustained_clock_ghz: Option<f64>,
    /// `on-demand`, `spot`, `capacity-block`.
    pub usage_classes: Vec<String>,
    /// `nitro` or `xen`; none for bare metal.
    pub hypervisor: Option<String>,
    pub bare_metal: bool,
    pub burstable: bool,
    pub current_generation: bool,
    pub hibernation_supported: bool,
    pub efa_supported: bool,
    /// As EC2 words it, for example `Up to 10 Gigabit`.
    pub network_performance: Option<String>,
    pub ipv4_addresses_per_interface: u32,
    /// Instance store, GB; 0 for none.
    pub storage_gb: u64,
}

/// One kind of device of an instance type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accelerator {
    /// For example `A100`.
    pub name: String,
    /// For example `NVIDIA`.
    pub manufacturer: Option<String>,
    pub count: u32,
    /// Of one device.
    pub memory_mib: u64,
}

/// `InstanceTypeOffering` by zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Offering {
    pub instance_type: String,
    pub zone: String,
}

/// `LaunchTemplateVersion` as far as it matters to compute nodes. User data is not read: it may hold secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaunchTemplate {
    pub id: String,
    pub name: String,
    pub version: u64,
    pub is_default: bool,
    /// An image id, or `resolve:ssm:…`.
    pub image_id: Option<String>,
    pub instance_type: Option<String>,
    pub has_instance_requirements: bool,
    pub key_name: Option<String>,
    /// ARN or name.
    pub instance_profile: Option<String>,
    /// Of the template and of its interfaces.
    pub security_groups: Vec<String>,
    /// Of its interfaces: with `SubnetIds` in the node group, EC2 refuses a template that has any.
    pub subnet_ids: Vec<String>,
    /// Of existing interfaces, which one instance alone can use.
    pub network_interface_ids: Vec<String>,
    pub metadata: MetadataOptions,
    pub hibernation: bool,
    /// `spot` and so on; a fleet does not take a template that has it.
    pub market: Option<String>,
    pub cores: Option<u32>,
    pub threads_per_core: Option<u32>,
    /// `stop` or `terminate`.
    pub shutdown_behavior: Option<String>,
    pub termination_protection: bool,
    pub block_devices: Vec<BlockDevice>,
    pub has_user_data: bool,
    /// By resource type (`instance`, `volume`, …). The only way to tag the instances of a maintain fleet.
    pub tags: BTreeMap<String, BTreeMap<String, String>>,
}

/// `LaunchTemplateInstanceMetadataOptions`; `None` is the default of the account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataOptions {
    /// `enabled` or `disabled`.
    pub endpoint: Option<String>,
    /// `required` or `optional`.
    pub tokens: Option<String>,
    /// `enabled` or `disabled`: nodes read their name from it.
    pub instance_tags: Option<String>,
    pub hop_limit: Option<u32>,
}

/// A block device of a launch template or an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    pub device: String,
    pub encrypted: Option<bool>,
    /// GiB.
    pub size_gib: Option<u32>,
    pub volume_type: Option<String>,
    pub delete_on_termination: Option<bool>,
    pub kms_key_id: Option<String>,
}

/// `Subnet`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub vpc_id: String,
    pub zone: String,
    pub cidr: String,
    pub free_addresses: u32,
    /// `available` when it can be used.
    pub state: String,
}

/// `Image`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    pub id: String,
    pub name: String,
    pub owner: String,
    /// `available` when it can be used.
    pub state: String,
    pub architecture: String,
    /// `hvm` or `paravirtual`.
    pub virtualization: String,
    /// `ebs` or `instance-store`.
    pub root_device_type: String,
    pub root_device: String,
    pub block_devices: Vec<BlockDevice>,
    /// When it is deprecated, as EC2 writes times.
    pub deprecation_time: Option<String>,
}

impl Image {
    /// The device that the system starts from.
    #[must_use]
    pub fn root(&self) -> Option<&BlockDevice> {
        self.block_devices.iter().find(|device| device.device == self.root_device)
    }
}

/// `SpotPrice`: of one pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpotPrice {
    pub instance_type: String,
    pub zone: String,
    /// US dollars an hour.
    pub price: f64,
}

/// `AvailabilityZone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    pub name: String,
    /// The same in every account, for example `use1-az1`.
    pub id: String,
    /// `available`, `information`, `impaired`, `unavailable` or `constrained`.
    pub state: String,
}

/// `GetCallerIdentity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    pub account: String,
    pub arn: String,
}

/// Every EC2 action that this product uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    CreateFleet,
    RunInstances,
    CreateTags,
    DescribeInstances,
    TerminateInstances,
    ModifyFleet,
    DeleteFleets,
    DescribeFleets,
    DescribeFleetHistory,
    CancelSpotInstanceRequests,
    DescribeVolumes,
    StopInstances,
    StartInstances,
    AttachVolume,
    DetachVolume,
    DeleteVolume,
    ModifyInstanceAttribute,
    ModifyNetworkInterfaceAttribute,
    CreateCapacityReservation,
    CancelCapacityReservation,
    DescribeInstanceTypes,
    DescribeInstanceTypeOfferings,
    GetInstanceTypesFromInstanceRequirements,
    DescribeLaunchTemplateVersions,
    DescribeSubnets,
    DescribeImages,
    DescribeSpotPriceHistory,
    DescribeAvailabilityZones,
}

/// What an [`Action`] is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Nothing works without it.
    Always,
    /// Node groups with maintain fleets.
    MaintainFleets,
    /// Node groups with `AfterMaxHibernation` on-demand.
    MoveToOnDemand,
    /// `ec2fleet` commands of the administrator.
    Tool,
}

impl Action {
    pub const ALL: [Self; 28] = [
        Self::CreateFleet,
        Self::RunInstances,
        Self::CreateTags,
        Self::DescribeInstances,
        Self::TerminateInstances,
        Self::ModifyFleet,
        Self::DeleteFleets,
        Self::DescribeFleets,
        Self::DescribeFleetHistory,
        Self::CancelSpotInstanceRequests,
        Self::DescribeVolumes,
        Self::StopInstances,
        Self::StartInstances,
        Self::AttachVolume,
        Self::DetachVolume,
        Self::DeleteVolume,
        Self::ModifyInstanceAttribute,
        Self::ModifyNetworkInterfaceAttribute,
        Self::CreateCapacityReservation,
        Self::CancelCapacityReservation,
        Self::DescribeInstanceTypes,
        Self::DescribeInstanceTypeOfferings,
        Self::GetInstanceTypesFromInstanceRequirements,
        Self::DescribeLaunchTemplateVersions,
        Self::DescribeSubnets,
        Self::DescribeImages,
        Self::DescribeSpotPriceHistory,
        Self::DescribeAvailabilityZones,
    ];

    /// As the API reference spells it; IAM puts `ec2:` before it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateFleet => "CreateFleet",
            Self::RunInstances => "RunInstances",
            Self::CreateTags => "CreateTags",
            Self::DescribeInstances => "DescribeInstances",
            Self::TerminateInstances => "TerminateInstances",
            Self::ModifyFleet => "ModifyFleet",
            Self::DeleteFleets => "DeleteFleets",
            Self::DescribeFleets => "DescribeFleets",
            Self::DescribeFleetHistory => "DescribeFleetHistory",
            Self::CancelSpotInstanceRequests => "CancelSpotInstanceRequests",
            Self::DescribeVolumes => "DescribeVolumes",
            Self::StopInstances => "StopInstances",
            Self::StartInstances => "StartInstances",
            Self::AttachVolume => "AttachVolume",
            Self::DetachVolume => "DetachVolume",
            Self::DeleteVolume => "DeleteVolume",
            Self::ModifyInstanceAttribute => "ModifyInstanceAttribute",
            Self::ModifyNetworkInterfaceAttribute => "ModifyNetworkInterfaceAttribute",
            Self::CreateCapacityReservation => "CreateCapacityReservation",
            Self::CancelCapacityReservation => "CancelCapacityReservation",
            Self::DescribeInstanceTypes => "DescribeInstanceTypes",
            Self::DescribeInstanceTypeOfferings => "DescribeInstanceTypeOfferings",
            Self::GetInstanceTypesFromInstanceRequirements => "GetInstanceTypesFromInstanceRequirements",
            Self::DescribeLaunchTemplateVersions => "DescribeLaunchTemplateVersions",
            Self::DescribeSubnets => "DescribeSubnets",
            Self::DescribeImages => "DescribeImages",
            Self::DescribeSpotPriceHistory => "DescribeSpotPriceHistory",
            Self::DescribeAvailabilityZones => "DescribeAvailabilityZones",
        }
    }

    #[must_use]
    pub fn need(self) -> Need {
        match self {
            // EC2 checks RunInstances and CreateTags of the caller when a fleet launches ("EC2 Fleet prerequisites").
            Self::CreateFleet
            | Self::RunInstances
            | Self::CreateTags
            | Self::DescribeInstances
            | Self::TerminateInstances => Need::Always,
            Self::ModifyFleet
            | Self::DeleteFleets
            | Self::DescribeFleets
            | Self::DescribeFleetHistory
            | Self::CancelSpotInstanceRequests => Need::MaintainFleets,
            Self::DescribeVolumes
            | Self::StopInstances
            | Self::StartInstances
            | Self::AttachVolume
            | Self::DetachVolume
            | Self::DeleteVolume
            | Self::ModifyInstanceAttribute
            | Self::ModifyNetworkInterfaceAttribute
            | Self::CreateCapacityReservation
            | Self::CancelCapacityReservation => Need::MoveToOnDemand,
            _ => Need::Tool,
        }
    }
}

/// What a dry run names, so that policies which limit resources are judged as they will be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    pub launch_template: LaunchTemplateSpecification,
    pub instance_type: Option<String>,
    pub subnet_id: Option<String>,
    /// Tags of the instances, as a launch would set them.
    pub tags: BTreeMap<String, String>,
    /// An instance of the cluster, if there is one.
    pub instance_id: Option<String>,
    /// A fleet of the cluster, if there is one.
    pub fleet_id: Option<String>,
}

/// What a dry run told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    Allowed,
    Denied {
        /// EC2's reason in words.
        reason: String,
        /// For [`Catalog::decode_denial`].
        encoded: Option<String>,
    },
    /// EC2 refused the example before, or instead of, judging the permission.
    Unclear {
        code: String,
        message: String,
    },
}
