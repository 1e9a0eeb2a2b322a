// SPDX-License-Identifier: GPL-3.0-or-later
//! `AllOrNothing`: jobs get all of their nodes or give them back.

use super::*;
use crate::ec2_api::CreateFleet;
use crate::event::ResumeJob;

fn whole(name: &str) -> NodeGroup {
    NodeGroup { all_or_nothing: true, ..group(name) }
}

fn names(nodes: &[&str]) -> Vec<String> {
    nodes.iter().map(|node| (*node).to_owned()).collect()
}

fn job(job_id: u64, nodes: &[&str]) -> ResumeJob {
    ResumeJob { job_id, nodes: names(nodes), woken: names(nodes) }
}

/// Two groups, `g` and `h`, of which both are all or nothing.
fn ready() -> Bench {
    let mut bench = Bench::of(vec![whole("g"), whole("h")], Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench
}

impl Bench {
    /// slurmctld wakes these jobs' nodes, and nodes for no job, and runs ResumeProgram.
    fn wake_jobs(&mut self, jobs: &[ResumeJob], others: &[&str]) {
        let mut nodes: Vec<String> = jobs.iter().flat_map(|job| job.woken.clone()).collect();
        nodes.extend(names(others));
        nodes.sort();
        nodes.dedup();
        self.wake(&nodes.iter().map(String::as_str).collect::<Vec<_>>());
        self.give(Event::ResumeRequested { nodes, jobs: Some(jobs.to_vec()) });
    }

    /// The next CreateFleet call, with the nodes that wait for it.
    fn next_fleet(&mut self) -> Option<(u64, CreateFleet, Vec<String>)> {
        let (call, request) = self.take("CreateFleet")?;
        let waiting = self.records.iter().rev().find_map(|record| match record {
            Record::Intent { intent, .. } if intent.request == request => intent.launch.clone(),
            _ => None,
        });
        let CloudRequest::CreateFleet(request) = request else { unreachable!() };
        Some((call, *request, waiting.expect("an intent").nodes))
    }

    fn give_instances(&mut self, call: u64, request: &CreateFleet, count: u32) -> Vec<Instance> {
        let launched: Vec<Instance> = (0..count)
            .map(|index| {
                let id = format!("i-{}", self.instances.len());
                self.instance(&id, index, &request.client_token)
            })
            .collect();
        let ids = launched.iter().map(|instance| instance.id.clone()).collect();
        let reply = FleetReply {
            fleet_id: "fleet-1".into(),
            instances: vec![LaunchedInstances { ids, ..LaunchedInstances::default() }],
            errors: Vec::new(),
        };
        self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
        launched
    }

    fn show(&mut self, launched: Vec<Instance>) {
        let (call, _) = self.take("DescribeInstances").expect("the new instances are described");
        self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    }

    fn refuse(&mut self, call: u64) {
        self.give(Event::CloudAnswered { call, result: Err(capacity()) });
    }

    /// Every node that is reported as failed, and that the reason is EC2's.
    fn failed(&mut self) -> Vec<String> {
        let mut failed = Vec::new();
        while let Some((call, update)) = self.take_update() {
            if update.state == Some(NodeStateChange::PowerDownForce) {
                assert_eq!(
                    update.reason.as_deref(),
                    Some("ec2fleet: InsufficientInstanceCapacity: no c5.large")
                );
                failed.extend(update.names);
            }
            self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        }
        failed.sort();
        failed
    }

    fn terminated(&mut self) -> Vec<String> {
        self.tick(40);
        match self.take("TerminateInstances") {
            Some((_, CloudRequest::TerminateInstances { ids })) => ids,
            _ => Vec::new(),
        }
    }
}

#[test]
fn of_two_jobs_in_one_batch_one_starts_whole_and_one_goes_back() {
    let mut bench = ready();
    let (one, two) = (["p-g-0", "p-g-1"], ["p-g-2", "p-g-3"]);
    bench.wake_jobs(&[job(7, &one), job(8, &two)], &[]);
    bench.tick(40);
    let (first, request, nodes) = bench.next_fleet().expect("a launch for each job");
    assert_eq!(nodes, names(&one));
    assert!(request.is_all_or_nothing());
    assert_eq!(request.spot_options.single_availability_zone, Some(true));
    let (second, _, nodes) = bench.next_fleet().expect("a launch for each job");
    assert_eq!(nodes, names(&two));
    bench.refuse(second);
    let launched = bench.give_instances(first, &request, 2);
    bench.show(launched);
    assert_eq!(bench.failed(), two);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    assert_eq!(bench.terminated(), Vec::<String>::new());
}

#[test]
fn a_job_over_two_groups_has_no_nodes_in_one_of_them_alone() {
    for bound in [false, true] {
        let mut bench = ready();
        bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-h-0"])], &[]);
        bench.tick(40);
        let (in_g, request, _) = bench.next_fleet().unwrap();
        let (in_h, _, nodes) = bench.next_fleet().unwrap();
        assert_eq!(nodes, ["p-h-0"]);
        let launched = bench.give_instances(in_g, &request, 2);
        if bound {
            bench.show(launched);
            bench.refuse(in_h);
        } else {
            bench.refuse(in_h);
            bench.show(launched);
        }
        assert_eq!(bench.failed(), ["p-g-0", "p-g-1", "p-h-0"]);
        assert_eq!(bench.bound("p-g-0").is_some(), bound);
        // What has a node ends when slurmctld has powered the node down, as always.
        bench.give(Event::Power(PowerReading {
            suspended: names(&["p-g-0", "p-g-1", "p-h-0"]),
            ..PowerReading::default()
        }));
        assert_eq!(bench.terminated(), ["i-0", "i-1"]);
    }
}

#[test]
fn the_nodes_of_a_job_go_back_in_one_update() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-h-0"])], &[]);
    bench.tick(40);
    let (in_g, request, _) = bench.next_fleet().unwrap();
    let (in_h, ..) = bench.next_fleet().unwrap();
    let launched = bench.give_instances(in_g, &request, 2);
    bench.show(launched);
    let (call, _) = bench.take_update().expect("addresses");
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.refuse(in_h);
    let (_, update) = bench.take_update().expect("the failure");
    assert_eq!(update.names, ["p-g-0", "p-g-1", "p-h-0"], "between two updates a job could get a node");
}

