// SPDX-License-Identifier: GPL-3.0-or-later
//! The engine alone: how long a reconcile pass computes, with the answers of EC2 and slurmctld ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ec2fleet_core::ec2_api::{CloudReply, CloudRequest, Instance, InstanceState};
use ec2fleet_core::engine::{Engine, EngineOptions, PowerSource};
use ec2fleet_core::event::{Effect, Event};
use ec2fleet_core::fleet_spec::{
    LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions,
};
use ec2fleet_core::record::{Binding, Persisted};
use ec2fleet_core::site::{
    Account, FleetScope, Hibernation, Lifecycle, NodeGroup, NodeNaming, Settings, Site,
};
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, PowerReading, SlurmNode, SlurmReply, SlurmRequest};
use ec2fleet_core::tag;
use ec2fleet_core::time::Now;

use super::numbers::{Numbers, percentile};
use ec2fleet_rig::Outcome;

const REPEATS: usize = 9;

fn account() -> Account {
    Account { region: "eu-west-1".into(), profile: None }
}

fn site(nodes: u32) -> Site {
    let group = NodeGroup {
        partition: "p".into(),
        name: "g".into(),
        max_nodes: nodes,
        account: account(),
        lifecycle: Lifecycle::Spot,
        on_demand_options: OnDemandOptions::default(),
        spot_options: SpotOptions::default(),
        launch_template: LaunchTemplateSpecification::default(),
        overrides: vec![LaunchTemplateOverride {
            instance_type: Some("c5.large".into()),
            ..LaunchTemplateOverride::default()
        }],
        subnet_ids: vec!["subnet-a".into()],
        tags: BTreeMap::new().into_iter().collect(),
        slurm_specifications: indexmap::IndexMap::new(),
        naming: NodeNaming::LaunchIndex,
        scope: FleetScope::Launch,
        all_or_nothing: false,
        spot_fallback_s: None,
        node_weights: None,
        hibernation: Hibernation::default(),
    };
    Site::new("c".into(), Vec::new(), vec![group], Settings::default())
}

/// Every node has an instance and a job: nothing is missing and nothing is too much.
struct World {
    persisted: Persisted,
    nodes: Vec<SlurmNode>,
    instances: Vec<Instance>,
}

