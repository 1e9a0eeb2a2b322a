// SPDX-License-Identifier: GPL-3.0-or-later
//! Waking nodes of a group, gathered until one launch serves them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pools::pools;
use super::{Cx, Demand, Ground, GroupFleets, Launching};
use crate::core::ec2_api::{CreateFleet, FleetType};
use crate::core::fleet_spec::LaunchTemplateOverride;
use crate::core::jobs::{Jobs, Unit};
use crate::core::site::{FleetScope, Lifecycle, NodeGroup, NodeNaming, Site};
use crate::core::tag;

/// Nodes of one group that wait for the batch to close.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    nodes: BTreeMap<u32, String>,
    first: u64,
    last: u64,
    /// `mono_ms` before which the units in it are not looked at again.
    look_at: u64,
}

/// How often the units in a queue are looked at: whoever waits for minutes costs the events of others nothing.
const LOOK_MS: u64 = 100;

/// What no event announces is seen after this long.
const LOOK_AGAIN_MS: u64 = 1_000;

impl Queue {
    pub(super) fn add(&mut self, index: u32, node: &str, now: u64) {
        if self.nodes.is_empty() {
            self.first = now;
        }
        if self.nodes.insert(index, node.to_owned()).is_none() {
            self.last = now;
            self.look_at = 0;
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    /// What decides about its units has changed.
    pub(super) fn look_now(&mut self) {
        self.look_at = 0;
    }

    pub(super) fn take(&mut self, names: &[String]) {
        let names: BTreeSet<&String> = names.iter().collect();
        self.nodes.retain(|_, node| !names.contains(node));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// In order of index.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.nodes.values()
    }
}

/// Nodes that wait for a launch.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By the stem of their group.
    pub(super) queues: BTreeMap<String, Queue>,
    /// Jobs that have all of their nodes or none.
    pub(super) jobs: Jobs,
}

impl Waiting {
    pub(super) fn unqueue(&mut self, stem: &str, index: u32) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.remove(index);
        }
    }

    pub(super) fn queue_mut(&mut self, stem: &str) -> &mut Queue {
        self.queues.entry(stem.to_owned()).or_default()
    }

    fn take_queue(&mut self, cx: &Cx, stem: &str) -> Vec<String> {
        let nodes = self.queues.remove(stem).map(|queue| queue.nodes).unwrap_or_default();
        nodes.into_values().filter(|node| cx.wants_instance(node)).collect()
    }

    pub(super) fn requeue(&mut self, cx: &mut Cx, nodes: &[String]) {
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
}

