// SPDX-License-Identifier: GPL-3.0-or-later
//! Ending instances, in batches, until EC2 has confirmed it.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::outbox::Purpose;
use super::reconcile::Strangers;
use super::watched::Agenda;
use crate::core::ec2_api::{CloudRequest, CloudResult};
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{Outcome, Record};
use crate::core::site::Account;

/// Ids in one TerminateInstances call (EC2 API reference, API_TerminateInstances).
const MAX_IDS: usize = 1_000;

/// EC2 shows an instance as running for a while after it took the order to end it.
pub(super) const ENDING_PATIENCE_MS: u64 = 60_000;

/// Instances of one account that have to go.
#[derive(Clone, Debug, Default)]
pub(super) struct EndQueue {
    ids: BTreeSet<String>,
    first: u64,
    last: u64,
    /// Intents whose call failed, and when it is sent again.
    repeats: Agenda<u64>,
}

impl EndQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.repeats.is_empty()
    }
}

/// Orders to end instances, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(super) struct Terminations {
    pub(super) queues: BTreeMap<Account, EndQueue>,
    /// When the order was given, by instance.
    pub(super) ended: BTreeMap<String, u64>,
    /// Failures in a row, by intent.
    attempts: BTreeMap<u64, u32>,
}

impl Engine {
    /// This instance has no node and must not stay.
    pub(super) fn end_instance(&mut self, account: &Account, id: String) {
        let now = self.g.cx.now.mono_ms;
        self.g.sight.orphans.remove(&id);
        self.g.terminations.ended.insert(id.clone(), now);
        let queue = self.g.terminations.queues.entry(account.clone()).or_default();
        if queue.ids.is_empty() {
            queue.first = now;
        }
        queue.last = now;
        queue.ids.insert(id);
    }

    pub(super) fn end_instances(&mut self) {
        if self.g.cx.persisted.paused {
            return;
        }
        let settings = self.g.cx.site.settings.clone();
        let accounts: Vec<Account> = self
            .g
            .terminations
            .queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(account, _)| account.clone())
            .collect();
        for account in accounts {
            self.repeat_terminations(&account);
            let Some(queue) = self.g.terminations.queues.get_mut(&account) else { continue };
            if queue.ids.is_empty() {
                continue;
            }
            let due = (queue.last + settings.batch_idle_ms).min(queue.first + settings.batch_max_ms);
            if due > self.g.cx.now.mono_ms {
                self.wake(due);
                continue;
            }
            let ids: Vec<String> = std::mem::take(&mut queue.ids).into_iter().collect();
            for chunk in ids.chunks(MAX_IDS) {
                self.terminate(&account, chunk.to_vec());
            }
        }
    }

    fn terminate(&mut self, account: &Account, ids: Vec<String>) {
        let request = CloudRequest::TerminateInstances { ids: ids.clone() };
        let id = self.record_intent(account, request.clone(), None);
        let text = format!("{} instances in {account}", ids.len());
        self.fact(self.new_fact(FactKind::TerminateSent, text).instances(ids));
        self.cloud(Purpose::Terminate { account: account.clone(), intent: id }, request);
    }

    fn repeat_terminations(&mut self, account: &Account) {
        let now = self.g.cx.now.mono_ms;
        let Some(queue) = self.g.terminations.queues.get_mut(account) else { return };
        let due = queue.repeats.take_due(now);
        let next = queue.repeats.next();
        for intent in due {
            let Some(request) = self.open_request(intent) else { continue };
            self.cloud(Purpose::Terminate { account: account.clone(), intent }, request);
        }
        if let Some(at) = next {
            self.wake(at);
        }
    }

    pub(super) fn take_terminated(&mut self, id: u64, result: CloudResult) {
        let Some(intent) = self.g.cx.persisted.open.get(&id).cloned() else { return };
        let CloudRequest::TerminateInstances { ids } = &intent.request else { return };
        match result {
            Ok(reply) => {
                for instance in ids {
                    self.g.terminations.ended.insert(instance.clone(), self.g.cx.now.mono_ms);
                }
                let text = format!("{} instances in {}", ids.len(), intent.account);
                let after = self.g.cx.now.unix_ms.saturating_sub(intent.unix_ms);
                self.fact(
                    self.new_fact(FactKind::InstancesTerminated, text)
                        .instances(ids.iter().cloned())
                        .after_ms(after),
                );
                self.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
                self.g.terminations.attempts.remove(&id);
            }
            Err(error) => {
                // Whatever the reason, an instance that should end is not forgotten: it costs money.
                let attempts = self.g.terminations.attempts.entry(id).or_default();
                *attempts += 1;
                let wait = if error.class.is_retryable() {
                    backoff_ms(*attempts, &mut self.g.cx.rng)
                } else {
                    ENDING_PATIENCE_MS
                };
                let text =
                    format!("{} instances in {} still run: {}", ids.len(), intent.account, error.message);
                self.fact(
                    self.new_fact(FactKind::TerminateFailed, text)
                        .instances(ids.iter().cloned())
                        .code(error.code.clone()),
                );
                let at = self.g.cx.now.mono_ms + wait;
                self.g.terminations.queues.entry(intent.account).or_default().repeats.set(id, at);
            }
        }
    }

    /// Whether the order to end this instance is under way or fresh.
    pub(super) fn is_ending(&self, id: &str) -> bool {
        self.g.terminations.queues.values().any(|queue| queue.ids.contains(id))
            || self.g.cx.ledger.is_ending(id)
            || self
                .g
                .terminations
                .ended
                .get(id)
                .is_some_and(|at| self.g.cx.now.since(*at) < ENDING_PATIENCE_MS)
    }

    /// What an earlier process was about to end, and no node has claimed since.
    pub(super) fn end_leaving(&mut self, account: &Account, strangers: &Strangers<'_>) {
        let leaving: Vec<String> = self
            .g
            .cx
            .persisted
            .leaving
            .iter()
            .filter(|(id, owner)| *owner == account && !self.is_ending(id) && !self.is_lowering(id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in leaving {
            if !strangers.by_id.get(id.as_str()).is_some_and(|instance| self.lower_leaving(instance)) {
                self.end_instance(account, id);
            }
        }
    }

    pub(super) fn forget_ended(&mut self) {
        let now = self.g.cx.now;
        self.g.terminations.ended.retain(|_, at| now.since(*at) < 10 * ENDING_PATIENCE_MS);
    }
}
