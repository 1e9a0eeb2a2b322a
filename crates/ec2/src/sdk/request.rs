// SPDX-License-Identifier: GPL-3.0-or-later
//! From our requests to the SDK's. Field by field; a field that is not set is not sent.

use std::collections::BTreeMap;

use aws_sdk_ec2::types as sdk;

use crate::catalog::Example;
use ec2fleet_core::ec2_api::{CreateFleet, FleetType};
use ec2fleet_core::fleet_spec::{
    BlockDeviceMapping, EbsBlockDevice, InstanceRequirements, LaunchTemplateOverride,
    LaunchTemplateSpecification, OnDemandOptions, Placement, SpotOptions,
};
use ec2fleet_core::site::Lifecycle;

pub(super) fn fleet_type(value: FleetType) -> sdk::FleetType {
    match value {
        FleetType::Instant => sdk::FleetType::Instant,
        FleetType::Maintain => sdk::FleetType::Maintain,
    }
}

pub(super) fn target(request: &CreateFleet) -> sdk::TargetCapacitySpecificationRequest {
    sdk::TargetCapacitySpecificationRequest::builder()
        .total_target_capacity(count(request.target))
        .default_target_capacity_type(match request.lifecycle {
            Lifecycle::OnDemand => sdk::DefaultTargetCapacityType::OnDemand,
            Lifecycle::Spot => sdk::DefaultTargetCapacityType::Spot,
        })
        .build()
}

/// EC2's capacities are signed; ours are bounded far below by the configuration.
pub(super) fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(super) fn template_config(
    launch_template: &LaunchTemplateSpecification,
    overrides: &[LaunchTemplateOverride],
) -> sdk::FleetLaunchTemplateConfigRequest {
    sdk::FleetLaunchTemplateConfigRequest::builder()
        .launch_template_specification(template_specification(launch_template))
        .set_overrides(not_empty(overrides.iter().map(template_override).collect()))
        .build()
}

fn template_specification(
    value: &LaunchTemplateSpecification,
) -> sdk::FleetLaunchTemplateSpecificationRequest {
    sdk::FleetLaunchTemplateSpecificationRequest::builder()
        .set_launch_template_id(value.launch_template_id.clone())
        .set_launch_template_name(value.launch_template_name.clone())
        .set_version(value.version.clone())
        .build()
}

fn template_override(value: &LaunchTemplateOverride) -> sdk::FleetLaunchTemplateOverridesRequest {
    sdk::FleetLaunchTemplateOverridesRequest::builder()
        .set_instance_type(one(value.instance_type.as_ref()))
        .set_max_price(value.max_price.clone())
        .set_subnet_id(value.subnet_id.clone())
        .set_availability_zone(value.availability_zone.clone())
        .set_weighted_capacity(value.weighted_capacity)
        .set_priority(value.priority)
        .set_placement(value.placement.as_ref().map(placement))
        .set_instance_requirements(value.instance_requirements.as_ref().map(instance_requirements))
        .set_image_id(value.image_id.clone())
        .set_block_device_mappings(
            value
                .block_device_mappings
                .as_ref()
                .map(|mappings| mappings.iter().map(block_device_mapping).collect()),
        )
        .build()
}

fn placement(value: &Placement) -> sdk::Placement {
    sdk::Placement::builder()
        .set_group_name(value.group_name.clone())
        .set_group_id(value.group_id.clone())
        .set_tenancy(one(value.tenancy.as_ref()))
        .set_affinity(value.affinity.clone())
        .set_host_id(value.host_id.clone())
        .set_host_resource_group_arn(value.host_resource_group_arn.clone())
        .set_partition_number(value.partition_number)
        .set_spread_domain(value.spread_domain.clone())
        .set_availability_zone(value.availability_zone.clone())
        .build()
}

fn block_device_mapping(value: &BlockDeviceMapping) -> sdk::FleetBlockDeviceMappingRequest {
    sdk::FleetBlockDeviceMappingRequest::builder()
        .set_device_name(value.device_name.clone())
        .set_virtual_name(value.virtual_name.clone())
        .set_no_device(value.no_device.clone())
        .set_ebs(value.ebs.as_ref().map(ebs_block_device))
        .build()
}

