// SPDX-License-Identifier: GPL-3.0-or-later
//! The simulator: the production core, journal and driver in a cluster of models, moved by one seed.
//!
//! `SEEDS` sets how many seeds this test runs; `make sim SEEDS=N` runs many and prints what happened, and
//! `cargo run --example sim -- --seed N` replays one with its trace.

#[allow(dead_code)]
mod model;

use model::mutant::Mutant;
use model::run::{run, run_many};

const SEEDS: u64 = 150;

#[test]
fn no_seed_breaks_a_promise() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    let total = run_many(0, seeds, None, 2, 5);
    for (seed, violation) in &total.violations {
        println!("{violation}\n  replay: cargo run --example sim -- --seed {seed}");
    }
    assert!(
        total.violations.is_empty(),
        "{} of {} seeds broke a promise",
        total.violations.len(),
        total.seeds
    );
    assert!(total.power_ups > 0 && total.jobs > 0, "{total:?}");
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let (first, second) = (run(7, None, true), run(7, None, true));
    assert_eq!(first.trace, second.trace);
    assert!(first.trace.len() > 100);
}

#[test]
fn every_planted_bug_is_found_within_two_thousand_seeds() {
    for mutant in Mutant::ALL {
        let total = run_many(0, 2_000, Some(mutant), 2, 1);
        assert!(!total.violations.is_empty(), "{mutant:?} was not found in {} seeds", total.seeds);
        println!("{mutant:?}: {} seeds: {}", total.seeds, total.violations[0].1);
    }
}
