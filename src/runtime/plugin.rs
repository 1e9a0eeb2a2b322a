// SPDX-License-Identifier: GPL-3.0-or-later
//! The plugin's life inside slurmctld: start, watch, act, stop.

use std::path::PathBuf;
use std::time::Duration;

use crate::slurm::controller::{Controller, HostLogLevel};

/// What the shim knows about the slurmctld that loaded it.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// slurm.conf of this slurmctld, if known.
    pub slurm_conf: Option<PathBuf>,
    /// Folder of config.json and partitions.json; `None`: next to slurm.conf.
    pub config_dir: Option<PathBuf>,
    /// `SLURM_VERSION_NUMBER` that the shim was built for.
    pub slurm_version: u32,
    /// `ClusterName` of slurm.conf.
    pub cluster_name: Option<String>,
    /// `StateSaveLocation` of slurm.conf.
    pub state_save_location: Option<PathBuf>,
    /// The user that slurmctld runs as.
    pub slurm_user_id: u32,
    /// `ResumeTimeout` of slurm.conf, seconds.
    pub resume_timeout: u32,
    /// `SuspendTimeout` of slurm.conf, seconds.
    pub suspend_timeout: u32,
    /// `SlurmdTimeout` of slurm.conf, seconds; 0: a silent node is never set down.
    pub slurmd_timeout: u32,
}

/// A running plugin; dropping it without [`Plugin::stop`] also stops it.
pub struct Plugin {
    thread: Option<std::thread::JoinHandle<()>>,
    stop: std::sync::mpsc::Sender<()>,
}

impl Plugin {
    /// Start the host thread, which makes the controller and alone uses it. Never blocks.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start<F>(make_controller: F, options: PluginOptions) -> std::io::Result<Self>
    where
        F: FnOnce() -> Box<dyn Controller> + Send + 'static,
    {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("ec2fleet-host".into()).spawn(move || {
            let mut controller = make_controller();
            controller.log(HostLogLevel::Info, &format!("started with {options:?}"));
            while stopped.recv_timeout(Duration::from_millis(20))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                if let Ok(reading) = controller.read_power(false)
                    && !reading.is_empty()
                {
                    controller.log(HostLogLevel::Info, &format!("power reading {reading:?}"));
                }
            }
        })?;
        Ok(Self { thread: Some(thread), stop })
    }

    /// End every thread; true if all had ended within `timeout`.
    #[must_use]
    pub fn stop(mut self, timeout: Duration) -> bool {
        let _ = self.stop.send(());
        let Some(thread) = self.thread.take() else { return true };
        let until = std::time::Instant::now() + timeout;
        while !thread.is_finished() {
            if std::time::Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        thread.join().is_ok()
    }
}
