// SPDX-License-Identifier: GPL-3.0-or-later
//! What slurmctld offers to the code that runs inside it.

use ec2fleet_core::slurm_api::{NodeUpdate, PowerReading, SlurmError, SlurmNode};

/// Severity of a line in slurmctld's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostLogLevel {
    Error,
    Info,
    Verbose,
    Debug,
}

/// slurmctld itself. Used from one thread only; no method holds a slurmctld lock across anything but memory copies.
pub trait Controller {
    /// Whether this controller is in charge (a standby is not).
    fn is_primary(&self) -> bool;

    /// `last_node_update`, seconds since 1970. Takes no lock. Power save changes its bitmaps without moving it.
    fn last_node_update(&self) -> i64;

    /// What changed in the power bitmaps since the last reading, or the full sets.
    ///
    /// # Errors
    /// When slurmctld's bitmaps are not there (yet).
    fn read_power(&mut self, full: bool) -> Result<PowerReading, SlurmError>;

    /// One `update_node` call.
    ///
    /// # Errors
    /// What slurmctld answered; nothing is changed then.
    fn update_nodes(&mut self, update: &NodeUpdate) -> Result<(), SlurmError>;

    /// `node_did_resp` for each node.
    ///
    /// # Errors
    /// When the function is missing in this slurmctld.
    fn keep_responding(&mut self, nodes: &[String]) -> Result<(), SlurmError>;

    /// Let slurmctld look now which configuring jobs have all their nodes; by itself it looks every 30 s.
    ///
    /// # Errors
    /// When the function is missing in this slurmctld.
    fn start_ready_jobs(&mut self) -> Result<(), SlurmError>;

    /// Every node, through `slurm_load_node`.
    ///
    /// # Errors
    /// When slurmctld did not answer: nothing is known then.
    fn load_nodes(&mut self) -> Result<Vec<SlurmNode>, SlurmError>;

    /// Lengthen the running jobs of a node by whole minutes, capped by their partition's MaxTime.
    ///
    /// # Errors
    /// What slurmctld answered.
    fn extend_jobs(&mut self, node: &str, minutes: u32) -> Result<(), SlurmError>;

    /// One line into slurmctld's log.
    fn log(&self, level: HostLogLevel, message: &str);
}
