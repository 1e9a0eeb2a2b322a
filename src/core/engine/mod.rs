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

use launch::FallBack;

use super::ec2_api::CloudReply;
use super::event::{CallId, Event, Step};
use super::fact::{Fact, FactKind};
use super::name_map::NameMap;
use super::record::{Binding, Persisted, Record};
use super::site::{Lifecycle, Site};
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
    sight: list::Sight,
    waiting: batch::Waiting,
    launches: launch::Launches,
    pools: pools::Pools,
    sleepers: sleep::Sleepers,
    lowering: group_fleet::Lowering,
    terminations: end::Terminations,
    deletions: fleet::FleetDeletions,
    addresses: tell::Tell,
    placeholders: placeholder::Placeholders,
    failures: report::Reports,
    weights: weight::Weights,
    tags: tags::TagQueue,
}

/// The whole decision state: the ground, and those who decide upon it.
pub struct Engine {
    g: Ground,
    demand: desire::Demand,
    node_fleets: fleet::NodeFleets,
    groups: group_fleet::GroupFleets,
    hibernation: sleep::Hibernation,
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
            sight: list::Sight::default(),
            waiting: batch::Waiting::default(),
            launches: launch::Launches::default(),
            pools: pools::Pools::default(),
            sleepers: sleep::Sleepers::default(),
            lowering: group_fleet::Lowering::default(),
            terminations: end::Terminations::default(),
            deletions: fleet::FleetDeletions::default(),
            addresses: tell::Tell::default(),
            placeholders: placeholder::Placeholders::default(),
            failures: report::Reports::default(),
            weights: weight::Weights::of(&site),
            tags: tags::TagQueue::default(),
        };
        let mut engine = Self {
            g,
            demand: desire::Demand::default(),
            node_fleets: fleet::NodeFleets::default(),
            groups: group_fleet::GroupFleets::default(),
            hibernation: sleep::Hibernation::default(),
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
            && self.views_ready()
            && self.g.cx.calls.open.is_empty()
            && self.g.cx.calls.outbox.is_empty()
            && self.g.launches.open.is_empty()
            && self.g.waiting.queues.values().all(batch::Queue::is_empty)
            && self.g.terminations.queues.values().all(end::EndQueue::is_empty)
            && self.g.launches.fulfilling.is_empty()
            && self.group_fleets_quiet()
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
            Event::Power(reading) => self.take_power(&reading),
            Event::ResumeRequested { nodes, jobs } => {
                let ids: Vec<u64> = jobs.iter().flatten().map(|job| job.job_id).collect();
                if let Some(jobs) = jobs {
                    self.learn_jobs(&nodes, jobs);
                }
                self.take_request(&nodes, Desire::Waking);
                self.give_up_late_jobs(ids);
            }
            Event::SuspendRequested { nodes } => self.take_request(&nodes, Desire::Down),
            Event::ResumeFailed { nodes } => self.take_resume_failed(&nodes),
            Event::CloudAnswered { call, result } => self.take_cloud(call, result),
            Event::SlurmAnswered { call, result } => self.take_slurm(call, result),
            Event::SiteChanged(site) => self.take_site(site),
            Event::Rescan => {
                self.forget_weights();
                self.rescan_now();
            }
            Event::LockRequested { nodes, locked } => self.take_lock(nodes, locked),
            Event::PauseRequested { paused } => {
                self.record(Record::Pause { paused });
                let text = if paused {
                    "no EC2 instance is launched or terminated until resumed"
                } else {
                    "operations resumed"
                };
                self.fact(self.new_fact(FactKind::Paused, text));
                if !paused {
                    for pressure in self.g.pools.pressure.values_mut() {
                        pressure.open();
                    }
                    self.rescan_now();
                }
            }
            Event::ReplaceRequested { nodes } => self.take_replace(&nodes),
            Event::ResetRequested { nodes } => self.reset_nodes(&nodes),
            Event::DeleteFleetsRequested { fleet_ids } => self.delete_asked_fleets(&fleet_ids),
            Event::Tick => {}
        }
    }

    fn decide(&mut self) {
        self.g.cx.deadline = None;
        self.list_when_due();
        self.close_launch_batches();
        self.advance_launches();
        self.mind_group_fleets();
        self.watch_fleets();
        self.look_for_shortage();
        self.mind_sleepers();
        self.mind_relocations();
        self.end_instances();
        self.tell_addresses();
        self.settle_reports();
        if self.place_waiting() {
            self.report_failures();
        }
        self.set_weights();
        self.start_ready_jobs();
        self.write_tags();
        self.send_outbox();
    }

    fn take_cloud(&mut self, call: CallId, result: super::ec2_api::CloudResult) {
        use outbox::Purpose;
        let Some(purpose) = self.g.cx.calls.open.remove(&call) else { return };
        self.note_budget(&purpose, &result);
        match purpose {
            Purpose::Create { intent, .. } => {
                if let Some(FallBack { group, nodes }) = self.take_fleet(intent, result) {
                    self.begin_launch(&group, nodes, Lifecycle::OnDemand);
                }
            }
            Purpose::DescribeLaunch { intent, .. } => self.take_launch_instances(intent, result),
            Purpose::List { account, started, .. } => self.take_listing(&account, started, result),
            Purpose::Confirm { account, ids } => self.take_confirmation(&account, &ids, result),
            Purpose::Terminate { intent, .. } => self.take_terminated(intent, result),
            Purpose::Tags { intent, nodes, level, .. } => self.take_tagged(intent, nodes, level, result),
            Purpose::PollFleets { account } => self.take_fleet_instances(&account, result),
            Purpose::ListFleets { account, started } => {
                let Ok(CloudReply::Fleets(fleets)) = result else { return };
                self.take_group_fleets(&account, started, &fleets);
                self.take_fleets(&account, fleets);
            }
            Purpose::DeleteFleets { intent, .. } => self.take_deleted(intent, result),
            Purpose::GroupFleet { intent, stem, .. } => self.take_group_call(intent, &stem, result),
            Purpose::History { account, who, start_unix_ms } => {
                self.take_history(&account, &who, start_unix_ms, result);
            }
            Purpose::PollGroup { account, stem } => self.take_group_instances(&account, &stem, result),
            Purpose::CancelSpot { account, intent } => self.take_cancelled(&account, intent, result),
            Purpose::WatchSleep { .. } => self.take_sleep_watch(result),
            Purpose::Relocate { node, intent, .. } => self.take_relocation(&node, intent, result),
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
            Purpose::Tell { nodes } => self.take_told(nodes, result),
            Purpose::Place { nodes } => self.take_placed(nodes, result),
            Purpose::Report { nodes } => self.take_reported(&nodes, result),
            Purpose::Weigh { nodes, weight, round } => self.take_weighed(nodes, weight, round, result),
            Purpose::Reset { nodes } => self.take_reset(&nodes, result),
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
            Purpose::Close { node } => self.take_closed(&node, result),
            Purpose::Mind => self.take_minded(result),
        }
    }

    fn take_site(&mut self, site: Arc<Site>) {
        self.g.cx.site = site;
        let site = Arc::clone(&self.g.cx.site);
        self.note_former_accounts();
        let listed = self.listed_accounts();
        self.g.sight.views.retain(|account, _| listed.contains(account));
        self.group_fleets_of_new_site();
        // A node that the new configuration does not know is left alone; one it knows again is re-read.
        self.g.cx.nodes.retain(|name, _| site.locate(name).is_some());
        self.g.waiting.queues.retain(|stem, _| site.group(stem).is_some());
        self.g.cx.ledger = index::Index::of(&self.g.cx.persisted, Arc::clone(&site));
        self.weigh_by_new_site();
        // Times and rules may be others now.
        self.g.launches.fulfilling.touch_all();
        self.g.sleepers.sleeping.touch_all();
        for state in self.groups.states.values_mut() {
            state.touch_all();
        }
        self.fact(
            self.new_fact(
                FactKind::ConfigLoaded,
                format!("{} node groups are configured", site.groups().len()),
            ),
        );
        self.rescan_now();
    }

    fn take_lock(&mut self, nodes: Vec<String>, locked: bool) {
        let nodes: Vec<String> =
            nodes.into_iter().filter(|node| self.g.cx.site.locate(node).is_some()).collect();
        let text = if locked { "hands off until unlocked" } else { "managed again" };
        self.fact(self.new_fact(FactKind::NodeLocked, text).nodes(&nodes));
        for node in &nodes {
            self.wish_changed(node);
        }
        self.record(Record::Lock { nodes, locked });
        self.rescan_now();
    }

    fn is_locked(&self, node: &str) -> bool {
        self.g.cx.persisted.locked.contains(node)
    }

    /// A node that still needs an instance for the power-up it is in.
    fn wants_instance(&self, node: &str) -> bool {
        self.g.cx.nodes.get(node).is_some_and(|n| n.desire == Desire::Waking && !n.reported)
            && !self.g.cx.persisted.bindings.contains_key(node)
            && !self.is_locked(node)
    }

    /// Whether this node wants an instance may have changed: what waits for one on its behalf looks again.
    fn wish_changed(&mut self, node: &str) {
        let changed = &mut self.g.cx.changed;
        changed.weights.insert(node.to_owned());
        changed.node_fleets.insert(node.to_owned());
        changed.groups.insert(node.to_owned());
    }

    fn record(&mut self, record: Record) {
        match &record {
            Record::Bound { bindings } => {
                self.g.cx.changed.weights.extend(bindings.iter().map(|binding| binding.node.clone()));
            }
            Record::Unbound { nodes, .. } => self.g.cx.changed.weights.extend(nodes.iter().cloned()),
            _ => {}
        }
        self.g.cx.persisted.apply_telling(&record, &mut self.g.cx.ledger);
        self.g.cx.step.records.push(record);
    }

    fn new_fact(&self, kind: FactKind, text: impl Into<String>) -> Fact {
        Fact::new(self.g.cx.now.unix_ms, kind, text)
    }

    fn fact(&mut self, fact: Fact) {
        self.g.cx.step.facts.push(fact);
    }

    /// Ask to be woken at `mono_ms` = `at`.
    fn wake(&mut self, at: u64) {
        self.g.cx.deadline = Some(self.g.cx.deadline.map_or(at, |earlier| earlier.min(at)));
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
        self.note_former_accounts();
        self.recover_tags();
        self.recover_relocations();
        self.recover_fleets();
        self.recover_group_fleets();
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
            self.fact(self.new_fact(FactKind::Recovered, text));
        }
    }
}
