// SPDX-License-Identifier: GPL-3.0-or-later
//! Virtual time, the queue of what is to happen, chance, and the record of what happened.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ec2fleet_core::event::Event;
use ec2fleet_core::program_pass::FenceWait;

use super::chaos::{Chaos, Fault};

/// Something that happens at a moment.
#[derive(Debug)]
pub enum Action {
    /// A slurmctld starts on this host.
    Start {
        host: usize,
    },
    /// The controller tries to take the fence and to open the journal.
    Open {
        host: usize,
        life: u64,
    },
    /// slurmctld runs one of its programs, which waits for the fence.
    RunProgram {
        host: usize,
        event: Box<Event>,
        wait: FenceWait,
        /// Who runs it by hand runs it again until then.
        insists_until: u64,
    },
    /// The time of a program's pass is over.
    PassEnds {
        host: usize,
        life: u64,
    },
    /// A program that stays to the end.
    LastPass,
    /// The engine's deadline.
    Wake {
        host: usize,
        life: u64,
    },
    /// The thread that calls slurmctld looks whether the power bitmaps have to be read.
    Look {
        host: usize,
        life: u64,
    },
    /// The one thread that may call slurmctld does its next call.
    Serve {
        host: usize,
        life: u64,
    },
    Deliver {
        host: usize,
        life: u64,
        event: Box<Event>,
    },
    /// The journal refused a while ago.
    RetryJournal {
        host: usize,
        life: u64,
    },
    CallReaches {
        call: u64,
    },
    CallReturns {
        call: u64,
    },
    SlurmdStarts {
        instance: usize,
    },
    Register {
        instance: usize,
    },
    PowerWork,
    Allocate,
    Ping,
    Save,
    JobEnds {
        job: usize,
        run: u32,
    },
    EpilogEnds {
        node: usize,
    },
    Submit,
    Capacity,
    Interrupt,
    /// EC2 looks whether a maintain fleet has what it should have.
    Fulfil {
        fleet: usize,
    },
    /// EC2 has room again for a hibernated instance.
    Awaken {
        instance: usize,
    },
    Storm,
    Trouble,
    TakeOver,
    Resume {
        host: usize,
        life: u64,
    },
    Demote {
        host: usize,
        life: u64,
    },
    /// A defect ends the engine.
    Defect {
        host: usize,
        life: u64,
    },
    /// An administrator restarts the slurmctld whose plugin has stayed passive since that life.
    LoadAnew {
        life: u64,
    },
    Check,
    Quiet,
    Sentinels,
    CountIdle,
    End,
}

struct Entry {
    at: u64,
    seq: u64,
    action: Action,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest: the earliest, and of the same moment the one that was planned first.
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// What every model shares.
pub struct Kernel {
    /// Milliseconds since the run began.
    pub now: u64,
    pub rng: fastrand::Rng,
    pub chaos: Chaos,
    pub steps: u64,
    pub violation: Option<String>,
    /// Milliseconds by which the wall clock is off.
    pub clock_offset: i64,
    trace: Option<Vec<String>>,
    queue: BinaryHeap<Entry>,
    seq: u64,
}

/// 2026-01-01T00:00:00Z.
const UNIX_ORIGIN_MS: i64 = 1_767_225_600_000;

impl Kernel {
    pub fn new(mut rng: fastrand::Rng, traced: bool) -> Self {
        let chaos = Chaos::new(&mut rng);
        Self {
            now: 0,
            rng,
            chaos,
            steps: 0,
            violation: None,
            clock_offset: 0,
            trace: traced.then(Vec::new),
            queue: BinaryHeap::new(),
            seq: 0,
        }
    }

    pub fn after(&mut self, ms: u64, action: Action) {
        self.seq += 1;
        self.queue.push(Entry { at: self.now + ms, seq: self.seq, action });
    }

    pub fn at(&mut self, at: u64, action: Action) {
        self.after(at.saturating_sub(self.now), action);
    }

    /// Move to the next moment.
    pub fn next(&mut self) -> Option<Action> {
        let entry = self.queue.pop()?;
        self.now = entry.at;
        self.steps += 1;
        Some(entry.action)
    }

    pub fn strikes(&mut self, fault: Fault, chance: f64) -> bool {
        let strikes = self.chaos.strikes(fault, chance, &mut self.rng, self.now);
        if strikes && self.trace.is_some() {
            self.note(|| format!("fault: {fault:?}"));
        }
        strikes
    }

    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.u64(low..=high)
    }

    pub fn unix_ms(&self) -> u64 {
        u64::try_from(UNIX_ORIGIN_MS + self.clock_offset + i64::try_from(self.now).unwrap_or(0)).unwrap_or(0)
    }

    pub fn unix_s(&self) -> i64 {
        i64::try_from(self.unix_ms() / 1_000).unwrap_or(i64::MAX)
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let (seconds, ms) = (self.now / 1000, self.now % 1000);
            let clock = format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3600, seconds / 60 % 60, seconds % 60);
            trace.push(format!("{clock} {}", text()));
        }
    }

    /// A promise is broken. The first one is what the run reports.
    pub fn violate(&mut self, text: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let text = text();
            self.note(|| format!("VIOLATION: {text}"));
            self.violation = Some(text);
        }
    }

    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Milliseconds without anything that may delay repair.
    pub fn undisturbed(&self) -> u64 {
        self.now - self.chaos.disturbed_until.min(self.now)
    }
}
