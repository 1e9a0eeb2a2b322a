// SPDX-License-Identifier: GPL-3.0-or-later
//! From the two files to the model, with every check that needs more than one key.
//!
//! Limits of EC2 are those of the API reference (CreateFleet and the types it takes) and of the user guide
//! (EC2 Fleet quotas, Tag restrictions).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::file::{
    ConfigFile, LogFormat, LogLevel, NodeGroupEntry, PartitionEntry, PartitionsFile, Scalar, TagEntry,
};
use super::report::{JsonPath, Report, nearest, one_of, shown};
use super::slurm_conf::{Number, SlurmFacts};
use super::slurm_names;
use ec2fleet_core::ec2_limits::{FLEETS_PER_REGION, OVERRIDES_PER_FLEET, TAG_VALUE_CHARS, TAGS_PER_RESOURCE};
use ec2fleet_core::fleet_spec::{LaunchTemplateOverride, LaunchTemplateSpecification};
use ec2fleet_core::site::{
    Account, AfterMaxHibernation, FleetScope, Hibernation, Lifecycle, NodeGroup, NodeWeights, Partition,
    Settings, Site,
};
use ec2fleet_core::tag;

/// What `config.json` says about the program itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ProgramSettings {
    pub log_level: LogLevel,
    /// Default: `aws_plugin.log` in the folder of `config.json`.
    pub log_file: PathBuf,
    pub log_format: LogFormat,
    /// Folder of `scontrol` and its like; `None` looks them up in `PATH`.
    pub slurm_bin_path: Option<PathBuf>,
    /// Folder of the journal, the lock and the socket, if configured.
    pub state_dir: Option<PathBuf>,
    /// A hosts file that is to name the nodes' addresses.
    pub hosts_file: Option<PathBuf>,
    /// EC2 endpoint to use instead of Amazon's.
    pub endpoint_url: Option<String>,
    /// Parameters for slurm.conf.aws, in the order of the file.
    pub slurm_conf: IndexMap<String, String>,
    /// Port on 127.0.0.1 for metrics.
    pub metrics_port: Option<u16>,
    pub metrics_file: Option<PathBuf>,
}

/// Tags that this program may put on an instance besides the configured ones, `Name` included.
pub const OWN_TAGS: usize = 10;
/// Prefix of the keys of our own tags.
pub const OWN_TAG_PREFIX: &str = "ec2fleet:";
/// SpotFallbackSec of groups that keep fleets, unless it is set.
const SPOT_FALLBACK_S: u32 = 210;
/// `MinTargetCapacity` of CreateFleet.
const MAX_MIN_TARGET: u32 = 1_000;
/// A node name is also a host name, and a label of a host name has 63 characters (RFC 1035).
const MAX_NODE_NAME: usize = 63;
/// Slurm reads these numbers into 16 bits, of which it keeps the last two values to itself.
const MAX_SLURM_U16: u32 = 65_533;
/// The longest IPv4 address, and the longest `ip-a-b-c-d`.
const MAX_IP_ADDRESS: usize = 15;
const MAX_HOSTNAME: usize = 18;

/// The cluster's name, the settings and the program's part of `config.json`.
pub(super) fn program(
    file: &ConfigFile,
    dir: &Path,
    slurm: &SlurmFacts,
    report: &mut Report,
) -> (String, Settings, ProgramSettings) {
    let root = JsonPath::root();
    let conf = slurm_parameters(file.slurm_conf.as_ref(), &root.key("SlurmConf"), report);
    let cluster = file
        .cluster_name
        .clone()
        .or_else(|| lookup(&conf, "ClusterName").map(str::to_owned))
        .or_else(|| slurm.cluster_name().map(str::to_owned));
    if cluster.is_none() {
        report.missing(
            &root.key("ClusterName"),
            "The name of the cluster is not known, and instances are told apart by it.",
            "Set ClusterName in slurm.conf, or add the key here.",
        );
    }

    let mut settings = Settings::default();
    settings.resume_timeout_s = timeout("ResumeTimeout", &conf, slurm, settings.resume_timeout_s, report);
    settings.suspend_timeout_s = timeout("SuspendTimeout", &conf, slurm, settings.suspend_timeout_s, report);
    settings.slurmd_timeout_s = timeout("SlurmdTimeout", &conf, slurm, settings.slurmd_timeout_s, report);
    fn set<T: Copy>(to: &mut T, from: Option<T>) {
        if let Some(value) = from {
            *to = value;
        }
    }
    set(&mut settings.batch_idle_ms, file.batch_idle_ms);
    set(&mut settings.batch_max_ms, file.batch_max_ms);
    set(&mut settings.rescan_s, file.rescan_sec);
    set(&mut settings.orphan_grace_s, file.orphan_grace_sec);
    set(&mut settings.consistency_grace_s, file.consistency_grace_sec);
    set(&mut settings.pool_cooldown_s, file.pool_cooldown_sec);
    set(&mut settings.protect_after, file.protect_after);
    set(&mut settings.max_fleet_nodes, file.max_fleet_nodes);
    if settings.batch_idle_ms > settings.batch_max_ms {
        let key = if file.batch_idle_ms.is_some() { "BatchIdleMs" } else { "BatchMaxMs" };
        report.error(
            &root.key(key),
            format!("BatchIdleMs ({}) is more than BatchMaxMs ({}).", settings.batch_idle_ms, settings.batch_max_ms),
            "A batch is closed after BatchIdleMs of quiet and at the latest after BatchMaxMs: raise one or lower the other.",
        );
    }

    let mut absolute = |key: &str, value: &Option<String>| {
        let path = value.as_ref().map(PathBuf::from)?;
        if path.is_relative() {
            report.error(
                &root.key(key),
                format!("{} is not a full path.", shown(&path.to_string_lossy())),
                "Write a path that begins with /.",
            );
        }
        Some(path)
    };
    let state_dir = absolute("StateDir", &file.state_dir);
    let hosts_file = absolute("HostsFile", &file.hosts_file);
    let metrics_file = absolute("MetricsFile", &file.metrics_file);
    let slurm_bin_path = absolute("SlurmBinPath", &file.slurm_bin_path);
    let log_file = match &file.log_file_name {
        None => dir.join("aws_plugin.log"),
        Some(name) => {
            let path = dir.join(name);
            if Path::new(name).is_relative() {
                report.warn(
                    &root.key("LogFileName"),
                    format!("{} is not a full path; {} is used.", shown(name), path.display()),
                    "Write a path that begins with /.",
                );
            }
            path
        }
    };
    if let Some(url) = &file.endpoint_url {
        check_url(url, &root.key("EndpointUrl"), report);
    }
    let program = ProgramSettings {
        log_level: file.log_level.unwrap_or_default(),
        log_file,
        log_format: file.log_format.unwrap_or_default(),
        slurm_bin_path,
        state_dir,
        hosts_file,
        endpoint_url: file.endpoint_url.clone(),
        slurm_conf: conf,
        metrics_port: file.metrics_port.and_then(|port| u16::try_from(port).ok()),
        metrics_file,
    };
    (cluster.unwrap_or_default(), settings, program)
}

