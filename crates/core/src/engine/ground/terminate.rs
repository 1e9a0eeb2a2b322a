// SPDX-License-Identifier: GPL-3.0-or-later
//! Ending instances, in batches, until EC2 has confirmed it.

use std::collections::BTreeMap;

use crate::ec2_api::{CloudRequest, CloudResult};
use crate::ec2_limits;
use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Batched, Deadline};
use crate::engine::cx::calls::CloudPurpose;
use crate::fact::FactKind;
use crate::limits::backoff_ms;
use crate::record::{Outcome, Record};
use crate::site::Account;

/// EC2 shows an instance as running for a while after it took the order to end it.
pub(crate) const ENDING_PATIENCE_MS: u64 = 60_000;

/// A termination that EC2 refuses for another reason than haste is sent again after this long: SPECIFICATION.md promises
/// 55 s, and the call may have to wait for a token.
const REFUSED_PATIENCE_MS: u64 = 50_000;

/// Orders to end instances, until EC2 has confirmed them.
#[derive(Debug, Default)]
pub(crate) struct Terminations {
    queues: BTreeMap<Account, Batched<String>>,
    /// When the order was given, by instance.
    ended: BTreeMap<String, u64>,
}

impl Terminations {
    /// This instance has to go.
    pub(crate) fn add(&mut self, cx: &Cx, account: &Account, id: String) {
        let now = cx.now.mono_ms;
        self.ended.insert(id.clone(), now);
        self.queues.entry(account.clone()).or_default().add(id, now);
    }

    /// Another order ends the instance.
    pub(crate) fn note_ended(&mut self, cx: &Cx, id: String) {
        self.ended.insert(id, cx.now.mono_ms);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queues.values().all(Batched::is_empty)
    }

    pub(crate) fn end_instances(&mut self, cx: &mut Cx) -> Deadline {
        let mut deadline = Deadline::NONE;
        if cx.persisted.paused {
            return deadline;
        }
        let (now, idle, longest) =
            (cx.now.mono_ms, cx.site.settings.batch_idle_ms, cx.site.settings.batch_max_ms);
        for (account, queue) in &mut self.queues {
            for intent in queue.take_repeats(now) {
                let Some(request) = cx.open_request(intent) else { continue };
                cx.cloud(CloudPurpose::Terminate { account: account.clone(), intent }, request);
            }
            for ids in queue.take_closed(now, idle, longest, ec2_limits::IDS_PER_CALL) {
                terminate(cx, account, ids);
            }
            deadline = deadline.or(queue.next(idle, longest));
        }
        deadline
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
                if let Some(queue) = self.queues.get_mut(&intent.account) {
                    queue.succeeded(id);
                }
            }
            Err(error) => {
                // Whatever the reason, an instance that should end is not forgotten: it costs money.
                let queue = self.queues.entry(intent.account.clone()).or_default();
                let failures = queue.failed(id);
                let wait = if error.class.is_retryable() {
                    backoff_ms(failures, &mut cx.rng)
                } else {
                    REFUSED_PATIENCE_MS
                };
                queue.repeat(id, cx.now.mono_ms + wait);
                let text =
                    format!("{} instances in {} still run: {}", ids.len(), intent.account, error.message);
                cx.fact(
                    cx.new_fact(FactKind::TerminateFailed, text)
                        .instances(ids.iter().cloned())
                        .code(error.code.clone()),
                );
            }
        }
    }

    /// Whether the order to end this instance is under way or fresh.
    pub(crate) fn is_ending(&self, cx: &Cx, id: &str) -> bool {
        self.queues.values().any(|queue| queue.contains(id))
            || cx.ledger.is_ending(id)
            || self.ended.get(id).is_some_and(|at| cx.now.since(*at) < ENDING_PATIENCE_MS)
    }

    /// The order to end this instance was given a while ago or less.
    pub(crate) fn was_ordered(&self, id: &str) -> bool {
        self.ended.contains_key(id)
    }

    pub(crate) fn forget_ended(&mut self, cx: &Cx) {
        let now = cx.now;
        self.ended.retain(|_, at| now.since(*at) < 10 * ENDING_PATIENCE_MS);
    }
}

fn terminate(cx: &mut Cx, account: &Account, ids: Vec<String>) {
    let request = CloudRequest::TerminateInstances { ids: ids.clone() };
    let id = cx.record_intent(account, request.clone(), None);
    let text = format!("{} instances in {account}", ids.len());
    cx.fact(cx.new_fact(FactKind::TerminateSent, text).instances(ids));
    cx.cloud(CloudPurpose::Terminate { account: account.clone(), intent: id }, request);
}

impl Terminations {
    /// Instances for which no call is written down yet.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &String> {
        self.queues.values().flat_map(Batched::keys)
    }

    /// Intents whose call is sent again some time.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = u64> {
        self.queues.values().flat_map(Batched::repeats)
    }

    /// `mono_ms` at which the next call leaves.
    pub(crate) fn next(&self, cx: &Cx) -> Option<u64> {
        let (idle, longest) = (cx.site.settings.batch_idle_ms, cx.site.settings.batch_max_ms);
        self.queues.values().filter_map(|queue| queue.next(idle, longest).mono_ms()).min()
    }
}
