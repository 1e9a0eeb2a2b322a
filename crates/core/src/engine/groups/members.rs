// SPDX-License-Identifier: GPL-3.0-or-later
//! What a node group's fleet holds: each instance takes a node that waits, and what is nobody's ends.

use std::collections::{BTreeSet, VecDeque};

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, Fleet, Instance, InstanceState};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::cx::ledger::stem_of_key;
use crate::engine::cx::nodes::busy_addresses;
use crate::engine::ground::Ground;
use crate::engine::ground::adopt::Strangers;
use crate::engine::groups::GroupFleets;
use crate::engine::groups::state::Seen;
use crate::fact::FactKind;
use crate::record::{Binding, GroupFleet, Record};
use crate::site::{Account, FleetScope, Lifecycle};
use crate::tag;
use crate::tag::FLEET_ID;

/// How often a changing fleet is looked at.
const POLL_MS: u64 = 2_000;

impl GroupFleets {
    fn winds_down(&self, g: &Ground, key: &str) -> bool {
        g.cx.site.group(key).is_none_or(|group| group.scope != FleetScope::Group)
    }

    pub(crate) fn poll_group_fleet(&mut self, g: &mut Ground, stem: &str) -> Deadline {
        let Some(fleet) = g.cx.persisted.group_fleets.get(stem).cloned() else { return Deadline::NONE };
        let now = g.cx.now.mono_ms;
        let Some(state) = self.states.get(stem) else { return Deadline::NONE };
        let busy = !state.awaiting.nodes.is_empty()
            || g.lowering.owes(stem)
            || !state.spare.is_empty()
            || state.look
            || state.fleet != Seen::Settled
            || !state.clear && self.winds_down(g, stem);
        if !busy {
            return Deadline::NONE;
        }
        if !state.poll.due(now) {
            return state.poll.next().into();
        }
        let unsettled = state.fleet != Seen::Settled;
        if let Some(state) = self.states.get_mut(stem) {
            state.poll.begin_until(now + POLL_MS);
        }
        if unsettled {
            let cluster = g.cx.site.cluster.clone();
            g.cx.cloud(
                CloudPurpose::ListFleets { account: fleet.account.clone(), started: now },
                CloudRequest::DescribeFleets { cluster },
            );
        }
        let fleet_ids = vec![fleet.fleet_id];
        g.cx.cloud(
            CloudPurpose::PollGroup { account: fleet.account, stem: stem.to_owned() },
            CloudRequest::DescribeFleetInstances { fleet_ids },
        );
        Deadline::NONE
    }

