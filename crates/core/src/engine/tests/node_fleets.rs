// SPDX-License-Identifier: GPL-3.0-or-later
//! Fleets of single nodes.

use super::*;

#[test]
fn an_empty_fleet_is_deleted_and_the_next_pool_is_asked() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let mut seen = Vec::new();
    for number in 0..4 {
        let (call, request) = bench.create_fleet();
        seen.push((request.overrides[0].instance_type.clone(), request.overrides[0].subnet_id.clone()));
        bench.fleet_made(call, &format!("fleet-{number}"));
        let until = bench.now.mono_ms + 61_000;
        while bench.now.mono_ms < until {
            bench.tick(1_000);
            if let Some((call, CloudRequest::DescribeFleetInstances { .. })) = bench.take("DescribeInstances")
            {
                bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(Vec::new())) });
            }
            if let Some((call, CloudRequest::DeleteFleets { ids, terminate_instances })) =
                bench.take("DeleteFleets")
            {
                assert_eq!(
                    (ids.as_slice(), terminate_instances),
                    ([format!("fleet-{number}")].as_slice(), true)
                );
                let reply = CloudReply::Deleted { deleted: ids, failed: Vec::new() };
                bench.give(Event::CloudAnswered { call, result: Ok(reply) });
            }
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "two types in two zones, each once: {seen:?}");
    let (_, update) = bench.take_update().expect("then the node is reported");
    assert!(update.reason.unwrap().contains("UnfulfillableCapacity"));
    assert!(bench.engine.persisted().fleets.is_empty());
}

#[test]
fn whatever_is_written_to_an_instance_of_a_nodes_fleet_says_whose_it_is() {
    // The first write of tags has no answer yet, and it may never have one.
    let mut bench = Bench::sleeper();
    bench.tick(60_000);
    let (_, request) = bench.take("CreateTags").expect("the Name tag");
    let CloudRequest::CreateTags { tags, .. } = request else { unreachable!() };
    assert_eq!([tag::NAME, tag::NODE, tag::CLUSTER].map(|key| tags[key].as_str()), ["p-g-0", "p-g-0", "c"]);
}

#[test]
fn powering_down_deletes_the_fleet_and_not_the_instance_alone() {
    let mut bench = Bench::sleeper();
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    bench.tick(40);
    let (_, request) = bench.take("DeleteFleets").expect("the fleet is deleted");
    assert_eq!(
        request,
        CloudRequest::DeleteFleets { ids: vec!["fleet-0".into()], terminate_instances: true }
    );
    assert!(bench.take("TerminateInstances").is_none(), "EC2 would replace it");
}

fn node_fleet(id: &str, node: &str) -> crate::ec2_api::Fleet {
    crate::ec2_api::Fleet {
        id: id.into(),
        state: "active".into(),
        activity: None,
        target: 1,
        fulfilled: 1.0,
        client_token: None,
        tags: [(tag::NODE.to_owned(), node.to_owned())].into(),
    }
}

#[test]
fn a_fleet_that_no_journal_knows_is_adopted_or_deleted() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.answer_views();
    let fleet = node_fleet;
    let mut deleted = Vec::new();
    let elsewhere = Account { region: "ap-south-1".into(), profile: None };
    for _ in 0..8 {
        // That another account has no fleets says nothing of this one's.
        bench.engine.take_fleets(&elsewhere, 0, Ok(CloudReply::Fleets(Vec::new())));
        while let Some((call, _)) = bench.take("DescribeFleets") {
            let fleets = vec![fleet("fleet-mine", "p-g-0"), fleet("fleet-lost", "p-g-7")];
            bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets)) });
        }
        bench.rescan(61);
        bench.tick(40);
        if let Some((_, CloudRequest::DeleteFleets { ids, .. })) = bench.take("DeleteFleets") {
            deleted.extend(ids);
        }
    }
    assert!(deleted.contains(&"fleet-lost".to_owned()), "{deleted:?}");
}

#[test]
fn a_fleet_from_before_a_power_up_is_not_the_nodes() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.tick(0);
    bench.answer_views();
    let list = |bench: &mut Bench| {
        bench.rescan(61);
        while let Some((call, _)) = bench.take("DescribeFleets") {
            let fleets = vec![node_fleet("fleet-old", "p-g-0")];
            bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets)) });
        }
    };
    list(&mut bench);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(1);
    bench.wake(&["p-g-0"]);
    for _ in 0..5 {
        list(&mut bench);
    }
    let adopted = bench
        .records
        .iter()
        .any(|record| matches!(record, Record::FleetOf { fleet, .. } if fleet.fleet_id == "fleet-old"));
    assert!(!adopted, "its instance booted before the power-up and could not register");
    bench.tick(40);
    let (_, request) = bench.take("DeleteFleets").expect("it goes as one without a node");
    assert!(matches!(request, CloudRequest::DeleteFleets { ids, .. } if ids == ["fleet-old"]));
}

