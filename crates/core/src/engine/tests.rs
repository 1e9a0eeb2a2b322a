// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2 and slurmctld as the engine's tests play them; the tests themselves are in files by room.

mod calls;
mod group_ec2;
mod group_members;
mod groups;
mod hibernation;
mod jobs;
mod launch;
mod node_fleets;
mod reconcile;
mod relocation;
mod slurm;
mod weights;

use super::*;
use crate::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, ErrorClass, FleetHistoryRecord, FleetReply, Instance,
    InstanceState, LaunchedInstances, PoolError,
};
use crate::event::Effect;
use crate::fact::{Fact, FactKind};
use crate::fleet_spec::LaunchTemplateOverride;
use crate::site::{Account, FleetScope, Lifecycle, NodeGroup, NodeNaming, Settings};
use crate::slurm_api::{NodeBase, NodeFlags, SlurmReply};
use crate::slurm_api::{NodeStateChange, NodeUpdate, PowerReading, SlurmError, SlurmNode, SlurmRequest};
use crate::tag;
use crate::time::Now;
use std::sync::Arc;

pub(crate) use crate::testing::group;

use group_ec2::*;

/// An engine with EC2 and slurmctld played by the test.
struct Bench {
    engine: Engine,
    now: Now,
    effects: Vec<Effect>,
    facts: Vec<Fact>,
    instances: Vec<Instance>,
    slurm: Vec<SlurmNode>,
    records: Vec<Record>,
    /// Nodes that were given a placeholder for an address.
    placed: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Self::with(group("g"), Persisted::default())
    }

    fn with(group: NodeGroup, persisted: Persisted) -> Self {
        Self::of(vec![group], persisted)
    }

    fn of(groups: Vec<NodeGroup>, persisted: Persisted) -> Self {
        let site = Site::new("c".into(), Vec::new(), groups, Settings::default());
        let now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
        let options = EngineOptions { source: PowerSource::Watch, nonce: "abc".into(), seed: 7 };
        let engine = Engine::new(Arc::new(site), persisted, options, now);
        Self {
            engine,
            now,
            effects: Vec::new(),
            facts: Vec::new(),
            instances: Vec::new(),
            slurm: Vec::new(),
            records: Vec::new(),
            placed: Vec::new(),
        }
    }

    /// Started, listed and loaded.
    fn ready() -> Self {
        let mut bench = Self::new();
        bench.tick(0);
        bench.answer_views();
        bench
    }

    fn give(&mut self, event: Event) {
        let step = self.engine.step(event, self.now);
        self.engine.invariants(true).unwrap();
        self.effects.extend(step.effects);
        self.facts.extend(step.facts);
        self.records.extend(step.records);
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.give(Event::Tick);
    }

    /// Take the first EC2 call of this action from the effects.
    fn take(&mut self, action: &str) -> Option<(u64, CloudRequest)> {
        let at = self.effects.iter().position(
            |effect| matches!(effect, Effect::Cloud { request, .. } if request.action() == action),
        )?;
        match self.effects.remove(at) {
            Effect::Cloud { call, request, .. } => Some((call, request)),
            _ => None,
        }
    }

    /// The next update of nodes; placeholders are taken as they come.
    fn take_update(&mut self) -> Option<(u64, NodeUpdate)> {
        loop {
            let (call, update) = self.take_any_update()?;
            if update
                .addrs
                .as_ref()
                .is_none_or(|addrs| addrs[0] != crate::engine::ground::placeholders::NOWHERE)
            {
                return Some((call, update));
            }
            self.placed.extend(update.names);
            self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        }
    }

    fn take_any_update(&mut self) -> Option<(u64, NodeUpdate)> {
        let at = self.effects.iter().position(|effect| {
            matches!(effect, Effect::Slurm { request: SlurmRequest::UpdateNodes(_), .. })
        })?;
        match self.effects.remove(at) {
            Effect::Slurm { call, request: SlurmRequest::UpdateNodes(update) } => Some((call, update)),
            _ => None,
        }
    }

    /// Answer every listing and load that is under way, until none is.
    fn answer_views(&mut self) {
        loop {
            if let Some(at) = self.effects.iter().position(|effect| {
                matches!(effect, Effect::Cloud { request: CloudRequest::DescribeCluster { .. }, .. })
            }) {
                let Effect::Cloud { call, .. } = self.effects.remove(at) else { unreachable!() };
                let ours =
                    |i: &&Instance| !i.state.is_ended() && i.tags.get(tag::CLUSTER).is_some_and(|c| c == "c");
                let alive = self.instances.iter().filter(ours).cloned().collect();
                self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(alive)) });
            } else if let Some(at) = self
                .effects
                .iter()
                .position(|effect| matches!(effect, Effect::Slurm { request: SlurmRequest::LoadNodes, .. }))
            {
                let Effect::Slurm { call, .. } = self.effects.remove(at) else { unreachable!() };
                self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Nodes(self.slurm.clone())) });
            } else {
                return;
            }
        }
    }

    /// A whole rescan after `seconds`.
    fn rescan(&mut self, seconds: u64) {
        self.tick(seconds * 1_000);
        self.answer_views();
    }

    /// Slurm has these nodes powered down.
    fn rest(&mut self, nodes: &[&str]) {
        for node in nodes {
            self.set_slurm(node, NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
        }
        let suspended = nodes.iter().map(|node| (*node).to_owned()).collect();
        self.give(Event::Power(PowerReading { suspended, ..PowerReading::default() }));
    }

    fn wake(&mut self, nodes: &[&str]) {
        let waking = nodes.iter().map(|node| (*node).to_owned()).collect();
        for node in nodes {
            self.set_slurm(node, NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
        }
        self.give(Event::Power(PowerReading { waking, ..PowerReading::default() }));
    }

    fn set_slurm(&mut self, name: &str, base: NodeBase, flags: NodeFlags) {
        let node =
            SlurmNode { name: name.to_owned(), addr: name.to_owned(), base, flags, ..SlurmNode::default() };
        match self.slurm.iter_mut().find(|known| known.name == name) {
            Some(known) => {
                known.base = base;
                known.flags = flags;
            }
            None => self.slurm.push(node),
        }
    }

    fn instance(&mut self, id: &str, index: u32, launch: &str) -> Instance {
        let number = self.instances.len() + 1;
        let instance = Instance {
            id: id.to_owned(),
            state: InstanceState::Running,
            private_ip: Some(format!("10.0.0.{number}")),
            private_dns: None,
            instance_type: "c5.large".into(),
            zone: "eu-west-1a".into(),
            subnet_id: Some("subnet-a".into()),
            lifecycle: Lifecycle::Spot,
            reservation_id: "r-1".into(),
            ami_launch_index: index,
            launch_unix_ms: self.now.unix_ms,
            tags: [(tag::CLUSTER, "c"), (tag::PARTITION, "p"), (tag::GROUP, "g"), (tag::LAUNCH, launch)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            state_reason: None,
            spot_request_id: None,
        };
        self.instances.push(instance.clone());
        instance
    }

    /// Close the batch and let EC2 launch `count` of what is asked for; returns the request.
    fn launch(&mut self, count: usize) -> crate::ec2_api::CreateFleet {
        let (request, launched) = self.launch_unseen(count);
        if count > 0 {
            let (call, _) = self.take("DescribeInstances").expect("the new instances are described");
            self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
        }
        request
    }

    /// The same, before EC2 shows what it launched.
    fn launch_unseen(&mut self, count: usize) -> (crate::ec2_api::CreateFleet, Vec<Instance>) {
        self.tick(40);
        let (call, request) = self.take("CreateFleet").expect("a CreateFleet call");
        let CloudRequest::CreateFleet(request) = request else { unreachable!() };
        let launched: Vec<Instance> = (0..count)
            .map(|index| {
                // EC2 gives no id twice.
                let mut id = format!("i-{index}");
                while self.instances.iter().any(|known| known.id == id) {
                    id.push('a');
                }
                self.instance(&id, u32::try_from(index).unwrap(), &request.client_token)
            })
            .collect();
        let reply = FleetReply {
            fleet_id: "fleet-1".into(),
            instances: vec![LaunchedInstances {
                ids: launched.iter().map(|i| i.id.clone()).collect(),
                ..LaunchedInstances::default()
            }],
            errors: Vec::new(),
        };
        self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
        (*request, launched)
    }

    fn bound(&self, node: &str) -> Option<&str> {
        self.engine.binding(node).map(|binding| binding.instance_id.as_str())
    }

    /// Four nodes up and registered.
    fn up() -> Self {
        let mut bench = Self::ready();
        let nodes = ["p-g-0", "p-g-1", "p-g-2", "p-g-3"];
        bench.wake(&nodes);
        bench.launch(4);
        let (call, update) = bench.take_update().expect("addresses are told");
        assert_eq!(update.names, nodes);
        bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        let (call, _) = bench.take("CreateTags").expect("the reservation is tagged");
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Tagged) });
        for (index, node) in nodes.iter().enumerate() {
            bench.set_slurm(node, NodeBase::Allocated, NodeFlags::CLOUD);
            bench.slurm[index].addr = bench.instances[index].private_ip.clone().unwrap();
        }
        let ended = nodes.iter().map(|node| (*node).to_owned()).collect();
        bench.give(Event::Power(PowerReading { waking_ended: ended, ..PowerReading::default() }));
        bench
    }
}

