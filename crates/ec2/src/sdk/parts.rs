// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances taken apart and put together: volumes, interfaces, stops and starts of single instances.

use std::collections::BTreeMap;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types as sdk;

use super::calls::PAGE;
use super::pages::all_pages;
use super::{Ec2Options, failure, reply, request, with_timeout};
use ec2fleet_core::ec2_api::{
    AttachedInterface, AttachedVolume, CloudError, CloudReply, CloudResult, CpuOptions,
    CreateCapacityReservation, InstanceMetadata, InstanceParts, InterfacePlace, RunInstance, Volume,
    VolumeAttachment,
};
use ec2fleet_core::ec2_limits::VALUES_PER_FILTER;

/// By filters, so that an id which EC2 does not know is left out instead of failing the call.
pub(super) async fn describe(client: &Client, instances: &[String], volumes: &[String]) -> CloudResult {
    let mut found = Vec::new();
    for chunk in instances.chunks(VALUES_PER_FILTER) {
        let call =
            client.describe_instances().filters(request::filter("instance-id", chunk)).max_results(PAGE);
        found.append(&mut all_pages!(call, reservations, instance_parts));
    }
    let mut disks = Vec::new();
    for chunk in volumes.chunks(VALUES_PER_FILTER) {
        let call = client.describe_volumes().filters(request::filter("volume-id", chunk));
        disks.append(&mut all_pages!(call, volumes, all_volumes));
    }
    Ok(CloudReply::Parts { instances: found, volumes: disks })
}

pub(super) async fn run_instance(client: &Client, options: &Ec2Options, run: RunInstance) -> CloudResult {
    let rehearsal = run.rehearsal;
    let sent = run_call(client, run)
        .customize()
        .config_override(with_timeout(options, options.timeouts.create_fleet))
        .send()
        .await;
    match sent.map_err(failure::convert) {
        Ok(output) => {
            let id = output.reservation_id.unwrap_or_default();
            let mut instances = Vec::new();
            for value in output.instances.unwrap_or_default() {
                instances.push(reply::instance(value, &id)?);
            }
            if instances.is_empty() {
                return Err(reply::missing("instancesSet"));
            }
            Ok(CloudReply::Instances(instances))
        }
        Err(error) if rehearsal && error.code == "DryRunOperation" => Ok(CloudReply::Accepted),
        Err(error) => Err(error),
    }
}

fn run_call(
    client: &Client,
    run: RunInstance,
) -> aws_sdk_ec2::operation::run_instances::builders::RunInstancesFluentBuilder {
    let kinds = [sdk::ResourceType::Instance, sdk::ResourceType::Volume];
    let tags = kinds.into_iter().map(|kind| {
        sdk::TagSpecification::builder().resource_type(kind).set_tags(Some(request::tags(&run.tags))).build()
    });
    let mut call = client
        .run_instances()
        .dry_run(run.rehearsal)
        .client_token(&run.client_token)
        .min_count(1)
        .max_count(1)
        .image_id(&run.image_id)
        .instance_type(sdk::InstanceType::from(run.instance_type.as_str()))
        .set_key_name(run.key_name.clone())
        .ebs_optimized(run.ebs_optimized)
        .hibernation_options(sdk::HibernationOptionsRequest::builder().configured(true).build())
        .block_device_mappings(root_mapping(&run))
        .metadata_options(metadata_options(&run.metadata))
        .set_tag_specifications(Some(tags.collect()));
    if run.rehearsal {
        // The interfaces are still in use.
        call = call.set_subnet_id(run.subnet_id.clone());
    } else {
        for place in &run.interfaces {
            call = call.network_interfaces(
                sdk::InstanceNetworkInterfaceSpecification::builder()
                    .network_interface_id(&place.interface_id)
                    .device_index(request::count(place.device_index))
                    .network_card_index(request::count(place.network_card_index))
                    .build(),
            );
        }
    }
    if let Some(arn) = &run.instance_profile_arn {
        call = call.iam_instance_profile(sdk::IamInstanceProfileSpecification::builder().arn(arn).build());
    }
    if run.tenancy.is_some() || run.placement_group.is_some() {
        call = call.placement(
            sdk::Placement::builder()
                .set_tenancy(run.tenancy.as_deref().map(sdk::Tenancy::from))
                .set_group_name(run.placement_group.clone())
                .build(),
        );
    }
    if let Some(cpu) = &run.cpu {
        call = call.cpu_options(
            sdk::CpuOptionsRequest::builder()
                .core_count(request::count(cpu.core_count))
                .threads_per_core(request::count(cpu.threads_per_core))
                .build(),
        );
    }
    if let Some(id) = &run.capacity_reservation_id {
        let target = sdk::CapacityReservationTarget::builder().capacity_reservation_id(id).build();
        call = call.capacity_reservation_specification(
            sdk::CapacityReservationSpecification::builder().capacity_reservation_target(target).build(),
        );
    }
    call
}

