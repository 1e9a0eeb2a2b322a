// SPDX-License-Identifier: GPL-3.0-or-later
//! `FleetScope::Node`: one maintain fleet per Slurm node, target 1, one pool.
//!
//! Node = fleet = instance, through sleep, waking and replacement. We choose the pool; a fleet that stays empty is
//! deleted and the next pool is tried; powering down is deleting the fleet with its instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outbox::Purpose;
use super::pools::{Pool, pools};
use super::watched::Agenda;
use super::{Cx, Desire, Ground, Launching, Reconcile};
use crate::core::ec2_api::{
    CloudReply, CloudRequest, CloudResult, CreateFleet, Fleet, FleetType, Instance, InstanceState,
};
use crate::core::fact::FactKind;
use crate::core::fleet_spec::LaunchTemplateOverride;
use crate::core::limits::backoff_ms;
use crate::core::record::{NodeFleet, Outcome, Record};
use crate::core::site::{Account, FleetScope, Lifecycle, NodeGroup, Site};
use crate::core::tag;

/// EC2's own tag on instances of maintain fleets (EC2 user guide, "Tag an EC2 Fleet").
pub const FLEET_ID: &str = "aws:ec2:fleet-id";

/// How long one pool may leave a fleet empty. EC2 says nothing when it has no capacity: a shortage is silence.
const POOL_PATIENCE_MS: u64 = 60_000;

/// How often unfulfilled fleets are looked at.
const POLL_MS: u64 = 2_000;

/// Fleets in one DeleteFleets call (EC2 API reference, API_DeleteFleets).
const MAX_DELETE: usize = 100;

/// EC2 allows this many active fleets in a region (EC2 user guide, "EC2 Fleet quotas").
pub const MAX_FLEETS: usize = 1_000;

/// A fleet that has no instance yet.
#[derive(Clone, Debug)]
pub(super) struct Fulfil {
    pub(super) account: Account,
    pub(super) group: String,
    pub(super) fleet_id: String,
    pub(super) lifecycle: Lifecycle,
    tried: BTreeSet<Pool>,
    pub(super) since: u64,
    /// When the first pool was asked.
    first: u64,
}

/// Fleets of one account that are to be deleted.
#[derive(Clone, Debug, Default)]
pub(super) struct FleetEnds {
    ids: BTreeSet<String>,
    since: u64,
    /// Intents whose call failed, and when it is sent again.
    repeats: Agenda<u64>,
}

impl FleetEnds {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.repeats.is_empty()
    }
}

/// Orders to delete fleets, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(super) struct FleetDeletions {
    pub(super) queues: BTreeMap<Account, FleetEnds>,
    /// Open DeleteFleets intents of an earlier process, until EC2 and Slurm are known.
    recovered: BTreeSet<u64>,
    /// Failures in a row, by intent.
    attempts: BTreeMap<u64, u32>,
}

/// Fleets of single nodes.
#[derive(Debug, Default)]
pub(super) struct NodeFleets {
    /// Fleets without a node, and since when.
    orphans: BTreeMap<String, (Account, u64)>,
    poll_at: u64,
    poll_in_flight: bool,
    pub(super) history_at: u64,
    pub(super) histories_in_flight: u32,
}

impl Launching {
    /// One CreateFleet per node, each for the first pool that has not been tried and does not cool down.
    pub(super) fn begin_node_fleets(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        nodes: &[String],
        lifecycle: Lifecycle,
        tried: &BTreeMap<String, (BTreeSet<Pool>, u64)>,
    ) {
        for node in nodes {
            let (tried, first) =
                tried.get(node).cloned().unwrap_or_else(|| (BTreeSet::new(), g.cx.now.mono_ms));
            let Some(over) = self.next_pool(g, group, node, lifecycle, &tried) else {
                g.fail_nodes(
                    std::slice::from_ref(node),
                    "UnfulfillableCapacity",
                    &format!(
                        "none of the {} pools of {} gave a {} instance",
                        tried.len(),
                        group.stem(),
                        lifecycle.as_str()
                    ),
                );
                continue;
            };
            let active = g.cx.ledger.fleets_of(&group.account);
            if active >= MAX_FLEETS {
                g.fail_nodes(
                    std::slice::from_ref(node),
                    "MaxFleetCountExceeded",
                    &format!(
                        "{} already has {active} fleets, and EC2 allows {MAX_FLEETS} in a region",
                        group.account
                    ),
                );
                continue;
            }
            self.begin_node_fleet(g, group, node, lifecycle, over, tried, first);
        }
    }

