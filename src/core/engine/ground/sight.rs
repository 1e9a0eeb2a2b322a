// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2 and slurmctld showed last, and when they are asked again.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult, Instance};
use crate::core::engine::cx::Cx;
use crate::core::engine::cx::calls::Purpose;
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::site::Account;
use crate::core::slurm_api::{SlurmError, SlurmRequest, SlurmResult};

/// What is known of one account's instances.
#[derive(Clone, Debug, Default)]
pub(crate) struct CloudView {
    in_flight: bool,
    next_at: u64,
    failures: u32,
    /// A complete list has been judged at least once.
    pub(crate) ready: bool,
    /// A complete list that waits for Slurm's nodes: when it was asked for, and what it said.
    pub(crate) fresh: Option<(u64, Vec<Instance>)>,
    pub(crate) last_ok_unix_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
    pub(crate) instances: usize,
}

impl CloudView {
    /// List now, unless a list is under way or EC2 is being left alone after failures.
    pub(crate) fn list_now(&mut self, now: u64) -> bool {
        let free = !self.in_flight && self.failures == 0;
        if free {
            self.hasten(now);
        }
        free
    }

    /// List again at `at` if that is sooner than planned.
    pub(crate) fn hasten(&mut self, at: u64) {
        self.next_at = self.next_at.min(at);
    }
}

/// What is known of slurmctld's nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlurmView {
    pub(crate) in_flight: bool,
    pub(crate) next_at: u64,
    pub(crate) failures: u32,
    pub(crate) known: bool,
    pub(crate) again: bool,
    pub(crate) last_ok_unix_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
}

impl SlurmView {
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// Its nodes are to be loaded again, whether EC2 has been listed or not.
    pub(crate) fn is_asked_again(&self) -> bool {
        self.again
    }

    pub(crate) fn ask_again(&mut self, at: u64) {
        self.again = true;
        self.next_at = self.next_at.max(at);
    }
}

/// What EC2 and slurmctld showed last.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub(crate) views: BTreeMap<Account, CloudView>,
    pub(crate) slurm: SlurmView,
    /// Instances without a node, and since when they are known.
    pub(crate) orphans: BTreeMap<String, u64>,
    /// Bound instances that EC2 does not show, and since when.
    pub(crate) missing: BTreeMap<String, u64>,
    /// Lists of instances that have been judged.
    pub(crate) lists: u64,
    /// Accounts whose fleets have been listed since the start.
    pub(crate) fleets_listed: BTreeSet<Account>,
    /// Accounts that the site no longer names and in which something of ours is left.
    pub(crate) former_accounts: BTreeSet<Account>,
}

impl Sight {
    pub(crate) fn view_ready(&self, account: &Account) -> bool {
        self.views.get(account).is_some_and(|view| view.ready)
    }

    pub(crate) fn views_ready(&self, cx: &Cx) -> bool {
        cx.site.accounts().iter().all(|account| self.view_ready(account))
    }

    /// The site's accounts, and those where something is left of an earlier site.
    pub(crate) fn listed_accounts(&self, cx: &Cx) -> Vec<Account> {
        let mut accounts = cx.site.accounts();
        accounts.extend(self.former_accounts.iter().cloned());
        accounts
    }

    pub(crate) fn note_former_accounts(&mut self, cx: &Cx) {
        let named = cx.site.accounts();
        let state = &cx.persisted;
        self.former_accounts = (state.bindings.values().map(|binding| &binding.account))
            .chain(state.fleets.values().map(|fleet| &fleet.account))
            .chain(state.group_fleets.values().map(|fleet| &fleet.account))
            .filter(|account| !named.contains(account))
            .cloned()
            .collect();
    }

    /// Look at everything again as soon as the budget allows.
    pub(crate) fn rescan_now(&mut self, cx: &Cx) {
        let now = cx.now.mono_ms;
        for view in self.views.values_mut() {
            view.next_at = view.next_at.min(now);
        }
        self.load_slurm_again(cx);
    }

