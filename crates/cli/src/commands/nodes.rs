// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet nodes`.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use crate::args;
use crate::context::Context;
use crate::error::{CliError, ErrorKind, Exit};
use crate::offline::Offline;
use crate::output::{Output, Style, Table};
use crate::when::{duration, now_unix_ms};
use ec2fleet_control::protocol::{Operation, Reply};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{NodeReport, NodesReport};

/// # Errors
/// When neither the plugin nor Slurm and the journal can be asked, or the filters are wrong.
pub fn run(context: &Context, args: &args::Nodes, out: &mut Output) -> Result<Exit, CliError> {
    let wanted = args.nodes.as_deref().map(hostlist::expand).transpose()?;
    let (report, offline) = report(context, args.nodes.clone())?;
    let wanted: Option<BTreeSet<String>> = wanted.map(|names| names.into_iter().collect());
    let nodes: Vec<NodeReport> = report
        .nodes
        .into_iter()
        .filter(|node| wanted.as_ref().is_none_or(|names| names.contains(&node.name)))
        .filter(|node| args.state.is_empty() || args.state.iter().any(|state| has_state(node, state)))
        .filter(|node| args.group.is_empty() || args.group.iter().any(|group| is_of_group(node, group)))
        .collect();
    if out.json {
        out.json(&NodesReport { schema: report.schema, nodes })?;
    } else {
        if let Some(error) = &offline {
            out.styled(Style::Bad, &error.message)?;
            if let Some(hint) = &error.hint {
                out.line(hint)?;
            }
            out.line("This is what Slurm and the journal say:")?;
        }
        if nodes.is_empty() {
            out.line("No nodes match.")?;
        } else if args.wide {
            out.table(&wide(&nodes, now_unix_ms()))?;
        } else {
            out.table(&folded(&nodes))?;
        }
    }
    Ok(offline.map_or(Exit::Success, |error| error.exit()))
}

/// The plugin's report, or what can be told without it; then with why it was not asked.
///
/// # Errors
/// As [`run`].
pub fn report(context: &Context, nodes: Option<String>) -> Result<(NodesReport, Option<CliError>), CliError> {
    match context.client().ask(Operation::Nodes { nodes }) {
        Ok(Reply::Nodes(report)) => Ok((report, None)),
        Ok(other) => Err(crate::unexpected(&other)),
        Err(error) => {
            let error = CliError::from(error);
            // A refusal is an answer: there is a plugin, and it says no.
            if !matches!(error.kind, ErrorKind::NotRunning | ErrorKind::NotPermitted) {
                return Err(error);
            }
            Ok((Offline::read(context, &error)?.node_reports(context), Some(error)))
        }
    }
}

/// A phase, or any word of Slurm's state, in either case.
fn has_state(node: &NodeReport, wanted: &str) -> bool {
    let wanted = wanted.trim();
    node.phase.eq_ignore_ascii_case(wanted)
        || node.slurm_state.eq_ignore_ascii_case(wanted)
        || node.slurm_state.split('+').any(|word| word.eq_ignore_ascii_case(wanted))
        || (node.locked && wanted.eq_ignore_ascii_case("locked"))
}

fn is_of_group(node: &NodeReport, wanted: &str) -> bool {
    node.group == wanted || format!("{}-{}", node.partition, node.group) == wanted
}

fn style(phase: &str) -> Style {
    match phase {
        "failed" => Style::Bad,
        "pending" | "launching" | "booting" | "stopping" | "unknown" => Style::Warning,
        "ready" | "busy" => Style::Good,
        "powered-down" => Style::Faint,
        _ => Style::Plain,
    }
}

/// One row for all nodes that look the same.
fn folded(nodes: &[NodeReport]) -> Table {
    let mut rows: IndexMap<(String, String, String, bool, String), Vec<&str>> = IndexMap::new();
    for node in nodes {
        let key = (
            format!("{}-{}", node.partition, node.group),
            node.phase.clone(),
            node.slurm_state.clone(),
            node.locked,
            node.reason.clone().unwrap_or_default(),
        );
        rows.entry(key).or_default().push(&node.name);
    }
    let mut table = Table::new(&["GROUP", "NODES>", "PHASE", "SLURM STATE", "NODELIST", "REASON"]);
    for ((group, phase, state, locked, reason), names) in rows {
        let count = names.len().to_string();
        let shown = if locked { format!("{phase} (locked)") } else { phase.clone() };
        table.row(style(&phase), [group, count, shown, state, hostlist::fold(names), reason]);
    }
    table
}

fn wide(nodes: &[NodeReport], now_unix_ms: u64) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "PHASE",
        "FOR>",
        "SLURM STATE",
        "INSTANCE",
        "STATE",
        "TYPE",
        "ZONE",
        "LIFECYCLE",
        "ADDRESS",
        "FLEET",
        "REASON",
    ]);
    for node in nodes {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let lasts = match node.since_unix_ms {
            0 => "-".to_owned(),
            since => duration(now_unix_ms.saturating_sub(since)),
        };
        let phase = if node.locked { format!("{} (locked)", node.phase) } else { node.phase.clone() };
        table.row(
            style(&node.phase),
            [
                node.name.clone(),
                phase,
                lasts,
                node.slurm_state.clone(),
                or_dash(&node.instance_id),
                or_dash(&node.instance_state),
                or_dash(&node.instance_type),
                or_dash(&node.zone),
                node.lifecycle.map_or("-", |lifecycle| lifecycle.as_str()).to_owned(),
                or_dash(&node.addr),
                or_dash(&node.fleet_id),
                node.reason.clone().unwrap_or_default(),
            ],
        );
    }
    table
}
