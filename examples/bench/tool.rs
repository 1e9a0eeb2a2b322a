// SPDX-License-Identifier: GPL-3.0-or-later
//! The administrator's tool and the resting plugin at 10,000 nodes.

use std::process::Command;
use std::time::{Duration, Instant};

use super::cluster::cluster;
use super::numbers::{Numbers, percentile};
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::{Outcome, paths, process, wait};

const NODES: u32 = 10_000;
const UP: u32 = 1_000;
const ROUNDS: usize = 20;
const REST: Duration = Duration::from_secs(60);

pub fn run(numbers: &mut Numbers) -> Outcome<()> {
    let cluster = cluster(NODES, Options::default())?;
    // slurmctld's own start and the plugin's first listing are over.
    std::thread::sleep(Duration::from_secs(5));
    commands(&cluster, numbers, "10,000 nodes powered down")?;
    rest(&cluster, numbers, "10,000 nodes powered down")?;

    let nodes = format!("NodeName=cloud-spot-[0-{}]", UP - 1);
    cluster.slurm.scontrol(&["update", &nodes, "State=POWER_UP"])?;
    wait::until("the addresses", || {
        let bound = cluster.slurm.nodes()?.iter().filter(|n| n["NodeAddr"] != n["NodeName"]).count();
        Ok((bound == UP as usize).then_some(()))
    })
    .map_err(|error| format!("{error}\n{}", cluster.ec2fleet(&["status"]).unwrap_or_default()))?;
    // Names as tags follow at the pace that EC2 allows; they are not what is measured.
    std::thread::sleep(Duration::from_secs(10));
    commands(&cluster, numbers, "1,000 of 10,000 nodes up")?;
    rest(&cluster, numbers, "1,000 of 10,000 nodes up")
}

/// From the start of the process to its end, as an administrator waits.
fn commands(cluster: &Cluster, numbers: &mut Numbers, when: &str) -> Outcome<()> {
    for (name, arguments, goal) in [
        ("status", &["status"][..], "<= 50"),
        ("status --json", &["status", "--json"], "<= 50"),
        ("nodes", &["nodes"], "<= 200"),
        ("nodes --wide", &["nodes", "--wide"], "<= 200"),
        ("nodes --json", &["nodes", "--json"], "<= 200"),
    ] {
        let mut took = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let mut command = Command::new(paths::program("ec2fleet")?);
            command
                .args(arguments)
                .arg("--config-dir")
                .arg(&cluster.config)
                .env("SLURM_CONF", &cluster.slurm.conf);
            let start = Instant::now();
            process::run(&mut command)?;
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        numbers.goal(format!("ec2fleet {name}, {when}, median"), percentile(&mut took, 0.5), "ms", goal);
    }
    Ok(())
}

/// Processor time of the plugin's threads while nothing happens.
fn rest(cluster: &Cluster, numbers: &mut Numbers, when: &str) -> Outcome<()> {
    let before = processor_ticks(cluster)?;
    std::thread::sleep(REST);
    let ticks = processor_ticks(cluster)? - before;
    // proc(5): in units of sysconf(_SC_CLK_TCK), which is 100 on Linux.
    let share = ticks as f64 / 100.0 / REST.as_secs_f64() * 100.0;
    numbers.put(format!("processor time of the resting plugin, {when}"), share, "%");
    Ok(())
}

fn processor_ticks(cluster: &Cluster) -> Outcome<u64> {
    let pid = cluster.slurm.controller_pid().ok_or("slurmctld does not run")?;
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
    let mut ticks = 0;
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // `pid (name) state …`; utime and stime are fields 14 and 15.
        let Some((name, rest)) = text.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else {
            continue;
        };
        if name.starts_with("ec2fleet") {
            ticks +=
                rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(ticks)
}
