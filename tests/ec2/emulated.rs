// SPDX-License-Identifier: GPL-3.0-or-later
//! What only an emulator can show: shortage, quotas, throttling, lost replies, denials, hibernation, late visibility.
//!
//! Time stands still (`speed` 0) unless a test moves it.

use std::collections::BTreeMap;

use aws_sdk_ec2::types as sdk;
use ec2fleet_core::ec2_api::{
    CloudReply, CloudRequest, ErrorClass, FleetHistoryRecord, FleetType, Instance, InstanceState,
};
use ec2fleet_core::fleet_spec::{LaunchTemplateOverride, OnDemandOptions};
use ec2fleet_core::relocation::{Next, Relocation, Sight, Stage};
use ec2fleet_core::site::Lifecycle;
use ec2fleet_ec2::Cloud;
use ec2fleet_ec2::catalog::{Action, Catalog, Example, Verdict};
use ec2fleet_emulator::{Command, Moment};

use crate::backend::{CLUSTER_TAG, World, emulated, sorted, tags};
use crate::shared::fleets;

fn command(world: &World, json: &str) {
    let command: Command = serde_json::from_str(json).expect("a command");
    world.emulator().command(command).expect("the command is done");
}

fn calls(world: &World, action: &str) -> u64 {
    world.emulator().calls(0).get(action).copied().unwrap_or_default()
}

#[tokio::test]
async fn a_short_pool_gives_what_it_has_and_says_why() {
    let world = emulated(
        r#"{"speed": 0, "pools": [{"type": "c5.large", "lifecycle": "on-demand", "capacity": 2},
            {"type": "c5.xlarge", "capacity": 0}]}"#,
    )
    .await;
    let mut fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 5);
    let pool = |name: &str| LaunchTemplateOverride {
        instance_type: Some(name.into()),
        ..fleet.overrides[0].clone()
    };
    fleet.overrides = vec![pool("c5.large"), pool("c5.xlarge")];
    let reply = world.create(fleet).await;
    assert_eq!(reply.instance_ids().len(), 2);
    let short: BTreeMap<&str, ErrorClass> = reply
        .errors
        .iter()
        .map(|error| (error.instance_type.as_deref().expect("a type"), error.class))
        .collect();
    assert_eq!(
        short,
        BTreeMap::from([("c5.large", ErrorClass::Capacity), ("c5.xlarge", ErrorClass::Capacity)]),
        "{:?}",
        reply.errors
    );
    for error in &reply.errors {
        assert_eq!(error.code, "InsufficientInstanceCapacity");
        assert_eq!(error.subnet_id.as_ref(), Some(&world.subnets[0]));
        assert_eq!(error.lifecycle, Lifecycle::OnDemand);
        assert!(!error.message.is_empty());
    }
    assert_eq!(world.in_cluster().await.len(), 2);
}

#[tokio::test]
async fn all_or_nothing_gives_nothing() {
    let world = emulated(r#"{"speed": 0, "pools": [{"type": "c5.large", "capacity": 2}]}"#).await;
    let mut fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 5);
    fleet.on_demand_options = OnDemandOptions {
        single_availability_zone: Some(true),
        min_target_capacity: Some(5),
        ..OnDemandOptions::default()
    };
    let reply = world.create(fleet).await;
    assert_eq!(reply.instances, []);
    assert!(reply.errors.iter().all(|error| error.class == ErrorClass::Capacity), "{:?}", reply.errors);
    assert!(!reply.errors.is_empty());
    assert_eq!(world.in_cluster().await, []);
}

#[tokio::test]
async fn a_quota_is_told_from_a_shortage() {
    let world = emulated(r#"{"speed": 0, "limits": {"on_demand_vcpus": 4, "spot_vcpus": 2}}"#).await;
    for (lifecycle, code) in
        [(Lifecycle::OnDemand, "VcpuLimitExceeded"), (Lifecycle::Spot, "MaxSpotInstanceCountExceeded")]
    {
        let reply = world.launch(lifecycle, 5).await;
        let error = &reply.errors[0];
        assert_eq!((&*error.code, error.class, error.lifecycle), (code, ErrorClass::Quota, lifecycle));
    }
}

#[tokio::test]
async fn the_same_token_gives_the_original_answer() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let fleet = world.fleet(FleetType::Instant, Lifecycle::Spot, 3);
    let first = world.create(fleet.clone()).await;
    assert_eq!(world.create(fleet.clone()).await, first);
    assert_eq!(world.in_cluster().await.len(), 3, "nothing was launched twice");
    let mut other = fleet;
    other.target = 4;
    let error = world.refused(CloudRequest::CreateFleet(Box::new(other))).await;
    assert_eq!((error.class, &*error.code), (ErrorClass::IdempotentMismatch, "IdempotentParameterMismatch"));
    assert_eq!(world.in_cluster().await.len(), 3);
}

