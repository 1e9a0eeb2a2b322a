// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet doctor`: no alarm on a healthy cluster, and each of many broken ones found for what it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ec2fleet_cli::commands::doctor::probe::{Aws, Found, Permission};
use ec2fleet_cli::commands::doctor::{CHECKS, DoctorReport, Inputs, Verdict, judge, list};
use ec2fleet_cli::survey::GroupSurvey;
use ec2fleet_config::{SlurmFacts, check};
use ec2fleet_core::ec2_api::{CloudError, ErrorClass};
use ec2fleet_core::record::Persisted;
use ec2fleet_core::report::{CloudReport, GroupReport, LaunchError, Mode, Paused, StatusReport};
use ec2fleet_core::site::Account;
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, SlurmNode};
use ec2fleet_ec2::catalog::{
    self, Action, BlockDevice, Caller, Image, InstanceType, LaunchTemplate, MetadataOptions, Offering, Subnet,
};
use ec2fleet_journal::peek::Peeked;

pub const SLURM_CONF: &str = "ClusterName=demo
SlurmUser=slurm
StateSaveLocation=/var/spool/slurm
JobSubmitPlugins=lua,ec2_fleet
PrivateData=cloud,jobs
ReturnToService=2
ResumeProgram=/opt/ec2fleet/bin/ec2fleet-resume
SuspendProgram=/opt/ec2fleet/bin/ec2fleet-suspend
ResumeFailProgram=/opt/ec2fleet/bin/ec2fleet-resume-fail
ResumeTimeout=600
SuspendTimeout=120
SuspendTime=900
ResumeRate=0
SuspendRate=0
TreeWidth=65533
CommunicationParameters=NoAddrCache
SlurmctldParameters=idle_on_node_suspend,node_reg_mem_percent=90
SlurmdTimeout=300
NodeName=aws-spot-[0-9] CPUs=2 RealMemory=3000 State=CLOUD
NodeName=aws-sleep-[0-1] CPUs=2 State=CLOUD
PartitionName=aws Nodes=aws-spot-[0-9],aws-sleep-[0-1]
";

pub const CONFIG: &str =
    r#"{"LogLevel":"INFO","LogFileName":"/var/log/slurm/ec2fleet.log","SlurmConf":{"ResumeTimeout":600}}"#;

pub const PARTITIONS: &str = r#"{"Partitions":[{"PartitionName":"aws","NodeGroups":[
    {"NodeGroupName":"spot","MaxNodes":10,"Region":"eu-central-1","SlurmSpecifications":{"CPUs":"2","RealMemory":"3000"},
     "PurchasingOption":"spot","LaunchTemplateSpecification":{"LaunchTemplateName":"compute","Version":"1"},
     "LaunchTemplateOverrides":[{"InstanceType":"c5.large"},{"InstanceType":"c6i.large"}],
     "SubnetIds":["subnet-1111111a","subnet-1111111b"]},
    {"NodeGroupName":"sleep","MaxNodes":2,"Region":"eu-central-1","SlurmSpecifications":{"CPUs":"2"},
     "PurchasingOption":"spot","SpotOptions":{"InstanceInterruptionBehavior":"hibernate"},
     "LaunchTemplateSpecification":{"LaunchTemplateName":"compute","Version":"1"},
     "LaunchTemplateOverrides":[{"InstanceType":"c5.large"}],"SubnetIds":["subnet-1111111a"]}]}]}"#;

fn facts(text: &str) -> SlurmFacts {
    SlurmFacts::parse(Path::new("/etc/slurm/slurm.conf"), text, &mut |path| {
        Err(std::io::Error::other(format!("{} is not there", path.display())))
    })
}

