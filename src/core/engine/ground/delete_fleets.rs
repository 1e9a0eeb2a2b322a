// SPDX-License-Identifier: GPL-3.0-or-later
//! Deleting fleets, in batches, until EC2 has confirmed it.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult};
use crate::core::engine::cx::Cx;
use crate::core::engine::cx::agenda::Agenda;
use crate::core::engine::cx::calls::Purpose;
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{Outcome, Record};
use crate::core::site::Account;

/// Fleets in one DeleteFleets call (EC2 API reference, API_DeleteFleets).
const MAX_DELETE: usize = 100;

/// Fleets of one account that are to be deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct FleetEnds {
    ids: BTreeSet<String>,
    since: u64,
    /// Intents whose call failed, and when it is sent again.
    repeats: Agenda<u64>,
}

impl FleetEnds {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.repeats.is_empty()
    }
}

/// Orders to delete fleets, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(crate) struct FleetDeletions {
    pub(crate) queues: BTreeMap<Account, FleetEnds>,
    /// Open DeleteFleets intents of an earlier process, until EC2 and Slurm are known.
    pub(crate) recovered: BTreeSet<u64>,
    /// Failures in a row, by intent.
    attempts: BTreeMap<u64, u32>,
}

impl FleetDeletions {
    pub(crate) fn end_fleet(&mut self, cx: &Cx, account: &Account, fleet_id: String) {
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

    pub(crate) fn delete_fleets(&mut self, cx: &mut Cx) {
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

    pub(crate) fn take_deleted(&mut self, cx: &mut Cx, id: u64, result: CloudResult) {
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
                self.queues.entry(account.clone()).or_default().repeats.set(left, now);
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
        self.queues.values().any(|ends| ends.ids.contains(id)) || cx.ledger.is_deleting(id)
    }
}