#[tokio::test]
async fn a_lost_reply_is_found_again_by_its_token() {
    let world =
        emulated(r#"{"speed": 0, "faults": [{"action": "CreateFleet", "lost_reply": true, "count": 1}]}"#)
            .await;
    let fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 4);
    let error = world.refused(CloudRequest::CreateFleet(Box::new(fleet.clone()))).await;
    assert_eq!((error.class, &*error.code), (ErrorClass::Transient, "ConnectionLost"));
    assert_eq!(calls(&world, "CreateFleet"), 1, "the SDK does not repeat by itself");
    assert_eq!(world.in_cluster().await.len(), 4, "it had taken effect");

    let reply = world.create(fleet).await;
    let launched = world.in_cluster().await.into_iter().map(|instance| instance.id).collect();
    assert_eq!(sorted(reply.instance_ids()), sorted(launched));
}

#[tokio::test]
async fn throttling_is_reported_after_one_attempt() {
    let fault = r#"{"code": "RequestLimitExceeded", "count": 1}"#;
    let world = emulated(r#"{"speed": 0}"#).await;
    let ids = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    let requests = [
        CloudRequest::CreateFleet(Box::new(world.fleet(FleetType::Instant, Lifecycle::OnDemand, 1))),
        CloudRequest::DescribeCluster { cluster: world.cluster.clone() },
        CloudRequest::TerminateInstances { ids: ids.clone() },
        CloudRequest::CreateTags { ids, tags: tags(&[("a", "b")]) },
    ];
    for request in requests {
        let (action, mark) = (request.action(), world.emulator().mark());
        command(&world, &format!(r#"{{"fault": {fault}}}"#));
        let error = world.refused(request.clone()).await;
        assert_eq!((error.class, &*error.code), (ErrorClass::Throttle, "RequestLimitExceeded"), "{action}");
        assert_eq!(world.emulator().calls(mark)[action], 1, "{action}");
        world.ok(request).await;
    }
}

#[tokio::test]
async fn denied_actions_are_a_permission_matter_and_the_doctor_sees_them() {
    let world = emulated(r#"{"speed": 0}"#).await;
    command(&world, r#"{"deny": {"action": "ec2:TerminateInstances"}}"#);
    let ids = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    let error = world.refused(CloudRequest::TerminateInstances { ids: ids.clone() }).await;
    assert_eq!((error.class, &*error.code), (ErrorClass::Permission, "UnauthorizedOperation"));

    let example = Example { instance_id: Some(ids[0].clone()), ..Example::default() };
    let ask = async |action| {
        world.ec2.permission(world.account.clone(), action, example.clone()).await.expect("a verdict")
    };
    let Verdict::Denied { reason, encoded } = ask(Action::TerminateInstances).await else { panic!("denied") };
    assert!(reason.contains("not authorized"), "{reason}");
    assert!(encoded.is_some());
    assert_eq!(ask(Action::DescribeInstances).await, Verdict::Allowed);
    assert_eq!(world.in_cluster().await.len(), 1);
}

#[tokio::test]
async fn a_large_cluster_is_listed_page_by_page() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let mut launched = Vec::new();
    for _ in 0..5 {
        launched.append(&mut world.launch(Lifecycle::OnDemand, 500).await.instance_ids());
    }
    let mark = world.emulator().mark();
    let listed: Vec<String> = world.in_cluster().await.into_iter().map(|instance| instance.id).collect();
    assert_eq!(sorted(listed), sorted(launched.clone()));
    assert_eq!(world.emulator().calls(mark)["DescribeInstances"], 3);

    let mark = world.emulator().mark();
    let (terminated, unknown) = world.terminate(&launched).await;
    assert_eq!((terminated.len(), unknown.len()), (2_500, 0));
    assert_eq!(world.emulator().calls(mark)["TerminateInstances"], 3);
    assert_eq!(world.in_cluster().await, []);
}

#[tokio::test]
async fn a_protected_instance_does_not_protect_the_others() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let ids = world.launch(Lifecycle::OnDemand, 3).await.instance_ids();
    world
        .admin
        .modify_instance_attribute()
        .instance_id(&ids[1])
        .disable_api_termination(sdk::AttributeBooleanValue::builder().value(true).build())
        .send()
        .await
        .expect("protected");
    let error = world.refused(CloudRequest::TerminateInstances { ids: ids.clone() }).await;
    assert_eq!((error.class, &*error.code), (ErrorClass::Configuration, "OperationNotPermitted"));
    assert!(error.message.contains(&ids[1]));
    let left: Vec<String> = world.in_cluster().await.into_iter().map(|instance| instance.id).collect();
    assert_eq!(left, [ids[1].clone()]);
}

#[tokio::test]
async fn what_is_new_may_not_be_visible_yet() {
    let world = emulated(r#"{"speed": 0, "consistency_ms": 5000, "seed": 7}"#).await;
    let ids = world.launch(Lifecycle::OnDemand, 20).await.instance_ids();
    let early = world.by_ids(&ids).await.len();
    assert!(early < 20, "some are late");
    world.emulator().advance(5_000);
    assert_eq!(world.by_ids(&ids).await.len(), 20);
}

#[tokio::test]
async fn tagging_an_unknown_instance_is_not_found() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let ids = vec!["i-0123456789abcdef0".to_owned()];
    let error =
        world.refused(CloudRequest::CreateTags { ids: ids.clone(), tags: tags(&[("Name", "x")]) }).await;
    assert_eq!((error.class, &*error.code), (ErrorClass::NotFound, "InvalidInstanceID.NotFound"));
    assert!(error.message.contains(&ids[0]));
    assert!(error.request_id.is_some());
}

#[tokio::test]
async fn a_maintain_fleet_is_modified_deleted_and_remembered() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let started_ms = world.emulator().advance(0);
    let id = world.create(world.fleet(FleetType::Maintain, Lifecycle::Spot, 1)).await.fleet_id;
    let settle = || world.emulator().advance(120_000);
    settle();
    let fleet = fleets(&world).await.remove(0);
    assert_eq!((&*fleet.state, fleet.target, fleet.fulfilled), ("active", 1, 1.0));
    assert_eq!(fleet.activity.as_deref(), Some("fulfilled"));
    assert!(fleet.client_token.is_some_and(|token| token.starts_with(&world.cluster)));

    let target = |target| CloudRequest::ModifyFleet {
        fleet_id: id.clone(),
        target,
        spot_target: target,
        on_demand_target: 0,
        terminate_excess: false,
        template: None,
    };
    assert_eq!(world.ok(target(3)).await, CloudReply::Modified);
    settle();
    let fleet = fleets(&world).await.remove(0);
    assert_eq!((fleet.target, fleet.fulfilled), (3, 3.0));

    let unknown = "fleet-01234567-89ab-cdef-0123-456789abcdef".to_owned();
    let delete =
        CloudRequest::DeleteFleets { ids: vec![id.clone(), unknown.clone()], terminate_instances: true };
    let CloudReply::Deleted { deleted, failed } = world.ok(delete).await else { panic!("another reply") };
    assert_eq!((deleted, failed), (vec![id.clone()], vec![(unknown, "fleetIdDoesNotExist".into())]));
    settle();
    assert_eq!(fleets(&world).await, []);

    let request = CloudRequest::DescribeFleetHistory {
        fleet_id: id,
        start_unix_ms: u64::try_from(started_ms).expect("after 1970"),
    };
    let CloudReply::History(records) = world.ok(request).await else { panic!("another reply") };
    let launches: Vec<&FleetHistoryRecord> = records
        .iter()
        .filter(|r| r.event_type == "instanceChange" && r.event_sub_type == "launched")
        .collect();
    assert_eq!(launches.len(), 3, "{records:?}");
    assert!(launches.iter().all(|record| record.instance_id.as_ref().is_some_and(|id| id.starts_with("i-"))));
    assert!(records.iter().any(|record| record.event_type == "fleetRequestChange"), "{records:?}");
}

/// A fleet of one Spot instance that runs and can be hibernated.
async fn hibernating(world: &World) -> (String, Instance) {
    let data = sdk::RequestLaunchTemplateData::builder()
        .image_id("ami-0123456789abcdef0")
        .instance_type(sdk::InstanceType::C5Large)
        .hibernation_options(sdk::LaunchTemplateHibernationOptionsRequest::builder().configured(true).build())
        .block_device_mappings(
            sdk::LaunchTemplateBlockDeviceMappingRequest::builder()
                .device_name("/dev/xvda")
                .ebs(
                    sdk::LaunchTemplateEbsBlockDeviceRequest::builder()
                        .encrypted(true)
                        .volume_size(60)
                        .build(),
                )
                .build(),
        )
        .tag_specifications(
            sdk::LaunchTemplateTagSpecificationRequest::builder()
                .resource_type(sdk::ResourceType::Instance)
                .tags(sdk::Tag::builder().key(CLUSTER_TAG).value(&world.cluster).build())
                .build(),
        )
        .build();
    world
        .admin
        .create_launch_template_version()
        .launch_template_name(&world.template)
        .launch_template_data(data)
        .send()
        .await
        .expect("a version that can hibernate");
    let mut fleet = world.fleet(FleetType::Maintain, Lifecycle::Spot, 1);
    fleet.spot_options.instance_interruption_behavior = Some("hibernate".into());
    let fleet_id = world.create(fleet).await.fleet_id;
    world.emulator().advance(120_000);
    let awake = world.in_cluster().await.remove(0);
    assert_eq!((awake.state, awake.lifecycle), (InstanceState::Running, Lifecycle::Spot));
    assert!(awake.tags.contains_key("aws:ec2:fleet-id"), "{:?}", awake.tags);
    (fleet_id, awake)
}

/// A node that EC2 put to sleep is still there: the same id and address, in the cluster's list.
#[tokio::test]
async fn a_hibernated_instance_stays_in_the_list() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let (_, awake) = hibernating(&world).await;

    command(&world, r#"{"interrupt": {}}"#);
    world.emulator().advance(600_000);
    let asleep = world.in_cluster().await.remove(0);
    assert_eq!(asleep.state, InstanceState::Stopped);
    assert_eq!((&asleep.id, &asleep.private_ip), (&awake.id, &awake.private_ip));
    assert!(asleep.state_reason.is_some());

    command(&world, r#"{"resume": {}}"#);
    world.emulator().advance(600_000);
    let again = world.in_cluster().await.remove(0);
    assert_eq!((again.state, &again.id), (InstanceState::Running, &awake.id));
}

/// What the move of this sleeping instance does, until `done` says so of its stage.
async fn relocate(world: &World, fleet_id: &str, asleep: &Instance, done: Stage) -> Relocation {
    let mut moving: Relocation = serde_json::from_value(serde_json::json!({
        "node": "p-g-0", "cluster": world.cluster, "account": world.account, "stage": "inspect",
        "from": asleep.id, "fleet_id": fleet_id, "token": format!("move-{}", world.cluster), "tries": 0,
        "tags": {CLUSTER_TAG: world.cluster}, "begun_unix_ms": 0, "asleep_since_unix_ms": 0,
    }))
    .expect("a move at its beginning");
    let mut fleet_gone = false;
    for _ in 0..200 {
        let CloudReply::Parts { instances, volumes } = world.ok(moving.look()).await else {
            panic!("no parts")
        };
        let unix_ms = 1_900_000_000_000;
        let sight = Sight { instances: &instances, volumes: &volumes, fleet_gone, unix_ms };
        if moving.stage == done {
            return moving;
        }
        match moving.next(&sight) {
            Next::Change(next) => moving = *next,
            Next::Look => {}
            Next::Wait(ms) => {
                world.emulator().advance(i64::try_from(ms).unwrap());
            }
            Next::EndFleet => {
                let request =
                    CloudRequest::DeleteFleets { ids: vec![fleet_id.into()], terminate_instances: true };
                world.ok(request).await;
                fleet_gone = true;
            }
            Next::Call(request) => match world.call(request.clone()).await {
                Ok(reply) => {
                    let made = match reply {
                        CloudReply::Instances(made) => Some(made[0].id.clone()),
                        CloudReply::Reserved { id } => Some(id),
                        _ => None,
                    };
                    moving = moving.accepted(&request, made, unix_ms);
                }
                // The agent in the new instance is not ready yet.
                Err(error) => {
                    assert_eq!((request.action(), &*error.code), ("StopInstances", "UnsupportedOperation"));
                    world.emulator().advance(10_000);
                }
            },
            Next::Bind(instance) => {
                assert_eq!(
                    (&instance.private_ip, instance.state),
                    (&asleep.private_ip, InstanceState::Running)
                );
                moving.moved = true;
                moving.stage = Stage::Restore;
            }
            Next::Over(end) => panic!("over before its time: {end:?}"),
        }
    }
    panic!("the move stands still at {:?}", moving.stage);
}

fn moments(world: &World, of: &str) -> Vec<(Moment, String)> {
    let signals = world.emulator().signals();
    signals.iter().filter(|s| s.memory_of == of).map(|s| (s.moment, s.instance_id.clone())).collect()
}

/// Its processes go on where its root volume is started.
#[tokio::test]
async fn a_hibernated_instance_goes_on_as_another_with_its_volumes_and_interface() {
    let world = emulated(r#"{"speed": 0, "pools": [{"lifecycle": "on-demand", "capacity": 1}]}"#).await;
    let (fleet_id, awake) = hibernating(&world).await;
    command(&world, r#"{"interrupt": {}}"#);
    world.emulator().advance(600_000);
    let asleep = world.in_cluster().await.remove(0);
    let moved = relocate(&world, &fleet_id, &asleep, Stage::Settle).await;
    let to = moved.to.clone().expect("an on-demand instance");
    assert_eq!(
        moments(&world, &awake.id),
        [
            (Moment::Boot, awake.id.clone()),
            (Moment::Hibernate, awake.id.clone()),
            (Moment::Resume, to.clone())
        ]
    );
    let living = world.in_cluster().await;
    assert_eq!(living.iter().map(|i| (&i.id, i.lifecycle)).collect::<Vec<_>>(), [(&to, Lifecycle::OnDemand)]);
    let request =
        CloudRequest::DescribeParts { instances: vec![to.clone()], volumes: moved.own_volumes.clone() };
    let CloudReply::Parts { instances, volumes } = world.ok(request).await else { panic!("no parts") };
    let devices: Vec<(&str, bool)> =
        instances[0].devices.iter().map(|d| (d.volume_id.as_str(), d.delete_on_termination)).collect();
    assert_eq!(devices, [(moved.volumes[0].volume_id.as_str(), true)]);
    assert!(instances[0].interfaces.iter().all(|interface| interface.delete_on_termination));
    assert_eq!(volumes[0].attachment, None, "what it was born with is ready to be deleted");
    // The memory image has been used; ending the instance ends the processes.
    world.terminate(std::slice::from_ref(&to)).await;
    world.emulator().advance(60_000);
    assert_eq!(moments(&world, &awake.id).last(), Some(&(Moment::End, to)));
}

/// "Behavior of Spot Instance interruptions": a start without root volume fails, and EC2 ends the instance.
#[tokio::test]
async fn what_is_detached_outlives_an_instance_that_cannot_be_started() {
    let world = emulated(r#"{"speed": 0}"#).await;
    let (fleet_id, awake) = hibernating(&world).await;
    command(&world, r#"{"interrupt": {}}"#);
    world.emulator().advance(600_000);
    let asleep = world.in_cluster().await.remove(0);
    let moved = relocate(&world, &fleet_id, &asleep, Stage::EndSpot).await;
    command(&world, r#"{"resume": {}}"#);
    world.emulator().advance(5_000);
    let CloudReply::Parts { instances, volumes } = world.ok(moved.look()).await else { panic!("no parts") };
    assert_eq!(instances[0].instance.state, InstanceState::Terminated);
    assert!(volumes.len() == 1 && volumes[0].attachment.is_none(), "{volumes:?}");
    assert!(moments(&world, &awake.id).iter().all(|(moment, _)| *moment != Moment::End), "frozen, not ended");
}

/// Calls of one client at the same time do not wait for each other.
#[tokio::test]
async fn calls_run_beside_each_other() {
    let world = emulated(r#"{"speed": 0}"#).await;
    command(&world, r#"{"fault": {"action": "CreateFleet", "latency_ms": 50000}}"#);
    let create = {
        let request =
            CloudRequest::CreateFleet(Box::new(world.fleet(FleetType::Instant, Lifecycle::OnDemand, 1)));
        let (ec2, account) = (world.ec2.clone(), world.account.clone());
        tokio::spawn(async move { ec2.call(account, request).await })
    };
    while calls(&world, "CreateFleet") == 0 {
        tokio::task::yield_now().await;
    }
    world.in_cluster().await;
    assert!(!create.is_finished(), "the answer to CreateFleet is still 50 s away");
    create.abort();
}
