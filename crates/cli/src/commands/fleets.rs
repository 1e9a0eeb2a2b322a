// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet fleets`: the maintain fleets of this cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use indexmap::IndexMap;

use crate::args::{Confirm, FleetsAction};
use crate::commands::{nodes, operate};
use crate::context::Context;
use crate::error::{CliError, ErrorKind, Exit};
use crate::online;
use crate::output::{Output, Style, Table};
use crate::survey::ask;
use ec2fleet_config::slurm_conf::{NotedFleet, noted_fleets};
use ec2fleet_control::protocol::{Operation, Reply};
use ec2fleet_core::ec2_api::{CloudReply, CloudRequest};
use ec2fleet_core::hostlist;
use ec2fleet_core::report::{
    FleetReport, FleetsReport, NodeReport, PlanReport, PlannedAction, SCHEMA_VERSION,
};
use ec2fleet_core::site::{Account, FleetScope, Site};
use ec2fleet_core::tag;
use ec2fleet_ec2::Cloud;
use ec2fleet_ec2::sdk::Ec2;

/// # Errors
/// When neither the plugin nor Slurm and the journal can be asked, or a fleet is not known.
pub fn run(context: &Context, action: Option<&FleetsAction>, out: &mut Output) -> Result<Exit, CliError> {
    match action {
        None | Some(FleetsAction::List) => list(context, out),
        Some(FleetsAction::Show { fleet }) => show(context, fleet, out),
        Some(FleetsAction::Delete { fleets, confirm }) => {
            operate::run(context, Operation::DeleteFleets { fleet_ids: fleets.clone() }, confirm, out)
        }
        Some(FleetsAction::Import { file, confirm }) => import(context, file, confirm, out),
    }
}

/// From the plugin; where it does not run, from Slurm and the journal (and then `true`).
fn report(context: &Context) -> Result<(FleetsReport, bool), CliError> {
    match context.client().ask(Operation::Fleets) {
        Ok(Reply::Fleets(report)) => Ok((report, false)),
        Ok(other) => Err(crate::unexpected(&other)),
        Err(error) => {
            let error = CliError::from(error);
            if !matches!(error.kind, ErrorKind::NotRunning | ErrorKind::NotPermitted) {
                return Err(error);
            }
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
                phases: nodes
                    .iter()
                    .map(|node| node.phase.clone())
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                ..FleetReport::default()
            });
            Ok((FleetsReport { schema: SCHEMA_VERSION, fleets: fleets.collect() }, offline.is_some()))
        }
    }
}

