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
use super::{Desire, Engine};
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

impl Engine {
    /// One CreateFleet per node, each for the first pool that has not been tried and does not cool down.
    pub(super) fn begin_node_fleets(
        &mut self,
        group: &Arc<NodeGroup>,
        nodes: &[String],
        lifecycle: Lifecycle,
        tried: &BTreeMap<String, (BTreeSet<Pool>, u64)>,
    ) {
        for node in nodes {
            let (tried, first) =
                tried.get(node).cloned().unwrap_or_else(|| (BTreeSet::new(), self.g.cx.now.mono_ms));
            let Some(over) = self.next_pool(group, node, lifecycle, &tried) else {
                self.fail_nodes(
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
            let active = self.g.cx.ledger.fleets_of(&group.account);
            if active >= MAX_FLEETS {
                self.fail_nodes(
                    std::slice::from_ref(node),
                    "MaxFleetCountExceeded",
                    &format!(
                        "{} already has {active} fleets, and EC2 allows {MAX_FLEETS} in a region",
                        group.account
                    ),
                );
                continue;
            }
            self.begin_node_fleet(group, node, lifecycle, over, tried, first);
        }
    }

    fn begin_node_fleet(
        &mut self,
        group: &Arc<NodeGroup>,
        node: &str,
        lifecycle: Lifecycle,
        over: LaunchTemplateOverride,
        mut tried: BTreeSet<Pool>,
        first: u64,
    ) {
        tried.insert(Pool::of(&group.account, &over, lifecycle));
        let token = self.new_token();
        let request = node_fleet_request(&self.g.cx.site, group, node, lifecycle, &token, over);
        let id = self.record_launch(group, vec![node.to_owned()], lifecycle, token, request);
        self.g.launches.attempts_of.insert(id, (tried, first));
    }

    /// In the configured order of types; the zones take turns from node to node, so that they fill evenly.
    fn next_pool(
        &self,
        group: &NodeGroup,
        node: &str,
        lifecycle: Lifecycle,
        tried: &BTreeSet<Pool>,
    ) -> Option<LaunchTemplateOverride> {
        let cooling: Vec<&Pool> = self.cooling_pools(1);
        let mut open: Vec<LaunchTemplateOverride> = pools(group, lifecycle, &cooling)
            .into_iter()
            .filter(|over| !tried.contains(&Pool::of(&group.account, over, lifecycle)))
            .collect();
        open.sort_by(|a, b| a.priority.unwrap_or(0.0).total_cmp(&b.priority.unwrap_or(0.0)));
        let first_type = open.first()?.instance_type.clone();
        let same: Vec<LaunchTemplateOverride> =
            open.into_iter().filter(|over| over.instance_type == first_type).collect();
        let index = self.g.cx.site.locate(node).map_or(0, |(_, index)| index) as usize;
        same.get(index % same.len().max(1)).cloned()
    }

    /// EC2 made the fleet; its instance comes when it comes.
    pub(super) fn take_node_fleet(&mut self, id: u64, node: &str, fleet_id: &str) {
        let Some(launch) = self.g.launches.open.remove(&id) else { return };
        self.release(&launch.nodes, id);
        let (tried, first) = self.g.launches.attempts_of.remove(&id).unwrap_or_default();
        let pool = self.g.cx.persisted.open.get(&id).and_then(|intent| match &intent.request {
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
            created_unix_ms: self.g.cx.now.unix_ms,
        };
        // A replay may find the node up already, on this fleet's instance or on another's.
        let up = self.g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep);
        let holder = match self.g.cx.persisted.bindings.get(node) {
            Some(binding) => binding.fleet.as_deref(),
            None => self.g.cx.persisted.fleets.get(node).filter(|_| up).map(|fleet| fleet.fleet_id.as_str()),
        };
        let (held, elsewhere) = (holder == Some(fleet_id), holder.is_some_and(|id| id != fleet_id));
        // The fleet that the node leaves for this one may have been about to be deleted by an earlier process.
        if !elsewhere
            && let Some(left) =
                self.g.cx.persisted.fleets.get(node).filter(|left| left.fleet_id != fleet_id).cloned()
        {
            self.end_fleet(&left.account, left.fleet_id);
        }
        // The outcome and the fleet's owner are one record step: a crash finds both or replays the call.
        if !elsewhere {
            self.record(Record::FleetOf { node: node.to_owned(), fleet });
        }
        let reply = CloudReply::Fleet(crate::core::ec2_api::FleetReply {
            fleet_id: fleet_id.to_owned(),
            ..Default::default()
        });
        self.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
        if self.wants_instance(node) {
            let since = self.g.cx.now.mono_ms;
            let fulfil = Fulfil {
                account: launch.account,
                group: launch.group,
                fleet_id: fleet_id.to_owned(),
                lifecycle: launch.lifecycle,
                tried,
                since,
                first,
            };
            self.g.launches.fulfilling.insert(node.to_owned(), fulfil);
        } else if elsewhere {
            self.end_fleet(&launch.account, fleet_id.to_owned());
        } else if !held {
            self.end_fleet_of(node);
        }
    }

    pub(super) fn watch_fleets(&mut self) {
        for node in std::mem::take(&mut self.g.cx.changed.node_fleets) {
            self.g.launches.fulfilling.touch(&node);
        }
        self.move_on_from_empty_pools();
        self.poll_fleets();
        self.delete_fleets();
    }

    /// A pool that stayed silent is left for the next one; when all are used up, on-demand or a report.
    fn move_on_from_empty_pools(&mut self) {
        let now = self.g.cx.now.mono_ms;
        let mut moving: Vec<(String, Fulfil)> = Vec::new();
        for node in self.g.launches.fulfilling.take_due(now) {
            let Some(since) = self.g.launches.fulfilling.get(&node).map(|fulfil| fulfil.since) else {
                continue;
            };
            // After a restart nothing is concluded before slurmctld has been asked, and an open launch answered.
            if self.g.cx.nodes.get(&node).is_none_or(|n| n.desire == Desire::Unknown || n.launch.is_some()) {
                self.g.launches.fulfilling.look_again(&node, Some(now + POLL_MS));
                continue;
            }
            let at = (since + POOL_PATIENCE_MS).min(self.launch_deadline(std::slice::from_ref(&node)));
            if at > now && self.wants_instance(&node) {
                self.g.launches.fulfilling.look_again(&node, Some(at));
            } else if let Some(fulfil) = self.g.launches.fulfilling.remove(&node) {
                moving.push((node, fulfil));
            }
        }
        if let Some(at) = self.g.launches.fulfilling.next_look() {
            self.wake(at);
        }
        for (node, fulfil) in moving {
            // The node is up or bound: the fleet holds its instance, whether a list has shown that one or not.
            let up = self.g.cx.nodes.get(&node).is_some_and(|n| n.desire == Desire::Keep);
            if up || self.g.cx.persisted.bindings.contains_key(&node) || self.is_locked(&node) {
                continue;
            }
            self.end_fleet_of(&node);
            if self.wants_instance(&node) {
                if self.launch_deadline(std::slice::from_ref(&node)) <= now {
                    let message =
                        format!("EC2 gave no {} instance before ResumeTimeout", fulfil.lifecycle.as_str());
                    self.fail_nodes(std::slice::from_ref(&node), "UnfulfillableCapacity", &message);
                } else {
                    self.try_next_pool(&node, &fulfil.group, fulfil.lifecycle, fulfil.tried, fulfil.first);
                }
            }
        }
    }

    pub(super) fn try_next_pool(
        &mut self,
        node: &str,
        stem: &str,
        lifecycle: Lifecycle,
        tried: BTreeSet<Pool>,
        first: u64,
    ) {
        let Some(group) = self.g.cx.site.group(stem).cloned() else { return };
        let waited = self.g.cx.now.since(first);
        let fallback = group.spot_fallback_s.filter(|_| lifecycle == Lifecycle::Spot);
        let exhausted = self.next_pool(&group, node, lifecycle, &tried).is_none();
        let on_demand = fallback.is_some_and(|seconds| exhausted || waited >= u64::from(seconds) * 1000);
        if on_demand {
            self.go_on_demand(&group, node, &format!("no Spot instance in {} s", waited / 1000));
        } else {
            let tried = BTreeMap::from([(node.to_owned(), (tried, first))]);
            self.begin_node_fleets(&group, &[node.to_owned()], lifecycle, &tried);
        }
    }

    fn go_on_demand(&mut self, group: &Arc<NodeGroup>, node: &str, why: &str) {
        let text = format!("{node} goes on-demand: {why}");
        self.fact(self.new_fact(FactKind::SpotFallback, text).nodes([node]).group(group.stem()));
        self.begin_node_fleets(group, &[node.to_owned()], Lifecycle::OnDemand, &BTreeMap::new());
    }

    /// Spot gives the account nothing more: on-demand at once where the site allows it, else the wait goes on.
    pub(super) fn leave_spot(&mut self, node: &str) {
        let stem = self.g.launches.fulfilling.get(node).map(|fulfil| fulfil.group.clone());
        let Some(group) = stem.and_then(|stem| self.g.cx.site.group(&stem).cloned()) else { return };
        if group.spot_fallback_s.is_none() || !self.wants_instance(node) {
            return;
        }
        self.g.launches.fulfilling.remove(node);
        self.end_fleet_of(node);
        self.go_on_demand(&group, node, "the account may have no more Spot instances");
    }

    /// This pool will give nothing: its time is over now.
    pub(super) fn leave_pool(&mut self, node: &str) {
        if let Some(fulfil) = self.g.launches.fulfilling.get_mut(node) {
            fulfil.since = fulfil.since.saturating_sub(POOL_PATIENCE_MS);
        }
    }

    fn poll_fleets(&mut self) {
        if self.g.launches.fulfilling.is_empty() || self.node_fleets.poll_in_flight {
            return;
        }
        if self.node_fleets.poll_at > self.g.cx.now.mono_ms {
            self.wake(self.node_fleets.poll_at);
            return;
        }
        let mut by_account: BTreeMap<Account, Vec<String>> = BTreeMap::new();
        for fulfil in self.g.launches.fulfilling.values() {
            by_account.entry(fulfil.account.clone()).or_default().push(fulfil.fleet_id.clone());
        }
        self.node_fleets.poll_at = self.g.cx.now.mono_ms + POLL_MS;
        for (account, fleet_ids) in by_account {
            self.node_fleets.poll_in_flight = true;
            self.cloud(Purpose::PollFleets { account }, CloudRequest::DescribeFleetInstances { fleet_ids });
        }
    }

    pub(super) fn take_fleet_instances(&mut self, account: &Account, result: CloudResult) {
        self.node_fleets.poll_in_flight = false;
        let Ok(CloudReply::Instances(instances)) = result else { return };
        let owner: BTreeMap<&str, &str> = self
            .g
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
                && !self.g.cx.ledger.is_bound(&instance.id);
            if usable && self.wants_instance(node) {
                pairs.insert((*node).to_owned(), instance);
            }
        }
        for node in pairs.keys() {
            self.g.launches.fulfilling.remove(node);
        }
        self.bind(account, None, pairs.into_iter().collect(), 0);
    }

    /// The node needs its fleet no longer: the fleet goes, and with it the instance.
    pub(super) fn end_fleet_of(&mut self, node: &str) -> bool {
        if self.abandon_relocation(node) {
            return true;
        }
        let Some(fleet) = self.g.cx.persisted.fleets.get(node).cloned() else { return false };
        self.g.launches.fulfilling.remove(node);
        self.end_fleet(&fleet.account, fleet.fleet_id);
        true
    }

    pub(super) fn end_fleet(&mut self, account: &Account, fleet_id: String) {
        if self.is_fleet_ending(&fleet_id) {
            return;
        }
        let now = self.g.cx.now.mono_ms;
        let ends = self.g.deletions.queues.entry(account.clone()).or_default();
        if ends.ids.is_empty() {
            ends.since = now;
        }
        ends.ids.insert(fleet_id);
    }

    fn delete_fleets(&mut self) {
        let now = self.g.cx.now.mono_ms;
        let idle = self.g.cx.site.settings.batch_idle_ms;
        let accounts: Vec<Account> = self
            .g
            .deletions
            .queues
            .iter()
            .filter(|(_, ends)| !ends.is_empty())
            .map(|(account, _)| account.clone())
            .collect();
        for account in accounts {
            let Some(ends) = self.g.deletions.queues.get_mut(&account) else { continue };
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
                self.wake(at);
            }
            for intent in due {
                if let Some(request) = self.open_request(intent) {
                    self.cloud(Purpose::DeleteFleets { account: account.clone(), intent }, request);
                }
            }
            for chunk in ids.chunks(MAX_DELETE) {
                let request = CloudRequest::DeleteFleets { ids: chunk.to_vec(), terminate_instances: true };
                let id = self.record_intent(&account, request.clone(), None);
                self.cloud(Purpose::DeleteFleets { account: account.clone(), intent: id }, request);
            }
        }
    }

