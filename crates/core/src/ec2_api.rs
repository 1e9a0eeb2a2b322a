// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine asks of EC2 and what it is told, in EC2's terms.
//!
//! Plain data, so that a request can be written to the journal before it is sent.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::fleet_spec::{LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions};
use super::site::Lifecycle;
use super::tags::Tags;

/// One call to EC2. What takes several API calls (pages, chunks of ids) is still one request here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CloudRequest {
    CreateFleet(Box<CreateFleet>),
    /// Every instance with the cluster's tag, in states pending to stopped (never terminated ones).
    DescribeCluster {
        cluster: String,
    },
    /// These instances, in any state. An id that EC2 does not know is left out of the reply.
    DescribeInstances {
        ids: Vec<String>,
    },
    /// Ids that EC2 does not know are reported in the reply, and never stop the others from being terminated.
    TerminateInstances {
        ids: Vec<String>,
    },
    /// Instances of these maintain fleets, in states pending to stopped, by EC2's own tag `aws:ec2:fleet-id`.
    DescribeFleetInstances {
        fleet_ids: Vec<String>,
    },
    CreateTags {
        ids: Vec<String>,
        tags: BTreeMap<String, String>,
    },
    ModifyFleet {
        fleet_id: String,
        target: u32,
        spot_target: u32,
        on_demand_target: u32,
        /// `ExcessCapacityTerminationPolicy`: `termination` if true, else `no-termination`.
        terminate_excess: bool,
        /// `LaunchTemplateConfigs`: what new instances are made from; `None` leaves it as it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<Box<FleetTemplate>>,
    },
    DeleteFleets {
        ids: Vec<String>,
        terminate_instances: bool,
    },
    /// Maintain fleets with the cluster's tag, in states submitted to modifying.
    DescribeFleets {
        cluster: String,
    },
    DescribeFleetHistory {
        fleet_id: String,
        /// Milliseconds since 1970.
        start_unix_ms: u64,
    },
    CancelSpotInstanceRequests {
        ids: Vec<String>,
    },
    /// Instances with their devices and interfaces, and volumes with their attachments. What EC2 does not know is left
    /// out of the reply.
    DescribeParts {
        instances: Vec<String>,
        volumes: Vec<String>,
    },
    /// One on-demand instance that can be hibernated.
    RunInstance(Box<RunInstance>),
    StopInstance {
        id: String,
        hibernate: bool,
    },
    StartInstance {
        id: String,
    },
    AttachVolume {
        volume: String,
        instance: String,
        device: String,
    },
    DetachVolume {
        volume: String,
        instance: String,
    },
    DeleteVolume {
        volume: String,
    },
    /// `DeleteOnTermination` of volumes, by device name.
    SetVolumeDeletion {
        instance: String,
        devices: BTreeMap<String, bool>,
    },
    /// `DeleteOnTermination` of an attached network interface.
    SetInterfaceDeletion {
        interface: String,
        attachment: String,
        delete_on_termination: bool,
    },
    /// Capacity for one instance that only a launch which names the reservation can use.
    CreateCapacityReservation(Box<CreateCapacityReservation>),
    CancelCapacityReservation {
        id: String,
    },
}

impl CloudRequest {
    /// The EC2 action, as the API reference spells it.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::CreateFleet(_) => "CreateFleet",
            Self::DescribeCluster { .. }
            | Self::DescribeInstances { .. }
            | Self::DescribeFleetInstances { .. } => "DescribeInstances",
            Self::TerminateInstances { .. } => "TerminateInstances",
            Self::CreateTags { .. } => "CreateTags",
            Self::ModifyFleet { .. } => "ModifyFleet",
            Self::DeleteFleets { .. } => "DeleteFleets",
            Self::DescribeFleets { .. } => "DescribeFleets",
            Self::DescribeFleetHistory { .. } => "DescribeFleetHistory",
            Self::CancelSpotInstanceRequests { .. } => "CancelSpotInstanceRequests",
            Self::DescribeParts { .. } => "DescribeVolumes",
            Self::RunInstance(_) => "RunInstances",
            Self::StopInstance { .. } => "StopInstances",
            Self::StartInstance { .. } => "StartInstances",
            Self::AttachVolume { .. } => "AttachVolume",
            Self::DetachVolume { .. } => "DetachVolume",
            Self::DeleteVolume { .. } => "DeleteVolume",
            Self::SetVolumeDeletion { .. } => "ModifyInstanceAttribute",
            Self::SetInterfaceDeletion { .. } => "ModifyNetworkInterfaceAttribute",
            Self::CreateCapacityReservation(_) => "CreateCapacityReservation",
            Self::CancelCapacityReservation { .. } => "CancelCapacityReservation",
        }
    }
}

/// `Type` of CreateFleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FleetType {
    Instant,
    Maintain,
}

