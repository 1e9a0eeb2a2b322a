// SPDX-License-Identifier: GPL-3.0-or-later
//! The cluster of one seed: node groups, times and load.

use std::sync::Arc;

use ec2fleet_core::fleet_spec::{
    LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions,
};
use ec2fleet_core::site::{
    Account, FleetScope, Hibernation, Lifecycle, NodeGroup, NodeNaming, NodeWeights, Settings, Site,
};

pub const CLUSTER: &str = "sim";

/// What a seed is about. Every fault may happen in each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Fleets of type instant.
    Launch,
    /// A maintain fleet for each node.
    MaintainNode,
    /// A maintain fleet for each node group.
    MaintainGroup,
    /// Spot instances sleep for hours.
    HibernationNight,
    /// Whole pools of Spot instances are taken back at once.
    SpotStorm,
    /// slurmctld has no plugin: ResumeProgram, SuspendProgram and ResumeFailProgram do the work, each in a pass of its own.
    Programs,
}

impl Scenario {
    pub const ALL: [Self; 6] = [
        Self::Launch,
        Self::MaintainNode,
        Self::MaintainGroup,
        Self::HibernationNight,
        Self::SpotStorm,
        Self::Programs,
    ];

    fn draw(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(0..12) {
            0..=6 => Self::Launch,
            7..=8 => Self::MaintainNode,
            9..=10 => Self::MaintainGroup,
            // A night takes eight times as long as another run.
            _ => [Self::HibernationNight, Self::SpotStorm, Self::SpotStorm][rng.usize(0..3)],
        }
    }

    /// A node group's kind of fleet.
    fn scope(self, rng: &mut fastrand::Rng) -> FleetScope {
        let maintain = if rng.bool() { FleetScope::Node } else { FleetScope::Group };
        let share = rng.u8(0..4);
        match self {
            Self::Launch => FleetScope::Launch,
            Self::MaintainNode if share > 0 => FleetScope::Node,
            Self::MaintainGroup if share > 0 => FleetScope::Group,
            Self::HibernationNight => maintain,
            Self::SpotStorm if share > 0 => maintain,
            Self::Programs if share == 0 => maintain,
            _ => FleetScope::Launch,
        }
    }
}

/// What the seed chose once.
#[derive(Clone)]
pub struct Plan {
    pub scenario: Scenario,
    /// The shortest and the longest time for which EC2 has no room for an instance that it hibernated.
    pub sleep_ms: (u64, u64),
    pub site: Arc<Site>,
    /// Per group: the number of its nodes.
    pub sizes: Vec<u32>,
    pub chaos_ms: u64,
    pub quiet_ms: u64,
    /// Mean time between two jobs.
    pub job_every_ms: u64,
    pub suspend_time_ms: u64,
    /// `SlurmctldParameters=cloud_reg_addrs`.
    pub registers_address: bool,
    /// slurmctld tells of nodes that are powered down only that they are.
    pub hides_suspended: bool,
    /// `ReturnToService`.
    pub return_to_service: u8,
    /// The longest by which a describe may lag behind.
    pub max_lag_ms: u64,
    /// Instances on one page of DescribeInstances.
    pub page: usize,
}

/// `SlurmdTimeout`.
pub const SLURMD_TIMEOUT_MS: u64 = 300_000;

impl Plan {
    pub fn new(rng: &mut fastrand::Rng, scenario: Option<Scenario>) -> Self {
        let accounts = [
            Account { region: "eu-west-1".into(), profile: None },
            Account { region: "us-east-1".into(), profile: Some("second".into()) },
        ];
        let drawn = Scenario::draw(rng);
        let scenario = scenario.unwrap_or(drawn);
        let groups: Vec<NodeGroup> = (0..rng.u32(1..=3))
            .map(|index| {
                let account = &accounts[usize::from(rng.u8(0..4) == 0)];
                group(scenario, index, rng.u32(1..=8), account, rng)
            })
            .collect();
        let sizes = groups.iter().map(|group| group.max_nodes).collect();
        let settings = Settings {
            resume_timeout_s: [180, 300, 600][rng.usize(0..3)],
            suspend_timeout_s: [30, 60, 120][rng.usize(0..3)],
            pool_cooldown_s: [30, 120][rng.usize(0..2)],
            max_fleet_nodes: [2, 500, 500][rng.usize(0..3)],
            ..Settings::default()
        };
        let night = scenario == Scenario::HibernationNight;
        Self {
            scenario,
            sleep_ms: if night { (600_000, 18_000_000) } else { (1_000, 1_800_000) },
            sizes,
            site: Arc::new(Site::new(CLUSTER.into(), Vec::new(), groups, settings)),
            chaos_ms: rng.u64(600_000..=if night { 28_800_000 } else { 7_200_000 }),
            quiet_ms: 4_500_000,
            job_every_ms: [60_000, 180_000, 600_000][rng.usize(0..3)],
            suspend_time_ms: [60_000, 180_000, 300_000][rng.usize(0..3)],
            registers_address: rng.bool(),
            return_to_service: rng.u8(0..=2),
            max_lag_ms: [0, 2_000, 10_000, 30_000][rng.usize(0..4)],
            page: rng.usize(3..=8),
            hides_suspended: rng.bool(),
        }
    }
}

fn group(
    scenario: Scenario,
    index: u32,
    nodes: u32,
    account: &Account,
    rng: &mut fastrand::Rng,
) -> NodeGroup {
    let spot = rng.bool() || matches!(scenario, Scenario::HibernationNight | Scenario::SpotStorm);
    let scope = scenario.scope(rng);
    let hibernates = spot
        && scope != FleetScope::Launch
        // Only the plugin keeps a sleeping node responding.
        && scenario != Scenario::Programs
        && (scenario == Scenario::HibernationNight || (scenario != Scenario::Launch && rng.bool()));
    let types = ["c5.large", "m5.large", "c6i.large"];
    NodeGroup {
        partition: "p".into(),
        name: format!("g{index}"),
        max_nodes: nodes,
        account: account.clone(),
        lifecycle: if spot { Lifecycle::Spot } else { Lifecycle::OnDemand },
        on_demand_options: OnDemandOptions::default(),
        spot_options: SpotOptions {
            instance_interruption_behavior: hibernates.then(|| "hibernate".to_owned()),
            ..SpotOptions::default()
        },
        launch_template: LaunchTemplateSpecification::default(),
        overrides: types[..rng.usize(1..=3)]
            .iter()
            .map(|name| LaunchTemplateOverride {
                instance_type: Some((*name).to_owned()),
                ..LaunchTemplateOverride::default()
            })
            .collect(),
        subnet_ids: ["subnet-a", "subnet-b"][..rng.usize(1..=2)].iter().map(|id| (*id).to_owned()).collect(),
        tags: [("Team".to_owned(), "hpc".to_owned())].into_iter().collect(),
        slurm_specifications: indexmap::IndexMap::new(),
        naming: if rng.u8(0..4) == 0 { NodeNaming::NameTag } else { NodeNaming::LaunchIndex },
        scope,
        all_or_nothing: scope == FleetScope::Launch && rng.u8(0..4) == 0,
        spot_fallback_s: (spot && rng.bool()).then_some(210),
        node_weights: (spot && nodes.is_multiple_of(2)).then_some(NodeWeights { spot: 2, on_demand: 1 }),
        hibernation: Hibernation::default(),
    }
}
