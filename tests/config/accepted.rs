// SPDX-License-Identifier: GPL-3.0-or-later
//! Configurations that work, and the model that comes of them.

use std::path::{Path, PathBuf};

use ec2fleet_config::{LogFormat, LogLevel, SlurmFacts};
use ec2fleet_core::site::{AfterMaxHibernation, FleetScope, Lifecycle, NodeNaming, NodeWeights, Settings};
use serde_json::{Value, json};

use crate::broken::{base_config, base_partitions, check_values};

pub fn slurm(text: &str) -> SlurmFacts {
    SlurmFacts::parse(Path::new("/etc/slurm/slurm.conf"), text, &mut |path| {
        Err(std::io::Error::other(format!("{} is not there", path.display())))
    })
}

pub fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config");
    let mut dirs: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    assert!(dirs.len() >= 4, "{dirs:?}");
    dirs
}

#[test]
fn every_example_is_accepted_without_a_warning() {
    for dir in examples() {
        let loaded = ec2fleet_config::load(&dir, &slurm("ClusterName=test"))
            .unwrap_or_else(|errors| panic!("{}: {errors}", dir.display()));
        assert_eq!(loaded.warnings, [], "{}", dir.display());
        assert!(!loaded.site.groups().is_empty());
    }
}

/// What aws-plugin-for-slurm v2 documents and its examples do, which later releases must not break.
#[test]
fn a_configuration_of_the_python_plugin_works_unchanged() {
    let config = json!({
        "LogLevel": "WARNING",
        "LogFileName": "/var/log/slurm/cloud.log",
        "SlurmBinPath": "/opt/slurm/bin/",
        "SlurmConf": {
            "PrivateData": "CLOUD",
            "ResumeProgram": "/opt/slurm/etc/cloud/resume.py",
            "SuspendProgram": "/opt/slurm/etc/cloud/suspend.py",
            "ResumeRate": 100,
            "SuspendRate": 100,
            "ResumeTimeout": 240,
            "SuspendTime": 350,
            "TreeWidth": 60000
        }
    });
    let partitions = json!({ "Partitions": [{
        "PartitionName": "burst",
        "NodeGroups": [{
            "NodeGroupName": "spot8",
            "MaxNodes": 40,
            "Region": "eu-north-1",
            "ProfileName": null,
            // A number is written to slurm.conf as it stands.
            "SlurmSpecifications": { "CPUs": 8, "Features": "eu-north-1a" },
            "PurchasingOption": "spot",
            // Their examples have OnDemandOptions in spot groups, and no SpotOptions.
            "OnDemandOptions": { "AllocationStrategy": "lowest-price" },
            "LaunchTemplateSpecification": { "LaunchTemplateName": "burst-node", "Version": "$Default" },
            "LaunchTemplateOverrides": [
                { "InstanceType": "c5.2xlarge", "WeightedCapacity": 2, "SubnetId": "subnet-0aaaaaaa" },
                { "InstanceType": "c5a.2xlarge", "Priority": 2, "MaxPrice": "0.20" }
            ],
            "SubnetIds": ["subnet-0bbbbbbb", "subnet-0ccccccc"],
            "Tags": [{ "Key": "Owner", "Value": "{node_name} {ip_address} {hostname} {other}" }]
        }]
    }] });
    let loaded =
        check_values(&config, &partitions, &slurm("ClusterName=Burst")).unwrap_or_else(|e| panic!("{e}"));
    let warned: Vec<String> = loaded
        .warnings
        .iter()
        .map(|w| w.path.to_string().replace("$.Partitions[0].NodeGroups[0].", ""))
        .collect();
    assert_eq!(
        warned,
        [
            "OnDemandOptions",
            "LaunchTemplateOverrides[0].WeightedCapacity",
            "LaunchTemplateOverrides[0].SubnetId",
            "Tags[0].Value"
        ]
    );
    assert_eq!(loaded.site.cluster, "Burst");
    assert_eq!(
        loaded.site.settings,
        Settings { resume_timeout_s: 240, suspend_timeout_s: 30, ..Settings::default() },
        "SuspendTimeout is Slurm's default"
    );
    assert_eq!(loaded.program.log_level, LogLevel::Warning);
    assert_eq!(loaded.program.log_file, Path::new("/var/log/slurm/cloud.log"));
    assert_eq!(loaded.program.slurm_bin_path.as_deref(), Some(Path::new("/opt/slurm/bin/")));
    assert_eq!(loaded.program.slurm_conf["TreeWidth"], "60000");

    let group = loaded.site.group("burst-spot8").unwrap();
    assert_eq!(group.account.region, "eu-north-1");
    assert_eq!(group.account.profile, None);
    assert_eq!((group.lifecycle, group.max_nodes, group.scope), (Lifecycle::Spot, 40, FleetScope::Launch));
    assert_eq!(group.spot_options.instance_interruption_behavior.as_deref(), Some("terminate"));
    assert_eq!(group.spot_options.allocation_strategy, None);
    let overrides: Vec<_> = group
        .overrides
        .iter()
        .map(|o| {
            (o.instance_type.as_deref().unwrap(), o.weighted_capacity, o.subnet_id.as_deref(), o.priority)
        })
        .collect();
    assert_eq!(
        overrides,
        [("c5.2xlarge", Some(1.0), None, None), ("c5a.2xlarge", Some(1.0), None, Some(2.0))],
        "an instance is a node, in the group's subnets"
    );
    assert_eq!(group.overrides[1].max_price.as_deref(), Some("0.20"));
    assert_eq!(group.subnet_ids, ["subnet-0bbbbbbb", "subnet-0ccccccc"]);
    assert_eq!(group.tags["Owner"], "{node_name} {ip_address} {hostname} {other}");
    assert_eq!(group.slurm_specifications["CPUs"], "8");
    assert_eq!(
        loaded.site.locate("burst-spot8-39").map(|(g, i)| (g.stem(), i)),
        Some(("burst-spot8".into(), 39))
    );
    assert!(loaded.site.locate("burst-spot8-40").is_none());
}