/// A complete CreateFleet request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateFleet {
    /// At most 64 ASCII characters; the same token with the same parameters gives the original answer.
    pub client_token: String,
    pub fleet_type: FleetType,
    /// `TotalTargetCapacity`, in nodes: every override has WeightedCapacity 1.
    pub target: u32,
    /// `DefaultTargetCapacityType`; the whole target is of this lifecycle.
    pub lifecycle: Lifecycle,
    pub on_demand_options: OnDemandOptions,
    pub spot_options: SpotOptions,
    pub launch_template: LaunchTemplateSpecification,
    /// Already multiplied by the subnets; at most 300.
    pub overrides: Vec<LaunchTemplateOverride>,
    /// Tags of the fleet itself.
    pub fleet_tags: BTreeMap<String, String>,
    /// Tags of instances, volumes and interfaces at launch (instant fleets only: EC2 refuses them for maintain).
    pub instance_tags: BTreeMap<String, String>,
}

impl CreateFleet {
    /// EC2 starts all of its instances or none.
    #[must_use]
    pub fn is_all_or_nothing(&self) -> bool {
        let minimum = match self.lifecycle {
            Lifecycle::Spot => self.spot_options.min_target_capacity,
            Lifecycle::OnDemand => self.on_demand_options.min_target_capacity,
        };
        minimum.and_then(|minimum| u32::try_from(minimum).ok()).is_some_and(|minimum| minimum >= self.target)
    }

    /// The least number of instances of which it gives any.
    #[must_use]
    pub fn least(&self) -> usize {
        if self.is_all_or_nothing() { self.target as usize } else { 1 }
    }
}

/// RunInstances for one instance that is to take over another's disks and interfaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunInstance {
    /// At most 64 ASCII characters.
    pub client_token: String,
    pub image_id: String,
    pub instance_type: String,
    /// Used by a rehearsal alone: the interfaces are in their subnet already.
    pub subnet_id: Option<String>,
    /// Existing interfaces. EC2 takes no security groups beside them: they have their own.
    pub interfaces: Vec<InterfacePlace>,
    pub key_name: Option<String>,
    pub instance_profile_arn: Option<String>,
    pub tenancy: Option<String>,
    pub placement_group: Option<String>,
    pub ebs_optimized: bool,
    pub metadata: InstanceMetadata,
    pub cpu: Option<CpuOptions>,
    pub root: RootVolume,
    pub capacity_reservation_id: Option<String>,
    /// Of the instance and of its own volumes.
    pub tags: BTreeMap<String, String>,
    /// `DryRun`: EC2 checks the request and the permission, and launches nothing.
    pub rehearsal: bool,
}

/// Where an interface sits on its instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InterfacePlace {
    pub interface_id: String,
    pub device_index: u32,
    pub network_card_index: u32,
}

/// `InstanceMetadataOptions`, with EC2's values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceMetadata {
    pub http_tokens: Option<String>,
    pub hop_limit: Option<u32>,
    pub http_endpoint: Option<String>,
    pub instance_tags: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuOptions {
    pub core_count: u32,
    pub threads_per_core: u32,
}

/// The volume that an instance boots from. It is encrypted: EC2 hibernates to nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RootVolume {
    pub device: String,
    pub size_gib: u32,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub kms_key_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateCapacityReservation {
    pub client_token: String,
    pub instance_type: String,
    /// `InstancePlatform`, which is `PlatformDetails` of an instance.
    pub platform: String,
    pub zone: String,
    pub tenancy: Option<String>,
    pub ebs_optimized: bool,
    /// EC2 cancels it by itself after this: milliseconds since 1970.
    pub end_unix_ms: u64,
    pub tags: BTreeMap<String, String>,
}

/// `FleetLaunchTemplateConfigRequest`: what a fleet makes instances from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetTemplate {
    pub launch_template: LaunchTemplateSpecification,
    /// Already multiplied by the subnets; at most 300.
    pub overrides: Vec<LaunchTemplateOverride>,
}

/// The answer to a [`CloudRequest`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CloudReply {
    Fleet(FleetReply),
    Instances(Vec<Instance>),
    Terminated {
        terminated: Vec<String>,
        unknown: Vec<String>,
    },
    Tagged,
    Modified,
    Deleted {
        deleted: Vec<String>,
        failed: Vec<(String, String)>,
    },
    Fleets(Vec<Fleet>),
    History(Vec<FleetHistoryRecord>),
    Cancelled,
    Parts {
        instances: Vec<InstanceParts>,
        volumes: Vec<Volume>,
    },
    /// The id of a capacity reservation.
    Reserved {
        id: String,
    },
    /// A change that has no answer but that it was accepted.
    Accepted,
}

/// What CreateFleet returned. For maintain fleets only `fleet_id` is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FleetReply {
    pub fleet_id: String,
    pub instances: Vec<LaunchedInstances>,
    pub errors: Vec<PoolError>,
}

impl FleetReply {
    #[must_use]
    pub fn instance_ids(&self) -> Vec<String> {
        self.instances.iter().flat_map(|set| set.ids.iter().cloned()).collect()
    }
}