#[test]
fn what_one_job_cannot_use_goes_to_another_that_it_fills_whole() {
    for (waiting, ended) in [(2, 0), (3, 2)] {
        let mut bench = ready();
        bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-h-0"])], &[]);
        bench.tick(40);
        let (in_g, request, _) = bench.next_fleet().unwrap();
        let (in_h, ..) = bench.next_fleet().unwrap();
        let launched = bench.give_instances(in_g, &request, 2);
        let next = &["p-g-4", "p-g-5", "p-g-6"][..waiting];
        bench.wake_jobs(&[job(8, next)], &[]);
        bench.refuse(in_h);
        bench.show(launched);
        assert_eq!(bench.failed(), ["p-g-0", "p-g-1", "p-h-0"]);
        assert_eq!(bench.terminated().len(), ended, "{waiting} nodes wait");
        assert_eq!(bench.bound("p-g-4").is_some(), ended == 0);
        assert_eq!(bench.next_fleet().is_none(), ended == 0);
    }
}

#[test]
fn jobs_of_one_node_and_nodes_without_a_job_share_a_launch_and_fail_alone() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0"]), job(8, &["p-g-1"])], &["p-g-2"]);
    bench.tick(40);
    let (call, request, nodes) = bench.next_fleet().unwrap();
    assert_eq!(nodes, ["p-g-0", "p-g-1", "p-g-2"]);
    assert!(!request.is_all_or_nothing());
    assert_eq!(request.spot_options.single_availability_zone, None);
    assert!(bench.next_fleet().is_none());
    let launched = bench.give_instances(call, &request, 2);
    bench.show(launched);
    let mut failed = Vec::new();
    while let Some((call, update)) = bench.take_update() {
        if update.state.is_some() {
            failed.extend(update.names);
        }
        bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    }
    assert_eq!(failed, ["p-g-2"]);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

#[test]
fn without_word_of_jobs_the_batch_is_the_unit() {
    let mut bench = ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    assert!(bench.next_fleet().is_none(), "ResumeProgram is about to speak");
    bench.tick(960);
    let (_, request, nodes) = bench.next_fleet().expect("a launch after BatchMaxMs");
    assert_eq!(nodes, ["p-g-0", "p-g-1"]);
    assert!(request.is_all_or_nothing());
}

#[test]
fn a_job_that_becomes_known_after_a_failure_gives_its_other_nodes_back() {
    let mut bench = ready();
    bench.wake(&["p-g-0", "p-g-1", "p-h-0"]);
    bench.tick(1_000);
    let (in_g, request, _) = bench.next_fleet().unwrap();
    let (in_h, ..) = bench.next_fleet().unwrap();
    let launched = bench.give_instances(in_g, &request, 2);
    bench.show(launched);
    bench.refuse(in_h);
    assert_eq!(bench.failed(), ["p-h-0"]);
    let all = ["p-g-0", "p-g-1", "p-h-0"];
    bench.give(Event::ResumeRequested { nodes: names(&all), jobs: Some(vec![job(7, &all)]) });
    assert_eq!(bench.failed(), ["p-g-0", "p-g-1"]);
}

#[test]
fn a_node_that_another_job_waits_for_is_asked_for_again() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1"]), job(8, &["p-g-1"])], &[]);
    bench.tick(40);
    let (call, _, nodes) = bench.next_fleet().unwrap();
    assert_eq!(nodes, ["p-g-0", "p-g-1"]);
    bench.refuse(call);
    assert_eq!(bench.failed(), ["p-g-0"]);
    bench.tick(40);
    let (call, request, nodes) = bench.next_fleet().expect("at once: two were refused, not one");
    assert_eq!(nodes, ["p-g-1"]);
    let launched = bench.give_instances(call, &request, 1);
    bench.show(launched);
    assert_eq!(bench.bound("p-g-1"), Some("i-0"));
    assert_eq!(bench.failed(), Vec::<String>::new());
}

