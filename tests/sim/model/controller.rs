// SPDX-License-Identifier: GPL-3.0-or-later
//! One controller process: the production driver, and the loop around it that the runtime is in real life.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use ec2fleet_core::ec2_api::{CloudReply, CloudRequest, CloudResult, ErrorClass, InstanceState};
use ec2fleet_core::engine::{EngineOptions, PowerSource};
use ec2fleet_core::event::{CallId, Effect, Event};
use ec2fleet_core::power_watch::{Ask, LOOK_INTERVAL_MS, Observation, PowerWatch, SCAN_INTERVAL_MS};
use ec2fleet_core::program_pass::{self, FenceWait, Pass, Seen};
use ec2fleet_core::restarts::{Inactive, Next, Restarts};
use ec2fleet_core::site::{Account, Site};
use ec2fleet_core::slurm_api::{PowerReading, SlurmError, SlurmNode, SlurmReply, SlurmRequest};
use ec2fleet_core::time::Now;
use ec2fleet_journal::Journal;
use ec2fleet_journal::driver::{Driver, Outcome};

use super::chaos::Fault;
use super::checks::Buckets;
use super::disk::{self, Disk, Handle};
use super::duties::Duties;
use super::ec2;
use super::kernel::Action;
use super::mutant::Mutant;
use super::plan::{CLUSTER, Scenario};
use super::world::World;

/// How long an EC2 call may take before the caller gives up.
const CALL_TIMEOUT_MS: u64 = 30_000;

/// One process; `life` tells its incarnations apart.
#[derive(Default)]
pub struct Controller {
    pub life: u64,
    pub driver: Option<Driver<Handle>>,
    /// Its number in the fence file.
    epoch: u64,
    /// Virtual time at which its monotonic clock shows zero.
    clock_origin: u64,
    wake_at: Option<u64>,
    /// The thread that calls slurmctld. It outlives an engine.
    thread: HostThread,
    /// What becomes of the engine when it ends.
    restarts: Restarts,
    /// Of a program.
    pass: Option<Pass>,
    handed_over_at: u64,
    retry_planned: bool,
    /// It stands still until then.
    pub hangs_until: u64,
    /// Another slurmctld is in control, and this one has not noticed: it sees and changes only its own copy.
    pub superseded: bool,
    pub buckets: Buckets,
    /// What this process has to do again.
    pub duties: Duties,
    /// When the journal refused last.
    pub stalled_at: u64,
    journal_refuses: bool,
    /// Instances that this process was told of by CreateFleet, or has bound.
    pub told_of: BTreeSet<String>,
    /// What [`Mutant::SlurmListedFirst`] read too early.
    early_nodes: Option<Vec<SlurmNode>>,
    retries: BTreeSet<String>,
    /// The runs of jobs of which it was told while they waited for the nodes it was told of.
    pub jobs: BTreeMap<u64, u32>,
    /// All jobs of which it was told, by the nodes that were being woken then.
    pub jobs_of: BTreeMap<String, BTreeSet<u64>>,
}

/// The thread that calls slurmctld, and what the shim remembers of its readings.
#[derive(Default)]
struct HostThread {
    watch: PowerWatch,
    look_at: Option<u64>,
    looked_at: u64,
    /// `last_node_update` at the last look, and the changes that the last reading has seen.
    seen_update: i64,
    seen_changes: u64,
    seen_waking: BTreeSet<usize>,
    seen_suspended: BTreeSet<usize>,
    /// What is asked of slurmctld, and in which life.
    calls: VecDeque<(u64, CallId, SlurmRequest)>,
    serving: bool,
    /// Answers that the engine's queue has had no room for.
    owed: VecDeque<(u64, Event)>,
    queue_full_until: u64,
    /// Something of a reading was lost since the last one.
    lost: bool,
}

/// One call to EC2 that is under way.
pub struct Call {
    pub host: usize,
    pub life: u64,
    id: CallId,
    pub account: Account,
    pub request: CloudRequest,
    result: Option<CloudResult>,
    /// The connection breaks with the process before the request is out.
    dies_with_caller: bool,
    /// What EC2 says instead of doing it.
    refused: Option<(ErrorClass, &'static str)>,
    answer_lost: bool,
    /// The caller has its answer, or is gone.
    over: bool,
    /// Instances that it ends and whose end Slurm had asked for when it left.
    asked: BTreeSet<String>,
}

impl Controller {
    pub fn of(life: u64) -> Self {
        Self { life, ..Self::default() }
    }
}

impl World {
    pub fn is_alive(&self, host: usize, life: u64) -> bool {
        self.controllers[host].life == life
    }

    /// The controller that acts, if one does.
    pub fn acting(&self) -> Option<usize> {
        let acts = |controller: &Controller| controller.driver.is_some() && !controller.superseded;
        (0..self.controllers.len()).find(|host| acts(&self.controllers[*host]))
    }

    /// Whether this process is the one whose slurmctld is in control.
    fn in_control(&self, host: usize) -> bool {
        self.slurm.host == Some(host) && !self.controllers[host].superseded
    }

    pub fn start(&mut self, host: usize) {
        if self.slurm.host.is_some() {
            return;
        }
        let life = self.new_life();
        let k = &mut self.k;
        self.controllers[host] =
            Controller { life, clock_origin: k.rng.u64(0..=k.now), ..Controller::default() };
        k.note(|| format!("slurmctld starts on host {host}"));
        self.slurm.start(k, host);
        let delay = k.between(10, 2_000);
        self.passive = None;
        if !self.has_no_plugin() {
            self.k.after(delay, Action::Open { host, life });
        }
        self.ask_to_register();
    }

