// SPDX-License-Identifier: GPL-3.0-or-later
//! The acting plugin or program: events in, effects out, until something ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::clock::Clock;
use super::host::{HostCommand, HostLink, busy};
use super::hosts::{HostsFile, Told};
use ec2fleet_core::ec2_api::{CloudError, CloudRequest, CloudResult, ErrorClass};
use ec2fleet_core::event::{CallId, Effect, Event};
use ec2fleet_core::fact::{Fact, FactKind};
use ec2fleet_core::site::Account;
use ec2fleet_core::slurm_api::SlurmRequest;
use ec2fleet_ec2::Cloud;
use ec2fleet_journal::driver::{Driver, Outcome};
use ec2fleet_journal::fence::Fence;
use ec2fleet_journal::storage::Storage;
use ec2fleet_observe::history::{History, Origin};
use ec2fleet_observe::log;
use ec2fleet_observe::prices::{self, Prices};
use ec2fleet_observe::usage::UsageLog;
use ec2fleet_slurm::Slurm;

/// Events that may wait for the engine.
pub const EVENTS: usize = 4_096;

/// How often the fence, the controller's role and a refusing journal are looked at.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// The way to slurmctld.
#[derive(Clone)]
pub enum SlurmPort {
    /// Through the host thread, whose answers come in the order of its readings.
    InProcess(HostLink),
    /// Through Slurm's own commands.
    Commands(Arc<dyn Slurm>),
}

/// Why acting ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Stopped,
    /// Another controller is the primary one now.
    NotPrimary,
    /// Another process has taken the fence.
    FenceLost,
}

/// Everything that acts.
pub struct Active<S> {
    pub driver: Driver<S>,
    pub fence: Fence,
    /// Where a site wants the nodes' addresses beside slurmctld.
    pub hosts: Option<HostsFile>,
    /// Where prices are kept.
    pub state_dir: PathBuf,
    pub history: History,
    pub usage: UsageLog,
    pub clock: Clock,
    pub cloud: Arc<dyn Cloud>,
    pub slurm: SlurmPort,
    pub events: mpsc::Sender<Event>,
    pub inbox: mpsc::Receiver<Event>,
    /// Events handled since the start.
    pub handled: u64,
    pub journal_error: Option<String>,
}

impl<S: Storage> Active<S> {
    /// Wait for the next event or deadline, and do what it leads to. False if the fence is lost.
    pub async fn turn(&mut self) -> bool {
        let event = match self.engine_deadline() {
            Some(at) => tokio::select! {
                event = self.inbox.recv() => event.unwrap_or(Event::Tick),
                () = tokio::time::sleep_until(at.into()) => Event::Tick,
            },
            None => self.inbox.recv().await.unwrap_or(Event::Tick),
        };
        self.give(event, None)
    }

    fn engine_deadline(&self) -> Option<std::time::Instant> {
        self.driver.engine.next_deadline().map(|mono_ms| self.clock.instant(mono_ms))
    }

    /// Take one event in now. False if the fence is lost: then nothing of it was done.
    pub fn give(&mut self, event: Event, uid: Option<u32>) -> bool {
        self.handled += 1;
        let origin = match (&event, uid) {
            (Event::CloudAnswered { result: Err(error), .. }, _) => Origin::refusal(error),
            (_, Some(uid)) => Origin::user(uid),
            (_, None) => Origin::default(),
        };
        let outcome = self.driver.handle(event, self.clock.now());
        self.carry_out(outcome, &origin)
    }

    /// Try a refusing journal again.
    pub fn heartbeat(&mut self) -> bool {
        if !self.fence.holds() {
            return false;
        }
        if self.journal_error.is_some() {
            let outcome = self.driver.retry(self.clock.now());
            return self.carry_out(outcome, &Origin::default());
        }
        true
    }

    fn carry_out(&mut self, outcome: Outcome, origin: &Origin) -> bool {
        let mut facts = outcome.facts;
        let now = self.clock.now().unix_ms;
        match (&outcome.stalled, &self.journal_error) {
            (Some(error), None) => {
                facts.push(Fact::new(now, FactKind::JournalRefused, error.to_string()));
                self.journal_error = Some(error.to_string());
            }
            (None, Some(_)) => {
                facts.push(Fact::new(now, FactKind::JournalWritable, "the journal is written again"));
                self.journal_error = None;
            }
            _ => {}
        }
        if !outcome.bindings.is_empty() {
            facts.extend(self.write_hosts());
        }
        let engine = &self.driver.engine;
        prices::price_fallback(&mut facts, |node| engine.binding(node), || Prices::load(&self.state_dir));
        let bindings = self.driver.engine.persisted().bindings.values();
        self.usage.follow(&outcome.bindings, &facts, bindings, now);
        self.note(facts, origin);
        if outcome.effects.iter().any(Effect::needs_sync) && !self.fence.holds() {
            return false;
        }
        for effect in outcome.effects {
            self.begin(effect);
        }
        true
    }

    /// Have the hosts file say what the bindings say.
    pub fn write_hosts(&mut self) -> Option<Fact> {
        let bindings = self.driver.engine.persisted().bindings.values();
        let told = self.hosts.as_mut()?.follow(bindings)?;
        let now = self.clock.now().unix_ms;
        Some(match told {
            Told::Failed(text) => Fact::new(now, FactKind::HostsRefused, text),
            Told::Mended => Fact::new(now, FactKind::HostsWritten, "the hosts file is written again"),
        })
    }

    /// Write facts into the history and the log.
    pub fn note(&mut self, facts: Vec<Fact>, origin: &Origin) {
        for event in self.history.extend(facts, origin) {
            log::event(&event);
        }
    }

    fn begin(&self, effect: Effect) {
        match effect {
            Effect::Cloud { call, account, request } => self.begin_cloud(call, account, request),
            Effect::Slurm { call, request } => self.begin_slurm(call, request),
            Effect::ReadPower => {
                if let SlurmPort::InProcess(host) = &self.slurm {
                    // If the thread is behind, its next reading comes soon anyway.
                    host.send(HostCommand::ReadPower);
                }
            }
        }
    }

    fn begin_cloud(&self, call: CallId, account: Account, request: CloudRequest) {
        let (cloud, events) = (Arc::clone(&self.cloud), self.events.clone());
        tokio::spawn(async move {
            // A task of its own, so that even a panic in the SDK is answered.
            let result =
                tokio::spawn(cloud.call(account, request)).await.unwrap_or_else(|failure| panicked(&failure));
            // The receiver is gone only when nobody waits for the answer any more.
            let _ = events.send(Event::CloudAnswered { call, result }).await;
        });
    }

    fn begin_slurm(&self, call: CallId, request: SlurmRequest) {
        let events = self.events.clone();
        match &self.slurm {
            SlurmPort::InProcess(host) => {
                let refusal = busy(&request);
                if !host.send(HostCommand::Slurm { call, request, asker: host.shared.asker() }) {
                    tokio::spawn(async move {
                        let _ = events.send(Event::SlurmAnswered { call, result: Err(refusal) }).await;
                    });
                }
            }
            SlurmPort::Commands(slurm) => {
                let answer = slurm.call(request);
                tokio::spawn(async move {
                    let result = answer.await;
                    let _ = events.send(Event::SlurmAnswered { call, result }).await;
                });
            }
        }
    }
}

fn panicked(failure: &tokio::task::JoinError) -> CloudResult {
    Err(CloudError {
        class: ErrorClass::Transient,
        code: "ClientFailure".into(),
        message: format!("the EC2 client failed: {failure}"),
        request_id: None,
    })
}
