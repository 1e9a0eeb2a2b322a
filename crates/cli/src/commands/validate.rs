// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet validate`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::args;
use crate::commands::doctor::{self, DoctorReport};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::{Output, Style};
use ec2fleet_config::Finding;
use ec2fleet_core::report::SCHEMA_VERSION;

/// Every error and warning of config.json and partitions.json.
#[derive(Serialize, JsonSchema)]
pub struct ValidateReport {
    schema: u32,
    config_dir: String,
    /// The slurm.conf that they were compared with.
    slurm_conf: Option<String>,
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    partitions: usize,
    node_groups: usize,
    nodes: u64,
    /// What AWS says, with `--online`.
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<DoctorReport>,
}

/// # Errors
/// When nobody reads the output any more.
pub fn run(context: &Context, args: &args::Validate, out: &mut Output) -> Result<Exit, CliError> {
    let (errors, warnings, site) = match context.loaded() {
        Ok(loaded) => (&[][..], loaded.warnings.as_slice(), Some(&loaded.site)),
        Err(found) => (found.errors.as_slice(), found.warnings.as_slice(), None),
    };
    let groups = site.map_or(0, |site| site.groups().len());
    let partitions = site.map_or(0, |site| site.partitions.len());
    let nodes = site.map_or(0, |site| site.groups().iter().map(|g| u64::from(g.max_nodes)).sum());
    let online = match context.loaded() {
        Ok(loaded) if args.online => Some(doctor::of_aws(loaded, out)?),
        _ => None,
    };
    if out.json {
        out.json(&ValidateReport {
            schema: SCHEMA_VERSION,
            config_dir: context.config_dir.display().to_string(),
            slurm_conf: context.slurm_conf.as_ref().map(|path| path.display().to_string()),
            errors: errors.to_vec(),
            warnings: warnings.to_vec(),
            partitions,
            node_groups: groups,
            nodes,
            online: online.clone(),
        })?;
    } else {
        for (style, word, findings) in [(Style::Bad, "error", errors), (Style::Warning, "warning", warnings)]
        {
            for finding in findings {
                let place = match (finding.line, finding.column) {
                    (Some(line), Some(column)) => format!("{}:{line}:{column}", finding.file.display()),
                    (Some(line), None) => format!("{}:{line}", finding.file.display()),
                    _ => finding.file.display().to_string(),
                };
                let word = out.paint(style, word);
                out.line(format!("{word}: {place}: {}", finding.path))?;
                out.line(format!("  {}", finding.what))?;
                out.line(format!("  {}", finding.remedy))?;
            }
        }
        if let Some(error) = &context.facts_error {
            out.styled(Style::Warning, format!("slurm.conf was not compared: {error}"))?;
        }
        match site {
            Some(_) => out.line(format!(
                "{}: valid; {partitions} partitions, {groups} node groups, {nodes} nodes; {} warnings",
                context.config_dir.display(),
                warnings.len()
            ))?,
            None => out.line(format!(
                "{}: not valid; {} errors, {} warnings",
                context.config_dir.display(),
                errors.len(),
                warnings.len()
            ))?,
        }
    }
    if let Some(report) = online.as_ref().filter(|_| !out.json) {
        out.line("")?;
        doctor::print(report, true, out)?;
    }
    let (online_errors, online_warnings) = online.map_or((0, 0), |report| (report.errors, report.warnings));
    Ok(if !errors.is_empty() || online_errors > 0 {
        Exit::Errors
    } else if args.strict && (!warnings.is_empty() || online_warnings > 0) {
        Exit::Warnings
    } else {
        Exit::Success
    })
}
