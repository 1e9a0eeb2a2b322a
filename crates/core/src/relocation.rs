// SPDX-License-Identifier: GPL-3.0-or-later
//! Moving a hibernated Spot instance's disks and interfaces to an on-demand instance, step by step.
//!
//! Each step looks at what EC2 has and says the one thing to do next, so that a step which was interrupted at any
//! moment goes on where it was. Until the Spot instance is ended everything can be put back. Its root volume is
//! detached before that: EC2 detaches it from a stopped instance only, so from then on EC2 cannot wake the instance
//! with this memory image. No volume of the job is ever deletable between the first step and the last.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ec2_api::{
    AttachedInterface, CloudRequest, CreateCapacityReservation, Instance, InstanceParts, InstanceState,
    InterfacePlace, RootVolume, RunInstance, Volume,
};
use super::site::Account;
use super::tag;

/// A capacity reservation that was forgotten costs this much time at most.
const RESERVE_MS: u64 = 60 * 60_000;
/// One that ends sooner than this is replaced before it is used.
const RESERVE_LEFT_MS: u64 = 30 * 60_000;
/// An instance that EC2 has confirmed and does not show for this long is gone.
const NOT_SHOWN_MS: u64 = 10 * 60_000;
/// Between two looks at something that EC2 is doing.
const LOOK_MS: u64 = 2_000;

/// How far a move has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// What the instance is made of.
    #[default]
    Inspect,
    /// On-demand capacity, before anything is changed.
    Reserve,
    /// Whether EC2 would accept the launch.
    Rehearse,
    /// Tags by which an administrator finds the volumes and interfaces.
    Mark,
    /// `DeleteOnTermination` off.
    Keep,
    Detach,
    /// No way back from here.
    EndSpot,
    Launch,
    Hibernate,
    /// The new instance's own volumes go.
    Strip,
    Attach,
    Start,
    /// The node runs; `DeleteOnTermination` as it was.
    Restore,
    /// What the move needed is deleted.
    Settle,
    /// Everything as it was before.
    Undo,
    /// The node is not wanted any more, or a volume is lost.
    Abandon,
}

impl Stage {
    pub const ALL: [Self; 16] = [
        Self::Inspect,
        Self::Reserve,
        Self::Rehearse,
        Self::Mark,
        Self::Keep,
        Self::Detach,
        Self::EndSpot,
        Self::Launch,
        Self::Hibernate,
        Self::Strip,
        Self::Attach,
        Self::Start,
        Self::Restore,
        Self::Settle,
        Self::Undo,
        Self::Abandon,
    ];

    /// What is being done, for people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Inspect => "looks at the hibernated instance",
            Self::Reserve => "reserves on-demand capacity",
            Self::Rehearse => "asks EC2 whether it would launch the new instance",
            Self::Mark => "tags the volumes and interfaces",
            Self::Keep => "keeps the volumes and interfaces from being deleted with the instance",
            Self::Detach => "detaches the volumes",
            Self::EndSpot => "ends the Spot instance",
            Self::Launch => "launches the on-demand instance",
            Self::Hibernate => "hibernates the on-demand instance",
            Self::Strip => "takes its own volumes from the on-demand instance",
            Self::Attach => "attaches the job's volumes to the on-demand instance",
            Self::Start => "starts the on-demand instance from the job's memory image",
            Self::Restore => "lets the volumes be deleted with their instance again",
            Self::Settle => "deletes what the move needed",
            Self::Undo => "puts everything back",
            Self::Abandon => "gives the move up",
        }
    }
}

/// A volume of the job. The first of a relocation is the root volume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MovedVolume {
    pub volume_id: String,
    pub device: String,
    /// As it was on the Spot instance.
    pub delete_on_termination: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MovedInterface {
    pub place: InterfacePlace,
    pub delete_on_termination: bool,
}

