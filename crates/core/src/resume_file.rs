// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld tells a ResumeProgram about the jobs that nodes are woken for: the JSON of SLURM_RESUME_FILE.
//!
//! The keys differ by release (src/slurmctld/power_save.c): 22.05 has `all_nodes` and, for each job, `nodes`; 24.11
//! has `all_nodes_resume`, `nodes_alloc`, `nodes_resume` and more for each job; 26.05 adds `exclusive` and
//! `priority`. Keys that are not known are ignored and missing ones tolerated, so that other releases work too.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event;
use super::hostlist;

/// The file is refused beyond this size: a job of 10,000 nodes takes a few hundred bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// Nodes of one job; a hostlist with more is a mistake.
const MAX_NODES: usize = 100_000;

/// One resume request of slurmctld.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeFile {
    /// Hostlist of every node to wake, also those that no job waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_nodes: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<ResumeJob>,
}

/// A job that waits for nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeJob {
    pub job_id: u32,
    /// Hostlist of the job's nodes that must be woken (`nodes_resume`; `nodes` in 22.05).
    #[serde(default)]
    pub nodes_resume: String,
    /// Hostlist of all nodes of the job (`nodes_alloc`; `nodes` in 22.05).
    #[serde(default)]
    pub nodes_alloc: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reservation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oversubscribe: Option<String>,
    /// Since 26.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<String>,
    /// Since 26.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeFileError {
    #[error("SLURM_RESUME_FILE is not JSON: {message}")]
    NotJson { message: String },
    #[error("SLURM_RESUME_FILE holds {found} where an object is expected")]
    NotAnObject { found: &'static str },
    #[error("SLURM_RESUME_FILE has more than {MAX_BYTES} bytes")]
    TooLong,
}

impl ResumeFile {
    /// Read the text of the file. A job without a usable id is left out: its nodes are still in `all_nodes`.
    ///
    /// # Errors
    /// When the text is not a JSON object, or longer than [`MAX_BYTES`].
    pub fn parse(text: &str) -> Result<Self, ResumeFileError> {
        if text.len() > MAX_BYTES {
            return Err(ResumeFileError::TooLong);
        }
        let value: Value = serde_json::from_str(text)
            .map_err(|error| ResumeFileError::NotJson { message: error.to_string() })?;
        let Value::Object(top) = &value else {
            return Err(ResumeFileError::NotAnObject { found: kind(&value) });
        };
        let all_nodes = ["all_nodes_resume", "all_nodes"].iter().find_map(|key| text_of(top.get(*key)));
        let jobs = match top.get("jobs") {
            Some(Value::Array(jobs)) => jobs.iter().filter_map(job).collect(),
            _ => Vec::new(),
        };
        Ok(Self { all_nodes, jobs })
    }

    /// The jobs with their nodes; `None` if a list cannot be read: its nodes would seem to be woken for no job.
    #[must_use]
    pub fn jobs(&self) -> Option<Vec<event::ResumeJob>> {
        let expand = |list: &str| match list {
            "" => Some(Vec::new()),
            list => hostlist::expand_bounded(list, MAX_NODES).ok(),
        };
        let jobs = self.jobs.iter().map(|job| {
            Some(event::ResumeJob {
                job_id: job.job_id.into(),
                nodes: expand(&job.nodes_alloc)?,
                woken: expand(&job.nodes_resume)?,
            })
        });
        jobs.collect()
    }
}

fn job(value: &Value) -> Option<ResumeJob> {
    let job = value.as_object()?;
    let text = |key: &str| text_of(job.get(key));
    Some(ResumeJob {
        job_id: number_of(job.get("job_id"))?,
        nodes_resume: text("nodes_resume").or_else(|| text("nodes")).unwrap_or_default(),
        nodes_alloc: text("nodes_alloc").or_else(|| text("nodes")).unwrap_or_default(),
        partition: text("partition"),
        features: text("features"),
        extra: text("extra"),
        reservation: text("reservation"),
        oversubscribe: text("oversubscribe"),
        exclusive: text("exclusive"),
        priority: number_of(job.get("priority")),
    })
}

/// Text that says something; Slurm writes null or an empty string for what is not set.
fn text_of(value: Option<&Value>) -> Option<String> {
    value?.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}

/// A number, also where a serializer has written it as text.
fn number_of(value: Option<&Value>) -> Option<u32> {
    match value? {
        Value::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
