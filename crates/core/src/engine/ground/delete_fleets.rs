// SPDX-License-Identifier: GPL-3.0-or-later
//! Deleting fleets, in batches, until EC2 has confirmed it.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudError, CloudReply, CloudRequest, CloudResult};
use crate::ec2_limits;
use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Batched, Deadline};
use crate::engine::cx::calls::CloudPurpose;
use crate::fact::FactKind;
use crate::limits::backoff_ms;
use crate::record::{Outcome, Record};
use crate::site::Account;

/// Orders to delete fleets, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(crate) struct FleetDeletions {
    queues: BTreeMap<Account, Batched<String>>,
    /// Open DeleteFleets intents of an earlier process, until EC2 and Slurm are known.
    recovered: BTreeSet<u64>,
}

impl FleetDeletions {
    pub(crate) fn end_fleet(&mut self, cx: &Cx, account: &Account, fleet_id: String) {
        if self.is_fleet_ending(cx, &fleet_id) {
            return;
        }
        self.queues.entry(account.clone()).or_default().add(fleet_id, cx.now.mono_ms);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queues.values().all(Batched::is_empty)
    }

    pub(crate) fn delete_fleets(&mut self, cx: &mut Cx) -> Deadline {
        let mut deadline = Deadline::NONE;
        let (now, idle) = (cx.now.mono_ms, cx.site.settings.batch_idle_ms);
        for (account, queue) in &mut self.queues {
            for intent in queue.take_repeats(now) {
                if let Some(request) = cx.open_request(intent) {
                    cx.cloud(CloudPurpose::DeleteFleets { account: account.clone(), intent }, request);
                }
            }
            for ids in queue.take_closed(now, idle, idle, ec2_limits::FLEETS_PER_DELETION) {
                let request = CloudRequest::DeleteFleets { ids, terminate_instances: true };
                let intent = cx.record_intent(account, request.clone(), None);
                cx.cloud(CloudPurpose::DeleteFleets { account: account.clone(), intent }, request);
            }
            deadline = deadline.or(queue.next(idle, idle));
        }
        deadline
    }

    /// A deletion that an earlier process began goes on when EC2 and Slurm are known. False if nothing is left to delete.
    pub(crate) fn recover(&mut self, cx: &mut Cx, id: u64) -> bool {
        let left = self.still_deleted(cx, id);
        self.recovered.extend(left);
        left == Some(id)
    }

    pub(crate) fn take_deleted(&mut self, cx: &mut Cx, id: u64, result: CloudResult) {
        let Some(intent) = cx.persisted.open.get(&id).cloned() else { return };
        let CloudRequest::DeleteFleets { ids, .. } = &intent.request else { return };
        match result.and_then(CloudReply::into_deleted) {
            Ok((deleted, failed)) => {
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
                if let Some(queue) = self.queues.get_mut(&intent.account) {
                    queue.succeeded(id);
                }
                for (fleet, code) in refused {
                    let text = format!("fleet {fleet} could not be deleted and is tried again");
                    cx.fact(cx.new_fact(FactKind::TerminateFailed, text).code(code));
                    self.end_fleet(cx, &intent.account, fleet);
                }
            }
            Err(CloudError { code, message, .. }) => {
                let queue = self.queues.entry(intent.account).or_default();
                let failures = queue.failed(id);
                queue.repeat(id, cx.now.mono_ms + backoff_ms(failures + 1, &mut cx.rng));
                let text = format!("{} fleets still exist: {message}", ids.len());
                cx.fact(cx.new_fact(FactKind::TerminateFailed, text).code(code));
            }
        }
    }

    /// EC2 and Slurm are known: what no node has claimed is deleted.
    pub(crate) fn settle_deletions(&mut self, cx: &mut Cx, account: &Account) {
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
                self.queues.entry(account.clone()).or_default().repeat(left, now);
            }
        }
    }

    /// The intent that deletes those fleets of intent `id` that nobody holds: the same one if these are all.
    pub(crate) fn still_deleted(&mut self, cx: &mut Cx, id: u64) -> Option<u64> {
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

    pub(crate) fn is_fleet_ending(&self, cx: &Cx, id: &str) -> bool {
        self.queues.values().any(|ends| ends.contains(id)) || cx.ledger.is_deleting(id)
    }
}

impl FleetDeletions {
    /// Intents whose call is sent again some time, or once EC2 and Slurm are known.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = u64> {
        self.queues.values().flat_map(Batched::repeats).chain(self.recovered.iter().copied())
    }

    /// `mono_ms` at which the next call leaves.
    pub(crate) fn next(&self, cx: &Cx) -> Option<u64> {
        let idle = cx.site.settings.batch_idle_ms;
        self.queues.values().filter_map(|queue| queue.next(idle, idle).mono_ms()).min()
    }
}