/// One move. All that is needed to go on with it after a crash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relocation {
    pub node: String,
    pub cluster: String,
    pub account: Account,
    pub stage: Stage,
    /// The hibernated Spot instance.
    pub from: String,
    pub fleet_id: String,
    /// Client tokens begin with this.
    pub token: String,
    /// Makes the token of a launch that is begun anew another one.
    pub tries: u32,
    /// Tags of the new instance from its birth, without its launch token.
    pub tags: BTreeMap<String, String>,
    pub begun_unix_ms: u64,
    pub asleep_since_unix_ms: u64,
    #[serde(default)]
    pub zone: String,
    #[serde(default)]
    pub platform: String,
    #[serde(default)]
    pub launch: RunInstance,
    #[serde(default)]
    pub volumes: Vec<MovedVolume>,
    #[serde(default)]
    pub interfaces: Vec<MovedInterface>,
    #[serde(default)]
    pub reservation: Option<String>,
    #[serde(default)]
    pub reserved_until_unix_ms: u64,
    /// Reservations that could not be used.
    #[serde(default)]
    pub spent_reservations: Vec<String>,
    /// The on-demand instance.
    #[serde(default)]
    pub to: Option<String>,
    #[serde(default)]
    pub to_unix_ms: u64,
    /// Volumes that new instances were born with.
    #[serde(default)]
    pub own_volumes: Vec<String>,
    /// The value of [`tag::RELOCATION`] that the volumes have now.
    #[serde(default)]
    pub tagged: Option<String>,
    /// The node was given to the on-demand instance.
    #[serde(default)]
    pub moved: bool,
    /// The node is not wanted any more.
    #[serde(default)]
    pub abandoned: bool,
    /// Why it is undone or given up.
    #[serde(default)]
    pub problem: Option<String>,
}

/// What EC2 has, as far as a move is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub instances: &'a [InstanceParts],
    pub volumes: &'a [Volume],
    /// EC2 has confirmed that the Spot instance's fleet is deleted.
    pub fleet_gone: bool,
    pub unix_ms: u64,
}

impl<'a> Sight<'a> {
    fn instance(&self, id: &str) -> Option<&'a InstanceParts> {
        self.instances.iter().find(|parts| parts.instance.id == id)
    }

    fn volume(&self, id: &str) -> Option<&'a Volume> {
        self.volumes.iter().find(|volume| volume.id == id)
    }
}

/// The one thing to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Remember this, and ask again.
    Change(Box<Relocation>),
    /// Look again now: something was learned that the last look did not include.
    Look,
    /// EC2 is at work, or nothing can be done: look again after so many milliseconds.
    Wait(u64),
    Call(CloudRequest),
    /// Delete the Spot instance's fleet, and the instance with it.
    EndFleet,
    /// The on-demand instance runs: the node is its.
    Bind(Box<Instance>),
    Over(End),
}

/// How a move ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Moved,
    /// Nothing is different from before the move.
    Undone,
    /// The Spot instance and its node are gone; what is left of them.
    Left {
        volumes: Vec<String>,
        interfaces: Vec<String>,
    },
}

impl Relocation {
    /// Instances and volumes that a decision needs to know.
    #[must_use]
    pub fn look(&self) -> CloudRequest {
        let mut instances = vec![self.from.clone()];
        instances.extend(self.to.clone());
        let mut volumes: Vec<String> = self.volumes.iter().map(|v| v.volume_id.clone()).collect();
        volumes.extend(self.own_volumes.iter().cloned());
        CloudRequest::DescribeParts { instances, volumes }
    }

    /// What may be told of a move that has ended or stands still.
    #[must_use]
    pub fn volume_ids(&self) -> Vec<String> {
        self.volumes.iter().map(|volume| volume.volume_id.clone()).collect()
    }

    #[must_use]
    pub fn interface_ids(&self) -> Vec<String> {
        self.interfaces.iter().map(|interface| interface.place.interface_id.clone()).collect()
    }

