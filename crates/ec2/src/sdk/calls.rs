// SPDX-License-Identifier: GPL-3.0-or-later
//! Each request of the engine as HTTP requests, with the limits of the EC2 API.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types as sdk;

use super::pages::all_pages;
use super::{Ec2Options, failure, parts, reply, request, with_timeout};
use crate::errors::{self, TransportFailure};
use ec2fleet_core::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, Fleet, FleetReply, Instance,
};
use ec2fleet_core::ec2_limits::{FLEETS_PER_DELETION, IDS_PER_CALL, VALUES_PER_FILTER};
use ec2fleet_core::tag;

/// `MaxResults` of the Describe calls that we page.
pub(super) const PAGE: i32 = 1_000;
/// TerminateInstances calls for one set of ids, each without the ids that the one before refused.
const TERMINATE_ROUNDS: usize = 8;

pub(super) async fn run(client: Client, options: &Ec2Options, request: CloudRequest) -> CloudResult {
    match request {
        CloudRequest::CreateFleet(fleet) => {
            create_fleet(&client, options, *fleet).await.map(CloudReply::Fleet)
        }
        CloudRequest::DescribeCluster { cluster } => {
            let filters = vec![
                request::filter(format!("tag:{}", tag::CLUSTER), [cluster]),
                request::filter("instance-state-name", ["pending", "running", "stopping", "stopped"]),
            ];
            describe_instances(&client, filters).await.map(CloudReply::Instances)
        }
        CloudRequest::DescribeInstances { ids } => {
            describe_ids(&client, &ids).await.map(CloudReply::Instances)
        }
        CloudRequest::DescribeFleetInstances { fleet_ids } => {
            let mut instances = Vec::new();
            for chunk in fleet_ids.chunks(VALUES_PER_FILTER) {
                let filters = vec![
                    request::filter("tag:aws:ec2:fleet-id", chunk),
                    request::filter("instance-state-name", ["pending", "running", "stopping", "stopped"]),
                ];
                instances.append(&mut describe_instances(&client, filters).await?);
            }
            Ok(CloudReply::Instances(instances))
        }
        CloudRequest::TerminateInstances { ids } => terminate(&client, ids).await,
        CloudRequest::CreateTags { ids, tags } => {
            create_tags(&client, ids, &tags).await.map(|()| CloudReply::Tagged)
        }
        CloudRequest::ModifyFleet {
            fleet_id,
            target,
            spot_target,
            on_demand_target,
            terminate_excess,
            template,
        } => {
            let template = template.map(|new| request::template_config(&new.launch_template, &new.overrides));
            let target = sdk::TargetCapacitySpecificationRequest::builder()
                .total_target_capacity(request::count(target))
                .spot_target_capacity(request::count(spot_target))
                .on_demand_target_capacity(request::count(on_demand_target))
                .build();
            modify_fleet(&client, fleet_id, target, terminate_excess, template)
                .await
                .map(|()| CloudReply::Modified)
        }
        CloudRequest::DeleteFleets { ids, terminate_instances } => {
            delete_fleets(&client, ids, terminate_instances).await
        }
        CloudRequest::DescribeFleets { cluster } => {
            describe_fleets(&client, &cluster).await.map(CloudReply::Fleets)
        }
        CloudRequest::DescribeFleetHistory { fleet_id, start_unix_ms } => {
            describe_history(&client, fleet_id, start_unix_ms).await
        }
        CloudRequest::CancelSpotInstanceRequests { ids } => {
            cancel_spot_requests(&client, ids).await.map(|()| CloudReply::Cancelled)
        }
        CloudRequest::DescribeParts { instances, volumes } => {
            parts::describe(&client, &instances, &volumes).await
        }
        CloudRequest::RunInstance(run) => parts::run_instance(&client, options, *run).await,
        CloudRequest::StopInstance { id, hibernate } => parts::stop(&client, id, hibernate).await,
        CloudRequest::StartInstance { id } => parts::start(&client, id).await,
        CloudRequest::AttachVolume { volume, instance, device } => {
            parts::attach_volume(&client, volume, instance, device).await
        }
        CloudRequest::DetachVolume { volume, instance } => {
            parts::detach_volume(&client, volume, instance).await
        }
        CloudRequest::DeleteVolume { volume } => parts::delete_volume(&client, volume).await,
        CloudRequest::SetVolumeDeletion { instance, devices } => {
            parts::set_volume_deletion(&client, instance, &devices).await
        }
        CloudRequest::SetInterfaceDeletion { interface, attachment, delete_on_termination } => {
            parts::set_interface_deletion(&client, interface, attachment, delete_on_termination).await
        }
        CloudRequest::CreateCapacityReservation(request) => parts::reserve(&client, *request).await,
        CloudRequest::CancelCapacityReservation { id } => parts::cancel_reservation(&client, id).await,
    }
}

