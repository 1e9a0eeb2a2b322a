// SPDX-License-Identifier: GPL-3.0-or-later
//! Launches: asked for, repeated, short, refused.

use super::*;

#[test]
fn a_batch_becomes_one_fleet_one_update_and_one_tag_call() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-2", "p-g-10"]);
    bench.now = bench.now.plus(20);
    bench.wake(&["p-g-1"]);
    let request = bench.launch(3);
    assert_eq!(request.target, 3);
    assert_eq!(request.overrides.len(), 2, "each override in each subnet");
    assert_eq!(request.instance_tags[tag::CLUSTER], "c");
    assert_eq!(request.instance_tags[tag::LAUNCH], request.client_token);
    assert_eq!(request.instance_tags["Team"], "hpc");
    assert!(
        !request.instance_tags.contains_key("Host"),
        "a tag with a placeholder cannot be written at launch"
    );
    let (_, update) = bench.take_update().expect("one update");
    assert_eq!(update.names, ["p-g-1", "p-g-10", "p-g-2"].map(str::to_owned));
    assert_eq!(update.hostnames.as_ref().unwrap()[0], "ip-10-0-0-1");
    let (_, tags) = bench.take("CreateTags").expect("one tag call");
    let CloudRequest::CreateTags { ids, tags } = tags else { unreachable!() };
    assert_eq!(ids.len(), 3);
    assert_eq!(tags[tag::NODES], "p-g-[1-2,10]", "in ami-launch-index order");
    assert!(bench.take("CreateFleet").is_none() && bench.take_update().is_none());
}

#[test]
fn the_intent_is_recorded_before_the_call() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (_, request) = bench.take("CreateFleet").expect("a call");
    let recorded = bench
        .records
        .iter()
        .any(|record| matches!(record, Record::Intent { intent, .. } if intent.request == request));
    assert!(recorded);
}

#[test]
fn a_shortage_is_reported_to_slurm_with_the_ec2_code() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1"]);
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (call, _) = bench.take("CreateFleet").unwrap();
    let one = bench.instance("i-0", 0, "ec2fleet-abc-1");
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances { ids: vec![one.id.clone()], ..LaunchedInstances::default() }],
        errors: vec![PoolError {
            code: "InsufficientInstanceCapacity".into(),
            message: "none left".into(),
            class: ErrorClass::Capacity,
            lifecycle: Lifecycle::Spot,
            instance_type: Some("c5.large".into()),
            subnet_id: Some("subnet-b".into()),
            zone: None,
        }],
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (_, update) = bench.take_update().expect("the failure is reported at once");
    assert_eq!(update.names, ["p-g-1"]);
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
    assert_eq!(update.reason.as_deref(), Some("ec2fleet: InsufficientInstanceCapacity: none left"));
    assert_eq!(bench.placed, ["p-g-0", "p-g-1"], "slurmctld looks no name of their job up");
}

#[test]
fn throttling_repeats_the_same_request_with_the_same_token() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (mut call, first) = bench.take("CreateFleet").unwrap();
    for _ in 0..3 {
        let error =
            CloudError { class: ErrorClass::Throttle, code: "RequestLimitExceeded".into(), ..capacity() };
        bench.give(Event::CloudAnswered { call, result: Err(error) });
        assert!(bench.take_update().is_none(), "no node fails because EC2 is busy");
        let mut next = None;
        for _ in 0..200 {
            bench.tick(250);
            next = bench.take("CreateFleet");
            if next.is_some() {
                break;
            }
        }
        let (again, request) = next.expect("repeated");
        assert_eq!(request, first);
        call = again;
    }
}

#[test]
fn a_call_that_never_succeeds_fails_the_nodes_before_resume_timeout() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    let woken = bench.now.mono_ms;
    for _ in 0..4_000 {
        bench.tick(100);
        bench.answer_views();
        if let Some((call, _)) = bench.take("CreateFleet") {
            let error =
                CloudError { class: ErrorClass::Transient, code: "ConnectionRefused".into(), ..capacity() };
            bench.give(Event::CloudAnswered { call, result: Err(error) });
        }
        if let Some((_, update)) = bench.take_update() {
            assert_eq!(update.names, ["p-g-0"]);
            let waited = bench.now.since(woken);
            assert!((200_000..300_000).contains(&waited), "{waited}");
            return;
        }
    }
    panic!("the node was never reported");
}

#[test]
fn a_node_that_is_suspended_before_its_instance_comes_gets_none() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    let (call, _) = bench.take("CreateFleet").unwrap();
    let launched = vec![bench.instance("i-0", 0, "x"), bench.instance("i-1", 1, "x")];
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances {
            ids: vec!["i-0".into(), "i-1".into()],
            ..LaunchedInstances::default()
        }],
        errors: Vec::new(),
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    assert_eq!(bench.bound("p-g-1"), Some("i-0"));
    assert_eq!(bench.bound("p-g-0"), None);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("the surplus is ended");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into()] });
}

#[test]
fn a_new_instance_is_given_up_only_when_ec2_answers_without_it() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    let (_, mut launched) = bench.launch_unseen(2);
    let out_of_reach = || CloudError { class: ErrorClass::Transient, code: "Timeout".into(), ..capacity() };
    let mut asked = 0;
    for _ in 0..200 {
        bench.tick(1_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            asked += 1;
            bench.give(Event::CloudAnswered { call, result: Err(out_of_reach()) });
        }
        assert!(bench.take("TerminateInstances").is_none() && bench.take_update().is_none());
    }
    assert!(asked > 5, "it was asked for {asked} times");
    // Long after `consistency_grace_s` EC2 answers, and shows one of the two.
    launched.truncate(1);
    let describe = loop {
        bench.tick(1_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            break call;
        }
    };
    bench.give(Event::CloudAnswered { call: describe, result: Ok(CloudReply::Instances(launched)) });
    bench.tick(1_000);
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
    let (_, request) = bench.take("TerminateInstances").expect("whatever the other one is, it must not stay");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into()] });
    assert!(bench.facts.iter().any(|fact| fact.kind == FactKind::NodesFailed && fact.nodes == "p-g-1"));
}

#[test]
fn spot_shortage_goes_on_demand_where_the_site_allows_it() {
    let mut group = group("g");
    group.spot_fallback_s = Some(210);
    let mut bench = Bench::with(group, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.take("CreateFleet").unwrap();
    bench.give(Event::CloudAnswered { call, result: Err(capacity()) });
    bench.tick(1);
    let (_, request) = bench.take("CreateFleet").expect("a second fleet");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!(request.lifecycle, Lifecycle::OnDemand);
    assert!(bench.take_update().is_none());
}

#[test]
fn a_node_suspended_during_its_launch_and_woken_later_is_launched_anew() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (call, request) = bench.take("CreateFleet").unwrap();
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    let launched = vec![bench.instance("i-0", 0, &request.client_token)];
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances { ids: vec!["i-0".into()], ..LaunchedInstances::default() }],
        errors: Vec::new(),
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    assert_eq!(bench.bound("p-g-1"), Some("i-0"));
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (_, request) = bench.take("CreateFleet").expect("a launch of its own");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!(request.target, 1);
}

#[test]
fn where_images_read_the_name_tag_no_other_name_is_there_at_launch() {
    let mut named = group("g");
    named.naming = NodeNaming::NameTag;
    let mut bench = Bench::with(named, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    let request = bench.launch(1);
    assert_eq!(request.instance_tags.get(tag::NAME), None);
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    assert_eq!(bench.launch(1).instance_tags[tag::NAME], "p-g");
}
