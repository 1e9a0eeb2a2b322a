// SPDX-License-Identifier: GPL-3.0-or-later
//! `config.json` and `partitions.json` to a checked site model.
//!
//! Reading goes: text → tree with positions (`json`) → what fits the JSON Schema (`schema`, `shape`) → typed
//! files (`file`) → the model (`assemble`). Every step reports all that it finds and hands on the rest, so that
//! one reading names every error.

mod assemble;
mod file;
mod iam_policy;
mod json;
mod report;
mod schema;
mod shape;
pub mod slurm_conf;
mod slurm_names;

use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use assemble::{OWN_TAG_PREFIX, OWN_TAGS, ProgramSettings};
pub use file::{LogFormat, LogLevel};
pub use iam_policy::{IamPolicyOptions, iam_policy};
pub use report::{ConfigError, ConfigErrors, ConfigWarning, Finding, JsonPath};
pub use schema::{config_schema, partitions_schema};
pub use slurm_conf::SlurmFacts;

use ec2fleet_core::site::Site;
use report::Report;

/// Names of the two files in the configuration folder.
pub const CONFIG_FILE: &str = "config.json";
pub const PARTITIONS_FILE: &str = "partitions.json";

/// A larger file is not a configuration.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    pub site: Site,
    pub program: ProgramSettings,
    pub warnings: Vec<ConfigWarning>,
}

/// Reads and checks the two files in `dir`.
///
/// # Errors
/// Everything that is wrong with either file.
pub fn load(dir: &Path, slurm: &SlurmFacts) -> Result<Loaded, ConfigErrors> {
    check(dir, read(&dir.join(CONFIG_FILE)), read(&dir.join(PARTITIONS_FILE)), slurm)
}

/// Checks the contents of the two files; `dir` is where they are from.
///
/// # Errors
/// Everything that is wrong with either file.
pub fn check(
    dir: &Path,
    config: io::Result<Vec<u8>>,
    partitions: io::Result<Vec<u8>>,
    slurm: &SlurmFacts,
) -> Result<Loaded, ConfigErrors> {
    let mut config_report = Report::new(&dir.join(CONFIG_FILE));
    let mut partitions_report = Report::new(&dir.join(PARTITIONS_FILE));
    let config: file::ConfigFile = parse(config, &config_schema(), &mut config_report).unwrap_or_default();
    let partitions: file::PartitionsFile =
        parse(partitions, &partitions_schema(), &mut partitions_report).unwrap_or_default();
    // An unreadable config.json says nothing about the cluster's name, so do not ask for that as well.
    let readable = config_report.root().is_some();
    let (cluster, settings, program) = if readable {
        assemble::program(&config, dir, slurm, &mut config_report)
    } else {
        assemble::program(&config, dir, slurm, &mut Report::new(dir))
    };
    let site = assemble::site(&partitions, cluster, settings, &mut partitions_report);

    let (mut errors, mut warnings) = config_report.finish();
    let (more_errors, more_warnings) = partitions_report.finish();
    errors.extend(more_errors);
    warnings.extend(more_warnings);
    if errors.is_empty() {
        Ok(Loaded { site, program, warnings })
    } else {
        Err(ConfigErrors { errors, warnings })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    if length > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("the file has {length} bytes")));
    }
    std::fs::read(path)
}

fn parse<T: DeserializeOwned>(
    bytes: io::Result<Vec<u8>>,
    schema: &serde_json::Value,
    report: &mut Report,
) -> Option<T> {
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => {
                    "Create it (examples/config has examples), or name the right folder with --config-dir."
                }
                io::ErrorKind::PermissionDenied => "Make it readable for SlurmUser.",
                _ => "Check that it is a regular file.",
            };
            report.error_at(None, format!("The file cannot be read: {error}."), remedy);
            return None;
        }
    };
    match json::parse(&bytes) {
        Ok(root) => report.set_root(root),
        Err(error) => {
            report.error_at(Some(error.position), error.what, error.remedy);
            return None;
        }
    }
    let fits = shape::check(schema, report);
    match serde_json::from_value(fits) {
        Ok(file) => Some(file),
        // A root of the wrong type is reported by then; nothing else is left out of what fits.
        Err(_) if !report.errors.is_empty() => None,
        Err(error) => {
            report.error(
                &JsonPath::root(),
                format!("The file cannot be read: {error}."),
                "Report this as a bug.",
            );
            None
        }
    }
}
