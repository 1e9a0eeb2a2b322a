// SPDX-License-Identifier: GPL-3.0-or-later
//! When something is done: one thing of a kind is on its way at a time, and a failed one is made again after a while.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::cx::agenda::Agenda;
use crate::limits::backoff_ms;

/// `mono_ms` at which time alone gives a part of the engine something to do; none if only an event does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline(Option<u64>);

impl Deadline {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn at(mono_ms: u64) -> Self {
        Self(Some(mono_ms))
    }

    /// Whichever of the two comes first.
    #[must_use]
    pub(crate) fn or(self, other: impl Into<Self>) -> Self {
        Self(self.0.into_iter().chain(other.into().0).min())
    }

    pub(crate) fn mono_ms(self) -> Option<u64> {
        self.0
    }
}

impl From<Option<u64>> for Deadline {
    fn from(at: Option<u64>) -> Self {
        Self(at)
    }
}

/// One thing that is idle, in flight or backing off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attempt {
    in_flight: bool,
    /// Failures in a row.
    failures: u32,
    next_at: u64,
}

impl Attempt {
    /// Idle, and not to be made before `mono_ms` = `at`.
    pub(crate) fn not_before(at: u64) -> Self {
        Self { next_at: at, ..Self::default() }
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// It may be made now.
    pub(crate) fn due(&self, now_mono_ms: u64) -> bool {
        !self.in_flight && self.next_at <= now_mono_ms
    }

    /// `mono_ms` from which it may be made; `None` while it is in flight.
    pub(crate) fn next(&self) -> Option<u64> {
        (!self.in_flight).then_some(self.next_at)
    }

    /// `mono_ms` until which the next one is kept waiting.
    pub(crate) fn waits_until(&self, now_mono_ms: u64) -> Option<u64> {
        (self.next_at > now_mono_ms).then_some(self.next_at)
    }

    /// How often it has failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn begin(&mut self) {
        debug_assert!(!self.in_flight, "begun while one is under way");
        self.in_flight = true;
    }

    /// Begun, and not made again before `mono_ms` = `at`, whenever the answer comes.
    pub(crate) fn begin_until(&mut self, at: u64) {
        self.begin();
        self.next_at = at;
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// It went well and is due again at `mono_ms` = `at`.
    pub(crate) fn succeeded_until(&mut self, at: u64) {
        *self = Self::not_before(at);
    }

    /// The answer has come; how it went on changes nothing of when it is made again.
    pub(crate) fn answered(&mut self) {
        self.in_flight = false;
    }

    /// It failed for a reason that time alone does not mend: made again at `mono_ms` = `at`.
    pub(crate) fn refused_until(&mut self, at: u64) {
        self.in_flight = false;
        self.failures += 1;
        self.next_at = at;
    }

    /// `ahead`: how many failures the first one counts for besides itself. Returns when it is made again.
    pub(crate) fn failed(&mut self, now_mono_ms: u64, ahead: u32, rng: &mut fastrand::Rng) -> u64 {
        self.failed_for(now_mono_ms, ahead, 0, rng)
    }

    /// As [`Self::failed`], and not made again before `least_ms` have passed.
    pub(crate) fn failed_for(
        &mut self,
        now_mono_ms: u64,
        ahead: u32,
        least_ms: u64,
        rng: &mut fastrand::Rng,
    ) -> u64 {
        self.in_flight = false;
        self.failures += 1;
        self.next_at = now_mono_ms + backoff_ms(self.failures + ahead, rng).max(least_ms);
        self.next_at
    }

    /// Made at `mono_ms` = `at` if that is sooner than planned.
    pub(crate) fn hasten(&mut self, at: u64) {
        self.next_at = self.next_at.min(at);
    }

    /// Made at `mono_ms` = `at` if that is later than planned.
    pub(crate) fn delay(&mut self, at: u64) {
        self.next_at = self.next_at.max(at);
    }

    /// The next one need not wait for what failed before.
    pub(crate) fn forgiven(self) -> Self {
        Self { in_flight: self.in_flight, ..Self::default() }
    }
}

/// Keys that are gathered until one call serves many of them, and the calls that failed and are sent again.
#[derive(Clone, Debug)]
pub(crate) struct Batched<K> {
    keys: BTreeSet<K>,
    /// `mono_ms` at which the first and the last key came.
    first: u64,
    last: u64,
    /// Intents whose call failed, and when it is sent again.
    repeats: Agenda<u64>,
    /// Failures in a row, by intent.
    failures: BTreeMap<u64, u32>,
}

impl<K> Default for Batched<K> {
    fn default() -> Self {
        Self {
            keys: BTreeSet::new(),
            first: 0,
            last: 0,
            repeats: Agenda::default(),
            failures: BTreeMap::new(),
        }
    }
}

impl<K: Clone + Ord> Batched<K> {
    pub(crate) fn add(&mut self, key: K, now_mono_ms: u64) {
        if self.keys.is_empty() {
            self.first = now_mono_ms;
        }
        self.last = now_mono_ms;
        self.keys.insert(key);
    }

    pub(crate) fn contains<Q>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.keys.contains(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.repeats.is_empty()
    }

    /// The keys in chunks, each for one call, once none has come for `idle_ms`, or the first one waits for `longest_ms`.
    pub(crate) fn take_closed(
        &mut self,
        now_mono_ms: u64,
        idle_ms: u64,
        longest_ms: u64,
        chunk: usize,
    ) -> Vec<Vec<K>> {
        if self.closes_at(idle_ms, longest_ms).is_none_or(|at| at > now_mono_ms) {
            return Vec::new();
        }
        let keys: Vec<K> = std::mem::take(&mut self.keys).into_iter().collect();
        keys.chunks(chunk).map(<[K]>::to_vec).collect()
    }

    fn closes_at(&self, idle_ms: u64, longest_ms: u64) -> Option<u64> {
        (!self.keys.is_empty()).then(|| (self.last + idle_ms).min(self.first + longest_ms))
    }

    /// Intents whose call is to be sent again now.
    pub(crate) fn take_repeats(&mut self, now_mono_ms: u64) -> BTreeSet<u64> {
        self.repeats.take_due(now_mono_ms)
    }

    pub(crate) fn next(&self, idle_ms: u64, longest_ms: u64) -> Deadline {
        Deadline::from(self.repeats.next()).or(self.closes_at(idle_ms, longest_ms))
    }

    /// The call of this intent is sent at `mono_ms` = `at`, whatever was planned for it.
    pub(crate) fn repeat(&mut self, intent: u64, at: u64) {
        self.repeats.set(intent, at);
    }

    /// The call of this intent has failed once more. Returns how often it has in a row.
    pub(crate) fn failed(&mut self, intent: u64) -> u32 {
        let failures = self.failures.entry(intent).or_default();
        *failures += 1;
        *failures
    }

    pub(crate) fn succeeded(&mut self, intent: u64) {
        self.failures.remove(&intent);
    }
}

impl<K> Batched<K> {
    /// Keys that no call names yet.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.keys.iter()
    }

    /// Intents whose call is sent again some time.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = u64> {
        self.repeats.keys().copied()
    }
}
