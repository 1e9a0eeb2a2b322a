// SPDX-License-Identifier: GPL-3.0-or-later
//! What the administrator configured, checked: the model that every decision reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fleet_spec::{LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions};

/// Where calls for a node group go: one EC2 endpoint and one set of credentials.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Account {
    pub region: String,
    /// A profile of the AWS configuration files; `None` is the default credential chain.
    pub profile: Option<String>,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.profile {
            Some(profile) => write!(f, "{} (profile {profile})", self.region),
            None => f.write_str(&self.region),
        }
    }
}

/// EC2's word for how an instance is paid for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    /// On-demand price, not interrupted.
    #[default]
    OnDemand,
    /// Spot price; EC2 may interrupt the instance.
    Spot,
}

impl Lifecycle {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// How a node group's fleets live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FleetScope {
    /// One `instant` fleet per batch of resumed nodes; EC2 forgets it at once.
    #[default]
    Launch,
    /// One `maintain` fleet per Slurm node, target 1, one pool.
    Node,
    /// One `maintain` fleet per node group.
    Group,
}

/// How an instance learns its node name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeNaming {
    /// One tag per reservation with its nodes in ami-launch-index order; `Name` follows at low priority.
    #[default]
    LaunchIndex,
    /// Every instance gets its `Name` tag at once, for images that read it.
    NameTag,
}

/// What becomes of a hibernated node after [`Hibernation::max_minutes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AfterMaxHibernation {
    /// Go on waiting for Spot capacity.
    #[default]
    Wait,
    /// Requeue the job and give the instance up.
    Requeue,
    /// Move the instance's disks and interfaces to an on-demand instance, and let the job go on there.
    OnDemand,
}

/// Rules for nodes whose Spot instance EC2 hibernated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hibernation {
    /// Tell slurmctld that sleeping nodes respond, so that SlurmdTimeout does not kill their jobs.
    pub keep_responding: bool,
    /// Add the time asleep to the job's time limit.
    pub extend_time_limit: bool,
    /// Minutes; `None` waits for ever.
    pub max_minutes: Option<u32>,
    pub after_max: AfterMaxHibernation,
    /// Seconds that slurmd has to answer after its instance is running again.
    pub wake_timeout_s: u32,
}

impl Default for Hibernation {
    fn default() -> Self {
        Self {
            keep_responding: true,
            extend_time_limit: true,
            max_minutes: None,
            after_max: AfterMaxHibernation::Wait,
            wake_timeout_s: 300,
        }
    }
}

/// Slurm's Weight of a node, by the lifecycle of the instance that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWeights {
    /// Also of a node without an instance: the next one is meant to be Spot.
    pub spot: u32,
    pub on_demand: u32,
}

impl NodeWeights {
    #[must_use]
    pub fn of(self, lifecycle: Lifecycle) -> u32 {
        match lifecycle {
            Lifecycle::Spot => self.spot,
            Lifecycle::OnDemand => self.on_demand,
        }
    }
}

/// One node group of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeGroup {
    pub partition: String,
    pub name: String,
    pub max_nodes: u32,
    pub account: Account,
    pub lifecycle: Lifecycle,
    pub on_demand_options: OnDemandOptions,
    pub spot_options: SpotOptions,
    pub launch_template: LaunchTemplateSpecification,
    /// As configured, before they are multiplied by `subnet_ids`.
    pub overrides: Vec<LaunchTemplateOverride>,
    pub subnet_ids: Vec<String>,
    /// Tag key to value; a value may hold `{ip_address}`, `{node_name}` and `{hostname}`.
    pub tags: IndexMap<String, String>,
    /// Key/value pairs for the `NodeName=` line of slurm.conf.
    pub slurm_specifications: IndexMap<String, String>,
    pub naming: NodeNaming,
    pub scope: FleetScope,
    /// A job with nodes of this group gets instances for all of its nodes or for none.
    pub all_or_nothing: bool,
    /// Seconds without a new Spot instance before the missing share is filled on-demand; `None` never.
    pub spot_fallback_s: Option<u32>,
    /// Weights that follow the nodes' instances; `None`: Weight is left to slurm.conf and to people.
    pub node_weights: Option<NodeWeights>,
    pub hibernation: Hibernation,
}

impl NodeGroup {
    /// `<partition>-<group>`: the stem of the node names, and the group's name in messages.
    #[must_use]
    pub fn stem(&self) -> String {
        format!("{}-{}", self.partition, self.name)
    }

    #[must_use]
    pub fn node_name(&self, index: u32) -> String {
        format!("{}-{}-{index}", self.partition, self.name)
    }