    /// The programs of slurmctld do the work: it has no plugin, or one that stays passive.
    pub fn has_no_plugin(&self) -> bool {
        self.slurm.plan.scenario == Scenario::Programs || self.passive.is_some()
    }

    /// A program waits for the pass before it, and does its own, as `runtime::standalone` does.
    pub fn run_program(&mut self, host: usize, event: Box<Event>, wait: FenceWait, insists_until: u64) {
        // A slurmctld that ends takes its programs with it, and the plugin of the next one may act.
        if self.slurm.host != Some(host) || !self.has_no_plugin() {
            return;
        }
        let Some(epoch) = disk::take_fence(&self.disk) else {
            let slower = self.k.between(0, 450);
            let (ms, wait) = match wait.held(self.k.now) {
                Some(ms) => (ms, wait),
                None if self.k.now < insists_until => (0, FenceWait::begin(self.k.now)),
                None => return,
            };
            self.k.after(ms + slower, Action::RunProgram { host, event, wait, insists_until });
            return;
        };
        let life = self.new_life();
        let clock_origin = self.k.rng.u64(0..=self.k.now);
        self.controllers[host] = Controller { life, clock_origin, epoch, ..Controller::default() };
        let pass = Pass::begin(self.time(host).mono_ms, self.slurm.plan.site.settings.resume_timeout_s);
        if !self.last_pass {
            self.controllers[host].pass = Some(pass);
            self.k.after(pass.patience_ms(), Action::PassEnds { host, life });
        }
        if self.open_journal(host, epoch, PowerSource::Requests) {
            self.deliver(host, *event);
        }
    }

    pub fn run_last_pass(&mut self) {
        self.last_pass = true;
        let Some(host) = self.slurm.host else { return };
        let event = Box::new(Event::SuspendRequested { nodes: Vec::new() });
        self.run_program(host, event, FenceWait::begin(self.k.now), u64::MAX);
    }

    /// Something happened in a program's pass, or its time is over.
    pub fn continue_pass(&mut self, host: usize) {
        let now_ms = self.time(host).mono_ms;
        let fence_lost = !self.holds_fence(host);
        let controller = &self.controllers[host];
        let (Some(pass), Some(driver)) = (controller.pass, &controller.driver) else { return };
        let (life, origin) = (controller.life, controller.clock_origin);
        let idle = driver.engine.is_idle();
        match pass.step(now_ms, Seen { fence_lost, idle, journal_refuses: controller.journal_refuses }) {
            program_pass::Next::Wait { .. } => {}
            program_pass::Next::RetryJournal { until_ms } => {
                if !controller.retry_planned {
                    self.controllers[host].retry_planned = true;
                    self.k.at(until_ms + origin, Action::RetryJournal { host, life });
                }
            }
            program_pass::Next::FenceLost => self.stand_down(host),
            program_pass::Next::Finished | program_pass::Next::GivenUp => self.end_pass(host),
        }
    }

    /// What is open is in the journal.
    fn end_pass(&mut self, host: usize) {
        if self.last_pass {
            return;
        }
        self.k.note(|| format!("the pass on host {host} ends"));
        self.give_up_fence_of(host);
        let life = self.new_life();
        self.controllers[host] = Controller::of(life);
        self.forget_bindings(host);
    }

    /// No engine acts, or none can begin: the policy of the plugin says what follows.
    fn begin_again(&mut self, host: usize, why: Inactive) {
        if self.has_no_plugin() {
            return;
        }
        let now_ms = self.time(host).mono_ms;
        let controller = &mut self.controllers[host];
        let life = controller.life;
        match controller.restarts.step(now_ms, why) {
            Next::After { ms } => self.k.after(ms, Action::Open { host, life }),
            Next::Restart { .. } => {
                let delay = self.k.between(0, 50);
                self.k.after(delay, Action::Open { host, life });
            }
            Next::StayPassive => {
                self.k.note(|| format!("controller {host} stays passive"));
                self.passive = Some(life);
                let delay = self.k.between(60_000, 1_800_000);
                self.k.after(delay, Action::LoadAnew { life });
            }
        }
    }

    /// A defect ends the engine. slurmctld goes on, and so does the thread that calls it.
    pub fn panic_engine(&mut self, host: usize) {
        let life = self.new_life();
        let old = std::mem::replace(&mut self.controllers[host], Controller::of(life));
        self.k.note(|| format!("controller {host} panics"));
        self.k.chaos.note(Fault::Defect, self.k.now);
        drop(old.driver);
        self.give_up_fence(old.epoch);
        let controller = &mut self.controllers[host];
        controller.clock_origin = old.clock_origin;
        controller.thread = old.thread;
        controller.restarts = old.restarts;
        controller.hangs_until = old.hangs_until;
        controller.superseded = old.superseded;
        controller.thread.serving = false;
        controller.thread.look_at = None;
        self.forget_bindings(host);
        self.begin_again(host, Inactive::Panicked);
        self.plan_serve(host);
    }

