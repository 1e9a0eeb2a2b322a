// SPDX-License-Identifier: GPL-3.0-or-later
//! Calls on their way out: their reasons, their priority and the API budget.

use std::collections::{BTreeMap, VecDeque};

use crate::ec2_api::{CloudRequest, CloudResult, ErrorClass};
use crate::engine::cx::Cx;
use crate::engine::cx::attempt::Deadline;
use crate::event::{CallId, Effect};
use crate::fact::FactKind;
use crate::limits::{ActionGroup, Budget};
use crate::record::{Intent, LaunchIntent, Record, TagLevel};
use crate::site::Account;
use crate::slurm_api::{SlurmRequest, SlurmResult};

/// The priority of what can wait for ever.
const LOWEST: u8 = 9;

/// Who waits for the fleet whose history is asked.
#[derive(Clone, Debug)]
pub(crate) enum WaitingFor {
    Group(String),
    Node(String),
}

/// Why a fleet's history is asked.
#[derive(Clone, Debug)]
pub(crate) struct HistoryQuestion {
    pub(crate) account: Account,
    pub(crate) who: WaitingFor,
    /// What happened before is not about this wait.
    pub(crate) start_unix_ms: u64,
}

/// Why EC2 was called: who gets its answer.
#[derive(Clone, Debug)]
pub(crate) enum CloudPurpose {
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
    /// Instances of fleets that are still empty.
    PollFleets {
        account: Account,
    },
    ListFleets {
        account: Account,
        started: u64,
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
    /// Why a fleet does not deliver.
    History(HistoryQuestion),
    CancelSpot {
        account: Account,
        intent: u64,
    },
    /// States of instances that EC2 may hibernate.
    WatchSleep {
        account: Account,
    },
    /// A step of the move of this node's disks; without an intent it is a look.
    Relocate {
        account: Account,
        node: String,
        intent: Option<u64>,
        group: ActionGroup,
    },
}

impl CloudPurpose {
    fn account(&self) -> &Account {
        match self {
            Self::Create { account, .. }
            | Self::DescribeLaunch { account, .. }
            | Self::List { account, .. }
            | Self::Confirm { account, .. }
            | Self::Terminate { account, .. }
            | Self::Tags { account, .. }
            | Self::PollFleets { account }
            | Self::ListFleets { account, .. }
            | Self::DeleteFleets { account, .. }
            | Self::GroupFleet { account, .. }
            | Self::PollGroup { account, .. }
            | Self::CancelSpot { account, .. }
            | Self::WatchSleep { account }
            | Self::Relocate { account, .. } => account,
            Self::History(question) => &question.account,
        }
    }

    /// The bucket from which EC2 takes a token for the call.
    fn action_group(&self) -> ActionGroup {
        match self {
            Self::Create { .. }
            | Self::DeleteFleets { .. }
            | Self::GroupFleet { .. }
            | Self::CancelSpot { .. } => ActionGroup::Mutate,
            Self::Relocate { group, .. } => *group,
            Self::Terminate { .. } => ActionGroup::Terminate,
            Self::Tags { .. } => ActionGroup::CreateTags,
            Self::DescribeLaunch { .. }
            | Self::List { .. }
            | Self::Confirm { .. }
            | Self::PollFleets { .. }
            | Self::ListFleets { .. }
            | Self::PollGroup { .. }
            | Self::History(_)
            | Self::WatchSleep { .. } => ActionGroup::Describe,
        }
    }

