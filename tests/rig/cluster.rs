// SPDX-License-Identifier: GPL-3.0-or-later
//! The whole of it: munge, slurmctld with plugin or programs or both, EC2, and compute nodes that boot when EC2 launches them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::emulator::Emulator;
use super::instances::{Instances, compile, write_program};
use super::loopback::Loopback;
use super::munge::Munge;
use super::process::{run, tail};
use super::slurm::{Record, Slurm, SlurmConf, has_state};
use super::{Outcome, Scratch, paths, wait};

pub const PARTITION: &str = "cloud";
pub const GROUP: &str = "spot";

/// What the cluster shall be. The defaults are a small healthy one.
#[derive(Clone)]
pub struct Options {
    /// Nodes `cloud-spot-[0..nodes-1]`.
    pub nodes: u32,
    /// `JobSubmitPlugins=ec2_fleet`.
    pub plugin: bool,
    /// Environment of slurmctld beside that of every cluster.
    pub environment: Vec<(String, String)>,
    /// ec2-emulator's scenario.
    pub scenario: Value,
    /// Members for the launch template beside the usual ones.
    pub template: Vec<(&'static str, &'static str)>,
    /// Members for config.json and for the node group of partitions.json, beside or instead of the usual ones.
    pub config: Value,
    pub group: Value,
    /// Seconds.
    pub suspend_time: u32,
    pub suspend_timeout: u32,
    pub resume_timeout: u32,
    pub slurmd_timeout: u32,
    /// More lines for slurm.conf.
    pub slurm_conf: String,
    /// Count the processes that slurmctld starts ([`Cluster::forks`]).
    pub count_forks: bool,
    /// Instances run slurmd; without it they exist in EC2 alone.
    pub slurmd: bool,
    /// Start slurmctld at once.
    pub start: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 4,
            plugin: true,
            environment: Vec::new(),
            scenario: json!({}),
            template: Vec::new(),
            config: json!({}),
            group: json!({}),
            suspend_time: 5,
            suspend_timeout: 5,
            resume_timeout: 300,
            slurmd_timeout: 60,
            slurm_conf: String::new(),
            count_forks: false,
            slurmd: true,
            start: true,
        }
    }
}

/// Fields are dropped in this order: `Drop` ends slurmctld and the instances before them, and the addresses and ports are given
/// back last.
pub struct Cluster {
    pub slurm: Slurm,
    pub emulator: Emulator,
    pub instances: Instances,
    pub config: PathBuf,
    _munge: Munge,
    pub scratch: Scratch,
    pub loopback: Loopback,
}