    /// Take the fence and open the journal, or try again later.
    pub fn open(&mut self, host: usize, life: u64) {
        if !self.is_alive(host, life) || self.controllers[host].superseded {
            return;
        }
        let epoch = if self.mutant == Some(Mutant::NoFence) {
            self.disk.borrow_mut().epoch += 1;
            Some(self.disk.borrow().epoch)
        } else {
            disk::take_fence(&self.disk)
        };
        let Some(epoch) = epoch else {
            self.begin_again(host, Inactive::Refused);
            return;
        };
        self.controllers[host].epoch = epoch;
        if self.open_journal(host, epoch, PowerSource::Watch) {
            self.deliver(host, Event::Tick);
            self.want_full_reading(host);
            if self.defects > 0 {
                self.defects -= 1;
                let delay = self.k.between(0, 2_000);
                self.k.after(delay, Action::Defect { host, life });
            }
        }
    }

    /// True if the engine runs.
    fn open_journal(&mut self, host: usize, epoch: u64, source: PowerSource) -> bool {
        let opened = match Journal::open(
            Handle::new(&self.disk, (self.mutant != Some(Mutant::NoFence)).then_some(epoch)),
            CLUSTER,
        ) {
            Ok(opened) => opened,
            Err(error) => {
                self.k.note(|| format!("controller {host}: {error}"));
                self.give_up_fence(epoch);
                if self.disk.borrow().died {
                    self.kill(host, true);
                } else if source == PowerSource::Watch {
                    self.begin_again(host, Inactive::Refused);
                }
                return false;
            }
        };
        let options =
            EngineOptions { source, nonce: format!("{:08x}", self.k.rng.u32(..)), seed: self.k.rng.u64(..) };
        let mut state = opened.state;
        let duties = Duties::of(&state, self.k.now);
        if self.mutant == Some(Mutant::ForgetsOpenIntents) {
            state.open.clear();
        }
        let now = self.time(host);
        let driver = Driver::new(opened.journal, state, self.site_for_engine(), options, now);
        let bound = driver.engine.persisted().bindings.values().map(|b| b.instance_id.clone());
        let mut known: BTreeSet<String> = bound.collect();
        known.extend(driver.engine.persisted().leaving.keys().cloned());
        for intent in driver.engine.persisted().open.values() {
            if let CloudRequest::TerminateInstances { ids } = &intent.request {
                known.extend(ids.iter().cloned());
            }
        }
        self.forget_unwritten(&known);
        let controller = &mut self.controllers[host];
        controller.told_of = known;
        controller.duties = duties;
        controller.driver = Some(driver);
        self.forget_bindings(host);
        self.k.note(|| format!("controller {host} acts (fence {epoch})"));
        true
    }

    fn site_for_engine(&self) -> Arc<Site> {
        let site = &self.slurm.plan.site;
        if self.mutant != Some(Mutant::NoGraceTime) {
            return Arc::clone(site);
        }
        let mut careless = (**site).clone();
        careless.settings.orphan_grace_s = 0;
        Arc::new(careless)
    }

    pub fn give_up_fence_of(&mut self, host: usize) {
        let epoch = self.controllers[host].epoch;
        self.give_up_fence(epoch);
    }

    fn give_up_fence(&mut self, epoch: u64) {
        let mut disk = self.disk.borrow_mut();
        if disk.holder == Some(epoch) {
            disk.holder = None;
        }
    }

    fn time(&self, host: usize) -> Now {
        // A process on another host, or started later, counts from another origin.
        let origin = self.controllers[host].clock_origin;
        Now { mono_ms: self.k.now - origin, unix_ms: self.k.unix_ms() }
    }

    /// The process ends: nothing it holds in memory survives, and calls that are not out yet never happen.
    pub fn kill(&mut self, host: usize, torn: bool) {
        let life = self.new_life();
        let old = std::mem::replace(&mut self.controllers[host], Controller::of(life));
        self.k.note(|| format!("controller {host} dies"));
        self.k.chaos.note(Fault::Kill, self.k.now);
        drop(old.driver);
        let tear = torn && self.k.strikes(Fault::TornTail, 0.7);
        // What another process has written since is not this one's to lose.
        if !old.superseded {
            self.disk.borrow_mut().crash(tear.then_some(&mut self.k.rng));
        }
        self.give_up_fence(old.epoch);
        self.forget_bindings(host);
        if self.slurm.host == Some(host) {
            self.slurm.stop(false);
        }
    }

    /// Hand one event to the driver and begin what it wants.
    pub fn deliver(&mut self, host: usize, mut event: Event) {
        let now = self.time(host);
        if let Event::ResumeRequested { jobs: Some(jobs), .. } = &mut event {
            self.note_jobs(host, jobs);
            if self.mutant == Some(Mutant::ForgetsJobs) {
                jobs.clear();
            }
        }
        let Some(driver) = self.controllers[host].driver.as_mut() else { return };
        if self.k.is_traced() && !matches!(event, Event::Tick) {
            let text = brief(&event);
            self.k.note(|| format!("  event to {host}: {text}"));
        }
        let outcome = driver.handle(event, now);
        self.carry_out(host, outcome);
    }

    pub fn retry_journal(&mut self, host: usize, life: u64) {
        if !self.is_alive(host, life) {
            return;
        }
        self.controllers[host].retry_planned = false;
        let now = self.time(host);
        let Some(driver) = self.controllers[host].driver.as_mut() else { return };
        let outcome = driver.retry(now);
        self.carry_out(host, outcome);
    }

