// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine asks of Slurm.

pub mod command;
pub mod controller;
pub mod process;
pub mod scontrol;

use std::future::Future;
use std::pin::Pin;

use ec2fleet_core::slurm_api::{SlurmRequest, SlurmResult};

/// slurmctld, as the driver sees it: in process, or through scontrol.
pub trait Slurm: Send + Sync + 'static {
    fn call(&self, request: SlurmRequest) -> Pin<Box<dyn Future<Output = SlurmResult> + Send>>;
}