fn ebs_block_device(value: &EbsBlockDevice) -> sdk::FleetEbsBlockDeviceRequest {
    sdk::FleetEbsBlockDeviceRequest::builder()
        .set_encrypted(value.encrypted)
        .set_delete_on_termination(value.delete_on_termination)
        .set_iops(value.iops)
        .set_throughput(value.throughput)
        .set_kms_key_id(value.kms_key_id.clone())
        .set_snapshot_id(value.snapshot_id.clone())
        .set_volume_size(value.volume_size)
        .set_volume_type(one(value.volume_type.as_ref()))
        .build()
}

/// Every range type of the SDK has the same two fields and no trait to say so.
macro_rules! range {
    ($value:expr, $type:ident) => {
        $value.as_ref().map(|range| sdk::$type::builder().set_min(range.min).set_max(range.max).build())
    };
}

pub(super) fn instance_requirements(value: &InstanceRequirements) -> sdk::InstanceRequirementsRequest {
    sdk::InstanceRequirementsRequest::builder()
        .set_v_cpu_count(range!(value.vcpu_count, VCpuCountRangeRequest))
        .set_memory_mib(range!(value.memory_mib, MemoryMiBRequest))
        .set_memory_gib_per_v_cpu(range!(value.memory_gib_per_vcpu, MemoryGiBPerVCpuRequest))
        .set_cpu_manufacturers(many(&value.cpu_manufacturers))
        .set_instance_generations(many(&value.instance_generations))
        .set_allowed_instance_types(many(&value.allowed_instance_types))
        .set_excluded_instance_types(many(&value.excluded_instance_types))
        .set_spot_max_price_percentage_over_lowest_price(value.spot_max_price_percentage_over_lowest_price)
        .set_max_spot_price_as_percentage_of_optimal_on_demand_price(
            value.max_spot_price_as_percentage_of_optimal_on_demand_price,
        )
        .set_on_demand_max_price_percentage_over_lowest_price(
            value.on_demand_max_price_percentage_over_lowest_price,
        )
        .set_bare_metal(one(value.bare_metal.as_ref()))
        .set_burstable_performance(one(value.burstable_performance.as_ref()))
        .set_require_hibernate_support(value.require_hibernate_support)
        .set_network_interface_count(range!(value.network_interface_count, NetworkInterfaceCountRequest))
        .set_network_bandwidth_gbps(range!(value.network_bandwidth_gbps, NetworkBandwidthGbpsRequest))
        .set_local_storage(one(value.local_storage.as_ref()))
        .set_local_storage_types(many(&value.local_storage_types))
        .set_total_local_storage_gb(range!(value.total_local_storage_gb, TotalLocalStorageGbRequest))
        .set_baseline_ebs_bandwidth_mbps(range!(
            value.baseline_ebs_bandwidth_mbps,
            BaselineEbsBandwidthMbpsRequest
        ))
        .set_accelerator_types(many(&value.accelerator_types))
        .set_accelerator_count(range!(value.accelerator_count, AcceleratorCountRequest))
        .set_accelerator_manufacturers(many(&value.accelerator_manufacturers))
        .set_accelerator_names(many(&value.accelerator_names))
        .set_accelerator_total_memory_mib(range!(
            value.accelerator_total_memory_mib,
            AcceleratorTotalMemoryMiBRequest
        ))
        .build()
}

/// Options of a fleet of the other lifecycle are not sent: its `MinTargetCapacity` could never be met.
pub(super) fn on_demand_options(request: &CreateFleet) -> Option<sdk::OnDemandOptionsRequest> {
    let value = &request.on_demand_options;
    if request.lifecycle != Lifecycle::OnDemand || *value == OnDemandOptions::default() {
        return None;
    }
    let reservations = value.capacity_reservation_options.as_ref().map(|options| {
        sdk::CapacityReservationOptionsRequest::builder()
            .set_usage_strategy(one(options.usage_strategy.as_ref()))
            .build()
    });
    Some(
        sdk::OnDemandOptionsRequest::builder()
            .set_allocation_strategy(one(value.allocation_strategy.as_ref()))
            .set_capacity_reservation_options(reservations)
            .set_single_instance_type(value.single_instance_type)
            .set_single_availability_zone(value.single_availability_zone)
            .set_min_target_capacity(value.min_target_capacity)
            .set_max_total_price(value.max_total_price.clone())
            .build(),
    )
}

