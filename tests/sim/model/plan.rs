// SPDX-License-Identifier: GPL-3.0-or-later
//! The cluster of one seed: node groups, times and load.

use std::sync::Arc;

use slurm_ec2_fleet::core::fleet_spec::{
    LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions,
};
use slurm_ec2_fleet::core::site::{
    Account, FleetScope, Hibernation, Lifecycle, NodeGroup, NodeNaming, Settings, Site,
};

pub const CLUSTER: &str = "sim";

/// What the seed chose once.
#[derive(Clone)]
pub struct Plan {
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
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        let accounts = [
            Account { region: "eu-west-1".into(), profile: None },
            Account { region: "us-east-1".into(), profile: Some("second".into()) },
        ];
        let groups: Vec<NodeGroup> = (0..rng.u32(1..=3))
            .map(|index| {
                let account = &accounts[usize::from(rng.u8(0..4) == 0)];
                group(index, rng.u32(1..=8), account, rng)
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
        Self {
            sizes,
            site: Arc::new(Site::new(CLUSTER.into(), Vec::new(), groups, settings)),
            chaos_ms: rng.u64(600_000..=7_200_000),
            quiet_ms: 4_500_000,
            job_every_ms: [60_000, 180_000, 600_000][rng.usize(0..3)],
            suspend_time_ms: [60_000, 180_000, 300_000][rng.usize(0..3)],
            registers_address: rng.bool(),
            return_to_service: rng.u8(0..=2),
            max_lag_ms: [0, 2_000, 10_000, 30_000][rng.usize(0..4)],
            page: rng.usize(3..=8),
        }
    }
}

fn group(index: u32, nodes: u32, account: &Account, rng: &mut fastrand::Rng) -> NodeGroup {
    let spot = rng.bool();
    let types = ["c5.large", "m5.large", "c6i.large"];
    NodeGroup {
        partition: "p".into(),
        name: format!("g{index}"),
        max_nodes: nodes,
        account: account.clone(),
        lifecycle: if spot { Lifecycle::Spot } else { Lifecycle::OnDemand },
        on_demand_options: OnDemandOptions::default(),
        spot_options: SpotOptions::default(),
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
        scope: FleetScope::Launch,
        all_or_nothing: rng.u8(0..4) == 0,
        spot_fallback_s: (spot && rng.bool()).then_some(210),
        hibernation: Hibernation::default(),
    }
}
