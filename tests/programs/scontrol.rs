// SPDX-License-Identifier: GPL-3.0-or-later
//! Slurm through its commands, against a real slurmctld.

use std::process::Command;
use std::time::Duration;

use ec2fleet_core::slurm_api::{
    NodeBase, NodeFlags, NodeStateChange, NodeUpdate, SlurmError, SlurmReply, SlurmRequest,
};
use ec2fleet_slurm::Slurm;
use ec2fleet_slurm::command::{CommandOptions, CommandSlurm};
use ec2fleet_slurm::process;

use crate::cluster::{Cluster, LONG, wait_for};

const CLOUD: &str = "PrivateData=cloud\nResumeProgram=/bin/true\nSuspendProgram=/bin/true\nSuspendTime=600\n\
    ResumeTimeout=600\nSuspendTimeout=600\n\
    NodeName=aws-spot-[0-3] CPUs=2 RealMemory=100 State=CLOUD Features=spot Weight=7\n\
    NodeName=aws-od-[0-1999] CPUs=1 State=CLOUD\n\
    PartitionName=aws Nodes=aws-spot-[0-3],aws-od-[0-1999] Default=YES\n\
    PartitionName=unseen Nodes=aws-od-[0-1] Hidden=YES\n";

fn update(cluster: &Cluster, update: NodeUpdate) -> Result<SlurmReply, SlurmError> {
    cluster.slurm().call_blocking(&SlurmRequest::UpdateNodes(update))
}

fn names(indices: impl IntoIterator<Item = u32>) -> Vec<String> {
    indices.into_iter().map(|i| format!("aws-od-{i}")).collect()
}

#[test]
fn nodes_are_loaded_and_updated() {
    let cluster = Cluster::start(CLOUD);
    let nodes = cluster.nodes();
    assert_eq!(nodes.len(), 2_004, "powered-down and hidden nodes too");
    let spot = cluster.node("aws-spot-2");
    assert_eq!(spot.state_text(), "IDLE+CLOUD+POWERED_DOWN");
    assert_eq!((spot.weight, spot.partitions.as_slice()), (Some(7), ["aws".to_owned()].as_slice()));
    assert_eq!((spot.boot_time, spot.slurmd_start_time, &spot.reason), (0, 0, &None));
    assert_eq!(cluster.node("aws-od-1").partitions, ["aws", "unseen"]);

    // Names and addresses belong together in the order given, whatever folds. Two thousand IPv4 addresses that do
    // not fold are more than one argument holds, so this is also more than one command.
    let order: Vec<u32> = (0..2_000).map(|i| (i * 7) % 2_000).collect();
    let addr = |i: u32| format!("10.{}.{}.{}", (i * 31) % 199, (i * 57) % 251, i % 256);
    let host = |i: u32| {
        format!(
            "ip-{}-with-a-long-name-in-a-subdomain.eu-central-1.compute.internal",
            addr(i).replace('.', "-")
        )
    };
    update(
        &cluster,
        NodeUpdate {
            names: names(order.clone()),
            addrs: Some(order.iter().map(|i| addr(*i)).collect()),
            hostnames: Some(order.iter().map(|i| host(*i)).collect()),
            instance_ids: Some(order.iter().map(|i| format!("i-{i:017x}")).collect()),
            instance_types: Some(vec!["m5.large".into(); order.len()]),
            ..NodeUpdate::default()
        },
    )
    .expect("updated");
    let shows_instances = cluster.slurm().release().expect("a release") >= (23, 11);
    for node in cluster.nodes().iter().filter(|node| node.name.starts_with("aws-od-")) {
        let index: u32 = node.name.rsplit('-').next().and_then(|i| i.parse().ok()).expect("an index");
        assert_eq!((&node.addr, &node.hostname), (&addr(index), &host(index)), "{}", node.name);
        let id = format!("i-{index:017x}");
        assert_eq!(node.instance_id, shows_instances.then_some(id), "{}", node.name);
    }

    // States and reasons.
    let nasty = "ec2fleet: \"Insufficient\" 'x' Comment=foo, State=bar é\nsecond line ($HOME; m5.large)";
    update(
        &cluster,
        NodeUpdate {
            names: names([3, 5]),
            state: Some(NodeStateChange::Down),
            reason: Some(nasty.into()),
            ..NodeUpdate::default()
        },
    )
    .expect("updated");
    let node = cluster.node("aws-od-5");
    assert_eq!(node.base, NodeBase::Down);
    assert_eq!(node.reason.as_deref(), Some(nasty.replace('\n', " ").as_str()));
    assert_eq!(cluster.node("aws-od-4").base, NodeBase::Idle);
    for (state, flag) in
        [(NodeStateChange::Drain, NodeFlags::DRAIN), (NodeStateChange::Undrain, NodeFlags::default())]
    {
        let names = names([7]);
        update(&cluster, NodeUpdate { names, state: Some(state), ..NodeUpdate::default() }).expect("updated");
        assert_eq!(cluster.node("aws-od-7").flags.has(NodeFlags::DRAIN), flag == NodeFlags::DRAIN);
    }
    // One weight for any nodes of a NodeName line; the others keep theirs.
    let weighed = NodeUpdate { names: names([9, 4, 11]), weight: Some(42), ..NodeUpdate::default() };
    update(&cluster, weighed).expect("updated");
    let weights = [9, 10, 11].map(|index| cluster.node(&format!("aws-od-{index}")).weight);
    assert_eq!(weights, [Some(42), Some(1), Some(42)]);
    let power_up =
        NodeUpdate { names: names([8]), state: Some(NodeStateChange::PowerUp), ..NodeUpdate::default() };
    update(&cluster, power_up).expect("updated");
    wait_for("the power-up", || cluster.node("aws-od-8").flags.has(NodeFlags::POWERING_UP));
    let force = NodeUpdate {
        names: names([8]),
        state: Some(NodeStateChange::PowerDownForce),
        reason: Some("InsufficientInstanceCapacity".into()),
        ..NodeUpdate::default()
    };
    update(&cluster, force).expect("updated");
    wait_for("the power-down", || !cluster.node("aws-od-8").flags.has(NodeFlags::POWERING_UP));
    assert_eq!(cluster.node("aws-od-8").reason.as_deref(), Some("InsufficientInstanceCapacity"));
}

