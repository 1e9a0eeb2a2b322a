// SPDX-License-Identifier: GPL-3.0-or-later
//! One seed, or many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chaos::Fault;
use super::kernel::Kernel;
use super::mutant::Mutant;
use super::plan::Scenario;
use super::world::World;

/// What is not left to the seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    pub mutant: Option<Mutant>,
    pub scenario: Option<Scenario>,
}

/// What one seed led to.
#[derive(Clone, Debug, Default)]
pub struct Run {
    pub violation: Option<String>,
    pub simulated_ms: u64,
    pub steps: u64,
    pub power_ups: u64,
    pub jobs: u64,
    pub instances: u64,
    pub faults: Vec<(Fault, u64)>,
    pub trace: Vec<String>,
}

/// Run one seed to its end or to the first broken promise.
#[must_use]
pub fn run(seed: u64, choice: Choice, traced: bool) -> Run {
    let kernel = Kernel::new(fastrand::Rng::with_seed(seed), traced);
    let mut world = World::new(kernel, choice);
    let panic = catch_unwind(AssertUnwindSafe(|| while world.step() {})).err();
    if let Some(panic) = panic {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        world.k.violate(|| format!("panic: {text}"));
    }
    Run {
        violation: world.k.violation.clone(),
        simulated_ms: world.k.now,
        steps: world.k.steps,
        power_ups: world.slurm.stats.power_ups,
        jobs: world.slurm.stats.jobs_done,
        instances: world.ec2.machines.len() as u64,
        faults: world.k.chaos.counts().collect(),
        trace: world.k.take_trace(),
    }
}

/// The sum of many seeds.
#[derive(Debug, Default)]
pub struct Total {
    pub seeds: u64,
    pub simulated_ms: u64,
    pub steps: u64,
    pub power_ups: u64,
    pub jobs: u64,
    pub instances: u64,
    pub faults: Vec<(Fault, u64)>,
    /// Seeds that broke a promise, with the promise.
    pub violations: Vec<(u64, String)>,
    pub took: Duration,
}

impl Total {
    fn add(&mut self, seed: u64, run: Run) {
        self.seeds += 1;
        self.simulated_ms += run.simulated_ms;
        self.steps += run.steps;
        self.power_ups += run.power_ups;
        self.jobs += run.jobs;
        self.instances += run.instances;
        if self.faults.is_empty() {
            self.faults = run.faults;
        } else {
            for (sum, (_, count)) in self.faults.iter_mut().zip(run.faults) {
                sum.1 += count;
            }
        }
        if let Some(violation) = run.violation {
            self.violations.push((seed, violation));
        }
    }

    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn hours(&self) -> f64 {
        self.simulated_ms as f64 / 3_600_000.0
    }
}

/// Run `count` seeds from `first` on `threads` threads; stop after `most` violations.
#[must_use]
pub fn run_many(first: u64, count: u64, choice: Choice, threads: usize, most: usize) -> Total {
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let enough = AtomicBool::new(false);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let run = run(seed, choice, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.add(seed, run);
                    if total.violations.len() >= most {
                        enough.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.violations.sort();
    total.took = started.elapsed();
    total
}
