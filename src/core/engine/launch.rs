// SPDX-License-Identifier: GPL-3.0-or-later
//! CreateFleet for nodes that wait together: sent, repeated, answered, short or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fleet::Fulfil;
use super::outbox::Purpose;
use super::pools::Pool;
use super::report::{Cause, reason};
use super::view::launch_error;
use super::watched::Watched;
use super::{Cx, Desire, Engine, Ground};
use crate::core::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, FleetReply, FleetType,
    PoolError,
};
use crate::core::fact::FactKind;
use crate::core::limits::backoff_ms;
use crate::core::record::{LaunchIntent, LaunchJob, Outcome, Record};
use crate::core::site::{Account, Lifecycle, NodeGroup};

/// An unanswered or unfinished CreateFleet.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) group: String,
    pub(super) account: Account,
    pub(super) token: String,
    pub(super) lifecycle: Lifecycle,
    /// Nodes that still wait, in binding order.
    pub(super) nodes: Vec<String>,
    /// The job whose nodes were asked for, all or none.
    pub(super) job: Option<u64>,
    pub(super) started: u64,
    /// `mono_ms` at which the nodes are reported as failed.
    pub(super) deadline: u64,
    pub(super) phase: Phase,
    pub(super) last_error: Option<CloudError>,
}

impl Launch {
    /// Instances that EC2 named in its answer and that have no node yet.
    pub(super) fn expected(&self) -> impl Iterator<Item = &str> {
        let pending = match &self.phase {
            Phase::Describing { pending, .. } => pending.as_slice(),
            Phase::Recovering | Phase::Creating { .. } => &[],
        };
        pending.iter().map(String::as_str)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Found in the journal; whether it is still wanted is decided when EC2 and Slurm have been listed.
    Recovering,
    Creating {
        in_flight: bool,
        attempts: u32,
        next_at: u64,
    },
    /// EC2 gave these instances; their addresses are asked for.
    Describing {
        pending: Vec<String>,
        in_flight: bool,
        attempts: u32,
        next_at: u64,
        since: u64,
    },
}

/// Nodes for which Spot had nothing, and which may have on-demand instances.
#[derive(Debug)]
pub(super) struct FallBack {
    pub(super) group: Arc<NodeGroup>,
    pub(super) nodes: Vec<String>,
}

/// A replay after this long could make a second fleet, should EC2 have forgotten the token.
const TOKEN_TRUST_MS: u64 = 3_600_000;

/// Who launches: instances for nodes that wait together, and fleets of single nodes.
#[derive(Debug)]
pub(super) struct Launching;

/// What was asked of EC2 and has not come yet.
#[derive(Debug, Default)]
pub(super) struct Launches {
    /// CreateFleet calls, by intent.
    pub(super) open: Watched<u64, Launch>,
    /// Pools that a node's fleet launch has tried, and since when, by intent.
    pub(super) attempts_of: BTreeMap<u64, (BTreeSet<Pool>, u64)>,
    /// Fleets that have no instance yet, by node.
    pub(super) fulfilling: Watched<String, Fulfil>,
}

impl Cx {
    pub(super) fn new_token(&mut self) -> String {
        self.counter += 1;
        format!("ec2fleet-{}-{}", self.options.nonce, self.counter)
    }

    /// Half a minute before Slurm's ResumeTimeout would strike the first of the nodes, but never below a minute.
    pub(super) fn launch_deadline(&self, nodes: &[String]) -> u64 {
        let patience =
            (u64::from(self.site.settings.resume_timeout_s) * 1000).saturating_sub(30_000).max(60_000);
        self.since_first(nodes).unwrap_or(self.now.mono_ms) + patience
    }

    /// `mono_ms` since which the first of these nodes is as Slurm wants it now.
    pub(super) fn since_first(&self, nodes: &[String]) -> Option<u64> {
        nodes.iter().filter_map(|node| self.nodes.get(node)).map(|node| node.since).min()
    }

    /// Milliseconds since Slurm decided to power up the first of these nodes.
    pub(super) fn waited(&self, nodes: &[String]) -> u64 {
        self.since_first(nodes).map_or(0, |since| self.now.since(since))
    }

    pub(super) fn still_wanted(&self, nodes: &[String]) -> Vec<String> {
        nodes.iter().filter(|node| self.wants_instance(node)).cloned().collect()
    }