#[test]
fn nodes_with_their_own_fleets_leave_spot_when_the_account_has_no_more() {
    let mut group = hibernating();
    group.spot_fallback_s = Some(210);
    let mut bench = Bench::with(group, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, request) = bench.create_fleet();
    assert_eq!(request.lifecycle, Lifecycle::Spot);
    bench.fleet_made(call, "fleet-0");
    let mut asked = None;
    for _ in 0..30 {
        bench.tick(1_000);
        asked = asked.or_else(|| bench.take("DescribeFleetHistory"));
    }
    let (call, _) = asked.expect("the history is asked after a while");
    let records = vec![of_history("spotInstanceCountLimitExceeded", &bench)];
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::History(records)) });
    let (_, request) = bench.take("CreateFleet").expect("another fleet at once");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!((request.lifecycle, request.target), (Lifecycle::OnDemand, 1));
    bench.tick(1_000);
    assert!(bench.take("DeleteFleets").is_some(), "the empty Spot fleet goes");
}

#[test]
fn the_fleet_of_a_running_job_is_not_deleted_though_no_list_shows_its_instance() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.tick(0);
    bench.answer_views();
    let fleets = vec![node_fleet("fleet-mine", "p-g-0")];
    while let Some((call, _)) = bench.take("DescribeFleets") {
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets.clone())) });
    }
    bench.tick(1_000);
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-mine");
    assert!(bench.take("DeleteFleets").is_none());
}

#[test]
fn of_two_fleets_of_a_node_the_one_with_its_instance_is_kept() {
    let mut bench = Bench::sleeper();
    let mut old = bench.engine.persisted().fleets["p-g-0"].clone();
    old.fleet_id = "fleet-old".into();
    bench.engine.g.cx.record(Record::FleetOf { node: "p-g-0".into(), fleet: old });
    bench.rescan(61);
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn a_node_whose_fleet_is_being_made_adopts_no_other() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    let account = bench.engine.site().accounts()[0].clone();
    let left = CloudReply::Fleets(vec![node_fleet("fleet-left", "p-g-0")]);
    bench.engine.take_fleets(&account, 0, Ok(left.clone()));
    assert!(bench.engine.persisted().fleets.is_empty());
    bench.fleet_made(call, "fleet-0");
    bench.tick(181_000);
    bench.engine.take_fleets(&account, 0, Ok(left));
    bench.tick(40);
    let mut deleted = Vec::new();
    while let Some((_, CloudRequest::DeleteFleets { ids, .. })) = bench.take("DeleteFleets") {
        deleted.extend(ids);
    }
    assert!(deleted.contains(&"fleet-left".to_owned()), "{deleted:?}");
}

#[test]
fn a_deletion_under_way_goes_on_after_a_restart_unless_a_node_has_the_fleet() {
    for claimed in [false, true] {
        let mut before = Bench::sleeper();
        suspend(&mut before, "p-g-0");
        before.tick(40);
        assert!(before.take("DeleteFleets").is_some());
        // The node has another fleet by now, and the call has not been answered.
        let mut persisted = before.engine.persisted().clone();
        if !claimed {
            persisted.fleets.get_mut("p-g-0").unwrap().fleet_id = "fleet-1".into();
        }
        let mut bench = Bench::with(hibernating(), persisted);
        bench.instances.clone_from(&before.instances);
        bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
        bench.tick(0);
        bench.tick(100);
        assert!(bench.take("DeleteFleets").is_none(), "nothing is known yet");
        bench.answer_views();
        bench.tick(100);
        let deleted = bench.take("DeleteFleets").map(|(_, request)| request);
        let ids = vec!["fleet-0".to_owned()];
        let expected = CloudRequest::DeleteFleets { ids, terminate_instances: true };
        assert_eq!(deleted, (!claimed).then_some(expected));
    }
}

#[test]
fn a_restart_does_not_delete_the_fleet_that_a_node_waits_for() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    bench.fleet_made(call, "fleet-0");
    let persisted = bench.engine.persisted().clone();
    let slurm = bench.slurm.clone();
    let mut bench = Bench::with(hibernating(), persisted);
    bench.slurm = slurm;
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.tick(100);
    assert!(bench.take("DeleteFleets").is_none(), "nothing is known yet");
    bench.answer_views();
    bench.tick(100);
    assert!(bench.take("DeleteFleets").is_none());
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn a_restart_goes_on_with_the_last_launch_of_a_node_and_leaves_its_fleet_before() {
    let mut before = Bench::with(hibernating(), Persisted::default());
    before.tick(0);
    before.answer_views();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let (call, _) = before.create_fleet();
    before.fleet_made(call, "fleet-0");
    // The pool stays silent: the next one is asked, and the process ends before it deletes the fleet.
    before.tick(61_000);
    before.tick(1);
    let (_, second) = before.create_fleet();
    assert!(before.take("DeleteFleets").is_none());
    let mut bench = Bench::with(hibernating(), before.engine.persisted().clone());
    bench.slurm.clone_from(&before.slurm);
    // slurmctld is silent for longer than a pool is waited for.
    bench.tick(0);
    for _ in 0..90 {
        bench.give(Event::Power(PowerReading { waking: vec!["p-g-0".into()], ..PowerReading::default() }));
        bench.tick(1_000);
    }
    assert!(bench.take("CreateFleet").is_none(), "the launch that is open is the node's");
    bench.answer_views();
    let (call, again) = bench.create_fleet();
    assert_eq!(again, second);
    bench.fleet_made(call, "fleet-1");
    bench.tick(40);
    let (_, deleted) = bench.take("DeleteFleets").expect("the silent pool's fleet");
    let ids = vec!["fleet-0".to_owned()];
    assert_eq!(deleted, CloudRequest::DeleteFleets { ids, terminate_instances: true });
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-1");
    assert!(bench.take("CreateFleet").is_none());
}

