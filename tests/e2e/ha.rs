// SPDX-License-Identifier: GPL-3.0-or-later
//! Two controllers on one StateSaveLocation: whoever holds the fence acts, the other one watches, and a change from one to
//! the other in mid launch launches nothing twice and leaves nothing behind.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use serde_json::json;

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::process::Daemon;
use ec2fleet_rig::{paths, wait};

const NODES: u32 = 50;

/// The cluster's slurmctlds.
struct Pair<'a> {
    cluster: &'a Cluster,
    /// The first is the primary's. They are no instance's.
    addresses: [Ipv4Addr; 2],
    controllers: [Option<Daemon>; 2],
}

impl<'a> Pair<'a> {
    /// Write each controller's slurm.conf. They differ in what cannot be shared on one machine: log and pid file.
    fn new(cluster: &'a Cluster) -> Self {
        let conf = std::fs::read_to_string(&cluster.slurm.conf).unwrap();
        let addresses = [2, 3].map(|fourth| cluster.loopback.address(0, fourth));
        // The names as tests/rig/node/machine.c resolves them.
        let host = |address: Ipv4Addr| {
            format!("SlurmctldHost=ip-{}({address})\n", address.to_string().replace('.', "-"))
        };
        let hosts = addresses.map(host).concat();
        let conf = conf
            .replace("SlurmctldHost=localhost(127.0.0.1)\n", &hosts)
            // They share a port: each binds to its own address only.
            .replace("=NoInAddrAny\n", "=NoInAddrAny,NoCtldInAddrAny\n")
            + "SlurmctldTimeout=5\n";
        std::fs::write(&cluster.slurm.conf, &conf).unwrap();
        let folder = cluster.scratch.path();
        for host in 0..addresses.len() {
            let own = conf
                .replace(
                    &cluster.slurm.log.display().to_string(),
                    &folder.join(format!("slurmctld-{host}.log")).display().to_string(),
                )
                .replace(
                    &folder.join("slurmctld.pid").display().to_string(),
                    &folder.join(format!("slurmctld-{host}.pid")).display().to_string(),
                );
            std::fs::write(folder.join(format!("slurm-{host}.conf")), own).unwrap();
        }
        Self { cluster, addresses, controllers: [None, None] }
    }

    fn log(&self, host: usize) -> PathBuf {
        self.cluster.scratch.path().join(format!("slurmctld-{host}.log"))
    }

    fn logged(&self, host: usize, text: &str) -> usize {
        let log = std::fs::read(self.log(host)).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(text).count()
    }

    fn start(&mut self, host: usize) {
        let folder = self.cluster.scratch.path();
        let mut command = Command::new(paths::system("slurmctld").unwrap());
        command
            .args(["-D", "-f"])
            .arg(folder.join(format!("slurm-{host}.conf")))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_ACCESS_KEY_ID", "rig")
            .env("AWS_SECRET_ACCESS_KEY", "rig")
            .env("EC2FLEET_CONFIG_DIR", &self.cluster.config)
            .env("EC2FLEET_LIBRARY", paths::library().unwrap())
            .env("LD_PRELOAD", folder.join("machine.so"))
            .env("EC2_PRIVATE_IP", self.addresses[host].to_string());
        let output = folder.join(format!("slurmctld-{host}.output"));
        self.controllers[host] = Some(Daemon::start(&format!("slurmctld {host}"), command, &output).unwrap());
    }

    /// Wait until the controller has said once more that it waits for the other one to fail.
    fn wait_until_standby(&mut self, host: usize, before: usize) {
        wait::until("the other slurmctld to stand by", || {
            self.controllers[host].as_mut().expect("it was started").check()?;
            Ok((self.logged(host, "slurmctld running in background mode") > before).then_some(()))
        })
        .unwrap();
    }

    fn kill(&mut self, host: usize) {
        self.controllers[host].take().expect("it was started").kill();
    }

