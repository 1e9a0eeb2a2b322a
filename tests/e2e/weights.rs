// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm's Weight of nodes follows the instance that each really has, through fallback, reconfigure, restart and power-down.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flow::our_errors;
use super::releases::job_until;
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::wait;

/// slurm.conf says nothing of weights, which is 1 to Slurm: neither of these.
const SPOT: &str = "20";
const ON_DEMAND: &str = "10";

fn options() -> Options {
    Options {
        nodes: 4,
        suspend_time: 5,
        group: json!({"SpotFallbackSec": 60, "NodeWeights": {"spot": 20, "on-demand": 10}}),
        ..Options::default()
    }
}

fn spot_capacity(cluster: &Cluster, count: u32) {
    cluster.emulator.command(&json!({"pool": {"lifecycle": "spot", "capacity": count}})).unwrap();
}

/// A job that runs on two nodes until the returned file exists, and the names of its nodes.
fn pair(cluster: &Cluster) -> (u32, PathBuf, BTreeSet<String>) {
    let finish = cluster.scratch.path().join(format!("finish-{}", fastrand::u64(..)));
    let job = job_until(cluster, 2, &finish);
    let names = cluster.bindings().unwrap().into_iter().map(|(name, _)| name).collect();
    (job, finish, names)
}

fn end(cluster: &Cluster, job: u32, finish: &Path) {
    std::fs::write(finish, "").unwrap();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");
}

/// Wait until exactly these nodes have the weight of on-demand, and the others that of Spot.
fn wait_for_weights(cluster: &Cluster, when: &str, on_demand: &BTreeSet<String>) {
    let is_right = |node: &ec2fleet_rig::slurm::Record| {
        node["Weight"] == if on_demand.contains(&node["NodeName"]) { ON_DEMAND } else { SPOT }
    };
    wait::until(&format!("the weights {when}"), || {
        let nodes = cluster.slurm.nodes()?;
        Ok((nodes.len() == 4 && nodes.iter().all(is_right)).then_some(()))
    })
    .unwrap();
}

/// slurmctld shows a weight before the plugin has told of it.
fn wait_for_writes(cluster: &Cluster, when: &str, count: usize) {
    let told = || Ok((writes(cluster).len() >= count).then_some(()));
    wait::until(&format!("the weights to be written {when}"), told).unwrap();
}

/// Each write of weights so far: its nodes and its text.
fn writes(cluster: &Cluster) -> Vec<(String, String)> {
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let events = cluster.events();
    let writes = events.iter().filter(|event| event["kind"] == "weights-set");
    writes.map(|event| (text(event, "nodes"), text(event, "text"))).collect()
}

fn lifecycles(cluster: &Cluster) -> Vec<String> {
    cluster.emulator.living_instances().unwrap().into_iter().map(|instance| instance.lifecycle).collect()
}

#[test]
fn weights_follow_the_instances_through_fallback_reconfigure_restart_and_power_down() {
    let mut cluster = Cluster::start(&options()).unwrap();
    cluster.wait_for_plugin().unwrap();
    let none = BTreeSet::new();
    wait_for_weights(&cluster, "of nodes that are powered down", &none);
    wait_for_writes(&cluster, "at the start", 1);
    let all = "cloud-spot-[0-3]".to_owned();
    assert_eq!(writes(&cluster), [(all, "slurmctld has weight 20 for 4 nodes".to_owned())]);

    // Spot has nothing: two nodes run on-demand, and have its weight by one more write.
    spot_capacity(&cluster, 0);
    let (job, finish, fallen) = pair(&cluster);
    assert_eq!(lifecycles(&cluster), ["on-demand", "on-demand"]);
    wait_for_weights(&cluster, "after the fallback", &fallen);
    wait_for_writes(&cluster, "after the fallback", 2);
    let so_far = writes(&cluster);
    assert_eq!(so_far.len(), 2, "{so_far:?}");
    assert_eq!(so_far[1].1, "slurmctld has weight 10 for 2 nodes");

    // slurmctld goes back to slurm.conf, and each weight is written once more.
    cluster.slurm.scontrol(&["reconfigure"]).unwrap();
    wait_for_writes(&cluster, "after the reconfiguration", 4);
    wait_for_weights(&cluster, "after the reconfiguration", &fallen);
    assert!(cluster.slurm.stop(), "slurmctld did not end by itself");
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    wait_for_writes(&cluster, "after the restart", 6);
    wait_for_weights(&cluster, "after the restart", &fallen);
    let so_far = writes(&cluster);
    assert_eq!(so_far.len(), 6, "{so_far:?}");

    // Powered down, they are worth what the next instance shall be.
    end(&cluster, job, &finish);
    wait_for_weights(&cluster, "after the power-down", &none);
    cluster.wait_for_rest().unwrap();
    wait_for_writes(&cluster, "after the power-down", 7);
    assert_eq!(writes(&cluster).len(), 7, "{:?}", writes(&cluster));

    // Spot is back: nothing is to be written.
    spot_capacity(&cluster, 10);
    let (job, finish, _) = pair(&cluster);
    assert_eq!(lifecycles(&cluster), ["spot", "spot"]);
    end(&cluster, job, &finish);
    cluster.wait_for_rest().unwrap();
    wait_for_weights(&cluster, "of Spot nodes", &none);
    assert_eq!(writes(&cluster).len(), 7, "{:?}", writes(&cluster));
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn the_programs_alone_set_the_weights_of_the_instances_too() {
    let cluster = Cluster::start(&Options { plugin: false, ..options() }).unwrap();
    spot_capacity(&cluster, 0);
    let (job, finish, fallen) = pair(&cluster);
    assert_eq!(lifecycles(&cluster), ["on-demand", "on-demand"]);
    wait_for_weights(&cluster, "after the fallback", &fallen);
    end(&cluster, job, &finish);
    wait_for_weights(&cluster, "after the power-down", &BTreeSet::new());
    cluster.wait_for_rest().unwrap();
}
