// SPDX-License-Identifier: GPL-3.0-or-later
//! The move to on-demand against an EC2 of this file: with a failure, a crash, a waking and a power-down at every
//! step in turn. Whatever happens no volume is lost, no instance is forgotten, and the node keeps its job.

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

const NODE: &str = "p-g-0";
const ROOT: &str = "vol-root";
const DATA: &str = "vol-data";
const SCRATCH: &str = "vol-scratch";
const OURS: [&str; 3] = [ROOT, DATA, SCRATCH];

#[derive(Clone, Debug)]
struct Machine {
    state: InstanceState,
    lifecycle: Lifecycle,
    tags: BTreeMap<String, String>,
    asked_to_hibernate: bool,
}

/// EC2, as far as a move sees it. What takes time is over at the next look.
#[derive(Default)]
struct Ec2 {
    machines: BTreeMap<String, Machine>,
    volumes: BTreeMap<String, Volume>,
    /// Interface: its instance and `DeleteOnTermination`.
    interfaces: BTreeMap<String, Option<(String, bool)>>,
    fleets: BTreeSet<String>,
    reservations: BTreeSet<String>,
    tokens: BTreeMap<String, String>,
    tags: BTreeMap<String, BTreeMap<String, String>>,
    deleted: Vec<String>,
    /// Instances that started with the job's root volume.
    resumed: Vec<String>,
    made: u32,
}

fn refused(code: &str) -> CloudError {
    CloudError {
        class: ErrorClass::Other,
        code: code.into(),
        message: "by the test".into(),
        request_id: None,
    }
}

impl Ec2 {
    fn new() -> Self {
        let mut ec2 = Self::default();
        let machine = Machine {
            state: InstanceState::Stopped,
            lifecycle: Lifecycle::Spot,
            tags: BTreeMap::from([("aws:ec2:fleet-id".into(), "fleet-0".into())]),
            asked_to_hibernate: true,
        };
        ec2.machines.insert("i-spot".into(), machine);
        for (id, device, deleted) in
            [(ROOT, "/dev/xvda", true), (DATA, "/dev/sdb", true), (SCRATCH, "/dev/sdc", false)]
        {
            let attachment = VolumeAttachment {
                instance_id: "i-spot".into(),
                device: device.into(),
                state: "attached".into(),
                delete_on_termination: deleted,
            };
            let volume =
                Volume { id: id.into(), size_gib: 20, attachment: Some(attachment), ..Volume::default() };
            ec2.volumes.insert(id.into(), volume);
        }
        ec2.interfaces.insert("eni-0".into(), Some(("i-spot".into(), true)));
        ec2.fleets.insert("fleet-0".into());
        ec2
    }

    fn settle(&mut self) {
        let mut ended = Vec::new();
        for (id, machine) in &mut self.machines {
            machine.state = match machine.state {
                InstanceState::Pending => InstanceState::Running,
                InstanceState::Stopping => InstanceState::Stopped,
                InstanceState::ShuttingDown => {
                    ended.push(id.clone());
                    InstanceState::Terminated
                }
                state => state,
            };
        }
        for id in ended {
            self.release(&id);
        }
        for volume in self.volumes.values_mut() {
            if let Some(attachment) = &mut volume.attachment {
                match attachment.state.as_str() {
                    "attaching" => attachment.state = "attached".into(),
                    "detaching" => volume.attachment = None,
                    _ => {}
                }
            }
        }
    }

    fn release(&mut self, instance: &str) {
        let of = |a: &VolumeAttachment| a.instance_id == instance;
        let gone: Vec<String> = self
            .volumes
            .values()
            .filter(|v| v.attachment.as_ref().is_some_and(|a| of(a) && a.delete_on_termination))
            .map(|v| v.id.clone())
            .collect();
        for id in gone {
            self.volumes.remove(&id);
            self.deleted.push(id);
        }
        for volume in self.volumes.values_mut() {
            volume.attachment.take_if(|attachment| of(attachment));
        }
        let interfaces: Vec<(String, bool)> = self
            .interfaces
            .iter()
            .filter_map(|(id, at)| at.as_ref().filter(|at| at.0 == instance).map(|at| (id.clone(), at.1)))
            .collect();
        for (id, delete) in interfaces {
            if delete {
                self.interfaces.remove(&id);
            } else {
                self.interfaces.insert(id, None);
            }
        }
    }

