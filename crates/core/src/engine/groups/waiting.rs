// SPDX-License-Identifier: GPL-3.0-or-later
//! Nodes that wait for an instance of their group's fleet, until it comes or nobody waits any more.

use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::WaitingFor;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::fact::FactKind;
use crate::site::{Account, Lifecycle, NodeGroup};

/// How long the list of what a fleet has already may delay a power-up.
const LOOK_FIRST_MS: u64 = 10_000;

impl GroupFleets {
    /// These nodes wait for instances of their group's fleet.
    pub(crate) fn await_group_fleet(&mut self, g: &mut Ground, group: &NodeGroup, nodes: &[String]) {
        let now = g.cx.now.mono_ms;
        let stem = group.stem();
        let has_fleet = g.cx.persisted.group_fleets.contains_key(&stem);
        let state = self.states.entry(stem).or_default();
        if state.awaiting.nodes.is_empty() {
            state.awaiting.last_arrival = now;
            state.awaiting.short = false;
            // After a restart what comes may have been launched for them.
            if has_fleet && state.looked {
                state.before_raise = Some(now + LOOK_FIRST_MS);
                state.look = true;
                state.poll.hasten(now);
            }
        }
        for node in nodes {
            if !state.awaiting.nodes.contains_key(node) {
                state.awaiting.nodes.insert(node.clone(), now);
            }
        }
    }

    pub(crate) fn awaits_group_fleet(&self, stem: &str, node: &str) -> bool {
        self.states.get(stem).is_some_and(|state| state.awaits(node))
    }

    /// Nodes that are not wanted any more, that waited too long, or for which Spot delivered nothing.
    pub(crate) fn give_up_waiting(&mut self, g: &mut Ground, stem: &str) -> Deadline {
        let now = g.cx.now.mono_ms;
        let Some(state) = self.states.get_mut(stem) else { return Deadline::NONE };
        if state.awaiting.nodes.is_empty() {
            return Deadline::NONE;
        }
        let last_arrival = state.awaiting.last_arrival;
        let mut late = Vec::new();
        let looks: Vec<(String, Option<u64>)> = state
            .awaiting
            .nodes
            .take_due(now)
            .into_iter()
            .map(|node| {
                let deadline =
                    g.cx.wants_instance(&node).then(|| g.cx.launch_deadline(std::slice::from_ref(&node)));
                (node, deadline)
            })
            .collect();
        let Some(state) = self.states.get_mut(stem) else { return Deadline::NONE };
        for (node, deadline) in looks {
            if deadline.is_some_and(|at| at > now) {
                state.awaiting.nodes.look_again(&node, deadline);
                continue;
            }
            state.awaiting.nodes.remove(&node);
            if deadline.is_some() {
                late.push(node);
            }
        }
        let mut next = Deadline::from(state.awaiting.nodes.next_look());
        let waiting = state.awaiting.count();
        state.awaiting.on_demand = state.awaiting.on_demand.min(waiting);
        let silent = now.saturating_sub(last_arrival);
        let fallback =
            g.cx.site
                .group(stem)
                .filter(|group| group.lifecycle == Lifecycle::Spot)
                .and_then(|g| g.spot_fallback_s);
        if let Some(seconds) = fallback
            && waiting > 0
            && state.awaiting.on_demand < waiting
        {
            let patience = u64::from(seconds) * 1000;
            if silent >= patience {
                state.awaiting.on_demand = waiting;
                let text = format!(
                    "{waiting} nodes of {stem} go on-demand: no Spot instance in {} s",
                    silent / 1000
                );
                let fact = g.cx.new_fact(FactKind::SpotFallback, text).group(stem);
                g.cx.fact(fact);
            } else {
                next = next.or(Some(last_arrival + patience));
            }
        }
        g.fail_nodes(&late, "UnfulfillableCapacity", "EC2 gave no instance before ResumeTimeout");
        next
    }

    /// Since when, where and by which fleet groups wait for Spot instances.
    pub(crate) fn groups_waiting_for_spot(&self, g: &Ground) -> Vec<(u64, Account, String, WaitingFor)> {
        let mut waiting = Vec::new();
        for (key, state) in &self.states {
            let spot = g.cx.site.group(key).is_some_and(|group| group.lifecycle == Lifecycle::Spot);
            if spot
                && !state.awaiting.short
                && state.awaiting.on_demand < state.awaiting.count()
                && let Some(fleet) = g.cx.persisted.group_fleets.get(key)
            {
                let who = WaitingFor::Group(key.clone());
                waiting.push((
                    state.awaiting.last_arrival,
                    fleet.account.clone(),
                    fleet.fleet_id.clone(),
                    who,
                ));
            }
        }
        waiting
    }

    /// EC2's history says that Spot gives this group nothing now.
    pub(crate) fn spot_is_short(&mut self, g: &mut Ground, key: &str, code: &str, description: &str) {
        let fallback = g.cx.site.group(key).is_some_and(|group| group.spot_fallback_s.is_some());
        let Some(state) = self.states.get_mut(key) else { return };
        let waiting = state.awaiting.count();
        if waiting == 0 {
            return;
        }
        state.awaiting.short = true;
        let (kind, text) = if fallback {
            state.awaiting.on_demand = waiting;
            (FactKind::SpotFallback, format!("{waiting} nodes of {key} go on-demand: {description}"))
        } else {
            (FactKind::CreateFleetFailed, format!("{waiting} nodes of {key} wait for Spot: {description}"))
        };
        g.cx.fact(g.cx.new_fact(kind, text).group(key).code(code));
    }

    pub(crate) fn fail_awaiting(&mut self, g: &mut Ground, stem: &str, code: &str, message: &str) {
        let Some(state) = self.states.get_mut(stem) else { return };
        let nodes: Vec<String> = std::mem::take(&mut state.awaiting.nodes).keys().cloned().collect();
        g.fail_nodes(&nodes, code, message);
    }
}