fn check_url(url: &str, path: &JsonPath, report: &mut Report) {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let good = host.is_some_and(|h| !h.is_empty() && !h.starts_with(['/', ':']))
        && url.chars().all(|c| c.is_ascii_graphic());
    if !good {
        report.error(
            path,
            format!("{} is not the URL of an endpoint.", shown(url)),
            "Write http:// or https:// and a host, for example https://ec2.us-east-1.amazonaws.com.",
        );
    }
}

/// `SlurmConf`: its values as text, and what can be told wrong without slurm.conf.
fn slurm_parameters(
    values: Option<&IndexMap<String, Scalar>>,
    path: &JsonPath,
    report: &mut Report,
) -> IndexMap<String, String> {
    let conf = conf_values(values, path, slurm_names::SLURM_CONF, &[], report);
    let number = |name: &str| lookup(&conf, name).map(Number::parse);
    for (name, _) in &conf {
        let path = path.key(name);
        let sixteen_bits =
            ["ResumeTimeout", "SuspendTimeout", "ResumeRate", "SuspendRate", "TreeWidth", "SlurmdTimeout"]
                .iter()
                .any(|n| n.eq_ignore_ascii_case(name));
        if sixteen_bits {
            match number(name).flatten() {
                Some(Number::Finite(n)) if n <= MAX_SLURM_U16 => {}
                Some(Number::Infinite) => {}
                _ => report.error(
                    &path,
                    format!("{} is not a number that Slurm takes for {name}.", shown(&conf[name])),
                    format!("Write a number from 0 to {MAX_SLURM_U16}."),
                ),
            }
        } else if name.eq_ignore_ascii_case("SuspendTime") && number(name).flatten().is_none() {
            report.error(
                &path,
                format!("{} is not a time that Slurm takes for SuspendTime.", shown(&conf[name])),
                "Write a number of seconds, or INFINITE.",
            );
        } else if name.eq_ignore_ascii_case("PrivateData")
            && !conf[name].split(',').any(|v| v.trim().eq_ignore_ascii_case("cloud"))
        {
            report.warn(
                &path,
                "PrivateData does not contain CLOUD, so sinfo does not show nodes that are powered down.",
                "Add CLOUD.",
            );
        }
    }
    conf
}

/// A timeout of Slurm: from `SlurmConf`, then slurm.conf, then Slurm's default if slurm.conf is known.
fn timeout(
    name: &str,
    conf: &IndexMap<String, String>,
    slurm: &SlurmFacts,
    default: u32,
    report: &mut Report,
) -> u32 {
    let written = lookup(conf, name).and_then(Number::parse);
    let installed = slurm.number(name);
    if let (Some(written), Some(installed)) = (written, installed)
        && written != installed
    {
        let place =
            slurm.setting(name).map(|s| format!("{}:{}", s.file.display(), s.line)).unwrap_or_default();
        report.warn(
            &JsonPath::root().key("SlurmConf").key(name),
            format!("{name} is {} here and {} in {place}.", text(written), text(installed)),
            "Write the same value in both, or run ec2fleet generate-conf again and install its output.",
        );
    }
    let effective = match name {
        "ResumeTimeout" => slurm.resume_timeout_s(),
        "SuspendTimeout" => slurm.suspend_timeout_s(),
        _ => slurm.slurmd_timeout_s(),
    };
    match written {
        Some(Number::Finite(seconds)) => seconds,
        Some(Number::Infinite) => u32::MAX,
        None if slurm.is_known() => effective,
        None => default,
    }
}

