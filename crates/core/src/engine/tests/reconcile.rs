// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances: bound, lost, orphaned, ended, found again after a lost journal.

use super::*;

#[test]
fn suspended_nodes_lose_exactly_their_instances_in_one_call() {
    let mut bench = Bench::up();
    bench.give(Event::Power(PowerReading {
        suspended: vec!["p-g-1".into(), "p-g-3".into()],
        ..PowerReading::default()
    }));
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("a call");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into(), "i-3".into()] });
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}

#[test]
fn a_failed_listing_concludes_nothing() {
    let mut bench = Bench::up();
    for _ in 0..50 {
        bench.tick(30_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            bench.give(Event::CloudAnswered { call, result: Err(capacity()) });
        }
        assert!(bench.take_update().is_none());
        assert!(bench.take("TerminateInstances").is_none());
    }
    assert_eq!(bench.engine.bound_instances().len(), 4);
}

#[test]
fn an_orphan_is_terminated_after_the_grace_time_and_not_before() {
    let mut bench = Bench::up();
    bench.instance("i-orphan", 0, "ec2fleet-old-1");
    bench.rescan(61);
    for _ in 0..2 {
        bench.rescan(61);
        assert!(bench.take("TerminateInstances").is_none(), "still within the grace time");
    }
    bench.rescan(61);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("ended");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-orphan".into()] });
}

#[test]
fn a_refused_termination_is_asked_for_again_within_55_s_whatever_the_reason() {
    for class in [ErrorClass::Throttle, ErrorClass::Transient, ErrorClass::Permission, ErrorClass::Other] {
        let mut bench = Bench::up();
        bench.instance("i-orphan", 0, "ec2fleet-old-1");
        for _ in 0..4 {
            bench.rescan(61);
        }
        bench.tick(40);
        let mut asked = bench.take("TerminateInstances");
        for _ in 0..8 {
            let (call, request) = asked.take().expect("asked for");
            let error = CloudError { class, code: "Refused".into(), message: "no".into(), request_id: None };
            bench.give(Event::CloudAnswered { call, result: Err(error) });
            let refused_at = bench.now.mono_ms;
            while asked.is_none() {
                bench.tick(1_000);
                asked = bench.take("TerminateInstances");
                assert!(bench.now.mono_ms - refused_at <= 55_000, "{class:?}: not asked for again");
            }
            assert_eq!(asked.as_ref().map(|(_, again)| again), Some(&request));
        }
    }
}

#[test]
fn an_instance_seen_before_a_power_up_is_not_given_to_the_node() {
    for told in [None, Some("p-g-9")] {
        let mut bench = Bench::up();
        bench.set_slurm("p-g-9", NodeBase::Idle, NodeFlags::CLOUD);
        bench.instance("i-old", 0, "ec2fleet-old-1");
        if let Some(node) = told {
            bench.instances[4].tags.insert(tag::NODE.into(), node.into());
        }
        // No address yet: the node that is up cannot have it.
        let addr = bench.instances[4].private_ip.take();
        bench.rescan(61);
        bench.instances[4].private_ip = addr;
        // The list is under way when the power-up begins, so that no launch is before it.
        bench.tick(61_000);
        bench.set_slurm("p-g-9", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
        bench.wake(&["p-g-9"]);
        bench.answer_views();
        assert_eq!(bench.bound("p-g-9"), None, "told {told:?}: slurmctld would not let it register");
        // One that appears later is from this power-up.
        bench.instances[4].id = "i-new".into();
        bench.engine.g.sight.rescan_now(&bench.engine.g.cx);
        bench.give(Event::Tick);
        bench.answer_views();
        assert_eq!(bench.bound("p-g-9"), Some("i-new"));
    }
}

#[test]
fn of_two_instances_with_one_name_neither_is_terminated_under_the_nodes_job() {
    let mut bench = Bench::up();
    bench.instance("i-twin", 0, "ec2fleet-old-1");
    bench.instances[4].tags.insert(tag::NODE.into(), "p-g-2".into());
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none(), "the job may have begun on it");
    }
    bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD);
    bench.rescan(61);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("ended after the job");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-twin".into()] });
}

#[test]
fn behind_a_busy_address_nothing_is_terminated() {
    let mut bench = Bench::ready();
    // Up and busy in Slurm under this address, in a group that the tags do not name: nothing to adopt it by.
    let addr = bench.instance("i-busy", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::GROUP.into(), "other".into());
    bench.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.slurm[0].addr = addr;
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none());
    }
}

#[test]
fn an_address_that_a_waking_node_had_before_protects_nobody() {
    let mut bench = Bench::ready();
    // EC2 gave the address of the node's instance of last time to another, which is nobody's.
    let addr = bench.instance("i-nobody", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::GROUP.into(), "other".into());
    bench.wake(&["p-g-5"]);
    let waiting = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP).with(NodeFlags::NOT_RESPONDING);
    bench.set_slurm("p-g-5", NodeBase::Allocated, waiting);
    bench.slurm[0].addr = addr;
    let ended = (0..10).any(|_| {
        bench.rescan(61);
        bench.tick(40);
        bench.take("TerminateInstances").is_some()
    });
    assert!(ended);
}

#[test]
fn a_lost_journal_is_rebuilt_from_addresses_and_tags() {
    let mut before = Bench::up();
    before.instances[0].tags.insert(tag::NODES.into(), "p-g-[0-3]".into());
    let mut bench = Bench::new();
    bench.instances.clone_from(&before.instances);
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    bench.answer_views();
    for index in 0..4 {
        assert_eq!(bench.bound(&format!("p-g-{index}")), Some(format!("i-{index}").as_str()));
    }
    assert!(bench.take_update().is_none(), "slurmctld has the addresses already");
}

