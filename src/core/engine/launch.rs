// SPDX-License-Identifier: GPL-3.0-or-later
//! From waking nodes to EC2 fleets: batches, CreateFleet, shortage and failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outbox::Purpose;
use super::tell;
use super::view::launch_error;
use super::{Desire, Engine};
use crate::core::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, FleetReply, FleetType,
    PoolError,
};
use crate::core::fact::FactKind;
use crate::core::fleet_spec::LaunchTemplateOverride;
use crate::core::limits::backoff_ms;
use crate::core::record::{LaunchIntent, Outcome, Record};
use crate::core::report::{Cooldown, LaunchError};
use crate::core::site::{Account, FleetScope, Lifecycle, NodeGroup, NodeNaming, Site};
use crate::core::tag;

/// Nodes of one group that wait for the batch to close.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    nodes: BTreeMap<u32, String>,
    first: u64,
    last: u64,
}

impl Queue {
    pub(super) fn add(&mut self, index: u32, node: &str, now: u64) {
        if self.nodes.is_empty() {
            self.first = now;
        }
        if self.nodes.insert(index, node.to_owned()).is_none() {
            self.last = now;
        }
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.nodes.remove(&index);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// In order of index.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.nodes.values()
    }
}

/// How a group fared lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Pressure {
    /// Launches in a row that gave no instance.
    failures: u32,
    /// `mono_ms` before which the group is not asked again.
    retry_at: u64,
    protected: bool,
    last_error: Option<LaunchError>,
}

impl Pressure {
    pub(super) fn is_protected(&self) -> bool {
        self.protected
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn last_error(&self) -> Option<&LaunchError> {
        self.last_error.as_ref()
    }

    pub(super) fn open(&mut self) {
        *self = Self::default();
    }
}

/// One capacity pool: instance type, subnet or zone, lifecycle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pool {
    account: Account,
    instance_type: String,
    place: String,
    lifecycle: Lifecycle,
}

impl Pool {
    pub(super) fn of(account: &Account, over: &LaunchTemplateOverride, lifecycle: Lifecycle) -> Self {
        Self {
            account: account.clone(),
            instance_type: over.instance_type.clone().unwrap_or_default(),
            place: over.subnet_id.clone().or_else(|| over.availability_zone.clone()).unwrap_or_default(),
            lifecycle,
        }
    }

    pub(super) fn serves(&self, group: &NodeGroup) -> bool {
        self.account == group.account
            && group
                .overrides
                .iter()
                .any(|over| over.instance_type.as_deref() == Some(self.instance_type.as_str()))
            && (group.subnet_ids.is_empty() || group.subnet_ids.contains(&self.place))
    }

    pub(super) fn report(&self) -> Cooldown {
        Cooldown {
            instance_type: self.instance_type.clone(),
            zone: self.place.clone(),
            lifecycle: self.lifecycle,
            until_unix_ms: 0,
            code: String::new(),
            refusals: 0,
        }
    }
}

/// An unanswered or unfinished CreateFleet.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) group: String,
    pub(super) account: Account,
    pub(super) token: String,
    pub(super) lifecycle: Lifecycle,
    /// Nodes that still wait, in binding order.
    pub(super) nodes: Vec<String>,
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

/// A replay after this long could make a second fleet, should EC2 have forgotten the token.
const TOKEN_TRUST_MS: u64 = 3_600_000;

impl Engine {
    pub(super) fn unqueue(&mut self, stem: &str, index: u32) {
        if let Some(queue) = self.queues.get_mut(stem) {
            queue.remove(index);
        }
    }

    pub(super) fn queue_mut(&mut self, stem: &str) -> &mut Queue {
        self.queues.entry(stem.to_owned()).or_default()
    }