fn unreachable_slurmctld() -> SlurmError {
    SlurmError::Unreachable { what: "an update".into(), message: "no answer".into() }
}

fn capacity() -> CloudError {
    CloudError {
        class: ErrorClass::Capacity,
        code: "InsufficientInstanceCapacity".into(),
        message: "no c5.large".into(),
        request_id: None,
    }
}

/// A group whose Spot instances sleep, one fleet per node.
pub(super) fn hibernating() -> NodeGroup {
    let mut group = group("g");
    group.scope = FleetScope::Node;
    group.spot_options.instance_interruption_behavior = Some("hibernate".into());
    group.overrides.push(LaunchTemplateOverride {
        instance_type: Some("m5.large".into()),
        ..LaunchTemplateOverride::default()
    });
    group
}

impl Bench {
    fn create_fleet(&mut self) -> (u64, crate::ec2_api::CreateFleet) {
        let (call, request) = self.take("CreateFleet").expect("a CreateFleet call");
        let CloudRequest::CreateFleet(request) = request else { unreachable!() };
        (call, *request)
    }

    fn fleet_made(&mut self, call: u64, id: &str) {
        let reply = FleetReply { fleet_id: id.into(), ..FleetReply::default() };
        self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    }

    /// One node of a hibernating group, up with a job.
    fn sleeper() -> Self {
        let mut bench = Self::with(hibernating(), Persisted::default());
        bench.tick(0);
        bench.answer_views();
        bench.wake(&["p-g-0"]);
        bench.tick(40);
        let (call, request) = bench.create_fleet();
        assert_eq!((request.target, request.overrides.len()), (1, 1), "one node, one pool");
        assert!(request.instance_tags.is_empty());
        assert_eq!(request.fleet_tags[tag::NODE], "p-g-0");
        bench.fleet_made(call, "fleet-0");
        let mut instance = bench.instance("i-0", 0, "");
        instance.tags = [(tag::FLEET_ID.to_owned(), "fleet-0".to_owned())].into();
        bench.instances[0]
            .tags
            .extend(instance.tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned())));
        let (call, _) = bench.take("DescribeInstances").expect("the fleet is polled");
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(vec![instance])) });
        assert_eq!(bench.bound("p-g-0"), Some("i-0"));
        let (call, _) = bench.take_update().expect("the address is told");
        bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        let (_, tags) = bench.take("CreateTags").expect("the instance gets all tags");
        let CloudRequest::CreateTags { tags, .. } = tags else { unreachable!() };
        assert_eq!((tags[tag::CLUSTER].as_str(), tags[tag::NODE].as_str()), ("c", "p-g-0"));
        bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD);
        bench.give(Event::Power(PowerReading {
            waking_ended: vec!["p-g-0".into()],
            ..PowerReading::default()
        }));
        bench
            .effects
            .retain(|e| matches!(e, Effect::Cloud { request: CloudRequest::DescribeInstances { .. }, .. }));
        bench
    }

    /// Answer the look at sleepers with this state.
    fn look(&mut self, state: InstanceState) {
        self.instances[0].state = state;
        for _ in 0..60 {
            if let Some((call, _)) = self.take("DescribeInstances") {
                let instances = self.instances.clone();
                self.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(instances)) });
                return;
            }
            self.tick(1_000);
        }
        panic!("nobody looks whether the instance sleeps");
    }

    /// How long it takes, while lists are answered, until a node is given up because its slurmd does not answer after a sleep.
    fn seconds_until_given_up(&mut self) -> Option<u64> {
        (1..400).find(|_| {
            self.tick(1_000);
            self.answer_views();
            self.requests().iter().any(|request| {
                matches!(request, SlurmRequest::UpdateNodes(update)
                    if update.state == Some(NodeStateChange::PowerDownForce)
                        && update.reason.as_deref().is_some_and(|reason| reason.contains("WakeTimeoutSec")))
            })
        })
    }

    /// What slurmctld was asked for, all of it done.
    fn requests(&mut self) -> Vec<SlurmRequest> {
        let (mut requests, mut rest, mut calls) = (Vec::new(), Vec::new(), Vec::new());
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Slurm { call, request }
                    if !matches!(request, SlurmRequest::LoadNodes | SlurmRequest::StartReadyJobs) =>
                {
                    if let SlurmRequest::UpdateNodes(NodeUpdate { names, addrs: Some(addrs), .. }) = &request
                    {
                        for (name, addr) in names.iter().zip(addrs) {
                            let node = self.slurm.iter_mut().find(|node| node.name == *name);
                            node.expect("a node of Slurm's").addr.clone_from(addr);
                        }
                    }
                    requests.push(request);
                    calls.push(call);
                }
                other => rest.push(other),
            }
        }
        self.effects = rest;
        for call in calls {
            self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
        }
        requests
    }
}