    /// Terminations and recovery before launches, `Name` tags last.
    fn priority(&self) -> u8 {
        match self {
            Self::Terminate { .. } | Self::DeleteFleets { .. } => 0,
            Self::Create { .. } | Self::GroupFleet { .. } | Self::DescribeLaunch { .. } => 1,
            Self::Tags { level: TagLevel::Full, .. } => LOWEST,
            Self::Tags { .. }
            | Self::List { .. }
            | Self::Confirm { .. }
            | Self::PollFleets { .. }
            | Self::ListFleets { .. }
            | Self::PollGroup { .. }
            | Self::History(_)
            | Self::CancelSpot { .. }
            | Self::WatchSleep { .. }
            | Self::Relocate { .. } => 2,
        }
    }
}

/// Why slurmctld was called: who gets its answer.
#[derive(Clone, Debug)]
pub(crate) enum SlurmPurpose {
    /// Slurm's nodes, asked for after these accounts were listed.
    Load {
        accounts: Vec<Account>,
    },
    Tell {
        nodes: Vec<String>,
    },
    /// An address for nodes that have none.
    Place {
        nodes: Vec<String>,
    },
    Report {
        nodes: Vec<String>,
    },
    Weigh {
        nodes: Vec<String>,
        weight: u32,
        round: u64,
    },
    Reset {
        nodes: Vec<String>,
    },
    /// Jobs that wait for nodes which have registered.
    StartJobs,
    /// Close the node of an instance that sleeps to new jobs.
    Close {
        node: String,
    },
    /// What a sleeping or waking node, or one whose fleet is to go, needs from slurmctld.
    Mind,
}

/// Calls of one account since the engine began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) throttled: u64,
}

/// Calls that take a token from the same bucket, and are as urgent as each other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    priority: u8,
    account: Account,
    group: ActionGroup,
}

/// Calls that wait for their budget, each lane in its order.
#[derive(Clone, Debug, Default)]
struct Outbox {
    lanes: BTreeMap<Lane, VecDeque<(CloudPurpose, CloudRequest)>>,
}

impl Outbox {
    fn push(&mut self, purpose: CloudPurpose, request: CloudRequest) {
        let account = purpose.account().clone();
        let lane = Lane { priority: purpose.priority(), account, group: purpose.action_group() };
        self.lanes.entry(lane).or_default().push_back((purpose, request));
    }
}

/// Calls under way and on their way out.
#[derive(Debug)]
pub(crate) struct Calls {
    to_cloud: BTreeMap<CallId, CloudPurpose>,
    to_slurm: BTreeMap<CallId, SlurmPurpose>,
    next: CallId,
    outbox: Outbox,
    pub(crate) budgets: BTreeMap<Account, Budget>,
    counts: BTreeMap<Account, Counts>,
    slurm_updates: u64,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            to_cloud: BTreeMap::new(),
            to_slurm: BTreeMap::new(),
            next: 1,
            outbox: Outbox::default(),
            budgets: BTreeMap::new(),
            counts: BTreeMap::new(),
            slurm_updates: 0,
        }
    }
}

impl Calls {
    /// Nothing is under way or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.outbox.lanes.is_empty()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.to_cloud.len() + self.to_slurm.len()
    }

    pub(crate) fn in_flight_of(&self, account: &Account) -> usize {
        self.to_cloud.values().filter(|purpose| purpose.account() == account).count()
    }

    pub(crate) fn counts_of(&self, account: &Account) -> Counts {
        self.counts.get(account).copied().unwrap_or_default()
    }

    /// Updates of nodes since the engine began.
    pub(crate) fn slurm_updates(&self) -> u64 {
        self.slurm_updates
    }

    /// Why slurmctld was called; `None` for an answer that nobody waits for.
    pub(crate) fn slurm_answered(&mut self, call: CallId) -> Option<SlurmPurpose> {
        self.to_slurm.remove(&call)
    }

    fn number(&mut self) -> CallId {
        let call = self.next;
        self.next += 1;
        call
    }
}

