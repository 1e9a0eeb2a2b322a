// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine asks of slurmctld and what it is told, in Slurm's terms.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One reading of slurmctld's power bitmaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerReading {
    /// True when `waking` and `suspended` are the complete sets, false when they are what changed.
    pub full: bool,
    /// slurmctld has read slurm.conf since the last reading (or this is the first one).
    pub reconfigured: bool,
    /// Nodes that power save is waking (booting and not powered down).
    pub waking: Vec<String>,
    /// Nodes that were waking and no longer are (registered, failed or powered down).
    pub waking_ended: Vec<String>,
    /// Nodes that power save has suspended (powering down or powered down).
    pub suspended: Vec<String>,
    /// Nodes that were suspended and no longer are.
    pub suspended_ended: Vec<String>,
    /// Nanoseconds for which the node read lock was held at the longest.
    pub lock_held_ns: u64,
}

impl PowerReading {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.full
            && self.waking.is_empty()
            && self.waking_ended.is_empty()
            && self.suspended.is_empty()
            && self.suspended_ended.is_empty()
    }
}

/// The base state of a node (the low bits of `node_state` in slurm.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeBase {
    #[default]
    Unknown,
    Down,
    Idle,
    Allocated,
    Error,
    Mixed,
    Future,
}

/// State flags of a node, those that matter here (`NODE_STATE_*` in slurm.h; the bits are our own).
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFlags(pub u32);

impl NodeFlags {
    pub const CLOUD: Self = Self(1);
    pub const COMPLETING: Self = Self(1 << 1);
    pub const DRAIN: Self = Self(1 << 2);
    pub const FAIL: Self = Self(1 << 3);
    /// `NODE_STATE_NO_RESPOND`.
    pub const NOT_RESPONDING: Self = Self(1 << 4);
    /// Power down is asked for and not begun (`NODE_STATE_POWER_DOWN`).
    pub const POWER_DOWN: Self = Self(1 << 5);
    pub const POWERED_DOWN: Self = Self(1 << 6);
    pub const POWERING_DOWN: Self = Self(1 << 7);
    /// Power up is asked for and not begun (`NODE_STATE_POWER_UP`).
    pub const POWER_UP: Self = Self(1 << 8);
    pub const POWERING_UP: Self = Self(1 << 9);
    pub const MAINTENANCE: Self = Self(1 << 10);
    pub const REBOOT_REQUESTED: Self = Self(1 << 11);
    pub const REBOOT_ISSUED: Self = Self(1 << 12);
    pub const RESERVED: Self = Self(1 << 13);
    pub const PLANNED: Self = Self(1 << 14);
    /// Added at run time without slurm.conf (`NODE_STATE_DYNAMIC_NORM`).
    pub const DYNAMIC: Self = Self(1 << 15);
    pub const INVALID_REG: Self = Self(1 << 16);

    /// Names as `scontrol show node` prints them.
    pub const NAMES: [(Self, &'static str); 17] = [
        (Self::CLOUD, "CLOUD"),
        (Self::COMPLETING, "COMPLETING"),
        (Self::DRAIN, "DRAIN"),
        (Self::FAIL, "FAIL"),
        (Self::NOT_RESPONDING, "NOT_RESPONDING"),
        (Self::POWER_DOWN, "POWER_DOWN"),
        (Self::POWERED_DOWN, "POWERED_DOWN"),
        (Self::POWERING_DOWN, "POWERING_DOWN"),
        (Self::POWER_UP, "POWER_UP"),
        (Self::POWERING_UP, "POWERING_UP"),
        (Self::MAINTENANCE, "MAINTENANCE"),
        (Self::REBOOT_REQUESTED, "REBOOT_REQUESTED"),
        (Self::REBOOT_ISSUED, "REBOOT_ISSUED"),
        (Self::RESERVED, "RESERVED"),
        (Self::PLANNED, "PLANNED"),
        (Self::DYNAMIC, "DYNAMIC_NORM"),
        (Self::INVALID_REG, "INVALID_REG"),
    ];

    #[must_use]
    pub fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    #[must_use]
    pub fn with(self, flag: Self) -> Self {
        Self(self.0 | flag.0)
    }

    #[must_use]
    pub fn without(self, flag: Self) -> Self {
        Self(self.0 & !flag.0)
    }
}

impl fmt::Debug for NodeFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            Self::NAMES.iter().filter(|(flag, _)| self.has(*flag)).map(|(_, name)| *name).collect();
        f.write_str(&names.join("+"))
    }
}

