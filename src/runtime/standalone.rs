// SPDX-License-Identifier: GPL-3.0-or-later
//! The same engine without a plugin: one pass under the same fence and journal, for the programs.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::active::SlurmPort;
use super::setup::{self, SetupError};
use crate::core::engine::PowerSource;
use crate::core::event::Event;
use crate::journal::fence::Fence;
use crate::slurm::command::{CommandOptions, CommandSlurm};

/// How long a program waits for another one to finish its pass.
const FENCE_PATIENCE: Duration = Duration::from_secs(60);

/// A pass may take this much longer than ResumeTimeout, then it is given up; the next one continues.
const EXTRA: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("no runtime: {0}")]
    Runtime(std::io::Error),
    #[error("another process took the fence in the middle of the pass; it continues what was begun")]
    FenceLost,
    #[error(
        "the pass was not finished within {0} s; the journal knows what is open, and the next pass continues it"
    )]
    Unfinished(u64),
}

/// Do what the request asks for, and everything else that the journal, Slurm and EC2 show to be due.
///
/// # Errors
/// When the configuration, the fence, the journal or the time forbids it.
pub fn run(config_dir: Option<&Path>, slurm_conf: &Path, request: Event) -> Result<(), StandaloneError> {
    let configured = setup::configure(config_dir, Some(slurm_conf))?;
    setup::start_log(&configured, false, None);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(StandaloneError::Runtime)?;
    let result = runtime.block_on(async {
        let fence = wait_for_fence(&configured.state_dir).await?;
        let slurm = CommandSlurm::new(CommandOptions {
            bin_dir: configured.loaded.program.slurm_bin_path.clone(),
            slurm_conf: Some(slurm_conf.to_owned()),
            ..CommandOptions::default()
        });
        let mut active =
            setup::activate(&configured, fence, PowerSource::Requests, SlurmPort::Commands(Arc::new(slurm)))?;
        let patience = Duration::from_secs(configured.loaded.site.settings.resume_timeout_s.into()) + EXTRA;
        let until = Instant::now() + patience;
        if !active.give(request, None) {
            return Err(StandaloneError::FenceLost);
        }
        while !active.driver.engine.is_idle() {
            let turn = tokio::time::timeout_at(until.into(), active.turn()).await;
            match turn {
                Ok(true) => {}
                Ok(false) => return Err(StandaloneError::FenceLost),
                Err(_) => return Err(StandaloneError::Unfinished(patience.as_secs())),
            }
            if active.journal_error.is_some() {
                tokio::time::sleep(super::active::HEARTBEAT).await;
                active.heartbeat();
            }
        }
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

async fn wait_for_fence(state_dir: &Path) -> Result<Fence, StandaloneError> {
    let until = Instant::now() + FENCE_PATIENCE;
    loop {
        match setup::take_fence(state_dir, "program") {
            Err(SetupError::Fenced(_)) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            other => return Ok(other?),
        }
    }
}
