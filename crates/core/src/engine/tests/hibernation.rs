// SPDX-License-Identifier: GPL-3.0-or-later
//! Sleeping nodes.

use super::*;

#[test]
fn a_sleeping_node_that_could_not_be_closed_is_closed_later_unless_it_is_awake() {
    let closing = |bench: &mut Bench| {
        let (call, update) = bench.take_update()?;
        assert_eq!(update.state, Some(NodeStateChange::Drain));
        Some(call)
    };
    for slept_on in [true, false] {
        let mut bench = Bench::sleeper();
        bench.look(InstanceState::Stopped);
        let call = closing(&mut bench).expect("closed at once");
        bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
        assert!(closing(&mut bench).is_none(), "not at once again");
        if !slept_on {
            bench.look(InstanceState::Running);
            bench.requests();
        }
        bench.tick(5_000);
        assert_eq!(closing(&mut bench).is_some(), slept_on);
    }
}

#[test]
fn a_sleeping_node_is_kept_responding_closed_and_its_job_lengthened() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    let requests = bench.requests();
    assert!(requests.contains(&SlurmRequest::KeepResponding { nodes: vec!["p-g-0".into()] }), "{requests:?}");
    assert!(requests.contains(&SlurmRequest::ExtendJobs { node: "p-g-0".into(), minutes: 1 }));
    assert!(
        requests
            .iter()
            .any(|r| matches!(r, SlurmRequest::UpdateNodes(u) if u.state == Some(NodeStateChange::Drain)))
    );
    let (mut alive, mut minutes) = (0, 0);
    for _ in 0..600 {
        bench.tick(1_000);
        for request in bench.requests() {
            match request {
                SlurmRequest::KeepResponding { .. } => alive += 1,
                SlurmRequest::ExtendJobs { minutes: more, .. } => minutes += more,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(alive >= 600 / 100, "SlurmdTimeout is 300 s, and {alive} calls in 600 s");
    assert_eq!(minutes, 10);
    bench.look(InstanceState::Running);
    let requests = bench.requests();
    assert!(
        requests
            .iter()
            .any(|r| matches!(r, SlurmRequest::UpdateNodes(u) if u.state == Some(NodeStateChange::Undrain)))
    );
    bench.tick(300_000);
    assert!(
        !bench.requests().iter().any(|r| matches!(r, SlurmRequest::KeepResponding { .. })),
        "awake nodes answer themselves"
    );
}

#[test]
fn a_node_whose_slurmd_stays_silent_after_the_sleep_is_given_up_and_one_that_answers_is_not() {
    for silent in [true, false] {
        let mut bench = Bench::sleeper();
        bench.look(InstanceState::Stopped);
        bench.tick(600_000);
        bench.look(InstanceState::Running);
        let flags = NodeFlags::CLOUD;
        let flags = if silent { flags.with(NodeFlags::NOT_RESPONDING) } else { flags };
        bench.set_slurm("p-g-0", NodeBase::Allocated, flags);
        bench.requests();
        let down_after = bench.seconds_until_given_up();
        assert_eq!(down_after.is_some(), silent);
        assert!(down_after.is_none_or(|second| (299..320).contains(&second)), "{down_after:?}");
    }
}

#[test]
fn a_node_that_sleeps_again_before_its_slurmd_answered_is_not_given_up() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    bench.tick(600_000);
    bench.look(InstanceState::Running);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    bench.requests();
    for second in 1..400 {
        bench.tick(1_000);
        if second == 299 {
            // Just before the time is over, and no list has shown it yet.
            bench.instances[0].state = InstanceState::Stopped;
        }
        bench.answer_views();
        assert!(
            !bench.requests().iter().any(|request| matches!(request, SlurmRequest::UpdateNodes(update)
                if update.state == Some(NodeStateChange::PowerDownForce))),
            "after {second} s"
        );
    }
}

#[test]
fn a_second_sleep_ends_the_time_that_slurmd_had_after_the_first() {
    let mut bench = Bench::sleeper();
    for (state, kind, times) in [
        (InstanceState::Stopped, FactKind::NodeAsleep, 1),
        (InstanceState::Running, FactKind::NodeAwake, 1),
        (InstanceState::Stopped, FactKind::NodeAsleep, 2),
    ] {
        // The first answer may be that of another question.
        for _ in 0..3 {
            bench.tick(30_000);
            bench.look(state);
        }
        assert_eq!(bench.facts.iter().filter(|fact| fact.kind == kind).count(), times, "{kind:?}");
    }
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    // The time after the first sleep runs out, and the first list from then on shows the instance back from the second.
    bench.tick(220_000);
    bench.instances[0].state = InstanceState::Running;
    bench.requests();
    let down_after = bench.seconds_until_given_up();
    assert!(down_after.is_some_and(|second| (299..320).contains(&second)), "{down_after:?}");
}

#[test]
fn a_new_address_after_a_sleep_is_told_without_a_list_and_the_slurmd_there_has_its_own_time_to_answer() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    bench.tick(600_000);
    bench.look(InstanceState::Running);
    bench.requests();
    // No list is answered, and the first looks still show the address before the sleep.
    bench.tick(250_000);
    bench.instances[0].private_ip = Some("10.9.9.9".into());
    bench.look(InstanceState::Running);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    let told = std::iter::from_fn(|| bench.take_update())
        .find(|(_, update)| update.addrs.as_deref() == Some(["10.9.9.9".to_owned()].as_slice()));
    let (call, _) = told.expect("the address is told");
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.slurm[0].addr = "10.9.9.9".into();
    let down_after = bench.seconds_until_given_up();
    assert!(down_after.is_some_and(|second| (299..320).contains(&second)), "{down_after:?}");
}

