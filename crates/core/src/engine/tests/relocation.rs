// SPDX-License-Identifier: GPL-3.0-or-later
//! The move to on-demand against an EC2 of this file: with a failure, a crash, a waking and a power-down at every
//! step in turn. Whatever happens no volume is lost, no instance is forgotten, and the node keeps its job.

mod ec2;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hibernating;
use crate::ec2_api::{
    AttachedInterface, AttachedVolume, CloudError, CloudReply, CloudRequest, CloudResult, ErrorClass,
    Instance, InstanceMetadata, InstanceParts, InstanceState, InterfacePlace, Volume, VolumeAttachment,
};
use crate::engine::{Engine, EngineOptions, PowerSource};
use crate::event::{Effect, Event};
use crate::fact::{Fact, FactKind};
use crate::record::{Binding, NodeFleet, Persisted, Record, TagLevel};
use crate::site::{Account, AfterMaxHibernation, Lifecycle, Settings, Site};
use crate::slurm_api::{
    NodeBase, NodeFlags, NodeStateChange, PowerReading, SlurmNode, SlurmReply, SlurmRequest,
};
use crate::tag;
use crate::time::Now;

use ec2::*;

const NODE: &str = "p-g-0";
const ROOT: &str = "vol-root";
const DATA: &str = "vol-data";
const SCRATCH: &str = "vol-scratch";
const OURS: [&str; 3] = [ROOT, DATA, SCRATCH];

/// What happens at the call of this number, counted over the calls that change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Refuse,
    /// This action is refused from here on.
    RefuseAlways,
    LoseReply,
    CrashBefore,
    CrashAfter,
    SpotCapacity,
    PowerDown,
    /// EC2 ends the on-demand instance, if there is one.
    Lose,
}

struct Night {
    engine: Engine,
    now: Now,
    ec2: Ec2,
    journal: Persisted,
    facts: Vec<Fact>,
    slurm: SlurmNode,
    at: usize,
    trouble: Option<Trouble>,
    refused: Option<&'static str>,
    changes: Vec<&'static str>,
    alive_at: u64,
    forced: bool,
}

fn account() -> Account {
    Account { region: "eu-west-1".into(), profile: None }
}

fn site() -> Arc<Site> {
    let mut group = hibernating();
    group.hibernation.max_minutes = Some(5);
    group.hibernation.after_max = AfterMaxHibernation::OnDemand;
    Arc::new(Site::new("c".into(), Vec::new(), vec![group], Settings::default()))
}

impl Night {
    fn new(at: usize, trouble: Option<Trouble>) -> Self {
        let now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
        let binding = Binding {
            node: NODE.into(),
            instance_id: "i-spot".into(),
            account: account(),
            launch: None,
            addr: "10.0.0.9".into(),
            hostname: "ip-10-0-0-9".into(),
            instance_type: "r5.large".into(),
            zone: "eu-west-1a".into(),
            lifecycle: Lifecycle::Spot,
            reservation_id: "r-0".into(),
            ami_launch_index: 0,
            bound_unix_ms: 0,
            tags: TagLevel::Full,
            told: true,
            fleet: None,
        };
        let fleet = NodeFleet {
            fleet_id: "fleet-0".into(),
            account: account(),
            lifecycle: Lifecycle::Spot,
            instance_type: "r5.large".into(),
            subnet_id: None,
            launch: "t".into(),
            created_unix_ms: 0,
        };
        let mut journal = Persisted::default();
        journal.apply(&Record::FleetOf { node: NODE.into(), fleet });
        journal.apply(&Record::Bound { bindings: vec![binding] });
        let slurm = SlurmNode {
            name: NODE.into(),
            addr: "10.0.0.9".into(),
            base: NodeBase::Allocated,
            flags: NodeFlags::CLOUD,
            ..SlurmNode::default()
        };
        Self {
            engine: Self::engine(journal.clone(), now),
            now,
            ec2: Ec2::new(),
            journal,
            facts: Vec::new(),
            slurm,
            at,
            trouble,
            refused: None,
            changes: Vec::new(),
            alive_at: now.mono_ms,
            forced: false,
        }
    }

    fn engine(journal: Persisted, now: Now) -> Engine {
        // A crash in between: what the journal's file gives back.
        let text = serde_json::to_string(&journal).unwrap();
        let journal: Persisted = serde_json::from_str(&text).unwrap();
        let options = EngineOptions { source: PowerSource::Watch, nonce: "abc".into(), seed: 3 };
        Engine::new(site(), journal, options, now)
    }