impl Cx {
    /// Write down a call that changes EC2; its number names it in the journal.
    pub(crate) fn record_intent(
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
    pub(crate) fn open_request(&self, intent: u64) -> Option<CloudRequest> {
        self.persisted.open.get(&intent).map(|open| open.request.clone())
    }

    /// Queue a call to EC2; it leaves at the end of this step unless the budget says later.
    pub(crate) fn cloud(&mut self, purpose: CloudPurpose, request: CloudRequest) {
        self.calls.outbox.push(purpose, request);
    }

    pub(crate) fn slurm_call(&mut self, purpose: SlurmPurpose, request: SlurmRequest) {
        let call = self.calls.number();
        self.calls.to_slurm.insert(call, purpose);
        if matches!(request, SlurmRequest::UpdateNodes(_)) {
            self.calls.slurm_updates += 1;
        }
        self.step.effects.push(Effect::Slurm { call, request });
    }

    /// A lane that must wait keeps everything behind its first call: the bucket is the same for all of it.
    pub(crate) fn send_outbox(&mut self) -> Deadline {
        let mut next = Deadline::NONE;
        let mut lanes = std::mem::take(&mut self.calls.outbox.lanes);
        for (lane, waiting) in &mut lanes {
            if self.persisted.paused && lane.group != ActionGroup::Describe {
                continue;
            }
            while let Some((purpose, request)) = waiting.pop_front() {
                let budget = self.calls.budgets.entry(lane.account.clone()).or_default();
                if let Err(ready) = budget.take(lane.group, lane.priority == LOWEST, self.now) {
                    next = next.or(Some(ready));
                    waiting.push_front((purpose, request));
                    break;
                }
                let call = self.calls.number();
                self.calls.to_cloud.insert(call, purpose);
                self.calls.counts.entry(lane.account.clone()).or_default().calls += 1;
                self.step.effects.push(Effect::Cloud { call, account: lane.account.clone(), request });
            }
        }
        lanes.retain(|_, waiting| !waiting.is_empty());
        self.calls.outbox.lanes = lanes;
        next
    }

    /// Why EC2 was called, and what its answer says of the budget; `None` for an answer that nobody waits for.
    pub(crate) fn cloud_answered(&mut self, call: CallId, result: &CloudResult) -> Option<CloudPurpose> {
        let purpose = self.calls.to_cloud.remove(&call)?;
        let account = purpose.account();
        let group = purpose.action_group();
        let budget = self.calls.budgets.entry(account.clone()).or_default();
        match result {
            Err(error) if error.class == ErrorClass::Throttle => {
                budget.throttled(group, self.now, &mut self.rng);
                self.calls.counts.entry(account.clone()).or_default().throttled += 1;
                let text = format!("EC2 in {account} asks for fewer requests");
                self.fact(self.new_fact(FactKind::Throttled, text).code(error.code.clone()));
            }
            _ => budget.passed(group, self.now),
        }
        Some(purpose)
    }

    pub(crate) fn take_minded(&mut self, result: SlurmResult) {
        if let Err(error) = result {
            self.fact(self.new_fact(FactKind::SlurmUnknown, error.to_string()));
        }
    }
}

impl CloudPurpose {
    /// The intent that the call carries out; a call that changes nothing has none.
    fn intent(&self) -> Option<u64> {
        match self {
            Self::Create { intent, .. }
            | Self::Terminate { intent, .. }
            | Self::Tags { intent, .. }
            | Self::DeleteFleets { intent, .. }
            | Self::GroupFleet { intent, .. }
            | Self::CancelSpot { intent, .. } => Some(*intent),
            Self::Relocate { intent, .. } => *intent,
            Self::DescribeLaunch { .. }
            | Self::List { .. }
            | Self::Confirm { .. }
            | Self::PollFleets { .. }
            | Self::ListFleets { .. }
            | Self::PollGroup { .. }
            | Self::History { .. }
            | Self::WatchSleep { .. } => None,
        }
    }
}

impl Calls {
    /// Intents whose call is under way or waits for its token.
    pub(crate) fn intents(&self) -> impl Iterator<Item = u64> {
        let waiting = self.outbox.lanes.values().flatten().map(|(purpose, _)| purpose);
        self.to_cloud.values().chain(waiting).filter_map(CloudPurpose::intent)
    }
}
