// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurm.conf must say for cloud nodes to work, as a list of checks.
//!
//! Sources: slurm.conf(5), and Slurm's "Power Saving Guide" and "Cloud Scheduling Guide".

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::assemble::lookup;
use super::generate::node_range;
use super::slurm_conf::{DefinitionLine, Number, SlurmFacts};
use crate::core::hostlist;
use crate::core::site::{NodeGroup, Site};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Works, but not as well as it could, or not in every case.
    Warn,
    /// Does not work.
    Fail,
}

/// One item of a check list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name, for `--json` and for the documentation.
    pub id: &'static str,
    pub category: &'static str,
    pub verdict: Verdict,
    /// What was found.
    pub reason: String,
    /// What the administrator can do; empty where nothing is to be done.
    pub remedy: String,
    /// Where the documentation explains it.
    pub anchor: String,
}

/// What is known of a file that slurm.conf names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    Missing,
    /// There, but SlurmUser cannot run it.
    NotExecutable,
    /// Others than its owner can change it, or its owner is neither root nor SlurmUser.
    WritableByOthers,
    Good,
}

/// The programs of this project, and the parameters that name them.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("resume-program", "ResumeProgram", "ec2fleet-resume"),
    ("suspend-program", "SuspendProgram", "ec2fleet-suspend"),
    ("resume-fail-program", "ResumeFailProgram", "ec2fleet-resume-fail"),
];
/// Name of our job_submit plugin.
const PLUGIN: &str = "ec2_fleet";
/// Seconds that an instance needs from launch to slurmd at the very least.
const SHORTEST_BOOT_S: u32 = 60;
/// Node names in a message.
const NAMED_NODES: usize = 5;

/// Checks slurm.conf against the configuration.
#[must_use]
pub fn slurm_checks(slurm: &SlurmFacts, site: &Site) -> Vec<Check> {
    let mut list = List { slurm, site, checks: Vec::new() };
    list.run();
    list.checks
}

/// Checks the programs that slurm.conf names; `state` looks at the file system.
#[must_use]
pub fn program_checks(slurm: &SlurmFacts, state: &dyn Fn(&Path) -> FileState) -> Vec<Check> {
    let mut checks = Vec::new();
    for (id, parameter, _) in PROGRAMS {
        let id = match id {
            "resume-program" => "resume-program-file",
            "suspend-program" => "suspend-program-file",
            _ => "resume-fail-program-file",
        };
        let Some(command) = slurm.get(parameter) else { continue };
        let program = command.split_whitespace().next().unwrap_or(command);
        let user = slurm.slurm_user();
        let (verdict, reason, remedy) = match state(Path::new(program)) {
            FileState::Good => (Verdict::Ok, format!("{program} can be run by {user}."), String::new()),
            FileState::Missing => (
                Verdict::Fail,
                format!("{parameter} is {program}, which does not exist."),
                format!("Install the program there, or correct {parameter}."),
            ),
            FileState::NotExecutable => (
                Verdict::Fail,
                format!("{program} ({parameter}) cannot be run by {user}."),
                format!("chmod 755 {program}"),
            ),
            FileState::WritableByOthers => (
                Verdict::Warn,
                format!(
                    "{program} ({parameter}) can be changed by others than root and {user}, as whom it runs."
                ),
                format!("chown root {program} && chmod 755 {program}"),
            ),
        };
        checks.push(check(id, verdict, reason, remedy));
    }
    checks
}

fn check(id: &'static str, verdict: Verdict, reason: String, remedy: String) -> Check {
    // Both checks of a program are explained in one place.
    let anchor = id.strip_suffix("-file").unwrap_or(id);
    Check {
        id,
        category: "slurm.conf",
        verdict,
        reason,
        remedy,
        anchor: format!("docs/configuration.md#{anchor}"),
    }
}

struct List<'a> {
    slurm: &'a SlurmFacts,
    site: &'a Site,
    checks: Vec<Check>,
}