fn root_mapping(run: &RunInstance) -> sdk::BlockDeviceMapping {
    let root = &run.root;
    let ebs = sdk::EbsBlockDevice::builder()
        .encrypted(true)
        .delete_on_termination(true)
        .volume_size(request::count(root.size_gib))
        .set_volume_type(root.volume_type.as_deref().map(sdk::VolumeType::from))
        .set_iops(root.iops.filter(|_| takes_iops(root.volume_type.as_deref())).map(request::count))
        .set_throughput(
            root.throughput.filter(|_| root.volume_type.as_deref() == Some("gp3")).map(request::count),
        )
        .set_kms_key_id(root.kms_key_id.clone())
        .build();
    sdk::BlockDeviceMapping::builder().device_name(&root.device).ebs(ebs).build()
}

/// EC2 shows iops for gp2 as well, and refuses them in a request (`API_EbsBlockDevice`).
fn takes_iops(volume_type: Option<&str>) -> bool {
    matches!(volume_type, Some("gp3" | "io1" | "io2"))
}

fn metadata_options(from: &InstanceMetadata) -> sdk::InstanceMetadataOptionsRequest {
    sdk::InstanceMetadataOptionsRequest::builder()
        .set_http_tokens(from.http_tokens.as_deref().map(sdk::HttpTokensState::from))
        .set_http_put_response_hop_limit(from.hop_limit.map(request::count))
        .set_http_endpoint(from.http_endpoint.as_deref().map(sdk::InstanceMetadataEndpointState::from))
        .set_instance_metadata_tags(from.instance_tags.as_deref().map(sdk::InstanceMetadataTagsState::from))
        .build()
}