fn text(number: Number) -> String {
    match number {
        Number::Finite(n) => n.to_string(),
        Number::Infinite => "INFINITE".into(),
    }
}

/// A parameter without regard to case.
pub(super) fn lookup<'a>(values: &'a IndexMap<String, String>, name: &str) -> Option<&'a str> {
    values.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Parameters for a line of slurm.conf. `generated` are those that the line already has.
fn conf_values(
    values: Option<&IndexMap<String, Scalar>>,
    path: &JsonPath,
    known: &[&str],
    generated: &[&str],
    report: &mut Report,
) -> IndexMap<String, String> {
    let mut out = IndexMap::new();
    for (name, value) in values.into_iter().flatten() {
        let path = path.key(name);
        if generated.iter().any(|g| g.eq_ignore_ascii_case(name)) {
            report.error(
                &path,
                format!("{name} is written by ec2fleet generate-conf itself."),
                "Delete the key.",
            );
            continue;
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.') {
            report.error(
                &path,
                format!("{} cannot be the name of a parameter in slurm.conf.", shown(name)),
                "Write letters and digits only.",
            );
            continue;
        }
        if out.keys().any(|k: &String| k.eq_ignore_ascii_case(name)) {
            report.error(
                &path,
                format!("{name} is there twice: Slurm does not distinguish upper and lower case."),
                "Delete one.",
            );
            continue;
        }
        if !known.iter().any(|k| k.eq_ignore_ascii_case(name)) {
            let remedy = match nearest(name, known.iter().copied()) {
                Some(near) => format!("Did you mean {near}?"),
                None => "Check the name in slurm.conf(5) of your release.".into(),
            };
            report.warn(&path, format!("{name} is not a parameter here in Slurm 22.05 to 26.05."), remedy);
        }
        let value = value.to_string();
        // A value may come with the quotes that slurm.conf needs around white space.
        let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(&value);
        if bare.trim().is_empty() {
            report.error(&path, "The value is empty.", "Write a value, or leave the key out.");
        } else if bare.contains(|c: char| c == '"' || c.is_control()) {
            report.error(
                &path,
                format!("{} cannot be written in slurm.conf.", shown(&value)),
                "Leave out quotes, line breaks and control characters.",
            );
        } else {
            out.insert(name.clone(), bare.to_owned());
        }
    }
    out
}

/// The model of `partitions.json`. Where something is wrong it is reported, and what is returned has gaps.
pub(super) fn site(file: &PartitionsFile, cluster: String, settings: Settings, report: &mut Report) -> Site {
    let root = JsonPath::root().key("Partitions");
    let mut partitions = Vec::new();
    let mut groups = Vec::new();
    let mut names = HashMap::<&str, usize>::new();
    let mut fleets = BTreeMap::<Account, u64>::new();
    for (i, partition) in file.partitions.iter().flatten().enumerate() {
        let Some(partition) = partition else { continue };
        let path = root.index(i);
        let name = partition.partition_name.as_deref();
        if let Some(name) = name {
            let path = path.key("PartitionName");
            if name.eq_ignore_ascii_case("DEFAULT") {
                report.error(
                    &path,
                    "DEFAULT is not a partition to Slurm, but the defaults of those after it.",
                    "Choose another name.",
                );
            }
            if let Some(first) = names.insert(name, i) {
                report.error(
                    &path,
                    format!("Partition {name} is there twice, first as {}.", root.index(first)),
                    "Rename one, or move its node groups to the other.",
                );
            }
        }
        partitions.push(self::partition(partition, &path, &settings, &mut groups, &mut fleets, report));
    }
    Site::new(cluster, partitions, groups, settings)
}

fn partition(
    entry: &PartitionEntry,
    path: &JsonPath,
    settings: &Settings,
    groups: &mut Vec<NodeGroup>,
    fleets: &mut BTreeMap<Account, u64>,
    report: &mut Report,
) -> Partition {
    let name = entry.partition_name.clone().unwrap_or_default();
    let options = conf_values(
        entry.partition_options.as_ref(),
        &path.key("PartitionOptions"),
        slurm_names::PARTITION_NAME,
        &["PartitionName", "Nodes"],
        report,
    );
    let path = path.key("NodeGroups");
    let mut group_names = Vec::new();
    let mut seen = HashMap::<&str, usize>::new();
    for (j, group) in entry.node_groups.iter().flatten().enumerate() {
        let Some(group) = group else { continue };
        let path = path.index(j);
        if let Some(group_name) = group.node_group_name.as_deref()
            && let Some(first) = seen.insert(group_name, j)
        {
            report.error(
                &path.key("NodeGroupName"),
                format!("Node group {group_name} is there twice in partition {name}, first as NodeGroups[{first}]."),
                "Rename one: nodes of both would have the same names.",
            );
        }
        let group = GroupCheck { entry: group, path: &path, settings, report }.check(&name, fleets);
        group_names.push(group.name.clone());
        groups.push(group);
    }
    Partition { name, options, groups: group_names }
}

/// The checks of one node group.
struct GroupCheck<'a> {
    entry: &'a NodeGroupEntry,
    path: &'a JsonPath,
    settings: &'a Settings,
    report: &'a mut Report,
}

