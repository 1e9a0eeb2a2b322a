// SPDX-License-Identifier: GPL-3.0-or-later
//! What administrators do to maintain fleets, and what Spot does not give them: changed templates, removed groups, deleted and
//! imported fleets, and the account's Spot quota.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::flow::our_errors;
use super::releases::job_until;
use ec2fleet_rig::cluster::{Cluster, GROUP, Options, PARTITION};
use ec2fleet_rig::emulator::Instance;
use ec2fleet_rig::slurm::{Record, base_state, has_state};
use ec2fleet_rig::wait;

const FLEET_TAG: &str = "aws:ec2:fleet-id";

/// Looks at EC2 and Slurm come every few seconds here, and what has no node is ended soon.
fn config() -> Value {
    json!({"RescanSec": 5, "OrphanGraceSec": 30})
}

fn options() -> Options {
    Options {
        suspend_time: 600,
        config: config(),
        group: json!({"FleetScope": "group"}),
        ..Options::default()
    }
}

/// A job on one node, which runs until told to end.
struct Held {
    job: u32,
    finish: PathBuf,
    node: String,
    instance: String,
}

impl Held {
    fn start(cluster: &Cluster) -> Self {
        let finish = cluster.scratch.path().join(format!("finish-{}", fastrand::u64(..)));
        let job = job_until(cluster, 1, &finish);
        let node = cluster.slurm.job(job).unwrap()["NodeList"].clone();
        let bindings = cluster.bindings().unwrap();
        let instance = bindings.into_iter().find(|(name, _)| *name == node).expect("an instance").1;
        Self { job, finish, node, instance }
    }

    /// As EC2 has it.
    fn seen(&self, cluster: &Cluster) -> Instance {
        let instances = cluster.emulator.instances().unwrap();
        instances.into_iter().find(|instance| instance.id == self.instance).expect("the instance")
    }

    fn fleet(&self, cluster: &Cluster) -> String {
        self.seen(cluster).tags[FLEET_TAG].clone()
    }

    /// It ends where and as it began.
    fn end(self, cluster: &Cluster) {
        assert_eq!(self.seen(cluster).state, "running");
        std::fs::write(&self.finish, "").unwrap();
        let end = cluster.slurm.wait_for_job(self.job).unwrap();
        assert_eq!((end["JobState"].as_str(), end["Restarts"].as_str()), ("COMPLETED", "0"), "{end:?}");
        assert_eq!(end["NodeList"], self.node);
    }
}

fn calls(cluster: &Cluster, action: &str) -> u64 {
    cluster.emulator.calls().unwrap().get(action).copied().unwrap_or(0)
}

/// How often an event of this kind says this so far.
fn said(cluster: &Cluster, kind: &str, text: &str) -> usize {
    let events = cluster.events();
    let says =
        |event: &&Value| event["kind"] == kind && event["text"].as_str().is_some_and(|t| t.contains(text));
    events.iter().filter(says).count()
}

fn wait_until_said(cluster: &Cluster, kind: &str, text: &str, times: usize) {
    wait::until(&format!("{times} times {kind}: {text}"), || {
        Ok((said(cluster, kind, text) >= times).then_some(()))
    })
    .unwrap();
}

fn wait_until_deleted(cluster: &Cluster, fleet: &str) {
    wait::until(&format!("{fleet} to be deleted"), || {
        Ok(cluster.emulator.fleets()?[fleet].starts_with("deleted").then_some(()))
    })
    .unwrap();
}

