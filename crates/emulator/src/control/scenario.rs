// SPDX-License-Identifier: GPL-3.0-or-later
//! Scenario files: the world an emulator starts with, and what happens in it and when.
//!
//! The JSON Schema of this format is printed by `ec2-emulator schema`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::control::command::Command;
use crate::control::faults::Fault;
use crate::model::time::Millis;

/// A scenario. Every member is optional; `{}` is the default world.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What the scenario shows, for people.
    pub description: String,
    /// The region of requests whose signature names none, and the region that has the subnets below.
    pub region: String,
    /// The account that owns everything, twelve digits.
    pub account: String,
    /// Seed of every random choice. The same seed and requests give the same answers.
    pub seed: u64,
    /// Virtual seconds per real second. 0: time moves by command only.
    pub speed: f64,
    /// Virtual time at start, such as 2025-01-31T20:00:00Z. Without it, the real time.
    pub start_time: Option<String>,
    /// Availability Zone letters of every region.
    pub zones: Vec<String>,
    /// Subnets of `region`. Other regions get one subnet a zone inside 127.0.0.0/8.
    pub subnets: Vec<SubnetSpec>,
    /// Images. If the list is empty, every well-formed AMI id exists.
    pub images: Vec<ImageSpec>,
    /// Security group ids. If the list is empty, every well-formed id exists.
    pub security_groups: Vec<String>,
    pub delays: Delays,
    pub limits: Limits,
    /// Capacity and price of pools (instance type x zone x lifecycle). The last rule that matches a pool decides each value.
    pub pools: Vec<PoolRule>,
    /// Faults in force from the start.
    pub faults: Vec<Fault>,
    /// Enforce EC2's published request and resource token buckets.
    pub throttle: bool,
    /// New instances and tags become visible to Describe calls after a random time up to this, in ms.
    pub consistency_ms: Millis,
    /// How instances boot.
    pub boots: Vec<BootRule>,
    /// Whether a maintain fleet launches a replacement elsewhere while its instance is hibernated or stopped by an interruption.
    pub replace_while_hibernated: bool,
    /// Launch every instance in a reservation of its own. EC2 puts the instances of one launch request into one reservation.
    pub reservation_per_instance: bool,
    /// Actions that are denied with UnauthorizedOperation, such as `ec2:RunInstances` or `ec2:*`.
    pub deny: Vec<DenyRule>,
    /// What happens later: commands by virtual seconds since start.
    pub timeline: Vec<TimelineEntry>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            description: String::new(),
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
            seed: 1,
            speed: 1.0,
            start_time: None,
            zones: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
            subnets: Vec::new(),
            images: Vec::new(),
            security_groups: Vec::new(),
            delays: Delays::default(),
            limits: Limits::default(),
            pools: Vec::new(),
            faults: Vec::new(),
            throttle: false,
            consistency_ms: 0,
            boots: Vec::new(),
            replace_while_hibernated: false,
            reservation_per_instance: false,
            deny: Vec::new(),
            timeline: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubnetSpec {
    /// Such as `subnet-aaaa`.
    pub id: String,
    /// Zone letter, such as `a`, or name, such as `us-east-1a`.
    pub zone: String,
    /// Addresses of the subnet. Inside 127.0.0.0/8 an emulated instance can be a real daemon on loopback.
    pub cidr: String,
    #[serde(default)]
    pub vpc: Option<String>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    pub id: String,
    #[serde(default)]
    pub name: Option<String>,
    /// `x86_64` or `arm64`.
    #[serde(default = "x86_64")]
    pub architecture: String,
    /// Size of the root volume in GiB.
    #[serde(default = "eight")]
    pub root_gib: u32,
    /// Whether the root snapshot is encrypted, which hibernation needs.
    #[serde(default)]
    pub encrypted: bool,
}

fn x86_64() -> String {
    "x86_64".to_owned()
}

fn eight() -> u32 {
    8
}

/// How long things take, in virtual milliseconds. The defaults are shorter than EC2's.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Delays {
    /// From the launch to `running`.
    pub pending_ms: Millis,
    /// A random part on top of `pending_ms`, from 0 up to this.
    pub pending_jitter_ms: Millis,
    /// From `running` to status checks `ok`.
    pub status_ok_ms: Millis,
    pub shutting_down_ms: Millis,
    pub stopping_ms: Millis,
    /// From the start of a hibernation to `stopped`.
    pub hibernating_ms: Millis,
    /// From StartInstances to `running` (resume from hibernation as well).
    pub starting_ms: Millis,
    /// A fleet's time in `submitted`.
    pub fleet_submitted_ms: Millis,
    /// A fleet's time in `modifying`.
    pub fleet_modifying_ms: Millis,
    /// Until a maintain fleet looks again for capacity that it did not get.
    pub fleet_retry_ms: Millis,
    /// Until a maintain fleet notices a lost instance.
    pub fleet_replace_ms: Millis,
    /// How late the events of DescribeFleetHistory appear.
    pub fleet_history_ms: Millis,
    /// Notice before a Spot instance is terminated or stopped.
    pub interruption_notice_ms: Millis,
    /// How long a terminated instance stays visible.
    pub terminated_visible_ms: Millis,
    /// Attaching and detaching a volume or interface.
    pub attach_ms: Millis,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            pending_ms: 1_000,
            pending_jitter_ms: 0,
            status_ok_ms: 2_000,
            shutting_down_ms: 1_000,
            stopping_ms: 1_000,
            hibernating_ms: 2_000,
            starting_ms: 1_000,
            fleet_submitted_ms: 200,
            fleet_modifying_ms: 500,
            fleet_retry_ms: 5_000,
            fleet_replace_ms: 1_000,
            fleet_history_ms: 0,
            interruption_notice_ms: 120_000,
            terminated_visible_ms: 3_600_000,
            attach_ms: 500,
        }
    }
}

