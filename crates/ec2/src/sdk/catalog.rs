// SPDX-License-Identifier: GPL-3.0-or-later
//! The read-only questions of [`Catalog`](crate::catalog::Catalog) through the SDK.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types as sdk;

use super::pages::all_pages;
use super::{failure, reply, request};
use crate::catalog::{
    Accelerator, Action, BlockDevice, Caller, Example, Image, InstanceType, LaunchTemplate, MetadataOptions,
    Offering, SpotPrice, Subnet, Verdict, Zone,
};
use crate::errors;
use ec2fleet_core::ec2_api::{CloudError, ErrorClass};
use ec2fleet_core::fleet_spec::{InstanceRequirements, LaunchTemplateSpecification};

/// Values of one filter (`API_Filter`).
const PER_FILTER: usize = 200;

pub(super) async fn instance_types(
    client: &Client,
    names: &[String],
) -> Result<Vec<InstanceType>, CloudError> {
    let mut found = Vec::new();
    for chunk in names.chunks(PER_FILTER) {
        // Not `InstanceTypes`, with which one unknown name fails the call. A page has at most 100 types.
        let call = client
            .describe_instance_types()
            .filters(request::filter("instance-type", chunk))
            .max_results(100);
        found.extend(all_pages!(call, instance_types).into_iter().map(instance_type));
    }
    Ok(found)
}

pub(super) async fn types_matching(
    client: &Client,
    requirements: &InstanceRequirements,
    architectures: &[String],
) -> Result<Vec<String>, CloudError> {
    let call = client
        .get_instance_types_from_instance_requirements()
        .set_architecture_types(Some(
            architectures.iter().map(|name| sdk::ArchitectureType::from(name.as_str())).collect(),
        ))
        .virtualization_types(sdk::VirtualizationType::Hvm)
        .instance_requirements(request::instance_requirements(requirements));
    Ok(all_pages!(call, instance_types).into_iter().filter_map(|found| found.instance_type).collect())
}

pub(super) async fn offerings(client: &Client, names: &[String]) -> Result<Vec<Offering>, CloudError> {
    let mut found = Vec::new();
    for chunk in names.chunks(PER_FILTER) {
        let call = client
            .describe_instance_type_offerings()
            .location_type(sdk::LocationType::AvailabilityZone)
            .filters(request::filter("instance-type", chunk));
        found.extend(all_pages!(call, instance_type_offerings).into_iter().filter_map(|offering| {
            Some(Offering {
                instance_type: offering.instance_type?.as_str().to_owned(),
                zone: offering.location?,
            })
        }));
    }
    found.sort();
    Ok(found)
}

pub(super) async fn launch_template(
    client: &Client,
    specification: LaunchTemplateSpecification,
) -> Result<LaunchTemplate, CloudError> {
    let version = specification.version.unwrap_or_else(|| "$Default".to_owned());
    let output = client
        .describe_launch_template_versions()
        .set_launch_template_id(specification.launch_template_id)
        .set_launch_template_name(specification.launch_template_name)
        .versions(&version)
        .send()
        .await
        .map_err(failure::convert)?;
    match output.launch_template_versions.unwrap_or_default().into_iter().next() {
        Some(found) => Ok(template(found)),
        None => Err(CloudError {
            class: ErrorClass::Configuration,
            code: "InvalidLaunchTemplateId.VersionNotFound".to_owned(),
            message: format!("the launch template has no version {version}"),
            request_id: None,
        }),
    }
}

pub(super) async fn subnets(client: &Client, ids: &[String]) -> Result<Vec<Subnet>, CloudError> {
    let mut found = Vec::new();
    for chunk in ids.chunks(PER_FILTER) {
        let call = client.describe_subnets().filters(request::filter("subnet-id", chunk));
        found.extend(all_pages!(call, subnets).into_iter().map(subnet));
    }
    Ok(found)
}

pub(super) async fn images(client: &Client, ids: &[String]) -> Result<Vec<Image>, CloudError> {
    let mut found = Vec::new();
    for chunk in ids.chunks(PER_FILTER) {
        // Deprecated images still launch: they are shown, with their date.
        let call =
            client.describe_images().filters(request::filter("image-id", chunk)).include_deprecated(true);
        found.extend(all_pages!(call, images).into_iter().map(image));
    }
    Ok(found)
}

