// SPDX-License-Identifier: GPL-3.0-or-later
//! Instant fleets: what is asked of EC2, and the instances that it gave.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ec2_api::{CloudReply, CloudResult, CreateFleet, FleetType, Instance};
use crate::engine::ground::Ground;
use crate::engine::ground::launches::Phase;
use crate::engine::ground::pools::pools;
use crate::engine::launch::Launching;
use crate::fleet_spec::LaunchTemplateOverride;
use crate::jobs::Unit;
use crate::limits::backoff_ms;
use crate::site::{Account, Lifecycle, NodeGroup, NodeNaming, Site};
use crate::tag;

/// EC2 lists an instance some time after it has launched it; this long, tags wait for the missing ones.
const TAG_PATIENCE_MS: u64 = 5_000;

impl Launching {
    pub(crate) fn launch_unit(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        unit: &Unit,
        lifecycle: Lifecycle,
    ) {
        for nodes in unit.nodes().chunks(self.max_fleet_nodes(g)) {
            let least = unit.least().min(nodes.len());
            self.begin_instant_fleet(g, group, nodes.to_vec(), least, lifecycle);
        }
    }

    pub(crate) fn max_fleet_nodes(&self, g: &Ground) -> usize {
        g.cx.site.settings.max_fleet_nodes.max(1) as usize
    }

    /// One instant fleet, which gives `least` instances or none.
    pub(crate) fn begin_instant_fleet(
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

    /// The addresses of a launch's instances, as far as EC2 shows them.
    pub(crate) fn take_launch_instances(&mut self, g: &mut Ground, id: u64, result: CloudResult) {
        let Some(launch) = g.launches.open.get_mut(&id) else { return };
        let Phase::Describing { pending, in_flight, attempts, next_at, since } = &mut launch.phase else {
            return;
        };
        let grace = u64::from(g.cx.site.settings.consistency_grace_s) * 1000;
        let patient = since.saturating_add(grace) > g.cx.now.mono_ms;
        *in_flight = false;
        *attempts += 1;
        *next_at = g.cx.now.mono_ms + backoff_ms(*attempts, &mut g.cx.rng);
        let Ok(instances) = result.and_then(CloudReply::into_instances) else { return };

        let asked: BTreeSet<String> = std::mem::take(pending).into_iter().collect();
        let account = launch.account.clone();
        let token = launch.token.clone();
        let (mut usable, mut ended) = (Vec::new(), Vec::new());
        for instance in instances {
            if !asked.contains(&instance.id) {
                continue;
            }
            if instance.state.is_ended() {
                ended.push(instance);
            } else if instance.private_ip.is_some() && !g.cx.ledger.is_bound(&instance.id) {
                usable.push(instance);
            }
        }
        let answered: BTreeSet<&String> = usable.iter().chain(&ended).map(|instance| &instance.id).collect();
        let rest: Vec<String> =
            asked.into_iter().filter(|id| !answered.contains(id) && !g.cx.ledger.is_bound(id)).collect();
        let complete = rest.is_empty();
        if let Some(launch) = g.launches.open.get_mut(&id)
            && let Phase::Describing { pending, .. } = &mut launch.phase
        {
            *pending = rest;
        }
        self.give_to_launch(g, id, &account, &token, usable, complete);
        if !ended.is_empty() {
            self.note_dead_on_arrival(g, id, &ended);
        }
        if complete && let Some(launch) = g.launches.open.remove(&id) {
            g.cx.release(&launch.nodes, id);
            let left = g.cx.still_wanted(&launch.nodes);
            g.fail_nodes(&left, "InstanceEnded", "EC2 ended the instance before it had an address");
        } else if !patient {
            // Only an answer that lacks them says so: EC2 out of reach shows nothing.
            self.give_up_describing(g, id);
        }
    }

    fn give_to_launch(
        &mut self,
        g: &mut Ground,
        id: u64,
        account: &Account,
        token: &str,
        mut usable: Vec<Instance>,
        complete: bool,
    ) {
        usable.sort_by(|a, b| {
            (&a.reservation_id, a.ami_launch_index).cmp(&(&b.reservation_id, b.ami_launch_index))
        });
        let Some(launch) = g.launches.open.get(&id) else { return };
        let (stem, candidates) = (launch.group.clone(), launch.nodes.clone());
        let mut nodes = g.cx.still_wanted(&candidates);
        // A node that came later can use what an earlier one no longer wants.
        if complete && nodes.len() < usable.len() {
            nodes.extend(g.waiting.queued_nodes(&g.cx, &stem, usable.len() - nodes.len()));
        }
        let surplus = usable.split_off(usable.len().min(nodes.len()));
        nodes.truncate(usable.len());
        let pairs: Vec<(String, Instance)> = nodes.into_iter().zip(usable).collect();
        let tag_delay = if complete { 0 } else { TAG_PATIENCE_MS };
        let given: BTreeSet<String> = pairs.iter().map(|(node, _)| node.clone()).collect();
        g.bind(account, Some(token), pairs, tag_delay);
        if let Some(launch) = g.launches.open.get_mut(&id) {
            launch.nodes.retain(|node| !given.contains(node));
        }
        for instance in surplus {
            g.end_instance(account, instance.id);
        }
    }

    fn note_dead_on_arrival(&mut self, g: &mut Ground, id: u64, ended: &[Instance]) {
        let Some(launch) = g.launches.open.get_mut(&id) else { return };
        // Whichever node would have had the instance: the last ones wait in vain.
        let keep = launch.nodes.len().saturating_sub(ended.len());
        let nodes = launch.nodes.split_off(keep);
        let code = ended[0].state_reason.clone().unwrap_or_else(|| "InstanceEnded".into());
        let message = format!("EC2 ended instance {} while it was starting", ended[0].id);
        g.cx.release(&nodes, id);
        let wanted = g.cx.still_wanted(&nodes);
        g.fail_nodes(&wanted, &code, &message);
    }
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
