// SPDX-License-Identifier: GPL-3.0-or-later
//! What every server that claims to be EC2 must show us: the same functions run against each of them.

use std::collections::BTreeSet;

use aws_sdk_ec2::types::SpotInstanceState;
use ec2fleet_core::ec2_api::{
    CloudReply, CloudRequest, ErrorClass, Fleet, FleetType, Instance, InstanceState, LaunchedInstances,
};
use ec2fleet_core::site::Lifecycle;

use crate::backend::{CLUSTER_TAG, World, sorted, tags};
use crate::on_each_backend;

on_each_backend! {
    an_instant_fleet_launches_and_tags_its_instances
    a_spot_fleet_is_spot
    overrides_name_pools
    a_cluster_sees_only_its_own
    ended_instances_leave_the_cluster_but_are_found_by_id
    unknown_ids_are_left_out_of_descriptions
    many_ids_are_described_in_chunks
    unknown_ids_do_not_save_the_others
    terminating_twice_is_no_error
    tags_are_added_to_instances
    a_missing_launch_template_is_a_configuration_error
    a_missing_subnet_is_a_configuration_error
    a_maintain_fleet_lives_until_deleted
    spot_requests_can_be_cancelled
}

const NOT_THERE: &str = "i-0123456789abcdef0";

async fn an_instant_fleet_launches_and_tags_its_instances(world: World) {
    let reply = world.launch(Lifecycle::OnDemand, 3).await;
    assert!(reply.fleet_id.starts_with("fleet-"), "{}", reply.fleet_id);
    assert_eq!(reply.errors, []);
    assert_eq!(reply.instance_ids().len(), 3);
    for LaunchedInstances { instance_type, lifecycle, subnet_id, .. } in &reply.instances {
        assert_eq!(instance_type, "c5.large");
        assert_eq!(*lifecycle, Lifecycle::OnDemand);
        assert_eq!(subnet_id.as_ref(), Some(&world.subnets[0]));
    }

    let listed = world.in_cluster().await;
    assert_eq!(
        sorted(listed.iter().map(|i| i.id.clone()).collect()),
        sorted(reply.instance_ids()),
        "the cluster's list is the launch"
    );
    let indexes: BTreeSet<u32> = listed.iter().map(|i| i.ami_launch_index).collect();
    assert_eq!(indexes, BTreeSet::from([0, 1, 2]), "one reservation numbers its instances");
    let addresses: BTreeSet<&String> = listed.iter().filter_map(|i| i.private_ip.as_ref()).collect();
    assert_eq!(addresses.len(), 3, "each has an address of its own: {listed:?}");
    for instance in &listed {
        assert!(matches!(instance.state, InstanceState::Pending | InstanceState::Running));
        assert_eq!(instance.instance_type, "c5.large");
        assert_eq!(instance.lifecycle, Lifecycle::OnDemand);
        assert_eq!(instance.subnet_id.as_ref(), Some(&world.subnets[0]));
        assert!(instance.zone.starts_with("us-east-1"), "{}", instance.zone);
        assert_eq!(instance.reservation_id, listed[0].reservation_id);
        assert!(instance.reservation_id.starts_with("r-"));
        assert!(instance.private_dns.as_ref().is_some_and(|name| name.contains("internal")), "{instance:?}");
        assert!(instance.launch_unix_ms > 1_500_000_000_000, "milliseconds: {}", instance.launch_unix_ms);
        assert_eq!(&instance.tags[CLUSTER_TAG], world.cluster);
        assert_eq!(&instance.tags["Owner"], "hpc & <friends>");
    }
}

async fn a_spot_fleet_is_spot(world: World) {
    let reply = world.launch(Lifecycle::Spot, 2).await;
    assert_eq!(reply.instance_ids().len(), 2);
    assert!(reply.instances.iter().all(|set| set.lifecycle == Lifecycle::Spot), "{reply:?}");
    for instance in world.by_ids(&reply.instance_ids()).await {
        assert_eq!(instance.lifecycle, Lifecycle::Spot);
    }
}

async fn overrides_name_pools(world: World) {
    let mut fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 1);
    let mut second = fleet.overrides[0].clone();
    second.instance_type = Some("c5.xlarge".into());
    second.subnet_id = Some(world.subnets[1].clone());
    fleet.overrides = vec![second];
    let reply = world.create(fleet).await;
    assert_eq!(reply.instances[0].instance_type, "c5.xlarge");
    let instance = world.by_ids(&reply.instance_ids()).await.remove(0);
    assert_eq!(instance.instance_type, "c5.xlarge");
    assert_eq!(instance.subnet_id.as_ref(), Some(&world.subnets[1]));
}

async fn a_cluster_sees_only_its_own(world: World) {
    let other = world.beside().await;
    let ours = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    let theirs = other.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    assert_eq!(ids(world.in_cluster().await), ours);
    assert_eq!(ids(other.in_cluster().await), theirs);
}

async fn ended_instances_leave_the_cluster_but_are_found_by_id(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 2).await.instance_ids();
    let (terminated, unknown) = world.terminate(&launched[..1]).await;
    assert_eq!((terminated, unknown), (launched[..1].to_vec(), vec![]));
    assert_eq!(ids(world.in_cluster().await), launched[1..]);
    let ended = world.by_ids(&launched[..1]).await.remove(0);
    assert!(ended.state.is_ended(), "{ended:?}");
    assert!(ended.state_reason.is_some_and(|code| code == "Client.UserInitiatedShutdown"));
}

async fn unknown_ids_are_left_out_of_descriptions(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    let asked = vec![NOT_THERE.to_owned(), launched[0].clone()];
    assert_eq!(ids(world.by_ids(&asked).await), launched);
    assert_eq!(world.by_ids(&[NOT_THERE.to_owned()]).await, []);
    assert_eq!(world.by_ids(&[]).await, []);
}

