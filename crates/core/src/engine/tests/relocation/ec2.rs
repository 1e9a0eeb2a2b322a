// SPDX-License-Identifier: GPL-3.0-or-later
//! EC2, as far as a move sees it.

use super::*;

#[derive(Clone, Debug)]
pub(super) struct Machine {
    pub(super) state: InstanceState,
    pub(super) lifecycle: Lifecycle,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) asked_to_hibernate: bool,
}

/// EC2, as far as a move sees it. What takes time is over at the next look.
#[derive(Default)]
pub(super) struct Ec2 {
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) volumes: BTreeMap<String, Volume>,
    /// Interface: its instance and `DeleteOnTermination`.
    pub(super) interfaces: BTreeMap<String, Option<(String, bool)>>,
    pub(super) fleets: BTreeSet<String>,
    pub(super) reservations: BTreeSet<String>,
    pub(super) tokens: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, BTreeMap<String, String>>,
    pub(super) deleted: Vec<String>,
    /// Instances that started with the job's root volume.
    pub(super) resumed: Vec<String>,
    pub(super) made: u32,
}

pub(super) fn refused(code: &str) -> CloudError {
    CloudError {
        class: ErrorClass::Other,
        code: code.into(),
        message: "by the test".into(),
        request_id: None,
    }
}

impl Ec2 {
    pub(super) fn new() -> Self {
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

    pub(super) fn settle(&mut self) {
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

    pub(super) fn release(&mut self, instance: &str) {
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

    pub(super) fn end(&mut self, id: &str) {
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
    pub(super) fn wake_spot(&mut self) {
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

    pub(super) fn attached(&self, volume: &str) -> Option<&VolumeAttachment> {
        self.volumes.get(volume)?.attachment.as_ref()
    }

    pub(super) fn instance(&self, id: &str) -> Instance {
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

    pub(super) fn parts(&self, id: &str) -> InstanceParts {
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

    pub(super) fn once(&mut self, token: &str, prefix: &str) -> (String, bool) {
        if let Some(id) = self.tokens.get(token) {
            return (id.clone(), false);
        }
        self.made += 1;
        let id = format!("{prefix}-{}", self.made);
        self.tokens.insert(token.into(), id.clone());
        (id, true)
    }

    #[allow(clippy::too_many_lines)]
    pub(super) fn perform(&mut self, request: &CloudRequest) -> CloudResult {
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
