// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands that ask EC2, and the programs without a plugin, against the emulator.

use std::path::Path;
use std::process::{Command, Stdio};

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::types::{
    DefaultTargetCapacityType, FleetLaunchTemplateConfigRequest, FleetLaunchTemplateOverridesRequest,
    FleetLaunchTemplateSpecificationRequest, FleetType, InstanceType,
    LaunchTemplateInstanceMetadataOptionsRequest, LaunchTemplateInstanceMetadataTagsState,
    RequestLaunchTemplateData, TargetCapacitySpecificationRequest,
};
use ec2fleet_cli::commands::doctor::{DoctorReport, Verdict};
use ec2fleet_core::report::CostReport;
use ec2fleet_emulator::{Emulator, Options, Scenario};
use serde_json::Value;

use crate::cluster::{Cluster, wait_for};
use crate::commands::Ran;

/// An emulated EC2 with a launch template `compute`.
struct World {
    runtime: tokio::runtime::Runtime,
    emulator: Emulator,
}

impl World {
    fn start(scenario: Value) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let scenario = Scenario::from_json(&scenario.to_string()).expect("a scenario");
        let emulator = runtime
            .block_on(Emulator::start(Options { scenario, ..Options::default() }))
            .expect("the emulator starts");
        let world = Self { runtime, emulator };
        let metadata = LaunchTemplateInstanceMetadataOptionsRequest::builder()
            .instance_metadata_tags(LaunchTemplateInstanceMetadataTagsState::Enabled)
            .build();
        let data = RequestLaunchTemplateData::builder()
            .image_id("ami-0a1b2c3d4e5f60718")
            .instance_type(InstanceType::C5Large)
            .metadata_options(metadata)
            .build();
        world
            .runtime
            .block_on(
                world
                    .client()
                    .create_launch_template()
                    .launch_template_name("compute")
                    .launch_template_data(data)
                    .send(),
            )
            .expect("a launch template");
        world
    }

    fn client(&self) -> Client {
        let config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-central-1"))
            .endpoint_url(self.emulator.url())
            .credentials_provider(Credentials::new("AKIAEXAMPLE", "secret", None, None, "test"))
            .build();
        Client::from_conf(config)
    }

    /// A maintain fleet with two instances, as another plugin has made it.
    fn foreign_fleet(&self) -> String {
        let template = FleetLaunchTemplateSpecificationRequest::builder()
            .launch_template_name("compute")
            .version("1")
            .build();
        let over = FleetLaunchTemplateOverridesRequest::builder()
            .instance_type(InstanceType::C5Large)
            .subnet_id("subnet-aaaaaaaa")
            .build();
        let configs = FleetLaunchTemplateConfigRequest::builder()
            .launch_template_specification(template)
            .overrides(over)
            .build();
        let target = TargetCapacitySpecificationRequest::builder()
            .total_target_capacity(2)
            .default_target_capacity_type(DefaultTargetCapacityType::Spot)
            .build();
        let made = self.client().create_fleet().r#type(FleetType::Maintain).launch_template_configs(configs);
        let made = self.runtime.block_on(made.target_capacity_specification(target).send());
        made.expect("a fleet").fleet_id.expect("its id")
    }

    fn site(&self, dir: &Path) {
        let config = serde_json::json!({
            "LogLevel": "DEBUG", "LogFileName": dir.join("plugin.log"), "EndpointUrl": self.emulator.url(), "SlurmConf": {},
            "HostsFile": dir.join("hosts"),
        });
        std::fs::write(dir.join("config.json"), config.to_string()).expect("written");
        let partitions = serde_json::json!({ "Partitions": [{ "PartitionName": "aws", "NodeGroups": [{
            "NodeGroupName": "spot", "MaxNodes": 4, "Region": "eu-central-1", "SlurmSpecifications": {},
            "PurchasingOption": "spot",
            "LaunchTemplateSpecification": { "LaunchTemplateName": "compute", "Version": "1" },
            "LaunchTemplateOverrides": [{ "InstanceType": "c5.large" }, { "InstanceType": "c5.xlarge" }],
            "SubnetIds": ["subnet-aaaaaaaa", "subnet-bbbbbbbb"],
        }]}]});
        std::fs::write(dir.join("partitions.json"), partitions.to_string()).expect("written");
    }

    fn instances(&self, state: &str) -> usize {
        self.emulator.instances().iter().filter(|instance| instance["state"] == state).count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
    }
}