impl Cluster {
    pub fn start(options: &Options) -> Outcome<Self> {
        let loopback = Loopback::claim()?;
        let scratch = Scratch::new()?;
        let folder = scratch.path();
        let munge = Munge::start(folder)?;
        let slurm_conf = folder.join("slurm.conf");
        let instances = Instances::prepare(folder, &slurm_conf, &paths::node_side())?;
        let [a, b] = loopback.subnets();
        let mut scenario = json!({
            "subnets": [
                {"id": "subnet-0000000a", "zone": "a", "cidr": a},
                {"id": "subnet-0000000b", "zone": "b", "cidr": b},
            ],
        });
        merge(&mut scenario, &options.scenario);
        let emulator = Emulator::start(folder, &scenario, options.slurmd.then_some(&instances))?;
        emulator.create_launch_template("rig", &options.template)?;

        let config = folder.join("config");
        std::fs::create_dir(&config).map_err(|e| e.to_string())?;
        // The programs are started with an empty environment by slurmctld: on EC2 their credentials come from the instance's role.
        let credentials = [("AWS_ACCESS_KEY_ID", "rig"), ("AWS_SECRET_ACCESS_KEY", "rig")];
        let program = |name: &str| -> Outcome<PathBuf> {
            let path = folder.join(name);
            let text = format!(
                "#!/bin/sh\necho \"$(date +%s%N) {name} $*\" >>'{}'\n\
                 exec env PATH=/usr/local/bin:/usr/bin:/bin {} '{}' --config-dir '{}' \"$@\"\n",
                folder.join("programs.log").display(),
                credentials.map(|(k, v)| format!("{k}={v}")).join(" "),
                paths::program(name)?.display(),
                config.display(),
            );
            write_program(&path, &text)?;
            Ok(path)
        };
        let mut environment: Vec<(String, String)> =
            credentials.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        environment.push(("EC2FLEET_CONFIG_DIR".into(), config.display().to_string()));
        environment.push(("EC2FLEET_LIBRARY".into(), paths::library()?.display().to_string()));
        environment.extend(options.environment.iter().cloned());
        if options.count_forks {
            let library = folder.join("forks.so");
            compile(&["-shared", "-fPIC"], &paths::source().join("tests/rig/node/forks.c"), &library)?;
            environment.push(("LD_PRELOAD".into(), library.display().to_string()));
            environment.push(("RIG_FORKS".into(), folder.join("forks.log").display().to_string()));
        }
        let nodes = format!("{PARTITION}-{GROUP}-[0-{}]", options.nodes - 1);
        let conf = SlurmConf {
            plugin: options.plugin,
            programs: Some([
                program("ec2fleet-resume")?,
                program("ec2fleet-suspend")?,
                program("ec2fleet-resume-fail")?,
            ]),
            suspend_time: options.suspend_time,
            suspend_timeout: options.suspend_timeout,
            resume_timeout: options.resume_timeout,
            slurmd_timeout: options.slurmd_timeout,
            lines: format!(
                "NodeName={nodes} CPUs=1 RealMemory=64 State=CLOUD\n\
                 PartitionName={PARTITION} Nodes={nodes} Default=YES MaxTime=INFINITE State=UP\n{}",
                options.slurm_conf
            ),
        };
        let slurm = Slurm::new(folder, &munge.socket, &loopback, conf, environment)?;
        let mut cluster = Self { slurm, emulator, instances, config, _munge: munge, scratch, loopback };
        cluster.write_config(&options.config, options.nodes, &options.group)?;
        if options.start {
            cluster.slurm.start()?;
        }
        Ok(cluster)
    }