pub(super) async fn stop(client: &Client, id: String, hibernate: bool) -> CloudResult {
    client.stop_instances().instance_ids(id).hibernate(hibernate).send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn start(client: &Client, id: String) -> CloudResult {
    client.start_instances().instance_ids(id).send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn attach_volume(
    client: &Client,
    volume: String,
    instance: String,
    device: String,
) -> CloudResult {
    let call = client.attach_volume().volume_id(volume).instance_id(instance).device(device);
    call.send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn detach_volume(client: &Client, volume: String, instance: String) -> CloudResult {
    let call = client.detach_volume().volume_id(volume).instance_id(instance);
    call.send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn delete_volume(client: &Client, volume: String) -> CloudResult {
    client.delete_volume().volume_id(volume).send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn set_volume_deletion(
    client: &Client,
    instance: String,
    devices: &BTreeMap<String, bool>,
) -> CloudResult {
    let mut call = client.modify_instance_attribute().instance_id(instance);
    for (device, delete) in devices {
        let ebs = sdk::EbsInstanceBlockDeviceSpecification::builder().delete_on_termination(*delete).build();
        call = call.block_device_mappings(
            sdk::InstanceBlockDeviceMappingSpecification::builder().device_name(device).ebs(ebs).build(),
        );
    }
    call.send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn set_interface_deletion(
    client: &Client,
    interface: String,
    attachment: String,
    delete: bool,
) -> CloudResult {
    let changes = sdk::NetworkInterfaceAttachmentChanges::builder()
        .attachment_id(attachment)
        .delete_on_termination(delete)
        .build();
    let call =
        client.modify_network_interface_attribute().network_interface_id(interface).attachment(changes);
    call.send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

pub(super) async fn reserve(client: &Client, from: CreateCapacityReservation) -> CloudResult {
    let tags = sdk::TagSpecification::builder()
        .resource_type(sdk::ResourceType::CapacityReservation)
        .set_tags(Some(request::tags(&from.tags)))
        .build();
    let output = client
        .create_capacity_reservation()
        .client_token(from.client_token)
        .instance_type(from.instance_type)
        .instance_platform(sdk::CapacityReservationInstancePlatform::from(from.platform.as_str()))
        .availability_zone(from.zone)
        .instance_count(1)
        .ebs_optimized(from.ebs_optimized)
        .set_tenancy(from.tenancy.as_deref().map(sdk::CapacityReservationTenancy::from))
        .instance_match_criteria(sdk::InstanceMatchCriteria::Targeted)
        .end_date_type(sdk::EndDateType::Limited)
        // Whole seconds: that is what EC2 keeps, and a repetition must be the same request.
        .end_date(DateTime::from_secs(i64::try_from(from.end_unix_ms / 1000).unwrap_or(i64::MAX)))
        .tag_specifications(tags)
        .send()
        .await
        .map_err(failure::convert)?;
    let id = output.capacity_reservation.and_then(|made| made.capacity_reservation_id);
    Ok(CloudReply::Reserved { id: id.ok_or_else(|| reply::missing("capacityReservationId"))? })
}

pub(super) async fn cancel_reservation(client: &Client, id: String) -> CloudResult {
    let call = client.cancel_capacity_reservation().capacity_reservation_id(id);
    call.send().await.map_err(failure::convert)?;
    Ok(CloudReply::Accepted)
}

fn instance_parts(from: Vec<sdk::Reservation>) -> Result<Vec<InstanceParts>, CloudError> {
    let mut found = Vec::new();
    for reservation in from {
        let id = reservation.reservation_id.unwrap_or_default();
        for value in reservation.instances.unwrap_or_default() {
            found.push(parts(value, &id)?);
        }
    }
    Ok(found)
}

fn parts(value: sdk::Instance, reservation_id: &str) -> Result<InstanceParts, CloudError> {
    let devices = value.block_device_mappings.clone().unwrap_or_default();
    let interfaces = value.network_interfaces.clone().unwrap_or_default();
    let placement = value.placement.clone();
    let metadata = value.metadata_options.clone();
    Ok(InstanceParts {
        image_id: value.image_id.clone().unwrap_or_default(),
        platform: value.platform_details.clone().unwrap_or_else(|| "Linux/UNIX".into()),
        key_name: reply::not_blank(value.key_name.clone()),
        instance_profile_arn: value.iam_instance_profile.clone().and_then(|profile| profile.arn),
        tenancy: placement.as_ref().and_then(|p| p.tenancy.as_ref()).map(|t| t.as_str().to_owned()),
        placement_group: reply::not_blank(placement.and_then(|placement| placement.group_name)),
        ebs_optimized: value.ebs_optimized.unwrap_or_default(),
        metadata: metadata
            .map(|options| InstanceMetadata {
                http_tokens: options.http_tokens.map(|value| value.as_str().to_owned()),
                hop_limit: options.http_put_response_hop_limit.and_then(|hops| u32::try_from(hops).ok()),
                http_endpoint: options.http_endpoint.map(|value| value.as_str().to_owned()),
                instance_tags: options.instance_metadata_tags.map(|value| value.as_str().to_owned()),
            })
            .unwrap_or_default(),
        cpu: value.cpu_options.as_ref().map(|cpu| CpuOptions {
            core_count: reply::unsigned(cpu.core_count),
            threads_per_core: reply::unsigned(cpu.threads_per_core),
        }),
        root_device: value.root_device_name.clone().unwrap_or_default(),
        devices: devices
            .into_iter()
            .filter_map(|mapping| {
                let ebs = mapping.ebs?;
                Some(AttachedVolume {
                    device: mapping.device_name?,
                    volume_id: ebs.volume_id?,
                    delete_on_termination: ebs.delete_on_termination.unwrap_or_default(),
                })
            })
            .collect(),
        interfaces: interfaces
            .into_iter()
            .filter_map(|interface| {
                let attachment = interface.attachment?;
                Some(AttachedInterface {
                    place: InterfacePlace {
                        interface_id: interface.network_interface_id?,
                        device_index: reply::unsigned(attachment.device_index),
                        network_card_index: reply::unsigned(attachment.network_card_index),
                    },
                    attachment_id: attachment.attachment_id?,
                    delete_on_termination: attachment.delete_on_termination.unwrap_or_default(),
                })
            })
            .collect(),
        instance: reply::instance(value, reservation_id)?,
    })
}

fn all_volumes(from: Vec<sdk::Volume>) -> Result<Vec<Volume>, CloudError> {
    from.into_iter().map(volume).collect()
}

fn volume(value: sdk::Volume) -> Result<Volume, CloudError> {
    // Without multi-attach there is one at most; what is detached is not attached.
    let attachment = value.attachments.unwrap_or_default().into_iter().find_map(|attachment| {
        let state = attachment.state.map(|state| state.as_str().to_owned()).unwrap_or_default();
        (state != "detached").then(|| VolumeAttachment {
            instance_id: attachment.instance_id.unwrap_or_default(),
            device: attachment.device.unwrap_or_default(),
            state,
            delete_on_termination: attachment.delete_on_termination.unwrap_or_default(),
        })
    });
    Ok(Volume {
        id: value.volume_id.ok_or_else(|| reply::missing("volumeId"))?,
        size_gib: reply::unsigned(value.size),
        volume_type: value.volume_type.map(|kind| kind.as_str().to_owned()),
        iops: value.iops.and_then(|iops| u32::try_from(iops).ok()),
        throughput: value.throughput.and_then(|throughput| u32::try_from(throughput).ok()),
        kms_key_id: reply::not_blank(value.kms_key_id),
        attachment,
    })
}
