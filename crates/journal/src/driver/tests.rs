// SPDX-License-Identifier: GPL-3.0-or-later

use super::*;
use crate::storage::FileStorage;
use crate::tests::Full;
use ec2fleet_core::ec2_api::{CloudError, CloudReply, ErrorClass};
use ec2fleet_core::engine::PowerSource;
use ec2fleet_core::site::Settings;
use ec2fleet_core::slurm_api::{PowerReading, SlurmReply};
use ec2fleet_core::testing::group;

/// Bytes that no test here fills.
const ROOM: usize = 1 << 20;

struct Bench {
    driver: Driver<Full>,
    now: Now,
    effects: Vec<Effect>,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Started, and EC2 and Slurm were looked at.
    fn ready() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Full { inner: FileStorage::new(dir.path()), room: ROOM };
        let opened = Journal::open(disk, "c").unwrap();
        let site = Site::new("c".into(), Vec::new(), vec![group("g")], Settings::default());
        let options = EngineOptions { source: PowerSource::Watch, nonce: "abc".into(), seed: 7 };
        let now = Now { mono_ms: 1_000, unix_ms: 1_700_000_000_000 };
        let driver = Driver::new(opened.journal, opened.state, Arc::new(site), options, now);
        let mut bench = Self { driver, now, effects: Vec::new(), _dir: dir };
        bench.give(Event::Tick);
        bench.answer_looks();
        bench
    }

    fn set_room(&mut self, bytes: usize) {
        self.driver.journal.storage_mut().room = bytes;
    }

    fn give(&mut self, event: Event) {
        let outcome = self.driver.handle(event, self.now);
        self.effects.extend(outcome.effects);
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.give(Event::Tick);
    }

    fn retry(&mut self) -> Outcome {
        let mut outcome = self.driver.retry(self.now);
        self.effects.append(&mut outcome.effects);
        outcome
    }

    fn read(&mut self, waking: &[&str], suspended: &[&str]) {
        let names = |nodes: &[&str]| nodes.iter().map(|node| (*node).to_owned()).collect();
        self.give(Event::Power(PowerReading {
            full: true,
            waking: names(waking),
            suspended: names(suspended),
            ..PowerReading::default()
        }));
    }

    /// Nothing of ours is in EC2, and slurmctld shows no node.
    fn answer_looks(&mut self) {
        while let Some(at) = self.effects.iter().position(|effect| !effect.needs_sync()) {
            match self.effects.remove(at) {
                Effect::Cloud { call, .. } => {
                    let none = CloudReply::Instances(Vec::new());
                    self.give(Event::CloudAnswered { call, result: Ok(none) });
                }
                Effect::Slurm { call, .. } => {
                    self.give(Event::SlurmAnswered { call, result: Ok(SlurmReply::Nodes(Vec::new())) });
                }
                Effect::ReadPower => {}
            }
        }
    }

    /// EC2 refuses the launch for good.
    fn refuse_launch(&mut self) {
        let at = self.effects.iter().position(Effect::needs_sync).expect("a launch");
        let Effect::Cloud { call, .. } = self.effects.remove(at) else { panic!("no launch") };
        let error = CloudError {
            class: ErrorClass::Permission,
            code: "UnauthorizedOperation".into(),
            message: "no".into(),
            request_id: None,
        };
        self.give(Event::CloudAnswered { call, result: Err(error) });
    }

    /// Nodes that slurmctld is asked to update.
    fn updated(&self) -> Vec<&str> {
        let updates = self.effects.iter().filter_map(|effect| match effect {
            Effect::Slurm { request: SlurmRequest::UpdateNodes(update), .. } => Some(&update.names),
            _ => None,
        });
        updates.flatten().map(String::as_str).collect()
    }
}

/// The journal refuses from the moment at which a node's failure is known.
fn with_a_held_report() -> Bench {
    let mut bench = Bench::ready();
    bench.read(&["p-g-0"], &[]);
    bench.tick(100);
    bench.answer_looks();
    bench.set_room(0);
    bench.refuse_launch();
    assert!(bench.driver.is_stalled());
    assert!(bench.updated().is_empty(), "the failure is not on the disk");
    bench
}

#[test]
fn a_launch_waits_for_the_disk_and_is_made_once() {
    let mut bench = Bench::ready();
    bench.set_room(0);
    bench.read(&["p-g-0"], &[]);
    bench.tick(100);
    bench.answer_looks();
    assert!(bench.effects.is_empty());
    assert!(bench.retry().stalled.is_some());
    bench.set_room(ROOM);
    assert!(bench.retry().stalled.is_none());
    let launches = bench.effects.iter().filter(|effect| matches!(effect, Effect::Cloud { .. })).count();
    assert_eq!(launches, 1);
    assert!(bench.retry().effects.is_empty());
}

#[test]
fn looks_go_on_while_the_disk_refuses() {
    let mut bench = with_a_held_report();
    bench.effects.clear();
    bench.give(Event::Rescan);
    assert!(bench.driver.is_stalled());
    assert!(bench.effects.iter().any(|effect| matches!(effect, Effect::Cloud { .. })), "{:?}", bench.effects);
}

#[test]
fn a_held_update_is_made_if_it_is_still_wanted() {
    let mut bench = with_a_held_report();
    bench.set_room(ROOM);
    let outcome = bench.retry();
    assert!(outcome.stalled.is_none());
    assert!(!bench.driver.is_stalled());
    bench.tick(60_000);
    assert_eq!(bench.updated(), ["p-g-0"]);
}

#[test]
fn a_held_update_is_dropped_if_it_is_not_wanted_any_more() {
    let mut bench = with_a_held_report();
    bench.read(&[], &["p-g-0"]);
    bench.set_room(ROOM);
    bench.retry();
    bench.tick(60_000);
    assert!(bench.updated().is_empty(), "slurmctld has suspended the node meanwhile");
}