impl GroupCheck<'_> {
    fn error(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.report.error(&self.path.key(key), what, remedy);
    }

    fn warn(&mut self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        self.report.warn(&self.path.key(key), what, remedy);
    }

    fn check(mut self, partition: &str, fleets: &mut BTreeMap<Account, u64>) -> NodeGroup {
        let entry = self.entry;
        let name = entry.node_group_name.clone().unwrap_or_default();
        let max_nodes = entry.max_nodes.unwrap_or_default();
        self.node_name(partition, &name, max_nodes);
        let specifications = conf_values(
            entry.slurm_specifications.as_ref(),
            &self.path.key("SlurmSpecifications"),
            slurm_names::NODE_NAME,
            &["NodeName", "NodeAddr", "NodeHostname", "State"],
            self.report,
        );
        // Without a purchasing option there is an error already, and nothing to check the options against.
        let lifecycle = entry.purchasing_option.unwrap_or_default();
        let hibernates = entry
            .spot_options
            .as_ref()
            .is_some_and(|o| o.instance_interruption_behavior.as_deref() == Some("hibernate"));
        let scope = self.scope(hibernates);
        if entry.purchasing_option.is_some() {
            self.purchasing(lifecycle, hibernates, scope);
        }
        self.fleet_options(scope);
        self.all_or_nothing(scope);
        let hibernation = self.hibernation(hibernates && lifecycle == Lifecycle::Spot, scope);
        if let Some(template) = &entry.launch_template_specification {
            self.launch_template(template);
        }
        let overrides = self.overrides(lifecycle);
        let subnet_ids = self.subnets();
        self.pools(overrides.len(), subnet_ids.len());
        let tags = self.tags(partition, &name, max_nodes);

        let account =
            Account { region: entry.region.clone().unwrap_or_default(), profile: entry.profile_name.clone() };
        if entry.region.is_some() {
            self.fleet_count(scope, max_nodes, &account, fleets);
        }
        let mut spot_options = entry.spot_options.clone().unwrap_or_default();
        if lifecycle == Lifecycle::Spot && !hibernates {
            // What an instant fleet launches can only be terminated, and a stopped instance has lost its job.
            spot_options.instance_interruption_behavior = Some("terminate".into());
        }
        NodeGroup {
            partition: partition.to_owned(),
            name,
            max_nodes,
            account,
            lifecycle,
            on_demand_options: entry.on_demand_options.clone().unwrap_or_default(),
            spot_options,
            launch_template: entry.launch_template_specification.clone().unwrap_or_default(),
            overrides,
            subnet_ids,
            tags,
            naming: entry.node_naming.unwrap_or_default(),
            scope,
            all_or_nothing: entry.all_or_nothing.unwrap_or_default(),
            spot_fallback_s: self.spot_fallback(scope, lifecycle),
            node_weights: self.node_weights(lifecycle, &specifications),
            slurm_specifications: specifications,
            hibernation,
        }
    }

    fn node_name(&mut self, partition: &str, name: &str, max_nodes: u32) {
        let longest = format!("{partition}-{name}-{}", max_nodes.saturating_sub(1));
        if longest.len() > MAX_NODE_NAME {
            let length = longest.len();
            self.error(
                "NodeGroupName",
                format!("Node names such as {} are {length} characters long.", shown(&longest)),
                format!(
                    "Shorten the partition's or the group's name until node names have at most {MAX_NODE_NAME} characters, as host names must."
                ),
            );
        }
    }

    /// Groups that keep fleets go on-demand by themselves, where there is time for it before ResumeTimeout.
    fn spot_fallback(&self, scope: FleetScope, lifecycle: Lifecycle) -> Option<u32> {
        match self.entry.spot_fallback_sec {
            None => {
                let time = self.settings.resume_timeout_s > SPOT_FALLBACK_S + 30;
                (lifecycle == Lifecycle::Spot && scope != FleetScope::Launch && time)
                    .then_some(SPOT_FALLBACK_S)
            }
            Some(0) => None,
            set => set,
        }
    }

    fn node_weights(
        &mut self,
        lifecycle: Lifecycle,
        specifications: &IndexMap<String, String>,
    ) -> Option<NodeWeights> {
        let entry = self.entry.node_weights?;
        if lifecycle == Lifecycle::OnDemand {
            self.warn(
                "NodeWeights",
                "NodeWeights has no effect in an on-demand node group: its nodes have no other instances.",
                "Delete it, and write Weight in SlurmSpecifications.",
            );
            return None;
        }
        let weights = NodeWeights { spot: entry.spot?, on_demand: entry.on_demand? };
        if let Some(written) = lookup(specifications, "Weight")
            && written.parse() != Ok(weights.spot)
        {
            let path = self.path.key("SlurmSpecifications").key("Weight");
            self.report.warn(
                &path,
                format!(
                    "Weight is {} here, and NodeWeights gives nodes without an instance the weight {}.",
                    shown(written),
                    weights.spot
                ),
                "Delete Weight: ec2fleet generate-conf writes that of NodeWeights. Else it is set anew after every \
                 start and reconfiguration of slurmctld.",
            );
        }
        Some(weights)
    }

    fn scope(&mut self, hibernates: bool) -> FleetScope {
        let default = if hibernates { FleetScope::Node } else { FleetScope::Launch };
        let scope = self.entry.fleet_scope.unwrap_or(default);
        if hibernates && scope == FleetScope::Launch {
            self.error(
                "FleetScope",
                "Instances of an instant fleet (FleetScope launch) cannot be hibernated.",
                "Write node or group, or leave the key out for node.",
            );
        }
        scope
    }

    fn purchasing(&mut self, lifecycle: Lifecycle, hibernates: bool, scope: FleetScope) {
        let spot_path = self.path.key("SpotOptions");
        match lifecycle {
            Lifecycle::OnDemand => {
                if hibernates {
                    self.report.error(
                        &spot_path.key("InstanceInterruptionBehavior"),
                        "On-demand instances are not interrupted, so EC2 does not hibernate them.",
                        "Write \"PurchasingOption\": \"spot\", or delete this key.",
                    );
                } else if self.entry.spot_options.is_some() {
                    self.warn(
                        "SpotOptions",
                        "SpotOptions has no effect in an on-demand node group.",
                        "Delete it, or write \"PurchasingOption\": \"spot\".",
                    );
                }
                if self.entry.spot_fallback_sec.is_some() {
                    self.warn(
                        "SpotFallbackSec",
                        "SpotFallbackSec has no effect in an on-demand node group.",
                        "Delete it.",
                    );
                }
            }
            Lifecycle::Spot => {
                if self.entry.on_demand_options.is_some() && self.spot_fallback(scope, lifecycle).is_none() {
                    self.warn(
                        "OnDemandOptions",
                        "OnDemandOptions has no effect in a spot node group without SpotFallbackSec.",
                        "Write SpotOptions instead, or delete it.",
                    );
                }
                if let Some(seconds) = self.entry.spot_fallback_sec
                    && seconds >= self.settings.resume_timeout_s
                {
                    let timeout = self.settings.resume_timeout_s;
                    self.warn(
                        "SpotFallbackSec",
                        format!("Slurm gives a node up after ResumeTimeout ({timeout} s), before SpotFallbackSec ({seconds} s)."),
                        "Lower SpotFallbackSec so that an on-demand instance can still boot in time, or raise ResumeTimeout.",
                    );
                }
            }
        }
        if self.entry.spot_options.as_ref().and_then(|o| o.instance_interruption_behavior.as_deref())
            == Some("stop")
        {
            self.report.warn(
                &spot_path.key("InstanceInterruptionBehavior"),
                "A stopped instance has lost its job, so interrupted instances are terminated instead.",
                "Write terminate, or hibernate if the jobs shall survive.",
            );
        }
    }

    /// The rules inside SpotOptions and OnDemandOptions.
    fn fleet_options(&mut self, scope: FleetScope) {
        if let Some(options) = &self.entry.spot_options {
            let path = self.path.key("SpotOptions");
            self.single_options(
                &path,
                scope,
                options.min_target_capacity,
                options.single_instance_type,
                options.single_availability_zone,
            );
            self.price(&path.key("MaxTotalPrice"), options.max_total_price.as_deref());
            if options.instance_pools_to_use_count.is_some()
                && options.allocation_strategy.as_deref().is_some_and(|s| s != "lowest-price")
            {
                self.report.error(
                    &path.key("InstancePoolsToUseCount"),
                    "InstancePoolsToUseCount is for AllocationStrategy lowest-price only.",
                    "Delete it, or change the strategy.",
                );
            }
            if let Some(strategies) = &options.maintenance_strategies {
                let path = path.key("MaintenanceStrategies");
                if scope == FleetScope::Launch {
                    self.report.error(
                        &path,
                        "EC2 takes MaintenanceStrategies for maintain fleets only (FleetScope node or group).",
                        "Delete it, or set FleetScope.",
                    );
                }
                if let Some(rebalance) = &strategies.capacity_rebalance {
                    let path = path.key("CapacityRebalance").key("TerminationDelay");
                    let before = rebalance.replacement_strategy.as_deref() == Some("launch-before-terminate");
                    if before && rebalance.termination_delay.is_none() {
                        self.report.missing(
                            &path,
                            "ReplacementStrategy launch-before-terminate needs TerminationDelay.",
                            "Add it: 120 to 7200 seconds.",
                        );
                    }
                    if !before && rebalance.termination_delay.is_some() {
                        self.report.error(
                            &path,
                            "TerminationDelay is for ReplacementStrategy launch-before-terminate only.",
                            "Delete it, or change the strategy.",
                        );
                    }
                }
            }
        }
        if let Some(options) = &self.entry.on_demand_options {
            let path = self.path.key("OnDemandOptions");
            self.single_options(
                &path,
                scope,
                options.min_target_capacity,
                options.single_instance_type,
                options.single_availability_zone,
            );
            self.price(&path.key("MaxTotalPrice"), options.max_total_price.as_deref());
        }
    }

    fn single_options(
        &mut self,
        path: &JsonPath,
        scope: FleetScope,
        min_target: Option<i32>,
        single_type: Option<bool>,
        single_zone: Option<bool>,
    ) {
        if scope != FleetScope::Launch {
            for (key, given) in [
                ("MinTargetCapacity", min_target.is_some()),
                ("SingleInstanceType", single_type == Some(true)),
                ("SingleAvailabilityZone", single_zone == Some(true)),
            ] {
                if given {
                    self.report.error(
                        &path.key(key),
                        format!("EC2 takes {key} for instant fleets only (FleetScope launch)."),
                        "Delete it, or set FleetScope to launch.",
                    );
                }
            }
        } else if let Some(min_target) = min_target {
            if single_type != Some(true) && single_zone != Some(true) {
                self.report.error(
                    &path.key("MinTargetCapacity"),
                    "EC2 takes MinTargetCapacity only with SingleInstanceType or SingleAvailabilityZone.",
                    "Set one of them to true, or delete MinTargetCapacity.",
                );
            }
            if self.entry.all_or_nothing != Some(true) && min_target > 1 {
                self.report.warn(
                    &path.key("MinTargetCapacity"),
                    format!("Launches of fewer than {min_target} nodes do not reach MinTargetCapacity."),
                    "To start a job's nodes all together or not at all, delete it and write \"AllOrNothing\": true.",
                );
            }
        }
    }

    fn price(&mut self, path: &JsonPath, price: Option<&str>) {
        let Some(price) = price else { return };
        let good = price.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            && price.parse::<f64>().is_ok_and(|p| p > 0.0 && p.is_finite());
        if !good {
            self.report.error(
                path,
                format!("{} is not a price.", shown(price)),
                "Write US dollars an hour as a decimal string, for example \"0.35\".",
            );
        }
    }

    /// Where neither `Single…` option is set, the engine sets SingleAvailabilityZone.
    fn all_or_nothing(&mut self, scope: FleetScope) {
        if self.entry.all_or_nothing != Some(true) {
            return;
        }
        if scope != FleetScope::Launch {
            self.error(
                "AllOrNothing",
                "AllOrNothing needs instant fleets, which this node group does not use.",
                "Delete it, or set FleetScope to launch.",
            );
            return;
        }
        if self.settings.max_fleet_nodes > MAX_MIN_TARGET {
            self.error(
                "AllOrNothing",
                format!(
                    "EC2 guarantees at most {MAX_MIN_TARGET} nodes at once, and MaxFleetNodes is {}.",
                    self.settings.max_fleet_nodes
                ),
                format!("Lower MaxFleetNodes in config.json to {MAX_MIN_TARGET} or less."),
            );
        }
    }

    fn hibernation(&mut self, hibernates: bool, scope: FleetScope) -> Hibernation {
        let entry = self.entry;
        let default = Hibernation::default();
        if !hibernates {
            for (key, given) in [
                ("KeepResponding", entry.keep_responding.is_some()),
                ("ExtendTimeLimit", entry.extend_time_limit.is_some()),
                ("MaxHibernationMin", entry.max_hibernation_min.is_some()),
                ("AfterMaxHibernation", entry.after_max_hibernation.is_some()),
                ("WakeTimeoutSec", entry.wake_timeout_sec.is_some()),
            ] {
                if given {
                    self.warn(
                        key,
                        format!("{key} has no effect: this node group's instances are not hibernated."),
                        "Delete it, or set InstanceInterruptionBehavior to hibernate in SpotOptions of a spot node group.",
                    );
                }
            }
        } else if entry.max_hibernation_min.is_none()
            && entry.after_max_hibernation.is_some_and(|after| after != AfterMaxHibernation::Wait)
        {
            self.warn(
                "AfterMaxHibernation",
                "AfterMaxHibernation has no effect without MaxHibernationMin.",
                "Add MaxHibernationMin.",
            );
        }
        if hibernates && entry.after_max_hibernation == Some(AfterMaxHibernation::OnDemand) {
            if scope != FleetScope::Node {
                self.error(
                    "AfterMaxHibernation",
                    "The move to on-demand ends the fleet of the hibernated instance, so each node must have its own.",
                    "Write \"FleetScope\": \"node\", or wait or requeue here.",
                );
            }
            if entry.keep_responding == Some(false) {
                self.warn(
                    "KeepResponding",
                    "Without KeepResponding a job does not live until it is moved to on-demand, unless SlurmdTimeout is longer.",
                    "Delete KeepResponding, or write true.",
                );
            }
        }
        Hibernation {
            keep_responding: entry.keep_responding.unwrap_or(default.keep_responding),
            extend_time_limit: entry.extend_time_limit.unwrap_or(default.extend_time_limit),
            max_minutes: entry.max_hibernation_min,
            after_max: entry.after_max_hibernation.unwrap_or_default(),
            wake_timeout_s: entry.wake_timeout_sec.unwrap_or(default.wake_timeout_s),
        }
    }

    fn launch_template(&mut self, template: &LaunchTemplateSpecification) {
        let path = self.path.key("LaunchTemplateSpecification");
        match (&template.launch_template_id, &template.launch_template_name) {
            (None, None) => self.report.missing(
                &path,
                "Neither LaunchTemplateId nor LaunchTemplateName is given.",
                "Add one of them.",
            ),
            (Some(_), Some(_)) => self.report.error(
                &path,
                "Both LaunchTemplateId and LaunchTemplateName are given.",
                "Delete one of them.",
            ),
            (Some(id), None) => {
                if !is_resource_id(id, "lt-") {
                    self.report.error(
                        &path.key("LaunchTemplateId"),
                        format!("{} is not the id of a launch template.", shown(id)),
                        "An id looks like lt-0123456789abcdef0; a name goes to LaunchTemplateName.",
                    );
                }
            }
            (None, Some(name)) => {
                let length = name.chars().count();
                let good = (3..=128).contains(&length)
                    && name.chars().all(|c| c.is_ascii_alphanumeric() || "().-/_".contains(c));
                if !good {
                    self.report.error(
                        &path.key("LaunchTemplateName"),
                        format!("{} is not the name of a launch template.", shown(name)),
                        "A name has 3 to 128 letters, digits and ( ) . - / _.",
                    );
                }
            }
        }
        match template.version.as_deref() {
            None => self.report.missing(
                &path.key("Version"),
                "The key Version is missing; EC2 Fleet requires it.",
                "Add \"Version\": \"$Latest\", \"$Default\" or the number of a version.",
            ),
            Some("$Latest" | "$Default") => {}
            Some(version) if version.parse::<u64>().is_ok_and(|v| v > 0) => {}
            Some(version) => self.report.error(
                &path.key("Version"),
                format!("{} is not a version of a launch template.", shown(version)),
                "Write $Latest, $Default or a number, in quotes.",
            ),
        }
    }

    fn overrides(&mut self, lifecycle: Lifecycle) -> Vec<LaunchTemplateOverride> {
        let root = self.path.key("LaunchTemplateOverrides");
        let mut out = Vec::new();
        let mut types = HashMap::<&str, usize>::new();
        let mut untyped: Option<usize> = None;
        for (i, entry) in self.entry.launch_template_overrides.iter().flatten().enumerate() {
            let Some(entry) = entry else { continue };
            let path = root.index(i);
            match (&entry.instance_type, &entry.instance_requirements) {
                (Some(_), Some(_)) => self.report.error(
                    &path,
                    "Both InstanceType and InstanceRequirements are given.",
                    "Delete one of them.",
                ),
                (Some(instance_type), None) => {
                    let type_path = path.key("InstanceType");
                    if !is_instance_type(instance_type) {
                        self.report.error(
                            &type_path,
                            format!("{} is not an instance type.", shown(instance_type)),
                            "Write family and size with a point between them, for example c5.xlarge.",
                        );
                    } else if let Some(first) = types.insert(instance_type, i) {
                        self.report.error(
                            &type_path,
                            format!(
                                "{instance_type} is there twice, first as LaunchTemplateOverrides[{first}]."
                            ),
                            "Delete one: EC2 refuses duplicate instance pools.",
                        );
                    }
                }
                (None, Some(requirements)) => {
                    let path = path.key("InstanceRequirements");
                    for (key, range) in
                        [("VCpuCount", &requirements.vcpu_count), ("MemoryMiB", &requirements.memory_mib)]
                    {
                        if range.as_ref().is_none_or(|r| r.min.is_none()) {
                            self.report.missing(
                                &path.key(key).key("Min"),
                                format!("EC2 requires {key}.Min in InstanceRequirements."),
                                "Add it; 0 means no minimum.",
                            );
                        }
                    }
                    if !requirements.allowed_instance_types.is_empty()
                        && !requirements.excluded_instance_types.is_empty()
                    {
                        self.report.error(
                            &path.key("ExcludedInstanceTypes"),
                            "AllowedInstanceTypes and ExcludedInstanceTypes exclude each other.",
                            "Delete one of them.",
                        );
                    }
                }
                (None, None) => {
                    if let Some(first) = untyped {
                        self.report.error(
                            &path,
                            format!(
                                "No InstanceType is given, as in LaunchTemplateOverrides[{first}] already."
                            ),
                            "Add an InstanceType: EC2 refuses duplicate instance pools.",
                        );
                    }
                    untyped.get_or_insert(i);
                }
            }
            if entry.subnet_id.is_some() {
                self.report.warn(
                    &path.key("SubnetId"),
                    "SubnetId of an override is ignored: every override is used in all SubnetIds of the group.",
                    "Delete it, and list the subnet in SubnetIds.",
                );
            }
            if entry.weighted_capacity.is_some_and(|w| w != 1.0) {
                self.report.warn(
                    &path.key("WeightedCapacity"),
                    "WeightedCapacity is always 1: one instance is one node.",
                    "Delete it.",
                );
            }
            self.price(&path.key("MaxPrice"), entry.max_price.as_deref());
            if entry.max_price.is_some() && lifecycle == Lifecycle::OnDemand {
                self.report.warn(
                    &path.key("MaxPrice"),
                    "MaxPrice has no effect in an on-demand node group.",
                    "Delete it.",
                );
            }
            if let Some(zone) = &entry.availability_zone {
                let in_region = self.entry.region.as_deref().is_none_or(|region| zone.starts_with(region));
                if !in_region {
                    self.report.error(
                        &path.key("AvailabilityZone"),
                        format!("{} is not a zone of the node group's region.", shown(zone)),
                        "Delete it: the zone follows from the subnet.",
                    );
                }
            }
            out.push(LaunchTemplateOverride {
                subnet_id: None,
                weighted_capacity: Some(1.0),
                ..entry.clone()
            });
        }
        out
    }

    fn subnets(&mut self) -> Vec<String> {
        let root = self.path.key("SubnetIds");
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for (i, id) in self.entry.subnet_ids.iter().flatten().enumerate() {
            let Some(id) = id else { continue };
            if !is_resource_id(id, "subnet-") {
                self.report.error(
                    &root.index(i),
                    format!("{} is not the id of a subnet.", shown(id)),
                    "An id looks like subnet-0123456789abcdef0.",
                );
            } else if !seen.insert(id) {
                self.report.error(
                    &root.index(i),
                    format!("{id} is there twice."),
                    "Delete one: EC2 refuses duplicate instance pools.",
                );
            }
            out.push(id.clone());
        }
        out
    }

    fn pools(&mut self, overrides: usize, subnets: usize) {
        let pools = overrides.saturating_mul(subnets);
        // Beyond 300 overrides the array's own limit is reported.
        if pools > OVERRIDES_PER_FLEET && overrides <= OVERRIDES_PER_FLEET {
            self.error(
                "LaunchTemplateOverrides",
                format!("{overrides} overrides in {subnets} subnets make {pools} capacity pools."),
                format!(
                    "EC2 takes {OVERRIDES_PER_FLEET} in one fleet: remove overrides or subnets, or split the node group."
                ),
            );
        }
    }

    fn tags(&mut self, partition: &str, name: &str, max_nodes: u32) -> IndexMap<String, String> {
        let root = self.path.key("Tags");
        let node_name = partition.len() + name.len() + 2 + max_nodes.saturating_sub(1).to_string().len();
        let mut out = IndexMap::new();
        for (i, tag) in self.entry.tags.iter().flatten().enumerate() {
            let Some(TagEntry { key: Some(key), value }) = tag else { continue };
            let path = root.index(i);
            if out.contains_key(key) {
                self.report.error(
                    &path.key("Key"),
                    format!("The tag {} is there twice.", shown(key)),
                    "Delete one.",
                );
                continue;
            }
            let lower = key.to_ascii_lowercase();
            if let Some(prefix) = ["aws:", OWN_TAG_PREFIX].into_iter().find(|p| lower.starts_with(p)) {
                self.report.error(
                    &path.key("Key"),
                    format!("Tags that start with {prefix} are reserved."),
                    "Choose another key.",
                );
                continue;
            }
            if key == tag::NAME {
                self.report.warn(
                    &path.key("Key"),
                    "The tag Name is the name of the node, which instances find themselves by; this one is ignored.",
                    "Delete it.",
                );
                continue;
            }
            if !key.chars().all(|c| c.is_ascii_alphanumeric() || "+-=.,_:@".contains(c))
                || [".", "..", "_index"].contains(&key.as_str())
            {
                self.report.warn(
                    &path.key("Key"),
                    format!("EC2 refuses the tag {} where tags are readable in instance metadata, which node naming needs.", shown(key)),
                    "Use letters, digits and + - = . , _ : @ only.",
                );
            }
            let Some(value) = value else { continue };
            self.tag_value(&path.key("Value"), value, node_name);
            out.insert(key.clone(), value.clone());
        }
        if out.len() + OWN_TAGS > TAGS_PER_RESOURCE {
            self.error(
                "Tags",
                format!("{} tags are too many.", out.len()),
                format!(
                    "EC2 allows {TAGS_PER_RESOURCE} tags on an instance, of which this program needs {OWN_TAGS}: write at most {}.",
                    TAGS_PER_RESOURCE - OWN_TAGS
                ),
            );
        }
        out
    }

    fn tag_value(&mut self, path: &JsonPath, value: &str, node_name: usize) {
        let mut longest = value.chars().count();
        let mut rest = value;
        while let Some((_, after)) = rest.split_once('{') {
            rest = after;
            let Some((word, _)) = after.split_once('}') else { break };
            let filled = match word {
                "ip_address" => MAX_IP_ADDRESS,
                "node_name" => node_name,
                "hostname" => MAX_HOSTNAME,
                _ => {
                    let remedy =
                        match nearest(word, tag::PLACEHOLDERS.map(|known| known.trim_matches(['{', '}']))) {
                            Some(near) => format!("Did you mean {{{near}}}?"),
                            None => {
                                format!("Known are {}.", one_of(tag::PLACEHOLDERS))
                            }
                        };
                    self.report.warn(
                        path,
                        format!("{} is not a placeholder and stays as it is.", shown(&format!("{{{word}}}"))),
                        remedy,
                    );
                    continue;
                }
            };
            longest = longest + filled - (word.len() + 2).min(longest);
        }
        if longest > TAG_VALUE_CHARS {
            self.report.error(
                path,
                format!("The value can become {longest} characters long."),
                format!("EC2 takes {TAG_VALUE_CHARS} characters: shorten it."),
            );
        }
    }

    fn fleet_count(
        &mut self,
        scope: FleetScope,
        max_nodes: u32,
        account: &Account,
        fleets: &mut BTreeMap<Account, u64>,
    ) {
        let needed = match scope {
            FleetScope::Launch => return,
            FleetScope::Group => 1,
            FleetScope::Node => u64::from(max_nodes),
        };
        let total = fleets.entry(account.clone()).or_default();
        *total += needed;
        let total = *total;
        if total > u64::from(FLEETS_PER_REGION) {
            let key = if scope == FleetScope::Node { "MaxNodes" } else { "FleetScope" };
            self.error(
                key,
                format!("With this node group, {account} needs up to {total} fleets; EC2 allows {FLEETS_PER_REGION} in a region."),
                "Lower MaxNodes of the groups with FleetScope node (the default with hibernation), or write \"FleetScope\": \"group\".",
            );
        }
    }
}

fn is_resource_id(id: &str, prefix: &str) -> bool {
    id.strip_prefix(prefix)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_instance_type(text: &str) -> bool {
    let part = |s: &str| {
        !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.split_once('.').is_some_and(|(family, size)| part(family) && part(size))
}
