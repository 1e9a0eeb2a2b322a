// SPDX-License-Identifier: GPL-3.0-or-later
//! What went wrong with a command: its kind, its cause and what can be done.

use schemars::JsonSchema;
use serde::Serialize;

use crate::client::ClientError;
use ec2fleet_control::protocol::RefusalKind;
use ec2fleet_core::hostlist::HostlistError;
use ec2fleet_core::report::SCHEMA_VERSION;
use ec2fleet_core::slurm_api::SlurmError;

/// Exit codes of every command; the manual lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Success = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The plugin (or what else is needed) does not answer.
    NotRunning = 3,
    /// The caller may not do this.
    NotPermitted = 4,
    /// The configuration has errors, or a check found one.
    Errors = 5,
    /// A check found only warnings.
    Warnings = 6,
}

/// Kinds of errors, with an exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    Failed,
    Usage,
    NotRunning,
    NotPermitted,
    Configuration,
    NotFound,
    /// What was asked for is not possible now.
    Conflict,
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CliError {
    pub kind: ErrorKind,
    pub message: String,
    /// From the outermost to the innermost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl CliError {
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None }
    }

    #[must_use]
    pub fn cause(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint: &String| !hint.is_empty());
        self
    }

    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.kind {
            ErrorKind::Failed | ErrorKind::NotFound | ErrorKind::Conflict => Exit::Failed,
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::NotRunning => Exit::NotRunning,
            ErrorKind::NotPermitted => Exit::NotPermitted,
            ErrorKind::Configuration => Exit::Errors,
        }
    }

    /// As it is printed with `--json`.
    #[must_use]
    pub fn report(self) -> ErrorReport {
        ErrorReport { schema: SCHEMA_VERSION, error: self }
    }
}

/// What a failed command prints with `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ErrorReport {
    pub schema: u32,
    pub error: CliError,
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning { path, error } => {
                Self::new(ErrorKind::NotRunning, "The plugin does not answer.")
                    .cause(format!("{}: {error}", path.display()))
                    .hint(
                        "Is slurmctld up, with JobSubmitPlugins=ec2_fleet in slurm.conf? `ec2fleet doctor` looks further. \
                         If the socket is elsewhere, give --config-dir or --socket.",
                    )
            }
            ClientError::Denied { path, error } => {
                Self::new(ErrorKind::NotPermitted, "You may not talk to the plugin.")
                    .cause(format!("{}: {error}", path.display()))
                    .hint("Run the command as root or as SlurmUser.")
            }
            ClientError::Timeout { path, timeout } => {
                Self::new(ErrorKind::NotRunning, format!("The plugin did not answer within {} s.", timeout.as_secs_f32()))
                    .cause(path.display())
                    .hint("Its log (LogFileName in config.json) says what it is doing.")
            }
            ClientError::Broken { path, error } => {
                Self::new(ErrorKind::Failed, "The connection to the plugin broke before it answered.")
                    .cause(format!("{}: {error}", path.display()))
                    .hint("slurmctld may have been restarted: try again.")
            }
            ClientError::NotUnderstood { message, .. } => {
                Self::new(ErrorKind::Failed, "The plugin's answer is not understood.")
                    .cause(message)
                    .hint("Install programs and plugin of the same release and restart slurmctld.")
            }
            ClientError::Refused(refusal) => {
                let kind = match refusal.kind {
                    RefusalKind::NotPermitted => ErrorKind::NotPermitted,
                    RefusalKind::NotFound => ErrorKind::NotFound,
                    RefusalKind::Timeout => ErrorKind::NotRunning,
                    _ => ErrorKind::Failed,
                };
                Self::new(kind, refusal.message).hint(refusal.hint)
            }
        }
    }
}

impl From<SlurmError> for CliError {
    fn from(error: SlurmError) -> Self {
        let kind = match error {
            SlurmError::Unreachable { .. } => ErrorKind::NotRunning,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, "Slurm could not be asked.").cause(error)
    }
}

impl From<HostlistError> for CliError {
    fn from(error: HostlistError) -> Self {
        Self::new(ErrorKind::Usage, "The list of nodes is not understood.")
            .cause(error)
            .hint("Write nodes as Slurm does: aws-spot-[0-3,7].")
    }
}

/// Output that nobody reads any more ends a command quietly (`ec2fleet events | head`).
impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Failed, "The output could not be written.").cause(error)
    }
}
