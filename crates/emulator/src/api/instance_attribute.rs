// SPDX-License-Identifier: GPL-3.0-or-later
//! Attributes of single instances, their metadata options and console.

use crate::api::base64;
use crate::api::describe_instances::write_metadata_options;
use crate::api::error::ApiError;
use crate::api::query::Node;
use crate::api::xml::Xml;
use crate::model::instance::State;
use crate::model::region::Region;

impl Region {
    pub(crate) fn modify_instance_attribute(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        // Two forms: `InstanceType.Value=…`, and the older `Attribute=instanceType&Value=…`.
        let old = request.text("Attribute");
        let value = |name: &str, attribute: &str| -> Option<String> {
            request
                .owned(&format!("{name}.Value"))
                .or_else(|| (old == Some(attribute)).then(|| request.owned("Value")).flatten())
        };
        let stopped = self.instances.get(id).is_some_and(|instance| instance.state == State::Stopped);
        let need_stopped = |what: &str| {
            if stopped {
                Ok(())
            } else {
                Err(ApiError::new(
                    "IncorrectInstanceState",
                    format!(
                        "The instance '{id}' is not in the 'stopped' state; {what} can be changed only then."
                    ),
                ))
            }
        };
        let facts = match value("InstanceType", "instanceType") {
            Some(name) => {
                need_stopped("its instanceType")?;
                let facts = self.facts(&name)?;
                if self.instances.get(id).is_some_and(|i| i.facts.architecture != facts.architecture) {
                    return Err(ApiError::new(
                        "InvalidInstanceAttributeValue",
                        format!("The instance type '{name}' has another architecture than the instance."),
                    ));
                }
                Some(facts)
            }
            None => None,
        };
        let user_data = value("UserData", "userData");
        if user_data.is_some() {
            need_stopped("its userData")?;
        }
        let groups: Vec<String> = request.texts("GroupId").into_iter().map(str::to_owned).collect();
        for group in &groups {
            self.check_group(group)?;
        }
        let flag = |text: Option<String>| text.map(|text| text == "true");
        let protection = flag(value("DisableApiTermination", "disableApiTermination"));
        let stop_protection = flag(value("DisableApiStop", "disableApiStop"));
        let optimized = flag(value("EbsOptimized", "ebsOptimized"));
        let shutdown = value("InstanceInitiatedShutdownBehavior", "instanceInitiatedShutdownBehavior");
        let mut deletions = Vec::new();
        for device in request.list("BlockDeviceMapping") {
            if let (Some(name), Some(keep)) =
                (device.text("DeviceName"), device.flag("Ebs.DeleteOnTermination"))
            {
                let volume = self
                    .instances
                    .get(id)
                    .and_then(|instance| instance.volumes.iter().find(|(device, _)| device == name))
                    .map(|(_, volume)| volume.clone())
                    .ok_or_else(|| {
                        ApiError::new(
                            "InvalidInstanceAttributeValue",
                            format!("No device is currently mapped at {name}"),
                        )
                    })?;
                deletions.push((volume, keep));
            }
        }
        let Some(instance) = self.instances.get_mut(id) else { return Ok(()) };
        if let Some(facts) = facts {
            instance.facts = facts;
        }
        if user_data.is_some() {
            instance.data.user_data = user_data;
        }
        instance.data.disable_termination = protection.or(instance.data.disable_termination);
        instance.data.disable_stop = stop_protection.or(instance.data.disable_stop);
        instance.data.ebs_optimized = optimized.or(instance.data.ebs_optimized);
        instance.data.shutdown_behavior = shutdown.or(instance.data.shutdown_behavior.take());
        if !groups.is_empty() {
            instance.groups = groups;
        }
        for (volume, delete) in deletions {
            if let Some(attachment) = self.volumes.get_mut(&volume).and_then(|v| v.attachment.as_mut()) {
                attachment.delete_on_termination = delete;
            }
        }
        xml.put("return", true);
        Ok(())
    }

    pub(crate) fn describe_instance_attribute(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        let attribute = request.required("Attribute")?;
        let data = &instance.data;
        xml.text("instanceId", id);
        let mut value = |text: String| xml.node(attribute, |xml| xml.text("value", &text));
        match attribute {
            "instanceType" => value(instance.facts.name.to_owned()),
            "disableApiTermination" => value(data.disable_termination.unwrap_or(false).to_string()),
            "disableApiStop" => value(data.disable_stop.unwrap_or(false).to_string()),
            "ebsOptimized" => value(data.ebs_optimized.unwrap_or(false).to_string()),
            "enaSupport" | "sourceDestCheck" => value("true".to_owned()),
            "rootDeviceName" => value(instance.root_device.clone()),
            "instanceInitiatedShutdownBehavior" => {
                value(data.shutdown_behavior.clone().unwrap_or_else(|| "stop".to_owned()));
            }
            "userData" => match &data.user_data {
                Some(text) => value(text.clone()),
                None => xml.text("userData", ""),
            },
            "groupSet" => xml.set("groupSet", &instance.groups, |xml, group| self.write_group(xml, group)),
            "blockDeviceMapping" => {
                xml.set("blockDeviceMapping", &instance.volumes, |xml, (device, id)| {
                    xml.text("deviceName", device);
                    if let Some(attachment) = self.volumes.get(id).and_then(|v| v.attachment.as_ref()) {
                        xml.node("ebs", |xml| {
                            xml.text("volumeId", id);
                            xml.text("status", attachment.state);
                            xml.time("attachTime", attachment.since);
                            xml.put("deleteOnTermination", attachment.delete_on_termination);
                        });
                    }
                });
            }
            other => {
                return Err(ApiError::invalid_value("Attribute", other, "Unknown attribute."));
            }
        }
        Ok(())
    }

    pub(crate) fn modify_instance_metadata_options(
        &mut self,
        request: &Node,
        xml: &mut Xml,
    ) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get_mut(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        let options = &mut instance.data.metadata;
        options.tokens = request.owned("HttpTokens").or(options.tokens.take());
        options.hop_limit = request.int("HttpPutResponseHopLimit").or(options.hop_limit);
        options.endpoint = request.owned("HttpEndpoint").or(options.endpoint.take());
        options.ipv6 = request.owned("HttpProtocolIpv6").or(options.ipv6.take());
        options.tags = request.owned("InstanceMetadataTags").or(options.tags.take());
        xml.text("instanceId", id);
        let instance = self.instances.get(id);
        xml.node("instanceMetadataOptions", |xml| {
            xml.text("state", "applied");
            if let Some(instance) = instance {
                write_metadata_options(xml, instance);
            }
        });
        Ok(())
    }

    pub(crate) fn get_console_output(&self, request: &Node, xml: &mut Xml) -> Result<(), ApiError> {
        let id = request.required("InstanceId")?;
        self.check_instance_ids(&[id])?;
        let Some(instance) = self.instances.get(id) else {
            return Err(ApiError::instance_not_found(&[id]));
        };
        xml.text("instanceId", id);
        xml.time("timestamp", self.now);
        let text = match (instance.state, instance.impaired) {
            (State::Pending, _) => String::new(),
            (_, Some(_)) => {
                format!("{id}: kernel panic - not syncing: boot failure of the emulator's scenario\n")
            }
            _ => format!("{id}: login:\n"),
        };
        xml.text("output", &base64::encode(text.as_bytes()));
        Ok(())
    }
}
