// SPDX-License-Identifier: GPL-3.0-or-later
//! When a program that does the plugin's work goes on, waits or ends.
//!
//! The policy alone, without a clock: the programs and the simulator both ask it.

/// A program waits so long for another one to finish its pass. The unit is milliseconds.
pub const FENCE_PATIENCE_MS: u64 = 60_000;

/// It looks at the fence again after this time. The unit is milliseconds.
pub const FENCE_POLL_MS: u64 = 50;

/// A pass may take this much longer than ResumeTimeout. Then it is given up, and the next one continues. The unit is
/// milliseconds.
pub const EXTRA_MS: u64 = 60_000;

/// A journal that refuses is tried again after this time. The unit is milliseconds.
pub const JOURNAL_RETRY_MS: u64 = 1_000;

/// A program's wait for the fence, which another process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceWait {
    until_ms: u64,
}

impl FenceWait {
    /// It begins now. `now_ms` is on a monotonic clock.
    #[must_use]
    pub fn begin(now_ms: u64) -> Self {
        Self { until_ms: now_ms.saturating_add(FENCE_PATIENCE_MS) }
    }

    /// The fence is held by another. After how many milliseconds to try again, or `None` to give up.
    #[must_use]
    pub fn held(self, now_ms: u64) -> Option<u64> {
        (now_ms < self.until_ms).then_some(FENCE_POLL_MS)
    }
}

/// What a program sees after it has taken in an event, or after it has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Another process has taken the fence.
    pub fence_lost: bool,
    /// The engine has nothing under way and owes nothing.
    pub idle: bool,
    /// The journal refused what was written last.
    pub journal_refuses: bool,
}

/// What it does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for an event or the engine's deadline, but not beyond this moment.
    Wait { until_ms: u64 },
    /// The same, and try the journal again afterwards.
    RetryJournal { until_ms: u64 },
    /// The work is done.
    Finished,
    /// Another process continues what was begun.
    FenceLost,
    /// It has taken too long: the journal knows what is open, and the next pass continues it.
    GivenUp,
}

/// One program's pass, which begins when it has the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    until_ms: u64,
    patience_ms: u64,
}

impl Pass {
    /// `now_ms` is on a monotonic clock; `resume_timeout_s` is ResumeTimeout, in seconds.
    #[must_use]
    pub fn begin(now_ms: u64, resume_timeout_s: u32) -> Self {
        let patience_ms = u64::from(resume_timeout_s) * 1_000 + EXTRA_MS;
        Self { until_ms: now_ms.saturating_add(patience_ms), patience_ms }
    }

    /// The longest time that the pass may take, in milliseconds.
    #[must_use]
    pub fn patience_ms(self) -> u64 {
        self.patience_ms
    }

    #[must_use]
    pub fn step(self, now_ms: u64, seen: Seen) -> Next {
        if seen.fence_lost {
            Next::FenceLost
        } else if seen.idle {
            Next::Finished
        } else if now_ms >= self.until_ms {
            Next::GivenUp
        } else if seen.journal_refuses {
            Next::RetryJournal { until_ms: self.until_ms.min(now_ms.saturating_add(JOURNAL_RETRY_MS)) }
        } else {
            Next::Wait { until_ms: self.until_ms }
        }
    }
}

#[cfg(test)]
mod tests;
