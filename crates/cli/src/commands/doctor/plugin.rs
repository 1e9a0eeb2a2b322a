// SPDX-License-Identifier: GPL-3.0-or-later
//! The plugin, its state directory, and the nodes.

use std::collections::BTreeMap;

use super::{Checks, Inputs, Verdict, shim};
use ec2fleet_core::ec2_limits::FLEETS_PER_REGION;
use ec2fleet_core::hostlist;
use ec2fleet_core::report::Mode;
use ec2fleet_core::site::{Account, FleetScope};
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags};

/// SLURM_VERSION_NUM keeps the release in its lower 24 bits.
const RELEASE_MASK: u32 = 0x00ff_ffff;

pub fn judge(inputs: &Inputs, checks: &mut Checks) {
    let wanted = inputs.facts.has("JobSubmitPlugins", "ec2_fleet");
    installed(inputs, wanted, checks);
    answering(inputs, wanted, checks);
    failed_nodes(inputs, checks);
    state(inputs, checks);
    quotas(inputs, checks);
}

/// EC2 tells no quota of instances but by refusing: the plugin's last refusals, and the limit that is the same everywhere.
fn quotas(inputs: &Inputs, checks: &mut Checks) {
    let mut problems: Vec<(Verdict, String, String)> = Vec::new();
    let mut fleets: BTreeMap<&Account, u32> = BTreeMap::new();
    for group in inputs.config.iter().flat_map(|loaded| loaded.site.groups()) {
        *fleets.entry(&group.account).or_default() += match group.scope {
            FleetScope::Launch => 0,
            FleetScope::Group => 1,
            FleetScope::Node => group.max_nodes,
        };
    }
    for (account, count) in fleets.into_iter().filter(|(_, count)| *count > FLEETS_PER_REGION) {
        problems.push((
            Verdict::Warning,
            format!("{account}: up to {count} fleets at once, and EC2 has {FLEETS_PER_REGION} a region"),
            "Lower MaxNodes of the groups with a fleet for each node, or spread them over regions.".into(),
        ));
    }
    for group in inputs.plugin.iter().flat_map(|report| &report.groups) {
        if let Some(error) = group.last_error.as_ref().filter(|error| error.class == "quota") {
            problems.push((
                Verdict::Warning,
                format!("{}: EC2 refused {} nodes: {} ({})", group.stem(), error.nodes, error.message, error.code),
                "Ask AWS for more (Service Quotas, Amazon EC2, in the group's region), or lower MaxNodes to what the \
                 account may have."
                    .into(),
            ));
        }
    }
    checks.unless("quotas", problems, "nothing was refused for a quota");
}

fn installed(inputs: &Inputs, wanted: bool, checks: &mut Checks) {
    let path = inputs.plugin_dir.join("job_submit_ec2_fleet.so");
    let shown = path.display();
    let version = match &inputs.shim {
        None if wanted => {
            checks.error(
                "shim-installed",
                format!("{shown} does not exist"),
                "`make install` puts it there.",
            );
            return checks.skip("shim-release", "no shim");
        }
        None => {
            checks.info(
                "shim-installed",
                format!("{shown} does not exist, and JobSubmitPlugins does not want it"),
                "",
            );
            return checks.skip("shim-release", "no shim");
        }
        Some(Err(error)) => {
            checks.error(
                "shim-installed",
                format!("{shown}: {error}"),
                "`make install` puts a whole one there.",
            );
            return checks.skip("shim-release", "the shim cannot be read");
        }
        Some(Ok(version)) => *version,
    };
    checks.ok("shim-installed", shown.to_string());
    let built = shim::shown(version & RELEASE_MASK);
    match &inputs.release {
        Err(_) => checks.skip("shim-release", format!("built for {built}; Slurm's release is not known")),
        // Debian and others add their own suffix: 24.11.5-1.
        Ok(release) if release.split(['-', '~', '+']).next() == Some(built.as_str()) => {
            checks.ok("shim-release", built);
        }
        Ok(release) => checks.error(
            "shim-release",
            format!("the shim was built for Slurm {built}, and this is Slurm {release}"),
            format!(
                "With slurm.h of {release} in DIR/slurm (its libslurm-dev or slurm-devel): `make shim SLURM_INCLUDE=DIR`, copy \
                 target/shim/job_submit_ec2_fleet.so to {}, restart slurmctld.",
                inputs.plugin_dir.display()
            ),
        ),
    }
}

