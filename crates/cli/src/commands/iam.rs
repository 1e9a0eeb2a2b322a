// SPDX-License-Identifier: GPL-3.0-or-later
//! `ec2fleet iam-policy`: the least IAM policy for a configuration.

use crate::args;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::output::Output;
use ec2fleet_config::{IamPolicyOptions, iam_policy};

/// # Errors
/// When the configuration has errors.
pub fn run(context: &Context, args: &args::IamPolicy, out: &mut Output) -> Result<Exit, CliError> {
    let loaded = context.require_config()?;
    let options = IamPolicyOptions {
        tool: !args.no_tool,
        kms_keys: args.kms_keys.clone(),
        image_parameters: args.image_parameters.clone(),
    };
    out.json(&iam_policy(&loaded.site, &options))?;
    Ok(Exit::Success)
}
