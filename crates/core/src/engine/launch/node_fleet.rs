// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Node`: one maintain fleet for each node, with target 1, asked of one pool after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ec2_api::{CloudReply, CloudRequest, CreateFleet, FleetType};
use crate::ec2_limits::FLEETS_PER_REGION;
use crate::engine::cx::nodes::Desire;
use crate::engine::cx::pool::Pool;
use crate::engine::ground::Ground;
use crate::engine::ground::launches::{Fulfil, Tried};
use crate::engine::ground::pools::pools;
use crate::engine::launch::Launching;
use crate::fact::FactKind;
use crate::fleet_spec::LaunchTemplateOverride;
use crate::record::{NodeFleet, Outcome, Record};
use crate::site::{Lifecycle, NodeGroup, Site};
use crate::tag;

impl Launching {
    /// One CreateFleet per node, each for the first pool that has not been tried and does not cool down.
    pub(crate) fn begin_node_fleets(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        nodes: &[String],
        lifecycle: Lifecycle,
        tried: &BTreeMap<String, Tried>,
    ) {
        for node in nodes {
            let tried = tried.get(node).cloned().unwrap_or_else(|| Tried::none(g.cx.now.mono_ms));
            let Some(over) = self.next_pool(g, group, node, lifecycle, &tried.pools) else {
                g.fail_nodes(
                    std::slice::from_ref(node),
                    "UnfulfillableCapacity",
                    &format!(
                        "none of the {} pools of {} gave a {} instance",
                        tried.pools.len(),
                        group.stem(),
                        lifecycle.as_str()
                    ),
                );
                continue;
            };
            let active = g.cx.ledger.fleets_of(&group.account);
            if active >= FLEETS_PER_REGION as usize {
                g.fail_nodes(
                    std::slice::from_ref(node),
                    "MaxFleetCountExceeded",
                    &format!(
                        "{} already has {active} fleets, and EC2 allows {FLEETS_PER_REGION} in a region",
                        group.account
                    ),
                );
                continue;
            }
            self.begin_node_fleet(g, group, node, lifecycle, over, tried);
        }
    }

    fn begin_node_fleet(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        node: &str,
        lifecycle: Lifecycle,
        over: LaunchTemplateOverride,
        mut tried: Tried,
    ) {
        tried.pools.insert(Pool::of(&group.account, &over, lifecycle));
        let token = g.cx.new_token();
        let request = node_fleet_request(&g.cx.site, group, node, lifecycle, &token, over);
        let id = self.record_launch(g, group, vec![node.to_owned()], lifecycle, token, request);
        g.launches.attempts_of.insert(id, tried);
    }

    /// In the configured order of types; the zones take turns from node to node, so that they fill evenly.
    fn next_pool(
        &self,
        g: &Ground,
        group: &NodeGroup,
        node: &str,
        lifecycle: Lifecycle,
        tried: &BTreeSet<Pool>,
    ) -> Option<LaunchTemplateOverride> {
        let cooling: Vec<&Pool> = g.pools.cooling_pools(&g.cx, 1);
        let mut open: Vec<LaunchTemplateOverride> = pools(group, lifecycle, &cooling)
            .into_iter()
            .filter(|over| !tried.contains(&Pool::of(&group.account, over, lifecycle)))
            .collect();
        open.sort_by(|a, b| a.priority.unwrap_or(0.0).total_cmp(&b.priority.unwrap_or(0.0)));
        let first_type = open.first()?.instance_type.clone();
        let same: Vec<LaunchTemplateOverride> =
            open.into_iter().filter(|over| over.instance_type == first_type).collect();
        let index = g.cx.site.locate(node).map_or(0, |(_, index)| index) as usize;
        same.get(index % same.len().max(1)).cloned()
    }