#[test]
fn failures_say_what_failed() {
    let mut cluster = Cluster::start(CLOUD);
    let refused = |result: Result<SlurmReply, SlurmError>| match result {
        Err(SlurmError::Refused { errno, message, .. }) => (errno, message),
        other => panic!("a refusal is expected: {other:?}"),
    };
    let unknown = NodeUpdate {
        names: vec!["nosuch-1".into()],
        addrs: Some(vec!["10.0.0.1".into()]),
        ..NodeUpdate::default()
    };
    let (errno, message) = refused(update(&cluster, unknown));
    assert_eq!(errno, 2018, "{message}");
    let uneven =
        NodeUpdate { names: names([1, 2]), addrs: Some(vec!["10.0.0.1".into()]), ..NodeUpdate::default() };
    assert!(refused(update(&cluster, uneven)).1.contains("1 values for 2 nodes"));
    assert_eq!(cluster.node("aws-od-1").addr, "aws-od-1", "nothing was changed");
    assert_eq!(update(&cluster, NodeUpdate::default()), Ok(SlurmReply::Done), "no nodes, no command");
    let keep = SlurmRequest::KeepResponding { nodes: names([1]) };
    assert!(matches!(cluster.slurm().call_blocking(&keep), Err(SlurmError::Unsupported { .. })));

    cluster.stop_slurmctld();
    let down = cluster.slurm().call_blocking(&SlurmRequest::LoadNodes);
    assert!(matches!(&down, Err(SlurmError::Unreachable { .. })), "{down:?}");

    let unreachable =
        |options: CommandOptions| match CommandSlurm::new(options).call_blocking(&SlurmRequest::LoadNodes) {
            Err(SlurmError::Unreachable { message, .. }) => message,
            other => panic!("it cannot be reached: {other:?}"),
        };
    let options =
        CommandOptions { slurm_conf: Some("/nonexistent/slurm.conf".into()), ..CommandOptions::default() };
    assert!(unreachable(options).contains("does not exist"));
    let options = CommandOptions { bin_dir: Some("/nonexistent".into()), ..CommandOptions::default() };
    assert!(unreachable(options).contains("SlurmBinPath"));
    // The daemons of the cluster that is down take their time; the caller's bound holds.
    let options = CommandOptions {
        slurm_conf: Some(cluster.conf()),
        timeout: Duration::from_millis(20),
        ..CommandOptions::default()
    };
    assert!(unreachable(options).contains("did not end within 0.02 s"));
}

#[test]
fn running_jobs_are_extended() {
    let mut cluster = Cluster::start(
        "NodeName=local1 CPUs=4 NodeAddr=127.0.0.1 NodeHostname=local1\n\
         SlurmdParameters=config_overrides\n\
         PartitionName=long Nodes=local1 MaxTime=UNLIMITED Default=YES\n\
         PartitionName=short Nodes=local1 MaxTime=12\n",
    );
    cluster.start_slurmd("local1");
    let submit = |partition: &str, time: &str| {
        let arguments = ["--parsable", "-p", partition, "-t", time, "-o", "/dev/null", "--wrap", "sleep 600"];
        cluster.run("sbatch", &arguments)
    };
    for (partition, time) in [("long", "10"), ("short", "10"), ("long", "UNLIMITED")] {
        submit(partition, time);
    }
    let show = |format: &str| cluster.run("squeue", &["-h", "-S", "i", "-o", format]);
    wait_for("the jobs", || show("%T") == "RUNNING\nRUNNING\nRUNNING");

    // Through the trait, as the driver calls it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let call = |request| runtime.block_on(cluster.slurm().call(request));
    call(SlurmRequest::ExtendJobs { node: "local1".into(), minutes: 5 }).expect("extended");
    assert_eq!(show("%l"), "15:00\n12:00\nUNLIMITED", "MaxTime of the partition is the most");
    call(SlurmRequest::ExtendJobs { node: "local1".into(), minutes: 5 }).expect("extended");
    assert_eq!(show("%l"), "20:00\n12:00\nUNLIMITED");
    cluster.run("scancel", &["--me"]);
}

#[test]
fn a_command_that_hangs_is_killed() {
    let error = process::run(Command::new("sleep").arg("100000"), "", Duration::from_millis(20))
        .expect_err("it takes longer");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    let finished = process::run(&mut Command::new("cat"), &"line\n".repeat(100_000), LONG).expect("cat ends");
    assert_eq!(finished.stdout.len(), 500_000);
    let closed = process::run(&mut Command::new("true"), &"line\n".repeat(100_000), LONG).expect("true ends");
    assert!(closed.status.success());
}