#[test]
fn own_keys_reach_the_model() {
    let mut config = base_config();
    for (key, value) in [
        ("ClusterName", json!("other")),
        ("StateDir", json!("/var/lib/ec2fleet")),
        ("HostsFile", json!("/etc/hosts")),
        ("EndpointUrl", json!("http://127.0.0.1:4566")),
        ("BatchIdleMs", json!(50)),
        ("BatchMaxMs", json!(500)),
        ("RescanSec", json!(30)),
        ("OrphanGraceSec", json!(240)),
        ("ConsistencyGraceSec", json!(60)),
        ("PoolCooldownSec", json!(0)),
        ("ProtectAfter", json!(5)),
        ("MaxFleetNodes", json!(1000)),
        ("LogFormat", json!("json")),
        ("MetricsPort", json!(9100)),
        ("MetricsFile", json!("/run/metrics.prom")),
    ] {
        config[key] = value;
    }
    let mut partitions = base_partitions();
    let groups = &mut partitions["Partitions"][0]["NodeGroups"];
    groups[0]["AllOrNothing"] = json!(true);
    groups[0]["NodeNaming"] = json!("name-tag");
    groups[1]["SpotOptions"]["InstanceInterruptionBehavior"] = json!("hibernate");
    for (key, value) in [
        ("FleetScope", json!("group")),
        ("SpotFallbackSec", json!(120)),
        ("NodeWeights", json!({"spot": 2, "on-demand": 0})),
        ("KeepResponding", json!(false)),
        ("ExtendTimeLimit", json!(false)),
        ("MaxHibernationMin", json!(90)),
        ("AfterMaxHibernation", json!("requeue")),
        ("WakeTimeoutSec", json!(200)),
    ] {
        groups[1][key] = value;
    }
    let loaded = check_values(&config, &partitions, &slurm("ClusterName=test\nSlurmdTimeout=90")).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.site.cluster, "other");
    assert_eq!(
        loaded.site.settings,
        Settings {
            batch_idle_ms: 50,
            batch_max_ms: 500,
            resume_timeout_s: 300,
            suspend_timeout_s: 60,
            slurmd_timeout_s: 90,
            rescan_s: 30,
            orphan_grace_s: 240,
            consistency_grace_s: 60,
            pool_cooldown_s: 0,
            protect_after: 5,
            max_fleet_nodes: 1000,
        }
    );
    let program = &loaded.program;
    assert_eq!(program.state_dir.as_deref(), Some(Path::new("/var/lib/ec2fleet")));
    assert_eq!(program.hosts_file.as_deref(), Some(Path::new("/etc/hosts")));
    assert_eq!(program.endpoint_url.as_deref(), Some("http://127.0.0.1:4566"));
    assert_eq!(program.log_format, LogFormat::Json);
    assert_eq!(program.metrics_port, Some(9100));
    assert_eq!(program.metrics_file.as_deref(), Some(Path::new("/run/metrics.prom")));

    let (first, second) = (&loaded.site.groups()[0], &loaded.site.groups()[1]);
    assert!(first.all_or_nothing && !second.all_or_nothing);
    assert_eq!((first.naming, second.naming), (NodeNaming::NameTag, NodeNaming::LaunchIndex));
    assert_eq!((first.scope, second.scope), (FleetScope::Launch, FleetScope::Group));
    assert_eq!((first.spot_fallback_s, second.spot_fallback_s), (None, Some(120)));
    assert_eq!(first.node_weights, None);
    assert_eq!(second.node_weights, Some(NodeWeights { spot: 2, on_demand: 0 }));
    let hibernation = &second.hibernation;
    assert!(!hibernation.keep_responding && !hibernation.extend_time_limit);
    assert_eq!((hibernation.max_minutes, hibernation.wake_timeout_s), (Some(90), 200));
    assert_eq!(hibernation.after_max, AfterMaxHibernation::Requeue);
    assert_eq!(second.spot_options.instance_interruption_behavior.as_deref(), Some("hibernate"));
}