    fn begin_node_fleet(
        &mut self,
        g: &mut Ground,
        group: &Arc<NodeGroup>,
        node: &str,
        lifecycle: Lifecycle,
        over: LaunchTemplateOverride,
        mut tried: BTreeSet<Pool>,
        first: u64,
    ) {
        tried.insert(Pool::of(&group.account, &over, lifecycle));
        let token = g.cx.new_token();
        let request = node_fleet_request(&g.cx.site, group, node, lifecycle, &token, over);
        let id = self.record_launch(g, group, vec![node.to_owned()], lifecycle, token, request);
        g.launches.attempts_of.insert(id, (tried, first));
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
    pub(super) fn take_node_fleet(&mut self, g: &mut Ground, id: u64, node: &str, fleet_id: &str) {
        let Some(launch) = g.launches.open.remove(&id) else { return };
        g.cx.release(&launch.nodes, id);
        let (tried, first) = g.launches.attempts_of.remove(&id).unwrap_or_default();
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
        let reply = CloudReply::Fleet(crate::core::ec2_api::FleetReply {
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
                first,
            };
            g.launches.fulfilling.insert(node.to_owned(), fulfil);
        } else if elsewhere {
            g.deletions.end_fleet(&g.cx, &launch.account, fleet_id.to_owned());
        } else if !held {
            g.end_fleet_of(node);
        }
    }

    pub(super) fn try_next_pool(
        &mut self,
        g: &mut Ground,
        node: &str,
        stem: &str,
        lifecycle: Lifecycle,
        tried: BTreeSet<Pool>,
        first: u64,
    ) {
        let Some(group) = g.cx.site.group(stem).cloned() else { return };
        let waited = g.cx.now.since(first);
        let fallback = group.spot_fallback_s.filter(|_| lifecycle == Lifecycle::Spot);
        let exhausted = self.next_pool(g, &group, node, lifecycle, &tried).is_none();
        let on_demand = fallback.is_some_and(|seconds| exhausted || waited >= u64::from(seconds) * 1000);
        if on_demand {
            self.go_on_demand(g, &group, node, &format!("no Spot instance in {} s", waited / 1000));
        } else {
            let tried = BTreeMap::from([(node.to_owned(), (tried, first))]);
            self.begin_node_fleets(g, &group, &[node.to_owned()], lifecycle, &tried);
        }
    }

    fn go_on_demand(&mut self, g: &mut Ground, group: &Arc<NodeGroup>, node: &str, why: &str) {
        let text = format!("{node} goes on-demand: {why}");
        g.cx.fact(g.cx.new_fact(FactKind::SpotFallback, text).nodes([node]).group(group.stem()));
        self.begin_node_fleets(g, group, &[node.to_owned()], Lifecycle::OnDemand, &BTreeMap::new());
    }
}

impl NodeFleets {
    pub(super) fn watch_fleets(&mut self, g: &mut Ground, launching: &mut Launching) {
        for node in std::mem::take(&mut g.cx.changed.node_fleets) {
            g.launches.fulfilling.touch(&node);
        }
        self.move_on_from_empty_pools(g, launching);
        self.poll_fleets(g);
        g.deletions.delete_fleets(&mut g.cx);
    }

