// SPDX-License-Identifier: GPL-3.0-or-later
//! Spot instances that EC2 has hibernated: their nodes keep their jobs.
//!
//! slurmctld sets a node DOWN that has not answered for SlurmdTimeout, and kills its job. While EC2 keeps the
//! instance asleep we tell slurmctld that the node responds; a node that is dead, not asleep, still runs out.

use std::collections::BTreeMap;

use super::index::Bound;
use super::outbox::Purpose;
use super::relocate::Pace;
use super::report::{Cause, REASON_PREFIX};
use super::watched::{Agenda, Watched};
use super::{Cx, Desire, Ground};
use crate::core::ec2_api::{CloudReply, CloudRequest, CloudResult, Instance, InstanceState};
use crate::core::fact::FactKind;
use crate::core::site::{Account, AfterMaxHibernation, NodeGroup};
use crate::core::slurm_api::{NodeFlags, NodeStateChange, NodeUpdate, SlurmRequest, SlurmResult};
use crate::core::time::Now;

/// Reason of a node that is closed to new jobs while its instance sleeps.
pub(super) const ASLEEP_REASON: &str = "hibernated by EC2";

pub(super) const MINUTE_MS: u64 = 60_000;

/// How soon slurmctld is asked again to close a node.
const CLOSE_RETRY_MS: u64 = 5_000;

/// One sleeping node.
#[derive(Clone, Debug)]
pub(super) struct Sleep {
    pub(super) since: u64,
    pub(super) since_unix_ms: u64,
    /// Minutes already added to the job's time limit.
    extended: u64,
    /// The longest sleep has passed, and what is configured for that has been done.
    given_up: bool,
    /// `mono_ms` before which no move to on-demand is begun.
    move_at: u64,
    /// `mono_ms` at which slurmctld is to be asked to close the node to new jobs; `None`: it was.
    close_at: Option<u64>,
}

impl Sleep {
    pub(super) fn begun(now: Now, since_unix_ms: u64) -> Self {
        Self {
            since: now.mono_ms,
            since_unix_ms,
            extended: 0,
            given_up: false,
            move_at: 0,
            close_at: Some(0),
        }
    }

    /// A move that failed is not tried again before `at`.
    pub(super) fn not_before(&mut self, at: u64) {
        self.move_at = at;
    }
}

impl NodeGroup {
    /// Whether EC2 hibernates this group's instances when it takes Spot capacity back.
    #[must_use]
    pub fn hibernates(&self) -> bool {
        self.spot_options.instance_interruption_behavior.as_deref() == Some("hibernate")
    }

    /// Whether instances that sleep too long are replaced by on-demand instances with their disks.
    #[must_use]
    pub fn moves_to_on_demand(&self) -> bool {
        self.hibernates()
            && self.hibernation.max_minutes.is_some()
            && self.hibernation.after_max == AfterMaxHibernation::OnDemand
    }
}

/// Nodes whose instance sleeps, wakes or moves.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// `mono_ms` at which slurmctld is told again that sleeping nodes respond.
    alive_at: u64,
    pub(super) sleeping: Watched<String, Sleep>,
    /// Nodes whose instance is back, until slurmd must have answered.
    pub(super) woken: Agenda<String>,
    /// Of these, for which the time is over, and since when: EC2's and Slurm's next answers decide.
    pub(super) overdue: BTreeMap<String, u64>,
    /// Pace of the moves to on-demand, by node; their state is in the journal.
    pub(super) paces: BTreeMap<String, Pace>,
}

/// When slurmctld hears of sleepers, and EC2 is asked for them.
#[derive(Debug, Default)]
pub(super) struct Hibernation {
    watch_at: u64,
    watches_in_flight: u32,
}

impl Hibernation {
    /// A third of SlurmdTimeout: slurmctld pings as often, and two of three may fail.
    fn alive_interval_ms(&self, g: &Ground) -> u64 {
        (u64::from(g.cx.site.settings.slurmd_timeout_s) * 1000 / 3).clamp(2_000, 60_000)
    }

    pub(super) fn mind_sleepers(&mut self, g: &mut Ground) {
        self.watch_for_sleep(g);
        self.mind_woken(g);
        self.keep_alive(g);
        self.mind_time_asleep(g);
    }