/// A cluster of these three files, healthy in everything else.
pub fn cluster(slurm_conf: &str, config: &str, partitions: &str) -> Inputs {
    let facts = facts(slurm_conf);
    let dir = Path::new("/etc/slurm/ec2fleet");
    let config = check(dir, Ok(config.as_bytes().to_vec()), Ok(partitions.as_bytes().to_vec()), &facts);
    let program = |name: &str| {
        let found = Found { uid: 0, mode: 0o755, is_dir: false };
        (PathBuf::from(format!("/opt/ec2fleet/bin/ec2fleet-{name}")), found)
    };
    let state_dir = PathBuf::from("/var/spool/slurm/ec2fleet");
    let state = (state_dir.clone(), Found { uid: 64_030, mode: 0o700, is_dir: true });
    Inputs {
        facts,
        facts_error: None,
        config,
        release: Ok("22.05.8".into()),
        nodes: Ok((0..10).map(|index| node(&format!("aws-spot-{index}"))).collect()),
        plugin: Ok(StatusReport {
            schema: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            cluster: "demo".into(),
            mode: Mode::Active,
            since_unix_ms: 1,
            now_unix_ms: 2,
            slurm_release: "22.05.8".into(),
            pid: 7,
            paused: None,
            groups: vec![GroupReport {
                partition: "aws".into(),
                group: "spot".into(),
                ..GroupReport::default()
            }],
            cloud: vec![CloudReport { region: "eu-central-1".into(), ..CloudReport::default() }],
            slurm: Default::default(),
            queue: Default::default(),
            journal: Default::default(),
            warnings: Vec::new(),
        }),
        plugin_dir: "/usr/lib/slurm".into(),
        shim: Some(Ok(0x16_05_08)),
        files: [program("resume"), program("suspend"), program("resume-fail"), state].into(),
        slurm_user_id: Some(64_030),
        state_dir,
        journal: Ok(Some(Peeked {
            cluster: "demo".into(),
            state: Persisted::default(),
            bytes: 100,
            damaged: false,
        })),
        aws: Some(aws()),
    }
}

fn node(name: &str) -> SlurmNode {
    SlurmNode {
        name: name.into(),
        base: NodeBase::Idle,
        flags: NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN),
        ..SlurmNode::default()
    }
}

fn instance_type(name: &str) -> InstanceType {
    InstanceType {
        name: name.into(),
        vcpus: 2,
        cores: 1,
        threads_per_core: 2,
        memory_mib: 4_096,
        architectures: vec!["x86_64".into()],
        hibernation_supported: true,
        ..InstanceType::default()
    }
}

fn subnet(id: &str, zone: &str) -> Subnet {
    Subnet {
        id: id.into(),
        zone: zone.into(),
        free_addresses: 200,
        state: "available".into(),
        ..Subnet::default()
    }
}

fn survey(types: &[&str], subnets: Vec<Subnet>) -> GroupSurvey {
    let offerings = types.iter().flat_map(|name| {
        subnets.iter().map(|subnet| Offering { instance_type: (*name).into(), zone: subnet.zone.clone() })
    });
    GroupSurvey {
        offerings: Ok(offerings.collect()),
        template: Ok(LaunchTemplate {
            name: "compute".into(),
            version: 1,
            image_id: Some("ami-1".into()),
            metadata: MetadataOptions { instance_tags: Some("enabled".into()), ..MetadataOptions::default() },
            hibernation: true,
            ..LaunchTemplate::default()
        }),
        types: Ok(types.iter().map(|name| instance_type(name)).collect()),
        unknown_types: Vec::new(),
        subnets: Ok(subnets),
        images: Ok(vec![Image {
            id: "ami-1".into(),
            state: "available".into(),
            architecture: "x86_64".into(),
            root_device: "/dev/xvda".into(),
            block_devices: vec![BlockDevice {
                device: "/dev/xvda".into(),
                encrypted: Some(true),
                size_gib: Some(30),
                ..BlockDevice::default()
            }],
            ..Image::default()
        }]),
    }
}

fn account() -> Account {
    Account { region: "eu-central-1".into(), profile: None }
}

