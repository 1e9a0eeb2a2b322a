// SPDX-License-Identifier: GPL-3.0-or-later
//! Everything of one run, and what happens next in it.

use std::collections::BTreeMap;

use ec2fleet_core::event::Event;
use ec2fleet_core::program_pass::FenceWait;
use ec2fleet_core::site::Lifecycle;
use ec2fleet_core::slurm_api::{NodeBase, NodeStateChange, NodeUpdate, SlurmReply};

use super::chaos::Fault;
use super::checks::Checks;
use super::controller::{Call, Controller, SharedDisk};
use super::ec2::Ec2;
use super::kernel::{Action, Kernel};
use super::mutant::Mutant;
use super::plan::{Plan, Scenario};
use super::run::Choice;
use super::slurmctld::Slurmctld;

pub struct World {
    pub k: Kernel,
    pub ec2: Ec2,
    pub slurm: Slurmctld,
    pub disk: SharedDisk,
    pub controllers: [Controller; 2],
    pub calls: BTreeMap<u64, Call>,
    pub next_call: u64,
    pub mutant: Option<Mutant>,
    pub checks: Checks,
    pub cloud_fails_until: u64,
    pub throttled_until: u64,
    pub slurm_fails_until: u64,
    disk_refuses_until: u64,
    /// The pass of the last program stays to the end.
    pub last_pass: bool,
    /// The plugin in slurmctld has stayed passive since this life, and the programs do the work.
    pub passive: Option<u64>,
    /// So many more times the engine panics soon after it has begun: the defect follows from its state.
    pub defects: u8,
    lives: u64,
}

/// After this much quiet the last jobs are submitted: one in each group, which stay to the end.
const SENTINELS_MS: u64 = 2_700_000;

/// The last pass of a program takes this long: time to see an orphan twice.
const LAST_PASS_MS: u64 = 900_000;

impl World {
    pub fn new(mut k: Kernel, choice: Choice) -> Self {
        let mutant = choice.mutant;
        let plan = Plan::new(&mut k.rng, choice.scenario);
        let disk = SharedDisk::default();
        disk.borrow_mut().lies = mutant == Some(Mutant::NoSyncBeforeCall);
        let mut world = Self {
            ec2: Ec2::new(plan.max_lag_ms, plan.page),
            slurm: Slurmctld::new(&plan),
            disk,
            controllers: <[Controller; 2]>::default(),
            calls: BTreeMap::new(),
            next_call: 0,
            mutant,
            checks: Checks::default(),
            cloud_fails_until: 0,
            throttled_until: 0,
            slurm_fails_until: 0,
            disk_refuses_until: 0,
            last_pass: false,
            passive: None,
            defects: 0,
            lives: 0,
            k,
        };
        world.k.note(|| {
            let scopes: Vec<String> = plan
                .site
                .groups()
                .iter()
                .map(|group| {
                    let sleeps = if group.hibernates() { " hibernates" } else { "" };
                    format!(
                        "{} {} {:?} {:?}{sleeps}",
                        group.stem(),
                        group.max_nodes,
                        group.scope,
                        group.lifecycle
                    )
                })
                .collect();
            format!("plan: {:?}: {}; {:?}", plan.scenario, scopes.join(", "), plan.site.settings)
        });
        if world.k.rng.u8(0..3) == 0 {
            let group = &plan.site.groups()[0];
            world.ec2.launch_foreign(&mut world.k, &group.account, &group.name, &group.node_name(0));
        }
        let k = &mut world.k;
        k.after(0, Action::Start { host: 0 });
        k.after(1_000, Action::Submit);
        k.after(5_000, Action::Ping);
        k.after(10_000, Action::Capacity);
        k.after(15_000, Action::Check);
        k.after(20_000, Action::Interrupt);
        k.after(60_000, Action::Trouble);
        if matches!(plan.scenario, Scenario::SpotStorm | Scenario::HibernationNight) {
            k.after(300_000, Action::Storm);
        }
        k.after(plan.chaos_ms, Action::Quiet);
        k.after(plan.chaos_ms + SENTINELS_MS, Action::Sentinels);
        k.after(plan.chaos_ms + plan.quiet_ms - 600_000, Action::CountIdle);
        if plan.scenario == Scenario::Programs {
            k.after(plan.chaos_ms + plan.quiet_ms - LAST_PASS_MS, Action::LastPass);
        }
        k.after(plan.chaos_ms + plan.quiet_ms, Action::End);
        world
    }

