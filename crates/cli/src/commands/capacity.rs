// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet capacity`.

use crate::commands::status;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::{Output, Style, Table};
use crate::when::{clock, duration};
use ec2fleet_core::report::{CapacityReport, PoolReport, SCHEMA_VERSION};

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