fn scenario() -> Value {
    serde_json::json!({
        "region": "eu-central-1",
        "speed": 100.0,
        "images": [{ "id": "ami-0a1b2c3d4e5f60718" }],
        "subnets": [
            { "id": "subnet-aaaaaaaa", "zone": "a", "cidr": "127.20.0.0/24" },
            { "id": "subnet-bbbbbbbb", "zone": "b", "cidr": "127.21.0.0/24" },
        ],
    })
}

/// A program with the emulator's credentials.
fn run(program: &str, dir: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("SLURM_CONF", dir.join("slurm.conf"))
        .env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    Ran {
        code: output.status.code().expect("it is not killed"),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn ec2fleet(dir: &Path, arguments: &[&str]) -> Ran {
    run(env!("CARGO_BIN_EXE_ec2fleet"), dir, arguments)
}

fn in_a_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("slurm.conf"), "ClusterName=demo\n").expect("written");
    dir
}

#[test]
fn what_ec2_says_fills_the_node_lines() {
    let world = World::start(scenario());
    let dir = in_a_folder();
    world.site(dir.path());
    let ran = ec2fleet(dir.path(), &["generate-conf", "--online"]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    assert!(
        ran.stdout.contains(
            "NodeName=aws-spot-[0-3] State=CLOUD CPUs=2 Sockets=1 CoresPerSocket=1 ThreadsPerCore=2 RealMemory=3840 \
             Features=spot,c5,x86_64\n"
        ),
        "{}",
        ran.seen()
    );
    assert!(ran.stderr.contains("2 to 4 vCPUs"), "{}", ran.seen());
}

fn aws_checks(report: &DoctorReport) -> Vec<(&str, Verdict)> {
    let of_aws = report
        .checks
        .iter()
        .filter(|check| ["aws", "templates", "network"].contains(&check.category.as_str()));
    of_aws
        .filter(|check| check.verdict > Verdict::Skipped)
        .map(|check| (check.id.as_str(), check.verdict))
        .collect()
}

#[test]
fn aws_is_checked_and_denials_are_found() {
    let dir = in_a_folder();
    let doctor = |world: &World| -> DoctorReport {
        world.site(dir.path());
        let ran = ec2fleet(dir.path(), &["doctor", "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.seen()))
    };
    let healthy = doctor(&World::start(scenario()));
    assert_eq!(aws_checks(&healthy), [], "{:#?}", healthy.checks);

    let mut denied = scenario();
    denied["deny"] = serde_json::json!([{ "action": "ec2:TerminateInstances" }]);
    let world = World::start(denied);
    let report = doctor(&world);
    assert_eq!(aws_checks(&report), [("permissions", Verdict::Error)], "{:#?}", report.checks);
    let ran = ec2fleet(dir.path(), &["validate", "--online"]);
    assert_eq!(ran.code, 5, "{}", ran.seen());
    assert!(ran.stdout.contains("ec2:TerminateInstances is denied for aws-spot"), "{}", ran.seen());
}

#[test]
fn spot_prices_are_added_up() {
    let world = World::start(scenario());
    let dir = in_a_folder();
    world.site(dir.path());
    std::fs::write(dir.path().join("prices.json"), "{\"c5.large\": 1000.0}").expect("written");
    let state = dir.path().join("state/ec2fleet");
    std::fs::create_dir_all(&state).expect("created");
    let slurm_conf = format!("ClusterName=demo\nStateSaveLocation={}\n", dir.path().join("state").display());
    std::fs::write(dir.path().join("slurm.conf"), slurm_conf).expect("written");
    let cost = || -> (CostReport, Ran) {
        let ran = ec2fleet(dir.path(), &["cost", "--json", "--since", "1d"]);
        (serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.seen())), ran)
    };
    let (report, ran) = cost();
    assert_eq!((ran.code, report.rows.len(), report.notes.len()), (0, 0, 1), "{}", ran.seen());

    // Two nodes since two hours; one of them for the first hour.
    let hour = 3_600_000;
    let now =
        u64::try_from(std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("it fits");
    let instance = |node: &str, id: &str| {
        serde_json::json!({ "node": node, "instance_id": id, "account": { "region": "eu-central-1", "profile": null },
            "instance_type": "c5.large", "zone": "eu-central-1a", "lifecycle": "spot", "since_unix_ms": now - 2 * hour })
    };
    let begin = serde_json::json!({ "unix_ms": now - 2 * hour, "begin": [instance("aws-spot-0", "i-0"), instance("aws-spot-1", "i-1")] });
    let end = serde_json::json!({ "unix_ms": now - hour, "end": "aws-spot-1" });
    std::fs::write(state.join("usage.jsonl"), format!("{begin}\n{end}\n")).expect("written");
    let (report, ran) = cost();
    assert_eq!((ran.code, report.unpriced.len(), report.rows.len()), (0, 0, 1), "{}", ran.seen());
    let total = &report.total;
    // The command runs some moments later.
    assert!((3.0..3.1).contains(&total.spot_hours) && total.spot_instances == 1.0, "{report:?}");
    assert!((total.usd + total.saved_usd - 1_000.0 * total.spot_hours).abs() < 1e-6, "{report:?}");
    assert!(total.usd_per_hour > 0.0 && total.usd_per_hour < 1.0, "{report:?}");
    let priced = total.usd_per_hour;

    // EC2 is away: what it told last is used, and said.
    drop(world);
    let (report, ran) = cost();
    assert_eq!(ran.code, 0, "{}", ran.seen());
    assert!((report.total.usd_per_hour - priced).abs() < 1e-9, "{report:?}");
    assert!(report.notes.iter().any(|note| note.contains("did not tell the Spot prices")), "{report:?}");
}

#[test]
fn fleets_that_another_plugin_noted_get_the_tags_by_which_they_are_found() {
    let world = World::start(scenario());
    let dir = in_a_folder();
    world.site(dir.path());
    let fleet = world.foreign_fleet();
    wait_for("its instances", || world.instances("running") == 2);
    let noted = dir.path().join("slurm.conf.aws");
    let lines = format!(
        "#EC2_FLEET aws spot {fleet}\n#EC2_FLEET aws gone fleet-00000000-0000-0000-0000-000000000000\nNodeName=x\n"
    );
    std::fs::write(&noted, lines).expect("written");
    let noted = noted.display().to_string();
    let tagged = || {
        let shown = world.runtime.block_on(world.client().describe_fleets().fleet_ids(&fleet).send());
        let fleets = shown.expect("the fleet").fleets.unwrap_or_default();
        let fleet_tags = fleets[0].tags.clone().unwrap_or_default();
        let ours = world.emulator.instances();
        let instances = ours.iter().filter(|i| i["tags"]["ec2fleet:cluster"] == "demo").count();
        let keys: Vec<String> = fleet_tags.iter().filter_map(|tag| tag.key().map(str::to_owned)).collect();
        (keys, instances)
    };

    // A group that launches by instant fleets keeps none.
    let ran = ec2fleet(dir.path(), &["fleets", "import", &noted, "--yes"]);
    assert_eq!(ran.code, 1, "{}", ran.seen());
    assert!(ran.stdout.contains("FleetScope of aws-spot is not group"), "{}", ran.seen());

    let partitions = dir.path().join("partitions.json");
    let text = std::fs::read_to_string(&partitions).expect("readable");
    let text = text.replace("\"PurchasingOption\"", "\"FleetScope\":\"group\",\"PurchasingOption\"");
    std::fs::write(&partitions, text).expect("written");
    let ran = ec2fleet(dir.path(), &["fleets", "import", &noted, "--dry-run"]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    assert!(
        ran.stdout.contains("with 2 instances") && ran.stdout.contains("aws-gone is not"),
        "{}",
        ran.seen()
    );
    assert_eq!(tagged(), (Vec::new(), 0), "a dry run changes nothing");
    let ran = ec2fleet(dir.path(), &["fleets", "import", &noted]);
    assert_eq!((ran.code, tagged().1), (2, 0), "nobody agreed: {}", ran.seen());
    let ran = ec2fleet(dir.path(), &["fleets", "import", &noted, "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    let (keys, instances) = tagged();
    assert_eq!(instances, 2);
    for key in ["ec2fleet:cluster", "ec2fleet:partition", "ec2fleet:group"] {
        assert!(keys.iter().any(|known| known == key), "{keys:?}");
    }
}

/// No plugin anywhere: ec2fleet-resume launches, tells slurmctld the addresses and returns; ec2fleet-suspend ends it.
#[test]
fn without_a_plugin_the_programs_do_the_work() {
    let world = World::start(scenario());
    let cluster = Cluster::start(
        "PrivateData=cloud\nResumeProgram=/bin/true\nSuspendProgram=/bin/true\nSuspendTime=6000\nResumeTimeout=600\n\
         SuspendTimeout=5\nNodeName=aws-spot-[0-3] CPUs=1 State=CLOUD\nPartitionName=aws Nodes=ALL Default=YES\n",
    );
    let dir = cluster.path("");
    world.site(&dir);
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("written");
    let log = || std::fs::read_to_string(dir.join("plugin.log")).unwrap_or_default();
    cluster.run("scontrol", &["update", "NodeName=aws-spot-[1-2]", "State=POWER_UP"]);
    wait_for("the power-up", || cluster.node("aws-spot-2").state_text().contains("POWERING_UP"));
    let ran = run(env!("CARGO_BIN_EXE_ec2fleet-resume"), &dir, &["aws-spot-[1-2]"]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.seen(), log());
    assert_eq!(world.instances("pending") + world.instances("running"), 2, "{}", log());
    for name in ["aws-spot-1", "aws-spot-2"] {
        let node = cluster.node(name);
        assert!(
            node.addr.starts_with("127.2"),
            "{name} has the address of an instance: {}\n{}",
            node.addr,
            log()
        );
    }
    assert_eq!(cluster.node("aws-spot-0").addr, "aws-spot-0");
    let text = std::fs::read_to_string(&hosts).expect("readable");
    for name in ["aws-spot-1", "aws-spot-2"] {
        assert!(text.contains(&format!("{} {name} ", cluster.node(name).addr)), "{text}");
    }
    let ran = ec2fleet(&dir, &["nodes", "--json", "aws-spot-[1-2]"]);
    assert_eq!(ran.stdout.matches("\"instance_id\": \"i-").count(), 2, "{}", ran.seen());

    cluster.run("scontrol", &["update", "NodeName=aws-spot-[1-2]", "State=POWER_DOWN_FORCE"]);
    wait_for("the power-down", || cluster.node("aws-spot-2").state_text().contains("POWERING_DOWN"));
    let ran = run(env!("CARGO_BIN_EXE_ec2fleet-suspend"), &dir, &["aws-spot-[1-2]"]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.seen(), log());
    assert_eq!(world.instances("pending") + world.instances("running"), 0, "{}", log());
    assert_eq!(std::fs::read_to_string(&hosts).expect("readable"), "127.0.0.1 localhost\n");
}
