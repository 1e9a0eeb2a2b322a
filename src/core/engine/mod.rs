// SPDX-License-Identifier: GPL-3.0-or-later
//! The decision maker: events in, records, effects and facts out. No clock, no I/O, no thread.
//!
//! Every decision is level-triggered: after each event the engine looks at what Slurm wants, what EC2 has and
//! what is under way, and does what is missing. An event that comes twice, late or never changes when
//! something is done, not what.

mod batch;
mod bind;
mod desire;
mod end;
mod fleet;
mod group_fleet;
mod group_form;
mod group_members;
mod held;
mod index;
mod jobs;
mod launch;
mod list;
mod outbox;
#[cfg(test)]
mod outbox_tests;
mod placeholder;
mod pools;
mod reconcile;
mod relocate;
#[cfg(test)]
mod relocate_tests;
mod report;
mod shortage;
mod sleep;
mod tags;
mod tell;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
mod view;
mod watched;
mod weight;

use std::collections::BTreeSet;
use std::sync::Arc;

use batch::Waiting;
use desire::Demand;
use end::Terminations;
use fleet::{FleetDeletions, NodeFleets};
use group_fleet::{GroupFleets, Lowering};
use launch::{FallBack, Launches, Launching};
use list::Sight;
use placeholder::Placeholders;
use pools::Pools;
use reconcile::Reconcile;
use report::Failures;
use sleep::{Hibernation, Sleepers};
use tell::Addresses;
use weight::Weights;

use super::ec2_api::{CloudReply, CloudResult};
use super::event::{CallId, Event, Step};
use super::fact::{Fact, FactKind};
use super::name_map::NameMap;
use super::record::{Binding, Persisted, Record};
use super::site::{Account, Lifecycle, Site};
use super::slurm_api::{NodeBase, NodeFlags, SlurmReply};
use super::time::Now;

pub use desire::Desire;

/// Who tells us that nodes are to be powered up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerSource {
    /// slurmctld's bitmaps, read in process: requests of the programs only hasten the next reading.
    Watch,
    /// The programs alone: a request is the decision.
    Requests,
}

/// What the engine is given once.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub source: PowerSource,
    /// Makes client tokens unique across restarts and lost state folders: up to 24 characters of `[0-9a-f]`.
    pub nonce: String,
    /// Seed for backoff jitter.
    pub seed: u64,
}

/// What is known of one Slurm node of ours.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub desire: Desire,
    /// `mono_ms` of the last change of `desire`.
    pub since: u64,
    pub base: NodeBase,
    pub flags: NodeFlags,
    /// NodeAddr as slurmctld last showed it.
    pub slurm_addr: Option<String>,
    pub reason: Option<String>,
    pub has_job: bool,
    /// As slurmctld last showed it, or was told; `None`: not known.
    slurm_weight: Option<u32>,
    /// The CreateFleet intent in which the node waits.
    launch: Option<u64>,
    /// The failure of this power-up has been handed to the report queue.
    reported: bool,
    /// `mono_ms` when the present binding began.
    bound_at: u64,
    /// `mono_ms` since when no instance has stood behind a node that is up.
    bare_since: Option<u64>,
    /// `mono_ms` of the last attempt to bring the node back from DOWN.
    reset_at: Option<u64>,
}

/// What every room may read, and the one way to say something.
struct Cx {
    now: Now,
    site: Arc<Site>,
    options: EngineOptions,
    /// The journal's state.
    persisted: Persisted,
    /// What follows from the journal's state, found without walking it.
    ledger: index::Index,
    nodes: NameMap<Node>,
    calls: outbox::Calls,
    rng: fastrand::Rng,
    /// Client tokens made so far.
    counter: u64,
    deadline: Option<u64>,
    changed: Changed,
    step: Step,
}

/// Nodes of which something changed that decides whether they want an instance, or which; each room that waits for
/// that has a list of its own, and takes it before it looks.
#[derive(Debug, Default)]
struct Changed {
    weights: BTreeSet<String>,
    node_fleets: BTreeSet<String>,
    groups: BTreeSet<String>,
}

/// What is known, waiting, or owed until it is done. No store knows who gives it orders.
struct Ground {
    cx: Cx,
    sight: Sight,
    waiting: Waiting,
    launches: Launches,
    pools: Pools,
    sleepers: Sleepers,
    lowering: Lowering,
    terminations: Terminations,
    deletions: FleetDeletions,
    addresses: tell::Addresses,
    placeholders: Placeholders,
    failures: report::Failures,
    weights: Weights,
    tags: tags::Tags,
}

