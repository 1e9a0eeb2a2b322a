// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet status`.

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::offline::Offline;
use crate::output::{Output, Style, Table};
use crate::when::{ago, clock, duration};
use ec2fleet_control::protocol::{Operation, Reply};
use ec2fleet_core::report::{GroupReport, Mode, StatusReport};

/// # Errors
/// When neither the plugin nor Slurm and the journal can be asked.
pub fn run(context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let report = report(context)?;
    if out.json {
        out.json(&report)?;
    } else {
        print(&report, out)?;
    }
    Ok(match report.mode {
        Mode::Active => Exit::Success,
        Mode::Passive { .. } => Exit::Failed,
        Mode::NotRunning { .. } => Exit::NotRunning,
        Mode::NotPermitted { .. } => Exit::NotPermitted,
    })
}

/// The plugin's report, or what can be told without it.
///
/// # Errors
/// As [`run`].
pub fn report(context: &Context) -> Result<StatusReport, CliError> {
    match context.client().ask(Operation::Status) {
        Ok(Reply::Status(report)) => Ok(*report),
        Ok(other) => Err(crate::unexpected(&other)),
        Err(error) => Ok(Offline::read(context, &error.into())?.status_report(context)),
    }
}

/// The plugin's report and no other.
///
/// # Errors
/// When the plugin does not answer.
pub fn from_plugin(context: &Context) -> Result<StatusReport, CliError> {
    match context.client().ask(Operation::Status)? {
        Reply::Status(report) => Ok(*report),
        other => Err(crate::unexpected(&other)),
    }
}

/// # Errors
/// When nobody reads any more.
pub fn print(report: &StatusReport, out: &mut Output) -> Result<(), CliError> {
    heading(report, out)?;
    out.line("")?;
    out.table(&groups(report))?;
    out.line("")?;
    for cloud in &report.cloud {
        let account = match &cloud.profile {
            Some(profile) => format!("{} (profile {profile})", cloud.region),
            None => cloud.region.clone(),
        };
        let text = format!(
            "EC2 {account}: {} instances, listed {}; {} calls, {} throttled, {} under way",
            cloud.instances,
            ago(report.now_unix_ms, cloud.listed_unix_ms),
            cloud.calls,
            cloud.throttled,
            cloud.in_flight
        );
        out.line(text)?;
        if let Some(error) = &cloud.error {
            out.styled(Style::Bad, format!("  {error}"))?;
        }
    }
    let slurm = &report.slurm;
    out.line(format!(
        "Slurm: nodes loaded {}; {} updates, {} scans, node lock held {} µs at most",
        ago(report.now_unix_ms, slurm.loaded_unix_ms),
        slurm.updates,
        slurm.scans,
        slurm.lock_held_max_us
    ))?;
    if let Some(error) = &slurm.error {
        out.styled(Style::Bad, format!("  {error}"))?;
    }
    let queue = &report.queue;
    if queue.capacity > 0 {
        out.line(format!(
            "Queue: {} of {}, {} effects under way, {} events, {} overflows",
            queue.depth, queue.capacity, queue.effects, queue.events, queue.overflows
        ))?;
    }
    let journal = &report.journal;
    if !journal.path.is_empty() {
        let intents = journal.open_intents;
        out.line(format!("Journal: {} ({} bytes), {intents} open intents", journal.path, journal.bytes))?;
    }
    if let Some(error) = &journal.error {
        out.styled(Style::Bad, format!("  {error}"))?;
    }
    for warning in &report.warnings {
        out.styled(Style::Warning, format!("Warning: {warning}"))?;
    }
    Ok(())
}