    /// The plugin of this controller is the one that acts.
    fn wait_until_acting(&mut self, host: usize) {
        let pid = self.controllers[host].as_ref().expect("it was started").pid();
        wait::until("the plugin to act in the other slurmctld", || {
            self.controllers[host].as_mut().expect("it was started").check()?;
            let Ok(answer) = self.cluster.ask_plugin(&json!({"v": 1, "op": "status"})) else {
                return Ok(None);
            };
            let status = &answer["ok"]["status"];
            Ok((status["mode"]["state"] == "active" && status["pid"] == pid).then_some(()))
        })
        .unwrap();
    }

    /// What the other slurmctld has to know is on disk: the job, and that its nodes are being powered up.
    fn wait_until_saved(&self, job: u32) {
        let file = |name: &str| self.cluster.slurm.state.join(name);
        let now = SystemTime::now();
        let name = self.cluster.slurm.job(job).unwrap()["JobName"].clone();
        assert!(name.len() > 10, "{name} may be another job's as well");
        wait::until("slurmctld to save its state", || {
            let nodes = std::fs::metadata(file("node_state")).and_then(|m| m.modified());
            // A file that is younger than the job may have been begun before it.
            let jobs = std::fs::read(file("job_state")).unwrap_or_default();
            let has_job = jobs.windows(name.len()).any(|part| part == name.as_bytes());
            Ok((nodes.is_ok_and(|at| at > now) && has_job).then_some(()))
        })
        .unwrap();
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for host in 0..self.controllers.len() {
                eprintln!("== slurmctld {host}\n{}", ec2fleet_rig::process::tail(&self.log(host), 60));
            }
        }
    }
}

#[test]
fn a_standby_takes_over_and_gives_back_during_fifty_resumes() {
    let cluster = Cluster::start(&Options {
        nodes: NODES,
        start: false,
        // Long enough for slurmctld to save that it powers them up, and for a change of controllers.
        scenario: json!({"delays": {"pending_ms": 20_000}}),
        config: json!({"OrphanGraceSec": 30, "RescanSec": 10}),
        ..Options::default()
    })
    .unwrap();
    let mut pair = Pair::new(&cluster);
    pair.start(0);
    pair.wait_until_acting(0);
    pair.start(1);
    pair.wait_until_standby(1, 0);
    // The standby has loaded the plugin as well, and nothing came of it.
    pair.wait_until_acting(0);

    // The primary dies while fifty instances boot.
    let first = submit(&cluster);
    wait_for_fleets(&cluster, NODES as usize);
    pair.wait_until_saved(first);
    pair.kill(0);
    pair.wait_until_acting(1);
    assert_eq!(cluster.slurm.wait_for_job(first).unwrap()["JobState"], "COMPLETED");
    assert_eq!(cluster.emulator.instances().unwrap().len(), NODES as usize, "launched in the takeover");
    cluster.wait_for_rest().unwrap();

    // It comes back while fifty others boot, and takes control back.
    let second = submit(&cluster);
    wait_for_fleets(&cluster, 2 * NODES as usize);
    let stood_by = pair.logged(1, "slurmctld running in background mode");
    // 26.05 gives control back before it has saved its state, and says so: "Old state possible" (_slurm_rpc_request_control in
    // src/slurmctld/proc_req.c, 26.05.3).
    pair.wait_until_saved(second);
    pair.start(0);
    pair.wait_until_standby(1, stood_by);
    pair.wait_until_acting(0);
    assert_eq!(cluster.slurm.wait_for_job(second).unwrap()["JobState"], "COMPLETED");
    cluster.wait_for_rest().unwrap();

    let instances = cluster.emulator.instances().unwrap();
    assert_eq!(instances.len(), 2 * NODES as usize, "launched when control was given back");
    for instance in &instances {
        assert_eq!(instance.state, "terminated", "{instance:?}");
    }
}

/// A job on all nodes. It does not use srun: 22.05 does not save a job's alias_list, so that srun finds no address if slurmctld
/// was restarted between the allocation and the launch (docs/releases.md).
fn submit(cluster: &Cluster) -> u32 {
    cluster.slurm.sbatch(&["-N", &NODES.to_string(), "-o", "/dev/null"], "sleep 1").unwrap()
}

fn wait_for_fleets(cluster: &Cluster, instances: usize) {
    wait::until(&format!("{instances} instances to be launched"), || {
        Ok((cluster.emulator.instances()?.len() >= instances).then_some(()))
    })
    .unwrap();
}
