// SPDX-License-Identifier: GPL-3.0-or-later
//! Every emulated action once by the AWS SDK for Rust: it understands each answer.

use std::collections::BTreeSet;

use aws_sdk_ec2::primitives::DateTime;
use aws_sdk_ec2::types::{
    AttributeBooleanValue, AttributeValue, CapacityReservationInstancePlatform, FleetType,
    InstanceAttributeName, InstanceMarketOptionsRequest, InstanceType, LaunchTemplateSpecification,
    LocationType, MarketType, PlacementStrategy, RequestLaunchTemplateData, Tag,
    TargetCapacitySpecificationRequest,
};
use ec2fleet_emulator::api::query;

use crate::sdk::{config, start, target, template};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::too_many_lines)]
async fn every_action() {
    let (emulator, client) = start("{}").await;
    let settle = || emulator.advance(10_000);

    assert_eq!(client.describe_subnets().send().await.unwrap().subnets().len(), 4);
    assert_eq!(client.describe_vpcs().send().await.unwrap().vpcs().len(), 1);
    assert_eq!(client.describe_availability_zones().send().await.unwrap().availability_zones().len(), 4);
    assert_eq!(client.describe_regions().send().await.unwrap().regions().len(), 1);
    assert_eq!(client.describe_security_groups().send().await.unwrap().security_groups().len(), 1);
    assert_eq!(client.describe_images().image_ids("ami-12345678").send().await.unwrap().images().len(), 1);
    assert!(!client.describe_account_attributes().send().await.unwrap().account_attributes().is_empty());
    let types = client.describe_instance_types().instance_types(InstanceType::C5Large).send().await.unwrap();
    assert_eq!(types.instance_types()[0].v_cpu_info().unwrap().default_v_cpus(), Some(2));
    let offered =
        client.describe_instance_type_offerings().location_type(LocationType::AvailabilityZone).send().await;
    assert!(offered.unwrap().instance_type_offerings().len() > 100);
    let prices =
        client.describe_spot_price_history().instance_types(InstanceType::C5Large).send().await.unwrap();
    assert_eq!(prices.spot_price_history().len(), 4);
    let scores = client
        .get_spot_placement_scores()
        .instance_types("c5.large")
        .target_capacity(1)
        .send()
        .await
        .unwrap();
    assert_eq!(scores.spot_placement_scores()[0].score(), Some(10));

    let id = template(&client).await;
    let data = RequestLaunchTemplateData::builder()
        .image_id("ami-12345678")
        .instance_type(InstanceType::M5Large)
        .build();
    let version = client
        .create_launch_template_version()
        .launch_template_id(&id)
        .launch_template_data(data)
        .send()
        .await
        .unwrap();
    assert_eq!(version.launch_template_version().unwrap().version_number(), Some(2));
    client.modify_launch_template().launch_template_id(&id).default_version("2").send().await.unwrap();
    let templates = client.describe_launch_templates().launch_template_ids(&id).send().await.unwrap();
    assert_eq!(templates.launch_templates()[0].default_version_number(), Some(2));
    let versions = client.describe_launch_template_versions().launch_template_id(&id).send().await.unwrap();
    assert_eq!(versions.launch_template_versions().len(), 2);

    client
        .create_placement_group()
        .group_name("tight")
        .strategy(PlacementStrategy::Cluster)
        .send()
        .await
        .unwrap();
    assert_eq!(client.describe_placement_groups().send().await.unwrap().placement_groups().len(), 1);
    client.delete_placement_group().group_name("tight").send().await.unwrap();
    let reserved = client
        .create_capacity_reservation()
        .instance_type("c5.large")
        .instance_platform(CapacityReservationInstancePlatform::LinuxUnix)
        .availability_zone("us-east-1d")
        .instance_count(1)
        .send()
        .await
        .unwrap();
    let reservation = reserved.capacity_reservation().unwrap().capacity_reservation_id().unwrap().to_owned();
    assert_eq!(
        client.describe_capacity_reservations().send().await.unwrap().capacity_reservations().len(),
        1
    );
    client.cancel_capacity_reservation().capacity_reservation_id(reservation).send().await.unwrap();

    let run = |spot: bool| {
        let market =
            spot.then(|| InstanceMarketOptionsRequest::builder().market_type(MarketType::Spot).build());
        client
            .run_instances()
            .launch_template(
                LaunchTemplateSpecification::builder().launch_template_id(&id).version("2").build(),
            )
            .set_instance_market_options(market)
            .subnet_id("subnet-aaaa")
            .min_count(1)
            .max_count(1)
            .send()
    };
    let instance = run(false).await.unwrap().instances()[0].instance_id().unwrap().to_owned();
    let spot = run(true).await.unwrap().instances()[0].instance_id().unwrap().to_owned();
    settle();
    client
        .create_tags()
        .resources(&instance)
        .tags(Tag::builder().key("a").value("b").build())
        .send()
        .await
        .unwrap();
    assert_eq!(client.describe_tags().send().await.unwrap().tags().len(), 1 + 2 * 2);
    client.delete_tags().resources(&instance).tags(Tag::builder().key("a").build()).send().await.unwrap();
    let requests = client.describe_spot_instance_requests().send().await.unwrap();
    let request = requests.spot_instance_requests()[0].spot_instance_request_id().unwrap().to_owned();
    client.cancel_spot_instance_requests().spot_instance_request_ids(request).send().await.unwrap();
    assert_eq!(client.describe_instance_status().send().await.unwrap().instance_statuses().len(), 2);
    assert!(client.get_console_output().instance_id(&instance).send().await.unwrap().output().is_some());
    client.reboot_instances().instance_ids(&instance).send().await.unwrap();
    client
        .modify_instance_metadata_options()
        .instance_id(&instance)
        .http_put_response_hop_limit(2)
        .send()
        .await
        .unwrap();

    let volume = client
        .create_volume()
        .availability_zone("us-east-1a")
        .size(1)
        .send()
        .await
        .unwrap()
        .volume_id()
        .unwrap()
        .to_owned();
    client.attach_volume().volume_id(&volume).instance_id(&instance).device("/dev/sdf").send().await.unwrap();
    let interface = client.create_network_interface().subnet_id("subnet-aaaa").send().await.unwrap();
    let interface = interface.network_interface().unwrap().network_interface_id().unwrap().to_owned();
    let attached = client
        .attach_network_interface()
        .network_interface_id(&interface)
        .instance_id(&instance)
        .device_index(1)
        .send()
        .await
        .unwrap();
    settle();
    client
        .modify_network_interface_attribute()
        .network_interface_id(&interface)
        .source_dest_check(AttributeBooleanValue::builder().value(false).build())
        .send()
        .await
        .unwrap();
    let volumes = client.describe_volumes().volume_ids(&volume).send().await.unwrap();
    assert_eq!(volumes.volumes()[0].attachments()[0].instance_id(), Some(instance.as_str()));
    let interfaces =
        client.describe_network_interfaces().network_interface_ids(&interface).send().await.unwrap();
    assert_eq!(interfaces.network_interfaces()[0].source_dest_check(), Some(false));
    client.detach_volume().volume_id(&volume).send().await.unwrap();
    client.detach_network_interface().attachment_id(attached.attachment_id().unwrap()).send().await.unwrap();
    settle();
    client.delete_volume().volume_id(&volume).send().await.unwrap();
    client.delete_network_interface().network_interface_id(&interface).send().await.unwrap();

    client.stop_instances().instance_ids(&instance).send().await.unwrap();
    settle();
    client
        .modify_instance_attribute()
        .instance_id(&instance)
        .instance_type(AttributeValue::builder().value("m5.xlarge").build())
        .send()
        .await
        .unwrap();
    let attribute = client
        .describe_instance_attribute()
        .instance_id(&instance)
        .attribute(InstanceAttributeName::InstanceType)
        .send()
        .await
        .unwrap();
    assert_eq!(attribute.instance_type().unwrap().value(), Some("m5.xlarge"));
    client.start_instances().instance_ids(&instance).send().await.unwrap();
    settle();
    assert_eq!(client.describe_instances().send().await.unwrap().reservations().len(), 2);

    let fleet = client
        .create_fleet()
        .r#type(FleetType::Maintain)
        .launch_template_configs(config(&id, &["subnet-aaaa"]))
        .target_capacity_specification(target(1, aws_sdk_ec2::types::DefaultTargetCapacityType::OnDemand))
        .send()
        .await
        .unwrap()
        .fleet_id()
        .unwrap()
        .to_owned();
    settle();
    client
        .modify_fleet()
        .fleet_id(&fleet)
        .target_capacity_specification(
            TargetCapacitySpecificationRequest::builder().total_target_capacity(2).build(),
        )
        .send()
        .await
        .unwrap();
    settle();
    assert_eq!(client.describe_fleets().send().await.unwrap().fleets()[0].fulfilled_capacity(), Some(2.0));
    assert_eq!(
        client.describe_fleet_instances().fleet_id(&fleet).send().await.unwrap().active_instances().len(),
        2
    );
    let history = client
        .describe_fleet_history()
        .fleet_id(&fleet)
        .start_time(DateTime::from_secs(0))
        .send()
        .await
        .unwrap();
    assert!(history.history_records().len() > 4);
    client.delete_fleets().fleet_ids(&fleet).terminate_instances(true).send().await.unwrap();
    client.terminate_instances().instance_ids(&instance).instance_ids(&spot).send().await.unwrap();
    client.delete_launch_template().launch_template_id(&id).send().await.unwrap();

    let called: BTreeSet<String> = emulator.calls(0).into_keys().collect();
    let emulated: BTreeSet<String> = query::actions().into_iter().map(str::to_owned).collect();
    assert_eq!(emulated.difference(&called).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(emulator.log(0).iter().all(|entry| entry.status == 200));
    emulator.shutdown().await;
}
