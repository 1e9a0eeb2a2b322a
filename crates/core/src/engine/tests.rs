// SPDX-License-Identifier: GPL-3.0-or-later

mod calls;
mod jobs;
mod relocation;
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
                self.instance(&format!("i-{index}"), u32::try_from(index).unwrap(), &request.client_token)
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

#[test]
fn a_batch_becomes_one_fleet_one_update_and_one_tag_call() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-2", "p-g-10"]);
    bench.now = bench.now.plus(20);
    bench.wake(&["p-g-1"]);
    let request = bench.launch(3);
    assert_eq!(request.target, 3);
    assert_eq!(request.overrides.len(), 2, "each override in each subnet");
    assert_eq!(request.instance_tags[tag::CLUSTER], "c");
    assert_eq!(request.instance_tags[tag::LAUNCH], request.client_token);
    assert_eq!(request.instance_tags["Team"], "hpc");
    assert!(
        !request.instance_tags.contains_key("Host"),
        "a tag with a placeholder cannot be written at launch"
    );
    let (_, update) = bench.take_update().expect("one update");
    assert_eq!(update.names, ["p-g-1", "p-g-10", "p-g-2"].map(str::to_owned));
    assert_eq!(update.hostnames.as_ref().unwrap()[0], "ip-10-0-0-1");
    let (_, tags) = bench.take("CreateTags").expect("one tag call");
    let CloudRequest::CreateTags { ids, tags } = tags else { unreachable!() };
    assert_eq!(ids.len(), 3);
    assert_eq!(tags[tag::NODES], "p-g-[1-2,10]", "in ami-launch-index order");
    assert!(bench.take("CreateFleet").is_none() && bench.take_update().is_none());
}

#[test]
fn the_intent_is_recorded_before_the_call() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (_, request) = bench.take("CreateFleet").expect("a call");
    let recorded = bench
        .records
        .iter()
        .any(|record| matches!(record, Record::Intent { intent, .. } if intent.request == request));
    assert!(recorded);
}

#[test]
fn a_shortage_is_reported_to_slurm_with_the_ec2_code() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1"]);
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (call, _) = bench.take("CreateFleet").unwrap();
    let one = bench.instance("i-0", 0, "ec2fleet-abc-1");
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances { ids: vec![one.id.clone()], ..LaunchedInstances::default() }],
        errors: vec![PoolError {
            code: "InsufficientInstanceCapacity".into(),
            message: "none left".into(),
            class: ErrorClass::Capacity,
            lifecycle: Lifecycle::Spot,
            instance_type: Some("c5.large".into()),
            subnet_id: Some("subnet-b".into()),
            zone: None,
        }],
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (_, update) = bench.take_update().expect("the failure is reported at once");
    assert_eq!(update.names, ["p-g-1"]);
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
    assert_eq!(update.reason.as_deref(), Some("ec2fleet: InsufficientInstanceCapacity: none left"));
    assert_eq!(bench.placed, ["p-g-0", "p-g-1"], "slurmctld looks no name of their job up");
}

#[test]
fn no_node_is_powered_down_before_slurmctld_has_an_address_for_all_that_wait() {
    let unreachable = || SlurmError::Unreachable { what: "an update".into(), message: "busy".into() };
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1", "p-g-2"]);
    bench.wake(&["p-g-0", "p-g-1", "p-g-2"]);
    let (_, launched) = bench.launch_unseen(2);
    let (call, update) = bench.take_any_update().expect("the third is not to be had");
    assert_eq!((update.names.len(), update.state), (3, None));
    assert_eq!(update.addrs, Some(vec![crate::engine::ground::placeholders::NOWHERE.to_owned(); 3]));
    // The two that are bound meanwhile are told their own address once that answer is there, so that it comes last.
    let (describe, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call: describe, result: Ok(CloudReply::Instances(launched)) });
    assert!(bench.bound("p-g-0").is_some());
    assert!(bench.take_any_update().is_none());
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable()) });
    let (call, update) = bench.take_any_update().expect("their own addresses");
    assert_eq!(update.names, ["p-g-0", "p-g-1"]);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.take_any_update().is_none(), "the third is powered down without an address");
    bench.tick(60_000);
    let (call, update) = bench.take_any_update().expect("another try");
    assert_eq!((update.names, update.state), (vec!["p-g-2".to_owned()], None));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    let (_, update) = bench.take_any_update().expect("the failure");
    assert_eq!((update.names, update.addrs), (vec!["p-g-2".to_owned()], None));
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
}

#[test]
fn a_placeholder_that_slurmctld_refuses_holds_no_failure_back() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0"]);
    bench.wake(&["p-g-0"]);
    bench.launch(0);
    let (call, update) = bench.take_any_update().unwrap();
    assert_eq!(update.state, None);
    let refused = SlurmError::Refused { what: "an update".into(), errno: 1, message: "no".into() };
    bench.give(Event::SlurmAnswered { call, result: Err(refused) });
    let (_, update) = bench.take_any_update().expect("the failure");
    assert_eq!(update.state, Some(NodeStateChange::PowerDownForce));
}

#[test]
fn a_node_that_slurmctld_has_not_shown_may_have_an_address_and_keeps_it() {
    let mut bench = Bench::new();
    bench.wake(&["p-g-0"]);
    bench.tick(10_000);
    assert!(bench.take_any_update().is_none(), "it may be that of the instance that boots for it");
    bench.slurm[0].addr = "10.0.0.1".into();
    bench.answer_views();
    bench.tick(10_000);
    assert!(bench.take_any_update().is_none());
}

#[test]
fn only_nodes_that_wait_for_long_get_a_placeholder() {
    let mut bench = Bench::ready();
    bench.rest(&["p-g-0", "p-g-1"]);
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (_, _) = bench.take("CreateFleet").expect("a call that EC2 does not answer yet");
    bench.tick(2_000);
    assert!(bench.take_any_update().is_none());
    bench.set_slurm("p-g-1", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.give(Event::Power(PowerReading {
        waking_ended: vec!["p-g-1".into()],
        suspended: vec!["p-g-1".into()],
        ..PowerReading::default()
    }));
    assert!(bench.engine.next_deadline().unwrap() <= bench.now.mono_ms + 1_000);
    bench.tick(1_000);
    let (call, update) = bench.take_any_update().expect("its user may end the job at any time");
    assert_eq!(update.names, ["p-g-0"]);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.tick(60_000);
    assert!(bench.take_any_update().is_none(), "once");

    // slurmctld lost the address. Perhaps the node was powered down and up again unnoticed.
    bench.answer_views();
    bench.tick(3_000);
    let (_, update) = bench.take_any_update().expect("another placeholder");
    assert_eq!(update.names, ["p-g-0"]);
}

#[test]
fn throttling_repeats_the_same_request_with_the_same_token() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (mut call, first) = bench.take("CreateFleet").unwrap();
    for _ in 0..3 {
        let error =
            CloudError { class: ErrorClass::Throttle, code: "RequestLimitExceeded".into(), ..capacity() };
        bench.give(Event::CloudAnswered { call, result: Err(error) });
        assert!(bench.take_update().is_none(), "no node fails because EC2 is busy");
        let mut next = None;
        for _ in 0..200 {
            bench.tick(250);
            next = bench.take("CreateFleet");
            if next.is_some() {
                break;
            }
        }
        let (again, request) = next.expect("repeated");
        assert_eq!(request, first);
        call = again;
    }
}

#[test]
fn a_call_that_never_succeeds_fails_the_nodes_before_resume_timeout() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    let woken = bench.now.mono_ms;
    for _ in 0..4_000 {
        bench.tick(100);
        bench.answer_views();
        if let Some((call, _)) = bench.take("CreateFleet") {
            let error =
                CloudError { class: ErrorClass::Transient, code: "ConnectionRefused".into(), ..capacity() };
            bench.give(Event::CloudAnswered { call, result: Err(error) });
        }
        if let Some((_, update)) = bench.take_update() {
            assert_eq!(update.names, ["p-g-0"]);
            let waited = bench.now.since(woken);
            assert!((200_000..300_000).contains(&waited), "{waited}");
            return;
        }
    }
    panic!("the node was never reported");
}

#[test]
fn a_node_that_is_suspended_before_its_instance_comes_gets_none() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    let (call, _) = bench.take("CreateFleet").unwrap();
    let launched = vec![bench.instance("i-0", 0, "x"), bench.instance("i-1", 1, "x")];
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances {
            ids: vec!["i-0".into(), "i-1".into()],
            ..LaunchedInstances::default()
        }],
        errors: Vec::new(),
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    assert_eq!(bench.bound("p-g-1"), Some("i-0"));
    assert_eq!(bench.bound("p-g-0"), None);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("the surplus is ended");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into()] });
}

#[test]
fn suspended_nodes_lose_exactly_their_instances_in_one_call() {
    let mut bench = Bench::up();
    bench.give(Event::Power(PowerReading {
        suspended: vec!["p-g-1".into(), "p-g-3".into()],
        ..PowerReading::default()
    }));
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("a call");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into(), "i-3".into()] });
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}

#[test]
fn a_failed_listing_concludes_nothing() {
    let mut bench = Bench::up();
    for _ in 0..50 {
        bench.tick(30_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            bench.give(Event::CloudAnswered { call, result: Err(capacity()) });
        }
        assert!(bench.take_update().is_none());
        assert!(bench.take("TerminateInstances").is_none());
    }
    assert_eq!(bench.engine.bound_instances().len(), 4);
}

#[test]
fn an_orphan_is_terminated_after_the_grace_time_and_not_before() {
    let mut bench = Bench::up();
    bench.instance("i-orphan", 0, "ec2fleet-old-1");
    bench.rescan(61);
    for _ in 0..2 {
        bench.rescan(61);
        assert!(bench.take("TerminateInstances").is_none(), "still within the grace time");
    }
    bench.rescan(61);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("ended");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-orphan".into()] });
}

#[test]
fn a_refused_termination_is_asked_for_again_within_55_s_whatever_the_reason() {
    for class in [ErrorClass::Throttle, ErrorClass::Transient, ErrorClass::Permission, ErrorClass::Other] {
        let mut bench = Bench::up();
        bench.instance("i-orphan", 0, "ec2fleet-old-1");
        for _ in 0..4 {
            bench.rescan(61);
        }
        bench.tick(40);
        let mut asked = bench.take("TerminateInstances");
        for _ in 0..8 {
            let (call, request) = asked.take().expect("asked for");
            let error = CloudError { class, code: "Refused".into(), message: "no".into(), request_id: None };
            bench.give(Event::CloudAnswered { call, result: Err(error) });
            let refused_at = bench.now.mono_ms;
            while asked.is_none() {
                bench.tick(1_000);
                asked = bench.take("TerminateInstances");
                assert!(bench.now.mono_ms - refused_at <= 55_000, "{class:?}: not asked for again");
            }
            assert_eq!(asked.as_ref().map(|(_, again)| again), Some(&request));
        }
    }
}

