// SPDX-License-Identifier: GPL-3.0-or-later
//! The rig's own machinery, with two static nodes and no EC2: what the other tests stand on.

use std::path::Path;

use ec2fleet_rig::instances::{Instances, Verb, write_program};
use ec2fleet_rig::loopback::Loopback;
use ec2fleet_rig::munge::Munge;
use ec2fleet_rig::slurm::{Slurm, SlurmConf, base_state};
use ec2fleet_rig::{Scratch, keeps_scratch, wait};

/// Instance and node: node `n1` has the first instance address of the cluster's range, `n2` the second.
const NODES: [(&str, &str); 2] = [("i-00000000000000001", "n1"), ("i-00000000000000002", "n2")];

struct Static {
    slurm: Slurm,
    instances: Instances,
    _munge: Munge,
    scratch: Scratch,
    _loopback: Loopback,
}

impl Drop for Static {
    fn drop(&mut self) {
        self.slurm.stop();
        self.instances.end_all();
    }
}

impl Static {
    fn start() -> Self {
        let loopback = Loopback::claim().unwrap();
        let addresses = [4, 5].map(|fourth| loopback.address(0, fourth).to_string());
        let scratch = Scratch::new().unwrap();
        let munge = Munge::start(scratch.path()).unwrap();
        let conf = SlurmConf {
            plugin: false,
            programs: None,
            suspend_time: 0,
            suspend_timeout: 5,
            resume_timeout: 300,
            slurmd_timeout: 10,
            lines: format!(
                "SuspendTime=-1\n\
                 NodeName=n[1-2] NodeAddr={} CPUs=1 RealMemory=64\n\
                 PartitionName=p Nodes=ALL Default=YES",
                addresses.join(",")
            ),
        };
        let slurm = Slurm::new(scratch.path(), &munge.socket, &loopback, conf, Vec::new()).unwrap();
        let node_side = scratch.path().join("node-side");
        write_program(&node_side, "#!/bin/sh\nexec \"$SLURMD\" -D -N \"$RIG_NODE\" $SLURMD_OPTIONS\n")
            .unwrap();
        let instances = Instances::prepare(scratch.path(), &slurm.conf, &node_side).unwrap();
        let mut cluster = Self { slurm, instances, _munge: munge, scratch, _loopback: loopback };
        cluster.slurm.start().unwrap();
        for ((id, node), address) in NODES.into_iter().zip(&addresses) {
            cluster
                .instances
                .run(Verb::Boot, id, &[("RIG_NODE", node), ("EC2_PRIVATE_IP", address)])
                .unwrap();
        }
        cluster.slurm.wait_for_nodes("two idle nodes", |node| base_state(node) == "IDLE").unwrap();
        cluster
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Processes whose environment names the scratch folder, zombies aside.
fn processes_of(scratch: &Path) -> Vec<String> {
    let mark = scratch.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&mark) {
            found.push(text(&entry.path().join("cmdline")).replace('\0', " "));
        }
    }
    found
}

#[test]
fn instances_run_jobs_freeze_thaw_and_end_with_all_their_processes() {
    let cluster = Static::start();
    let folder = cluster.scratch.path();

    // Each task appends to a file of its own: what runs is seen from outside.
    let job = cluster
        .slurm
        .sbatch(
            &["-N2", "-o", "/dev/null"],
            &format!(
                "srun sh -c 'while [ ! -e {0}/finish ]; do echo tick >>{0}/$SLURMD_NODENAME; sleep 0.05; done'",
                folder.display()
            ),
        )
        .unwrap();
    let [file1, file2] = ["n1", "n2"].map(|node| folder.join(node));
    let ticks = |path: &Path, more_than: usize| {
        let path = path.to_owned();
        wait::until("a tick", || Ok(Some(text(&path).lines().count()).filter(|&n| n > more_than))).unwrap()
    };
    ticks(&file1, 0);
    ticks(&file2, 0);

    cluster.instances.run(Verb::Freeze, NODES[0].0, &[]).unwrap();
    let asleep = text(&file1).lines().count();
    let awake = ticks(&file2, 0);
    ticks(&file2, awake + 20);
    assert_eq!(text(&file1).lines().count(), asleep, "a frozen task went on");

    cluster.instances.run(Verb::Thaw, NODES[0].0, &[]).unwrap();
    ticks(&file1, asleep);
    std::fs::write(folder.join("finish"), "").unwrap();
    assert_eq!(cluster.slurm.wait_for_job(job).unwrap()["JobState"], "COMPLETED");

    cluster.instances.run(Verb::End, NODES[1].0, &[]).unwrap();
    cluster
        .slurm
        .wait_for_nodes("the ended node to be down", |node| {
            base_state(node) == if node["NodeName"] == "n2" { "DOWN" } else { "IDLE" }
        })
        .unwrap();
    assert_eq!(cluster.instances.living(), [NODES[0].0]);
}

#[test]
fn nothing_is_left_when_a_test_fails() {
    let failed = std::panic::catch_unwind(|| {
        let cluster = Static::start();
        cluster.slurm.sbatch(&["-N2", "-o", "/dev/null"], "srun sleep 1000").unwrap();
        wait::until("the job's steps", || {
            Ok(cluster.slurm.scontrol(&["show", "steps"])?.contains(".0").then_some(()))
        })
        .unwrap();
        std::panic::panic_any(cluster.scratch.path().to_owned());
    })
    .unwrap_err();
    let folder = failed.downcast::<std::path::PathBuf>().expect("the planned panic");
    assert_eq!(processes_of(&folder), Vec::<String>::new());
    assert_eq!(folder.exists(), keeps_scratch());
}
