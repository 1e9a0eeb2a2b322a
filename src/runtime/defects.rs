// SPDX-License-Identifier: GPL-3.0-or-later
//! How often something that panicked is started again before it is left alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Starts after a panic within [`WINDOW`]. A panic that follows from the state itself comes back at once, and its
/// reports must not fill slurmctld's log.
pub const ATTEMPTS: usize = 3;

pub const WINDOW: Duration = Duration::from_mins(10);

/// The panics of the last [`WINDOW`].
#[derive(Debug, Default)]
pub struct Defects(VecDeque<Instant>);

impl Defects {
    /// Note a panic; the number of this attempt if another start is allowed.
    pub fn attempt(&mut self, now: Instant) -> Option<usize> {
        while self.0.front().is_some_and(|first| now.saturating_duration_since(*first) >= WINDOW) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        (self.0.len() <= ATTEMPTS).then_some(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fourth_panic_within_the_window_is_the_last() {
        let (mut defects, start) = (Defects::default(), Instant::now());
        for attempt in 1..=ATTEMPTS {
            assert_eq!(defects.attempt(start), Some(attempt));
        }
        assert_eq!(defects.attempt(start + WINDOW / 2), None);
    }

    #[test]
    fn panics_that_are_rare_never_end_it() {
        let (mut defects, start) = (Defects::default(), Instant::now());
        for round in 0..100 {
            assert_eq!(defects.attempt(start + WINDOW * round), Some(1));
        }
    }
}