    /// Instances that came whenever EC2 liked: each takes one waiting node, once.
    pub(crate) fn take_group_instances(
        &mut self,
        g: &mut Ground,
        account: &Account,
        stem: &str,
        result: CloudResult,
    ) {
        let now = g.cx.now.mono_ms;
        let Some(state) = self.states.get_mut(stem) else { return };
        state.poll.answered();
        let Ok(mut instances) = result.and_then(CloudReply::into_instances) else { return };
        state.looked = true;
        let before_raise = state.before_raise.take().is_some_and(|until| until > now);
        let Some(fleet) = g.cx.persisted.group_fleets.get(stem).cloned() else { return };
        instances.retain(|instance| instance.tags.get(FLEET_ID) == Some(&fleet.fleet_id));
        let waiting: Vec<String> = self
            .states
            .get(stem)
            .map(|state| state.awaiting.nodes.keys().cloned().collect())
            .unwrap_or_default();
        let waiting: Vec<String> = waiting.into_iter().filter(|node| g.cx.wants_instance(node)).collect();
        self.note_seen(g, &instances, &waiting, before_raise);
        let known = g.sight.is_slurm_known() && g.sight.view_ready(account);
        if known {
            g.adopt(account, &mut Strangers::of(&instances));
        }
        for instance in &instances {
            g.lowering.note_spot_request(instance);
            g.sleepers.note_instance_state(&mut g.cx, instance);
        }
        self.note_fleet_of_bound(g, &instances);
        let asleep: Vec<String> = instances
            .iter()
            .filter(|instance| {
                matches!(instance.state, InstanceState::Stopping | InstanceState::Stopped)
                    && g.cx.ledger.is_bound(&instance.id)
                    && !fleet.uncounted.contains(&instance.id)
            })
            .map(|instance| instance.id.clone())
            .collect();
        let (free, clear) = self.free(g, instances);
        let waiting = waiting.into_iter().filter(|node| g.cx.wants_instance(node)).collect();
        // What was told a node's name runs under it to its end, and is of no use to another node; nor is what EC2 put to sleep
        // before it had one.
        let (past, free): (Vec<_>, Vec<_>) = free.into_iter().partition(|instance| {
            matches!(instance.state, InstanceState::Stopping | InstanceState::Stopped)
                || was_named(instance)
                || g.terminations.was_ordered(&instance.id)
        });
        let free = free.into_iter().filter(|instance| instance.private_ip.is_some()).collect();
        let (pairs, rest) = self.pair(g, waiting, free);
        // Nobody's on two looks in a row, while EC2 is not changing the fleet: launched beside a sleeping one, or
        // for a node that was suspended meanwhile.
        let past: BTreeSet<String> = past.into_iter().map(|instance| instance.id).collect();
        let spare: BTreeSet<String> =
            rest.into_iter().map(|instance| instance.id).chain(past.iter().cloned()).collect();
        let Some(state) = self.states.get_mut(stem) else { return };
        for (node, instance) in &pairs {
            state.awaiting.nodes.remove(node);
            state.awaiting.last_arrival = now;
            state.awaiting.short = false;
            if instance.lifecycle == Lifecycle::OnDemand {
                state.awaiting.on_demand = state.awaiting.on_demand.saturating_sub(1);
            }
        }
        let surplus: Vec<String> = if state.fleet == Seen::Settled && known {
            state.spare.intersection(&spare).cloned().collect()
        } else {
            Vec::new()
        };
        state.spare = spare.into_iter().filter(|id| !surplus.contains(id)).collect();
        state.look = false;
        state.clear = clear && known;
        g.bind(account, None, pairs, 0);
        let (past, surplus) = surplus.into_iter().partition(|id| past.contains(id));
        self.end_past(g, account, stem, &fleet, past);
        self.end_surplus(g, account, stem, fleet, surplus, asleep);
    }

    /// Instances that could serve a node, the oldest first; and whether these are all that stand behind none.
    fn free(&self, g: &Ground, instances: Vec<Instance>) -> (Vec<Instance>, bool) {
        let mut free: Vec<Instance> = instances
            .into_iter()
            .filter(|instance| {
                !instance.state.is_ended()
                    && g.is_stray(&instance.id)
                    && !g.cx.persisted.leaving.contains_key(&instance.id)
            })
            .collect();
        free.sort_by(|a, b| (a.launch_unix_ms, &a.id).cmp(&(b.launch_unix_ms, &b.id)));
        // Behind an address where Slurm runs a job nothing is new and nothing is spare, whatever we believe.
        let busy = busy_addresses(&g.cx.nodes);
        let before = free.len();
        free.retain(|instance| instance.private_ip.as_deref().is_none_or(|addr| !busy.contains(addr)));
        let clear = free.len() == before;
        (free, clear)
    }

    /// Since when instances are known that no node has: with the list before a raise, since before anybody waited.
    fn note_seen(&mut self, g: &mut Ground, instances: &[Instance], waiting: &[String], before_raise: bool) {
        let seen = match g.cx.since_first(waiting) {
            Some(began) if before_raise => began.saturating_sub(1),
            _ => g.cx.now.mono_ms,
        };
        let strays: Vec<&Instance> =
            instances.iter().filter(|it| !it.state.is_ended() && g.is_stray(&it.id)).collect();
        for instance in strays {
            g.sight.orphans.entry(instance.id.clone()).or_insert(seen);
        }
    }

    /// Each instance takes the first node that began to wait before it was seen; what is left fits nobody.
    fn pair(
        &self,
        g: &Ground,
        waiting: Vec<String>,
        free: Vec<Instance>,
    ) -> (Vec<(String, Instance)>, Vec<Instance>) {
        let mut waiting = VecDeque::from(waiting);
        let (mut pairs, mut rest) = (Vec::new(), Vec::new());
        for instance in free {
            let seen = g.sight.orphans.get(&instance.id);
            let fit = waiting.iter().position(|node| !g.cx.is_from_before(node, seen));
            match fit.and_then(|at| waiting.remove(at)) {
                Some(node) => pairs.push((node, instance)),
                None => rest.push(instance),
            }
        }
        (pairs, rest)
    }