/// See [`on_demand_options`].
pub(super) fn spot_options(request: &CreateFleet) -> Option<sdk::SpotOptionsRequest> {
    let value = &request.spot_options;
    if request.lifecycle != Lifecycle::Spot || *value == SpotOptions::default() {
        return None;
    }
    let maintenance = value.maintenance_strategies.as_ref().map(|strategies| {
        let rebalance = strategies.capacity_rebalance.as_ref().map(|rebalance| {
            sdk::FleetSpotCapacityRebalanceRequest::builder()
                .set_replacement_strategy(one(rebalance.replacement_strategy.as_ref()))
                .set_termination_delay(rebalance.termination_delay)
                .build()
        });
        sdk::FleetSpotMaintenanceStrategiesRequest::builder().set_capacity_rebalance(rebalance).build()
    });
    Some(
        sdk::SpotOptionsRequest::builder()
            .set_allocation_strategy(one(value.allocation_strategy.as_ref()))
            .set_maintenance_strategies(maintenance)
            .set_instance_interruption_behavior(one(value.instance_interruption_behavior.as_ref()))
            .set_instance_pools_to_use_count(value.instance_pools_to_use_count)
            .set_single_instance_type(value.single_instance_type)
            .set_single_availability_zone(value.single_availability_zone)
            .set_min_target_capacity(value.min_target_capacity)
            .set_max_total_price(value.max_total_price.clone())
            .build(),
    )
}

/// The one pool of a dry run.
pub(super) fn example_config(example: &Example) -> sdk::FleetLaunchTemplateConfigRequest {
    let pool = sdk::FleetLaunchTemplateOverridesRequest::builder()
        .set_instance_type(one(example.instance_type.as_ref()))
        .set_subnet_id(example.subnet_id.clone())
        .build();
    sdk::FleetLaunchTemplateConfigRequest::builder()
        .launch_template_specification(template_specification(&example.launch_template))
        .overrides(pool)
        .build()
}

/// RunInstances has a type of its own for what CreateFleet calls a specification.
pub(super) fn template_reference(value: &LaunchTemplateSpecification) -> sdk::LaunchTemplateSpecification {
    sdk::LaunchTemplateSpecification::builder()
        .set_launch_template_id(value.launch_template_id.clone())
        .set_launch_template_name(value.launch_template_name.clone())
        .set_version(value.version.clone())
        .build()
}

/// Tags of one instance's launch, as an instant fleet sets them.
pub(super) fn launch_tags(from: &BTreeMap<String, String>) -> Option<Vec<sdk::TagSpecification>> {
    let kinds = [sdk::ResourceType::Instance, sdk::ResourceType::Volume, sdk::ResourceType::NetworkInterface];
    (!from.is_empty()).then(|| kinds.into_iter().map(|kind| tag_specification(kind, from)).collect())
}

fn tag_specification(resource: sdk::ResourceType, from: &BTreeMap<String, String>) -> sdk::TagSpecification {
    sdk::TagSpecification::builder().resource_type(resource).set_tags(Some(tags(from))).build()
}

/// `TagSpecifications`: an instant fleet tags what it launches; a maintain fleet may tag itself only
/// (`API_CreateFleet`).
pub(super) fn tag_specifications(request: &CreateFleet) -> Option<Vec<sdk::TagSpecification>> {
    let mut specifications = Vec::new();
    if !request.fleet_tags.is_empty() {
        specifications.push(tag_specification(sdk::ResourceType::Fleet, &request.fleet_tags));
    }
    if request.fleet_type == FleetType::Instant {
        specifications.extend(launch_tags(&request.instance_tags).unwrap_or_default());
    }
    not_empty(specifications)
}

pub(super) fn tags(from: &BTreeMap<String, String>) -> Vec<sdk::Tag> {
    from.iter().map(|(key, value)| sdk::Tag::builder().key(key).value(value).build()).collect()
}

pub(super) fn filter<S: Into<String>>(
    name: impl Into<String>,
    values: impl IntoIterator<Item = S>,
) -> sdk::Filter {
    sdk::Filter::builder().name(name).set_values(Some(values.into_iter().map(Into::into).collect())).build()
}

/// The SDK's enums take any text, so that a value newer than the SDK is sent as it is.
fn one<T: for<'a> From<&'a str>>(value: Option<&String>) -> Option<T> {
    value.map(|text| T::from(text.as_str()))
}

fn many<T: for<'a> From<&'a str>>(values: &[String]) -> Option<Vec<T>> {
    not_empty(values.iter().map(|text| T::from(text.as_str())).collect())
}

fn not_empty<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}
