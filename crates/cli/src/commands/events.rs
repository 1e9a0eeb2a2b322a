// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet events` and `ec2fleet explain`.

use std::thread;
use std::time::Duration;

use indexmap::IndexMap;

use crate::args;
use crate::client::ClientError;
use crate::context::Context;
use crate::error::{CliError, ErrorKind, Exit};
use crate::output::{Output, Style};
use crate::when::{clock_ms, now_unix_ms, since};
use ec2fleet_control::protocol::{EventFilter, Operation, RefusalKind, Reply, Subject};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{EventReport, EventsReport, ExplainReport, SCHEMA_VERSION, Severity};

/// Between two questions of `--follow`.
const POLL: Duration = Duration::from_millis(500);

/// # Errors
/// When the plugin does not answer or the filters are wrong.
pub fn events(context: &Context, args: &args::Events, out: &mut Output) -> Result<Exit, CliError> {
    if let Some(nodes) = &args.node {
        hostlist::expand(nodes)?;
    }
    let since = args.since.as_deref().map(|text| since(text, now_unix_ms())).transpose()?;
    let mut filter =
        EventFilter { after: None, since_unix_ms: since, nodes: args.node.clone(), limit: Some(args.limit) };
    let first = ask(context, &filter)?;
    if !args.follow {
        if out.json {
            out.json(&first)?;
        } else if first.events.is_empty() {
            out.line("No events match.")?;
        } else {
            print(&first, out)?;
        }
        return Ok(Exit::Success);
    }
    let mut report = first;
    loop {
        if out.json {
            for event in &report.events {
                out.json_line(event)?;
            }
        } else {
            print(&report, out)?;
        }
        out.flush()?;
        filter = EventFilter { after: Some(report.next), since_unix_ms: None, limit: None, ..filter };
        thread::sleep(POLL);
        report = match context.client().ask(Operation::Events { filter: filter.clone() }) {
            Ok(Reply::Events(report)) => report,
            Ok(other) => return Err(crate::unexpected(&other)),
            // slurmctld may be restarting: wait for it.
            Err(ClientError::Refused(refusal)) if refusal.kind != RefusalKind::Busy => {
                return Err(ClientError::Refused(refusal).into());
            }
            Err(_) => EventsReport { next: report.next, ..EventsReport::default() },
        };
    }
}

/// # Errors
/// When the plugin does not answer.
pub fn ask(context: &Context, filter: &EventFilter) -> Result<EventsReport, CliError> {
    match context.client().ask(Operation::Events { filter: filter.clone() })? {
        Reply::Events(report) => Ok(report),
        other => Err(crate::unexpected(&other)),
    }
}

/// # Errors
/// When nobody reads any more.
pub fn print(report: &EventsReport, out: &mut Output) -> Result<(), CliError> {
    if report.lost > 0 {
        out.styled(Style::Warning, format!("({} earlier events are no longer kept)", report.lost))?;
    }
    for event in &report.events {
        out.styled(style(event.severity), line(event))?;
    }
    Ok(())
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Debug => Style::Faint,
        Severity::Info => Style::Plain,
        Severity::Warning => Style::Warning,
        Severity::Error => Style::Bad,
    }
}

/// `2026-01-31T08:00:00.123 warning fleet-failed aws-spot-[0-3]: text (i-0, request 1234, user 0)`
fn line(event: &EventReport) -> String {
    let mut text = format!("{} {:7} {}", clock_ms(event.unix_ms), event.severity.as_str(), event.kind);
    if !event.nodes.is_empty() {
        text.push_str(&format!(" {}", event.nodes));
    } else if let Some(group) = &event.group {
        text.push_str(&format!(" {group}"));
    }
    text.push_str(&format!(": {}", event.text.replace(['\n', '\r'], " ")));
    let mut details = Vec::new();
    if let Some(id) = &event.instance_id {
        details.push(id.clone());
    }
    if let Some(id) = &event.request_id {
        details.push(format!("request {id}"));
    }
    if let Some(uid) = event.uid {
        details.push(format!("user {uid}"));
    }
    if !details.is_empty() {
        text.push_str(&format!(" ({})", details.join(", ")));
    }
    text
}

/// # Errors
/// When the plugin does not answer, or does not know the node or job.
pub fn explain(context: &Context, args: &args::Explain, out: &mut Output) -> Result<Exit, CliError> {
    let report = match subject(&args.subject)? {
        Asked::Node(name) => explain_node(context, name)?,
        Asked::Job(id) => explain_job(context, id)?,
    };
    if out.json {
        out.json(&report)?;
    } else {
        print_explanation(&report, out)?;
    }
    Ok(Exit::Success)
}

