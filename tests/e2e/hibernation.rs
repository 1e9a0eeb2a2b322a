// SPDX-License-Identifier: GPL-3.0-or-later
//! Spot nodes that EC2 hibernates: their slurmds and steps are really frozen, and their jobs outlive it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::slurm::{Record, base_state, has_state};
use ec2fleet_rig::wait;

/// SlurmdTimeout of these clusters, seconds; every sleep is longer.
const SLURMD_TIMEOUT: u32 = 30;

pub fn options(nodes: u32, keep_responding: bool) -> Options {
    Options {
        nodes,
        suspend_time: 600,
        slurmd_timeout: SLURMD_TIMEOUT,
        group: json!({
            "SpotOptions": {"InstanceInterruptionBehavior": "hibernate"},
            "FleetScope": "node",
            "KeepResponding": keep_responding,
        }),
        ..Options::default()
    }
}

/// A job that counts seconds of its own life: frozen, it does not count.
pub fn counting_job(cluster: &Cluster, seconds: u32, limit_minutes: u32, number: usize) -> (u32, PathBuf) {
    let output = cluster.scratch.path().join(format!("count-{number}.out"));
    let script =
        format!("for i in $(seq {seconds}); do sleep 1; done; echo counted {seconds} on $SLURMD_NODENAME");
    let job = cluster
        .slurm
        .sbatch(
            &[
                "-N1",
                "--exclusive",
                "--requeue",
                "-t",
                &limit_minutes.to_string(),
                "-o",
                &output.display().to_string(),
            ],
            &script,
        )
        .unwrap();
    (job, output)
}

pub fn wait_for_state(cluster: &Cluster, job: u32, wanted: &str) -> Record {
    wait::until(&format!("job {job} to be {wanted}"), || {
        let record = cluster.slurm.job(job)?;
        Ok((record["JobState"] == wanted).then_some(record))
    })
    .unwrap()
}

fn hibernate_all(cluster: &Cluster) {
    cluster.emulator.command(&json!({"interrupt": {}})).unwrap();
}

fn resume_all(cluster: &Cluster) {
    cluster.emulator.command(&json!({"resume": {}})).unwrap();
}

