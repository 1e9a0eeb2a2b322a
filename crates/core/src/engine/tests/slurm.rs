// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld says and is told: power-ups, addresses, failures, weights and nodes back in service; tags.

use super::*;

#[test]
fn no_node_is_powered_down_before_slurmctld_has_an_address_for_all_that_wait() {
    let unreachable = || SlurmError::Unreachable { what: "an update".into(), message: "busy".into() };
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1", "p-g-2"]);
    bench.wake(&["p-g-0", "p-g-1", "p-g-2"]);
    let (_, launched) = bench.launch_unseen(2);
    let (call, update) = bench.take_any_update().expect("the third is not to be had");
    assert_eq!((update.names.len(), update.state), (3, None));
    assert_eq!(update.addrs, Some(vec![crate::engine::ground::placeholders::NOWHERE.to_owned(); 3]));
    // The two that are bound meanwhile are told their own address once that answer is there, so that it comes last.
    let (describe, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call: describe, result: Ok(CloudReply::Instances(launched)) });
    assert!(bench.bound("p-g-0").is_some());
    assert!(bench.take_any_update().is_none());
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable()) });
    let (call, update) = bench.take_any_update().expect("their own addresses");
    assert_eq!(update.names, ["p-g-0", "p-g-1"]);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.take_any_update().is_none(), "the third is powered down without an address");
    bench.tick(60_000);
    let (call, update) = bench.take_any_update().expect("another try");
    assert_eq!((update.names, update.state), (vec!["p-g-2".to_owned()], None));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    let (_, update) = bench.take_any_update().expect("the failure");
    assert_eq!((update.names, update.addrs), (vec!["p-g-2".to_owned()], None));
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
}

#[test]
fn a_placeholder_that_slurmctld_refuses_holds_no_failure_back() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0"]);
    bench.wake(&["p-g-0"]);
    bench.launch(0);
    let (call, update) = bench.take_any_update().unwrap();
    assert_eq!(update.state, None);
    let refused = SlurmError::Refused { what: "an update".into(), errno: 1, message: "no".into() };
    bench.give(Event::SlurmAnswered { call, result: Err(refused) });
    let (_, update) = bench.take_any_update().expect("the failure");
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
}

#[test]
fn a_node_that_slurmctld_has_not_shown_may_have_an_address_and_keeps_it() {
    let mut bench = Bench::new();
    bench.wake(&["p-g-0"]);
    bench.tick(10_000);
    assert!(bench.take_any_update().is_none(), "it may be that of the instance that boots for it");
    bench.slurm[0].addr = "10.0.0.1".into();
    bench.answer_views();
    bench.tick(10_000);
    assert!(bench.take_any_update().is_none());
}

#[test]
fn only_nodes_that_wait_for_long_get_a_placeholder() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1"]);
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (_, _) = bench.take("CreateFleet").expect("a call that EC2 does not answer yet");
    bench.tick(2_000);
    assert!(bench.take_any_update().is_none());
    bench.set_slurm("p-g-1", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.give(Event::Power(PowerReading {
        waking_ended: vec!["p-g-1".into()],
        suspended: vec!["p-g-1".into()],
        ..PowerReading::default()
    }));
    assert!(bench.engine.next_deadline().unwrap() <= bench.now.mono_ms + 1_000);
    bench.tick(1_000);
    let (call, update) = bench.take_any_update().expect("its user may end the job at any time");
    assert_eq!(update.names, ["p-g-0"]);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.tick(60_000);
    assert!(bench.take_any_update().is_none(), "once");

    // slurmctld lost the address. Perhaps the node was powered down and up again unnoticed.
    bench.answer_views();
    bench.tick(3_000);
    let (_, update) = bench.take_any_update().expect("another placeholder");
    assert_eq!(update.names, ["p-g-0"]);
}

#[test]
fn locked_nodes_are_left_alone() {
    let mut bench = Bench::up();
    bench.give(Event::LockRequested { nodes: vec!["p-g-0".into()], locked: true });
    bench.answer_views();
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none());
    }
}

#[test]
fn name_tags_follow_one_at_a_time_with_the_groups_templated_tags() {
    let mut bench = Bench::up();
    bench.tick(61_000);
    let (call, request) = bench.take("CreateTags").expect("a Name tag");
    let CloudRequest::CreateTags { ids, tags } = request else { unreachable!() };
    assert_eq!(ids, ["i-0"]);
    assert_eq!(tags["Name"], "p-g-0");
    assert_eq!(tags["Host"], "ip-10-0-0-1");
    assert_eq!(tags[tag::NODE], "p-g-0", "an earlier call may have been lost");
    assert!(bench.take("CreateTags").is_none());
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Tagged) });
    assert!(bench.take("CreateTags").is_some());
}