    fn crash(&mut self) {
        self.engine = Self::engine(self.journal.clone(), self.now);
    }

    /// True if the process died while it worked on this step.
    fn give(&mut self, event: Event) -> bool {
        let step = self.engine.step(event, self.now);
        for record in &step.records {
            self.journal.apply(record);
        }
        assert_eq!(&self.journal, self.engine.persisted());
        self.facts.extend(step.facts);
        for effect in step.effects {
            let died = match effect {
                Effect::Cloud { call, request, .. } => self.cloud(call, &request),
                Effect::Slurm { call, request } => self.slurm(call, request),
                Effect::ReadPower => false,
            };
            if died {
                return true;
            }
        }
        false
    }

    fn cloud(&mut self, call: u64, request: &CloudRequest) -> bool {
        let changes = Effect::Cloud { call, account: account(), request: request.clone() }.needs_sync()
            // The tags of bound instances are no step of a move.
            && !matches!(request, CloudRequest::CreateTags { ids, .. } if ids.iter().any(|id| id.starts_with("i-")));
        let mut result = None;
        let mut died = false;
        if changes {
            let here = self.changes.len() == self.at;
            self.changes.push(request.action());
            if here {
                match self.trouble {
                    Some(Trouble::Refuse) => result = Some(Err(refused("Refused"))),
                    Some(Trouble::RefuseAlways) => self.refused = Some(request.action()),
                    Some(Trouble::LoseReply) => {
                        let _lost = self.ec2.perform(request);
                        let class = ErrorClass::Transient;
                        result = Some(Err(CloudError { class, ..refused("Timeout") }));
                    }
                    Some(Trouble::CrashBefore) => {
                        self.crash();
                        return true;
                    }
                    Some(Trouble::CrashAfter) => died = true,
                    Some(Trouble::SpotCapacity) => self.ec2.wake_spot(),
                    Some(Trouble::PowerDown) => {
                        self.slurm.base = NodeBase::Idle;
                        self.slurm.flags = self.slurm.flags.with(NodeFlags::POWERING_DOWN);
                    }
                    Some(Trouble::Lose) => {
                        let new: Vec<String> =
                            self.ec2.machines.keys().filter(|id| id.starts_with("i-od")).cloned().collect();
                        for id in new {
                            self.ec2.end(&id);
                        }
                    }
                    None => {}
                }
            }
            if self.refused == Some(request.action()) {
                result = Some(Err(refused("RefusedAlways")));
            }
        }
        let result = result.unwrap_or_else(|| self.ec2.perform(request));
        self.check();
        if died {
            self.crash();
            return true;
        }
        self.give(Event::CloudAnswered { call, result })
    }

    fn slurm(&mut self, call: u64, request: SlurmRequest) -> bool {
        let reply = match request {
            SlurmRequest::LoadNodes => SlurmReply::Nodes(vec![self.slurm.clone()]),
            SlurmRequest::KeepResponding { nodes } => {
                assert_eq!(nodes, [NODE]);
                self.alive_at = self.now.mono_ms;
                SlurmReply::Done
            }
            SlurmRequest::UpdateNodes(update) => {
                match update.state {
                    Some(NodeStateChange::PowerDownForce) => {
                        self.forced = true;
                        self.slurm.flags = self.slurm.flags.with(NodeFlags::POWERING_DOWN);
                    }
                    Some(NodeStateChange::Drain) => {
                        self.slurm.flags = self.slurm.flags.with(NodeFlags::DRAIN);
                        self.slurm.reason = update.reason;
                    }
                    Some(NodeStateChange::Undrain) => {
                        self.slurm.flags = self.slurm.flags.without(NodeFlags::DRAIN);
                    }
                    _ => {}
                }
                SlurmReply::Done
            }
            _ => SlurmReply::Done,
        };
        self.give(Event::SlurmAnswered { call, result: Ok(reply) })
    }

    /// What holds at every moment.
    fn check(&self) {
        let down = self.slurm.flags.has(NodeFlags::POWERING_DOWN);
        for id in OURS {
            assert!(down || self.ec2.volumes.contains_key(id), "{id} is lost: {:?}", self.changes);
        }
        assert!(down || self.ec2.interfaces.contains_key("eni-0"), "the interface is lost");
        assert!(self.ec2.resumed.len() <= 1, "the memory image is used once: {:?}", self.ec2.resumed);
        let awake = self
            .bound()
            .is_some_and(|id| self.ec2.machines.get(&id).is_some_and(|m| m.state == InstanceState::Running));
        let silent = self.now.mono_ms - self.alive_at;
        assert!(down || awake || silent < 150_000, "silent for {silent} ms: {:?}", self.changes);
    }

