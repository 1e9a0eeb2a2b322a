// SPDX-License-Identifier: GPL-3.0-or-later
//! Waking nodes of a group, gathered until one launch serves them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use super::pools::{Pool, pools};
use crate::core::ec2_api::{CreateFleet, FleetType};
use crate::core::site::{FleetScope, Lifecycle, NodeGroup, NodeNaming, Site};
use crate::core::tag;

/// Nodes of one group that wait for the batch to close.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    nodes: BTreeMap<u32, String>,
    first: u64,
    last: u64,
}

impl Queue {
    pub(super) fn add(&mut self, index: u32, node: &str, now: u64) {
        if self.nodes.is_empty() {
            self.first = now;
        }
        if self.nodes.insert(index, node.to_owned()).is_none() {
            self.last = now;
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// In order of index.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.nodes.values()
    }
}

impl Engine {
    pub(super) fn unqueue(&mut self, stem: &str, index: u32) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.remove(index);
        }
    }

    pub(super) fn queue_mut(&mut self, stem: &str) -> &mut Queue {
        self.queues.entry(stem.to_owned()).or_default()
    }

    pub(super) fn close_launch_batches(&mut self) {
        if self.persisted.paused || !self.slurm.is_known() {
            return;
        }
        let site = Arc::clone(&self.site);
        let stems: Vec<String> =
            self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(stem, _)| stem.clone()).collect();
        for stem in stems {
            let Some(group) = site.group(&stem) else { continue };
            if !self.view_ready(&group.account) {
                continue;
            }
            let settings = &site.settings;
            let queue = &self.queues[&stem];
            let pressure = self.pressure.get(&stem).cloned().unwrap_or_default();
            if pressure.is_protected() {
                let nodes = self.take_queue(&stem);
                self.fail_nodes(&nodes, "GroupProtected", &format!(
                    "node group {stem} is closed after {} failed launches; `ec2fleet resume-operations` opens it",
                    pressure.failures()
                ));
                continue;
            }
            let due = (queue.last + settings.batch_idle_ms)
                .min(queue.first + settings.batch_max_ms)
                .max(pressure.retry_at());
            if due > self.now.mono_ms {
                self.wake(due);
                continue;
            }
            let nodes = self.take_queue(&stem);
            for chunk in nodes.chunks(settings.max_fleet_nodes.max(1) as usize) {
                self.begin_launch(group, chunk.to_vec(), group.lifecycle);
            }
        }
    }

    fn take_queue(&mut self, stem: &str) -> Vec<String> {
        let nodes = self.queues.remove(stem).map(|queue| queue.nodes).unwrap_or_default();
        nodes.into_values().filter(|node| self.wants_instance(node)).collect()
    }

    pub(super) fn begin_launch(&mut self, group: &Arc<NodeGroup>, nodes: Vec<String>, lifecycle: Lifecycle) {
        if nodes.is_empty() {
            return;
        }
        if group.scope == FleetScope::Group {
            self.await_group_fleet(group, &nodes);
            return;
        }
        if group.scope == FleetScope::Node {
            self.begin_node_fleets(group, &nodes, lifecycle, &BTreeMap::new());
            return;
        }
        let token = self.new_token();
        let request = fleet_request(&self.site, group, nodes.len(), lifecycle, &token, &self.cooling_pools());
        self.record_launch(group, nodes, lifecycle, token, request);
    }

    pub(super) fn requeue(&mut self, nodes: &[String]) {
        for name in nodes {
            let Some((stem, index)) = self.site.locate(name).map(|(group, index)| (group.stem(), index))
            else {
                continue;
            };
            if let Some(node) = self.nodes.get_mut(name) {
                node.launch = None;
            }
            if self.wants_instance(name) {
                self.queues.entry(stem).or_default().add(index, name, self.now.mono_ms);
            }
        }
    }
}

/// The instant fleet for `count` nodes of a group.
fn fleet_request(
    site: &Site,
    group: &NodeGroup,
    count: usize,
    lifecycle: Lifecycle,
    token: &str,
    cooling: &[&Pool],
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
    if group.all_or_nothing {
        let minimum = i32::try_from(target.min(1_000)).ok();
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
        overrides: pools(group, lifecycle, cooling),
        fleet_tags,
        instance_tags: tags,
    }
}