    /// A pool that stayed silent is left for the next one; when all are used up, on-demand or a report.
    fn move_on_from_empty_pools(&mut self, g: &mut Ground, launching: &mut Launching) {
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
        if let Some(at) = g.launches.fulfilling.next_look() {
            g.cx.wake(at);
        }
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
                    launching.try_next_pool(
                        g,
                        &node,
                        &fulfil.group,
                        fulfil.lifecycle,
                        fulfil.tried,
                        fulfil.first,
                    );
                }
            }
        }
    }

    /// Spot gives the account nothing more: on-demand at once where the site allows it, else the wait goes on.
    pub(super) fn leave_spot(&mut self, g: &mut Ground, launching: &mut Launching, node: &str) {
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
    pub(super) fn leave_pool(&mut self, g: &mut Ground, node: &str) {
        if let Some(fulfil) = g.launches.fulfilling.get_mut(node) {
            fulfil.since = fulfil.since.saturating_sub(POOL_PATIENCE_MS);
        }
    }

    fn poll_fleets(&mut self, g: &mut Ground) {
        if g.launches.fulfilling.is_empty() || self.poll_in_flight {
            return;
        }
        if self.poll_at > g.cx.now.mono_ms {
            g.cx.wake(self.poll_at);
            return;
        }
        let mut by_account: BTreeMap<Account, Vec<String>> = BTreeMap::new();
        for fulfil in g.launches.fulfilling.values() {
            by_account.entry(fulfil.account.clone()).or_default().push(fulfil.fleet_id.clone());
        }
        self.poll_at = g.cx.now.mono_ms + POLL_MS;
        for (account, fleet_ids) in by_account {
            self.poll_in_flight = true;
            g.cx.cloud(Purpose::PollFleets { account }, CloudRequest::DescribeFleetInstances { fleet_ids });
        }
    }

    pub(super) fn take_fleet_instances(&mut self, g: &mut Ground, account: &Account, result: CloudResult) {
        self.poll_in_flight = false;
        let Ok(CloudReply::Instances(instances)) = result else { return };
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
    pub(super) fn recover_fleets(&mut self, g: &mut Ground) {
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
                tried: BTreeSet::new(),
                since: g.cx.now.mono_ms,
                first: g.cx.now.mono_ms,
            };
            g.launches.fulfilling.insert(node.clone(), fulfil);
        }
    }

    /// Fleets with our tag that the journal does not know, and fleets of nodes that are down.
    pub(super) fn take_fleets(&mut self, g: &mut Ground, account: &Account, fleets: Vec<Fleet>) {
        // Whose a fleet is, is not known before slurmctld's nodes and EC2's instances are.
        if !g.sight.slurm.is_known() || !g.sight.view_ready(account) {
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
                tried: BTreeSet::new(),
                since: now,
                first: now,
            };
            g.launches.fulfilling.insert(node, fulfil);
        }
        true
    }
}

impl Ground {
    /// The node needs its fleet no longer: the fleet goes, and with it the instance.
    pub(super) fn end_fleet_of(&mut self, node: &str) -> bool {
        if self.sleepers.abandon_relocation(&mut self.cx, node) {
            return true;
        }
        let Some(fleet) = self.cx.persisted.fleets.get(node).cloned() else { return false };
        self.launches.fulfilling.remove(node);
        self.deletions.end_fleet(&self.cx, &fleet.account, fleet.fleet_id);
        true
    }

    /// A deletion that an earlier process began goes on when EC2 and Slurm are known: a fleet that its node has left for
    /// another one is remembered nowhere else. False if nothing is left to delete.
    pub(super) fn recover_deletion(&mut self, id: u64) -> bool {
        let Some(intent) = self.cx.persisted.open.get(&id) else { return false };
        if !self.sight.listed_accounts(&self.cx).contains(&intent.account) {
            return false;
        }
        let left = self.deletions.still_deleted(&mut self.cx, id);
        self.deletions.recovered.extend(left);
        left == Some(id)
    }
}

