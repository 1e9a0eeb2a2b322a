// SPDX-License-Identifier: GPL-3.0-or-later
//! Hibernated nodes that move to on-demand: the steps of `core::relocation`, written down, sent and repeated.
//!
//! The node keeps its binding to the Spot instance, and is kept responding, until the on-demand instance runs.

use crate::ec2_api::{CloudError, CloudReply, CloudRequest, CloudResult, ErrorClass, Instance};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::ground::Ground;
use crate::engine::ground::sleepers::{MINUTE_MS, Pace};
use crate::engine::hibernation::Hibernation;
use crate::fact::FactKind;
use crate::limits::{ActionGroup, backoff_ms};
use crate::record::{Outcome, Record};
use crate::relocation::{End, Next, Relocation, Sight, Stage};
use crate::tag;

/// Decisions between two looks; a move has fewer stages.
const MAX_CHANGES: usize = 64;

/// A step that takes longer is undone, or reported where there is no way back.
const STAGE_PATIENCE_MS: u64 = 10 * MINUTE_MS;

/// Attempts at a change that EC2 may still accept, before it is undone.
const RETRIES: u32 = 8;

/// Attempts at one that EC2 refuses. What is shown may be older than what EC2 knows.
const REFUSALS: u32 = 3;

/// EC2 refuses to hibernate an instance until its agent is ready; after these it is stopped instead.
const HIBERNATE_ATTEMPTS: u32 = 15;

/// A trouble that lasts is told again after so many attempts.
const TELL_EVERY: u32 = 20;

impl Hibernation {
    /// The node has slept for more than `minutes`. `mono_ms` of the next attempt if none can be made now.
    pub(crate) fn begin_relocation(&mut self, g: &mut Ground, node: &str, minutes: u32) -> Option<u64> {
        // Tried again after the same time if this comes to nothing.
        let again = g.cx.now.mono_ms + u64::from(minutes) * MINUTE_MS;
        let sleep = g.sleepers.sleeping.get_mut(node)?;
        sleep.not_before(again);
        let asleep_since_unix_ms = sleep.since_unix_ms;
        if g.cx.is_locked(node) {
            return Some(again);
        }
        let binding = g.cx.persisted.bindings.get(node).cloned()?;
        let (group, _) = g.cx.site.locate(node)?;
        let tags = tag::at_birth(&g.cx.site, group, "");
        let cluster = g.cx.site.cluster.clone();
        let Some(fleet_id) = g.cx.persisted.fleets.get(node).map(|fleet| fleet.fleet_id.clone()) else {
            let text =
                format!("{node} cannot move to on-demand: the fleet of {} is not known", binding.instance_id);
            g.cx.fact(g.cx.new_fact(FactKind::MoveFailed, text).nodes([node]));
            return Some(again);
        };
        let text =
            format!("{node} has slept for more than {minutes} minutes and moves to an on-demand instance");
        g.cx.fact(
            g.cx.new_fact(FactKind::NodeMoving, text).nodes([node]).instances([binding.instance_id.clone()]),
        );
        let moving = Relocation {
            node: node.to_owned(),
            cluster,
            account: binding.account,
            stage: Stage::Inspect,
            from: binding.instance_id,
            fleet_id,
            token: g.cx.new_token(),
            tries: 0,
            tags,
            begun_unix_ms: g.cx.now.unix_ms,
            asleep_since_unix_ms,
            zone: String::new(),
            platform: String::new(),
            launch: crate::ec2_api::RunInstance::default(),
            volumes: Vec::new(),
            interfaces: Vec::new(),
            reservation: None,
            reserved_until_unix_ms: 0,
            spent_reservations: Vec::new(),
            to: None,
            to_unix_ms: 0,
            own_volumes: Vec::new(),
            tagged: None,
            moved: false,
            abandoned: false,
            problem: None,
        };
        g.sleepers.paces.insert(node.to_owned(), Pace { stage_since: g.cx.now.mono_ms, ..Pace::default() });
        g.sleepers.remember(&mut g.cx, moving);
        None
    }

