// SPDX-License-Identifier: GPL-3.0-or-later
//! Giving an instance to a node, and taking it away: one instance, one node.

use std::collections::BTreeMap;

use crate::ec2_api::Instance;
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::Ground;
use crate::engine::ground::addresses::hostname_of;
use crate::engine::ground::failures::{Cause, reason};
use crate::fact::FactKind;
use crate::record::{Binding, Record, TagLevel};
use crate::site::{Account, Lifecycle};
use crate::tag::FLEET_ID;

impl Ground {
    /// Give each instance to its node: record, address, tags.
    pub(crate) fn bind(
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
            if let Some((stem, _, index)) = self.cx.site.place_of(&node) {
                self.waiting.unqueue(stem, index);
            }
            if !told {
                self.addresses.want(node.clone());
            }
            bindings.push(Binding {
                launch: launch
                    .map(str::to_owned)
                    .or_else(|| instance.tags.get(crate::tag::LAUNCH).map(str::to_owned)),
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
                fleet: instance.tags.get(FLEET_ID).map(str::to_owned),
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

    /// Take these nodes' instances from them, and have the instances ended.
    pub(crate) fn unbind(&mut self, nodes: &[String], why: &str) {
        let (mut terminated, mut others) = (Vec::new(), Vec::new());
        for name in nodes {
            let Some(binding) = self.cx.persisted.bindings.get(name).cloned() else { continue };
            self.addresses.forget(name);
            self.tags.forget(name);
            self.sleepers.forget_sleep(name);
            if self.cx.relocates_from(&binding.instance_id) {
                // Ended when the move has put everything back, or already ended by it.
                others.push(name.clone());
            } else if self.lowering.lower_for(&self.cx, &binding) {
                // Ended when the fleet's target is lowered, by whoever is alive then.
                terminated.push(name.clone());
            } else if self.cx.persisted.fleets.contains_key(name) {
                // The fleet takes its instance with it.
                self.terminations.note_ended(&self.cx, binding.instance_id);
                others.push(name.clone());
            } else {
                self.end_instance(&binding.account, binding.instance_id);
                terminated.push(name.clone());
            }
        }
        for (nodes, ending) in [(terminated, true), (others, false)] {
            if !nodes.is_empty() {
                self.cx.record(Record::Unbound { nodes, why: why.into(), ending });
            }
        }
    }

    /// EC2 has ended the instance behind a node: Slurm must know now, not after SlurmdTimeout.
    pub(crate) fn lose_instance(&mut self, node: &str, id: &str, why: &str) {
        self.sight.missing.remove(id);
        self.sleepers.forget_sleep(node);
        self.addresses.forget(node);
        self.tags.forget(node);
        // slurmctld talks to another address: a job there does not run on the instance that ended.
        let elsewhere = self.cx.persisted.bindings.get(node).is_some_and(|binding| {
            self.cx.nodes.get(node).is_some_and(|n| {
                n.has_job && binding.told && n.slurm_addr.as_deref().is_some_and(|addr| addr != binding.addr)
            })
        });
        self.cx.record(Record::Unbound {
            nodes: vec![node.to_owned()],
            why: format!("{id} ended in EC2: {why}"),
            ending: false,
        });
        let text = format!("EC2 ended {id} ({why}) while Slurm wanted {node}");
        self.cx.fact(
            self.cx
                .new_fact(FactKind::InstanceVanished, text)
                .nodes([node])
                .instances([id.to_owned()])
                .code(why),
        );
        if self.cx.is_locked(node) || elsewhere {
            return;
        }
        let message = format!("instance {id} ended in EC2");
        match self.cx.nodes.get_mut(node).map(|n| (n.desire, &mut n.reported)) {
            Some((Desire::Waking, _)) => self.fail_nodes(&[node.to_owned()], why, &message),
            Some((Desire::Keep, _)) => {
                self.failures.add(Cause::NoInstance, &reason(why, &message), [node.to_owned()])
            }
            _ => {}
        }
    }
}