#[test]
fn an_empty_config_json_is_enough() {
    let loaded =
        check_values(&json!({}), &base_partitions(), &slurm("ClusterName=test\nResumeTimeout=900")).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.program.log_level, LogLevel::Debug);
    assert_eq!(loaded.program.log_file, Path::new("/etc/slurm/aws_plugin.log"));
    assert_eq!(loaded.program.slurm_bin_path, None);
    assert_eq!(loaded.site.settings.resume_timeout_s, 900);
}

#[test]
fn hibernation_makes_a_fleet_of_each_node() {
    let mut partitions = base_partitions();
    partitions["Partitions"][0]["NodeGroups"][1]["SpotOptions"] =
        json!({ "InstanceInterruptionBehavior": "hibernate" });
    let loaded = check_values(&base_config(), &partitions, &slurm("ClusterName=test")).unwrap();
    assert_eq!(loaded.site.group("cloud-spot").unwrap().scope, FleetScope::Node);
    assert_eq!(loaded.site.group("cloud-od").unwrap().scope, FleetScope::Launch);
}

#[test]
fn timeouts_come_from_config_json_then_slurm_conf_then_slurm() {
    let timeout = |config: Value, facts: &SlurmFacts| {
        check_values(&config, &base_partitions(), facts).unwrap().site.settings.resume_timeout_s
    };
    let with = json!({ "SlurmConf": { "resumetimeout": "450" } });
    let installed = slurm("ClusterName=test\nResumeTimeout=500");
    assert_eq!(timeout(with.clone(), &installed), 450);
    assert_eq!(timeout(json!({}), &installed), 500);
    assert_eq!(timeout(json!({}), &slurm("ClusterName=test")), 60);
    let unknown = SlurmFacts::default().with_cluster_name("test");
    assert!(!unknown.is_known());
    assert_eq!(timeout(json!({}), &unknown), Settings::default().resume_timeout_s);
}
