// SPDX-License-Identifier: GPL-3.0-or-later
//! The main job: sbatch, capacity from EC2, the job on real slurmds, and everything given back.

use std::collections::BTreeSet;

use ec2fleet_core::hostlist;
use serde_json::json;

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::slurm::{Record, base_state, has_state};
use ec2fleet_rig::wait;

/// Submit a job whose tasks write down where they run; wait for its end and check that it ran on `nodes` nodes, each on the
/// machine that Slurm addressed.
pub fn run_job(cluster: &Cluster, nodes: u32) {
    let output = cluster.scratch.path().join(format!("job-{}.out", fastrand::u64(..)));
    let job = submit(cluster, nodes, &output);
    // What Slurm believes while the job runs: bindings are gone afterwards.
    let bound = wait::until("the job to run", || {
        let state = cluster.slurm.job(job)?["JobState"].clone();
        Ok(matches!(state.as_str(), "RUNNING" | "COMPLETING" | "COMPLETED").then(|| cluster.bindings()))
    })
    .unwrap()
    .unwrap();
    let end = cluster.slurm.wait_for_job(job).unwrap();
    assert_eq!(end["JobState"], "COMPLETED", "{end:?}");

    let ran = std::fs::read_to_string(&output).unwrap();
    let ran: BTreeSet<(&str, &str)> = ran.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(ran.len(), nodes as usize, "{ran:?}");
    let instances = cluster.emulator.instances().unwrap();
    for (node, address) in ran {
        let instance =
            instances.iter().find(|i| i.address == address).expect("an instance with the task's address");
        assert!(
            bound.contains(&(node.to_owned(), instance.id.clone())),
            "{node} ran on {}, which Slurm has elsewhere: {bound:?}",
            instance.id
        );
    }
}

/// Each task prints its node name, and the address of the instance on which it really runs: that of the slurmd above it.
pub fn submit(cluster: &Cluster, nodes: u32, output: &std::path::Path) -> u32 {
    let script = "srun sh -c 'p=$$; while [ $p -gt 1 ]; do \
                    a=$(tr \"\\0\" \"\\n\" </proc/$p/environ | sed -n s/^EC2_PRIVATE_IP=//p); [ -n \"$a\" ] && break; \
                    p=$(sed \"s/.*) . //;s/ .*//\" /proc/$p/stat); done; echo $SLURMD_NODENAME $a'";
    cluster.slurm.sbatch(&["-N", &nodes.to_string(), "-o", &output.display().to_string()], script).unwrap()
}

