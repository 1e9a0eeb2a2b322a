// SPDX-License-Identifier: GPL-3.0-or-later
//! What tests of this crate and of those above it begin with. Compiled for tests only (feature `testing`).

use crate::fleet_spec::{LaunchTemplateOverride, LaunchTemplateSpecification, OnDemandOptions, SpotOptions};
use crate::site::{Account, FleetScope, Hibernation, Lifecycle, NodeGroup, NodeNaming};

/// A group of a thousand Spot nodes, launched in batches into two subnets. Tests change what they are about.
#[must_use]
pub fn group(name: &str) -> NodeGroup {
    NodeGroup {
        partition: "p".into(),
        name: name.into(),
        max_nodes: 1_000,
        account: Account { region: "eu-west-1".into(), profile: None },
        lifecycle: Lifecycle::Spot,
        on_demand_options: OnDemandOptions::default(),
        spot_options: SpotOptions::default(),
        launch_template: LaunchTemplateSpecification::default(),
        overrides: vec![LaunchTemplateOverride {
            instance_type: Some("c5.large".into()),
            ..LaunchTemplateOverride::default()
        }],
        subnet_ids: vec!["subnet-a".into(), "subnet-b".into()],
        tags: [("Team".to_owned(), "hpc".to_owned()), ("Host".to_owned(), "{hostname}".to_owned())]
            .into_iter()
            .collect(),
        slurm_specifications: indexmap::IndexMap::new(),
        naming: NodeNaming::LaunchIndex,
        scope: FleetScope::Launch,
        all_or_nothing: false,
        spot_fallback_s: None,
        node_weights: None,
        hibernation: Hibernation::default(),
    }
}
