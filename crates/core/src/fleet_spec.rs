// SPDX-License-Identifier: GPL-3.0-or-later
//! The parts of an EC2 `CreateFleet` request that a site configures.
//!
//! Names, shapes and value sets are those of the EC2 API reference (`API_CreateFleet`,
//! `API_FleetLaunchTemplateOverridesRequest`, `API_SpotOptionsRequest`, `API_OnDemandOptionsRequest`),
//! which is also how `partitions.json` spells them. Enumerated values stay strings: EC2 adds values
//! more often than this crate is released, and the configuration check knows the current ones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `OnDemandOptionsRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct OnDemandOptions {
    /// `lowest-price` or `prioritized`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["lowest-price", "prioritized"]))]
    pub allocation_strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_reservation_options: Option<CapacityReservationOptions>,
    /// Instant fleets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_instance_type: Option<bool>,
    /// Instant fleets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_availability_zone: Option<bool>,
    /// At most 1,000; needs one of the two `single_*` options; instant fleets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_target_capacity: Option<i32>,
    /// US dollars an hour for the whole fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_price: Option<String>,
}

/// `CapacityReservationOptionsRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct CapacityReservationOptions {
    /// `use-capacity-reservations-first`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["use-capacity-reservations-first"]))]
    pub usage_strategy: Option<String>,
}

/// `SpotOptionsRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpotOptions {
    /// `price-capacity-optimized`, `capacity-optimized`, `capacity-optimized-prioritized`, `diversified` or `lowest-price`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["price-capacity-optimized", "capacity-optimized", "capacity-optimized-prioritized", "diversified", "lowest-price"]))]
    pub allocation_strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance_strategies: Option<SpotMaintenanceStrategies>,
    /// `terminate`, `stop` or `hibernate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["terminate", "stop", "hibernate"]))]
    pub instance_interruption_behavior: Option<String>,
    /// With `lowest-price` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub instance_pools_to_use_count: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_instance_type: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_availability_zone: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_target_capacity: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_total_price: Option<String>,
}

/// `FleetSpotMaintenanceStrategiesRequest` (maintain fleets only).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpotMaintenanceStrategies {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_rebalance: Option<SpotCapacityRebalance>,
}

/// `FleetSpotCapacityRebalanceRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct SpotCapacityRebalance {
    /// `launch` or `launch-before-terminate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["launch", "launch-before-terminate"]))]
    pub replacement_strategy: Option<String>,
    /// Seconds, 120 to 7200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 120, max = 7200))]
    pub termination_delay: Option<i32>,
}

/// `FleetLaunchTemplateSpecificationRequest`: exactly one of id and name, and a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct LaunchTemplateSpecification {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_template_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_template_name: Option<String>,
    /// A number, `$Latest` or `$Default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// `FleetLaunchTemplateOverridesRequest`: one pool, or a description of many by `InstanceRequirements`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct LaunchTemplateOverride {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_price: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weighted_capacity: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub priority: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_requirements: Option<InstanceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_device_mappings: Option<Vec<BlockDeviceMapping>>,
}

/// `Placement` as far as a fleet override takes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct Placement {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["default", "dedicated", "host"]))]
    pub tenancy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_resource_group_arn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub partition_number: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
}

/// `FleetBlockDeviceMappingRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct BlockDeviceMapping {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ebs: Option<EbsBlockDevice>,
}

/// `FleetEbsBlockDeviceRequest`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct EbsBlockDevice {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_on_termination: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 256000))]
    pub iops: Option<i32>,
    /// MiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 125, max = 2000))]
    pub throughput: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kms_key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub volume_size: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["standard", "io1", "io2", "gp2", "gp3", "sc1", "st1"]))]
    pub volume_type: Option<String>,
}

/// `InstanceRequirementsRequest`: attribute-based choice of instance types.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct InstanceRequirements {
    #[serde(rename = "VCpuCount", skip_serializing_if = "Option::is_none")]
    pub vcpu_count: Option<IntRange>,
    #[serde(rename = "MemoryMiB", skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<IntRange>,
    #[serde(rename = "MemoryGiBPerVCpu", skip_serializing_if = "Option::is_none")]
    pub memory_gib_per_vcpu: Option<FloatRange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpu_manufacturers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instance_generations: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_instance_types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_instance_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub spot_max_price_percentage_over_lowest_price: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_spot_price_as_percentage_of_optimal_on_demand_price: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub on_demand_max_price_percentage_over_lowest_price: Option<i32>,
    /// `included`, `required` or `excluded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["included", "required", "excluded"]))]
    pub bare_metal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["included", "required", "excluded"]))]
    pub burstable_performance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_hibernate_support: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_interface_count: Option<IntRange>,
    #[serde(rename = "NetworkBandwidthGbps", skip_serializing_if = "Option::is_none")]
    pub network_bandwidth_gbps: Option<FloatRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["included", "required", "excluded"]))]
    pub local_storage: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local_storage_types: Vec<String>,
    #[serde(rename = "TotalLocalStorageGB", skip_serializing_if = "Option::is_none")]
    pub total_local_storage_gb: Option<FloatRange>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline_ebs_bandwidth_mbps: Option<IntRange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerator_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator_count: Option<IntRange>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerator_manufacturers: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerator_names: Vec<String>,
    #[serde(rename = "AcceleratorTotalMemoryMiB", skip_serializing_if = "Option::is_none")]
    pub accelerator_total_memory_mib: Option<IntRange>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct IntRange {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase", default)]
pub struct FloatRange {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max: Option<f64>,
}
