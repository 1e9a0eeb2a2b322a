// SPDX-License-Identifier: GPL-3.0-or-later
//! What EC2 and slurmctld showed last, and when they are asked again.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudError, CloudReply, CloudRequest, CloudResult, Instance};
use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::{CloudPurpose, SlurmPurpose};
use crate::fact::FactKind;
use crate::site::Account;
use crate::slurm_api::{SlurmError, SlurmRequest, SlurmResult};

/// How soon that is tried again which did not reach slurmctld.
const RESET_RETRY_MS: u64 = 5_000;

/// An account that has been listed once is not listed again sooner after a failure.
const PATIENCE_MS: u64 = 5_000;

/// What is known of one account's instances.
#[derive(Clone, Debug, Default)]
struct CloudView {
    list: Attempt,
    /// A complete list has been judged at least once.
    ready: bool,
    /// A complete list that waits for Slurm's nodes: when it was asked for, and what it said.
    fresh: Option<(u64, Vec<Instance>)>,
    shown: CloudSight,
}

/// What the last lists of one account's instances came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct CloudSight {
    pub(crate) last_ok_unix_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
    pub(crate) instances: usize,
}

/// What is known of slurmctld's nodes.
#[derive(Clone, Debug, Default)]
struct SlurmView {
    load: Attempt,
    /// `mono_ms` at which the last load began.
    asked_at: u64,
    known: bool,
    again: bool,
    shown: SlurmSight,
}

/// What the last loads of slurmctld's nodes came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlurmSight {
    pub(crate) last_ok_unix_ms: Option<u64>,
    pub(crate) last_error: Option<String>,
}

