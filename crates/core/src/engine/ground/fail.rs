// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes that get no instance, or lose theirs: what Slurm is to be told, and what goes back with them.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::cx::Cx;
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::Ground;
use crate::engine::ground::failures::{Cause, reason};
use crate::engine::ground::sleepers::Sleepers;
use crate::fact::FactKind;
use crate::slurm_api::NodeFlags;

impl Ground {
    /// Tell Slurm that these nodes will not come, so that their jobs are requeued at once.
    pub(crate) fn fail_nodes(&mut self, nodes: &[String], code: &str, message: &str) {
        let failed: Vec<String> = nodes
            .iter()
            .filter(|name| self.cx.nodes.get(*name).is_some_and(|node| node.desire == Desire::Waking))
            .cloned()
            .collect();
        if failed.is_empty() {
            return;
        }
        for name in &failed {
            if let Some(node) = self.cx.nodes.get_mut(name) {
                node.reported = true;
            }
            self.cx.wish_changed(name);
        }
        let fact = self
            .cx
            .new_fact(FactKind::NodesFailed, message)
            .nodes(&failed)
            .code(code)
            .after_ms(self.cx.waited(&failed));
        self.cx.fact(fact);
        self.waiting.jobs.note_failure(&failed, code, message);
        let released = self.waiting.jobs.fail(&failed);
        self.failures.add(Cause::NoInstance, &reason(code, message), failed);
        self.release_nodes(released, code, message);
    }

    /// Power down the nodes of jobs that are given up, those with an instance among them. They have the reason of the
    /// node that failed, so that slurmctld takes them in one update: no job gets them in between.
    pub(crate) fn release_nodes(&mut self, released: BTreeMap<u64, Vec<String>>, code: &str, message: &str) {
        for (id, nodes) in released {
            let nodes: Vec<String> = nodes
                .into_iter()
                .filter(|name| {
                    let waking =
                        self.cx.nodes.get(name).is_some_and(|n| n.desire == Desire::Waking && !n.reported);
                    waking && !self.cx.is_locked(name)
                })
                .collect();
            if nodes.is_empty() {
                continue;
            }
            let mut launches: BTreeMap<u64, BTreeSet<&String>> = BTreeMap::new();
            for name in &nodes {
                if let Some((stem, _, index)) = self.cx.site.place_of(name) {
                    self.waiting.unqueue(stem, index);
                }
                if let Some(node) = self.cx.nodes.get_mut(name) {
                    node.reported = true;
                    if let Some(launch) = node.launch.take() {
                        launches.entry(launch).or_default().insert(name);
                    }
                }
                self.cx.wish_changed(name);
            }
            for (launch, left) in launches {
                if let Some(launch) = self.launches.open.get_mut(&launch) {
                    launch.nodes.retain(|node| !left.contains(node));
                }
            }
            self.waiting.jobs.note_failure(&nodes, code, message);
            let text = format!("job {id} cannot have all of its nodes, and gives these back: {message}");
            let fact = self
                .cx
                .new_fact(FactKind::NodesFailed, text)
                .nodes(&nodes)
                .code(code)
                .after_ms(self.cx.waited(&nodes));
            self.cx.fact(fact);
            let reason = reason(code, message);
            let (bound, bare): (Vec<_>, Vec<_>) =
                nodes.into_iter().partition(|name| self.cx.persisted.bindings.contains_key(name));
            self.failures.add(Cause::GoesBack, &reason, bound);
            self.failures.add(Cause::NoInstance, &reason, bare);
        }
    }

    /// Drop what is no failure any more.
    fn settle_failures(&mut self) {
        let (cx, sleepers) = (&self.cx, &self.sleepers);
        self.failures.settle(|node, cause| is_failed(cx, sleepers, node, cause));
    }

    /// No node is powered down before all that wait have an address.
    pub(crate) fn place_and_report(&mut self) -> Deadline {
        self.settle_failures();
        if self.placeholders.in_flight() || self.addresses.is_owed() {
            return Deadline::NONE;
        }
        let failed: Vec<String> = self.failures.nodes().cloned().collect();
        let (may_report, next) = self.placeholders.give(&mut self.cx, failed);
        if may_report { next.or(self.failures.report(&mut self.cx)) } else { next }
    }
}

/// What has been suspended, bound or answered meanwhile is no failure any more.
fn is_failed(cx: &Cx, sleepers: &Sleepers, name: &str, cause: Cause) -> bool {
    let Some(node) = cx.nodes.get(name) else { return false };
    let asleep = sleepers.sleeping.contains_key(name);
    let bound = cx.persisted.bindings.contains_key(name);
    let failed = match cause {
        Cause::NoInstance => !bound,
        Cause::Bare => !bound && !node.has_job,
        Cause::GoesBack => node.desire == Desire::Waking,
        Cause::Overslept => asleep,
        Cause::Unanswered => !asleep && node.flags.has(NodeFlags::NOT_RESPONDING),
    };
    failed && matches!(node.desire, Desire::Waking | Desire::Keep) && !cx.is_locked(name)
}
