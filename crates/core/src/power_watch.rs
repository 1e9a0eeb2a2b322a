// SPDX-License-Identifier: GPL-3.0-or-later
//! When slurmctld's power bitmaps are read, when in full, and which part of a reading reaches the engine.
//!
//! The policy alone: the thread that calls slurmctld says what it observes and does what [`PowerWatch::step`] asks. The
//! simulator runs the same policy on virtual time.

/// How often the thread looks at `last_node_update`. Reading it takes no lock. The unit is milliseconds.
pub const LOOK_INTERVAL_MS: u64 = 20;

/// For this long after a move of `last_node_update` every look is a reading. The unit is milliseconds.
///
/// slurmctld's power-save thread wakes once a second and acts on what moved `last_node_update` before, but does not
/// move it itself (`_do_power_work()` in power_save.c, 22.05.8).
pub const AFTER_MOVE_MS: u64 = 3_000;

/// Without a move a reading is due after this time: nodes may have been idle for SuspendTime, or have waited for
/// ResumeRate. The unit is milliseconds.
pub const SCAN_INTERVAL_MS: u64 = 200;

/// What the thread that calls slurmctld has seen or done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// The engine wants the complete sets, because it begins to listen or because it asks for them.
    FullWanted,
    /// The thread looks. `answers_wait`: an answer of slurmctld has found no room in the engine's queue yet.
    Look { last_node_update: i64, answers_wait: bool },
    /// The bitmaps were read. `empty`: nothing has changed in them since the last reading; `reconfigured`: slurmctld has
    /// read slurm.conf since then.
    Read { full: bool, empty: bool, reconfigured: bool },
    /// The engine's queue had no room for something of the last reading.
    QueueFull,
}

/// What the thread has to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Nothing,
    /// Read the bitmaps: the complete sets, or what has changed since the last reading. A reading that fails is not
    /// observed, and the next look asks for it again.
    Read {
        full: bool,
    },
    /// Give the engine what is true here, in the order of the fields.
    HandOver {
        /// Say that slurmctld has read slurm.conf again.
        reconfigured: bool,
        /// Have the engine ask Slurm and EC2 for everything, because something was lost before.
        rescan: bool,
        /// The reading itself.
        reading: bool,
    },
}

/// The state of the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerWatch {
    last_node_update: i64,
    /// When `last_node_update` was seen to move.
    moved_at: Option<u64>,
    /// When the bitmaps were read last.
    read_at: Option<u64>,
    full_wanted: bool,
    /// Something of a reading was lost, and no full reading has replaced it yet.
    lost: bool,
}

impl PowerWatch {
    /// Take one observation in. `now_ms` is on a monotonic clock.
    pub fn step(&mut self, now_ms: u64, seen: Observation) -> Ask {
        match seen {
            Observation::FullWanted => self.full_wanted = true,
            Observation::Look { last_node_update, answers_wait } => {
                self.note_move(now_ms, last_node_update);
                let full = self.full_wanted || self.lost;
                // A reading must not overtake an answer: it would be older news delivered later.
                if !answers_wait && (full || self.is_due(now_ms)) {
                    return Ask::Read { full };
                }
            }
            Observation::Read { full, empty, reconfigured } => {
                // The first reading of all follows slurmctld's start.
                let reconfigured = reconfigured && self.read_at.is_some();
                self.read_at = Some(now_ms);
                self.full_wanted &= !full;
                let rescan = full && std::mem::take(&mut self.lost);
                return Ask::HandOver { reconfigured, rescan, reading: full || !empty };
            }
            Observation::QueueFull => self.lost = true,
        }
        Ask::Nothing
    }

    fn note_move(&mut self, now_ms: u64, last_node_update: i64) {
        if last_node_update != self.last_node_update {
            self.last_node_update = last_node_update;
            self.moved_at = Some(now_ms);
        }
    }

    fn is_due(&self, now_ms: u64) -> bool {
        let within = |since: Option<u64>, ms| since.is_some_and(|since| now_ms.saturating_sub(since) < ms);
        within(self.moved_at, AFTER_MOVE_MS) || !within(self.read_at, SCAN_INTERVAL_MS)
    }
}

#[cfg(test)]
mod tests;
