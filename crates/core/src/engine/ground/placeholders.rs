// SPDX-License-Identifier: GPL-3.0-or-later
//! An address for nodes that wait for an instance, so that slurmctld looks none of their names up.
//!
//! A cloud node without an address has its name for one. slurmctld up to 23.11 writes to all nodes of a job that it ends
//! or requeues, also to those that are still powered up for it (`deallocate_nodes` in src/slurmctld/node_scheduler.c;
//! 24.05 leaves them out). It looks each name up under the lock of its configuration (`slurm_conf_get_addr` in
//! src/common/read_config.c), for which everything else in slurmctld waits. Debian's packages repeat a look-up that
//! fails for ten seconds: a job of a hundred nodes stops slurmctld for a quarter of an hour.
//!
//! The thread that writes to the nodes begins while `update_node` is at the first of them. So the addresses are set,
//! and the answer is there, before a node is powered down.

use std::collections::{BTreeSet, VecDeque};

use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::cx::nodes::Desire;
use crate::fact::FactKind;
use crate::slurm_api::{NodeUpdate, SlurmError, SlurmRequest, SlurmResult};

/// Where no slurmd is: connect() refuses it at once.
pub(crate) const NOWHERE: &str = "255.255.255.255";

/// How long a node waits without an address. Most have an instance before; a user may end the job of any other.
const PATIENCE_MS: u64 = 3_000;

/// Nodes that are being powered up, in the order in which that began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Placeholders {
    waiting: VecDeque<(u64, String)>,
    attempt: Attempt,
}

impl Placeholders {
    pub(crate) fn begin(&mut self, node: &str, now_mono_ms: u64) {
        self.waiting.push_back((now_mono_ms + PATIENCE_MS, node.to_owned()));
    }

    /// slurmctld is being told: of two updates with addresses on their way, the later one might come first.
    pub(crate) fn in_flight(&self) -> bool {
        self.attempt.in_flight()
    }

    fn take_due(&mut self, now: u64, all: bool) -> BTreeSet<String> {
        let due = self.waiting.iter().take_while(|(at, _)| all || *at <= now).count();
        self.waiting.drain(..due).map(|(_, node)| node).collect()
    }
}

impl Placeholders {
    /// An address for nodes that have waited for long, and for those that are to be powered down: `failed`. True if
    /// nodes may be powered down now, as far as their addresses go.
    pub(crate) fn give(&mut self, cx: &mut Cx, failed: Vec<String>) -> (bool, Deadline) {
        let now = cx.now.mono_ms;
        if let Some(at) = self.attempt.waits_until(now) {
            return (false, Deadline::at(at));
        }
        let mut nodes = self.take_due(now, !failed.is_empty());
        let next = Deadline::from(self.waiting.front().map(|(at, _)| *at));
        nodes.retain(|node| cx.nodes.get(node).is_some_and(|node| node.desire == Desire::Waking));
        nodes.extend(failed);
        nodes.retain(|node| goes_by_its_name(cx, node));
        if nodes.is_empty() {
            return (true, next);
        }
        let nodes: Vec<String> = nodes.into_iter().collect();
        let addrs = Some(vec![NOWHERE.to_owned(); nodes.len()]);
        let update = NodeUpdate { names: nodes.clone(), addrs, ..NodeUpdate::default() };
        self.attempt.begin();
        cx.slurm_call(SlurmPurpose::Place { nodes }, SlurmRequest::UpdateNodes(update));
        (false, next)
    }

    pub(crate) fn take_placed(&mut self, cx: &mut Cx, nodes: Vec<String>, result: SlurmResult) {
        match result {
            Ok(_) => {
                let text = format!("{} nodes have {NOWHERE} until they have an instance", nodes.len());
                cx.fact(cx.new_fact(FactKind::PlaceholdersSet, text).nodes(&nodes));
            }
            Err(error) => {
                cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
                if matches!(error, SlurmError::Unreachable { .. }) {
                    self.place_later(cx, nodes);
                    return;
                }
                // slurmctld does not take it, and must learn of a failure all the same.
            }
        }
        self.attempt.succeeded();
        for name in &nodes {
            if let Some(node) = cx.nodes.get_mut(name) {
                node.slurm_addr = Some(NOWHERE.to_owned());
            }
        }
    }

    fn place_later(&mut self, cx: &mut Cx, nodes: Vec<String>) {
        let next = self.attempt.failed(cx.now.mono_ms, 2, &mut cx.rng);
        for node in nodes.into_iter().rev() {
            self.waiting.push_front((next, node));
        }
    }
}

/// A bound one has been told its own address. One that slurmctld has not shown yet may have an instance's.
fn goes_by_its_name(cx: &Cx, name: &str) -> bool {
    let node = cx.nodes.get(name).filter(|_| !cx.persisted.bindings.contains_key(name));
    node.is_some_and(|node| node.slurm_addr.as_deref() == Some(name))
}
