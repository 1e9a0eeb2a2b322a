// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld's power save says of each node, and what follows from a change.

use std::collections::BTreeSet;

use crate::engine::cx::PowerSource;
use crate::engine::cx::nodes::{Desire, Node};
use crate::engine::demand::Demand;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::event::Effect;
use crate::fact::FactKind;
use crate::name_map::find_near;
use crate::slurm_api::{NodeBase, NodeFlags, PowerReading, SlurmNode};

impl Demand {
    pub(crate) fn take_power(&mut self, g: &mut Ground, groups: &mut GroupFleets, reading: &PowerReading) {
        if reading.reconfigured {
            g.forget_weights();
        }
        // Down first: a node that was suspended and woken again between two readings is waking now.
        let mut changes: Vec<(&str, Desire)> = Vec::new();
        for node in &reading.suspended_ended {
            if g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Down) {
                changes.push((node, Desire::Keep));
            }
        }
        for node in &reading.waking_ended {
            if g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Waking) {
                changes.push((node, Desire::Keep));
            }
        }
        changes.extend(reading.suspended.iter().map(|node| (node.as_str(), Desire::Down)));
        changes.extend(reading.waking.iter().map(|node| (node.as_str(), Desire::Waking)));
        let settled: std::collections::BTreeMap<&str, Desire> = changes.into_iter().collect();
        let mut gone: Vec<String> = Vec::new();
        if reading.full {
            // What ended since the last reading is not told apart: the next differences begin with this one.
            for (name, node) in &g.cx.nodes {
                let left = matches!(node.desire, Desire::Waking | Desire::Down);
                if left && !settled.contains_key(name.as_str()) {
                    gone.push(name.clone());
                }
            }
        }
        let mut seen = Seen::default();
        for name in gone {
            self.set_desire(g, groups, &name, Desire::Keep, &mut seen);
        }
        for (name, desire) in settled {
            self.set_desire(g, groups, name, desire, &mut seen);
        }
        self.tell_seen(g, seen);
    }

    pub(crate) fn take_request(
        &mut self,
        g: &mut Ground,
        groups: &mut GroupFleets,
        nodes: &[String],
        desire: Desire,
    ) {
        match g.cx.options.source {
            // The bitmaps are the truth; a late request must not wake a node that is down again.
            PowerSource::Watch => g.cx.step.effects.push(Effect::ReadPower),
            PowerSource::Requests => {
                let mut seen = Seen::default();
                for node in nodes {
                    self.set_desire(g, groups, node, desire, &mut seen);
                }
                self.tell_seen(g, seen);
            }
        }
    }

    /// Slurm gave up waiting for these nodes: their instances have to go, and the nodes back into service.
    pub(crate) fn take_resume_failed(&mut self, g: &mut Ground, groups: &mut GroupFleets, nodes: &[String]) {
        let mut seen = Seen::default();
        for node in nodes {
            if g.cx.nodes.get(node).is_none_or(|n| n.desire != Desire::Keep || n.base == NodeBase::Down) {
                self.set_desire(g, groups, node, Desire::Down, &mut seen);
            }
        }
        self.tell_seen(g, seen);
        if g.cx.options.source == PowerSource::Watch {
            g.cx.step.effects.push(Effect::ReadPower);
        }
        g.sight.rescan_now(&g.cx);
    }

    /// Take in what slurmctld says of every node.
    pub(crate) fn take_slurm_nodes(&mut self, g: &mut Ground, groups: &mut GroupFleets, nodes: &[SlurmNode]) {
        let mut seen = Seen::default();
        let mut wrong_addr = Vec::new();
        let mut near = Place { node: 0, binding: None };
        for slurm in nodes {
            let mut desire = Desire::of(slurm);
            // POWER_DOWN_FORCE of a node that is down clears POWERED_DOWN until power save has suspended it anew (22.05).
            if slurm.flags.has(NodeFlags::POWER_DOWN)
                && desire == Desire::Keep
                && !slurm.has_job()
                && g.cx.nodes.get(&slurm.name).is_some_and(|node| node.desire == Desire::Down)
            {
                desire = Desire::Down;
            }
            if desire == Desire::Waking && is_woken_anew(g, &slurm.name) {
                self.set_desire_near(g, groups, &slurm.name, near, Desire::Down, &mut seen);
            }
            let Some(place) = self.set_desire_near(g, groups, &slurm.name, near, desire, &mut seen) else {
                continue;
            };
            near = Place { node: place.node + 1, binding: place.binding.map(|at| at + 1) };
            let node = &mut g.cx.nodes[place.node];
            node.base = slurm.base;
            node.flags = slurm.flags;
            node.has_job = slurm.has_job();
            if node.reason != slurm.reason {
                node.reason.clone_from(&slurm.reason);
            }
            if slurm.weight.is_some() && node.slurm_weight != slurm.weight {
                node.slurm_weight = slurm.weight;
                g.cx.changed.weights.insert(slurm.name.clone());
            }
            if node.slurm_addr.as_deref() != Some(slurm.addr.as_str()) {
                node.slurm_addr = Some(slurm.addr.clone());
                if desire == Desire::Waking && slurm.addr == slurm.name {
                    // Perhaps it was powered down and up again unnoticed.
                    g.placeholders.begin(&slurm.name, g.cx.now.mono_ms);
                }
            }
            if desire != Desire::Down
                && let Some(binding) = place.binding
                && g.cx.persisted.bindings[binding].addr != slurm.addr
            {
                wrong_addr.push(slurm.name.clone());
            }
        }
        for name in wrong_addr {
            g.addresses.want(name);
        }
        self.tell_seen(g, seen);
        self.leave_unconfigured(g, nodes);
    }

    /// Nodes of groups that are no longer configured: what stands behind them goes once Slurm has them powered down,
    /// or does not have them at all.
    fn leave_unconfigured(&mut self, g: &mut Ground, nodes: &[SlurmNode]) {
        let state = &g.cx.persisted;
        let left: BTreeSet<String> = (state.bindings.keys().chain(state.fleets.keys()))
            .filter(|node| g.cx.site.locate(node).is_none() && !g.cx.is_locked(node))
            .cloned()
            .collect();
        self.unconfigured.retain(|node, _| left.contains(node));
        if left.is_empty() {
            return;
        }
        let up: BTreeSet<&str> = nodes
            .iter()
            .filter(|node| left.contains(&node.name) && Desire::of(node) != Desire::Down)
            .map(|node| node.name.as_str())
            .collect();
        let grace = u64::from(g.cx.site.settings.orphan_grace_s) * 1000;
        let mut down = Vec::new();
        for node in left {
            if up.contains(node.as_str()) {
                self.unconfigured.remove(&node);
                continue;
            }
            let since = *self.unconfigured.entry(node.clone()).or_insert(g.cx.now.mono_ms);
            if g.cx.now.since(since) >= grace {
                down.push(node);
            }
        }
        if down.is_empty() {
            return;
        }
        let text = format!("{} nodes are down and no longer configured", down.len());
        g.cx.fact(g.cx.new_fact(FactKind::PowerDownSeen, text).nodes(&down));
        for node in &down {
            g.end_fleet_of(node);
        }
        g.unbind(&down, "no longer configured");
    }

    fn set_desire(
        &mut self,
        g: &mut Ground,
        groups: &mut GroupFleets,
        name: &str,
        desire: Desire,
        seen: &mut Seen,
    ) {
        self.set_desire_near(g, groups, name, Place { node: 0, binding: None }, desire, seen);
    }

    /// Nothing happens to a node that the configuration does not know. A node that is as it was costs two look-ups, which
    /// a good guess makes cheap.
    fn set_desire_near(
        &mut self,
        g: &mut Ground,
        groups: &mut GroupFleets,
        name: &str,
        near: Place,
        desire: Desire,
        seen: &mut Seen,
    ) -> Option<Place> {
        let (stem, _, index) = g.cx.site.place_of(name)?;
        let binding = find_near(&g.cx.persisted.bindings, name, near.binding.unwrap_or(0));
        let bound = binding.is_some();
        let locked = g.cx.is_locked(name);
        let now = g.cx.now.mono_ms;
        let place = match find_near(&g.cx.nodes, name, near.node) {
            Some(place) => place,
            None => g.cx.nodes.insert_full(name.to_owned(), Node::default()).0,
        };
        let node = &mut g.cx.nodes[place];
        let before = std::mem::replace(&mut node.desire, desire);
        if before != desire {
            let waited = now.saturating_sub(node.since);
            node.since = now;
            node.reported = false;
            node.bare_since = None;
            if (before, desire) == (Desire::Down, Desire::Waking) && !bound {
                // Since 23.11 always, and before with cloud_reg_addrs, a node that was powered down has its name again.
                node.slurm_addr = Some(name.to_owned());
            }
            match desire {
                // What a launch of an earlier process says of jobs is of the power-up that goes on.
                Desire::Waking if before != Desire::Unknown => g.waiting.jobs.begin(name, now),
                Desire::Down if before == Desire::Waking => g.waiting.jobs.lose(name),
                Desire::Keep | Desire::Down => g.waiting.jobs.end(name),
                Desire::Waking | Desire::Unknown => {}
            }
            g.failures.forget(name);
            match (before, desire) {
                (_, Desire::Waking) => {
                    g.placeholders.begin(name, now);
                    seen.up.push(name.to_owned());
                }
                (Desire::Waking, Desire::Keep) if bound => seen.ready.push((name.to_owned(), waited)),
                (Desire::Waking, Desire::Keep) => seen.ended.push(name.to_owned()),
                (Desire::Unknown, Desire::Down) if !bound => {}
                (_, Desire::Down) => seen.down.push(name.to_owned()),
                _ => {}
            }
            g.cx.wish_changed(name);
        }
        let place = Place { node: place, binding };
        if locked {
            return Some(place);
        }
        let node = &g.cx.nodes[place.node];
        match desire {
            Desire::Waking
                if !bound
                    && node.launch.is_none()
                    && !node.reported
                    && !g.launches.fulfilling.contains_key(name)
                    && !groups.awaits_group_fleet(stem, name) =>
            {
                g.waiting.queue_mut(stem).add(index, name, now);
            }
            Desire::Down => {
                g.waiting.unqueue(stem, index);
                if bound {
                    seen.unbind.push(name.to_owned());
                }
                if g.cx.persisted.fleets.contains_key(name) || g.cx.is_relocating(name) {
                    seen.fleets.push(name.to_owned());
                }
            }
            Desire::Keep => g.waiting.unqueue(stem, index),
            Desire::Waking | Desire::Unknown => {}
        }
        Some(place)
    }

    fn tell_seen(&mut self, g: &mut Ground, seen: Seen) {
        if !seen.up.is_empty() {
            g.cx.fact(
                g.cx.new_fact(FactKind::PowerUpSeen, format!("Slurm powers up {} nodes", seen.up.len()))
                    .nodes(&seen.up),
            );
        }
        if !seen.ended.is_empty() {
            let text =
                format!("{} nodes left the power-up state before they had an instance", seen.ended.len());
            g.cx.fact(g.cx.new_fact(FactKind::PowerUpEnded, text).nodes(&seen.ended));
        }
        if !seen.ready.is_empty() {
            let slowest = seen.ready.iter().map(|(_, waited)| *waited).max().unwrap_or_default();
            let names: Vec<&String> = seen.ready.iter().map(|(name, _)| name).collect();
            let text = format!("{} nodes registered with slurmctld", names.len());
            self.jobs_may_start(g);
            g.cx.fact(g.cx.new_fact(FactKind::NodesReady, text).nodes(names).after_ms(slowest));
        }
        if !seen.down.is_empty() {
            let text = format!("Slurm powers down {} nodes", seen.down.len());
            g.cx.fact(g.cx.new_fact(FactKind::PowerDownSeen, text).nodes(&seen.down));
        }
        for name in &seen.fleets {
            g.end_fleet_of(name);
        }
        g.unbind(&seen.unbind, "powered down by Slurm");
    }
}

/// Where a node and its binding stand in their maps, until one of these changes.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    node: usize,
    binding: Option<usize>,
}

/// What one reading changed, gathered so that a thousand nodes make one fact and one record.
#[derive(Default)]
struct Seen {
    up: Vec<String>,
    ready: Vec<(String, u64)>,
    ended: Vec<String>,
    down: Vec<String>,
    unbind: Vec<String>,
    fleets: Vec<String>,
}

/// Whether a node that slurmctld shows as waking has been down since it was powered down for its failure: the bitmaps do not
/// tell where both happened between two readings, for example while the process stood still.
///
/// POWER_DOWN_FORCE clears POWERING_UP at once, so a list that was asked for afterwards shows the next power-up (`update_node` in
/// src/slurmctld/node_mgr.c, 22.05 to 26.05). The booting bit stays until power save acts: readings do not show it.
fn is_woken_anew(g: &Ground, name: &str) -> bool {
    let waited = g.cx.nodes.get(name).is_some_and(|node| node.desire == Desire::Waking && node.reported);
    waited
        && !g.cx.persisted.bindings.contains_key(name)
        && g.failures.is_down_before(name, g.sight.slurm_asked_at())
}
