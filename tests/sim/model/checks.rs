// SPDX-License-Identifier: GPL-3.0-or-later
//! The promises, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use ec2fleet_core::ec2_api::{CloudRequest, FleetType};
use ec2fleet_core::event::ResumeJob;
use ec2fleet_core::site::{Account, FleetScope, NodeNaming};
use ec2fleet_core::slurm_api::{NodeBase, NodeFlags, NodeStateChange, NodeUpdate};
use ec2fleet_core::tag;

use super::plan::SLURMD_TIMEOUT_MS;
use super::slurmctld::{JobState, Node};
use super::world::World;

/// Repair is promised within this much beyond what the settings say: batches, latency, one more list.
const SLACK_MS: u64 = 90_000;

/// A controller that runs knows after this time that a node waits.
const WAIT_SEEN_MS: u64 = 20_000;

/// What is remembered between two looks.
#[derive(Default)]
pub struct Checks {
    /// Since when this instance serves no node that Slurm wants.
    unwanted: BTreeMap<usize, Unwanted>,
    /// Since when this maintain fleet serves no node or group that Slurm wants.
    unwanted_fleets: BTreeMap<usize, Unwanted>,
    /// Since when the target of this group's fleet is not what Slurm wants.
    off_target: BTreeMap<usize, u64>,
    /// The node that each instance was bound to last.
    served: BTreeMap<String, Served>,
    /// Bindings at the last look.
    bindings: BTreeMap<String, String>,
    /// Nodes and when they were last seen suspended.
    suspended: BTreeMap<String, u64>,
    /// The journal's file and length at the last look.
    journal: (Option<usize>, usize),
    /// Instances whose address slurmctld has been told of.
    told: BTreeSet<String>,
    /// Nodes that go back with their job.
    returning: Vec<Returning>,
    /// Describe calls of each account since the count began.
    pub describes: Option<BTreeMap<Account, u32>>,
}

/// A node of a job that cannot have all of its nodes, in the power-up of which that became known.
struct Returning {
    job: u64,
    node: usize,
    boot_requested: Option<u64>,
    since: u64,
    life: u64,
}

/// A job gives its nodes back within this time.
const RETURN_MS: u64 = 45_000;

#[derive(Clone, Copy)]
struct Unwanted {
    since: u64,
    /// It had a node, and Slurm powered that down.
    powered_down: bool,
    /// A process has begun since to whose journal it is unknown: only the name it was told, and that this node is powered
    /// down now, say that it has to go.
    by_name: bool,
    /// When a node with a job was seen last whose name it was told.
    excused: u64,
}

/// The node of an instance.
struct Served {
    node: String,
    since: u64,
    /// It has not lost the node since.
    bound: bool,
}

/// EC2's request buckets, full size, of one process (EC2 API reference, "Request throttling for the Amazon EC2 API").
#[derive(Default)]
pub struct Buckets {
    tokens: BTreeMap<(Account, &'static str), (f64, u64)>,
}

impl Buckets {
    #[allow(clippy::cast_precision_loss)]
    fn take(&mut self, account: &Account, request: &CloudRequest, now: u64) -> bool {
        let (name, burst, rate) = match request.action() {
            "TerminateInstances" => ("terminate", 100.0, 5.0),
            "CreateTags" => ("tags", 100.0, 10.0),
            action if action.starts_with("Describe") => ("describe", 100.0, 20.0),
            _ => ("mutate", 50.0, 5.0),
        };
        let (tokens, at) = self.tokens.entry((account.clone(), name)).or_insert((burst, now));
        *tokens = (*tokens + (now - *at) as f64 / 1000.0 * rate).min(burst);
        *at = now;
        *tokens -= 1.0;
        *tokens >= 0.0
    }
}

impl World {
    /// A call leaves the controller.
    pub fn check_sent(&mut self, host: usize, account: &Account, request: &CloudRequest) {
        let now = self.k.now;
        if !self.controllers[host].buckets.take(account, request, now) {
            self.k.violate(|| format!("{} goes over EC2's request limit", request.action()));
        }
        let describe = request.action().starts_with("Describe");
        if describe {
            if let Some(counts) = &mut self.checks.describes {
                *counts.entry(account.clone()).or_default() += 1;
            }
            return;
        }
        if !self.disk.borrow().has_durable_intent(request) {
            self.k.violate(|| {
                format!("{} is sent before its intent is on the disk: {request:?}", request.action())
            });
        }
    }

    /// Of the instances that a call ends those whose end Slurm has asked for: EC2 may take a while to hear of it.
    pub fn asked_for(&self, request: &CloudRequest) -> BTreeSet<String> {
        self.ended_by(request).into_iter().filter(|id| self.was_powered_down(id)).collect()
    }

