// SPDX-License-Identifier: GPL-3.0-or-later
//! The plugin's life inside slurmctld: start, watch, act, stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::clock::Clock;
use super::host::{self, HostLink};
use super::supervise;
use ec2fleet_core::restarts::{Inactive, Next, Restarts};
use ec2fleet_slurm::controller::{Controller, HostLogLevel};

/// What the shim knows about the slurmctld that loaded it.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// slurm.conf of this slurmctld, if known.
    pub slurm_conf: Option<PathBuf>,
    /// Folder of config.json and partitions.json; `None`: next to slurm.conf.
    pub config_dir: Option<PathBuf>,
    /// `SLURM_VERSION_NUMBER` that the shim was built for.
    pub slurm_version: u32,
}

/// Worker threads of the runtime: one for the engine, one for everything that waits.
const WORKERS: usize = 2;

/// How often a host thread that starts again looks whether the engine has ended.
const ENGINE_POLL: Duration = Duration::from_millis(25);

/// A running plugin; dropping it without [`Plugin::stop`] asks it to stop and waits for nothing.
pub struct Plugin {
    host: HostLink,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Plugin {
    /// Start the host thread, which makes the controller and alone uses it, and the runtime. Never blocks.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start<F>(make_controller: F, options: PluginOptions) -> std::io::Result<Self>
    where
        F: FnOnce() -> Box<dyn Controller> + Send + 'static,
    {
        let (host, commands) = HostLink::new();
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::clone(&host.shared);
        let mut plugin = Self { host: host.clone(), stop, threads: Vec::new() };
        plugin.threads.push(thread("ec2fleet-host", move || {
            let mut controller = make_controller();
            let (clock, mut restarts) = (Clock::default(), Restarts::default());
            while catch_unwind(AssertUnwindSafe(|| host::run(controller.as_mut(), &commands, &shared))).is_err() {
                // The engine waits for answers that are lost: it has to start anew, too.
                shared.primary.store(false, Ordering::SeqCst);
                if restarts.step(clock.now().mono_ms, Inactive::Panicked) == Next::StayPassive {
                    controller.log(
                        HostLogLevel::Error,
                        "passive: a defect stopped the thread that watches slurmctld; the programs take over. Restart \
                         slurmctld to load the plugin anew",
                    );
                    break;
                }
                controller.log(
                    HostLogLevel::Error,
                    "a defect ended the thread that watches slurmctld; it starts again when the engine has ended",
                );
                while shared.watched() && !shared.stopping() {
                    std::thread::sleep(ENGINE_POLL);
                }
            }
            // Without this thread nothing is seen and nothing can be told: the runtime must not act on.
            shared.primary.store(false, Ordering::SeqCst);
        })?);
        plugin.threads.push(thread("ec2fleet", move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(WORKERS)
                .max_blocking_threads(4)
                .thread_name("ec2fleet-io")
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(supervise::run(options, host.clone(), stopped));
                    runtime.shutdown_timeout(Duration::from_secs(2));
                }
                Err(error) => host.log(HostLogLevel::Error, format!("passive: no runtime: {error}")),
            }
            supervise::end_log();
        })?);
        Ok(plugin)
    }

    /// End every thread; true if all had ended within `timeout`.
    #[must_use]
    pub fn stop(mut self, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let _ = self.stop.send(true);
        let mut threads = std::mem::take(&mut self.threads);
        // The runtime first: what it is still telling slurmctld goes through the host thread.
        threads.reverse();
        for thread in threads {
            while !thread.is_finished() {
                if Instant::now() >= until {
                    self.host.shared.stop.store(true, Ordering::SeqCst);
                    return false;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let _ = thread.join();
            self.host.shared.stop.store(true, Ordering::SeqCst);
        }
        true
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if !self.threads.is_empty() {
            self.host.shared.stop.store(true, Ordering::SeqCst);
        }
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}