    /// Ask slurmctld for its nodes, also if an answer is under way.
    pub(crate) fn load_slurm_again(&mut self, cx: &Cx) {
        self.slurm.next_at = self.slurm.next_at.min(cx.now.mono_ms);
        self.slurm.again = true;
    }

    pub(crate) fn list_when_due(&mut self, cx: &mut Cx) {
        let now = cx.now.mono_ms;
        for account in self.listed_accounts(cx) {
            let view = self.views.entry(account.clone()).or_default();
            if view.in_flight {
                continue;
            }
            if view.next_at > now {
                let at = view.next_at;
                cx.wake(at);
                continue;
            }
            view.in_flight = true;
            let cluster = cx.site.cluster.clone();
            cx.cloud(Purpose::List { account, started: now }, CloudRequest::DescribeCluster { cluster });
        }
        self.load_when_due(cx);
    }

    fn load_when_due(&mut self, cx: &mut Cx) {
        let now = cx.now.mono_ms;
        if self.slurm.in_flight {
            return;
        }
        let listed: Vec<Account> = self
            .views
            .iter()
            .filter(|(_, view)| view.fresh.is_some())
            .map(|(account, _)| account.clone())
            .collect();
        let wanted = !listed.is_empty() || !self.slurm.known || self.slurm.again;
        if !wanted {
            return;
        }
        if self.slurm.next_at > now {
            cx.wake(self.slurm.next_at);
            return;
        }
        self.slurm.in_flight = true;
        self.slurm.again = false;
        cx.slurm_call(Purpose::Load { accounts: listed }, SlurmRequest::LoadNodes);
    }

    pub(crate) fn take_listing(&mut self, cx: &mut Cx, account: &Account, started: u64, result: CloudResult) {
        let rescan_ms = u64::from(cx.site.settings.rescan_s) * 1000;
        let now = cx.now;
        let Some(view) = self.views.get_mut(account) else { return };
        view.in_flight = false;
        match result {
            Ok(CloudReply::Instances(instances)) => {
                view.next_at = now.mono_ms + rescan_ms;
                let recovered = view.failures > 0;
                view.failures = 0;
                view.last_ok_unix_ms = Some(now.unix_ms);
                view.last_error = None;
                view.instances = instances.iter().filter(|instance| !instance.state.is_ended()).count();
                view.fresh = Some((started, instances));
                if cx.keeps_fleets(account) {
                    let cluster = cx.site.cluster.clone();
                    cx.cloud(
                        Purpose::ListFleets { account: account.clone(), started: now.mono_ms },
                        CloudRequest::DescribeFleets { cluster },
                    );
                }
                if recovered {
                    cx.fact(cx.new_fact(FactKind::CloudKnown, format!("EC2 in {account} answers again")));
                }
            }
            other => {
                let (code, message) = match other {
                    Err(error) => (error.code, error.message),
                    Ok(reply) => ("UnexpectedReply".to_owned(), format!("{reply:?}")),
                };
                view.failures += 1;
                let wait = backoff_ms(view.failures + 1, &mut cx.rng);
                view.next_at = now.mono_ms + wait.max(if view.ready { 5_000 } else { 0 });
                view.last_error = Some(format!("{code}: {message}"));
                let text =
                    format!("EC2 in {account} could not be listed, nothing is concluded from it: {message}");
                cx.fact(cx.new_fact(FactKind::CloudUnknown, text).code(code));
            }
        }
    }
}

/// How soon that is tried again which did not reach slurmctld.
const RESET_RETRY_MS: u64 = 5_000;

impl Sight {
    /// slurmctld could not be reached: asked for anew after a look at the nodes, which a pass without a plugin waits for.
    pub(crate) fn take_reset(&mut self, cx: &mut Cx, nodes: &[String], result: SlurmResult) {
        if !matches!(result, Err(SlurmError::Unreachable { .. })) {
            return;
        }
        for name in nodes {
            if let Some(node) = cx.nodes.get_mut(name) {
                node.reset_at = None;
            }
        }
        self.slurm.ask_again(cx.now.mono_ms + RESET_RETRY_MS);
    }
}