    pub fn new_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    /// Do what is next; false at the end.
    pub fn step(&mut self) -> bool {
        let Some(action) = self.k.next() else { return false };
        let Some(action) = self.unless_it_hangs(action) else { return true };
        match action {
            Action::Start { host } => self.start(host),
            Action::Open { host, life } => self.open(host, life),
            Action::RunProgram { host, event, wait, insists_until } => {
                self.run_program(host, event, wait, insists_until);
            }
            Action::PassEnds { host, life } => {
                if self.is_alive(host, life) {
                    self.continue_pass(host);
                }
            }
            Action::LastPass => self.run_last_pass(),
            Action::Wake { host, life } => self.wake(host, life),
            Action::Look { host, life } => self.look_at_slurmctld(host, life),
            Action::Serve { host, life } => self.serve(host, life),
            Action::Deliver { host, life, event } => {
                if self.is_alive(host, life) {
                    let told = matches!(*event, Event::SlurmAnswered { result: Ok(SlurmReply::Done), .. });
                    self.deliver(host, *event);
                    if told {
                        self.check_told(host);
                    }
                }
            }
            Action::RetryJournal { host, life } => self.retry_journal(host, life),
            Action::CallReaches { call } => self.call_reaches(call),
            Action::CallReturns { call } => self.call_returns(call),
            Action::SlurmdStarts { instance } => self.slurmd_starts(instance),
            Action::Register { instance } => self.register(instance),
            Action::PowerWork => self.power_work(),
            Action::Allocate => self.slurm.allocate(&mut self.k),
            Action::Ping => {
                self.ec2.forget_terminated(self.k.now);
                for (node, instance) in self.slurm.ping(&mut self.k, &self.ec2) {
                    self.check_lost(node, instance);
                }
                self.k.after(60_000, Action::Ping);
            }
            Action::Save => self.slurm.save(),
            Action::JobEnds { job, run } => {
                if self.slurm.is_asleep(job, self.k.now, &self.ec2) {
                    self.k.after(30_000, Action::JobEnds { job, run });
                } else {
                    self.slurm.end_job(&mut self.k, job, run);
                }
            }
            Action::EpilogEnds { node } => self.slurm.end_epilog(&mut self.k, node),
            Action::Submit => self.submit(),
            Action::Capacity => self.draw_capacity(),
            Action::Interrupt => self.interrupt(),
            Action::Fulfil { fleet } => self.ec2.fulfil(&mut self.k, fleet),
            Action::Awaken { instance } => self.ec2.awaken(&mut self.k, instance),
            Action::Storm => self.storm(),
            Action::Trouble => self.trouble(),
            Action::TakeOver => self.take_over(),
            Action::Resume { host, life } => {
                // It wakes with everything that waited, and notices a little later that it is not in control.
                if self.is_alive(host, life) && self.controllers[host].superseded {
                    let delay = self.k.between(0, 3_000);
                    self.k.after(delay, Action::Demote { host, life });
                }
            }
            Action::Demote { host, life } => {
                if self.is_alive(host, life) {
                    self.kill(host, false);
                }
            }
            Action::Defect { host, life } => {
                if self.is_alive(host, life) {
                    self.panic_engine(host);
                }
            }
            Action::LoadAnew { life } => {
                if self.passive == Some(life) {
                    self.restart_passive();
                }
            }
            Action::Check => {
                self.look();
                self.k.after(15_000, Action::Check);
            }
            Action::Quiet => self.quieten(),
            Action::Sentinels => self.submit_sentinels(),
            Action::CountIdle => self.checks.describes = Some(BTreeMap::new()),
            Action::End => {
                self.check_settled();
                return false;
            }
        }
        self.watch();
        self.k.violation.is_none()
    }

    /// What is addressed to a controller that stands still happens when it moves again.
    fn unless_it_hangs(&mut self, action: Action) -> Option<Action> {
        let (host, life) = match &action {
            Action::Open { host, life }
            | Action::Wake { host, life }
            | Action::Look { host, life }
            | Action::Serve { host, life }
            | Action::Deliver { host, life, .. }
            | Action::RetryJournal { host, life } => (*host, *life),
            Action::CallReturns { call } => {
                let call = self.calls.get(call)?;
                (call.host, call.life)
            }
            _ => return Some(action),
        };
        let until = self.controllers[host].hangs_until;
        if self.is_alive(host, life) && until > self.k.now {
            self.k.at(until, action);
            return None;
        }
        Some(action)
    }