#[test]
fn an_instance_seen_before_a_power_up_is_not_given_to_the_node() {
    for told in [None, Some("p-g-9")] {
        let mut bench = Bench::up();
        bench.set_slurm("p-g-9", NodeBase::Idle, NodeFlags::CLOUD);
        bench.instance("i-old", 0, "ec2fleet-old-1");
        if let Some(node) = told {
            bench.instances[4].tags.insert(tag::NODE.into(), node.into());
        }
        // No address yet: the node that is up cannot have it.
        let addr = bench.instances[4].private_ip.take();
        bench.rescan(61);
        bench.instances[4].private_ip = addr;
        // The list is under way when the power-up begins, so that no launch is before it.
        bench.tick(61_000);
        bench.set_slurm("p-g-9", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
        bench.wake(&["p-g-9"]);
        bench.answer_views();
        assert_eq!(bench.bound("p-g-9"), None, "told {told:?}: slurmctld would not let it register");
        // One that appears later is from this power-up.
        bench.instances[4].id = "i-new".into();
        bench.engine.g.sight.rescan_now(&bench.engine.g.cx);
        bench.give(Event::Tick);
        bench.answer_views();
        assert_eq!(bench.bound("p-g-9"), Some("i-new"));
    }
}

#[test]
fn of_two_instances_with_one_name_neither_is_terminated_under_the_nodes_job() {
    let mut bench = Bench::up();
    bench.instance("i-twin", 0, "ec2fleet-old-1");
    bench.instances[4].tags.insert(tag::NODE.into(), "p-g-2".into());
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none(), "the job may have begun on it");
    }
    bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD);
    bench.rescan(61);
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("ended after the job");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-twin".into()] });
}

#[test]
fn behind_a_busy_address_nothing_is_terminated() {
    let mut bench = Bench::ready();
    // Up and busy in Slurm under this address, in a group that the tags do not name: nothing to adopt it by.
    let addr = bench.instance("i-busy", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::GROUP.into(), "other".into());
    bench.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.slurm[0].addr = addr;
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none());
    }
}

#[test]
fn an_address_that_a_waking_node_had_before_protects_nobody() {
    let mut bench = Bench::ready();
    // EC2 gave the address of the node's instance of last time to another, which is nobody's.
    let addr = bench.instance("i-nobody", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::GROUP.into(), "other".into());
    bench.wake(&["p-g-5"]);
    let waiting = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP).with(NodeFlags::NOT_RESPONDING);
    bench.set_slurm("p-g-5", NodeBase::Allocated, waiting);
    bench.slurm[0].addr = addr;
    let ended = (0..10).any(|_| {
        bench.rescan(61);
        bench.tick(40);
        bench.take("TerminateInstances").is_some()
    });
    assert!(ended);
}

#[test]
fn a_lost_journal_is_rebuilt_from_addresses_and_tags() {
    let mut before = Bench::up();
    before.instances[0].tags.insert(tag::NODES.into(), "p-g-[0-3]".into());
    let mut bench = Bench::new();
    bench.instances.clone_from(&before.instances);
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    bench.answer_views();
    for index in 0..4 {
        assert_eq!(bench.bound(&format!("p-g-{index}")), Some(format!("i-{index}").as_str()));
    }
    assert!(bench.take_update().is_none(), "slurmctld has the addresses already");
}

#[test]
fn an_unfinished_create_fleet_is_replayed_with_its_token_if_it_is_still_wanted() {
    let mut before = Bench::ready();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let (_, sent) = before.take("CreateFleet").unwrap();
    let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    assert!(bench.take("CreateFleet").is_none(), "not before EC2 and Slurm are known");
    bench.answer_views();
    let (_, again) = bench.take("CreateFleet").expect("replayed");
    assert_eq!(again, sent);
}

#[test]
fn an_unfinished_create_fleet_that_nobody_wants_is_not_sent() {
    let mut before = Bench::ready();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.tick(0);
    bench.answer_views();
    bench.tick(2_000);
    assert!(bench.take("CreateFleet").is_none());
    assert_eq!(bench.engine.open_intents(), 0);
}

#[test]
fn a_vanished_instance_is_confirmed_and_its_node_reported() {
    let mut bench = Bench::up();
    bench.instances[2].state = InstanceState::Terminated;
    bench.instances[2].state_reason = Some("Server.SpotInstanceTermination".into());
    bench.rescan(61);
    let (call, request) = bench.take("DescribeInstances").expect("asked by id before anything is concluded");
    assert_eq!(request, CloudRequest::DescribeInstances { ids: vec!["i-2".into()] });
    let gone = bench.instances[2].clone();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(vec![gone])) });
    let (_, update) = bench.take_update().expect("slurmctld is told");
    assert_eq!(update.names, ["p-g-2"]);
    assert!(update.reason.unwrap().contains("Server.SpotInstanceTermination"));
}

#[test]
fn an_instance_missing_from_lists_for_seconds_is_waited_for() {
    let mut bench = Bench::up();
    let hidden = bench.instances.remove(1);
    bench.rescan(61);
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(Vec::new())) });
    assert!(bench.take_update().is_none());
    bench.instances.insert(1, hidden);
    bench.rescan(61);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

#[test]
fn a_new_instance_is_given_up_only_when_ec2_answers_without_it() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    let (_, mut launched) = bench.launch_unseen(2);
    let out_of_reach = || CloudError { class: ErrorClass::Transient, code: "Timeout".into(), ..capacity() };
    let mut asked = 0;
    for _ in 0..200 {
        bench.tick(1_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            asked += 1;
            bench.give(Event::CloudAnswered { call, result: Err(out_of_reach()) });
        }
        assert!(bench.take("TerminateInstances").is_none() && bench.take_update().is_none());
    }
    assert!(asked > 5, "it was asked for {asked} times");
    // Long after `consistency_grace_s` EC2 answers, and shows one of the two.
    launched.truncate(1);
    let describe = loop {
        bench.tick(1_000);
        if let Some((call, _)) = bench.take("DescribeInstances") {
            break call;
        }
    };
    bench.give(Event::CloudAnswered { call: describe, result: Ok(CloudReply::Instances(launched)) });
    bench.tick(1_000);
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
    let (_, request) = bench.take("TerminateInstances").expect("whatever the other one is, it must not stay");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-1".into()] });
    assert!(bench.facts.iter().any(|fact| fact.kind == FactKind::NodesFailed && fact.nodes == "p-g-1"));
}

#[test]
fn locked_nodes_are_left_alone() {
    let mut bench = Bench::up();
    bench.give(Event::LockRequested { nodes: vec!["p-g-0".into()], locked: true });
    bench.answer_views();
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    for _ in 0..10 {
        bench.rescan(61);
        bench.tick(40);
        assert!(bench.take("TerminateInstances").is_none());
    }
}

#[test]
fn name_tags_follow_one_at_a_time_with_the_groups_templated_tags() {
    let mut bench = Bench::up();
    bench.tick(61_000);
    let (call, request) = bench.take("CreateTags").expect("a Name tag");
    let CloudRequest::CreateTags { ids, tags } = request else { unreachable!() };
    assert_eq!(ids, ["i-0"]);
    assert_eq!(tags["Name"], "p-g-0");
    assert_eq!(tags["Host"], "ip-10-0-0-1");
    assert_eq!(tags[tag::NODE], "p-g-0", "an earlier call may have been lost");
    assert!(bench.take("CreateTags").is_none());
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Tagged) });
    assert!(bench.take("CreateTags").is_some());
}

#[test]
fn spot_shortage_goes_on_demand_where_the_site_allows_it() {
    let mut group = group("g");
    group.spot_fallback_s = Some(210);
    let mut bench = Bench::with(group, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.take("CreateFleet").unwrap();
    bench.give(Event::CloudAnswered { call, result: Err(capacity()) });
    bench.tick(1);
    let (_, request) = bench.take("CreateFleet").expect("a second fleet");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!(request.lifecycle, Lifecycle::OnDemand);
    assert!(bench.take_update().is_none());
}

#[test]
fn a_node_stuck_down_after_resume_timeout_is_brought_back_and_others_are_not() {
    let mut bench = Bench::ready();
    let down = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN);
    bench.set_slurm("p-g-0", NodeBase::Down, down);
    bench.slurm[0].reason = Some("ResumeTimeout reached".into());
    bench.set_slurm("p-g-1", NodeBase::Down, down);
    bench.slurm[1].reason = Some("broken fan".into());
    bench.rescan(61);
    let (_, update) = bench.take_update().expect("reset");
    assert_eq!((update.names, update.state), (vec!["p-g-0".to_owned()], Some(NodeStateChange::Resume)));
    assert!(bench.take_update().is_none());
}

#[test]
fn a_failure_that_slurmctld_was_not_told_of_is_not_held_against_the_next_power_up() {
    for woken_again in [false, true] {
        let mut bench = Bench::ready();
        bench.wake(&["p-g-0"]);
        bench.tick(40);
        let (call, _) = bench.take("CreateFleet").expect("a launch");
        let refused = CloudError { class: ErrorClass::Permission, ..capacity() };
        bench.give(Event::CloudAnswered { call, result: Err(refused) });
        let (call, _) = bench.take_update().expect("the failure");
        if woken_again {
            bench.give(Event::Power(PowerReading {
                waking_ended: vec!["p-g-0".into()],
                suspended: vec!["p-g-0".into()],
                ..PowerReading::default()
            }));
            bench.wake(&["p-g-0"]);
        }
        bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
        bench.tick(30_000);
        assert_eq!(bench.take_update().is_none(), woken_again);
    }
}

#[test]
fn a_reset_that_did_not_reach_slurmctld_is_tried_again_before_a_pass_ends() {
    let mut bench = Bench::ready();
    assert!(bench.engine.is_idle());
    bench.set_slurm("p-g-0", NodeBase::Down, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.slurm[0].reason = Some("ResumeTimeout reached".into());
    bench.rescan(60);
    let (call, _) = bench.take_update().expect("the node is reset");
    bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
    assert!(!bench.engine.is_idle());
    bench.rescan(6);
    let (call, update) = bench.take_update().expect("and again");
    assert_eq!((update.names, update.state), (vec!["p-g-0".to_owned()], Some(NodeStateChange::Resume)));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.engine.is_idle());
}