    #[must_use]
    pub fn launch_token(&self) -> String {
        format!("{}-{}", self.token, self.tries)
    }

    /// The decision. It changes nothing; after each answer of EC2 it is asked again.
    #[must_use]
    pub fn next(&self, sight: &Sight) -> Next {
        match self.stage {
            Stage::Inspect => self.inspect(sight),
            Stage::Reserve | Stage::Rehearse | Stage::Mark | Stage::Keep | Stage::Detach => {
                self.prepare(sight)
            }
            Stage::EndSpot => self.end_spot(sight),
            Stage::Launch => self.launch(sight),
            Stage::Hibernate => self.hibernate(sight),
            Stage::Strip => self.strip(sight),
            Stage::Attach => self.attach(sight),
            Stage::Start => self.start(sight),
            Stage::Restore => self.restore(sight),
            Stage::Settle => self.settle(sight),
            Stage::Undo => self.undo(sight),
            Stage::Abandon => self.abandon(sight),
        }
    }

    fn changed(&self, change: impl FnOnce(&mut Self)) -> Next {
        let mut next = self.clone();
        change(&mut next);
        Next::Change(Box::new(next))
    }

    fn to_stage(&self, stage: Stage) -> Next {
        self.changed(|next| next.stage = stage)
    }

    fn because(&self, stage: Stage, problem: impl Into<String>) -> Next {
        let problem = problem.into();
        self.changed(|next| {
            next.stage = stage;
            next.problem = Some(problem);
        })
    }

    fn owns(&self, volume: &str) -> bool {
        self.volumes.iter().any(|own| own.volume_id == volume)
    }

    fn spot_is_alive(&self, sight: &Sight) -> bool {
        sight.instance(&self.from).is_some_and(|parts| !parts.instance.state.is_ended())
    }

    fn on_spot(&self, volume: &Volume) -> bool {
        volume.attachment.as_ref().is_some_and(|attachment| attachment.instance_id == self.from)
    }

    fn inspect(&self, sight: &Sight) -> Next {
        if self.abandoned {
            return self.to_stage(Stage::Undo);
        }
        // What EC2 does not show has not ended for that.
        let Some(parts) = sight.instance(&self.from) else { return Next::Wait(LOOK_MS) };
        match parts.instance.state {
            InstanceState::Stopped => {}
            InstanceState::Stopping => return Next::Wait(LOOK_MS),
            state => {
                return self.because(Stage::Undo, format!("the instance is {} again", state.as_str()));
            }
        }
        if self.volumes.is_empty() {
            let mut volumes: Vec<MovedVolume> = parts
                .devices
                .iter()
                .map(|device| MovedVolume {
                    volume_id: device.volume_id.clone(),
                    device: device.device.clone(),
                    delete_on_termination: device.delete_on_termination,
                })
                .collect();
            volumes.sort_by_key(|volume| volume.device != parts.root_device);
            if volumes.first().is_none_or(|root| root.device != parts.root_device) {
                return self.because(Stage::Undo, "the instance has no root volume that could be moved");
            }
            let interfaces = parts
                .interfaces
                .iter()
                .map(|interface| MovedInterface {
                    place: interface.place.clone(),
                    delete_on_termination: interface.delete_on_termination,
                })
                .collect();
            return self.changed(|next| {
                next.volumes = volumes;
                next.interfaces = interfaces;
            });
        }
        let Some(root) = sight.volume(&self.volumes[0].volume_id) else { return Next::Look };
        let launch = RunInstance {
            client_token: String::new(),
            image_id: parts.image_id.clone(),
            instance_type: parts.instance.instance_type.clone(),
            subnet_id: parts.instance.subnet_id.clone(),
            interfaces: self.interfaces.iter().map(|interface| interface.place.clone()).collect(),
            key_name: parts.key_name.clone(),
            instance_profile_arn: parts.instance_profile_arn.clone(),
            tenancy: parts.tenancy.clone(),
            placement_group: parts.placement_group.clone(),
            ebs_optimized: parts.ebs_optimized,
            metadata: parts.metadata.clone(),
            cpu: parts.cpu.clone(),
            root: RootVolume {
                device: parts.root_device.clone(),
                size_gib: root.size_gib,
                volume_type: root.volume_type.clone(),
                iops: root.iops,
                throughput: root.throughput,
                kms_key_id: root.kms_key_id.clone(),
            },
            capacity_reservation_id: None,
            tags: BTreeMap::new(),
            rehearsal: false,
        };
        self.changed(|next| {
            next.launch = launch;
            next.zone.clone_from(&parts.instance.zone);
            next.platform.clone_from(&parts.platform);
            next.stage = Stage::Reserve;
        })
    }

