// SPDX-License-Identifier: GPL-3.0-or-later
//! The one thread that calls slurmctld: it watches the power bitmaps and does what the engine asks of Slurm.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::clock::Clock;
use ec2fleet_core::event::{CallId, Event};
use ec2fleet_core::power_watch::{Ask, LOOK_INTERVAL_MS, Observation, PowerWatch};
use ec2fleet_core::slurm_api::{SlurmError, SlurmReply, SlurmRequest, SlurmResult};
use ec2fleet_slurm::controller::{Controller, HostLogLevel};

/// Commands that may wait for the thread.
const COMMANDS: usize = 1_024;

/// What the thread is asked to do.
#[derive(Debug)]
pub enum HostCommand {
    Slurm { call: CallId, request: SlurmRequest, asker: u64 },
    ReadPower,
    Log { level: HostLogLevel, message: String },
}

/// What the thread and the runtime both see.
#[derive(Debug, Default)]
pub struct Shared {
    pub stop: AtomicBool,
    pub primary: AtomicBool,
    /// Readings under the node read lock, and the longest time that it was held.
    pub scans: AtomicU64,
    pub lock_held_max_ns: AtomicU64,
    pub overflows: AtomicU64,
    /// Told when slurmctld has read slurm.conf again (`scontrol reconfigure`).
    pub reconfigured: Notify,
    /// Where events go while the plugin is active.
    events: Mutex<Option<mpsc::Sender<Event>>>,
    full_wanted: AtomicBool,
    /// How many engines have ended: what an earlier one asked is not answered to a later one.
    ended: AtomicU64,
}