    fn carry_out(&mut self, host: usize, outcome: Outcome) {
        if self.disk.borrow().died {
            self.k.note(|| format!("controller {host} dies in a write to the journal"));
            self.k.chaos.note(Fault::KillInWrite, self.k.now);
            self.kill(host, true);
            self.restart_later();
            return;
        }
        if self.k.is_traced() {
            for fact in &outcome.facts {
                let text =
                    format!("  {:?} {} {}: {}", fact.kind, fact.nodes, fact.instances.join(","), fact.text);
                self.k.note(|| text);
            }
        }
        let life = self.controllers[host].life;
        if outcome.stalled.is_some() {
            self.controllers[host].stalled_at = self.k.now;
        }
        if outcome.stalled.is_some() && !self.holds_fence(host) {
            self.stand_down(host);
            return;
        }
        self.controllers[host].journal_refuses = outcome.stalled.is_some();
        if outcome.stalled.is_some() && !self.controllers[host].retry_planned {
            self.k.chaos.disturb(self.k.now);
            if self.controllers[host].pass.is_none() {
                self.controllers[host].retry_planned = true;
                self.k.after(1_000, Action::RetryJournal { host, life });
            }
        }
        self.check_engine(host);
        for effect in outcome.effects {
            if !self.is_alive(host, life) {
                return;
            }
            self.begin(host, effect);
        }
        self.continue_pass(host);
        self.plan_wake(host);
    }

    fn plan_wake(&mut self, host: usize) {
        let controller = &mut self.controllers[host];
        let Some(driver) = &controller.driver else { return };
        let Some(deadline) = driver.engine.next_deadline() else { return };
        let at = (deadline + controller.clock_origin).max(self.k.now);
        if controller.wake_at.is_none_or(|planned| at < planned || planned < self.k.now) {
            controller.wake_at = Some(at);
            let life = controller.life;
            self.k.at(at, Action::Wake { host, life });
        }
    }

    pub fn wake(&mut self, host: usize, life: u64) {
        if !self.is_alive(host, life) {
            return;
        }
        let controller = &mut self.controllers[host];
        if controller.wake_at.is_some_and(|at| at > self.k.now) {
            return;
        }
        controller.wake_at = None;
        let Some(driver) = &controller.driver else { return };
        let due = driver.engine.next_deadline().is_some_and(|at| at + controller.clock_origin <= self.k.now);
        if due {
            self.deliver(host, Event::Tick);
        } else {
            self.plan_wake(host);
        }
    }

    fn begin(&mut self, host: usize, effect: Effect) {
        let needs_sync = effect.needs_sync();
        match effect {
            Effect::ReadPower => self.want_full_reading(host),
            Effect::Slurm { call, request } => {
                if needs_sync && !self.holds_fence(host) {
                    self.stand_down(host);
                    return;
                }
                let controller = &mut self.controllers[host];
                controller.thread.calls.push_back((controller.life, call, request));
                self.plan_serve(host);
            }
            Effect::Cloud { call, account, request } => {
                if needs_sync && !self.holds_fence(host) {
                    self.stand_down(host);
                    return;
                }
                self.send(host, call, account, request);
            }
        }
    }

    fn holds_fence(&self, host: usize) -> bool {
        self.mutant == Some(Mutant::NoFence) || self.disk.borrow().epoch == self.controllers[host].epoch
    }

    /// Another controller has acted since: this one must not.
    fn stand_down(&mut self, host: usize) {
        self.k.note(|| format!("controller {host} has lost the fence and stops"));
        self.k.chaos.disturb(self.k.now);
        self.controllers[host].driver = None;
        self.begin_again(host, Inactive::Resigned);
    }

    // --- slurmctld ---

    /// The engine begins to listen, or asks for the complete sets.
    fn want_full_reading(&mut self, host: usize) {
        self.controllers[host].thread.watch.step(self.k.now, Observation::FullWanted);
        self.plan_look(host);
    }

    /// The thread looks every 20 ms. Looks that find nothing to do are not simulated one by one.
    fn plan_look(&mut self, host: usize) {
        let at = self.k.now + self.k.between(1, LOOK_INTERVAL_MS);
        let controller = &mut self.controllers[host];
        let life = controller.life;
        let thread = &mut controller.thread;
        // While it makes a call it sees nothing, and it looks when it has made all of them.
        if controller.driver.is_none()
            || thread.serving
            || thread.look_at.is_some_and(|planned| planned <= at)
        {
            return;
        }
        thread.look_at = Some(at);
        self.k.at(at, Action::Look { host, life });
    }

    /// Something has changed since the last look that was simulated: of those since then the last one, which found nothing.
    fn look_idly(&mut self, host: usize) {
        let back = self.k.between(0, SCAN_INTERVAL_MS + LOOK_INTERVAL_MS);
        let thread = &mut self.controllers[host].thread;
        let at = self.k.now.saturating_sub(back).max(thread.looked_at);
        let look = Observation::Look { last_node_update: thread.seen_update, answers_wait: false };
        if let Ask::Read { full: false } = thread.watch.step(at, look) {
            thread.watch.step(at, Observation::Read { full: false, empty: true, reconfigured: false });
        }
    }

    pub fn look_at_slurmctld(&mut self, host: usize, life: u64) {
        let now = self.k.now;
        if !self.is_alive(host, life) || self.controllers[host].thread.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.look_now(host);
    }