#[test]
fn a_node_closed_for_a_sleep_is_opened_when_it_is_powered_down_and_others_are_not() {
    let mut bench = Bench::ready();
    let closed = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN).with(NodeFlags::DRAIN);
    bench.set_slurm("p-g-0", NodeBase::Idle, closed);
    bench.slurm[0].reason = Some("ec2fleet: hibernated by EC2".into());
    bench.set_slurm("p-g-1", NodeBase::Down, closed);
    // slurmctld 24.11 appends its own reason to ours.
    bench.slurm[1].reason = Some("ec2fleet: hibernated by EC2 : Not responding".into());
    bench.set_slurm("p-g-2", NodeBase::Idle, closed);
    bench.slurm[2].reason = Some("maintenance".into());
    bench.rescan(61);
    let (_, update) = bench.take_update().expect("reset");
    let names = vec!["p-g-0".to_owned(), "p-g-1".to_owned()];
    assert_eq!((update.names, update.state), (names, Some(NodeStateChange::Resume)));
    assert!(bench.take_update().is_none());
}

#[test]
fn idle_costs_at_most_two_describes_a_minute() {
    let mut bench = Bench::up();
    bench.tick(200_000);
    bench.answer_views();
    while let Some((call, _)) = bench.take("CreateTags") {
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Tagged) });
    }
    let mut calls = 0;
    for _ in 0..600 {
        bench.tick(1_000);
        calls += bench.effects.iter().filter(|e| matches!(e, Effect::Cloud { .. })).count();
        bench.answer_views();
    }
    assert!(calls <= 20, "{calls} calls in ten minutes");
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

#[test]
fn an_empty_fleet_is_deleted_and_the_next_pool_is_asked() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let mut seen = Vec::new();
    for number in 0..4 {
        let (call, request) = bench.create_fleet();
        seen.push((request.overrides[0].instance_type.clone(), request.overrides[0].subnet_id.clone()));
        bench.fleet_made(call, &format!("fleet-{number}"));
        let until = bench.now.mono_ms + 61_000;
        while bench.now.mono_ms < until {
            bench.tick(1_000);
            if let Some((call, CloudRequest::DescribeFleetInstances { .. })) = bench.take("DescribeInstances")
            {
                bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(Vec::new())) });
            }
            if let Some((call, CloudRequest::DeleteFleets { ids, terminate_instances })) =
                bench.take("DeleteFleets")
            {
                assert_eq!(
                    (ids.as_slice(), terminate_instances),
                    ([format!("fleet-{number}")].as_slice(), true)
                );
                let reply = CloudReply::Deleted { deleted: ids, failed: Vec::new() };
                bench.give(Event::CloudAnswered { call, result: Ok(reply) });
            }
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "two types in two zones, each once: {seen:?}");
    let (_, update) = bench.take_update().expect("then the node is reported");
    assert!(update.reason.unwrap().contains("UnfulfillableCapacity"));
    assert!(bench.engine.persisted().fleets.is_empty());
}

#[test]
fn a_sleeping_node_that_could_not_be_closed_is_closed_later_unless_it_is_awake() {
    let closing = |bench: &mut Bench| {
        let (call, update) = bench.take_update()?;
        assert_eq!(update.state, Some(NodeStateChange::Drain));
        Some(call)
    };
    for slept_on in [true, false] {
        let mut bench = Bench::sleeper();
        bench.look(InstanceState::Stopped);
        let call = closing(&mut bench).expect("closed at once");
        bench.give(Event::SlurmAnswered { call, result: Err(unreachable_slurmctld()) });
        assert!(closing(&mut bench).is_none(), "not at once again");
        if !slept_on {
            bench.look(InstanceState::Running);
            bench.requests();
        }
        bench.tick(5_000);
        assert_eq!(closing(&mut bench).is_some(), slept_on);
    }
}

#[test]
fn a_sleeping_node_is_kept_responding_closed_and_its_job_lengthened() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    let requests = bench.requests();
    assert!(requests.contains(&SlurmRequest::KeepResponding { nodes: vec!["p-g-0".into()] }), "{requests:?}");
    assert!(requests.contains(&SlurmRequest::ExtendJobs { node: "p-g-0".into(), minutes: 1 }));
    assert!(
        requests
            .iter()
            .any(|r| matches!(r, SlurmRequest::UpdateNodes(u) if u.state == Some(NodeStateChange::Drain)))
    );
    let (mut alive, mut minutes) = (0, 0);
    for _ in 0..600 {
        bench.tick(1_000);
        for request in bench.requests() {
            match request {
                SlurmRequest::KeepResponding { .. } => alive += 1,
                SlurmRequest::ExtendJobs { minutes: more, .. } => minutes += more,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(alive >= 600 / 100, "SlurmdTimeout is 300 s, and {alive} calls in 600 s");
    assert_eq!(minutes, 10);
    bench.look(InstanceState::Running);
    let requests = bench.requests();
    assert!(
        requests
            .iter()
            .any(|r| matches!(r, SlurmRequest::UpdateNodes(u) if u.state == Some(NodeStateChange::Undrain)))
    );
    bench.tick(300_000);
    assert!(
        !bench.requests().iter().any(|r| matches!(r, SlurmRequest::KeepResponding { .. })),
        "awake nodes answer themselves"
    );
}

#[test]
fn a_node_whose_slurmd_stays_silent_after_the_sleep_is_given_up_and_one_that_answers_is_not() {
    for silent in [true, false] {
        let mut bench = Bench::sleeper();
        bench.look(InstanceState::Stopped);
        bench.tick(600_000);
        bench.look(InstanceState::Running);
        let flags = NodeFlags::CLOUD;
        let flags = if silent { flags.with(NodeFlags::NOT_RESPONDING) } else { flags };
        bench.set_slurm("p-g-0", NodeBase::Allocated, flags);
        bench.requests();
        let down_after = bench.seconds_until_given_up();
        assert_eq!(down_after.is_some(), silent);
        assert!(down_after.is_none_or(|second| (299..320).contains(&second)), "{down_after:?}");
    }
}

#[test]
fn a_node_that_sleeps_again_before_its_slurmd_answered_is_not_given_up() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    bench.tick(600_000);
    bench.look(InstanceState::Running);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    bench.requests();
    for second in 1..400 {
        bench.tick(1_000);
        if second == 299 {
            // Just before the time is over, and no list has shown it yet.
            bench.instances[0].state = InstanceState::Stopped;
        }
        bench.answer_views();
        assert!(
            !bench.requests().iter().any(|request| matches!(request, SlurmRequest::UpdateNodes(update)
                if update.state == Some(NodeStateChange::PowerDownForce))),
            "after {second} s"
        );
    }
}

#[test]
fn whatever_is_written_to_an_instance_of_a_nodes_fleet_says_whose_it_is() {
    // The first write of tags has no answer yet, and it may never have one.
    let mut bench = Bench::sleeper();
    bench.tick(60_000);
    let (_, request) = bench.take("CreateTags").expect("the Name tag");
    let CloudRequest::CreateTags { tags, .. } = request else { unreachable!() };
    assert_eq!([tag::NAME, tag::NODE, tag::CLUSTER].map(|key| tags[key].as_str()), ["p-g-0", "p-g-0", "c"]);
}

#[test]
fn a_second_sleep_ends_the_time_that_slurmd_had_after_the_first() {
    let mut bench = Bench::sleeper();
    for (state, kind, times) in [
        (InstanceState::Stopped, FactKind::NodeAsleep, 1),
        (InstanceState::Running, FactKind::NodeAwake, 1),
        (InstanceState::Stopped, FactKind::NodeAsleep, 2),
    ] {
        // The first answer may be that of another question.
        for _ in 0..3 {
            bench.tick(30_000);
            bench.look(state);
        }
        assert_eq!(bench.facts.iter().filter(|fact| fact.kind == kind).count(), times, "{kind:?}");
    }
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    // The time after the first sleep runs out, and the first list from then on shows the instance back from the second.
    bench.tick(220_000);
    bench.instances[0].state = InstanceState::Running;
    bench.requests();
    let down_after = bench.seconds_until_given_up();
    assert!(down_after.is_some_and(|second| (299..320).contains(&second)), "{down_after:?}");
}

#[test]
fn a_new_address_after_a_sleep_is_told_without_a_list_and_the_slurmd_there_has_its_own_time_to_answer() {
    let mut bench = Bench::sleeper();
    bench.look(InstanceState::Stopped);
    bench.tick(600_000);
    bench.look(InstanceState::Running);
    bench.requests();
    // No list is answered, and the first looks still show the address before the sleep.
    bench.tick(250_000);
    bench.instances[0].private_ip = Some("10.9.9.9".into());
    bench.look(InstanceState::Running);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::NOT_RESPONDING));
    let told = std::iter::from_fn(|| bench.take_update())
        .find(|(_, update)| update.addrs.as_deref() == Some(["10.9.9.9".to_owned()].as_slice()));
    let (call, _) = told.expect("the address is told");
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    bench.slurm[0].addr = "10.9.9.9".into();
    let down_after = bench.seconds_until_given_up();
    assert!(down_after.is_some_and(|second| (299..320).contains(&second)), "{down_after:?}");
}

#[test]
fn a_list_from_before_the_sleep_wakes_no_node() {
    let mut bench = Bench::sleeper();
    bench.answer_views();
    bench.tick(61_000);
    let listed = bench.effects.iter().position(|effect| {
        matches!(effect, Effect::Cloud { request: CloudRequest::DescribeCluster { .. }, .. })
    });
    let Effect::Cloud { call, .. } = bench.effects.remove(listed.expect("a list is due")) else {
        unreachable!()
    };
    let instances = bench.instances.clone();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(instances)) });
    // slurmctld answers only after a look has shown the instance asleep.
    bench.tick(1_000);
    bench.look(InstanceState::Stopped);
    bench.requests();
    bench.answer_views();
    let undrained = bench.requests().iter().any(|request| {
        matches!(request, SlurmRequest::UpdateNodes(update)
            if update.state == Some(NodeStateChange::Undrain))
    });
    assert!(!undrained);
}

#[test]
fn a_node_that_is_not_asleep_is_left_to_slurmd_timeout() {
    let mut bench = Bench::sleeper();
    for _ in 0..20 {
        bench.look(InstanceState::Running);
    }
    assert_eq!(bench.requests(), Vec::new());
}

#[test]
fn powering_down_deletes_the_fleet_and_not_the_instance_alone() {
    let mut bench = Bench::sleeper();
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    bench.tick(40);
    let (_, request) = bench.take("DeleteFleets").expect("the fleet is deleted");
    assert_eq!(
        request,
        CloudRequest::DeleteFleets { ids: vec!["fleet-0".into()], terminate_instances: true }
    );
    assert!(bench.take("TerminateInstances").is_none(), "EC2 would replace it");
}