    fn end(&mut self, id: &str) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        match machine.state {
            InstanceState::Terminated | InstanceState::ShuttingDown => {}
            InstanceState::Stopped => {
                machine.state = InstanceState::Terminated;
                self.release(id);
            }
            _ => machine.state = InstanceState::ShuttingDown,
        }
    }

    /// EC2 has Spot capacity: it starts what it hibernated, or ends what it cannot start.
    fn wake_spot(&mut self) {
        let rooted = self.attached(ROOT).is_some_and(|a| a.instance_id == "i-spot");
        let machine = self.machines.get_mut("i-spot").unwrap();
        if machine.state != InstanceState::Stopped {
            return;
        }
        if rooted {
            machine.state = InstanceState::Running;
            self.resumed.push("i-spot".into());
        } else {
            self.end("i-spot");
        }
    }

    fn attached(&self, volume: &str) -> Option<&VolumeAttachment> {
        self.volumes.get(volume)?.attachment.as_ref()
    }

    fn instance(&self, id: &str) -> Instance {
        let machine = &self.machines[id];
        let attached = self.interfaces.values().flatten().any(|at| at.0 == id);
        Instance {
            id: id.into(),
            state: machine.state,
            private_ip: attached.then(|| "10.0.0.9".into()),
            private_dns: None,
            instance_type: "r5.large".into(),
            zone: "eu-west-1a".into(),
            subnet_id: Some("subnet-a".into()),
            lifecycle: machine.lifecycle,
            reservation_id: format!("r-{id}"),
            ami_launch_index: 0,
            launch_unix_ms: 0,
            tags: machine.tags.clone().into(),
            state_reason: None,
            spot_request_id: None,
        }
    }

    fn parts(&self, id: &str) -> InstanceParts {
        InstanceParts {
            instance: self.instance(id),
            image_id: "ami-1".into(),
            platform: "Linux/UNIX".into(),
            key_name: None,
            instance_profile_arn: None,
            tenancy: Some("default".into()),
            placement_group: None,
            ebs_optimized: true,
            metadata: InstanceMetadata::default(),
            cpu: None,
            root_device: "/dev/xvda".into(),
            devices: self
                .volumes
                .values()
                .filter_map(|volume| {
                    let attachment = volume.attachment.as_ref().filter(|a| a.instance_id == id)?;
                    Some(AttachedVolume {
                        device: attachment.device.clone(),
                        volume_id: volume.id.clone(),
                        delete_on_termination: attachment.delete_on_termination,
                    })
                })
                .collect(),
            interfaces: self
                .interfaces
                .iter()
                .filter_map(|(interface, at)| {
                    let (_, delete) = at.as_ref().filter(|at| at.0 == id)?;
                    Some(AttachedInterface {
                        place: InterfacePlace {
                            interface_id: interface.clone(),
                            ..InterfacePlace::default()
                        },
                        attachment_id: format!("at-{id}"),
                        delete_on_termination: *delete,
                    })
                })
                .collect(),
        }
    }

    fn once(&mut self, token: &str, prefix: &str) -> (String, bool) {
        if let Some(id) = self.tokens.get(token) {
            return (id.clone(), false);
        }
        self.made += 1;
        let id = format!("{prefix}-{}", self.made);
        self.tokens.insert(token.into(), id.clone());
        (id, true)
    }

    #[allow(clippy::too_many_lines)]
    fn perform(&mut self, request: &CloudRequest) -> CloudResult {
        match request {
            CloudRequest::DescribeCluster { .. } => {
                self.settle();
                let alive =
                    self.machines.iter().filter(|(_, m)| !m.state.is_ended()).map(|(id, _)| id.clone());
                Ok(CloudReply::Instances(alive.map(|id| self.instance(&id)).collect()))
            }
            CloudRequest::DescribeInstances { ids } => {
                let known = ids.iter().filter(|id| self.machines.contains_key(*id));
                Ok(CloudReply::Instances(known.map(|id| self.instance(id)).collect()))
            }
            CloudRequest::DescribeParts { instances, volumes } => {
                self.settle();
                let known = instances.iter().filter(|id| self.machines.contains_key(*id));
                Ok(CloudReply::Parts {
                    instances: known.map(|id| self.parts(id)).collect(),
                    volumes: volumes.iter().filter_map(|id| self.volumes.get(id)).cloned().collect(),
                })
            }
            CloudRequest::DescribeFleets { .. } => Ok(CloudReply::Fleets(Vec::new())),
            CloudRequest::CreateTags { ids, tags } => {
                for id in ids {
                    self.tags.entry(id.clone()).or_default().extend(tags.clone());
                }
                Ok(CloudReply::Tagged)
            }
            CloudRequest::TerminateInstances { ids } => {
                for id in ids {
                    self.end(id);
                }
                Ok(CloudReply::Terminated { terminated: ids.clone(), unknown: Vec::new() })
            }
            CloudRequest::DeleteFleets { ids, terminate_instances } => {
                assert!(terminate_instances);
                let (deleted, gone): (Vec<_>, Vec<_>) =
                    ids.iter().cloned().partition(|id| self.fleets.remove(id));
                self.end("i-spot");
                let failed = gone.into_iter().map(|id| (id, "fleetNotInDeletableState".to_owned())).collect();
                Ok(CloudReply::Deleted { deleted, failed })
            }
            CloudRequest::CreateCapacityReservation(request) => {
                let (id, new) = self.once(&request.client_token, "cr");
                if new {
                    self.reservations.insert(id.clone());
                }
                Ok(CloudReply::Reserved { id })
            }
            CloudRequest::CancelCapacityReservation { id } => {
                self.reservations.remove(id);
                Ok(CloudReply::Accepted)
            }
            CloudRequest::RunInstance(run) if run.rehearsal => Ok(CloudReply::Accepted),
            CloudRequest::RunInstance(run) => {
                assert!(self.reservations.contains(run.capacity_reservation_id.as_ref().unwrap()));
                let (id, new) = self.once(&run.client_token, "i-od");
                if new {
                    for place in &run.interfaces {
                        match self.interfaces.get(&place.interface_id) {
                            Some(None) => {}
                            _ => return Err(refused("InvalidNetworkInterface.InUse")),
                        }
                        self.interfaces.insert(place.interface_id.clone(), Some((id.clone(), false)));
                    }
                    let machine = Machine {
                        state: InstanceState::Pending,
                        lifecycle: Lifecycle::OnDemand,
                        tags: run.tags.clone(),
                        asked_to_hibernate: false,
                    };
                    self.machines.insert(id.clone(), machine);
                    let own = format!("own-{id}");
                    let attachment = VolumeAttachment {
                        instance_id: id.clone(),
                        device: run.root.device.clone(),
                        state: "attached".into(),
                        delete_on_termination: true,
                    };
                    let volume =
                        Volume { id: own.clone(), attachment: Some(attachment), ..Volume::default() };
                    self.volumes.insert(own, volume);
                }
                Ok(CloudReply::Instances(vec![self.instance(&id)]))
            }
            CloudRequest::StopInstance { id, hibernate } => {
                let machine = self.machines.get_mut(id).unwrap();
                if machine.state != InstanceState::Running {
                    return Err(refused("IncorrectInstanceState"));
                }
                machine.state = InstanceState::Stopping;
                machine.asked_to_hibernate = *hibernate;
                Ok(CloudReply::Accepted)
            }
            CloudRequest::StartInstance { id } => {
                let root = self.attached(ROOT).is_some_and(|a| a.instance_id == *id && a.state == "attached");
                let machine = self.machines.get_mut(id).unwrap();
                if machine.state != InstanceState::Stopped || !root {
                    return Err(refused("IncorrectInstanceState"));
                }
                machine.state = InstanceState::Pending;
                self.resumed.push(id.clone());
                Ok(CloudReply::Accepted)
            }
            CloudRequest::AttachVolume { volume, instance, device } => {
                let state = self.machines.get(instance).map(|machine| machine.state);
                let taken = self.parts(instance).devices.iter().any(|other| other.device == *device);
                let Some(found) = self.volumes.get_mut(volume) else {
                    return Err(refused("InvalidVolume.NotFound"));
                };
                if found.attachment.is_some() || taken {
                    return Err(refused("VolumeInUse"));
                }
                if !matches!(state, Some(InstanceState::Running | InstanceState::Stopped)) {
                    return Err(refused("IncorrectState"));
                }
                found.attachment = Some(VolumeAttachment {
                    instance_id: instance.clone(),
                    device: device.clone(),
                    state: "attaching".into(),
                    delete_on_termination: false,
                });
                Ok(CloudReply::Accepted)
            }
            CloudRequest::DetachVolume { volume, instance } => {
                let stopped = self.machines[instance].state == InstanceState::Stopped;
                let found = self.volumes.get_mut(volume).and_then(|v| v.attachment.as_mut());
                match found {
                    Some(attachment) if attachment.instance_id == *instance && stopped => {
                        attachment.state = "detaching".into();
                        Ok(CloudReply::Accepted)
                    }
                    _ => Err(refused("IncorrectState")),
                }
            }
            CloudRequest::DeleteVolume { volume } => {
                match self.volumes.get(volume) {
                    Some(Volume { attachment: None, .. }) => {}
                    _ => return Err(refused("VolumeInUse")),
                }
                self.volumes.remove(volume);
                self.deleted.push(volume.clone());
                Ok(CloudReply::Accepted)
            }
            CloudRequest::SetVolumeDeletion { instance, devices } => {
                for volume in self.volumes.values_mut() {
                    if let Some(attachment) = &mut volume.attachment
                        && attachment.instance_id == *instance
                        && let Some(delete) = devices.get(&attachment.device)
                    {
                        attachment.delete_on_termination = *delete;
                    }
                }
                Ok(CloudReply::Accepted)
            }
            CloudRequest::SetInterfaceDeletion { interface, delete_on_termination, .. } => {
                match self.interfaces.get_mut(interface) {
                    Some(Some(at)) => at.1 = *delete_on_termination,
                    _ => return Err(refused("IncorrectState")),
                }
                Ok(CloudReply::Accepted)
            }
            other => panic!("{other:?}"),
        }
    }
}

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
