// SPDX-License-Identifier: GPL-3.0-or-later
//! Planted bugs. Each breaks one rule at the boundary of the production code, as a careless version of it would.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The journal is written and never synced before a call.
    NoSyncBeforeCall,
    /// A repeated CreateFleet gets a new client token.
    NewTokenOnRetry,
    /// A describe that failed is read as "no instances".
    EmptyOnFailedDescribe,
    /// Instances without a node are terminated at first sight.
    NoGraceTime,
    /// Slurm's nodes are read before EC2 is listed.
    SlurmListedFirst,
    /// Nobody asks for the fence.
    NoFence,
    /// When the queue overflows events are lost and nothing is looked at again.
    OverflowWithoutRescan,
    /// The bitmaps are read only when last_node_update has moved.
    ReadOnlyAfterMove,
    /// Only the first page of DescribeInstances is read.
    FirstPageOnly,
    /// A node that is powered down loses its binding, and its instance is not terminated.
    UnbindForgetsTerminate,
    /// An old reading of the power bitmaps is acted upon.
    StaleDesire,
    /// Instances are found by their node name, whatever cluster's they are.
    AdoptByNameOnly,
    /// An instance that EC2 does not know yet is taken for terminated.
    NotFoundMeansGone,
    /// Slurm is taken to have the addresses though the call failed.
    ToldBeforeSuccess,
    /// Throttled calls are repeated at once, without a budget.
    NoBudget,
    /// The outcome of a CreateFleet is not written down, and the journal is read as if it had failed.
    ForgetsOpenIntents,
    /// A throttled TerminateInstances is taken for done.
    ThrottledMeansTerminated,
    /// A node whose power-up failed is never reported to Slurm.
    SilentFailure,
    /// An instance that EC2 has hibernated is taken for one that it has ended.
    SleepMeansEnded,
    /// slurmctld is not told that sleeping nodes are alive.
    NotKeptAlive,
    /// A repeated ModifyFleet raises the target again.
    TargetRaisedTwice,
    /// A fleet that is to be deleted is forgotten.
    ForgottenFleetDelete,
    /// A group's fleet is not lowered before the instances of suspended nodes end.
    NotLowered,
    /// The target is lowered with termination: EC2 chooses who goes.
    ExcessTerminated,
    /// Of a sleeping instance and the one that EC2 launched in its place, the sleeping one is taken for surplus.
    SleeperIsSurplus,
    /// What ResumeProgram says of jobs is not listened to.
    ForgetsJobs,
    /// Nodes are powered down while slurmctld would have to look up the names of others of their job.
    NamesLookedUp,
}

impl Mutant {
    pub const ALL: [Self; 27] = [
        Self::NoSyncBeforeCall,
        Self::NewTokenOnRetry,
        Self::EmptyOnFailedDescribe,
        Self::NoGraceTime,
        Self::SlurmListedFirst,
        Self::NoFence,
        Self::FirstPageOnly,
        Self::UnbindForgetsTerminate,
        Self::StaleDesire,
        Self::AdoptByNameOnly,
        Self::NoBudget,
        Self::ToldBeforeSuccess,
        Self::SilentFailure,
        Self::SleepMeansEnded,
        Self::NotKeptAlive,
        Self::ForgottenFleetDelete,
        Self::TargetRaisedTwice,
        Self::NotLowered,
        Self::ExcessTerminated,
        Self::SleeperIsSurplus,
        Self::ForgetsJobs,
        Self::NamesLookedUp,
        Self::OverflowWithoutRescan,
        Self::ReadOnlyAfterMove,
        Self::NotFoundMeansGone,
        Self::ForgetsOpenIntents,
        Self::ThrottledMeansTerminated,
    ];
}