async fn many_ids_are_described_in_chunks(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 205).await.instance_ids();
    assert_eq!(ids(world.by_ids(&launched).await), sorted(launched));
}

async fn unknown_ids_do_not_save_the_others(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 2).await.instance_ids();
    let asked = vec![launched[0].clone(), NOT_THERE.into(), launched[1].clone()];
    let (terminated, unknown) = world.terminate(&asked).await;
    assert_eq!(sorted(terminated), sorted(launched.clone()));
    assert_eq!(unknown, [NOT_THERE]);
    assert!(world.by_ids(&launched).await.iter().all(|instance| instance.state.is_ended()));
    assert_eq!(world.terminate(&[NOT_THERE.into()]).await, (vec![], vec![NOT_THERE.to_owned()]));
}

async fn terminating_twice_is_no_error(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 1).await.instance_ids();
    assert_eq!(world.terminate(&launched).await.0, launched);
    assert_eq!(world.terminate(&launched).await.0, launched);
}

async fn tags_are_added_to_instances(world: World) {
    let launched = world.launch(Lifecycle::OnDemand, 2).await.instance_ids();
    let added = tags(&[("Name", "aws-node-0"), ("ec2fleet:nodes", "aws-node-[0-1]")]);
    let request = CloudRequest::CreateTags { ids: launched.clone(), tags: added };
    assert_eq!(world.ok(request).await, CloudReply::Tagged);
    for instance in world.by_ids(&launched).await {
        assert_eq!(&instance.tags["Name"], "aws-node-0");
        assert_eq!(&instance.tags["ec2fleet:nodes"], "aws-node-[0-1]");
        assert_eq!(&instance.tags[CLUSTER_TAG], world.cluster, "the tags of the launch are kept");
    }
}

async fn a_missing_launch_template_is_a_configuration_error(world: World) {
    let mut fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 1);
    fleet.launch_template.launch_template_name = Some("no-such-template".into());
    let error = world.refused(CloudRequest::CreateFleet(Box::new(fleet))).await;
    assert_eq!(error.class, ErrorClass::Configuration, "{error:?}");
    assert!(error.code.starts_with("InvalidLaunchTemplateName.NotFound"), "{error:?}");
}

async fn a_missing_subnet_is_a_configuration_error(world: World) {
    let mut fleet = world.fleet(FleetType::Instant, Lifecycle::OnDemand, 1);
    fleet.overrides[0].subnet_id = Some("subnet-0123456789abcdef0".into());
    let error = match world.call(CloudRequest::CreateFleet(Box::new(fleet))).await {
        Err(error) => (error.code, error.class),
        // An instant fleet may also answer with one error for each pool.
        Ok(CloudReply::Fleet(reply)) => (reply.errors[0].code.clone(), reply.errors[0].class),
        Ok(other) => panic!("{other:?}"),
    };
    assert_eq!(error, ("InvalidSubnetID.NotFound".to_owned(), ErrorClass::Configuration));
}

async fn a_maintain_fleet_lives_until_deleted(world: World) {
    let fleet = world.fleet(FleetType::Maintain, Lifecycle::Spot, 1);
    let reply = world.create(fleet).await;
    assert_eq!(reply.instances, [], "a maintain fleet launches after its reply");

    let mine = fleets(&world).await;
    assert_eq!(mine.len(), 1);
    assert_eq!((&mine[0].id, mine[0].target), (&reply.fleet_id, 1));
    assert!(["submitted", "active"].contains(&&*mine[0].state), "{mine:?}");
    assert_eq!(mine[0].tags[CLUSTER_TAG], world.cluster);
    let other = world.beside().await;
    assert_eq!(fleets(&other).await, [], "another cluster does not see it");

    let request = CloudRequest::DeleteFleets { ids: vec![reply.fleet_id.clone()], terminate_instances: true };
    let deleted = CloudReply::Deleted { deleted: vec![reply.fleet_id], failed: vec![] };
    assert_eq!(world.ok(request).await, deleted);
    assert_eq!(fleets(&world).await, [], "a deleted fleet is not listed");
}

async fn spot_requests_can_be_cancelled(world: World) {
    let launched = world.launch(Lifecycle::Spot, 1).await.instance_ids();
    let request_id = spot_request_of(&world, &launched[0]).await;
    let request = CloudRequest::CancelSpotInstanceRequests { ids: vec![request_id.clone()] };
    assert_eq!(world.ok(request).await, CloudReply::Cancelled);
    let listed =
        world.admin.describe_spot_instance_requests().spot_instance_request_ids(request_id).send().await;
    // moto forgets a cancelled request.
    if let Some(request) = listed.expect("Spot requests").spot_instance_requests().first() {
        assert_eq!(request.state(), Some(&SpotInstanceState::Cancelled));
    }
    assert_eq!(ids(world.in_cluster().await), launched, "the instance runs on");
}

async fn spot_request_of(world: &World, instance: &str) -> String {
    let requests = world.admin.describe_spot_instance_requests().send().await.expect("Spot requests");
    requests
        .spot_instance_requests()
        .iter()
        .find(|request| request.instance_id() == Some(instance))
        .and_then(|request| request.spot_instance_request_id())
        .expect("the instance's request")
        .to_owned()
}

pub async fn fleets(world: &World) -> Vec<Fleet> {
    match world.ok(CloudRequest::DescribeFleets { cluster: world.cluster.clone() }).await {
        CloudReply::Fleets(fleets) => fleets,
        other => panic!("{other:?}"),
    }
}

fn ids(instances: Vec<Instance>) -> Vec<String> {
    sorted(instances.into_iter().map(|instance| instance.id).collect())
}