#[test]
fn a_node_stuck_down_after_resume_timeout_is_brought_back_and_others_are_not() {
    let mut bench = Bench::ready();
    let down = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN);
    bench.set_slurm("p-g-0", NodeBase::Down, down);
    bench.slurm[0].reason = Some("ResumeTimeout reached".into());
    bench.set_slurm("p-g-1", NodeBase::Down, down);
    bench.slurm[1].reason = Some("broken fan".into());
    bench.rescan(61);
    let (_, update) = bench.take_update().expect("reset");
    assert_eq!((update.names, update.state), (vec!["p-g-0".to_owned()], Some(NodeStateChange::Resume)));
    assert!(bench.take_update().is_none());
}

#[test]
fn a_failure_that_slurmctld_was_not_told_of_is_not_held_against_the_next_power_up() {
    for woken_again in [false, true] {
        let mut bench = Bench::ready();
        bench.wake(&["p-g-0"]);
        bench.tick(40);
        let (call, _) = bench.take("CreateFleet").expect("a launch");
        let refused = CloudError { class: ErrorClass::Permission, ..capacity() };
        bench.give(Event::CloudAnswered { call, result: Err(refused) });
        let (call, _) = bench.take_update().expect("the failure");
        if woken_again {
            bench.give(Event::Power(PowerReading {
                waking_ended: vec!["p-g-0".into()],
                suspended: vec!["p-g-0".into()],
                ..PowerReading::default()
            }));
            bench.wake(&["p-g-0"]);
        }
        bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
        bench.tick(30_000);
        assert_eq!(bench.take_update().is_none(), woken_again);
    }
}

#[test]
fn a_node_that_was_down_and_is_woken_again_unseen_is_launched_again() {
    for woken_again in [false, true] {
        let mut bench = Bench::ready();
        bench.wake(&["p-g-0"]);
        bench.tick(40);
        let (call, _) = bench.take("CreateFleet").expect("a launch");
        let refused = CloudError { class: ErrorClass::Permission, ..capacity() };
        bench.give(Event::CloudAnswered { call, result: Err(refused) });
        let (call, _) = bench.take_update().expect("the failure");
        bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        // No reading shows it down: the process stood still. The booting bit alone says nothing, the list of nodes does.
        bench.wake(&["p-g-0"]);
        let flags = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP).with(NodeFlags::NOT_RESPONDING);
        let down = NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN);
        bench.set_slurm("p-g-0", NodeBase::Idle, if woken_again { flags } else { down });
        bench.rescan(60);
        bench.tick(40);
        assert_eq!(bench.take("CreateFleet").is_some(), woken_again);
    }
}

#[test]
fn a_reset_that_did_not_reach_slurmctld_is_tried_again_before_a_pass_ends() {
    let mut bench = Bench::ready();
    assert!(bench.engine.is_idle());
    bench.set_slurm("p-g-0", NodeBase::Down, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.slurm[0].reason = Some("ResumeTimeout reached".into());
    bench.rescan(60);
    let (call, _) = bench.take_update().expect("the node is reset");
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
    assert!(!bench.engine.is_idle());
    bench.rescan(6);
    let (call, update) = bench.take_update().expect("and again");
    assert_eq!((update.names, update.state), (vec!["p-g-0".to_owned()], Some(NodeStateChange::Resume)));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.engine.is_idle());
}

#[test]
fn a_node_closed_for_a_sleep_is_opened_when_it_is_powered_down_and_others_are_not() {
    let mut bench = Bench::ready();
    let closed = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN).with(NodeFlags::DRAIN);
    bench.set_slurm("p-g-0", NodeBase::Idle, closed);
    bench.slurm[0].reason = Some("ec2fleet: hibernated by EC2".into());
    bench.set_slurm("p-g-1", NodeBase::Down, closed);
    // slurmctld 24.11 appends its own reason to ours.
    bench.slurm[1].reason = Some("ec2fleet: hibernated by EC2 : Not responding".into());
    bench.set_slurm("p-g-2", NodeBase::Idle, closed);
    bench.slurm[2].reason = Some("maintenance".into());
    bench.rescan(61);
    let (_, update) = bench.take_update().expect("reset");
    let names = vec!["p-g-0".to_owned(), "p-g-1".to_owned()];
    assert_eq!((update.names, update.state), (names, Some(NodeStateChange::Resume)));
    assert!(bench.take_update().is_none());
}

