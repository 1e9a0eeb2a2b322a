// SPDX-License-Identifier: GPL-3.0-or-later
//! What the plugin tells about itself: the reports behind `ec2fleet status`, `nodes`, `events` and `explain`.
//!
//! Every report is printed by `--json` as it stands here and described by a JSON Schema (`ec2fleet schema`).
//! Times are milliseconds since 1970-01-01T00:00:00Z (`*_unix_ms`), durations carry their unit in the name.
//! Fields may be added in any release; a change of meaning raises [`SCHEMA_VERSION`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::site::{FleetScope, Lifecycle};

/// Version of the shapes in this file, given as `schema` in every report.
pub const SCHEMA_VERSION: u32 = 1;

/// What the plugin is doing at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Mode {
    /// It decides and acts.
    Active,
    /// It watches and acts on nothing until an administrator has removed the cause.
    Passive { reason: String },
    /// No plugin answered; what is shown was read from Slurm and the journal by the command itself.
    NotRunning { reason: String },
    /// The caller may not ask the plugin; what is shown was read from Slurm by the command itself.
    NotPermitted { reason: String },
}

/// The whole plugin at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatusReport {
    pub schema: u32,
    /// Release of slurm-ec2-fleet.
    pub version: String,
    /// Value of the cluster tag.
    pub cluster: String,
    pub mode: Mode,
    /// When `mode` began.
    pub since_unix_ms: u64,
    /// When this report was made.
    pub now_unix_ms: u64,
    /// Release of Slurm, `22.05.8`; empty if not known.
    pub slurm_release: String,
    /// Process id of slurmctld (or of the program that answers); 0 if nothing runs.
    pub pid: u32,
    /// Set while launches and terminations are stopped by `ec2fleet pause-operations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    pub groups: Vec<GroupReport>,
    /// One for each region and profile in use.
    pub cloud: Vec<CloudReport>,
    pub slurm: SlurmReport,
    pub queue: QueueReport,
    pub journal: JournalReport,
    /// What an administrator should look at, most urgent first.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Who stopped operations, when and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Paused {
    pub since_unix_ms: u64,
    pub uid: u32,
    pub reason: String,
}

/// One node group. The counts from `wanted` to `asleep` are nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GroupReport {
    pub partition: String,
    pub group: String,
    pub region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[schemars(with = "String")]
    pub lifecycle: Lifecycle,
    #[schemars(with = "String")]
    pub scope: FleetScope,
    pub max_nodes: u32,
    /// Nodes that Slurm wants powered up, whatever has become of them yet.
    pub wanted: u32,
    /// Waiting for a launch: batched, in cool-down or held back by the request budget.
    pub pending: u32,
    /// Asked of EC2, no answer yet.
    pub launching: u32,
    /// With an instance, not registered with slurmctld yet.
    pub booting: u32,
    /// Registered and without a job.
    pub ready: u32,
    /// Registered and with a job.
    pub busy: u32,
    /// Hibernated by EC2.
    pub asleep: u32,
    /// Being powered down: the instance is not gone yet.
    pub stopping: u32,
    /// Failed to start, or DOWN.
    pub failed: u32,
    pub powered_down: u32,
    /// Nodes that an administrator has locked.
    pub locked: u32,
    /// Instances that are ours in EC2, pending to stopped.
    pub instances: u32,
    pub spot_instances: u32,
    pub on_demand_instances: u32,
    /// Target capacity of the group's maintain fleets together; absent for instant fleets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_target: Option<u32>,
    /// Estimate for the instances that run now, US dollars an hour; absent if no price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_hour: Option<f64>,
    /// Launches are stopped after repeated failures.
    pub protected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected_reason: Option<String>,
    /// Pools that are not asked now.
    pub cooldowns: Vec<Cooldown>,
    /// The last launch failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LaunchError>,
}

impl GroupReport {
    /// `<partition>-<group>`.
    #[must_use]
    pub fn stem(&self) -> String {
        format!("{}-{}", self.partition, self.group)
    }
}

/// A capacity pool that refused, and until when it is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cooldown {
    pub instance_type: String,
    pub zone: String,
    #[schemars(with = "String")]
    pub lifecycle: Lifecycle,
    pub until_unix_ms: u64,
    /// EC2's error code.
    pub code: String,
    /// Refusals in a row.
    #[serde(default)]
    pub refusals: u32,
}

/// Why launches fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LaunchError {
    pub at_unix_ms: u64,
    /// EC2's error code.
    pub code: String,
    /// As `ErrorClass` names it: `capacity`, `quota`, `throttle`, `configuration`, …
    pub class: String,
    pub message: String,
    pub nodes: u32,
}