/// `CreateFleetInstance`: the instances of one pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaunchedInstances {
    pub ids: Vec<String>,
    pub instance_type: String,
    pub lifecycle: Lifecycle,
    pub subnet_id: Option<String>,
    pub zone: Option<String>,
}

/// `CreateFleetError`: why one pool gave nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolError {
    pub code: String,
    pub message: String,
    pub class: ErrorClass,
    pub lifecycle: Lifecycle,
    pub instance_type: Option<String>,
    pub subnet_id: Option<String>,
    pub zone: Option<String>,
}

/// An instance as DescribeInstances shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub state: InstanceState,
    pub private_ip: Option<String>,
    pub private_dns: Option<String>,
    pub instance_type: String,
    pub zone: String,
    pub subnet_id: Option<String>,
    pub lifecycle: Lifecycle,
    pub reservation_id: String,
    pub ami_launch_index: u32,
    pub launch_unix_ms: u64,
    pub tags: Tags,
    /// `StateReason.Code`, for example `Server.SpotInstanceTermination`.
    pub state_reason: Option<String>,
    pub spot_request_id: Option<String>,
}

/// An instance with what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceParts {
    pub instance: Instance,
    pub image_id: String,
    /// `PlatformDetails`, for example `Linux/UNIX`.
    pub platform: String,
    pub key_name: Option<String>,
    pub instance_profile_arn: Option<String>,
    pub tenancy: Option<String>,
    pub placement_group: Option<String>,
    pub ebs_optimized: bool,
    pub metadata: InstanceMetadata,
    pub cpu: Option<CpuOptions>,
    pub root_device: String,
    pub devices: Vec<AttachedVolume>,
    pub interfaces: Vec<AttachedInterface>,
}

/// `InstanceBlockDeviceMapping` of an EBS volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachedVolume {
    pub device: String,
    pub volume_id: String,
    pub delete_on_termination: bool,
}

/// `InstanceNetworkInterface`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttachedInterface {
    pub place: InterfacePlace,
    pub attachment_id: String,
    pub delete_on_termination: bool,
}

/// An EBS volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub size_gib: u32,
    pub volume_type: Option<String>,
    pub iops: Option<u32>,
    pub throughput: Option<u32>,
    pub kms_key_id: Option<String>,
    pub attachment: Option<VolumeAttachment>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct VolumeAttachment {
    pub instance_id: String,
    pub device: String,
    /// `attaching`, `attached`, `detaching`, `detached` or `busy`.
    pub state: String,
    pub delete_on_termination: bool,
}

/// `InstanceState.Name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Pending,
    Running,
    Stopping,
    Stopped,
    ShuttingDown,
    Terminated,
}

impl InstanceState {
    /// True for an instance that will never run again.
    #[must_use]
    pub fn is_ended(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
        }
    }
}

/// `FleetData` as far as it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    pub id: String,
    /// `submitted`, `active`, `modifying`, `deleted_running`, … as on the wire.
    pub state: String,
    /// `error`, `pending_fulfillment`, `pending_termination` or `fulfilled`.
    pub activity: Option<String>,
    pub target: u32,
    pub fulfilled: f64,
    pub client_token: Option<String>,
    pub tags: BTreeMap<String, String>,
}

/// `HistoryRecordEntry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FleetHistoryRecord {
    pub unix_ms: u64,
    /// As on the wire: `fleetRequestChange`, `instanceChange`, `spotInstanceRequestChange`, `information`, `error`.
    pub event_type: String,
    pub event_sub_type: String,
    pub description: String,
    pub instance_id: Option<String>,
}

/// What a failed EC2 call means for us. The codes are mapped in the crate `ec2`, `errors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// EC2 has none of what was asked for; another pool or another time may.
    Capacity,
    /// A limit of the account or subnet; asking again does not help before something ends or is raised.
    Quota,
    /// Too many requests: wait and repeat the same request.
    Throttle,
    /// EC2 refused the request as it stands; the administrator must change something.
    Configuration,
    /// Credentials are missing, wrong or not allowed to do this.
    Permission,
    /// The resource is not known, or not known yet.
    NotFound,
    /// The client token was used with other parameters.
    IdempotentMismatch,
    /// EC2 or the network failed, and whether the call took effect is not known: repeat with the same token.
    Transient,
    /// None of the above.
    Other,
}

impl ErrorClass {
    /// Whether the same request may succeed when it is simply sent again.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Throttle | Self::Transient)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Quota => "quota",
            Self::Throttle => "throttle",
            Self::Configuration => "configuration",
            Self::Permission => "permission",
            Self::NotFound => "not-found",
            Self::IdempotentMismatch => "idempotent-mismatch",
            Self::Transient => "transient",
            Self::Other => "other",
        }
    }
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub struct CloudError {
    pub class: ErrorClass,
    /// EC2's error code, or a short name of our own for failures before EC2 answered.
    pub code: String,
    pub message: String,
    pub request_id: Option<String>,
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

pub type CloudResult = Result<CloudReply, CloudError>;
