// SPDX-License-Identifier: GPL-3.0-or-later
//! From the SDK's replies to ours. What we cannot do without must be there, or the reply is malformed.

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::create_fleet::CreateFleetOutput;
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types as sdk;

use crate::errors::{self, TransportFailure};
use ec2fleet_core::ec2_api::{
    CloudError, Fleet, FleetHistoryRecord, FleetReply, Instance, InstanceState, LaunchedInstances, PoolError,
};
use ec2fleet_core::site::Lifecycle;

pub(super) fn missing(what: &str) -> CloudError {
    TransportFailure::MalformedReply.error(format!("the reply has no {what}"))
}

pub(super) fn fleet_created(output: CreateFleetOutput) -> Result<FleetReply, CloudError> {
    Ok(FleetReply {
        fleet_id: output.fleet_id.ok_or_else(|| missing("FleetId"))?,
        instances: output.instances.unwrap_or_default().into_iter().map(launched).collect(),
        errors: output.errors.unwrap_or_default().into_iter().map(pool_error).collect(),
    })
}

fn launched(set: sdk::CreateFleetInstance) -> LaunchedInstances {
    let pool = Pool::of(set.launch_template_and_overrides);
    LaunchedInstances {
        ids: set.instance_ids.unwrap_or_default(),
        instance_type: set
            .instance_type
            .map(|value| value.as_str().to_owned())
            .or(pool.instance_type)
            .unwrap_or_default(),
        lifecycle: fleet_lifecycle(set.lifecycle.as_ref()),
        subnet_id: set.subnet_id.or(pool.subnet_id),
        zone: set.availability_zone.or(pool.zone),
    }
}

fn pool_error(error: sdk::CreateFleetError) -> PoolError {
    let pool = Pool::of(error.launch_template_and_overrides);
    let code = error.error_code.unwrap_or_default();
    PoolError {
        class: errors::classify(&code),
        code,
        message: error.error_message.unwrap_or_default(),
        lifecycle: fleet_lifecycle(error.lifecycle.as_ref()),
        instance_type: pool.instance_type,
        subnet_id: pool.subnet_id,
        zone: pool.zone,
    }
}

/// The override that a part of a fleet's reply is about.
#[derive(Default)]
struct Pool {
    instance_type: Option<String>,
    subnet_id: Option<String>,
    zone: Option<String>,
}

impl Pool {
    fn of(value: Option<sdk::LaunchTemplateAndOverridesResponse>) -> Self {
        let Some(overrides) = value.and_then(|value| value.overrides) else { return Self::default() };
        Self {
            instance_type: overrides.instance_type.map(|value| value.as_str().to_owned()),
            subnet_id: overrides.subnet_id,
            zone: overrides.availability_zone,
        }
    }
}

fn fleet_lifecycle(value: Option<&sdk::InstanceLifecycle>) -> Lifecycle {
    match value {
        Some(sdk::InstanceLifecycle::Spot) => Lifecycle::Spot,
        _ => Lifecycle::OnDemand,
    }
}

pub(super) fn instances(from: Vec<sdk::Reservation>) -> Result<Vec<Instance>, CloudError> {
    let mut instances = Vec::new();
    for reservation in from {
        let id = reservation.reservation_id.unwrap_or_default();
        for value in reservation.instances.unwrap_or_default() {
            instances.push(instance(value, &id)?);
        }
    }
    Ok(instances)
}

pub(super) fn instance(value: sdk::Instance, reservation_id: &str) -> Result<Instance, CloudError> {
    let id = value.instance_id.ok_or_else(|| missing("instanceId"))?;
    let state = value.state.and_then(|state| state.name).ok_or_else(|| missing("instanceState"))?;
    Ok(Instance {
        state: instance_state(&state).ok_or_else(|| {
            TransportFailure::MalformedReply
                .error(format!("instance {id} is in a state not known here: {}", state.as_str()))
        })?,
        id,
        private_ip: not_blank(value.private_ip_address),
        private_dns: not_blank(value.private_dns_name),
        instance_type: value.instance_type.map(|value| value.as_str().to_owned()).unwrap_or_default(),
        zone: value.placement.and_then(|placement| placement.availability_zone).unwrap_or_default(),
        subnet_id: value.subnet_id,
        // The element is absent for on-demand instances.
        lifecycle: match value.instance_lifecycle {
            Some(sdk::InstanceLifecycleType::Spot) => Lifecycle::Spot,
            _ => Lifecycle::OnDemand,
        },
        reservation_id: reservation_id.to_owned(),
        ami_launch_index: unsigned(value.ami_launch_index),
        launch_unix_ms: unix_ms(value.launch_time),
        tags: tags(value.tags).into(),
        state_reason: value.state_reason.and_then(|reason| reason.code),
        spot_request_id: value.spot_instance_request_id,
    })
}

fn instance_state(name: &sdk::InstanceStateName) -> Option<InstanceState> {
    Some(match name {
        sdk::InstanceStateName::Pending => InstanceState::Pending,
        sdk::InstanceStateName::Running => InstanceState::Running,
        sdk::InstanceStateName::Stopping => InstanceState::Stopping,
        sdk::InstanceStateName::Stopped => InstanceState::Stopped,
        sdk::InstanceStateName::ShuttingDown => InstanceState::ShuttingDown,
        sdk::InstanceStateName::Terminated => InstanceState::Terminated,
        _ => return None,
    })
}

pub(super) fn fleet(value: sdk::FleetData) -> Result<Fleet, CloudError> {
    Ok(Fleet {
        id: value.fleet_id.ok_or_else(|| missing("fleetId"))?,
        state: value.fleet_state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
        activity: value.activity_status.map(|status| status.as_str().to_owned()),
        target: unsigned(value.target_capacity_specification.and_then(|target| target.total_target_capacity)),
        fulfilled: value.fulfilled_capacity.unwrap_or_default(),
        client_token: not_blank(value.client_token),
        tags: tags(value.tags),
    })
}

pub(super) fn history_record(value: sdk::HistoryRecordEntry) -> FleetHistoryRecord {
    let (event_sub_type, description, instance_id) = value
        .event_information
        .map(|event| (event.event_sub_type, event.event_description, event.instance_id))
        .unwrap_or_default();
    FleetHistoryRecord {
        unix_ms: unix_ms(value.timestamp),
        // The values on the wire are not the ones of the API model, so the SDK has them as unknown.
        event_type: value.event_type.map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        event_sub_type: event_sub_type.unwrap_or_default(),
        description: description.unwrap_or_default(),
        instance_id,
    }
}

pub(super) fn tags(from: Option<Vec<sdk::Tag>>) -> BTreeMap<String, String> {
    from.unwrap_or_default()
        .into_iter()
        .filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default())))
        .collect()
}

fn unix_ms(time: Option<DateTime>) -> u64 {
    time.and_then(|time| time.to_millis().ok()).and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default()
}

pub(super) fn unsigned(value: Option<i32>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default()
}

/// EC2 writes empty elements for what a terminated instance no longer has.
pub(super) fn not_blank(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