#[test]
fn a_sleep_beyond_the_limit_is_ended_where_the_site_wants_it() {
    let mut group = hibernating();
    group.hibernation.max_minutes = Some(5);
    group.hibernation.after_max = crate::site::AfterMaxHibernation::Requeue;
    let mut bench = Bench::sleeper();
    let site = Site::new("c".into(), Vec::new(), vec![group], Settings::default());
    bench.give(Event::SiteChanged(Arc::new(site)));
    bench.answer_views();
    bench.look(InstanceState::Stopped);
    bench.requests();
    let mut forced = None;
    for second in 0..400 {
        bench.tick(1_000);
        let found = bench.requests().into_iter().find_map(|request| match request {
            SlurmRequest::UpdateNodes(update) => update.state,
            _ => None,
        });
        if found.is_some() {
            forced = Some((second, found));
            break;
        }
    }
    let (second, state) = forced.expect("powered down");
    assert_eq!(state, Some(NodeStateChange::PowerDownForce));
    assert!((295..310).contains(&second), "{second}");
}

fn node_fleet(id: &str, node: &str) -> crate::ec2_api::Fleet {
    crate::ec2_api::Fleet {
        id: id.into(),
        state: "active".into(),
        activity: None,
        target: 1,
        fulfilled: 1.0,
        client_token: None,
        tags: [(tag::NODE.to_owned(), node.to_owned())].into(),
    }
}

#[test]
fn a_fleet_that_no_journal_knows_is_adopted_or_deleted() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.answer_views();
    let fleet = node_fleet;
    let mut deleted = Vec::new();
    let elsewhere = Account { region: "ap-south-1".into(), profile: None };
    for _ in 0..8 {
        // That another account has no fleets says nothing of this one's.
        bench.engine.take_fleets(&elsewhere, 0, Ok(CloudReply::Fleets(Vec::new())));
        while let Some((call, _)) = bench.take("DescribeFleets") {
            let fleets = vec![fleet("fleet-mine", "p-g-0"), fleet("fleet-lost", "p-g-7")];
            bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets)) });
        }
        bench.rescan(61);
        bench.tick(40);
        if let Some((_, CloudRequest::DeleteFleets { ids, .. })) = bench.take("DeleteFleets") {
            deleted.extend(ids);
        }
    }
    assert!(deleted.contains(&"fleet-lost".to_owned()), "{deleted:?}");
}

#[test]
fn a_fleet_from_before_a_power_up_is_not_the_nodes() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.tick(0);
    bench.answer_views();
    let list = |bench: &mut Bench| {
        bench.rescan(61);
        while let Some((call, _)) = bench.take("DescribeFleets") {
            let fleets = vec![node_fleet("fleet-old", "p-g-0")];
            bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets)) });
        }
    };
    list(&mut bench);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(1);
    bench.wake(&["p-g-0"]);
    for _ in 0..5 {
        list(&mut bench);
    }
    let adopted = bench
        .records
        .iter()
        .any(|record| matches!(record, Record::FleetOf { fleet, .. } if fleet.fleet_id == "fleet-old"));
    assert!(!adopted, "its instance booted before the power-up and could not register");
    bench.tick(40);
    let (_, request) = bench.take("DeleteFleets").expect("it goes as one without a node");
    assert!(matches!(request, CloudRequest::DeleteFleets { ids, .. } if ids == ["fleet-old"]));
}

/// EC2 with the fleets of a group, answering until nothing is asked any more.
struct GroupEc2 {
    fleets: Vec<crate::ec2_api::Fleet>,
    state: String,
    targets: Vec<u32>,
    templates: Vec<crate::ec2_api::FleetTemplate>,
    refuse_templates: bool,
    /// Spot and on-demand targets.
    split: Vec<(u32, u32)>,
    history: Vec<FleetHistoryRecord>,
    terminated: Vec<String>,
    cancelled: usize,
    deleted: Vec<(String, bool)>,
    describes: usize,
}

impl GroupEc2 {
    fn new() -> Self {
        Self {
            fleets: Vec::new(),
            state: "active".into(),
            targets: Vec::new(),
            templates: Vec::new(),
            refuse_templates: false,
            split: Vec::new(),
            history: Vec::new(),
            terminated: Vec::new(),
            cancelled: 0,
            deleted: Vec::new(),
            describes: 0,
        }
    }

    /// What EC2 launches for the fleet, without saying so.
    fn launch(bench: &mut Bench, fleet: &str, id: &str) {
        bench.instance(id, 0, "");
        let instance = bench.instances.last_mut().unwrap();
        // EC2 gives the instances of maintain fleets no tags but its own.
        instance.tags = [(tag::FLEET_ID.to_owned(), fleet.to_owned())].into();
        instance.spot_request_id = Some(format!("sir-{id}"));
    }

    fn reply(&mut self, bench: &mut Bench, request: CloudRequest) -> CloudResult {
        Ok(match request {
            CloudRequest::CreateFleet(request) => {
                assert_eq!(request.target, 0, "a group fleet is made empty");
                let id = format!("fleet-{}", ["g", "h", "i"][self.fleets.len() + self.deleted.len()]);
                self.fleets.push(crate::ec2_api::Fleet {
                    id: id.clone(),
                    state: self.state.clone(),
                    activity: None,
                    target: 0,
                    fulfilled: 0.0,
                    client_token: Some(request.client_token),
                    tags: request.fleet_tags,
                });
                CloudReply::Fleet(FleetReply { fleet_id: id, ..FleetReply::default() })
            }
            CloudRequest::ModifyFleet {
                fleet_id,
                target,
                spot_target,
                on_demand_target,
                terminate_excess,
                template,
            } => {
                self.split.push((spot_target, on_demand_target));
                assert!(!terminate_excess, "EC2 would choose the victim");
                if template.is_some() && self.refuse_templates {
                    return Err(CloudError {
                        class: ErrorClass::Configuration,
                        code: "InvalidLaunchTemplateId.NotFound".into(),
                        ..capacity()
                    });
                }
                self.fleets.iter_mut().find(|fleet| fleet.id == fleet_id).expect("a fleet").target = target;
                self.targets.push(target);
                self.templates.extend(template.map(|template| *template));
                CloudReply::Modified
            }
            CloudRequest::DescribeFleets { .. } => {
                for fleet in &mut self.fleets {
                    fleet.state.clone_from(&self.state);
                    let awake = bench.instances.iter().filter(|instance| {
                        matches!(instance.state, InstanceState::Pending | InstanceState::Running)
                            && instance.tags.get(tag::FLEET_ID) == Some(&fleet.id)
                    });
                    fleet.fulfilled = f64::from(u32::try_from(awake.count()).unwrap());
                }
                CloudReply::Fleets(self.fleets.clone())
            }
            CloudRequest::DeleteFleets { ids, terminate_instances } => {
                self.fleets.retain(|fleet| !ids.contains(&fleet.id));
                self.deleted.extend(ids.iter().map(|id| (id.clone(), terminate_instances)));
                CloudReply::Deleted { deleted: ids, failed: Vec::new() }
            }
            CloudRequest::TerminateInstances { ids } => {
                for instance in &mut bench.instances {
                    if ids.contains(&instance.id) {
                        instance.state = InstanceState::Terminated;
                    }
                }
                self.terminated.extend(ids.clone());
                CloudReply::Terminated { terminated: ids, unknown: Vec::new() }
            }
            CloudRequest::CreateTags { ids, tags } => {
                for instance in bench.instances.iter_mut().filter(|instance| ids.contains(&instance.id)) {
                    instance.tags.extend(tags.clone());
                }
                CloudReply::Tagged
            }
            CloudRequest::CancelSpotInstanceRequests { ids } => {
                self.cancelled += ids.len();
                CloudReply::Cancelled
            }
            CloudRequest::DescribeFleetHistory { .. } => CloudReply::History(self.history.clone()),
            CloudRequest::DescribeInstances { ids } => CloudReply::Instances(
                bench.instances.iter().filter(|instance| ids.contains(&instance.id)).cloned().collect(),
            ),
            _ => CloudReply::Instances(
                bench.instances.iter().filter(|i| !i.state.is_ended()).cloned().collect(),
            ),
        })
    }

    fn answer(&mut self, bench: &mut Bench) {
        for _ in 0..200 {
            let listed = bench.effects.iter().filter(|effect| {
                matches!(effect, Effect::Cloud { request: CloudRequest::DescribeCluster { .. }, .. })
            });
            self.describes += listed.count();
            bench.answer_views();
            let Some(at) = bench.effects.iter().position(|e| matches!(e, Effect::Cloud { .. })) else {
                return;
            };
            let Effect::Cloud { call, request, .. } = bench.effects.remove(at) else { unreachable!() };
            self.describes += usize::from(request.action().starts_with("Describe"));
            let result = self.reply(bench, request);
            bench.give(Event::CloudAnswered { call, result });
        }
        panic!("never quiet");
    }

    fn run(&mut self, bench: &mut Bench, seconds: u64) {
        for _ in 0..seconds {
            bench.tick(1_000);
            self.answer(bench);
        }
    }
}

fn group_of_fleet() -> NodeGroup {
    let mut group = group("g");
    group.scope = FleetScope::Group;
    group.spot_options.instance_interruption_behavior = Some("hibernate".into());
    group.launch_template.version = Some("3".into());
    group
}

fn site_of(groups: Vec<NodeGroup>) -> Event {
    Event::SiteChanged(Arc::new(Site::new("c".into(), Vec::new(), groups, Settings::default())))
}

/// These nodes have registered, each under its instance's address.
fn registered(bench: &mut Bench, nodes: &[&str]) {
    for node in nodes {
        bench.set_slurm(node, NodeBase::Allocated, NodeFlags::CLOUD);
        let addr = bench.engine.binding(node).expect("a binding").addr.clone();
        bench.slurm.iter_mut().find(|known| known.name == *node).unwrap().addr = addr;
    }
    let ended = nodes.iter().map(|node| (*node).to_owned()).collect();
    bench.give(Event::Power(PowerReading { waking_ended: ended, ..PowerReading::default() }));
}

fn suspend(bench: &mut Bench, node: &str) {
    bench.set_slurm(node, NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN));
    bench.give(Event::Power(PowerReading { suspended: vec![node.to_owned()], ..PowerReading::default() }));
}

fn group_scope() -> (Bench, GroupEc2) {
    group_scope_of(|_| {})
}