fn aws() -> Aws {
    let permission = |group: &str, action| Permission {
        group: group.into(),
        action,
        verdict: Ok(catalog::Verdict::Allowed),
        decoded: None,
    };
    let (a, b) = (subnet("subnet-1111111a", "eu-central-1a"), subnet("subnet-1111111b", "eu-central-1b"));
    Aws {
        callers: vec![(
            account(),
            Ok(Caller { account: "1".into(), arn: "arn:aws:iam::1:role/head".into() }),
        )],
        permissions: ["aws-spot", "aws-sleep"]
            .iter()
            .flat_map(|group| [Action::CreateFleet, Action::TerminateInstances].map(|a| permission(group, a)))
            .collect(),
        survey: [
            ("aws-spot".to_owned(), survey(&["c5.large", "c6i.large"], vec![a.clone(), b])),
            ("aws-sleep".to_owned(), survey(&["c5.large"], vec![a])),
        ]
        .into(),
    }
}

fn failure(class: ErrorClass, code: &str) -> CloudError {
    CloudError { class, code: code.into(), message: "no".into(), request_id: None }
}

fn alarms(report: &DoctorReport) -> BTreeSet<(String, Verdict)> {
    let alarming = report.checks.iter().filter(|c| matches!(c.verdict, Verdict::Warning | Verdict::Error));
    alarming.map(|check| (check.id.clone(), check.verdict)).collect()
}

#[test]
fn a_healthy_cluster_raises_no_alarm() {
    let report = judge(&cluster(SLURM_CONF, CONFIG, PARTITIONS));
    assert_eq!(alarms(&report), BTreeSet::new(), "{:#?}", report.checks);
    assert_eq!((report.errors, report.warnings), (0, 0));
    let judged: BTreeSet<&str> = report.checks.iter().map(|check| check.id.as_str()).collect();
    let listed: BTreeSet<&str> = CHECKS.iter().map(|described| described.id).collect();
    assert_eq!(judged, listed, "every check is described, and every described one is made");
    assert!(report.checks.iter().all(|check| check.verdict != Verdict::Skipped), "{:#?}", report.checks);
}

type Change = fn(&mut Inputs);

