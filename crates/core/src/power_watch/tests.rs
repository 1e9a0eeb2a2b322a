// SPDX-License-Identifier: GPL-3.0-or-later
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn look(last_node_update: i64) -> Observation {
    Observation::Look { last_node_update, answers_wait: false }
}

fn read(full: bool, empty: bool) -> Observation {
    Observation::Read { full, empty, reconfigured: false }
}

fn reading() -> Ask {
    Ask::HandOver { reconfigured: false, rescan: false, reading: true }
}

const NOTHING_NEW: Ask = Ask::HandOver { reconfigured: false, rescan: false, reading: false };
const FULL: Ask = Ask::Read { full: true };
const CHANGES: Ask = Ask::Read { full: false };

/// Each row: the moment, what is observed, what is asked.
fn hold(name: &str, rows: &[(u64, Observation, Ask)]) {
    let mut watch = PowerWatch::default();
    for (row, (now_ms, seen, expected)) in rows.iter().enumerate() {
        assert_eq!(watch.step(*now_ms, *seen), *expected, "{name}, row {row}: {seen:?} at {now_ms}");
    }
}

#[test]
fn what_is_asked_follows_from_what_was_seen() {
    use Observation::{FullWanted, QueueFull};
    let waits = Observation::Look { last_node_update: 7, answers_wait: true };
    hold(
        "an engine begins to listen",
        &[
            (0, FullWanted, Ask::Nothing),
            (1, look(7), FULL),
            (1, read(true, false), reading()),
            (3_500, look(7), CHANGES),
            (3_500, read(false, true), NOTHING_NEW),
            (3_520, look(7), Ask::Nothing),
        ],
    );
    hold(
        "bitmaps that are not there are asked for at the next look",
        &[(0, FullWanted, Ask::Nothing), (0, look(7), FULL), (20, look(7), FULL)],
    );
    hold(
        "the complete sets are handed over though they are empty",
        &[(0, FullWanted, Ask::Nothing), (0, look(7), FULL), (0, read(true, true), reading())],
    );
    hold(
        "a wish that comes between a look and its reading outlives the reading",
        &[
            (0, look(7), CHANGES),
            (0, FullWanted, Ask::Nothing),
            (0, read(false, false), reading()),
            (20, look(7), FULL),
        ],
    );
    hold(
        "no reading overtakes an answer",
        &[
            (0, FullWanted, Ask::Nothing),
            (0, waits, Ask::Nothing),
            (20, waits, Ask::Nothing),
            (40, look(7), FULL),
        ],
    );
    hold(
        "a lost reading is replaced by a full one and a look at everything",
        &[
            (0, look(7), CHANGES),
            (0, read(false, false), reading()),
            (0, QueueFull, Ask::Nothing),
            (20, look(7), FULL),
            (20, read(true, false), Ask::HandOver { reconfigured: false, rescan: true, reading: true }),
            (40, look(7), CHANGES),
        ],
    );
    hold(
        "a replacement that is lost, too, is replaced",
        &[
            (0, QueueFull, Ask::Nothing),
            (0, look(7), FULL),
            (0, read(true, false), Ask::HandOver { reconfigured: false, rescan: true, reading: true }),
            (0, QueueFull, Ask::Nothing),
            (20, look(7), FULL),
            (20, read(true, false), Ask::HandOver { reconfigured: false, rescan: true, reading: true }),
            (40, look(7), CHANGES),
        ],
    );
}

#[test]
fn slurmctld_has_read_slurm_conf_again_only_after_a_first_reading() {
    let mut watch = PowerWatch::default();
    let reconfigured = Observation::Read { full: false, empty: true, reconfigured: true };
    assert_eq!(watch.step(0, reconfigured), NOTHING_NEW);
    let said = Ask::HandOver { reconfigured: true, rescan: false, reading: false };
    assert_eq!(watch.step(20, reconfigured), said);
}

#[test]
fn readings_go_on_for_a_while_after_a_move_and_never_stop() {
    let mut watch = PowerWatch::default();
    let mut readings = Vec::new();
    // last_node_update moves at 1,000 ms; power save changes the bitmaps some time later without moving it.
    for ms in (0..10_000).step_by(20) {
        if watch.step(ms, look(if ms < 1_000 { 7 } else { 8 })) == CHANGES {
            watch.step(ms, read(false, true));
            readings.push(ms);
        }
    }
    let longest = |from, to| {
        readings.windows(2).filter(|w| w[0] >= from && w[1] < to).map(|w| w[1] - w[0]).max().unwrap()
    };
    assert_eq!(longest(1_000, 4_000), 20);
    assert_eq!(longest(5_000, 10_000), 200);
}

