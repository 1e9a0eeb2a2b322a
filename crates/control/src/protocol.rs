// SPDX-License-Identifier: GPL-3.0-or-later
//! What is said over the plugin's socket: one JSON object a line, each request answered by one line.
//!
//! ```text
//! → {"v":1,"op":"resume","nodes":"aws-spot-[0-3]","jobs":{…}}
//! ← {"v":1,"ok":{"accepted":{"nodes":"aws-spot-[0-3]","count":4}}}
//! ← {"v":1,"error":{"kind":"passive","message":"…","hint":"…"}}
//! ```
//!
//! Fields that are not known are ignored, so that programs and plugin of neighbouring releases understand each
//! other; [`PROTOCOL`] rises only when they would misunderstand.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use ec2fleet_core::report::{
    EventsReport, ExplainReport, FleetsReport, NodesReport, PlanReport, StatusReport,
};
use ec2fleet_core::resume_file::ResumeFile;

/// Version of the protocol, `v` in every line.
pub const PROTOCOL: u32 = 1;

/// Longest line in either direction: the nodes report of 10,000 nodes takes about 4 MiB.
pub const MAX_LINE: usize = 32 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub v: u32,
    #[serde(flatten)]
    pub op: Operation,
    /// Tell what would be done, and do nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Request {
    #[must_use]
    pub fn new(op: Operation) -> Self {
        Self { v: PROTOCOL, op, dry_run: false }
    }
}

/// What is asked. `nodes` are hostlists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Operation {
    Ping,
    /// From ResumeProgram, or by an administrator: slurmctld wants these nodes up.
    Resume {
        nodes: String,
        /// What SLURM_RESUME_FILE said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        jobs: Option<ResumeFile>,
    },
    /// From SuspendProgram: slurmctld wants these nodes down.
    Suspend {
        nodes: String,
    },
    /// From ResumeFailProgram: these nodes did not register within ResumeTimeout.
    ResumeFail {
        nodes: String,
    },
    Status,
    Nodes {
        /// Only these; `None`: all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nodes: Option<String>,
    },
    Events {
        #[serde(default)]
        filter: EventFilter,
    },
    Explain {
        subject: Subject,
    },
    /// Read config.json and partitions.json again.
    Reload,
    LogLevel {
        /// A LogLevel of config.json: `DEBUG`, `INFO`, `WARNING`, `ERROR`, `CRITICAL`.
        level: String,
    },
    /// End instances and fleets that belong to no node.
    Gc,
    /// Leave these nodes and their instances alone.
    Lock {
        nodes: String,
        reason: String,
    },
    Unlock {
        nodes: String,
    },
    /// Bring nodes that are stuck back to service.
    Reset {
        nodes: String,
    },
    /// End the instances of these nodes and launch new ones.
    Replace {
        nodes: String,
    },
    /// The maintain fleets of this cluster.
    Fleets,
    /// Delete fleets by their ids; one that holds a node with a job is refused.
    DeleteFleets {
        fleet_ids: Vec<String>,
    },
    PauseOperations {
        reason: String,
    },
    ResumeOperations,
    /// Panic in the engine, to test what follows; refused unless the plugin's environment allows it.
    Panic,
}

impl Operation {
    /// As in the `op` field.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Resume { .. } => "resume",
            Self::Suspend { .. } => "suspend",
            Self::ResumeFail { .. } => "resume-fail",
            Self::Status => "status",
            Self::Nodes { .. } => "nodes",
            Self::Events { .. } => "events",
            Self::Explain { .. } => "explain",
            Self::Reload => "reload",
            Self::LogLevel { .. } => "log-level",
            Self::Gc => "gc",
            Self::Lock { .. } => "lock",
            Self::Unlock { .. } => "unlock",
            Self::Reset { .. } => "reset",
            Self::Replace { .. } => "replace",
            Self::Fleets => "fleets",
            Self::DeleteFleets { .. } => "delete-fleets",
            Self::PauseOperations { .. } => "pause-operations",
            Self::ResumeOperations => "resume-operations",
            Self::Panic => "panic",
        }
    }

    /// Whether it only looks.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        matches!(
            self,
            Self::Ping
                | Self::Status
                | Self::Nodes { .. }
                | Self::Events { .. }
                | Self::Explain { .. }
                | Self::Fleets
        )
    }
}

/// Which events are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    /// Only events with a greater `seq`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Only events at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ms: Option<u64>,
    /// Hostlist: only events of one of these nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// The newest ones, at most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Node(String),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Response {
    pub v: u32,
    #[serde(flatten)]
    pub answer: Answer,
}

impl<'de> Deserialize<'de> for Response {
    /// By its members: to read a flattened enum, serde would keep a copy of the whole answer, which may be of 10,000 nodes.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Members {
            v: u32,
            ok: Option<Reply>,
            error: Option<Refusal>,
        }
        let Members { v, ok, error } = Members::deserialize(deserializer)?;
        let answer = match (ok, error) {
            (Some(reply), None) => Answer::Ok(reply),
            (None, Some(refusal)) => Answer::Error(refusal),
            _ => return Err(D::Error::custom("an answer is either ok or error")),
        };
        Ok(Self { v, answer })
    }
}

impl Response {
    #[must_use]
    pub fn ok(reply: Reply) -> Self {
        Self { v: PROTOCOL, answer: Answer::Ok(reply) }
    }

    #[must_use]
    pub fn refused(kind: RefusalKind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let refusal = Refusal { kind, message: message.into(), hint: hint.into() };
        Self { v: PROTOCOL, answer: Answer::Error(refusal) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Ok(Reply),
    Error(Refusal),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Pong {
        version: String,
    },
    /// The request is in the engine's hands.
    Accepted {
        nodes: String,
        count: u32,
    },
    Status(Box<StatusReport>),
    Nodes(NodesReport),
    Events(EventsReport),
    Explain(Box<ExplainReport>),
    Plan(PlanReport),
    Fleets(FleetsReport),
    Done {
        message: String,
    },
}

/// Why a request was not done, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
    #[serde(default)]
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The request is malformed.
    BadRequest,
    /// The two sides speak different protocol versions.
    Version,
    /// The caller may not ask for this.
    NotPermitted,
    /// Too many requests or connections at once.
    Busy,
    /// The engine did not answer in time.
    Timeout,
    /// The plugin watches only; the programs do the work themselves.
    Passive,
    /// No such node, job or group.
    NotFound,
    /// It was tried and failed.
    Failed,
    /// A kind of a newer release.
    #[serde(other)]
    Unknown,
}

impl RefusalKind {
    /// Whether a program that got this should do the work itself.
    #[must_use]
    pub fn program_takes_over(self) -> bool {
        matches!(self, Self::Passive | Self::Timeout | Self::Version)
    }
}