fn world(nodes: u32, now: Now) -> World {
    let mut world = World { persisted: Persisted::default(), nodes: Vec::new(), instances: Vec::new() };
    for i in 0..nodes {
        let (node, id) = (format!("p-g-{i}"), format!("i-{i:017x}"));
        let addr = format!("10.{}.{}.{}", i >> 16, (i >> 8) & 0xff, i & 0xff);
        let launch = format!("launch-{}", i / 1_000);
        world.nodes.push(SlurmNode {
            name: node.clone(),
            addr: addr.clone(),
            hostname: node.clone(),
            base: NodeBase::Allocated,
            flags: NodeFlags::CLOUD,
            boot_time: now.unix_ms / 1_000,
            slurmd_start_time: now.unix_ms / 1_000,
            instance_id: Some(id.clone()),
            instance_type: Some("c5.large".into()),
            ..SlurmNode::default()
        });
        world.instances.push(Instance {
            id: id.clone(),
            state: InstanceState::Running,
            private_ip: Some(addr.clone()),
            private_dns: None,
            instance_type: "c5.large".into(),
            zone: "eu-west-1a".into(),
            subnet_id: Some("subnet-a".into()),
            lifecycle: Lifecycle::Spot,
            reservation_id: format!("r-{}", i / 1_000),
            ami_launch_index: i % 1_000,
            launch_unix_ms: now.unix_ms,
            tags: [
                (tag::CLUSTER, "c"),
                (tag::PARTITION, "p"),
                (tag::GROUP, "g"),
                (tag::LAUNCH, launch.as_str()),
                (tag::NODE, node.as_str()),
                ("Name", node.as_str()),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            state_reason: None,
            spot_request_id: None,
        });
        world.persisted.bindings.insert(
            node.clone(),
            serde_json::from_value(serde_json::json!({
                "node": node, "instance_id": id, "account": account(), "launch": launch, "addr": addr,
                "hostname": node, "instance_type": "c5.large", "zone": "eu-west-1a", "lifecycle": "spot",
                "reservation_id": format!("r-{}", i / 1_000), "ami_launch_index": i % 1_000,
                "bound_unix_ms": now.unix_ms,
            }))
            .map(|binding: Binding| binding)
            .expect("a binding"),
        );
    }
    world
}

/// Time that this thread had a processor: what other programs take meanwhile does not count.
struct Clock(Duration);

impl Clock {
    fn now() -> Self {
        // Linux brings the figure up to date when the thread yields.
        std::thread::yield_now();
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok());
        Self(Duration::from_nanos(ns.expect("the scheduler's figures of this thread")))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Give the engine an event and answer its questions until it asks no more; the time it computed.
fn settle(engine: &mut Engine, world: &World, event: Event, now: Now) -> Duration {
    let mut events = vec![event];
    let mut spent = Duration::ZERO;
    while let Some(event) = events.pop() {
        let start = Clock::now();
        let step = engine.step(event, now);
        spent += start.elapsed();
        for effect in step.effects {
            events.push(match effect {
                Effect::Cloud { call, request, .. } => Event::CloudAnswered {
                    call,
                    result: Ok(match request {
                        CloudRequest::DescribeCluster { .. } => {
                            CloudReply::Instances(world.instances.clone())
                        }
                        CloudRequest::CreateTags { .. } => CloudReply::Tagged,
                        CloudRequest::DescribeFleets { .. } => CloudReply::Fleets(Vec::new()),
                        other => unreachable!("a settled cluster needs no {}", other.action()),
                    }),
                },
                Effect::Slurm { call, request } => Event::SlurmAnswered {
                    call,
                    result: Ok(match request {
                        SlurmRequest::LoadNodes => SlurmReply::Nodes(world.nodes.clone()),
                        _ => SlurmReply::Done,
                    }),
                },
                Effect::ReadPower => Event::Power(PowerReading { full: true, ..PowerReading::default() }),
            });
        }
    }
    spent
}

pub fn run(numbers: &mut Numbers) -> Outcome<()> {
    for nodes in [1_000, 10_000, 50_000] {
        let mut now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
        let world = world(nodes, now);
        let options = EngineOptions { source: PowerSource::Watch, nonce: "abc".into(), seed: 7 };
        let mut engine = Engine::new(Arc::new(site(nodes)), world.persisted.clone(), options, now);
        settle(&mut engine, &world, Event::Tick, now);
        // Whatever the start left to do.
        for _ in 0..3 {
            now = now.plus(60_000);
            settle(&mut engine, &world, Event::Tick, now);
        }
        let mut passes = Vec::new();
        let mut changes = Vec::new();
        for _ in 0..REPEATS {
            now = now.plus(3_600_000);
            // The regular one: EC2's list, then Slurm's nodes, compared.
            passes.push(settle(&mut engine, &world, Event::Tick, now).as_secs_f64() * 1e3);
            // A change that concerns no node of ours: what every event costs at least.
            let start = Instant::now();
            engine.step(
                Event::Power(PowerReading { waking_ended: vec!["p-g-1".into()], ..PowerReading::default() }),
                now,
            );
            changes.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let pass = percentile(&mut passes, 0.5);
        let what = format!("reconcile pass, {nodes} nodes with instances");
        if nodes == 50_000 {
            numbers.goal(what, pass, "ms", "<= 50");
        } else {
            numbers.put(what, pass, "ms");
        }
        numbers.put(format!("one power event, {nodes} nodes"), percentile(&mut changes, 0.5), "ms");
    }
    Ok(())
}