    /// Whether EC2 hibernates this group's instances when it takes Spot capacity back.
    #[must_use]
    pub fn hibernates(&self) -> bool {
        self.spot_options.instance_interruption_behavior.as_deref() == Some("hibernate")
    }

    /// Whether instances that sleep too long are replaced by on-demand instances with their disks.
    #[must_use]
    pub fn moves_to_on_demand(&self) -> bool {
        self.hibernates()
            && self.hibernation.max_minutes.is_some()
            && self.hibernation.after_max == AfterMaxHibernation::OnDemand
    }
}

/// Times and bounds of the whole site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// A batch of power events is closed after this quiet time (milliseconds) …
    pub batch_idle_ms: u64,
    /// … and at the latest this long after its first event.
    pub batch_max_ms: u64,
    /// Slurm's ResumeTimeout, seconds.
    pub resume_timeout_s: u32,
    /// Slurm's SuspendTimeout, seconds.
    pub suspend_timeout_s: u32,
    /// Slurm's SlurmdTimeout, seconds.
    pub slurmd_timeout_s: u32,
    /// Seconds between two listings of EC2 and Slurm when nothing happens.
    pub rescan_s: u32,
    /// Seconds an instance may be without a node before it is terminated.
    pub orphan_grace_s: u32,
    /// Seconds for which an instance may be missing from EC2's lists after its launch.
    pub consistency_grace_s: u32,
    /// Seconds for which a pool that refused capacity is not asked first again.
    pub pool_cooldown_s: u32,
    /// Launch failures in a row after which a node group is closed (protected mode); 0 never.
    pub protect_after: u32,
    /// Nodes asked for in one CreateFleet call.
    pub max_fleet_nodes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_idle_ms: 35,
            batch_max_ms: 1_000,
            resume_timeout_s: 300,
            suspend_timeout_s: 60,
            slurmd_timeout_s: 300,
            rescan_s: 60,
            orphan_grace_s: 180,
            consistency_grace_s: 120,
            pool_cooldown_s: 120,
            protect_after: 0,
            max_fleet_nodes: 500,
        }
    }
}

/// One partition, as `generate-conf` needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    pub name: String,
    pub options: IndexMap<String, String>,
    /// Names of its node groups, in order.
    pub groups: Vec<String>,
}

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Value of the tag that makes an instance ours: Slurm's ClusterName unless configured otherwise.
    pub cluster: String,
    pub partitions: Vec<Partition>,
    pub settings: Settings,
    groups: Vec<Arc<NodeGroup>>,
    by_stem: BTreeMap<String, usize>,
}

/// A node's name as its group's stem and its number, as the name has them.
fn split_name(node: &str) -> Option<(&str, &str)> {
    node.rsplit_once('-')
}

/// The stem of the group that a node has its name of, whether or not the group is configured.
#[must_use]
pub fn stem_of(node: &str) -> &str {
    split_name(node).map_or(node, |(stem, _)| stem)
}

impl Site {
    #[must_use]
    pub fn new(
        cluster: String,
        partitions: Vec<Partition>,
        groups: Vec<NodeGroup>,
        settings: Settings,
    ) -> Self {
        let by_stem = groups.iter().enumerate().map(|(i, g)| (g.stem(), i)).collect();
        Self { cluster, partitions, settings, groups: groups.into_iter().map(Arc::new).collect(), by_stem }
    }

    #[must_use]
    pub fn groups(&self) -> &[Arc<NodeGroup>] {
        &self.groups
    }

    #[must_use]
    pub fn group(&self, stem: &str) -> Option<&Arc<NodeGroup>> {
        self.by_stem.get(stem).map(|&i| &self.groups[i])
    }

    /// The group and index of a node, if the name is one that the configuration makes.
    #[must_use]
    pub fn locate(&self, node: &str) -> Option<(&Arc<NodeGroup>, u32)> {
        self.place_of(node).map(|(_, group, index)| (group, index))
    }

    /// As [`Self::locate`], with the group's stem as it stands in the name.
    #[must_use]
    pub fn place_of<'a>(&self, node: &'a str) -> Option<(&'a str, &Arc<NodeGroup>, u32)> {
        let (stem, index) = split_name(node)?;
        let group = self.group(stem)?;
        // "07" would parse, but no node is called so.
        if index.len() > 1 && index.starts_with('0') {
            return None;
        }
        let index: u32 = index.parse().ok()?;
        (index < group.max_nodes).then_some((stem, group, index))
    }

    /// Every account that some group uses, once each, in order of first use.
    #[must_use]
    pub fn accounts(&self) -> Vec<Account> {
        let mut accounts: Vec<Account> = Vec::new();
        for group in &self.groups {
            if !accounts.contains(&group.account) {
                accounts.push(group.account.clone());
            }
        }
        accounts
    }
}
