// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Node`: one maintain fleet per Slurm node, target 1, one pool.
//!
//! Node = fleet = instance, through sleep, waking and replacement. We choose the pool; a fleet that stays empty is
//! deleted and the next pool is tried; powering down is deleting the fleet with its instance.

mod shortage;

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, Fleet, Instance, InstanceState};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::Ground;
use crate::engine::ground::launches::{Fulfil, Tried};
use crate::engine::launch::Launching;
use crate::fact::FactKind;
use crate::record::{NodeFleet, Record};
use crate::site::{Account, Lifecycle};
use crate::tag;
use crate::tag::FLEET_ID;

/// How long one pool may leave a fleet empty. EC2 says nothing when it has no capacity: a shortage is silence.
const POOL_PATIENCE_MS: u64 = 60_000;

/// How often unfulfilled fleets are looked at.
const POLL_MS: u64 = 2_000;

/// Fleets of single nodes.
#[derive(Debug, Default)]
pub(crate) struct NodeFleets {
    /// Fleets without a node, and since when.
    orphans: BTreeMap<String, (Account, u64)>,
    poll_at: u64,
    poll_in_flight: bool,
    pub(crate) history_at: u64,
    pub(crate) histories_in_flight: u32,
}

impl NodeFleets {
    pub(crate) fn watch_fleets(&mut self, g: &mut Ground, launching: &mut Launching) -> Deadline {
        for node in std::mem::take(&mut g.cx.changed.node_fleets) {
            g.launches.fulfilling.touch(&node);
        }
        self.move_on_from_empty_pools(g, launching).or(self.poll_fleets(g))
    }

    /// A pool that stayed silent is left for the next one; when all are used up, on-demand or a report.
    fn move_on_from_empty_pools(&mut self, g: &mut Ground, launching: &mut Launching) -> Deadline {
        let now = g.cx.now.mono_ms;
        let mut moving: Vec<(String, Fulfil)> = Vec::new();
        for node in g.launches.fulfilling.take_due(now) {
            let Some(since) = g.launches.fulfilling.get(&node).map(|fulfil| fulfil.since) else {
                continue;
            };
            // After a restart nothing is concluded before slurmctld has been asked, and an open launch answered.
            if g.cx.nodes.get(&node).is_none_or(|n| n.desire == Desire::Unknown || n.launch.is_some()) {
                g.launches.fulfilling.look_again(&node, Some(now + POLL_MS));
                continue;
            }
            let at = (since + POOL_PATIENCE_MS).min(g.cx.launch_deadline(std::slice::from_ref(&node)));
            if at > now && g.cx.wants_instance(&node) {
                g.launches.fulfilling.look_again(&node, Some(at));
            } else if let Some(fulfil) = g.launches.fulfilling.remove(&node) {
                moving.push((node, fulfil));
            }
        }
        let next = g.launches.fulfilling.next_look().into();
        for (node, fulfil) in moving {
            // The node is up or bound: the fleet holds its instance, whether a list has shown that one or not.
            let up = g.cx.nodes.get(&node).is_some_and(|n| n.desire == Desire::Keep);
            if up || g.cx.persisted.bindings.contains_key(&node) || g.cx.is_locked(&node) {
                continue;
            }
            g.end_fleet_of(&node);
            if g.cx.wants_instance(&node) {
                if g.cx.launch_deadline(std::slice::from_ref(&node)) <= now {
                    let message =
                        format!("EC2 gave no {} instance before ResumeTimeout", fulfil.lifecycle.as_str());
                    g.fail_nodes(std::slice::from_ref(&node), "UnfulfillableCapacity", &message);
                } else {
                    launching.try_next_pool(g, &node, &fulfil.group, fulfil.lifecycle, fulfil.tried);
                }
            }
        }
        next
    }