/// One node as `slurm_load_node` or `scontrol show node` gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlurmNode {
    pub name: String,
    pub addr: String,
    pub hostname: String,
    pub base: NodeBase,
    pub flags: NodeFlags,
    pub reason: Option<String>,
    pub partitions: Vec<String>,
    /// `None` if it is not known: releases before 23.02 do not show nodes that are powered down.
    pub weight: Option<u32>,
    /// Seconds since 1970; 0 before the first registration.
    pub boot_time: u64,
    /// Seconds since 1970; 0 before the first registration.
    pub slurmd_start_time: u64,
    /// Since Slurm 23.11.
    pub instance_id: Option<String>,
    /// Since Slurm 23.11.
    pub instance_type: Option<String>,
}

impl SlurmNode {
    /// Whether jobs hold the node: allocated, mixed or completing.
    #[must_use]
    pub fn has_job(&self) -> bool {
        matches!(self.base, NodeBase::Allocated | NodeBase::Mixed) || self.flags.has(NodeFlags::COMPLETING)
    }

    /// `IDLE+CLOUD+POWERED_DOWN`, as `scontrol show node` prints it.
    #[must_use]
    pub fn state_text(&self) -> String {
        let base = match self.base {
            NodeBase::Unknown => "UNKNOWN",
            NodeBase::Down => "DOWN",
            NodeBase::Idle => "IDLE",
            NodeBase::Allocated => "ALLOCATED",
            NodeBase::Error => "ERROR",
            NodeBase::Mixed => "MIXED",
            NodeBase::Future => "FUTURE",
        };
        let mut text = base.to_owned();
        for (flag, name) in NodeFlags::NAMES {
            if self.flags.has(flag) {
                text.push('+');
                text.push_str(name);
            }
        }
        text
    }
}

/// What to do to a node's state, in the words of `scontrol update NodeName=… State=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeStateChange {
    PowerUp,
    PowerDown,
    /// Also from POWERING_UP: running jobs are killed or requeued.
    PowerDownForce,
    Drain,
    Undrain,
    Resume,
    Down,
}

/// One `update_node` call; every list is as long as `names` and in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUpdate {
    pub names: Vec<String>,
    pub addrs: Option<Vec<String>>,
    pub hostnames: Option<Vec<String>>,
    /// Ignored by releases before 23.11; only given when all nodes of the call share the value, or one by one.
    pub instance_ids: Option<Vec<String>>,
    pub instance_types: Option<Vec<String>>,
    pub state: Option<NodeStateChange>,
    pub reason: Option<String>,
    /// The same for all nodes of the call.
    pub weight: Option<u32>,
}

/// One call to slurmctld.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlurmRequest {
    LoadNodes,
    UpdateNodes(NodeUpdate),
    /// Reset the clock of SlurmdTimeout for these nodes (`node_did_resp`); only possible inside slurmctld.
    KeepResponding {
        nodes: Vec<String>,
    },
    /// Have slurmctld look now which configuring jobs have all their nodes; only possible inside slurmctld.
    StartReadyJobs,
    /// Lengthen the running jobs of these nodes by whole minutes.
    ExtendJobs {
        node: String,
        minutes: u32,
    },
}

impl SlurmRequest {
    /// For messages.
    #[must_use]
    pub fn what(&self) -> String {
        match self {
            Self::LoadNodes => "the nodes".into(),
            Self::UpdateNodes(update) => format!("an update of {} nodes", update.names.len()),
            Self::KeepResponding { nodes } => format!("keeping {} sleeping nodes alive", nodes.len()),
            Self::StartReadyJobs => "starting jobs whose nodes are up".into(),
            Self::ExtendJobs { node, .. } => format!("more time for the jobs of {node}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlurmReply {
    Nodes(Vec<SlurmNode>),
    Done,
}

/// A failed call to slurmctld.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SlurmError {
    /// slurmctld answered with an error number (slurm_errno.h); 0 if only its text is known.
    #[error("slurmctld refused {what}: {message}{}", numbered(*.errno))]
    Refused { what: String, errno: i32, message: String },
    /// slurmctld could not be asked, so nothing is known of the outcome.
    #[error("slurmctld could not be asked for {what}: {message}")]
    Unreachable { what: String, message: String },
    /// This path to slurmctld cannot do it (for example `node_did_resp` from outside).
    #[error("{what} is not possible here: {message}")]
    Unsupported { what: String, message: String },
}

fn numbered(errno: i32) -> String {
    if errno == 0 { String::new() } else { format!(" (error {errno})") }
}

pub type SlurmResult = Result<SlurmReply, SlurmError>;