#[test]
fn idle_costs_at_most_two_describes_a_minute() {
    let mut bench = Bench::up();
    bench.tick(200_000);
    bench.answer_views();
    while let Some((call, _)) = bench.take("CreateTags") {
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Tagged) });
    }
    let mut calls = 0;
    for _ in 0..600 {
        bench.tick(1_000);
        calls += bench.effects.iter().filter(|e| matches!(e, Effect::Cloud { .. })).count();
        bench.answer_views();
    }
    assert!(calls <= 20, "{calls} calls in ten minutes");
}

#[test]
fn a_reservation_that_cannot_be_tagged_as_a_whole_is_tagged_one_by_one() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.launch(2);
    let missing = || CloudError {
        class: ErrorClass::NotFound,
        code: "InvalidInstanceID.NotFound".into(),
        ..capacity()
    };
    let (call, request) = bench.take("CreateTags").expect("the reservation at once");
    assert!(matches!(&request, CloudRequest::CreateTags { ids, .. } if ids.len() == 2));
    bench.give(Event::CloudAnswered { call, result: Err(missing()) });
    let mut tagged = 0;
    for _ in 0..50 {
        bench.tick(1_000);
        while let Some((call, request)) = bench.take("CreateTags") {
            let CloudRequest::CreateTags { ids, tags } = request else { unreachable!() };
            assert_eq!(ids.len(), 1);
            let known = ids[0] == "i-1" || bench.now.mono_ms > 30_000;
            tagged += usize::from(known && tags.contains_key(tag::NODE));
            let result = if known { Ok(CloudReply::Tagged) } else { Err(missing()) };
            bench.give(Event::CloudAnswered { call, result });
        }
    }
    assert_eq!(tagged, 2, "also the one that EC2 did not know for long");
}

#[test]
fn a_node_that_is_to_go_down_after_its_power_up_still_waits_for_its_instance() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP).with(NodeFlags::POWER_DOWN);
    bench.set_slurm("p-g-0", NodeBase::Allocated, waking);
    bench.tick(10);
    bench.rescan(0);
    bench.launch(1);
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}

#[test]
fn a_node_that_is_powered_down_again_is_not_taken_for_up_meanwhile() {
    let mut bench = Bench::ready();
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.rescan(60);
    assert_eq!(bench.engine.node("p-g-0").unwrap().desire, Desire::Down);
    for (base, flags, desire) in [
        (NodeBase::Idle, NodeFlags::POWER_DOWN, Desire::Down),
        (NodeBase::Idle, NodeFlags(0), Desire::Keep),
        (NodeBase::Idle, NodeFlags::POWER_DOWN, Desire::Keep),
    ] {
        bench.set_slurm("p-g-0", base, NodeFlags::CLOUD.with(flags));
        bench.rescan(60);
        assert_eq!(bench.engine.node("p-g-0").unwrap().desire, desire);
    }
}

#[test]
fn a_full_reading_shows_what_came_up_since_the_last_differences() {
    let mut bench = Bench::ready();
    let suspended = vec!["p-g-0".to_owned(), "p-g-1".to_owned()];
    bench.give(Event::Power(PowerReading { full: true, suspended, ..PowerReading::default() }));
    let suspended = vec!["p-g-1".to_owned()];
    bench.give(Event::Power(PowerReading { full: true, suspended, ..PowerReading::default() }));
    let desires = ["p-g-0", "p-g-1"].map(|name| bench.engine.node(name).unwrap().desire);
    assert_eq!(desires, [Desire::Keep, Desire::Down]);
}

#[test]
fn an_answer_about_an_earlier_address_says_nothing_of_the_present_one() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.launch(1);
    let (call, _) = bench.take_update().expect("the address is told");
    suspend(&mut bench, "p-g-0");
    bench.tick(1_000);
    bench.wake(&["p-g-0"]);
    bench.launch(1);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    let binding = bench.engine.binding("p-g-0").unwrap();
    assert!(!binding.told);
    let addr = binding.addr.clone();
    let (call, update) = bench.take_update().expect("the new address is told");
    assert_eq!(update.addrs, Some(vec![addr]));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.engine.binding("p-g-0").unwrap().told);
}
