// SPDX-License-Identifier: GPL-3.0-or-later
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn seen(fence_lost: bool, idle: bool, journal_refuses: bool) -> Seen {
    Seen { fence_lost, idle, journal_refuses }
}

#[test]
fn what_a_pass_does_next() {
    let pass = Pass::begin(1_000, 300);
    assert_eq!(pass.patience_ms(), 360_000);
    let (early, last, late) = (1_000, 360_999, 361_000);
    let wait = Next::Wait { until_ms: late };
    let retry = |until_ms| Next::RetryJournal { until_ms };
    let rows = [
        (early, seen(false, false, false), wait),
        (last, seen(false, false, false), wait),
        (late, seen(false, false, false), Next::GivenUp),
        (early, seen(false, true, false), Next::Finished),
        (late, seen(false, true, false), Next::Finished),
        // Nothing is owed, so that nothing waits for the journal.
        (early, seen(false, true, true), Next::Finished),
        (early, seen(false, false, true), retry(2_000)),
        (last, seen(false, false, true), retry(late)),
        (late, seen(false, false, true), Next::GivenUp),
        // What this process believes counts no more.
        (early, seen(true, true, false), Next::FenceLost),
        (late, seen(true, false, true), Next::FenceLost),
    ];
    for (now_ms, seen, expected) in rows {
        assert_eq!(pass.step(now_ms, seen), expected, "{now_ms} {seen:?}");
    }
}

#[test]
fn a_program_waits_a_minute_for_the_pass_before_it() {
    let wait = FenceWait::begin(7_000);
    assert_eq!(wait.held(7_000), Some(50));
    assert_eq!(wait.held(66_999), Some(50));
    assert_eq!(wait.held(67_000), None);
}

proptest! {
    #[test]
    fn every_pass_ends_when_its_patience_does(
        resume_timeout_s in 0_u32..100_000,
        began in 0_u64..1_000_000_000,
        turns in vec((1_u64..30_000, any::<bool>()), 1..400),
    ) {
        let pass = Pass::begin(began, resume_timeout_s);
        let mut now_ms = began;
        for (event_after, journal_refuses) in turns {
            let next = pass.step(now_ms, seen(false, false, journal_refuses));
            now_ms = match next {
                Next::Wait { until_ms } | Next::RetryJournal { until_ms } => {
                    prop_assert!(!journal_refuses || until_ms <= now_ms + JOURNAL_RETRY_MS);
                    (now_ms + event_after).min(until_ms)
                }
                other => {
                    prop_assert_eq!(other, Next::GivenUp);
                    prop_assert_eq!(now_ms, began + pass.patience_ms());
                    break;
                }
            };
            prop_assert!(now_ms <= began + pass.patience_ms());
        }
    }
}
