// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet fleets`, `capacity` and `cost`.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

use super::args::{self, CostBy};
use super::context::Context;
use super::error::{CliError, ErrorKind, Exit};
use super::online;
use super::output::{Output, Style, Table};
use super::survey::ask;
use super::when::{clock, duration, now_unix_ms};
use super::{nodes, status};
use crate::cloud::catalog::Catalog;
use crate::core::hostlist;
use crate::core::report::{
    CapacityReport, CostReport, CostRow, FleetReport, FleetsReport, NodeReport, PoolReport, SCHEMA_VERSION,
};
use crate::core::site::{Account, Lifecycle};

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

/// US dollars an hour.
#[derive(Default)]
struct Prices {
    /// By type and zone.
    spot: BTreeMap<(String, String), f64>,
    /// By type.
    on_demand: BTreeMap<String, f64>,
}

impl Prices {
    fn spot(&self, node: &NodeReport) -> Option<f64> {
        let key = (node.instance_type.clone()?, node.zone.clone()?);
        self.spot.get(&key).copied()
    }

    fn on_demand(&self, node: &NodeReport) -> Option<f64> {
        self.on_demand.get(node.instance_type.as_ref()?).copied()
    }
}

/// # Errors
/// When the nodes or the prices cannot be had.
pub fn cost(context: &Context, args: &args::Cost, out: &mut Output) -> Result<Exit, CliError> {
    let loaded = context.require_config()?;
    let (report, offline) = nodes::report(context, None)?;
    let nodes: Vec<NodeReport> = report.nodes.into_iter().filter(|node| node.instance_id.is_some()).collect();
    let mut prices = Prices::default();
    if let Some(path) = &args.prices {
        prices.on_demand = read_prices(path)?;
    }
    let mut wanted: BTreeMap<Account, BTreeSet<String>> = BTreeMap::new();
    for node in nodes.iter().filter(|node| node.lifecycle == Some(Lifecycle::Spot)) {
        if let (Some((group, _)), Some(name)) = (loaded.site.locate(&node.name), &node.instance_type) {
            wanted.entry(group.account.clone()).or_default().insert(name.clone());
        }
    }
    let ec2 = online::ec2(loaded);
    for (account, names) in wanted {
        let names: Vec<String> = names.into_iter().collect();
        let answer = online::block_on(ask(|| ec2.spot_prices(account.clone(), names.clone())))?;
        let answer = answer.map_err(|error| {
            CliError::new(ErrorKind::Failed, format!("The Spot prices of {account} cannot be had."))
                .cause(error)
        })?;
        prices.spot.extend(answer.into_iter().map(|price| ((price.instance_type, price.zone), price.price)));
    }
    let jobs = match args.by {
        CostBy::Job => Some(jobs_by_node(context)?),
        _ => None,
    };
    let report = add_up(&nodes, &prices, args.by, jobs.as_ref());
    if out.json {
        out.json(&report)?;
    } else {
        print_cost(&report, args.by, out)?;
    }
    Ok(if offline { Exit::NotRunning } else { Exit::Success })
}

/// Names of the running jobs of each node.
fn jobs_by_node(context: &Context) -> Result<BTreeMap<String, Vec<String>>, CliError> {
    let mut jobs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, nodes) in context.slurm().running_jobs()? {
        for node in hostlist::expand(&nodes)? {
            jobs.entry(node).or_default().push(format!("job {id}"));
        }
    }
    Ok(jobs)
}

