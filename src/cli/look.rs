// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet fleets` and `capacity`.

use std::collections::BTreeSet;

use indexmap::IndexMap;

use super::context::Context;
use super::error::{CliError, Exit};
use super::output::{Output, Style, Table};
use super::when::{clock, duration};
use super::{nodes, status};
use crate::core::hostlist;
use crate::core::report::{
    CapacityReport, FleetReport, FleetsReport, NodeReport, PoolReport, SCHEMA_VERSION,
};

/// # Errors
/// When neither the plugin nor Slurm and the journal can be asked.
pub fn fleets(context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let (report, offline) = nodes::report(context, None)?;
    let mut found: IndexMap<String, Vec<NodeReport>> = IndexMap::new();
    for node in report.nodes {
        if let Some(id) = node.fleet_id.clone() {
            found.entry(id).or_default().push(node);
        }
    }
    let fleets = found.into_iter().map(|(fleet_id, nodes)| FleetReport {
        fleet_id,
        group: format!("{}-{}", nodes[0].partition, nodes[0].group),
        nodes: hostlist::fold(nodes.iter().map(|node| &node.name)),
        instances: nodes.iter().filter_map(|node| node.instance_id.clone()).collect(),
        phases: nodes.iter().map(|node| node.phase.clone()).collect::<BTreeSet<_>>().into_iter().collect(),
    });
    let report = FleetsReport { schema: SCHEMA_VERSION, fleets: fleets.collect() };
    if out.json {
        out.json(&report)?;
    } else if report.fleets.is_empty() {
        out.line("No maintain fleet holds a node. Instant fleets are forgotten by EC2 as soon as they have launched.")?;
    } else {
        let mut table = Table::new(&["FLEET", "GROUP", "NODELIST", "PHASE", "INSTANCES"]);
        for fleet in &report.fleets {
            let instances = fleet.instances.join(",");
            let phases = fleet.phases.join(",");
            table.row(Style::Plain, [&fleet.fleet_id, &fleet.group, &fleet.nodes, &phases, &instances]);
        }
        out.table(&table)?;
    }
    Ok(if offline { Exit::NotRunning } else { Exit::Success })
}

/// # Errors
/// When the plugin does not answer: only it knows.
pub fn capacity(context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let status = status::from_plugin(context)?;
    let pools = status.groups.iter().flat_map(|group| {
        group.cooldowns.iter().map(|pool| PoolReport { group: group.stem(), pool: pool.clone() })
    });
    let mut report =
        CapacityReport { schema: SCHEMA_VERSION, now_unix_ms: status.now_unix_ms, pools: pools.collect() };
    report.pools.sort_by_key(|pool| pool.pool.until_unix_ms);
    if out.json {
        out.json(&report)?;
    } else if report.pools.is_empty() {
        out.line("No capacity pool is in cool-down.")?;
    } else {
        let mut table =
            Table::new(&["GROUP", "TYPE", "ZONE", "LIFECYCLE", "REFUSALS>", "UNTIL", "LEFT>", "ERROR"]);
        for PoolReport { group, pool } in &report.pools {
            table.row(
                Style::Warning,
                [
                    group.as_str(),
                    &pool.instance_type,
                    &pool.zone,
                    pool.lifecycle.as_str(),
                    &pool.refusals.to_string(),
                    &clock(pool.until_unix_ms),
                    &duration(pool.until_unix_ms.saturating_sub(report.now_unix_ms)),
                    &pool.code,
                ],
            );
        }
        out.table(&table)?;
    }
    Ok(Exit::Success)
}
