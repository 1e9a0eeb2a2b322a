// SPDX-License-Identifier: GPL-3.0-or-later
//! slurm.conf and the configuration files.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Checks, Inputs, Verdict};
use ec2fleet_config::{Loaded, SlurmFacts};
use ec2fleet_core::hostlist;
use ec2fleet_core::site::{FleetScope, Site};

/// Shorter than this, most images do not boot in time (seconds).
const MIN_RESUME_TIMEOUT: u32 = 120;
const MIN_SUSPEND_TIMEOUT: u32 = 60;

pub fn judge(inputs: &Inputs, checks: &mut Checks) {
    commands(inputs, checks);
    configuration(inputs, checks);
    let facts = &inputs.facts;
    if !facts.is_known() {
        let why = inputs.facts_error.as_deref().unwrap_or("it was not read");
        checks.error("slurm-conf", why, "Name it with --slurm-conf or SLURM_CONF.");
        return;
    }
    let problems = facts.problems.iter().map(|problem| {
        (
            Verdict::Warning,
            problem.to_string(),
            "slurmctld may read it otherwise than it was meant.".to_owned(),
        )
    });
    let file = facts.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    checks.unless("slurm-conf", problems.collect(), file);
    parameters(facts, checks);
    programs(inputs, checks);
    times(facts, checks);
    let site = inputs.config.as_ref().ok().map(|loaded| &loaded.site);
    let nodes = match site {
        Some(site) => site.groups().iter().map(|group| u64::from(group.max_nodes)).sum(),
        None => facts
            .cloud_nodes()
            .filter_map(|line| hostlist::expand(&line.name).ok())
            .map(|n| n.len() as u64)
            .sum(),
    };
    tree_width(facts, nodes, checks);
    if let Ok(loaded) = &inputs.config {
        hibernation(facts, &loaded.site, checks);
        declared(facts, &loaded.site, checks);
        exclusions(facts, &loaded.site, checks);
        installed(facts, loaded, checks);
    }
}

fn commands(inputs: &Inputs, checks: &mut Checks) {
    match (&inputs.release, &inputs.nodes) {
        (Ok(release), Ok(_)) => checks.ok("slurm-commands", format!("Slurm {release}, slurmctld answers")),
        (Ok(release), Err(error)) => checks.error(
            "slurm-commands",
            format!("Slurm {release}, but slurmctld does not answer: {error}"),
            "Start slurmctld, or see its log.",
        ),
        (Err(error), _) => checks.error(
            "slurm-commands",
            error.clone(),
            "Set SlurmBinPath in config.json to the folder of Slurm's commands.",
        ),
    }
}

fn configuration(inputs: &Inputs, checks: &mut Checks) {
    match &inputs.config {
        Ok(loaded) if loaded.warnings.is_empty() => {
            let groups = loaded.site.groups().len();
            checks.ok("configuration", format!("valid, {groups} node groups"));
        }
        Ok(loaded) => {
            for warning in &loaded.warnings {
                let found = format!("{}: {}", warning.path, warning.what);
                checks.warn("configuration", found, warning.remedy.clone());
            }
        }
        Err(errors) => {
            for error in &errors.errors {
                checks.error(
                    "configuration",
                    format!("{}: {}", error.path, error.what),
                    error.remedy.clone(),
                );
            }
        }
    }
}

