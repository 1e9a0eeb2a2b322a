// SPDX-License-Identifier: GPL-3.0-or-later
//! What goes wrong, how often, and how often it did.

/// Everything that a seed may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// EC2 answers RequestLimitExceeded.
    Throttle,
    /// The request never reaches EC2.
    LostRequest,
    /// The request takes effect and its answer never comes.
    LostAnswer,
    /// The caller has given up when the request takes effect.
    LateEffect,
    /// A describe fails on one of its pages.
    BrokenPage,
    /// One pool has less capacity than asked for.
    Shortage,
    /// A list shows the state of some seconds ago.
    StaleList,
    /// A list leaves an instance out.
    MissingInstance,
    /// An instance has no private address at first.
    NoAddressYet,
    /// EC2 takes a Spot instance back.
    Interruption,
    /// EC2 hibernates a Spot instance instead of ending it.
    Hibernation,
    /// Every Spot instance of a pool is taken back at once.
    SpotStorm,
    /// A hibernated instance comes back with another private address.
    NewAddress,
    /// A maintain fleet gets its instances minutes later.
    LateFulfilment,
    /// EC2 ends an instance that is starting.
    DeadOnArrival,
    /// slurmd never starts.
    BootFailure,
    /// slurmd starts late.
    SlowBoot,
    /// slurmctld is killed with the plugin in it.
    Kill,
    /// The controller dies while it writes the journal.
    KillInWrite,
    /// What was written and not synced is lost, cut or zeroed in a crash.
    TornTail,
    /// The disk refuses.
    DiskRefuses,
    /// The other host takes over.
    Failover,
    /// A controller stands still for a while.
    Hang,
    /// A controller stands still for so long that its lock is given to another.
    LostLock,
    /// slurmctld restarts in an orderly way while calls are under way.
    Reconfigure,
    /// A restart forgets the addresses that were set.
    ForgottenAddress,
    /// The engine panics, and slurmctld goes on.
    Defect,
    /// The engine's queue is full for a while.
    Overflow,
    /// An answer is delivered twice.
    DuplicateAnswer,
    LoadFails,
    /// update_node fails and changes nothing.
    UpdateFails,
    /// update_node takes effect, and the caller is told that it failed.
    UpdateAnswerLost,
    /// Unix time jumps.
    ClockJump,
    /// An administrator powers nodes down or up, or sets them DOWN.
    Administrator,
    /// ResumeFailProgram, ResumeProgram or SuspendProgram is not heard.
    LostRequestOfSlurm,
    /// The journal is gone.
    LostJournal,
    /// EC2 refuses to end something, and gives a reason for which repeating it does not help by itself.
    Refusal,
}

impl Fault {
    pub const ALL: [Self; 37] = [
        Self::Throttle,
        Self::LostRequest,
        Self::LostAnswer,
        Self::LateEffect,
        Self::BrokenPage,
        Self::Shortage,
        Self::StaleList,
        Self::MissingInstance,
        Self::NoAddressYet,
        Self::Interruption,
        Self::Hibernation,
        Self::SpotStorm,
        Self::NewAddress,
        Self::LateFulfilment,
        Self::DeadOnArrival,
        Self::BootFailure,
        Self::SlowBoot,
        Self::Kill,
        Self::KillInWrite,
        Self::TornTail,
        Self::DiskRefuses,
        Self::Failover,
        Self::Hang,
        Self::LostLock,
        Self::Reconfigure,
        Self::ForgottenAddress,
        Self::Defect,
        Self::Overflow,
        Self::DuplicateAnswer,
        Self::LoadFails,
        Self::UpdateFails,
        Self::UpdateAnswerLost,
        Self::ClockJump,
        Self::Administrator,
        Self::LostRequestOfSlurm,
        Self::LostJournal,
        Self::Refusal,
    ];

    fn index(self) -> usize {
        self as usize
    }

    /// While such a fault is fresh, nothing is promised about how long a repair takes.
    fn delays_repair(self) -> bool {
        !matches!(
            self,
            Self::Shortage
                | Self::StaleList
                | Self::NoAddressYet
                | Self::Interruption
                | Self::Hibernation
                | Self::SpotStorm
                | Self::NewAddress
                | Self::LateFulfilment
                | Self::DeadOnArrival
                | Self::BootFailure
                | Self::SlowBoot
                | Self::DuplicateAnswer
                | Self::Overflow
                | Self::LostRequestOfSlurm
                | Self::Administrator
        )
    }
}

/// The faults of one run. Each seed breaks its own few things: what never fails shows what hides behind it.
#[derive(Clone, Debug)]
pub struct Chaos {
    enabled: [bool; Fault::ALL.len()],
    counts: [u64; Fault::ALL.len()],
    intensity: f64,
    quiet: bool,
    /// Since then nothing has happened that may delay repair.
    pub disturbed_until: u64,
}

impl Chaos {
    pub fn new(rng: &mut fastrand::Rng) -> Self {
        let share = [0.0, 0.15, 0.3, 0.5, 0.8, 1.0][rng.usize(0..6)];
        let mut enabled = [false; Fault::ALL.len()];
        for slot in &mut enabled {
            *slot = rng.f64() < share;
        }
        let intensity = [0.3, 1.0, 1.0, 3.0][rng.usize(0..4)];
        Self { enabled, counts: [0; Fault::ALL.len()], intensity, quiet: false, disturbed_until: 0 }
    }

    /// Whether this fault happens now, where it happens once in `1 / chance` times on average.
    pub fn strikes(&mut self, fault: Fault, chance: f64, rng: &mut fastrand::Rng, now: u64) -> bool {
        if self.quiet || !self.enabled[fault.index()] || rng.f64() >= chance * self.intensity {
            return false;
        }
        self.note(fault, now);
        true
    }

    pub fn note(&mut self, fault: Fault, now: u64) {
        self.counts[fault.index()] += 1;
        if fault.delays_repair() {
            self.disturb(now);
        }
    }

    /// Until then nothing is promised about how long a repair takes.
    pub fn disturb(&mut self, until: u64) {
        self.disturbed_until = self.disturbed_until.max(until);
    }

    pub fn stop(&mut self, now: u64) {
        self.quiet = true;
        self.disturbed_until = now;
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    pub fn counts(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().zip(self.counts)
    }
}