    /// These nodes no longer wait in this launch.
    pub(super) fn release(&mut self, nodes: &[String], id: u64) {
        for name in nodes {
            if let Some(node) = self.nodes.get_mut(name)
                && node.launch == Some(id)
            {
                node.launch = None;
            }
        }
    }
}

impl Launching {
    /// The intent, and the launch that follows from it.
    pub(super) fn record_launch(
        &mut self,
        g: &mut Ground,
        group: &NodeGroup,
        nodes: Vec<String>,
        lifecycle: Lifecycle,
        token: String,
        request: CreateFleet,
    ) -> u64 {
        let deadline = g.cx.launch_deadline(&nodes);
        let jobs = g.waiting.launch_jobs(&nodes);
        let job = whole_job(&request, &jobs);
        let request = CloudRequest::CreateFleet(Box::new(request));
        let launch = LaunchIntent { group: group.stem(), nodes: nodes.clone(), jobs };
        let id = g.cx.record_intent(&group.account, request, Some(launch));
        for node in &nodes {
            if let Some(node) = g.cx.nodes.get_mut(node) {
                node.launch = Some(id);
            }
        }
        g.launches.open.insert(
            id,
            Launch {
                group: group.stem(),
                account: group.account.clone(),
                token,
                lifecycle,
                nodes,
                job,
                started: g.cx.now.mono_ms,
                deadline,
                phase: Phase::Creating { in_flight: false, attempts: 0, next_at: g.cx.now.mono_ms },
                last_error: None,
            },
        );
        id
    }

    /// EC2 and Slurm are known: replay what is still wanted, close the rest.
    pub(super) fn settle_recovered(&mut self, g: &mut Ground, account: &Account) {
        let ids: Vec<u64> = g
            .launches
            .open
            .iter()
            .filter(|(_, launch)| matches!(launch.phase, Phase::Recovering) && launch.account == *account)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(nodes) = g.launches.open.get(&id).map(|launch| launch.nodes.clone()) else {
                continue;
            };
            let wanted: Vec<String> =
                nodes.iter().filter(|node| g.cx.wants_instance(node)).cloned().collect();
            let written = g.cx.persisted.open.get(&id).map_or(0, |intent| intent.unix_ms);
            let trusted = g.cx.now.unix_ms.abs_diff(written) < TOKEN_TRUST_MS;
            if wanted.is_empty() || !trusted {
                self.close_launch(g, id, Outcome::Abandoned("not wanted any more after a restart".into()));
                g.waiting.requeue(&mut g.cx, &wanted);
                continue;
            }
            let deadline = g.cx.launch_deadline(&wanted);
            let now = g.cx.now.mono_ms;
            if let Some(launch) = g.launches.open.get_mut(&id) {
                launch.deadline = deadline;
                launch.phase = Phase::Creating { in_flight: false, attempts: 0, next_at: now };
            }
        }
    }

    pub(super) fn advance_launches(&mut self, g: &mut Ground) {
        for id in g.launches.open.take_due(g.cx.now.mono_ms) {
            self.pass_deadline(g, id);
            self.advance_launch(g, id);
            let look = g.launches.open.get(&id).and_then(Self::next_look);
            g.launches.open.look_again(&id, look);
        }
        if let Some(at) = g.launches.open.next_look() {
            g.cx.wake(at);
        }
    }

    /// `mono_ms` at which time alone changes something for this launch.
    fn next_look(launch: &Launch) -> Option<u64> {
        let deadline = Some(launch.deadline).filter(|at| *at != u64::MAX && !launch.nodes.is_empty());
        let phase = match launch.phase {
            Phase::Creating { in_flight: false, next_at, .. }
            | Phase::Describing { in_flight: false, next_at, .. } => Some(next_at),
            Phase::Recovering | Phase::Creating { .. } | Phase::Describing { .. } => None,
        };
        deadline.into_iter().chain(phase).min()
    }

    /// At the deadline the nodes are reported; the launch itself goes on until EC2 has answered.
    fn pass_deadline(&mut self, g: &mut Ground, id: u64) {
        let now = g.cx.now.mono_ms;
        let Some(launch) = g.launches.open.get_mut(&id) else { return };
        if launch.nodes.is_empty() {
            return;
        }
        if launch.deadline > now {
            return;
        }
        let nodes = std::mem::take(&mut launch.nodes);
        let error = launch.last_error.clone();
        let (code, message) = match error {
            Some(error) => {
                (error.code, format!("no instance before ResumeTimeout; EC2 last said: {}", error.message))
            }
            None => {
                ("LaunchTimeout".to_owned(), "EC2 gave no usable instance before ResumeTimeout".to_owned())
            }
        };
        g.cx.release(&nodes, id);
        g.fail_nodes(&nodes, &code, &message);
    }

