// SPDX-License-Identifier: GPL-3.0-or-later
//! A private Slurm of the installed release: munged, slurmctld and slurmd on free loopback ports and in a scratch
//! folder, ended with the value.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ec2fleet_core::slurm_api::{SlurmNode, SlurmReply, SlurmRequest};
use ec2fleet_slurm::command::{CommandOptions, CommandSlurm};

/// Only to end a test that hangs.
pub const LONG: Duration = Duration::from_secs(120);

pub struct Cluster {
    dir: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Cluster {
    /// `nodes` are NodeName= and PartitionName= lines, and whatever else the test needs.
    pub fn start(nodes: &str) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("state")).expect("created");
        let key: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(128).collect();
        std::fs::write(at("munge.key"), key).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(at("munge.key"), private).expect("made private");
        let [ctld, slurmd] = ec2fleet_rig::ports::free();
        let conf = format!(
            "ClusterName=progtest\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ctld}\nSlurmdPort={slurmd}\n\
             SlurmUser={user}\nAuthType=auth/munge\nAuthInfo=socket={dir}/munge.sock\nCredType=cred/munge\n\
             StateSaveLocation={dir}/state\nSlurmdSpoolDir={dir}/spool-%n\nSlurmctldPidFile={dir}/slurmctld.pid\n\
             SlurmdPidFile={dir}/slurmd-%n.pid\nProctrackType=proctrack/pgid\nTaskPlugin=task/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nReturnToService=2\nMailProg=/bin/true\nMpiDefault=none\n{nodes}\n",
            host = output("hostname", &[]),
            user = output("id", &["-un"]),
            dir = dir.path().display(),
        );
        std::fs::write(at("slurm.conf"), conf).expect("written");
        let mut cluster = Self { dir, daemons: Vec::new() };
        let path = |name: &str| cluster.path(name).display().to_string();
        let munged = [
            "--foreground".to_owned(),
            "--force".to_owned(),
            format!("--key-file={}", path("munge.key")),
            format!("--socket={}", path("munge.sock")),
            format!("--pid-file={}", path("munge.pid")),
            format!("--seed-file={}", path("munge.seed")),
        ];
        cluster.spawn("munged", &munged);
        let socket = cluster.path("munge.sock");
        wait_for("munged's socket", || socket.exists());
        cluster.start_slurmctld(true);
        cluster
    }

    /// With `clean`, without the state of an earlier one.
    pub fn start_slurmctld(&mut self, clean: bool) {
        let conf = self.conf().display().to_string();
        let mut arguments = vec!["-D".to_owned(), "-f".to_owned(), conf];
        if clean {
            arguments.push("-c".to_owned());
        }
        self.spawn("slurmctld", &arguments);
        let slurm = self.slurm();
        wait_for("slurmctld", || slurm.call_blocking(&SlurmRequest::LoadNodes).is_ok());
    }

    /// A slurmd that is `node`, waited for until slurmctld says IDLE.
    pub fn start_slurmd(&mut self, node: &str) {
        let conf = self.conf().display().to_string();
        self.spawn("slurmd", &["-D".to_owned(), "-f".to_owned(), conf, "-N".to_owned(), node.to_owned()]);
        wait_for("slurmd", || self.node(node).state_text() == "IDLE");
    }

    pub fn stop_slurmctld(&mut self) {
        let mut slurmctld = self.daemons.remove(1);
        terminate(&mut slurmctld);
    }

    fn spawn(&mut self, program: &str, arguments: &[String]) {
        let log = std::fs::File::create(self.path(&format!("{program}.log"))).expect("a log file");
        let child = Command::new(program)
            .args(arguments)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SLURM_CONF", self.conf())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (packages munge, slurmctld, slurmd): {error}"));
        self.daemons.push(child);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn conf(&self) -> PathBuf {
        self.path("slurm.conf")
    }

    pub fn slurm(&self) -> CommandSlurm {
        CommandSlurm::new(CommandOptions { slurm_conf: Some(self.conf()), ..CommandOptions::default() })
    }

    pub fn nodes(&self) -> Vec<SlurmNode> {
        match self.slurm().call_blocking(&SlurmRequest::LoadNodes) {
            Ok(SlurmReply::Nodes(nodes)) => nodes,
            other => panic!("nodes are expected: {other:?}"),
        }
    }

    pub fn node(&self, name: &str) -> SlurmNode {
        self.nodes()
            .into_iter()
            .find(|node| node.name == name)
            .unwrap_or_else(|| panic!("there is a node {name}"))
    }

    /// One of Slurm's commands; its output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program)
            .args(arguments)
            .env("SLURM_CONF", self.conf())
            .output()
            .expect("it is installed");
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["slurmctld.log", "slurmd.log"] {
                if let Ok(text) = std::fs::read_to_string(self.path(log)) {
                    let lines: Vec<&str> = text.lines().collect();
                    eprintln!("{log}:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
                }
            }
        }
        while let Some(mut daemon) = self.daemons.pop() {
            terminate(&mut daemon);
        }
    }
}

pub fn terminate(child: &mut Child) {
    // A signal by the child's own id; it is not reaped before `wait`, so the id is still its own.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let until = Instant::now() + Duration::from_secs(20);
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > until {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !ready() {
        assert!(Instant::now() < until, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}
