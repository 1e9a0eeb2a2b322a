// SPDX-License-Identifier: GPL-3.0-or-later
//! Waking nodes of a group, gathered until one launch serves them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::cx::attempt::Deadline;
use crate::engine::demand::Demand;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::engine::launch::Launching;
use crate::site::{FleetScope, Lifecycle, NodeGroup};

/// How often the units in a queue are looked at: whoever waits for minutes costs the events of others nothing.
const LOOK_MS: u64 = 100;

/// What no event announces is seen after this long.
const LOOK_AGAIN_MS: u64 = 1_000;

impl Demand {
    pub(crate) fn close_launch_batches(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        groups: &mut GroupFleets,
    ) -> Deadline {
        let mut next = Deadline::NONE;
        if g.cx.persisted.paused || !g.sight.is_slurm_known() {
            return next;
        }
        let site = Arc::clone(&g.cx.site);
        for stem in g.waiting.stems() {
            let Some(group) = site.group(&stem) else { continue };
            if !g.sight.view_ready(&group.account) {
                continue;
            }
            let settings = &site.settings;
            let pressure = g.pools.pressure(&stem);
            if pressure.is_protected() {
                let nodes = g.waiting.take_queue(&g.cx, &stem);
                g.fail_nodes(&nodes, "GroupProtected", &format!(
                    "node group {stem} is closed after {} failed launches; `ec2fleet resume-operations` opens it",
                    pressure.failures()
                ));
                continue;
            }
            let closed =
                g.waiting.closes_at(&stem, settings.batch_idle_ms, settings.batch_max_ms).unwrap_or(0);
            let by_job = launches_by_job(group);
            let due = closed.max(if by_job { g.waiting.looked_at(&stem) } else { pressure.retry_at(1) });
            if due > g.cx.now.mono_ms {
                next = next.or(Some(due));
            } else if by_job {
                next = next.or(self.launch_due_units(g, launching, group, &stem));
            } else {
                let nodes = g.waiting.take_queue(&g.cx, &stem);
                self.begin_launch(g, launching, groups, group, nodes, group.lifecycle);
            }
        }
        next
    }

    /// Launch what of the queue may be launched; the rest waits for its own time.
    fn launch_due_units(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        group: &Arc<NodeGroup>,
        stem: &str,
    ) -> Deadline {
        let now = g.cx.now.mono_ms;
        let mut again = now + LOOK_AGAIN_MS;
        g.waiting.drop_unwanted(&g.cx, stem);
        for unit in g.waiting.units_of_queue(&g.cx, stem) {
            match self.unit_due(g, stem, &unit) {
                Some(due) if due <= now => {
                    g.waiting.take(stem, unit.nodes());
                    launching.launch_unit(g, group, &unit, group.lifecycle);
                }
                due => again = again.min(due.unwrap_or(again)),
            }
        }
        if !g.waiting.look_again(stem, again.min(now + LOOK_MS)) {
            return Deadline::NONE;
        }
        Deadline::at(again)
    }

    pub(crate) fn begin_launch(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        groups: &mut GroupFleets,
        group: &Arc<NodeGroup>,
        nodes: Vec<String>,
        lifecycle: Lifecycle,
    ) {
        if launches_by_job(group) {
            for unit in g.waiting.jobs.units(&nodes) {
                launching.launch_unit(g, group, &unit, lifecycle);
            }
            return;
        }
        for nodes in nodes.chunks(launching.max_fleet_nodes(g)) {
            match group.scope {
                FleetScope::Group => groups.await_group_fleet(g, group, nodes),
                FleetScope::Node => launching.begin_node_fleets(g, group, nodes, lifecycle, &BTreeMap::new()),
                FleetScope::Launch => launching.begin_instant_fleet(g, group, nodes.to_vec(), 1, lifecycle),
            }
        }
    }
}

/// Whether the group's nodes are launched job by job instead of all together.
fn launches_by_job(group: &NodeGroup) -> bool {
    group.all_or_nothing && group.scope == FleetScope::Launch
}
