// SPDX-License-Identifier: GPL-3.0-or-later
//! The same engine without a plugin: one pass under the same fence and journal, for the programs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::active::{Active, SlurmPort};
use super::clock::Clock;
use super::setup::{self, SetupError};
use ec2fleet_core::engine::PowerSource;
use ec2fleet_core::event::Event;
use ec2fleet_core::program_pass::{FenceWait, Next, Pass, Seen};
use ec2fleet_journal::fence::Fence;
use ec2fleet_journal::storage::FileStorage;
use ec2fleet_slurm::command::{CommandOptions, CommandSlurm};

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
        let pass = Pass::begin(active.clock.now().mono_ms, configured.loaded.site.settings.resume_timeout_s);
        finish(&mut active, pass, request).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// Take the request in, and what follows from it, until the pass ends.
async fn finish(active: &mut Active<FileStorage>, pass: Pass, request: Event) -> Result<(), StandaloneError> {
    let mut holds = active.give(request, None);
    loop {
        let seen = Seen {
            fence_lost: !holds,
            idle: active.driver.engine.is_idle(),
            journal_refuses: active.journal_error.is_some(),
        };
        holds = match pass.step(active.clock.now().mono_ms, seen) {
            Next::Wait { until_ms } => turn(active, until_ms).await,
            Next::RetryJournal { until_ms } => turn(active, until_ms).await && active.heartbeat(),
            Next::Finished => return Ok(()),
            Next::FenceLost => return Err(StandaloneError::FenceLost),
            Next::GivenUp => return Err(StandaloneError::Unfinished(pass.patience_ms() / 1_000)),
        };
    }
}

/// Wait for the next event or deadline, but not beyond this moment. False if the fence is lost.
async fn turn(active: &mut Active<FileStorage>, until_ms: u64) -> bool {
    let until = active.clock.instant(until_ms);
    // When the time is over nothing was taken in, and nothing is known of the fence.
    tokio::time::timeout_at(until.into(), active.turn()).await.unwrap_or(true)
}

async fn wait_for_fence(state_dir: &Path) -> Result<Fence, StandaloneError> {
    let clock = Clock::default();
    let wait = FenceWait::begin(clock.now().mono_ms);
    loop {
        let refusal = match setup::take_fence(state_dir, "program") {
            Err(refusal @ SetupError::Fenced(_)) => refusal,
            other => return Ok(other?),
        };
        match wait.held(clock.now().mono_ms) {
            Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            None => return Err(refusal.into()),
        }
    }
}