fn group_scope_of(change: impl Fn(&mut NodeGroup)) -> (Bench, GroupEc2) {
    let mut group = group_of_fleet();
    change(&mut group);
    let mut bench = Bench::with(group, Persisted::default());
    let mut ec2 = GroupEc2::new();
    bench.tick(0);
    ec2.answer(&mut bench);
    bench.wake(&["p-g-0", "p-g-1"]);
    ec2.run(&mut bench, 5);
    GroupEc2::launch(&mut bench, "fleet-g", "i-0");
    GroupEc2::launch(&mut bench, "fleet-g", "i-1");
    ec2.run(&mut bench, 5);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    registered(&mut bench, &["p-g-0", "p-g-1"]);
    (bench, ec2)
}

#[test]
fn a_new_template_is_applied_once_to_the_running_fleet_and_touches_no_node() {
    let (mut bench, mut ec2) = group_scope();
    let mut changed = group_of_fleet();
    changed.launch_template.version = Some("4".into());
    changed.overrides[0].instance_type = Some("m5.large".into());
    for _ in 0..2 {
        bench.give(site_of(vec![changed.clone()]));
        ec2.run(&mut bench, 10);
    }
    assert_eq!(ec2.templates.len(), 1, "{:?}", ec2.templates);
    assert_eq!(ec2.templates[0].launch_template.version.as_deref(), Some("4"));
    assert_eq!(ec2.templates[0].overrides[0].instance_type.as_deref(), Some("m5.large"));
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2, 2].as_slice()));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    // A version that EC2 resolves may be another one at each reload.
    changed.launch_template.version = Some("$Latest".into());
    for _ in 0..2 {
        bench.give(site_of(vec![changed.clone()]));
        ec2.run(&mut bench, 10);
    }
    assert_eq!(ec2.templates.len(), 3);
}

#[test]
fn a_template_that_ec2_refuses_does_not_stop_the_fleet() {
    let (mut bench, mut ec2) = group_scope();
    ec2.refuse_templates = true;
    let mut changed = group_of_fleet();
    changed.launch_template.version = Some("4".into());
    bench.give(site_of(vec![changed.clone()]));
    ec2.run(&mut bench, 10);
    assert!(bench.facts.iter().any(|fact| fact.code.as_deref() == Some("InvalidLaunchTemplateId.NotFound")));
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 10);
    assert_eq!((ec2.targets.last(), ec2.terminated.as_slice()), (Some(&1), ["i-0".to_owned()].as_slice()));
    // The administrator mends the template and reloads.
    ec2.refuse_templates = false;
    bench.give(site_of(vec![changed]));
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.templates.len(), 1);
}

#[test]
fn what_modify_fleet_cannot_change_gives_new_nodes_another_fleet_and_leaves_busy_ones_alone() {
    let (mut bench, mut ec2) = group_scope();
    let mut changed = group_of_fleet();
    changed.spot_options.allocation_strategy = Some("diversified".into());
    bench.give(site_of(vec![changed.clone()]));
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.fleets.len(), 1, "a new fleet is made when a node wants it");
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.fleets.iter().map(|fleet| fleet.target).collect::<Vec<_>>(), [2, 1]);
    GroupEc2::launch(&mut bench, "fleet-h", "i-2");
    ec2.run(&mut bench, 5);
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    registered(&mut bench, &["p-g-2"]);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));

    // Also for the next process: nothing but the journal and EC2 is known to it.
    let mut next = Bench::with(changed, bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.run(&mut bench, 70);
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());

    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 10);
    assert_eq!((ec2.terminated.as_slice(), ec2.deleted.len()), (["i-0".to_owned()].as_slice(), 0));
    suspend(&mut bench, "p-g-1");
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)], "with its last node");
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    assert_eq!(bench.engine.persisted().group_fleets.len(), 1);
}

#[test]
fn a_removed_groups_fleet_goes_with_its_last_node() {
    let (mut bench, mut ec2) = group_scope();
    let mut other = group("other");
    other.account.region = "us-east-1".into();
    bench.give(site_of(vec![other]));
    ec2.run(&mut bench, 400);
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty(), "its nodes are up");
    // Slurm powers one down and then knows neither.
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    ec2.run(&mut bench, 400);
    assert_eq!((ec2.terminated.as_slice(), ec2.deleted.len()), (["i-0".to_owned()].as_slice(), 0));
    bench.slurm.clear();
    ec2.run(&mut bench, 400);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)]);
    assert!(bench.engine.persisted().group_fleets.is_empty() && bench.engine.persisted().bindings.is_empty());
}

#[test]
fn what_ec2_launches_beside_a_sleeper_is_ended_for_good_and_the_sleeper_is_counted_again_when_awake() {
    let (mut bench, mut ec2) = group_scope();
    bench.instances[1].state = InstanceState::Stopped;
    GroupEc2::launch(&mut bench, "fleet-g", "i-spare");
    // Nothing else happens: the next listing shows it.
    ec2.run(&mut bench, 90);
    assert_eq!(ec2.targets.last(), Some(&1), "lowered first, or EC2 would launch yet another one");
    assert_eq!(ec2.terminated, ["i-spare"]);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
    // The next process knows as well.
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.run(&mut bench, 90);
    assert_eq!((ec2.targets.last(), ec2.terminated.len()), (Some(&1), 1));
    bench.instances[1].state = InstanceState::Running;
    ec2.run(&mut bench, 90);
    assert_eq!((ec2.targets.last(), ec2.terminated.len()), (Some(&2), 1));
}

fn of_history(sub_type: &str, bench: &Bench) -> FleetHistoryRecord {
    FleetHistoryRecord {
        unix_ms: bench.now.unix_ms,
        event_type: "error".into(),
        event_sub_type: sub_type.into(),
        description: "the limit of Spot instances is reached".into(),
        instance_id: None,
    }
}

/// A group of one fleet with two nodes that wait for Spot, and nothing comes.
fn short_of_spot(fallback: Option<u32>) -> (Bench, GroupEc2) {
    let mut group = group_of_fleet();
    group.spot_fallback_s = fallback;
    let mut bench = Bench::with(group, Persisted::default());
    let mut ec2 = GroupEc2::new();
    bench.tick(0);
    ec2.answer(&mut bench);
    bench.wake(&["p-g-0", "p-g-1"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.split, [(2, 0)]);
    (bench, ec2)
}

#[test]
fn a_spot_quota_in_the_history_sends_a_group_on_demand_at_once_and_later_nodes_back_to_spot() {
    for sub_type in ["spotInstanceCountLimitExceeded", "spotFleetRequestConfigurationInvalid"] {
        let (mut bench, mut ec2) = short_of_spot(Some(210));
        ec2.history = vec![of_history(sub_type, &bench)];
        ec2.run(&mut bench, 25);
        assert_eq!(ec2.split, [(2, 0), (0, 2)], "long before SpotFallbackSec");
        assert!(
            bench
                .facts
                .iter()
                .any(|fact| fact.kind == FactKind::SpotFallback && fact.code.as_deref() == Some(sub_type))
        );
        for id in ["i-0", "i-1"] {
            GroupEc2::launch(&mut bench, "fleet-g", id);
            bench.instances.last_mut().unwrap().lifecycle = Lifecycle::OnDemand;
        }
        ec2.run(&mut bench, 5);
        registered(&mut bench, &["p-g-0", "p-g-1"]);
        assert!(
            bench
                .facts
                .iter()
                .any(|fact| fact.kind == FactKind::SpotFallback && fact.instances == ["i-0", "i-1"]),
            "with the instances that cost more"
        );
        ec2.history.clear();
        bench.wake(&["p-g-2"]);
        ec2.run(&mut bench, 5);
        assert_eq!(ec2.split.last(), Some(&(1, 2)), "the next node is asked of Spot again");
        suspend(&mut bench, "p-g-0");
        ec2.run(&mut bench, 5);
        assert_eq!(ec2.split.last(), Some(&(1, 1)), "the on-demand share goes as its nodes do");
    }
}

#[test]
fn silence_sends_a_group_on_demand_after_spot_fallback_sec_and_never_where_it_is_off() {
    let (mut bench, mut ec2) = short_of_spot(Some(210));
    ec2.run(&mut bench, 200);
    assert_eq!(ec2.split, [(2, 0)]);
    ec2.run(&mut bench, 15);
    assert_eq!(ec2.split, [(2, 0), (0, 2)]);
    let (mut bench, mut ec2) = short_of_spot(None);
    ec2.history = vec![of_history("spotInstanceCountLimitExceeded", &bench)];
    ec2.run(&mut bench, 250);
    assert_eq!(ec2.split, [(2, 0)]);
    let code = |fact: &&Fact| fact.code.as_deref() == Some("spotInstanceCountLimitExceeded");
    assert_eq!(bench.facts.iter().filter(code).count(), 1, "told once");
}

#[test]
fn a_history_of_an_earlier_wait_says_nothing() {
    let (mut bench, mut ec2) = short_of_spot(Some(210));
    let mut old = of_history("spotInstanceCountLimitExceeded", &bench);
    old.unix_ms -= 60_000;
    ec2.history = vec![old];
    ec2.run(&mut bench, 60);
    assert_eq!(ec2.split, [(2, 0)]);
}

#[test]
fn nodes_with_their_own_fleets_leave_spot_when_the_account_has_no_more() {
    let mut group = hibernating();
    group.spot_fallback_s = Some(210);
    let mut bench = Bench::with(group, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, request) = bench.create_fleet();
    assert_eq!(request.lifecycle, Lifecycle::Spot);
    bench.fleet_made(call, "fleet-0");
    let mut asked = None;
    for _ in 0..30 {
        bench.tick(1_000);
        asked = asked.or_else(|| bench.take("DescribeFleetHistory"));
    }
    let (call, _) = asked.expect("the history is asked after a while");
    let records = vec![of_history("spotInstanceCountLimitExceeded", &bench)];
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::History(records)) });
    let (_, request) = bench.take("CreateFleet").expect("another fleet at once");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!((request.lifecycle, request.target), (Lifecycle::OnDemand, 1));
    bench.tick(1_000);
    assert!(bench.take("DeleteFleets").is_some(), "the empty Spot fleet goes");
}

#[test]
fn a_crash_between_suspend_and_terminate_still_lowers_first_and_ends_exactly_that_instance() {
    let (mut bench, mut ec2) = group_scope();
    suspend(&mut bench, "p-g-0");
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    let mut bench = next;
    ec2.state = "modifying".into();
    ec2.run(&mut bench, 20);
    assert!(ec2.terminated.is_empty(), "EC2 may still be carrying out the change of the process before");
    ec2.state = "active".into();
    ec2.run(&mut bench, 20);
    assert_eq!((ec2.targets.last(), ec2.terminated.as_slice()), (Some(&1), ["i-0".to_owned()].as_slice()));
    assert_eq!(ec2.cancelled, 1, "and its Spot request");
}