    /// EC2 made the fleet; its instance comes when it comes.
    pub(crate) fn take_node_fleet(&mut self, g: &mut Ground, id: u64, node: &str, fleet_id: &str) {
        let Some(launch) = g.launches.open.remove(&id) else { return };
        g.cx.release(&launch.nodes, id);
        let tried = g.launches.attempts_of.remove(&id).unwrap_or_default();
        let pool = g.cx.persisted.open.get(&id).and_then(|intent| match &intent.request {
            CloudRequest::CreateFleet(request) => request.overrides.first().cloned(),
            _ => None,
        });
        let over = pool.unwrap_or_default();
        let fleet = NodeFleet {
            fleet_id: fleet_id.to_owned(),
            account: launch.account.clone(),
            lifecycle: launch.lifecycle,
            instance_type: over.instance_type.unwrap_or_default(),
            subnet_id: over.subnet_id,
            launch: launch.token.clone(),
            created_unix_ms: g.cx.now.unix_ms,
        };
        // A replay may find the node up already, on this fleet's instance or on another's.
        let up = g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep);
        let holder = match g.cx.persisted.bindings.get(node) {
            Some(binding) => binding.fleet.as_deref(),
            None => g.cx.persisted.fleets.get(node).filter(|_| up).map(|fleet| fleet.fleet_id.as_str()),
        };
        let (held, elsewhere) = (holder == Some(fleet_id), holder.is_some_and(|id| id != fleet_id));
        // The fleet that the node leaves for this one may have been about to be deleted by an earlier process.
        if !elsewhere
            && let Some(left) =
                g.cx.persisted.fleets.get(node).filter(|left| left.fleet_id != fleet_id).cloned()
        {
            g.deletions.end_fleet(&g.cx, &left.account, left.fleet_id);
        }
        // The outcome and the fleet's owner are one record step: a crash finds both or replays the call.
        if !elsewhere {
            g.cx.record(Record::FleetOf { node: node.to_owned(), fleet });
        }
        let reply = CloudReply::Fleet(crate::ec2_api::FleetReply {
            fleet_id: fleet_id.to_owned(),
            ..Default::default()
        });
        g.cx.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
        if g.cx.wants_instance(node) {
            let since = g.cx.now.mono_ms;
            let fulfil = Fulfil {
                account: launch.account,
                group: launch.group,
                fleet_id: fleet_id.to_owned(),
                lifecycle: launch.lifecycle,
                tried,
                since,
            };
            g.launches.fulfilling.insert(node.to_owned(), fulfil);
        } else if elsewhere {
            g.deletions.end_fleet(&g.cx, &launch.account, fleet_id.to_owned());
        } else if !held {
            g.end_fleet_of(node);
        }
    }

    pub(crate) fn try_next_pool(
        &mut self,
        g: &mut Ground,
        node: &str,
        stem: &str,
        lifecycle: Lifecycle,
        tried: Tried,
    ) {
        let Some(group) = g.cx.site.group(stem).cloned() else { return };
        let waited = g.cx.now.since(tried.since);
        let fallback = group.spot_fallback_s.filter(|_| lifecycle == Lifecycle::Spot);
        let exhausted = self.next_pool(g, &group, node, lifecycle, &tried.pools).is_none();
        let on_demand = fallback.is_some_and(|seconds| exhausted || waited >= u64::from(seconds) * 1000);
        if on_demand {
            self.go_on_demand(g, &group, node, &format!("no Spot instance in {} s", waited / 1000));
        } else {
            let tried = BTreeMap::from([(node.to_owned(), tried)]);
            self.begin_node_fleets(g, &group, &[node.to_owned()], lifecycle, &tried);
        }
    }

    pub(crate) fn go_on_demand(&mut self, g: &mut Ground, group: &Arc<NodeGroup>, node: &str, why: &str) {
        let text = format!("{node} goes on-demand: {why}");
        g.cx.fact(g.cx.new_fact(FactKind::SpotFallback, text).nodes([node]).group(group.stem()));
        self.begin_node_fleets(g, group, &[node.to_owned()], Lifecycle::OnDemand, &BTreeMap::new());
    }
}

fn node_fleet_request(
    site: &Site,
    group: &NodeGroup,
    node: &str,
    lifecycle: Lifecycle,
    token: &str,
    over: LaunchTemplateOverride,
) -> CreateFleet {
    let mut fleet_tags = tag::at_birth(site, group, token);
    fleet_tags.insert(tag::NODE.into(), node.into());
    CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Maintain,
        target: 1,
        lifecycle,
        on_demand_options: group.on_demand_options.clone(),
        spot_options: group.spot_options.clone(),
        launch_template: group.launch_template.clone(),
        overrides: vec![over],
        fleet_tags,
        // EC2 refuses instance tags for maintain fleets: they are written when the instance is bound.
        instance_tags: BTreeMap::new(),
    }
}