    fn power_work(&mut self) {
        let before: Vec<Option<u64>> =
            self.slurm.state.nodes.iter().map(|node| node.boot_requested).collect();
        let timeouts = self.slurm.stats.resume_timeouts;
        // Before and after: a node that a restart found suspended may be woken at once.
        self.note_suspended();
        self.slurm.power_work(&mut self.k);
        self.note_suspended();
        if self.slurm.stats.resume_timeouts == timeouts {
            return;
        }
        for (index, since) in before.into_iter().enumerate() {
            let node = &self.slurm.state.nodes[index];
            if let Some(since) = since
                && node.boot_requested.is_none()
                && node.base == NodeBase::Down
            {
                self.check_resume_timeout(index, since);
            }
        }
    }

    // --- instances ---

    /// The operating system is up; slurmd needs the node's name.
    fn slurmd_starts(&mut self, number: usize) {
        let machine = &self.ec2.machines[number];
        if !machine.is_alive(self.k.now) || machine.node.is_some() || machine.foreign {
            return;
        }
        if machine.is_asleep(self.k.now) {
            self.k.after(10_000, Action::SlurmdStarts { instance: number });
            return;
        }
        let Some(group) = self.ec2.group_of(number).cloned() else { return };
        let Some(group) = self.slurm.plan.site.groups().iter().position(|known| known.name == group) else {
            return;
        };
        match self.ec2.own_name(number, self.slurm.naming(group)) {
            Some(name) => {
                let id = machine.id.clone();
                self.k.note(|| format!("slurmd of {id} starts as {name}"));
                self.ec2.machines[number].node = Some(name);
                self.register(number);
            }
            None => self.k.after(3_000, Action::SlurmdStarts { instance: number }),
        }
    }

    fn register(&mut self, number: usize) {
        let machine = &self.ec2.machines[number];
        if !machine.is_awake(self.k.now) {
            return;
        }
        let Some(name) = machine.node.clone() else { return };
        if self.slurm.host.is_none() {
            self.k.after(5_000, Action::Register { instance: number });
            return;
        }
        let Some(index) = self.slurm.find(&name) else {
            let id = machine.id.clone();
            self.k.violate(|| format!("slurmd of {id} runs as {name}, which is no node"));
            return;
        };
        self.slurm.register(&mut self.k, index, number, &self.ec2);
    }

    /// A slurmctld that starts asks the nodes it can reach to register.
    pub fn ask_to_register(&mut self) {
        for number in self.ec2.live.clone() {
            let machine = &self.ec2.machines[number];
            let reached = machine.node.as_ref().and_then(|name| self.slurm.find(name)).is_some_and(|index| {
                let node = &self.slurm.state.nodes[index];
                !node.suspended && node.addr == machine.ip
            });
            if reached {
                let delay = self.k.between(500, 15_000);
                self.k.after(delay, Action::Register { instance: number });
            }
        }
    }

    fn draw_capacity(&mut self) {
        let mut pools = Vec::new();
        for group in self.slurm.plan.site.groups() {
            for over in &group.overrides {
                for subnet in &group.subnet_ids {
                    let kind = over.instance_type.clone().unwrap_or_default();
                    pools.push((group.account.region.clone(), kind, subnet.clone()));
                }
            }
        }
        self.ec2.draw_capacity(&mut self.k, &pools);
        let delay = self.k.between(60_000, 900_000);
        self.k.after(delay, Action::Capacity);
    }

    fn interrupt(&mut self) {
        let live: Vec<usize> = self.ec2.live.iter().copied().collect();
        if let Some(number) = live.get(self.k.rng.usize(0..live.len().max(1))).copied()
            && !self.ec2.machines[number].foreign
            && self.k.strikes(Fault::Interruption, 0.2)
        {
            self.take_back(number);
        }
        let delay = self.k.between(10_000, 600_000);
        self.k.after(delay, Action::Interrupt);
    }

    fn take_back(&mut self, number: usize) {
        let (shortest, longest) = self.slurm.plan.sleep_ms;
        let back_in = self.k.between(shortest, longest);
        self.ec2.take_back(&mut self.k, number, back_in);
    }