async fn create_fleet(
    client: &Client,
    options: &Ec2Options,
    fleet: CreateFleet,
) -> Result<FleetReply, CloudError> {
    let output = client
        .create_fleet()
        .client_token(&fleet.client_token)
        .r#type(request::fleet_type(fleet.fleet_type))
        .target_capacity_specification(request::target(&fleet))
        .launch_template_configs(request::template_config(&fleet.launch_template, &fleet.overrides))
        .set_on_demand_options(request::on_demand_options(&fleet))
        .set_spot_options(request::spot_options(&fleet))
        .set_tag_specifications(request::tag_specifications(&fleet))
        .customize()
        .config_override(with_timeout(options, options.timeouts.create_fleet))
        .send()
        .await
        .map_err(failure::convert)?;
    reply::fleet_created(output)
}

async fn describe_instances(client: &Client, filters: Vec<sdk::Filter>) -> Result<Vec<Instance>, CloudError> {
    let call = client.describe_instances().set_filters(Some(filters)).max_results(PAGE);
    Ok(all_pages!(call, reservations, reply::instances))
}

/// By filter and not by `InstanceId`: an unknown id is then left out instead of failing the call, and a paginated
/// call draws on the larger of EC2's two buckets.
async fn describe_ids(client: &Client, ids: &[String]) -> Result<Vec<Instance>, CloudError> {
    let mut instances = Vec::new();
    for chunk in ids.chunks(VALUES_PER_FILTER) {
        let filters = vec![request::filter("instance-id", chunk)];
        instances.append(&mut describe_instances(client, filters).await?);
    }
    Ok(instances)
}

async fn terminate(client: &Client, ids: Vec<String>) -> CloudResult {
    let (mut terminated, mut unknown) = (Vec::new(), Vec::new());
    let mut refused = None;
    for chunk in ids.chunks(IDS_PER_CALL) {
        if let Err(error) = terminate_chunk(client, chunk.to_vec(), &mut terminated, &mut unknown).await {
            if error.class != ErrorClass::Configuration {
                return Err(error);
            }
            // One protected instance must not keep the other chunks alive.
            refused = Some(error);
        }
    }
    match refused {
        Some(error) => Err(error),
        None => Ok(CloudReply::Terminated { terminated, unknown }),
    }
}

/// One bad id keeps EC2 from terminating any of a call, so the call is repeated without those that it names.
async fn terminate_chunk(
    client: &Client,
    mut ids: Vec<String>,
    terminated: &mut Vec<String>,
    unknown: &mut Vec<String>,
) -> Result<(), CloudError> {
    let mut refused = None;
    for _ in 0..TERMINATE_ROUNDS {
        if ids.is_empty() {
            return refused.map_or(Ok(()), Err);
        }
        let result = client.terminate_instances().set_instance_ids(Some(ids.clone())).send().await;
        let error = match result.map_err(failure::convert) {
            Ok(output) => {
                let changes = output.terminating_instances.unwrap_or_default();
                terminated.extend(changes.into_iter().filter_map(|change| change.instance_id));
                return refused.map_or(Ok(()), Err);
            }
            Err(error) => error,
        };
        let is_unknown = matches!(&*error.code, "InvalidInstanceID.NotFound" | "InvalidInstanceID.Malformed");
        if !is_unknown && error.code != "OperationNotPermitted" {
            return Err(error);
        }
        let named: BTreeSet<&str> = errors::instance_ids_in(&error.message).into_iter().collect();
        let (bad, good): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| named.contains(id.as_str()));
        if bad.is_empty() {
            return Err(error);
        }
        ids = good;
        if is_unknown {
            unknown.extend(bad);
        } else {
            refused = Some(error);
        }
    }
    // EC2 named fewer bad ids a call than there are: ask which ones it knows.
    let known: BTreeSet<String> =
        describe_ids(client, &ids).await?.into_iter().map(|found| found.id).collect();
    let (known, missing): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| known.contains(id));
    unknown.extend(missing);
    if !known.is_empty() {
        let output = client
            .terminate_instances()
            .set_instance_ids(Some(known))
            .send()
            .await
            .map_err(failure::convert)?;
        let changes = output.terminating_instances.unwrap_or_default();
        terminated.extend(changes.into_iter().filter_map(|change| change.instance_id));
    }
    refused.map_or(Ok(()), Err)
}

