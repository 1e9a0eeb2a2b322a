// SPDX-License-Identifier: GPL-3.0-or-later
//! The real clocks, read for the engine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ec2fleet_core::time::Now;

/// Both clocks, with an origin for the monotonic one.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock {
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono_ms: millis(self.origin.elapsed()), unix_ms: unix_ms() }
    }

    /// The instant of a `mono_ms`.
    #[must_use]
    pub fn instant(&self, mono_ms: u64) -> Instant {
        self.origin + Duration::from_millis(mono_ms)
    }
}

/// Milliseconds since 1970; 0 for a clock before that.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