fn parameters(facts: &SlurmFacts, checks: &mut Checks) {
    let shown = |key: &str| facts.get(key).unwrap_or("not set").to_owned();
    let mut has = |id: &str, key: &str, item: &str, verdict: Verdict, why: &str| {
        if facts.has(key, item) {
            checks.ok(id, format!("{key}={}", shown(key)));
        } else {
            let value = match facts.get(key) {
                Some(value) => format!("{key}={value},{item}"),
                None => format!("{key}={item}"),
            };
            checks.add(
                id,
                verdict,
                format!("{key} is {}: {why}", shown(key)),
                format!("Set {value} in slurm.conf."),
            );
        }
    };
    has(
        "job-submit-plugins",
        "JobSubmitPlugins",
        "ec2_fleet",
        Verdict::Warning,
        "slurmctld does not load the plugin, and the programs alone do the work",
    );
    has(
        "private-data",
        "PrivateData",
        "cloud",
        Verdict::Warning,
        "powered-down nodes are hidden from everyone",
    );
    has(
        "no-addr-cache",
        "CommunicationParameters",
        "NoAddrCache",
        Verdict::Warning,
        "slurmctld may send messages to addresses that are another machine's by now",
    );
    has(
        "idle-on-node-suspend",
        "SlurmctldParameters",
        "idle_on_node_suspend",
        Verdict::Info,
        "nodes that are powered down after a failure stay DOWN until an administrator acts",
    );
    has(
        "node-reg-mem-percent",
        "SlurmctldParameters",
        "node_reg_mem_percent",
        Verdict::Info,
        "a node that registers with less than RealMemory is drained",
    );
    if facts.has("SlurmctldParameters", "cloud_dns") {
        checks.warn(
            "cloud-dns",
            "SlurmctldParameters has cloud_dns: slurmctld asks DNS for cloud nodes and ignores the addresses that it is given",
            "Remove cloud_dns, unless your DNS knows every node as soon as it is launched.",
        );
    } else {
        checks.ok("cloud-dns", "not set");
    }
    match facts.return_to_service() {
        2 => checks.ok("return-to-service", "ReturnToService=2"),
        other => checks.warn(
            "return-to-service",
            format!("ReturnToService={other}: nodes that came up late stay DOWN"),
            "Set ReturnToService=2 in slurm.conf.",
        ),
    }
    match facts.get("RebootProgram") {
        Some(program) => checks.info(
            "reboot-program",
            format!("RebootProgram={program}: it is run on the node itself"),
            "For cloud nodes `ec2fleet replace` gives a fresh instance.",
        ),
        None => checks.ok("reboot-program", "not set"),
    }
}

fn programs(inputs: &Inputs, checks: &mut Checks) {
    for (id, key, program, verdict) in [
        ("resume-program", "ResumeProgram", "ec2fleet-resume", Verdict::Error),
        ("suspend-program", "SuspendProgram", "ec2fleet-suspend", Verdict::Error),
        ("resume-fail-program", "ResumeFailProgram", "ec2fleet-resume-fail", Verdict::Warning),
    ] {
        let Some(value) = inputs.facts.get(key) else {
            let remedy = format!("Set {key} to the full path of {program} in slurm.conf.");
            checks.add(id, verdict, format!("{key} is not set"), remedy);
            continue;
        };
        let path = Path::new(value);
        let mut problems = Vec::new();
        let mut problem = |verdict, found: String, remedy: String| problems.push((verdict, found, remedy));
        if path.is_relative() {
            problem(
                verdict,
                format!("{key}={value} is not a full path"),
                "Write a path that begins with /.".into(),
            );
        } else if let Some(found) = inputs.files.get(path) {
            if found.is_dir || found.mode & 0o111 == 0 {
                problem(verdict, format!("{value} cannot be run"), format!("chmod 755 {value}"));
            } else if found.uid != 0 && inputs.slurm_user_id != Some(found.uid) {
                let remedy = format!("chown root {value}");
                problem(Verdict::Warning, format!("{value} belongs to user {}", found.uid), remedy);
            } else if found.mode & 0o022 != 0 {
                let remedy = format!("chmod go-w {value}");
                problem(Verdict::Warning, format!("{value} can be changed by others than its owner"), remedy);
            }
        } else {
            problem(
                verdict,
                format!("{value} does not exist"),
                format!("Install {program} there, or correct {key}."),
            );
        }
        if path.file_name().is_some_and(|name| name != program) {
            problem(
                Verdict::Warning,
                format!("{key} is {value}, not {program}"),
                "Without the plugin nothing of ours is done then; a script that calls it is fine.".into(),
            );
        }
        checks.unless(id, problems, value);
    }
}