/// What is wrong with slurm.conf: a line and what it is replaced by.
const BROKEN_FILES: &[(&str, &str, &str, Verdict)] = &[
    ("JobSubmitPlugins=lua,ec2_fleet", "JobSubmitPlugins=lua", "job-submit-plugins", Verdict::Warning),
    ("PrivateData=cloud,jobs", "PrivateData=jobs", "private-data", Verdict::Warning),
    ("PrivateData=cloud,jobs", "", "private-data", Verdict::Warning),
    ("ReturnToService=2", "", "return-to-service", Verdict::Warning),
    ("ReturnToService=2", "ReturnToService=1", "return-to-service", Verdict::Warning),
    ("ResumeProgram=/opt/ec2fleet/bin/ec2fleet-resume\n", "", "resume-program", Verdict::Error),
    (
        "/opt/ec2fleet/bin/ec2fleet-resume\n",
        "/opt/ec2fleet/ec2fleet-resume\n",
        "resume-program",
        Verdict::Error,
    ),
    ("/opt/ec2fleet/bin/ec2fleet-suspend\n", "ec2fleet-suspend\n", "suspend-program", Verdict::Error),
    (
        "/opt/ec2fleet/bin/ec2fleet-suspend\n",
        "/opt/ec2fleet/bin/ec2fleet-resume\n",
        "suspend-program",
        Verdict::Warning,
    ),
    (
        "ResumeFailProgram=/opt/ec2fleet/bin/ec2fleet-resume-fail\n",
        "",
        "resume-fail-program",
        Verdict::Warning,
    ),
    ("ResumeTimeout=600", "", "resume-timeout", Verdict::Warning),
    ("SuspendTimeout=120", "SuspendTimeout=10", "suspend-timeout", Verdict::Warning),
    ("SuspendTime=900", "", "suspend-time", Verdict::Error),
    ("SuspendTime=900", "SuspendTime=-1", "suspend-time", Verdict::Error),
    ("SuspendTime=900", "SuspendTime=300", "suspend-time", Verdict::Warning),
    ("ResumeRate=0", "ResumeRate=10", "rates", Verdict::Warning),
    ("SuspendRate=0", "", "rates", Verdict::Warning),
    ("TreeWidth=65533", "TreeWidth=4", "tree-width", Verdict::Warning),
    ("CommunicationParameters=NoAddrCache", "", "no-addr-cache", Verdict::Warning),
    ("=idle_on_node_suspend", "=idle_on_node_suspend,cloud_dns", "cloud-dns", Verdict::Warning),
    ("JobSubmitPlugins=lua,ec2_fleet", "", "slurmd-timeout", Verdict::Error),
    ("SlurmdTimeout=300", "SuspendExcNodes=aws-spot-[3-4]", "suspend-exclusions", Verdict::Warning),
    ("SlurmdTimeout=300", "SuspendExcParts=aws", "suspend-exclusions", Verdict::Warning),
    (
        "aws-spot-[0-9] CPUs=2 RealMemory=3000 State=CLOUD",
        "aws-spot-[0-7] State=CLOUD",
        "nodes-declared",
        Verdict::Error,
    ),
    (
        "aws-spot-[0-9] CPUs=2 RealMemory=3000 State=CLOUD",
        "aws-spot-[0-9] State=UNKNOWN",
        "nodes-declared",
        Verdict::Error,
    ),
    ("aws-spot-[0-9] CPUs=2", "aws-spot-[0-12] CPUs=2", "nodes-declared", Verdict::Warning),
    ("ResumeTimeout=600", "ResumeTimeout=500", "parameters-installed", Verdict::Warning),
    ("SlurmdTimeout=300", "include missing.conf", "slurm-conf", Verdict::Warning),
];

