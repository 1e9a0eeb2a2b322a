// SPDX-License-Identifier: GPL-3.0-or-later
//! `AllOrNothing`: a job gets instances for all nodes that Slurm wakes for it, or the nodes go back at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::report::{Cause, reason};
use super::{Cx, Demand, Desire, Ground, Launching, Waiting};
use crate::core::event::ResumeJob;
use crate::core::fact::FactKind;
use crate::core::hostlist;
use crate::core::jobs::Unit;
use crate::core::record::LaunchJob;

impl Waiting {
    /// What ResumeProgram was told: which nodes are woken, and for which jobs.
    pub(super) fn learn_jobs(&mut self, cx: &Cx, nodes: &[String], jobs: Vec<ResumeJob>) {
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
    pub(super) fn units_of_queue(&self, cx: &Cx, stem: &str) -> Vec<Unit> {
        let names = self.queues.get(stem).into_iter().flat_map(super::batch::Queue::names);
        self.jobs.units(names.filter(|node| cx.wants_instance(node)))
    }

    /// What the journal keeps of the jobs of a launch's nodes, should the process end.
    pub(super) fn launch_jobs(&self, nodes: &[String]) -> Vec<LaunchJob> {
        let jobs = self.jobs.of_several(nodes).into_iter();
        jobs.map(|(id, job)| LaunchJob { id, nodes: hostlist::fold(job.nodes()) }).collect()
    }

    /// The jobs of a launch that an earlier process began.
    pub(super) fn recover_jobs(&mut self, cx: &Cx, jobs: &[LaunchJob]) {
        for job in jobs {
            let nodes = hostlist::expand(&job.nodes).unwrap_or_default();
            self.jobs.hear(nodes.iter().cloned(), cx.now.mono_ms);
            self.jobs.learn(job.id, nodes, [], cx.now.mono_ms);
        }
    }
}

impl Demand {
    /// A job that became known after one of its nodes failed gets no more than one that was known before.
    pub(super) fn give_up_late_jobs(&mut self, g: &mut Ground, ids: impl IntoIterator<Item = u64>) {
        for id in ids {
            let Some(job) = g.waiting.jobs.get(id) else { continue };
            let failed = job.nodes().find(|name| {
                g.cx.nodes.get(*name).is_some_and(|node| node.reported && node.desire == Desire::Waking)
            });
            let Some((node, (code, message))) =
                failed.and_then(|node| Some((node.clone(), g.waiting.jobs.failure(node)?.clone())))
            else {
                continue;
            };
            let released = g.waiting.jobs.fail(&[node]);
            g.release_nodes(released, &code, &message);
        }
    }

    /// `mono_ms` before which a unit is not launched; `None` until something else happens.
    pub(super) fn unit_due(&self, g: &Ground, stem: &str, unit: &Unit) -> Option<u64> {
        let longest = g.cx.site.settings.batch_max_ms;
        let due = g.pools.pressure.get(stem).map_or(0, |pressure| pressure.retry_at(unit.least()));
        let due = match unit {
            Unit::Each { .. } => Some(due),
            // ResumeProgram is about to say which jobs these nodes are for.
            Unit::Batch { nodes } => {
                Some(due.max(g.cx.since_first(nodes).map_or(0, |since| since + longest)))
            }
            Unit::Job { id, .. } => self.job_due(g, *id).map(|at| at.max(due)),
        };
        due.map(|at| at.min(self.last_moment(g, unit.nodes())))
    }

    /// `mono_ms` until which others' refusals may delay a launch for these nodes: there is time left to report that
    /// it failed, too.
    fn last_moment(&self, g: &Ground, nodes: &[String]) -> u64 {
        let since = g.cx.since_first(nodes).unwrap_or(0);
        since + g.cx.launch_deadline(nodes).saturating_sub(since) / 2
    }

    /// A job's launches begin together: what is asked for early would wait, and cost, until the rest may be asked for.
    fn job_due(&self, g: &Ground, id: u64) -> Option<u64> {
        let Some(job) = g.waiting.jobs.get(id) else { return Some(0) };
        let mut due = 0;
        if job.woken().any(|name| g.cx.nodes.get(name).is_none_or(|node| node.desire != Desire::Waking)) {
            due = job.learned() + g.cx.site.settings.batch_max_ms;
        }
        let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
        for name in job.nodes().filter(|name| g.cx.wants_instance(name)) {
            if let Some((stem, group, _)) = g.cx.site.place_of(name)
                && g.cx.nodes.get(name).is_some_and(|node| node.launch.is_none())
            {
                *waiting.entry(stem).or_default() += 1;
                if !g.sight.view_ready(&group.account) {
                    return None;
                }
            }
        }
        for (stem, count) in waiting {
            due = due.max(g.pools.pressure.get(stem).map_or(0, |pressure| pressure.retry_at(count)));
        }
        Some(due)
    }
}

impl Launching {
    /// EC2 did not give a launch's `short` nodes their instances. If they were asked for as the nodes of one job, nodes
    /// for which another job waits are asked for again, for that one.
    pub(super) fn refuse(
        &mut self,
        g: &mut Ground,
        job: Option<u64>,
        short: &[String],
        code: &str,
        message: &str,
    ) {
        let given_up = job.and_then(|id| Some((id, g.waiting.jobs.remove(id)?)));
        let (others, failed): (Vec<String>, Vec<String>) =
            short.iter().cloned().partition(|node| job.is_some() && g.waiting.jobs.of(node).next().is_some());
        g.waiting.requeue(&mut g.cx, &others);
        g.fail_nodes(&failed, code, message);
        if let Some((id, job)) = given_up {
            let free = job.nodes().filter(|node| g.waiting.jobs.of(node).next().is_none()).cloned().collect();
            g.release_nodes(BTreeMap::from([(id, free)]), code, message);
        }
    }
}

impl Ground {
    /// Power down the nodes of jobs that are given up, those with an instance among them. They have the reason of the
    /// node that failed, so that slurmctld takes them in one update: no job gets them in between.
    pub(super) fn release_nodes(&mut self, released: BTreeMap<u64, Vec<String>>, code: &str, message: &str) {
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
}
