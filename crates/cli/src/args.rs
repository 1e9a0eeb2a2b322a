// SPDX-License-Identifier: GPL-3.0-or-later
//! The command line of `ec2fleet`. Help, man pages and shell completion are made from this file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Slurm cloud nodes from Amazon EC2 Fleets: see what the plugin does, and tell it what to do.
#[derive(Debug, Parser)]
#[command(
    name = "ec2fleet",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_long_help = "Exit codes: 0 success, 1 failed, 2 wrong command line, 3 the plugin does not answer, 4 not permitted, \
                       5 a check found errors, 6 a check found warnings"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Folder of config.json and partitions.json [default: $EC2FLEET_CONFIG_DIR, or the folder of slurm.conf]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub config_dir: Option<PathBuf>,
    /// slurm.conf of the cluster [default: $SLURM_CONF, or where Slurm's packages put it]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub slurm_conf: Option<PathBuf>,
    /// Socket of the plugin [default: ec2fleet.sock in the state directory]
    #[arg(long, global = true, value_name = "PATH", help_heading = "Global options")]
    pub socket: Option<PathBuf>,
    /// Print JSON instead of text; `ec2fleet schema` describes it
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// When to use colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        help_heading = "Global options"
    )]
    pub color: Color,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what the plugin is doing, one line for each node group
    Status,
    /// Show nodes, folded like sinfo
    Nodes(Nodes),
    /// Show what happened and why, oldest first
    Events(Events),
    /// Explain how a node or a job came to its present state
    Explain(Explain),
    /// Check config.json and partitions.json, and show every error at once
    Validate(Validate),

    /// Check the whole installation: slurm.conf, configuration, plugin, state, AWS, templates, network
    Doctor(Doctor),
    /// Write slurm.conf.aws and gres.conf.aws from config.json and partitions.json
    GenerateConf(GenerateConf),
    /// Print the least IAM policy for this configuration
    IamPolicy(IamPolicy),
    /// Show, delete or take over the EC2 fleets that hold nodes
    Fleets(Fleets),
    /// Show the capacity pools that are left alone for now, and until when
    Capacity,
    /// Add up instance-hours, estimate what they cost, and what Spot has saved
    Cost(Cost),
    /// Show status again and again
    Top(Top),

    /// Power nodes up, as Slurm's ResumeProgram does
    Resume(Operate),
    /// Power nodes down, as Slurm's SuspendProgram does
    Suspend(Operate),
    /// End the instances of nodes and launch new ones
    Replace(Operate),
    /// Bring nodes that are stuck DOWN or powering up or down back to service
    Reset(Operate),
    /// Leave nodes and their instances alone until they are unlocked
    Lock(Lock),
    /// Give locked nodes back to the plugin
    Unlock(Operate),
    /// End instances and fleets of this cluster that belong to no node
    Gc(Confirm),
    /// Stop every launch and termination until resume-operations
    PauseOperations(PauseOperations),
    /// Allow launches and terminations again
    ResumeOperations(Confirm),
    /// Read config.json and partitions.json again; a broken file changes nothing
    Reload(Confirm),
    /// Change the log level of the running plugin
    LogLevel(LogLevel),

    /// Print the JSON Schema of a report or of a configuration file
    Schema(Schema),
    /// Write the manual pages
    Man(Man),
    /// Print the completion script for a shell
    Completions(Completions),
    /// Show the release of this program, of the plugin and of Slurm
    Version,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Nodes {
    /// Hostlist: only these nodes
    #[arg(value_name = "NODES")]
    pub nodes: Option<String>,
    /// Only nodes of these phases or Slurm states (comma-separated, such as busy,DOWN)
    #[arg(short, long, value_name = "STATES", value_delimiter = ',')]
    pub state: Vec<String>,
    /// Only nodes of these node groups (comma-separated, <partition>-<group> or <group>)
    #[arg(short, long, value_name = "GROUPS", value_delimiter = ',')]
    pub group: Vec<String>,
    /// One line for each node, with its instance
    #[arg(short, long)]
    pub wide: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Fleets {
    #[command(subcommand)]
    pub action: Option<FleetsAction>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum FleetsAction {
    /// List the maintain fleets of this cluster
    List,
    /// Show one fleet: its targets, nodes and instances
    Show {
        #[arg(value_name = "FLEET")]
        fleet: String,
    },
    /// Delete fleets and power their nodes down; a fleet that holds a node with a job is refused
    Delete {
        #[arg(value_name = "FLEET", required = true)]
        fleets: Vec<String>,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take over the fleets that aws-plugin-slurm-hibernate noted (`#EC2_FLEET partition group fleet-id`)
    Import {
        /// Its slurm.conf.aws
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub struct Events {
    /// Go on showing events as they happen
    #[arg(short, long)]
    pub follow: bool,
    /// Only events since then: 10m, 2h, 1d, or a time such as 2026-01-31T08:00
    #[arg(short, long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Hostlist: only events of these nodes
    #[arg(short, long, value_name = "NODES")]
    pub node: Option<String>,
    /// The newest events, at most this many
    #[arg(short = 'l', long, value_name = "COUNT", default_value_t = 200)]
    pub limit: u32,
}

#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// Name of a node, or id of a job
    #[arg(value_name = "NODE|JOB")]
    pub subject: String,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Validate {
    /// Also ask AWS: credentials, permissions by dry runs, templates, images, types, subnets
    #[arg(long)]
    pub online: bool,
    /// Fail also on warnings
    #[arg(long)]
    pub strict: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Confirm {
    /// Show what would be done, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Operate {
    /// Hostlist, such as aws-spot-[0-3]
    #[arg(value_name = "NODES")]
    pub nodes: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Clone, Debug, Args)]
pub struct Lock {
    /// Hostlist, such as aws-spot-[0-3]
    #[arg(value_name = "NODES")]
    pub nodes: String,
    /// Why, for those who see the lock later
    #[arg(short, long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Clone, Debug, Args)]
pub struct PauseOperations {
    /// Why, for those who see the pause later
    #[arg(short, long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub confirm: Confirm,
}

#[derive(Clone, Debug, Args)]
pub struct LogLevel {
    #[arg(value_enum, ignore_case = true)]
    pub level: Level,
}

/// The log levels of config.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Level {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
}

#[derive(Clone, Debug, Default, Args)]
pub struct GenerateConf {
    /// Ask EC2 for CPUs, memory, GPUs and features where SlurmSpecifications does not say
    #[arg(long)]
    pub online: bool,
    /// Write slurm.conf.aws and gres.conf.aws into this folder instead of printing
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Show how the installed files differ from what would be written
    #[arg(long)]
    pub diff: bool,
    /// Fail if the installed files are not what would be written
    #[arg(long)]
    pub check: bool,
    /// Print gres.conf.aws instead of slurm.conf.aws
    #[arg(long, conflicts_with = "output")]
    pub gres: bool,
    /// Give node groups without Weight one by their price, so that Slurm takes the cheapest first;
    /// --online asks EC2 for Spot prices, otherwise those that it told last are used
    #[arg(long)]
    pub weight_by_price: bool,
    /// On-demand prices: a JSON object of instance types and US dollars an hour
    /// [default: prices.json beside config.json]
    #[arg(long, value_name = "FILE", requires = "weight_by_price")]
    pub prices: Option<PathBuf>,
}

/// A policy names a key by its ARN: that of an alias is not judged (KMS developer guide, "Specifying KMS keys in IAM policy
/// statements").
fn kms_key(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    match parts.as_slice() {
        ["arn", _, "kms", _, _, key] if key.starts_with("key/") => Ok(text.to_owned()),
        _ => {
            Err("an ARN such as arn:aws:kms:eu-west-1:123456789012:key/… is needed, not an alias or an id"
                .into())
        }
    }
}

#[derive(Clone, Debug, Default, Args)]
pub struct IamPolicy {
    /// Leave out what only the administrator's tool asks (doctor, generate-conf --online)
    #[arg(long)]
    pub no_tool: bool,
    /// A customer managed KMS key that encrypts images, snapshots or volumes; may be repeated
    #[arg(long = "kms-key", value_name = "ARN", value_parser = kms_key)]
    pub kms_keys: Vec<String>,
    /// An SSM parameter that a launch template takes its image from (resolve:ssm:NAME); may be repeated
    #[arg(long = "image-parameter", value_name = "NAME")]
    pub image_parameters: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub struct Cost {
    /// What to add up by
    #[arg(long, value_enum, default_value_t)]
    pub by: CostBy,
    /// Since then: 12h, 7d, or a time such as 2026-01-31T08:00
    #[arg(short, long, value_name = "WHEN", default_value = "30d")]
    pub since: String,
    /// On-demand prices: a JSON object of instance types and US dollars an hour
    /// [default: prices.json beside config.json]
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
    /// Do not ask EC2 for Spot prices: use those that it told last
    #[arg(long)]
    pub offline: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CostBy {
    Partition,
    #[default]
    Group,
    Type,
    Job,
}

#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Seconds between two views
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// End after so many views
    #[arg(short = 'c', long, value_name = "COUNT")]
    pub count: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub struct Schema {
    #[arg(value_enum)]
    pub of: SchemaOf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// config.json
    Config,
    /// partitions.json
    Partitions,
    /// status --json
    Status,
    /// nodes --json
    Nodes,
    /// events --json
    Events,
    /// explain --json
    Explain,
    /// What operations with a plan print with --json
    Plan,
    /// resume and suspend --json
    Accepted,
    /// What the other operations print with --json
    Done,
    /// What a failed command prints with --json
    Error,
    /// One line of events --follow --json
    Event,
    /// fleets --json
    Fleets,
    /// capacity --json
    Capacity,
    /// cost --json
    Cost,
    /// doctor --json
    Doctor,
    /// validate --json
    Validate,
    /// generate-conf --json
    GenerateConf,
    /// generate-conf --diff --json and --check --json
    Difference,
    /// version --json
    Version,
}

#[derive(Clone, Debug, Args)]
pub struct Man {
    /// Folder for the pages: ec2fleet.1, one for each command, and those of the programs (section 8)
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub struct Completions {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Doctor {
    /// Do not ask AWS
    #[arg(long)]
    pub offline: bool,
    /// Show what can be done also where nothing has to be
    #[arg(short, long)]
    pub verbose: bool,
    /// Describe the checks and do none
    #[arg(long)]
    pub list: bool,
}
