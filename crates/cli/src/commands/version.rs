// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet version`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::Output;
use ec2fleet_control::protocol::{Operation, PROTOCOL, Reply};
use ec2fleet_core::report::SCHEMA_VERSION;

/// Releases of what works together.
#[derive(Serialize, JsonSchema)]
pub struct VersionReport {
    schema: u32,
    /// Of this program.
    program: &'static str,
    /// Of the socket's protocol.
    protocol: u32,
    /// `null` if no plugin answers.
    plugin: Option<String>,
    /// `null` if Slurm's commands are not found.
    slurm: Option<String>,
}

/// # Errors
/// When nobody reads the output any more.
pub fn run(context: &Context, out: &mut Output) -> Result<Exit, CliError> {
    let plugin = match context.client().ask(Operation::Ping) {
        Ok(Reply::Pong { version }) => Ok(version),
        Ok(other) => Err(crate::unexpected(&other).message),
        Err(error) => Err(error.to_string()),
    };
    let slurm = context.slurm().release_text();
    if out.json {
        out.json(&VersionReport {
            schema: SCHEMA_VERSION,
            program: env!("CARGO_PKG_VERSION"),
            protocol: PROTOCOL,
            plugin: plugin.ok(),
            slurm: slurm.ok(),
        })?;
        return Ok(Exit::Success);
    }
    out.line(format!("ec2fleet {} (protocol {PROTOCOL})", env!("CARGO_PKG_VERSION")))?;
    match plugin {
        Ok(version) => out.line(format!("plugin {version}"))?,
        Err(error) => out.line(format!("plugin: {error}"))?,
    }
    match slurm {
        Ok(release) => out.line(format!("Slurm {release}"))?,
        Err(error) => out.line(format!("Slurm: {error}"))?,
    }
    Ok(Exit::Success)
}
