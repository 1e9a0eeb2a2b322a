// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet-resume`, `ec2fleet-suspend` and `ec2fleet-resume-fail`: what slurmctld runs.
//!
//! slurmctld starts them with an empty environment but for SLURM_CONF and SLURM_RESUME_FILE (and SLURM_JOB_ID), with
//! the standard streams closed (src/slurmctld/power_save.c in 22.05), and takes note of the exit status alone.
//! With the plugin alive they hand their request to it and return; without it they do the same work themselves.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::Global;
use crate::client::{Client, ClientError};
use crate::context::Context;
use crate::error::{CliError, ErrorKind};
use ec2fleet_config::LogFormat;
use ec2fleet_control::protocol::{Operation, Reply};
use ec2fleet_core::event::Event;
use ec2fleet_core::hostlist::{self, HostlistError};
use ec2fleet_core::report::Severity;
use ec2fleet_core::resume_file::{MAX_BYTES, ResumeFile};
use ec2fleet_observe::log;
use ec2fleet_runtime::standalone;

/// A plugin that is alive answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Which of the three runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Resume,
    Suspend,
    ResumeFail,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Resume => "ec2fleet-resume",
            Self::Suspend => "ec2fleet-suspend",
            Self::ResumeFail => "ec2fleet-resume-fail",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Resume => "ResumeProgram of slurm.conf: launch instances for nodes that Slurm powers up",
            Self::Suspend => {
                "SuspendProgram of slurm.conf: terminate the instances of nodes that Slurm powers down"
            }
            Self::ResumeFail => {
                "ResumeFailProgram of slurm.conf: give up nodes that did not start within ResumeTimeout"
            }
        }
    }

    fn operation(self, nodes: String, jobs: Option<ResumeFile>) -> Operation {
        match self {
            Self::Resume => Operation::Resume { nodes, jobs },
            Self::Suspend => Operation::Suspend { nodes },
            Self::ResumeFail => Operation::ResumeFail { nodes },
        }
    }
}

#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Arguments {
    /// Hostlist, as slurmctld gives it
    #[arg(value_name = "NODES")]
    nodes: String,
    /// Features that a job wants the nodes to be started with; not used
    #[arg(value_name = "FEATURES", hide = true)]
    features: Option<String>,
    /// Folder of config.json and partitions.json [default: the folder of slurm.conf, or of this program]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// slurm.conf of the cluster [default: $SLURM_CONF]
    #[arg(long, value_name = "FILE")]
    slurm_conf: Option<PathBuf>,
}

/// The command line of a program, also for its manual page.
#[must_use]
pub fn command(program: Program) -> clap::Command {
    <Arguments as clap::CommandFactory>::command().name(program.name()).about(program.about())
}

#[must_use]
pub fn main(program: Program) -> ExitCode {
    // The file is a memfd of slurmctld, which closes it when ten seconds have passed: read it before all else.
    let jobs = match program {
        Program::Resume => read_resume_file(),
        Program::Suspend | Program::ResumeFail => Ok(None),
    };
    let matches = command(program).get_matches();
    let arguments = match <Arguments as clap::FromArgMatches>::from_arg_matches(&matches) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let context = Context::new(&Global {
        config_dir: arguments.config_dir,
        slurm_conf: arguments.slurm_conf,
        ..Global::default()
    });
    let log = Log { program, context: &context };
    let jobs = jobs.unwrap_or_else(|error| {
        log.line(Severity::Warning, &format!("{error}; the nodes are resumed without knowing their jobs"));
        None
    });
    if let Err(error) = hostlist::expand(&arguments.nodes) {
        log.line(Severity::Error, &error.to_string());
        return ExitCode::FAILURE;
    }
    let op = program.operation(arguments.nodes.clone(), jobs);
    let client = Client::new(context.socket(), TIMEOUT);
    let why = match client.ask(op.clone()) {
        Ok(Reply::Accepted { .. } | Reply::Plan(_) | Reply::Done { .. }) => return ExitCode::SUCCESS,
        Ok(other) => crate::unexpected(&other).message,
        Err(ClientError::Refused(refusal)) if !refusal.kind.program_takes_over() => {
            log.line(
                Severity::Error,
                &format!("{}: the plugin refused: {} {}", arguments.nodes, refusal, refusal.hint),
            );
            return ExitCode::FAILURE;
        }
        Err(error) => error.to_string(),
    };
    log.line(Severity::Info, &format!("{}: {why}; this program does the work itself", arguments.nodes));
    match fall_back(&context, op) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("{}: {}", arguments.nodes, error.message);
            for detail in error.causes.iter().chain(&error.hint) {
                text.push(' ');
                text.push_str(detail);
            }
            log.line(Severity::Error, &text);
            ExitCode::FAILURE
        }
    }
}

/// Do the work without the plugin: the same engine, under the same fence and journal.
fn fall_back(context: &Context, op: Operation) -> Result<(), CliError> {
    context.require_config()?;
    let Some(slurm_conf) = &context.slurm_conf else {
        return Err(CliError::new(ErrorKind::NotRunning, "No slurm.conf was found.")
            .hint("slurmctld names it in SLURM_CONF; elsewhere give --slurm-conf."));
    };
    standalone::run(Some(&context.config_dir), slurm_conf, event(op)?)
        .map_err(|error| CliError::new(ErrorKind::Failed, error.to_string()))
}

fn event(op: Operation) -> Result<Event, HostlistError> {
    let expand = |nodes: String| hostlist::expand(&nodes);
    Ok(match op {
        Operation::Resume { nodes, jobs } => {
            Event::ResumeRequested { nodes: expand(nodes)?, jobs: jobs.and_then(|file| file.jobs()) }
        }
        Operation::Suspend { nodes } => Event::SuspendRequested { nodes: expand(nodes)? },
        Operation::ResumeFail { nodes } => Event::ResumeFailed { nodes: expand(nodes)? },
        _ => Event::Rescan,
    })
}

fn read_resume_file() -> Result<Option<ResumeFile>, String> {
    let Some(path) = std::env::var_os("SLURM_RESUME_FILE").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let shown = PathBuf::from(&path);
    let failed = |error: &dyn std::fmt::Display| format!("SLURM_RESUME_FILE ({}): {error}", shown.display());
    let file = std::fs::File::open(&path).map_err(|error| failed(&error))?;
    let mut text = String::new();
    file.take(MAX_BYTES as u64 + 1).read_to_string(&mut text).map_err(|error| failed(&error))?;
    ResumeFile::parse(&text).map(Some).map_err(|error| failed(&error))
}

/// Lines in the plugin's log file, since nobody reads what these programs print.
struct Log<'a> {
    program: Program,
    context: &'a Context,
}

impl Log<'_> {
    fn line(&self, severity: Severity, text: &str) {
        let name = self.program.name();
        let pid = std::process::id();
        let format = match self.context.loaded().ok().map(|loaded| loaded.program.log_format) {
            Some(LogFormat::Json) => log::Format::Json,
            _ => log::Format::Text,
        };
        let text = format!("{name}[{pid}]: {}", text.replace(['\n', '\r'], " "));
        let line = log::line(format, severity, &text);
        let file = self
            .context
            .log_file()
            .and_then(|path| OpenOptions::new().append(true).create(true).mode(0o640).open(path).ok());
        // One write, so that lines of several programs do not mix.
        let written = file.is_some_and(|mut file| file.write_all(line.as_bytes()).is_ok());
        if !written || severity == Severity::Error {
            // Where standard error is closed, too, there is no place left to say it.
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}
