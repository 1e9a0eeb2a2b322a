// SPDX-License-Identifier: GPL-3.0-or-later
//! CreateFleet: for nodes that wait together, and for single nodes.

mod create_fleet;
mod instant;
mod node_fleet;

use std::sync::Arc;

use crate::site::NodeGroup;

/// Nodes for which Spot had nothing, and which may have on-demand instances.
#[derive(Debug)]
pub(crate) struct FallBack {
    pub(crate) group: Arc<NodeGroup>,
    pub(crate) nodes: Vec<String>,
}

/// Who launches: instances for nodes that wait together, and fleets of single nodes.
#[derive(Debug)]
pub(crate) struct Launching;
