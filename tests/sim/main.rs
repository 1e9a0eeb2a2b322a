// SPDX-License-Identifier: GPL-3.0-or-later
//! The simulator: the production core, journal and driver in a cluster of models, moved by one seed.
//!
//! `make sim SEEDS=N` runs many seeds and prints what happened; `make sim SEED=N` replays one with its trace.
//!
//! `make test` runs this test twice: a few seeds as part of `cargo test`, in whose unoptimised build the simulator is
//! thirty times slower, and all of it in the build of `make sim`, which is optimised.

#[cfg(optimised)]
use ec2fleet_sim::mutant::Mutant;
use ec2fleet_sim::run::{Choice, run, run_many};

const SEEDS: u64 = if cfg!(optimised) { 2_000 } else { 40 };

#[test]
fn no_seed_breaks_a_promise() {
    let total = run_many(0, SEEDS, Choice::default(), 2, 5);
    for (seed, violation) in &total.violations {
        println!("{violation}\n  replay: make sim SEED={seed}");
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
    let (first, second) = (run(7, Choice::default(), true), run(7, Choice::default(), true));
    assert_eq!(first.trace, second.trace);
    assert!(first.trace.len() > 100);
}

#[cfg(optimised)]
#[test]
fn every_planted_bug_is_found_within_two_thousand_seeds() {
    for mutant in Mutant::ALL {
        let choice = Choice { mutant: Some(mutant), ..Choice::default() };
        let total = run_many(0, 2_000, choice, 2, 1);
        assert!(!total.violations.is_empty(), "{mutant:?} was not found in {} seeds", total.seeds);
        println!("{mutant:?}: {} seeds: {}", total.seeds, total.violations[0].1);
    }
}