pub fn sleep(seconds: u64) {
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until {
        wait::check_interrupted().unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
}

pub fn asleep(cluster: &Cluster) -> usize {
    cluster
        .ec2fleet(&["nodes", "--json"])
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .and_then(|report| {
            Some(report["nodes"].as_array()?.iter().filter(|node| node["phase"] == "asleep").count())
        })
        .unwrap_or(0)
}

#[test]
fn without_keeping_them_responding_jobs_are_lost_and_a_dead_node_is_found_as_always() {
    let cluster = Cluster::start(&options(2, false)).unwrap();
    let (job, _) = counting_job(&cluster, 40, 10, 0);
    wait_for_state(&cluster, job, "RUNNING");
    let node = cluster.slurm.job(job).unwrap()["NodeList"].clone();
    hibernate_all(&cluster);
    wait::until("slurmctld to give the node up", || {
        let record = cluster.slurm.node(&node)?;
        let lost =
            cluster.slurm.job(job)?["Restarts"] != "0" || cluster.slurm.job(job)?["JobState"] != "RUNNING";
        Ok((base_state(&record) == "DOWN" || lost).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_killed_node_is_down_after_slurmd_timeout_although_another_sleeps() {
    let cluster = Cluster::start(&options(2, true)).unwrap();
    let jobs = [counting_job(&cluster, 30, 10, 0), counting_job(&cluster, 30, 10, 1)];
    let nodes: Vec<String> =
        jobs.iter().map(|(job, _)| wait_for_state(&cluster, *job, "RUNNING")["NodeList"].clone()).collect();
    let bindings = cluster.bindings().unwrap();
    let instance_of = |node: &str| bindings.iter().find(|(name, _)| name == node).unwrap().1.clone();
    // The first sleeps; the second's machine dies without EC2 noticing.
    cluster.emulator.command(&json!({"interrupt": {"instances": [instance_of(&nodes[0])]}})).unwrap();
    cluster.instances.run(ec2fleet_rig::instances::Verb::Freeze, &instance_of(&nodes[1]), &[]).unwrap();
    wait::until("the dead node to be DOWN", || {
        Ok((base_state(&cluster.slurm.node(&nodes[1])?) == "DOWN").then_some(()))
    })
    .unwrap();
    sleep(u64::from(SLURMD_TIMEOUT));
    let sleeping = cluster.slurm.node(&nodes[0]).unwrap();
    assert_ne!(base_state(&sleeping), "DOWN", "{sleeping:?}");
    assert_eq!(cluster.slurm.job(jobs[0].0).unwrap()["Restarts"], "0");
    resume_all(&cluster);
    let end = cluster.slurm.wait_for_job(jobs[0].0).unwrap();
    assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
}

#[test]
fn a_sleep_longer_than_the_time_limit_does_not_time_the_job_out() {
    let cluster = Cluster::start(&options(1, true)).unwrap();
    // 30 s of work, one minute of limit, more than two minutes asleep.
    let (job, output) = counting_job(&cluster, 30, 1, 0);
    wait_for_state(&cluster, job, "RUNNING");
    hibernate_all(&cluster);
    sleep(130);
    resume_all(&cluster);
    let end = cluster.slurm.wait_for_job(job).unwrap();
    assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
    assert!(std::fs::read_to_string(output).unwrap().contains("counted 30"));
}

/// A file system of its own, small enough to be filled.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(&folder).status().unwrap();
        assert!(mounted.success(), "mount {}", folder.display());
        Self(folder)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_sleeping_node_keeps_its_job_while_the_disk_is_full() {
    let mut cluster = Cluster::start(&Options { start: false, ..options(3, true) }).unwrap();
    let disk = SmallDisk::mount(cluster.state_dir());
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    let (sleeper, _) = counting_job(&cluster, 20, 10, 0);
    let node = wait_for_state(&cluster, sleeper, "RUNNING")["NodeList"].clone();
    let journal_error = || {
        let answer = cluster.ask_plugin(&json!({"v": 1, "op": "status"}))?;
        Ok(answer["ok"]["status"]["journal"]["error"].as_str().map(str::to_owned))
    };
    disk.fill();
    // There may be room left at the journal's end.
    let spare = format!("{}-{}-2", ec2fleet_rig::cluster::PARTITION, ec2fleet_rig::cluster::GROUP);
    let refused = || {
        for command in ["lock", "unlock"] {
            let _ = cluster.ec2fleet(&[command, &spare]);
        }
        journal_error()
    };
    let error = wait::until("the journal to refuse", refused).unwrap();
    assert!(error.contains("No space left"), "{error}");
    // What this one needs has to be written down before EC2 is asked for it.
    let (waiting, _) = counting_job(&cluster, 1, 10, 1);
    hibernate_all(&cluster);
    wait::until("the instance to be seen asleep", || Ok((asleep(&cluster) == 1).then_some(()))).unwrap();
    sleep(2 * u64::from(SLURMD_TIMEOUT));
    assert_ne!(base_state(&cluster.slurm.node(&node).unwrap()), "DOWN");
    assert_eq!(cluster.emulator.living_instances().unwrap().len(), 1, "launched without a record of it");
    disk.make_room();
    resume_all(&cluster);
    for job in [sleeper, waiting] {
        let end = cluster.slurm.wait_for_job(job).unwrap();
        assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
    }
    assert_eq!(cluster.emulator.living_instances().unwrap().len(), 2);
    assert_eq!(journal_error().unwrap(), None);
}

/// Nodes whose instances have an encrypted root volume with room for their memory, and a volume of data.
fn moving_options(nodes: u32) -> Options {
    Options {
        template: vec![
            ("HibernationOptions.Configured", "true"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "20"),
            ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
            ("BlockDeviceMapping.2.DeviceName", "/dev/sdb"),
            ("BlockDeviceMapping.2.Ebs.VolumeSize", "5"),
            ("BlockDeviceMapping.2.Ebs.DeleteOnTermination", "true"),
        ],
        group: json!({
            "SpotOptions": {"InstanceInterruptionBehavior": "hibernate"},
            "FleetScope": "node",
            "MaxHibernationMin": 1,
            "AfterMaxHibernation": "on-demand",
        }),
        ..options(nodes, true)
    }
}

/// The nodes are on-demand instances with the volumes that their Spot instances had, and nothing else is left.
fn wait_for_moved(cluster: &Cluster, volumes: &BTreeMap<String, Option<(String, bool)>>) {
    wait::until("every job's volumes on an on-demand instance, and nothing else", || {
        let living = cluster.emulator.living_instances()?;
        let now = cluster.emulator.volumes()?;
        let whole = now.len() == volumes.len()
            && now.values().all(|attached| {
                attached.as_ref().is_some_and(|(id, deleted)| *deleted && living.iter().any(|i| i.id == *id))
            });
        let on_demand = living.iter().all(|instance| instance.lifecycle == "on-demand");
        let done =
            whole && on_demand && living.len() * 2 == now.len() && cluster.emulator.reservations()? == 0;
        Ok(done.then_some(()))
    })
    .unwrap();
    assert!(cluster.emulator.volumes().unwrap().keys().eq(volumes.keys()), "the same volumes");
}

/// When the nodes are powered down, EC2 has nothing left of them.
fn assert_nothing_left(cluster: &Cluster) {
    for node in cluster.slurm.nodes().unwrap() {
        cluster
            .slurm
            .scontrol(&["update", &format!("NodeName={}", node["NodeName"]), "State=POWER_DOWN"])
            .unwrap();
    }
    wait::until("no instance and no volume in EC2", || {
        let left = cluster.emulator.living_instances()?.len() + cluster.emulator.volumes()?.len();
        Ok((left == 0).then_some(()))
    })
    .unwrap();
}

fn assert_completed(cluster: &Cluster, job: u32, output: &std::path::Path, seconds: u32) {
    let end = cluster.slurm.wait_for_job(job).unwrap();
    assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
    let text = std::fs::read_to_string(output).unwrap();
    assert_eq!(text.matches(&format!("counted {seconds}")).count(), 1, "{text}");
}

#[test]
fn a_sleep_beyond_the_limit_goes_on_as_an_on_demand_instance() {
    let cluster = Cluster::start(&moving_options(1)).unwrap();
    let (job, output) = counting_job(&cluster, 40, 2, 0);
    let node = wait_for_state(&cluster, job, "RUNNING")["NodeList"].clone();
    let spot = cluster.bindings().unwrap()[0].1.clone();
    let address = cluster.slurm.node(&node).unwrap()["NodeAddr"].clone();
    let volumes = cluster.emulator.volumes().unwrap();
    assert_eq!(volumes.len(), 2);
    hibernate_all(&cluster);
    wait_for_moved(&cluster, &volumes);
    let moved = cluster.bindings().unwrap()[0].1.clone();
    assert_ne!(moved, spot);
    assert_eq!(cluster.slurm.node(&node).unwrap()["NodeAddr"], address, "the interface came along");
    assert_completed(&cluster, job, &output, 40);
    let record = cluster.slurm.node(&node).unwrap();
    assert!(!has_state(&record, "DRAIN") && base_state(&record) != "DOWN", "{record:?}");
    let told = cluster.ec2fleet(&["explain", &node]).unwrap();
    assert!(told.contains(&moved) && told.contains(&spot), "{told}");
    assert_nothing_left(&cluster);
}

/// One node for each call of the move; each call is refused once, and the reply to one of each is lost.
#[test]
fn jobs_move_to_on_demand_although_every_call_fails_once_and_slurmctld_is_killed() {
    const REFUSED: [(&str, &str); 12] = [
        ("CreateCapacityReservation", "InsufficientInstanceCapacity"),
        ("RunInstances", "InvalidParameterCombination"),
        ("CreateTags", "OperationNotPermitted"),
        ("ModifyInstanceAttribute", "OperationNotPermitted"),
        ("ModifyNetworkInterfaceAttribute", "OperationNotPermitted"),
        ("DetachVolume", "IncorrectState"),
        ("DeleteFleets", "InternalError"),
        ("StopInstances", "UnsupportedOperation"),
        ("AttachVolume", "IncorrectState"),
        ("StartInstances", "InsufficientInstanceCapacity"),
        ("DeleteVolume", "VolumeInUse"),
        ("CancelCapacityReservation", "OperationNotPermitted"),
    ];
    let mut cluster = Cluster::start(&moving_options(u32::try_from(REFUSED.len()).unwrap())).unwrap();
    let jobs: Vec<_> = (0..REFUSED.len()).map(|number| counting_job(&cluster, 30, 10, number)).collect();
    for (job, _) in &jobs {
        wait_for_state(&cluster, *job, "RUNNING");
    }
    let volumes = cluster.emulator.volumes().unwrap();
    assert_eq!(volumes.len(), 2 * REFUSED.len());
    hibernate_all(&cluster);
    wait::until("every node to be seen asleep", || Ok((asleep(&cluster) == REFUSED.len()).then_some(())))
        .unwrap();
    let fault = |fault: Value| cluster.emulator.command(&json!({ "fault": fault })).unwrap();
    for (action, code) in REFUSED {
        fault(json!({"action": action, "code": code, "count": 1}));
    }
    let calls = |action: &str| cluster.emulator.calls().map(|calls| calls.get(action).copied().unwrap_or(0));
    wait::until("the first on-demand instances to be asked for", || {
        Ok((calls("StopInstances")? >= 2).then_some(()))
    })
    .unwrap();
    cluster.slurm.kill();
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    // Moves that were refused are tried again after a minute: each of their calls loses a reply.
    for (action, _) in REFUSED {
        cluster
            .emulator
            .command(&json!({"fault": {"action": action, "lost_reply": true, "count": 1}}))
            .unwrap();
    }
    wait_for_moved(&cluster, &volumes);
    assert_eq!(cluster.emulator.clear_faults().unwrap(), 0, "every call has failed and lost a reply");
    for (job, output) in &jobs {
        assert_completed(&cluster, *job, output, 30);
    }
    assert_nothing_left(&cluster);
}
