// SPDX-License-Identifier: GPL-3.0-or-later
//! Spot instances that EC2 has hibernated: their nodes keep their jobs.
//!
//! slurmctld sets a node DOWN that has not answered for SlurmdTimeout, and kills its job. While EC2 keeps the
//! instance asleep we tell slurmctld that the node responds; a node that is dead, not asleep, still runs out.

mod relocate;
mod sleep;

/// When slurmctld hears of sleepers, and EC2 is asked for them.
#[derive(Debug, Default)]
pub(crate) struct Hibernation {
    watch_at: u64,
    watches_in_flight: u32,
}