    fn bound(&self) -> Option<String> {
        self.journal.bindings.get(NODE).map(|binding| binding.instance_id.clone())
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.plus(1_000);
            if self.slurm.flags.has(NodeFlags::POWERING_DOWN) {
                let power = PowerReading { suspended: vec![NODE.into()], ..PowerReading::default() };
                self.give(Event::Power(power));
            }
            self.give(Event::Tick);
            self.check();
        }
    }

    fn alive(&self) -> Vec<&str> {
        let alive = self.ec2.machines.iter().filter(|(_, machine)| !machine.state.is_ended());
        alive.map(|(id, _)| id.as_str()).collect()
    }

    fn facts_of(&self, kind: FactKind) -> Vec<&Fact> {
        self.facts.iter().filter(|fact| fact.kind == kind).collect()
    }

    /// Everything belongs to this instance as it belonged to the Spot instance, and nothing else is there.
    fn assert_whole(&self, on: &str) {
        let context = format!("{:?} at {} of {:?}", self.trouble, self.at, self.changes);
        assert_eq!(self.alive(), [on], "{context}");
        assert_eq!(self.bound().as_deref(), Some(on), "{context}");
        assert_eq!(self.ec2.volumes.keys().collect::<Vec<_>>(), [DATA, ROOT, SCRATCH], "{context}");
        for (id, deleted) in [(ROOT, true), (DATA, true), (SCRATCH, false)] {
            let attachment =
                self.ec2.attached(id).unwrap_or_else(|| panic!("{id} is not attached: {context}"));
            let found = (attachment.instance_id.as_str(), attachment.delete_on_termination);
            assert_eq!(found, (on, deleted), "{id} {context}");
        }
        assert_eq!(self.ec2.interfaces["eni-0"], Some((on.to_owned(), true)), "{context}");
        assert!(self.ec2.reservations.is_empty(), "{context}");
        assert!(!self.forced && self.journal.relocations.is_empty(), "{context}");
        assert!(self.journal.open.is_empty(), "{context}: {:?}", self.journal.open);
    }

    fn assert_moved(&self) {
        let on = self.bound().unwrap_or_default();
        assert!(on.starts_with("i-od"), "{on}: {:?} at {} of {:?}", self.trouble, self.at, self.changes);
        self.assert_whole(&on);
        assert_eq!(self.ec2.resumed, [on]);
        assert!(self.ec2.fleets.is_empty(), "EC2 would launch another");
        assert!(!self.slurm.flags.has(NodeFlags::DRAIN), "open to jobs again");
        assert_eq!(self.journal.bindings[NODE].lifecycle, Lifecycle::OnDemand);
    }

    fn assert_undone(&self) {
        self.assert_whole("i-spot");
        assert!(self.ec2.fleets.contains("fleet-0"));
        assert!(!self.facts_of(FactKind::MoveFailed).is_empty(), "{:?}", self.facts);
    }
}

/// The calls of a move in which nothing goes wrong.
fn calls() -> Vec<&'static str> {
    let mut night = Night::new(usize::MAX, None);
    night.run(600);
    night.assert_moved();
    night.changes
}

#[test]
fn a_long_sleep_goes_on_as_an_on_demand_instance() {
    assert_eq!(
        calls(),
        [
            "CreateCapacityReservation",
            "RunInstances",
            "CreateTags",
            "ModifyInstanceAttribute",
            "ModifyNetworkInterfaceAttribute",
            "DetachVolume",
            "DetachVolume",
            "DetachVolume",
            "DeleteFleets",
            "RunInstances",
            "StopInstances",
            "DetachVolume",
            "AttachVolume",
            "AttachVolume",
            "AttachVolume",
            "StartInstances",
            "ModifyInstanceAttribute",
            "ModifyNetworkInterfaceAttribute",
            "DeleteVolume",
            "CancelCapacityReservation",
            "CreateTags",
        ]
    );
}

#[test]
fn nothing_moves_before_the_time_or_where_the_site_waits() {
    let mut night = Night::new(usize::MAX, None);
    night.run(290);
    assert_eq!(night.changes, Vec::<&str>::new());
}

#[test]
fn a_call_that_is_refused_once_leaves_the_node_whole() {
    for at in 0..calls().len() {
        let mut night = Night::new(at, Some(Trouble::Refuse));
        night.run(1_200);
        // The two that decide whether EC2 can do it at all are not repeated at once.
        if at < 2 {
            assert!(!night.facts_of(FactKind::MoveFailed).is_empty());
        }
        night.assert_moved();
    }
}

