// SPDX-License-Identifier: GPL-3.0-or-later
//! The two files as they are written: every key optional, nothing checked but the shape.
//!
//! The keys up to `PartitionOptions` are those that aws-plugin-for-slurm v2 documents in its README; the
//! others are ours. The descriptions below are published in the JSON Schema (docs/schema/).

use std::fmt;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use ec2fleet_core::fleet_spec::{
    LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions,
};
use ec2fleet_core::site::{AfterMaxHibernation, FleetScope, Lifecycle, NodeNaming};

/// Names of partitions and node groups.
pub(super) const NAME_PATTERN: &str = "^[a-zA-Z0-9]+$";
/// Names of regions: `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`.
pub(super) const REGION_PATTERN: &str = "^[a-z]{2,}(-[a-z]+)+-[0-9]+$";

/// The value of a slurm.conf parameter: a string, or a number or boolean that is written out as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Number(serde_json::Number),
    String(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::String(s) => f.write_str(s),
        }
    }
}

impl JsonSchema for Scalar {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// Which messages are logged, by the names of Python's logging module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    Critical,
    Error,
    Warning,
    Info,
    #[default]
    Debug,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// config.json: the program and the parameters that it adds to slurm.conf.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(title = "slurm-ec2-fleet config.json")]
pub struct ConfigFile {
    /// Which messages are logged. Default: DEBUG.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
    /// Full path of the log file. Default: aws_plugin.log in the folder of config.json.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub log_file_name: Option<String>,
    /// Folder with Slurm's programs (scontrol, sinfo). Default: they are looked up in PATH.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub slurm_bin_path: Option<String>,
    /// Parameters that generate-conf writes to slurm.conf.aws, with the names of slurm.conf(5).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<std::collections::BTreeMap<String, Scalar>>")]
    pub slurm_conf: Option<IndexMap<String, Scalar>>,

    /// Value of the tag that marks instances as this cluster's. Default: ClusterName of slurm.conf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub cluster_name: Option<String>,
    /// Folder for the journal, the lock and the socket. Default: ec2fleet in StateSaveLocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub state_dir: Option<String>,
    /// Full path of a hosts file (/etc/hosts) whose own block is to say where the nodes are. Default: none is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub hosts_file: Option<String>,
    /// URL of an EC2 endpoint to use instead of Amazon's, for a VPC endpoint or the emulator.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub endpoint_url: Option<String>,
    /// Milliseconds without a new power event after which a batch is launched. Default: 35.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60_000))]
    pub batch_idle_ms: Option<u64>,
    /// Milliseconds after its first power event at which a batch is launched in any case. Default: 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 60_000))]
    pub batch_max_ms: Option<u64>,
    /// Seconds between two comparisons of EC2 with Slurm when nothing happens. Default: 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 86_400))]
    pub rescan_sec: Option<u32>,
    /// Seconds that an instance may be without a node before it is terminated. Default: 180.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 86_400))]
    pub orphan_grace_sec: Option<u32>,
    /// Seconds after its launch for which an instance may be missing from EC2's lists. Default: 120.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub consistency_grace_sec: Option<u32>,
    /// Seconds for which a capacity pool that had no capacity is not asked first again. Default: 120.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub pool_cooldown_sec: Option<u32>,
    /// Launch failures in a row after which a node group is closed; 0 never closes one. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub protect_after: Option<u32>,
    /// Nodes that one CreateFleet call asks for at most. Default: 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_fleet_nodes: Option<u32>,
    /// How log lines look: text, or one JSON object a line. Default: text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Port on 127.0.0.1 that serves metrics in the OpenMetrics format. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub metrics_port: Option<u32>,
    /// Full path of a file that metrics are written to for the textfile collector. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub metrics_file: Option<String>,
}

/// partitions.json: the nodes that Slurm may launch in EC2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(title = "slurm-ec2-fleet partitions.json", extend("required" = ["Partitions"]))]
pub struct PartitionsFile {
    /// Slurm partitions.
    #[schemars(with = "Option<Vec<PartitionEntry>>", length(min = 1))]
    pub partitions: Option<Vec<Option<PartitionEntry>>>,
}

/// One Slurm partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(rename = "Partition", extend("required" = ["PartitionName", "NodeGroups"]))]
pub struct PartitionEntry {
    /// Name of the partition: letters and digits.
    #[schemars(extend("pattern" = NAME_PATTERN))]
    pub partition_name: Option<String>,
    /// Node groups: sets of nodes with the same specification.
    #[schemars(with = "Option<Vec<NodeGroupEntry>>", length(min = 1))]
    pub node_groups: Option<Vec<Option<NodeGroupEntry>>>,
    /// Parameters for the PartitionName line of slurm.conf.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<std::collections::BTreeMap<String, Scalar>>")]
    pub partition_options: Option<IndexMap<String, Scalar>>,
}

/// One set of nodes with the same specification, `<partition>-<group>-0` to `<partition>-<group>-<MaxNodes - 1>`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(rename = "NodeGroup", extend("required" = [
    "NodeGroupName", "MaxNodes", "Region", "SlurmSpecifications", "PurchasingOption",
    "LaunchTemplateSpecification", "LaunchTemplateOverrides", "SubnetIds"
]))]
pub struct NodeGroupEntry {
    /// Name of the node group: letters and digits.
    #[schemars(extend("pattern" = NAME_PATTERN))]
    pub node_group_name: Option<String>,
    /// Number of nodes of this group that Slurm knows, and so launches at most.
    #[schemars(range(min = 1, max = 65_536))]
    pub max_nodes: Option<u32>,
    /// AWS region of the instances, for example us-east-1.
    #[schemars(extend("pattern" = REGION_PATTERN))]
    pub region: Option<String>,
    /// Profile in the AWS configuration files. Default: the default credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub profile_name: Option<String>,
    /// Parameters for the NodeName line of slurm.conf.
    #[schemars(with = "Option<std::collections::BTreeMap<String, Scalar>>")]
    pub slurm_specifications: Option<IndexMap<String, Scalar>>,
    /// How the instances are paid for.
    pub purchasing_option: Option<Lifecycle>,
    /// OnDemandOptions of EC2 CreateFleet, for the purchasing option on-demand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand_options: Option<OnDemandOptions>,
    /// SpotOptions of EC2 CreateFleet, for the purchasing option spot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_options: Option<SpotOptions>,
    /// The launch template: its id or its name, and its version.
    pub launch_template_specification: Option<LaunchTemplateSpecification>,
    /// Instance types to choose from, as Overrides of EC2 CreateFleet, without SubnetId.
    #[schemars(with = "Option<Vec<LaunchTemplateOverride>>", length(min = 1, max = 300))]
    pub launch_template_overrides: Option<Vec<Option<LaunchTemplateOverride>>>,
    /// Subnets to launch in, each in another availability zone.
    #[schemars(with = "Option<Vec<String>>", length(min = 1))]
    pub subnet_ids: Option<Vec<Option<String>>>,
    /// Tags of the instances; values may hold {ip_address}, {node_name} and {hostname}.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<TagEntry>>")]
    pub tags: Option<Vec<Option<TagEntry>>>,

