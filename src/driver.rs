// SPDX-License-Identifier: GPL-3.0-or-later
//! Engine and journal together: an effect leaves only after the records before it are on disk.
//!
//! No clock and no thread of its own: the plugin, the programs and the simulator all run this one.

use std::sync::Arc;

use crate::core::engine::{Engine, EngineOptions};
use crate::core::event::{Effect, Event};
use crate::core::fact::Fact;
use crate::core::record::{Persisted, Record};
use crate::core::site::Site;
use crate::core::time::Now;
use crate::journal::storage::Storage;
use crate::journal::{Journal, JournalError};

/// The decision maker with its memory.
pub struct Driver<S> {
    pub engine: Engine,
    journal: Journal<S>,
    /// Effects that wait for a journal which refused.
    held: Vec<Effect>,
}

/// What one event led to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be begun now; each is answered by one event.
    pub effects: Vec<Effect>,
    pub facts: Vec<Fact>,
    /// Which instances nodes got and lost: the journal's records of bindings.
    pub bindings: Vec<Record>,
    /// The journal refused: effects are held back until [`Driver::retry`] succeeds.
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
        Self { engine: Engine::new(site, state, options, now), journal, held: Vec::new() }
    }

    /// Take one event in.
    pub fn handle(&mut self, event: Event, now: Now) -> Outcome {
        let step = self.engine.step(event, now);
        let sync = step.effects.iter().any(Effect::needs_sync);
        self.journal.append(&step.records);
        self.held.extend(step.effects);
        let mut outcome = self.release(sync);
        outcome.facts.extend(step.facts);
        let of_binding = |record: &Record| matches!(record, Record::Bound { .. } | Record::Unbound { .. });
        outcome.bindings.extend(step.records.into_iter().filter(of_binding));
        outcome
    }

    /// Try the journal again after it refused.
    pub fn retry(&mut self) -> Outcome {
        self.release(true)
    }

    #[must_use]
    pub fn is_stalled(&self) -> bool {
        !self.held.is_empty()
    }

    fn release(&mut self, sync: bool) -> Outcome {
        let sync = sync || self.held.iter().any(Effect::needs_sync);
        match self.journal.commit(self.engine.persisted(), sync) {
            Ok(()) => Outcome { effects: std::mem::take(&mut self.held), ..Outcome::default() },
            Err(error) => Outcome { stalled: Some(error), ..Outcome::default() },
        }
    }

    /// Give the storage back, for a simulated crash.
    pub fn into_storage(self) -> S {
        self.journal.into_storage()
    }
}
