// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands of the programs.

pub mod args;
pub mod client;
pub mod commands;
pub mod context;
mod diff;
pub mod error;
mod offline;
mod online;
pub mod output;
mod prices;
pub mod programs;
mod screen;
pub mod survey;
mod when;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use commands::{
    capacity, cost, doctor, events, fleets, generate, iam, manual, nodes, operate, schema, status, top,
    validate, version,
};
use context::Context;
use error::{CliError, ErrorKind, Exit};
use output::{Output, Style};

use ec2fleet_control::protocol::{Operation, Reply};

/// `ec2fleet`: read the command line, do the command, say what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = Output::new(&cli.global);
    let context = Context::new(&cli.global);
    let done = run(&cli.command, &context, &mut out).and_then(|exit| out.flush().map(|()| exit));
    let exit = match done {
        Ok(exit) => exit,
        // `ec2fleet events | head`: the reader has seen enough.
        Err(error) if error.causes.iter().any(|cause| cause.contains("Broken pipe")) => Exit::Success,
        Err(error) => {
            report(&error, &mut out);
            error.exit()
        }
    };
    ExitCode::from(exit as u8)
}

/// Do one command.
///
/// # Errors
/// What went wrong, for the caller to print.
pub fn run(command: &Command, context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let operate = |op, confirm: &args::Confirm, out: &mut Output| operate::run(context, op, confirm, out);
    match command {
        Command::Status => status::run(context, out),
        Command::Nodes(args) => nodes::run(context, args, out),
        Command::Events(args) => events::events(context, args, out),
        Command::Explain(args) => events::explain(context, args, out),
        Command::Validate(args) => validate::run(context, args, out),
        Command::Resume(a) => {
            operate(Operation::Resume { nodes: a.nodes.clone(), jobs: None }, &a.confirm, out)
        }
        Command::Suspend(a) => operate(Operation::Suspend { nodes: a.nodes.clone() }, &a.confirm, out),
        Command::Replace(a) => operate(Operation::Replace { nodes: a.nodes.clone() }, &a.confirm, out),
        Command::Reset(a) => operate(Operation::Reset { nodes: a.nodes.clone() }, &a.confirm, out),
        Command::Unlock(a) => operate(Operation::Unlock { nodes: a.nodes.clone() }, &a.confirm, out),
        Command::Lock(a) => {
            let op = Operation::Lock { nodes: a.nodes.clone(), reason: a.reason.clone() };
            operate(op, &a.confirm, out)
        }
        Command::Gc(confirm) => operate(Operation::Gc, confirm, out),
        Command::PauseOperations(a) => {
            operate(Operation::PauseOperations { reason: a.reason.clone() }, &a.confirm, out)
        }
        Command::ResumeOperations(confirm) => operate(Operation::ResumeOperations, confirm, out),
        Command::Reload(confirm) => operate(Operation::Reload, confirm, out),
        Command::LogLevel(a) => {
            let level = format!("{:?}", a.level).to_ascii_uppercase();
            operate(Operation::LogLevel { level }, &args::Confirm::default(), out)
        }
        Command::Doctor(args) if args.list => out.text(&doctor::list::document()).map(|()| Exit::Success),
        Command::Doctor(args) => doctor::run(context, args, out),
        Command::GenerateConf(args) => generate::run(context, args, out),
        Command::IamPolicy(args) => iam::run(context, args, out),
        Command::Fleets(args) => fleets::run(context, args.action.as_ref(), out),
        Command::Capacity => capacity::capacity(context, out),
        Command::Cost(args) => cost::run(context, args, out),
        Command::Top(args) => top::run(context, args, out),
        Command::Schema(args) => schema::run(args, out),
        Command::Man(args) => manual::man(args, out),
        Command::Completions(args) => manual::completions(args, out),
        Command::Version => version::run(context, out),
    }
}

fn report(error: &CliError, out: &mut Output) {
    // Both may fail where nobody reads; there is no better place to say so.
    if out.json {
        let _ = out.json(&error.clone().report());
        let _ = out.flush();
        return;
    }
    let _ = out.flush();
    let color = out.color && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let paint = |style: Style, text: &str| if color { out.paint(style, text) } else { text.to_owned() };
    eprintln!("{} {}", paint(Style::Bad, "error:"), error.message);
    for cause in &error.causes {
        eprintln!("  cause: {cause}");
    }
    if let Some(hint) = &error.hint {
        eprintln!("  {} {hint}", paint(Style::Strong, "hint:"));
    }
}

/// An answer of the wrong kind: programs and plugin do not belong together.
fn unexpected(reply: &Reply) -> CliError {
    let kind = serde_json::to_value(reply).ok();
    let kind = kind.as_ref().and_then(|value| value.as_object()?.keys().next().cloned()).unwrap_or_default();
    CliError::new(ErrorKind::Failed, "The plugin's answer does not fit the question.")
        .cause(format!("it is of the kind \"{kind}\""))
        .hint("Install programs and plugin of the same release and restart slurmctld.")
}