pub(super) async fn spot_prices(client: &Client, names: &[String]) -> Result<Vec<SpotPrice>, CloudError> {
    let mut newest: BTreeMap<(String, String), (Option<DateTime>, f64)> = BTreeMap::new();
    for chunk in names.chunks(PER_FILTER) {
        // A start of "now" gives the prices in force now and no history ("Spot Instance pricing history").
        let call = client
            .describe_spot_price_history()
            .filters(request::filter("instance-type", chunk))
            .product_descriptions("Linux/UNIX")
            .start_time(DateTime::from(SystemTime::now()));
        for found in all_pages!(call, spot_price_history) {
            let (Some(name), Some(zone), Some(Ok(price))) = (
                found.instance_type,
                found.availability_zone,
                found.spot_price.as_deref().map(str::parse::<f64>),
            ) else {
                continue;
            };
            let at = found.timestamp;
            let entry = newest.entry((name.as_str().to_owned(), zone)).or_insert((at, price));
            if entry.0 < at {
                *entry = (at, price);
            }
        }
    }
    Ok(newest
        .into_iter()
        .map(|((instance_type, zone), (_, price))| SpotPrice { instance_type, zone, price })
        .collect())
}

pub(super) async fn zones(client: &Client) -> Result<Vec<Zone>, CloudError> {
    let output = client.describe_availability_zones().send().await.map_err(failure::convert)?;
    let zones = output.availability_zones.unwrap_or_default().into_iter().map(|zone| Zone {
        name: zone.zone_name.unwrap_or_default(),
        id: zone.zone_id.unwrap_or_default(),
        state: text(zone.state.as_ref().map(sdk::AvailabilityZoneState::as_str)),
    });
    Ok(zones.collect())
}

pub(super) async fn caller(client: &aws_sdk_sts::Client) -> Result<Caller, CloudError> {
    let output = client.get_caller_identity().send().await.map_err(failure::convert)?;
    Ok(Caller {
        account: output.account.ok_or_else(|| reply::missing("Account"))?,
        arn: output.arn.ok_or_else(|| reply::missing("Arn"))?,
    })
}

pub(super) async fn decode_denial(
    client: &aws_sdk_sts::Client,
    encoded: String,
) -> Result<String, CloudError> {
    let output = client
        .decode_authorization_message()
        .encoded_message(encoded)
        .send()
        .await
        .map_err(failure::convert)?;
    output.decoded_message.ok_or_else(|| reply::missing("DecodedMessage"))
}

/// Ids that no resource has, for actions that need one when there is none.
const NO_INSTANCE: &str = "i-00000000000000000";
const NO_FLEET: &str = "fleet-00000000-0000-0000-0000-000000000000";
const NO_SPOT_REQUEST: &str = "sir-00000000";
const NO_VOLUME: &str = "vol-00000000000000000";
const NO_INTERFACE: &str = "eni-00000000000000000";
const NO_RESERVATION: &str = "cr-00000000000000000";

