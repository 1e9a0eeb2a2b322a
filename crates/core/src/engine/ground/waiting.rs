// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes that wait for a launch, gathered until one serves them, and the jobs that need all of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::engine::cx::Cx;
use crate::engine::cx::nodes::Desire;
use crate::event::ResumeJob;
use crate::hostlist;
use crate::jobs::{Jobs, Unit};
use crate::record::LaunchJob;
use crate::site::Site;

/// Nodes of one group that wait for the batch to close.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    nodes: BTreeMap<u32, String>,
    first: u64,
    last: u64,
    /// `mono_ms` before which the units in it are not looked at again.
    look_at: u64,
}

impl Queue {
    pub(crate) fn add(&mut self, index: u32, node: &str, now: u64) {
        if self.nodes.is_empty() {
            self.first = now;
        }
        if self.nodes.insert(index, node.to_owned()).is_none() {
            self.last = now;
            self.look_at = 0;
        }
    }

    pub(crate) fn remove(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    /// What decides about its units has changed.
    pub(crate) fn look_now(&mut self) {
        self.look_at = 0;
    }

    pub(crate) fn take(&mut self, names: &[String]) {
        let names: BTreeSet<&String> = names.iter().collect();
        self.nodes.retain(|_, node| !names.contains(node));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// In order of index.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.nodes.values()
    }
}

/// Nodes that wait for a launch.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// By the stem of their group.
    queues: BTreeMap<String, Queue>,
    /// Jobs that have all of their nodes or none.
    pub(crate) jobs: Jobs,
}