#[test]
fn a_reply_that_is_lost_leaves_the_node_whole() {
    for at in 0..calls().len() {
        let mut night = Night::new(at, Some(Trouble::LoseReply));
        night.run(1_200);
        night.assert_moved();
    }
}

#[test]
fn a_crash_at_any_call_is_recovered_from() {
    for trouble in [Trouble::CrashBefore, Trouble::CrashAfter] {
        for at in 0..calls().len() {
            let mut night = Night::new(at, Some(trouble));
            night.run(1_200);
            night.assert_moved();
        }
    }
}

#[test]
fn a_call_that_is_always_refused_is_undone_or_stands_still_with_every_volume() {
    let calls = calls();
    let no_return = calls.iter().position(|call| *call == "DeleteFleets").unwrap();
    for (at, call) in calls.iter().enumerate() {
        let mut night = Night::new(at, Some(Trouble::RefuseAlways));
        night.run(590);
        let context = format!("{call} ({at}) of {:?}", night.changes);
        if at < no_return {
            night.assert_undone();
        } else {
            let told = night
                .facts
                .iter()
                .filter(|fact| {
                    matches!(
                        fact.kind,
                        FactKind::MoveDelayed | FactKind::VolumesLeft | FactKind::TerminateFailed
                    )
                })
                .count();
            assert!(told > 0, "{context}");
        }
        assert!(OURS.iter().all(|id| night.ec2.volumes.contains_key(*id)), "{context}");
        assert!(night.bound().is_some() && !night.forced, "{context}");
        // The fault is mended: whatever stood still goes on.
        night.refused = None;
        night.run(1_200);
        assert!(night.bound().unwrap().starts_with("i-od"), "{context}");
        assert_eq!(night.alive().len(), 1, "{context}");
        assert!(OURS.iter().all(|id| night.ec2.volumes.contains_key(*id)), "{context}");
    }
}

#[test]
fn spot_capacity_that_returns_during_the_move_is_used_or_does_no_harm() {
    let calls = calls();
    let root_detached = calls.iter().position(|call| *call == "DetachVolume").unwrap();
    for at in 0..calls.len() {
        let mut night = Night::new(at, Some(Trouble::SpotCapacity));
        night.run(900);
        if at <= root_detached {
            night.assert_whole("i-spot");
            assert_eq!(night.ec2.resumed, ["i-spot"], "{at}");
            assert!(!night.slurm.flags.has(NodeFlags::DRAIN), "awake");
        } else {
            night.assert_moved();
        }
    }
}

#[test]
fn an_on_demand_instance_that_ends_before_it_runs_the_job_is_replaced() {
    let calls = calls();
    let started = calls.iter().position(|call| *call == "StartInstances").unwrap();
    for at in 0..started {
        let mut night = Night::new(at, Some(Trouble::Lose));
        night.run(900);
        night.assert_moved();
    }
}

#[test]
fn a_node_that_is_powered_down_during_the_move_leaves_no_instance_and_names_its_volumes() {
    for at in 0..calls().len() {
        let mut night = Night::new(at, Some(Trouble::PowerDown));
        night.run(900);
        let context = format!("at {at} of {:?}", night.changes);
        assert_eq!(night.alive(), Vec::<&str>::new(), "{context}");
        assert!(night.ec2.fleets.is_empty() && night.ec2.reservations.is_empty(), "{context}");
        assert!(night.bound().is_none() && night.journal.relocations.is_empty(), "{context}");
        assert!(!night.ec2.volumes.keys().any(|id| id.starts_with("own-")), "{context}");
        let told: String =
            night.facts_of(FactKind::VolumesLeft).iter().map(|fact| fact.text.as_str()).collect();
        for id in night.ec2.volumes.keys().filter(|id| *id != SCRATCH) {
            assert!(told.contains(id.as_str()), "{id} is left and not named {context}: {told}");
            assert_eq!(night.ec2.tags[id][tag::RELOCATION], tag::LEFT_OVER, "{context}");
        }
    }
}

#[test]
fn without_on_demand_capacity_nothing_is_touched() {
    let mut night = Night::new(0, Some(Trouble::RefuseAlways));
    night.run(590);
    night.assert_undone();
    assert_eq!(night.changes, ["CreateCapacityReservation"]);
    let text = &night.facts_of(FactKind::MoveFailed)[0].text;
    assert!(text.contains("CreateCapacityReservation") && text.contains("waits"), "{text}");
    night.run(310);
    assert_eq!(night.changes.len(), 2, "tried again after MaxHibernationMin");
}
