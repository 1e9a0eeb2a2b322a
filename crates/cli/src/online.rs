// SPDX-License-Identifier: GPL-3.0-or-later
//! Commands that ask EC2 themselves.

use std::future::Future;
use std::io::{IsTerminal, Write};

use crate::context::Context;
use crate::error::{CliError, ErrorKind};
use crate::output::Output;
use crate::survey::{self, Survey};
use ec2fleet_config::Loaded;
use ec2fleet_ec2::sdk::Ec2;
use ec2fleet_runtime::setup;

/// EC2 as config.json says.
#[must_use]
pub fn ec2(loaded: &Loaded) -> Ec2 {
    let mut options = setup::ec2_options(&loaded.program);
    // What answers for EC2 on this machine is no Amazon, and Amazon must not be asked for the rest.
    let here = ["127.", "localhost", "[::1]"];
    options.sts_endpoint_url = options.endpoint_url.clone().filter(|url| {
        let host = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        here.iter().any(|name| host.starts_with(name))
    });
    Ec2::new(options)
}

/// Run a future to its end.
///
/// # Errors
/// When the system refuses a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(ErrorKind::Failed, "The system gives no runtime.").cause(error))?;
    Ok(runtime.block_on(future))
}

/// What EC2 says about every node group.
///
/// # Errors
/// When the system refuses a runtime.
pub fn survey(_context: &Context, loaded: &Loaded, out: &Output) -> Result<Survey, CliError> {
    let ec2 = ec2(loaded);
    let total = loaded.site.groups().len();
    let progress = Progress::new(out);
    let mut done = 0;
    let survey = block_on(survey::take(&ec2, &loaded.site, |group| {
        progress.show(&format!("asking EC2 about {group} ({done}/{total})"));
        done += 1;
    }));
    progress.clear();
    survey
}

/// One line that says what the command waits for; only where people watch.
pub struct Progress {
    visible: bool,
}

impl Progress {
    #[must_use]
    pub fn new(out: &Output) -> Self {
        Self { visible: out.terminal && !out.json && std::io::stderr().is_terminal() }
    }

    pub fn show(&self, text: &str) {
        if self.visible {
            // Nothing depends on it.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text} …");
            let _ = std::io::stderr().flush();
        }
    }

    pub fn clear(&self) {
        if self.visible {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}