fn times(facts: &SlurmFacts, checks: &mut Checks) {
    let (resume, suspend) = (facts.resume_timeout_s(), facts.suspend_timeout_s());
    if resume < MIN_RESUME_TIMEOUT {
        checks.warn(
            "resume-timeout",
            format!("ResumeTimeout={resume}: most instances need longer to boot and register"),
            "Set ResumeTimeout=600 in slurm.conf.",
        );
    } else {
        checks.ok("resume-timeout", format!("{resume} s"));
    }
    if suspend < MIN_SUSPEND_TIMEOUT {
        checks.warn(
            "suspend-timeout",
            format!(
                "SuspendTimeout={suspend}: nodes may be powered up while their instance still shuts down"
            ),
            "Set SuspendTimeout=120 in slurm.conf.",
        );
    } else {
        checks.ok("suspend-timeout", format!("{suspend} s"));
    }
    let sum = u64::from(resume) + u64::from(suspend);
    match facts.suspend_time_s() {
        None | Some(u32::MAX) => checks.error(
            "suspend-time",
            "SuspendTime is not set: slurmctld has power saving switched off",
            "Set SuspendTime=900 in slurm.conf.",
        ),
        Some(time) if u64::from(time) < sum => checks.warn(
            "suspend-time",
            format!("SuspendTime={time} is less than ResumeTimeout and SuspendTimeout together ({sum})"),
            format!("Set SuspendTime to {sum} or more in slurm.conf."),
        ),
        Some(time) => checks.ok("suspend-time", format!("{time} s")),
    }
    let rates = [("ResumeRate", facts.resume_rate()), ("SuspendRate", facts.suspend_rate())];
    let limited: Vec<String> =
        rates.iter().filter(|(_, rate)| *rate != 0).map(|(key, rate)| format!("{key}={rate}")).collect();
    if limited.is_empty() {
        checks.ok("rates", "without limit");
    } else {
        checks.warn(
            "rates",
            format!("{}: slurmctld powers no more nodes a minute", limited.join(", ")),
            "Set ResumeRate=0 and SuspendRate=0 in slurm.conf.",
        );
    }
}

fn tree_width(facts: &SlurmFacts, nodes: u64, checks: &mut Checks) {
    // Slurm's default is 50, and 16 since 23.11.
    let width = facts.get("TreeWidth").and_then(|width| width.parse::<u64>().ok()).unwrap_or(16);
    if width < nodes {
        checks.warn(
            "tree-width",
            format!("TreeWidth={width} with {nodes} cloud nodes"),
            "Set TreeWidth=65533 in slurm.conf.",
        );
    } else {
        checks.ok("tree-width", format!("{width}"));
    }
}

fn hibernation(facts: &SlurmFacts, site: &Site, checks: &mut Checks) {
    let sleepers: Vec<String> = site
        .groups()
        .iter()
        .filter(|group| group.scope == FleetScope::Node && group.hibernation.keep_responding)
        .map(|group| group.stem())
        .collect();
    if sleepers.is_empty() {
        checks.ok("slurmd-timeout", "no node group hibernates");
    } else if facts.slurmd_timeout_s() == 0 || facts.has("JobSubmitPlugins", "ec2_fleet") {
        checks.ok("slurmd-timeout", format!("{} s", facts.slurmd_timeout_s()));
    } else {
        checks.error(
            "slurmd-timeout",
            format!(
                "{} may hibernate, and nothing keeps slurmctld from setting sleeping nodes DOWN",
                sleepers.join(", ")
            ),
            "Load the plugin (JobSubmitPlugins=ec2_fleet), or set SlurmdTimeout=0.",
        );
    }
}

