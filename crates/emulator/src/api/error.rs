// SPDX-License-Identifier: GPL-3.0-or-later
//! The errors that EC2 answers with.

use std::borrow::Cow;

/// An EC2 error: its code, HTTP status and message ("Error codes for the Amazon EC2 API").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub code: Cow<'static, str>,
    pub status: u16,
    pub message: String,
}

impl ApiError {
    /// A client error, HTTP 400.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let code = code.into();
        let status = default_status(&code);
        Self { code, status, message: message.into() }
    }

    pub fn invalid_value(parameter: &str, value: &str, why: &str) -> Self {
        Self::new(
            "InvalidParameterValue",
            format!("Value ({value}) for parameter {parameter} is invalid. {why}"),
        )
    }

    pub fn missing(parameter: &str) -> Self {
        Self::new("MissingParameter", format!("The request must contain the parameter {parameter}"))
    }

    pub fn combination(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterCombination", message)
    }

    pub fn instance_not_found(ids: &[&str]) -> Self {
        Self::new("InvalidInstanceID.NotFound", absent("instance", ids))
    }

    pub fn dry_run() -> Self {
        Self::new("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    }
}

/// "The instance ID 'i-1' does not exist", and its plural.
pub fn absent(noun: &str, ids: &[&str]) -> String {
    if ids.len() == 1 {
        format!("The {noun} ID '{}' does not exist", ids[0])
    } else {
        format!("The {noun} IDs '{}' do not exist", ids.join(", "))
    }
}

/// The HTTP status that EC2 sends with a code when nothing else says so.
pub fn default_status(code: &str) -> u16 {
    match code {
        "DryRunOperation" => 412,
        "UnauthorizedOperation" => 403,
        "AuthFailure" => 401,
        "RequestLimitExceeded" | "Unavailable" | "ServiceUnavailable" => 503,
        "InternalError"
        | "InternalFailure"
        | "InsufficientInstanceCapacity"
        | "InsufficientCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientAddressCapacity"
        | "InsufficientCapacityOnHost"
        | "InsufficientVolumeCapacity" => 500,
        _ => 400,
    }
}