#[test]
fn an_unfinished_create_fleet_is_replayed_with_its_token_if_it_is_still_wanted() {
    let mut before = Bench::ready();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let (_, sent) = before.take("CreateFleet").unwrap();
    let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    assert!(bench.take("CreateFleet").is_none(), "not before EC2 and Slurm are known");
    bench.answer_views();
    let (_, again) = bench.take("CreateFleet").expect("replayed");
    assert_eq!(again, sent);
}

#[test]
fn an_unfinished_create_fleet_that_nobody_wants_is_not_sent() {
    let mut before = Bench::ready();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.tick(0);
    bench.answer_views();
    bench.tick(2_000);
    assert!(bench.take("CreateFleet").is_none());
    assert_eq!(bench.engine.open_intents(), 0);
}

#[test]
fn a_vanished_instance_is_confirmed_and_its_node_reported() {
    let mut bench = Bench::up();
    bench.instances[2].state = InstanceState::Terminated;
    bench.instances[2].state_reason = Some("Server.SpotInstanceTermination".into());
    bench.rescan(61);
    let (call, request) = bench.take("DescribeInstances").expect("asked by id before anything is concluded");
    assert_eq!(request, CloudRequest::DescribeInstances { ids: vec!["i-2".into()] });
    let gone = bench.instances[2].clone();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(vec![gone])) });
    let (_, update) = bench.take_update().expect("slurmctld is told");
    assert_eq!(update.names, ["p-g-2"]);
    assert!(update.reason.unwrap().contains("Server.SpotInstanceTermination"));
}

#[test]
fn an_instance_missing_from_lists_for_seconds_is_waited_for() {
    let mut bench = Bench::up();
    let hidden = bench.instances.remove(1);
    bench.rescan(61);
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(Vec::new())) });
    assert!(bench.take_update().is_none());
    bench.instances.insert(1, hidden);
    bench.rescan(61);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

#[test]
fn a_crash_before_terminating_forgets_no_instance_and_ends_none_that_slurm_wants_again() {
    for sent in [false, true] {
        for rolled_back in [false, true] {
            let mut before = Bench::up();
            before.give(Event::Power(PowerReading {
                suspended: vec!["p-g-2".into()],
                ..PowerReading::default()
            }));
            if sent {
                before.tick(40);
                assert!(before.take("TerminateInstances").is_some());
            }
            let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
            bench.instances.clone_from(&before.instances);
            bench.slurm.clone_from(&before.slurm);
            if !rolled_back {
                bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN));
            }
            bench.tick(0);
            assert!(bench.take("TerminateInstances").is_none(), "not before Slurm is known");
            bench.answer_views();
            bench.tick(40);
            if rolled_back {
                assert_eq!(bench.bound("p-g-2"), Some("i-2"));
                assert!(bench.take("TerminateInstances").is_none());
                continue;
            }
            let (call, request) =
                bench.take("TerminateInstances").expect("not left to the clean-up of orphans");
            assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-2".into()] });
            let reply = CloudReply::Terminated { terminated: vec!["i-2".into()], unknown: Vec::new() };
            bench.give(Event::CloudAnswered { call, result: Ok(reply) });
            assert!(bench.engine.persisted().leaving.is_empty() && bench.engine.persisted().open.is_empty());
        }
    }
}

#[test]
fn an_address_of_the_past_does_not_outweigh_the_name_that_an_instance_was_told() {
    let mut bench = Bench::new();
    let addr = bench.instance("i-0", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP);
    bench.set_slurm("p-g-0", NodeBase::Allocated, waking);
    bench.slurm[0].addr = addr;
    bench.set_slurm("p-g-1", NodeBase::Allocated, waking);
    bench.tick(0);
    bench.answer_views();
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (None, Some("i-0")));
}

#[test]
fn an_instance_that_runs_as_a_node_is_never_given_to_another_one() {
    let mut bench = Bench::new();
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP);
    bench.set_slurm("p-g-5", NodeBase::Allocated, waking);
    bench.set_slurm("p-g-6", NodeBase::Idle, NodeFlags::CLOUD);
    for id in ["i-named", "i-unnamed"] {
        bench.instance(id, 0, "lost");
    }
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-5"), Some("i-unnamed"));
    assert_eq!(bench.engine.bound_instances().len(), 1);
}

#[test]
fn an_instance_of_a_node_that_is_powered_down_does_not_wait_for_the_grace_time() {
    let mut bench = Bench::new();
    bench.set_slurm("p-g-1", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.instance("i-0", 1, "lost");
    bench.instances[0].tags.insert(tag::NODES.into(), "p-g-[0-1]".into());
    bench.tick(0);
    bench.answer_views();
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("at once");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-0".into()] });
}

#[test]
fn a_job_that_waits_for_a_power_up_does_not_keep_the_instance_before() {
    let mut bench = Bench::new();
    let flags = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN).with(NodeFlags::POWER_UP);
    bench.set_slurm("p-g-1", NodeBase::Allocated, flags);
    bench.slurm[0].addr = bench.instance("i-0", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    bench.tick(0);
    bench.answer_views();
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("at once");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-0".into()] });
}

#[test]
fn of_two_instances_with_one_name_the_younger_is_the_node() {
    let mut bench = Bench::new();
    bench.set_slurm("p-g-1", NodeBase::Allocated, NodeFlags::CLOUD);
    for (index, id) in ["i-0", "i-1", "i-2"].into_iter().enumerate() {
        bench.instance(id, 0, "lost");
        bench.instances[index].tags.insert(tag::NODE.into(), "p-g-1".into());
    }
    bench.instances[1].launch_unix_ms += 500_000;
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}
