// SPDX-License-Identifier: GPL-3.0-or-later
//! The generated files, read by the installed slurmctld.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use slurm_ec2_fleet::config::{
    self, GenerateOptions, GpuFacts, GroupFacts, InstanceTypeFacts, SlurmFacts, Verdict,
};

use crate::accepted::{examples, slurm};

/// A process that ends with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A slurmctld of its own with its own munged, on ports of its own, that has read a generated file.
struct Controller {
    _slurmctld: Daemon,
    _munged: Daemon,
    dir: tempfile::TempDir,
}

/// Only the bound on a hang; a good run takes a second or two.
const PATIENCE: Duration = Duration::from_secs(120);

fn daemon(program: &str, args: &[&str], log: &Path) -> Daemon {
    let log = fs::File::create(log).unwrap();
    let child = Command::new(program)
        .args(args)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{program} (packages munge and slurmctld): {e}"));
    Daemon(child)
}

fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Controller {
    fn start(generated: &config::Generated) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for folder in ["state", "spool"] {
            fs::create_dir(path(folder)).unwrap();
        }
        for program in ["ec2fleet-resume", "ec2fleet-suspend", "ec2fleet-resume-fail"] {
            fs::write(path(program), "#!/bin/sh\nexit 0\n").unwrap();
            fs::set_permissions(path(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let key: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(128).collect();
        fs::write(path("munge.key"), key).unwrap();
        fs::set_permissions(path("munge.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let socket = path("munge.socket");
        let munged = daemon(
            "munged",
            &[
                "--foreground",
                "--force",
                &format!("--socket={socket}"),
                &format!("--key-file={}", path("munge.key")),
                &format!("--pid-file={}", path("munged.pid")),
                &format!("--log-file={}", path("munged.log")),
                &format!("--seed-file={}", path("munged.seed")),
            ],
            dir.path().join("munged.out").as_path(),
        );
        wait_for("munged's socket", || Path::new(&socket).exists());

        let aws = generated.slurm_conf.replace("/usr/sbin/ec2fleet", &path("ec2fleet"));
        fs::write(path("slurm.conf.aws"), aws).unwrap();
        fs::write(path("gres.conf"), &generated.gres_conf).unwrap();
        let hostname = Command::new("hostname").output().unwrap();
        let hostname = String::from_utf8(hostname.stdout).unwrap();
        let port = free_port();
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={}(127.0.0.1)\nSlurmctldPort={port}\nSlurmUser=root\nAuthType=auth/munge\n\
             AuthInfo=socket={socket}\nStateSaveLocation={}\nSlurmdSpoolDir={}\nSlurmctldPidFile={}\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\nGresTypes=gpu,license\nMailProg=/bin/true\n\
             CommunicationParameters=NoAddrCache\nSlurmctldParameters=idle_on_node_suspend,node_reg_mem_percent=90\n\
             Include {}\n",
            hostname.trim(),
            path("state"),
            path("spool"),
            path("slurmctld.pid"),
            path("slurm.conf.aws"),
        );
        fs::write(path("slurm.conf"), conf).unwrap();
        let slurmctld = daemon(
            "slurmctld",
            &["-D", "-f", &path("slurm.conf")],
            dir.path().join("slurmctld.log").as_path(),
        );
        let controller = Self { _slurmctld: slurmctld, _munged: munged, dir };
        wait_for(&format!("slurmctld's answer ({})", controller.log()), || {
            controller.scontrol(&["show", "config"]).is_some()
        });
        controller
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("slurmctld.log")).unwrap_or_default()
    }

    fn scontrol(&self, args: &[&str]) -> Option<String> {
        let out = Command::new("scontrol")
            .args(args)
            .env("SLURM_CONF", self.path("slurm.conf"))
            .env("PATH", search_path())
            .output()
            .expect("scontrol (package slurm-client)");
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
    }

    /// The attributes of each record of `scontrol -o show …`, by its first value.
    fn show(&self, what: &str) -> BTreeMap<String, BTreeMap<String, String>> {
        let text = self.scontrol(&["-o", "-d", "show", what]).expect("slurmctld answers");
        let mut out = BTreeMap::new();
        for line in text.lines() {
            let pairs: Vec<(&str, &str)> =
                line.split_whitespace().filter_map(|w| w.split_once('=')).collect();
            if let Some((_, name)) = pairs.first() {
                let values = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
                out.insert((*name).to_owned(), values);
            }
        }
        out
    }

    /// Nothing that slurmctld complained of, but what every first start without these files says.
    fn assert_no_complaint(&self, about: &str) {
        const USUAL: [&str; 5] = [
            "state file",
            "state save file",
            "pmi",
            "mpi: cannot create context",
            "default partition not set",
        ];
        for line in self.log().lines().map(str::to_ascii_lowercase) {
            let error = line.contains("error") || line.contains("warning") || line.contains("invalid");
            assert!(!error || USUAL.iter().any(|usual| line.contains(usual)), "{about}: {line}");
        }
    }
}

#[test]
fn every_example_generates_what_slurmctld_reads_and_the_checks_approve() {
    for dir in examples() {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let loaded = config::load(&dir, &slurm("ClusterName=test")).unwrap();
        let generated =
            config::generate(&loaded.site, &loaded.program.slurm_conf, &GenerateOptions::default());
        let controller = Controller::start(&generated);
        controller.assert_no_complaint(&name);
        let nodes = controller.show("nodes");
        let partitions = controller.show("partitions");
        let mut expected = 0;
        for group in loaded.site.groups() {
            for index in [0, group.max_nodes - 1] {
                let node = &nodes[&group.node_name(index)];
                assert_eq!(node["CPUTot"], group.slurm_specifications["CPUs"], "{name}");
                assert!(node["State"].contains("CLOUD"), "{name}: {}", node["State"]);
                assert!(node["Partitions"] == group.partition, "{name}");
                if let Some(weight) = group.slurm_specifications.get("Weight") {
                    assert_eq!(&node["Weight"], weight);
                }
                if let Some(features) = group.slurm_specifications.get("Features") {
                    assert_eq!(&node["AvailableFeatures"], features);
                }
            }
            expected += group.max_nodes as usize;
        }
        assert_eq!(nodes.len(), expected, "{name}");
        for partition in &loaded.site.partitions {
            let shown = &partitions[&partition.name];
            let total: u32 = loaded
                .site
                .groups()
                .iter()
                .filter(|g| g.partition == partition.name)
                .map(|g| g.max_nodes)
                .sum();
            assert_eq!(shown["TotalNodes"], total.to_string());
            assert_eq!(shown["State"], "UP");
            if let Some(accounts) = partition.options.get("AllowAccounts") {
                // Slurm folds names to lower case.
                assert_eq!(shown["AllowAccounts"], accounts.to_lowercase());
            }
        }

        // The same slurm.conf, as our own reader and checks see it.
        let facts = SlurmFacts::read(&controller.path("slurm.conf")).unwrap();
        assert_eq!(facts.problems, []);
        let loaded = config::load(&dir, &facts).unwrap();
        let plugin = "job-submit-plugins";
        for check in config::slurm_checks(&facts, &loaded.site) {
            assert!(check.verdict == Verdict::Ok || check.id == plugin, "{name}: {check:?}");
        }
    }
}

#[test]
fn slurmctld_reads_what_is_completed_from_instance_types() {
    let dir = examples().into_iter().find(|d| d.ends_with("two-zones")).unwrap();
    let loaded = config::load(&dir, &slurm("ClusterName=test")).unwrap();
    let mut groups: Vec<_> = loaded.site.groups().iter().map(|g| (**g).clone()).collect();
    for group in &mut groups {
        group.slurm_specifications.shift_remove("CPUs");
        group.slurm_specifications.shift_remove("Weight");
        group.max_nodes = 3;
    }
    let site = slurm_ec2_fleet::core::site::Site::new(
        loaded.site.cluster.clone(),
        loaded.site.partitions.clone(),
        groups,
        loaded.site.settings.clone(),
    );
    let gpu = GpuFacts { name: "Tesla V100".into(), manufacturer: "NVIDIA".into(), count: 4 };
    let facts = |zones: &[&str]| GroupFacts {
        types: vec![InstanceTypeFacts {
            name: "p3.8xlarge".into(),
            vcpus: 32,
            cores: 16,
            threads_per_core: 2,
            memory_mib: 249_856,
            arch: "x86_64".into(),
            gpus: vec![gpu.clone()],
            usd_per_hour: Some(12.24),
        }],
        zones: zones.iter().map(|z| (*z).to_owned()).collect(),
        threads_per_core: None,
    };
    let options = GenerateOptions {
        facts: [
            ("cloud-any".to_owned(), facts(&["us-west-2a", "us-west-2b"])),
            ("cloud-zonea".to_owned(), facts(&["us-west-2a"])),
            ("cloud-zoneb".to_owned(), facts(&["us-west-2b"])),
        ]
        .into(),
        weight_by_price: true,
    };
    let generated = config::generate(&site, &loaded.program.slurm_conf, &options);
    let controller = Controller::start(&generated);
    controller.assert_no_complaint("completed");
    let nodes = controller.show("nodes");
    assert_eq!(nodes.len(), 9);
    let node = &nodes["cloud-zonea-2"];
    for (key, value) in [
        ("CPUTot", "32"),
        ("Sockets", "1"),
        ("CoresPerSocket", "16"),
        ("ThreadsPerCore", "2"),
        ("RealMemory", "237108"),
        ("Weight", "122400"),
        ("AvailableFeatures", "us-west-2a,p3,p3.8xlarge,x86_64,spot"),
    ] {
        // scontrol calls it `Sockets` in the configuration and in the record alike.
        assert_eq!(node[key], value, "{key}");
    }
    assert!(node["Gres"].starts_with("gpu:tesla_v100:4"), "{}", node["Gres"]);
    assert_eq!(nodes["cloud-any-0"]["AvailableFeatures"], "p3,p3.8xlarge,x86_64,spot");
}