    /// EC2 takes every Spot instance of one pool, or of all of them.
    fn storm(&mut self) {
        if self.k.chaos.is_quiet() {
            return;
        }
        if self.k.strikes(Fault::SpotStorm, 0.7) {
            let types = ["c5.large", "m5.large", "c6i.large", ""];
            let kind = types[self.k.rng.usize(0..types.len())];
            for number in self.ec2.live.clone() {
                let machine = &self.ec2.machines[number];
                let hit = !machine.foreign
                    && machine.lifecycle == Lifecycle::Spot
                    && (kind.is_empty() || machine.instance_type == kind);
                if hit {
                    self.take_back(number);
                }
            }
        }
        let delay = self.k.between(120_000, 1_800_000);
        self.k.after(delay, Action::Storm);
    }

    // --- load ---

    fn submit(&mut self) {
        let plan = &self.slurm.plan;
        let every = plan.job_every_ms;
        let groups = plan.sizes.len();
        if self.k.chaos.is_quiet() {
            return;
        }
        if self.slurm.host.is_some() {
            let group = self.k.rng.usize(0..groups);
            self.slurm.submit(&mut self.k, false, group);
        }
        let delay = self.k.between(1, 2 * every);
        self.k.after(delay, Action::Submit);
    }

    // --- trouble ---

    fn trouble(&mut self) {
        if self.k.chaos.is_quiet() {
            return;
        }
        let long = self.k.between(5_000, 300_000);
        let until = self.k.now + long;
        if self.k.strikes(Fault::Throttle, 0.15) {
            self.throttled_until = until;
            self.k.chaos.disturb(until);
        }
        if self.k.strikes(Fault::LostRequest, 0.1) {
            self.cloud_fails_until = until;
            self.k.chaos.disturb(until);
        }
        if self.k.strikes(Fault::LoadFails, 0.1) {
            self.slurm_fails_until = until;
            self.k.chaos.disturb(until);
        }
        if self.k.strikes(Fault::DiskRefuses, 0.15) {
            self.disk.borrow_mut().refuses = true;
            self.disk_refuses_until = until;
            self.k.chaos.disturb(until);
        } else if self.disk_refuses_until < self.k.now {
            self.disk.borrow_mut().refuses = false;
        }
        if self.k.strikes(Fault::ClockJump, 0.1) {
            self.k.clock_offset += i64::try_from(self.k.between(0, 14_400_000)).unwrap_or(0) - 7_200_000;
        }
        if self.k.strikes(Fault::Administrator, 0.2) {
            self.administer();
        }
        if self.k.strikes(Fault::KillInWrite, 0.3) {
            let bytes = self.k.rng.usize(1..20_000);
            self.disk.borrow_mut().dies_after = Some(bytes);
        }
        if let Some(host) = self.slurm.host {
            self.hit_controller(host);
        }
        let delay = self.k.between(1_000, 600_000);
        self.k.after(delay, Action::Trouble);
    }

    fn hit_controller(&mut self, host: usize) {
        let life = self.controllers[host].life;
        if self.k.strikes(Fault::Kill, 0.3) {
            let torn = self.k.rng.bool();
            self.kill(host, torn);
            self.restart_later();
        } else if self.k.strikes(Fault::Reconfigure, 0.2) {
            self.reconfigure(host);
        } else if self.k.strikes(Fault::LostLock, 0.15) {
            let until =
                (self.k.now + self.k.between(60_000, 200_000)).max(self.controllers[host].hangs_until);
            self.controllers[host].hangs_until = until;
            self.k.chaos.disturb(until);
            let delay = self.k.between(30_000, 90_000);
            self.k.after(delay, Action::TakeOver);
            self.k.at(until, Action::Resume { host, life });
        } else if self.k.strikes(Fault::Hang, 0.2) {
            let until = self.k.now + self.k.between(1_000, 120_000);
            let controller = &mut self.controllers[host];
            controller.hangs_until = controller.hangs_until.max(until);
            self.k.chaos.disturb(self.controllers[host].hangs_until);
        } else if self.controllers[host].driver.is_some()
            && !self.has_no_plugin()
            && self.k.strikes(Fault::Defect, 0.2)
        {
            self.defects = [0, 0, 0, 1, 2, 5][self.k.rng.usize(0..6)];
            self.panic_engine(host);
        }
    }

    pub fn restart_later(&mut self) {
        let host = if self.k.strikes(Fault::Failover, 0.4) { self.k.rng.usize(0..2) } else { 0 };
        // Nobody may have it open.
        if self.controllers.iter().all(|controller| controller.driver.is_none())
            && self.k.strikes(Fault::LostJournal, 0.1)
        {
            self.disk.borrow_mut().lose_journal();
        }
        let delay = self.k.between(500, 120_000);
        self.k.chaos.disturb(self.k.now + delay);
        self.k.after(delay, Action::Start { host });
        // Whatever becomes of that one: somebody starts.
        self.k.after(delay + 1_000, Action::Start { host: 1 - host });
    }

