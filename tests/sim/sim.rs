// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs the simulator of tests/sim over many seeds, or one seed with its trace.

use std::fmt::Debug;
use std::num::NonZero;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::Parser;

use ec2fleet_sim::mutant::Mutant;
use ec2fleet_sim::plan::Scenario;
use ec2fleet_sim::run::{Choice, Total, run, run_many};

#[derive(Parser)]
#[command(about = "Runs the production core, journal and driver in a simulated cluster")]
struct Options {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run this one seed and print what happens in it.
    #[arg(long)]
    seed: Option<u64>,
    /// How many of them at once; as many as there are processors unless it is given.
    #[arg(long, short)]
    jobs: Option<usize>,
    /// Plant this bug, for example NoFence (tests/sim/model/mutant.rs).
    #[arg(long)]
    mutant: Option<String>,
    /// Only this scenario, for example MaintainNode (tests/sim/model/plan.rs).
    #[arg(long)]
    scenario: Option<String>,
    /// Stop after this many broken promises.
    #[arg(long, default_value_t = 10)]
    violations: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let choice = match (named(&options.mutant, &Mutant::ALL), named(&options.scenario, &Scenario::ALL)) {
        (Ok(mutant), Ok(scenario)) => Choice { mutant, scenario },
        (Err(known), _) | (_, Err(known)) => {
            eprintln!("known are: {known}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(seed) = options.seed {
        let run = run(seed, choice, true);
        for line in &run.trace {
            println!("{line}");
        }
        println!("seed {seed}: {}", run.violation.as_deref().unwrap_or("every promise held"));
        return if run.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let jobs = options.jobs.unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get));
    let total = run_many(options.first, options.seeds, choice, jobs, options.violations);
    report(&total);
    if total.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The one of that name, or the names there are.
fn named<T: Copy + Debug>(name: &Option<String>, all: &[T]) -> Result<Option<T>, String> {
    let Some(name) = name else { return Ok(None) };
    all.iter().copied().find(|one| format!("{one:?}") == *name).map(Some).ok_or_else(|| format!("{all:?}"))
}

#[allow(clippy::cast_precision_loss)]
fn report(total: &Total) {
    let seconds = total.took.as_secs_f64().max(0.001);
    println!("seeds                   {}", total.seeds);
    println!("simulated cluster-hours {:.0}", total.hours());
    println!("cluster-hours a second  {:.1}", total.hours() / seconds);
    println!("steps                   {}", total.steps);
    println!("power-ups               {}", total.power_ups);
    println!("instances launched      {}", total.instances);
    println!("jobs finished           {}", total.jobs);
    println!("faults injected         {}", total.faults.iter().map(|(_, count)| count).sum::<u64>());
    for (fault, count) in &total.faults {
        println!("  {:<21} {count}", format!("{fault:?}"));
    }
    println!("violations              {}", total.violations.len());
    for (seed, violation) in &total.violations {
        println!("  seed {seed}: {violation}");
        println!("    replay: make sim SEED={seed}");
    }
}
