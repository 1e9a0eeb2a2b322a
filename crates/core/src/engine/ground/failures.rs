// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes that Slurm has to power down now: because no instance comes, or because of what became of theirs.
//!
//! A report that did not reach slurmctld is not repeated as it was: by then its node may run a job.

use std::collections::BTreeMap;

use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::SlurmPurpose;
use crate::fact::FactKind;
use crate::slurm_api::{NodeStateChange, NodeUpdate, SlurmRequest, SlurmResult};

/// Reasons of ours begin with this, so that a node we took down is known again.
pub const REASON_PREFIX: &str = "ec2fleet: ";

/// Longest reason in characters: `sinfo -R` and log lines stay readable.
const MAX_REASON: usize = 200;

/// The reason that Slurm shows for a node which EC2 could not give.
#[must_use]
pub fn reason(code: &str, message: &str) -> String {
    let mut text = format!("{REASON_PREFIX}{code}: {message}").replace(['\n', '\r'], " ");
    if text.chars().count() > MAX_REASON {
        text = text.chars().take(MAX_REASON - 1).collect::<String>() + "…";
    }
    text
}

/// Why a node is to be powered down: looked at again each time that slurmctld is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It has no instance.
    NoInstance,
    /// It is up without one, and runs no job.
    Bare,
    /// It has one, and goes back with its job as long as it has not registered.
    GoesBack,
    /// Its instance sleeps for too long.
    Overslept,
    /// Its instance is back from sleep, and its slurmd does not answer.
    Unanswered,
}

#[derive(Clone, Debug)]
struct Report {
    cause: Cause,
    reason: String,
    /// slurmctld is being told.
    asked: bool,
}

/// Nodes to be reported as failed, each in the power-up in which it failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    nodes: BTreeMap<String, Report>,
    /// When slurmctld powered nodes down for their failure, until Slurm wants something else of them.
    powered_down: BTreeMap<String, u64>,
    attempt: Attempt,
}

impl Failures {
    pub(crate) fn add(&mut self, cause: Cause, reason: &str, nodes: impl IntoIterator<Item = String>) {
        let report = Report { cause, reason: reason.to_owned(), asked: false };
        self.nodes.extend(nodes.into_iter().map(|node| (node, report.clone())));
    }

    /// Slurm wants something else of the node than when it failed.
    pub(crate) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.powered_down.remove(node);
    }

    /// slurmctld had powered the node down for its failure before this moment. A list from after it that shows the node waking
    /// shows another power-up.
    pub(crate) fn is_down_before(&self, node: &str, mono_ms: u64) -> bool {
        self.powered_down.get(node).is_some_and(|since| *since < mono_ms)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.attempt.in_flight()
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &String> {
        self.nodes.keys()
    }

    /// Those with the same reason as the first that slurmctld has not been told of.
    fn take_next(&mut self) -> Option<(String, Vec<String>)> {
        let reason = self.nodes.values().find(|report| !report.asked)?.reason.clone();
        let mut nodes = Vec::new();
        for (node, report) in &mut self.nodes {
            if !report.asked && report.reason == reason {
                report.asked = true;
                nodes.push(node.clone());
            }
        }
        Some((reason, nodes))
    }

    /// Drop what is no failure any more; not while slurmctld is being told.
    pub(crate) fn settle(&mut self, is_failed: impl Fn(&str, Cause) -> bool) {
        if !self.attempt.in_flight() {
            self.nodes.retain(|node, report| is_failed(node, report.cause));
        }
    }

    /// One update for each reason, one after the other.
    pub(crate) fn report(&mut self, cx: &mut Cx) -> Deadline {
        if self.attempt.in_flight() || self.nodes.is_empty() {
            return Deadline::NONE;
        }
        if let Some(at) = self.attempt.waits_until(cx.now.mono_ms) {
            return Deadline::at(at);
        }
        let Some((reason, nodes)) = self.take_next() else { return Deadline::NONE };
        let update = NodeUpdate {
            names: nodes.clone(),
            state: Some(NodeStateChange::PowerDownForce),
            reason: Some(reason),
            ..NodeUpdate::default()
        };
        self.attempt.begin();
        cx.slurm_call(SlurmPurpose::Report { nodes }, SlurmRequest::UpdateNodes(update));
        Deadline::NONE
    }

    pub(crate) fn take_reported(&mut self, cx: &mut Cx, nodes: &[String], result: SlurmResult) {
        let Err(error) = result else {
            self.attempt.succeeded();
            let now = cx.now.mono_ms;
            let told = self.nodes.extract_if(.., |_, report| report.asked);
            self.powered_down.extend(told.map(|(node, _)| (node, now)));
            return;
        };
        self.attempt.failed(cx.now.mono_ms, 2, &mut cx.rng);
        for report in self.nodes.values_mut() {
            report.asked = false;
        }
        cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(nodes));
    }

    /// Have Slurm power a node down now, whatever runs there.
    pub(crate) fn force_down(&mut self, cx: &mut Cx, node: &str, cause: Cause, code: &str, message: &str) {
        let fact = cx.new_fact(FactKind::NodesFailed, message).nodes([node]).code(code);
        cx.fact(fact);
        self.add(cause, &reason(code, message), [node.to_owned()]);
    }
}