/// The whole decision state: the ground, and those who decide upon it.
pub struct Engine {
    g: Ground,
    demand: Demand,
    launching: Launching,
    node_fleets: NodeFleets,
    groups: GroupFleets,
    hibernation: Hibernation,
    reconcile: Reconcile,
}

impl Engine {
    /// An engine that continues from `persisted`. The first [`Event::Tick`] begins its work.
    #[must_use]
    pub fn new(site: Arc<Site>, persisted: Persisted, options: EngineOptions, now: Now) -> Self {
        let cx = Cx {
            ledger: index::Index::of(&persisted, Arc::clone(&site)),
            rng: fastrand::Rng::with_seed(options.seed),
            site: Arc::clone(&site),
            options,
            persisted,
            nodes: NameMap::default(),
            calls: outbox::Calls::default(),
            counter: 0,
            now,
            deadline: Some(now.mono_ms),
            changed: Changed::default(),
            step: Step::default(),
        };
        let g = Ground {
            cx,
            sight: Sight::default(),
            waiting: Waiting::default(),
            launches: Launches::default(),
            pools: Pools::default(),
            sleepers: Sleepers::default(),
            lowering: Lowering::default(),
            terminations: Terminations::default(),
            deletions: FleetDeletions::default(),
            addresses: tell::Addresses::default(),
            placeholders: Placeholders::default(),
            failures: report::Failures::default(),
            weights: Weights::of(&site),
            tags: tags::Tags::default(),
        };
        let mut engine = Self {
            g,
            demand: Demand::default(),
            launching: Launching,
            node_fleets: NodeFleets::default(),
            groups: GroupFleets::default(),
            hibernation: Hibernation::default(),
            reconcile: Reconcile,
        };
        engine.recover();
        engine
    }

    /// Take one event in and say what is to be done about it.
    pub fn step(&mut self, event: Event, now: Now) -> Step {
        // A clock that steps back must not undo what a later moment decided.
        self.g.cx.now = Now { mono_ms: now.mono_ms.max(self.g.cx.now.mono_ms), unix_ms: now.unix_ms };
        self.take_in(event);
        self.decide();
        std::mem::take(&mut self.g.cx.step)
    }

