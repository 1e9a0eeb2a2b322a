// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet generate-conf` and `iam-policy`: what they write is accepted by a real slurmctld, and is the least.

use std::path::{Path, PathBuf};

use ec2fleet_cli::commands::generate::{Generated, generate};
use ec2fleet_cli::survey::{GroupSurvey, Survey};
use ec2fleet_config::{Loaded, SlurmFacts, load};
use ec2fleet_ec2::catalog::{Accelerator, InstanceType, LaunchTemplate, Subnet};

use crate::cluster::Cluster;
use crate::commands::ec2fleet;

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config");
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(root)
        .expect("examples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("partitions.json").is_file())
        .collect();
    dirs.sort();
    assert!(dirs.len() >= 3, "{dirs:?}");
    dirs
}

fn facts(text: &str) -> SlurmFacts {
    SlurmFacts::parse(Path::new("/etc/slurm/slurm.conf"), text, &mut |path| {
        Err(std::io::Error::other(path.display().to_string()))
    })
}

fn loaded(dir: &Path) -> (Loaded, SlurmFacts) {
    // The shim is not installed where the tests run, and slurmctld ends where a wanted plugin is missing.
    let facts = facts("ClusterName=progtest\nJobSubmitPlugins=none\n");
    (load(dir, &facts).expect("the examples are valid"), facts)
}

fn instance_type(name: &str, vcpus: u32, threads: u32, memory_mib: u64) -> InstanceType {
    InstanceType {
        name: name.into(),
        vcpus,
        cores: vcpus / threads,
        threads_per_core: threads,
        memory_mib,
        architectures: vec!["x86_64".into()],
        ..InstanceType::default()
    }
}

fn survey(group: &str, types: Vec<InstanceType>, zones: &[&str]) -> Survey {
    let subnets = zones.iter().map(|zone| Subnet { zone: (*zone).into(), ..Subnet::default() });
    let survey = GroupSurvey {
        template: Ok(LaunchTemplate::default()),
        types: Ok(types),
        unknown_types: Vec::new(),
        subnets: Ok(subnets.collect()),
        images: Ok(Vec::new()),
        offerings: Ok(Vec::new()),
    };
    [(group.to_owned(), survey)].into()
}

#[test]
fn slurmctld_accepts_every_example() {
    for dir in examples() {
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        let (loaded, facts) = loaded(&dir);
        let programs = Path::new(env!("CARGO_BIN_EXE_ec2fleet-resume")).parent().expect("a folder");
        let generated = generate(&loaded, &facts, None, None, programs);
        // The examples name an installed program; here it is the one just built.
        let text = generated
            .slurm_conf
            .replace("/usr/sbin/ec2fleet", &programs.join("ec2fleet").display().to_string());
        let cluster = Cluster::start(&text);
        let nodes = cluster.nodes();
        let wanted: usize = loaded.site.groups().iter().map(|group| group.max_nodes as usize).sum();
        assert_eq!(nodes.len(), wanted, "{name}");
        assert!(nodes.iter().all(|node| loaded.site.locate(&node.name).is_some()), "{name}");
        for partition in &loaded.site.partitions {
            let shown = cluster.run("scontrol", &["show", "partition", &partition.name, "-o"]);
            assert!(shown.contains("State=UP"), "{name}: {shown}");
        }
        let log = std::fs::read_to_string(cluster.path("slurmctld.log")).expect("a log");
        for complaint in ["Parsing error", "parsing error", "Unrecognized", "module disabled", "fatal"] {
            assert!(!log.contains(complaint), "{name}: {complaint}: {log}\n{text}");
        }
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            let shown = generated.slurm_conf.replace(&programs.display().to_string(), "/usr/sbin");
            insta::assert_snapshot!(format!("slurm-conf-{name}"), shown);
        });
    }
}

const PARTITIONS: &str = r#"{"Partitions":[{"PartitionName":"p","NodeGroups":[{"NodeGroupName":"g","MaxNodes":4,
    "Region":"eu-central-1","SlurmSpecifications":{},"PurchasingOption":"spot",
    "LaunchTemplateSpecification":{"LaunchTemplateName":"compute","Version":"1"},
    "LaunchTemplateOverrides":[{"InstanceType":"c5.large"},{"InstanceType":"c5.xlarge"}],
    "SubnetIds":["subnet-1111111a"]}],"PartitionOptions":{"Default":"YES"}}]}"#;