    fn advance_launch(&mut self, g: &mut Ground, id: u64) {
        let now = g.cx.now.mono_ms;
        let Some(launch) = g.launches.open.get_mut(&id) else { return };
        match &mut launch.phase {
            Phase::Recovering => {}
            Phase::Creating { in_flight: true, .. } | Phase::Describing { in_flight: true, .. } => {}
            Phase::Creating { next_at, in_flight, .. } => {
                if launch.nodes.is_empty() {
                    self.close_launch(g, id, Outcome::Abandoned("no node waits for it any more".into()));
                } else if *next_at <= now {
                    *in_flight = true;
                    let Some(intent) = g.cx.persisted.open.get(&id) else { return };
                    let (account, request) = (intent.account.clone(), intent.request.clone());
                    let Some(launch) = g.launches.open.get(&id) else { return };
                    let text = format!(
                        "{} {} instances for {}",
                        launch.nodes.len(),
                        launch.lifecycle.as_str(),
                        launch.group
                    );
                    let fact =
                        g.cx.new_fact(FactKind::CreateFleetSent, text)
                            .nodes(&launch.nodes)
                            .group(launch.group.clone())
                            .launch(launch.token.clone())
                            .after_ms(g.cx.waited(&launch.nodes));
                    g.cx.fact(fact);
                    g.cx.cloud(Purpose::Create { account, intent: id }, request);
                }
            }
            Phase::Describing { next_at, in_flight, pending, .. } => {
                if *next_at <= now {
                    *in_flight = true;
                    let (account, ids) = (launch.account.clone(), pending.clone());
                    g.cx.cloud(
                        Purpose::DescribeLaunch { account, intent: id },
                        CloudRequest::DescribeInstances { ids },
                    );
                }
            }
        }
    }

    /// EC2 never showed these instances; whatever they are, they must not stay.
    pub(super) fn give_up_describing(&mut self, g: &mut Ground, id: u64) {
        let Some(launch) = g.launches.open.remove(&id) else { return };
        let Phase::Describing { pending, .. } = launch.phase else { return };
        for instance in pending {
            g.end_instance(&launch.account, instance);
        }
        g.cx.release(&launch.nodes, id);
        g.fail_nodes(
            &launch.nodes,
            "InvalidInstanceID.NotFound",
            "EC2 launched the instance but never showed it",
        );
    }

    /// Returns what is to be asked for on-demand instead.
    pub(super) fn take_fleet(&mut self, g: &mut Ground, id: u64, result: CloudResult) -> Option<FallBack> {
        let launch = g.launches.open.get_mut(&id)?;
        match result {
            Ok(CloudReply::Fleet(fleet)) => self.take_fleet_reply(g, id, fleet),
            Ok(other) => {
                let message = format!("unexpected reply {other:?}");
                let error = CloudError {
                    class: ErrorClass::Other,
                    code: "UnexpectedReply".into(),
                    message,
                    request_id: None,
                };
                self.fail_launch(g, id, error)
            }
            Err(error) if error.class.is_retryable() => {
                let Phase::Creating { in_flight, attempts, next_at } = &mut launch.phase else { return None };
                *in_flight = false;
                *attempts += 1;
                *next_at = g.cx.now.mono_ms + backoff_ms(*attempts, &mut g.cx.rng);
                let (group, token) = (launch.group.clone(), launch.token.clone());
                launch.last_error = Some(error.clone());
                let fact =
                    g.cx.new_fact(FactKind::CreateFleetRepeated, error.to_string())
                        .group(group)
                        .launch(token)
                        .code(error.code);
                g.cx.fact(fact);
                None
            }
            Err(error) => self.fail_launch(g, id, error),
        }
    }

    fn fail_launch(&mut self, g: &mut Ground, id: u64, error: CloudError) -> Option<FallBack> {
        let tried = g.launches.attempts_of.remove(&id);
        let least = self.least_of(g, id);
        let launch = self.close_launch(g, id, Outcome::Failed(error.clone()))?;
        let fact =
            g.cx.new_fact(FactKind::CreateFleetFailed, error.message.clone())
                .nodes(&launch.nodes)
                .group(launch.group.clone())
                .launch(launch.token.clone())
                .code(error.code.clone());
        g.cx.fact(fact);
        let last = launch_error(
            g.cx.now.unix_ms,
            &error.code,
            error.class.as_str(),
            &error.message,
            launch.nodes.len(),
        );
        g.pools.note_failure(&mut g.cx, &launch.group, last, least);
        let short = g.cx.still_wanted(&launch.nodes);
        if let (Some((tried, first)), [node], ErrorClass::Capacity) = (tried, short.as_slice(), error.class) {
            self.try_next_pool(g, node, &launch.group, launch.lifecycle, tried, first);
            return None;
        }
        let instead = self.fall_back(g, &launch, &short, &error.code);
        if instead.is_none() {
            self.refuse(g, launch.job, &short, &error.code, &error.message);
        }
        instead
    }