    /// An orderly end and a new beginning, while calls are under way.
    fn reconfigure(&mut self, host: usize) {
        self.give_up_fence_of(host);
        let life = self.new_life();
        self.controllers[host] = Controller::of(life);
        self.forget_bindings(host);
        self.slurm.stop(true);
        self.start(host);
    }

    /// Its plugin does nothing any more until slurmctld is started anew.
    fn restart_passive(&mut self) {
        if let Some(host) = self.slurm.host {
            self.reconfigure(host);
        }
    }

    /// The lock of a controller that stands still is given to the other host's.
    fn take_over(&mut self) {
        let Some(host) = self.slurm.host else { return };
        if self.controllers[host].hangs_until <= self.k.now {
            return;
        }
        self.k.note(|| format!("host {} takes over from {host}", 1 - host));
        self.k.chaos.note(Fault::Failover, self.k.now);
        self.controllers[host].superseded = true;
        self.disk.borrow_mut().holder = None;
        self.slurm.stop(true);
        self.start(1 - host);
    }

    fn administer(&mut self) {
        if self.slurm.host.is_none() {
            return;
        }
        let index = self.k.rng.usize(0..self.slurm.state.nodes.len());
        let choice = self.k.rng.u8(0..5);
        let node = &self.slurm.state.nodes[index];
        let (state, reason) = match choice {
            0 if !node.suspended => (NodeStateChange::PowerDown, None),
            1 => (NodeStateChange::PowerDownForce, None),
            2 => (NodeStateChange::PowerUp, None),
            3 => (NodeStateChange::Down, Some("maintenance".to_owned())),
            _ => (NodeStateChange::Resume, None),
        };
        let name = node.name.clone();
        self.k.note(|| format!("an administrator sets {name} to {state:?}"));
        let update = NodeUpdate { names: vec![name], state: Some(state), reason, ..NodeUpdate::default() };
        let _ = self.slurm.update(&mut self.k, &update);
    }

    /// Faults end here.
    fn quieten(&mut self) {
        self.k.note(|| "faults end".into());
        self.k.chaos.stop(self.k.now);
        self.cloud_fails_until = 0;
        self.throttled_until = 0;
        self.slurm_fails_until = 0;
        self.defects = 0;
        {
            let mut disk = self.disk.borrow_mut();
            disk.refuses = false;
            disk.dies_after = None;
        }
        for host in 0..2 {
            let controller = &self.controllers[host];
            let (hangs_until, superseded) = (controller.hangs_until, controller.superseded);
            self.k.chaos.disturb(hangs_until);
            if superseded {
                self.kill(host, false);
            }
        }
        self.ec2.draw_capacity(&mut self.k, &[]);
        for number in self.ec2.live.clone() {
            let delay = self.k.between(1_000, 300_000);
            self.k.after(delay, Action::Awaken { instance: number });
        }
        if self.slurm.host.is_none() {
            self.start(0);
        }
        if self.passive.is_some() {
            self.restart_passive();
        }
        let down: Vec<String> = self
            .slurm
            .state
            .nodes
            .iter()
            .filter(|node| node.reason.as_deref().is_some_and(|reason| reason.starts_with("maintenance")))
            .map(|node| node.name.clone())
            .collect();
        if !down.is_empty() {
            let state = Some(NodeStateChange::Resume);
            let update = NodeUpdate { names: down, state, ..NodeUpdate::default() };
            let _ = self.slurm.update(&mut self.k, &update);
        }
        if self.slurm.plan.scenario == Scenario::Programs
            && let Some(host) = self.slurm.host
        {
            // Nodes that Slurm gave up while nobody heard it are DOWN, and no job asks for them: somebody runs a program.
            let event = Box::new(Event::SuspendRequested { nodes: Vec::new() });
            let (at, insists_until) = (self.k.now + 120_000, self.k.now + LAST_PASS_MS);
            let wait = FenceWait::begin(at);
            self.k.at(at, Action::RunProgram { host, event, wait, insists_until });
        }
        self.slurm.cancel_backlog();
    }

    fn submit_sentinels(&mut self) {
        for group in 0..self.slurm.plan.sizes.len() {
            self.slurm.submit(&mut self.k, true, group);
        }
    }
}