async fn create_tags(
    client: &Client,
    ids: Vec<String>,
    tags: &BTreeMap<String, String>,
) -> Result<(), CloudError> {
    for chunk in ids.chunks(IDS_PER_CALL) {
        client
            .create_tags()
            .set_resources(Some(chunk.to_vec()))
            .set_tags(Some(request::tags(tags)))
            .send()
            .await
            .map_err(failure::convert)?;
    }
    Ok(())
}

async fn modify_fleet(
    client: &Client,
    fleet_id: String,
    target: sdk::TargetCapacitySpecificationRequest,
    terminate_excess: bool,
    template: Option<sdk::FleetLaunchTemplateConfigRequest>,
) -> Result<(), CloudError> {
    let policy = if terminate_excess {
        sdk::FleetExcessCapacityTerminationPolicy::Termination
    } else {
        sdk::FleetExcessCapacityTerminationPolicy::NoTermination
    };
    let output = client
        .modify_fleet()
        .fleet_id(fleet_id)
        .target_capacity_specification(target)
        .excess_capacity_termination_policy(policy)
        .set_launch_template_configs(template.map(|template| vec![template]))
        .send()
        .await
        .map_err(failure::convert)?;
    match output.r#return {
        Some(false) => {
            Err(TransportFailure::MalformedReply.error("EC2 answered, but did not accept the change"))
        }
        _ => Ok(()),
    }
}

async fn delete_fleets(client: &Client, ids: Vec<String>, terminate_instances: bool) -> CloudResult {
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for chunk in ids.chunks(FLEETS_PER_DELETION) {
        let output = client
            .delete_fleets()
            .set_fleet_ids(Some(chunk.to_vec()))
            .terminate_instances(terminate_instances)
            .send()
            .await
            .map_err(failure::convert)?;
        deleted.extend(
            output
                .successful_fleet_deletions
                .unwrap_or_default()
                .into_iter()
                .filter_map(|item| item.fleet_id),
        );
        for item in output.unsuccessful_fleet_deletions.unwrap_or_default() {
            let code = item.error.and_then(|error| error.code);
            let code = code.map_or_else(|| "unexpectedError".to_owned(), |code| code.as_str().to_owned());
            failed.push((item.fleet_id.ok_or_else(|| reply::missing("fleetId"))?, code));
        }
    }
    Ok(CloudReply::Deleted { deleted, failed })
}

/// DescribeFleets has no filter for tags (`API_DescribeFleets`): an account has at most a thousand fleets, so ours
/// are picked here.
async fn describe_fleets(client: &Client, cluster: &str) -> Result<Vec<Fleet>, CloudError> {
    const STATES: [&str; 3] = ["submitted", "active", "modifying"];
    let call = client
        .describe_fleets()
        .filters(request::filter("fleet-state", STATES))
        .filters(request::filter("type", ["maintain"]));
    let mut fleets = Vec::new();
    for data in all_pages!(call, fleets) {
        let fleet = reply::fleet(data)?;
        let ours = fleet.tags.get(tag::CLUSTER).is_some_and(|value| value == cluster);
        if ours && STATES.contains(&fleet.state.as_str()) {
            fleets.push(fleet);
        }
    }
    Ok(fleets)
}

async fn describe_history(client: &Client, fleet_id: String, start_unix_ms: u64) -> CloudResult {
    let start = DateTime::from_millis(i64::try_from(start_unix_ms).unwrap_or(i64::MAX));
    let call = client.describe_fleet_history().fleet_id(fleet_id).start_time(start).max_results(PAGE);
    let records = all_pages!(call, history_records);
    Ok(CloudReply::History(records.into_iter().map(reply::history_record).collect()))
}

async fn cancel_spot_requests(client: &Client, ids: Vec<String>) -> Result<(), CloudError> {
    for chunk in ids.chunks(IDS_PER_CALL) {
        client
            .cancel_spot_instance_requests()
            .set_spot_instance_request_ids(Some(chunk.to_vec()))
            .send()
            .await
            .map_err(failure::convert)?;
    }
    Ok(())
}