    fn take_fleet_reply(&mut self, g: &mut Ground, id: u64, fleet: FleetReply) -> Option<FallBack> {
        let launch = g.launches.open.get(&id).cloned()?;
        if self.is_node_fleet(g, id) {
            let intent = g.cx.persisted.open.get(&id)?;
            let node = intent.launch.as_ref()?.nodes.first().cloned()?;
            self.take_node_fleet(g, id, &node, &fleet.fleet_id);
            return None;
        }
        let (group, account, token, lifecycle, started) = (
            launch.group.clone(),
            launch.account.clone(),
            launch.token.clone(),
            launch.lifecycle,
            launch.started,
        );
        let ids = fleet.instance_ids();
        let least = self.least_of(g, id);
        for error in &fleet.errors {
            g.pools.cool(&mut g.cx, &account, error, least);
        }
        let wanted = g.cx.still_wanted(&launch.nodes);
        let fact =
            g.cx.new_fact(
                FactKind::FleetCreated,
                format!("{}: {} of {} instances", fleet.fleet_id, ids.len(), wanted.len()),
            )
            .nodes(&wanted)
            .group(group.clone())
            .launch(token.clone())
            .instances(ids.iter().cloned())
            .after_ms(g.cx.now.since(started));
        g.cx.fact(fact);
        let mut keep = wanted;
        let short = keep.split_off(keep.len().min(ids.len()));
        let errors = fleet.errors.clone();
        g.cx.record(Record::Outcome { id, outcome: Outcome::Done(CloudReply::Fleet(fleet)) });
        let all = launch.nodes.clone();
        // Nodes that were suspended meanwhile leave the launch: woken again, they wait for another.
        let waiting: BTreeSet<&String> = keep.iter().chain(&short).collect();
        let unwanted: Vec<String> = all.iter().filter(|node| !waiting.contains(node)).cloned().collect();
        g.cx.release(&unwanted, id);
        let now = g.cx.now.mono_ms;
        if ids.is_empty() {
            let (code, message) = telling(&errors);
            let class = errors
                .iter()
                .find(|error| error.code == code)
                .map_or("capacity", |error| error.class.as_str());
            let last = launch_error(g.cx.now.unix_ms, &code, class, &message, all.len());
            g.pools.note_failure(&mut g.cx, &group, last, least);
        } else {
            g.pools.pressure.remove(&group);
        }
        let mut instead = None;
        if !short.is_empty() {
            let (code, message) = telling(&errors);
            let fact =
                g.cx.new_fact(
                    FactKind::CreateFleetFailed,
                    format!("{} of {} instances are missing: {message}", short.len(), all.len()),
                )
                .nodes(&short)
                .group(group.clone())
                .launch(token)
                .code(code.clone());
            g.cx.fact(fact);
            g.cx.release(&short, id);
            instead = self.fall_back(g, &launch, &short, &code);
            if instead.is_none() {
                self.refuse(g, launch.job, &short, &code, &message);
                keep.retain(|node| g.cx.wants_instance(node));
            }
        }
        if ids.is_empty() {
            g.launches.open.remove(&id);
            g.cx.release(&all, id);
            return instead;
        }
        if let Some(launch) = g.launches.open.get_mut(&id) {
            launch.lifecycle = lifecycle;
            launch.nodes = keep;
            launch.phase =
                Phase::Describing { pending: ids, in_flight: false, attempts: 0, next_at: now, since: now };
        }
        instead
    }

    /// The least number of instances of which an open CreateFleet gives any.
    fn least_of(&self, g: &Ground, id: u64) -> usize {
        match g.cx.persisted.open.get(&id).map(|intent| &intent.request) {
            Some(CloudRequest::CreateFleet(request)) => request.least(),
            _ => 1,
        }
    }

    fn is_node_fleet(&self, g: &Ground, id: u64) -> bool {
        g.cx.persisted.open.get(&id).is_some_and(|intent| {
            matches!(&intent.request, CloudRequest::CreateFleet(request) if request.fleet_type == FleetType::Maintain)
        })
    }