fn list(context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let (report, offline) = report(context)?;
    if out.json {
        out.json(&report)?;
    } else if report.fleets.is_empty() {
        out.line(
            "There is no maintain fleet. Instant fleets are forgotten by EC2 as soon as they have launched.",
        )?;
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

fn show(context: &Context, id: &str, out: &mut Output) -> Result<Exit, CliError> {
    let (mut report, offline) = report(context)?;
    report.fleets.retain(|fleet| fleet.fleet_id == id);
    let Some(fleet) = report.fleets.first() else {
        return Err(CliError::new(
            ErrorKind::NotFound,
            format!("{id} is no maintain fleet of this cluster."),
        )
        .hint("`ec2fleet fleets` lists them."));
    };
    if out.json {
        out.json(fleet)?;
    } else {
        let target = |target: Option<u32>| target.map(|target| target.to_string());
        let scope = match fleet.scope {
            FleetScope::Node => "node: its fleet and its instance are one",
            FleetScope::Launch | FleetScope::Group if fleet.takes_no_nodes => {
                "group: takes no new nodes and goes with its last one"
            }
            FleetScope::Launch | FleetScope::Group => "group",
        };
        let lines = [
            ("Fleet", Some(fleet.fleet_id.clone())),
            ("Group", Some(fleet.group.clone())),
            ("Region", Some(fleet.region.clone())),
            ("Scope", Some(scope.to_owned())),
            ("Spot target", target(fleet.spot_target)),
            ("On-demand target", target(fleet.on_demand_target)),
            ("Nodes", Some(fleet.nodes.clone())),
            ("Phases", Some(fleet.phases.join(","))),
            ("Instances", Some(fleet.instances.join(","))),
        ];
        for (name, value) in lines {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                out.line(format!("{name:<17} {value}"))?;
            }
        }
    }
    Ok(if offline { Exit::NotRunning } else { Exit::Success })
}

/// A fleet that the plugin shall take over, with its instances.
struct Import {
    account: Account,
    noted: NotedFleet,
    instances: Vec<String>,
}

/// Fleets that another plugin noted in its slurm.conf.aws get the tags by which this one finds its own.
fn import(context: &Context, file: &Path, confirm: &Confirm, out: &mut Output) -> Result<Exit, CliError> {
    let loaded = context.require_config()?;
    let text = std::fs::read_to_string(file).map_err(|error| {
        CliError::new(ErrorKind::Usage, format!("{} cannot be read.", file.display())).cause(error)
    })?;
    let ec2 = online::ec2(loaded);
    let mut plan = PlanReport { schema: SCHEMA_VERSION, dry_run: confirm.dry_run, ..PlanReport::default() };
    let mut imports = Vec::new();
    for noted in noted_fleets(&text) {
        let subject = noted.fleet_id.clone();
        let planned = |why: String| PlannedAction { action: "import-fleet".into(), subject, why };
        match online::block_on(look_at(&ec2, &loaded.site, noted))? {
            Ok(import) => {
                plan.actions.push(planned(format!(
                    "it becomes the fleet of {}-{}, with {} instances",
                    import.noted.partition,
                    import.noted.group,
                    import.instances.len()
                )));
                imports.push(import);
            }
            Err(why) => plan.refused.push(planned(why)),
        }
    }
    if plan.actions.is_empty() || confirm.dry_run {
        let nothing = plan.actions.is_empty() && !confirm.dry_run;
        operate::show_plan(&plan, out)?;
        return Ok(if nothing && !plan.refused.is_empty() { Exit::Failed } else { Exit::Success });
    }
    if !confirm.yes {
        if !out.json {
            operate::show_plan(&plan, out)?;
        }
        if !operate::agreed("import-fleets", None, out)? {
            return Err(CliError::new(ErrorKind::Conflict, "Nothing was done."));
        }
    }
    for import in &imports {
        online::block_on(tag_it(&ec2, &loaded.site, import))??;
    }
    operate::show_plan(&plan, out)?;
    Ok(Exit::Success)
}

async fn look_at(ec2: &Ec2, site: &Site, noted: NotedFleet) -> Result<Import, String> {
    let stem = format!("{}-{}", noted.partition, noted.group);
    let Some(group) = site.group(&stem) else {
        return Err(format!("{stem} is not a node group of partitions.json"));
    };
    if group.scope != FleetScope::Group {
        return Err(format!("FleetScope of {stem} is not group, so it keeps no fleet for all of its nodes"));
    }
    let account = group.account.clone();
    let request = CloudRequest::DescribeFleetInstances { fleet_ids: vec![noted.fleet_id.clone()] };
    match ask(|| ec2.call(account.clone(), request.clone())).await {
        Ok(CloudReply::Instances(instances)) => {
            let instances = instances.into_iter().map(|instance| instance.id).collect();
            Ok(Import { account, noted, instances })
        }
        Ok(other) => Err(format!("EC2's answer does not fit the question: {other:?}")),
        Err(error) => Err(format!("its instances cannot be listed: {error}")),
    }
}

async fn tag_it(ec2: &Ec2, site: &Site, import: &Import) -> Result<(), CliError> {
    let tags = BTreeMap::from([
        (tag::CLUSTER.to_owned(), site.cluster.clone()),
        (tag::PARTITION.to_owned(), import.noted.partition.clone()),
        (tag::GROUP.to_owned(), import.noted.group.clone()),
    ]);
    // The instances first: a fleet that is found before them would look empty.
    for ids in [import.instances.as_slice(), std::slice::from_ref(&import.noted.fleet_id)] {
        if ids.is_empty() {
            continue;
        }
        let request = CloudRequest::CreateTags { ids: ids.to_vec(), tags: tags.clone() };
        ask(|| ec2.call(import.account.clone(), request.clone())).await.map_err(|error| {
            let message = format!("{} cannot be tagged.", import.noted.fleet_id);
            CliError::new(ErrorKind::Failed, message).cause(error)
        })?;
    }
    Ok(())
}