fn heading(report: &StatusReport, out: &mut Output) -> Result<(), CliError> {
    let (style, mode) = match &report.mode {
        Mode::Active => (Style::Good, "active".to_owned()),
        Mode::Passive { reason } => (Style::Bad, format!("PASSIVE: {reason}")),
        Mode::NotRunning { reason } => (Style::Bad, format!("NOT RUNNING: {reason}")),
        Mode::NotPermitted { reason } => (Style::Warning, format!("not known: {reason}")),
    };
    let since = match report.since_unix_ms {
        0 => String::new(),
        since => {
            let length = duration(report.now_unix_ms.saturating_sub(since));
            format!(", since {} ({length})", clock(since))
        }
    };
    let cluster = if report.cluster.is_empty() { "(no name)" } else { &report.cluster };
    let mode = out.paint(style, &mode);
    out.line(format!("Cluster {cluster}: {mode}{since}"))?;
    if matches!(report.mode, Mode::NotRunning { .. }) {
        out.line("What follows is what Slurm and the journal say; nobody acts on it but the programs that Slurm runs.")?;
    }
    if matches!(report.mode, Mode::NotPermitted { .. }) {
        out.line("What follows is what Slurm says. Run the command as root or as SlurmUser to see what the plugin does.")?;
    }
    let mut parts = vec![format!("ec2fleet {}", report.version)];
    if !report.slurm_release.is_empty() {
        parts.push(format!("Slurm {}", report.slurm_release));
    }
    if report.pid != 0 {
        parts.push(format!("slurmctld pid {}", report.pid));
    }
    out.line(parts.join(", "))?;
    if let Some(paused) = &report.paused {
        let mut text = "PAUSED: nothing is launched or terminated".to_owned();
        if paused.since_unix_ms != 0 {
            text.push_str(&format!(", by user {} since {}", paused.uid, clock(paused.since_unix_ms)));
        }
        if !paused.reason.is_empty() {
            text.push_str(&format!(": {}", paused.reason));
        }
        out.styled(Style::Warning, text + ". `ec2fleet resume-operations` ends it.")?;
    }
    Ok(())
}

fn groups(report: &StatusReport) -> Table {
    let mut table = Table::new(&[
        "GROUP",
        "LIFECYCLE",
        "MAX>",
        "WANTED>",
        "PENDING>",
        "LAUNCH>",
        "BOOT>",
        "READY>",
        "BUSY>",
        "ASLEEP>",
        "STOP>",
        "FAILED>",
        "DOWN>",
        "SPOT>",
        "ONDEMAND>",
        "$/H>",
        "NOTES",
    ]);
    for group in &report.groups {
        let number = |count: u32| if count == 0 { "-".to_owned() } else { count.to_string() };
        let style = if group.protected {
            Style::Bad
        } else if group.failed > 0 || !group.cooldowns.is_empty() || group.last_error.is_some() {
            Style::Warning
        } else {
            Style::Plain
        };
        table.row(
            style,
            [
                group.stem(),
                group.lifecycle.as_str().to_owned(),
                group.max_nodes.to_string(),
                number(group.wanted),
                number(group.pending),
                number(group.launching),
                number(group.booting),
                number(group.ready),
                number(group.busy),
                number(group.asleep),
                number(group.stopping),
                number(group.failed),
                number(group.powered_down),
                number(group.spot_instances),
                number(group.on_demand_instances),
                group.usd_per_hour.map_or_else(|| "-".to_owned(), |usd| format!("{usd:.2}")),
                notes(group, report.now_unix_ms),
            ],
        );
    }
    table
}

fn count(number: usize, thing: &str, rest: &str) -> String {
    format!("{number} {thing}{} {rest}", if number == 1 { "" } else { "s" })
}

fn notes(group: &GroupReport, now_unix_ms: u64) -> String {
    let mut notes = Vec::new();
    if group.protected {
        let why = group.protected_reason.as_deref().unwrap_or("repeated launch failures");
        notes.push(format!("protected: {why}"));
    }
    if let Some(target) = group.fleet_target {
        notes.push(format!("fleet target {target}"));
    }
    if !group.cooldowns.is_empty() {
        notes.push(count(group.cooldowns.len(), "pool", "in cool-down"));
    }
    if group.locked > 0 {
        notes.push(format!("{} locked", group.locked));
    }
    if let Some(error) = &group.last_error {
        notes.push(format!("last error {} {}", error.code, ago(now_unix_ms, Some(error.at_unix_ms))));
    }
    notes.join("; ")
}
