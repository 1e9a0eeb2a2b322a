// SPDX-License-Identifier: GPL-3.0-or-later
//! The decision maker: events in, records, effects and facts out. No clock, no I/O, no thread.
//!
//! Every decision is level-triggered: after each event the engine looks at what Slurm wants, what EC2 has and
//! what is under way, and does what is missing. An event that comes twice, late or never changes when
//! something is done, not what.

mod admin;
mod cx;
mod demand;
mod ground;
mod groups;
mod hibernation;
mod invariants;
mod launch;
mod node_fleets;
mod reconcile;
mod recover;
mod reports;
#[cfg(test)]
pub(crate) mod tests;

pub use cx::nodes::{Desire, Node};
pub use cx::{EngineOptions, PowerSource};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ec2_api::{CloudReply, CloudResult};
use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::{Calls, CloudPurpose, SlurmPurpose};
use crate::engine::cx::ledger::Ledger;
use crate::engine::cx::sightings::Sightings;
use crate::engine::cx::{Changed, Cx};
use crate::engine::demand::Demand;
use crate::engine::ground::Ground;
use crate::engine::ground::addresses::Addresses;
use crate::engine::ground::delete_fleets::FleetDeletions;
use crate::engine::ground::failures::Failures;
use crate::engine::ground::launches::Launches;
use crate::engine::ground::lowering::Lowering;
use crate::engine::ground::placeholders::Placeholders;
use crate::engine::ground::pools::Pools;
use crate::engine::ground::sight::Sight;
use crate::engine::ground::sleepers::Sleepers;
use crate::engine::ground::tags::Tags;
use crate::engine::ground::terminate::Terminations;
use crate::engine::ground::waiting::Waiting;
use crate::engine::ground::weights::Weights;
use crate::engine::groups::GroupFleets;
use crate::engine::hibernation::Hibernation;
use crate::engine::launch::{FallBack, Launching};
use crate::engine::node_fleets::NodeFleets;
use crate::engine::reconcile::Reconcile;
use crate::event::{CallId, Event, Step};
use crate::fact::FactKind;
use crate::name_map::NameMap;
use crate::record::{Binding, Persisted, Record};
use crate::site::{Account, Lifecycle, Site};
use crate::slurm_api::{SlurmError, SlurmNode, SlurmReply, SlurmResult};
use crate::time::Now;

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
        let ledger = Ledger::of(&persisted, Arc::clone(&site));
        let cx = Cx {
            sightings: Sightings::of(&ledger),
            ledger,
            rng: fastrand::Rng::with_seed(options.seed),
            site: Arc::clone(&site),
            options,
            persisted,
            nodes: NameMap::default(),
            calls: Calls::default(),
            counter: 0,
            deadline: Deadline::at(now.mono_ms),
            now,
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
            addresses: Addresses::default(),
            placeholders: Placeholders::default(),
            failures: Failures::default(),
            weights: Weights::of(&site),
            tags: Tags::default(),
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
        self.g.cx.deadline.mono_ms()
    }

    /// Nothing is under way and nothing is owed but `Name` tags and the next rescan.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.g.sight.is_slurm_settled()
            && self.g.sight.views_ready(&self.g.cx)
            && self.g.cx.calls.is_idle()
            && self.g.launches.open.is_empty()
            && self.g.waiting.is_empty()
            && self.g.terminations.is_idle()
            && self.g.launches.fulfilling.is_empty()
            && self.groups.group_fleets_quiet(&self.g)
            && self.g.deletions.is_idle()
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
                    self.g.pools.open_all();
                    self.g.sight.rescan_now(&self.g.cx);
                }
            }
            Event::ReplaceRequested { nodes } => self.take_replace(&nodes),
            Event::ResetRequested { nodes } => self.demand.reset_nodes(&mut self.g, &nodes),
            Event::DeleteFleetsRequested { fleet_ids } => self.delete_asked_fleets(&fleet_ids),
            Event::Tick => {}
        }
    }

    /// What is decided, in this order, and when a tick is due if nothing happens before.
    fn decide(&mut self) {
        let g = &mut self.g;
        let deadline = (g.sight.list_when_due(&mut g.cx))
            .or(self.demand.close_launch_batches(g, &mut self.launching, &mut self.groups))
            .or(self.launching.advance_launches(g))
            .or(self.groups.mind_group_fleets(g))
            .or(self.node_fleets.watch_fleets(g, &mut self.launching))
            .or(g.deletions.delete_fleets(&mut g.cx))
            .or(self.node_fleets.look_for_shortage(g, &mut self.groups))
            .or(self.hibernation.mind_sleepers(g))
            .or(self.hibernation.mind_relocations(g))
            .or(g.terminations.end_instances(&mut g.cx))
            .or(g.addresses.tell(&mut g.cx, g.placeholders.in_flight()))
            .or(g.place_and_report())
            .or(g.weights.set(&mut g.cx, g.sight.is_slurm_known()))
            .or(self.demand.start_ready_jobs(g))
            .or(g.tags.write_tags(&mut g.cx))
            .or(g.cx.send_outbox());
        g.cx.deadline = deadline;
    }

    fn take_cloud(&mut self, call: CallId, result: CloudResult) {
        let Some(purpose) = self.g.cx.cloud_answered(call, &result) else { return };
        match purpose {
            CloudPurpose::Create { intent, .. } => self.take_fleet(intent, result),
            CloudPurpose::DescribeLaunch { intent, .. } => {
                self.launching.take_launch_instances(&mut self.g, intent, result)
            }
            CloudPurpose::List { account, started, .. } => {
                self.g.sight.take_listing(&mut self.g.cx, &account, started, result)
            }
            CloudPurpose::Confirm { account, ids } => {
                self.reconcile.take_confirmation(&mut self.g, &account, &ids, result)
            }
            CloudPurpose::Terminate { intent, .. } => {
                self.g.terminations.take_terminated(&mut self.g.cx, intent, result)
            }
            CloudPurpose::Tags { intent, nodes, level, .. } => {
                self.g.tags.take_tagged(&mut self.g.cx, intent, nodes, level, result)
            }
            CloudPurpose::PollFleets { account } => {
                self.node_fleets.take_fleet_instances(&mut self.g, &account, result)
            }
            CloudPurpose::ListFleets { account, started } => self.take_fleets(&account, started, result),
            CloudPurpose::DeleteFleets { intent, .. } => {
                self.g.deletions.take_deleted(&mut self.g.cx, intent, result)
            }
            CloudPurpose::GroupFleet { intent, stem, .. } => {
                self.groups.take_group_call(&mut self.g, intent, &stem, result)
            }
            CloudPurpose::History(question) => self.node_fleets.take_history(
                &mut self.g,
                &mut self.launching,
                &mut self.groups,
                &question,
                result,
            ),
            CloudPurpose::PollGroup { account, stem } => {
                self.groups.take_group_instances(&mut self.g, &account, &stem, result)
            }
            CloudPurpose::CancelSpot { account, intent } => {
                self.g.lowering.take_cancelled(&mut self.g.cx, &account, intent, result)
            }
            CloudPurpose::WatchSleep { .. } => self.hibernation.take_sleep_watch(&mut self.g, result),
            CloudPurpose::Relocate { node, intent, .. } => {
                self.hibernation.take_relocation(&mut self.g, &node, intent, result)
            }
        }
    }

    fn take_fleet(&mut self, intent: u64, result: CloudResult) {
        let refused = self.launching.take_fleet(&mut self.g, intent, result);
        let Some(FallBack { group, nodes }) = refused else { return };
        self.demand.begin_launch(
            &mut self.g,
            &mut self.launching,
            &mut self.groups,
            &group,
            nodes,
            Lifecycle::OnDemand,
        );
    }

    fn take_slurm(&mut self, call: CallId, result: SlurmResult) {
        let Some(purpose) = self.g.cx.calls.slurm_answered(call) else { return };
        match purpose {
            SlurmPurpose::Load { accounts } => self.take_nodes(
                &accounts,
                result.map(|reply| match reply {
                    SlurmReply::Nodes(nodes) => nodes,
                    SlurmReply::Done => Vec::new(),
                }),
            ),
            SlurmPurpose::Tell { nodes } => self.g.take_told(nodes, result),
            SlurmPurpose::Place { nodes } => self.g.placeholders.take_placed(&mut self.g.cx, nodes, result),
            SlurmPurpose::Report { nodes } => self.g.failures.take_reported(&mut self.g.cx, &nodes, result),
            SlurmPurpose::Weigh { nodes, weight, round } => {
                self.g.weights.take_weighed(&mut self.g.cx, nodes, weight, round, result)
            }
            SlurmPurpose::Reset { nodes } => self.g.sight.take_reset(&mut self.g.cx, &nodes, result),
            SlurmPurpose::StartJobs => {}
            SlurmPurpose::Close { node } => self.hibernation.take_closed(&mut self.g, &node, result),
            SlurmPurpose::Mind => self.g.cx.take_minded(result),
        }
    }

    fn take_fleets(&mut self, account: &Account, started: u64, result: CloudResult) {
        let Ok(fleets) = result.and_then(CloudReply::into_fleets) else { return };
        self.groups.take_group_fleets(&mut self.g, account, started, &fleets);
        self.node_fleets.take_fleets(&mut self.g, account, fleets);
    }

    fn take_site(&mut self, site: Arc<Site>) {
        self.g.cx.site = site;
        let site = Arc::clone(&self.g.cx.site);
        self.g.sight.forget_accounts(&self.g.cx);
        self.groups.group_fleets_of_new_site(&mut self.g);
        // A node that the new configuration does not know is left alone; one it knows again is re-read.
        self.g.cx.nodes.retain(|name, _| site.locate(name).is_some());
        self.g.waiting.forget_groups(&site);
        self.g.cx.ledger = Ledger::of(&self.g.cx.persisted, Arc::clone(&site));
        self.g.cx.sightings.forget(&self.g.cx.ledger);
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

    /// Instances that are bound, by id.
    #[must_use]
    pub fn bound_instances(&self) -> BTreeSet<&str> {
        self.g.cx.ledger.owners().map(|(id, _)| id.as_str()).collect()
    }

    fn take_nodes(&mut self, accounts: &[Account], result: Result<Vec<SlurmNode>, SlurmError>) {
        let nodes = match result {
            Ok(nodes) => nodes,
            Err(error) => return self.g.sight.load_failed(&mut self.g.cx, &error),
        };
        self.g.sight.nodes_loaded(&mut self.g.cx);
        self.demand.take_slurm_nodes(&mut self.g, &mut self.groups, &nodes);
        self.g.weights.weights_read();
        let mut seen = BTreeMap::new();
        for account in accounts {
            let Some((started, instances)) = self.g.sight.take_fresh(account) else { continue };
            self.reconcile.judge(&mut self.g, &mut self.groups, account, started, &instances);
            seen.insert(account.clone(), started);
            self.launching.settle_recovered(&mut self.g, account);
            self.g.deletions.settle_deletions(&mut self.g.cx, account);
            self.g.sight.judged(account);
        }
        self.hibernation.end_unanswered(&mut self.g, &seen);
        self.demand.reset_stuck(&mut self.g);
        self.g.terminations.forget_ended(&self.g.cx);
    }
}
