// SPDX-License-Identifier: GPL-3.0-or-later
//! The tool where it needs a real Slurm: without a plugin, and for jobs.

use ec2fleet_core::ec2_api::CloudRequest;
use ec2fleet_core::record::{Binding, Intent, Record, TagLevel};
use ec2fleet_core::report::{ExplainReport, Mode, NodesReport, StatusReport};
use ec2fleet_core::site::{Account, Lifecycle};
use ec2fleet_journal::Journal;
use ec2fleet_journal::storage::FileStorage;

use crate::cluster::{Cluster, wait_for};
use crate::commands::{ec2fleet, plugin};

const SITE: &str = r#"{"Partitions":[{"PartitionName":"aws","NodeGroups":[{"NodeGroupName":"spot","MaxNodes":4,
    "Region":"eu-central-1","SlurmSpecifications":{"CPUs":"1"},"PurchasingOption":"spot",
    "LaunchTemplateSpecification":{"LaunchTemplateName":"compute","Version":"1"},
    "LaunchTemplateOverrides":[{"InstanceType":"c5.large"}],"SubnetIds":["subnet-11111111"]}]}]}"#;

fn cluster() -> Cluster {
    let cluster = Cluster::start(
        "PrivateData=cloud\nResumeProgram=/bin/true\nSuspendProgram=/bin/true\nSuspendTime=600\nResumeTimeout=600\n\
         NodeName=aws-spot-[0-3] CPUs=1 State=CLOUD\nPartitionName=aws Nodes=aws-spot-[0-3] Default=YES\n",
    );
    std::fs::write(cluster.path("config.json"), "{\"LogLevel\":\"INFO\",\"SlurmConf\":{}}").expect("written");
    std::fs::write(cluster.path("partitions.json"), SITE).expect("written");
    cluster
}

fn binding(node: &str, id: &str) -> Binding {
    Binding {
        node: node.into(),
        instance_id: id.into(),
        account: account(),
        launch: None,
        addr: "10.0.0.9".into(),
        hostname: node.into(),
        instance_type: "c5.large".into(),
        zone: "eu-central-1a".into(),
        lifecycle: Lifecycle::Spot,
        reservation_id: "r-1".into(),
        ami_launch_index: 0,
        bound_unix_ms: 0,
        tags: TagLevel::Birth,
        told: true,
        fleet: None,
    }
}

fn account() -> Account {
    Account { region: "eu-central-1".into(), profile: None }
}

#[test]
fn without_a_plugin_slurm_and_the_journal_are_shown() {
    let mut cluster = cluster();
    let dir = cluster.path("");
    let status = |words: &str| {
        let ran = ec2fleet(&dir, &["status"]);
        assert_eq!(ran.code, 3, "{}", ran.seen());
        assert!(ran.stdout.contains(words), "{}", ran.seen());
    };
    status("NOT RUNNING: The plugin does not answer");

    // A plugin that was killed in the middle of a launch.
    std::fs::create_dir(cluster.path("state/ec2fleet")).expect("created");
    let storage = FileStorage::new(&cluster.path("state/ec2fleet"));
    let opened = Journal::open(storage, "progtest").expect("a new journal");
    let (mut journal, mut state) = (opened.journal, opened.state);
    let records = [
        Record::Bound { bindings: vec![binding("aws-spot-1", "i-0abc")] },
        Record::Lock { nodes: vec!["aws-spot-3".into()], locked: true },
        Record::Pause { paused: true },
        Record::Intent {
            id: 7,
            intent: Intent {
                unix_ms: 0,
                account: account(),
                request: CloudRequest::TerminateInstances { ids: vec!["i-0def".into()] },
                launch: None,
            },
        },
    ];
    for record in &records {
        state.apply(record);
    }
    journal.append(&records);
    journal.commit(&state, true).expect("written");

    cluster.run("scontrol", &["update", "NodeName=aws-spot-[1-2]", "State=POWER_UP"]);
    wait_for("the power-up", || cluster.node("aws-spot-2").state_text().contains("POWERING_UP"));
    cluster.run("scontrol", &["update", "NodeName=aws-spot-0", "State=DOWN", "Reason=ec2fleet: no capacity"]);

    let ran = ec2fleet(&dir, &["status", "--json"]);
    assert_eq!(ran.code, 3, "{}", ran.seen());
    let report: StatusReport = serde_json::from_str(&ran.stdout).expect("a status report");
    assert!(matches!(report.mode, Mode::NotRunning { .. }));
    assert_eq!((report.cluster.as_str(), report.journal.open_intents), ("progtest", 1));
    assert!(report.paused.is_some());
    assert!(report.slurm.error.is_none());
    let group = &report.groups[0];
    assert_eq!(group.stem(), "aws-spot");
    assert_eq!((group.max_nodes, group.booting, group.pending, group.locked), (4, 1, 1, 1));
    assert_eq!((group.instances, group.spot_instances), (1, 1));

    let ran = ec2fleet(&dir, &["nodes", "--json"]);
    let report: NodesReport = serde_json::from_str(&ran.stdout).expect("a nodes report");
    let seen: Vec<(&str, &str, Option<&str>)> =
        report.nodes.iter().map(|n| (n.name.as_str(), n.phase.as_str(), n.instance_id.as_deref())).collect();
    assert_eq!(
        seen[1..],
        [
            ("aws-spot-1", "booting", Some("i-0abc")),
            ("aws-spot-2", "pending", None),
            ("aws-spot-3", "powered-down", None),
        ]
    );
    assert_eq!(report.nodes[0].reason.as_deref(), Some("ec2fleet: no capacity"));
    let ran = ec2fleet(&dir, &["nodes"]);
    assert!(ran.stdout.contains("This is what Slurm and the journal say:"), "{}", ran.seen());

    // Not even Slurm answers: the journal alone.
    cluster.stop_slurmctld();
    let ran = ec2fleet(&dir, &["status"]);
    assert_eq!(ran.code, 3, "{}", ran.seen());
    assert!(
        ran.stdout.contains("1 open intents") && ran.stdout.contains("slurmctld could not be asked"),
        "{}",
        ran.seen()
    );
}

#[test]
fn a_job_is_explained_by_its_nodes() {
    let cluster = cluster();
    let server = plugin();
    let socket = server.path.display().to_string();
    let explain = |job: &str| ec2fleet(&cluster.path(""), &["explain", job, "--json", "--socket", &socket]);
    let job = cluster.run("sbatch", &["--parsable", "-N2", "-o", "/dev/null", "--wrap", "true"]);
    wait_for("the job's nodes", || !cluster.run("squeue", &["-h", "-j", &job, "-o", "%N"]).is_empty());
    let ran = explain(&job);
    assert_eq!(ran.code, 0, "{}", ran.seen());
    let report: ExplainReport = serde_json::from_str(&ran.stdout).expect("a report");
    assert_eq!(report.subject, format!("job {job}"));
    assert!(
        report.summary.starts_with("Slurm says CONFIGURING on 2 nodes: aws-spot-[0-1]."),
        "{}",
        report.summary
    );

    let held = cluster.run("sbatch", &["--parsable", "--hold", "-o", "/dev/null", "--wrap", "true"]);
    let ran = explain(&held);
    assert!(ran.stdout.contains("Slurm says PENDING (JobHeldUser)"), "{}", ran.seen());
    let ran = explain("4000000");
    assert_eq!(ran.code, 1, "{}", ran.seen());
    cluster.run("scancel", &["--me"]);
}
