// SPDX-License-Identifier: GPL-3.0-or-later
//! What the engine knows, as reports for people.

mod fleets;
mod groups;
mod nodes;

use crate::engine::Engine;
use crate::report::{CloudReport, SlurmReport};

impl Engine {
    #[must_use]
    pub fn cloud_reports(&self) -> Vec<CloudReport> {
        self.g
            .sight
            .cloud_shown()
            .map(|(account, view)| CloudReport {
                region: account.region.clone(),
                profile: account.profile.clone(),
                listed_unix_ms: view.last_ok_unix_ms,
                error: view.last_error.clone(),
                instances: u32::try_from(view.instances).unwrap_or(u32::MAX),
                calls: self.g.cx.calls.counts_of(account).calls,
                throttled: self.g.cx.calls.counts_of(account).throttled,
                in_flight: u32::try_from(self.g.cx.calls.in_flight_of(account)).unwrap_or(u32::MAX),
            })
            .collect()
    }

    /// What the engine knows of slurmctld; scans and locks are the host thread's to add.
    #[must_use]
    pub fn slurm_report(&self) -> SlurmReport {
        SlurmReport {
            loaded_unix_ms: self.g.sight.slurm_shown().last_ok_unix_ms,
            error: self.g.sight.slurm_shown().last_error.clone(),
            updates: self.g.cx.calls.slurm_updates(),
            ..SlurmReport::default()
        }
    }

    /// Intents that EC2 has not answered.
    #[must_use]
    pub fn open_intents(&self) -> usize {
        self.g.cx.persisted.open.len()
    }

    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        self.g.cx.calls.in_flight()
    }

    /// Instances without a node that wait for the grace time to end.
    #[must_use]
    pub fn orphans(&self) -> Vec<String> {
        self.g.sight.orphans.keys().cloned().collect()
    }
}