impl FleetDeletions {
    pub(super) fn end_fleet(&mut self, cx: &Cx, account: &Account, fleet_id: String) {
        if self.is_fleet_ending(cx, &fleet_id) {
            return;
        }
        let now = cx.now.mono_ms;
        let ends = self.queues.entry(account.clone()).or_default();
        if ends.ids.is_empty() {
            ends.since = now;
        }
        ends.ids.insert(fleet_id);
    }

    fn delete_fleets(&mut self, cx: &mut Cx) {
        let now = cx.now.mono_ms;
        let idle = cx.site.settings.batch_idle_ms;
        let accounts: Vec<Account> = self
            .queues
            .iter()
            .filter(|(_, ends)| !ends.is_empty())
            .map(|(account, _)| account.clone())
            .collect();
        for account in accounts {
            let Some(ends) = self.queues.get_mut(&account) else { continue };
            let due = ends.repeats.take_due(now);
            let mut wakes: Vec<u64> = ends.repeats.next().into_iter().collect();
            let batch_at = ends.since + idle;
            let ids: Vec<String> = if ends.ids.is_empty() {
                Vec::new()
            } else if batch_at > now {
                wakes.push(batch_at);
                Vec::new()
            } else {
                std::mem::take(&mut ends.ids).into_iter().collect()
            };
            for at in wakes {
                cx.wake(at);
            }
            for intent in due {
                if let Some(request) = cx.open_request(intent) {
                    cx.cloud(Purpose::DeleteFleets { account: account.clone(), intent }, request);
                }
            }
            for chunk in ids.chunks(MAX_DELETE) {
                let request = CloudRequest::DeleteFleets { ids: chunk.to_vec(), terminate_instances: true };
                let id = cx.record_intent(&account, request.clone(), None);
                cx.cloud(Purpose::DeleteFleets { account: account.clone(), intent: id }, request);
            }
        }
    }

    pub(super) fn take_deleted(&mut self, cx: &mut Cx, id: u64, result: CloudResult) {
        let Some(intent) = cx.persisted.open.get(&id).cloned() else { return };
        let CloudRequest::DeleteFleets { ids, .. } = &intent.request else { return };
        match result {
            Ok(CloudReply::Deleted { deleted, failed }) => {
                // Not known, or deleted before: the reply to the first attempt was lost. A fleet that exists after all is
                // listed, and deleted then as one without a node.
                let (unknown, refused): (Vec<_>, Vec<_>) = failed.iter().cloned().partition(|(_, code)| {
                    ["fleetIdDoesNotExist", "fleetNotInDeletableState"]
                        .iter()
                        .any(|gone| code.eq_ignore_ascii_case(gone))
                });
                let mut gone = deleted.clone();
                gone.extend(unknown.into_iter().map(|(fleet, _)| fleet));
                if !gone.is_empty() {
                    let text = format!("{} fleets deleted with their instances", gone.len());
                    cx.fact(cx.new_fact(FactKind::FleetDeleted, text));
                    cx.record(Record::FleetsGone { fleet_ids: gone });
                }
                cx.record(Record::Outcome {
                    id,
                    outcome: Outcome::Done(CloudReply::Deleted { deleted, failed }),
                });
                self.attempts.remove(&id);
                for (fleet, code) in refused {
                    let text = format!("fleet {fleet} could not be deleted and is tried again");
                    cx.fact(cx.new_fact(FactKind::TerminateFailed, text).code(code));
                    self.end_fleet(cx, &intent.account, fleet);
                }
            }
            other => {
                let (code, message) = match other {
                    Err(error) => (error.code, error.message),
                    Ok(reply) => ("UnexpectedReply".into(), format!("{reply:?}")),
                };
                let attempts = self.attempts.entry(id).or_default();
                *attempts += 1;
                let at = cx.now.mono_ms + backoff_ms(*attempts + 1, &mut cx.rng);
                let text = format!("{} fleets still exist: {message}", ids.len());
                cx.fact(cx.new_fact(FactKind::TerminateFailed, text).code(code));
                self.queues.entry(intent.account).or_default().repeats.set(id, at);
            }
        }
    }