    /// Spot gives the account nothing more: on-demand at once where the site allows it, else the wait goes on.
    pub(crate) fn leave_spot(&mut self, g: &mut Ground, launching: &mut Launching, node: &str) {
        let stem = g.launches.fulfilling.get(node).map(|fulfil| fulfil.group.clone());
        let Some(group) = stem.and_then(|stem| g.cx.site.group(&stem).cloned()) else { return };
        if group.spot_fallback_s.is_none() || !g.cx.wants_instance(node) {
            return;
        }
        g.launches.fulfilling.remove(node);
        g.end_fleet_of(node);
        launching.go_on_demand(g, &group, node, "the account may have no more Spot instances");
    }

    /// This pool will give nothing: its time is over now.
    pub(crate) fn leave_pool(&mut self, g: &mut Ground, node: &str) {
        if let Some(fulfil) = g.launches.fulfilling.get_mut(node) {
            fulfil.since = fulfil.since.saturating_sub(POOL_PATIENCE_MS);
        }
    }

    fn poll_fleets(&mut self, g: &mut Ground) -> Deadline {
        if g.launches.fulfilling.is_empty() || self.poll_in_flight {
            return Deadline::NONE;
        }
        if self.poll_at > g.cx.now.mono_ms {
            return Deadline::at(self.poll_at);
        }
        let mut by_account: BTreeMap<Account, Vec<String>> = BTreeMap::new();
        for fulfil in g.launches.fulfilling.values() {
            by_account.entry(fulfil.account.clone()).or_default().push(fulfil.fleet_id.clone());
        }
        self.poll_at = g.cx.now.mono_ms + POLL_MS;
        for (account, fleet_ids) in by_account {
            self.poll_in_flight = true;
            g.cx.cloud(
                CloudPurpose::PollFleets { account },
                CloudRequest::DescribeFleetInstances { fleet_ids },
            );
        }
        Deadline::NONE
    }

    pub(crate) fn take_fleet_instances(&mut self, g: &mut Ground, account: &Account, result: CloudResult) {
        self.poll_in_flight = false;
        let Ok(instances) = result.and_then(CloudReply::into_instances) else { return };
        let owner: BTreeMap<&str, &str> = g
            .launches
            .fulfilling
            .iter()
            .map(|(node, fulfil)| (fulfil.fleet_id.as_str(), node.as_str()))
            .collect();
        let mut pairs: BTreeMap<String, Instance> = BTreeMap::new();
        for instance in instances {
            let Some(node) = instance.tags.get(FLEET_ID).and_then(|fleet| owner.get(fleet)) else {
                continue;
            };
            let usable = matches!(instance.state, InstanceState::Pending | InstanceState::Running)
                && instance.private_ip.is_some()
                && !g.cx.ledger.is_bound(&instance.id);
            if usable && g.cx.wants_instance(node) {
                pairs.insert((*node).to_owned(), instance);
            }
        }
        for node in pairs.keys() {
            g.launches.fulfilling.remove(node);
        }
        g.bind(account, None, pairs.into_iter().collect(), 0);
    }

    /// Fleets known from the journal: those of nodes that have no instance are waited for again, unless another launch was
    /// begun for the node, which was about to leave this one.
    pub(crate) fn recover_fleets(&mut self, g: &mut Ground) {
        let mut launches: BTreeMap<&String, &String> = BTreeMap::new();
        for intent in g.cx.persisted.open.values() {
            if let (CloudRequest::CreateFleet(request), Some(launch)) = (&intent.request, &intent.launch) {
                launches.extend(launch.nodes.iter().map(|node| (node, &request.client_token)));
            }
        }
        for (node, fleet) in &g.cx.persisted.fleets {
            let left = launches.get(node).is_some_and(|token| **token != fleet.launch);
            if left || g.cx.persisted.bindings.contains_key(node) {
                continue;
            }
            let Some((group, _)) = g.cx.site.locate(node) else { continue };
            let fulfil = Fulfil {
                account: fleet.account.clone(),
                group: group.stem(),
                fleet_id: fleet.fleet_id.clone(),
                lifecycle: fleet.lifecycle,
                tried: Tried::none(g.cx.now.mono_ms),
                since: g.cx.now.mono_ms,
            };
            g.launches.fulfilling.insert(node.clone(), fulfil);
        }
    }

