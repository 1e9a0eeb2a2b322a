// SPDX-License-Identifier: GPL-3.0-or-later
//! With a real slurmctld. Instances run no slurmd here: this is about slurmctld, the plugin and EC2.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::numbers::{Numbers, percentile};
use ec2fleet_rig::cluster::{Cluster, Options};
use ec2fleet_rig::instances::{Verb, write_program};
use ec2fleet_rig::slurm::has_state;
use ec2fleet_rig::{Outcome, wait};

/// A cluster whose instances boot nothing.
pub fn cluster(nodes: u32, more: Options) -> Outcome<Cluster> {
    let mut cluster = Cluster::start(&Options {
        nodes,
        start: false,
        suspend_time: 86_400,
        resume_timeout: 3_600,
        ..more
    })?;
    for verb in [Verb::Boot, Verb::End, Verb::Freeze, Verb::Thaw] {
        write_program(&cluster.instances.program(verb), "#!/bin/sh\n")?;
    }
    cluster.slurm.start()?;
    cluster.wait_for_plugin()?;
    Ok(cluster)
}

fn status(cluster: &Cluster) -> Outcome<Value> {
    let text = cluster.ec2fleet(&["status", "--json"])?;
    serde_json::from_str(&text).map_err(|e| format!("ec2fleet status: {e}"))
}

fn calls_since(cluster: &Cluster, before: &BTreeMap<String, u64>) -> Outcome<BTreeMap<String, u64>> {
    let mut calls = cluster.emulator.calls()?;
    for (action, count) in &mut calls {
        *count -= before.get(action).unwrap_or(&0);
    }
    calls.retain(|_, count| *count > 0);
    Ok(calls)
}

/// RPCs that slurmctld has served, by `sdiag`.
fn rpcs(cluster: &Cluster) -> Outcome<BTreeMap<String, u64>> {
    let text = ec2fleet_rig::process::run(&mut cluster.slurm.command("sdiag"))?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.trim().split_once(' ')?;
            let count = rest.split("count:").nth(1)?.split_whitespace().next()?.parse().ok()?;
            (name.starts_with("REQUEST_") || name.starts_with("MESSAGE_")).then(|| (name.to_owned(), count))
        })
        .collect())
}

/// Milliseconds since 1970 at which slurmctld logged that it wakes this node.
fn waking_ms(log: &str, node: &str) -> Option<f64> {
    let needle = format!(" {node}");
    let line = log.lines().find(|line| {
        line.trim_end().ends_with(&needle) && (line.contains("waking nodes") || line.contains("resumeprog"))
    })?;
    let time = line.strip_prefix('[')?.split(']').next()?;
    let time: jiff::civil::DateTime = time.parse().ok()?;
    let zoned = time.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    Some(zoned.timestamp().as_millisecond() as f64)
}

pub fn event_to_call(numbers: &mut Numbers) -> Outcome<()> {
    const RESUMES: u32 = 200;
    let cluster = cluster(RESUMES, Options::default())?;
    for node in 0..RESUMES {
        let name = format!("cloud-spot-{node}");
        let launched = cluster.emulator.instances()?.len();
        cluster.slurm.scontrol(&["update", &format!("NodeName={name}"), "State=POWER_UP"])?;
        wait::until("an instance", || Ok((cluster.emulator.instances()?.len() > launched).then_some(())))?;
    }
    let arrivals = cluster.emulator.arrivals("CreateFleet")?;
    let log = cluster.slurm.log_text();
    wait::until("every program's start", || {
        Ok((cluster.program_starts().len() >= RESUMES as usize).then_some(()))
    })?;
    let programs = cluster.program_starts();
    let (mut from_event, mut from_program) = (Vec::new(), Vec::new());
    for (node, arrival) in (0..RESUMES).zip(&arrivals) {
        let name = format!("cloud-spot-{node}");
        let arrival = *arrival as f64 / 1e6;
        if let Some(waking) = waking_ms(&log, &name) {
            from_event.push(arrival - waking);
        }
        let started = programs.iter().find(|(_, line)| line == &format!("ec2fleet-resume {name}"));
        if let Some((started, _)) = started {
            from_program.push(arrival - *started as f64 / 1e6);
        }
    }
    numbers.put("resumes measured", from_event.len() as f64, "");
    numbers.put("event to CreateFleet at EC2, p50", percentile(&mut from_event, 0.5), "ms");
    numbers.goal("event to CreateFleet at EC2, p99", percentile(&mut from_event, 0.99), "ms", "<= 150");
    numbers.put("ResumeProgram's start to CreateFleet, p50", percentile(&mut from_program, 0.5), "ms");
    numbers.put("ResumeProgram's start to CreateFleet, p99", percentile(&mut from_program, 0.99), "ms");
    Ok(())
}

