// SPDX-License-Identifier: GPL-3.0-or-later
//! Volumes: what survives an instance and what goes with it.

use std::borrow::Cow;

use crate::api::error::ApiError;
use crate::api::filter::Filters;
use crate::api::page::Page;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::instance::State;
use crate::model::launch_data::{read_tag_specs, write_tags};
use crate::model::region::{Event, Region, Signal};
use crate::model::time::{Millis, iso};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub instance: String,
    /// Device name of a volume, device index of an interface.
    pub device: String,
    pub since: Millis,
    pub delete_on_termination: bool,
    /// `attaching`, `attached` or `detaching`.
    pub state: &'static str,
}

#[derive(Debug)]
pub struct Volume {
    pub id: String,
    pub zone: String,
    pub size: i64,
    pub volume_type: String,
    pub iops: Option<i64>,
    pub throughput: Option<i64>,
    pub encrypted: bool,
    pub snapshot: Option<String>,
    pub created: Millis,
    pub attachment: Option<Attachment>,
    /// The memory image of a hibernated instance, as what would be told of its end.
    pub memory: Option<Box<Signal>>,
}

impl Volume {
    fn state(&self) -> &'static str {
        if self.attachment.is_some() { "in-use" } else { "available" }
    }
}

fn no_volume(ids: &[&str]) -> ApiError {
    let message = match ids {
        [id] => format!("The volume '{id}' does not exist."),
        ids => format!("The volumes '{}' do not exist.", ids.join(", ")),
    };
    ApiError::new("InvalidVolume.NotFound", message)
}