impl Demand {
    pub(super) fn close_launch_batches(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        groups: &mut GroupFleets,
    ) {
        if g.cx.persisted.paused || !g.sight.slurm.is_known() {
            return;
        }
        let site = Arc::clone(&g.cx.site);
        let stems: Vec<String> = g
            .waiting
            .queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(stem, _)| stem.clone())
            .collect();
        for stem in stems {
            let Some(group) = site.group(&stem) else { continue };
            if !g.sight.view_ready(&group.account) {
                continue;
            }
            let settings = &site.settings;
            let queue = &g.waiting.queues[&stem];
            let pressure = g.pools.pressure.get(&stem).cloned().unwrap_or_default();
            if pressure.is_protected() {
                let nodes = g.waiting.take_queue(&g.cx, &stem);
                g.fail_nodes(&nodes, "GroupProtected", &format!(
                    "node group {stem} is closed after {} failed launches; `ec2fleet resume-operations` opens it",
                    pressure.failures()
                ));
                continue;
            }
            let closed = (queue.last + settings.batch_idle_ms).min(queue.first + settings.batch_max_ms);
            let by_job = launches_by_job(group);
            let due = closed.max(if by_job { queue.look_at } else { pressure.retry_at(1) });
            if due > g.cx.now.mono_ms {
                g.cx.wake(due);
            } else if by_job {
                self.launch_due_units(g, launching, group, &stem);
            } else {
                let nodes = g.waiting.take_queue(&g.cx, &stem);
                self.begin_launch(g, launching, groups, group, nodes, group.lifecycle);
            }
        }
    }

    /// Launch what of the queue may be launched; the rest waits for its own time.
    fn launch_due_units(
        &mut self,
        g: &mut Ground,
        launching: &mut Launching,
        group: &Arc<NodeGroup>,
        stem: &str,
    ) {
        let now = g.cx.now.mono_ms;
        let mut again = now + LOOK_AGAIN_MS;
        let waiting = g.waiting.queues.get(stem).into_iter().flat_map(|queue| &queue.nodes);
        let gone = waiting.filter(|(_, node)| !g.cx.wants_instance(node)).map(|(index, _)| *index);
        for index in gone.collect::<Vec<u32>>() {
            g.waiting.unqueue(stem, index);
        }
        for unit in g.waiting.units_of_queue(&g.cx, stem) {
            match self.unit_due(g, stem, &unit) {
                Some(due) if due <= now => {
                    if let Some(queue) = g.waiting.queues.get_mut(stem) {
                        queue.take(unit.nodes());
                    }
                    launching.launch_unit(g, group, &unit, group.lifecycle);
                }
                due => again = again.min(due.unwrap_or(again)),
            }
        }
        if let Some(queue) = g.waiting.queues.get_mut(stem).filter(|queue| !queue.is_empty()) {
            queue.look_at = again.min(now + LOOK_MS);
            g.cx.wake(again);
        }
    }

    pub(super) fn begin_launch(
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

impl Launching {
    fn launch_unit(&mut self, g: &mut Ground, group: &Arc<NodeGroup>, unit: &Unit, lifecycle: Lifecycle) {
        for nodes in unit.nodes().chunks(self.max_fleet_nodes(g)) {
            let least = unit.least().min(nodes.len());
            self.begin_instant_fleet(g, group, nodes.to_vec(), least, lifecycle);
        }
    }

    fn max_fleet_nodes(&self, g: &Ground) -> usize {
        g.cx.site.settings.max_fleet_nodes.max(1) as usize
    }

    /// One instant fleet, which gives `least` instances or none.
    fn begin_instant_fleet(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        nodes: Vec<String>,
        least: usize,
        lifecycle: Lifecycle,
    ) {
        let token = g.cx.new_token();
        let pools = pools(group, lifecycle, &g.pools.cooling_pools(&g.cx, least));
        let count = (nodes.len(), least);
        let request = fleet_request(&g.cx.site, group, count, lifecycle, &token, pools);
        self.record_launch(g, group, nodes, lifecycle, token, request);
    }
}

/// Whether the group's nodes are launched job by job instead of all together.
fn launches_by_job(group: &NodeGroup) -> bool {
    group.all_or_nothing && group.scope == FleetScope::Launch
}

/// The instant fleet for `count` nodes of a group, of which EC2 gives `least` or none.
fn fleet_request(
    site: &Site,
    group: &NodeGroup,
    (count, least): (usize, usize),
    lifecycle: Lifecycle,
    token: &str,
    overrides: Vec<LaunchTemplateOverride>,
) -> CreateFleet {
    let mut tags = tag::at_birth(site, group, token);
    let fleet_tags = tags.clone();
    // An image that reads `Name` must find the node's name there or nothing.
    if group.naming == NodeNaming::LaunchIndex {
        tags.entry(tag::NAME.into()).or_insert_with(|| group.stem());
    }

    let target = u32::try_from(count).unwrap_or(u32::MAX);
    let mut spot_options = group.spot_options.clone();
    let mut on_demand_options = group.on_demand_options.clone();
    if least > 1 {
        let minimum = i32::try_from(least.min(1_000)).ok();
        spot_options.min_target_capacity = minimum;
        on_demand_options.min_target_capacity = minimum;
        // EC2 takes a minimum only together with one of the two (API_SpotOptionsRequest).
        if spot_options.single_instance_type != Some(true) {
            spot_options.single_availability_zone = Some(true);
        }
        if on_demand_options.single_instance_type != Some(true) {
            on_demand_options.single_availability_zone = Some(true);
        }
    }
    CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Instant,
        target,
        lifecycle,
        on_demand_options,
        spot_options,
        launch_template: group.launch_template.clone(),
        overrides,
        fleet_tags,
        instance_tags: tags,
    }
}