#[test]
fn a_target_that_ec2_took_over_late_is_set_anew() {
    let (mut bench, mut ec2) = group_scope();
    let before = ec2.targets.len();
    ec2.run(&mut bench, 130);
    assert_eq!(ec2.targets.len(), before, "what is right is left alone");
    // A ModifyFleet that was given up for lost is carried out after the last one.
    ec2.fleets[0].target = 5;
    ec2.run(&mut bench, 130);
    assert_eq!((&ec2.targets[before..], ec2.fleets[0].target), (&[2][..], 2));
    assert!(bench.facts.iter().any(|fact| fact.kind == FactKind::FleetTargetChanged));
    assert!(ec2.terminated.is_empty());
}

#[test]
fn a_lost_journal_finds_the_groups_fleet_and_its_nodes_again() {
    let (bench, mut ec2) = group_scope();
    let mut next = Bench::with(group_of_fleet(), Persisted::default());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    // One of the two has no job and its instance no tag: its address is enough.
    next.slurm[1].base = NodeBase::Idle;
    next.instances[1].tags = [(tag::FLEET_ID.to_owned(), "fleet-g".to_owned())].into();
    ec2.run(&mut next, 400);
    assert_eq!((next.bound("p-g-0"), next.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    assert_eq!((ec2.fleets.len(), ec2.targets.last()), (1, Some(&2)));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    assert!(ec2.templates.is_empty(), "its tag says what it was made from");
}

#[test]
fn the_target_of_a_fleet_that_was_found_again_is_not_shown_before_it_is_known() {
    let (bench, mut ec2) = group_scope();
    let mut next = Bench::with(group_of_fleet(), Persisted::default());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    // As long as EC2 carries out a change, the target cannot be set anew.
    ec2.state = "modifying".into();
    ec2.run(&mut next, 20);
    assert_eq!(next.engine.fleet_reports().len(), 1, "the fleet is found");
    assert_eq!(next.engine.group_reports()[0].fleet_target, None);
    ec2.state = "active".into();
    ec2.run(&mut next, 20);
    assert_eq!(next.engine.group_reports()[0].fleet_target, Some(2));
}

#[test]
fn a_second_fleet_of_a_group_keeps_its_nodes_and_takes_no_new_ones() {
    let (bench, mut ec2) = group_scope();
    let mut twin = ec2.fleets[0].clone();
    twin.id = "fleet-twin".into();
    ec2.fleets.push(twin);
    let mut next = Bench::with(group_of_fleet(), bench.engine.persisted().clone());
    next.instances.clone_from(&bench.instances);
    next.slurm.clone_from(&bench.slurm);
    GroupEc2::launch(&mut next, "fleet-twin", "i-5");
    next.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD);
    next.slurm[2].addr = next.instances[2].private_ip.clone().unwrap();
    ec2.run(&mut next, 400);
    assert_eq!(next.bound("p-g-5"), Some("i-5"));
    assert!(ec2.terminated.is_empty() && ec2.deleted.is_empty());
    suspend(&mut next, "p-g-5");
    ec2.run(&mut next, 20);
    assert_eq!(ec2.terminated, ["i-5"]);
    assert_eq!(ec2.deleted, [("fleet-twin".to_owned(), true)]);
}

#[test]
fn a_fleet_that_an_administrator_deletes_goes_with_idle_nodes_and_not_with_busy_ones() {
    let (mut bench, mut ec2) = group_scope();
    let fleet_ids = vec!["fleet-g".to_owned()];
    bench.slurm[1].base = NodeBase::Idle;
    ec2.run(&mut bench, 70);
    assert_eq!(bench.engine.busy_nodes_of_fleet("fleet-g"), ["p-g-0"]);
    bench.give(Event::DeleteFleetsRequested { fleet_ids: fleet_ids.clone() });
    ec2.run(&mut bench, 20);
    assert!(ec2.deleted.is_empty() && ec2.terminated.is_empty());
    bench.slurm[0].base = NodeBase::Idle;
    ec2.run(&mut bench, 70);
    bench.give(Event::DeleteFleetsRequested { fleet_ids });
    ec2.run(&mut bench, 20);
    let down = bench.effects.iter().any(|effect| {
        matches!(effect, Effect::Slurm { request: SlurmRequest::UpdateNodes(update), .. }
            if update.state == Some(NodeStateChange::PowerDown) && update.names == ["p-g-0", "p-g-1"])
    });
    assert!(down, "slurmctld is told");
    // A job may have begun since the last look: Slurm decides when the nodes are down.
    assert!(ec2.deleted.is_empty() && ec2.terminated.is_empty());
    suspend(&mut bench, "p-g-0");
    suspend(&mut bench, "p-g-1");
    ec2.run(&mut bench, 20);
    assert_eq!(ec2.terminated, ["i-0", "i-1"]);
    assert_eq!(ec2.deleted, [("fleet-g".to_owned(), true)]);
}

#[test]
fn a_fleet_that_somebody_deletes_is_made_anew_for_the_next_node() {
    let (mut bench, mut ec2) = group_scope();
    ec2.deleted.push((ec2.fleets.remove(0).id, false));
    ec2.run(&mut bench, 400);
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (Some("i-0"), Some("i-1")));
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.fleets.iter().map(|fleet| fleet.target).collect::<Vec<_>>(), [1]);
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 5);
    assert_eq!(ec2.terminated, ["i-0"]);
}

#[test]
fn an_idle_group_fleet_costs_at_most_two_describes_a_minute() {
    let (mut bench, mut ec2) = group_scope_of(|group| {
        group.spot_options.instance_interruption_behavior = None;
    });
    ec2.run(&mut bench, 200);
    let before = ec2.describes;
    ec2.run(&mut bench, 600);
    assert!(ec2.describes - before <= 20, "{} calls in ten minutes", ec2.describes - before);
    // Nobody's, and with no tag of ours: found by what the fleet has more than the nodes.
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 70);
    assert_eq!(ec2.terminated, ["i-2"]);
}

#[test]
fn a_group_fleets_instance_that_ran_as_a_node_is_never_given_to_another_one() {
    let (bench, mut ec2) = group_scope();
    let persisted = Persisted { bindings: Default::default(), ..bench.engine.persisted().clone() };
    let (instances, slurm) = (bench.instances.clone(), bench.slurm.clone());
    let mut bench = Bench::with(group_of_fleet(), persisted);
    bench.instances = instances;
    bench.slurm = slurm;
    // i-0 has been p-g-0, which Slurm now has elsewhere; another node waits.
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.set_slurm("p-g-5", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    ec2.run(&mut bench, 60);
    assert_eq!(bench.bound("p-g-5"), None);
    assert_eq!(ec2.terminated, ["i-0"]);
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 70);
    assert_eq!(bench.bound("p-g-5"), Some("i-2"));
}

#[test]
fn what_a_group_fleet_holds_before_a_power_up_is_not_given_to_the_node() {
    let (mut bench, mut ec2) = group_scope_of(|group| {
        group.spot_options.instance_interruption_behavior = None;
    });
    ec2.run(&mut bench, 30);
    // EC2 has ended i-0 and launched another one, and no list has shown it yet: it has booted before the power-up,
    // and slurmctld would not let it register.
    bench.instances[0].state = InstanceState::Terminated;
    GroupEc2::launch(&mut bench, "fleet-g", "i-early");
    // The address that the node had before, by chance.
    let addr = bench.instances.last().unwrap().private_ip.clone().unwrap();
    bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.slurm.last_mut().unwrap().addr = addr;
    bench.answer_views();
    bench.wake(&["p-g-2"]);
    assert_eq!(ec2.targets, [2], "the list comes before the raise");
    ec2.run(&mut bench, 5);
    assert_eq!((bench.bound("p-g-2"), ec2.targets.last()), (None, Some(&3)));
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 5);
    assert_eq!(bench.bound("p-g-2"), Some("i-2"));
    assert_eq!(ec2.terminated, ["i-early"]);
}

#[test]
fn what_ec2_launches_for_a_member_that_ended_or_fell_asleep_before_it_was_up_is_found() {
    for state in [InstanceState::Terminated, InstanceState::Stopped] {
        let mut bench = Bench::with(group_of_fleet(), Persisted::default());
        let mut ec2 = GroupEc2::new();
        bench.tick(0);
        ec2.answer(&mut bench);
        bench.wake(&["p-g-0", "p-g-1"]);
        ec2.run(&mut bench, 5);
        GroupEc2::launch(&mut bench, "fleet-g", "i-0");
        GroupEc2::launch(&mut bench, "fleet-g", "i-1");
        ec2.run(&mut bench, 10);
        registered(&mut bench, &["p-g-1"]);
        // As much capacity as instances with nodes, and one of these gives none.
        bench.instances[0].state = state;
        if state.is_ended() {
            // EC2 does not show it any more, by its id either.
            bench.instances[0].id = "i-forgotten".into();
        }
        GroupEc2::launch(&mut bench, "fleet-g", "i-2");
        // Before EC2's silence about a member is taken for its end (`consistency_grace_s`).
        ec2.run(&mut bench, 130);
        assert_eq!(ec2.terminated, ["i-2"], "{state:?}");
    }
}

#[test]
fn an_instance_that_fell_asleep_before_it_had_a_node_is_ended_and_the_target_stays() {
    let (mut bench, mut ec2) = group_scope();
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    GroupEc2::launch(&mut bench, "fleet-g", "i-asleep");
    bench.instances.last_mut().unwrap().state = InstanceState::Stopping;
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 10);
    assert_eq!(
        (bench.bound("p-g-2"), ec2.terminated.as_slice()),
        (Some("i-2"), ["i-asleep".into()].as_slice())
    );
    assert_eq!(ec2.targets, [2, 3]);
}

#[test]
fn an_untagged_instance_of_a_group_fleet_is_adopted_by_its_own_group_alone() {
    let (mut bench, mut ec2) = group_scope();
    let mut other = group("h");
    other.scope = FleetScope::Launch;
    bench.give(site_of(vec![group_of_fleet(), other]));
    bench.set_slurm("p-h-0", NodeBase::Idle, NodeFlags::CLOUD);
    // Slurm still has the address of an instance that ended for a node of the other group.
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    let addr = bench.instances.last().unwrap().private_ip.clone().unwrap();
    bench.slurm.iter_mut().find(|node| node.name == "p-h-0").unwrap().addr = addr;
    bench.rescan(60);
    ec2.run(&mut bench, 70);
    assert_eq!(bench.bound("p-h-0"), None);
    assert_eq!(ec2.terminated, ["i-2"]);
}

