// SPDX-License-Identifier: GPL-3.0-or-later
//! slurmctld's power save, scheduler and node table, as far as a plugin can tell.
//!
//! The rules are those of src/slurmctld/power_save.c (`_do_power_work`), node_mgr.c (`update_node`,
//! `validate_node_specs`, `_node_did_resp`) and read_config.c of Slurm 22.05 to 26.05.

use ec2fleet_core::event::ResumeJob;
use ec2fleet_core::site::NodeNaming;
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, NodeStateChange, NodeUpdate, SlurmError, SlurmNode};

use super::chaos::Fault;
use super::ec2::Ec2;
use super::kernel::{Action, Kernel};
use super::plan::{Plan, SLURMD_TIMEOUT_MS};

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub group: usize,
    pub addr: String,
    pub base: NodeBase,
    pub flags: NodeFlags,
    pub reason: Option<String>,
    /// `booting_node_bitmap` and `power_down_node_bitmap`.
    pub booting: bool,
    pub suspended: bool,
    /// Unset: 0 in Slurm.
    pub boot_requested: Option<u64>,
    power_requested: Option<u64>,
    last_busy: Option<u64>,
    last_response: u64,
    pub job: Option<usize>,
    /// The instance whose slurmd registered last.
    pub instance: Option<usize>,
    /// The instance on which its job began.
    pub job_instance: Option<usize>,
    /// When this power-down began.
    pub down_since: Option<u64>,
    pub weight: u32,
}

/// What slurm.conf says of every node.
const CONF_WEIGHT: u32 = 7;

impl Node {
    fn has(&self, flag: NodeFlags) -> bool {
        self.flags.has(flag)
    }

    fn set(&mut self, flag: NodeFlags) {
        self.flags = self.flags.with(flag);
    }

    fn clear(&mut self, flag: NodeFlags) {
        self.flags = self.flags.without(flag);
    }

    pub fn is_waking(&self) -> bool {
        self.booting && !self.suspended
    }

    /// Up, and given to a job.
    pub fn may_run_job(&self) -> bool {
        !self.suspended && !self.booting && self.job.is_some()
    }

    /// A job runs on it, or is placed and waits for other nodes of the job.
    pub fn is_up(&self) -> bool {
        !self.suspended && !self.has(NodeFlags::POWERING_UP) && !self.booting
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    Pending,
    Configuring,
    Running,
    Done,
}

#[derive(Clone, Debug)]
pub struct Job {
    group: usize,
    count: usize,
    length_ms: u64,
    pub state: JobState,
    begin_at: u64,
    nodes: Vec<usize>,
    run: u32,
    /// Stays to the end of the run.
    pub sentinel: bool,
}

/// What is written to StateSaveLocation.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub nodes: Vec<Node>,
    pub jobs: Vec<Job>,
}

/// The one slurmctld that is in control, or the state on its disk while none is.
pub struct Slurmctld {
    pub state: State,
    saved: State,
    save_planned: bool,
    work_planned: bool,
    allocate_planned: bool,
    pub plan: Plan,
    /// The host on which it runs.
    pub host: Option<usize>,
    /// Counts what a plugin can see in the bitmaps.
    pub changes: u64,
    /// In seconds. Power save changes its bitmaps without moving it.
    pub last_node_update: i64,
    /// ResumeFailProgram, ResumeProgram and SuspendProgram are to be run for these nodes.
    pub programs: Vec<Program>,
    pub stats: SlurmStats,
}

