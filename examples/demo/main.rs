// SPDX-License-Identifier: GPL-3.0-or-later
//! `make demo`: one job on a real cluster whose compute nodes come from EC2 (emulated), from sbatch to the last
//! terminated instance. Exit code 0 only if the job ran on all its nodes and no instance is left.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::slurm::has_state;
use ec2fleet_rig::{Outcome, wait};
use serde_json::Value;

const NODES: u32 = 4;

fn main() -> ExitCode {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("demo: cannot catch Ctrl-C: {error}");
            return ExitCode::FAILURE;
        }
    }
    wait::interrupt_by(interrupted);
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Outcome<()> {
    println!("Starting munge, slurmctld with the plugin, and ec2-emulator …");
    let cluster = Cluster::start(&Options { nodes: NODES, ..Options::default() })?;
    cluster.wait_for_plugin()?;
    let result = run_job(&cluster);
    if result.is_err() && wait::check_interrupted().is_ok() {
        eprintln!("{}", cluster.diagnosis());
    }
    println!("\nStopping and removing everything …");
    drop(cluster);
    result
}

/// Prints each event with the time since sbatch.
struct Story<'a> {
    cluster: &'a Cluster,
    start: Instant,
    start_unix_ms: u64,
    shown: usize,
    said: BTreeSet<String>,
}

impl Story<'_> {
    fn line(&self, after: f64, who: &str, text: &str) {
        println!("{after:>8.3} s  {who:<9} {text}");
    }

    /// Something seen from outside, said once.
    fn seen(&mut self, who: &str, text: String) {
        let after = self.start.elapsed().as_secs_f64();
        if self.said.insert(text.clone()) {
            self.events();
            self.line(after, who, &text);
        }
    }

    /// What the plugin has written since the last time.
    fn events(&mut self) {
        let events = self.cluster.events();
        for event in &events[self.shown.min(events.len())..] {
            let unix_ms = event["unix_ms"].as_u64().unwrap_or(0);
            if unix_ms < self.start_unix_ms || event["severity"] == "debug" {
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a demo")]
            let after = (unix_ms - self.start_unix_ms) as f64 / 1000.0;
            self.line(after, "ec2fleet", &describe(event));
        }
        self.shown = events.len();
    }
}

fn describe(event: &Value) -> String {
    let kind = event["kind"].as_str().unwrap_or("?");
    let nodes = event["nodes"].as_str().unwrap_or("");
    let mut text = format!("{kind:<20} {}", event["text"].as_str().unwrap_or(""));
    if !nodes.is_empty() && !text.contains(nodes) {
        text.push_str(&format!("  [{nodes}]"));
    }
    if let Some(ms) = event["after_ms"].as_u64() {
        text.push_str(&format!("  ({ms} ms)"));
    }
    text
}

fn run_job(cluster: &Cluster) -> Outcome<()> {
    let slurm = &cluster.slurm;
    let output = cluster.scratch.path().join("job.out");
    let start_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_millis();
    let mut story = Story {
        cluster,
        start: Instant::now(),
        start_unix_ms: u64::try_from(start_unix_ms).map_err(|e| e.to_string())?,
        shown: cluster.events().len(),
        said: BTreeSet::new(),
    };
    println!("\n$ sbatch -N{NODES} job.sh\n");
    let job = slurm.sbatch(
        &["-N", &NODES.to_string(), "-o", &output.display().to_string()],
        "srun sh -c 'echo $SLURMD_NODENAME'",
    )?;
    story.seen("slurm", format!("job {job} is submitted; every node is powered down"));

    let mut used: BTreeSet<String> = BTreeSet::new();
    let end = wait::until("the end of the job", || {
        story.events();
        for instance in cluster.emulator.living_instances()? {
            story.seen(
                "ec2",
                format!("{} {} at {} is {}", instance.id, instance.kind, instance.address, instance.state),
            );
            used.insert(instance.id);
        }
        for node in slurm.nodes()? {
            if !has_state(&node, "POWERING_UP") && !has_state(&node, "POWERED_DOWN") {
                story.seen("slurm", format!("{} has registered from {}", node["NodeName"], node["NodeAddr"]));
            }
        }
        let state = slurm.job(job)?["JobState"].clone();
        match state.as_str() {
            "PENDING" | "CONFIGURING" | "COMPLETING" => Ok(None),
            "RUNNING" => {
                story.seen("slurm", format!("job {job} is running"));
                Ok(None)
            }
            _ => Ok(Some(state)),
        }
    })?;
    story.seen("slurm", format!("job {job} is {end}"));
    let ran_on: BTreeSet<String> =
        std::fs::read_to_string(&output).unwrap_or_default().lines().map(str::to_owned).collect();
    for node in &ran_on {
        story.seen("job", format!("ran on {node}"));
    }
    let ran_after = story.start.elapsed();

    wait::until("the nodes to be suspended and the instances to be terminated", || {
        story.events();
        let nodes = slurm.nodes()?;
        for node in &nodes {
            if has_state(node, "POWERING_DOWN") {
                story.seen("slurm", format!("{} is suspended", node["NodeName"]));
            }
        }
        let down = nodes.iter().all(|node| has_state(node, "POWERED_DOWN"));
        let living = cluster.emulator.living_instances()?;
        for id in used.iter().filter(|id| !living.iter().any(|instance| &instance.id == *id)) {
            story.seen("ec2", format!("{id} is terminated"));
        }
        Ok((down && living.is_empty()).then_some(()))
    })?;
    story.events();

    let errors: Vec<String> = slurm
        .log_text()
        .lines()
        .filter(|line| line.contains("error:") && line.contains("ec2_fleet"))
        .map(str::to_owned)
        .collect();
    println!("\nSummary");
    println!("  job {job}: {end}, ran on {} of {NODES} nodes", ran_on.len());
    println!("  instances launched: {}, left: {}", used.len(), cluster.emulator.living_instances()?.len());
    println!("  EC2 calls: {}", calls_text(cluster)?);
    println!(
        "  from sbatch to the job's end: {}, to the last terminated instance: {}",
        seconds(ran_after),
        seconds(story.start.elapsed())
    );
    println!("  errors of ours in slurmctld's log: {}", errors.len());
    for error in &errors {
        println!("    {error}");
    }

    if end != "COMPLETED" {
        return Err(format!("the job is {end}"));
    }
    if ran_on.len() != NODES as usize {
        return Err(format!("the job ran on {ran_on:?} only"));
    }
    if !errors.is_empty() {
        return Err("slurmctld's log has errors of ours".to_owned());
    }
    Ok(())
}

fn calls_text(cluster: &Cluster) -> Outcome<String> {
    let calls = cluster.emulator.calls()?;
    let parts: Vec<String> = calls.iter().map(|(action, count)| format!("{action} {count}")).collect();
    Ok(parts.join(", "))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
