// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2's list of fleets says of the groups' fleets: known, found, changed by others, or gone.

use std::collections::BTreeSet;

use crate::ec2_api::Fleet;
use crate::engine::cx::ledger::stem_of_key;
use crate::engine::ground::Ground;
use crate::engine::groups::GroupFleets;
use crate::engine::groups::state::Seen;
use crate::fact::FactKind;
use crate::record::{GroupFleet, Record};
use crate::site::{Account, FleetScope};
use crate::tag;

/// How long after a change of ours a list may still show the target of before.
const TARGET_LAG_MS: u64 = 30_000;

impl GroupFleets {
    /// What DescribeFleets says of the groups' fleets: done modifying, unknown, or gone.
    pub(crate) fn take_group_fleets(
        &mut self,
        g: &mut Ground,
        account: &Account,
        started: u64,
        fleets: &[Fleet],
    ) {
        g.sight.fleets_listed(account);
        for fleet in fleets {
            let stem = match (fleet.tags.get(tag::PARTITION), fleet.tags.get(tag::GROUP)) {
                (Some(partition), Some(group)) if !fleet.tags.contains_key(tag::NODE) => {
                    format!("{partition}-{group}")
                }
                _ => continue,
            };
            if let Some(key) = g.cx.group_fleet_key(&fleet.id) {
                let look = self.may_hold_strangers(g, fleet);
                let Some(state) = self.states.get_mut(&key) else { continue };
                state.look |= look;
                if started >= state.changed_at {
                    state.unseen_since = None;
                    state.fleet = Seen::of(&fleet.state);
                }
                // ModifyFleet has no client token: one that was given up for lost may be carried out after a later one.
                let is_past = started >= state.changed_at + TARGET_LAG_MS && !state.call.attempt.in_flight();
                if is_past
                    && state.fleet == Seen::Settled
                    && state.call.intent.is_none()
                    && !self.has_target(g, &key, fleet)
                {
                    let text = format!("fleet {} has target {}, which is set anew", fleet.id, fleet.target);
                    g.cx.fact(g.cx.new_fact(FactKind::FleetTargetChanged, text).group(stem_of_key(&key)));
                    self.forget_target(g, &key);
                }
                continue;
            }
            if g.deletions.is_fleet_ending(&g.cx, &fleet.id) {
                continue;
            }
            // One fleet of a group takes its new nodes; any other one goes with its last node.
            let takes =
                g.cx.site
                    .group(&stem)
                    .is_some_and(|group| group.scope == FleetScope::Group && group.account == *account)
                    && !g.cx.persisted.group_fleets.contains_key(&stem);
            let key = if takes { stem.clone() } else { format!("{stem}@{}", fleet.id) };
            let text = format!("fleet {} belongs to {stem}", fleet.id);
            g.cx.fact(g.cx.new_fact(FactKind::InstanceAdopted, text).group(stem));
            let form = fleet.tags.get(tag::FORM).and_then(|form| form.split_once('-'));
            let adopted = GroupFleet {
                fleet_id: fleet.id.clone(),
                account: account.clone(),
                target: None,
                launch: fleet.client_token.clone().unwrap_or_default(),
                template: form.map(|(template, _)| template.to_owned()).unwrap_or_default(),
                options: form.map(|(_, options)| options.to_owned()).unwrap_or_default(),
                uncounted: BTreeSet::new(),
            };
            let state = self.states.entry(key.clone()).or_default();
            state.fleet = match Seen::of(&fleet.state) {
                Seen::Modifying => Seen::Modifying,
                // What was seen of the group's fleet before still counts.
                Seen::Settled | Seen::Unknown if state.fleet == Seen::Settled => Seen::Settled,
                Seen::Settled | Seen::Unknown => Seen::Unknown,
            };
            g.cx.record(Record::GroupFleet { stem: key, fleet: Some(adopted) });
        }
        self.forget_lost_fleets(g, account, started, fleets);
    }

    /// Whether EC2 shows the target that was set last; true where it is set anew in any case.
    fn has_target(&self, g: &Ground, key: &str, shown: &Fleet) -> bool {
        let set = g.cx.persisted.group_fleets.get(key).and_then(|fleet| fleet.target);
        set.is_none_or(|target| target.total() == shown.target)
    }

    /// Deleted behind our back: not shown any more, and not only for a moment.
    fn forget_lost_fleets(&mut self, g: &mut Ground, account: &Account, started: u64, fleets: &[Fleet]) {
        let now = g.cx.now;
        let grace = u64::from(g.cx.site.settings.consistency_grace_s) * 1000;
        let mut lost = Vec::new();
        for (key, fleet) in &g.cx.persisted.group_fleets {
            if fleet.account != *account || fleets.iter().any(|shown| shown.id == fleet.fleet_id) {
                continue;
            }
            let Some(state) = self.states.get_mut(key) else { continue };
            if started < state.changed_at || state.call.attempt.in_flight() {
                continue;
            }
            let since = *state.unseen_since.get_or_insert(now.mono_ms);
            if now.since(since) >= grace {
                lost.push((key.clone(), fleet.fleet_id.clone()));
            }
        }
        for (key, fleet_id) in lost {
            let text = format!("fleet {fleet_id} is gone from EC2 without our doing");
            g.cx.fact(g.cx.new_fact(FactKind::FleetDeleted, text).group(stem_of_key(&key)));
            g.cx.record(Record::GroupFleet { stem: key.clone(), fleet: None });
            for id in g.lowering.take(&key).into_keys() {
                g.end_instance(account, id);
            }
        }
    }
}
