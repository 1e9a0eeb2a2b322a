// SPDX-License-Identifier: GPL-3.0-or-later
//! CreateFleet for nodes that wait together: sent, repeated, answered, short or refused.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{
    CloudError, CloudReply, CloudRequest, CloudResult, CreateFleet, ErrorClass, FleetReply, FleetType,
    PoolError,
};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::CloudPurpose;
use crate::engine::ground::Ground;
use crate::engine::ground::launches::{Launch, Phase, whole_job};
use crate::engine::ground::pools::launch_error;
use crate::engine::launch::{FallBack, Launching};
use crate::fact::FactKind;
use crate::limits::backoff_ms;
use crate::record::{LaunchIntent, Outcome, Record};
use crate::report::LaunchError;
use crate::site::{Account, Lifecycle, NodeGroup};

/// A replay after this long could make a second fleet, should EC2 have forgotten the token.
const TOKEN_TRUST_MS: u64 = 3_600_000;

impl Launching {
    /// The intent, and the launch that follows from it.
    pub(crate) fn record_launch(
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
    pub(crate) fn settle_recovered(&mut self, g: &mut Ground, account: &Account) {
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

    pub(crate) fn advance_launches(&mut self, g: &mut Ground) -> Deadline {
        for id in g.launches.open.take_due(g.cx.now.mono_ms) {
            self.pass_deadline(g, id);
            self.advance_launch(g, id);
            let look = g.launches.open.get(&id).and_then(Self::next_look);
            g.launches.open.look_again(&id, look);
        }
        g.launches.open.next_look().into()
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
                    g.cx.cloud(CloudPurpose::Create { account, intent: id }, request);
                }
            }
            Phase::Describing { next_at, in_flight, pending, .. } => {
                if *next_at <= now {
                    *in_flight = true;
                    let (account, ids) = (launch.account.clone(), pending.clone());
                    g.cx.cloud(
                        CloudPurpose::DescribeLaunch { account, intent: id },
                        CloudRequest::DescribeInstances { ids },
                    );
                }
            }
        }
    }

    /// EC2 never showed these instances; whatever they are, they must not stay.
    pub(crate) fn give_up_describing(&mut self, g: &mut Ground, id: u64) {
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
    pub(crate) fn take_fleet(&mut self, g: &mut Ground, id: u64, result: CloudResult) -> Option<FallBack> {
        let launch = g.launches.open.get_mut(&id)?;
        match result.and_then(CloudReply::into_fleet) {
            Ok(fleet) => self.take_fleet_reply(g, id, fleet),
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
        if let (Some(tried), [node], ErrorClass::Capacity) = (tried, short.as_slice(), error.class) {
            self.try_next_pool(g, node, &launch.group, launch.lifecycle, tried);
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
            let last = no_instance(g.cx.now.unix_ms, &errors, all.len());
            g.pools.note_failure(&mut g.cx, &group, last, least);
        } else {
            g.pools.relieve(&group);
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

    /// EC2 did not give a launch's `short` nodes their instances. If they were asked for as the nodes of one job, nodes
    /// for which another job waits are asked for again, for that one.
    pub(crate) fn refuse(
        &mut self,
        g: &mut Ground,
        job: Option<u64>,
        short: &[String],
        code: &str,
        message: &str,
    ) {
        let given_up = job.and_then(|id| Some((id, g.waiting.jobs.remove(id)?)));
        let (others, failed): (Vec<String>, Vec<String>) =
            short.iter().cloned().partition(|node| job.is_some() && g.waiting.jobs.of(node).next().is_some());
        g.waiting.requeue(&mut g.cx, &others);
        g.fail_nodes(&failed, code, message);
        if let Some((id, job)) = given_up {
            let free = job.nodes().filter(|node| g.waiting.jobs.of(node).next().is_none()).cloned().collect();
            g.release_nodes(BTreeMap::from([(id, free)]), code, message);
        }
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

/// What people are shown of a launch that gave nothing.
fn no_instance(unix_ms: u64, errors: &[PoolError], nodes: usize) -> LaunchError {
    let (code, message) = telling(errors);
    let class =
        errors.iter().find(|error| error.code == code).map_or("capacity", |error| error.class.as_str());
    launch_error(unix_ms, &code, class, &message, nodes)
}
