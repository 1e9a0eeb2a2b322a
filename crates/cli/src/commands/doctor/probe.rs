// SPDX-License-Identifier: GPL-3.0-or-later
//! Collects what the checks judge. Nothing here changes anything.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::shim;
use crate::commands::status;
use crate::context::Context;
use crate::error::CliError;
use crate::online::{Progress, block_on, ec2};
use crate::output::Output;
use crate::survey::{self, Survey, ask};
use ec2fleet_config::{ConfigErrors, Loaded, SlurmFacts};
use ec2fleet_core::ec2_api::CloudError;
use ec2fleet_core::report::StatusReport;
use ec2fleet_core::site::{Account, FleetScope, NodeGroup};
use ec2fleet_core::slurm_api::{SlurmNode, SlurmReply, SlurmRequest};
use ec2fleet_core::tag;
use ec2fleet_ec2::catalog::{Action, Caller, Catalog, Example, Need, Verdict};
use ec2fleet_journal::peek::{Peeked, peek};

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub uid: u32,
    pub mode: u32,
    pub is_dir: bool,
}

/// Everything that is judged. `None`: it was not looked at.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub facts: SlurmFacts,
    pub facts_error: Option<String>,
    pub config: Result<Loaded, ConfigErrors>,
    /// Slurm's release, as scontrol says it.
    pub release: Result<String, String>,
    pub nodes: Result<Vec<SlurmNode>, String>,
    pub plugin: Result<StatusReport, String>,
    pub plugin_dir: PathBuf,
    /// `plugin_version` of the installed shim; the outer `None`: there is no shim.
    pub shim: Option<Result<u32, String>>,
    /// By path.
    pub files: BTreeMap<PathBuf, Found>,
    pub slurm_user_id: Option<u32>,
    pub state_dir: PathBuf,
    pub journal: Result<Option<Peeked>, String>,
    pub aws: Option<Aws>,
}

/// What EC2 answered.
#[derive(Clone, Debug, Default)]
pub struct Aws {
    pub callers: Vec<(Account, Result<Caller, CloudError>)>,
    pub permissions: Vec<Permission>,
    pub survey: Survey,
}

#[derive(Clone, Debug)]
pub struct Permission {
    pub group: String,
    pub action: Action,
    pub verdict: Result<Verdict, CloudError>,
    /// What `sts:DecodeAuthorizationMessage` made of a denial.
    pub decoded: Option<String>,
}

/// # Errors
/// When the system refuses a runtime.
pub fn collect(context: &Context, online: bool, out: &Output) -> Result<Inputs, CliError> {
    let progress = Progress::new(out);
    progress.show("asking Slurm");
    let slurm = context.slurm();
    let nodes = match slurm.call_blocking(&SlurmRequest::LoadNodes) {
        Ok(SlurmReply::Nodes(nodes)) => Ok(nodes),
        Ok(SlurmReply::Done) => Err("scontrol gave no nodes".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let plugin_dir = context
        .facts
        .get("PluginDir")
        .and_then(|dirs| dirs.split(':').next().map(PathBuf::from))
        .or_else(|| slurm.config_value("PluginDir").ok().flatten().map(PathBuf::from))
        .unwrap_or_else(|| "/usr/lib/x86_64-linux-gnu/slurm-wlm".into());
    let state_dir = context.state_dir();
    let mut paths: Vec<PathBuf> = vec![state_dir.clone()];
    paths.extend(
        ["ResumeProgram", "SuspendProgram", "ResumeFailProgram"]
            .iter()
            .filter_map(|key| context.facts.get(key).map(PathBuf::from)),
    );
    let files = paths.into_iter().filter_map(|path| found(&path).map(|found| (path, found))).collect();
    let aws = match (online, context.loaded()) {
        (true, Ok(loaded)) => Some(ask_aws(loaded, &progress)?),
        _ => None,
    };
    progress.clear();
    Ok(Inputs {
        facts: context.facts.clone(),
        facts_error: context.facts_error.clone(),
        config: context.loaded().cloned().map_err(Clone::clone),
        release: slurm.release_text().map_err(|error| error.to_string()),
        nodes,
        plugin: status::from_plugin(context).map_err(|error| match error.causes.first() {
            Some(cause) => format!("{} {cause}", error.message),
            None => error.message,
        }),
        shim: shim::version(&plugin_dir.join("job_submit_ec2_fleet.so")),
        plugin_dir,
        files,
        slurm_user_id: user_id(context.facts.slurm_user()),
        journal: peek(&state_dir).map_err(|error| error.to_string()),
        state_dir,
        aws,
    })
}

fn found(path: &Path) -> Option<Found> {
    let found = std::fs::metadata(path).ok()?;
    Some(Found { uid: found.uid(), mode: found.mode() & 0o7777, is_dir: found.is_dir() })
}

/// A user's number: by /etc/passwd, or the number itself. Users of a directory service are not looked up.
fn user_id(name: &str) -> Option<u32> {
    let name = name.split('(').next().unwrap_or(name).trim();
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Ask AWS about everything that the configuration names. Changes nothing: permissions are asked with DryRun.
///
/// # Errors
/// When the system refuses a runtime.
pub fn ask_aws(loaded: &Loaded, progress: &Progress) -> Result<Aws, CliError> {
    let catalog = ec2(loaded);
    block_on(async {
        let mut aws = Aws::default();
        for account in loaded.site.accounts() {
            progress.show(&format!("asking AWS who we are in {account}"));
            let caller = ask(|| catalog.caller(account.clone())).await;
            aws.callers.push((account, caller));
        }
        aws.survey = survey::take(&catalog, &loaded.site, |group| {
            progress.show(&format!("asking EC2 about {group}"));
        })
        .await;
        for group in loaded.site.groups() {
            let account = &group.account;
            for action in needed(group) {
                progress.show(&format!(
                    "asking EC2 for permission: {} for {}",
                    action.as_str(),
                    group.stem()
                ));
                let example = example(group, &loaded.site.cluster);
                let verdict = ask(|| catalog.permission(account.clone(), action, example.clone())).await;
                let decoded = match &verdict {
                    Ok(Verdict::Denied { encoded: Some(encoded), .. }) => {
                        catalog.decode_denial(account.clone(), encoded.clone()).await.ok()
                    }
                    _ => None,
                };
                aws.permissions.push(Permission { group: group.stem(), action, verdict, decoded });
            }
        }
        aws
    })
}

fn needed(group: &NodeGroup) -> Vec<Action> {
    let maintain = group.scope != FleetScope::Launch;
    Action::ALL
        .into_iter()
        .filter(|action| match action.need() {
            Need::Always => true,
            Need::MaintainFleets => maintain,
            Need::MoveToOnDemand => group.moves_to_on_demand(),
            Need::Tool => false,
        })
        .collect()
}

fn example(group: &NodeGroup, cluster: &str) -> Example {
    Example {
        launch_template: group.launch_template.clone(),
        instance_type: group.overrides.iter().find_map(|choice| choice.instance_type.clone()),
        subnet_id: group.subnet_ids.first().cloned(),
        tags: [(tag::CLUSTER.to_owned(), cluster.to_owned())].into(),
        instance_id: None,
        fleet_id: None,
    }
}
