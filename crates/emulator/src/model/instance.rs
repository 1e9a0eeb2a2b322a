// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances: what they are, how they are launched, and their life cycle.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use crate::model::capacity::{Lifecycle, PoolKey};
use crate::model::catalog::{Hypervisor, TypeFacts};
use crate::model::launch_data::{LaunchData, TagList};
use crate::model::region::{Event, Moment, Region, Signal};
use crate::model::time::{Millis, gmt};

/// An instance's state ("Instance lifecycle", EC2 User Guide).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Pending,
    Running,
    ShuttingDown,
    Terminated,
    Stopping,
    Stopped,
}

impl State {
    /// The code of `instanceState` (API_InstanceState).
    pub fn code(self) -> u16 {
        match self {
            Self::Pending => 0,
            Self::Running => 16,
            Self::ShuttingDown => 32,
            Self::Terminated => 48,
            Self::Stopping => 64,
            Self::Stopped => 80,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// The whole table of legal steps.
    pub fn can_become(self, next: Self) -> bool {
        use State::{Pending, Running, ShuttingDown, Stopped, Stopping, Terminated};
        matches!(
            (self, next),
            (Pending, Running | ShuttingDown | Terminated)
                | (Running, Stopping | ShuttingDown)
                | (Stopping, Stopped | ShuttingDown)
                | (Stopped, Pending | ShuttingDown | Terminated)
                | (ShuttingDown, Terminated)
        )
    }

    /// Not on its way out.
    pub fn alive(self) -> bool {
        !matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// A notice of interruption, as instance metadata shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub action: &'static str,
    pub due: Millis,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    pub id: String,
    pub code: String,
    pub not_before: Millis,
    pub not_after: Millis,
}

#[derive(Debug)]
pub struct Instance {
    pub id: String,
    pub seq: u64,
    pub reservation: String,
    pub launch_index: u32,
    pub facts: &'static TypeFacts,
    pub data: LaunchData,
    pub image: String,
    pub zone: String,
    pub zone_id: String,
    pub subnet: String,
    pub vpc: String,
    pub private_ip: Ipv4Addr,
    pub lifecycle: Lifecycle,
    pub state: State,
    /// Counts the steps of the life cycle; events set before the last step are void.
    pub step: u32,
    pub launched: Millis,
    pub first_launched: Millis,
    pub running_since: Option<Millis>,
    pub visible_at: Millis,
    /// `stateReason`: code and message.
    pub reason: Option<(String, String)>,
    /// `reason`: "User initiated (2025-01-31 20:00:00 GMT)".
    pub transition: String,
    pub spot_request: Option<String>,
    pub fleet: Option<String>,
    pub weight: f64,
    pub client_token: String,
    pub interfaces: Vec<String>,
    /// Device name and volume id.
    pub volumes: Vec<(String, String)>,
    pub root_device: String,
    /// The instance whose memory this one has: itself, unless it resumed another's memory image.
    pub memory_of: String,
    pub groups: Vec<String>,
    /// Whether it counts against its pool now.
    pub holds_capacity: bool,
    pub capacity_reservation: Option<String>,
    /// Its processes are frozen on disk.
    pub hibernated: bool,
    /// EC2 stopped or hibernated it and will start it again.
    pub interrupted: bool,
    pub notice: Option<Notice>,
    /// Not started again before this, after an interruption by command.
    pub held_until: Option<Millis>,
    pub rebalance: Option<Millis>,
    pub impaired: Option<Millis>,
    pub maintenance: Vec<Maintenance>,
    pub boot_failure: bool,
    pub terminated_at: Option<Millis>,
    /// Tags as instance metadata shows them; on Xen types those of the launch.
    pub launch_tags: TagList,
}

impl Instance {
    pub fn pool(&self) -> PoolKey {
        PoolKey { instance_type: self.facts.name, zone: self.zone.clone(), lifecycle: self.lifecycle }
    }

    pub fn hibernation(&self) -> bool {
        self.data.hibernation == Some(true)
    }

    pub fn root_volume(&self) -> Option<&String> {
        self.volumes.iter().find(|(device, _)| *device == self.root_device).map(|(_, volume)| volume)
    }

    pub fn is_spot(&self) -> bool {
        self.lifecycle == Lifecycle::Spot
    }

    /// Nitro types show tags in metadata as they are; Xen types as they were at launch or start
    /// ("Work with instance tags in instance metadata", EC2 User Guide).
    pub fn frozen_metadata_tags(&self) -> bool {
        self.facts.hypervisor == Hypervisor::Xen
    }
}

/// All instances by launch order, with an index by id.
#[derive(Debug, Default)]
pub struct Instances {
    by_seq: BTreeMap<u64, Instance>,
    index: HashMap<String, u64>,
    next: u64,
}

impl Instances {
    pub fn get(&self, id: &str) -> Option<&Instance> {
        self.by_seq.get(self.index.get(id)?)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Instance> {
        self.by_seq.get_mut(self.index.get(id)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.by_seq.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.by_seq.values_mut()
    }

    /// Instances launched after the one with this sequence number.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Instance> {
        self.by_seq.range(seq + 1..).map(|(_, instance)| instance)
    }

    pub fn next_seq(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn insert(&mut self, instance: Instance) {
        self.index.insert(instance.id.clone(), instance.seq);
        self.by_seq.insert(instance.seq, instance);
    }

    fn remove(&mut self, id: &str) -> Option<Instance> {
        self.by_seq.remove(&self.index.remove(id)?)
    }
}

impl Region {
    /// Makes the next step of an instance's life. A step that the table does not allow is a bug of the
    /// emulator, never of the request, and is left out.
    pub(crate) fn step(&mut self, id: &str, next: State) -> Option<u32> {
        let instance = self.instances.get_mut(id)?;
        if !instance.state.can_become(next) {
            debug_assert!(false, "{} -> {} of {id}", instance.state.name(), next.name());
            return None;
        }
        instance.state = next;
        instance.step += 1;
        Some(instance.step)
    }

    pub(crate) fn signal(&mut self, id: &str, moment: Moment) {
        if let Some(instance) = self.instances.get(id) {
            let signal = self.signal_of(instance, moment);
            self.signals.push(signal);
        }
    }

    pub(crate) fn signal_of(&self, instance: &Instance, moment: Moment) -> Signal {
        Signal {
            at: self.now,
            moment,
            instance_id: instance.id.clone(),
            private_ip: instance.private_ip.to_string(),
            instance_type: instance.facts.name.to_owned(),
            zone: instance.zone.clone(),
            subnet_id: instance.subnet.clone(),
            lifecycle: instance.lifecycle.name(),
            image_id: instance.image.clone(),
            region: self.name.clone(),
            memory_of: instance.memory_of.clone(),
        }
    }

    fn current(&self, id: &str, step: u32) -> bool {
        self.instances.get(id).is_some_and(|instance| instance.step == step)
    }

    pub(crate) fn pending_over(&mut self, id: &str, step: u32) {
        if !self.current(id, step) {
            return;
        }
        let now = self.now;
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        if instance.boot_failure {
            self.end_at_once(id, "Server.InternalError", "Server.InternalError: Internal error on launch");
            return;
        }
        let impaired = instance.impaired.is_some();
        self.step(id, State::Running);
        if let Some(instance) = self.instances.get_mut(id) {
            instance.running_since = Some(now);
        }
        if !impaired {
            self.signal(id, Moment::Boot);
        }
        self.fleet_instance_running(id);
    }

    /// A start (or resume from hibernation) is over.
    pub(crate) fn start_over(&mut self, id: &str, step: u32) {
        if !self.current(id, step) {
            return;
        }
        let now = self.now;
        self.step(id, State::Running);
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.running_since = Some(now);
        instance.hibernated = false;
        let root = instance.root_volume().and_then(|root| self.volumes.get_mut(root));
        let memory = root.and_then(|root| root.memory.take());
        let moment = if memory.is_some() { Moment::Resume } else { Moment::Boot };
        instance.memory_of = memory.map_or_else(|| id.to_owned(), |memory| memory.memory_of);
        self.signal(id, moment);
        self.fleet_instance_running(id);
    }

    pub(crate) fn shut_down_over(&mut self, id: &str, step: u32) {
        if self.current(id, step) {
            self.terminated(id);
        }
    }

    fn end_at_once(&mut self, id: &str, code: &str, message: &str) {
        if let Some(instance) = self.instances.get_mut(id) {
            instance.reason = Some((code.to_owned(), message.to_owned()));
            instance.transition = code.to_owned();
        }
        self.leave_service(id, "instance-terminated-launch-failed");
        self.terminated(id);
    }

    /// Frees everything and enters `terminated`.
    fn terminated(&mut self, id: &str) {
        if self.step(id, State::Terminated).is_none() {
            return;
        }
        let now = self.now;
        self.interrupted.remove(id);
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.terminated_at = Some(now);
        instance.interrupted = false;
        instance.notice = None;
        instance.hibernated = false;
        let volumes = std::mem::take(&mut instance.volumes);
        let interfaces = std::mem::take(&mut instance.interfaces);
        for (_, volume) in volumes {
            self.volume_owner_gone(&volume);
        }
        for interface in interfaces {
            self.interface_owner_gone(&interface);
        }
        self.free_capacity(id);
        if let Some(fleet) = self.instances.get(id).and_then(|instance| instance.fleet.clone()) {
            self.fleet_member_ended(&fleet);
        }
        self.after(self.rules.delays.terminated_visible_ms, Event::Forget { instance: id.to_owned() });
    }

    pub(crate) fn forget(&mut self, id: &str) {
        if let Some(instance) = self.instances.remove(id) {
            self.tags.remove(id);
            if let Some(request) = &instance.spot_request {
                self.forget_spot_request(request);
            }
        }
    }

    /// Gives the instance's place in its pool or capacity reservation back.
    pub(crate) fn free_capacity(&mut self, id: &str) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let key = instance.pool();
        let held = std::mem::take(&mut instance.holds_capacity);
        let reserved = instance.capacity_reservation.clone();
        if held {
            self.pools.give_back(&key);
        }
        if let Some(reserved) = reserved {
            self.free_reserved_slot(&reserved);
            if let Some(instance) = self.instances.get_mut(id) {
                instance.capacity_reservation = None;
            }
        }
        self.capacity_came(&key);
    }

    /// What must happen before `shutting-down` and a direct end alike: hooks, Spot request, fleet.
    fn leave_service(&mut self, id: &str, spot_status: &str) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        // What is hibernated ends with the volume that it is on.
        let lived = instance.state == State::Running && instance.running_since.is_some();
        let request = instance.spot_request.clone();
        if lived {
            self.signal(id, Moment::End);
        }
        if let Some(request) = request {
            self.close_spot_request(&request, spot_status);
        }
        self.fleet_instance_lost(id);
    }

    /// Starts the end of an instance.
    pub(crate) fn terminate(&mut self, id: &str, reason: (&str, &str), spot_status: &str) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        if !instance.state.alive() {
            return;
        }
        self.leave_service(id, spot_status);
        let now = self.now;
        let stopped = match self.instances.get_mut(id) {
            Some(instance) => {
                instance.reason = Some((reason.0.to_owned(), reason.1.to_owned()));
                instance.transition = if reason.0.starts_with("Client") {
                    format!("User initiated ({})", gmt(now))
                } else {
                    format!("{} ({})", reason.0, gmt(now))
                };
                instance.notice = None;
                instance.interrupted = false;
                instance.hibernated = false;
                instance.state == State::Stopped
            }
            None => return,
        };
        if stopped {
            self.terminated(id);
            return;
        }
        if let Some(step) = self.step(id, State::ShuttingDown) {
            self.after(self.rules.delays.shutting_down_ms, Event::ShutDown { instance: id.to_owned(), step });
        }
    }

    /// Starts a stop or a hibernation.
    pub(crate) fn stop(&mut self, id: &str, hibernate: bool, reason: (&str, &str)) {
        let now = self.now;
        self.signal(id, if hibernate { Moment::Hibernate } else { Moment::End });
        if hibernate {
            self.freeze_memory(id);
        }
        let Some(step) = self.step(id, State::Stopping) else {
            return;
        };
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.hibernated = hibernate;
        instance.reason = Some((reason.0.to_owned(), reason.1.to_owned()));
        instance.transition = if reason.0.starts_with("Client") {
            format!("User initiated ({})", gmt(now))
        } else {
            format!("{} ({})", reason.0, gmt(now))
        };
        let (delay, event) = if hibernate {
            (self.rules.delays.hibernating_ms, Event::Hibernate { instance: id.to_owned(), step })
        } else {
            (self.rules.delays.stopping_ms, Event::Stop { instance: id.to_owned(), step })
        };
        self.after(delay, event);
    }

    /// The memory image goes to the root volume.
    fn freeze_memory(&mut self, id: &str) {
        let Some(instance) = self.instances.get(id) else { return };
        let Some(root) = instance.root_volume().cloned() else { return };
        let end = self.signal_of(instance, Moment::End);
        if let Some(volume) = self.volumes.get_mut(&root) {
            volume.memory = Some(Box::new(end));
        }
    }

    pub(crate) fn stop_over(&mut self, id: &str, step: u32) {
        if !self.current(id, step) || self.step(id, State::Stopped).is_none() {
            return;
        }
        if let Some(instance) = self.instances.get_mut(id) {
            instance.notice = None;
            instance.running_since = None;
        }
        self.spot_stopped(id);
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let held = instance.held_until;
        if instance.interrupted {
            self.interrupted.insert(id.to_owned());
        }
        self.free_capacity(id);
        if let Some(until) = held
            && until < Millis::MAX
        {
            self.after(until - self.now, Event::HoldOver { instance: id.to_owned() });
        }
    }

    /// Starts an instance that is stopped. Its place in the pool must be free.
    pub(crate) fn start(&mut self, id: &str) {
        let Some(step) = self.step(id, State::Pending) else {
            return;
        };
        let now = self.now;
        let tags = self.tags_of(id).to_vec();
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        instance.launched = now;
        instance.reason = None;
        instance.transition = String::new();
        instance.interrupted = false;
        instance.held_until = None;
        instance.launch_tags = tags;
        let key = instance.pool();
        let reserved = instance.data.reservation_id.clone().filter(|id| self.take_slot(id));
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.holds_capacity = reserved.is_none();
        instance.capacity_reservation = reserved;
        if instance.holds_capacity {
            self.pools.take(&key);
        }
        self.spot_started(id);
        self.after(self.rules.delays.starting_ms, Event::Started { instance: id.to_owned(), step });
    }
}

#[cfg(test)]
mod tests {
    use super::State;

    const ALL: [State; 6] = [
        State::Pending,
        State::Running,
        State::ShuttingDown,
        State::Terminated,
        State::Stopping,
        State::Stopped,
    ];

    #[test]
    fn the_table_of_legal_steps() {
        let table: Vec<String> = ALL
            .iter()
            .map(|from| {
                let to: Vec<_> = ALL.iter().filter(|to| from.can_become(**to)).map(|to| to.name()).collect();
                format!("{} -> {}", from.name(), to.join(" | "))
            })
            .collect();
        assert_eq!(
            table,
            [
                "pending -> running | shutting-down | terminated",
                "running -> shutting-down | stopping",
                "shutting-down -> terminated",
                "terminated -> ",
                "stopping -> shutting-down | stopped",
                "stopped -> pending | shutting-down | terminated",
            ]
        );
    }
}