    /// Fleets with our tag that the journal does not know, and fleets of nodes that are down.
    pub(crate) fn take_fleets(&mut self, g: &mut Ground, account: &Account, fleets: Vec<Fleet>) {
        // Whose a fleet is, is not known before slurmctld's nodes and EC2's instances are.
        if !g.sight.is_slurm_known() || !g.sight.view_ready(account) {
            return;
        }
        let grace = u64::from(g.cx.site.settings.orphan_grace_s) * 1000;
        let expected: BTreeSet<String> =
            g.launches.open.values().map(|launch| launch.token.clone()).collect();
        let mut strangers = BTreeSet::new();
        for fleet in fleets {
            let young = fleet.tags.get(tag::LAUNCH).is_some_and(|token| expected.contains(token));
            if young
                || g.cx.ledger.is_fleet(&fleet.id)
                || g.cx.relocates_fleet(&fleet.id)
                || g.cx.is_group_fleet(&fleet.id)
                || g.deletions.is_fleet_ending(&g.cx, &fleet.id)
            {
                continue;
            }
            strangers.insert(fleet.id.clone());
            let seen = (account.clone(), g.cx.now.mono_ms);
            let since = self.orphans.entry(fleet.id.clone()).or_insert(seen).1;
            let stale = fleet.tags.get(tag::NODE).is_some_and(|node| g.cx.is_from_before(node, Some(&since)));
            if !stale && self.adopt_fleet(g, account, &fleet) {
                self.orphans.remove(&fleet.id);
            } else if g.cx.now.since(since) >= grace && !self.may_hold_job(g, &fleet) {
                let text = format!("fleet {} has this cluster's tag and no node", fleet.id);
                g.cx.fact(g.cx.new_fact(FactKind::OrphanTerminated, text));
                self.orphans.remove(&fleet.id);
                g.deletions.end_fleet(&g.cx, account, fleet.id);
            }
        }
        // Another account's orphans are not in this list, and their time goes on.
        self.orphans.retain(|id, (owner, _)| owner != account || strangers.contains(id));
    }

    /// The node has a job and, for us, no instance: whatever was made for it may be where the job runs.
    fn may_hold_job(&self, g: &Ground, fleet: &Fleet) -> bool {
        let Some(node) = fleet.tags.get(tag::NODE) else { return false };
        let busy = g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep && n.has_job);
        busy && !g.cx.persisted.bindings.contains_key(node)
    }

    fn adopt_fleet(&mut self, g: &mut Ground, account: &Account, fleet: &Fleet) -> bool {
        let Some(node) = fleet.tags.get(tag::NODE).cloned() else { return false };
        // A node whose CreateFleet is under way gets that fleet, and would forget this one.
        let wanted =
            g.cx.nodes
                .get(&node)
                .is_some_and(|n| matches!(n.desire, Desire::Waking | Desire::Keep) && n.launch.is_none());
        let Some((stem, index)) = g.cx.site.locate(&node).map(|(group, index)| (group.stem(), index)) else {
            return false;
        };
        if !wanted || g.cx.persisted.fleets.contains_key(&node) {
            return false;
        }
        let adopted = NodeFleet {
            fleet_id: fleet.id.clone(),
            account: account.clone(),
            lifecycle: Lifecycle::Spot,
            instance_type: String::new(),
            subnet_id: None,
            launch: fleet.client_token.clone().unwrap_or_default(),
            created_unix_ms: g.cx.now.unix_ms,
        };
        let text = format!("fleet {} belongs to {node}", fleet.id);
        g.cx.fact(g.cx.new_fact(FactKind::InstanceAdopted, text).nodes([&node]));
        g.cx.record(Record::FleetOf { node: node.clone(), fleet: adopted });
        if g.cx.wants_instance(&node) {
            g.waiting.unqueue(&stem, index);
            let now = g.cx.now.mono_ms;
            let fulfil = Fulfil {
                account: account.clone(),
                group: stem,
                fleet_id: fleet.id.clone(),
                lifecycle: Lifecycle::Spot,
                tried: Tried::none(now),
                since: now,
            };
            g.launches.fulfilling.insert(node, fulfil);
        }
        true
    }
}