/// What is wrong besides the files.
const BROKEN_WORLD: &[(&str, &str, Verdict, Change)] = &[
    ("no slurm.conf", "slurm-conf", Verdict::Error, |i| {
        i.facts = SlurmFacts::default();
        i.facts_error = Some("no slurm.conf was found".into());
    }),
    ("no scontrol", "slurm-commands", Verdict::Error, |i| i.release = Err("scontrol: not found".into())),
    ("slurmctld is down", "slurm-commands", Verdict::Error, |i| i.nodes = Err("connect failure".into())),
    ("a program that cannot be run", "resume-program", Verdict::Error, |i| {
        i.files.get_mut(Path::new("/opt/ec2fleet/bin/ec2fleet-resume")).expect("it is there").mode = 0o644;
    }),
    ("a program that anyone may change", "suspend-program", Verdict::Warning, |i| {
        i.files.get_mut(Path::new("/opt/ec2fleet/bin/ec2fleet-suspend")).expect("it is there").mode = 0o777;
    }),
    ("a program of a stranger", "resume-program", Verdict::Warning, |i| {
        i.files.get_mut(Path::new("/opt/ec2fleet/bin/ec2fleet-resume")).expect("it is there").uid = 1_000;
    }),
    ("no shim", "shim-installed", Verdict::Error, |i| i.shim = None),
    ("half a shim", "shim-installed", Verdict::Error, |i| i.shim = Some(Err("it is no Slurm plugin".into()))),
    ("a shim of another release", "shim-release", Verdict::Error, |i| i.shim = Some(Ok(0x18_0b_05))),
    ("no plugin", "plugin-answers", Verdict::Error, |i| i.plugin = Err("The plugin does not answer.".into())),
    ("a passive plugin", "plugin-acts", Verdict::Error, |i| {
        i.plugin.as_mut().expect("it answers").mode =
            Mode::Passive { reason: "the journal cannot be read".into() };
    }),
    ("an old plugin", "plugin-release", Verdict::Warning, |i| {
        i.plugin.as_mut().expect("it answers").version = "0.0.1".into();
    }),
    ("paused", "operations", Verdict::Warning, |i| {
        i.plugin.as_mut().expect("it answers").paused =
            Some(Paused { since_unix_ms: 1, uid: 0, reason: "x".into() });
    }),
    ("a closed group", "operations", Verdict::Error, |i| {
        i.plugin.as_mut().expect("it answers").groups[0].protected = true;
    }),
    ("EC2 cannot be listed", "ec2-listing", Verdict::Error, |i| {
        i.plugin.as_mut().expect("it answers").cloud[0].error = Some("UnauthorizedOperation".into());
    }),
    ("a quota", "quotas", Verdict::Warning, |i| {
        i.plugin.as_mut().expect("it answers").groups[0].last_error = Some(LaunchError {
            at_unix_ms: 1,
            code: "MaxSpotInstanceCountExceeded".into(),
            class: "quota".into(),
            message: "Max spot instance count exceeded".into(),
            nodes: 3,
        });
    }),
    ("a failed node", "failed-nodes", Verdict::Warning, |i| {
        i.nodes.as_mut().expect("loaded")[3].base = NodeBase::Down;
    }),
    ("a state directory of root", "state-directory", Verdict::Error, |i| {
        let dir = i.state_dir.clone();
        i.files.get_mut(&dir).expect("it is there").uid = 0;
    }),
    ("an open state directory", "state-directory", Verdict::Warning, |i| {
        let dir = i.state_dir.clone();
        i.files.get_mut(&dir).expect("it is there").mode = 0o777;
    }),
    ("a file for a state directory", "state-directory", Verdict::Error, |i| {
        let dir = i.state_dir.clone();
        i.files.get_mut(&dir).expect("it is there").is_dir = false;
    }),
    ("an unreadable journal", "journal", Verdict::Error, |i| i.journal = Err("Permission denied".into())),
    ("another cluster's journal", "journal", Verdict::Error, |i| {
        i.journal.as_mut().expect("read").as_mut().expect("one").cluster = "other".into();
    }),
    ("a damaged journal", "journal", Verdict::Warning, |i| {
        i.journal.as_mut().expect("read").as_mut().expect("one").damaged = true;
    }),
    ("no credentials", "credentials", Verdict::Error, |i| {
        world(i).callers[0].1 = Err(failure(ErrorClass::Permission, "NoCredentials"));
    }),
    ("a wrong clock", "clock", Verdict::Error, |i| {
        world(i).callers[0].1 = Err(failure(ErrorClass::Permission, "RequestExpired"));
    }),
    ("a denied action", "permissions", Verdict::Error, |i| {
        let reason = "You are not authorized".into();
        world(i).permissions[1].verdict = Ok(catalog::Verdict::Denied { reason, encoded: None });
    }),
    ("no launch template", "launch-template", Verdict::Error, |i| {
        group(i).template = Err(failure(ErrorClass::NotFound, "InvalidLaunchTemplateName.NotFoundException"));
    }),
    ("a template for Spot", "launch-template", Verdict::Error, |i| template(i).market = Some("spot".into())),
    ("a protected template", "launch-template", Verdict::Error, |i| {
        template(i).termination_protection = true
    }),
    ("a template with an interface", "launch-template", Verdict::Error, |i| {
        template(i).network_interface_ids = vec!["eni-1".into()];
    }),
    ("a template without an image", "launch-template", Verdict::Error, |i| template(i).image_id = None),
    ("an image that is gone", "image", Verdict::Error, |i| group(i).images = Ok(Vec::new())),
    ("an image that failed", "image", Verdict::Error, |i| {
        group(i).images.as_mut().expect("found")[0].state = "failed".into();
    }),
    ("an image for another processor", "image", Verdict::Error, |i| {
        group(i).images.as_mut().expect("found")[0].architecture = "arm64".into();
    }),
    ("an unknown type", "instance-types", Verdict::Error, |i| {
        group(i).unknown_types = vec!["c5.hugest".into()]
    }),
    ("a type that a zone does not have", "instance-types", Verdict::Warning, |i| {
        group(i)
            .offerings
            .as_mut()
            .expect("found")
            .retain(|o| o.zone.ends_with('a') || o.instance_type == "c5.large");
    }),
    ("metadata without tags", "instance-tags", Verdict::Warning, |i| {
        template(i).metadata.instance_tags = None
    }),
    ("more CPUs than a type has", "node-size", Verdict::Error, |i| {
        group(i).types.as_mut().expect("found")[1].vcpus = 1;
    }),
    ("more memory than a type has", "node-size", Verdict::Error, |i| {
        group(i).types.as_mut().expect("found")[0].memory_mib = 2_048;
    }),
    ("no hibernation in the template", "hibernation", Verdict::Warning, |i| {
        sleeper(i).template.as_mut().expect("found").hibernation = false;
    }),
    ("too much memory to hibernate", "hibernation", Verdict::Error, |i| {
        sleeper(i).types.as_mut().expect("found")[0].memory_mib = 160 * 1024;
    }),
    ("an open root volume", "hibernation", Verdict::Warning, |i| {
        sleeper(i).images.as_mut().expect("found")[0].block_devices[0].encrypted = Some(false);
    }),
    ("no room for the memory", "hibernation", Verdict::Error, |i| {
        sleeper(i).images.as_mut().expect("found")[0].block_devices[0].size_gib = Some(4);
    }),
    ("a subnet that is gone", "subnets", Verdict::Error, |i| {
        group(i).subnets.as_mut().expect("found").pop();
    }),
    ("two subnets of one zone", "subnets", Verdict::Error, |i| {
        group(i).subnets.as_mut().expect("found")[1].zone = "eu-central-1a".into();
    }),
    ("no free addresses", "free-addresses", Verdict::Warning, |i| {
        for subnet in group(i).subnets.as_mut().expect("found") {
            subnet.free_addresses = 3;
        }
    }),
];

