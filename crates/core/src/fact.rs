// SPDX-License-Identifier: GPL-3.0-or-later
//! The one event vocabulary: every decision and every answer leaves a fact that says why.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hostlist;
use super::report::Severity;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FactKind {
    /// Slurm decided to power nodes up.
    PowerUpSeen,
    /// Slurm decided to power nodes down.
    PowerDownSeen,
    CreateFleetSent,
    FleetCreated,
    CreateFleetFailed,
    /// The same request, with the same client token, will be sent again.
    CreateFleetRepeated,
    /// Instances were given to nodes.
    NodesBound,
    /// slurmctld has the nodes' addresses.
    AddressesSet,
    /// Nodes wait for an instance, and slurmctld has an address for them that is nobody's.
    PlaceholdersSet,
    /// slurmctld has the weights of the nodes' instances.
    WeightsSet,
    /// The nodes registered with slurmctld.
    NodesReady,
    /// Nodes are reported to slurmctld as impossible to power up.
    NodesFailed,
    /// A node left the power-up state before it registered.
    PowerUpEnded,
    TerminateSent,
    InstancesTerminated,
    TerminateFailed,
    TagsWritten,
    TagsFailed,
    /// An instance that was found belongs to a node after all.
    InstanceAdopted,
    /// An instance of this cluster has no node.
    OrphanSeen,
    OrphanTerminated,
    /// A bound instance has ended in EC2 without our doing.
    InstanceVanished,
    /// A node is up in Slurm, and no instance stands behind it.
    NodeWithoutInstance,
    AddressChanged,
    /// EC2 could not be listed: nothing is known, and nothing is decided.
    CloudUnknown,
    CloudKnown,
    /// slurmctld could not be asked.
    SlurmUnknown,
    SlurmKnown,
    /// EC2 asks for fewer calls.
    Throttled,
    PoolCooling,
    /// A node group is closed after repeated launch failures.
    GroupProtected,
    /// An administrator, or one of Slurm's programs, asked for an operation.
    OperationAsked,
    NodeReset,
    NodeLocked,
    Paused,
    Recovered,
    JournalDamaged,
    /// The journal cannot be written: nothing is launched or terminated until it can.
    JournalRefused,
    JournalWritable,
    /// The hosts file does not say where the nodes are.
    HostsRefused,
    HostsWritten,
    ConfigLoaded,
    ConfigRefused,
    Started,
    /// A defect ended the engine; it began again from its journal.
    Restarted,
    FleetDeleted,
    /// A node group has another fleet from now on.
    FleetReplaced,
    /// EC2 shows another target than was set last.
    FleetTargetChanged,
    /// EC2 put a Spot instance to sleep; its job waits.
    NodeAsleep,
    NodeAwake,
    SpotFallback,
    /// A step of the move of a hibernated instance's disks to an on-demand instance.
    NodeMoving,
    NodeMoved,
    /// The move was undone, and the node waits for Spot capacity again.
    MoveFailed,
    /// A step of the move did not succeed and is tried again.
    MoveDelayed,
    /// Volumes or interfaces of a node exist without an instance: an administrator decides about them.
    VolumesLeft,
}

impl FactKind {
    /// As in the `kind` field of an event.
    #[must_use]
    pub fn name(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    #[must_use]
    pub fn severity(self) -> Severity {
        match self {
            Self::CreateFleetFailed
            | Self::NodesFailed
            | Self::TerminateFailed
            | Self::InstanceVanished
            | Self::NodeWithoutInstance
            | Self::OrphanTerminated
            | Self::CloudUnknown
            | Self::SlurmUnknown
            | Self::GroupProtected
            | Self::HostsRefused
            | Self::Restarted
            | Self::MoveFailed
            | Self::MoveDelayed
            | Self::VolumesLeft
            | Self::TagsFailed => Severity::Warning,
            Self::JournalDamaged | Self::JournalRefused | Self::ConfigRefused => Severity::Error,
            Self::Throttled
            | Self::PoolCooling
            | Self::CreateFleetRepeated
            | Self::PlaceholdersSet
            | Self::TagsWritten => Severity::Debug,
            _ => Severity::Info,
        }
    }
}

/// One thing that happened, was decided or was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fact {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    pub kind: FactKind,
    /// Hostlist expression; empty if no node is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub nodes: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<String>,
    /// Client token of the launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
    /// EC2's or Slurm's error code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Milliseconds since what started it (the power-up for nodes, the request for answers).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// One sentence for people.
    pub text: String,
}

impl Fact {
    #[must_use]
    pub fn new(unix_ms: u64, kind: FactKind, text: impl Into<String>) -> Self {
        Self {
            unix_ms,
            kind,
            nodes: String::new(),
            group: None,
            instances: Vec::new(),
            launch: None,
            code: None,
            after_ms: None,
            text: text.into(),
        }
    }

    #[must_use]
    pub fn nodes<S: AsRef<str>>(mut self, nodes: impl IntoIterator<Item = S>) -> Self {
        self.nodes = hostlist::fold(nodes);
        self
    }

    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    #[must_use]
    pub fn instances(mut self, instances: impl IntoIterator<Item = String>) -> Self {
        self.instances = instances.into_iter().collect();
        self
    }

    #[must_use]
    pub fn launch(mut self, launch: impl Into<String>) -> Self {
        self.launch = Some(launch.into());
        self
    }

    #[must_use]
    pub fn code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    #[must_use]
    pub fn after_ms(mut self, ms: u64) -> Self {
        self.after_ms = Some(ms);
        self
    }
}