pub(super) async fn permission(
    client: &Client,
    action: Action,
    example: Example,
) -> Result<Verdict, CloudError> {
    /// With `DryRun` EC2 always answers with an error, one of which means yes.
    macro_rules! dry_run {
        ($call:expr) => {
            verdict($call.dry_run(true).send().await.err())
        };
    }
    let instance = example.instance_id.clone().unwrap_or_else(|| NO_INSTANCE.to_owned());
    let fleet = example.fleet_id.clone().unwrap_or_else(|| NO_FLEET.to_owned());
    match action {
        Action::CreateFleet => dry_run!(
            client
                .create_fleet()
                .r#type(sdk::FleetType::Instant)
                .target_capacity_specification(
                    sdk::TargetCapacitySpecificationRequest::builder()
                        .total_target_capacity(1)
                        .default_target_capacity_type(sdk::DefaultTargetCapacityType::OnDemand)
                        .build()
                )
                .launch_template_configs(request::example_config(&example))
        ),
        Action::RunInstances => dry_run!(
            client
                .run_instances()
                .min_count(1)
                .max_count(1)
                .launch_template(request::template_reference(&example.launch_template))
                .set_instance_type(example.instance_type.as_deref().map(sdk::InstanceType::from))
                .set_subnet_id(example.subnet_id.clone())
                .set_tag_specifications(request::launch_tags(&example.tags))
        ),
        Action::CreateTags => dry_run!(client.create_tags().resources(instance).set_tags(Some(
            request::tags(&BTreeMap::from([(ec2fleet_core::tag::NAME.to_owned(), String::new())]))
        ))),
        Action::DescribeInstances => dry_run!(client.describe_instances()),
        Action::TerminateInstances => dry_run!(client.terminate_instances().instance_ids(instance)),
        Action::ModifyFleet => dry_run!(client.modify_fleet().fleet_id(fleet).target_capacity_specification(
            sdk::TargetCapacitySpecificationRequest::builder().total_target_capacity(1).build()
        )),
        Action::DeleteFleets => dry_run!(client.delete_fleets().fleet_ids(fleet).terminate_instances(true)),
        Action::DescribeFleets => dry_run!(client.describe_fleets()),
        Action::DescribeFleetHistory => dry_run!(
            client.describe_fleet_history().fleet_id(fleet).start_time(DateTime::from(SystemTime::now()))
        ),
        Action::CancelSpotInstanceRequests => {
            dry_run!(client.cancel_spot_instance_requests().spot_instance_request_ids(NO_SPOT_REQUEST))
        }
        Action::DescribeVolumes => dry_run!(client.describe_volumes()),
        Action::StopInstances => dry_run!(client.stop_instances().instance_ids(instance)),
        Action::StartInstances => dry_run!(client.start_instances().instance_ids(instance)),
        Action::AttachVolume => {
            dry_run!(client.attach_volume().volume_id(NO_VOLUME).instance_id(instance).device("/dev/sdf"))
        }
        Action::DetachVolume => dry_run!(client.detach_volume().volume_id(NO_VOLUME)),
        Action::DeleteVolume => dry_run!(client.delete_volume().volume_id(NO_VOLUME)),
        Action::ModifyInstanceAttribute => dry_run!(
            client
                .modify_instance_attribute()
                .instance_id(instance)
                .disable_api_stop(sdk::AttributeBooleanValue::builder().value(false).build())
        ),
        Action::ModifyNetworkInterfaceAttribute => dry_run!(
            client
                .modify_network_interface_attribute()
                .network_interface_id(NO_INTERFACE)
                .source_dest_check(sdk::AttributeBooleanValue::builder().value(true).build())
        ),
        Action::CreateCapacityReservation => dry_run!(
            client
                .create_capacity_reservation()
                .set_instance_type(example.instance_type.clone())
                .instance_platform(sdk::CapacityReservationInstancePlatform::LinuxUnix)
                .instance_count(1)
        ),
        Action::CancelCapacityReservation => {
            dry_run!(client.cancel_capacity_reservation().capacity_reservation_id(NO_RESERVATION))
        }
        Action::DescribeInstanceTypes => dry_run!(client.describe_instance_types()),
        Action::DescribeInstanceTypeOfferings => dry_run!(client.describe_instance_type_offerings()),
        Action::GetInstanceTypesFromInstanceRequirements => dry_run!(
            client
                .get_instance_types_from_instance_requirements()
                .architecture_types(sdk::ArchitectureType::X8664)
                .virtualization_types(sdk::VirtualizationType::Hvm)
                .instance_requirements(
                    sdk::InstanceRequirementsRequest::builder()
                        .v_cpu_count(sdk::VCpuCountRangeRequest::builder().min(1).build())
                        .memory_mib(sdk::MemoryMiBRequest::builder().min(1).build())
                        .build()
                )
        ),
        Action::DescribeLaunchTemplateVersions => dry_run!(
            client
                .describe_launch_template_versions()
                .set_launch_template_id(example.launch_template.launch_template_id)
                .set_launch_template_name(example.launch_template.launch_template_name)
        ),
        Action::DescribeSubnets => dry_run!(client.describe_subnets()),
        Action::DescribeImages => dry_run!(client.describe_images()),
        Action::DescribeSpotPriceHistory => dry_run!(client.describe_spot_price_history()),
        Action::DescribeAvailabilityZones => dry_run!(client.describe_availability_zones()),
    }
}

fn verdict<E>(
    error: Option<SdkError<E, aws_sdk_ec2::config::http::HttpResponse>>,
) -> Result<Verdict, CloudError>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let Some(error) = error.map(failure::convert) else {
        let message = "the server did the action although it was asked not to".to_owned();
        return Ok(Verdict::Unclear { code: "DryRunIgnored".to_owned(), message });
    };
    match (&*error.code, error.class) {
        ("DryRunOperation", _) => Ok(Verdict::Allowed),
        ("UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException", _) => {
            let denial = errors::denial(&error.message);
            Ok(Verdict::Denied { reason: denial.text, encoded: denial.encoded })
        }
        (_, ErrorClass::Permission | ErrorClass::Throttle | ErrorClass::Transient) => Err(error),
        _ => Ok(Verdict::Unclear { code: error.code, message: error.message }),
    }
}