    pub(super) fn close_launch_batches(&mut self) {
        if self.persisted.paused || !self.slurm.is_known() {
            return;
        }
        let site = Arc::clone(&self.site);
        let stems: Vec<String> =
            self.queues.iter().filter(|(_, queue)| !queue.is_empty()).map(|(stem, _)| stem.clone()).collect();
        for stem in stems {
            let Some(group) = site.group(&stem) else { continue };
            if !self.view_ready(&group.account) {
                continue;
            }
            let settings = &site.settings;
            let queue = &self.queues[&stem];
            let pressure = self.pressure.get(&stem).cloned().unwrap_or_default();
            if pressure.protected {
                let nodes = self.take_queue(&stem);
                self.fail_nodes(&nodes, "GroupProtected", &format!(
                    "node group {stem} is closed after {} failed launches; `ec2fleet resume-operations` opens it",
                    pressure.failures
                ));
                continue;
            }
            let due = (queue.last + settings.batch_idle_ms)
                .min(queue.first + settings.batch_max_ms)
                .max(pressure.retry_at);
            if due > self.now.mono_ms {
                self.wake(due);
                continue;
            }
            let nodes = self.take_queue(&stem);
            for chunk in nodes.chunks(settings.max_fleet_nodes.max(1) as usize) {
                self.begin_launch(group, chunk.to_vec(), group.lifecycle);
            }
        }
    }

    fn take_queue(&mut self, stem: &str) -> Vec<String> {
        let nodes = self.queues.remove(stem).map(|queue| queue.nodes).unwrap_or_default();
        nodes.into_values().filter(|node| self.wants_instance(node)).collect()
    }

    fn begin_launch(&mut self, group: &Arc<NodeGroup>, nodes: Vec<String>, lifecycle: Lifecycle) {
        if nodes.is_empty() {
            return;
        }
        if group.scope == FleetScope::Group {
            self.await_group_fleet(group, &nodes);
            return;
        }
        if group.scope == FleetScope::Node {
            self.begin_node_fleets(group, &nodes, lifecycle, &BTreeMap::new());
            return;
        }
        let token = self.new_token();
        let request = fleet_request(&self.site, group, nodes.len(), lifecycle, &token, &self.cooling_pools());
        self.record_launch(group, nodes, lifecycle, token, request);
    }

    pub(super) fn new_token(&mut self) -> String {
        self.counter += 1;
        format!("ec2fleet-{}-{}", self.options.nonce, self.counter)
    }

    pub(super) fn cooling_pools(&self) -> Vec<&Pool> {
        self.cooling.iter().filter(|(_, until)| **until > self.now.mono_ms).map(|(pool, _)| pool).collect()
    }

    /// The intent, and the launch that follows from it.
    pub(super) fn record_launch(
        &mut self,
        group: &NodeGroup,
        nodes: Vec<String>,
        lifecycle: Lifecycle,
        token: String,
        request: CreateFleet,
    ) -> u64 {
        let deadline = self.launch_deadline(&nodes);
        let request = CloudRequest::CreateFleet(Box::new(request));
        let launch = LaunchIntent { group: group.stem(), nodes: nodes.clone() };
        let id = self.record_intent(&group.account, request, Some(launch));
        for node in &nodes {
            if let Some(node) = self.nodes.get_mut(node) {
                node.launch = Some(id);
            }
        }
        self.launches.insert(
            id,
            Launch {
                group: group.stem(),
                account: group.account.clone(),
                token,
                lifecycle,
                nodes,
                started: self.now.mono_ms,
                deadline,
                phase: Phase::Creating { in_flight: false, attempts: 0, next_at: self.now.mono_ms },
                last_error: None,
            },
        );
        id
    }

    /// Half a minute before Slurm's ResumeTimeout would strike the first of the nodes, but never below a minute.
    pub(super) fn launch_deadline(&self, nodes: &[String]) -> u64 {
        let patience =
            (u64::from(self.site.settings.resume_timeout_s) * 1000).saturating_sub(30_000).max(60_000);
        let first = nodes.iter().filter_map(|node| self.nodes.get(node)).map(|node| node.since).min();
        first.unwrap_or(self.now.mono_ms) + patience
    }

    pub(super) fn recover_intent(&mut self, id: u64) {
        let Some(intent) = self.persisted.open.get(&id).cloned() else { return };
        if self.recover_group_call(id, &intent.request) {
            return;
        }
        match &intent.request {
            CloudRequest::CreateFleet(request) => {
                let Some(launch) = intent.launch.clone() else { return };
                self.launches.insert(
                    id,
                    Launch {
                        group: launch.group,
                        account: intent.account.clone(),
                        token: request.client_token.clone(),
                        lifecycle: request.lifecycle,
                        nodes: launch.nodes.clone(),
                        started: self.now.mono_ms,
                        deadline: u64::MAX,
                        phase: Phase::Recovering,
                        last_error: None,
                    },
                );
                for node in launch.nodes {
                    self.nodes.entry(node).or_default().launch = Some(id);
                }
            }
            CloudRequest::DeleteFleets { terminate_instances: true, .. } if self.recover_deletion(id) => {}
            // Terminations are begun anew when Slurm has been asked whether it still means them; tags are written
            // anew from the bindings.
            _ => self.record(Record::Outcome {
                id,
                outcome: Outcome::Abandoned("repeated after a restart".into()),
            }),
        }
    }