#[test]
fn a_list_from_before_the_sleep_wakes_no_node() {
    let mut bench = Bench::sleeper();
    bench.answer_views();
    bench.tick(61_000);
    let listed = bench.effects.iter().position(|effect| {
        matches!(effect, Effect::Cloud { request: CloudRequest::DescribeCluster { .. }, .. })
    });
    let Effect::Cloud { call, .. } = bench.effects.remove(listed.expect("a list is due")) else {
        unreachable!()
    };
    let instances = bench.instances.clone();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(instances)) });
    // slurmctld answers only after a look has shown the instance asleep.
    bench.tick(1_000);
    bench.look(InstanceState::Stopped);
    bench.requests();
    bench.answer_views();
    let undrained = bench.requests().iter().any(|request| {
        matches!(request, SlurmRequest::UpdateNodes(update)
            if update.state == Some(NodeStateChange::Undrain))
    });
    assert!(!undrained);
}

#[test]
fn a_node_that_is_not_asleep_is_left_to_slurmd_timeout() {
    let mut bench = Bench::sleeper();
    for _ in 0..20 {
        bench.look(InstanceState::Running);
    }
    assert_eq!(bench.requests(), Vec::new());
}

#[test]
fn a_sleep_beyond_the_limit_is_ended_where_the_site_wants_it() {
    let mut group = hibernating();
    group.hibernation.max_minutes = Some(5);
    group.hibernation.after_max = crate::site::AfterMaxHibernation::Requeue;
    let mut bench = Bench::sleeper();
    let site = Site::new("c".into(), Vec::new(), vec![group], Settings::default());
    bench.give(Event::SiteChanged(Arc::new(site)));
    bench.answer_views();
    bench.look(InstanceState::Stopped);
    bench.requests();
    let mut forced = None;
    for second in 0..400 {
        bench.tick(1_000);
        let found = bench.requests().into_iter().find_map(|request| match request {
            SlurmRequest::UpdateNodes(update) => update.state,
            _ => None,
        });
        if found.is_some() {
            forced = Some((second, found));
            break;
        }
    }
    let (second, state) = forced.expect("powered down");
    assert_eq!(state, Some(NodeStateChange::PowerDownForce));
    assert!((295..310).contains(&second), "{second}");
}