fn generated(partitions: &str, survey: Option<&Survey>) -> Generated {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("config.json"), "{\"SlurmConf\":{}}").expect("written");
    std::fs::write(dir.path().join("partitions.json"), partitions).expect("written");
    let (loaded, facts) = loaded(dir.path());
    generate(&loaded, &facts, survey, None, Path::new("/usr/sbin"))
}

fn node_line(generated: &Generated) -> &str {
    generated.slurm_conf.lines().find(|line| line.starts_with("NodeName=")).expect("a node line")
}

#[test]
fn sizes_are_the_least_over_the_types() {
    let types = vec![instance_type("c5.xlarge", 4, 2, 8_192), instance_type("c5.large", 2, 2, 4_096)];
    let generated = generated(PARTITIONS, Some(&survey("p-g", types, &["eu-central-1a"])));
    assert_eq!(
        node_line(&generated),
        "NodeName=p-g-[0-3] State=CLOUD CPUs=2 Sockets=1 CoresPerSocket=1 ThreadsPerCore=2 RealMemory=3840 \
         Features=spot,c5,x86_64,eu-central-1a"
    );
    assert_eq!(generated.warnings.len(), 2, "{:?}", generated.warnings);
    assert!(generated.warnings[0].contains("2 to 4 vCPUs"), "{:?}", generated.warnings);

    // One thread a core here and two there: no topology fits both.
    let types = vec![instance_type("c7g.large", 2, 1, 4_096), instance_type("c5.large", 2, 2, 4_096)];
    let mixed = self::generated(PARTITIONS, Some(&survey("p-g", types, &["a", "b"])));
    assert_eq!(
        node_line(&mixed),
        "NodeName=p-g-[0-3] State=CLOUD CPUs=2 RealMemory=3840 Features=spot,x86_64"
    );

    // What the site says stands.
    let said = PARTITIONS.replace(
        r#""SlurmSpecifications":{}"#,
        r#""SlurmSpecifications":{"CPUs":"1","RealMemory":"1000","Features":"mine","Weight":"3"}"#,
    );
    let types = vec![instance_type("c5.large", 2, 2, 4_096)];
    let kept = self::generated(&said, Some(&survey("p-g", types, &["a"])));
    assert_eq!(
        node_line(&kept),
        "NodeName=p-g-[0-3] State=CLOUD CPUs=1 RealMemory=1000 Features=mine Weight=3"
    );

    let unknown = self::generated(PARTITIONS, None);
    assert_eq!(node_line(&unknown), "NodeName=p-g-[0-3] State=CLOUD Features=spot,c5");
    assert!(unknown.warnings[0].contains("--online"), "{:?}", unknown.warnings);
}

#[test]
fn devices_are_declared_and_accepted() {
    let gpus = |count: u32| {
        vec![Accelerator {
            name: "A100".into(),
            manufacturer: Some("NVIDIA".into()),
            count,
            memory_mib: 40_960,
        }]
    };
    let with = |count| InstanceType { gpus: gpus(count), ..instance_type("p4d.24xlarge", 96, 2, 1_179_648) };
    let generated = generated(PARTITIONS, Some(&survey("p-g", vec![with(8), with(8)], &["a"])));
    assert!(node_line(&generated).contains(" Gres=gpu:a100:8 "), "{}", node_line(&generated));
    assert!(generated.slurm_conf.contains("\nGresTypes=gpu\n"));
    assert!(generated.gres_conf.ends_with("NodeName=p-g-[0-3] Name=gpu Type=a100 File=/dev/nvidia[0-7]\n"));
    let some = self::generated(PARTITIONS, Some(&survey("p-g", vec![with(8), with(0)], &["a"])));
    assert!(!some.slurm_conf.contains("Gres"), "{}", some.slurm_conf);
    assert!(some.warnings.iter().any(|warning| warning.contains("only some")), "{:?}", some.warnings);

    let programs = Path::new(env!("CARGO_BIN_EXE_ec2fleet-resume")).parent().expect("a folder");
    let text = generated.slurm_conf.replace("/usr/sbin", &programs.display().to_string());
    let cluster = Cluster::start(&text);
    let shown = cluster.run("scontrol", &["show", "node", "p-g-3", "-o"]);
    assert!(shown.contains("Gres=gpu:a100:8") && shown.contains("CPUTot=96"), "{shown}");
}

