// SPDX-License-Identifier: GPL-3.0-or-later
//! slurmctld is killed again and again: nothing is launched twice, nothing is left behind, no job is lost.

use std::time::Duration;

use serde_json::json;

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::slurm::has_state;
use ec2fleet_rig::wait;

const KILLS: u32 = 100;
const NODES: u32 = 50;

#[test]
fn a_hundred_kills_during_resumes_and_suspends_of_fifty_nodes() {
    let mut cluster = Cluster::start(&Options {
        nodes: NODES,
        suspend_time: 2,
        suspend_timeout: 4,
        config: json!({"OrphanGraceSec": 30, "RescanSec": 10}),
        ..Options::default()
    })
    .unwrap();
    cluster.wait_for_plugin().unwrap();

    // Slurm forgets a job that it had not saved when it was killed, and that is its own affair. So the jobs are
    // submitted on hold, saved by an orderly stop, and released one after the other.
    let jobs: Vec<u32> = (0..KILLS)
        .map(|_| {
            let nodes = fastrand::u32(1..=10).to_string();
            cluster.slurm.sbatch(&["-H", "-N", &nodes, "-o", "/dev/null"], "srun sleep 1").unwrap()
        })
        .collect();
    assert!(cluster.slurm.stop());
    cluster.slurm.start().unwrap();

    for job in &jobs {
        cluster.slurm.scontrol(&["release", &job.to_string()]).unwrap();
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..2000)));
        cluster.slurm.kill();
        cluster.slurm.start().unwrap();
    }

    // A release that was not saved is lost as well.
    for job in &jobs {
        if cluster.slurm.job(*job).unwrap()["JobState"] == "PENDING" {
            cluster.slurm.scontrol(&["release", &job.to_string()]).unwrap();
        }
    }
    for job in &jobs {
        let end = cluster.slurm.wait_for_job(*job).unwrap();
        assert_eq!(end["JobState"], "COMPLETED", "{end:?}");
    }
    cluster.wait_for_rest().unwrap();
    for node in cluster.slurm.nodes().unwrap() {
        assert!(has_state(&node, "POWERED_DOWN") && !has_state(&node, "DOWN"), "{node:?}");
    }
    let tokens = wait::until("the journal to be empty", || {
        let answer = cluster.ask_plugin(&json!({"v": 1, "op": "status"}))?;
        Ok((answer["ok"]["status"]["journal"]["open_intents"] == 0).then_some(()))
    });
    tokens.unwrap();
}
