// SPDX-License-Identifier: GPL-3.0-or-later
//! `AllOrNothing`: a job gets instances for all nodes that Slurm wakes for it, or the nodes go back at once.

use std::collections::BTreeMap;

use crate::engine::cx::PowerSource;
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::SlurmPurpose;
use crate::engine::cx::nodes::Desire;
use crate::engine::demand::Demand;
use crate::engine::ground::Ground;
use crate::jobs::Unit;
use crate::slurm_api::SlurmRequest;

/// Nodes of one job register within moments of each other: one round serves them all.
const START_JOBS_DELAY_MS: u64 = 500;

impl Demand {
    /// A job that became known after one of its nodes failed gets no more than one that was known before.
    pub(crate) fn give_up_late_jobs(&mut self, g: &mut Ground, ids: impl IntoIterator<Item = u64>) {
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
    pub(crate) fn unit_due(&self, g: &Ground, stem: &str, unit: &Unit) -> Option<u64> {
        let longest = g.cx.site.settings.batch_max_ms;
        let due = g.pools.retry_at(stem, unit.least());
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
            due = due.max(g.pools.retry_at(stem, count));
        }
        Some(due)
    }

    /// Nodes registered: jobs that wait for them need not wait for slurmctld's next round of 30 s.
    pub(crate) fn jobs_may_start(&mut self, g: &mut Ground) {
        if g.cx.options.source == PowerSource::Watch {
            self.start_jobs_at.get_or_insert(g.cx.now.mono_ms + START_JOBS_DELAY_MS);
        }
    }

    pub(crate) fn start_ready_jobs(&mut self, g: &mut Ground) -> Deadline {
        let Some(at) = self.start_jobs_at else { return Deadline::NONE };
        if at > g.cx.now.mono_ms {
            return Deadline::at(at);
        }
        self.start_jobs_at = None;
        g.cx.slurm_call(SlurmPurpose::StartJobs, SlurmRequest::StartReadyJobs);
        Deadline::NONE
    }
}