#[test]
fn what_is_installed_is_compared() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("slurm.conf"), "ClusterName=demo\ninclude slurm.conf.aws\n").expect("written");
    std::fs::write(path("config.json"), "{\"SlurmConf\":{\"ResumeTimeout\":600}}").expect("written");
    std::fs::write(path("partitions.json"), PARTITIONS).expect("written");
    let run = |arguments: &[&str]| {
        let folder = dir.path().display().to_string();
        let mut all = vec!["generate-conf", "--config-dir", folder.as_str()];
        all.extend(arguments);
        ec2fleet(dir.path(), &all)
    };
    let check = run(&["--check"]);
    assert_eq!(check.code, 5, "{}", check.seen());
    let out = dir.path().display().to_string();
    let written = run(&["--output", &out]);
    assert_eq!(written.code, 0, "{}", written.seen());
    assert!(written.stdout.contains("include"), "{}", written.seen());
    // Now slurm.conf includes the file, and what it says is no reason to leave it out the next time.
    let check = run(&["--check"]);
    assert_eq!(check.code, 0, "{}", check.seen());
    let printed = run(&[]);
    assert_eq!(printed.stdout, std::fs::read_to_string(path("slurm.conf.aws")).expect("written"));

    std::fs::write(path("partitions.json"), PARTITIONS.replace("\"MaxNodes\":4", "\"MaxNodes\":6"))
        .expect("written");
    let diff = run(&["--diff"]);
    assert_eq!(diff.code, 0, "{}", diff.seen());
    assert!(
        diff.stdout.contains("\n-NodeName=p-g-[0-3] ") && diff.stdout.contains("\n+NodeName=p-g-[0-5] "),
        "{}",
        diff.seen()
    );
    let check = run(&["--check", "--json"]);
    assert_eq!(check.code, 5);
    let value: serde_json::Value = serde_json::from_str(&check.stdout).expect("JSON");
    assert_eq!(value["same"], false);
}

#[test]
fn the_policy_allows_what_the_configuration_needs_and_no_more() {
    let policy = |partitions: &str, tool: bool| {
        let dir = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(dir.path().join("slurm.conf"), "ClusterName=progtest\nJobSubmitPlugins=none\n")
            .expect("written");
        std::fs::write(dir.path().join("config.json"), "{\"SlurmConf\":{}}").expect("written");
        std::fs::write(dir.path().join("partitions.json"), partitions).expect("written");
        let config = dir.path().display().to_string();
        let plain = ["--config-dir", &config, "iam-policy"];
        let ran = ec2fleet(dir.path(), &[&plain[..], if tool { &[] } else { &["--no-tool"] }].concat());
        assert_eq!(ran.code, 0, "{}", ran.seen());
        ran.stdout
    };
    let plain = policy(PARTITIONS, false);
    assert!(!plain.contains("DeleteFleets") && !plain.contains("DescribeImages"), "{plain}");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("iam-policy", plain.trim_end());
    });
    let tool = policy(PARTITIONS, true);
    assert!(tool.contains("ec2:DescribeImages") && tool.contains("sts:DecodeAuthorizationMessage"));
    let sleepers = PARTITIONS.replace(
        "\"PurchasingOption\":\"spot\",",
        "\"PurchasingOption\":\"spot\",\"SpotOptions\":{\"InstanceInterruptionBehavior\":\"hibernate\"},",
    );
    let maintain = policy(&sleepers, false);
    assert!(
        maintain.contains("ec2:DeleteFleets") && maintain.contains("ec2:CancelSpotInstanceRequests"),
        "{maintain}"
    );
    let china = policy(&PARTITIONS.replace("eu-central-1", "cn-north-1"), false);
    assert!(china.contains("arn:aws-cn:ec2") && !china.contains("arn:aws:ec2"), "{china}");
}
