// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet schema`.

use schemars::schema_for;
use serde_json::Value;

use crate::args::{self, SchemaOf};
use crate::error::{CliError, Exit};
use crate::output::Output;
use ec2fleet_config::{config_schema, partitions_schema};
use ec2fleet_core::report;

/// # Errors
/// When nobody reads the output any more.
pub fn run(args: &args::Schema, out: &mut Output) -> Result<Exit, CliError> {
    out.json(&schema(args.of))?;
    Ok(Exit::Success)
}

fn schema(of: SchemaOf) -> Value {
    match of {
        SchemaOf::Config => config_schema(),
        SchemaOf::Partitions => partitions_schema(),
        SchemaOf::Status => schema_for!(report::StatusReport).into(),
        SchemaOf::Nodes => schema_for!(report::NodesReport).into(),
        SchemaOf::Events => schema_for!(report::EventsReport).into(),
        SchemaOf::Explain => schema_for!(report::ExplainReport).into(),
        SchemaOf::Plan => schema_for!(report::PlanReport).into(),
        SchemaOf::Fleets => schema_for!(report::FleetsReport).into(),
        SchemaOf::Capacity => schema_for!(report::CapacityReport).into(),
        SchemaOf::Cost => schema_for!(report::CostReport).into(),
        SchemaOf::Doctor => schema_for!(crate::commands::doctor::DoctorReport).into(),
        SchemaOf::Accepted => schema_for!(report::AcceptedReport).into(),
        SchemaOf::Done => schema_for!(report::DoneReport).into(),
        SchemaOf::Error => schema_for!(crate::error::ErrorReport).into(),
        SchemaOf::Event => schema_for!(report::EventReport).into(),
        SchemaOf::Validate => schema_for!(crate::commands::validate::ValidateReport).into(),
        SchemaOf::GenerateConf => schema_for!(crate::commands::generate::Generated).into(),
        SchemaOf::Difference => schema_for!(crate::commands::generate::DifferenceReport).into(),
        SchemaOf::Version => schema_for!(crate::commands::version::VersionReport).into(),
    }
}