fn world(inputs: &mut Inputs) -> &mut Aws {
    inputs.aws.as_mut().expect("EC2 was asked")
}

fn group(inputs: &mut Inputs) -> &mut GroupSurvey {
    world(inputs).survey.get_mut("aws-spot").expect("it was surveyed")
}

fn sleeper(inputs: &mut Inputs) -> &mut GroupSurvey {
    world(inputs).survey.get_mut("aws-sleep").expect("it was surveyed")
}

fn template(inputs: &mut Inputs) -> &mut LaunchTemplate {
    group(inputs).template.as_mut().expect("found")
}

fn assert_found(what: &str, inputs: &Inputs, id: &str, verdict: Verdict) {
    let report = judge(inputs);
    let found = alarms(&report);
    assert!(
        found.contains(&(id.to_owned(), verdict)),
        "{what}: {id} is expected as {verdict:?}, found {found:?}"
    );
    for check in &report.checks {
        let alarming = matches!(check.verdict, Verdict::Warning | Verdict::Error);
        assert!(!alarming || !check.remedy.is_empty(), "{what}: {} has no remedy", check.id);
        assert!(!check.category.is_empty(), "{what}: {} is described", check.id);
    }
}

#[test]
fn every_broken_cluster_is_found() {
    for (line, instead, id, verdict) in BROKEN_FILES {
        assert!(SLURM_CONF.contains(line), "{line}");
        let inputs = cluster(&SLURM_CONF.replace(line, instead), CONFIG, PARTITIONS);
        assert_found(&format!("{line} -> {instead}"), &inputs, id, *verdict);
    }
    for (what, id, verdict, change) in BROKEN_WORLD {
        let mut inputs = cluster(SLURM_CONF, CONFIG, PARTITIONS);
        change(&mut inputs);
        assert_found(what, &inputs, id, *verdict);
        // What is broken besides the files is found as that, and nothing else is suspected.
        let ids: BTreeSet<String> = alarms(&judge(&inputs)).into_iter().map(|(id, _)| id).collect();
        assert!(ids.len() <= 2, "{what}: {ids:?}");
    }
    let broken = cluster(SLURM_CONF, "{", PARTITIONS);
    assert_found("a broken config.json", &broken, "configuration", Verdict::Error);
    assert!(BROKEN_FILES.len() + BROKEN_WORLD.len() >= 70);
}