    /// `mono_ms` at which a [`Event::Tick`] is due, if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.g.cx.deadline
    }

    /// Nothing is under way and nothing is owed but `Name` tags and the next rescan.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.g.sight.slurm.is_known()
            && !self.g.sight.slurm.is_asked_again()
            && self.g.sight.views_ready(&self.g.cx)
            && self.g.cx.calls.open.is_empty()
            && self.g.cx.calls.outbox.is_empty()
            && self.g.launches.open.is_empty()
            && self.g.waiting.queues.values().all(batch::Queue::is_empty)
            && self.g.terminations.queues.values().all(end::EndQueue::is_empty)
            && self.g.launches.fulfilling.is_empty()
            && self.groups.group_fleets_quiet(&self.g)
            && self.g.deletions.queues.values().all(fleet::FleetEnds::is_empty)
            && self.g.addresses.is_empty()
            && self.g.failures.is_empty()
            && self.g.weights.is_empty()
            && self.g.tags.node_tags_done()
            && self.g.cx.persisted.open.is_empty()
    }

    /// The state that the journal's snapshot holds.
    #[must_use]
    pub fn persisted(&self) -> &Persisted {
        &self.g.cx.persisted
    }

    #[must_use]
    pub fn site(&self) -> &Arc<Site> {
        &self.g.cx.site
    }

    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.g.cx.nodes.get(name)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.g.cx.nodes.iter()
    }

    #[must_use]
    pub fn binding(&self, node: &str) -> Option<&Binding> {
        self.g.cx.persisted.bindings.get(node)
    }

    /// Whether the indexes say what a recount of the state says. For tests: it walks everything.
    #[must_use]
    pub fn indexes_agree(&self) -> bool {
        self.g.cx.ledger == index::Index::of(&self.g.cx.persisted, Arc::clone(&self.g.cx.site))
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Power(reading) => self.demand.take_power(&mut self.g, &mut self.groups, &reading),
            Event::ResumeRequested { nodes, jobs } => {
                let ids: Vec<u64> = jobs.iter().flatten().map(|job| job.job_id).collect();
                if let Some(jobs) = jobs {
                    self.g.waiting.learn_jobs(&self.g.cx, &nodes, jobs);
                }
                self.demand.take_request(&mut self.g, &mut self.groups, &nodes, Desire::Waking);
                self.demand.give_up_late_jobs(&mut self.g, ids);
            }
            Event::SuspendRequested { nodes } => {
                self.demand.take_request(&mut self.g, &mut self.groups, &nodes, Desire::Down)
            }
            Event::ResumeFailed { nodes } => {
                self.demand.take_resume_failed(&mut self.g, &mut self.groups, &nodes)
            }
            Event::CloudAnswered { call, result } => self.take_cloud(call, result),
            Event::SlurmAnswered { call, result } => self.take_slurm(call, result),
            Event::SiteChanged(site) => self.take_site(site),
            Event::Rescan => {
                self.g.forget_weights();
                self.g.sight.rescan_now(&self.g.cx);
            }
            Event::LockRequested { nodes, locked } => self.take_lock(nodes, locked),
            Event::PauseRequested { paused } => {
                self.g.cx.record(Record::Pause { paused });
                let text = if paused {
                    "no EC2 instance is launched or terminated until resumed"
                } else {
                    "operations resumed"
                };
                self.g.cx.fact(self.g.cx.new_fact(FactKind::Paused, text));
                if !paused {
                    for pressure in self.g.pools.pressure.values_mut() {
                        pressure.open();
                    }
                    self.g.sight.rescan_now(&self.g.cx);
                }
            }
            Event::ReplaceRequested { nodes } => self.take_replace(&nodes),
            Event::ResetRequested { nodes } => self.demand.reset_nodes(&mut self.g, &nodes),
            Event::DeleteFleetsRequested { fleet_ids } => self.delete_asked_fleets(&fleet_ids),
            Event::Tick => {}
        }
    }

    fn decide(&mut self) {
        self.g.cx.deadline = None;
        self.g.sight.list_when_due(&mut self.g.cx);
        self.demand.close_launch_batches(&mut self.g, &mut self.launching, &mut self.groups);
        self.launching.advance_launches(&mut self.g);
        self.groups.mind_group_fleets(&mut self.g);
        self.node_fleets.watch_fleets(&mut self.g, &mut self.launching);
        self.node_fleets.look_for_shortage(&mut self.g, &mut self.groups);
        self.hibernation.mind_sleepers(&mut self.g);
        self.hibernation.mind_relocations(&mut self.g);
        self.g.terminations.end_instances(&mut self.g.cx);
        self.g.tell_addresses();
        self.g.settle_reports();
        if self.g.place_waiting() {
            self.g.failures.report_failures(&mut self.g.cx);
        }
        self.g.set_weights();
        self.demand.start_ready_jobs(&mut self.g);
        self.g.tags.write_tags(&mut self.g.cx);
        self.g.cx.send_outbox();
    }

    fn take_cloud(&mut self, call: CallId, result: CloudResult) {
        use outbox::Purpose;
        let Some(purpose) = self.g.cx.calls.open.remove(&call) else { return };
        self.g.cx.note_budget(&purpose, &result);
        match purpose {
            Purpose::Create { intent, .. } => {
                if let Some(FallBack { group, nodes }) =
                    self.launching.take_fleet(&mut self.g, intent, result)
                {
                    self.demand.begin_launch(
                        &mut self.g,
                        &mut self.launching,
                        &mut self.groups,
                        &group,
                        nodes,
                        Lifecycle::OnDemand,
                    );
                }
            }
            Purpose::DescribeLaunch { intent, .. } => {
                self.launching.take_launch_instances(&mut self.g, intent, result)
            }
            Purpose::List { account, started, .. } => {
                self.g.sight.take_listing(&mut self.g.cx, &account, started, result)
            }
            Purpose::Confirm { account, ids } => {
                self.reconcile.take_confirmation(&mut self.g, &account, &ids, result)
            }
            Purpose::Terminate { intent, .. } => {
                self.g.terminations.take_terminated(&mut self.g.cx, intent, result)
            }
            Purpose::Tags { intent, nodes, level, .. } => {
                self.g.tags.take_tagged(&mut self.g.cx, intent, nodes, level, result)
            }
            Purpose::PollFleets { account } => {
                self.node_fleets.take_fleet_instances(&mut self.g, &account, result)
            }
            Purpose::ListFleets { account, started } => self.take_fleets(&account, started, result),
            Purpose::DeleteFleets { intent, .. } => {
                self.g.deletions.take_deleted(&mut self.g.cx, intent, result)
            }
            Purpose::GroupFleet { intent, stem, .. } => {
                self.groups.take_group_call(&mut self.g, intent, &stem, result)
            }
            Purpose::History { account, who, start_unix_ms } => {
                self.node_fleets.take_history(
                    &mut self.g,
                    &mut self.launching,
                    &mut self.groups,
                    &account,
                    &who,
                    start_unix_ms,
                    result,
                );
            }
            Purpose::PollGroup { account, stem } => {
                self.groups.take_group_instances(&mut self.g, &account, &stem, result)
            }
            Purpose::CancelSpot { account, intent } => {
                self.g.lowering.take_cancelled(&mut self.g.cx, &account, intent, result)
            }
            Purpose::WatchSleep { .. } => self.hibernation.take_sleep_watch(&mut self.g, result),
            Purpose::Relocate { node, intent, .. } => {
                self.hibernation.take_relocation(&mut self.g, &node, intent, result)
            }
            Purpose::Mind
            | Purpose::Close { .. }
            | Purpose::StartJobs
            | Purpose::Load { .. }
            | Purpose::Tell { .. }
            | Purpose::Place { .. }
            | Purpose::Report { .. }
            | Purpose::Weigh { .. }
            | Purpose::Reset { .. } => {}
        }
    }

    fn take_slurm(&mut self, call: CallId, result: super::slurm_api::SlurmResult) {
        use outbox::Purpose;
        let Some(purpose) = self.g.cx.calls.open.remove(&call) else { return };
        match purpose {
            Purpose::Load { accounts } => self.take_nodes(
                &accounts,
                result.map(|reply| match reply {
                    SlurmReply::Nodes(nodes) => nodes,
                    SlurmReply::Done => Vec::new(),
                }),
            ),
            Purpose::Tell { nodes } => self.g.take_told(nodes, result),
            Purpose::Place { nodes } => self.g.placeholders.take_placed(&mut self.g.cx, nodes, result),
            Purpose::Report { nodes } => self.g.failures.take_reported(&mut self.g.cx, &nodes, result),
            Purpose::Weigh { nodes, weight, round } => {
                self.g.weights.take_weighed(&mut self.g.cx, nodes, weight, round, result)
            }
            Purpose::Reset { nodes } => self.g.sight.take_reset(&mut self.g.cx, &nodes, result),
            Purpose::StartJobs
            | Purpose::Create { .. }
            | Purpose::DescribeLaunch { .. }
            | Purpose::List { .. }
            | Purpose::Confirm { .. }
            | Purpose::Terminate { .. }
            | Purpose::Tags { .. }
            | Purpose::PollFleets { .. }
            | Purpose::ListFleets { .. }
            | Purpose::DeleteFleets { .. }
            | Purpose::GroupFleet { .. }
            | Purpose::PollGroup { .. }
            | Purpose::History { .. }
            | Purpose::CancelSpot { .. }
            | Purpose::Relocate { .. }
            | Purpose::WatchSleep { .. } => {}
            Purpose::Close { node } => self.hibernation.take_closed(&mut self.g, &node, result),
            Purpose::Mind => self.g.cx.take_minded(result),
        }
    }

    fn take_fleets(&mut self, account: &Account, started: u64, result: CloudResult) {
        let Ok(CloudReply::Fleets(fleets)) = result else { return };
        self.groups.take_group_fleets(&mut self.g, account, started, &fleets);
        self.node_fleets.take_fleets(&mut self.g, account, fleets);
    }

    fn take_site(&mut self, site: Arc<Site>) {
        self.g.cx.site = site;
        let site = Arc::clone(&self.g.cx.site);
        self.g.sight.note_former_accounts(&self.g.cx);
        let listed = self.g.sight.listed_accounts(&self.g.cx);
        self.g.sight.views.retain(|account, _| listed.contains(account));
        self.groups.group_fleets_of_new_site(&mut self.g);
        // A node that the new configuration does not know is left alone; one it knows again is re-read.
        self.g.cx.nodes.retain(|name, _| site.locate(name).is_some());
        self.g.waiting.queues.retain(|stem, _| site.group(stem).is_some());
        self.g.cx.ledger = index::Index::of(&self.g.cx.persisted, Arc::clone(&site));
        self.g.weigh_by_new_site();
        // Times and rules may be others now.
        self.g.launches.fulfilling.touch_all();
        self.g.sleepers.sleeping.touch_all();
        for state in self.groups.states.values_mut() {
            state.touch_all();
        }
        self.g.cx.fact(
            self.g.cx.new_fact(
                FactKind::ConfigLoaded,
                format!("{} node groups are configured", site.groups().len()),
            ),
        );
        self.g.sight.rescan_now(&self.g.cx);
    }

    fn take_lock(&mut self, nodes: Vec<String>, locked: bool) {
        let nodes: Vec<String> =
            nodes.into_iter().filter(|node| self.g.cx.site.locate(node).is_some()).collect();
        let text = if locked { "hands off until unlocked" } else { "managed again" };
        self.g.cx.fact(self.g.cx.new_fact(FactKind::NodeLocked, text).nodes(&nodes));
        for node in &nodes {
            self.g.cx.wish_changed(node);
        }
        self.g.cx.record(Record::Lock { nodes, locked });
        self.g.sight.rescan_now(&self.g.cx);
    }

    /// Instances that are bound, by id.
    #[must_use]
    pub fn bound_instances(&self) -> BTreeSet<&str> {
        self.g.cx.ledger.owners.keys().map(String::as_str).collect()
    }

    /// Continue what an earlier process began: index the bindings and queue the open intents.
    fn recover(&mut self) {
        for node in self.g.cx.persisted.bindings.keys() {
            let entry = self.g.cx.nodes.entry(node.clone()).or_default();
            entry.since = self.g.cx.now.mono_ms;
            entry.bound_at = self.g.cx.now.mono_ms;
        }
        self.g.sight.note_former_accounts(&self.g.cx);
        self.g.tags.recover_tags(&self.g.cx);
        self.g.sleepers.recover_relocations(&self.g.cx);
        self.node_fleets.recover_fleets(&mut self.g);
        self.groups.recover_group_fleets(&mut self.g);
        let open: Vec<u64> = self.g.cx.persisted.open.keys().copied().collect();
        for id in &open {
            self.recover_intent(*id);
        }
        if !open.is_empty() || !self.g.cx.persisted.bindings.is_empty() {
            let text = format!(
                "{} bound nodes and {} unfinished calls in the journal",
                self.g.cx.persisted.bindings.len(),
                open.len()
            );
            self.g.cx.fact(self.g.cx.new_fact(FactKind::Recovered, text));
        }
    }
}