/// EC2 and Slurm have been compared this often from now on.
fn wait_for_looks(cluster: &Cluster, looks: u64) {
    let before = calls(cluster, "DescribeInstances");
    wait::until("EC2 to be looked at", || {
        Ok((calls(cluster, "DescribeInstances") >= before + looks).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_reload_reaches_the_running_fleet_and_no_busy_node() {
    const APPLIED: &str = "the configured template and overrides";
    let options = options();
    let cluster = Cluster::start(&options).unwrap();
    cluster.wait_for_plugin().unwrap();
    let busy = Held::start(&cluster);
    let fleet = busy.fleet(&cluster);
    assert!(["c5.large", "m5.large"].contains(&busy.seen(&cluster).kind.as_str()));

    // Other instance types.
    let changed = json!({"FleetScope": "group", "LaunchTemplateOverrides": [{"InstanceType": "c6i.large"}]});
    cluster.write_config(&options.config, options.nodes, &changed).unwrap();
    cluster.ec2fleet(&["reload"]).unwrap();
    wait_until_said(&cluster, "fleet-created", APPLIED, 1);
    let second = Held::start(&cluster);
    assert_eq!((second.seen(&cluster).kind.as_str(), second.fleet(&cluster)), ("c6i.large", fleet.clone()));

    // A new version of the template: the files are the same, and name it as $Latest.
    let tag = [
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "image"),
        ("TagSpecification.1.Tag.1.Value", "second"),
    ];
    cluster.emulator.create_launch_template_version("rig", &tag).unwrap();
    cluster.ec2fleet(&["reload"]).unwrap();
    wait_until_said(&cluster, "fleet-created", APPLIED, 2);
    let third = Held::start(&cluster);
    assert_eq!(third.seen(&cluster).tags.get("image").map(String::as_str), Some("second"));
    assert_eq!(third.fleet(&cluster), fleet);
    assert!(!second.seen(&cluster).tags.contains_key("image"));

    assert_eq!((calls(&cluster, "CreateFleet"), calls(&cluster, "TerminateInstances")), (1, 0));
    for held in [busy, second, third] {
        held.end(&cluster);
    }
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn the_fleet_of_a_removed_group_goes_with_its_last_node() {
    let options = Options { suspend_time: 5, ..options() };
    let cluster = Cluster::start(&options).unwrap();
    cluster.wait_for_plugin().unwrap();
    let busy = Held::start(&cluster);
    let fleet = busy.fleet(&cluster);

    let other = json!({"FleetScope": "group", "NodeGroupName": "other"});
    cluster.write_config(&options.config, options.nodes, &other).unwrap();
    cluster.ec2fleet(&["reload"]).unwrap();
    wait_for_looks(&cluster, 4);
    assert_eq!(busy.seen(&cluster).state, "running");
    assert_eq!(cluster.emulator.fleets().unwrap()[&fleet], "active");

    busy.end(&cluster);
    cluster.wait_for_rest().unwrap();
    wait_until_deleted(&cluster, &fleet);
    assert_eq!(calls(&cluster, "CreateFleet"), 1, "nothing was launched for it");
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn a_deleted_fleet_takes_idle_nodes_along_and_no_busy_one() {
    let cluster = Cluster::start(&options()).unwrap();
    cluster.wait_for_plugin().unwrap();
    let first = Held::start(&cluster);
    let second = Held::start(&cluster);
    let fleet = first.fleet(&cluster);
    assert_eq!(second.fleet(&cluster), fleet);
    first.end(&cluster);
    let shown = cluster.ec2fleet(&["fleets", "show", &fleet]).unwrap();
    assert!(shown.contains(&fleet) && shown.contains(&format!("{PARTITION}-{GROUP}")), "{shown}");

    // One of its nodes is busy.
    wait_for_looks(&cluster, 2);
    let refused = cluster.ec2fleet(&["fleets", "delete", &fleet, "--yes"]).unwrap_err();
    assert!(refused.contains(&second.node), "{refused}");
    wait_for_looks(&cluster, 2);
    assert_eq!(cluster.emulator.fleets().unwrap()[&fleet], "active");
    assert_eq!(cluster.emulator.living_instances().unwrap().len(), 2);

    second.end(&cluster);
    wait_for_looks(&cluster, 2);
    let plan = cluster.ec2fleet(&["fleets", "delete", &fleet, "--dry-run"]).unwrap();
    assert!(plan.contains(&fleet), "{plan}");
    assert_eq!(cluster.emulator.fleets().unwrap()[&fleet], "active");
    cluster.ec2fleet(&["fleets", "delete", &fleet, "--yes"]).unwrap();
    cluster.wait_for_rest().unwrap();
    wait_until_deleted(&cluster, &fleet);
    let listed = cluster.ec2fleet(&["fleets"]).unwrap();
    assert!(!listed.contains(&fleet), "{listed}");

    // Its nodes are fit for the next jobs, whose fleet is another one.
    cluster
        .slurm
        .wait_for_nodes("the nodes to be fit again", |node: &Record| {
            base_state(node) == "IDLE" && !has_state(node, "POWERING_DOWN")
        })
        .unwrap();
    let next = [Held::start(&cluster), Held::start(&cluster), Held::start(&cluster), Held::start(&cluster)];
    for held in next {
        assert_ne!(held.fleet(&cluster), fleet);
        held.end(&cluster);
    }
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

/// What Slurm does with its nodes is looked at once a minute: a job may have begun since.
#[test]
fn no_fleet_is_deleted_under_a_job_that_has_just_begun() {
    let options = Options { config: json!({"RescanSec": 3600}), ..options() };
    let cluster = Cluster::start(&options).unwrap();
    cluster.wait_for_plugin().unwrap();
    let busy = Held::start(&cluster);
    let fleet = busy.fleet(&cluster);
    cluster.ec2fleet(&["fleets", "delete", &fleet, "--yes"]).unwrap();
    let next = Held::start(&cluster);
    assert_ne!(next.fleet(&cluster), fleet, "it takes no new nodes");
    assert_eq!(cluster.emulator.fleets().unwrap()[&fleet], "active");
    busy.end(&cluster);
    wait_until_deleted(&cluster, &fleet);
    next.end(&cluster);
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

/// The tags that tell a fleet or an instance of ours from others.
fn strip(cluster: &Cluster, resource: &str, tags: impl IntoIterator<Item = String>) {
    for key in tags {
        cluster.emulator.delete_tag(resource, &key).unwrap();
    }
}

fn import(cluster: &Cluster, file: &Path, more: &str) -> Result<String, String> {
    cluster.ec2fleet(&["fleets", "import", &file.display().to_string(), more])
}

#[test]
fn a_noted_fleet_is_adopted_with_its_busy_node() {
    let mut cluster = Cluster::start(&Options { suspend_time: 15, ..options() }).unwrap();
    cluster.wait_for_plugin().unwrap();
    let busy = Held::start(&cluster);
    let fleet = busy.fleet(&cluster);

    // What another plugin leaves behind: a fleet and an instance without a tag of ours, and nothing in our journal.
    assert!(cluster.slurm.stop(), "slurmctld did not end by itself");
    std::fs::remove_file(cluster.state_dir().join("journal")).unwrap();
    let own = ["ec2fleet:cluster", "ec2fleet:partition", "ec2fleet:group"].map(str::to_owned);
    let of_instance =
        busy.seen(&cluster).tags.into_keys().filter(|key| key.starts_with("ec2fleet:") || key == "Name");
    strip(&cluster, &busy.instance, of_instance);
    strip(
        &cluster,
        &fleet,
        own.into_iter().chain(["ec2fleet:launch", "ec2fleet:template"].map(str::to_owned)),
    );
    cluster.slurm.start().unwrap();
    cluster.wait_for_plugin().unwrap();
    wait_for_looks(&cluster, 2);

    let file = cluster.scratch.path().join("slurm.conf.aws");
    std::fs::write(
        &file,
        format!(
            "NodeName={PARTITION}-{GROUP}-[0-3] State=CLOUD\n#EC2_FLEET {PARTITION} {GROUP} {fleet}\n\
             #EC2_FLEET {PARTITION} nosuch fleet-00000000-0000-0000-0000-000000000000\n"
        ),
    )
    .unwrap();
    let plan = import(&cluster, &file, "--dry-run").unwrap();
    assert!(plan.contains(&fleet) && plan.contains("1 instances") && plan.contains("nosuch"), "{plan}");
    import(&cluster, &file, "--yes").unwrap();
    wait::until("the node to have its instance again", || {
        let nodes = cluster.ec2fleet(&["nodes", "--json"])?;
        Ok(nodes.contains(&busy.instance).then_some(()))
    })
    .unwrap();
    let listed = cluster.ec2fleet(&["fleets"]).unwrap();
    assert!(listed.contains(&fleet) && listed.contains(&busy.node), "{listed}");

    // The next node comes from it, and it follows Slurm down again.
    let next = Held::start(&cluster);
    assert_eq!(next.fleet(&cluster), fleet);
    next.end(&cluster);
    busy.end(&cluster);
    cluster.wait_for_rest().unwrap();
    assert_eq!(calls(&cluster, "CreateFleet"), 1, "the fleet was made once, before it was imported");
    assert_eq!(cluster.emulator.fleets().unwrap()[&fleet], "active");
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

/// The account may have one Spot instance: EC2 says so in the fleet's history, and nothing else tells.
fn leaves_spot_at_once_and_comes_back(scope: &str) {
    const QUOTA: &str = "spotInstanceCountLimitExceeded";
    let cluster = Cluster::start(&Options {
        suspend_time: 5,
        scenario: json!({"limits": {"spot_instances": 1}}),
        group: json!({"FleetScope": scope}),
        ..options()
    })
    .unwrap();
    cluster.wait_for_plugin().unwrap();
    let first = Held::start(&cluster);
    assert_eq!(first.seen(&cluster).lifecycle, "spot");
    let second = Held::start(&cluster);
    assert_eq!(second.seen(&cluster).lifecycle, "on-demand");
    let events = cluster.events();
    assert!(events.iter().any(|event| event["code"] == QUOTA), "the history was not read: {events:?}");
    assert_eq!(said(&cluster, "spot-fallback", "no Spot instance in"), 0, "it waited for SpotFallbackSec");
    assert_eq!(said(&cluster, "spot-fallback", "run on-demand"), 1);

    cluster.emulator.command(&json!({"limits": {}})).unwrap();
    second.end(&cluster);
    first.end(&cluster);
    cluster.wait_for_rest().unwrap();
    let pair = [Held::start(&cluster), Held::start(&cluster)];
    for held in pair {
        assert_eq!(held.seen(&cluster).lifecycle, "spot");
        held.end(&cluster);
    }
    assert_eq!(our_errors(&cluster), Vec::<String>::new());
}

#[test]
fn a_groups_fleet_without_spot_quota_gives_on_demand_instances_at_once() {
    leaves_spot_at_once_and_comes_back("group");
}

#[test]
fn nodes_with_their_own_fleets_leave_spot_at_once_without_quota() {
    leaves_spot_at_once_and_comes_back("node");
}