fn declared(facts: &SlurmFacts, site: &Site, checks: &mut Checks) {
    let wanted: BTreeSet<String> = site
        .groups()
        .iter()
        .flat_map(|group| (0..group.max_nodes).map(|index| group.node_name(index)))
        .collect();
    let (mut cloud, mut other) = (BTreeSet::new(), BTreeSet::new());
    for line in &facts.nodes {
        let names = hostlist::expand(&line.name).unwrap_or_default();
        if line.is_cloud() { cloud.extend(names) } else { other.extend(names) }
    }
    let mut problems = Vec::new();
    let not_cloud: Vec<&String> = wanted.intersection(&other).collect();
    if !not_cloud.is_empty() {
        problems.push((
            Verdict::Error,
            format!("{} are declared without State=CLOUD", hostlist::fold(not_cloud)),
            "Slurm never powers them up. Add State=CLOUD to their NodeName line.".into(),
        ));
    }
    let missing: Vec<&String> = wanted.difference(&cloud).filter(|name| !other.contains(*name)).collect();
    if !missing.is_empty() {
        problems.push((
            Verdict::Error,
            format!("{} are in partitions.json and not in slurm.conf", hostlist::fold(missing)),
            "Make slurm.conf.aws anew with `ec2fleet generate-conf` and include it in slurm.conf.".into(),
        ));
    }
    let extra: Vec<&String> = cloud.difference(&wanted).collect();
    if !extra.is_empty() {
        problems.push((
            Verdict::Warning,
            format!("{} are cloud nodes in slurm.conf and not in partitions.json", hostlist::fold(extra)),
            "Nothing is launched for them. Remove them, or add their node group.".into(),
        ));
    }
    checks.unless("nodes-declared", problems, format!("{} nodes", wanted.len()));
}

fn exclusions(facts: &SlurmFacts, site: &Site, checks: &mut Checks) {
    let mut problems = Vec::new();
    let nodes = facts.get("SuspendExcNodes").unwrap_or_default();
    // `nodes:count` keeps so many of them up.
    let list: Vec<&str> = nodes.split(':').take(1).collect();
    let ours: Vec<String> = list
        .iter()
        .flat_map(|list| hostlist::expand(list).unwrap_or_default())
        .filter(|name| site.locate(name).is_some())
        .collect();
    if !ours.is_empty() {
        problems.push((
            Verdict::Warning,
            format!("SuspendExcNodes keeps {} from being powered down", hostlist::fold(ours)),
            "Their instances run until somebody ends them.".into(),
        ));
    }
    let parts: Vec<&str> = facts
        .list("SuspendExcParts")
        .filter(|part| site.partitions.iter().any(|partition| partition.name == **part))
        .collect();
    if !parts.is_empty() {
        problems.push((
            Verdict::Warning,
            format!("SuspendExcParts keeps the nodes of {} from being powered down", parts.join(",")),
            "Their instances run until somebody ends them.".into(),
        ));
    }
    checks.unless("suspend-exclusions", problems, "none of our nodes is excluded");
}

/// What config.json wants in slurm.conf is there.
fn installed(facts: &SlurmFacts, loaded: &Loaded, checks: &mut Checks) {
    let mut problems = Vec::new();
    for (key, wanted) in &loaded.program.slurm_conf {
        let found = facts.get(key);
        // Lists are compared item by item: slurm.conf may add to them.
        let same = found.is_some_and(|found| {
            found.eq_ignore_ascii_case(wanted) || wanted.split(',').all(|item| facts.has(key, item.trim()))
        });
        if !same {
            problems.push((
                Verdict::Warning,
                format!("{key} is {} in slurm.conf and {wanted} in config.json", found.unwrap_or("not set")),
                "Make slurm.conf.aws anew with `ec2fleet generate-conf` and include it in slurm.conf.".into(),
            ));
        }
    }
    checks.unless("parameters-installed", problems, "as in config.json");
}
