// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands that do something: they ask the plugin, which checks, does and records it.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::args::Confirm;
use crate::context::Context;
use crate::error::{CliError, ErrorKind, Exit};
use crate::output::{Output, Style, Table};
use ec2fleet_control::protocol::{Operation, Reply, Request};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{AcceptedReport, DoneReport, PlanReport, SCHEMA_VERSION};

/// Ask for `op`, after the administrator has seen what it does and agreed.
///
/// # Errors
/// When the plugin does not answer or refuses, or the administrator does.
pub fn run(context: &Context, op: Operation, confirm: &Confirm, out: &mut Output) -> Result<Exit, CliError> {
    if let Some(nodes) = nodes_of(&op)
        && hostlist::expand(nodes)?.is_empty()
    {
        return Err(CliError::new(ErrorKind::Usage, "No node is named."));
    }
    let client = context.client();
    let plan = Request { dry_run: true, ..Request::new(op.clone()) };
    if confirm.dry_run {
        return show(client.send(&plan)?, out);
    }
    if !confirm.yes && needs_confirmation(&op) {
        if let Reply::Plan(plan) = client.send(&plan)? {
            if plan.actions.is_empty() {
                return show(Reply::Plan(plan), out);
            }
            if !out.json {
                print_plan(&plan, out)?;
            }
        }
        if !agreed(op.name(), nodes_of(&op), out)? {
            return Err(CliError::new(ErrorKind::Conflict, "Nothing was done."));
        }
    }
    show(client.ask(op)?, out)
}

fn nodes_of(op: &Operation) -> Option<&str> {
    match op {
        Operation::Resume { nodes, .. }
        | Operation::Suspend { nodes }
        | Operation::ResumeFail { nodes }
        | Operation::Lock { nodes, .. }
        | Operation::Unlock { nodes }
        | Operation::Reset { nodes }
        | Operation::Replace { nodes } => Some(nodes),
        _ => None,
    }
}

/// What ends or launches instances is asked about; what is undone as easily as it is done is not.
fn needs_confirmation(op: &Operation) -> bool {
    matches!(
        op,
        Operation::Resume { .. }
            | Operation::Suspend { .. }
            | Operation::Gc
            | Operation::Reset { .. }
            | Operation::Replace { .. }
            | Operation::DeleteFleets { .. }
    )
}

/// Whether the administrator wants it done.
///
/// # Errors
/// When there is nobody to be asked.
pub fn agreed(name: &str, nodes: Option<&str>, out: &mut Output) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() || !out.terminal {
        return Err(CliError::new(ErrorKind::Usage, format!("{name} wants to be confirmed."))
            .hint("Add --yes, or --dry-run to see what would be done."));
    }
    let question = match nodes {
        Some(nodes) => format!("{name} {nodes}? [y/N] "),
        None => format!("{name}? [y/N] "),
    };
    out.flush()?;
    let mut stdout = io::stderr();
    stdout.write_all(question.as_bytes())?;
    stdout.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// # Errors
/// When nobody reads.
pub fn show_plan(plan: &PlanReport, out: &mut Output) -> Result<(), CliError> {
    if out.json { out.json(plan) } else { print_plan(plan, out) }
}

fn show(reply: Reply, out: &mut Output) -> Result<Exit, CliError> {
    let all_refused =
        |plan: &PlanReport| plan.actions.is_empty() && !plan.refused.is_empty() && !plan.dry_run;
    match reply {
        Reply::Plan(plan) => {
            show_plan(&plan, out)?;
            Ok(if all_refused(&plan) { Exit::Failed } else { Exit::Success })
        }
        Reply::Accepted { nodes, count } => {
            if out.json {
                out.json(&AcceptedReport { schema: SCHEMA_VERSION, accepted: nodes, count })?;
            } else {
                let plural = if count == 1 { "node" } else { "nodes" };
                out.line(format!("Accepted for {count} {plural}: {nodes}"))?;
            }
            Ok(Exit::Success)
        }
        Reply::Done { message } => {
            if out.json {
                out.json(&DoneReport { schema: SCHEMA_VERSION, done: message })?;
            } else {
                out.line(message)?;
            }
            Ok(Exit::Success)
        }
        other => Err(crate::unexpected(&other)),
    }
}

fn print_plan(plan: &PlanReport, out: &mut Output) -> Result<(), CliError> {
    if plan.actions.is_empty() {
        out.line("There is nothing to do.")?;
    } else {
        let mut table = Table::new(&["ACTION", "SUBJECT", "WHY"]);
        for action in &plan.actions {
            table.row(Style::Plain, [&action.action, &action.subject, &action.why]);
        }
        out.table(&table)?;
    }
    if !plan.refused.is_empty() {
        let mut table = Table::new(&["NOT DONE", "SUBJECT", "WHY"]);
        for action in &plan.refused {
            table.row(Style::Warning, [&action.action, &action.subject, &action.why]);
        }
        out.line("")?;
        out.table(&table)?;
    }
    if plan.dry_run {
        out.styled(Style::Faint, "Nothing was done (dry run).")?;
    }
    Ok(())
}
