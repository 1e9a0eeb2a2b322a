// SPDX-License-Identifier: GPL-3.0-or-later
//! The AWS SDK for Rust against the emulator: every action that the plugin calls, and the errors it handles.

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_ec2::error::ProvideErrorMetadata as _;
use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{
    DefaultTargetCapacityType, Filter, FleetExcessCapacityTerminationPolicy,
    FleetLaunchTemplateConfigRequest, FleetLaunchTemplateOverridesRequest,
    FleetLaunchTemplateSpecificationRequest, FleetType, InstanceStateName, InstanceType,
    LaunchTemplateHibernationOptionsRequest, OnDemandOptionsRequest, RequestLaunchTemplateData, ResourceType,
    SpotInstanceInterruptionBehavior, SpotOptionsRequest, Tag, TagSpecification,
    TargetCapacitySpecificationRequest,
};
use ec2fleet_emulator::{Emulator, Options, Scenario};

pub async fn start(json: &str) -> (Emulator, Client) {
    let scenario = Scenario { speed: 0.0, ..Scenario::from_json(json).unwrap() };
    let emulator = Emulator::start(Options { scenario, ..Options::default() }).await.unwrap();
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(emulator.url())
        .credentials_provider(Credentials::new("AKIAEXAMPLE", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .build();
    (emulator, Client::from_conf(config))
}

pub async fn template(client: &Client) -> String {
    let data = RequestLaunchTemplateData::builder()
        .image_id("ami-0a1b2c3d4e5f60718")
        .instance_type(InstanceType::C5Large)
        .hibernation_options(LaunchTemplateHibernationOptionsRequest::builder().configured(true).build())
        .build();
    let made = client
        .create_launch_template()
        .launch_template_name("template")
        .client_token("template-token")
        .launch_template_data(data)
        .send()
        .await
        .unwrap();
    made.launch_template().unwrap().launch_template_id().unwrap().to_owned()
}

pub fn config(template: &str, subnets: &[&str]) -> FleetLaunchTemplateConfigRequest {
    let specification = FleetLaunchTemplateSpecificationRequest::builder()
        .launch_template_id(template)
        .version("$Latest")
        .build();
    let mut config = FleetLaunchTemplateConfigRequest::builder().launch_template_specification(specification);
    for subnet in subnets {
        config = config.overrides(FleetLaunchTemplateOverridesRequest::builder().subnet_id(*subnet).build());
    }
    config.build()
}

pub fn target(total: i32, default: DefaultTargetCapacityType) -> TargetCapacitySpecificationRequest {
    TargetCapacitySpecificationRequest::builder()
        .total_target_capacity(total)
        .default_target_capacity_type(default)
        .build()
}

const ENCRYPTED: &str = r#"{"images": [{"id": "ami-0a1b2c3d4e5f60718", "encrypted": true, "root_gib": 30}],
                            "pools": [{"zone": "us-east-1b", "capacity": 3}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instant_fleets() {
    let (emulator, client) = start(ENCRYPTED).await;
    let template = template(&client).await;
    let cluster = Tag::builder().key("cluster").value("sdk").build();
    let request = |token: &str, total: i32| {
        client
            .create_fleet()
            .r#type(FleetType::Instant)
            .client_token(token)
            .launch_template_configs(config(&template, &["subnet-bbbb"]))
            .target_capacity_specification(target(total, DefaultTargetCapacityType::OnDemand))
            .tag_specifications(
                TagSpecification::builder()
                    .resource_type(ResourceType::Instance)
                    .tags(cluster.clone())
                    .build(),
            )
            .send()
    };
    let made = request("one", 5).await.unwrap();
    assert_eq!(made.instances()[0].instance_ids().len(), 3);
    assert_eq!(made.errors()[0].error_code(), Some("InsufficientInstanceCapacity"));
    let again = request("one", 5).await.unwrap();
    assert_eq!(again.fleet_id(), made.fleet_id());
    let mismatch = request("one", 4).await.unwrap_err().into_service_error();
    assert_eq!(mismatch.code(), Some("IdempotentParameterMismatch"));
    emulator.advance(5_000);

    let mine = Filter::builder().name("tag:cluster").values("sdk").build();
    let found = client.describe_instances().filters(mine).send().await.unwrap();
    let [reservation] = found.reservations() else { panic!("one launch is one reservation") };
    let indexes: Vec<_> = reservation.instances().iter().map(|i| i.ami_launch_index().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2]);
    let states: Vec<_> = reservation.instances().iter().map(|i| i.state().unwrap().name().unwrap()).collect();
    assert!(states.iter().all(|state| **state == InstanceStateName::Running));

    let ids: Vec<String> = made.instances()[0].instance_ids().to_vec();
    client
        .create_tags()
        .set_resources(Some(ids.clone()))
        .tags(Tag::builder().key("Name").value("node").build())
        .send()
        .await
        .unwrap();
    let status = client.describe_instance_status().set_instance_ids(Some(ids.clone())).send().await.unwrap();
    assert_eq!(status.instance_statuses().len(), 3);
    let ended = client.terminate_instances().set_instance_ids(Some(ids)).send().await.unwrap();
    assert_eq!(ended.terminating_instances().len(), 3);
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_or_nothing() {
    let (emulator, client) = start(ENCRYPTED).await;
    let template = template(&client).await;
    let made = client
        .create_fleet()
        .r#type(FleetType::Instant)
        .launch_template_configs(config(&template, &["subnet-bbbb"]))
        .target_capacity_specification(target(5, DefaultTargetCapacityType::OnDemand))
        .on_demand_options(
            OnDemandOptionsRequest::builder().min_target_capacity(5).single_availability_zone(true).build(),
        )
        .send()
        .await
        .unwrap();
    assert!(made.instances().is_empty());
    assert!(!made.errors().is_empty());
    assert!(emulator.instances().is_empty());
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hibernating_maintain_fleet() {
    let (emulator, client) = start(ENCRYPTED).await;
    let template = template(&client).await;
    let made = client
        .create_fleet()
        .r#type(FleetType::Maintain)
        .launch_template_configs(config(&template, &["subnet-aaaa"]))
        .target_capacity_specification(target(1, DefaultTargetCapacityType::Spot))
        .spot_options(
            SpotOptionsRequest::builder()
                .instance_interruption_behavior(SpotInstanceInterruptionBehavior::Hibernate)
                .build(),
        )
        .send()
        .await
        .unwrap();
    let fleet = made.fleet_id().unwrap();
    emulator.advance(5_000);
    let members = client.describe_fleet_instances().fleet_id(fleet).send().await.unwrap();
    let id = members.active_instances()[0].instance_id().unwrap().to_owned();
    emulator
        .command(serde_json::from_value(serde_json::json!({"interrupt": {"instances": [id]}})).unwrap())
        .unwrap();
    emulator.advance(10_000);
    let state = || async {
        let found = client.describe_instances().instance_ids(&id).send().await.unwrap();
        found.reservations()[0].instances()[0].state().unwrap().name().unwrap().clone()
    };
    assert_eq!(state().await, InstanceStateName::Stopped);
    let refused = client.start_instances().instance_ids(&id).send().await.unwrap_err().into_service_error();
    assert_eq!(refused.code(), Some("IncorrectSpotRequestState"));
    emulator.command(serde_json::from_str(r#"{"resume": {}}"#).unwrap()).unwrap();
    emulator.advance(10_000);
    assert_eq!(state().await, InstanceStateName::Running);

    client
        .modify_fleet()
        .fleet_id(fleet)
        .excess_capacity_termination_policy(FleetExcessCapacityTerminationPolicy::NoTermination)
        .target_capacity_specification(
            TargetCapacitySpecificationRequest::builder().total_target_capacity(0).build(),
        )
        .send()
        .await
        .unwrap();
    emulator.advance(10_000);
    assert_eq!(state().await, InstanceStateName::Running);
    let history = client
        .describe_fleet_history()
        .fleet_id(fleet)
        .start_time(DateTime::from_secs(0))
        .send()
        .await
        .unwrap();
    let kinds: Vec<_> = history.history_records().iter().map(|r| r.event_type().unwrap().as_str()).collect();
    assert!(kinds.contains(&"fleetRequestChange") && kinds.contains(&"instanceChange"), "{kinds:?}");
    let deleted = client.delete_fleets().fleet_ids(fleet).terminate_instances(true).send().await.unwrap();
    assert_eq!(deleted.successful_fleet_deletions().len(), 1);
    emulator.advance(10_000);
    assert_eq!(state().await, InstanceStateName::Terminated);
    emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_lost_replies() {
    let (emulator, client) =
        start(r#"{"throttle": true, "deny": [{"action": "ec2:CreatePlacementGroup"}]}"#).await;
    let missing = client
        .terminate_instances()
        .instance_ids("i-00000000000000000")
        .send()
        .await
        .unwrap_err()
        .into_service_error();
    assert_eq!(missing.code(), Some("InvalidInstanceID.NotFound"));
    let dry = client.describe_subnets().dry_run(true).send().await.unwrap_err();
    assert_eq!(dry.raw_response().unwrap().status().as_u16(), 412);
    assert_eq!(dry.into_service_error().code(), Some("DryRunOperation"));
    let denied = client.create_placement_group().group_name("x").send().await.unwrap_err();
    assert_eq!(denied.into_service_error().code(), Some("UnauthorizedOperation"));
    let run = || {
        client
            .run_instances()
            .image_id("ami-12345678")
            .instance_type(InstanceType::C5Large)
            .min_count(1)
            .max_count(1)
            .client_token("same")
            .send()
    };
    emulator
        .command(
            serde_json::from_str(r#"{"fault": {"action": "RunInstances", "lost_reply": true, "count": 1}}"#)
                .unwrap(),
        )
        .unwrap();
    let lost = run().await.unwrap_err();
    assert!(lost.as_service_error().is_none(), "no answer at all: {lost:?}");
    let instance = run().await.unwrap();
    assert_eq!(emulator.instances().len(), 1);
    assert_eq!(emulator.instances()[0]["instance_id"].as_str(), instance.instances()[0].instance_id());
    let mut throttled = None;
    for _ in 0..6 {
        throttled = run().await.err();
    }
    let throttled = throttled.expect("five tokens were there");
    assert_eq!(throttled.raw_response().unwrap().status().as_u16(), 503);
    assert_eq!(throttled.into_service_error().code(), Some("RequestLimitExceeded"));
    emulator.shutdown().await;
}
