// SPDX-License-Identifier: GPL-3.0-or-later
//! `make bench`: what the plugin costs and saves, on this machine, with a real slurmctld and an emulated EC2.
//!
//! Prints a table and writes the numbers, with machine and commit, as JSON into the file of `BENCH_JSON`
//! (target/bench.json). Comparisons are made within one run, so that their ratio means something on any machine; no number
//! makes it fail. Arguments choose parts: `engine`, `event`, `thousand`, `scan`, `sbatch`, `tool`.

mod cluster;
mod engine;
mod numbers;
mod tool;

use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use ec2fleet_rig::{Outcome, paths};
use numbers::Numbers;
use serde_json::json;

type Part = (&'static str, fn(&mut Numbers) -> Outcome<()>);

const PARTS: [Part; 7] = [
    ("size", size),
    ("engine", engine::run),
    ("event", cluster::event_to_call),
    ("thousand", cluster::thousand),
    ("scan", cluster::scan),
    ("sbatch", cluster::sbatch),
    ("tool", tool::run),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let mut numbers = Numbers::default();
    let mut failed = false;
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            eprintln!("== {name}");
            if let Err(error) = part(&mut numbers) {
                eprintln!("{name}: {error}");
                failed = true;
            }
        }
    }
    print!("{}", numbers.table());
    let file = std::env::var_os("BENCH_JSON")
        .map_or_else(|| paths::build().with_file_name("bench.json"), std::path::PathBuf::from);
    let report = json!({
        "machine": machine(),
        "commit": commit(),
        "profile": if cfg!(debug_assertions) { "dev" } else { "release" },
        "unix_s": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        "numbers": numbers.json(),
    });
    if let Err(error) = std::fs::write(&file, format!("{report:#}\n")) {
        eprintln!("{}: {error}", file.display());
        failed = true;
    }
    println!("\n{}", file.display());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn machine() -> serde_json::Value {
    let first = |file: &str, key: &str| {
        std::fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .find_map(|line| {
                line.strip_prefix(key).map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
            })
            .unwrap_or_default()
    };
    json!({
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "memory": first("/proc/meminfo", "MemTotal"),
        "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "slurm": paths::slurm_release().map_or(String::new(), |(major, minor)| format!("{major}.{minor:02}")),
    })
}

fn commit() -> String {
    Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .current_dir(paths::source())
        .output()
        .map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What slurmctld maps: the library without its line tables, as it is packaged.
fn size(numbers: &mut Numbers) -> Outcome<()> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let stripped = folder.path().join("library.so");
    ec2fleet_rig::process::run(
        Command::new("strip").args(["--strip-unneeded", "-o"]).arg(&stripped).arg(paths::library()?),
    )?;
    let bytes = std::fs::metadata(&stripped).map_err(|e| e.to_string())?.len();
    numbers.put("library, stripped", bytes as f64 / 1e6, "MB");
    Ok(())
}
