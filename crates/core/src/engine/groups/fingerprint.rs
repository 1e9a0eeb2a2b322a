// SPDX-License-Identifier: GPL-3.0-or-later
//! What a node group's fleet is made from, and the digests by which a change of it is found.

use std::collections::BTreeMap;

use crate::ec2_api::{CreateFleet, FleetTemplate, FleetType};
use crate::engine::ground::pools::pools;
use crate::site::{NodeGroup, Site};
use crate::tag;

/// Digests of what a fleet is made from.
pub(crate) struct Form {
    /// What ModifyFleet can change (`LaunchTemplateConfigs`).
    pub(crate) template: String,
    /// What only another fleet can have (`SpotOptions`, `OnDemandOptions`).
    pub(crate) options: String,
}

pub(crate) fn form_of(request: &CreateFleet) -> Form {
    let template = FleetTemplate {
        launch_template: request.launch_template.clone(),
        overrides: request.overrides.clone(),
    };
    Form {
        template: digest(&template),
        options: digest(&(&request.spot_options, &request.on_demand_options)),
    }
}

pub(crate) fn template_of(site: &Site, group: &NodeGroup) -> FleetTemplate {
    let CreateFleet { launch_template, overrides, .. } = group_fleet_request(site, group, "");
    FleetTemplate { launch_template, overrides }
}

/// FNV-1a, 64 bits, of the value as JSON: the same in every release.
pub(crate) fn digest(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Made empty: a target above zero is always set by ModifyFleet, so that creating it twice costs nothing.
pub(crate) fn group_fleet_request(site: &Site, group: &NodeGroup, token: &str) -> CreateFleet {
    let mut request = CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Maintain,
        target: 0,
        lifecycle: group.lifecycle,
        on_demand_options: group.on_demand_options.clone(),
        spot_options: group.spot_options.clone(),
        launch_template: group.launch_template.clone(),
        overrides: pools(group, group.lifecycle, &[]),
        fleet_tags: tag::at_birth(site, group, token),
        instance_tags: BTreeMap::new(),
    };
    let form = form_of(&request);
    request.fleet_tags.insert(tag::FORM.into(), format!("{}-{}", form.template, form.options));
    request
}