#[test]
fn a_group_fleet_is_made_once_and_its_target_follows_the_nodes() {
    let (mut bench, mut ec2) = group_scope();
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2].as_slice()));
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 5);
    assert_eq!((ec2.fleets.len(), ec2.targets.as_slice()), (1, [2, 3].as_slice()));
}

#[test]
fn a_group_fleet_is_lowered_and_settled_before_exactly_one_instance_ends() {
    let (mut bench, mut ec2) = group_scope();
    ec2.state = "modifying".into();
    suspend(&mut bench, "p-g-0");
    ec2.run(&mut bench, 20);
    assert_eq!(ec2.targets.last(), Some(&1), "the target is lowered first");
    assert!(ec2.terminated.is_empty(), "not while EC2 is modifying the fleet");
    ec2.state = "active".into();
    ec2.run(&mut bench, 10);
    assert_eq!(ec2.terminated, ["i-0"]);
    assert_eq!(ec2.cancelled, 1);
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

#[test]
fn a_replacement_that_nobody_waits_for_is_ended_and_the_sleeper_is_not() {
    let (mut bench, mut ec2) = group_scope();
    bench.instances[1].state = InstanceState::Stopped;
    GroupEc2::launch(&mut bench, "fleet-g", "i-spare");
    // The fleet is looked at because another node is waking; its instance comes as well.
    bench.wake(&["p-g-2"]);
    ec2.run(&mut bench, 1);
    GroupEc2::launch(&mut bench, "fleet-g", "i-2");
    ec2.run(&mut bench, 30);
    assert_eq!(ec2.terminated.len(), 1, "{:?}", ec2.terminated);
    assert!(!ec2.terminated.contains(&"i-1".to_owned()));
    assert!(bench.bound("p-g-2").is_some());
}

#[test]
fn a_node_suspended_during_its_launch_and_woken_later_is_launched_anew() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.tick(40);
    let (call, request) = bench.take("CreateFleet").unwrap();
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    bench.give(Event::Power(PowerReading { suspended: vec!["p-g-0".into()], ..PowerReading::default() }));
    let launched = vec![bench.instance("i-0", 0, &request.client_token)];
    let reply = FleetReply {
        fleet_id: "fleet-1".into(),
        instances: vec![LaunchedInstances { ids: vec!["i-0".into()], ..LaunchedInstances::default() }],
        errors: Vec::new(),
    };
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(reply)) });
    let (call, _) = bench.take("DescribeInstances").unwrap();
    bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Instances(launched)) });
    assert_eq!(bench.bound("p-g-1"), Some("i-0"));
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (_, request) = bench.take("CreateFleet").expect("a launch of its own");
    let CloudRequest::CreateFleet(request) = request else { unreachable!() };
    assert_eq!(request.target, 1);
}

#[test]
fn where_images_read_the_name_tag_no_other_name_is_there_at_launch() {
    let mut named = group("g");
    named.naming = NodeNaming::NameTag;
    let mut bench = Bench::with(named, Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    let request = bench.launch(1);
    assert_eq!(request.instance_tags.get(tag::NAME), None);
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    assert_eq!(bench.launch(1).instance_tags[tag::NAME], "p-g");
}

#[test]
fn a_crash_before_terminating_forgets_no_instance_and_ends_none_that_slurm_wants_again() {
    for sent in [false, true] {
        for rolled_back in [false, true] {
            let mut before = Bench::up();
            before.give(Event::Power(PowerReading {
                suspended: vec!["p-g-2".into()],
                ..PowerReading::default()
            }));
            if sent {
                before.tick(40);
                assert!(before.take("TerminateInstances").is_some());
            }
            let mut bench = Bench::with(group("g"), before.engine.persisted().clone());
            bench.instances.clone_from(&before.instances);
            bench.slurm.clone_from(&before.slurm);
            if !rolled_back {
                bench.set_slurm("p-g-2", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERING_DOWN));
            }
            bench.tick(0);
            assert!(bench.take("TerminateInstances").is_none(), "not before Slurm is known");
            bench.answer_views();
            bench.tick(40);
            if rolled_back {
                assert_eq!(bench.bound("p-g-2"), Some("i-2"));
                assert!(bench.take("TerminateInstances").is_none());
                continue;
            }
            let (call, request) =
                bench.take("TerminateInstances").expect("not left to the clean-up of orphans");
            assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-2".into()] });
            let reply = CloudReply::Terminated { terminated: vec!["i-2".into()], unknown: Vec::new() };
            bench.give(Event::CloudAnswered { call, result: Ok(reply) });
            assert!(bench.engine.persisted().leaving.is_empty() && bench.engine.persisted().open.is_empty());
        }
    }
}

#[test]
fn a_reservation_that_cannot_be_tagged_as_a_whole_is_tagged_one_by_one() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0", "p-g-1"]);
    bench.launch(2);
    let missing = || CloudError {
        class: ErrorClass::NotFound,
        code: "InvalidInstanceID.NotFound".into(),
        ..capacity()
    };
    let (call, request) = bench.take("CreateTags").expect("the reservation at once");
    assert!(matches!(&request, CloudRequest::CreateTags { ids, .. } if ids.len() == 2));
    bench.give(Event::CloudAnswered { call, result: Err(missing()) });
    let mut tagged = 0;
    for _ in 0..50 {
        bench.tick(1_000);
        while let Some((call, request)) = bench.take("CreateTags") {
            let CloudRequest::CreateTags { ids, tags } = request else { unreachable!() };
            assert_eq!(ids.len(), 1);
            let known = ids[0] == "i-1" || bench.now.mono_ms > 30_000;
            tagged += usize::from(known && tags.contains_key(tag::NODE));
            let result = if known { Ok(CloudReply::Tagged) } else { Err(missing()) };
            bench.give(Event::CloudAnswered { call, result });
        }
    }
    assert_eq!(tagged, 2, "also the one that EC2 did not know for long");
}

#[test]
fn an_address_of_the_past_does_not_outweigh_the_name_that_an_instance_was_told() {
    let mut bench = Bench::new();
    let addr = bench.instance("i-0", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP);
    bench.set_slurm("p-g-0", NodeBase::Allocated, waking);
    bench.slurm[0].addr = addr;
    bench.set_slurm("p-g-1", NodeBase::Allocated, waking);
    bench.tick(0);
    bench.answer_views();
    assert_eq!((bench.bound("p-g-0"), bench.bound("p-g-1")), (None, Some("i-0")));
}

#[test]
fn an_instance_that_runs_as_a_node_is_never_given_to_another_one() {
    let mut bench = Bench::new();
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP);
    bench.set_slurm("p-g-5", NodeBase::Allocated, waking);
    bench.set_slurm("p-g-6", NodeBase::Idle, NodeFlags::CLOUD);
    for id in ["i-named", "i-unnamed"] {
        bench.instance(id, 0, "lost");
    }
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-5"), Some("i-unnamed"));
    assert_eq!(bench.engine.bound_instances().len(), 1);
}

#[test]
fn an_instance_of_a_node_that_is_powered_down_does_not_wait_for_the_grace_time() {
    let mut bench = Bench::new();
    bench.set_slurm("p-g-1", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.instance("i-0", 1, "lost");
    bench.instances[0].tags.insert(tag::NODES.into(), "p-g-[0-1]".into());
    bench.tick(0);
    bench.answer_views();
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("at once");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-0".into()] });
}

#[test]
fn a_job_that_waits_for_a_power_up_does_not_keep_the_instance_before() {
    let mut bench = Bench::new();
    let flags = NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN).with(NodeFlags::POWER_UP);
    bench.set_slurm("p-g-1", NodeBase::Allocated, flags);
    bench.slurm[0].addr = bench.instance("i-0", 0, "lost").private_ip.unwrap();
    bench.instances[0].tags.insert(tag::NODE.into(), "p-g-1".into());
    bench.tick(0);
    bench.answer_views();
    bench.tick(40);
    let (_, request) = bench.take("TerminateInstances").expect("at once");
    assert_eq!(request, CloudRequest::TerminateInstances { ids: vec!["i-0".into()] });
}

#[test]
fn of_two_instances_with_one_name_the_younger_is_the_node() {
    let mut bench = Bench::new();
    bench.set_slurm("p-g-1", NodeBase::Allocated, NodeFlags::CLOUD);
    for (index, id) in ["i-0", "i-1", "i-2"].into_iter().enumerate() {
        bench.instance(id, 0, "lost");
        bench.instances[index].tags.insert(tag::NODE.into(), "p-g-1".into());
    }
    bench.instances[1].launch_unix_ms += 500_000;
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-1"), Some("i-1"));
}

#[test]
fn the_fleet_of_a_running_job_is_not_deleted_though_no_list_shows_its_instance() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.tick(0);
    bench.answer_views();
    let fleets = vec![node_fleet("fleet-mine", "p-g-0")];
    while let Some((call, _)) = bench.take("DescribeFleets") {
        bench.give(Event::CloudAnswered { call, result: Ok(CloudReply::Fleets(fleets.clone())) });
    }
    bench.tick(1_000);
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-mine");
    assert!(bench.take("DeleteFleets").is_none());
}

#[test]
fn of_two_fleets_of_a_node_the_one_with_its_instance_is_kept() {
    let mut bench = Bench::sleeper();
    let mut old = bench.engine.persisted().fleets["p-g-0"].clone();
    old.fleet_id = "fleet-old".into();
    bench.engine.g.cx.record(Record::FleetOf { node: "p-g-0".into(), fleet: old });
    bench.rescan(61);
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn a_node_whose_fleet_is_being_made_adopts_no_other() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    let account = bench.engine.site().accounts()[0].clone();
    let left = CloudReply::Fleets(vec![node_fleet("fleet-left", "p-g-0")]);
    bench.engine.take_fleets(&account, 0, Ok(left.clone()));
    assert!(bench.engine.persisted().fleets.is_empty());
    bench.fleet_made(call, "fleet-0");
    bench.tick(181_000);
    bench.engine.take_fleets(&account, 0, Ok(left));
    bench.tick(40);
    let mut deleted = Vec::new();
    while let Some((_, CloudRequest::DeleteFleets { ids, .. })) = bench.take("DeleteFleets") {
        deleted.extend(ids);
    }
    assert!(deleted.contains(&"fleet-left".to_owned()), "{deleted:?}");
}