    fn look_now(&mut self, host: usize) {
        let (now, last_node_update) = (self.k.now, self.slurm.last_node_update);
        self.controllers[host].thread.look_at = None;
        // Without an engine answers wait, too.
        if self.controllers[host].driver.is_none() || self.controllers[host].thread.serving {
            return;
        }
        self.pay(host);
        if !self.in_control(host) {
            return;
        }
        let thread = &mut self.controllers[host].thread;
        thread.looked_at = now;
        let moved = std::mem::replace(&mut thread.seen_update, last_node_update) != last_node_update;
        let answers_wait = !thread.owed.is_empty();
        match thread.watch.step(now, Observation::Look { last_node_update, answers_wait }) {
            Ask::Read { full: false } if !moved && self.mutant == Some(Mutant::ReadOnlyAfterMove) => {}
            Ask::Read { full } => self.read_power(host, full),
            _ => {}
        }
        let thread = &self.controllers[host].thread;
        if !thread.owed.is_empty() || thread.lost || thread.seen_changes != self.slurm.changes {
            self.plan_look(host);
        }
    }

    /// Hand answers over in order; what does not fit waits.
    fn pay(&mut self, host: usize) {
        let life = self.controllers[host].life;
        while let Some((asker, event)) = self.controllers[host].thread.owed.pop_front() {
            if asker != life {
                continue;
            }
            if self.queue_is_full(host) {
                self.controllers[host].thread.owed.push_front((asker, event));
                return;
            }
            self.hand_over(host, life, event);
        }
    }

    fn queue_is_full(&mut self, host: usize) -> bool {
        if self.controllers[host].thread.queue_full_until > self.k.now {
            return true;
        }
        if !self.k.strikes(Fault::Overflow, 0.02) {
            return false;
        }
        let until = self.k.now + self.k.between(1, 3_000);
        self.controllers[host].thread.queue_full_until = until;
        true
    }

    /// Read the bitmaps as the shim does, and tell the engine what the policy says.
    fn read_power(&mut self, host: usize, full: bool) {
        self.controllers[host].thread.lost = false;
        let reading = self.reading(host, full);
        let life = self.controllers[host].life;
        let seen = Observation::Read { full, empty: reading.is_empty(), reconfigured: false };
        let Ask::HandOver { rescan, reading: wanted, .. } =
            self.controllers[host].thread.watch.step(self.k.now, seen)
        else {
            return;
        };
        if rescan {
            if self.queue_is_full(host) {
                self.lose_reading(host);
                return;
            }
            self.hand_over(host, life, Event::Rescan);
        }
        if !wanted {
            return;
        }
        if self.queue_is_full(host) {
            self.lose_reading(host);
            return;
        }
        if self.mutant == Some(Mutant::StaleDesire) && self.k.rng.u8(0..4) == 0 {
            let delay = self.k.between(60_000, 600_000);
            let event = Box::new(Event::Power(reading.clone()));
            self.k.after(delay, Action::Deliver { host, life, event });
        }
        self.hand_over(host, life, Event::Power(reading));
    }

    fn lose_reading(&mut self, host: usize) {
        if self.mutant != Some(Mutant::OverflowWithoutRescan) {
            let thread = &mut self.controllers[host].thread;
            thread.lost = true;
            thread.watch.step(self.k.now, Observation::QueueFull);
        }
    }

    /// The complete sets, or what changed in them since the last reading.
    fn reading(&mut self, host: usize, full: bool) -> PowerReading {
        let nodes = &self.slurm.state.nodes;
        let set = |test: fn(&super::slurmctld::Node) -> bool| -> BTreeSet<usize> {
            (0..nodes.len()).filter(|index| test(&nodes[*index])).collect()
        };
        let waking = set(super::slurmctld::Node::is_waking);
        let suspended = set(|node| node.suspended);
        let thread = &mut self.controllers[host].thread;
        thread.seen_changes = self.slurm.changes;
        let names = |indexes: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
            indexes.map(|index| nodes[*index].name.clone()).collect()
        };
        let reading = if full {
            PowerReading {
                full,
                waking: names(&mut waking.iter()),
                suspended: names(&mut suspended.iter()),
                ..PowerReading::default()
            }
        } else {
            PowerReading {
                full,
                waking: names(&mut waking.difference(&thread.seen_waking)),
                waking_ended: names(&mut thread.seen_waking.difference(&waking)),
                suspended: names(&mut suspended.difference(&thread.seen_suspended)),
                suspended_ended: names(&mut thread.seen_suspended.difference(&suspended)),
                ..PowerReading::default()
            }
        };
        thread.seen_waking = waking;
        thread.seen_suspended = suspended;
        reading
    }