#[test]
fn what_has_registered_stays_when_another_node_of_the_job_fails() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-h-0"])], &[]);
    bench.tick(40);
    let (in_g, request, _) = bench.next_fleet().unwrap();
    let (in_h, ..) = bench.next_fleet().unwrap();
    let launched = bench.give_instances(in_g, &request, 2);
    bench.show(launched);
    assert_eq!(bench.failed(), Vec::<String>::new());
    bench.give(Event::Power(PowerReading { waking_ended: names(&["p-g-0"]), ..PowerReading::default() }));
    bench.refuse(in_h);
    assert_eq!(bench.failed(), ["p-g-1", "p-h-0"]);
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}

#[test]
fn an_instance_that_ends_while_it_starts_takes_its_job_along() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-g-2"]), job(8, &["p-g-3", "p-g-4"])], &[]);
    bench.tick(40);
    let (first, request, _) = bench.next_fleet().unwrap();
    let (second, other, _) = bench.next_fleet().unwrap();
    let mut launched = bench.give_instances(first, &request, 3);
    launched[2].state = InstanceState::Terminated;
    launched[2].state_reason = Some("InsufficientInstanceCapacity: no c5.large".into());
    bench.show(launched);
    let launched = bench.give_instances(second, &other, 2);
    bench.show(launched);
    let mut down = Vec::new();
    while let Some((call, update)) = bench.take_update() {
        if update.state == Some(NodeStateChange::PowerDownForce) {
            down.extend(update.names);
        }
        bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    }
    assert_eq!(down, ["p-g-0", "p-g-1", "p-g-2"]);
    assert!(bench.bound("p-g-3").is_some() && bench.bound("p-g-4").is_some());
}

#[test]
fn a_released_node_that_registers_before_the_report_stays() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-h-0"])], &[]);
    bench.tick(40);
    let (in_g, request, _) = bench.next_fleet().unwrap();
    let (in_h, ..) = bench.next_fleet().unwrap();
    let launched = bench.give_instances(in_g, &request, 1);
    bench.show(launched);
    let (call, _) = bench.take_update().expect("the address");
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.refuse(in_h);
    let (call, update) = bench.take_update().expect("the failure");
    assert_eq!(update.names, ["p-g-0", "p-h-0"]);
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
    // By now another job may run on it.
    bench.give(Event::Power(PowerReading { waking_ended: names(&["p-g-0"]), ..PowerReading::default() }));
    bench.tick(60_000);
    assert_eq!(bench.failed(), ["p-h-0"]);
}

#[test]
fn a_job_that_asks_for_less_than_was_refused_does_not_wait() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-g-2"])], &[]);
    bench.tick(40);
    let (call, ..) = bench.next_fleet().unwrap();
    bench.refuse(call);
    assert_eq!(bench.failed(), ["p-g-0", "p-g-1", "p-g-2"]);
    bench.wake_jobs(&[job(8, &["p-g-3", "p-g-4"]), job(9, &["p-g-5", "p-g-6", "p-g-7"])], &[]);
    bench.tick(40);
    let (_, _, nodes) = bench.next_fleet().expect("two nodes may be there where three were not");
    assert_eq!(nodes, ["p-g-3", "p-g-4"]);
    assert!(bench.next_fleet().is_none());
    bench.tick(2_000);
    let (_, _, nodes) = bench.next_fleet().expect("three are asked for again, later");
    assert_eq!(nodes, ["p-g-5", "p-g-6", "p-g-7"]);
}

#[test]
fn a_jobs_launches_begin_together() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-h-0", "p-h-1"])], &[]);
    bench.tick(40);
    let (call, ..) = bench.next_fleet().unwrap();
    bench.refuse(call);
    assert_eq!(bench.failed(), ["p-h-0", "p-h-1"]);
    bench.wake_jobs(&[job(8, &["p-g-0", "p-h-2", "p-h-3"])], &[]);
    bench.tick(40);
    assert!(bench.next_fleet().is_none(), "an instance in g would wait for those in h");
    bench.tick(2_000);
    assert!(bench.next_fleet().is_some() && bench.next_fleet().is_some());
}

#[test]
fn after_a_restart_a_launch_still_knows_its_job() {
    let mut bench = ready();
    bench.wake_jobs(&[job(7, &["p-g-0", "p-g-1", "p-h-0"])], &[]);
    bench.tick(40);
    let (_, request, _) = bench.next_fleet().unwrap();
    let persisted = bench.engine.persisted().clone();
    let mut again = Bench::of(vec![whole("g"), whole("h")], persisted);
    again.slurm = bench.slurm.clone();
    again.tick(0);
    again.answer_views();
    let (in_g, repeated) = again.take("CreateFleet").expect("repeated");
    assert_eq!(repeated, CloudRequest::CreateFleet(Box::new(request.clone())));
    let (in_h, _) = again.take("CreateFleet").expect("repeated");
    let launched = again.give_instances(in_g, &request, 2);
    again.show(launched);
    again.refuse(in_h);
    assert_eq!(again.failed(), ["p-g-0", "p-g-1", "p-h-0"]);
}