impl Waiting {
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.values().all(Queue::is_empty)
    }

    /// Stems of groups of which nodes wait.
    pub(crate) fn stems(&self) -> Vec<String> {
        let waits = |(_, queue): &(&String, &Queue)| !queue.is_empty();
        self.queues.iter().filter(waits).map(|(stem, _)| stem.clone()).collect()
    }

    /// Nodes of groups that are no longer configured do not wait.
    pub(crate) fn forget_groups(&mut self, site: &Site) {
        self.queues.retain(|stem, _| site.group(stem).is_some());
    }

    /// `mono_ms` at which the group's batch closes: when no node has come for a while, or the first one waits for long.
    pub(crate) fn closes_at(&self, stem: &str, idle_ms: u64, longest_ms: u64) -> Option<u64> {
        let queue = self.queues.get(stem)?;
        Some((queue.last + idle_ms).min(queue.first + longest_ms))
    }

    /// `mono_ms` before which the units of the queue are not looked at again.
    pub(crate) fn looked_at(&self, stem: &str) -> u64 {
        self.queues.get(stem).map_or(0, |queue| queue.look_at)
    }

    /// Whether any node of the group still waits; its units are looked at at `mono_ms` = `at`.
    pub(crate) fn look_again(&mut self, stem: &str, at: u64) -> bool {
        let queue = self.queues.get_mut(stem).filter(|queue| !queue.is_empty());
        queue.map(|queue| queue.look_at = at).is_some()
    }

    /// Nodes that no longer want an instance do not wait for one.
    pub(crate) fn drop_unwanted(&mut self, cx: &Cx, stem: &str) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.nodes.retain(|_, node| cx.wants_instance(node));
        }
    }

    /// These nodes of the group are launched.
    pub(crate) fn take(&mut self, stem: &str, nodes: &[String]) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.take(nodes);
        }
    }

    pub(crate) fn unqueue(&mut self, stem: &str, index: u32) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.remove(index);
        }
    }

    pub(crate) fn queue_mut(&mut self, stem: &str) -> &mut Queue {
        self.queues.entry(stem.to_owned()).or_default()
    }

    pub(crate) fn take_queue(&mut self, cx: &Cx, stem: &str) -> Vec<String> {
        let nodes = self.queues.remove(stem).map(|queue| queue.nodes).unwrap_or_default();
        nodes.into_values().filter(|node| cx.wants_instance(node)).collect()
    }

    pub(crate) fn requeue(&mut self, cx: &mut Cx, nodes: &[String]) {
        for name in nodes {
            let Some((stem, _, index)) = cx.site.place_of(name) else { continue };
            if let Some(node) = cx.nodes.get_mut(name) {
                node.launch = None;
            }
            if cx.wants_instance(name) {
                let now = cx.now.mono_ms;
                self.queue_mut(stem).add(index, name, now);
            }
        }
    }

    /// What ResumeProgram was told: which nodes are woken, and for which jobs.
    pub(crate) fn learn_jobs(&mut self, cx: &Cx, nodes: &[String], jobs: Vec<ResumeJob>) {
        for queue in self.queues.values_mut() {
            queue.look_now();
        }
        let site = Arc::clone(&cx.site);
        if !site.groups().iter().any(|group| group.all_or_nothing) {
            return;
        }
        let now = cx.now.mono_ms;
        self.jobs.forget_before(now.saturating_sub(2_000 * u64::from(site.settings.resume_timeout_s)));
        self.jobs.hear(nodes.iter().filter(|node| site.locate(node).is_some()).cloned(), now);
        for job in jobs {
            let ours = |node: &String| site.locate(node).is_some();
            let woken: Vec<String> = job.woken.into_iter().filter(ours).collect();
            // What is up needs no instance, and stays whatever becomes of the rest.
            let is_up = |name: &String| cx.nodes.get(name).is_some_and(|node| node.desire == Desire::Keep);
            let nodes: Vec<String> = job.nodes.into_iter().filter(ours).filter(|name| !is_up(name)).collect();
            let whole = woken.iter().chain(&nodes).filter_map(|node| site.locate(node));
            if whole.into_iter().any(|(group, _)| group.all_or_nothing) {
                self.jobs.learn(job.job_id, nodes, woken, now);
            }
        }
    }

    /// Launches together what belongs together; see [`Unit`].
    pub(crate) fn units_of_queue(&self, cx: &Cx, stem: &str) -> Vec<Unit> {
        let names = self.queues.get(stem).into_iter().flat_map(Queue::names);
        self.jobs.units(names.filter(|node| cx.wants_instance(node)))
    }

    /// What the journal keeps of the jobs of a launch's nodes, should the process end.
    pub(crate) fn launch_jobs(&self, nodes: &[String]) -> Vec<LaunchJob> {
        let jobs = self.jobs.of_several(nodes).into_iter();
        jobs.map(|(id, job)| LaunchJob { id, nodes: hostlist::fold(job.nodes()) }).collect()
    }

    /// The jobs of a launch that an earlier process began.
    pub(crate) fn recover_jobs(&mut self, cx: &Cx, jobs: &[LaunchJob]) {
        for job in jobs {
            let nodes = hostlist::expand(&job.nodes).unwrap_or_default();
            self.jobs.hear(nodes.iter().cloned(), cx.now.mono_ms);
            self.jobs.learn(job.id, nodes, [], cx.now.mono_ms);
        }
    }

    /// Waiting nodes of the group that no launch serves yet, lowest index first; with `AllOrNothing` only what is of use
    /// together.
    pub(crate) fn queued_nodes(&self, cx: &Cx, stem: &str, at_most: usize) -> Vec<String> {
        let Some(queue) = self.queues.get(stem) else { return Vec::new() };
        if cx.site.group(stem).is_some_and(|group| group.all_or_nothing) {
            let mut nodes = Vec::new();
            for unit in self.units_of_queue(cx, stem) {
                let left = at_most - nodes.len();
                if unit.least() <= left {
                    nodes.extend(unit.nodes().iter().take(left).cloned());
                }
            }
            return nodes;
        }
        queue.names().filter(|node| cx.wants_instance(node)).take(at_most).cloned().collect()
    }
}

impl Waiting {
    /// All nodes in the queues.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &String> {
        self.queues.values().flat_map(Queue::names)
    }
}