    fn close_launch(&mut self, g: &mut Ground, id: u64, outcome: Outcome) -> Option<Launch> {
        g.cx.record(Record::Outcome { id, outcome });
        let launch = g.launches.open.remove(&id)?;
        g.cx.release(&launch.nodes, id);
        Some(launch)
    }

    /// Spot could not fill the group: ask for the missing share on-demand, where the site allows it.
    fn fall_back(
        &mut self,
        g: &mut Ground,
        launch: &Launch,
        short: &[String],
        code: &str,
    ) -> Option<FallBack> {
        let group = g.cx.site.group(&launch.group).cloned()?;
        if launch.lifecycle != Lifecycle::Spot || group.spot_fallback_s.is_none() || short.is_empty() {
            return None;
        }
        let text = format!("{} nodes of {} go on-demand: Spot said {code}", short.len(), launch.group);
        g.cx.fact(
            g.cx.new_fact(FactKind::SpotFallback, text).nodes(short).group(launch.group.clone()).code(code),
        );
        Some(FallBack { group, nodes: short.to_vec() })
    }
}

impl Engine {
    pub(super) fn recover_intent(&mut self, id: u64) {
        let Some(intent) = self.g.cx.persisted.open.get(&id).cloned() else { return };
        if self.groups.recover_group_call(&mut self.g, id, &intent.request) {
            return;
        }
        match &intent.request {
            CloudRequest::CreateFleet(request) => {
                let Some(launch) = intent.launch.clone() else { return };
                self.g.waiting.recover_jobs(&self.g.cx, &launch.jobs);
                self.g.launches.open.insert(
                    id,
                    Launch {
                        group: launch.group,
                        account: intent.account.clone(),
                        token: request.client_token.clone(),
                        lifecycle: request.lifecycle,
                        nodes: launch.nodes.clone(),
                        job: whole_job(request, &launch.jobs),
                        started: self.g.cx.now.mono_ms,
                        deadline: u64::MAX,
                        phase: Phase::Recovering,
                        last_error: None,
                    },
                );
                for node in launch.nodes {
                    self.g.cx.nodes.entry(node).or_default().launch = Some(id);
                }
            }
            CloudRequest::DeleteFleets { terminate_instances: true, .. } if self.g.recover_deletion(id) => {}
            // Terminations are begun anew when Slurm has been asked whether it still means them; tags are written
            // anew from the bindings.
            _ => self.g.cx.record(Record::Outcome {
                id,
                outcome: Outcome::Abandoned("repeated after a restart".into()),
            }),
        }
    }
}

impl Ground {
    /// Tell Slurm that these nodes will not come, so that their jobs are requeued at once.
    pub(super) fn fail_nodes(&mut self, nodes: &[String], code: &str, message: &str) {
        let failed: Vec<String> = nodes
            .iter()
            .filter(|name| self.cx.nodes.get(*name).is_some_and(|node| node.desire == Desire::Waking))
            .cloned()
            .collect();
        if failed.is_empty() {
            return;
        }
        for name in &failed {
            if let Some(node) = self.cx.nodes.get_mut(name) {
                node.reported = true;
            }
            self.cx.wish_changed(name);
        }
        let fact = self
            .cx
            .new_fact(FactKind::NodesFailed, message)
            .nodes(&failed)
            .code(code)
            .after_ms(self.cx.waited(&failed));
        self.cx.fact(fact);
        self.waiting.jobs.note_failure(&failed, code, message);
        let released = self.waiting.jobs.fail(&failed);
        self.failures.add(Cause::NoInstance, &reason(code, message), failed);
        self.release_nodes(released, code, message);
    }
}

/// The job for which a fleet was asked for that gives all or nothing.
fn whole_job(request: &CreateFleet, jobs: &[LaunchJob]) -> Option<u64> {
    request.is_all_or_nothing().then(|| jobs.first().map(|job| job.id)).flatten()
}

/// The error that explains a shortage best: what EC2 said last is often a consequence of what it said first.
fn telling(errors: &[PoolError]) -> (String, String) {
    let rank = |class: ErrorClass| match class {
        ErrorClass::Permission => 0,
        ErrorClass::Configuration => 1,
        ErrorClass::Quota => 2,
        ErrorClass::Capacity => 3,
        _ => 4,
    };
    match errors.iter().min_by_key(|error| rank(error.class)) {
        Some(error) => (error.code.clone(), error.message.clone()),
        None => (
            "UnfulfillableCapacity".into(),
            "EC2 launched fewer instances than asked for and gave no reason".into(),
        ),
    }
}