impl Shared {
    /// Begin to watch, with a full reading first; `None` ends it.
    pub fn watch(&self, events: Option<mpsc::Sender<Event>>) {
        self.full_wanted.store(true, Ordering::SeqCst);
        if events.is_none() {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }

    /// Whether an engine is there that wants events.
    #[must_use]
    pub fn watched(&self) -> bool {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Names the engine that asks now.
    #[must_use]
    pub fn asker(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// The other threads' way to the host thread.
#[derive(Clone, Debug)]
pub struct HostLink {
    commands: SyncSender<HostCommand>,
    pub shared: Arc<Shared>,
}

impl HostLink {
    #[must_use]
    pub fn new() -> (Self, Receiver<HostCommand>) {
        let (commands, receiver) = std::sync::mpsc::sync_channel(COMMANDS);
        (Self { commands, shared: Arc::default() }, receiver)
    }

    /// False when the thread is behind or gone; nothing is waited for.
    pub fn send(&self, command: HostCommand) -> bool {
        match self.commands.try_send(command) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    pub fn log(&self, level: HostLogLevel, message: impl Into<String>) {
        self.send(HostCommand::Log { level, message: message.into() });
    }
}

/// Run until told to stop. The controller is used here and nowhere else.
pub fn run(controller: &mut dyn Controller, commands: &Receiver<HostCommand>, shared: &Shared) {
    let mut watch = Watch::default();
    loop {
        match commands.recv_timeout(Duration::from_millis(LOOK_INTERVAL_MS)) {
            Ok(command) => watch.obey(controller, command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while let Ok(command) = commands.try_recv() {
            watch.obey(controller, command);
        }
        if shared.stopping() {
            return;
        }
        shared.primary.store(controller.is_primary(), Ordering::SeqCst);
        let events = shared.events.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Without a receiver answers wait: a new engine asks before it listens.
        if let Some(events) = events {
            watch.pay(shared, &events);
            watch.scan(controller, shared, &events);
        }
    }
}

#[derive(Default)]
struct Watch {
    clock: Clock,
    /// Decides when the bitmaps are read and what of them is handed over.
    policy: PowerWatch,
    /// Answers that found the queue full. They are bounded by the calls that the engine has open.
    owed: VecDeque<(u64, Event)>,
}

impl Watch {
    fn obey(&mut self, controller: &mut dyn Controller, command: HostCommand) {
        match command {
            HostCommand::Slurm { call, request, asker } => {
                let result = answer(controller, &request);
                self.owed.push_back((asker, Event::SlurmAnswered { call, result }));
            }
            HostCommand::ReadPower => {
                self.observe(Observation::FullWanted);
            }
            HostCommand::Log { level, message } => controller.log(level, &message),
        }
    }

    /// Hand answers over in order; what does not fit waits.
    fn pay(&mut self, shared: &Shared, events: &mpsc::Sender<Event>) {
        while let Some((asker, event)) = self.owed.pop_front() {
            if asker != shared.asker() {
                continue;
            }
            if let Err(mpsc::error::TrySendError::Full(event)) = events.try_send(event) {
                self.owed.push_front((asker, event));
                return;
            }
        }
    }

    fn observe(&mut self, seen: Observation) -> Ask {
        self.policy.step(self.clock.now().mono_ms, seen)
    }

    fn scan(&mut self, controller: &mut dyn Controller, shared: &Shared, events: &mpsc::Sender<Event>) {
        if shared.full_wanted.swap(false, Ordering::SeqCst) {
            self.observe(Observation::FullWanted);
        }
        let look = Observation::Look {
            last_node_update: controller.last_node_update(),
            answers_wait: !self.owed.is_empty(),
        };
        let Ask::Read { full } = self.observe(look) else { return };
        // The bitmaps are not there while slurmctld reads its configuration: the next look will find them.
        let Ok(reading) = controller.read_power(full) else { return };
        shared.scans.fetch_add(1, Ordering::Relaxed);
        shared.lock_held_max_ns.fetch_max(reading.lock_held_ns, Ordering::Relaxed);
        let (empty, reconfigured) = (reading.is_empty(), reading.reconfigured);
        let Ask::HandOver { reconfigured, rescan, reading: wanted } =
            self.observe(Observation::Read { full, empty, reconfigured })
        else {
            return;
        };
        if reconfigured {
            shared.reconfigured.notify_one();
        }
        if rescan && events.try_send(Event::Rescan).is_err() {
            self.observe(Observation::QueueFull);
            return;
        }
        if wanted && events.try_send(Event::Power(reading)).is_err() {
            shared.overflows.fetch_add(1, Ordering::Relaxed);
            self.observe(Observation::QueueFull);
        }
    }
}

fn answer(controller: &mut dyn Controller, request: &SlurmRequest) -> SlurmResult {
    match request {
        SlurmRequest::LoadNodes => controller.load_nodes().map(SlurmReply::Nodes),
        SlurmRequest::UpdateNodes(update) => controller.update_nodes(update).map(|()| SlurmReply::Done),
        SlurmRequest::KeepResponding { nodes } => {
            controller.keep_responding(nodes).map(|()| SlurmReply::Done)
        }
        SlurmRequest::StartReadyJobs => controller.start_ready_jobs().map(|()| SlurmReply::Done),
        SlurmRequest::ExtendJobs { node, minutes } => {
            controller.extend_jobs(node, *minutes).map(|()| SlurmReply::Done)
        }
    }
}

/// The answer when the host thread cannot take a command.
#[must_use]
pub fn busy(request: &SlurmRequest) -> SlurmError {
    SlurmError::Unreachable {
        what: request.what(),
        message: "the thread that calls slurmctld is behind".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ec2fleet_core::slurm_api::{NodeUpdate, PowerReading, SlurmNode};

    /// slurmctld whose power save wakes one node after another.
    #[derive(Default)]
    struct PowerSave {
        waking: Vec<String>,
        told: usize,
    }

    impl Controller for PowerSave {
        fn is_primary(&self) -> bool {
            true
        }
        fn last_node_update(&self) -> i64 {
            i64::try_from(self.waking.len()).unwrap()
        }
        fn read_power(&mut self, full: bool) -> Result<PowerReading, SlurmError> {
            let from = if full { 0 } else { self.told };
            self.told = self.waking.len();
            Ok(PowerReading { full, waking: self.waking[from..].to_vec(), ..PowerReading::default() })
        }
        fn update_nodes(&mut self, _: &NodeUpdate) -> Result<(), SlurmError> {
            Ok(())
        }
        fn keep_responding(&mut self, _: &[String]) -> Result<(), SlurmError> {
            Ok(())
        }
        fn start_ready_jobs(&mut self) -> Result<(), SlurmError> {
            Ok(())
        }
        fn load_nodes(&mut self) -> Result<Vec<SlurmNode>, SlurmError> {
            Ok(Vec::new())
        }
        fn extend_jobs(&mut self, _: &str, _: u32) -> Result<(), SlurmError> {
            Ok(())
        }
        fn log(&self, _: HostLogLevel, _: &str) {}
    }

    #[test]
    fn what_did_not_fit_into_the_queue_is_read_again_and_everything_looked_at() {
        let shared = Shared::default();
        let (mut slurmctld, mut watch) = (PowerSave::default(), Watch::default());
        let (events, mut inbox) = mpsc::channel(2);
        for name in ["n0", "n1", "n2", "n3"] {
            slurmctld.waking.push(name.into());
            watch.scan(&mut slurmctld, &shared, &events);
        }
        assert_eq!(shared.overflows.load(Ordering::Relaxed), 1, "n2, and n3 is not tried in vain");
        let mut waking = Vec::new();
        for _ in 0..2 {
            let Ok(Event::Power(reading)) = inbox.try_recv() else { panic!("a reading") };
            waking.extend(reading.waking);
        }
        assert_eq!(waking, ["n0", "n1"]);
        watch.scan(&mut slurmctld, &shared, &events);
        assert!(matches!(inbox.try_recv(), Ok(Event::Rescan)), "Slurm and EC2 are asked for everything");
        let Ok(Event::Power(reading)) = inbox.try_recv() else { panic!("a reading") };
        assert!(reading.full);
        assert_eq!(reading.waking, ["n0", "n1", "n2", "n3"]);
        slurmctld.waking.push("n4".into());
        watch.scan(&mut slurmctld, &shared, &events);
        let Ok(Event::Power(reading)) = inbox.try_recv() else { panic!("a reading") };
        assert_eq!((reading.full, reading.waking), (false, vec!["n4".to_owned()]));
    }

    #[test]
    fn an_answer_waits_for_the_engine_that_asked_and_for_no_other() {
        let shared = Shared::default();
        let mut watch = Watch::default();
        let (events, mut inbox) = mpsc::channel(8);
        let answered = |call| Event::SlurmAnswered { call, result: Ok(SlurmReply::Done) };
        watch.owed.push_back((shared.asker(), answered(1)));
        // The engine listens only now.
        watch.pay(&shared, &events);
        assert!(matches!(inbox.try_recv(), Ok(Event::SlurmAnswered { call: 1, .. })));

        watch.owed.push_back((shared.asker(), answered(2)));
        shared.watch(None);
        watch.owed.push_back((shared.asker(), answered(3)));
        watch.pay(&shared, &events);
        assert!(matches!(inbox.try_recv(), Ok(Event::SlurmAnswered { call: 3, .. })));
        assert!(inbox.try_recv().is_err());
    }
}