impl Cx {
    fn is_locked(&self, node: &str) -> bool {
        self.persisted.locked.contains(node)
    }

    /// A node that still needs an instance for the power-up it is in.
    fn wants_instance(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.desire == Desire::Waking && !n.reported)
            && !self.persisted.bindings.contains_key(node)
            && !self.is_locked(node)
    }

    /// Whether this node wants an instance may have changed: what waits for one on its behalf looks again.
    fn wish_changed(&mut self, node: &str) {
        let changed = &mut self.changed;
        changed.weights.insert(node.to_owned());
        changed.node_fleets.insert(node.to_owned());
        changed.groups.insert(node.to_owned());
    }

    fn record(&mut self, record: Record) {
        match &record {
            Record::Bound { bindings } => {
                self.changed.weights.extend(bindings.iter().map(|binding| binding.node.clone()));
            }
            Record::Unbound { nodes, .. } => self.changed.weights.extend(nodes.iter().cloned()),
            _ => {}
        }
        self.persisted.apply_telling(&record, &mut self.ledger);
        self.step.records.push(record);
    }

    fn new_fact(&self, kind: FactKind, text: impl Into<String>) -> Fact {
        Fact::new(self.now.unix_ms, kind, text)
    }

    fn fact(&mut self, fact: Fact) {
        self.step.facts.push(fact);
    }

    /// Ask to be woken at `mono_ms` = `at`.
    fn wake(&mut self, at: u64) {
        self.deadline = Some(self.deadline.map_or(at, |earlier| earlier.min(at)));
    }
}