/// What EC2 and slurmctld showed last.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    views: BTreeMap<Account, CloudView>,
    slurm: SlurmView,
    /// Instances without a node, and since when they are known.
    pub(crate) orphans: BTreeMap<String, u64>,
    /// Bound instances that EC2 does not show, and since when.
    pub(crate) missing: BTreeMap<String, u64>,
    /// Accounts whose fleets have been listed since the start.
    fleets_listed: BTreeSet<Account>,
    /// Accounts that the site no longer names and in which something of ours is left.
    former_accounts: BTreeSet<Account>,
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
            view.list.hasten(now);
        }
        self.load_slurm_again(cx);
    }

    /// Ask slurmctld for its nodes, also if an answer is under way.
    pub(crate) fn load_slurm_again(&mut self, cx: &Cx) {
        self.slurm.load.hasten(cx.now.mono_ms);
        self.slurm.again = true;
    }

    pub(crate) fn list_when_due(&mut self, cx: &mut Cx) -> Deadline {
        let now = cx.now.mono_ms;
        let mut deadline = Deadline::NONE;
        for account in self.listed_accounts(cx) {
            let view = self.views.entry(account.clone()).or_default();
            if !view.list.due(now) {
                deadline = deadline.or(view.list.next());
                continue;
            }
            view.list.begin();
            let cluster = cx.site.cluster.clone();
            cx.cloud(CloudPurpose::List { account, started: now }, CloudRequest::DescribeCluster { cluster });
        }
        deadline.or(self.load_when_due(cx))
    }

    fn load_when_due(&mut self, cx: &mut Cx) -> Deadline {
        let listed: Vec<Account> = self
            .views
            .iter()
            .filter(|(_, view)| view.fresh.is_some())
            .map(|(account, _)| account.clone())
            .collect();
        let wanted = !listed.is_empty() || !self.slurm.known || self.slurm.again;
        if !wanted {
            return Deadline::NONE;
        }
        if !self.slurm.load.due(cx.now.mono_ms) {
            return self.slurm.load.next().into();
        }
        self.slurm.load.begin();
        self.slurm.asked_at = cx.now.mono_ms;
        self.slurm.again = false;
        cx.slurm_call(SlurmPurpose::Load { accounts: listed }, SlurmRequest::LoadNodes);
        Deadline::NONE
    }

    /// slurmctld has shown its nodes.
    pub(crate) fn nodes_loaded(&mut self, cx: &mut Cx) {
        let recovered = self.slurm.load.failures() > 0;
        self.slurm.load.succeeded();
        self.slurm.known = true;
        self.slurm.shown = SlurmSight { last_ok_unix_ms: Some(cx.now.unix_ms), last_error: None };
        if recovered {
            cx.fact(cx.new_fact(FactKind::SlurmKnown, "slurmctld answers again"));
        }
    }

    /// `mono_ms` from which on what slurmctld showed last is true.
    pub(crate) fn slurm_asked_at(&self) -> u64 {
        self.slurm.asked_at
    }

    /// slurmctld has not shown its nodes: they are asked for again.
    pub(crate) fn load_failed(&mut self, cx: &mut Cx, error: &SlurmError) {
        self.slurm.load.failed(cx.now.mono_ms, 0, &mut cx.rng);
        self.slurm.again = true;
        self.slurm.shown.last_error = Some(error.to_string());
        cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()));
    }

    /// The complete list of this account that waits for Slurm's nodes: when it was asked for, and what it said.
    pub(crate) fn take_fresh(&mut self, account: &Account) -> Option<(u64, Vec<Instance>)> {
        self.views.get_mut(account).and_then(|view| view.fresh.take())
    }

    /// A complete list of the account has been judged.
    pub(crate) fn judged(&mut self, account: &Account) {
        if let Some(view) = self.views.get_mut(account) {
            view.ready = true;
        }
    }

    /// slurmctld's nodes have been seen, and need not be loaded again whatever EC2 lists.
    pub(crate) fn is_slurm_settled(&self) -> bool {
        self.slurm.known && !self.slurm.again
    }

    pub(crate) fn is_slurm_known(&self) -> bool {
        self.slurm.known
    }

    pub(crate) fn slurm_shown(&self) -> &SlurmSight {
        &self.slurm.shown
    }

    pub(crate) fn cloud_shown(&self) -> impl Iterator<Item = (&Account, &CloudSight)> {
        self.views.iter().map(|(account, view)| (account, &view.shown))
    }

    /// List now, unless a list is under way or EC2 is being left alone after failures.
    pub(crate) fn list_now(&mut self, cx: &Cx, account: &Account) -> bool {
        let Some(view) = self.views.get_mut(account) else { return false };
        let free = !view.list.in_flight() && view.list.failures() == 0;
        if free {
            view.list.hasten(cx.now.mono_ms);
        }
        free
    }

    /// List again at `mono_ms` = `at` if that is sooner than planned.
    pub(crate) fn list_by(&mut self, account: &Account, at: u64) {
        if let Some(view) = self.views.get_mut(account) {
            view.list.hasten(at);
        }
    }

    /// The site has changed: what it no longer names, and where nothing is left, is not listed.
    pub(crate) fn forget_accounts(&mut self, cx: &Cx) {
        self.note_former_accounts(cx);
        let listed = self.listed_accounts(cx);
        self.views.retain(|account, _| listed.contains(account));
    }

    /// The account's fleets have been listed since the start.
    pub(crate) fn are_fleets_listed(&self, account: &Account) -> bool {
        self.fleets_listed.contains(account)
    }

    pub(crate) fn fleets_listed(&mut self, account: &Account) {
        self.fleets_listed.insert(account.clone());
    }

    pub(crate) fn take_listing(&mut self, cx: &mut Cx, account: &Account, started: u64, result: CloudResult) {
        let rescan_ms = u64::from(cx.site.settings.rescan_s) * 1000;
        let now = cx.now;
        let Some(view) = self.views.get_mut(account) else { return };
        match result.and_then(CloudReply::into_instances) {
            Ok(instances) => {
                let recovered = view.list.failures() > 0;
                view.list.succeeded_until(now.mono_ms + rescan_ms);
                view.shown.last_ok_unix_ms = Some(now.unix_ms);
                view.shown.last_error = None;
                view.shown.instances = instances.iter().filter(|instance| !instance.state.is_ended()).count();
                view.fresh = Some((started, instances));
                if cx.keeps_fleets(account) {
                    let cluster = cx.site.cluster.clone();
                    cx.cloud(
                        CloudPurpose::ListFleets { account: account.clone(), started: now.mono_ms },
                        CloudRequest::DescribeFleets { cluster },
                    );
                }
                if recovered {
                    cx.fact(cx.new_fact(FactKind::CloudKnown, format!("EC2 in {account} answers again")));
                }
            }
            Err(CloudError { code, message, .. }) => {
                let least_ms = if view.ready { PATIENCE_MS } else { 0 };
                view.list.failed_for(now.mono_ms, 1, least_ms, &mut cx.rng);
                view.shown.last_error = Some(format!("{code}: {message}"));
                let text =
                    format!("EC2 in {account} could not be listed, nothing is concluded from it: {message}");
                cx.fact(cx.new_fact(FactKind::CloudUnknown, text).code(code));
            }
        }
    }

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
        self.slurm.again = true;
        self.slurm.load.delay(cx.now.mono_ms + RESET_RETRY_MS);
    }
}