/// What happens beside the looks, which come every [`LOOK_INTERVAL_MS`].
#[derive(Clone, Copy, Debug)]
enum Happens {
    Nothing,
    /// slurmctld moves `last_node_update`.
    Moves,
    FullWanted,
    /// An answer finds the queue full, and waits until the next look.
    AnswerWaits,
    /// The bitmaps are not there.
    NotThere,
    /// The queue is full when something is handed over.
    QueueFull,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        12 => Just(Happens::Nothing),
        1 => Just(Happens::Moves),
        1 => Just(Happens::FullWanted),
        2 => Just(Happens::AnswerWaits),
        1 => Just(Happens::NotThere),
        1 => Just(Happens::QueueFull),
    ]
}

/// One look: when, what was asked, what was handed over, and what was lost of it.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: u64,
    happens: Happens,
    ask: Ask,
    given: Ask,
}

fn run(happenings: &[Happens]) -> Vec<Look> {
    let (mut watch, mut last_node_update, mut looks) = (PowerWatch::default(), 7, Vec::new());
    for (number, happens) in happenings.iter().enumerate() {
        let at = number as u64 * LOOK_INTERVAL_MS;
        match happens {
            Happens::Moves => last_node_update += 1,
            Happens::FullWanted => assert_eq!(watch.step(at, Observation::FullWanted), Ask::Nothing),
            _ => {}
        }
        let answers_wait = matches!(happens, Happens::AnswerWaits);
        let ask = watch.step(at, Observation::Look { last_node_update, answers_wait });
        let mut given = Ask::Nothing;
        if let Ask::Read { full } = ask
            && !matches!(happens, Happens::NotThere)
        {
            given = watch.step(at, read(full, number % 3 > 0));
            if matches!(happens, Happens::QueueFull) {
                watch.step(at, Observation::QueueFull);
            }
        }
        looks.push(Look { at, happens: *happens, ask, given });
    }
    looks
}

proptest! {
    #[test]
    fn a_reading_is_never_longer_ago_than_the_interval_and_one_look(happenings in vec(happens(), 1..400)) {
        let mut read_at = 0;
        for look in run(&happenings) {
            if look.given != Ask::Nothing {
                read_at = look.at;
            }
            let hindered = matches!(look.happens, Happens::AnswerWaits | Happens::NotThere);
            prop_assert!(hindered || look.at - read_at < SCAN_INTERVAL_MS + LOOK_INTERVAL_MS, "{look:?}");
        }
    }

    #[test]
    fn without_moves_and_wishes_there_are_five_readings_a_second(seconds in 2_usize..20) {
        let looks = run(&vec![Happens::Nothing; seconds * 50]);
        let after = looks.iter().filter(|look| look.at >= AFTER_MOVE_MS);
        let readings = after.filter(|look| look.ask != Ask::Nothing).count();
        let idle = seconds.saturating_sub(3);
        prop_assert!(readings <= idle * 5 + 1, "{readings} in {idle} s");
    }

    #[test]
    fn no_reading_is_made_while_an_answer_waits(happenings in vec(happens(), 1..400)) {
        for look in run(&happenings) {
            prop_assert!(!matches!(look.happens, Happens::AnswerWaits) || look.ask == Ask::Nothing, "{look:?}");
        }
    }

    #[test]
    fn what_was_lost_or_wanted_is_followed_by_a_full_reading(happenings in vec(happens(), 1..400)) {
        let (mut wanted, mut lost) = (false, false);
        for look in run(&happenings) {
            wanted |= matches!(look.happens, Happens::FullWanted);
            if !matches!(look.happens, Happens::AnswerWaits) && (wanted || lost) {
                prop_assert_eq!(look.ask, FULL, "{:?}", look);
            }
            if let Ask::HandOver { rescan, reading, .. } = look.given {
                prop_assert_eq!(rescan, lost, "{:?}", look);
                prop_assert!(!wanted || reading, "{look:?}");
                (wanted, lost) = (false, matches!(look.happens, Happens::QueueFull));
            }
        }
    }

    #[test]
    fn the_complete_sets_are_read_only_when_wanted_or_lost(happenings in vec(happens(), 1..400)) {
        let (mut wanted, mut lost) = (false, false);
        for look in run(&happenings) {
            wanted |= matches!(look.happens, Happens::FullWanted);
            prop_assert!(look.ask != FULL || wanted || lost, "{look:?}");
            if look.given != Ask::Nothing {
                (wanted, lost) = (false, matches!(look.happens, Happens::QueueFull));
            }
        }
    }
}