    fn prepare(&self, sight: &Sight) -> Next {
        if self.abandoned {
            return self.to_stage(Stage::Undo);
        }
        let Some(parts) = sight.instance(&self.from) else { return Next::Wait(LOOK_MS) };
        match parts.instance.state {
            InstanceState::Stopped => {}
            state if state.is_ended() => return self.because(Stage::Undo, "the Spot instance has ended"),
            _ => return self.because(Stage::Undo, "EC2 has Spot capacity again"),
        }
        match self.stage {
            Stage::Reserve => match self.reserve(sight) {
                Some(next) => next,
                None => self.to_stage(Stage::Rehearse),
            },
            Stage::Rehearse => Next::Call(CloudRequest::RunInstance(Box::new(RunInstance {
                rehearsal: true,
                ..self.run_request()
            }))),
            Stage::Mark => match self.mark(sight, &self.node) {
                Some(next) => next,
                None => self.to_stage(Stage::Keep),
            },
            Stage::Keep => match self.set_deletion(parts, sight, |_| false) {
                Some(next) => next,
                None => self.to_stage(Stage::Detach),
            },
            _ => self.detach(sight),
        }
    }

    /// None if capacity is reserved, or cannot be reserved for this kind of placement.
    fn reserve(&self, sight: &Sight) -> Option<Next> {
        let reservable = self.launch.placement_group.is_none()
            && self.launch.tenancy.as_deref().is_none_or(|tenancy| tenancy != "host");
        if !reservable {
            return None;
        }
        if self.reserved_until_unix_ms < sight.unix_ms + RESERVE_LEFT_MS {
            let until = sight.unix_ms + RESERVE_MS;
            return Some(self.changed(|next| {
                next.spent_reservations.extend(next.reservation.take());
                next.reserved_until_unix_ms = until;
                next.tries += 1;
            }));
        }
        if self.reservation.is_some() {
            return None;
        }
        let request = CreateCapacityReservation {
            client_token: format!("{}-r", self.launch_token()),
            instance_type: self.launch.instance_type.clone(),
            platform: self.platform.clone(),
            zone: self.zone.clone(),
            tenancy: self.launch.tenancy.clone(),
            ebs_optimized: self.launch.ebs_optimized,
            end_unix_ms: self.reserved_until_unix_ms,
            tags: self.marks(&self.node),
        };
        Some(Next::Call(CloudRequest::CreateCapacityReservation(Box::new(request))))
    }

    fn run_request(&self) -> RunInstance {
        let token = self.launch_token();
        let mut tags = self.tags.clone();
        tags.insert(tag::LAUNCH.into(), token.clone());
        RunInstance {
            client_token: token,
            capacity_reservation_id: self.reservation.clone(),
            tags,
            ..self.launch.clone()
        }
    }