const THOUSAND: u32 = 1_000;

pub fn thousand(numbers: &mut Numbers) -> Outcome<()> {
    let mut cluster = cluster(
        THOUSAND,
        Options {
            count_forks: true,
            config: json!({"RescanSec": 3600}),
            // Both ways live with the request limits that EC2 publishes.
            scenario: json!({"throttle": true}),
            ..Options::default()
        },
    )?;
    let nodes = format!("cloud-spot-[0-{}]", THOUSAND - 1);
    let memory_idle = resident_kib(&cluster, "VmRSS")?;
    let (calls, served, updates) = (cluster.emulator.calls()?, rpcs(&cluster)?, status(&cluster)?);
    let (forks, programs) = (cluster.forks(), cluster.program_starts().len());

    let start = Instant::now();
    cluster.slurm.scontrol(&["update", &format!("NodeName={nodes}"), "State=POWER_UP"])?;
    let event = wait::until("the event", || {
        Ok(cluster.events().iter().find(|e| e["kind"] == "power-up-seen").and_then(unix_ms))
    })?;
    // The addresses as Slurm shows them, not as the plugin says it has set them.
    wait::until("every NodeAddr", || {
        let nodes = cluster.slurm.nodes()?;
        let set = nodes.iter().filter(|n| n["NodeAddr"] != n["NodeName"]).count();
        Ok((set == THOUSAND as usize).then_some(()))
    })?;
    let seen = start.elapsed();
    let last = |kind: &str| {
        cluster.events().iter().filter(|e| e["kind"] == kind).filter_map(unix_ms).fold(0.0, f64::max)
    };
    for (kind, what) in [
        ("create-fleet-sent", "event to the last CreateFleet sent"),
        ("fleet-created", "event to the last CreateFleet answered"),
        ("nodes-bound", "event to the last instance's address known"),
    ] {
        numbers.put(format!("1,000 nodes: {what}"), (last(kind) - event) / 1e3, "s");
    }
    let set = last("addresses-set");
    let calls = calls_since(&cluster, &calls)?;
    let ours = (set - event) / 1e3;
    numbers.put("1,000 nodes: event to every NodeAddr set", ours, "s");
    numbers.put("1,000 nodes: scontrol POWER_UP to every NodeAddr shown", seen.as_secs_f64(), "s");
    numbers.goal(
        "1,000 nodes: EC2 calls before the nodes can boot",
        calls.values().sum::<u64>() as f64,
        "",
        "<= 12",
    );
    for (action, count) in &calls {
        numbers.put(format!("1,000 nodes: {action}"), *count as f64, "");
    }
    let after = status(&cluster)?;
    numbers.put(
        "1,000 nodes: update_node calls",
        difference(&after, &updates, |s| s["slurm"]["updates"].as_f64()),
        "",
    );
    let of_plugin = |rpcs: &BTreeMap<String, u64>| rpcs.get("REQUEST_UPDATE_NODE").copied().unwrap_or(0);
    // One is the scontrol above.
    numbers.put(
        "1,000 nodes: RPCs to update nodes beside the request itself",
        (of_plugin(&rpcs(&cluster)?) - of_plugin(&served)).saturating_sub(1) as f64,
        "",
    );
    let started = cluster.program_starts().len() - programs;
    numbers.put("1,000 nodes: processes started by slurmctld", (cluster.forks() - forks) as f64, "");
    numbers.put("1,000 nodes: of these, ResumeProgram", started as f64, "");
    numbers.put(
        "resident memory of slurmctld, 1,000 nodes up",
        resident_kib(&cluster, "VmRSS")? / 1024.0,
        "MiB",
    );
    numbers.put("resident memory of slurmctld, before", memory_idle / 1024.0, "MiB");

    // Power down.
    let calls = cluster.emulator.calls()?;
    cluster.slurm.scontrol(&["update", &format!("NodeName={nodes}"), "State=POWER_DOWN_FORCE"])?;
    wait::until("every instance to be terminated", || {
        Ok(cluster.emulator.living_instances()?.is_empty().then_some(()))
    })?;
    let time_of = |kind: &str, pick: fn(f64, f64) -> f64, from: f64| {
        cluster.events().iter().filter(|e| e["kind"] == kind).filter_map(unix_ms).fold(from, pick)
    };
    let begun = time_of("power-down-seen", f64::min, f64::MAX);
    let ended = time_of("instances-terminated", f64::max, 0.0);
    numbers.put(
        "suspend of 1,000: event to the last TerminateInstances answered",
        (ended - begun) / 1e3,
        "s",
    );
    let calls = calls_since(&cluster, &calls)?;
    numbers.put(
        "suspend of 1,000: TerminateInstances calls",
        calls.get("TerminateInstances").copied().unwrap_or(0) as f64,
        "",
    );

    // The same addresses and names as scripts set them: one scontrol and one CreateTags a node. Their launch is not counted,
    // and they wait for EC2's limit no longer than they have to.
    cluster.slurm.stop();
    let nothing = cluster.scratch.path().join("nothing");
    write_program(&nothing, "#!/bin/sh\n")?;
    cluster.slurm.change_conf(|conf| {
        conf.plugin = false;
        conf.programs = Some([nothing.clone(), nothing.clone(), nothing.clone()]);
    })?;
    cluster.slurm.start()?;
    let instance = cluster.emulator.instances()?.first().map(|i| i.id.clone()).unwrap_or_default();
    let mut refused = 0;
    let start = Instant::now();
    for node in 0..THOUSAND {
        let name = format!("cloud-spot-{node}");
        let address = format!("127.12.{}.{}", node / 250, node % 250 + 1);
        cluster.slurm.scontrol(&[
            "update",
            &format!("NodeName={name}"),
            &format!("NodeAddr={address}"),
            &format!("NodeHostname={name}"),
        ])?;
        refused += cluster.emulator.create_tag_within_limits(&instance, "Name", &name)?;
    }
    let scripts = start.elapsed().as_secs_f64();
    numbers.put("1,000 nodes: one scontrol and one CreateTags a node", scripts, "s");
    numbers.put("1,000 nodes: CreateTags that EC2 refused meanwhile", f64::from(refused), "");
    numbers.goal("1,000 nodes: times faster than one by one", scripts / ours, "x", ">= 50");
    Ok(())
}