fn answering(inputs: &Inputs, wanted: bool, checks: &mut Checks) {
    let report = match &inputs.plugin {
        Ok(report) => report,
        Err(error) => {
            if wanted {
                checks.error(
                    "plugin-answers",
                    error.clone(),
                    "slurmctld's log says why it did not start; restart slurmctld after a change of JobSubmitPlugins.",
                );
            } else {
                checks.skip("plugin-answers", "the plugin is not wanted in slurm.conf");
            }
            for id in ["plugin-acts", "plugin-release", "operations", "ec2-listing"] {
                checks.skip(id, "the plugin does not answer");
            }
            return;
        }
    };
    checks.ok("plugin-answers", format!("slurmctld pid {}", report.pid));
    match &report.mode {
        Mode::Active => checks.ok("plugin-acts", "active"),
        Mode::Passive { reason } | Mode::NotRunning { reason } | Mode::NotPermitted { reason } => {
            checks.error(
                "plugin-acts",
                format!("passive: {reason}"),
                "Remove the cause; the plugin tries again by itself.",
            );
        }
    }
    let own = env!("CARGO_PKG_VERSION");
    if report.version == own {
        checks.ok("plugin-release", own);
    } else {
        checks.warn(
            "plugin-release",
            format!("the plugin is of release {}, this program of {own}", report.version),
            "Install both from one release and restart slurmctld.",
        );
    }
    let mut problems = Vec::new();
    if let Some(paused) = &report.paused {
        problems.push((
            Verdict::Warning,
            format!("operations are paused: {}", paused.reason),
            "`ec2fleet resume-operations` ends it.".to_owned(),
        ));
    }
    for group in report.groups.iter().filter(|group| group.protected) {
        let why = group.protected_reason.as_deref().unwrap_or("repeated failures");
        problems.push((
            Verdict::Error,
            format!("{} launches nothing: {why}", group.stem()),
            "`ec2fleet events` shows the failures; `ec2fleet reset` with its nodes opens the group.".into(),
        ));
    }
    checks.unless("operations", problems, "not stopped");
    let problems = report.cloud.iter().filter_map(|cloud| {
        let error = cloud.error.as_ref()?;
        Some((
            Verdict::Error,
            format!("{}: {error}", cloud.region),
            "See credentials and permissions below.".to_owned(),
        ))
    });
    checks.unless("ec2-listing", problems.collect(), format!("{} regions", report.cloud.len()));
}

fn failed_nodes(inputs: &Inputs, checks: &mut Checks) {
    let Ok(nodes) = &inputs.nodes else {
        return checks.skip("failed-nodes", "slurmctld does not answer");
    };
    let site = inputs.config.as_ref().ok().map(|loaded| &loaded.site);
    let failed: Vec<&str> = nodes
        .iter()
        .filter(|node| match site {
            Some(site) => site.locate(&node.name).is_some(),
            None => node.flags.has(NodeFlags::CLOUD),
        })
        .filter(|node| {
            matches!(node.base, NodeBase::Down | NodeBase::Error)
                || node.flags.has(NodeFlags::DRAIN)
                || node.flags.has(NodeFlags::FAIL)
                || node.flags.has(NodeFlags::INVALID_REG)
        })
        .map(|node| node.name.as_str())
        .collect();
    if failed.is_empty() {
        checks.ok("failed-nodes", "none");
    } else {
        checks.warn(
            "failed-nodes",
            format!("{} of {}: {}", failed.len(), nodes.len(), hostlist::fold(failed)),
            "`ec2fleet nodes --state failed` shows the reasons, `ec2fleet explain` how it came, `ec2fleet reset` brings them back.",
        );
    }
}

fn state(inputs: &Inputs, checks: &mut Checks) {
    let dir = inputs.state_dir.display();
    match inputs.files.get(&inputs.state_dir) {
        None if inputs.plugin.is_ok() => {
            checks.info("state-directory", format!("{dir} cannot be looked at"), "")
        }
        None => checks.info(
            "state-directory",
            format!("{dir} does not exist yet"),
            "The plugin makes it at its first start.",
        ),
        Some(found) if !found.is_dir => checks.error(
            "state-directory",
            format!("{dir} is not a folder"),
            "Remove it, or set StateDir in config.json.",
        ),
        Some(found) if inputs.slurm_user_id.is_some_and(|uid| found.uid != uid) => checks.error(
            "state-directory",
            format!("{dir} belongs to user {}, not to SlurmUser", found.uid),
            format!("chown -R {} {dir}", inputs.facts.slurm_user()),
        ),
        Some(found) if found.mode & 0o022 != 0 => checks.warn(
            "state-directory",
            format!("{dir} can be changed by others (mode {:o})", found.mode),
            format!("chmod 700 {dir}"),
        ),
        Some(_) => checks.ok("state-directory", dir.to_string()),
    }
    let cluster = inputs.config.as_ref().ok().map(|loaded| loaded.site.cluster.as_str());
    match &inputs.journal {
        Err(error) => checks.error(
            "journal",
            error.clone(),
            "Run the command as root or SlurmUser; else move the file away.",
        ),
        Ok(None) => checks.info("journal", "there is none yet", ""),
        Ok(Some(peeked)) if cluster.is_some_and(|cluster| cluster != peeked.cluster) => checks.error(
            "journal",
            format!("it belongs to cluster {}", peeked.cluster),
            "Give each cluster its own StateDir in config.json.",
        ),
        Ok(Some(peeked)) if peeked.damaged => checks.warn(
            "journal",
            "it is damaged; what stands before the damage is used",
            "Nothing is lost: instances are found again by their tags. Look at the disk.",
        ),
        Ok(Some(peeked)) => checks.ok(
            "journal",
            format!(
                "{} bytes, {} nodes with an instance, {} open intents",
                peeked.bytes,
                peeked.state.bindings.len(),
                peeked.state.open.len()
            ),
        ),
    }
}