    /// A call arrives at EC2 and is about to take effect. `asked`: what Slurm had asked for when it was sent;
    /// `sender`: the host whose process sent it and still runs.
    pub fn check_reaches(
        &mut self,
        sender: Option<usize>,
        account: &Account,
        request: &CloudRequest,
        asked: &BTreeSet<String>,
    ) {
        self.check_fleet_call(account, request);
        let ids = self.ended_by(request);
        let grace = u64::from(self.slurm.plan.site.settings.orphan_grace_s) * 1000;
        for id in &ids {
            let Some(number) = self.ec2.machine(id) else {
                self.k.violate(|| format!("{id} is to be terminated and never existed"));
                continue;
            };
            let machine = &self.ec2.machines[number];
            if machine.foreign {
                self.k.violate(|| format!("{id} of another cluster is terminated"));
            }
            if !machine.is_alive(self.k.now) {
                continue;
            }
            if machine.is_asleep(self.k.now)
                && !asked.contains(id)
                && let Some(node) = self.kept_by(id)
            {
                self.k.violate(|| format!("{id} is asleep and ended, though {node} is up on it"));
            }
            if let Some(node) = self.slurm.runs_on(number)
                && !node.suspended
                && !asked.contains(id)
            {
                let name = node.name.clone();
                self.k.violate(|| format!("{id} is terminated under the running job of {name}"));
            }
            let age = self.k.now - machine.launched;
            // A maintain fleet launches when it likes: what is too much in it may go at once.
            let known = machine.fleet.is_some()
                || sender.is_none_or(|host| self.controllers[host].told_of.contains(id))
                || self.was_powered_down(id);
            if age < grace && !known && self.acting() == sender {
                self.k.violate(|| {
                    format!("{id} is terminated {age} ms after its launch though nobody knew it")
                });
            }
        }
    }

    /// The node that is up on this instance, as the acting controller has it.
    fn kept_by(&self, id: &str) -> Option<String> {
        let driver = self.controllers[self.acting()?].driver.as_ref()?;
        let mut bindings = driver.engine.persisted().bindings.values();
        let node = bindings.find(|binding| binding.instance_id == id).map(|binding| &binding.node)?;
        let up = self.slurm.find(node).is_some_and(|index| self.slurm.state.nodes[index].is_up());
        up.then(|| node.clone())
    }