    pub(crate) fn mind_relocations(&mut self, g: &mut Ground) -> Deadline {
        let mut next = Deadline::NONE;
        let now = g.cx.now.mono_ms;
        let nodes: Vec<String> = g.cx.persisted.relocations.keys().cloned().collect();
        for node in nodes {
            let pace = g.sleepers.pace(&node);
            if pace.in_flight {
                continue;
            }
            let at = pace.next_at;
            if at > now {
                next = next.or(Some(at));
            } else {
                self.look(g, &node);
            }
        }
        next
    }

    fn look(&mut self, g: &mut Ground, node: &str) {
        let Some(moving) = g.cx.moving(node) else { return };
        g.sleepers.pace(node).in_flight = true;
        let purpose = CloudPurpose::Relocate {
            account: moving.account.clone(),
            node: node.to_owned(),
            intent: None,
            group: ActionGroup::Describe,
        };
        g.cx.cloud(purpose, moving.look());
    }

    fn change(&mut self, g: &mut Ground, moving: &Relocation, mut request: CloudRequest) {
        let attempts = g.sleepers.pace(&moving.node).attempts;
        if let CloudRequest::StopInstance { hibernate, .. } = &mut request {
            *hibernate = attempts < HIBERNATE_ATTEMPTS;
        }
        let group = ActionGroup::of(&request);
        let intent = g.cx.record_intent(&moving.account, request.clone(), None);
        g.sleepers.pace(&moving.node).in_flight = true;
        let (account, node) = (moving.account.clone(), moving.node.clone());
        g.cx.cloud(CloudPurpose::Relocate { account, node, intent: Some(intent), group }, request);
    }

    pub(crate) fn take_relocation(
        &mut self,
        g: &mut Ground,
        node: &str,
        intent: Option<u64>,
        result: CloudResult,
    ) {
        g.sleepers.pace(node).in_flight = false;
        let request = intent.and_then(|id| g.cx.open_request(id));
        if let Some(id) = intent {
            let outcome = match &result {
                Ok(reply) => Outcome::Done(reply.clone()),
                Err(error) => Outcome::Failed(error.clone()),
            };
            g.cx.record(Record::Outcome { id, outcome });
        }
        let Some(moving) = g.cx.moving(node) else { return };
        match (request, result) {
            (None, result) => match result.and_then(CloudReply::into_parts) {
                Ok((instances, volumes)) => self.go_on(g, node, &instances, &volumes),
                Err(error) => self.look_failed(g, node, &error),
            },
            (Some(request), Ok(reply)) => {
                let made = match reply {
                    CloudReply::Instances(instances) => instances.into_iter().next().map(|found| found.id),
                    CloudReply::Reserved { id } => Some(id),
                    _ => None,
                };
                let next = moving.accepted(&request, made, g.cx.now.unix_ms);
                g.sleepers.pace(node).attempts = 0;
                g.sleepers.pace(node).next_at = 0;
                self.set(g, &moving, next);
            }
            (Some(request), Err(error)) => self.refused(g, &moving, &request, &error),
        }
    }

    /// What is not known decides nothing.
    fn look_failed(&mut self, g: &mut Ground, node: &str, error: &CloudError) {
        let attempts = g.sleepers.pace(node).attempts + 1;
        g.sleepers.pace(node).attempts = attempts;
        self.later(g, node, attempts);
        self.tell_trouble(g, node, "DescribeVolumes", error);
    }

    fn later(&mut self, g: &mut Ground, node: &str, attempts: u32) {
        let wait = backoff_ms(attempts + 1, &mut g.cx.rng);
        let at = g.cx.now.mono_ms + wait;
        g.sleepers.pace(node).next_at = at;
    }

