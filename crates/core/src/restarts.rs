// SPDX-License-Identifier: GPL-3.0-or-later
//! What follows when an engine ends or cannot begin: at once another one, another one later, or none.
//!
//! The policy alone, without a clock: the plugin and the simulator both ask it.

use std::collections::VecDeque;

/// So many panics within [`WINDOW_MS`] are followed by another start. A panic that follows from the state itself comes
/// back at once, and its reports must not fill slurmctld's log.
pub const ATTEMPTS: usize = 3;

/// The panics of this time are counted. The unit is milliseconds.
pub const WINDOW_MS: u64 = 600_000;

/// An engine that cannot begin is tried again after this time. The unit is milliseconds.
pub const RETRY_MS: u64 = 1_000;

/// A controller that is a standby looks for its role again after this time. The unit is milliseconds.
pub const ROLE_POLL_MS: u64 = 25;

/// Why no engine acts at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inactive {
    /// Another controller is the primary one.
    Standby,
    /// The configuration, the fence or the journal forbids it.
    Refused,
    /// It has ended because its controller is not the primary one any more, or because another process has the fence.
    Resigned,
    /// It panicked, while it began or later.
    Panicked,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at the role, and begin, after so many milliseconds.
    After { ms: u64 },
    /// Begin anew from the journal, now. `attempt` counts the panics of the last [`WINDOW_MS`], up to [`ATTEMPTS`].
    Restart { attempt: usize },
    /// Never begin again in this process: the programs do the work.
    StayPassive,
}

/// The panics of the last [`WINDOW_MS`].
#[derive(Clone, Debug, Default)]
pub struct Restarts(VecDeque<u64>);

impl Restarts {
    /// What to do now. `now_ms` is on a monotonic clock.
    pub fn step(&mut self, now_ms: u64, why: Inactive) -> Next {
        match why {
            Inactive::Standby => Next::After { ms: ROLE_POLL_MS },
            Inactive::Refused => Next::After { ms: RETRY_MS },
            Inactive::Resigned => Next::After { ms: 0 },
            Inactive::Panicked => {
                while self.0.front().is_some_and(|first| now_ms.saturating_sub(*first) >= WINDOW_MS) {
                    self.0.pop_front();
                }
                self.0.push_back(now_ms);
                if self.0.len() <= ATTEMPTS {
                    Next::Restart { attempt: self.0.len() }
                } else {
                    Next::StayPassive
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_fourth_panic_within_the_window_is_the_last() {
        let (mut restarts, start) = (Restarts::default(), 5_000);
        for attempt in 1..=ATTEMPTS {
            assert_eq!(restarts.step(start, Inactive::Panicked), Next::Restart { attempt });
        }
        assert_eq!(restarts.step(start + WINDOW_MS / 2, Inactive::Panicked), Next::StayPassive);
    }

    #[test]
    fn panics_that_are_rare_never_end_it() {
        let mut restarts = Restarts::default();
        for round in 0..100 {
            assert_eq!(restarts.step(round * WINDOW_MS, Inactive::Panicked), Next::Restart { attempt: 1 });
        }
    }

    #[test]
    fn an_engine_that_may_not_act_is_tried_again_and_again() {
        let mut restarts = Restarts::default();
        for now_ms in 0..1_000 {
            assert_eq!(restarts.step(now_ms, Inactive::Standby), Next::After { ms: 25 });
            assert_eq!(restarts.step(now_ms, Inactive::Refused), Next::After { ms: 1_000 });
            assert_eq!(restarts.step(now_ms, Inactive::Resigned), Next::After { ms: 0 });
        }
        assert_eq!(restarts.step(1_000, Inactive::Panicked), Next::Restart { attempt: 1 });
    }

    fn inactive() -> impl Strategy<Value = Inactive> {
        prop_oneof![
            Just(Inactive::Standby),
            Just(Inactive::Refused),
            Just(Inactive::Resigned),
            Just(Inactive::Panicked)
        ]
    }

    proptest! {
        #[test]
        fn passive_is_exactly_who_has_panicked_more_often_than_the_attempts_in_the_window(
            steps in vec((0_u64..400_000, inactive()), 1..60),
        ) {
            let (mut restarts, mut panics, mut now_ms) = (Restarts::default(), Vec::new(), 0);
            for (after, why) in steps {
                now_ms += after;
                let next = restarts.step(now_ms, why);
                if why != Inactive::Panicked {
                    prop_assert!(matches!(next, Next::After { .. }), "{why:?} {next:?}");
                    continue;
                }
                panics.push(now_ms);
                let counted = panics.iter().filter(|at| now_ms - **at < WINDOW_MS).count();
                let expected =
                    if counted > ATTEMPTS { Next::StayPassive } else { Next::Restart { attempt: counted } };
                prop_assert_eq!(next, expected);
            }
        }
    }
}
