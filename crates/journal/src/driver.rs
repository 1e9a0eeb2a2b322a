// SPDX-License-Identifier: GPL-3.0-or-later
//! Engine and journal together: an effect leaves only after the records before it are on disk.
//!
//! No clock and no thread of its own: the plugin, the programs and the simulator all run this one.

use std::sync::Arc;

use crate::storage::Storage;
use crate::{Journal, JournalError};
use ec2fleet_core::engine::{Engine, EngineOptions};
use ec2fleet_core::event::{Effect, Event};
use ec2fleet_core::fact::Fact;
use ec2fleet_core::record::{Persisted, Record};
use ec2fleet_core::site::Site;
use ec2fleet_core::slurm_api::{SlurmError, SlurmRequest};
use ec2fleet_core::time::Now;

/// The decision maker with its memory.
pub struct Driver<S> {
    pub engine: Engine,
    journal: Journal<S>,
    /// Effects that need the journal, while it refuses.
    withheld: Vec<Effect>,
}

/// What one event led to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be begun now; each is answered by one event.
    pub effects: Vec<Effect>,
    pub facts: Vec<Fact>,
    /// Which instances nodes got and lost: the journal's records of bindings.
    pub bindings: Vec<Record>,
    /// The journal refused: effects that need it are withheld until [`Driver::retry`] succeeds. Who looks and who keeps
    /// a sleeping node's job alive goes on.
    pub stalled: Option<JournalError>,
}

impl<S: Storage> Driver<S> {
    #[must_use]
    pub fn new(
        journal: Journal<S>,
        state: Persisted,
        site: Arc<Site>,
        options: EngineOptions,
        now: Now,
    ) -> Self {
        Self { engine: Engine::new(site, state, options, now), journal, withheld: Vec::new() }
    }

    /// Take one event in.
    pub fn handle(&mut self, event: Event, now: Now) -> Outcome {
        let mut outcome = Outcome::default();
        let effects = self.decide(event, now, &mut outcome);
        self.release(effects, now, &mut outcome);
        outcome
    }

    /// Try the journal again after it refused.
    pub fn retry(&mut self, now: Now) -> Outcome {
        let mut outcome = Outcome::default();
        self.release(Vec::new(), now, &mut outcome);
        outcome
    }

    #[must_use]
    pub fn is_stalled(&self) -> bool {
        !self.withheld.is_empty()
    }

    fn decide(&mut self, event: Event, now: Now, outcome: &mut Outcome) -> Vec<Effect> {
        let step = self.engine.step(event, now);
        self.journal.append(&step.records);
        outcome.facts.extend(step.facts);
        let of_binding = |record: &Record| matches!(record, Record::Bound { .. } | Record::Unbound { .. });
        outcome.bindings.extend(step.records.into_iter().filter(of_binding));
        step.effects
    }

    fn release(&mut self, mut fresh: Vec<Effect>, now: Now, outcome: &mut Outcome) {
        loop {
            let sync = !self.withheld.is_empty() || fresh.iter().any(Effect::needs_sync);
            if let Err(error) = self.journal.commit(self.engine.persisted(), sync) {
                outcome.stalled = Some(error);
                let (withheld, free): (Vec<_>, Vec<_>) = fresh.into_iter().partition(Effect::needs_sync);
                self.withheld.extend(withheld);
                outcome.effects.extend(free);
                return;
            }
            let mut again = Vec::new();
            for effect in std::mem::take(&mut self.withheld) {
                match effect {
                    Effect::Slurm { call, request } => {
                        let result = Err(too_late(&request));
                        again.extend(self.decide(Event::SlurmAnswered { call, result }, now, outcome));
                    }
                    effect => outcome.effects.push(effect),
                }
            }
            outcome.effects.append(&mut fresh);
            if again.is_empty() {
                return;
            }
            fresh = again;
        }
    }

    /// Give the storage back, for a simulated crash.
    pub fn into_storage(self) -> S {
        self.journal.into_storage()
    }
}

/// What the engine wanted of a node minutes ago may kill the job that runs there now: it decides again.
fn too_late(request: &SlurmRequest) -> SlurmError {
    SlurmError::Unreachable {
        what: request.what(),
        message: "it waited for a journal that refused, and is decided anew".into(),
    }
}

#[cfg(test)]
mod tests;