    fn refused(&mut self, g: &mut Ground, moving: &Relocation, request: &CloudRequest, error: &CloudError) {
        let node = moving.node.as_str();
        let retryable = error.class.is_retryable();
        let attempts = g.sleepers.pace(node).attempts + 1;
        g.sleepers.pace(node).attempts = attempts;
        self.later(g, node, attempts);
        let limit = match moving.stage {
            _ if retryable => RETRIES,
            Stage::Reserve | Stage::Rehearse => 1,
            _ => REFUSALS,
        };
        if moving.stage < Stage::EndSpot {
            if moving.stage == Stage::Rehearse
                && moving.launch.cpu.is_some()
                && error.class == ErrorClass::Configuration
            {
                // Some types take no CPU options, not even their own.
                let mut next = moving.clone();
                next.launch.cpu = None;
                self.set(g, moving, next);
            } else if attempts >= limit {
                let mut next = moving.clone();
                next.stage = Stage::Undo;
                next.problem = Some(format!("{}: {error}", request.action()));
                g.sleepers.pace(node).next_at = 0;
                self.set(g, moving, next);
            }
            return;
        }
        self.tell_trouble(g, node, request.action(), error);
        let capacity = error.class == ErrorClass::Capacity || error.code.contains("CapacityReservation");
        let launching =
            matches!(request, CloudRequest::RunInstance(_) | CloudRequest::CreateCapacityReservation(_));
        if launching && (capacity || error.class == ErrorClass::IdempotentMismatch) {
            self.set(g, moving, moving.begun_anew());
        } else if attempts >= limit
            && let Some(next) = moving.without(request)
        {
            self.tell_left(g, &next, &format!("{} was refused: {error}", request.action()));
            self.set(g, moving, next);
        }
    }

    fn tell_trouble(&mut self, g: &mut Ground, node: &str, action: &str, error: &CloudError) {
        let Some(moving) = g.cx.moving(node) else { return };
        let attempts = g.sleepers.pace(node).attempts;
        let told = g.sleepers.pace(node).told.replace(error.code.clone());
        if told.as_ref() == Some(&error.code) && !attempts.is_multiple_of(TELL_EVERY) {
            return;
        }
        let text = format!(
            "the move of {node} stands still and is tried again: it {}; {action} failed: {}. Its volumes are {}",
            moving.stage.text(),
            error.message,
            moving.volume_ids().join(", ")
        );
        g.cx.fact(g.cx.new_fact(FactKind::MoveDelayed, text).nodes([node]).code(error.code.clone()));
    }

    fn tell_left(&mut self, g: &mut Ground, moving: &Relocation, why: &str) {
        let node = &moving.node;
        let text = format!(
            "volumes {} and interfaces {} of {node} are not deleted by the plugin ({why}); they have the tag {} with the \
             node or {}: delete them, or attach the volumes to an instance, when their data is not needed any more",
            listed(&moving.volume_ids()),
            listed(&moving.interface_ids()),
            tag::RELOCATION,
            tag::LEFT_OVER,
        );
        g.cx.fact(g.cx.new_fact(FactKind::VolumesLeft, text).nodes([node]));
    }

    /// Decide with what EC2 has just shown, until something is to be waited for.
    fn go_on(
        &mut self,
        g: &mut Ground,
        node: &str,
        instances: &[crate::ec2_api::InstanceParts],
        volumes: &[crate::ec2_api::Volume],
    ) {
        for _ in 0..MAX_CHANGES {
            let Some(moving) = g.cx.moving(node) else { return };
            let fleet_gone = !g.cx.ledger.is_fleet(&moving.fleet_id);
            let sight = Sight { instances, volumes, fleet_gone, unix_ms: g.cx.now.unix_ms };
            match moving.next(&sight) {
                Next::Change(next) => self.set(g, &moving, *next),
                Next::Look => {
                    g.sleepers.pace(node).next_at = 0;
                    return;
                }
                Next::Wait(ms) => {
                    self.wait(g, &moving, ms);
                    return;
                }
                Next::EndFleet => {
                    g.deletions.end_fleet(&g.cx, &moving.account, moving.fleet_id.clone());
                    self.wait(g, &moving, 1_000);
                    return;
                }
                Next::Call(request) => {
                    self.change(g, &moving, request);
                    return;
                }
                Next::Bind(instance) => self.give_node(g, &moving, *instance),
                Next::Over(end) => {
                    self.finish(g, &moving, end);
                    return;
                }
            }
        }
        self.later(g, node, 1);
    }