    /// Instances that a call ends.
    pub(super) fn ended_by(&self, request: &CloudRequest) -> Vec<String> {
        let now = self.k.now;
        match request {
            CloudRequest::TerminateInstances { ids } => ids.clone(),
            CloudRequest::DeleteFleets { ids, terminate_instances: true } => ids
                .iter()
                .filter_map(|id| self.ec2.fleet(id))
                .flat_map(|fleet| self.ec2.in_fleet(fleet))
                .map(|number| self.ec2.machines[number].id.clone())
                .collect(),
            CloudRequest::CancelSpotInstanceRequests { ids } => ids
                .iter()
                .filter_map(|id| self.ec2.machine(id.strip_prefix("sir-")?))
                .map(|number| &self.ec2.machines[number])
                .filter(|machine| machine.is_asleep(now))
                .map(|machine| machine.id.clone())
                .collect(),
            CloudRequest::ModifyFleet { fleet_id, target, terminate_excess: true, .. } => {
                let fleet = self.ec2.fleet(fleet_id);
                let members = fleet.into_iter().flat_map(|fleet| self.ec2.in_fleet(fleet));
                let excess = members.skip(*target as usize);
                excess.map(|number| self.ec2.machines[number].id.clone()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// A call that makes, changes or deletes a maintain fleet is about to take effect.
    fn check_fleet_call(&mut self, account: &Account, request: &CloudRequest) {
        let now = self.k.now;
        match request {
            CloudRequest::CreateFleet(request) if request.fleet_type == FleetType::Maintain => {
                // One that EC2 has listed long enough for everybody to have seen it, and nobody has given up.
                let seen = self.slurm.plan.max_lag_ms + SLACK_MS;
                let known = |id: &String| {
                    self.acting().and_then(|host| self.controllers[host].driver.as_ref()).is_some_and(
                        |driver| {
                            let state = driver.engine.persisted();
                            state.fleets.values().any(|fleet| fleet.fleet_id == *id)
                                || state.group_fleets.values().any(|fleet| fleet.fleet_id == *id)
                        },
                    )
                };
                let group = !request.fleet_tags.contains_key(tag::NODE);
                let other = self.ec2.fleets.iter().find(|fleet| {
                    fleet.is_active()
                        && group
                        && fleet.account == *account
                        && fleet.request.client_token != request.client_token
                        && [tag::CLUSTER, tag::PARTITION, tag::GROUP, tag::NODE]
                            .iter()
                            .all(|key| fleet.tag(key) == request.fleet_tags.get(*key))
                        && (known(&fleet.id) || fleet.created + seen < now)
                });
                if let Some(other) = other
                    && self.k.undisturbed() > seen
                {
                    let id = other.id.clone();
                    let tags = request.fleet_tags.clone();
                    self.k.violate(|| format!("a second fleet is made beside {id}: {tags:?}"));
                }
            }
            CloudRequest::ModifyFleet { fleet_id, target, spot_target, on_demand_target, .. } => {
                let Some(number) = self.ec2.fleet(fleet_id) else { return };
                let group = self.ec2.fleets[number].tag(tag::GROUP).cloned();
                if self.ec2.fleets[number].tag(tag::CLUSTER).map(String::as_str) != Some(super::plan::CLUSTER)
                {
                    self.k.violate(|| format!("the target of {fleet_id} of another cluster is changed"));
                }
                let wanted = self.slurm.state.nodes.iter().filter(|node| {
                    let group_of = &self.slurm.plan.site.groups()[node.group].name;
                    let lately = self.checks.suspended.get(&node.name).is_some_and(|at| now - at < SLACK_MS);
                    Some(group_of) == group.as_ref()
                        && (!node.suspended || lately || self.k.undisturbed() < SLACK_MS)
                });
                let most = u32::try_from(wanted.count()).unwrap_or(u32::MAX);
                if *spot_target > most || *on_demand_target > most || *target > most {
                    let text = format!(
                        "{fleet_id} is given the target {target} ({spot_target} Spot, {on_demand_target} on-demand), and Slurm wants {most} nodes"
                    );
                    self.k.violate(|| text);
                }
            }
            CloudRequest::DeleteFleets { ids, .. } => {
                for id in ids {
                    let foreign = self.ec2.fleet(id).is_some_and(|number| {
                        self.ec2.fleets[number].tag(tag::CLUSTER).map(String::as_str)
                            != Some(super::plan::CLUSTER)
                    });
                    if foreign {
                        self.k.violate(|| format!("{id} of another cluster is deleted"));
                    }
                }
            }
            _ => {}
        }
    }

    /// slurmctld has given up on a node, and on the job that ran on this instance.
    pub fn check_lost(&mut self, index: usize, number: usize) {
        let now = self.k.now;
        let machine = &self.ec2.machines[number];
        let node = &self.slurm.state.nodes[index];
        let bound =
            self.acting().and_then(|host| self.controllers[host].driver.as_ref()).is_some_and(|driver| {
                driver.engine.binding(&node.name).is_some_and(|binding| binding.instance_id == machine.id)
            });
        let asleep_ms = machine.naps.last().map_or(0, |nap| now.saturating_sub(nap.stopping));
        if bound
            && machine.is_asleep(now)
            && asleep_ms > SLACK_MS
            && self.k.undisturbed() > SLURMD_TIMEOUT_MS + SLACK_MS
        {
            let (id, name) = (machine.id.clone(), node.name.clone());
            self.k.violate(|| format!("{name} is DOWN and its job lost while {id} is hibernated"));
        }
    }

    /// slurmctld is about to take this update.
    pub fn check_update(&mut self, update: &NodeUpdate) {
        if update.state != Some(NodeStateChange::PowerDownForce) {
            return;
        }
        self.note_returning(update);
        self.check_report(update);
        self.check_addresses(update);
        for name in &update.names {
            let Some(index) = self.slurm.find(name) else { continue };
            let node = &self.slurm.state.nodes[index];
            let Some(number) = node.job_instance else { continue };
            let machine = &self.ec2.machines[number];
            let runs = node.job.is_some_and(|job| self.slurm.state.jobs[job].state == JobState::Running);
            if runs && machine.is_alive(self.k.now) && machine.node.as_deref() == Some(name) {
                let id = machine.id.clone();
                let reason = update.reason.clone().unwrap_or_default();
                self.k.violate(|| format!("the running job of {name} on {id} is killed: {reason}"));
            }
        }
    }

    /// The controller is told of jobs and the nodes that are woken for them.
    pub fn note_jobs(&mut self, host: usize, jobs: &[ResumeJob]) {
        let controller = &mut self.controllers[host];
        for job in jobs {
            if let Some(run) = self.slurm.run_on(job) {
                controller.jobs.insert(job.job_id, run);
            }
            for node in &job.nodes {
                controller.jobs_of.entry(node.clone()).or_default().insert(job.job_id);
            }
        }
    }

    /// slurmctld writes to all nodes of a job that ends, and looks up the names of those that have no address.
    fn check_addresses(&mut self, update: &NodeUpdate) {
        let Some(host) = self.acting() else { return };
        let nodes = &self.slurm.state.nodes;
        for index in update.names.iter().filter_map(|name| self.slurm.find(name)) {
            let Some((job, run, waking)) = self.slurm.waits_for(index) else { continue };
            let controller = &self.controllers[host];
            if controller.jobs.get(&job) != Some(&run) {
                continue;
            }
            let nameless = waking.into_iter().map(|index| &nodes[index]).find(|node| {
                let awake_since = |at: u64| at.max(controller.hangs_until);
                let known = node.boot_requested.is_some_and(|at| awake_since(at) + WAIT_SEEN_MS < self.k.now);
                // An address that it has not been shown may be an instance's.
                let shown = controller.driver.as_ref().and_then(|driver| driver.engine.node(&node.name));
                known && shown.is_some_and(|node| node.slurm_addr.is_some()) && node.addr == node.name
            });
            if let Some(node) = nameless {
                let text = format!(
                    "a job that waits for {} is ended while slurmctld has no address for it",
                    node.name
                );
                self.k.violate(|| text);
                return;
            }
        }
    }

    /// A node is reported as failed: no other node of its job waits for it any longer than it takes to say so.
    fn note_returning(&mut self, update: &NodeUpdate) {
        let Some(host) = self.acting() else { return };
        let controller = &self.controllers[host];
        for index in update.names.iter().filter_map(|name| self.slurm.find(name)) {
            let Some((job, run, waking)) = self.slurm.waits_for(index) else { continue };
            let nodes = &self.slurm.state.nodes;
            let whole = self.slurm.plan.site.groups()[nodes[index].group].all_or_nothing;
            if !whole || !waking.contains(&index) || controller.jobs.get(&job) != Some(&run) {
                continue;
            }
            for node in waking {
                // Of a node for which it was told of two jobs, it may believe that the other one still waits.
                let alone = controller.jobs_of.get(&nodes[node].name).is_some_and(|jobs| jobs.len() == 1);
                if alone && !update.names.contains(&nodes[node].name) {
                    let boot_requested = nodes[node].boot_requested;
                    let life = controller.life;
                    let since = self.k.now;
                    self.checks.returning.push(Returning { job, node, boot_requested, since, life });
                }
            }
        }
    }

    fn look_at_jobs(&mut self) {
        let now = self.k.now;
        let life = self.acting().map(|host| self.controllers[host].life);
        let nodes = &self.slurm.state.nodes;
        let undisturbed = self.k.chaos.disturbed_until;
        let mut late = Vec::new();
        self.checks.returning.retain(|returning| {
            let node = &nodes[returning.node];
            let same = node.is_waking()
                && node.boot_requested == returning.boot_requested
                && Some(returning.life) == life;
            if same && now > returning.since.max(undisturbed) + RETURN_MS {
                late.push((returning.job, node.name.clone()));
                return false;
            }
            same
        });
        for controller in &mut self.controllers {
            let waking = |name: &String| nodes.iter().any(|node| node.name == *name && node.is_waking());
            controller.jobs_of.retain(|name, _| waking(name));
        }
        for (job, name) in late {
            self.k.violate(|| {
                format!("{name} is still powered up for job {job}, which cannot have all of its nodes")
            });
        }
    }

    /// The engine has decided something.
    pub fn check_engine(&mut self, host: usize) {
        self.forgive_duties(host);
        let Some(driver) = &self.controllers[host].driver else { return };
        // Only records change an index, or what is bound.
        let journal = self.disk.borrow().journal();
        let written = std::mem::replace(&mut self.checks.journal, journal) != journal;
        if let Err(broken) = driver.engine.invariants(written) {
            self.k.violate(|| broken);
        }
        let bindings = &driver.engine.persisted().bindings;
        let same = bindings.len() == self.checks.bindings.len()
            && bindings
                .iter()
                .all(|(node, binding)| self.checks.bindings.get(node) == Some(&binding.instance_id));
        if same || self.controllers[host].superseded {
            return;
        }
        let now: BTreeMap<String, String> =
            bindings.iter().map(|(node, binding)| (node.clone(), binding.instance_id.clone())).collect();
        self.note_suspended();
        let mut owners: BTreeMap<&String, &String> = BTreeMap::new();
        for (node, id) in &now {
            if let Some(other) = owners.insert(id, node) {
                self.k.violate(|| format!("{id} is bound to {other} and to {node}"));
            }
            let machine = self.ec2.machine(id).map(|number| &self.ec2.machines[number]);
            let group = self.slurm.plan.site.locate(node).map(|(group, _)| group.name.clone());
            let in_group =
                self.ec2.machine(id).and_then(|number| self.ec2.group_of(number)) == group.as_ref();
            if machine.is_none_or(|machine| machine.foreign || !in_group) {
                self.k.violate(|| format!("{node} is bound to {id}, which is not of its group"));
            }
        }
        for (node, id) in &self.checks.bindings {
            if now.get(node) == Some(id) {
                continue;
            }
            if let Some(served) = self.checks.served.get_mut(id) {
                served.bound = false;
            }
            let Some(machine) = self.ec2.machine(id).map(|number| &self.ec2.machines[number]) else {
                continue;
            };
            let Some(index) = self.slurm.find(node) else { continue };
            let wanted = !self.slurm.state.nodes[index].suspended;
            let lately = self.checks.suspended.get(node).is_some_and(|at| self.k.now - at < SLACK_MS);
            if machine.is_alive(self.k.now) && wanted && !lately && self.k.undisturbed() > SLACK_MS {
                self.k.violate(|| format!("{node} loses {id}, which runs, though Slurm wants the node"));
            }
        }
        let told: Vec<String> = now.values().cloned().collect();
        for (node, id) in &now {
            let same = |served: &&mut Served| served.bound && served.node == *node;
            if self.checks.served.get_mut(id).filter(same).is_none() {
                let served = Served { node: node.clone(), since: self.k.now, bound: true };
                self.checks.served.insert(id.clone(), served);
            }
        }
        self.checks.bindings = now;
        self.controllers[host].told_of.extend(told);
    }

    /// slurmctld has answered: whatever now counts as told has its address there.
    pub fn check_told(&mut self, host: usize) {
        let controller = &self.controllers[host];
        let Some(driver) = controller.driver.as_ref().filter(|_| !controller.superseded) else { return };
        let mut wrong = Vec::new();
        let mut told = BTreeSet::new();
        for binding in driver.engine.persisted().bindings.values().filter(|binding| binding.told) {
            let node = self.slurm.find(&binding.node).map(|index| &self.slurm.state.nodes[index]);
            let differs = node.is_some_and(|node| !node.suspended && node.addr != binding.addr);
            if differs && !self.checks.told.contains(&binding.instance_id) {
                wrong.push((binding.node.clone(), binding.addr.clone()));
            }
            told.insert(binding.instance_id.clone());
        }
        self.checks.told = told;
        for (node, addr) in wrong {
            self.k.violate(|| format!("{node} counts as told of {addr}, and slurmctld has another address"));
        }
    }

    /// A new process begins with a journal that says of these instances whose they are, or that they end: any other one that
    /// was told no name is one without a node.
    pub fn forget_unwritten(&mut self, known: &BTreeSet<String>) {
        for (number, unwanted) in &mut self.checks.unwanted {
            let id = &self.ec2.machines[*number].id;
            let told = self.ec2.own_name(*number, NodeNaming::LaunchIndex).is_some();
            unwanted.by_name = told && !known.contains(id);
            unwanted.powered_down &= told || known.contains(id);
        }
    }

    /// A new process continues: what it has read is what it knows.
    pub fn forget_bindings(&mut self, host: usize) {
        self.checks.bindings.clear();
        // What the journal says was told may have been forgotten by slurmctld since.
        if let Some(driver) = &self.controllers[host].driver {
            let told = driver.engine.persisted().bindings.values().filter(|binding| binding.told);
            self.checks.told = told.map(|binding| binding.instance_id.clone()).collect();
        }
    }

    /// Whether Slurm has powered down the node of this instance since the node has it.
    pub fn was_powered_down(&self, id: &str) -> bool {
        let Some(number) = self.ec2.machine(id) else { return false };
        let machine = &self.ec2.machines[number];
        let served = self.checks.served.get(id);
        let name = machine
            .node
            .clone()
            .or_else(|| served.map(|served| served.node.clone()))
            .or_else(|| self.ec2.own_name(number, NodeNaming::LaunchIndex));
        let powered_down = name.is_some_and(|name| {
            let since = served.filter(|served| served.node == name);
            let since = since.map_or(machine.launched, |served| served.since);
            self.checks.suspended.get(&name).is_some_and(|at| *at >= since)
                || self.slurm.find(&name).is_some_and(|index| self.slurm.state.nodes[index].suspended)
        });
        powered_down
            || self.checks.unwanted.get(&number).is_some_and(|unwanted| unwanted.powered_down)
            || self.slurm.state.nodes.iter().any(|node| node.suspended && node.instance == Some(number))
    }

    /// Remember which nodes are suspended now.
    pub fn note_suspended(&mut self) {
        for node in self.slurm.state.nodes.iter().filter(|node| node.suspended) {
            self.checks.suspended.insert(node.name.clone(), self.k.now);
        }
    }

    /// Every instance serves a node that Slurm wants, or is on its way out within the promised time.
    pub fn look(&mut self) {
        let now = self.k.now;
        self.note_suspended();
        let acting = self.acting();
        let able = acting.is_some_and(|host| {
            let controller = &self.controllers[host];
            self.slurm.host == Some(host)
                && controller.hangs_until <= now
                && controller.driver.as_ref().is_some_and(|driver| !driver.is_stalled())
        });
        if !able {
            self.k.chaos.disturb(now);
        } else if let Some(host) = acting {
            self.check_duties(host);
        }
        let settings = &self.slurm.plan.site.settings;
        let rescan_ms = u64::from(settings.rescan_s) * 1000;
        let orphan_ms = u64::from(settings.orphan_grace_s) * 1000 + 2 * rescan_ms;
        let mut late = Vec::new();
        let live = self.ec2.live.clone();
        self.checks.unwanted.retain(|number, _| live.contains(number));
        for number in live {
            let machine = &self.ec2.machines[number];
            if machine.foreign || !machine.is_alive(now) {
                continue;
            }
            let owner = acting
                .and_then(|host| self.controllers[host].driver.as_ref())
                .and_then(|driver| {
                    let bindings = &driver.engine.persisted().bindings;
                    bindings.iter().find(|(_, binding)| binding.instance_id == machine.id)
                })
                .and_then(|(node, _)| self.slurm.find(node));
            let suspended = owner.is_some_and(|index| self.slurm.state.nodes[index].suspended)
                || self.slurm.state.nodes.iter().any(|node| node.suspended && node.instance == Some(number));
            if owner.is_some() && !suspended {
                self.checks.unwanted.remove(&number);
                continue;
            }
            let told = self.ec2.own_name(number, NodeNaming::LaunchIndex);
            let named =
                told.and_then(|name| self.slurm.find(&name)).map(|index| &self.slurm.state.nodes[index]);
            let named_down = named.is_some_and(|node| node.suspended);
            // Two can have been told one name: while the node has a job, none of them is ended.
            let may_run_job = owner.is_none() && named.is_some_and(Node::may_run_job);
            let entry = self.checks.unwanted.entry(number).or_insert(Unwanted {
                since: now,
                powered_down: suspended,
                by_name: false,
                excused: 0,
            });
            if entry.by_name && !named_down {
                // Woken before a list showed the instance: now the node waits for another, and this is one without a node.
                (entry.powered_down, entry.by_name, entry.since) = (false, false, now);
            }
            if may_run_job {
                entry.excused = now;
            }
            let mut allowed = if entry.powered_down { SLACK_MS } else { orphan_ms + SLACK_MS };
            // What EC2 launched for a node that lost its instance goes with the node's fleet. Without a journal only Slurm
            // can say that the node is lost: SlurmdTimeout, counted from a ping.
            let replaces = machine.fleet.map(|fleet| &self.ec2.fleets[fleet]).is_some_and(|fleet| {
                let node = fleet.tag(tag::NODE);
                let held = node
                    .zip(acting.and_then(|host| self.controllers[host].driver.as_ref()))
                    .is_some_and(|(node, driver)| {
                        let fleets = &driver.engine.persisted().fleets;
                        fleets.get(node).is_some_and(|known| known.fleet_id == fleet.id)
                    });
                let index = node.and_then(|node| self.slurm.find(node));
                held && index.is_some_and(|index| !self.slurm.state.nodes[index].suspended)
            });
            if replaces {
                allowed += SLURMD_TIMEOUT_MS + 60_000;
            }
            let waited = now.saturating_sub(entry.since.max(self.k.chaos.disturbed_until));
            // After the job the next list ends it.
            let excused = now.saturating_sub(entry.excused) <= rescan_ms + SLACK_MS;
            if waited > allowed && !excused {
                late.push((machine.id.clone(), entry.powered_down, waited));
            }
        }
        self.look_at_fleets(orphan_ms, rescan_ms);
        self.look_at_targets();
        self.look_at_jobs();
        for (id, powered_down, waited) in late {
            let seconds = waited / 1000;
            self.k.violate(|| {
                if powered_down {
                    format!("{id} still runs {seconds} s after its node was powered down")
                } else {
                    format!("{id} has had no node for {seconds} s and still runs")
                }
            });
        }
    }

    /// Every fleet serves a node or group, or is deleted within the promised time.
    fn look_at_fleets(&mut self, orphan_ms: u64, rescan_ms: u64) {
        let now = self.k.now;
        let mut late = Vec::new();
        for (number, fleet) in self.ec2.fleets.iter().enumerate() {
            let ours = fleet.tag(tag::CLUSTER).map(String::as_str) == Some(super::plan::CLUSTER);
            if !fleet.is_active() || !ours {
                self.checks.unwanted_fleets.remove(&number);
                continue;
            }
            let driver = self.acting().and_then(|host| self.controllers[host].driver.as_ref());
            let node = fleet.tag(tag::NODE);
            let suspended = node
                .and_then(|node| self.slurm.find(node))
                .is_some_and(|index| self.slurm.state.nodes[index].suspended);
            let owned = driver.is_some_and(|driver| {
                let state = driver.engine.persisted();
                match node {
                    Some(node) => state.fleets.get(node).is_some_and(|known| known.fleet_id == fleet.id),
                    None => state.group_fleets.values().any(|known| known.fleet_id == fleet.id),
                }
            });
            if owned && !suspended {
                self.checks.unwanted_fleets.remove(&number);
                continue;
            }
            // The node's job may run on what this fleet holds, as long as no list has shown where.
            let may_hold_job = node.and_then(|node| self.slurm.find(node)).is_some_and(|index| {
                let node = &self.slurm.state.nodes[index];
                let bound = driver.is_some_and(|driver| driver.engine.binding(&node.name).is_some());
                node.may_run_job() && !bound
            });
            let entry = self.checks.unwanted_fleets.entry(number).or_insert(Unwanted {
                since: now,
                powered_down: suspended,
                by_name: false,
                excused: 0,
            });
            if may_hold_job {
                entry.excused = now;
            }
            let allowed = if owned { SLACK_MS } else { orphan_ms + SLACK_MS };
            let waited = now.saturating_sub(entry.since.max(self.k.chaos.disturbed_until));
            let excused = now.saturating_sub(entry.excused) <= rescan_ms + SLACK_MS;
            if waited > allowed && !excused {
                let what = node.map_or("its group", String::as_str);
                late.push(format!("{} exists {} s after {what} needed it", fleet.id, waited / 1000));
            }
        }
        for text in late {
            self.k.violate(|| text);
        }
    }

    /// The target of a group's fleet follows the nodes: EC2 keeps nothing that Slurm does not want, and launches for each node
    /// that waits.
    pub fn look_at_targets(&mut self) {
        let now = self.k.now;
        let Some(driver) = self.acting().and_then(|host| self.controllers[host].driver.as_ref()) else {
            return;
        };
        let (mut off, mut late) = (BTreeMap::new(), Vec::new());
        for (stem, known) in &driver.engine.persisted().group_fleets {
            let Some(number) = self.ec2.fleet(&known.fleet_id) else { continue };
            let fleet = &self.ec2.fleets[number];
            let Some(group) = self.slurm.plan.site.groups().iter().position(|group| group.stem() == *stem)
            else {
                continue;
            };
            let (mut most, mut least) = (0, 0);
            for node in self.slurm.state.nodes.iter().filter(|node| node.group == group && !node.suspended) {
                most += 1;
                let bound =
                    driver.engine.binding(&node.name).and_then(|it| self.ec2.machine(&it.instance_id));
                least += u32::from(match bound {
                    Some(number) => self.ec2.machines[number].is_awake(now),
                    None => node.is_waking() && !node.flags.has(NodeFlags::POWER_DOWN),
                });
            }
            let target = fleet.target();
            if !fleet.is_active() || (least..=most).contains(&target) {
                continue;
            }
            let since = self.checks.off_target.get(&number).copied().unwrap_or(now);
            off.insert(number, since);
            let waited = now.saturating_sub(since.max(self.k.chaos.disturbed_until));
            if waited > SLACK_MS {
                late.push(format!(
                    "{} has had target {target} for {} s, and Slurm wants {least} to {most} instances",
                    fleet.id,
                    waited / 1000
                ));
            }
        }
        self.checks.off_target = off;
        for text in late {
            self.k.violate(|| text);
        }
    }

    /// Maintain fleets at the end: one for each node that is up, and groups with exactly what is up.
    fn unsettled_fleets(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (index, group) in self.slurm.plan.site.groups().iter().enumerate() {
            let up =
                self.slurm.state.nodes.iter().filter(|node| node.group == index && !node.suspended).count();
            let fleets: Vec<_> = self
                .ec2
                .fleets
                .iter()
                .filter(|fleet| {
                    fleet.is_active()
                        && fleet.tag(tag::CLUSTER).map(String::as_str) == Some(super::plan::CLUSTER)
                        && fleet.tag(tag::GROUP) == Some(&group.name)
                })
                .collect();
            let target: u64 = fleets.iter().map(|fleet| u64::from(fleet.target())).sum();
            let most = match group.scope {
                FleetScope::Launch => 0,
                FleetScope::Node => up,
                FleetScope::Group => 1,
            };
            if fleets.len() > most {
                broken.push(format!("{} has {} fleets", group.stem(), fleets.len()));
            }
            if group.scope != FleetScope::Launch && target != up as u64 {
                broken.push(format!(
                    "the fleets of {} have target {target}, and {up} nodes are up",
                    group.stem()
                ));
            }
        }
        broken
    }

    /// Slurm gave up waiting for a node: somebody must have said so before, or EC2 is to blame.
    pub fn check_resume_timeout(&mut self, index: usize, since: u64) {
        let now = self.k.now;
        let Some(host) = self.acting() else { return };
        if self.k.chaos.disturbed_until >= since.saturating_sub(SLACK_MS) {
            return;
        }
        let name = self.slurm.state.nodes[index].name.clone();
        let Some(driver) = &self.controllers[host].driver else { return };
        let bound = driver.engine.binding(&name).and_then(|binding| self.ec2.machine(&binding.instance_id));
        let Some(number) = bound else {
            self.k.violate(|| format!("{name} ran into ResumeTimeout and no failure was reported"));
            return;
        };
        let machine = &self.ec2.machines[number];
        // It had no time to come up, or never would.
        let slept = !machine.naps.is_empty();
        if machine.boot_fails
            || machine.slow
            || slept
            || !machine.is_alive(now)
            || machine.booted + SLACK_MS > now
        {
            return;
        }
        let (id, runs_as) = (machine.id.clone(), machine.node.clone());
        self.k
            .violate(|| format!("{name} is bound to {id}, which is up as {runs_as:?}, and never registered"));
    }

    /// Faults have been over for a long time: what Slurm wants is what EC2 has.
    pub fn check_settled(&mut self) {
        let now = self.k.now;
        let Some(host) = self.acting() else {
            self.k.violate(|| "no controller acts at the end".into());
            return;
        };
        let mut broken = Vec::new();
        let mut used = 0;
        {
            let Some(driver) = &self.controllers[host].driver else { return };
            let engine = &driver.engine;
            if driver.is_stalled() {
                broken.push("the journal is stalled".into());
            }
            if engine.open_intents() > 0 {
                broken.push(format!("{} intents are open", engine.open_intents()));
            }
            for node in &self.slurm.state.nodes {
                let binding = engine.binding(&node.name);
                if node.base == NodeBase::Down {
                    broken.push(format!("{} is DOWN ({:?})", node.name, node.reason));
                }
                let machine = binding.and_then(|binding| self.ec2.machine(&binding.instance_id));
                let lifecycle = machine.map(|number| self.ec2.machines[number].lifecycle);
                let group = &self.slurm.plan.site.groups()[node.group];
                if let Some(weights) = group.node_weights
                    && node.weight != weights.of(lifecycle.unwrap_or(group.lifecycle))
                {
                    broken.push(format!("{} has weight {} on {lifecycle:?}", node.name, node.weight));
                }
                if node.suspended {
                    if let Some(binding) = binding {
                        broken.push(format!("{} is down and bound to {}", node.name, binding.instance_id));
                    }
                    continue;
                }
                used += 1;
                if node.flags.has(NodeFlags::DRAIN) {
                    broken.push(format!("{} is closed to jobs ({:?})", node.name, node.reason));
                }
                let Some(binding) = binding else {
                    broken.push(format!("{} ({:?}) is up without an instance", node.name, node.flags));
                    continue;
                };
                let Some(number) = self.ec2.machine(&binding.instance_id) else { continue };
                let machine = &self.ec2.machines[number];
                if !machine.is_alive(now) {
                    broken.push(format!("{} is bound to {}, which has ended", node.name, machine.id));
                }
                if node.addr != machine.ip {
                    broken.push(format!(
                        "{} has address {}, and {} has {}",
                        node.name, node.addr, machine.id, machine.ip
                    ));
                }
                if machine.node.as_deref() != Some(node.name.as_str()) || node.instance != Some(number) {
                    broken.push(format!(
                        "{} is served by {:?}, bound to {}",
                        node.name, node.instance, machine.id
                    ));
                }
                if machine.tags().get(tag::NAME) != Some(&node.name) {
                    broken.push(format!("{} has no Name tag", machine.id));
                }
            }
            broken.extend(self.unsettled_fleets());
            for (number, job) in self.slurm.state.jobs.iter().enumerate() {
                let right =
                    if job.sentinel { job.state == JobState::Running } else { job.state == JobState::Done };
                if !right {
                    broken.push(format!("job {number} is {:?}", job.state));
                }
            }
        }
        let live = self.ec2.live.iter().filter(|number| {
            let machine = &self.ec2.machines[**number];
            !machine.foreign && machine.is_alive(now)
        });
        let live = live.count();
        if live != used {
            broken.push(format!("{used} nodes are up and {live} instances run"));
        }
        if let Some(counts) = &self.checks.describes {
            for (account, count) in counts {
                // Two a minute for ten minutes, and the one that was due when the count began. Where instances can sleep
                // their states are read every ten seconds besides.
                let watches = self
                    .slurm
                    .plan
                    .site
                    .groups()
                    .iter()
                    .any(|group| group.hibernates() && group.account == *account);
                if *count > if watches { 82 } else { 21 } {
                    broken.push(format!("{count} describes of {account} in ten idle minutes"));
                }
            }
        }
        if !broken.is_empty() {
            self.k.violate(|| format!("not settled long after the last fault: {}", broken.join("; ")));
        }
    }
}
