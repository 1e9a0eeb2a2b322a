// SPDX-License-Identifier: GPL-3.0-or-later
//! A private slurmctld and the commands that talk to it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::loopback::Loopback;
use super::process::{Daemon, run};
use super::{Outcome, paths, wait};

/// The members of one line of `scontrol -o show …`.
pub type Record = BTreeMap<String, String>;

/// What slurm.conf shall say.
#[derive(Clone)]
pub struct SlurmConf {
    /// Load the plugin (`JobSubmitPlugins=ec2_fleet`).
    pub plugin: bool,
    /// `ResumeProgram`, `SuspendProgram` and `ResumeFailProgram`.
    pub programs: Option<[PathBuf; 3]>,
    /// Seconds.
    pub suspend_time: u32,
    pub suspend_timeout: u32,
    pub resume_timeout: u32,
    pub slurmd_timeout: u32,
    /// `NodeName=` and `PartitionName=` lines, and whatever else.
    pub lines: String,
}

pub struct Slurm {
    pub conf: PathBuf,
    pub log: PathBuf,
    pub state: PathBuf,
    controller: Option<Daemon>,
    environment: Vec<(String, String)>,
    slurmctld_port: u16,
    slurmd_port: u16,
    scratch: PathBuf,
    munge_socket: PathBuf,
    options: SlurmConf,
}

impl Slurm {
    /// Write slurm.conf; nothing is started yet. `environment` is slurmctld's.
    pub fn new(
        scratch: &Path,
        munge_socket: &Path,
        loopback: &Loopback,
        options: SlurmConf,
        environment: Vec<(String, String)>,
    ) -> Outcome<Self> {
        let slurm = Self {
            conf: scratch.join("slurm.conf"),
            log: scratch.join("slurmctld.log"),
            state: scratch.join("state"),
            controller: None,
            environment,
            slurmctld_port: loopback.slurmctld_port(),
            slurmd_port: loopback.slurmd_port(),
            scratch: scratch.to_owned(),
            munge_socket: munge_socket.to_owned(),
            options,
        };
        for folder in ["state", "spool", "instances"] {
            std::fs::create_dir(scratch.join(folder)).map_err(|e| format!("{folder}: {e}"))?;
        }
        slurm.write_conf()?;
        Ok(slurm)
    }

    /// Start slurmctld without this variable from now on.
    pub fn unset(&mut self, variable: &str) {
        self.environment.retain(|(name, _)| name != variable);
    }

    /// Change slurm.conf; slurmctld reads it at its next start or reconfigure.
    pub fn change_conf(&mut self, change: impl FnOnce(&mut SlurmConf)) -> Outcome<()> {
        change(&mut self.options);
        self.write_conf()
    }

    fn write_conf(&self) -> Outcome<()> {
        let scratch = self.scratch.display();
        let user = user()?;
        let mut plugins = vec![paths::slurm_plugins()?];
        if self.options.plugin {
            plugins.insert(0, paths::shim()?.with_file_name(""));
        }
        let plugins: Vec<_> = plugins.iter().map(|p| p.display().to_string()).collect();
        let mut text = format!(
            "ClusterName=rig\n\
             SlurmctldHost=localhost(127.0.0.1)\n\
             SlurmctldPort={}\n\
             SlurmdPort={}\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             AuthInfo=socket={}\n\
             CredType=cred/munge\n\
             StateSaveLocation={}\n\
             SlurmdSpoolDir={scratch}/spool/%n\n\
             SlurmdPidFile={scratch}/spool/%n.pid\n\
             SlurmdLogFile={scratch}/spool/%n.log\n\
             SlurmctldPidFile={scratch}/slurmctld.pid\n\
             SlurmctldLogFile={}\n\
             SlurmctldDebug=verbose\n\
             SlurmdDebug=verbose\n\
             DebugFlags=Power\n\
             LogTimeFormat=iso8601_ms\n\
             PluginDir={}\n\
             ProctrackType=proctrack/pgid\n\
             JobAcctGatherType=jobacct_gather/none\n\
             TaskPlugin=task/none\n\
             MpiDefault=none\n\
             SwitchType=switch/none\n\
             AccountingStorageType=accounting_storage/none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\n\
             MailProg=/bin/true\n\
             SlurmdParameters=config_overrides\n\
             CommunicationParameters=NoInAddrAny\n\
             TreeWidth=65533\n\
             ReturnToService=2\n\
             PrivateData=cloud\n\
             MessageTimeout=30\n\
             KillWait=5\n\
             MinJobAge=86400\n\
             SlurmdTimeout={}\n\
             SlurmctldParameters=idle_on_node_suspend,power_save_interval=1,power_save_min_interval=0\n\
             SchedulerParameters=sched_min_interval=0,batch_sched_delay=0\n\
             ResumeTimeout={}\n\
             SuspendTimeout={}\n\
             SuspendTime={}\n\
             ResumeRate=0\n\
             SuspendRate=0\n",
            self.slurmctld_port,
            self.slurmd_port,
            self.munge_socket.display(),
            self.state.display(),
            self.log.display(),
            plugins.join(":"),
            self.options.slurmd_timeout,
            self.options.resume_timeout,
            self.options.suspend_timeout,
            self.options.suspend_time,
        );
        if self.options.plugin {
            text.push_str("JobSubmitPlugins=ec2_fleet\n");
        }
        if let Some([resume, suspend, resume_fail]) = &self.options.programs {
            let _ = writeln!(text, "ResumeProgram={}", resume.display());
            let _ = writeln!(text, "SuspendProgram={}", suspend.display());
            let _ = writeln!(text, "ResumeFailProgram={}", resume_fail.display());
        }
        text.push_str(&self.options.lines);
        text.push('\n');
        std::fs::write(&self.conf, text).map_err(|e| format!("{}: {e}", self.conf.display()))
    }

