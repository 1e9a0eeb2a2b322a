// SPDX-License-Identifier: GPL-3.0-or-later
//! The two clocks a decision may look at. The core never reads a clock itself.

use serde::{Deserialize, Serialize};

/// One moment, read from both clocks at once by the driver.
///
/// Waiting and ageing use `mono_ms`, which never jumps; `unix_ms` is for what people and EC2 read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Milliseconds of a monotonic clock with an arbitrary origin.
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

impl Now {
    /// Milliseconds from `earlier` (a `mono_ms`) to now; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: u64) -> u64 {
        self.mono_ms.saturating_sub(earlier)
    }

    /// The same moment, `ms` later on both clocks.
    #[must_use]
    pub fn plus(self, ms: u64) -> Self {
        Self { mono_ms: self.mono_ms.saturating_add(ms), unix_ms: self.unix_ms.saturating_add(ms) }
    }
}
