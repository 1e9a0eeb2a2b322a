// SPDX-License-Identifier: GPL-3.0-or-later
//! Updates of slurmctld of one kind: one is on its way at a time, and a failed one is made again after a while.

use crate::core::limits::backoff_ms;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    in_flight: bool,
    /// Failures in a row.
    attempts: u32,
    next_at: u64,
}

impl Turn {
    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// `mono_ms` until which a failure keeps the next one waiting.
    pub(crate) fn waits_until(&self, now_mono_ms: u64) -> Option<u64> {
        (self.next_at > now_mono_ms).then_some(self.next_at)
    }

    pub(crate) fn begin(&mut self) {
        self.in_flight = true;
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// `ahead`: how many failures the first one counts for besides itself. Returns when it is the next one's turn.
    pub(crate) fn failed(&mut self, now_mono_ms: u64, ahead: u32, rng: &mut fastrand::Rng) -> u64 {
        self.in_flight = false;
        self.attempts += 1;
        self.next_at = now_mono_ms + backoff_ms(self.attempts + ahead, rng);
        self.next_at
    }

    /// The next one need not wait for what failed before.
    pub(crate) fn forgiven(self) -> Self {
        Self { in_flight: self.in_flight, ..Self::default() }
    }
}