    /// What slurmctld changed is seen a little later.
    pub fn watch(&mut self) {
        let Some(host) = self.slurm.host else { return };
        let programs = std::mem::take(&mut self.slurm.programs);
        let no_plugin = self.has_no_plugin();
        if self.controllers[host].driver.is_none() && !no_plugin {
            return;
        }
        let controller = &self.controllers[host];
        let life = controller.life;
        let thread = &controller.thread;
        let unseen = thread.seen_changes != self.slurm.changes;
        if unseen && thread.look_at.is_none() && !thread.serving && !no_plugin {
            self.look_idly(host);
            self.plan_look(host);
        }
        if self.passive.is_some() {
            // Nothing is promised about how long a repair takes while only the programs act.
            self.k.chaos.disturb(self.k.now);
        }
        for program in programs {
            if !no_plugin && self.k.strikes(Fault::LostRequestOfSlurm, 0.2) {
                continue;
            }
            use super::slurmctld::Program;
            let event = match program {
                Program::Resume { nodes, jobs } => Event::ResumeRequested { nodes, jobs: Some(jobs) },
                Program::Suspend(nodes) => Event::SuspendRequested { nodes },
                Program::ResumeFail(nodes) => Event::ResumeFailed { nodes },
            };
            let delay = self.k.between(5, 3_000);
            let event = Box::new(event);
            if no_plugin {
                let wait = FenceWait::begin(self.k.now + delay);
                self.k.after(delay, Action::RunProgram { host, event, wait, insists_until: 0 });
            } else {
                self.k.after(delay, Action::Deliver { host, life, event });
            }
        }
    }

    fn plan_serve(&mut self, host: usize) {
        let controller = &mut self.controllers[host];
        if controller.thread.serving || controller.thread.calls.is_empty() {
            return;
        }
        controller.thread.serving = true;
        let life = controller.life;
        let delay =
            if self.k.rng.u8(0..50) == 0 { self.k.between(100, 5_000) } else { self.k.between(1, 20) };
        self.k.after(delay, Action::Serve { host, life });
    }

    /// The next call to slurmctld, one at a time and in order.
    pub fn serve(&mut self, host: usize, life: u64) {
        if !self.is_alive(host, life) {
            return;
        }
        self.controllers[host].thread.serving = false;
        let Some((asker, call, request)) = self.controllers[host].thread.calls.pop_front() else { return };
        let unreachable = || SlurmError::Unreachable { what: "a call".into(), message: "simulated".into() };
        let control = self.in_control(host);
        let result = match &request {
            SlurmRequest::LoadNodes => {
                if self.slurm_fails_until > self.k.now || self.k.strikes(Fault::LoadFails, 0.05) {
                    self.controllers[host].duties.load_failed(self.k.now);
                    Err(unreachable())
                } else {
                    let early = self.controllers[host].early_nodes.take();
                    Ok(SlurmReply::Nodes(early.unwrap_or_else(|| self.slurm.load())))
                }
            }
            SlurmRequest::UpdateNodes(update) => {
                if self.slurm_fails_until > self.k.now || self.k.strikes(Fault::UpdateFails, 0.05) {
                    Err(unreachable())
                } else if !control {
                    Ok(SlurmReply::Done)
                } else {
                    self.check_update(update);
                    let dropped = match self.mutant {
                        Some(Mutant::SilentFailure) => update.reason.is_some(),
                        Some(Mutant::NamesLookedUp) => update.addrs.is_some() && update.hostnames.is_none(),
                        _ => false,
                    };
                    let result = if dropped { Ok(()) } else { self.slurm.update(&mut self.k, update) };
                    if self.k.strikes(Fault::UpdateAnswerLost, 0.03) {
                        Err(unreachable())
                    } else {
                        result.map(|()| SlurmReply::Done)
                    }
                }
            }
            SlurmRequest::KeepResponding { nodes } => {
                if control && self.mutant != Some(Mutant::NotKeptAlive) {
                    self.slurm.did_respond(&mut self.k, nodes);
                }
                Ok(SlurmReply::Done)
            }
            _ => Ok(SlurmReply::Done),
        };
        let result = if self.mutant == Some(Mutant::ToldBeforeSuccess)
            && matches!(request, SlurmRequest::UpdateNodes(_))
        {
            Ok(SlurmReply::Done)
        } else {
            result
        };
        let thread = &mut self.controllers[host].thread;
        thread.owed.push_back((asker, Event::SlurmAnswered { call, result }));
        // It looks when it has made every call that it was asked for.
        self.plan_serve(host);
        self.look_now(host);
        self.watch();
    }

    /// What comes from the host thread arrives in its order: a reading never overtakes an answer.
    fn hand_over(&mut self, host: usize, life: u64, event: Event) {
        let delay = self.k.between(0, 5);
        let at = (self.k.now + delay).max(self.controllers[host].handed_over_at);
        self.controllers[host].handed_over_at = at;
        self.k.at(at, Action::Deliver { host, life, event: Box::new(event) });
    }

    fn answer(&mut self, host: usize, life: u64, delay: u64, event: Event) {
        if self.k.strikes(Fault::DuplicateAnswer, 0.02) {
            let later = delay + self.k.between(0, 5_000);
            self.k.after(later, Action::Deliver { host, life, event: Box::new(event.clone()) });
        }
        self.k.after(delay, Action::Deliver { host, life, event: Box::new(event) });
    }

    // --- EC2 ---