/// Lines of slurmctld's log that are errors of ours.
pub fn our_errors(cluster: &Cluster) -> Vec<String> {
    cluster
        .slurm
        .log_text()
        .lines()
        .filter(|line| line.contains("error:") && line.contains("ec2_fleet"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_job_gets_four_nodes_through_the_plugin_and_gives_them_back() {
    let cluster = Cluster::start(&Options::default()).unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
    // Every node is fit for the next job, which gets new instances.
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();

    assert_eq!(our_errors(&cluster), Vec::<String>::new());
    let kinds: Vec<String> =
        cluster.events().iter().map(|event| event["kind"].as_str().unwrap_or("").to_owned()).collect();
    let mut rest = kinds.iter();
    for kind in [
        "power-up-seen",
        "create-fleet-sent",
        "fleet-created",
        "nodes-bound",
        "addresses-set",
        "nodes-ready",
        "power-down-seen",
        "terminate-sent",
        "instances-terminated",
    ] {
        assert!(rest.any(|k| k == kind), "no {kind} in its place: {kinds:?}");
    }
    let instances = cluster.emulator.instances().unwrap();
    assert_eq!(instances.len(), 8);
    for instance in &instances {
        for (key, value) in [
            ("ec2fleet:cluster", "rig"),
            ("ec2fleet:partition", "cloud"),
            ("ec2fleet:group", "spot"),
            ("project", "rig"),
        ] {
            assert_eq!(instance.tags.get(key).map(String::as_str), Some(value), "{key} of {}", instance.id);
        }
    }
}

#[test]
fn a_job_gets_four_nodes_through_the_programs_alone() {
    let cluster = Cluster::start(&Options { plugin: false, ..Options::default() }).unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
    run_job(&cluster, 2);
    cluster.wait_for_rest().unwrap();
    assert_eq!(cluster.emulator.instances().unwrap().len(), 6);
}

/// Two jobs of four nodes, released in one moment, and capacity for six.
#[test]
fn of_two_jobs_one_runs_whole_and_nothing_is_left_for_the_other() {
    // One launch for each job, then two for each: EC2 gives some of the second job's instances.
    for max_fleet_nodes in [500, 2] {
        let pool = |capacity: u32| json!({"type": "c5.large", "zone": "us-east-1a", "lifecycle": "spot", "capacity": capacity});
        let cluster = Cluster::start(&Options {
            nodes: 8,
            scenario: json!({"pools": [pool(6)]}),
            config: json!({"MaxFleetNodes": max_fleet_nodes}),
            group: json!({
                "AllOrNothing": true,
                "LaunchTemplateOverrides": [{"InstanceType": "c5.large"}],
                "SubnetIds": ["subnet-0000000a"],
            }),
            ..Options::default()
        })
        .unwrap();
        cluster.wait_for_plugin().unwrap();
        let hold = cluster.scratch.path().join("hold");
        std::fs::write(&hold, "").unwrap();
        let script = format!("srun sh -c 'while [ -e {} ]; do sleep 1; done'", hold.display());
        let jobs = [(); 2]
            .map(|()| cluster.slurm.sbatch(&["-N", "4", "--hold", "-o", "/dev/null"], &script).unwrap());
        let [one, two] = jobs.map(|job| job.to_string());
        cluster.slurm.scontrol(&["release", &format!("{one},{two}")]).unwrap();

        let state =
            |job: u32| cluster.slurm.job(job).map(|job| (job["JobState"].clone(), job["Restarts"].clone()));
        let (whole, back) = wait::until("one job to run and one to be requeued", || {
            let (first, second) = (state(jobs[0])?, state(jobs[1])?);
            let runs = |job: &(String, String)| job.0 == "RUNNING" && job.1 == "0";
            let waits = |job: &(String, String)| job.0 == "PENDING" && job.1 == "1";
            Ok(if runs(&first) && waits(&second) {
                Some((jobs[0], jobs[1]))
            } else {
                (runs(&second) && waits(&first)).then_some((jobs[1], jobs[0]))
            })
        })
        .unwrap();
        // No instance is left for the job that was sent back, and the other one keeps its four.
        wait::until("four instances to be left", || {
            let living = cluster.emulator.living_instances()?;
            Ok((living.len() == 4).then_some(()))
        })
        .unwrap();
        assert_eq!(state(whole).unwrap().0, "RUNNING");
        let launched = cluster.emulator.instances().unwrap().len();
        assert_eq!(launched, if max_fleet_nodes == 2 { 6 } else { 4 });
        let failed: Vec<serde_json::Value> =
            cluster.events().into_iter().filter(|event| event["kind"] == "nodes-failed").collect();
        let nodes: BTreeSet<String> = failed
            .iter()
            .flat_map(|event| hostlist::expand(event["nodes"].as_str().unwrap()).unwrap())
            .collect();
        assert_eq!(nodes.len(), 4, "{failed:?}");
        for event in &failed {
            assert_eq!(event["code"], "InsufficientInstanceCapacity", "{event}");
        }

        // With more capacity the job that was sent back runs, whole as well.
        cluster.emulator.command(&json!({"pool": pool(8)})).unwrap();
        std::fs::remove_file(&hold).unwrap();
        cluster.slurm.scontrol(&["update", &format!("JobId={back}"), "StartTime=now"]).unwrap();
        for job in jobs {
            assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
        }
        cluster.wait_for_rest().unwrap();
        assert_eq!(our_errors(&cluster), Vec::<String>::new());
        assert_eq!(cluster.names_looked_up(), Vec::<String>::new());
    }
}

/// slurmctld writes to the nodes of a job that ends, also where none of them has an instance yet.
#[test]
fn the_end_of_a_job_that_waits_for_its_nodes_has_no_name_looked_up() {
    let cluster = Cluster::start(&Options::default()).unwrap();
    cluster.wait_for_plugin().unwrap();
    let busy = json!({"fault": {"action": "CreateFleet", "rate": 1.0, "code": "RequestLimitExceeded"}});
    cluster.emulator.command(&busy).unwrap();
    let job = submit(&cluster, 4, &cluster.scratch.path().join("job.out"));
    wait::until("an address that is nobody's", || {
        let nodes = cluster.slurm.nodes()?;
        Ok((nodes.iter().filter(|node| node["NodeAddr"] == "255.255.255.255").count() == 4).then_some(()))
    })
    .unwrap();
    assert!(cluster.slurm.command("scancel").arg(job.to_string()).status().unwrap().success());
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "CANCELLED");

    // The nodes come up all the same, at their instances' addresses.
    assert!(cluster.emulator.clear_faults().unwrap() > 0);
    cluster.wait_for_rest().unwrap();
    run_job(&cluster, 4);
    cluster.wait_for_rest().unwrap();
    assert_eq!(cluster.names_looked_up(), Vec::<String>::new());
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn two_hundred_nodes_take_few_calls() {
    const NODES: u32 = 200;
    let mut cluster = Cluster::start(&Options {
        nodes: NODES,
        plugin: false,
        // Nothing is suspended while the calls are counted.
        suspend_time: 120,
        count_forks: true,
        config: json!({"RescanSec": 3600}),
        ..Options::default()
    })
    .unwrap();
    // What slurmctld starts by itself, without the plugin.
    let own_forks = cluster.forks();
    assert!(cluster.slurm.stop());
    cluster.slurm.change_conf(|conf| conf.plugin = true).unwrap();
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    let before = cluster.emulator.calls().unwrap();
    let updates_before = updates(&cluster);
    let output = cluster.scratch.path().join("job.out");
    let job = submit(&cluster, NODES, &output);
    cluster
        .slurm
        .wait_for_nodes("200 nodes to register", |node: &Record| {
            !has_state(node, "POWERING_UP") && !has_state(node, "POWERED_DOWN")
        })
        .unwrap();
    let calls = cluster.emulator.calls().unwrap();
    let updates = updates(&cluster) - updates_before;
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
    assert_eq!(std::fs::read_to_string(&output).unwrap().lines().count(), NODES as usize);

    let made: u64 = calls.iter().map(|(action, count)| count - before.get(action).unwrap_or(&0)).sum();
    println!("{NODES} nodes: {made} EC2 calls ({calls:?}), {updates} update_node calls");
    assert!(made <= 8, "{calls:?}, before {before:?}");
    assert!(updates <= 4, "{updates} update_node calls");
    assert_eq!(
        cluster.forks() - 2 * own_forks,
        cluster.program_starts().len(),
        "slurmctld started more than the configured programs: {} in all, {own_forks} at its own start",
        cluster.forks()
    );
    for node in cluster.slurm.nodes().unwrap() {
        assert_ne!(base_state(&node), "DOWN", "{node:?}");
    }
}

fn updates(cluster: &Cluster) -> u64 {
    let status = cluster.ec2fleet(&["status", "--json"]).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status["slurm"]["updates"].as_u64().unwrap()
}
