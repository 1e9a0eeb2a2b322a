// SPDX-License-Identifier: GPL-3.0-or-later
//! One maintain fleet for a whole node group, which replaces what it loses: its target follows Slurm, and exactly the right
//! instances end.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::flow::our_errors;
use super::hibernation::{asleep, counting_job, wait_for_state};
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::wait;

/// How long EC2 modifies a fleet; it takes no other change meanwhile.
const MODIFYING_MS: u64 = 4_000;

fn options() -> Options {
    Options {
        nodes: 4,
        suspend_time: 5,
        slurmd_timeout: 30,
        scenario: json!({
            "replace_while_hibernated": true,
            "delays": {"fleet_modifying_ms": MODIFYING_MS},
        }),
        group: json!({
            "SpotOptions": {"InstanceInterruptionBehavior": "hibernate"},
            "FleetScope": "group",
        }),
        ..Options::default()
    }
}

/// Arrivals of calls that change fleets or instances, oldest first, with their actions.
fn changes(cluster: &Cluster) -> Vec<(u64, &'static str)> {
    let mut all = Vec::new();
    for action in ["CreateFleet", "ModifyFleet", "DeleteFleets", "TerminateInstances"] {
        all.extend(cluster.emulator.arrivals(action).unwrap().into_iter().map(|at| (at, action)));
    }
    all.sort_unstable();
    all
}

fn ended(cluster: &Cluster) -> BTreeSet<String> {
    let instances = cluster.emulator.instances().unwrap();
    let ended = instances.into_iter().filter(|i| matches!(i.state.as_str(), "shutting-down" | "terminated"));
    ended.map(|instance| instance.id).collect()
}

fn instance_of(cluster: &Cluster, job: u32) -> String {
    let node = wait_for_state(cluster, job, "RUNNING")["NodeList"].clone();
    let bindings = cluster.bindings().unwrap();
    bindings.iter().find(|(name, _)| *name == node).expect("an instance of the node").1.clone()
}

fn fleet_of(cluster: &Cluster, instance: &str) -> String {
    let instances = cluster.emulator.instances().unwrap();
    let found = instances.iter().find(|i| i.id == instance).expect("the instance");
    found.tags["aws:ec2:fleet-id"].clone()
}

fn wait_for_end(cluster: &Cluster, job: u32) {
    let end = cluster.slurm.wait_for_job(job).unwrap();
    assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
}

#[test]
fn a_fleet_of_a_group_follows_slurm_through_suspend_sleep_and_crashes() {
    let mut cluster = Cluster::start(&options()).unwrap();
    cluster.wait_for_plugin().unwrap();
    let (long, output) = counting_job(&cluster, 90, 10, 0);
    let (short, _) = counting_job(&cluster, 2, 10, 1);
    let (keeps, goes) = (instance_of(&cluster, long), instance_of(&cluster, short));
    let fleet = fleet_of(&cluster, &keeps);
    assert_eq!(fleet, fleet_of(&cluster, &goes), "one fleet for both");

    // The short job's node is suspended: the target first, then its instance and no other one.
    wait_for_end(&cluster, short);
    wait::until("the suspended node's instance to end", || Ok(ended(&cluster).contains(&goes).then_some(())))
        .unwrap();
    assert_eq!(ended(&cluster), BTreeSet::from([goes.clone()]));
    let log = changes(&cluster);
    let end = log.iter().position(|(_, action)| *action == "TerminateInstances").unwrap();
    let (modified, action) = log[end - 1];
    assert_eq!(action, "ModifyFleet", "{log:?}");
    let waited = (log[end].0 - modified) / 1_000_000;
    assert!(
        waited >= MODIFYING_MS,
        "ended {waited} ms after ModifyFleet, while the fleet was being modified"
    );

    // The long job's instance sleeps. EC2 launches another one in its place, which nobody wants.
    cluster.emulator.command(&json!({"interrupt": {"instances": [keeps]}})).unwrap();
    wait::until("the node to be seen asleep", || Ok((asleep(&cluster) == 1).then_some(()))).unwrap();
    let replacements = |cluster: &Cluster| -> BTreeSet<String> {
        let all = cluster.emulator.instances().unwrap().into_iter().map(|instance| instance.id);
        all.filter(|id| *id != keeps && *id != goes).collect()
    };
    wait::until("the replacement to be ended", || {
        let made = replacements(&cluster);
        Ok((!made.is_empty() && made.is_subset(&ended(&cluster))).then_some(()))
    })
    .unwrap();
    assert!(!ended(&cluster).contains(&keeps), "the sleeper is never surplus");
    let made = replacements(&cluster);

    // slurmctld is killed and comes back: nothing new is launched, and another node still gets what it needs.
    cluster.slurm.kill();
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    wait::until("the node to be seen asleep again", || Ok((asleep(&cluster) == 1).then_some(()))).unwrap();
    assert_eq!(replacements(&cluster), made, "EC2 launched another one");
    let (third, _) = counting_job(&cluster, 5, 10, 2);
    instance_of(&cluster, third);

    cluster.emulator.command(&json!({"resume": {}})).unwrap();
    wait_for_end(&cluster, third);
    wait_for_end(&cluster, long);
    assert_eq!(std::fs::read_to_string(output).unwrap().matches("counted 90").count(), 1);
    assert_eq!(instances_of_node(&cluster, &keeps), 1, "the job ended on the instance on which it began");
    cluster.wait_for_rest().unwrap();

    // Without its journal the plugin finds the fleet by its tags, also in the middle of a job.
    let (fourth, _) = counting_job(&cluster, 30, 10, 3);
    let busy = instance_of(&cluster, fourth);
    assert!(cluster.slurm.stop(), "slurmctld did not end by itself");
    std::fs::remove_file(cluster.state_dir().join("journal")).unwrap();
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    wait_for_end(&cluster, fourth);
    assert_eq!(fleet_of(&cluster, &busy), fleet);
    cluster.wait_for_rest().unwrap();
    assert_eq!(cluster.emulator.calls().unwrap()["CreateFleet"], 1, "the fleet was made twice");
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

/// How many instances were ever the one of this id, by the events that bound it to nodes.
fn instances_of_node(cluster: &Cluster, id: &str) -> usize {
    let named = |event: &Value| {
        event["instances"].as_array().is_some_and(|all| all.iter().any(|instance| instance == id))
    };
    cluster.events().iter().filter(|event| event["kind"] == "nodes-bound" && named(event)).count()
}