    fn send(&mut self, host: usize, id: CallId, account: Account, mut request: CloudRequest) {
        self.mutate_request(host, &mut request);
        self.check_sent(host, &account, &request);
        self.check_duties_of(host, &request);
        let asked = self.asked_for(&request);
        let k = &mut self.k;
        let slow = matches!(request, CloudRequest::CreateFleet(_));
        let (out, back) = if slow {
            (k.between(200, 3_000), k.between(200, 3_000))
        } else {
            (k.between(10, 200), k.between(10, 300))
        };
        let blackout = self.cloud_fails_until > k.now;
        let throttled = self.throttled_until > k.now || k.strikes(Fault::Throttle, 0.02);
        let ends =
            matches!(request, CloudRequest::TerminateInstances { .. } | CloudRequest::DeleteFleets { .. });
        let refused = if throttled {
            Some((ErrorClass::Throttle, "RequestLimitExceeded"))
        } else if ends && k.strikes(Fault::Refusal, 0.05) {
            Some((ErrorClass::Other, "OperationNotPermitted"))
        } else {
            None
        };
        let lost = blackout || (refused.is_none() && k.strikes(Fault::LostRequest, 0.02));
        let answer_lost = !lost && k.strikes(Fault::LostAnswer, 0.02);
        let late = !lost && k.strikes(Fault::LateEffect, 0.02);
        let number = self.next_call;
        self.next_call += 1;
        let timeout = k.between(2_000, CALL_TIMEOUT_MS);
        let reaches = if late { timeout + k.between(0, 20_000) } else { out };
        let returns = if lost || answer_lost || late { timeout } else { out + back };
        let life = self.controllers[host].life;
        if !lost {
            k.after(reaches, Action::CallReaches { call: number });
        }
        k.after(returns, Action::CallReturns { call: number });
        let dies_with_caller = k.rng.bool();
        self.calls.insert(
            number,
            Call {
                host,
                life,
                id,
                account,
                request,
                result: None,
                dies_with_caller,
                refused,
                answer_lost,
                over: false,
                asked,
            },
        );
    }

    fn mutate_request(&mut self, host: usize, request: &mut CloudRequest) {
        match (self.mutant, request) {
            (Some(Mutant::NewTokenOnRetry), CloudRequest::CreateFleet(fleet)) => {
                let again = !self.controllers[host].retries.insert(fleet.client_token.clone());
                let token = format!("{}{}", fleet.client_token, if again { "-again" } else { "" });
                fleet.instance_tags.insert(ec2fleet_core::tag::LAUNCH.into(), token.clone());
                fleet.client_token = token;
            }
            (Some(Mutant::SlurmListedFirst), CloudRequest::DescribeCluster { .. }) => {
                // The reading waits for the list, however long that takes.
                let early = self.controllers[host].early_nodes.take();
                self.controllers[host].early_nodes = Some(early.unwrap_or_else(|| self.slurm.load()));
            }
            _ => {}
        }
    }

    /// What a planted bug believes to have done.
    fn forgotten(&self, request: &CloudRequest) -> Option<CloudReply> {
        match (self.mutant?, request) {
            (Mutant::UnbindForgetsTerminate, CloudRequest::TerminateInstances { ids })
                if ids.iter().any(|id| self.was_powered_down(id)) =>
            {
                Some(CloudReply::Terminated { terminated: ids.clone(), unknown: Vec::new() })
            }
            (Mutant::ForgottenFleetDelete, CloudRequest::DeleteFleets { ids, .. }) => {
                Some(CloudReply::Deleted { deleted: ids.clone(), failed: Vec::new() })
            }
            (Mutant::NotLowered, CloudRequest::ModifyFleet { fleet_id, target, .. }) => {
                let fleet = self.ec2.fleet(fleet_id).map(|number| &self.ec2.fleets[number])?;
                (fleet.target() > *target).then_some(CloudReply::Modified)
            }
            _ => None,
        }
    }

    /// The request as a planted bug would have written it, down to the journal.
    fn mutate_at_ec2(&mut self, mut request: CloudRequest) -> CloudRequest {
        match (self.mutant, &mut request) {
            (
                Some(Mutant::TargetRaisedTwice),
                CloudRequest::ModifyFleet { fleet_id, target, spot_target, on_demand_target, .. },
            ) => {
                let fleet = self.ec2.fleet(fleet_id).map(|number| &self.ec2.fleets[number]);
                if let Some(fleet) = fleet.filter(|fleet| fleet.target() == *target) {
                    // It says "so many more", and says it again when the first answer was lost.
                    let more = if fleet.spot_target == *spot_target { spot_target } else { on_demand_target };
                    *more += 1;
                    *target += 1;
                }
            }
            (Some(Mutant::ExcessTerminated), CloudRequest::ModifyFleet { terminate_excess, .. }) => {
                *terminate_excess = true;
            }
            (Some(Mutant::SleeperIsSurplus), CloudRequest::TerminateInstances { ids }) => {
                for id in ids {
                    if let Some(sleeper) = self.sleeper_beside(id) {
                        *id = sleeper;
                    }
                }
            }
            _ => {}
        }
        request
    }

    /// A sleeping instance of the fleet of this one, which serves no node.
    fn sleeper_beside(&self, id: &str) -> Option<String> {
        let number = self.ec2.machine(id)?;
        let fleet = self.ec2.machines[number].fleet?;
        if self.was_powered_down(id) {
            return None;
        }
        let mut others = self.ec2.in_fleet(fleet).map(|other| &self.ec2.machines[other]);
        others.find(|other| other.is_asleep(self.k.now)).map(|other| other.id.clone())
    }