#[test]
fn an_instance_whose_fleet_is_being_deleted_is_given_to_no_node() {
    let mut bench = Bench::sleeper();
    suspend(&mut bench, "p-g-0");
    bench.tick(40);
    let (call, deletion) = bench.take("DeleteFleets").expect("the fleet goes");
    let throttled = CloudError { class: ErrorClass::Throttle, ..capacity() };
    bench.give(Event::CloudAnswered { call, result: Err(throttled) });
    // Its slurmd registers after all, and Slurm has the node up again.
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.slurm[0].addr = bench.instances[0].private_ip.clone().unwrap();
    bench.rescan(61);
    assert_eq!(bench.bound("p-g-0"), None);
    assert_eq!(bench.take("DeleteFleets").map(|(_, request)| request), Some(deletion));
}

#[test]
fn no_fleet_is_deleted_that_may_hold_the_job_of_a_node_without_a_known_instance() {
    let before = Bench::sleeper();
    let mut fleets = before.engine.persisted().fleets.clone();
    fleets.get_mut("p-g-0").unwrap().fleet_id = "fleet-1".into();
    let mut bench = Bench::with(hibernating(), Persisted { fleets, ..Persisted::default() });
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    bench.answer_views();
    let account = bench.engine.site().accounts()[0].clone();
    let listed = CloudReply::Fleets(vec![node_fleet("fleet-1", "p-g-0"), node_fleet("fleet-0", "p-g-0")]);
    for (base, deleted) in
        [(NodeBase::Allocated, false), (NodeBase::Allocated, false), (NodeBase::Idle, true)]
    {
        bench.set_slurm("p-g-0", base, NodeFlags::CLOUD);
        bench.rescan(181);
        bench.engine.take_fleets(&account, 0, Ok(listed.clone()));
        bench.tick(40);
        let ids = bench.take("DeleteFleets").map(|(_, request)| request);
        let expected = CloudRequest::DeleteFleets { ids: vec!["fleet-0".into()], terminate_instances: true };
        assert_eq!(ids, deleted.then_some(expected));
    }
}

#[test]
fn while_slurmctld_is_silent_no_fleet_is_an_orphan() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    for _ in 0..10 {
        let fleets = CloudReply::Fleets(vec![node_fleet("fleet-busy", "p-g-0")]);
        let account = bench.engine.site().accounts()[0].clone();
        bench.engine.take_fleets(&account, 0, Ok(fleets));
        bench.tick(60_000);
        assert!(bench.take("DeleteFleets").is_none());
    }
}

#[test]
fn a_replayed_create_fleet_does_not_delete_the_fleet_that_already_holds_the_node() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    let open = bench.engine.persisted().open.clone();
    bench.fleet_made(call, "fleet-0");
    // The crash lost the outcome, and not whose the fleet is.
    let persisted = Persisted { open, ..bench.engine.persisted().clone() };
    let mut bench = Bench::with(hibernating(), persisted);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.answer_views();
    let (call, _) = bench.create_fleet();
    let mut instance = bench.instance("i-0", 0, "");
    instance.tags = [(tag::FLEET_ID.to_owned(), "fleet-0".to_owned())].into();
    let account = bench.engine.site().accounts()[0].clone();
    bench.engine.node_fleets.take_fleet_instances(
        &mut bench.engine.g,
        &account,
        Ok(CloudReply::Instances(vec![instance])),
    );
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
    bench.fleet_made(call, "fleet-0");
    bench.tick(1_000);
    assert!(bench.take("DeleteFleets").is_none());
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn an_instance_of_a_known_fleet_is_adopted_by_the_fleets_node_that_is_up_without_one() {
    let bench = Bench::sleeper();
    let instance = bench.instances[0].clone();
    let fleets = bench.engine.persisted().fleets.clone();
    let slurm = bench.slurm.clone();
    let mut bench = Bench::with(hibernating(), Persisted { fleets, ..Persisted::default() });
    bench.slurm = slurm;
    bench.slurm[0].addr = instance.private_ip.clone().unwrap();
    bench.instances = vec![instance];
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}
