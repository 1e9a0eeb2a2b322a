// SPDX-License-Identifier: GPL-3.0-or-later
//! Giving instances to nodes: one instance, one node.

use std::collections::{BTreeMap, BTreeSet};

use super::launch::Phase;
use super::{Cx, Desire, Ground, Launching, Waiting};
use crate::core::ec2_api::{CloudReply, CloudResult, Instance};
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{Binding, Record, TagLevel};
use crate::core::site::{Account, Lifecycle};

/// EC2 lists an instance some time after it has launched it; this long, tags wait for the missing ones.
const TAG_PATIENCE_MS: u64 = 5_000;

impl Launching {
    /// The addresses of a launch's instances, as far as EC2 shows them.
    pub(super) fn take_launch_instances(&mut self, g: &mut Ground, id: u64, result: CloudResult) {
        let Some(launch) = g.launches.open.get_mut(&id) else { return };
        let Phase::Describing { pending, in_flight, attempts, next_at, since } = &mut launch.phase else {
            return;
        };
        let grace = u64::from(g.cx.site.settings.consistency_grace_s) * 1000;
        let patient = since.saturating_add(grace) > g.cx.now.mono_ms;
        *in_flight = false;
        *attempts += 1;
        *next_at = g.cx.now.mono_ms + backoff_ms(*attempts, &mut g.cx.rng);
        let Ok(CloudReply::Instances(instances)) = result else { return };

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

impl Ground {
    /// Give each instance to its node: record, address, tags.
    pub(super) fn bind(
        &mut self,
        account: &Account,
        launch: Option<&str>,
        pairs: Vec<(String, Instance)>,
        tag_delay: u64,
    ) {
        if pairs.is_empty() {
            return;
        }
        let now = self.cx.now.mono_ms;
        let mut bindings = Vec::with_capacity(pairs.len());
        for (node, instance) in pairs {
            let addr = instance.private_ip.clone().unwrap_or_default();
            self.sight.orphans.remove(&instance.id);
            self.cx.wish_changed(&node);
            let entry = self.cx.nodes.entry(node.clone()).or_default();
            entry.bound_at = now;
            entry.launch = None;
            entry.bare_since = None;
            let told = entry.desire == Desire::Keep && entry.slurm_addr.as_deref() == Some(addr.as_str());
            if let Some((stem, _, index)) = self.cx.site.place_of(&node)
                && let Some(queue) = self.waiting.queues.get_mut(stem)
            {
                queue.remove(index);
            }
            if !told {
                self.addresses.want(node.clone());
            }
            bindings.push(Binding {
                launch: launch
                    .map(str::to_owned)
                    .or_else(|| instance.tags.get(crate::core::tag::LAUNCH).map(str::to_owned)),
                hostname: hostname_of(&addr),
                addr,
                instance_id: instance.id,
                account: account.clone(),
                instance_type: instance.instance_type,
                zone: instance.zone,
                lifecycle: instance.lifecycle,
                reservation_id: instance.reservation_id,
                ami_launch_index: instance.ami_launch_index,
                bound_unix_ms: self.cx.now.unix_ms,
                tags: TagLevel::Birth,
                told,
                fleet: instance.tags.get(super::fleet::FLEET_ID).map(str::to_owned),
                node,
            });
        }
        let names: Vec<String> = bindings.iter().map(|binding| binding.node.clone()).collect();
        let fact = self
            .cx
            .new_fact(
                FactKind::NodesBound,
                format!("{} instances have a node and an address", bindings.len()),
            )
            .nodes(&names)
            .instances(bindings.iter().map(|binding| binding.instance_id.clone()))
            .after_ms(self.cx.waited(&names));
        self.cx.fact(fact);
        self.note_fallback(&bindings);
        self.tags.bound(&bindings, &self.cx.site, now, tag_delay);
        self.cx.record(Record::Bound { bindings });
    }

    /// On-demand instances of groups that should be Spot: they cost more, which the event says where prices are known.
    fn note_fallback(&mut self, bindings: &[Binding]) {
        let mut kinds: BTreeMap<(String, String), Vec<&Binding>> = BTreeMap::new();
        for binding in bindings.iter().filter(|binding| binding.lifecycle == Lifecycle::OnDemand) {
            let Some((group, _)) = self.cx.site.locate(&binding.node) else { continue };
            if group.lifecycle == Lifecycle::Spot {
                kinds.entry((group.stem(), binding.instance_type.clone())).or_default().push(binding);
            }
        }
        for ((stem, kind), bindings) in kinds {
            let text = format!("{} nodes of {stem} run on-demand on {kind}", bindings.len());
            let fact = self
                .cx
                .new_fact(FactKind::SpotFallback, text)
                .group(stem)
                .nodes(bindings.iter().map(|binding| &binding.node))
                .instances(bindings.iter().map(|binding| binding.instance_id.clone()));
            self.cx.fact(fact);
        }
    }
}

impl Waiting {
    /// Waiting nodes of the group that no launch serves yet, lowest index first; with `AllOrNothing` only what is of use
    /// together.
    pub(super) fn queued_nodes(&self, cx: &Cx, stem: &str, at_most: usize) -> Vec<String> {
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

/// `ip-10-1-2-3`: the name that EC2 gives a host by its address, and the NodeHostname that sites know.
#[must_use]
pub fn hostname_of(addr: &str) -> String {
    format!("ip-{}", addr.replace(['.', ':'], "-"))
}