fn read_prices(path: &std::path::Path) -> Result<BTreeMap<String, f64>, CliError> {
    let failed = |error: String| {
        CliError::new(ErrorKind::Usage, format!("The prices in {} cannot be read.", path.display()))
            .cause(error)
            .hint("It is a JSON object of instance types and US dollars an hour: {\"c5.large\": 0.085}.")
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
}

fn add_up(
    nodes: &[NodeReport],
    prices: &Prices,
    by: CostBy,
    jobs: Option<&BTreeMap<String, Vec<String>>>,
) -> CostReport {
    let mut rows: BTreeMap<String, CostRow> = BTreeMap::new();
    let mut total = CostRow { name: "total".into(), ..CostRow::default() };
    let mut unpriced: BTreeSet<String> = BTreeSet::new();
    for node in nodes {
        let spot = node.lifecycle == Some(Lifecycle::Spot);
        let price = if spot { prices.spot(node) } else { prices.on_demand(node) };
        if price.is_none() {
            let lifecycle = if spot { "spot" } else { "on-demand" };
            unpriced
                .insert(format!("{} ({lifecycle})", node.instance_type.as_deref().unwrap_or("unknown type")));
        }
        let saved = match (spot, price, prices.on_demand(node)) {
            (true, Some(spot), Some(on_demand)) => (on_demand - spot).max(0.0),
            _ => 0.0,
        };
        let names = match by {
            CostBy::Partition => vec![node.partition.clone()],
            CostBy::Group => vec![format!("{}-{}", node.partition, node.group)],
            CostBy::Type => vec![node.instance_type.clone().unwrap_or_else(|| "unknown type".into())],
            CostBy::Job => {
                let jobs = jobs.and_then(|jobs| jobs.get(&node.name)).cloned().unwrap_or_default();
                if jobs.is_empty() { vec!["no job".into()] } else { jobs }
            }
        };
        // Jobs that share a node share its price in equal parts.
        #[expect(clippy::cast_precision_loss)]
        let part = 1.0 / names.len() as f64;
        for name in names {
            let row = rows.entry(name.clone()).or_insert_with(|| CostRow { name, ..CostRow::default() });
            add(row, spot, price, saved, part);
        }
        add(&mut total, spot, price, saved, 1.0);
    }
    CostReport {
        schema: SCHEMA_VERSION,
        now_unix_ms: now_unix_ms(),
        rows: rows.into_values().collect(),
        total,
        unpriced: unpriced.into_iter().collect(),
    }
}

fn add(row: &mut CostRow, spot: bool, price: Option<f64>, saved: f64, part: f64) {
    if spot {
        row.spot_instances += part;
    } else {
        row.on_demand_instances += part;
    }
    row.usd_per_hour += part * price.unwrap_or(0.0);
    row.saved_usd_per_hour += part * saved;
}

fn print_cost(report: &CostReport, by: CostBy, out: &mut Output) -> Result<(), CliError> {
    let first = match by {
        CostBy::Partition => "PARTITION",
        CostBy::Group => "GROUP",
        CostBy::Type => "TYPE",
        CostBy::Job => "JOB",
    };
    let mut table = Table::new(&[first, "SPOT>", "ON-DEMAND>", "$/H>", "SAVED $/H>"]);
    let number = |value: f64| {
        if (value - value.round()).abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.2}") }
    };
    for row in report.rows.iter().chain([&report.total]) {
        let style = if row.name == "total" { Style::Strong } else { Style::Plain };
        table.row(
            style,
            [
                row.name.clone(),
                number(row.spot_instances),
                number(row.on_demand_instances),
                format!("{:.4}", row.usd_per_hour),
                format!("{:.4}", row.saved_usd_per_hour),
            ],
        );
    }
    out.table(&table)?;
    if !report.unpriced.is_empty() {
        out.line("")?;
        let types = report.unpriced.join(", ");
        out.styled(
            Style::Warning,
            format!("Without a price, and counted as free: {types}. --prices names on-demand prices."),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, kind: &str, lifecycle: Lifecycle) -> NodeReport {
        NodeReport {
            name: name.into(),
            partition: "aws".into(),
            group: "a".into(),
            instance_id: Some("i-1".into()),
            instance_type: Some(kind.into()),
            zone: Some("z1".into()),
            lifecycle: Some(lifecycle),
            ..NodeReport::default()
        }
    }

    #[test]
    fn prices_are_added_up_and_shared_by_jobs() {
        let prices = Prices {
            spot: [(("c5.large".into(), "z1".into()), 0.03)].into(),
            on_demand: [("c5.large".into(), 0.10)].into(),
        };
        let nodes = [
            node("n0", "c5.large", Lifecycle::Spot),
            node("n1", "c5.large", Lifecycle::OnDemand),
            node("n2", "m5.large", Lifecycle::Spot),
        ];
        let report = add_up(&nodes, &prices, CostBy::Type, None);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(
            close(report.total.usd_per_hour, 0.13) && close(report.total.saved_usd_per_hour, 0.07),
            "{report:?}"
        );
        assert_eq!(report.unpriced, ["m5.large (spot)"]);
        assert_eq!(report.rows.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["c5.large", "m5.large"]);

        let jobs = [("n0".to_owned(), vec!["job 1".to_owned(), "job 2".to_owned()])].into();
        let report = add_up(&nodes, &prices, CostBy::Job, Some(&jobs));
        let row = |name: &str| report.rows.iter().find(|row| row.name == name).expect(name).clone();
        assert!(close(row("job 1").usd_per_hour, 0.015) && close(row("job 2").spot_instances, 0.5));
        assert!(close(row("no job").on_demand_instances, 1.0));
        let sum: f64 = report.rows.iter().map(|row| row.usd_per_hour).sum();
        assert!(close(sum, report.total.usd_per_hour));
    }
}