    /// Nodes up on instances that may be put to sleep are looked at often enough to be ahead of SlurmdTimeout.
    fn watch_for_sleep(&mut self, g: &mut Ground) {
        if self.watches_in_flight > 0
            || !g
                .cx
                .site
                .groups()
                .iter()
                .any(|group| group.hibernates() && g.cx.ledger.bound_in(&group.stem()) != Bound::default())
        {
            return;
        }
        if self.watch_at > g.cx.now.mono_ms {
            g.cx.wake(self.watch_at);
            return;
        }
        let mut by_account: BTreeMap<Account, Vec<String>> = BTreeMap::new();
        for (node, binding) in &g.cx.persisted.bindings {
            let up = g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep);
            if up && g.cx.site.locate(node).is_some_and(|(group, _)| group.hibernates()) {
                by_account.entry(binding.account.clone()).or_default().push(binding.instance_id.clone());
            }
        }
        self.watch_at = g.cx.now.mono_ms + self.alive_interval_ms(g).min(10_000);
        for (account, ids) in by_account {
            self.watches_in_flight += 1;
            g.cx.cloud(Purpose::WatchSleep { account }, CloudRequest::DescribeInstances { ids });
        }
    }

    pub(super) fn take_sleep_watch(&mut self, g: &mut Ground, result: CloudResult) {
        self.watches_in_flight = self.watches_in_flight.saturating_sub(1);
        // An unanswered question changes nothing: who sleeps sleeps on, who is awake is left to Slurm.
        let Ok(CloudReply::Instances(instances)) = result else { return };
        let mut moved = Vec::new();
        for instance in &instances {
            g.sleepers.note_instance_state(&mut g.cx, instance);
            // It may have come back with another address, under which alone its slurmd answers.
            let binding = g.cx.ledger.owner(&instance.id).and_then(|node| g.cx.persisted.bindings.get(node));
            if let (Some(binding), Some(addr)) = (binding, &instance.private_ip)
                && instance.state == InstanceState::Running
                && binding.addr != *addr
            {
                moved.push((binding.clone(), addr.clone()));
            }
        }
        g.addresses.follow_addresses(&mut g.cx, moved);
    }

    /// `mono_ms` at which it is asked for again.
    fn close(&mut self, g: &mut Ground, node: &str) -> Option<u64> {
        let at = g.sleepers.sleeping.get(node)?.close_at?;
        if at > g.cx.now.mono_ms {
            return Some(at);
        }
        g.sleepers.sleeping.get_mut(node)?.close_at = None;
        let update = NodeUpdate {
            names: vec![node.to_owned()],
            state: Some(NodeStateChange::Drain),
            reason: Some(format!("{REASON_PREFIX}{ASLEEP_REASON}")),
            ..NodeUpdate::default()
        };
        g.cx.slurm_call(Purpose::Close { node: node.to_owned() }, SlurmRequest::UpdateNodes(update));
        None
    }

    pub(super) fn take_closed(&mut self, g: &mut Ground, node: &str, result: SlurmResult) {
        let again = g.cx.now.mono_ms + CLOSE_RETRY_MS;
        if result.is_err()
            && let Some(sleep) = g.sleepers.sleeping.get_mut(node)
        {
            sleep.close_at = Some(again);
        }
        g.cx.take_minded(result);
    }

    /// slurmd has had its time since the instance came back: EC2 and Slurm are asked whether it sleeps again, or answers.
    fn mind_woken(&mut self, g: &mut Ground) {
        let now = g.cx.now.mono_ms;
        let due = g.sleepers.woken.take_due(now);
        if !due.is_empty() {
            g.sleepers.overdue.extend(due.into_iter().map(|node| (node, now)));
            self.look_at_overdue(g);
        }
        if let Some(at) = g.sleepers.woken.next() {
            g.cx.wake(at);
        }
    }

    fn look_at_overdue(&mut self, g: &mut Ground) {
        let now = g.cx.now.mono_ms;
        let mut listed = false;
        for node in g.sleepers.overdue.keys() {
            if let Some((group, _)) = g.cx.site.locate(node)
                && let Some(view) = g.sight.views.get_mut(&group.account)
            {
                listed |= view.list_now(now);
            }
        }
        if listed {
            g.cx.wake(now);
        }
    }

    /// Of the accounts in `seen`, EC2 was listed from that time on, and Slurm asked since: a node that does not
    /// respond although its instance runs is as good as dead.
    pub(super) fn end_unanswered(&mut self, g: &mut Ground, seen: &BTreeMap<Account, u64>) {
        for (node, due) in std::mem::take(&mut g.sleepers.overdue) {
            let Some((group, _)) = g.cx.site.locate(&node) else { continue };
            if seen.get(&group.account).is_none_or(|listed| *listed < due) {
                g.sleepers.overdue.insert(node, due);
                continue;
            }
            let seconds = group.hibernation.wake_timeout_s;
            let dead =
                g.cx.nodes
                    .get(&node)
                    .is_some_and(|n| n.desire == Desire::Keep && n.flags.has(NodeFlags::NOT_RESPONDING));
            if dead && !g.sleepers.sleeping.contains_key(&node) && !g.cx.is_locked(&node) {
                let message = format!("slurmd did not answer within {seconds} s after the sleep");
                g.failures.force_down(&mut g.cx, &node, Cause::Unanswered, "WakeTimeoutSec", &message);
            }
        }
        self.look_at_overdue(g);
    }

    fn keep_alive(&mut self, g: &mut Ground) {
        if g.sleepers.sleeping.is_empty() {
            return;
        }
        if g.sleepers.alive_at > g.cx.now.mono_ms {
            g.cx.wake(g.sleepers.alive_at);
            return;
        }
        g.sleepers.alive_at = g.cx.now.mono_ms + self.alive_interval_ms(g);
        g.cx.wake(g.sleepers.alive_at);
        let nodes: Vec<String> = g
            .sleepers
            .sleeping
            .iter()
            .filter(|(node, sleep)| {
                !sleep.given_up
                    && g.cx.site.locate(node).is_some_and(|(group, _)| group.hibernation.keep_responding)
            })
            .map(|(node, _)| node.clone())
            .collect();
        if !nodes.is_empty() {
            g.cx.slurm_call(Purpose::Mind, SlurmRequest::KeepResponding { nodes });
        }
    }

    /// What the time asleep leads to: a node closed to new jobs, longer time limits, and an end where the site sets one.
    fn mind_time_asleep(&mut self, g: &mut Ground) {
        for node in g.sleepers.sleeping.take_due(g.cx.now.mono_ms) {
            let looks = [self.close(g, &node), self.lengthen_jobs(g, &node), self.end_long_sleep(g, &node)];
            g.sleepers.sleeping.look_again(&node, looks.into_iter().flatten().min());
        }
        if let Some(at) = g.sleepers.sleeping.next_look() {
            g.cx.wake(at);
        }
    }

    /// The time asleep does not count against the job: a minute is added before each minute passes.
    ///
    /// `mono_ms` of the next minute.
    fn lengthen_jobs(&mut self, g: &mut Ground, node: &str) -> Option<u64> {
        let (group, _) = g.cx.site.locate(node)?;
        let sleep = g.sleepers.sleeping.get_mut(node)?;
        if !group.hibernation.extend_time_limit || sleep.given_up {
            return None;
        }
        let begun = g.cx.now.since(sleep.since) / MINUTE_MS + 1;
        let missing = begun.saturating_sub(sleep.extended);
        sleep.extended = sleep.extended.max(begun);
        let next = sleep.since + sleep.extended * MINUTE_MS;
        if missing > 0 {
            let minutes = u32::try_from(missing).unwrap_or(u32::MAX);
            g.cx.slurm_call(Purpose::Mind, SlurmRequest::ExtendJobs { node: node.to_owned(), minutes });
        }
        Some(next)
    }

    /// `mono_ms` at which the sleep is too long.
    fn end_long_sleep(&mut self, g: &mut Ground, node: &str) -> Option<u64> {
        let (group, _) = g.cx.site.locate(node)?;
        let rules = &group.hibernation;
        let after = rules.after_max;
        let minutes = rules.max_minutes.filter(|_| after != AfterMaxHibernation::Wait)?;
        if g.cx.is_relocating(node) {
            return None;
        }
        let sleep = g.sleepers.sleeping.get_mut(node).filter(|sleep| !sleep.given_up)?;
        let at = (sleep.since + u64::from(minutes) * MINUTE_MS).max(sleep.move_at);
        if at > g.cx.now.mono_ms {
            return Some(at);
        }
        if after == AfterMaxHibernation::OnDemand {
            return self.begin_relocation(g, node, minutes);
        }
        sleep.given_up = true;
        let message = format!("asleep for more than {minutes} minutes; its jobs are requeued");
        g.failures.force_down(&mut g.cx, node, Cause::Overslept, "MaxHibernationMin", &message);
        None
    }
}