    /// Start slurmctld and wait until it answers.
    pub fn start(&mut self) -> Outcome<()> {
        let mut command = Command::new(paths::system("slurmctld")?);
        command.arg("-D").arg("-f").arg(&self.conf).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        let mut daemon = Daemon::start("slurmctld", command, &self.scratch.join("slurmctld.output"))?;
        let answered = wait::until("slurmctld", || {
            daemon.check()?;
            Ok(self.command("scontrol").arg("ping").output().ok().filter(|o| o.status.success()))
        });
        self.controller = Some(daemon);
        answered.map(drop)
    }

    /// `scontrol shutdown`'s way: SIGTERM. True if it ended by itself.
    pub fn stop(&mut self) -> bool {
        match self.controller.take() {
            Some(mut daemon) => !daemon.stop(Duration::from_secs(60)).1,
            None => true,
        }
    }

    /// As a crash ends it: no state is saved, no plugin's `fini` runs.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.controller.take() {
            daemon.kill();
        }
    }

    pub fn controller_pid(&self) -> Option<u32> {
        self.controller.as_ref().map(Daemon::pid)
    }

    /// Fails if slurmctld has ended.
    pub fn check(&mut self) -> Outcome<()> {
        match &mut self.controller {
            Some(daemon) => daemon.check(),
            None => Err("slurmctld is not running".to_owned()),
        }
    }

    /// A Slurm command for this cluster.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env("SLURM_CONF", &self.conf)
            // Commands bind to what the host name resolves to; see tests/rig/node/machine.c.
            .env("LD_PRELOAD", self.scratch.join("machine.so"));
        command
    }

    pub fn scontrol(&self, arguments: &[&str]) -> Outcome<String> {
        run(self.command("scontrol").args(arguments))
    }

    /// Submit a batch script; the job's id.
    pub fn sbatch(&self, arguments: &[&str], script: &str) -> Outcome<u32> {
        let file = self.scratch.join(format!("job-{}.sh", fastrand::u64(..)));
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).map_err(|e| e.to_string())?;
        let output = run(self.command("sbatch").arg("--parsable").args(arguments).arg(&file))?;
        output.trim().parse().map_err(|e| format!("sbatch printed {output:?}: {e}"))
    }

    pub fn nodes(&self) -> Outcome<Vec<Record>> {
        let lines = self.scontrol(&["-o", "show", "nodes"])?;
        // With no node to show it says so in words.
        Ok(lines.lines().filter(|line| line.starts_with("NodeName=")).map(record).collect())
    }

    pub fn node(&self, name: &str) -> Outcome<Record> {
        Ok(record(&self.scontrol(&["-o", "show", "node", name])?))
    }

    pub fn job(&self, id: u32) -> Outcome<Record> {
        Ok(record(&self.scontrol(&["-o", "show", "job", &id.to_string()])?))
    }

    /// Wait until the job has ended, one way or another.
    pub fn wait_for_job(&self, id: u32) -> Outcome<Record> {
        wait::until(&format!("the end of job {id}"), || {
            let job = self.job(id)?;
            let ended = !matches!(
                job["JobState"].as_str(),
                "PENDING" | "CONFIGURING" | "RUNNING" | "COMPLETING" | "SUSPENDED" | "REQUEUED"
            );
            Ok(ended.then_some(job))
        })
    }

    /// Wait until every node is in a state that `wanted` accepts.
    pub fn wait_for_nodes(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Outcome<()> {
        wait::until(what, || Ok(self.nodes()?.iter().all(&wanted).then_some(())))
    }

    pub fn log_text(&self) -> String {
        std::fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }
}

/// `IDLE+CLOUD+POWERED_DOWN` has the flag `POWERED_DOWN`.
pub fn has_state(node: &Record, flag: &str) -> bool {
    node["State"].split('+').any(|part| part.trim_end_matches('*') == flag)
}

/// The state without flags: `IDLE`, `ALLOCATED`, `DOWN` …
pub fn base_state(node: &Record) -> &str {
    node["State"].split('+').next().unwrap_or("").trim_end_matches('*')
}

fn record(line: &str) -> Record {
    let mut members = Record::new();
    let mut last: Option<String> = None;
    for word in line.split_whitespace() {
        if let Some((key, value)) = word.split_once('=') {
            members.insert(key.to_owned(), value.to_owned());
            last = Some(key.to_owned());
        } else if let Some(value) = last.as_ref().and_then(|key| members.get_mut(key)) {
            // The blanks of a Reason.
            value.push(' ');
            value.push_str(word);
        }
    }
    members
}

fn user() -> Outcome<String> {
    Ok(run(Command::new("id").arg("-un"))?.trim().to_owned())
}
