// SPDX-License-Identifier: GPL-3.0-or-later
//! Sleeping nodes: slurmctld hears that they respond, their jobs get the time back, and a long sleep has an end.

use std::collections::BTreeMap;

use crate::ec2_api::{CloudReply, CloudRequest, CloudResult, InstanceState};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::{CloudPurpose, SlurmPurpose};
use crate::engine::cx::ledger::Bound;
use crate::engine::cx::nodes::Desire;
use crate::engine::ground::Ground;
use crate::engine::ground::failures::{Cause, REASON_PREFIX};
use crate::engine::ground::sleepers::{ASLEEP_REASON, MINUTE_MS};
use crate::engine::hibernation::Hibernation;
use crate::site::{Account, AfterMaxHibernation};
use crate::slurm_api::{NodeFlags, NodeStateChange, NodeUpdate, SlurmRequest, SlurmResult};

/// How soon slurmctld is asked again to close a node.
const CLOSE_RETRY_MS: u64 = 5_000;

impl Hibernation {
    /// A third of SlurmdTimeout: slurmctld pings as often, and two of three may fail.
    fn alive_interval_ms(&self, g: &Ground) -> u64 {
        (u64::from(g.cx.site.settings.slurmd_timeout_s) * 1000 / 3).clamp(2_000, 60_000)
    }

    pub(crate) fn mind_sleepers(&mut self, g: &mut Ground) -> Deadline {
        let watch = self.watch_for_sleep(g);
        let woken = self.mind_woken(g);
        let alive = self.keep_alive(g);
        watch.or(woken).or(alive).or(self.mind_time_asleep(g))
    }

    /// Nodes up on instances that may be put to sleep are looked at often enough to be ahead of SlurmdTimeout.
    fn watch_for_sleep(&mut self, g: &mut Ground) -> Deadline {
        if self.watches_in_flight > 0
            || !g
                .cx
                .site
                .groups()
                .iter()
                .any(|group| group.hibernates() && g.cx.ledger.bound_in(&group.stem()) != Bound::default())
        {
            return Deadline::NONE;
        }
        if self.watch_at > g.cx.now.mono_ms {
            return Deadline::at(self.watch_at);
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
            g.cx.cloud(CloudPurpose::WatchSleep { account }, CloudRequest::DescribeInstances { ids });
        }
        Deadline::NONE
    }

    pub(crate) fn take_sleep_watch(&mut self, g: &mut Ground, result: CloudResult) {
        self.watches_in_flight = self.watches_in_flight.saturating_sub(1);
        // An unanswered question changes nothing: who sleeps sleeps on, who is awake is left to Slurm.
        let Ok(instances) = result.and_then(CloudReply::into_instances) else { return };
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
        g.cx.slurm_call(SlurmPurpose::Close { node: node.to_owned() }, SlurmRequest::UpdateNodes(update));
        None
    }

    pub(crate) fn take_closed(&mut self, g: &mut Ground, node: &str, result: SlurmResult) {
        let again = g.cx.now.mono_ms + CLOSE_RETRY_MS;
        if result.is_err()
            && let Some(sleep) = g.sleepers.sleeping.get_mut(node)
        {
            sleep.close_at = Some(again);
        }
        g.cx.take_minded(result);
    }

    /// slurmd has had its time since the instance came back: EC2 and Slurm are asked whether it sleeps again, or answers.
    fn mind_woken(&mut self, g: &mut Ground) -> Deadline {
        let now = g.cx.now.mono_ms;
        let due = g.sleepers.woken.take_due(now);
        let mut next = Deadline::from(g.sleepers.woken.next());
        if !due.is_empty() {
            g.sleepers.overdue.extend(due.into_iter().map(|node| (node, now)));
            // The lists of this step have been made.
            if self.look_at_overdue(g) {
                next = next.or(Some(now));
            }
        }
        next
    }

    /// Have the accounts of nodes that do not answer listed; false if nothing more is to be listed for them.
    fn look_at_overdue(&mut self, g: &mut Ground) -> bool {
        let mut listed = false;
        for node in g.sleepers.overdue.keys() {
            if let Some((group, _)) = g.cx.site.locate(node) {
                listed |= g.sight.list_now(&g.cx, &group.account);
            }
        }
        listed
    }

    /// Of the accounts in `seen`, EC2 was listed from that time on, and Slurm asked since: a node that does not
    /// respond although its instance runs is as good as dead.
    pub(crate) fn end_unanswered(&mut self, g: &mut Ground, seen: &BTreeMap<Account, u64>) {
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

    fn keep_alive(&mut self, g: &mut Ground) -> Deadline {
        if g.sleepers.sleeping.is_empty() {
            return Deadline::NONE;
        }
        if g.sleepers.alive_at > g.cx.now.mono_ms {
            return Deadline::at(g.sleepers.alive_at);
        }
        g.sleepers.alive_at = g.cx.now.mono_ms + self.alive_interval_ms(g);
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
            g.cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::KeepResponding { nodes });
        }
        Deadline::at(g.sleepers.alive_at)
    }

    /// What the time asleep leads to: a node closed to new jobs, longer time limits, and an end where the site sets one.
    fn mind_time_asleep(&mut self, g: &mut Ground) -> Deadline {
        for node in g.sleepers.sleeping.take_due(g.cx.now.mono_ms) {
            let looks = [self.close(g, &node), self.lengthen_jobs(g, &node), self.end_long_sleep(g, &node)];
            g.sleepers.sleeping.look_again(&node, looks.into_iter().flatten().min());
        }
        g.sleepers.sleeping.next_look().into()
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
            g.cx.slurm_call(SlurmPurpose::Mind, SlurmRequest::ExtendJobs { node: node.to_owned(), minutes });
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
