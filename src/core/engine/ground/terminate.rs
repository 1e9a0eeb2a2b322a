// SPDX-License-Identifier: GPL-3.0-or-later
//! Ending instances, in batches, until EC2 has confirmed it.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::ec2_api::{CloudRequest, CloudResult};
use crate::core::engine::cx::Cx;
use crate::core::engine::cx::agenda::Agenda;
use crate::core::engine::cx::calls::Purpose;
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{Outcome, Record};
use crate::core::site::Account;

/// Ids in one TerminateInstances call (EC2 API reference, API_TerminateInstances).
const MAX_IDS: usize = 1_000;

/// EC2 shows an instance as running for a while after it took the order to end it.
pub(crate) const ENDING_PATIENCE_MS: u64 = 60_000;

/// A termination that EC2 refuses for another reason than haste is sent again after this long: SPECIFICATION.md promises
/// 55 s, and the call may have to wait for a token.
const REFUSED_PATIENCE_MS: u64 = 50_000;

/// Instances of one account that have to go.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndQueue {
    pub(crate) ids: BTreeSet<String>,
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Intents whose call failed, and when it is sent again.
    repeats: Agenda<u64>,
}

impl EndQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.repeats.is_empty()
    }
}

/// Orders to end instances, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(crate) struct Terminations {
    pub(crate) queues: BTreeMap<Account, EndQueue>,
    /// When the order was given, by instance.
    pub(crate) ended: BTreeMap<String, u64>,
    /// Failures in a row, by intent.
    attempts: BTreeMap<u64, u32>,
}

impl Terminations {
    pub(crate) fn end_instances(&mut self, cx: &mut Cx) {
        if cx.persisted.paused {
            return;
        }
        let settings = cx.site.settings.clone();
        let accounts: Vec<Account> = self
            .queues
            .iter()
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(account, _)| account.clone())
            .collect();
        for account in accounts {
            self.repeat_terminations(cx, &account);
            let Some(queue) = self.queues.get_mut(&account) else { continue };
            if queue.ids.is_empty() {
                continue;
            }
            let due = (queue.last + settings.batch_idle_ms).min(queue.first + settings.batch_max_ms);
            if due > cx.now.mono_ms {
                cx.wake(due);
                continue;
            }
            let ids: Vec<String> = std::mem::take(&mut queue.ids).into_iter().collect();
            for chunk in ids.chunks(MAX_IDS) {
                self.terminate(cx, &account, chunk.to_vec());
            }
        }
    }

    fn terminate(&mut self, cx: &mut Cx, account: &Account, ids: Vec<String>) {
        let request = CloudRequest::TerminateInstances { ids: ids.clone() };
        let id = cx.record_intent(account, request.clone(), None);
        let text = format!("{} instances in {account}", ids.len());
        cx.fact(cx.new_fact(FactKind::TerminateSent, text).instances(ids));
        cx.cloud(Purpose::Terminate { account: account.clone(), intent: id }, request);
    }

    fn repeat_terminations(&mut self, cx: &mut Cx, account: &Account) {
        let now = cx.now.mono_ms;
        let Some(queue) = self.queues.get_mut(account) else { return };
        let due = queue.repeats.take_due(now);
        let next = queue.repeats.next();
        for intent in due {
            let Some(request) = cx.open_request(intent) else { continue };
            cx.cloud(Purpose::Terminate { account: account.clone(), intent }, request);
        }
        if let Some(at) = next {
            cx.wake(at);
        }
    }

    pub(crate) fn take_terminated(&mut self, cx: &mut Cx, id: u64, result: CloudResult) {
        let Some(intent) = cx.persisted.open.get(&id).cloned() else { return };
        let CloudRequest::TerminateInstances { ids } = &intent.request else { return };
        match result {
            Ok(reply) => {
                for instance in ids {
                    self.ended.insert(instance.clone(), cx.now.mono_ms);
                }
                let text = format!("{} instances in {}", ids.len(), intent.account);
                let after = cx.now.unix_ms.saturating_sub(intent.unix_ms);
                cx.fact(
                    cx.new_fact(FactKind::InstancesTerminated, text)
                        .instances(ids.iter().cloned())
                        .after_ms(after),
                );
                cx.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
                self.attempts.remove(&id);
            }
            Err(error) => {
                // Whatever the reason, an instance that should end is not forgotten: it costs money.
                let attempts = self.attempts.entry(id).or_default();
                *attempts += 1;
                let wait = if error.class.is_retryable() {
                    backoff_ms(*attempts, &mut cx.rng)
                } else {
                    REFUSED_PATIENCE_MS
                };
                let text =
                    format!("{} instances in {} still run: {}", ids.len(), intent.account, error.message);
                cx.fact(
                    cx.new_fact(FactKind::TerminateFailed, text)
                        .instances(ids.iter().cloned())
                        .code(error.code.clone()),
                );
                let at = cx.now.mono_ms + wait;
                self.queues.entry(intent.account).or_default().repeats.set(id, at);
            }
        }
    }

    /// Whether the order to end this instance is under way or fresh.
    pub(crate) fn is_ending(&self, cx: &Cx, id: &str) -> bool {
        self.queues.values().any(|queue| queue.ids.contains(id))
            || cx.ledger.is_ending(id)
            || self.ended.get(id).is_some_and(|at| cx.now.since(*at) < ENDING_PATIENCE_MS)
    }

    pub(crate) fn forget_ended(&mut self, cx: &Cx) {
        let now = cx.now;
        self.ended.retain(|_, at| now.since(*at) < 10 * ENDING_PATIENCE_MS);
    }
}