    fn wait(&mut self, g: &mut Ground, moving: &Relocation, ms: u64) {
        let now = g.cx.now;
        let node = moving.node.as_str();
        g.sleepers.pace(node).next_at = now.mono_ms + ms;
        if now.since(g.sleepers.pace(node).stage_since) < STAGE_PATIENCE_MS {
            return;
        }
        g.sleepers.pace(node).stage_since = now.mono_ms;
        let minutes = STAGE_PATIENCE_MS / MINUTE_MS;
        if moving.stage < Stage::EndSpot {
            let mut next = moving.clone();
            next.stage = Stage::Undo;
            next.problem = Some(format!("EC2 has not finished after {minutes} minutes"));
            self.set(g, moving, next);
        } else {
            let text = format!(
                "the move of {node} stands still for {minutes} minutes: it {}. Its volumes are {}",
                moving.stage.text(),
                moving.volume_ids().join(", ")
            );
            g.cx.fact(g.cx.new_fact(FactKind::MoveDelayed, text).nodes([node]));
        }
    }

    fn set(&mut self, g: &mut Ground, before: &Relocation, next: Relocation) {
        if next == *before {
            return;
        }
        let node = next.node.clone();
        if next.stage != before.stage {
            let now = g.cx.now.mono_ms;
            let pace = g.sleepers.pace(&node);
            pace.attempts = 0;
            pace.stage_since = now;
            pace.told = None;
            let mut text = format!("the move of {node} to on-demand: it {}", next.stage.text());
            if let Some(problem) =
                next.problem.as_ref().filter(|problem| Some(*problem) != before.problem.as_ref())
            {
                text.push_str(&format!(", because of this: {problem}"));
            }
            let instances: Vec<String> = next.to.iter().chain([&next.from]).cloned().collect();
            g.cx.fact(g.cx.new_fact(FactKind::NodeMoving, text).nodes([&node]).instances(instances));
        }
        g.sleepers.remember(&mut g.cx, next);
    }

    fn give_node(&mut self, g: &mut Ground, moving: &Relocation, instance: Instance) {
        let node = moving.node.as_str();
        let slept = g.cx.now.unix_ms.saturating_sub(moving.asleep_since_unix_ms);
        g.tags.forget(node);
        let text = format!(
            "{node} goes on as on-demand instance {} with the volumes {} of {}",
            instance.id,
            moving.volume_ids().join(", "),
            moving.from
        );
        let ids = [instance.id.clone(), moving.from.clone()];
        g.cx.fact(g.cx.new_fact(FactKind::NodeMoved, text).nodes([node]).instances(ids).after_ms(slept));
        g.bind(&moving.account, Some(&moving.launch_token()), vec![(node.to_owned(), instance)], 0);
        // The address is the old one, the instance is not.
        g.addresses.want(node.to_owned());
        let mut next = moving.clone();
        next.moved = true;
        next.stage = Stage::Restore;
        self.set(g, moving, next);
        g.sleepers.wake_up(&mut g.cx, node);
    }

    fn finish(&mut self, g: &mut Ground, moving: &Relocation, end: End) {
        let node = moving.node.as_str();
        let why = moving.problem.clone().unwrap_or_else(|| "Slurm does not want the node any more".into());
        g.cx.record(Record::Relocation { node: node.to_owned(), relocation: None });
        g.sleepers.paces.remove(node);
        match end {
            End::Moved => {}
            End::Undone => {
                let text =
                    format!("{node} did not move to on-demand and waits for Spot capacity again: {why}");
                g.cx.fact(g.cx.new_fact(FactKind::MoveFailed, text).nodes([node]));
                // Its next attempt has a time.
                g.sleepers.sleeping.touch(node);
                if moving.abandoned {
                    g.deletions.end_fleet(&g.cx, &moving.account, moving.fleet_id.clone());
                }
            }
            End::Left { volumes, .. } => {
                if !volumes.is_empty() {
                    self.tell_left(g, moving, &why);
                }
                if g.cx.persisted.bindings.get(node).is_some_and(|binding| binding.instance_id == moving.from)
                {
                    g.lose_instance(node, &moving.from, &why);
                }
            }
        }
    }
}

fn listed(ids: &[String]) -> String {
    if ids.is_empty() { "(none)".into() } else { ids.join(", ") }
}