    pub(super) fn take_deleted(&mut self, id: u64, result: CloudResult) {
        let Some(intent) = self.g.cx.persisted.open.get(&id).cloned() else { return };
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
                    self.fact(self.new_fact(FactKind::FleetDeleted, text));
                    self.record(Record::FleetsGone { fleet_ids: gone });
                }
                self.record(Record::Outcome {
                    id,
                    outcome: Outcome::Done(CloudReply::Deleted { deleted, failed }),
                });
                self.g.deletions.attempts.remove(&id);
                for (fleet, code) in refused {
                    let text = format!("fleet {fleet} could not be deleted and is tried again");
                    self.fact(self.new_fact(FactKind::TerminateFailed, text).code(code));
                    self.end_fleet(&intent.account, fleet);
                }
            }
            other => {
                let (code, message) = match other {
                    Err(error) => (error.code, error.message),
                    Ok(reply) => ("UnexpectedReply".into(), format!("{reply:?}")),
                };
                let attempts = self.g.deletions.attempts.entry(id).or_default();
                *attempts += 1;
                let at = self.g.cx.now.mono_ms + backoff_ms(*attempts + 1, &mut self.g.cx.rng);
                let text = format!("{} fleets still exist: {message}", ids.len());
                self.fact(self.new_fact(FactKind::TerminateFailed, text).code(code));
                self.g.deletions.queues.entry(intent.account).or_default().repeats.set(id, at);
            }
        }
    }

    /// Fleets known from the journal: those of nodes that have no instance are waited for again, unless another launch was
    /// begun for the node, which was about to leave this one.
    pub(super) fn recover_fleets(&mut self) {
        let mut launches: BTreeMap<&String, &String> = BTreeMap::new();
        for intent in self.g.cx.persisted.open.values() {
            if let (CloudRequest::CreateFleet(request), Some(launch)) = (&intent.request, &intent.launch) {
                launches.extend(launch.nodes.iter().map(|node| (node, &request.client_token)));
            }
        }
        for (node, fleet) in &self.g.cx.persisted.fleets {
            let left = launches.get(node).is_some_and(|token| **token != fleet.launch);
            if left || self.g.cx.persisted.bindings.contains_key(node) {
                continue;
            }
            let Some((group, _)) = self.g.cx.site.locate(node) else { continue };
            let fulfil = Fulfil {
                account: fleet.account.clone(),
                group: group.stem(),
                fleet_id: fleet.fleet_id.clone(),
                lifecycle: fleet.lifecycle,
                tried: BTreeSet::new(),
                since: self.g.cx.now.mono_ms,
                first: self.g.cx.now.mono_ms,
            };
            self.g.launches.fulfilling.insert(node.clone(), fulfil);
        }
    }

    /// A deletion that an earlier process began goes on when EC2 and Slurm are known: a fleet that its node has left for
    /// another one is remembered nowhere else. False if nothing is left to delete.
    pub(super) fn recover_deletion(&mut self, id: u64) -> bool {
        let Some(intent) = self.g.cx.persisted.open.get(&id) else { return false };
        if !self.listed_accounts().contains(&intent.account) {
            return false;
        }
        let left = self.still_deleted(id);
        self.g.deletions.recovered.extend(left);
        left == Some(id)
    }

    /// EC2 and Slurm are known: what no node has claimed is deleted.
    pub(super) fn settle_deletions(&mut self, account: &Account) {
        for id in std::mem::take(&mut self.g.deletions.recovered) {
            if self.g.cx.persisted.open.get(&id).is_some_and(|intent| intent.account != *account) {
                self.g.deletions.recovered.insert(id);
                continue;
            }
            let left = self.still_deleted(id);
            if left != Some(id) {
                let why = "a node has the fleet, or had it when the process ended";
                self.record(Record::Outcome { id, outcome: Outcome::Abandoned(why.into()) });
            }
            if let Some(left) = left {
                let now = self.g.cx.now.mono_ms;
                self.g.deletions.queues.entry(account.clone()).or_default().repeats.set(left, now);
            }
        }
    }

    /// The intent that deletes those fleets of intent `id` that nobody holds: the same one if these are all.
    fn still_deleted(&mut self, id: u64) -> Option<u64> {
        let intent = self.g.cx.persisted.open.get(&id)?;
        let CloudRequest::DeleteFleets { ids, .. } = &intent.request else { return None };
        let is_held = |fleet: &&String| {
            self.g.cx.ledger.is_fleet(fleet)
                || self.g.cx.ledger.members(fleet).is_some()
                || self.is_group_fleet(fleet)
                || self.relocates_fleet(fleet)
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
        Some(self.record_intent(&account, request, None))
    }

    /// Whether an account has groups that keep fleets.
    pub(super) fn keeps_fleets(&self, account: &Account) -> bool {
        self.g
            .cx
            .site
            .groups()
            .iter()
            .any(|group| group.account == *account && group.scope != FleetScope::Launch)
            || self.g.cx.ledger.fleets_of(account) > 0
            || self.g.cx.persisted.group_fleets.values().any(|fleet| fleet.account == *account)
    }

    /// Fleets with our tag that the journal does not know, and fleets of nodes that are down.
    pub(super) fn take_fleets(&mut self, account: &Account, fleets: Vec<Fleet>) {
        // Whose a fleet is, is not known before slurmctld's nodes and EC2's instances are.
        if !self.g.sight.slurm.is_known() || !self.view_ready(account) {
            return;
        }
        let grace = u64::from(self.g.cx.site.settings.orphan_grace_s) * 1000;
        let expected: BTreeSet<String> =
            self.g.launches.open.values().map(|launch| launch.token.clone()).collect();
        let mut strangers = BTreeSet::new();
        for fleet in fleets {
            let young = fleet.tags.get(tag::LAUNCH).is_some_and(|token| expected.contains(token));
            if young
                || self.g.cx.ledger.is_fleet(&fleet.id)
                || self.relocates_fleet(&fleet.id)
                || self.is_group_fleet(&fleet.id)
                || self.is_fleet_ending(&fleet.id)
            {
                continue;
            }
            strangers.insert(fleet.id.clone());
            let seen = (account.clone(), self.g.cx.now.mono_ms);
            let since = self.node_fleets.orphans.entry(fleet.id.clone()).or_insert(seen).1;
            let stale = fleet.tags.get(tag::NODE).is_some_and(|node| self.is_from_before(node, Some(&since)));
            if !stale && self.adopt_fleet(account, &fleet) {
                self.node_fleets.orphans.remove(&fleet.id);
            } else if self.g.cx.now.since(since) >= grace && !self.may_hold_job(&fleet) {
                let text = format!("fleet {} has this cluster's tag and no node", fleet.id);
                self.fact(self.new_fact(FactKind::OrphanTerminated, text));
                self.node_fleets.orphans.remove(&fleet.id);
                self.end_fleet(account, fleet.id);
            }
        }
        // Another account's orphans are not in this list, and their time goes on.
        self.node_fleets.orphans.retain(|id, (owner, _)| owner != account || strangers.contains(id));
    }

    /// The node has a job and, for us, no instance: whatever was made for it may be where the job runs.
    fn may_hold_job(&self, fleet: &Fleet) -> bool {
        let Some(node) = fleet.tags.get(tag::NODE) else { return false };
        let busy = self.g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep && n.has_job);
        busy && !self.g.cx.persisted.bindings.contains_key(node)
    }

    /// A node's fleet is the one that holds its instance, whatever else is left of earlier power-ups.
    pub(super) fn follow_fleets(&mut self, account: &Account, instances: &[Instance]) {
        let mut held = Vec::new();
        for instance in instances {
            let Some(id) = instance.tags.get(FLEET_ID) else { continue };
            let Some(node) = self.g.cx.ledger.owner(&instance.id) else { continue };
            let in_scope =
                self.g.cx.site.locate(node).is_some_and(|(group, _)| group.scope == FleetScope::Node);
            let known = self.g.cx.persisted.fleets.get(node).is_some_and(|fleet| fleet.fleet_id == *id);
            if !in_scope || known || self.is_fleet_ending(id) {
                continue;
            }
            let launch = self.g.cx.persisted.bindings.get(node).and_then(|binding| binding.launch.clone());
            let fleet = NodeFleet {
                fleet_id: id.to_owned(),
                account: account.clone(),
                lifecycle: instance.lifecycle,
                instance_type: instance.instance_type.clone(),
                subnet_id: instance.subnet_id.clone(),
                launch: launch.unwrap_or_default(),
                created_unix_ms: self.g.cx.now.unix_ms,
            };
            held.push((node.to_owned(), fleet));
        }
        for (node, fleet) in held {
            let text = format!("fleet {} holds the instance of {node}", fleet.fleet_id);
            self.fact(self.new_fact(FactKind::InstanceAdopted, text).nodes([&node]));
            self.g.launches.fulfilling.remove(&node);
            self.record(Record::FleetOf { node, fleet });
        }
    }

    pub(super) fn is_fleet_ending(&self, id: &str) -> bool {
        self.g.deletions.queues.values().any(|ends| ends.ids.contains(id)) || self.g.cx.ledger.is_deleting(id)
    }

    fn adopt_fleet(&mut self, account: &Account, fleet: &Fleet) -> bool {
        let Some(node) = fleet.tags.get(tag::NODE).cloned() else { return false };
        // A node whose CreateFleet is under way gets that fleet, and would forget this one.
        let wanted = self
            .g
            .cx
            .nodes
            .get(&node)
            .is_some_and(|n| matches!(n.desire, Desire::Waking | Desire::Keep) && n.launch.is_none());
        let Some((stem, index)) = self.g.cx.site.locate(&node).map(|(group, index)| (group.stem(), index))
        else {
            return false;
        };
        if !wanted || self.g.cx.persisted.fleets.contains_key(&node) {
            return false;
        }
        let adopted = NodeFleet {
            fleet_id: fleet.id.clone(),
            account: account.clone(),
            lifecycle: Lifecycle::Spot,
            instance_type: String::new(),
            subnet_id: None,
            launch: fleet.client_token.clone().unwrap_or_default(),
            created_unix_ms: self.g.cx.now.unix_ms,
        };
        let text = format!("fleet {} belongs to {node}", fleet.id);
        self.fact(self.new_fact(FactKind::InstanceAdopted, text).nodes([&node]));
        self.record(Record::FleetOf { node: node.clone(), fleet: adopted });
        if self.wants_instance(&node) {
            self.unqueue(&stem, index);
            let now = self.g.cx.now.mono_ms;
            let fulfil = Fulfil {
                account: account.clone(),
                group: stem,
                fleet_id: fleet.id.clone(),
                lifecycle: Lifecycle::Spot,
                tried: BTreeSet::new(),
                since: now,
                first: now,
            };
            self.g.launches.fulfilling.insert(node, fulfil);
        }
        true
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