#[derive(Clone, Debug)]
pub enum Program {
    Resume { nodes: Vec<String>, jobs: Vec<ResumeJob> },
    Suspend(Vec<String>),
    ResumeFail(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SlurmStats {
    pub power_ups: u64,
    pub power_downs: u64,
    pub jobs_done: u64,
    pub requeues: u64,
    pub resume_timeouts: u64,
}

impl Slurmctld {
    pub fn new(plan: &Plan) -> Self {
        let mut nodes = Vec::new();
        for (group, (spec, size)) in plan.site.groups().iter().zip(&plan.sizes).enumerate() {
            for index in 0..*size {
                let name = spec.node_name(index);
                nodes.push(Node {
                    addr: name.clone(),
                    name,
                    group,
                    base: NodeBase::Idle,
                    flags: NodeFlags::CLOUD.with(NodeFlags::POWERED_DOWN),
                    reason: None,
                    booting: false,
                    suspended: true,
                    boot_requested: None,
                    power_requested: None,
                    last_busy: None,
                    last_response: 0,
                    job: None,
                    instance: None,
                    job_instance: None,
                    down_since: None,
                    weight: CONF_WEIGHT,
                });
            }
        }
        let state = State { nodes, jobs: Vec::new() };
        Self {
            saved: state.clone(),
            state,
            save_planned: false,
            work_planned: false,
            allocate_planned: false,
            plan: plan.clone(),
            host: None,
            changes: 0,
            last_node_update: 0,
            programs: Vec::new(),
            stats: SlurmStats::default(),
        }
    }

    pub fn find(&self, name: &str) -> Option<usize> {
        self.state.nodes.iter().position(|node| node.name == name)
    }

    /// Something but power save changed a node.
    fn touched(&mut self, k: &mut Kernel) {
        self.last_node_update = k.unix_s();
        self.changed(k);
    }

    /// Something changed: the state will be saved, and the power thread looks.
    fn changed(&mut self, k: &mut Kernel) {
        self.changes += 1;
        if !self.save_planned {
            self.save_planned = true;
            let delay = k.between(100, 5_000);
            k.after(delay, Action::Save);
        }
        self.plan_work(k);
    }

    fn plan_work(&mut self, k: &mut Kernel) {
        if !self.work_planned {
            self.work_planned = true;
            let delay = k.between(50, 1_500);
            k.after(delay, Action::PowerWork);
        }
    }

    fn plan_allocation(&mut self, k: &mut Kernel) {
        if !self.allocate_planned {
            self.allocate_planned = true;
            let delay = k.between(10, 2_000);
            k.after(delay, Action::Allocate);
        }
    }

    pub fn save(&mut self) {
        self.save_planned = false;
        if self.host.is_some() {
            self.saved = self.state.clone();
        }
    }

    /// slurmctld ends. Without `orderly` what was not saved is forgotten.
    pub fn stop(&mut self, orderly: bool) {
        if orderly {
            self.saved = self.state.clone();
        }
        self.host = None;
    }

    /// slurmctld starts with the saved state; the bitmaps are made from it (read_config.c).
    pub fn start(&mut self, k: &mut Kernel, host: usize) {
        self.host = Some(host);
        self.state = self.saved.clone();
        // restore_node_features (node_mgr.c): those of slurm.conf, whatever was saved.
        self.state.nodes.iter_mut().for_each(|node| node.weight = CONF_WEIGHT);
        let forget = k.strikes(Fault::ForgottenAddress, 0.3);
        for node in &mut self.state.nodes {
            node.booting = node.has(NodeFlags::POWERING_UP);
            node.suspended = node.has(NodeFlags::POWERED_DOWN) || node.has(NodeFlags::POWERING_DOWN);
            node.last_response = k.now;
            if forget {
                node.addr.clone_from(&node.name);
            }
        }
        for (number, job) in self.state.jobs.clone().into_iter().enumerate() {
            if job.state == JobState::Running {
                k.after(job.length_ms.min(60_000), Action::JobEnds { job: number, run: job.run });
            }
        }
        for (index, node) in self.state.nodes.iter().enumerate() {
            if node.has(NodeFlags::COMPLETING) {
                k.after(10_000, Action::EpilogEnds { node: index });
            }
        }
        self.changes += 1;
        self.last_node_update = k.unix_s();
        self.work_planned = false;
        self.allocate_planned = false;
        self.plan_work(k);
        self.plan_allocation(k);
        k.after(self.plan.suspend_time_ms + 2_000, Action::PowerWork);
        let settings = &self.plan.site.settings;
        k.after(u64::from(settings.resume_timeout_s) * 1000 + 2_000, Action::PowerWork);
        k.after(u64::from(settings.suspend_timeout_s) * 1000 + 2_000, Action::PowerWork);
    }

    // --- jobs ---

    pub fn submit(&mut self, k: &mut Kernel, sentinel: bool, group: usize) {
        let size = self.plan.sizes[group] as usize;
        let most = if sentinel { 1 } else { size };
        let count = k.rng.usize(1..=most);
        let length_ms = if sentinel { u64::MAX / 4 } else { k.between(20_000, 600_000) };
        self.state.jobs.push(Job {
            group,
            count,
            length_ms,
            state: JobState::Pending,
            begin_at: k.now,
            nodes: Vec::new(),
            run: 0,
            sentinel,
        });
        k.note(|| format!("Slurm: a job of {count} nodes in group {group} is submitted"));
        self.plan_allocation(k);
        self.touched(k);
    }

    /// Of each group's waiting jobs all but two are cancelled.
    pub fn cancel_backlog(&mut self) {
        let mut kept = vec![0; self.plan.sizes.len()];
        for job in &mut self.state.jobs {
            if job.state == JobState::Pending {
                kept[job.group] += 1;
                if kept[job.group] > 2 {
                    job.state = JobState::Done;
                }
            }
        }
    }

    pub fn allocate(&mut self, k: &mut Kernel) {
        self.allocate_planned = false;
        if self.host.is_none() {
            return;
        }
        let mut again = None;
        for number in 0..self.state.jobs.len() {
            let job = &self.state.jobs[number];
            if job.state != JobState::Pending {
                continue;
            }
            if job.begin_at > k.now {
                again = Some(again.map_or(job.begin_at, |at: u64| at.min(job.begin_at)));
                continue;
            }
            let (group, count) = (job.group, job.count);
            let mut free: Vec<usize> = (0..self.state.nodes.len())
                .filter(|index| {
                    let node = &self.state.nodes[*index];
                    node.group == group
                        && node.job.is_none()
                        && node.base == NodeBase::Idle
                        && ![
                            NodeFlags::POWERING_DOWN,
                            NodeFlags::POWER_DOWN,
                            NodeFlags::DRAIN,
                            NodeFlags::COMPLETING,
                        ]
                        .iter()
                        .any(|flag| node.has(*flag))
                        && (node.has(NodeFlags::POWERED_DOWN)
                            || node.has(NodeFlags::POWERING_UP)
                            || !node.has(NodeFlags::NOT_RESPONDING))
                })
                .collect();
            // Nodes that are up first, as their lower weight makes Slurm do.
            free.sort_by_key(|index| (self.state.nodes[*index].suspended, *index));
            if free.len() < count {
                continue;
            }
            free.truncate(count);
            for index in &free {
                let node = &mut self.state.nodes[*index];
                node.job = Some(number);
                node.base = NodeBase::Allocated;
                node.reason = None;
                if node.has(NodeFlags::POWERED_DOWN) {
                    node.set(NodeFlags::POWER_UP);
                }
            }
            let job = &mut self.state.jobs[number];
            job.nodes = free;
            job.state = JobState::Configuring;
            job.run += 1;
            k.note(|| format!("Slurm: job {number} is placed on {:?}", self.state.jobs[number].nodes));
            self.begin_job(k, number);
            self.touched(k);
        }
        if let Some(at) = again
            && !self.allocate_planned
        {
            self.allocate_planned = true;
            k.at(at, Action::Allocate);
        }
    }

    /// A job runs when all its nodes are up. POWER_UP on such a node is left of a power-up that a crash forgot and that the
    /// node's registration has overtaken: validate_node_specs and test_job_nodes_ready do not look at it.
    fn begin_job(&mut self, k: &mut Kernel, number: usize) {
        let job = &self.state.jobs[number];
        let ready = job.nodes.iter().all(|index| {
            let node = &self.state.nodes[*index];
            node.is_up() && !node.has(NodeFlags::NOT_RESPONDING)
        });
        if job.state != JobState::Configuring || !ready {
            return;
        }
        for index in job.nodes.clone() {
            let node = &mut self.state.nodes[index];
            node.job_instance = node.instance;
        }
        let job = &mut self.state.jobs[number];
        job.state = JobState::Running;
        if !job.sentinel {
            k.after(job.length_ms, Action::JobEnds { job: number, run: job.run });
        }
        k.note(|| format!("Slurm: job {number} runs"));
    }

    pub fn end_job(&mut self, k: &mut Kernel, number: usize, run: u32) {
        if self.host.is_none() {
            return;
        }
        // A job that was submitted after the last save is forgotten in a crash.
        let Some(job) = self.state.jobs.get_mut(number) else { return };
        if job.state != JobState::Running || job.run != run {
            return;
        }
        job.state = JobState::Done;
        self.stats.jobs_done += 1;
        for index in std::mem::take(&mut job.nodes) {
            self.leave_job(k, index);
        }
        self.plan_allocation(k);
        self.touched(k);
    }

    /// The node's job is over; its epilog may take a while.
    fn leave_job(&mut self, k: &mut Kernel, index: usize) {
        let node = &mut self.state.nodes[index];
        node.job = None;
        node.last_busy = Some(k.now);
        if node.base == NodeBase::Allocated {
            node.base = NodeBase::Idle;
        }
        node.clear(NodeFlags::POWER_UP);
        if node.is_up() && node.base == NodeBase::Idle && k.rng.u8(0..4) == 0 {
            node.set(NodeFlags::COMPLETING);
            let delay = k.between(100, 20_000);
            k.after(delay, Action::EpilogEnds { node: index });
        }
        let idle = self.plan.suspend_time_ms + 1_100;
        k.after(idle, Action::PowerWork);
    }

    pub fn end_epilog(&mut self, k: &mut Kernel, index: usize) {
        self.state.nodes[index].clear(NodeFlags::COMPLETING);
        self.plan_allocation(k);
        self.touched(k);
    }

    /// Jobs on this node are requeued; their other nodes become idle.
    fn requeue(&mut self, k: &mut Kernel, index: usize) {
        let Some(number) = self.state.nodes[index].job else { return };
        self.stats.requeues += 1;
        let delay = k.between(1_000, 120_000);
        let job = &mut self.state.jobs[number];
        job.state = JobState::Pending;
        job.begin_at = k.now + delay;
        for index in std::mem::take(&mut job.nodes) {
            self.leave_job(k, index);
        }
        self.plan_allocation(k);
    }

    // --- power save ---

    pub fn power_work(&mut self, k: &mut Kernel) {
        self.work_planned = false;
        if self.host.is_none() {
            return;
        }
        let settings = &self.plan.site.settings;
        let resume_ms = u64::from(settings.resume_timeout_s) * 1000;
        let suspend_ms = u64::from(settings.suspend_timeout_s) * 1000;
        let suspend_time = self.plan.suspend_time_ms;
        let (mut woken, mut put_down, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = false;
        for index in 0..self.state.nodes.len() {
            let node = &mut self.state.nodes[index];
            let was_down = node.has(NodeFlags::POWERED_DOWN);
            if was_down && !node.has(NodeFlags::POWERING_DOWN) && node.has(NodeFlags::POWER_UP) {
                node.clear(NodeFlags::POWER_UP);
                node.clear(NodeFlags::POWERED_DOWN);
                node.set(NodeFlags::POWERING_UP);
                node.set(NodeFlags::NOT_RESPONDING);
                node.suspended = false;
                node.booting = true;
                node.boot_requested = Some(k.now);
                node.down_since = None;
                self.stats.power_ups += 1;
                k.after(resume_ms + 1_000, Action::PowerWork);
                k.note(|| format!("Slurm: {} POWERING_UP", self.state.nodes[index].name));
                woken.push(index);
            }
            let node = &mut self.state.nodes[index];
            let idle_too_long = node.last_busy.is_some_and(|since| since + suspend_time < k.now);
            if !was_down
                && matches!(node.base, NodeBase::Idle | NodeBase::Down)
                && node.job.is_none()
                && ![NodeFlags::COMPLETING, NodeFlags::POWERING_UP, NodeFlags::POWERING_DOWN]
                    .iter()
                    .any(|flag| node.has(*flag))
                && (node.has(NodeFlags::POWER_DOWN) || idle_too_long)
            {
                if node.has(NodeFlags::POWER_DOWN) {
                    node.clear(NodeFlags::DRAIN);
                }
                node.set(NodeFlags::POWERING_DOWN);
                node.clear(NodeFlags::POWER_DOWN);
                node.clear(NodeFlags::NOT_RESPONDING);
                node.suspended = true;
                node.power_requested = Some(k.now);
                node.down_since = Some(k.now);
                self.stats.power_downs += 1;
                k.after(suspend_ms + 1_000, Action::PowerWork);
                k.note(|| format!("Slurm: {} POWERING_DOWN", self.state.nodes[index].name));
                put_down.push(index);
            }
            let node = &mut self.state.nodes[index];
            if node.has(NodeFlags::POWERING_DOWN)
                && node.power_requested.is_none_or(|since| since + suspend_ms < k.now)
            {
                node.clear(NodeFlags::POWERING_DOWN);
                node.set(NodeFlags::POWERED_DOWN);
                if self.plan.registers_address {
                    node.addr.clone_from(&node.name);
                }
                node.last_busy = None;
                node.power_requested = None;
                changed = true;
                self.plan_allocation(k);
            }
            let node = &mut self.state.nodes[index];
            if node.booting
                && node.boot_requested.is_none_or(|since| k.now > since + resume_ms)
                && node.has(NodeFlags::POWERING_UP)
                && node.has(NodeFlags::NOT_RESPONDING)
            {
                failed.push(index);
            }
        }
        for index in &failed {
            self.resume_timeout(k, *index);
        }
        let names =
            |indexes: &[usize]| indexes.iter().map(|index| self.state.nodes[*index].name.clone()).collect();
        let mut programs = Vec::new();
        if !put_down.is_empty() {
            programs.push(Program::Suspend(names(&put_down)));
        }
        if !woken.is_empty() {
            programs.push(Program::Resume { nodes: names(&woken), jobs: self.jobs_of(&woken) });
        }
        if !failed.is_empty() {
            programs.push(Program::ResumeFail(names(&failed)));
        }
        changed |= !programs.is_empty();
        self.programs.extend(programs);
        if !failed.is_empty() {
            self.touched(k);
        } else if changed {
            self.changed(k);
        }
    }

    /// What SLURM_RESUME_FILE says of the jobs for which these nodes are woken.
    fn jobs_of(&self, woken: &[usize]) -> Vec<ResumeJob> {
        let names = |indexes: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
            indexes.map(|index| self.state.nodes[*index].name.clone()).collect()
        };
        let waits = |(_, job): &(usize, &Job)| {
            job.state == JobState::Configuring && job.nodes.iter().any(|index| woken.contains(index))
        };
        let jobs = self.state.jobs.iter().enumerate().filter(waits);
        jobs.map(|(number, job)| ResumeJob {
            job_id: number as u64,
            nodes: names(&mut job.nodes.iter()),
            woken: names(&mut job.nodes.iter().filter(|index| woken.contains(index))),
        })
        .collect()
    }

    /// The run of a job that is waiting for exactly these nodes.
    pub fn run_on(&self, job: &ResumeJob) -> Option<u32> {
        let found = self.state.jobs.get(usize::try_from(job.job_id).ok()?)?;
        let names: Vec<&String> = found.nodes.iter().map(|index| &self.state.nodes[*index].name).collect();
        let same = found.state == JobState::Configuring && names.iter().copied().eq(&job.nodes);
        same.then_some(found.run)
    }

    /// The number and the run of the job that waits for this node, with the nodes that are being woken.
    pub fn waits_for(&self, index: usize) -> Option<(u64, u32, Vec<usize>)> {
        let number = self.state.nodes[index].job?;
        let job = &self.state.jobs[number];
        let waking: Vec<usize> =
            job.nodes.iter().copied().filter(|index| self.state.nodes[*index].is_waking()).collect();
        (job.state == JobState::Configuring).then_some((number as u64, job.run, waking))
    }

    fn resume_timeout(&mut self, k: &mut Kernel, index: usize) {
        self.stats.resume_timeouts += 1;
        let node = &mut self.state.nodes[index];
        for flag in
            [NodeFlags::DRAIN, NodeFlags::POWER_DOWN, NodeFlags::POWERING_UP, NodeFlags::NOT_RESPONDING]
        {
            node.clear(flag);
        }
        node.set(NodeFlags::POWERED_DOWN);
        node.base = NodeBase::Down;
        node.reason = Some("ResumeTimeout reached".into());
        node.suspended = true;
        node.booting = false;
        node.boot_requested = None;
        node.down_since = Some(k.now);
        k.note(|| format!("Slurm: {} did not resume by ResumeTimeout", self.state.nodes[index].name));
        self.requeue(k, index);
        self.state.nodes[index].base = NodeBase::Down;
        self.state.nodes[index].last_busy = None;
    }

    // --- nodes ---

    /// A slurmd says that it is node `index` (validate_node_specs).
    pub fn register(&mut self, k: &mut Kernel, index: usize, machine: usize, ec2: &Ec2) {
        let suspend_ms = u64::from(self.plan.site.settings.suspend_timeout_s) * 1000;
        let node = &mut self.state.nodes[index];
        let booted = ec2.machines[machine].booted;
        if node.has(NodeFlags::POWERING_UP) && node.boot_requested.is_some_and(|since| booted < since) {
            return;
        }
        if node.has(NodeFlags::POWERING_DOWN)
            && node.power_requested.is_some_and(|since| booted < since + suspend_ms)
        {
            return;
        }
        node.booting = false;
        node.instance = Some(machine);
        let power = [
            NodeFlags::NOT_RESPONDING,
            NodeFlags::POWERING_UP,
            NodeFlags::POWERED_DOWN,
            NodeFlags::POWERING_DOWN,
        ];
        let mut changed = false;
        if power.iter().any(|flag| node.has(*flag)) {
            if node.has(NodeFlags::POWERING_UP) || node.has(NodeFlags::POWERED_DOWN) {
                node.last_busy = Some(k.now);
                k.after(self.plan.suspend_time_ms + 1_100, Action::PowerWork);
            }
            for flag in power {
                node.clear(flag);
            }
            node.suspended = false;
            node.down_since = None;
            changed = true;
        }
        if node.base == NodeBase::Down
            && (self.plan.return_to_service == 2
                || (self.plan.return_to_service == 1 && node.reason.as_deref() == Some("Not responding")))
        {
            node.base = NodeBase::Idle;
            changed = true;
        }
        node.boot_requested = None;
        node.power_requested = None;
        node.last_response = k.now;
        if self.plan.registers_address {
            node.addr.clone_from(&ec2.machines[machine].ip);
        }
        if changed {
            k.note(|| {
                format!("Slurm: {} registers from {}", self.state.nodes[index].name, ec2.machines[machine].id)
            });
            if let Some(job) = self.state.nodes[index].job {
                self.begin_job(k, job);
            }
            self.plan_allocation(k);
            self.touched(k);
        }
    }

    /// `node_did_resp`: the clock of SlurmdTimeout begins anew for a node that is up.
    pub fn did_respond(&mut self, k: &mut Kernel, names: &[String]) {
        for index in names.iter().filter_map(|name| self.find(name)).collect::<Vec<_>>() {
            let node = &mut self.state.nodes[index];
            if node.suspended || node.booting {
                continue;
            }
            node.last_response = k.now;
            let silent = node.has(NodeFlags::NOT_RESPONDING);
            node.clear(NodeFlags::NOT_RESPONDING);
            let back = node.base == NodeBase::Down
                && (self.plan.return_to_service == 2
                    || (self.plan.return_to_service == 1
                        && node.reason.as_deref() == Some("Not responding")));
            if back {
                node.base = NodeBase::Idle;
                node.last_busy = Some(k.now);
                k.after(self.plan.suspend_time_ms + 1_100, Action::PowerWork);
            }
            if silent || back {
                if let Some(job) = self.state.nodes[index].job {
                    self.begin_job(k, job);
                }
                self.plan_allocation(k);
                self.touched(k);
            }
        }
    }

    /// slurmctld asks every node that is up whether it is there (ping_nodes, then SlurmdTimeout). The nodes that it set DOWN,
    /// with the instances on which their jobs ran.
    pub fn ping(&mut self, k: &mut Kernel, ec2: &Ec2) -> Vec<(usize, usize)> {
        let mut lost = Vec::new();
        if self.host.is_none() {
            return lost;
        }
        for index in 0..self.state.nodes.len() {
            let node = &self.state.nodes[index];
            if node.suspended || node.has(NodeFlags::POWERING_UP) || node.base == NodeBase::Down {
                continue;
            }
            let answers = ec2.live.iter().any(|number| {
                let machine = &ec2.machines[*number];
                machine.ip == node.addr
                    && machine.is_awake(k.now)
                    && machine.node.as_deref() == Some(node.name.as_str())
            });
            let ran = self.running_on(index);
            let node = &mut self.state.nodes[index];
            if answers {
                node.last_response = k.now;
                if node.has(NodeFlags::NOT_RESPONDING) {
                    node.clear(NodeFlags::NOT_RESPONDING);
                    if let Some(job) = node.job {
                        self.begin_job(k, job);
                    }
                    self.touched(k);
                }
                continue;
            }
            let mut changed = !node.has(NodeFlags::NOT_RESPONDING);
            node.set(NodeFlags::NOT_RESPONDING);
            if node.last_response + SLURMD_TIMEOUT_MS < k.now {
                node.base = NodeBase::Down;
                // set_node_reason keeps what is there (22.05), or appends to it (24.11).
                node.reason = Some(match node.reason.take() {
                    Some(reason) if !reason.starts_with("Not responding") => {
                        if self.plan.registers_address {
                            reason
                        } else {
                            format!("{reason} : Not responding")
                        }
                    }
                    _ => "Not responding".into(),
                });
                lost.extend(ran.map(|machine| (index, machine)));
                k.note(|| format!("Slurm: {} DOWN, not responding", self.state.nodes[index].name));
                self.requeue(k, index);
                self.state.nodes[index].base = NodeBase::Down;
                k.after(self.plan.suspend_time_ms + 1_100, Action::PowerWork);
                changed = true;
            }
            if changed {
                self.touched(k);
            }
        }
        lost
    }

    /// The instance on which this node's running job began.
    fn running_on(&self, index: usize) -> Option<usize> {
        let node = &self.state.nodes[index];
        node.job_instance
            .filter(|_| node.job.is_some_and(|job| self.state.jobs[job].state == JobState::Running))
    }

    /// Whether the job stands still because an instance of its is asleep.
    pub fn is_asleep(&self, job: usize, now: u64, ec2: &Ec2) -> bool {
        self.state.jobs.get(job).is_some_and(|job| {
            job.state == JobState::Running
                && job.nodes.iter().any(|index| {
                    let machine = self.state.nodes[*index].job_instance;
                    machine.is_some_and(|machine| ec2.machines[machine].is_asleep(now))
                })
        })
    }

    pub fn load(&self) -> Vec<SlurmNode> {
        self.state
            .nodes
            .iter()
            .map(|node| SlurmNode {
                name: node.name.clone(),
                addr: node.addr.clone(),
                hostname: node.addr.clone(),
                base: node.base,
                flags: node.flags,
                reason: node.reason.clone(),
                // Releases before 23.02 do not show a node that is powered down.
                weight: (!self.plan.hides_suspended || !node.suspended).then_some(node.weight),
                ..SlurmNode::default()
            })
            .collect()
    }

    /// `update_node`.
    ///
    /// # Errors
    /// As slurmctld's: lists of another length than the names, unknown names.
    pub fn update(&mut self, k: &mut Kernel, update: &NodeUpdate) -> Result<(), SlurmError> {
        let refused = |errno: i32| SlurmError::Refused {
            what: "update".into(),
            errno,
            message: "refused by the simulated slurmctld".into(),
        };
        if update.addrs.as_ref().is_some_and(|addrs| addrs.len() != update.names.len()) {
            return Err(refused(2018));
        }
        let mut indexes = Vec::new();
        for name in &update.names {
            indexes.push(self.find(name).ok_or_else(|| refused(2019))?);
        }
        for (place, index) in indexes.into_iter().enumerate() {
            let node = &mut self.state.nodes[index];
            if let Some(addrs) = &update.addrs {
                node.addr.clone_from(&addrs[place]);
            }
            if let Some(reason) = &update.reason {
                node.reason = Some(reason.clone());
            }
            node.weight = update.weight.unwrap_or(node.weight);
            match update.state {
                None => {}
                Some(NodeStateChange::PowerDownForce) => self.power_down_by_force(k, index),
                Some(NodeStateChange::Resume) => {
                    node.clear(NodeFlags::DRAIN);
                    if node.has(NodeFlags::POWERING_DOWN) {
                        node.clear(NodeFlags::POWERING_DOWN);
                        node.set(NodeFlags::POWERED_DOWN);
                        node.power_requested = None;
                        if self.plan.registers_address {
                            node.addr.clone_from(&node.name);
                        }
                    }
                    if node.base == NodeBase::Down {
                        node.base = NodeBase::Idle;
                    }
                    self.plan_allocation(k);
                }
                Some(NodeStateChange::PowerDown) => {
                    let is_down = node.has(NodeFlags::POWERING_DOWN) || node.has(NodeFlags::POWERED_DOWN);
                    let flag = if is_down { NodeFlags(0) } else { NodeFlags::POWER_DOWN };
                    node.set(flag);
                }
                Some(NodeStateChange::PowerUp) => {
                    let is_down = node.has(NodeFlags::POWERED_DOWN);
                    let flag = if is_down { NodeFlags::POWER_UP } else { NodeFlags(0) };
                    node.set(flag);
                }
                Some(NodeStateChange::Down) => {
                    self.requeue(k, index);
                    self.state.nodes[index].base = NodeBase::Down;
                }
                Some(NodeStateChange::Drain) => node.set(NodeFlags::DRAIN),
                Some(NodeStateChange::Undrain) => {
                    node.clear(NodeFlags::DRAIN);
                    self.plan_allocation(k);
                }
            }
        }
        self.touched(k);
        Ok(())
    }

    fn power_down_by_force(&mut self, k: &mut Kernel, index: usize) {
        if self.state.nodes[index].has(NodeFlags::POWERING_DOWN) {
            return;
        }
        k.note(|| {
            let node = &self.state.nodes[index];
            format!("Slurm: {} POWER_DOWN_FORCE: {}", node.name, node.reason.clone().unwrap_or_default())
        });
        self.requeue(k, index);
        let node = &mut self.state.nodes[index];
        node.clear(NodeFlags::COMPLETING);
        node.clear(NodeFlags::POWERING_UP);
        node.clear(NodeFlags::POWERED_DOWN);
        node.set(NodeFlags::POWER_DOWN);
    }

    pub fn naming(&self, index: usize) -> NodeNaming {
        self.plan.site.groups()[index].naming
    }

    /// A running job on the node, whose slurmd is on this instance.
    pub fn runs_on(&self, machine: usize) -> Option<&Node> {
        self.state.nodes.iter().find(|node| {
            node.job_instance == Some(machine)
                && node.job.is_some_and(|job| self.state.jobs[job].state == JobState::Running)
        })
    }
}
