// SPDX-License-Identifier: GPL-3.0-or-later
//! ec2-emulator as a process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::instances::{Instances, Verb};
use super::process::Daemon;
use super::{Outcome, paths, wait};

/// An instance as EC2 has it.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Instance {
    #[serde(rename = "instance_id")]
    pub id: String,
    #[serde(rename = "instance_type")]
    pub kind: String,
    pub state: String,
    pub lifecycle: String,
    #[serde(rename = "private_ip")]
    pub address: String,
    pub tags: BTreeMap<String, String>,
}

pub struct Emulator {
    pub url: String,
    daemon: Option<Daemon>,
    scratch: PathBuf,
}

impl Emulator {
    /// Start it with a scenario (the JSON that `ec2-emulator schema` describes); instances are processes of this
    /// machine, or nothing at all.
    pub fn start(scratch: &Path, scenario: &Value, instances: Option<&Instances>) -> Outcome<Self> {
        let file = scratch.join("scenario.json");
        std::fs::write(&file, scenario.to_string()).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut emulator = Self { url: String::new(), daemon: None, scratch: scratch.to_owned() };
        emulator.launch(instances)?;
        Ok(emulator)
    }

    fn launch(&mut self, instances: Option<&Instances>) -> Outcome<()> {
        let port_file = self.scratch.join("emulator.port");
        let mut command = Command::new(paths::program("ec2-emulator")?);
        command
            .args(["--listen", "127.0.0.1:0"])
            .arg("--port-file")
            .arg(&port_file)
            .arg("--scenario")
            .arg(self.scratch.join("scenario.json"));
        if let Some(instances) = instances {
            for (option, verb) in [
                ("--on-boot", Verb::Boot),
                ("--on-end", Verb::End),
                ("--on-hibernate", Verb::Freeze),
                ("--on-resume", Verb::Thaw),
            ] {
                command.arg(option).arg(instances.program(verb));
            }
        }
        let mut daemon = Daemon::start("ec2-emulator", command, &self.scratch.join("emulator.log"))?;
        self.url = wait::until("ec2-emulator", || {
            daemon.check()?;
            let url = std::fs::read_to_string(&port_file).unwrap_or_default().trim().to_owned();
            Ok(url.starts_with("http").then_some(url))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Out of reach, as a region in trouble is: connections are accepted and nothing answers.
    pub fn freeze(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal("STOP");
        }
    }

    pub fn thaw(&self) {
        if let Some(daemon) = &self.daemon {
            daemon.signal("CONT");
        }
    }

    pub fn stop(&mut self) {
        self.daemon = None;
    }

    fn control(&self, path: &str) -> Outcome<Value> {
        let error = |e: ureq::Error| format!("ec2-emulator {path}: {e}");
        agent()
            .get(format!("{}/_control/{path}", self.url))
            .call()
            .map_err(error)?
            .body_mut()
            .read_to_string()
            .map_err(error)
            .and_then(|text| {
                serde_json::from_str(&text).map_err(|e| format!("ec2-emulator {path}: {e}: {text}"))
            })
    }

    /// A command of the scenario format, such as `{"interrupt": {"count": 2}}`.
    pub fn command(&self, command: &Value) -> Outcome<()> {
        self.answer_to(command).map(drop)
    }

    fn answer_to(&self, command: &Value) -> Outcome<String> {
        agent()
            .post(format!("{}/_control/command", self.url))
            .send(command.to_string())
            .and_then(|mut answer| answer.body_mut().read_to_string())
            .map_err(|e| format!("ec2-emulator {command}: {e}"))
    }

    /// Remove all faults that are in force; how many there were.
    pub fn clear_faults(&self) -> Outcome<u64> {
        let answer = self.answer_to(&json!({"clear_faults": {"action": "*"}}))?;
        let found = serde_json::from_str::<Value>(&answer).ok().and_then(|value| value["cleared"].as_u64());
        found.ok_or_else(|| format!("clear_faults: {answer}"))
    }

    /// Calls since its start, by action.
    pub fn calls(&self) -> Outcome<BTreeMap<String, u64>> {
        let answer = self.control("calls")?;
        serde_json::from_value(answer["calls"].clone()).map_err(|e| format!("calls: {e} in {answer}"))
    }

    /// Arrival of every request of an action, nanoseconds since 1970.
    pub fn arrivals(&self, action: &str) -> Outcome<Vec<u64>> {
        let answer = self.control("log")?;
        let entries = answer["log"].as_array().cloned().unwrap_or_default();
        Ok(entries
            .iter()
            .filter(|entry| entry["action"] == action)
            .filter_map(|entry| entry["arrival_ns"].as_u64())
            .collect())
    }

    /// Every instance that EC2 still remembers, terminated ones too.
    pub fn instances(&self) -> Outcome<Vec<Instance>> {
        let answer = self.control("instances")?;
        serde_json::from_value(answer["instances"].clone()).map_err(|e| format!("instances: {e} in {answer}"))
    }

    pub fn living_instances(&self) -> Outcome<Vec<Instance>> {
        let mut instances = self.instances()?;
        instances.retain(|instance| instance.state != "terminated");
        Ok(instances)
    }

    /// One request of the EC2 Query API; the reply's XML.
    fn query(&self, action: &str, parameters: &[(&str, &str)]) -> Outcome<String> {
        let mut form = vec![("Action", action), ("Version", "2016-11-15")];
        form.extend_from_slice(parameters);
        let error = |e: ureq::Error| format!("{action}: {e}");
        agent().post(&self.url).send_form(form).map_err(error)?.body_mut().read_to_string().map_err(error)
    }

    /// `data`: more members of `LaunchTemplateData`.
    pub fn create_launch_template(&self, name: &str, data: &[(&str, &str)]) -> Outcome<()> {
        let more: Vec<(String, &str)> =
            data.iter().map(|(key, value)| (format!("LaunchTemplateData.{key}"), *value)).collect();
        let mut parameters = vec![
            ("LaunchTemplateName", name),
            ("LaunchTemplateData.ImageId", "ami-00000000000000001"),
            ("LaunchTemplateData.MetadataOptions.HttpTokens", "required"),
            ("LaunchTemplateData.MetadataOptions.InstanceMetadataTags", "enabled"),
        ];
        parameters.extend(more.iter().map(|(key, value)| (key.as_str(), *value)));
        self.query("CreateLaunchTemplate", &parameters).map(drop)
    }

    /// Every volume with its instance, if it is attached, and whether EC2 deletes it with that.
    pub fn volumes(&self) -> Outcome<BTreeMap<String, Option<(String, bool)>>> {
        let text = self.query("DescribeVolumes", &[])?;
        // One `size` for each volume, after its id and before its attachment.
        let parts: Vec<&str> = text.split("<size>").collect();
        let mut volumes = BTreeMap::new();
        for pair in parts.windows(2) {
            let id = pair[0].rsplit("<volumeId>").next().and_then(|rest| rest.split('<').next());
            let attachment = pair[1].split("</attachmentSet>").next().and_then(|set| {
                let instance = element(set, "instanceId")?;
                Some((instance.to_owned(), element(set, "deleteOnTermination") == Some("true")))
            });
            volumes.insert(id.unwrap_or_default().to_owned(), attachment);
        }
        Ok(volumes)
    }

    /// Maintain fleets with their states (`active`, `modifying`, `deleted` …).
    pub fn fleets(&self) -> Outcome<BTreeMap<String, String>> {
        let text = self.query("DescribeFleets", &[])?;
        let fleets = text.split("<fleetId>").skip(1).map(|part| {
            let id = part.split('<').next().unwrap_or_default();
            (id.to_owned(), element(part, "fleetState").unwrap_or_default().to_owned())
        });
        Ok(fleets.collect())
    }

    /// As [`Self::create_launch_template`]: the next version of it, which `$Latest` is from now on.
    pub fn create_launch_template_version(&self, name: &str, data: &[(&str, &str)]) -> Outcome<()> {
        let more: Vec<(String, &str)> =
            data.iter().map(|(key, value)| (format!("LaunchTemplateData.{key}"), *value)).collect();
        let mut parameters = vec![("LaunchTemplateName", name), ("SourceVersion", "1")];
        parameters.extend(more.iter().map(|(key, value)| (key.as_str(), *value)));
        self.query("CreateLaunchTemplateVersion", &parameters).map(drop)
    }

    /// Capacity reservations that are in force.
    pub fn reservations(&self) -> Outcome<usize> {
        Ok(self.query("DescribeCapacityReservations", &[])?.matches("<state>active<").count())
    }

    /// As [`Self::create_tag`], asked again every 50 ms while EC2 says that there were too many requests; how often it did.
    pub fn create_tag_within_limits(&self, resource: &str, key: &str, value: &str) -> Outcome<u32> {
        for refused in 0.. {
            match self.create_tag(resource, key, value) {
                Err(error) if error.contains("503") => std::thread::sleep(Duration::from_millis(50)),
                other => return other.map(|()| refused),
            }
        }
        Err("EC2 refused for ever".to_owned())
    }

    pub fn create_tag(&self, resource: &str, key: &str, value: &str) -> Outcome<()> {
        self.query("CreateTags", &[("ResourceId.1", resource), ("Tag.1.Key", key), ("Tag.1.Value", value)])
            .map(drop)
    }

    pub fn delete_tag(&self, resource: &str, key: &str) -> Outcome<()> {
        self.query("DeleteTags", &[("ResourceId.1", resource), ("Tag.1.Key", key)]).map(drop)
    }
}

fn element<'t>(xml: &'t str, name: &str) -> Option<&'t str> {
    xml.split_once(&format!("<{name}>"))?.1.split('<').next()
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into()
}
