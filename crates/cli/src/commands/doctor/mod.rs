// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet doctor`: a list of checks, each with a verdict, a reason and a remedy.
//!
//! What is looked at is collected first (`probe`), then judged by pure code (`slurm`, `plugin`, `cloud`), so that every
//! judgement can be tested on broken clusters that nobody has to build.

pub mod cloud;
pub mod list;
pub mod plugin;
pub mod probe;
mod shim;
pub mod slurm;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::args;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::online::Progress;
use crate::output::{Output, Style};
use ec2fleet_config::Loaded;
use ec2fleet_core::report::SCHEMA_VERSION;

pub use list::{CHECKS, Described};
pub use probe::Inputs;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Worth knowing; nothing has to be done.
    Info,
    /// It could not be judged, mostly because something before it failed.
    Skipped,
    Warning,
    Error,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// `slurm.conf`, `configuration`, `plugin`, `state`, `aws`, `templates`, `network` or `nodes`.
    pub category: String,
    /// The heading in docs/doctor.md that explains it.
    pub id: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What the administrator can do; empty if nothing has to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoctorReport {
    pub schema: u32,
    pub errors: u32,
    pub warnings: u32,
    pub checks: Vec<Check>,
}

/// Collects checks.
#[derive(Default)]
pub struct Checks(Vec<Check>);

impl Checks {
    pub fn add(&mut self, id: &str, verdict: Verdict, found: impl Into<String>, remedy: impl Into<String>) {
        let category = list::describe(id).map_or("", |described| described.category).to_owned();
        self.0.push(Check {
            category,
            id: id.to_owned(),
            verdict,
            found: found.into(),
            remedy: remedy.into(),
        });
    }

    pub fn ok(&mut self, id: &str, found: impl Into<String>) {
        self.add(id, Verdict::Ok, found, "");
    }

    pub fn info(&mut self, id: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Verdict::Info, found, remedy);
    }

    pub fn skip(&mut self, id: &str, found: impl Into<String>) {
        self.add(id, Verdict::Skipped, found, "");
    }

    pub fn warn(&mut self, id: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Verdict::Warning, found, remedy);
    }

    pub fn error(&mut self, id: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(id, Verdict::Error, found, remedy);
    }

    fn into_report(mut self) -> DoctorReport {
        // In the order of the manual, whichever judge said it.
        let place = |check: &Check| CHECKS.iter().position(|described| described.id == check.id);
        self.0.sort_by_key(place);
        let count = |verdict| {
            u32::try_from(self.0.iter().filter(|check| check.verdict == verdict).count()).unwrap_or(u32::MAX)
        };
        DoctorReport {
            schema: SCHEMA_VERSION,
            errors: count(Verdict::Error),
            warnings: count(Verdict::Warning),
            checks: self.0,
        }
    }

    /// `ok` unless something was found.
    pub fn unless(&mut self, id: &str, problems: Vec<(Verdict, String, String)>, fine: impl Into<String>) {
        if problems.is_empty() {
            self.ok(id, fine);
        }
        for (verdict, found, remedy) in problems {
            self.add(id, verdict, found, remedy);
        }
    }
}

/// Judge everything that was collected.
#[must_use]
pub fn judge(inputs: &Inputs) -> DoctorReport {
    let mut checks = Checks::default();
    slurm::judge(inputs, &mut checks);
    plugin::judge(inputs, &mut checks);
    cloud::judge(inputs, &mut checks);
    checks.into_report()
}

/// Only what AWS says about the configuration: `ec2fleet validate --online`.
///
/// # Errors
/// When the system refuses a runtime.
pub fn of_aws(loaded: &Loaded, out: &Output) -> Result<DoctorReport, CliError> {
    let progress = Progress::new(out);
    let aws = probe::ask_aws(loaded, &progress)?;
    progress.clear();
    let mut checks = Checks::default();
    cloud::judge_site(&aws, &loaded.site, &mut checks);
    Ok(checks.into_report())
}

/// # Errors
/// When nobody reads the output any more.
pub fn run(context: &Context, args: &args::Doctor, out: &mut Output) -> Result<Exit, CliError> {
    let inputs = probe::collect(context, !args.offline, out)?;
    let report = judge(&inputs);
    if out.json {
        out.json(&report)?;
    } else {
        print(&report, args.verbose, out)?;
    }
    Ok(match (report.errors, report.warnings) {
        (0, 0) => Exit::Success,
        (0, _) => Exit::Warnings,
        _ => Exit::Errors,
    })
}

/// # Errors
/// When nobody reads the output any more.
pub fn print(report: &DoctorReport, verbose: bool, out: &mut Output) -> Result<(), CliError> {
    let mut category = "";
    for check in &report.checks {
        if check.category != category {
            if !category.is_empty() {
                out.line("")?;
            }
            category = &check.category;
            out.styled(Style::Strong, category)?;
        }
        let (style, mark) = match check.verdict {
            Verdict::Ok => (Style::Good, "ok"),
            Verdict::Info => (Style::Plain, "info"),
            Verdict::Skipped => (Style::Faint, "skipped"),
            Verdict::Warning => (Style::Warning, "WARNING"),
            Verdict::Error => (Style::Bad, "ERROR"),
        };
        let mark = out.paint(style, &format!("{mark:7}"));
        out.line(format!("  {mark}  {}: {}", check.id, check.found))?;
        let important = matches!(check.verdict, Verdict::Warning | Verdict::Error);
        if !check.remedy.is_empty() && (important || verbose) {
            out.line(format!("           {}", check.remedy))?;
        }
        if important {
            out.styled(Style::Faint, format!("           docs/doctor.md#{}", check.id))?;
        }
    }
    out.line("")?;
    out.line(format!(
        "{} checks: {} errors, {} warnings",
        report.checks.len(),
        report.errors,
        report.warnings
    ))
}