    /// EC2 and Slurm are known: what no node has claimed is deleted.
    pub(super) fn settle_deletions(&mut self, cx: &mut Cx, account: &Account) {
        for id in std::mem::take(&mut self.recovered) {
            if cx.persisted.open.get(&id).is_some_and(|intent| intent.account != *account) {
                self.recovered.insert(id);
                continue;
            }
            let left = self.still_deleted(cx, id);
            if left != Some(id) {
                let why = "a node has the fleet, or had it when the process ended";
                cx.record(Record::Outcome { id, outcome: Outcome::Abandoned(why.into()) });
            }
            if let Some(left) = left {
                let now = cx.now.mono_ms;
                self.queues.entry(account.clone()).or_default().repeats.set(left, now);
            }
        }
    }

    /// The intent that deletes those fleets of intent `id` that nobody holds: the same one if these are all.
    fn still_deleted(&mut self, cx: &mut Cx, id: u64) -> Option<u64> {
        let intent = cx.persisted.open.get(&id)?;
        let CloudRequest::DeleteFleets { ids, .. } = &intent.request else { return None };
        let is_held = |fleet: &&String| {
            cx.ledger.is_fleet(fleet)
                || cx.ledger.members(fleet).is_some()
                || cx.is_group_fleet(fleet)
                || cx.relocates_fleet(fleet)
        };
        let left: Vec<String> = ids.iter().filter(|fleet| !is_held(fleet)).cloned().collect();
        if left.len() == ids.len() {
            return Some(id);
        }
        if left.is_empty() {
            return None;
        }
        let account = intent.account.clone();
        let request = CloudRequest::DeleteFleets { ids: left, terminate_instances: true };
        Some(cx.record_intent(&account, request, None))
    }

    pub(super) fn is_fleet_ending(&self, cx: &Cx, id: &str) -> bool {
        self.queues.values().any(|ends| ends.ids.contains(id)) || cx.ledger.is_deleting(id)
    }
}

impl Cx {
    /// Whether an account has groups that keep fleets.
    pub(super) fn keeps_fleets(&self, account: &Account) -> bool {
        self.site.groups().iter().any(|group| group.account == *account && group.scope != FleetScope::Launch)
            || self.ledger.fleets_of(account) > 0
            || self.persisted.group_fleets.values().any(|fleet| fleet.account == *account)
    }
}

impl Reconcile {
    /// A node's fleet is the one that holds its instance, whatever else is left of earlier power-ups.
    pub(super) fn follow_fleets(&mut self, g: &mut Ground, account: &Account, instances: &[Instance]) {
        let mut held = Vec::new();
        for instance in instances {
            let Some(id) = instance.tags.get(FLEET_ID) else { continue };
            let Some(node) = g.cx.ledger.owner(&instance.id) else { continue };
            let in_scope = g.cx.site.locate(node).is_some_and(|(group, _)| group.scope == FleetScope::Node);
            let known = g.cx.persisted.fleets.get(node).is_some_and(|fleet| fleet.fleet_id == *id);
            if !in_scope || known || g.deletions.is_fleet_ending(&g.cx, id) {
                continue;
            }
            let launch = g.cx.persisted.bindings.get(node).and_then(|binding| binding.launch.clone());
            let fleet = NodeFleet {
                fleet_id: id.to_owned(),
                account: account.clone(),
                lifecycle: instance.lifecycle,
                instance_type: instance.instance_type.clone(),
                subnet_id: instance.subnet_id.clone(),
                launch: launch.unwrap_or_default(),
                created_unix_ms: g.cx.now.unix_ms,
            };
            held.push((node.to_owned(), fleet));
        }
        for (node, fleet) in held {
            let text = format!("fleet {} holds the instance of {node}", fleet.fleet_id);
            g.cx.fact(g.cx.new_fact(FactKind::InstanceAdopted, text).nodes([&node]));
            g.launches.fulfilling.remove(&node);
            g.cx.record(Record::FleetOf { node, fleet });
        }
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