impl Region {
    /// The instance of a volume has ended.
    pub(crate) fn volume_owner_gone(&mut self, id: &str) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        let Some(attachment) = volume.attachment.take() else { return };
        if attachment.delete_on_termination {
            self.drop_volume(id);
        }
    }

    /// Processes that were frozen on the volume end with it.
    fn drop_volume(&mut self, id: &str) {
        self.tags.remove(id);
        let memory = self.volumes.remove(id).and_then(|volume| volume.memory);
        if let Some(signal) = memory {
            self.signals.push(Signal { at: self.now, ..*signal });
        }
    }

    /// An attach or detach of a volume is over.
    pub(crate) fn volume_step(&mut self, id: &str) {
        let Some(volume) = self.volumes.get_mut(id) else { return };
        match volume.attachment.as_mut() {
            Some(attachment) if attachment.state == "attaching" => attachment.state = "attached",
            Some(attachment) if attachment.state == "detaching" => {
                let instance = attachment.instance.clone();
                volume.attachment = None;
                if let Some(instance) = self.instances.get_mut(&instance) {
                    instance.volumes.retain(|(_, volume)| volume != id);
                }
            }
            _ => {}
        }
    }

    pub(crate) fn create_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = self.once("CreateVolume", request, |region| {
            let zone = request.required("AvailabilityZone")?.to_owned();
            if !region.zone_names().contains(&zone) {
                return Err(ApiError::new(
                    "InvalidZone.NotFound",
                    format!("The zone '{zone}' does not exist."),
                ));
            }
            let snapshot = request.owned("SnapshotId");
            let size = match (request.int("Size"), &snapshot) {
                (Some(size), _) => size,
                (None, Some(_)) => 8,
                (None, None) => return Err(ApiError::missing("Size")),
            };
            if !(1..=65_536).contains(&size) {
                return Err(ApiError::invalid_value("Size", &size.to_string(), "It must be 1 to 65536 GiB."));
            }
            let id = region.new_id("vol");
            for spec in read_tag_specs(request)? {
                region.put_tags(&id, &spec.tags);
            }
            let volume = Volume {
                id: id.clone(),
                zone,
                size,
                volume_type: request.owned("VolumeType").unwrap_or_else(|| "gp2".to_owned()),
                iops: request.int("Iops"),
                throughput: request.int("Throughput"),
                encrypted: request.flag("Encrypted").unwrap_or(false),
                snapshot,
                created: region.now,
                attachment: None,
                memory: None,
            };
            region.volumes.insert(id.clone(), volume);
            Ok(id)
        })?;
        if let Some(volume) = self.volumes.get(&id) {
            self.write_volume(xml, volume);
        }
        Ok(())
    }

    pub(crate) fn delete_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("VolumeId")?;
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        if let Some(attachment) = &volume.attachment {
            return Err(ApiError::new(
                "VolumeInUse",
                format!("Volume {id} is currently attached to {}", attachment.instance),
            ));
        }
        self.drop_volume(id);
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn living_instance(&self, id: &str) -> Result<(String, State), ApiError> {
        let instance = self.instances.get(id).ok_or_else(|| ApiError::instance_not_found(&[id]))?;
        if !instance.state.alive() {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Instance '{id}' is not 'running' or 'stopped'; it is '{}'.", instance.state.name()),
            ));
        }
        Ok((instance.zone.clone(), instance.state))
    }

    pub(crate) fn attach_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let (id, instance) = (request.required("VolumeId")?, request.required("InstanceId")?);
        let device = request.required("Device")?;
        let (zone, state) = self.living_instance(instance)?;
        if !matches!(state, State::Running | State::Stopped) {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Instance '{instance}' is not 'running' or 'stopped'."),
            ));
        }
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        if let Some(attachment) = &volume.attachment {
            return Err(ApiError::new(
                "VolumeInUse",
                format!("{id} is already attached to an instance: {}", attachment.instance),
            ));
        }
        if volume.zone != zone {
            return Err(ApiError::new(
                "InvalidVolume.ZoneMismatch",
                format!("The volume '{id}' is not in the same availability zone as instance '{instance}'"),
            ));
        }
        let taken = self
            .instances
            .get(instance)
            .is_some_and(|instance| instance.volumes.iter().any(|(name, _)| name == device));
        if taken {
            return Err(ApiError::new(
                "InvalidParameterValue",
                format!(
                    "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
                ),
            ));
        }
        let attachment = Attachment {
            instance: instance.to_owned(),
            device: device.to_owned(),
            since: self.now,
            delete_on_termination: false,
            state: "attaching",
        };
        write_attachment(xml, id, &attachment);
        if let Some(volume) = self.volumes.get_mut(id) {
            volume.attachment = Some(attachment);
        }
        if let Some(instance) = self.instances.get_mut(instance) {
            instance.volumes.push((device.to_owned(), id.to_owned()));
        }
        self.after(self.rules.delays.attach_ms, Event::VolumeStep { volume: id.to_owned() });
        Ok(())
    }

    pub(crate) fn detach_volume(&mut self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("VolumeId")?;
        let volume = self.volumes.get(id).ok_or_else(|| no_volume(&[id]))?;
        let Some(attachment) = &volume.attachment else {
            return Err(ApiError::new(
                "IncorrectState",
                format!("Volume '{id}' is in the 'available' state."),
            ));
        };
        if request.text("InstanceId").is_some_and(|instance| instance != attachment.instance) {
            return Err(ApiError::new(
                "InvalidAttachment.NotFound",
                format!("The volume '{id}' is not attached to the instance."),
            ));
        }
        let root = self.instances.get(&attachment.instance).is_some_and(|instance| {
            instance.state != State::Stopped && instance.root_volume().is_some_and(|root| root == id)
        });
        if root {
            return Err(ApiError::new(
                "OperationNotPermitted",
                format!("Unable to detach root volume '{id}' from instance '{}'", attachment.instance),
            ));
        }
        if let Some(attachment) = self.volumes.get_mut(id).and_then(|volume| volume.attachment.as_mut()) {
            attachment.state = "detaching";
            write_attachment(xml, id, attachment);
        }
        self.after(self.rules.delays.attach_ms, Event::VolumeStep { volume: id.to_owned() });
        Ok(())
    }

    pub(crate) fn describe_volumes(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let known = [
            "attachment.attach-time",
            "attachment.delete-on-termination",
            "attachment.device",
            "attachment.instance-id",
            "attachment.status",
            "availability-zone",
            "create-time",
            "encrypted",
            "size",
            "snapshot-id",
            "status",
            "tag-key",
            "volume-id",
            "volume-type",
        ];
        let filters = Filters::read(request, &known)?;
        let page = Page::read("DescribeVolumes", request, 5, 1000)?;
        let ids = request.texts("VolumeId");
        let missing: Vec<&str> = ids.iter().copied().filter(|id| !self.volumes.contains_key(*id)).collect();
        if !missing.is_empty() {
            return Err(no_volume(&missing));
        }
        let found: Vec<&Volume> = self
            .volumes
            .values()
            .filter(|volume| ids.is_empty() || ids.contains(&volume.id.as_str()))
            .filter(|volume| {
                filters.accept(|name| {
                    let attachment = volume.attachment.as_ref();
                    let value: Option<Cow<'_, str>> = match name {
                        "attachment.device" => attachment.map(|a| Cow::Borrowed(a.device.as_str())),
                        "attachment.instance-id" => attachment.map(|a| Cow::Borrowed(a.instance.as_str())),
                        "attachment.status" => attachment.map(|a| Cow::Borrowed(a.state)),
                        "attachment.attach-time" => attachment.map(|a| Cow::Owned(iso(a.since))),
                        "attachment.delete-on-termination" => {
                            attachment.map(|a| Cow::Owned(a.delete_on_termination.to_string()))
                        }
                        "availability-zone" => Some(Cow::Borrowed(volume.zone.as_str())),
                        "create-time" => Some(Cow::Owned(iso(volume.created))),
                        "encrypted" => Some(Cow::Owned(volume.encrypted.to_string())),
                        "size" => Some(Cow::Owned(volume.size.to_string())),
                        "snapshot-id" => volume.snapshot.as_deref().map(Cow::Borrowed),
                        "status" => Some(Cow::Borrowed(volume.state())),
                        "volume-id" => Some(Cow::Borrowed(volume.id.as_str())),
                        "volume-type" => Some(Cow::Borrowed(volume.volume_type.as_str())),
                        other => return self.tag_values(&volume.id, other),
                    };
                    value.into_iter().collect()
                })
            })
            .collect();
        let (found, token) = page.cut(found);
        xml.set("volumeSet", found, |xml, volume| self.write_volume(xml, volume));
        xml.maybe("nextToken", token);
        Ok(())
    }

    fn write_volume(&self, xml: &mut Xml, volume: &Volume) {
        xml.text("volumeId", &volume.id);
        xml.put("size", volume.size);
        xml.text("snapshotId", volume.snapshot.as_deref().unwrap_or_default());
        xml.text("availabilityZone", &volume.zone);
        xml.text("status", volume.state());
        xml.time("createTime", volume.created);
        xml.set("attachmentSet", &volume.attachment, |xml, attachment| {
            write_attachment(xml, &volume.id, attachment);
            xml.put("deleteOnTermination", attachment.delete_on_termination);
        });
        write_tags(xml, self.tags_of(&volume.id));
        xml.text("volumeType", &volume.volume_type);
        let iops = volume.iops.or(match volume.volume_type.as_str() {
            "gp3" => Some(3000),
            "gp2" => Some((volume.size * 3).clamp(100, 16_000)),
            _ => None,
        });
        xml.maybe("iops", iops);
        let throughput = volume.throughput.or((volume.volume_type == "gp3").then_some(125));
        xml.maybe("throughput", throughput);
        xml.put("encrypted", volume.encrypted);
        xml.put("multiAttachEnabled", false);
    }
}

fn write_attachment(xml: &mut Xml, volume: &str, attachment: &Attachment) {
    xml.text("volumeId", volume);
    xml.text("instanceId", &attachment.instance);
    xml.text("device", &attachment.device);
    xml.text("status", attachment.state);
    xml.time("attachTime", attachment.since);
}