    /// EC2 and Slurm are known: replay what is still wanted, close the rest.
    pub(super) fn settle_recovered(&mut self, account: &Account) {
        let ids: Vec<u64> = self
            .launches
            .iter()
            .filter(|(_, launch)| matches!(launch.phase, Phase::Recovering) && launch.account == *account)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let Some(nodes) = self.launches.get(&id).map(|launch| launch.nodes.clone()) else { continue };
            let wanted: Vec<String> =
                nodes.iter().filter(|node| self.wants_instance(node)).cloned().collect();
            let written = self.persisted.open.get(&id).map_or(0, |intent| intent.unix_ms);
            let trusted = self.now.unix_ms.abs_diff(written) < TOKEN_TRUST_MS;
            if wanted.is_empty() || !trusted {
                self.close_launch(id, Outcome::Abandoned("not wanted any more after a restart".into()));
                self.requeue(&wanted);
                continue;
            }
            let deadline = self.launch_deadline(&wanted);
            let now = self.now.mono_ms;
            if let Some(launch) = self.launches.get_mut(&id) {
                launch.deadline = deadline;
                launch.phase = Phase::Creating { in_flight: false, attempts: 0, next_at: now };
            }
        }
    }

    fn requeue(&mut self, nodes: &[String]) {
        for name in nodes {
            let Some((stem, index)) = self.site.locate(name).map(|(group, index)| (group.stem(), index))
            else {
                continue;
            };
            if let Some(node) = self.nodes.get_mut(name) {
                node.launch = None;
            }
            if self.wants_instance(name) {
                self.queues.entry(stem).or_default().add(index, name, self.now.mono_ms);
            }
        }
    }

    pub(super) fn advance_launches(&mut self) {
        for id in self.launches.take_due(self.now.mono_ms) {
            self.pass_deadline(id);
            self.advance_launch(id);
            let look = self.launches.get(&id).and_then(Self::next_look);
            self.launches.look_again(&id, look);
        }
        if let Some(at) = self.launches.next_look() {
            self.wake(at);
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
    fn pass_deadline(&mut self, id: u64) {
        let now = self.now.mono_ms;
        let Some(launch) = self.launches.get_mut(&id) else { return };
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
        self.release(&nodes, id);
        self.fail_nodes(&nodes, &code, &message);
    }

    fn advance_launch(&mut self, id: u64) {
        let now = self.now.mono_ms;
        let Some(launch) = self.launches.get_mut(&id) else { return };
        match &mut launch.phase {
            Phase::Recovering => {}
            Phase::Creating { in_flight: true, .. } | Phase::Describing { in_flight: true, .. } => {}
            Phase::Creating { next_at, in_flight, .. } => {
                if launch.nodes.is_empty() {
                    self.close_launch(id, Outcome::Abandoned("no node waits for it any more".into()));
                } else if *next_at <= now {
                    *in_flight = true;
                    let Some(intent) = self.persisted.open.get(&id) else { return };
                    let (account, request) = (intent.account.clone(), intent.request.clone());
                    let Some(launch) = self.launches.get(&id) else { return };
                    let text = format!(
                        "{} {} instances for {}",
                        launch.nodes.len(),
                        launch.lifecycle.as_str(),
                        launch.group
                    );
                    let fact = self
                        .new_fact(FactKind::CreateFleetSent, text)
                        .nodes(&launch.nodes)
                        .group(launch.group.clone())
                        .launch(launch.token.clone())
                        .after_ms(self.waited(&launch.nodes));
                    self.fact(fact);
                    self.cloud(Purpose::Create { account, intent: id }, request);
                }
            }
            Phase::Describing { next_at, in_flight, pending, .. } => {
                if *next_at <= now {
                    *in_flight = true;
                    let (account, ids) = (launch.account.clone(), pending.clone());
                    self.cloud(
                        Purpose::DescribeLaunch { account, intent: id },
                        CloudRequest::DescribeInstances { ids },
                    );
                }
            }
        }
    }

    /// Milliseconds since Slurm decided to power up the first of these nodes.
    pub(super) fn waited(&self, nodes: &[String]) -> u64 {
        let first = nodes.iter().filter_map(|node| self.nodes.get(node)).map(|node| node.since).min();
        first.map_or(0, |since| self.now.since(since))
    }

    /// EC2 never showed these instances; whatever they are, they must not stay.
    pub(super) fn give_up_describing(&mut self, id: u64) {
        let Some(launch) = self.launches.remove(&id) else { return };
        let Phase::Describing { pending, .. } = launch.phase else { return };
        for instance in pending {
            self.end_instance(&launch.account, instance);
        }
        self.release(&launch.nodes, id);
        self.fail_nodes(
            &launch.nodes,
            "InvalidInstanceID.NotFound",
            "EC2 launched the instance but never showed it",
        );
    }

    pub(super) fn take_fleet(&mut self, id: u64, result: CloudResult) {
        let Some(launch) = self.launches.get_mut(&id) else { return };
        match result {
            Ok(CloudReply::Fleet(fleet)) => self.take_fleet_reply(id, fleet),
            Ok(other) => {
                let message = format!("unexpected reply {other:?}");
                let error = CloudError {
                    class: ErrorClass::Other,
                    code: "UnexpectedReply".into(),
                    message,
                    request_id: None,
                };
                self.fail_launch(id, error);
            }
            Err(error) if error.class.is_retryable() => {
                let Phase::Creating { in_flight, attempts, next_at } = &mut launch.phase else { return };
                *in_flight = false;
                *attempts += 1;
                *next_at = self.now.mono_ms + backoff_ms(*attempts, &mut self.rng);
                let (group, token) = (launch.group.clone(), launch.token.clone());
                launch.last_error = Some(error.clone());
                let fact = self
                    .new_fact(FactKind::CreateFleetRepeated, error.to_string())
                    .group(group)
                    .launch(token)
                    .code(error.code);
                self.fact(fact);
            }
            Err(error) => self.fail_launch(id, error),
        }
    }

    fn fail_launch(&mut self, id: u64, error: CloudError) {
        let tried = self.attempts_of.remove(&id);
        let Some(launch) = self.close_launch(id, Outcome::Failed(error.clone())) else { return };
        let fact = self
            .new_fact(FactKind::CreateFleetFailed, error.message.clone())
            .nodes(&launch.nodes)
            .group(launch.group.clone())
            .launch(launch.token.clone())
            .code(error.code.clone());
        self.fact(fact);
        let last = launch_error(
            self.now.unix_ms,
            &error.code,
            error.class.as_str(),
            &error.message,
            launch.nodes.len(),
        );
        self.note_failure(&launch.group, last);
        let short = self.still_wanted(&launch.nodes);
        if let (Some((tried, first)), [node], ErrorClass::Capacity) = (tried, short.as_slice(), error.class) {
            self.try_next_pool(node, &launch.group, launch.lifecycle, tried, first);
            return;
        }
        if !self.fall_back(&launch, &short, &error.code) {
            self.fail_nodes(&short, &error.code, &error.message);
        }
        self.release(&launch.nodes, id);
    }

    fn take_fleet_reply(&mut self, id: u64, fleet: FleetReply) {
        let Some(launch) = self.launches.get(&id).cloned() else { return };
        if self.is_node_fleet(id) {
            let Some(node) = self
                .persisted
                .open
                .get(&id)
                .and_then(|intent| intent.launch.as_ref()?.nodes.first().cloned())
            else {
                return;
            };
            self.take_node_fleet(id, &node, &fleet.fleet_id);
            return;
        }
        let (group, account, token, lifecycle, started) = (
            launch.group.clone(),
            launch.account.clone(),
            launch.token.clone(),
            launch.lifecycle,
            launch.started,
        );
        let ids = fleet.instance_ids();
        for error in &fleet.errors {
            self.cool(&account, error);
        }
        let wanted = self.still_wanted(&launch.nodes);
        let fact = self
            .new_fact(
                FactKind::FleetCreated,
                format!("{}: {} of {} instances", fleet.fleet_id, ids.len(), wanted.len()),
            )
            .nodes(&wanted)
            .group(group.clone())
            .launch(token.clone())
            .instances(ids.iter().cloned())
            .after_ms(self.now.since(started));
        self.fact(fact);
        let mut keep = wanted;
        let short = keep.split_off(keep.len().min(ids.len()));
        let errors = fleet.errors.clone();
        self.record(Record::Outcome { id, outcome: Outcome::Done(CloudReply::Fleet(fleet)) });
        let all = launch.nodes.clone();
        // Nodes that were suspended meanwhile leave the launch: woken again, they wait for another.
        let waiting: BTreeSet<&String> = keep.iter().chain(&short).collect();
        let unwanted: Vec<String> = all.iter().filter(|node| !waiting.contains(node)).cloned().collect();
        self.release(&unwanted, id);
        let now = self.now.mono_ms;
        if ids.is_empty() {
            let (code, message) = telling(&errors);
            let class = errors
                .iter()
                .find(|error| error.code == code)
                .map_or("capacity", |error| error.class.as_str());
            self.note_failure(&group, launch_error(self.now.unix_ms, &code, class, &message, all.len()));
        } else {
            self.pressure.remove(&group);
        }
        if !short.is_empty() {
            let (code, message) = telling(&errors);
            let fact = self
                .new_fact(
                    FactKind::CreateFleetFailed,
                    format!("{} of {} instances are missing: {message}", short.len(), all.len()),
                )
                .nodes(&short)
                .group(group.clone())
                .launch(token)
                .code(code.clone());
            self.fact(fact);
            self.release(&short, id);
            if !self.fall_back(&launch, &short, &code) {
                self.fail_nodes(&short, &code, &message);
            }
        }
        if ids.is_empty() {
            self.launches.remove(&id);
            self.release(&all, id);
            return;
        }
        if let Some(launch) = self.launches.get_mut(&id) {
            launch.lifecycle = lifecycle;
            launch.nodes = keep;
            launch.phase =
                Phase::Describing { pending: ids, in_flight: false, attempts: 0, next_at: now, since: now };
        }
    }

    fn is_node_fleet(&self, id: u64) -> bool {
        self.persisted.open.get(&id).is_some_and(|intent| {
            matches!(&intent.request, CloudRequest::CreateFleet(request) if request.fleet_type == FleetType::Maintain)
        })
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

    fn close_launch(&mut self, id: u64, outcome: Outcome) -> Option<Launch> {
        self.record(Record::Outcome { id, outcome });
        let launch = self.launches.remove(&id)?;
        self.release(&launch.nodes, id);
        Some(launch)
    }

    /// Spot could not fill the group: ask for the missing share on-demand, where the site allows it.
    fn fall_back(&mut self, launch: &Launch, short: &[String], code: &str) -> bool {
        let Some(group) = self.site.group(&launch.group).cloned() else { return false };
        if launch.lifecycle != Lifecycle::Spot || group.spot_fallback_s.is_none() || short.is_empty() {
            return false;
        }
        let text = format!("{} nodes of {} go on-demand: Spot said {code}", short.len(), launch.group);
        self.fact(
            self.new_fact(FactKind::SpotFallback, text).nodes(short).group(launch.group.clone()).code(code),
        );
        self.begin_launch(&group, short.to_vec(), Lifecycle::OnDemand);
        true
    }

    fn cool(&mut self, account: &Account, error: &PoolError) {
        if error.class != ErrorClass::Capacity {
            return;
        }
        let Some(instance_type) = error.instance_type.clone() else { return };
        let place = error.subnet_id.clone().or_else(|| error.zone.clone()).unwrap_or_default();
        let pool = Pool { account: account.clone(), instance_type, place, lifecycle: error.lifecycle };
        let seconds = self.site.settings.pool_cooldown_s;
        let text = format!(
            "{} {} {} is not asked first for {seconds} s",
            pool.instance_type,
            pool.place,
            pool.lifecycle.as_str()
        );
        self.fact(self.new_fact(FactKind::PoolCooling, text).code(error.code.clone()));
        self.cooling.retain(|_, until| *until > self.now.mono_ms);
        self.cooling.insert(pool, self.now.mono_ms + u64::from(seconds) * 1000);
    }

    /// A launch gave nothing: wait longer before the group is asked again, and close it if the site wants that.
    fn note_failure(&mut self, group: &str, last: LaunchError) {
        let limit = self.site.settings.protect_after;
        let longest = u64::from(self.site.settings.pool_cooldown_s) * 1000;
        let pressure = self.pressure.entry(group.to_owned()).or_default();
        pressure.failures += 1;
        pressure.last_error = Some(last);
        let wait = 1_000u64.saturating_mul(1 << pressure.failures.min(10)).min(longest);
        pressure.retry_at = self.now.mono_ms + wait;
        if limit > 0 && pressure.failures >= limit && !pressure.protected {
            pressure.protected = true;
            let text = format!("closed after {} launches in a row without an instance", pressure.failures);
            self.fact(self.new_fact(FactKind::GroupProtected, text).group(group));
        }
    }

    /// Tell Slurm that these nodes will not come, so that their jobs are requeued at once.
    pub(super) fn fail_nodes(&mut self, nodes: &[String], code: &str, message: &str) {
        let failed: Vec<String> = nodes
            .iter()
            .filter(|name| self.nodes.get(*name).is_some_and(|node| node.desire == Desire::Waking))
            .cloned()
            .collect();
        if failed.is_empty() {
            return;
        }
        for name in &failed {
            if let Some(node) = self.nodes.get_mut(name) {
                node.reported = true;
            }
            self.wish_changed(name);
        }
        let fact = self
            .new_fact(FactKind::NodesFailed, message)
            .nodes(&failed)
            .code(code)
            .after_ms(self.waited(&failed));
        self.fact(fact);
        self.reports.add(tell::reason(code, message), failed);
    }
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

/// The instant fleet for `count` nodes of a group.
fn fleet_request(
    site: &Site,
    group: &NodeGroup,
    count: usize,
    lifecycle: Lifecycle,
    token: &str,
    cooling: &[&Pool],
) -> CreateFleet {
    let mut tags = tag::at_birth(site, group, token);
    let fleet_tags = tags.clone();
    // An image that reads `Name` must find the node's name there or nothing.
    if group.naming == NodeNaming::LaunchIndex {
        tags.entry(tag::NAME.into()).or_insert_with(|| group.stem());
    }

    let target = u32::try_from(count).unwrap_or(u32::MAX);
    let mut spot_options = group.spot_options.clone();
    let mut on_demand_options = group.on_demand_options.clone();
    if group.all_or_nothing {
        let minimum = i32::try_from(target.min(1_000)).ok();
        spot_options.min_target_capacity = minimum;
        on_demand_options.min_target_capacity = minimum;
        // EC2 takes a minimum only together with one of the two (API_SpotOptionsRequest).
        if spot_options.single_instance_type != Some(true) {
            spot_options.single_availability_zone = Some(true);
        }
        if on_demand_options.single_instance_type != Some(true) {
            on_demand_options.single_availability_zone = Some(true);
        }
    }
    CreateFleet {
        client_token: token.into(),
        fleet_type: FleetType::Instant,
        target,
        lifecycle,
        on_demand_options,
        spot_options,
        launch_template: group.launch_template.clone(),
        overrides: pools(group, lifecycle, cooling),
        fleet_tags,
        instance_tags: tags,
    }
}

/// Overrides × subnets, without the pools that lately had nothing, unless that leaves none.
pub(super) fn pools(
    group: &NodeGroup,
    lifecycle: Lifecycle,
    cooling: &[&Pool],
) -> Vec<LaunchTemplateOverride> {
    let mut all = Vec::new();
    for over in &group.overrides {
        let subnets: Vec<Option<String>> = match (&over.subnet_id, group.subnet_ids.is_empty()) {
            (None, false) => group.subnet_ids.iter().cloned().map(Some).collect(),
            (own, _) => vec![own.clone()],
        };
        for subnet_id in subnets {
            all.push(LaunchTemplateOverride { subnet_id, weighted_capacity: Some(1.0), ..over.clone() });
        }
    }
    let is_cooling = |over: &LaunchTemplateOverride| {
        cooling.iter().any(|pool| {
            pool.account == group.account
                && pool.lifecycle == lifecycle
                && over.instance_type.as_deref() == Some(pool.instance_type.as_str())
                && (over.subnet_id.as_deref() == Some(pool.place.as_str())
                    || over.availability_zone.as_deref() == Some(pool.place.as_str()))
        })
    };
    let open: Vec<LaunchTemplateOverride> = all.iter().filter(|over| !is_cooling(over)).cloned().collect();
    if open.is_empty() { all } else { open }
}
