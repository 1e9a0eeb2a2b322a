// SPDX-License-Identifier: GPL-3.0-or-later
//! Tag keys and templated tag values.
//!
//! Keys have no slash: instance metadata does not show tags whose keys hold one (EC2 user guide, "View tags for
//! your EC2 instances using instance metadata").

use std::collections::BTreeMap;

use super::site::{NodeGroup, Site};

/// An instance is ours only by this tag: its value is the cluster's name.
pub const CLUSTER: &str = "ec2fleet:cluster";
pub const PARTITION: &str = "ec2fleet:partition";
pub const GROUP: &str = "ec2fleet:group";
/// The client token of the CreateFleet call.
pub const LAUNCH: &str = "ec2fleet:launch";
/// Hostlist of the reservation's nodes in ami-launch-index order.
pub const NODES: &str = "ec2fleet:nodes";
/// The node of this instance alone.
pub const NODE: &str = "ec2fleet:node";
/// On volumes and interfaces of a move to on-demand: the node, then [`LEFT_OVER`] or [`MOVED`].
pub const RELOCATION: &str = "ec2fleet:relocation";
pub const LEFT_OVER: &str = "left-over";
pub const MOVED: &str = "done";
/// Digest of what a node group's fleet was made from.
pub const FORM: &str = "ec2fleet:form";
pub const NAME: &str = "Name";

/// EC2's own tag on instances of maintain fleets (EC2 user guide, "Tag an EC2 Fleet").
pub const FLEET_ID: &str = "aws:ec2:fleet-id";

/// What a configured tag value may hold, to be filled for each node.
pub const PLACEHOLDERS: [&str; 3] = ["{ip_address}", "{node_name}", "{hostname}"];

/// Whether a configured tag value is different for each node.
#[must_use]
pub fn has_placeholder(value: &str) -> bool {
    PLACEHOLDERS.iter().any(|placeholder| value.contains(placeholder))
}

/// Tags that an instance or fleet has from its birth.
#[must_use]
pub fn at_birth(site: &Site, group: &NodeGroup, launch: &str) -> BTreeMap<String, String> {
    let mut tags: BTreeMap<String, String> = group
        .tags
        .iter()
        .filter(|(_, value)| !has_placeholder(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    tags.insert(CLUSTER.into(), site.cluster.clone());
    tags.insert(PARTITION.into(), group.partition.clone());
    tags.insert(GROUP.into(), group.name.clone());
    tags.insert(LAUNCH.into(), launch.into());
    tags
}

/// The value for one node.
#[must_use]
pub fn fill(value: &str, node: &str, addr: &str, hostname: &str) -> String {
    value.replace("{ip_address}", addr).replace("{node_name}", node).replace("{hostname}", hostname)
}