    fn marks(&self, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (tag::CLUSTER.to_owned(), self.cluster.clone()),
            (tag::RELOCATION.to_owned(), value.to_owned()),
            (tag::NODE.to_owned(), self.node.clone()),
        ])
    }

    fn mark(&self, sight: &Sight, value: &str) -> Option<Next> {
        if self.tagged.as_deref() == Some(value) {
            return None;
        }
        let mut ids: Vec<String> =
            self.volume_ids().into_iter().filter(|id| sight.volume(id).is_some()).collect();
        ids.extend(self.interface_ids());
        (!ids.is_empty()).then(|| Next::Call(CloudRequest::CreateTags { ids, tags: self.marks(value) }))
    }

    /// The call that makes `DeleteOnTermination` what it should be, given what it was; none if it is.
    fn set_deletion(&self, on: &InstanceParts, sight: &Sight, wanted: impl Fn(bool) -> bool) -> Option<Next> {
        let devices: BTreeMap<String, bool> = self
            .volumes
            .iter()
            .filter_map(|own| {
                let attachment = sight.volume(&own.volume_id)?.attachment.as_ref()?;
                let wanted = wanted(own.delete_on_termination);
                (attachment.instance_id == on.instance.id && attachment.delete_on_termination != wanted)
                    .then(|| (own.device.clone(), wanted))
            })
            .collect();
        if !devices.is_empty() {
            let instance = on.instance.id.clone();
            return Some(Next::Call(CloudRequest::SetVolumeDeletion { instance, devices }));
        }
        let interface = self.interfaces.iter().find_map(|own| {
            let there: &AttachedInterface =
                on.interfaces.iter().find(|other| other.place.interface_id == own.place.interface_id)?;
            let wanted = wanted(own.delete_on_termination);
            (there.delete_on_termination != wanted).then(|| CloudRequest::SetInterfaceDeletion {
                interface: own.place.interface_id.clone(),
                attachment: there.attachment_id.clone(),
                delete_on_termination: wanted,
            })
        });
        interface.map(Next::Call)
    }

    fn detach(&self, sight: &Sight) -> Next {
        for own in &self.volumes {
            let Some(volume) = sight.volume(&own.volume_id) else {
                return self.because(Stage::Undo, format!("EC2 does not show volume {}", own.volume_id));
            };
            match &volume.attachment {
                None => {}
                Some(attachment) if attachment.instance_id != self.from => {
                    let problem =
                        format!("volume {} is attached to {}", own.volume_id, attachment.instance_id);
                    return self.because(Stage::Undo, problem);
                }
                Some(attachment) if attachment.state == "attached" => {
                    let (volume, instance) = (own.volume_id.clone(), self.from.clone());
                    return Next::Call(CloudRequest::DetachVolume { volume, instance });
                }
                Some(_) => return Next::Wait(LOOK_MS),
            }
        }
        self.to_stage(Stage::EndSpot)
    }

    fn end_spot(&self, sight: &Sight) -> Next {
        let alive = self.spot_is_alive(sight);
        if alive
            && self.volumes.iter().any(|own| sight.volume(&own.volume_id).is_none_or(|v| self.on_spot(v)))
        {
            return self.to_stage(Stage::Detach);
        }
        if self.abandoned {
            return self.to_stage(Stage::Abandon);
        }
        let ended =
            sight.instance(&self.from).is_none_or(|parts| parts.instance.state == InstanceState::Terminated);
        match (sight.fleet_gone, alive, ended) {
            (true, _, true) => self.to_stage(Stage::Launch),
            (false, _, _) => Next::EndFleet,
            (true, true, _) => Next::Call(CloudRequest::TerminateInstances { ids: vec![self.from.clone()] }),
            (true, false, false) => Next::Wait(LOOK_MS),
        }
    }

    /// The new instance if it is usable; otherwise what to do about it.
    fn recipient<'a>(&self, sight: &Sight<'a>) -> Result<&'a InstanceParts, Box<Next>> {
        if self.abandoned {
            return Err(Box::new(self.to_stage(Stage::Abandon)));
        }
        let Some(to) = &self.to else { return Err(Box::new(self.to_stage(Stage::Launch))) };
        match sight.instance(to) {
            Some(parts) if !parts.instance.state.is_ended() => Ok(parts),
            None if sight.unix_ms.saturating_sub(self.to_unix_ms) < NOT_SHOWN_MS => {
                Err(Box::new(Next::Wait(LOOK_MS)))
            }
            _ => Err(Box::new(self.changed(|next| {
                next.problem = Some(format!("the on-demand instance {to} ended in EC2"));
                next.to = None;
                next.stage = Stage::Launch;
                next.spent_reservations.extend(next.reservation.take());
                next.reserved_until_unix_ms = 0;
                next.tries += 1;
            }))),
        }
    }

    fn launch(&self, sight: &Sight) -> Next {
        if self.to.is_some() {
            return match self.recipient(sight) {
                Err(next) => *next,
                Ok(parts) if parts.instance.state == InstanceState::Pending => Next::Wait(LOOK_MS),
                Ok(_) => self.to_stage(Stage::Hibernate),
            };
        }
        if self.abandoned {
            return self.to_stage(Stage::Abandon);
        }
        if let Some(own) = self.volumes.iter().find(|own| sight.volume(&own.volume_id).is_none()) {
            return self.because(Stage::Abandon, format!("volume {} no longer exists", own.volume_id));
        }
        self.reserve(sight)
            .unwrap_or_else(|| Next::Call(CloudRequest::RunInstance(Box::new(self.run_request()))))
    }

    fn hibernate(&self, sight: &Sight) -> Next {
        match self.recipient(sight) {
            Err(next) => *next,
            Ok(parts) => match parts.instance.state {
                InstanceState::Running => {
                    Next::Call(CloudRequest::StopInstance { id: parts.instance.id.clone(), hibernate: true })
                }
                InstanceState::Stopped => self.to_stage(Stage::Strip),
                _ => Next::Wait(LOOK_MS),
            },
        }
    }

    fn strip(&self, sight: &Sight) -> Next {
        let parts = match self.recipient(sight) {
            Err(next) => return *next,
            Ok(parts) if parts.instance.state != InstanceState::Stopped => {
                return self.to_stage(Stage::Hibernate);
            }
            Ok(parts) => parts,
        };
        let Some(device) = parts.devices.iter().find(|device| !self.owns(&device.volume_id)) else {
            return self.to_stage(Stage::Attach);
        };
        if !self.own_volumes.contains(&device.volume_id) {
            return self.changed(|next| next.own_volumes.push(device.volume_id.clone()));
        }
        match sight.volume(&device.volume_id) {
            None => Next::Look,
            Some(volume) if volume.attachment.as_ref().is_some_and(|a| a.state == "attached") => {
                let (volume, instance) = (volume.id.clone(), parts.instance.id.clone());
                Next::Call(CloudRequest::DetachVolume { volume, instance })
            }
            Some(_) => Next::Wait(LOOK_MS),
        }
    }

    fn attach(&self, sight: &Sight) -> Next {
        match self.recipient(sight) {
            Err(next) => *next,
            Ok(parts) if parts.instance.state != InstanceState::Stopped => self.to_stage(Stage::Hibernate),
            Ok(parts) => self
                .attach_to(&parts.instance.id, self.volumes.iter(), sight)
                .unwrap_or_else(|| self.to_stage(Stage::Start)),
        }
    }

    /// None when all of them are attached there.
    fn attach_to<'a>(
        &self,
        instance: &str,
        volumes: impl Iterator<Item = &'a MovedVolume>,
        sight: &Sight,
    ) -> Option<Next> {
        for own in volumes {
            let next = match sight.volume(&own.volume_id) {
                None => self.because(Stage::Abandon, format!("volume {} no longer exists", own.volume_id)),
                Some(Volume { attachment: None, .. }) => Next::Call(CloudRequest::AttachVolume {
                    volume: own.volume_id.clone(),
                    instance: instance.to_owned(),
                    device: own.device.clone(),
                }),
                Some(Volume { attachment: Some(attachment), .. })
                    if attachment.instance_id == instance && attachment.state == "attached" =>
                {
                    continue;
                }
                Some(_) => Next::Wait(LOOK_MS),
            };
            return Some(next);
        }
        None
    }

    fn start(&self, sight: &Sight) -> Next {
        let parts = match self.recipient(sight) {
            Err(next) => return *next,
            Ok(parts) => parts,
        };
        match parts.instance.state {
            InstanceState::Stopped => {
                if self.attach_to(&parts.instance.id, self.volumes.iter(), sight).is_some() {
                    return self.to_stage(Stage::Attach);
                }
                Next::Call(CloudRequest::StartInstance { id: parts.instance.id.clone() })
            }
            InstanceState::Running => Next::Bind(Box::new(parts.instance.clone())),
            _ => Next::Wait(LOOK_MS),
        }
    }

    fn restore(&self, sight: &Sight) -> Next {
        if self.abandoned {
            return self.to_stage(Stage::Abandon);
        }
        let there = self.to.as_deref().and_then(|to| sight.instance(to));
        match there {
            Some(parts) if !parts.instance.state.is_ended() => self
                .set_deletion(parts, sight, |before| before)
                .unwrap_or_else(|| self.to_stage(Stage::Settle)),
            Some(_) => self.to_stage(Stage::Abandon),
            None => Next::Wait(LOOK_MS),
        }
    }

    fn settle(&self, sight: &Sight) -> Next {
        self.tidy(sight).or_else(|| self.mark(sight, tag::MOVED)).unwrap_or(Next::Over(End::Moved))
    }

    /// Volumes and reservations that only the move needed.
    fn tidy(&self, sight: &Sight) -> Option<Next> {
        for id in &self.own_volumes {
            match sight.volume(id) {
                Some(Volume { attachment: None, .. }) => {
                    return Some(Next::Call(CloudRequest::DeleteVolume { volume: id.clone() }));
                }
                Some(_) => return Some(Next::Wait(LOOK_MS)),
                None => {}
            }
        }
        let reservation = self.spent_reservations.first().or(self.reservation.as_ref());
        reservation.map(|id| Next::Call(CloudRequest::CancelCapacityReservation { id: id.clone() }))
    }

    fn undo(&self, sight: &Sight) -> Next {
        let shown = sight.instance(&self.from);
        let Some(parts) = shown.filter(|parts| !parts.instance.state.is_ended()) else {
            let mut present = self.volumes.iter().filter_map(|own| sight.volume(&own.volume_id));
            if present.any(|volume| self.on_spot(volume)) {
                return Next::Wait(LOOK_MS);
            }
            let whole = !self.volumes.is_empty()
                && self.volumes.iter().all(|own| sight.volume(&own.volume_id).is_some());
            return match (whole, self.abandoned, shown) {
                // EC2 ended an instance whose root volume was away. The volumes are safe, so the move goes on.
                (true, false, _) => self.to_stage(Stage::EndSpot),
                (false, false, None) => Next::Wait(LOOK_MS),
                _ => self.to_stage(Stage::Abandon),
            };
        };
        // The root volume last: with it EC2 may wake the instance. What somebody has deleted cannot be put back.
        let present = self.volumes.iter().rev().filter(|own| sight.volume(&own.volume_id).is_some());
        self.attach_to(&self.from, present, sight)
            .or_else(|| self.set_deletion(parts, sight, |before| before))
            .or_else(|| self.tidy(sight))
            .or_else(|| self.tagged.as_ref().and_then(|_| self.mark(sight, tag::MOVED)))
            .unwrap_or(Next::Over(End::Undone))
    }

    fn abandon(&self, sight: &Sight) -> Next {
        if !sight.fleet_gone {
            return Next::EndFleet;
        }
        for id in [Some(&self.from), self.to.as_ref()].into_iter().flatten() {
            match sight.instance(id).map(|parts| parts.instance.state) {
                None | Some(InstanceState::Terminated) => {}
                Some(InstanceState::ShuttingDown) => return Next::Wait(LOOK_MS),
                // It is the node's, and ends as any node's instance does.
                Some(_) if self.moved && Some(id) == self.to.as_ref() => return Next::Wait(LOOK_MS),
                Some(_) => {
                    return Next::Call(CloudRequest::TerminateInstances { ids: vec![id.clone()] });
                }
            }
        }
        // Where the move had succeeded, the job has ended since: then its volumes go as they would have gone.
        let finished = self.volumes.iter().find(|own| {
            self.moved
                && own.delete_on_termination
                && sight.volume(&own.volume_id).is_some_and(|volume| volume.attachment.is_none())
        });
        if let Some(own) = finished {
            return Next::Call(CloudRequest::DeleteVolume { volume: own.volume_id.clone() });
        }
        let left: Vec<String> =
            self.volume_ids().into_iter().filter(|id| sight.volume(id).is_some()).collect();
        self.tidy(sight)
            .or_else(|| if left.is_empty() { None } else { self.mark(sight, tag::LEFT_OVER) })
            .unwrap_or_else(|| Next::Over(End::Left { volumes: left, interfaces: self.interface_ids() }))
    }

    /// Take in what a call of this move brought.
    #[must_use]
    pub fn accepted(&self, request: &CloudRequest, made: Option<String>, unix_ms: u64) -> Self {
        let mut next = self.clone();
        match request {
            CloudRequest::CreateCapacityReservation(_) => next.reservation = made,
            CloudRequest::RunInstance(run) if run.rehearsal => next.stage = Stage::Mark,
            CloudRequest::RunInstance(_) => {
                next.to = made;
                next.to_unix_ms = unix_ms;
            }
            CloudRequest::CreateTags { tags, .. } => next.tagged = tags.get(tag::RELOCATION).cloned(),
            CloudRequest::CancelCapacityReservation { id } => {
                next.spent_reservations.retain(|other| other != id);
                next.reservation.take_if(|other| other == id);
            }
            _ => {}
        }
        next
    }

    /// A launch that EC2 refused for want of capacity is begun anew, with another reservation.
    #[must_use]
    pub fn begun_anew(&self) -> Self {
        let mut next = self.clone();
        next.spent_reservations.extend(next.reservation.take());
        next.reserved_until_unix_ms = 0;
        next.tries += 1;
        next
    }
}