#[test]
fn the_document_is_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/doctor.md");
    let text = std::fs::read_to_string(path).expect("docs/doctor.md");
    assert_eq!(text, list::document(), "make it anew: ec2fleet doctor --list > docs/doctor.md");
}

/// docs/configuration.md says more of each setting than the list; its headings are the ids that the command prints.
#[test]
fn the_headings_about_slurm_conf_are_the_ids_of_its_checks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(path).expect("docs/configuration.md");
    let section = text.split("\n## ").find(|part| part.starts_with("slurm.conf\n")).expect("a section");
    let headings: BTreeSet<&str> = section.lines().filter_map(|line| line.strip_prefix("#### ")).collect();
    let ids: BTreeSet<&str> =
        list::CHECKS.iter().filter(|check| check.category == "slurm.conf").map(|check| check.id).collect();
    assert_eq!(headings, ids);
}

#[test]
fn what_hinders_hibernation_is_said_with_its_place_in_partitions_json() {
    let table: [(&str, &str, Change); 4] = [
        ("cannot hibernate", "$.Partitions[0].NodeGroups[1].LaunchTemplateOverrides[0].InstanceType:", |i| {
            sleeper(i).types.as_mut().expect("found")[0].hibernation_supported = false;
        }),
        ("and EC2 hibernates less than 150", "NodeGroups[1].LaunchTemplateOverrides[0].InstanceType:", |i| {
            sleeper(i).types.as_mut().expect("found")[0].memory_mib = 150 * 1024;
        }),
        ("HibernationOptions", "$.Partitions[0].NodeGroups[1].LaunchTemplateSpecification:", |i| {
            sleeper(i).template.as_mut().expect("found").hibernation = false;
        }),
        ("has no room for 4 GiB", "$.Partitions[0].NodeGroups[1].LaunchTemplateSpecification:", |i| {
            sleeper(i).images.as_mut().expect("found")[0].block_devices[0].size_gib = Some(4);
        }),
    ];
    for (words, place, change) in table {
        let mut inputs = cluster(SLURM_CONF, CONFIG, PARTITIONS);
        change(&mut inputs);
        let report = serde_json::to_string(&judge(&inputs)).expect("JSON");
        assert!(report.contains(words) && report.contains(place), "{words} at {place}: {report}");
    }
    // A volume of an override's own counts for that override.
    let own = PARTITIONS.replace(
        "\"LaunchTemplateOverrides\":[{\"InstanceType\":\"c5.large\"}],",
        "\"LaunchTemplateOverrides\":[{\"InstanceType\":\"c5.large\",\"BlockDeviceMappings\":[{\"DeviceName\":\"/dev/xvda\",\
         \"Ebs\":{\"VolumeSize\":3}}]}],",
    );
    assert_ne!(own, PARTITIONS);
    let mut inputs = cluster(SLURM_CONF, CONFIG, &own);
    sleeper(&mut inputs).images.as_mut().expect("found")[0].root_device = "/dev/xvda".into();
    let report = serde_json::to_string(&judge(&inputs)).expect("JSON");
    let place = "$.Partitions[0].NodeGroups[1].LaunchTemplateOverrides[0].BlockDeviceMappings[0].Ebs: \
                 the root volume of 3 GiB";
    assert!(report.contains(place), "{report}");
}