/// Service quotas of the account in each region. Absent means unlimited.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// vCPUs of running on-demand instances (VcpuLimitExceeded).
    pub on_demand_vcpus: Option<u64>,
    /// vCPUs of Spot instances (MaxSpotInstanceCountExceeded).
    pub spot_vcpus: Option<u64>,
    /// Spot instances (MaxSpotInstanceCountExceeded).
    pub spot_instances: Option<u64>,
    /// Active maintain and request fleets (fleetLimitExceeded in EC2's documents: MaxFleetCountExceeded).
    pub fleets: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { on_demand_vcpus: None, spot_vcpus: None, spot_instances: None, fleets: 1_000 }
    }
}

/// Capacity and price of the pools that match. `*` matches any text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRule {
    /// Instance type, such as `c5.*`.
    #[serde(rename = "type", default = "any")]
    pub instance_type: String,
    /// Availability Zone name, such as `us-east-1a` or `*a`.
    #[serde(default = "any")]
    pub zone: String,
    /// `spot`, `on-demand` or `*`.
    #[serde(default = "any")]
    pub lifecycle: String,
    /// How many instances each matching pool can hold at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// USD an hour of each matching pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<f64>,
}

pub(crate) fn any() -> String {
    "*".to_owned()
}

/// How the instances that match boot. The first rule that matches and whose rate hits decides.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BootRule {
    #[serde(rename = "type", default = "any")]
    pub instance_type: String,
    #[serde(default = "any")]
    pub zone: String,
    #[serde(default = "any")]
    pub lifecycle: String,
    /// The part of the boots that the rule hits, 0 to 1.
    #[serde(default = "always")]
    pub rate: f64,
    pub outcome: BootOutcome,
}

pub(crate) fn always() -> f64 {
    1.0
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BootOutcome {
    /// pending, then terminated with Server.InternalError.
    Terminated,
    /// running, but the instance status check fails and the boot hook is not run.
    Impaired,
    /// The boot takes this much longer (ms), in `pending`.
    Slow(Millis),
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DenyRule {
    /// Such as `ec2:RunInstances`; `*` matches any text.
    pub action: String,
    /// Access key ids that the rule is for; `*` matches any text.
    #[serde(default = "any")]
    pub access_key: String,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct TimelineEntry {
    /// Virtual seconds since the start.
    pub at_s: f64,
    #[serde(flatten)]
    pub command: Command,
}

// Written by hand: the derived code names neither the wrong command nor its wrong member.
impl<'de> Deserialize<'de> for TimelineEntry {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let mut members = serde_json::Map::deserialize(deserializer)?;
        let at_s = members
            .remove("at_s")
            .and_then(|at| at.as_f64())
            .ok_or_else(|| D::Error::custom("a timeline entry needs at_s, in virtual seconds"))?;
        let command = serde_json::from_value(members.into()).map_err(D::Error::custom)?;
        Ok(Self { at_s, command })
    }
}

impl Scenario {
    /// Reads a scenario file's text.
    ///
    /// # Errors
    /// What is wrong and where, for the user.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let scenario: Self =
            serde_json::from_str(text).map_err(|error| format!("not a scenario: {error}"))?;
        scenario.validate()?;
        Ok(scenario)
    }

    fn validate(&self) -> Result<(), String> {
        if self.account.len() != 12 || !self.account.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("account {:?} is not twelve digits", self.account));
        }
        if !(self.speed.is_finite() && self.speed >= 0.0) {
            return Err(format!("speed {} is not 0 or more", self.speed));
        }
        if self.zones.is_empty() {
            return Err("zones is empty: a region needs at least one".to_owned());
        }
        for subnet in &self.subnets {
            crate::model::network::Cidr::parse(&subnet.cidr)
                .map_err(|error| format!("subnet {}: {error}", subnet.id))?;
            let letter = subnet.zone.strip_prefix(&self.region).unwrap_or(&subnet.zone);
            if !self.zones.iter().any(|zone| zone == letter) {
                return Err(format!(
                    "subnet {}: zone {} is not one of {:?}",
                    subnet.id, subnet.zone, self.zones
                ));
            }
        }
        if let Some(start) = &self.start_time
            && crate::model::time::parse(start).is_none()
        {
            return Err(format!("start_time {start:?} is not a time such as 2025-01-31T20:00:00Z"));
        }
        Ok(())
    }
}

/// `*` in the pattern matches any text.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    crate::api::filter::wildcard(pattern, text)
}