fn explain_node(context: &Context, name: String) -> Result<ExplainReport, CliError> {
    match context.client().ask(Operation::Explain { subject: Subject::Node(name) })? {
        Reply::Explain(report) => Ok(*report),
        other => Err(crate::unexpected(&other)),
    }
}

/// Slurm knows the job and its nodes, the plugin knows the nodes.
fn explain_job(context: &Context, id: u32) -> Result<ExplainReport, CliError> {
    let job = context.slurm().job(id).map_err(|error| {
        let hint = "slurmctld forgets a job some minutes after its end (MinJobAge). `ec2fleet events --node NODES` shows what \
                    happened to its nodes.";
        CliError::from(error).hint(hint)
    })?;
    let names = hostlist::expand(&job.nodes)?;
    let mut report = ExplainReport {
        schema: SCHEMA_VERSION,
        subject: format!("job {id}"),
        summary: match names.len() {
            0 => format!(
                "Slurm says {} ({}): it has no nodes, so nothing is launched for it.",
                job.state, job.reason
            ),
            count => format!("Slurm says {} on {count} nodes: {}.", job.state, job.nodes),
        },
        ..ExplainReport::default()
    };
    if names.is_empty() {
        report.next.push("Slurm gives it nodes when its turn comes; then they are powered up.".into());
        return Ok(report);
    }
    let nodes = match context.client().ask(Operation::Nodes { nodes: Some(job.nodes.clone()) })? {
        Reply::Nodes(report) => report.nodes,
        other => return Err(crate::unexpected(&other)),
    };
    let filter = EventFilter {
        nodes: Some(job.nodes),
        since_unix_ms: job.submit_unix_ms,
        limit: Some(200),
        ..EventFilter::default()
    };
    report.events = ask(context, &filter)?.events;
    let mut phases: IndexMap<&str, Vec<&str>> = IndexMap::new();
    for node in &nodes {
        phases.entry(&node.phase).or_default().push(&node.name);
    }
    for (phase, names) in &phases {
        report.summary.push_str(&format!(" {} {phase}: {}.", names.len(), hostlist::fold(names)));
    }
    let foreign = names.len().saturating_sub(nodes.len());
    if foreign > 0 {
        report.summary.push_str(&format!(" {foreign} are no nodes of partitions.json."));
    }
    // The nodes that hold the job back explain it; of those that look alike, one will do.
    for phase in ["failed", "pending", "launching", "booting", "asleep", "moving"] {
        if let Some(name) = phases.get(phase).and_then(|names| names.first()) {
            let one = explain_node(context, (*name).to_owned())?;
            report.next.push(format!("{name}: {}", one.summary));
            report.next.extend(one.next);
        }
    }
    report.nodes = nodes;
    Ok(report)
}

/// What the administrator asks about. The plugin knows nodes alone.
enum Asked {
    Node(String),
    Job(u32),
}

/// Node names never consist of digits alone, since they begin with a partition's name and a dash.
fn subject(text: &str) -> Result<Asked, CliError> {
    let job = text.strip_prefix("job:").unwrap_or(text);
    if let Ok(id) = job.parse() {
        return Ok(Asked::Job(id));
    }
    match hostlist::expand(text)?.as_slice() {
        [node] => Ok(Asked::Node(node.clone())),
        _ => Err(CliError::new(ErrorKind::Usage, format!("\"{text}\" is neither one node nor one job."))
            .hint("Give the name of a node (aws-spot-3) or the id of a job (17).")),
    }
}

fn print_explanation(report: &ExplainReport, out: &mut Output) -> Result<(), CliError> {
    out.styled(Style::Strong, &report.subject)?;
    out.line(format!("  {}", report.summary))?;
    for node in &report.nodes {
        let mut text = format!("  {}: {}, {}", node.name, node.phase, node.slurm_state);
        if let Some(id) = &node.instance_id {
            text.push_str(&format!(", {id}"));
        }
        for detail in [&node.instance_type, &node.zone, &node.addr].into_iter().flatten() {
            text.push_str(&format!(" {detail}"));
        }
        if node.locked {
            text.push_str(", locked");
        }
        out.line(text)?;
        if let Some(reason) = &node.reason {
            out.line(format!("    reason: {}", reason.replace(['\n', '\r'], " ")))?;
        }
    }
    if !report.events.is_empty() {
        out.line("")?;
        out.styled(Style::Strong, "What happened")?;
        for event in &report.events {
            let text = line(event);
            out.styled(style(event.severity), format!("  {text}"))?;
        }
    }
    if !report.next.is_empty() {
        out.line("")?;
        out.styled(Style::Strong, "What comes next")?;
        for next in &report.next {
            out.line(format!("  {next}"))?;
        }
    }
    Ok(())
}