impl Relocation {
    /// Go on without a call that EC2 keeps refusing, where the move can. What stays behind is for the administrator.
    #[must_use]
    pub fn without(&self, request: &CloudRequest) -> Option<Self> {
        if !matches!(self.stage, Stage::Restore | Stage::Settle | Stage::Undo | Stage::Abandon) {
            return None;
        }
        let mut next = self.clone();
        match request {
            CloudRequest::CreateTags { .. } | CloudRequest::CancelCapacityReservation { .. } => {
                next = self.accepted(request, None, 0);
            }
            CloudRequest::DeleteVolume { volume } => {
                next.own_volumes.retain(|own| own != volume);
                for own in next.volumes.iter_mut().filter(|own| own.volume_id == *volume) {
                    own.delete_on_termination = false;
                }
            }
            CloudRequest::SetVolumeDeletion { devices, .. } => {
                for own in &mut next.volumes {
                    if let Some(wanted) = devices.get(&own.device) {
                        own.delete_on_termination = !wanted;
                    }
                }
            }
            CloudRequest::SetInterfaceDeletion { interface, delete_on_termination, .. } => {
                for own in &mut next.interfaces {
                    if own.place.interface_id == *interface {
                        own.delete_on_termination = !delete_on_termination;
                    }
                }
            }
            _ => return None,
        }
        Some(next)
    }
}