impl Sleepers {
    /// slurmctld has these nodes' addresses: where an instance is back from sleep, its slurmd could not be reached before.
    pub(super) fn reach_woken(&mut self, cx: &mut Cx, nodes: &[String]) {
        let mut reached = Vec::new();
        for node in nodes {
            if !self.woken.contains(node) && !self.overdue.contains_key(node) {
                continue;
            }
            self.expect_answer(cx, node);
            reached.push(node.clone());
        }
        if !reached.is_empty() {
            cx.slurm_call(Purpose::Mind, SlurmRequest::KeepResponding { nodes: reached });
        }
    }

    /// From now on slurmd has WakeTimeoutSec to answer, whatever time it had before.
    fn expect_answer(&mut self, cx: &Cx, node: &str) {
        self.overdue.remove(node);
        if let Some((group, _)) = cx.site.locate(node) {
            let patience = u64::from(group.hibernation.wake_timeout_s) * 1000;
            self.woken.set(node.to_owned(), cx.now.mono_ms + patience);
        }
    }

    /// Asleep or awake, by what EC2 says of the instance.
    pub(super) fn note_instance_state(&mut self, cx: &mut Cx, instance: &Instance) {
        let Some(owner) = cx.ledger.owners.get_mut(&instance.id) else { return };
        owner.state = Some(instance.state);
        if !cx.site.locate(&owner.node).is_some_and(|(group, _)| group.hibernates()) {
            return;
        }
        let node = owner.node.clone();
        match instance.state {
            InstanceState::Stopping | InstanceState::Stopped => self.fall_asleep(cx, &node),
            InstanceState::Running => self.wake_up(cx, &node),
            _ => {}
        }
    }