    /// config.json and partitions.json; `more` and `group_more` replace or add members.
    pub fn write_config(&self, more: &Value, nodes: u32, group_more: &Value) -> Outcome<()> {
        let mut config = json!({
            "LogLevel": "DEBUG",
            "LogFileName": self.scratch.path().join("ec2fleet.log"),
            "SlurmBinPath": "/usr/bin",
            "SlurmConf": {
                "PrivateData": "CLOUD",
                "ResumeProgram": self.scratch.path().join("ec2fleet-resume"),
                "SuspendProgram": self.scratch.path().join("ec2fleet-suspend"),
                "ResumeRate": 0,
                "SuspendRate": 0,
                "ResumeTimeout": 300,
                "SuspendTime": 5,
                "TreeWidth": 65533,
            },
            "EndpointUrl": self.emulator.url,
            "StateDir": self.state_dir(),
        });
        merge(&mut config, more);
        let mut group = json!({
            "NodeGroupName": GROUP,
            "MaxNodes": nodes,
            "Region": "us-east-1",
            "SlurmSpecifications": {"CPUs": "1", "RealMemory": "64"},
            "PurchasingOption": "spot",
            "SpotOptions": {"AllocationStrategy": "capacity-optimized"},
            "LaunchTemplateSpecification": {"LaunchTemplateName": "rig", "Version": "$Latest"},
            "LaunchTemplateOverrides": [{"InstanceType": "c5.large"}, {"InstanceType": "m5.large"}],
            "SubnetIds": ["subnet-0000000a", "subnet-0000000b"],
            "Tags": [{"Key": "project", "Value": "rig"}],
        });
        merge(&mut group, group_more);
        let partitions = json!({"Partitions": [{
            "PartitionName": PARTITION,
            "NodeGroups": [group],
            "PartitionOptions": {"Default": "yes"},
        }]});
        for (file, value) in [("config.json", config), ("partitions.json", partitions)] {
            std::fs::write(self.config.join(file), format!("{value:#}"))
                .map_err(|e| format!("{file}: {e}"))?;
        }
        Ok(())
    }

    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state/ec2fleet")
    }

    /// `ec2fleet ARGUMENTS` on this cluster.
    pub fn ec2fleet(&self, arguments: &[&str]) -> Outcome<String> {
        let mut command = Command::new(paths::program("ec2fleet")?);
        command
            .args(arguments)
            .arg("--config-dir")
            .arg(&self.config)
            .env("SLURM_CONF", &self.slurm.conf)
            .env("AWS_ACCESS_KEY_ID", "rig")
            .env("AWS_SECRET_ACCESS_KEY", "rig");
        run(&mut command)
    }

    /// One line to the plugin's socket, and its answer.
    pub fn ask_plugin(&self, request: &Value) -> Outcome<Value> {
        let path = self.state_dir().join("ec2fleet.sock");
        let talk = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(&path)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            writeln!(stream, "{request}")?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer)
        };
        let answer = talk().map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&answer).map_err(|e| format!("the plugin answered {answer:?}: {e}"))
    }

    /// `active`, `passive` …, as the plugin says itself; `None` if it does not answer.
    pub fn plugin_mode(&self) -> Option<String> {
        let answer = self.ask_plugin(&json!({"v": 1, "op": "status"})).ok()?;
        Some(answer["ok"]["status"]["mode"]["state"].as_str()?.to_owned())
    }

    pub fn wait_for_plugin(&self) -> Outcome<()> {
        wait::until("the plugin to be active", || {
            Ok((self.plugin_mode().as_deref() == Some("active")).then_some(()))
        })
    }

    /// Lines of the event log so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state_dir().join("events.jsonl")).unwrap_or_default();
        // The last line may be half written.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often slurmctld started each program, and when (nanoseconds since 1970).
    pub fn program_starts(&self) -> Vec<(u128, String)> {
        let text = std::fs::read_to_string(self.scratch.path().join("programs.log")).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (time, rest) = line.split_once(' ')?;
                Some((time.parse().ok()?, rest.to_owned()))
            })
            .collect()
    }

    /// Processes that slurmctld has started, by whatever means.
    pub fn forks(&self) -> usize {
        let text = std::fs::read_to_string(self.scratch.path().join("forks.log")).unwrap_or_default();
        text.lines().count()
    }

    /// Cloud nodes whose name slurmctld has tried to look up. They have none, and slurmctld may stand still meanwhile.
    pub fn names_looked_up(&self) -> Vec<String> {
        let of_node = |line: &str| {
            Some(line.split_once("Unable to resolve \"cloud-")?.1.trim_end_matches('"').to_owned())
        };
        self.slurm.log_text().lines().filter_map(of_node).collect()
    }

    /// Wait until Slurm has every node powered down and EC2 has no instance left.
    pub fn wait_for_rest(&self) -> Outcome<()> {
        self.slurm.wait_for_nodes("every node to be powered down", |node: &Record| {
            has_state(node, "POWERED_DOWN") && !has_state(node, "POWERING_UP")
        })?;
        wait::until("the last instance to be terminated", || {
            Ok(self.emulator.living_instances()?.is_empty().then_some(()))
        })
    }

    /// Every bound node's address is that of its instance, no address or instance is used twice, and every living instance has
    /// a node: `node name -> instance id`.
    pub fn bindings(&self) -> Outcome<Vec<(String, String)>> {
        let instances = self.emulator.living_instances()?;
        let mut found = Vec::new();
        for node in self.slurm.nodes()? {
            let name = &node["NodeName"];
            let here: Vec<_> = instances.iter().filter(|i| i.address == node["NodeAddr"]).collect();
            match here.as_slice() {
                [] => {}
                [instance] => found.push((name.clone(), instance.id.clone())),
                more => return Err(format!("{name} has the address of {} instances", more.len())),
            }
        }
        Ok(found)
    }

    /// What to look at after a failure.
    pub fn diagnosis(&self) -> String {
        let folder = self.scratch.path();
        let mut text = String::new();
        for (file, lines) in [
            ("slurmctld.log", 60),
            ("ec2fleet.log", 60),
            ("emulator.log", 30),
            ("slurmctld.output", 10),
            ("programs.log", 20),
        ] {
            text.push_str(&format!("== {file}\n{}\n", tail(&folder.join(file), lines)));
        }
        for instance in self.instances.living() {
            let console = tail(&self.instances.console(&instance), 5);
            text.push_str(&format!("== {instance}\n{console}\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.diagnosis());
        }
        self.slurm.stop();
        self.emulator.stop();
        self.instances.end_all();
    }
}

/// Put the members of `more` into `base`, objects member by member.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}