fn unix_ms(event: &Value) -> Option<f64> {
    event["unix_ms"].as_f64()
}

fn difference(after: &Value, before: &Value, pick: fn(&Value) -> Option<f64>) -> f64 {
    pick(after).unwrap_or(f64::NAN) - pick(before).unwrap_or(f64::NAN)
}

/// `VmRSS` or a part of it, as proc(5) names them.
fn resident_kib(cluster: &Cluster, key: &str) -> Outcome<f64> {
    let pid = cluster.slurm.controller_pid().ok_or("slurmctld does not run")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| e.to_string())?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| format!("no {key}"))
}

/// Reading the power bitmaps while node records change all the time.
pub fn scan(numbers: &mut Numbers) -> Outcome<()> {
    const SECONDS: u64 = 20;
    for nodes in [1_000, 10_000, 50_000] {
        let cluster = cluster(nodes, Options { config: json!({"RescanSec": 3600}), ..Options::default() })?;
        let changing = AtomicBool::new(true);
        let before = status(&cluster)?;
        std::thread::scope(|scope| -> Outcome<()> {
            let changes = scope.spawn(|| -> Outcome<()> {
                let mut count = 0_u32;
                while changing.load(Ordering::Relaxed) {
                    count += 1;
                    cluster.slurm.scontrol(&[
                        "update",
                        "NodeName=cloud-spot-0",
                        &format!("Comment={count}"),
                    ])?;
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(())
            });
            std::thread::sleep(Duration::from_secs(SECONDS));
            changing.store(false, Ordering::Relaxed);
            changes.join().expect("the thread does not panic")
        })?;
        let after = status(&cluster)?;
        let scans = difference(&after, &before, |s| s["slurm"]["scans"].as_f64());
        numbers.put(format!("scans a second, {nodes} nodes changing"), scans / SECONDS as f64, "/s");
        let held = after["slurm"]["lock_held_max_us"].as_f64().unwrap_or(f64::NAN);
        let what = format!("longest node read lock of a scan, {nodes} nodes");
        if nodes == 10_000 {
            numbers.goal(what, held, "us", "<= 100");
        } else {
            numbers.put(what, held, "us");
        }
    }
    Ok(())
}

/// Submissions with and without the plugin, in turns.
pub fn sbatch(numbers: &mut Numbers) -> Outcome<()> {
    const NODES: u32 = 10_000;
    const ROUNDS: usize = 6;
    const JOBS: u32 = 200;
    let mut cluster = cluster(NODES, Options::default())?;
    let script: PathBuf = cluster.scratch.path().join("held.sh");
    write_program(&script, "#!/bin/sh\n")?;
    let mut seconds: [Vec<f64>; 2] = Default::default();
    let mut memory: [Vec<f64>; 2] = Default::default();
    let mut anonymous: [Vec<f64>; 2] = Default::default();
    let mut cycles: [Vec<f64>; 2] = Default::default();
    for round in 0..ROUNDS {
        // Now the one first, now the other.
        for plugin in if round % 2 == 0 { [true, false] } else { [false, true] } {
            cluster.slurm.stop();
            cluster.slurm.change_conf(|conf| conf.plugin = plugin)?;
            cluster.slurm.start()?;
            if plugin {
                cluster.wait_for_plugin()?;
            }
            // The first reconcile pass and slurmctld's own start are over.
            std::thread::sleep(Duration::from_secs(3));
            ec2fleet_rig::process::run(cluster.slurm.command("sdiag").arg("--reset"))?;
            let start = Instant::now();
            let mut clients = Vec::new();
            for _ in 0..JOBS {
                clients.push(submit(&cluster, &script)?);
                if clients.len() == 4 {
                    finish(&mut clients)?;
                }
            }
            finish(&mut clients)?;
            seconds[usize::from(plugin)].push(start.elapsed().as_secs_f64());
            memory[usize::from(plugin)].push(resident_kib(&cluster, "VmRSS")? / 1024.0);
            anonymous[usize::from(plugin)].push(resident_kib(&cluster, "RssAnon")? / 1024.0);
            cycles[usize::from(plugin)].extend(mean_cycle_us(&cluster)?);
            for job in cluster.slurm.scontrol(&["-o", "show", "jobs"])?.lines() {
                let id = job.split_whitespace().next().and_then(|word| word.strip_prefix("JobId="));
                if let (Some(id), true) = (id, job.contains("JobState=PENDING")) {
                    clients
                        .push(cluster.slurm.command("scancel").arg(id).spawn().map_err(|e| e.to_string())?);
                    if clients.len() == 4 {
                        finish(&mut clients)?;
                    }
                }
            }
            finish(&mut clients)?;
        }
    }
    let rate = |seconds: &mut [f64]| f64::from(JOBS) / percentile(seconds, 0.5);
    let [without, with] = &mut seconds;
    let (without, with) = (rate(without), rate(with));
    numbers.put("sbatch a second at 10,000 nodes, without the plugin", without, "/s");
    numbers.put("sbatch a second at 10,000 nodes, with the plugin", with, "/s");
    numbers.goal("sbatch throughput, with / without", with / without, "", ">= 0.98");
    let [without, with] = &mut cycles;
    let (without, with) = (percentile(without, 0.5), percentile(with, 0.5));
    numbers.put("mean scheduling cycle at 10,000 nodes, without the plugin", without, "us");
    numbers.put("mean scheduling cycle at 10,000 nodes, with the plugin", with, "us");
    let [without, with] = &mut memory;
    let (without, with) = (percentile(without, 0.5), percentile(with, 0.5));
    numbers.put("resident memory of slurmctld at 10,000 nodes, without", without, "MiB");
    numbers.put("resident memory of slurmctld at 10,000 nodes, with", with, "MiB");
    numbers.goal("resident memory added to slurmctld", with - without, "MiB", "<= 30");
    let [without, with] = &mut anonymous;
    let added = percentile(with, 0.5) - percentile(without, 0.5);
    numbers.put("of that anonymous (the rest is pages of the library's file)", added, "MiB");
    // No node was powered up by held jobs.
    let up = cluster.slurm.nodes()?.iter().filter(|node| has_state(node, "POWERING_UP")).count();
    if up == 0 { Ok(()) } else { Err(format!("{up} nodes are powering up")) }
}

/// Of the main scheduler since `sdiag --reset`. It gathers submissions for some seconds, so its first cycle may be still to come.
fn mean_cycle_us(cluster: &Cluster) -> Outcome<Option<f64>> {
    for _ in 0..100 {
        let text = ec2fleet_rig::process::run(&mut cluster.slurm.command("sdiag"))?;
        let cycle =
            text.lines().find_map(|line| line.trim().strip_prefix("Mean cycle:")?.trim().parse().ok());
        if cycle.is_some() {
            return Ok(cycle);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(None)
}

fn submit(cluster: &Cluster, script: &std::path::Path) -> Outcome<std::process::Child> {
    let mut command: Command = cluster.slurm.command("sbatch");
    command.args(["--hold", "-o", "/dev/null"]).arg(script);
    command.stdout(std::process::Stdio::null()).spawn().map_err(|e| e.to_string())
}

fn finish(clients: &mut Vec<std::process::Child>) -> Outcome<()> {
    for mut client in clients.drain(..) {
        let status = client.wait().map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("a Slurm command failed: {status}"));
        }
    }
    Ok(())
}