    /// A request arrives at EC2.
    pub fn call_reaches(&mut self, number: u64) {
        let Some(call) = self.calls.get(&number) else { return };
        let alive = self.is_alive(call.host, call.life);
        if !alive && call.dies_with_caller {
            return;
        }
        let (account, request) = (call.account.clone(), call.request.clone());
        let asked = call.asked.clone();
        // What a process knew that is gone by now is not known here.
        let sender = alive.then_some(call.host);
        let result = if let Some((class, code)) = call.refused {
            Err(ec2::error(class, code))
        } else {
            match self.forgotten(&request) {
                Some(reply) => Ok(reply),
                None => {
                    let request = self.mutate_at_ec2(request);
                    self.check_reaches(sender, &account, &request, &asked);
                    let result = self.ec2.perform(&mut self.k, &account, &request);
                    // A target that is right for a moment has not been wrong all the time.
                    if matches!(request, CloudRequest::ModifyFleet { .. }) {
                        self.look_at_targets();
                    }
                    result
                }
            }
        };
        let Some(call) = self.calls.get_mut(&number) else { return };
        if call.over {
            self.calls.remove(&number);
        } else if !call.answer_lost {
            call.result = Some(result);
        }
    }

    pub fn call_returns(&mut self, number: u64) {
        let Some(call) = self.calls.get(&number) else { return };
        let (host, life) = (call.host, call.life);
        let result = call.result.clone();
        if !self.is_alive(host, life) {
            if let Some(call) = self.calls.get_mut(&number) {
                call.over = true;
            }
            return;
        }
        let mut result = result.unwrap_or_else(|| Err(ec2::error(ErrorClass::Transient, "Timeout")));
        if result.is_err() {
            self.note_refusal(number);
        }
        if self.mutate_answer(number, &mut result) {
            return;
        }
        if let Ok(CloudReply::Fleet(fleet)) = &result {
            self.controllers[host].told_of.extend(fleet.instance_ids());
        }
        let Some(call) = self.calls.get_mut(&number) else { return };
        let id = call.id;
        // A late effect may still be to come.
        call.over = true;
        self.answer(host, life, 0, Event::CloudAnswered { call: id, result });
    }

    /// True when the answer is swallowed and the call is sent again.
    fn mutate_answer(&mut self, number: u64, result: &mut CloudResult) -> bool {
        let Some(call) = self.calls.get(&number) else { return false };
        match (self.mutant, &call.request) {
            (
                Some(Mutant::EmptyOnFailedDescribe),
                CloudRequest::DescribeCluster { .. } | CloudRequest::DescribeInstances { .. },
            ) if result.is_err() => *result = Ok(CloudReply::Instances(Vec::new())),
            (Some(Mutant::SleepMeansEnded), _) => {
                if let Ok(CloudReply::Instances(instances)) = result {
                    for instance in instances {
                        if matches!(instance.state, InstanceState::Stopping | InstanceState::Stopped) {
                            instance.state = InstanceState::Terminated;
                        }
                    }
                }
            }
            (Some(Mutant::FirstPageOnly), CloudRequest::DescribeCluster { .. }) => {
                if let Ok(CloudReply::Instances(instances)) = result {
                    instances.truncate(self.ec2.page);
                }
            }
            (Some(Mutant::AdoptByNameOnly), CloudRequest::DescribeCluster { .. }) => {
                if let Ok(CloudReply::Instances(instances)) = result {
                    let account = call.account.clone();
                    let foreign = CloudRequest::DescribeCluster { cluster: "another".into() };
                    if let Ok(CloudReply::Instances(more)) = self.ec2.perform(&mut self.k, &account, &foreign)
                    {
                        instances.extend(more);
                    }
                }
            }
            (Some(Mutant::NotFoundMeansGone), CloudRequest::DescribeInstances { ids }) => {
                if let Ok(CloudReply::Instances(instances)) = result {
                    for id in ids {
                        if instances.iter().any(|instance| instance.id == *id) {
                            continue;
                        }
                        if let Some(gone) = self.ec2.as_terminated(id) {
                            instances.push(gone);
                        }
                    }
                }
            }
            (Some(Mutant::ThrottledMeansTerminated), CloudRequest::TerminateInstances { ids }) => {
                if matches!(result, Err(error) if error.class == ErrorClass::Throttle) {
                    *result = Ok(CloudReply::Terminated { terminated: ids.clone(), unknown: Vec::new() });
                }
            }
            (Some(Mutant::NoBudget), _) => {
                if matches!(result, Err(error) if error.class == ErrorClass::Throttle) {
                    let Some(call) = self.calls.remove(&number) else { return false };
                    self.send(call.host, call.id, call.account, call.request);
                    return true;
                }
            }
            _ => {}
        }
        false
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::CloudAnswered { call, result: Ok(CloudReply::Instances(instances)) } => {
            let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
            format!("CloudAnswered {call} instances {}", ids.join(","))
        }
        Event::CloudAnswered { call, result: Ok(CloudReply::Fleet(fleet)) } => {
            format!("CloudAnswered {call} fleet {} with {:?}", fleet.fleet_id, fleet.instance_ids())
        }
        Event::CloudAnswered { call, result } => format!("CloudAnswered {call} {result:?}"),
        Event::SlurmAnswered { call, result: Ok(SlurmReply::Nodes(nodes)) } => {
            let states: Vec<String> = nodes
                .iter()
                .map(|node| format!("{} {} {}", node.name, node.state_text(), node.addr))
                .collect();
            format!("SlurmAnswered {call} {}", states.join("; "))
        }
        other => format!("{other:?}"),
    }
}

pub type SharedDisk = Rc<RefCell<Disk>>;
