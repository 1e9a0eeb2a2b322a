// SPDX-License-Identifier: GPL-3.0-or-later
//! A night of hibernations. It lasts the longest of all tests, and the test runner begins with the first names: beside it the
//! others have time to end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::flow::our_errors;
use super::hibernation::{counting_job, options, sleep, wait_for_state};
use ec2fleet_rig::cluster::Cluster;
use ec2fleet_rig::slurm::{base_state, has_state};

/// What happens to a node's instance, and when (seconds after the jobs run).
struct Interruption {
    at: u64,
    instance: String,
    sleeps: bool,
}

/// Each instance sleeps twice, for 60 to 180 s, and is awake for 20 s between; together they are asleep for 240 s each.
fn night(instances: &[String]) -> Vec<Interruption> {
    let last = instances.len() as u64 - 1;
    let mut all = Vec::new();
    for (index, instance) in (0_u64..).zip(instances) {
        let mut at = 5 + index % 10 * 6;
        for length in [60 + 120 * index / last, 180 - 120 * index / last] {
            all.push(Interruption { at, instance: instance.clone(), sleeps: true });
            all.push(Interruption { at: at + length, instance: instance.clone(), sleeps: false });
            at += length + 20;
        }
    }
    all.sort_by_key(|interruption| interruption.at);
    all
}

fn instances_asleep(cluster: &Cluster) -> usize {
    cluster.emulator.living_instances().unwrap().iter().filter(|i| i.state == "stopped").count()
}

#[test]
fn twenty_jobs_outlive_a_night_of_hibernations_without_requeue() {
    const JOBS: usize = 20;
    // One node more is killed, and one more takes its job.
    let mut cluster = Cluster::start(&options(22, true)).unwrap();
    let jobs: Vec<_> = (0..JOBS).map(|number| counting_job(&cluster, 100, 10, number)).collect();
    let (victim, _) = counting_job(&cluster, 100, 10, JOBS);
    let nodes: Vec<String> =
        jobs.iter().map(|(job, _)| wait_for_state(&cluster, *job, "RUNNING")["NodeList"].clone()).collect();
    let dead = wait_for_state(&cluster, victim, "RUNNING")["NodeList"].clone();
    let bindings = cluster.bindings().unwrap();
    let instance_of = |node: &str| bindings.iter().find(|(name, _)| name == node).unwrap().1.clone();
    let sleepers: Vec<String> = nodes.iter().map(|node| instance_of(node)).collect();

    let start = Instant::now();
    // This one's machine dies without EC2 noticing.
    cluster.instances.run(ec2fleet_rig::instances::Verb::Freeze, &instance_of(&dead), &[]).unwrap();
    let mut dead_is_down = false;
    let mut disturbances = 0;
    for interruption in night(&sleepers) {
        while start.elapsed() < Duration::from_secs(interruption.at) {
            dead_is_down |= base_state(&cluster.slurm.node(&dead).unwrap()) == "DOWN";
            sleep(1);
        }
        let verb = if interruption.sleeps { "interrupt" } else { "resume" };
        cluster.emulator.command(&json!({verb: {"instances": [interruption.instance]}})).unwrap();
        // Ten or more are asleep: the controller is restarted, killed and reconfigured, each once.
        if disturbances < 3 && instances_asleep(&cluster) >= 10 {
            match disturbances {
                0 => {
                    assert!(cluster.slurm.stop(), "slurmctld did not end by itself");
                    cluster.slurm.start().unwrap();
                }
                1 => {
                    cluster.slurm.kill();
                    cluster.slurm.start().unwrap();
                }
                _ => drop(cluster.slurm.scontrol(&["reconfigure"]).unwrap()),
            }
            cluster.wait_for_plugin().unwrap();
            disturbances += 1;
        }
    }
    assert_eq!(disturbances, 3, "ten were never asleep at once");
    for (job, output) in &jobs {
        let end = cluster.slurm.wait_for_job(*job).unwrap();
        assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
        let text = std::fs::read_to_string(output).unwrap();
        assert_eq!(text.matches("counted 100").count(), 1, "{text}");
    }
    assert!(dead_is_down, "SlurmdTimeout passed, and {dead} was not DOWN while others slept");
    let slept = cluster.events().iter().filter(|event| event["kind"] == "node-awake").count();
    assert!(slept >= 2 * JOBS, "{slept} awakenings of {JOBS} nodes that slept twice");
    for node in cluster.slurm.nodes().unwrap() {
        if nodes.contains(&node["NodeName"]) {
            assert!(!has_state(&node, "DRAIN") && base_state(&node) != "DOWN", "{node:?}");
        }
    }
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}