/// One EC2 endpoint with one set of credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CloudReport {
    pub region: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// When the instances were last listed completely; absent if never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listed_unix_ms: Option<u64>,
    /// Why the last listing failed; absent if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Instances in the last complete listing.
    pub instances: u32,
    /// Calls sent since the plugin started.
    pub calls: u64,
    /// Calls that EC2 throttled.
    pub throttled: u64,
    /// Calls on their way now.
    pub in_flight: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlurmReport {
    /// When the nodes were last loaded; absent if never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded_unix_ms: Option<u64>,
    /// Why the last call to slurmctld failed; absent if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `update_node` calls since the plugin started.
    pub updates: u64,
    /// Readings of the power bitmaps under the node read lock.
    pub scans: u64,
    /// Longest time that lock was held, microseconds.
    pub lock_held_max_us: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QueueReport {
    /// Events waiting for the engine.
    pub depth: u32,
    pub capacity: u32,
    /// Times the queue was full, each followed by a full rescan.
    pub overflows: u64,
    /// Effects that are not finished.
    pub effects: u32,
    /// Events handled since the plugin started.
    pub events: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JournalReport {
    pub path: String,
    pub bytes: u64,
    /// Intents written and not answered by EC2 yet.
    pub open_intents: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What Slurm wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Desire {
    Up,
    #[default]
    Down,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NodeReport {
    pub name: String,
    pub partition: String,
    pub group: String,
    /// As `scontrol show node` prints it: `IDLE+CLOUD+POWERED_DOWN`.
    pub slurm_state: String,
    pub desire: Desire,
    /// What the engine makes of it; the words are those of the counts in [`GroupReport`].
    pub phase: String,
    /// When `phase` began; 0 if not known.
    pub since_unix_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// `InstanceState.Name` of EC2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[schemars(with = "Option<String>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_id: Option<String>,
    /// Slurm's Reason, or why the engine waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub locked: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodesReport {
    pub schema: u32,
    pub nodes: Vec<NodeReport>,
}

/// How urgent an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
}

impl Severity {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One decision or fact, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EventReport {
    /// Rises by one for each event of this state directory.
    pub seq: u64,
    pub unix_ms: u64,
    pub severity: Severity,
    /// A short fixed name, such as `fleet-created`.
    pub kind: String,
    /// What happened and why, in one sentence.
    pub text: String,
    /// Hostlist of the nodes concerned; empty if none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// EC2's request id, of a call that it refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Every instance concerned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// Client token of the launch concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
    /// EC2's or Slurm's error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Milliseconds since what began it: the power-up for nodes, the call for answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// Who asked for it, if an administrator did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

impl EventReport {
    #[must_use]
    pub fn of(seq: u64, fact: &super::fact::Fact) -> Self {
        Self {
            seq,
            unix_ms: fact.unix_ms,
            severity: fact.kind.severity(),
            kind: fact.kind.name(),
            text: fact.text.clone(),
            nodes: fact.nodes.clone(),
            group: fact.group.clone(),
            instance_id: (fact.instances.len() == 1).then(|| fact.instances[0].clone()),
            instances: fact.instances.clone(),
            launch: fact.launch.clone(),
            code: fact.code.clone(),
            after_ms: fact.after_ms,
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventsReport {
    pub schema: u32,
    /// Oldest first.
    pub events: Vec<EventReport>,
    /// Ask for events after this `seq` next time.
    pub next: u64,
    /// Events that were asked for and are no longer kept.
    #[serde(default)]
    pub lost: u64,
}

/// The chain of decisions behind a node's or a job's present state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainReport {
    pub schema: u32,
    /// `node aws-spot-3` or `job 17`.
    pub subject: String,
    /// The present state and its cause, in a sentence or two.
    pub summary: String,
    /// What will happen next and when, or what the administrator can do.
    pub next: Vec<String>,
    pub nodes: Vec<NodeReport>,
    /// Oldest first.
    pub events: Vec<EventReport>,
}

/// What an operation does, or would do under `--dry-run`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanReport {
    pub schema: u32,
    pub dry_run: bool,
    pub actions: Vec<PlannedAction>,
    /// What was asked for and is not done, with the cause.
    #[serde(default)]
    pub refused: Vec<PlannedAction>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedAction {
    /// A verb in EC2's or Slurm's words: `terminate`, `power-up`, `lock`, …
    pub action: String,
    /// A hostlist, instance id or fleet id.
    pub subject: String,
    pub why: String,
}

/// The EC2 fleets that hold nodes: maintain fleets, since EC2 forgets an instant fleet at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetsReport {
    pub schema: u32,
    pub fleets: Vec<FleetReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetReport {
    pub fleet_id: String,
    /// `<partition>-<group>`.
    pub group: String,
    /// Hostlist of its nodes.
    pub nodes: String,
    pub instances: Vec<String>,
    /// Phases of its nodes, each once.
    pub phases: Vec<String>,
    #[serde(default)]
    pub scope: FleetScope,
    #[serde(default)]
    pub region: String,
    /// Target capacity as EC2 last accepted it; absent where a fleet holds one node, or nothing is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spot_target: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_target: Option<u32>,
    /// It goes with its last node: its group has another fleet, or is no longer configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_no_nodes: bool,
}

/// The capacity pools that are not asked now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CapacityReport {
    pub schema: u32,
    pub now_unix_ms: u64,
    pub pools: Vec<PoolReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PoolReport {
    /// `<partition>-<group>`.
    pub group: String,
    #[serde(flatten)]
    pub pool: Cooldown,
}

/// What instances have cost since some time and cost now, in US dollars: an estimate at the prices of now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostReport {
    pub schema: u32,
    pub now_unix_ms: u64,
    /// The beginning of the time that is added up.
    pub since_unix_ms: u64,
    /// Since when instances are recorded; absent if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_unix_ms: Option<u64>,
    pub rows: Vec<CostRow>,
    pub total: CostRow,
    /// Types without a price; their instances are counted and cost nothing here.
    pub unpriced: Vec<String>,
    /// What the sums lack, and why.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostRow {
    /// A partition, node group, instance type or job.
    pub name: String,
    /// Hours that Spot instances stood behind nodes, without those that they slept.
    pub spot_hours: f64,
    pub on_demand_hours: f64,
    pub usd: f64,
    /// What the Spot hours would have cost more on-demand, where both prices are known.
    pub saved_usd: f64,
    /// Those that run now.
    pub spot_instances: f64,
    pub on_demand_instances: f64,
    pub usd_per_hour: f64,
    pub saved_usd_per_hour: f64,
}

/// Nodes were handed to the plugin by `resume` or `suspend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AcceptedReport {
    pub schema: u32,
    /// Hostlist.
    pub accepted: String,
    pub count: u32,
}

/// An operation without a plan was done (or, under `--dry-run`, would be).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoneReport {
    pub schema: u32,
    pub done: String,
}