    /// End instances that can be no node any more. Whoever waits gets what EC2 launches instead.
    fn end_past(
        &mut self,
        g: &mut Ground,
        account: &Account,
        key: &str,
        fleet: &GroupFleet,
        past: Vec<String>,
    ) {
        if past.is_empty() {
            return;
        }
        let text = format!(
            "{} instances of fleet {} have no node, and ran as one or fell asleep before",
            past.len(),
            fleet.fleet_id
        );
        let fact = g.cx.new_fact(FactKind::OrphanTerminated, text).group(stem_of_key(key));
        g.cx.fact(fact.instances(past.iter().cloned()));
        for id in past {
            g.end_instance(account, id);
        }
    }

    /// End what is nobody's. What EC2 launched in place of a sleeping instance it would launch again: the target
    /// is lowered first, and raised when the sleeper runs.
    fn end_surplus(
        &mut self,
        g: &mut Ground,
        account: &Account,
        key: &str,
        mut fleet: GroupFleet,
        surplus: Vec<String>,
        asleep: Vec<String>,
    ) {
        if surplus.is_empty() {
            return;
        }
        let text = format!("{} instances of fleet {} serve no node", surplus.len(), fleet.fleet_id);
        let fact = g.cx.new_fact(FactKind::OrphanTerminated, text).group(stem_of_key(key));
        g.cx.fact(fact.instances(surplus.iter().cloned()));
        let mut asleep = asleep.into_iter();
        let mut replaced = Vec::new();
        for id in surplus {
            match asleep.next() {
                Some(sleeper) => {
                    replaced.push(sleeper);
                    g.lowering.lower(key, &id);
                }
                None => g.end_instance(account, id),
            }
        }
        if !replaced.is_empty() {
            fleet.uncounted.retain(|id| g.cx.ledger.is_bound(id));
            fleet.uncounted.extend(replaced);
            g.cx.record(Record::GroupFleet { stem: key.to_owned(), fleet: Some(fleet) });
        }
    }

    /// Fleets whose own lists are to be read: all at first, then those in which the account's list shows an instance
    /// without a node.
    pub(crate) fn look_at_group_fleets(
        &mut self,
        g: &mut Ground,
        account: &Account,
        strangers: &Strangers<'_>,
    ) {
        let first = !g.sight.view_ready(account);
        let strays: BTreeSet<&str> = strangers
            .by_id
            .values()
            .filter(|instance| g.is_stray(&instance.id))
            .filter_map(|instance| instance.tags.get(FLEET_ID))
            .collect();
        for (key, fleet) in &g.cx.persisted.group_fleets {
            if fleet.account == *account
                && (first || strays.contains(fleet.fleet_id.as_str()))
                && let Some(state) = self.states.get_mut(key)
            {
                state.look = true;
            }
        }
    }

    /// EC2 tags the instances that a fleet launches with nothing of ours: no list but the fleet's own shows them. Where the
    /// fleet has as much capacity as instances with nodes, and none of these sleeps, it has no others.
    pub(crate) fn may_hold_strangers(&self, g: &Ground, fleet: &Fleet) -> bool {
        let Some(members) = g.cx.ledger.members(&fleet.id) else { return fleet.fulfilled > 0.0 };
        let known = members.values().filter(|(id, _)| !g.sight.missing.contains_key(id)).count();
        let asleep = |id: &str| {
            matches!(g.cx.sightings.state(id), Some(InstanceState::Stopping | InstanceState::Stopped))
        };
        (fleet.fulfilled - f64::from(u32::try_from(known).unwrap_or(u32::MAX))).abs() > 0.5
            || members.values().any(|(id, _)| asleep(id))
    }

    /// A binding from before fleets were noted in bindings.
    fn note_fleet_of_bound(&mut self, g: &mut Ground, instances: &[Instance]) {
        let unknown: Vec<Binding> = instances
            .iter()
            .filter_map(|instance| {
                let binding = g.cx.persisted.bindings.get(g.cx.ledger.owner(&instance.id)?)?;
                let fleet = instance.tags.get(FLEET_ID).map(str::to_owned);
                binding.fleet.is_none().then(|| Binding { fleet, ..binding.clone() })
            })
            .collect();
        if !unknown.is_empty() {
            g.cx.record(Record::Bound { bindings: unknown });
        }
    }
}

/// Whether the instance has been told the name of a node.
fn was_named(instance: &Instance) -> bool {
    instance.tags.contains_key(tag::NODE) || instance.tags.contains_key(tag::NODES)
}