    /// How an instance learns its node name. Default: launch-index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_naming: Option<NodeNaming>,
    /// How the EC2 fleets of this group live. Default: launch; node where InstanceInterruptionBehavior is hibernate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet_scope: Option<FleetScope>,
    /// A job with nodes of this group gets instances for all of its nodes or for none. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_or_nothing: Option<bool>,
    /// Seconds without a new Spot instance after which the missing nodes are launched on-demand; 0: never.
    /// Default: 210 where FleetScope is node or group, else never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub spot_fallback_sec: Option<u32>,
    /// Slurm's Weight of this spot node group's nodes, by the instance that each has. Default: as in slurm.conf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_weights: Option<NodeWeightsEntry>,
    /// Tell slurmctld that hibernated nodes respond, so that SlurmdTimeout does not end their jobs. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_responding: Option<bool>,
    /// Add the time that a job's nodes were hibernated to its time limit. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_time_limit: Option<bool>,
    /// Minutes that a node may be hibernated. Default: no limit.
    #[serde(rename = "MaxHibernationMin", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 525_600))]
    pub max_hibernation_min: Option<u32>,
    /// What happens after MaxHibernationMin. Default: wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_max_hibernation: Option<AfterMaxHibernation>,
    /// Seconds that slurmd has to answer after its hibernated instance runs again. Default: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub wake_timeout_sec: Option<u32>,
}

/// Slurm takes nodes of the lowest weight first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "NodeWeights", extend("required" = ["spot", "on-demand"]))]
pub struct NodeWeightsEntry {
    /// Weight of a node on a Spot instance, and of one without an instance.
    #[schemars(range(min = 0, max = 4_294_967_293u32))]
    pub spot: Option<u32>,
    /// Weight of a node on an on-demand instance.
    #[schemars(range(min = 0, max = 4_294_967_293u32))]
    pub on_demand: Option<u32>,
}

/// One tag.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "PascalCase")]
#[schemars(rename = "Tag", extend("required" = ["Key", "Value"]))]
pub struct TagEntry {
    /// 1 to 128 characters, not starting with aws: or ec2fleet:.
    #[schemars(length(min = 1, max = 128))]
    pub key: Option<String>,
    /// At most 256 characters once the placeholders are filled in.
    pub value: Option<String>,
}