fn instance_type(info: sdk::InstanceTypeInfo) -> InstanceType {
    let vcpu = info.v_cpu_info.unwrap_or_else(|| sdk::VCpuInfo::builder().build());
    let processor = info.processor_info.unwrap_or_else(|| sdk::ProcessorInfo::builder().build());
    let network = info.network_info;
    InstanceType {
        name: text(info.instance_type.as_ref().map(sdk::InstanceType::as_str)),
        vcpus: count(vcpu.default_v_cpus),
        cores: count(vcpu.default_cores),
        threads_per_core: count(vcpu.default_threads_per_core),
        memory_mib: big(info.memory_info.and_then(|memory| memory.size_in_mib)),
        gpus: info
            .gpu_info
            .and_then(|info| info.gpus)
            .unwrap_or_default()
            .into_iter()
            .map(|gpu| Accelerator {
                name: gpu.name.unwrap_or_default(),
                manufacturer: gpu.manufacturer,
                count: count(gpu.count),
                memory_mib: count(gpu.memory_info.and_then(|memory| memory.size_in_mib)).into(),
            })
            .collect(),
        neuron_devices: info
            .neuron_info
            .and_then(|info| info.neuron_devices)
            .unwrap_or_default()
            .into_iter()
            .map(|device| Accelerator {
                name: device.name.unwrap_or_default(),
                manufacturer: Some("AWS".to_owned()),
                count: count(device.count),
                memory_mib: count(device.memory_info.and_then(|memory| memory.size_in_mib)).into(),
            })
            .collect(),
        architectures: processor
            .supported_architectures
            .unwrap_or_default()
            .iter()
            .map(|architecture| architecture.as_str().to_owned())
            .collect(),
        manufacturer: processor.manufacturer,
        sustained_clock_ghz: processor.sustained_clock_speed_in_ghz,
        usage_classes: info
            .supported_usage_classes
            .unwrap_or_default()
            .iter()
            .map(|class| class.as_str().to_owned())
            .collect(),
        hypervisor: info.hypervisor.map(|hypervisor| hypervisor.as_str().to_owned()),
        bare_metal: info.bare_metal.unwrap_or_default(),
        burstable: info.burstable_performance_supported.unwrap_or_default(),
        current_generation: info.current_generation.unwrap_or_default(),
        hibernation_supported: info.hibernation_supported.unwrap_or_default(),
        efa_supported: network.as_ref().and_then(|network| network.efa_supported).unwrap_or_default(),
        ipv4_addresses_per_interface: count(
            network.as_ref().and_then(|network| network.ipv4_addresses_per_interface),
        ),
        network_performance: network.and_then(|network| network.network_performance),
        storage_gb: big(info.instance_storage_info.and_then(|storage| storage.total_size_in_gb)),
    }
}

