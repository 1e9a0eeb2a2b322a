// SPDX-License-Identifier: GPL-3.0-or-later
//! Calls on their way out: their reasons, their priority and the API budget.

use std::collections::BTreeMap;

use super::Engine;
use crate::core::ec2_api::{CloudRequest, CloudResult, ErrorClass};
use crate::core::event::{CallId, Effect};
use crate::core::fact::FactKind;
use crate::core::limits::ActionGroup;
use crate::core::record::{Intent, LaunchIntent, Record, TagLevel};
use crate::core::site::Account;
use crate::core::slurm_api::SlurmRequest;

/// Why a call was made: who gets its answer.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Create {
        account: Account,
        intent: u64,
    },
    DescribeLaunch {
        account: Account,
        intent: u64,
    },
    List {
        account: Account,
        started: u64,
    },
    /// Look at bound instances that a list does not show.
    Confirm {
        account: Account,
        ids: Vec<String>,
    },
    Terminate {
        account: Account,
        intent: u64,
    },
    Tags {
        account: Account,
        intent: u64,
        nodes: Vec<String>,
        level: TagLevel,
    },
    /// Slurm's nodes, asked for after these accounts were listed.
    Load {
        accounts: Vec<Account>,
    },
    Tell {
        nodes: Vec<String>,
    },
    Report {
        reason: String,
        nodes: Vec<String>,
    },
    Reset,
    /// Jobs that wait for nodes which have registered.
    StartJobs,
    /// Instances of fleets that are still empty.
    PollFleets {
        account: Account,
    },
    ListFleets {
        account: Account,
    },
    DeleteFleets {
        account: Account,
        intent: u64,
    },
    /// CreateFleet or ModifyFleet of a node group's fleet.
    GroupFleet {
        account: Account,
        intent: u64,
        stem: String,
    },
    PollGroup {
        account: Account,
        stem: String,
    },
    CancelSpot {
        account: Account,
        intent: u64,
    },
    /// States of instances that EC2 may hibernate.
    WatchSleep {
        account: Account,
    },
    /// What a sleeping or waking node needs from slurmctld.
    Mind,
}

impl Purpose {
    pub(super) fn account(&self) -> Option<&Account> {
        match self {
            Self::Create { account, .. }
            | Self::DescribeLaunch { account, .. }
            | Self::List { account, .. }
            | Self::Confirm { account, .. }
            | Self::Terminate { account, .. }
            | Self::Tags { account, .. }
            | Self::PollFleets { account }
            | Self::ListFleets { account }
            | Self::DeleteFleets { account, .. }
            | Self::GroupFleet { account, .. }
            | Self::PollGroup { account, .. }
            | Self::CancelSpot { account, .. }
            | Self::WatchSleep { account } => Some(account),
            Self::Load { .. }
            | Self::Tell { .. }
            | Self::Report { .. }
            | Self::Reset
            | Self::StartJobs
            | Self::Mind => None,
        }
    }

    fn action_group(&self) -> ActionGroup {
        match self {
            Self::Create { .. }
            | Self::DeleteFleets { .. }
            | Self::GroupFleet { .. }
            | Self::CancelSpot { .. } => ActionGroup::Mutate,
            Self::Terminate { .. } => ActionGroup::Terminate,
            Self::Tags { .. } => ActionGroup::CreateTags,
            _ => ActionGroup::Describe,
        }
    }

    /// Terminations and recovery before launches, `Name` tags last.
    fn priority(&self) -> u8 {
        match self {
            Self::Terminate { .. } | Self::DeleteFleets { .. } => 0,
            Self::Create { .. } | Self::GroupFleet { .. } | Self::DescribeLaunch { .. } => 1,
            Self::Tags { level: TagLevel::Full, .. } => 9,
            _ => 2,
        }
    }
}

/// Calls of one account since the engine began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) throttled: u64,
}

/// A call that waits for its budget.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    purpose: Purpose,
    request: CloudRequest,
}

/// Calls that failed and are sent again, by their intents.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats(BTreeMap<u64, u64>);

impl Repeats {
    /// Send the intent's call again at `mono_ms` = `at`.
    pub(super) fn add(&mut self, intent: u64, at: u64) {
        self.0.insert(intent, at);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The intents whose time has come, which are then forgotten here.
    pub(super) fn take_due(&mut self, now: u64) -> Vec<u64> {
        let due = self.0.iter().filter(|(_, at)| **at <= now).map(|(intent, _)| *intent).collect();
        self.0.retain(|_, at| *at > now);
        due
    }

    /// `mono_ms` of the next one.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.values().min().copied()
    }
}

impl Engine {
    /// Write down a call that changes EC2; its number names it in the journal.
    pub(super) fn record_intent(
        &mut self,
        account: &Account,
        request: CloudRequest,
        launch: Option<LaunchIntent>,
    ) -> u64 {
        let id = self.persisted.next_id;
        let intent = Intent { unix_ms: self.now.unix_ms, account: account.clone(), request, launch };
        self.record(Record::Intent { id, intent });
        id
    }

    /// What an intent that EC2 has not answered asks for.
    pub(super) fn open_request(&self, intent: u64) -> Option<CloudRequest> {
        self.persisted.open.get(&intent).map(|open| open.request.clone())
    }

    /// Queue a call to EC2; it leaves at the end of this step unless the budget says later.
    pub(super) fn cloud(&mut self, purpose: Purpose, request: CloudRequest) {
        self.outbox.push(Pending { purpose, request });
    }

    pub(super) fn slurm_call(&mut self, purpose: Purpose, request: SlurmRequest) {
        let call = self.new_call(purpose);
        if matches!(request, SlurmRequest::UpdateNodes(_)) {
            self.slurm_updates += 1;
        }
        self.step.effects.push(Effect::Slurm { call, request });
    }

    fn new_call(&mut self, purpose: Purpose) -> CallId {
        let call = self.next_call;
        self.next_call += 1;
        self.calls.insert(call, purpose);
        call
    }

    pub(super) fn send_outbox(&mut self) {
        if self.outbox.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.outbox);
        waiting.sort_by_key(|pending| pending.purpose.priority());
        for pending in waiting {
            let Some(account) = pending.purpose.account().cloned() else { continue };
            let group = pending.purpose.action_group();
            if self.persisted.paused && group != ActionGroup::Describe {
                self.outbox.push(pending);
                continue;
            }
            let low = pending.purpose.priority() == 9;
            match self.budgets.entry(account.clone()).or_default().take(group, low, self.now) {
                Ok(()) => {
                    let call = self.new_call(pending.purpose);
                    self.counts.entry(account.clone()).or_default().calls += 1;
                    self.step.effects.push(Effect::Cloud { call, account, request: pending.request });
                }
                Err(ready) => {
                    self.wake(ready);
                    self.outbox.push(pending);
                }
            }
        }
    }

    pub(super) fn note_budget(&mut self, purpose: &Purpose, result: &CloudResult) {
        let Some(account) = purpose.account().cloned() else { return };
        let group = purpose.action_group();
        let budget = self.budgets.entry(account.clone()).or_default();
        match result {
            Err(error) if error.class == ErrorClass::Throttle => {
                budget.throttled(group, self.now, &mut self.rng);
                self.counts.entry(account.clone()).or_default().throttled += 1;
                let text = format!("EC2 in {account} asks for fewer requests");
                self.fact(self.new_fact(FactKind::Throttled, text).code(error.code.clone()));
            }
            _ => budget.passed(group, self.now),
        }
    }
}