    fn fall_asleep(&mut self, cx: &mut Cx, node: &str) {
        let up = cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Keep);
        if !up || self.sleeping.contains_key(node) {
            return;
        }
        self.sleeping.insert(node.to_owned(), Sleep::begun(cx.now, cx.now.unix_ms));
        // The time to answer was of the waking before: asleep, slurmd cannot.
        self.woken.remove(node);
        self.overdue.remove(node);
        self.alive_at = cx.now.mono_ms;
        let text = format!("EC2 hibernated the instance of {node}; its job waits");
        cx.fact(cx.new_fact(FactKind::NodeAsleep, text).nodes([node]));
    }

    pub(super) fn wake_up(&mut self, cx: &mut Cx, node: &str) {
        let drained = cx.nodes.get(node).is_some_and(|n| {
            n.flags.has(NodeFlags::DRAIN)
                && n.reason.as_deref().is_some_and(|reason| reason.contains(ASLEEP_REASON))
        });
        let slept = self.sleeping.remove(node);
        if slept.is_none() && !drained {
            return;
        }
        // From now on slurmd has SlurmdTimeout to answer, like any other.
        cx.slurm_call(Purpose::Mind, SlurmRequest::KeepResponding { nodes: vec![node.to_owned()] });
        let update = NodeUpdate {
            names: vec![node.to_owned()],
            state: Some(NodeStateChange::Undrain),
            ..NodeUpdate::default()
        };
        cx.slurm_call(Purpose::Mind, SlurmRequest::UpdateNodes(update));
        if let Some(n) = cx.nodes.get_mut(node) {
            n.flags = n.flags.without(NodeFlags::DRAIN);
        }
        self.expect_answer(cx, node);
        let ms = slept.map_or(0, |sleep| cx.now.since(sleep.since));
        let text = format!("the instance of {node} runs again after {} s asleep", ms / 1000);
        cx.fact(cx.new_fact(FactKind::NodeAwake, text).nodes([node]).after_ms(ms));
    }

    /// A node that is no longer up does not sleep.
    pub(super) fn forget_sleep(&mut self, node: &str) {
        self.woken.remove(node);
        self.overdue.remove(node);
        self.sleeping.remove(node);
    }
}