fn template(version: sdk::LaunchTemplateVersion) -> LaunchTemplate {
    let mut result = LaunchTemplate {
        id: version.launch_template_id.unwrap_or_default(),
        name: version.launch_template_name.unwrap_or_default(),
        version: big(version.version_number),
        is_default: version.default_version.unwrap_or_default(),
        ..LaunchTemplate::default()
    };
    let Some(data) = version.launch_template_data else { return result };
    result.image_id = data.image_id;
    result.instance_type = data.instance_type.map(|name| name.as_str().to_owned());
    result.has_instance_requirements = data.instance_requirements.is_some();
    result.key_name = data.key_name;
    result.instance_profile = data.iam_instance_profile.and_then(|profile| profile.arn.or(profile.name));
    result.security_groups = data.security_group_ids.unwrap_or_default();
    result.security_groups.extend(data.security_groups.unwrap_or_default());
    for interface in data.network_interfaces.unwrap_or_default() {
        result.security_groups.extend(interface.groups.unwrap_or_default());
        result.subnet_ids.extend(interface.subnet_id);
        result.network_interface_ids.extend(interface.network_interface_id);
    }
    if let Some(metadata) = data.metadata_options {
        result.metadata = MetadataOptions {
            endpoint: metadata.http_endpoint.map(|state| state.as_str().to_owned()),
            tokens: metadata.http_tokens.map(|state| state.as_str().to_owned()),
            instance_tags: metadata.instance_metadata_tags.map(|state| state.as_str().to_owned()),
            hop_limit: metadata.http_put_response_hop_limit.and_then(|limit| u32::try_from(limit).ok()),
        };
    }
    result.hibernation = data.hibernation_options.and_then(|options| options.configured).unwrap_or_default();
    result.market = data
        .instance_market_options
        .and_then(|options| options.market_type)
        .map(|market| market.as_str().to_owned());
    if let Some(cpu) = data.cpu_options {
        result.cores = cpu.core_count.and_then(|count| u32::try_from(count).ok());
        result.threads_per_core = cpu.threads_per_core.and_then(|count| u32::try_from(count).ok());
    }
    result.shutdown_behavior =
        data.instance_initiated_shutdown_behavior.map(|behavior| behavior.as_str().to_owned());
    result.termination_protection = data.disable_api_termination.unwrap_or_default();
    result.block_devices = data
        .block_device_mappings
        .unwrap_or_default()
        .into_iter()
        .map(|mapping| BlockDevice {
            device: mapping.device_name.unwrap_or_default(),
            ..mapping.ebs.map(template_volume).unwrap_or_default()
        })
        .collect();
    result.has_user_data = data.user_data.is_some_and(|data| !data.is_empty());
    for specification in data.tag_specifications.unwrap_or_default() {
        let resource = text(specification.resource_type.as_ref().map(sdk::ResourceType::as_str));
        result.tags.entry(resource).or_default().extend(reply::tags(specification.tags));
    }
    result
}

fn subnet(value: sdk::Subnet) -> Subnet {
    Subnet {
        id: value.subnet_id.unwrap_or_default(),
        vpc_id: value.vpc_id.unwrap_or_default(),
        zone: value.availability_zone.unwrap_or_default(),
        cidr: value.cidr_block.unwrap_or_default(),
        free_addresses: count(value.available_ip_address_count),
        state: text(value.state.as_ref().map(sdk::SubnetState::as_str)),
    }
}

fn image(value: sdk::Image) -> Image {
    Image {
        id: value.image_id.unwrap_or_default(),
        name: value.name.unwrap_or_default(),
        owner: value.owner_id.unwrap_or_default(),
        state: text(value.state.as_ref().map(sdk::ImageState::as_str)),
        architecture: text(value.architecture.as_ref().map(sdk::ArchitectureValues::as_str)),
        virtualization: text(value.virtualization_type.as_ref().map(sdk::VirtualizationType::as_str)),
        root_device_type: text(value.root_device_type.as_ref().map(sdk::DeviceType::as_str)),
        root_device: value.root_device_name.unwrap_or_default(),
        block_devices: value
            .block_device_mappings
            .unwrap_or_default()
            .into_iter()
            .map(|mapping| BlockDevice {
                device: mapping.device_name.unwrap_or_default(),
                ..mapping.ebs.map(image_volume).unwrap_or_default()
            })
            .collect(),
        deprecation_time: value.deprecation_time,
    }
}

/// Without the device's name, which stands beside it.
fn template_volume(ebs: sdk::LaunchTemplateEbsBlockDevice) -> BlockDevice {
    BlockDevice {
        device: String::new(),
        encrypted: ebs.encrypted,
        size_gib: ebs.volume_size.and_then(|size| u32::try_from(size).ok()),
        volume_type: ebs.volume_type.map(|kind| kind.as_str().to_owned()),
        delete_on_termination: ebs.delete_on_termination,
        kms_key_id: ebs.kms_key_id,
    }
}

/// See [`template_volume`].
fn image_volume(ebs: sdk::EbsBlockDevice) -> BlockDevice {
    BlockDevice {
        device: String::new(),
        encrypted: ebs.encrypted,
        size_gib: ebs.volume_size.and_then(|size| u32::try_from(size).ok()),
        volume_type: ebs.volume_type.map(|kind| kind.as_str().to_owned()),
        delete_on_termination: ebs.delete_on_termination,
        kms_key_id: ebs.kms_key_id,
    }
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn count(value: Option<i32>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default()
}

fn big(value: Option<i64>) -> u64 {
    value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default()
}
