// SPDX-License-Identifier: GPL-3.0-or-later
//! Every check, described. docs/doctor.md is made of this list, and a test holds the two together.

/// What a check is about.
pub struct Described {
    pub id: &'static str,
    pub category: &'static str,
    pub text: &'static str,
}

const fn check(category: &'static str, id: &'static str, text: &'static str) -> Described {
    Described { id, category, text }
}

/// In the order of the report.
pub const CHECKS: &[Described] = &[
    check(
        "slurm.conf",
        "slurm-conf",
        "slurm.conf and the files that it includes can be read and understood. It is looked for at --slurm-conf, $SLURM_CONF, next to --config-dir, and where packages put it.",
    ),
    check(
        "slurm.conf",
        "slurm-commands",
        "scontrol runs and reaches slurmctld. Without it the programs cannot do their work when the plugin is away. SlurmBinPath in config.json names the folder of Slurm's commands.",
    ),
    check(
        "slurm.conf",
        "job-submit-plugins",
        "JobSubmitPlugins has ec2_fleet, which makes slurmctld load the plugin. Without it the programs alone do the work: slower, and without hibernation.",
    ),
    check(
        "slurm.conf",
        "private-data",
        "PrivateData has cloud. Without it slurmctld hides powered-down cloud nodes, from root and from the plugin, too.",
    ),
    check(
        "slurm.conf",
        "return-to-service",
        "ReturnToService=2, so that a node that was set DOWN because it did not start in time returns when it registers.",
    ),
    check(
        "slurm.conf",
        "resume-program",
        "ResumeProgram is ec2fleet-resume: a full path to a program that SlurmUser may run and nobody else may change. slurmctld switches power saving off without it.",
    ),
    check("slurm.conf", "suspend-program", "SuspendProgram is ec2fleet-suspend, as for ResumeProgram."),
    check(
        "slurm.conf",
        "resume-fail-program",
        "ResumeFailProgram is ec2fleet-resume-fail, which ends the instances of nodes that did not register within ResumeTimeout.",
    ),
    check(
        "slurm.conf",
        "resume-timeout",
        "ResumeTimeout leaves an instance time to launch, boot and start slurmd. Slurm's default of 60 seconds is too short for EC2.",
    ),
    check(
        "slurm.conf",
        "suspend-timeout",
        "SuspendTimeout is the time after which a powered-down node may be powered up again; instances take up to a minute to shut down.",
    ),
    check(
        "slurm.conf",
        "suspend-time",
        "SuspendTime is set: without it slurmctld switches power saving off, and no cloud node is ever powered up. It should be no less than ResumeTimeout and SuspendTimeout together, or nodes are powered down that have just come up.",
    ),
    check(
        "slurm.conf",
        "rates",
        "ResumeRate and SuspendRate are 0 (no limit). Other values make slurmctld power nodes up and down in small portions a minute, which costs many small fleets instead of one.",
    ),
    check(
        "slurm.conf",
        "tree-width",
        "TreeWidth is larger than the number of cloud nodes. Otherwise slurmctld sends messages through nodes that do not know the addresses of others yet.",
    ),
    check(
        "slurm.conf",
        "no-addr-cache",
        "CommunicationParameters has NoAddrCache: cloud nodes change their addresses, and a cached one is another machine's by then.",
    ),
    check(
        "slurm.conf",
        "cloud-dns",
        "SlurmctldParameters does not have cloud_dns, with which slurmctld looks names up in DNS instead of using the addresses that the plugin gives it.",
    ),
    check(
        "slurm.conf",
        "idle-on-node-suspend",
        "SlurmctldParameters has idle_on_node_suspend: a node that is powered down for a failure is eligible again.",
    ),
    check(
        "slurm.conf",
        "node-reg-mem-percent",
        "SlurmctldParameters has node_reg_mem_percent where RealMemory is close to the instance's memory: kernels differ by some MiB, and a node that registers with less is drained.",
    ),
    check(
        "slurm.conf",
        "slurmd-timeout",
        "SlurmdTimeout suits the groups that hibernate: only the plugin keeps a sleeping node from being set DOWN, the programs cannot.",
    ),
    check(
        "slurm.conf",
        "reboot-program",
        "RebootProgram, if it is set, runs on the node; for cloud nodes `scontrol reboot` uses SuspendProgram and ResumeProgram.",
    ),
    check(
        "slurm.conf",
        "suspend-exclusions",
        "SuspendExcNodes and SuspendExcParts do not name nodes of partitions.json: they would never be powered down.",
    ),
    check(
        "slurm.conf",
        "nodes-declared",
        "The nodes of partitions.json are declared in slurm.conf with State=CLOUD, no more and no fewer. `ec2fleet generate-conf` writes the lines.",
    ),
    check(
        "slurm.conf",
        "parameters-installed",
        "The parameters in SlurmConf of config.json are those in slurm.conf: slurm.conf.aws was made and included.",
    ),
    check(
        "configuration",
        "configuration",
        "config.json and partitions.json have no errors. `ec2fleet validate` shows each with its path and remedy.",
    ),
    check("plugin", "shim-installed", "job_submit_ec2_fleet.so is in slurmctld's PluginDir."),
    check(
        "plugin",
        "shim-release",
        "The shim was built for exactly this Slurm release; slurmctld loads no other. `make shim` builds it in a second.",
    ),
    check("plugin", "plugin-answers", "The plugin answers on its socket."),
    check(
        "plugin",
        "plugin-acts",
        "The plugin is active: not passive for a problem, and not on a standby controller.",
    ),
    check("plugin", "plugin-release", "Plugin and tool are of the same release."),
    check(
        "plugin",
        "operations",
        "Operations are not paused, and no node group is closed after repeated failures.",
    ),
    check(
        "plugin",
        "ec2-listing",
        "The plugin can list the instances in every region. While it cannot, it decides nothing that depends on them.",
    ),
    check("plugin", "failed-nodes", "No node of partitions.json is DOWN, drained or failed."),
    check(
        "state",
        "state-directory",
        "The state directory exists, belongs to SlurmUser and is closed to others.",
    ),
    check("state", "journal", "The journal is readable, whole and this cluster's."),
    check("aws", "credentials", "Credentials are found for every region and profile, and EC2 accepts them."),
    check(
        "aws",
        "clock",
        "The clock is right: AWS refuses requests that are signed more than five minutes off.",
    ),
    check(
        "aws",
        "permissions",
        "The credentials allow every action that the configuration needs, asked with DryRun. `ec2fleet iam-policy` prints a policy that does.",
    ),
    check(
        "aws",
        "quotas",
        "EC2 refused no launch of late for a quota of the account (vCPUs, Spot instances, addresses, fleets), and the groups with a fleet for each node have together no more than the 1,000 active fleets of a region.",
    ),
    check(
        "templates",
        "launch-template",
        "The launch template and its version exist, and say nothing that a fleet cannot use (a Spot market, subnets, network interfaces).",
    ),
    check(
        "templates",
        "image",
        "The image exists, is available and fits the architecture of every instance type.",
    ),
    check(
        "templates",
        "instance-types",
        "The instance types exist in the region and are offered in the zones of the subnets.",
    ),
    check(
        "templates",
        "instance-tags",
        "Instance metadata shows tags (InstanceMetadataTags=enabled in the launch template): that is how a node learns its name. Without it the node looks itself up by its address.",
    ),
    check(
        "templates",
        "node-size",
        "CPUs and RealMemory in SlurmSpecifications are no more than the smallest instance type has: a node that registers with less is INVALID.",
    ),
    check(
        "templates",
        "hibernation",
        "Groups that hibernate meet EC2's conditions: the template enables it, the types support it and have less than 150 GiB of memory, the root volume is encrypted and has room for the memory.",
    ),
    check(
        "network",
        "subnets",
        "The subnets exist and are available, each in a zone of its own: EC2 refuses a fleet with two subnets of one zone.",
    ),
    check(
        "network",
        "free-addresses",
        "The subnets have addresses for all nodes of the groups that use them.",
    ),
];

#[must_use]
pub fn describe(id: &str) -> Option<&'static Described> {
    CHECKS.iter().find(|described| described.id == id)
}

/// docs/doctor.md.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# The checks of `ec2fleet doctor`\n\nMade of the list in `crates/cli/src/commands/doctor/list.rs` (`ec2fleet doctor --list`).\n",
    );
    let mut category = "";
    for described in CHECKS {
        if described.category != category {
            category = described.category;
            text.push_str(&format!("\n## {category}\n"));
        }
        text.push_str(&format!("\n### {}\n\n{}\n", described.id, described.text));
    }
    text
}