impl List<'_> {
    fn ok(&mut self, id: &'static str, reason: impl Into<String>) {
        self.checks.push(check(id, Verdict::Ok, reason.into(), String::new()));
    }

    fn warn(&mut self, id: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.checks.push(check(id, Verdict::Warn, reason.into(), remedy.into()));
    }

    fn fail(&mut self, id: &'static str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.checks.push(check(id, Verdict::Fail, reason.into(), remedy.into()));
    }

    fn run(&mut self) {
        let Some(file) = self.slurm.file.clone() else {
            self.fail(
                "slurm-conf",
                "slurm.conf was not read, so nothing in it could be checked.",
                "Name it with --slurm-conf or the environment variable SLURM_CONF.",
            );
            return;
        };
        let problems: Vec<String> = self.slurm.problems.iter().map(ToString::to_string).collect();
        if problems.is_empty() {
            self.ok("slurm-conf", format!("{} was read.", file.display()));
        } else {
            self.fail(
                "slurm-conf",
                problems.join(" "),
                "Correct these lines: slurmctld does not start with them.",
            );
        }
        self.cluster_name();
        self.programs();
        self.plugin();
        self.power_times();
        self.rates();
        self.visible_and_addressed();
        self.node_states();
        self.slurmd_timeout();
        self.definitions();
        self.exclusions();
        self.gres_types();
        self.reboot_program();
    }

    fn cluster_name(&mut self) {
        match self.slurm.cluster_name() {
            Some(name) => self.ok("cluster-name", format!("ClusterName is {name}.")),
            None => {
                self.fail(
                    "cluster-name",
                    "ClusterName is not set.",
                    "Set it: instances are told apart by it.",
                );
            }
        }
    }

    fn programs(&mut self) {
        for (id, parameter, ours) in PROGRAMS {
            let Some(command) = self.slurm.get(parameter).map(str::to_owned) else {
                if parameter == "ResumeFailProgram" {
                    self.warn(
                        id,
                        "ResumeFailProgram is not set: an instance that did not come up in time is found at the next rescan only.",
                        format!("Set ResumeFailProgram to the full path of {ours}."),
                    );
                } else {
                    self.fail(
                        id,
                        format!("{parameter} is not set, so Slurm's power saving is off."),
                        format!("Set {parameter} to the full path of {ours}."),
                    );
                }
                continue;
            };
            let program = command.split_whitespace().next().unwrap_or(&command);
            let name =
                Path::new(program).file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if !program.starts_with('/') {
                self.fail(
                    id,
                    format!("{parameter} is {program}, not a full path, which Slurm refuses."),
                    format!("Set {parameter} to the full path of {ours}."),
                );
            } else if name == ours {
                self.ok(id, format!("{parameter} is {program}."));
            } else if name.ends_with(".py") || PROGRAMS.iter().any(|(_, _, other)| name == *other) {
                self.fail(
                    id,
                    format!("{parameter} is {program}, which is not {ours}: nodes would be launched or ended twice or not at all."),
                    format!("Set {parameter} to the full path of {ours}."),
                );
            } else {
                self.warn(
                    id,
                    format!("{parameter} is {program}, which this program does not know."),
                    format!("Make sure that it calls {ours} for the nodes of this configuration, and for no others."),
                );
            }
        }
    }

    fn plugin(&mut self) {
        if self.slurm.has("JobSubmitPlugins", PLUGIN) {
            self.ok("job-submit-plugins", format!("JobSubmitPlugins contains {PLUGIN}."));
            return;
        }
        let set = match self.slurm.get("JobSubmitPlugins") {
            Some(others) => format!("JobSubmitPlugins={others},{PLUGIN}"),
            None => format!("JobSubmitPlugins={PLUGIN}"),
        };
        let remedy = format!("Set {set} and restart slurmctld.");
        if self.site.groups().iter().any(|g| hibernates(g)) {
            self.fail(
                "job-submit-plugins",
                format!(
                    "JobSubmitPlugins does not contain {PLUGIN}, and only the plugin can keep the job of a hibernated node alive."
                ),
                remedy,
            );
        } else {
            self.warn(
                "job-submit-plugins",
                format!("JobSubmitPlugins does not contain {PLUGIN}: nodes are launched by the programs alone, later and one call at a time."),
                remedy,
            );
        }
    }

    fn power_times(&mut self) {
        let resume = self.slurm.resume_timeout_s();
        let suspend = self.slurm.suspend_timeout_s();
        if self.slurm.number("ResumeTimeout") == Some(Number::Infinite) {
            self.warn(
                "resume-timeout",
                "ResumeTimeout has no limit: a node whose instance does not come up is never given up.",
                "Set it to the longest time from launch to slurmd, with reserve: 600, for example.",
            );
        } else if resume < SHORTEST_BOOT_S + 1 {
            self.fail(
                "resume-timeout",
                format!(
                    "ResumeTimeout is {resume} s{}; most instances need longer to boot and start slurmd.",
                    default_note(self.slurm, "ResumeTimeout")
                ),
                "Set it to the longest time from launch to slurmd, with reserve: 600, for example.",
            );
        } else if resume != self.site.settings.resume_timeout_s {
            self.warn(
                "resume-timeout",
                format!(
                    "ResumeTimeout is {resume} s, and {} s in SlurmConf of config.json.",
                    self.site.settings.resume_timeout_s
                ),
                "Write the same value in both.",
            );
        } else {
            self.ok("resume-timeout", format!("ResumeTimeout is {resume} s."));
        }

        if suspend == 0 || self.slurm.number("SuspendTimeout") == Some(Number::Infinite) {
            self.fail(
                "suspend-timeout",
                "SuspendTimeout must be a number of seconds above 0.",
                "Set it to the time that an instance needs to shut down: 120, for example.",
            );
        } else if suspend != self.site.settings.suspend_timeout_s {
            self.warn(
                "suspend-timeout",
                format!(
                    "SuspendTimeout is {suspend} s, and {} s in SlurmConf of config.json.",
                    self.site.settings.suspend_timeout_s
                ),
                "Write the same value in both.",
            );
        } else {
            self.ok("suspend-timeout", format!("SuspendTimeout is {suspend} s."));
        }
        self.suspend_time(u64::from(resume) + u64::from(suspend));
    }

    fn suspend_time(&mut self, least: u64) {
        // A partition may have its own (slurm.conf(5), SuspendTime of PartitionName, 22.05 on).
        let own: Vec<(String, Option<Number>)> = self
            .site
            .partitions
            .iter()
            .map(|p| {
                let line = self.slurm.partitions.iter().find(|l| l.name == p.name);
                (p.name.clone(), line.and_then(|l| l.get("SuspendTime")).and_then(Number::parse))
            })
            .collect();
        let global = self.slurm.suspend_time_s().map(Number::Finite);
        let off: Vec<&str> = own
            .iter()
            .filter(|(_, time)| !matches!(time.or(global), Some(Number::Finite(_))))
            .map(|(name, _)| name.as_str())
            .collect();
        if !off.is_empty() {
            let reason = if off.len() == own.len() {
                "SuspendTime is not set, so idle nodes are never powered down.".to_owned()
            } else {
                format!("Idle nodes of partition {} are never powered down.", off.join(", "))
            };
            self.fail("suspend-time", reason, format!("Set SuspendTime to {least} s or more."));
            return;
        }
        let short: Vec<String> = own
            .iter()
            .filter_map(|(name, time)| match time.or(global) {
                Some(Number::Finite(t)) if u64::from(t) < least => Some(format!("{name} ({t} s)")),
                _ => None,
            })
            .collect();
        if short.is_empty() {
            self.ok(
                "suspend-time",
                format!("SuspendTime is at least ResumeTimeout + SuspendTimeout ({least} s)."),
            );
        } else {
            self.warn(
                "suspend-time",
                format!(
                    "SuspendTime of {} is less than ResumeTimeout + SuspendTimeout ({least} s), the least that slurm.conf(5) recommends.",
                    short.join(", ")
                ),
                format!("Set SuspendTime to {least} or more."),
            );
        }
    }

    fn rates(&mut self) {
        let largest = self.site.groups().iter().map(|g| g.max_nodes).max().unwrap_or(0);
        for (id, parameter, rate, verb) in [
            ("resume-rate", "ResumeRate", self.slurm.resume_rate(), "wake"),
            ("suspend-rate", "SuspendRate", self.slurm.suspend_rate(), "power down"),
        ] {
            if rate == 0 || rate == u32::MAX {
                self.ok(id, format!("{parameter} has no limit."));
            } else if rate < largest {
                let minutes = largest.div_ceil(rate);
                self.warn(
                    id,
                    format!("{parameter} is {rate} nodes a minute{}, so Slurm takes {minutes} minutes to {verb} the {largest} nodes of the largest node group.", default_note(self.slurm, parameter)),
                    format!("Set {parameter}=0: this program batches its calls and keeps to EC2's rates by itself."),
                );
            } else {
                self.ok(id, format!("{parameter} is {rate} nodes a minute."));
            }
        }
    }

    fn visible_and_addressed(&mut self) {
        if self.slurm.has("PrivateData", "cloud") {
            self.ok("private-data", "PrivateData contains cloud.");
        } else {
            self.warn(
                "private-data",
                "PrivateData does not contain cloud: sinfo and squeue do not show nodes that are powered down.",
                "Add cloud to PrivateData.",
            );
        }

        let nodes: u64 = self.site.groups().iter().map(|g| u64::from(g.max_nodes)).sum();
        let width = match self.slurm.number("TreeWidth") {
            Some(Number::Finite(n)) => Some(n),
            Some(Number::Infinite) => Some(u32::MAX),
            None => None,
        };
        let shown = match width {
            Some(width) => format!("TreeWidth is {width}"),
            None => "TreeWidth is not set, and Slurm's default is 16 (50 before 23.11)".to_owned(),
        };
        let width = width.unwrap_or(16);
        // 65533 is the largest value that Slurm takes.
        if u64::from(width) >= nodes || width >= 65_533 || self.slurm.has("SlurmctldParameters", "cloud_dns")
        {
            self.ok("tree-width", format!("{shown}."));
        } else {
            self.warn(
                "tree-width",
                format!("{shown}: with more nodes than that, messages are passed on by nodes, which cannot look up the address of a cloud node."),
                "Set TreeWidth=65533.",
            );
        }

        if self.slurm.has("CommunicationParameters", "NoAddrCache") {
            self.ok("no-addr-cache", "CommunicationParameters contains NoAddrCache.");
        } else {
            self.warn(
                "no-addr-cache",
                "CommunicationParameters does not contain NoAddrCache: Slurm may go on using the address of a node's last instance.",
                "Add NoAddrCache to CommunicationParameters.",
            );
        }

        if self.slurm.has("SlurmctldParameters", "cloud_dns") {
            self.warn(
                "cloud-dns",
                "SlurmctldParameters contains cloud_dns: Slurm then looks node names up in DNS and does not pass on the addresses that this program sets.",
                "Remove cloud_dns, unless your DNS has every node name of this configuration.",
            );
        } else {
            self.ok("cloud-dns", "SlurmctldParameters does not contain cloud_dns.");
        }
    }

    fn node_states(&mut self) {
        match self.slurm.return_to_service() {
            2 => self.ok("return-to-service", "ReturnToService is 2."),
            other => self.warn(
                "return-to-service",
                format!("ReturnToService is {other}{}: a node that was set DOWN does not come back by itself when its next instance registers.", default_note(self.slurm, "ReturnToService")),
                "Set ReturnToService=2.",
            ),
        }
        if self.slurm.has("SlurmctldParameters", "idle_on_node_suspend") {
            self.ok("idle-on-node-suspend", "SlurmctldParameters contains idle_on_node_suspend.");
        } else {
            self.warn(
                "idle-on-node-suspend",
                "SlurmctldParameters does not contain idle_on_node_suspend: a node that is powered down while DOWN or drained stays out of service.",
                "Add idle_on_node_suspend to SlurmctldParameters.",
            );
        }

        let declares =
            self.site.groups().iter().any(|g| lookup(&g.slurm_specifications, "RealMemory").is_some())
                || self.slurm.cloud_nodes().any(|line| line.get("RealMemory").is_some());
        match self.slurm.item("SlurmctldParameters", "node_reg_mem_percent") {
            Some(percent) => self.ok("node-reg-mem-percent", format!("node_reg_mem_percent is {percent}.")),
            None if declares => self.warn(
                "node-reg-mem-percent",
                "RealMemory is declared, and SlurmctldParameters does not contain node_reg_mem_percent: a node that reports one MiB less is set to invalid and drained.",
                "Add node_reg_mem_percent=90 to SlurmctldParameters.",
            ),
            None => self.ok("node-reg-mem-percent", "No node declares RealMemory."),
        }
    }

    fn slurmd_timeout(&mut self) {
        let timeout = self.slurm.slurmd_timeout_s();
        let without: Vec<String> = self
            .site
            .groups()
            .iter()
            .filter(|g| hibernates(g) && !g.hibernation.keep_responding)
            .map(|g| g.stem())
            .collect();
        if timeout == 0 {
            self.warn(
                "slurmd-timeout",
                "SlurmdTimeout is 0: Slurm never notices a node that stopped answering, and its job goes on for ever.",
                "Set it to 300; hibernated nodes are kept alive by the plugin (KeepResponding).",
            );
        } else if without.is_empty() {
            self.ok("slurmd-timeout", format!("SlurmdTimeout is {timeout} s."));
        } else {
            self.warn(
                "slurmd-timeout",
                format!("SlurmdTimeout is {timeout} s and KeepResponding is false in {}: jobs of nodes hibernated for longer are ended.", without.join(", ")),
                "Set KeepResponding to true in these node groups.",
            );
        }
    }

    /// Every node of the configuration must be a cloud node of Slurm, in its partition.
    fn definitions(&mut self) {
        let declared = expand_lines(self.slurm.nodes.iter());
        let mut missing = Vec::new();
        let mut not_cloud = Vec::new();
        let mut not_in_partition = Vec::new();
        let node_sets = self.partition_nodes();
        for group in self.site.groups() {
            let mut group_missing = Vec::new();
            for index in 0..group.max_nodes {
                let name = group.node_name(index);
                match declared.get(name.as_str()) {
                    None => group_missing.push(name),
                    Some(line) if !line.is_cloud() => not_cloud.push(name),
                    Some(_) => {
                        if let Some(nodes) = node_sets.get(group.partition.as_str())
                            && !nodes.all
                            && !nodes.names.contains(&name)
                        {
                            not_in_partition.push(name);
                        }
                    }
                }
            }
            if group_missing.len() as u64 == u64::from(group.max_nodes) {
                missing.push(node_range(group));
            } else {
                missing.extend(group_missing);
            }
        }
        const GENERATE: &str = "Run ec2fleet generate-conf, install its output, and restart slurmctld.";
        if !missing.is_empty() {
            self.fail("node-lines", format!("slurm.conf does not declare {}.", some_of(&missing)), GENERATE);
        } else if !not_cloud.is_empty() {
            self.fail(
                "node-lines",
                format!("slurm.conf declares {} without State=CLOUD.", some_of(&not_cloud)),
                GENERATE,
            );
        } else {
            let stray: Vec<String> = expand_lines(self.slurm.cloud_nodes())
                .keys()
                .filter(|name| self.site.locate(name).is_none())
                .cloned()
                .collect();
            if stray.is_empty() {
                self.ok(
                    "node-lines",
                    "slurm.conf declares every node of the configuration with State=CLOUD.",
                );
            } else {
                self.warn(
                    "node-lines",
                    format!(
                        "slurm.conf declares cloud nodes that this configuration does not have: {}.",
                        some_of(&stray)
                    ),
                    "Remove them, unless another program launches them.",
                );
            }
        }

        let absent: Vec<String> = self
            .site
            .partitions
            .iter()
            .filter(|p| !node_sets.contains_key(p.name.as_str()))
            .map(|p| p.name.clone())
            .collect();
        if !absent.is_empty() {
            self.fail(
                "partition-lines",
                format!("slurm.conf does not declare partition {}.", absent.join(", ")),
                GENERATE,
            );
        } else if !not_in_partition.is_empty() {
            self.fail(
                "partition-lines",
                format!("Nodes are not in their partition in slurm.conf: {}.", some_of(&not_in_partition)),
                GENERATE,
            );
        } else {
            self.ok(
                "partition-lines",
                "slurm.conf declares every partition of the configuration with its nodes.",
            );
        }
    }

    fn partition_nodes(&self) -> BTreeMap<String, PartitionNodes> {
        let mut out = BTreeMap::new();
        for line in &self.slurm.partitions {
            let nodes = line.get("Nodes").unwrap_or_default();
            out.insert(
                line.name.clone(),
                PartitionNodes {
                    all: nodes.eq_ignore_ascii_case("ALL"),
                    // A name that is not a hostlist is a nodeset, which is not followed.
                    names: hostlist::expand(nodes).unwrap_or_default().into_iter().collect(),
                },
            );
        }
        out
    }

    fn exclusions(&mut self) {
        let parts: Vec<String> = self
            .slurm
            .list("SuspendExcParts")
            .filter(|name| self.site.partitions.iter().any(|p| p.name == **name))
            .map(str::to_owned)
            .collect();
        // `host:count` keeps that many nodes up, which is a choice and not a mistake.
        let excluded = self.slurm.get("SuspendExcNodes").unwrap_or_default().to_owned();
        let nodes: Vec<String> = hostlist::expand(&excluded)
            .unwrap_or_default()
            .into_iter()
            .filter(|name| !name.contains(':') && self.site.locate(name).is_some())
            .collect();
        if !parts.is_empty() {
            self.warn(
                "suspend-exclusions",
                format!("SuspendExcParts contains {}: its nodes are never powered down.", parts.join(", ")),
                "Remove it, unless these nodes shall run for ever.",
            );
        } else if !nodes.is_empty() {
            self.warn(
                "suspend-exclusions",
                format!("SuspendExcNodes contains {}, which are never powered down.", some_of(&nodes)),
                "Remove them, unless they shall run for ever.",
            );
        } else {
            self.ok("suspend-exclusions", "No node of the configuration is excluded from power saving.");
        }
    }

    fn gres_types(&mut self) {
        let wanted: BTreeSet<String> = self
            .site
            .groups()
            .iter()
            .filter_map(|g| lookup(&g.slurm_specifications, "Gres"))
            .chain(self.slurm.cloud_nodes().filter_map(|line| line.get("Gres")))
            .flat_map(|gres| gres.split(','))
            .filter_map(|item| item.trim().split(':').next())
            .filter(|name| !name.is_empty())
            .map(str::to_ascii_lowercase)
            .collect();
        let missing: Vec<String> =
            wanted.into_iter().filter(|name| !self.slurm.has("GresTypes", name)).collect();
        if missing.is_empty() {
            self.ok("gres-types", "GresTypes contains every Gres of the configuration.");
        } else {
            self.fail(
                "gres-types",
                format!(
                    "GresTypes does not contain {}, which nodes of the configuration have.",
                    missing.join(", ")
                ),
                format!("Add {} to GresTypes.", missing.join(",")),
            );
        }
    }

    fn reboot_program(&mut self) {
        match self.slurm.get("RebootProgram").map(str::to_owned) {
            Some(program) if !program.starts_with('/') => self.warn(
                "reboot-program",
                format!("RebootProgram is {program}, not a full path."),
                "Write the full path of a program on the compute nodes.",
            ),
            Some(program) => self.ok("reboot-program", format!("RebootProgram is {program}.")),
            None => self.ok(
                "reboot-program",
                "RebootProgram is not set: scontrol reboot is refused, which cloud nodes do not need.",
            ),
        }
    }
}

struct PartitionNodes {
    all: bool,
    names: BTreeSet<String>,
}

fn expand_lines<'a>(lines: impl Iterator<Item = &'a DefinitionLine>) -> BTreeMap<String, &'a DefinitionLine> {
    let mut out = BTreeMap::new();
    for line in lines {
        for name in hostlist::expand(&line.name).unwrap_or_default() {
            out.insert(name, line);
        }
    }
    out
}

fn hibernates(group: &NodeGroup) -> bool {
    group.spot_options.instance_interruption_behavior.as_deref() == Some("hibernate")
}

/// ", Slurm's default" where the file does not set it.
fn default_note(slurm: &SlurmFacts, parameter: &str) -> &'static str {
    if slurm.get(parameter).is_some() { "" } else { ", Slurm's default" }
}

/// The first few, and how many more.
fn some_of(names: &[String]) -> String {
    let mut out = names[..names.len().min(NAMED_NODES)].join(", ");
    if names.len() > NAMED_NODES {
        out.push_str(&format!(" and {} more", names.len() - NAMED_NODES));
    }
    out
}