#[test]
fn a_deletion_under_way_goes_on_after_a_restart_unless_a_node_has_the_fleet() {
    for claimed in [false, true] {
        let mut before = Bench::sleeper();
        suspend(&mut before, "p-g-0");
        before.tick(40);
        assert!(before.take("DeleteFleets").is_some());
        // The node has another fleet by now, and the call has not been answered.
        let mut persisted = before.engine.persisted().clone();
        if !claimed {
            persisted.fleets.get_mut("p-g-0").unwrap().fleet_id = "fleet-1".into();
        }
        let mut bench = Bench::with(hibernating(), persisted);
        bench.instances.clone_from(&before.instances);
        bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
        bench.tick(0);
        bench.tick(100);
        assert!(bench.take("DeleteFleets").is_none(), "nothing is known yet");
        bench.answer_views();
        bench.tick(100);
        let deleted = bench.take("DeleteFleets").map(|(_, request)| request);
        let ids = vec!["fleet-0".to_owned()];
        let expected = CloudRequest::DeleteFleets { ids, terminate_instances: true };
        assert_eq!(deleted, (!claimed).then_some(expected));
    }
}

#[test]
fn a_restart_does_not_delete_the_fleet_that_a_node_waits_for() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    bench.fleet_made(call, "fleet-0");
    let persisted = bench.engine.persisted().clone();
    let slurm = bench.slurm.clone();
    let mut bench = Bench::with(hibernating(), persisted);
    bench.slurm = slurm;
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.tick(100);
    assert!(bench.take("DeleteFleets").is_none(), "nothing is known yet");
    bench.answer_views();
    bench.tick(100);
    assert!(bench.take("DeleteFleets").is_none());
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn a_restart_goes_on_with_the_last_launch_of_a_node_and_leaves_its_fleet_before() {
    let mut before = Bench::with(hibernating(), Persisted::default());
    before.tick(0);
    before.answer_views();
    before.wake(&["p-g-0"]);
    before.tick(40);
    let (call, _) = before.create_fleet();
    before.fleet_made(call, "fleet-0");
    // The pool stays silent: the next one is asked, and the process ends before it deletes the fleet.
    before.tick(61_000);
    before.tick(1);
    let (_, second) = before.create_fleet();
    assert!(before.take("DeleteFleets").is_none());
    let mut bench = Bench::with(hibernating(), before.engine.persisted().clone());
    bench.slurm.clone_from(&before.slurm);
    // slurmctld is silent for longer than a pool is waited for.
    bench.tick(0);
    for _ in 0..90 {
        bench.give(Event::Power(PowerReading { waking: vec!["p-g-0".into()], ..PowerReading::default() }));
        bench.tick(1_000);
    }
    assert!(bench.take("CreateFleet").is_none(), "the launch that is open is the node's");
    bench.answer_views();
    let (call, again) = bench.create_fleet();
    assert_eq!(again, second);
    bench.fleet_made(call, "fleet-1");
    bench.tick(40);
    let (_, deleted) = bench.take("DeleteFleets").expect("the silent pool's fleet");
    let ids = vec!["fleet-0".to_owned()];
    assert_eq!(deleted, CloudRequest::DeleteFleets { ids, terminate_instances: true });
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-1");
    assert!(bench.take("CreateFleet").is_none());
}

#[test]
fn a_node_that_is_to_go_down_after_its_power_up_still_waits_for_its_instance() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    let waking = NodeFlags::CLOUD.with(NodeFlags::POWERING_UP).with(NodeFlags::POWER_DOWN);
    bench.set_slurm("p-g-0", NodeBase::Allocated, waking);
    bench.tick(10);
    bench.rescan(0);
    bench.launch(1);
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}

#[test]
fn a_node_that_is_powered_down_again_is_not_taken_for_up_meanwhile() {
    let mut bench = Bench::ready();
    bench.set_slurm("p-g-0", NodeBase::Idle, NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN));
    bench.rescan(60);
    assert_eq!(bench.engine.node("p-g-0").unwrap().desire, Desire::Down);
    for (base, flags, desire) in [
        (NodeBase::Idle, NodeFlags::POWER_DOWN, Desire::Down),
        (NodeBase::Idle, NodeFlags(0), Desire::Keep),
        (NodeBase::Idle, NodeFlags::POWER_DOWN, Desire::Keep),
    ] {
        bench.set_slurm("p-g-0", base, NodeFlags::CLOUD.with(flags));
        bench.rescan(60);
        assert_eq!(bench.engine.node("p-g-0").unwrap().desire, desire);
    }
}

#[test]
fn a_full_reading_shows_what_came_up_since_the_last_differences() {
    let mut bench = Bench::ready();
    let suspended = vec!["p-g-0".to_owned(), "p-g-1".to_owned()];
    bench.give(Event::Power(PowerReading { full: true, suspended, ..PowerReading::default() }));
    let suspended = vec!["p-g-1".to_owned()];
    bench.give(Event::Power(PowerReading { full: true, suspended, ..PowerReading::default() }));
    let desires = ["p-g-0", "p-g-1"].map(|name| bench.engine.node(name).unwrap().desire);
    assert_eq!(desires, [Desire::Keep, Desire::Down]);
}

#[test]
fn an_instance_whose_fleet_is_being_deleted_is_given_to_no_node() {
    let mut bench = Bench::sleeper();
    suspend(&mut bench, "p-g-0");
    bench.tick(40);
    let (call, deletion) = bench.take("DeleteFleets").expect("the fleet goes");
    let throttled = CloudError { class: ErrorClass::Throttle, ..capacity() };
    bench.give(Event::CloudAnswered { call, result: Err(throttled) });
    // Its slurmd registers after all, and Slurm has the node up again.
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD);
    bench.slurm[0].addr = bench.instances[0].private_ip.clone().unwrap();
    bench.rescan(61);
    assert_eq!(bench.bound("p-g-0"), None);
    assert_eq!(bench.take("DeleteFleets").map(|(_, request)| request), Some(deletion));
}

#[test]
fn an_answer_about_an_earlier_address_says_nothing_of_the_present_one() {
    let mut bench = Bench::ready();
    bench.wake(&["p-g-0"]);
    bench.launch(1);
    let (call, _) = bench.take_update().expect("the address is told");
    suspend(&mut bench, "p-g-0");
    bench.tick(1_000);
    bench.wake(&["p-g-0"]);
    bench.launch(1);
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    let binding = bench.engine.binding("p-g-0").unwrap();
    assert!(!binding.told);
    let addr = binding.addr.clone();
    let (call, update) = bench.take_update().expect("the new address is told");
    assert_eq!(update.addrs, Some(vec![addr]));
    bench.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) });
    assert!(bench.engine.binding("p-g-0").unwrap().told);
}

#[test]
fn no_fleet_is_deleted_that_may_hold_the_job_of_a_node_without_a_known_instance() {
    let before = Bench::sleeper();
    let mut fleets = before.engine.persisted().fleets.clone();
    fleets.get_mut("p-g-0").unwrap().fleet_id = "fleet-1".into();
    let mut bench = Bench::with(hibernating(), Persisted { fleets, ..Persisted::default() });
    bench.slurm.clone_from(&before.slurm);
    bench.tick(0);
    bench.answer_views();
    let account = bench.engine.site().accounts()[0].clone();
    let listed = CloudReply::Fleets(vec![node_fleet("fleet-1", "p-g-0"), node_fleet("fleet-0", "p-g-0")]);
    for (base, deleted) in
        [(NodeBase::Allocated, false), (NodeBase::Allocated, false), (NodeBase::Idle, true)]
    {
        bench.set_slurm("p-g-0", base, NodeFlags::CLOUD);
        bench.rescan(181);
        bench.engine.take_fleets(&account, 0, Ok(listed.clone()));
        bench.tick(40);
        let ids = bench.take("DeleteFleets").map(|(_, request)| request);
        let expected = CloudRequest::DeleteFleets { ids: vec!["fleet-0".into()], terminate_instances: true };
        assert_eq!(ids, deleted.then_some(expected));
    }
}

#[test]
fn while_slurmctld_is_silent_no_fleet_is_an_orphan() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    for _ in 0..10 {
        let fleets = CloudReply::Fleets(vec![node_fleet("fleet-busy", "p-g-0")]);
        let account = bench.engine.site().accounts()[0].clone();
        bench.engine.take_fleets(&account, 0, Ok(fleets));
        bench.tick(60_000);
        assert!(bench.take("DeleteFleets").is_none());
    }
}

#[test]
fn a_replayed_create_fleet_does_not_delete_the_fleet_that_already_holds_the_node() {
    let mut bench = Bench::with(hibernating(), Persisted::default());
    bench.tick(0);
    bench.answer_views();
    bench.wake(&["p-g-0"]);
    bench.tick(40);
    let (call, _) = bench.create_fleet();
    let open = bench.engine.persisted().open.clone();
    bench.fleet_made(call, "fleet-0");
    // The crash lost the outcome, and not whose the fleet is.
    let persisted = Persisted { open, ..bench.engine.persisted().clone() };
    let mut bench = Bench::with(hibernating(), persisted);
    bench.set_slurm("p-g-0", NodeBase::Allocated, NodeFlags::CLOUD.with(NodeFlags::POWERING_UP));
    bench.tick(0);
    bench.answer_views();
    let (call, _) = bench.create_fleet();
    let mut instance = bench.instance("i-0", 0, "");
    instance.tags = [(tag::FLEET_ID.to_owned(), "fleet-0".to_owned())].into();
    let account = bench.engine.site().accounts()[0].clone();
    bench.engine.node_fleets.take_fleet_instances(
        &mut bench.engine.g,
        &account,
        Ok(CloudReply::Instances(vec![instance])),
    );
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
    bench.fleet_made(call, "fleet-0");
    bench.tick(1_000);
    assert!(bench.take("DeleteFleets").is_none());
    assert_eq!(bench.engine.persisted().fleets["p-g-0"].fleet_id, "fleet-0");
}

#[test]
fn an_instance_of_a_known_fleet_is_adopted_by_the_fleets_node_that_is_up_without_one() {
    let bench = Bench::sleeper();
    let instance = bench.instances[0].clone();
    let fleets = bench.engine.persisted().fleets.clone();
    let slurm = bench.slurm.clone();
    let mut bench = Bench::with(hibernating(), Persisted { fleets, ..Persisted::default() });
    bench.slurm = slurm;
    bench.slurm[0].addr = instance.private_ip.clone().unwrap();
    bench.instances = vec![instance];
    bench.tick(0);
    bench.answer_views();
    assert_eq!(bench.bound("p-g-0"), Some("i-0"));
}
