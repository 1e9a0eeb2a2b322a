// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine is told and what it wants done.

use std::sync::Arc;

use super::ec2_api::{CloudRequest, CloudResult};
use super::fact::Fact;
use super::record::Record;
use super::site::{Account, Site};
use super::slurm_api::{PowerReading, SlurmRequest, SlurmResult};

/// Names one call, so that its answer finds its reason.
pub type CallId = u64;

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// slurmctld's power bitmaps were read.
    Power(PowerReading),
    /// Slurm ran ResumeProgram for these nodes.
    ResumeRequested {
        nodes: Vec<String>,
        /// Every job that waits for some of them; `None` if that is not known.
        jobs: Option<Vec<ResumeJob>>,
    },
    /// Slurm ran SuspendProgram for these nodes.
    SuspendRequested {
        nodes: Vec<String>,
    },
    /// Slurm ran ResumeFailProgram: these nodes did not register in time.
    ResumeFailed {
        nodes: Vec<String>,
    },
    CloudAnswered {
        call: CallId,
        result: CloudResult,
    },
    SlurmAnswered {
        call: CallId,
        result: SlurmResult,
    },
    SiteChanged(Arc<Site>),
    /// Events were lost: everything has to be looked at again.
    Rescan,
    /// An administrator takes nodes out of our hands, or gives them back.
    LockRequested {
        nodes: Vec<String>,
        locked: bool,
    },
    PauseRequested {
        paused: bool,
    },
    /// An administrator wants the nodes' instances replaced, or stuck nodes back in service.
    ReplaceRequested {
        nodes: Vec<String>,
    },
    ResetRequested {
        nodes: Vec<String>,
    },
    /// An administrator wants these fleets deleted; those that hold a node with a job are left alone.
    DeleteFleetsRequested {
        fleet_ids: Vec<String>,
    },
    /// A deadline has passed.
    Tick,
}

/// One job of SLURM_RESUME_FILE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeJob {
    pub job_id: u64,
    /// All of its nodes.
    pub nodes: Vec<String>,
    /// Those that slurmctld wakes for it now.
    pub woken: Vec<String>,
}

/// Something to be done outside; each is answered by exactly one event.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Cloud {
        call: CallId,
        account: Account,
        request: CloudRequest,
    },
    Slurm {
        call: CallId,
        request: SlurmRequest,
    },
    /// Read the full power bitmaps; answered by [`Event::Power`] where there are any.
    ReadPower,
}

impl Effect {
    /// Whether the journal must be on disk before this is done.
    #[must_use]
    pub fn needs_sync(&self) -> bool {
        match self {
            Self::Cloud { request, .. } => !matches!(
                request,
                CloudRequest::DescribeCluster { .. }
                    | CloudRequest::DescribeInstances { .. }
                    | CloudRequest::DescribeFleetInstances { .. }
                    | CloudRequest::DescribeFleets { .. }
                    | CloudRequest::DescribeFleetHistory { .. }
                    | CloudRequest::DescribeParts { .. }
            ),
            Self::Slurm { request, .. } => matches!(request, SlurmRequest::UpdateNodes(_)),
            Self::ReadPower => false,
        }
    }
}

/// The consequence of one event. Records are written, in order, before any effect is begun.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub records: Vec<Record>,
    pub effects: Vec<Effect>,
    pub facts: Vec<Fact>,
}

impl Step {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.effects.is_empty() && self.facts.is_empty()
    }
}
