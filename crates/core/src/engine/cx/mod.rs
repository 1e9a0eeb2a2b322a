// SPDX-License-Identifier: GPL-3.0-or-later
//! What every part of the engine may read, and the one way to speak.
//!
//! Nothing here knows a store or a decider.

pub(crate) mod agenda;
pub(crate) mod attempt;
pub(crate) mod calls;
pub(crate) mod ledger;
pub(crate) mod nodes;
pub(crate) mod pool;
pub(crate) mod sightings;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::engine::cx::attempt::Deadline;
use crate::engine::cx::calls::Calls;
use crate::engine::cx::ledger::Ledger;
use crate::engine::cx::nodes::{Desire, Node};
use crate::engine::cx::sightings::{Sightings, Told};
use crate::event::Step;
use crate::fact::{Fact, FactKind};
use crate::name_map::NameMap;
use crate::record::{Persisted, Record};
use crate::site::Site;
use crate::time::Now;

/// Who tells us that nodes are to be powered up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerSource {
    /// slurmctld's bitmaps, read in process: requests of the programs only hasten the next reading.
    Watch,
    /// The programs alone: a request is the decision.
    Requests,
}

/// What the engine is given once.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub source: PowerSource,
    /// Makes client tokens unique across restarts and lost state folders: up to 24 characters of `[0-9a-f]`.
    pub nonce: String,
    /// Seed for backoff jitter.
    pub seed: u64,
}

/// What every room may read, and the one way to say something.
pub(crate) struct Cx {
    pub(crate) now: Now,
    pub(crate) site: Arc<Site>,
    pub(crate) options: EngineOptions,
    /// The journal's state.
    pub(crate) persisted: Persisted,
    /// What follows from the journal's state, found without walking it.
    pub(crate) ledger: Ledger,
    pub(crate) sightings: Sightings,
    pub(crate) nodes: NameMap<Node>,
    pub(crate) calls: Calls,
    pub(crate) rng: fastrand::Rng,
    /// Client tokens made so far.
    pub(crate) counter: u64,
    /// When a tick is due, if nothing happens before.
    pub(crate) deadline: Deadline,
    pub(crate) changed: Changed,
    pub(crate) step: Step,
}

/// Nodes of which something changed that decides whether they want an instance, or which; each room that waits for
/// that has a list of its own, and takes it before it looks.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) weights: BTreeSet<String>,
    pub(crate) node_fleets: BTreeSet<String>,
    pub(crate) groups: BTreeSet<String>,
}

impl Cx {
    pub(crate) fn is_locked(&self, node: &str) -> bool {
        self.persisted.locked.contains(node)
    }

    /// A node that still needs an instance for the power-up it is in.
    pub(crate) fn wants_instance(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(|n| n.desire == Desire::Waking && !n.reported)
            && !self.persisted.bindings.contains_key(node)
            && !self.is_locked(node)
    }

    /// Whether this node wants an instance may have changed: what waits for one on its behalf looks again.
    pub(crate) fn wish_changed(&mut self, node: &str) {
        let changed = &mut self.changed;
        changed.weights.insert(node.to_owned());
        changed.node_fleets.insert(node.to_owned());
        changed.groups.insert(node.to_owned());
    }

    pub(crate) fn record(&mut self, record: Record) {
        match &record {
            Record::Bound { bindings } => {
                self.changed.weights.extend(bindings.iter().map(|binding| binding.node.clone()));
            }
            Record::Unbound { nodes, .. } => self.changed.weights.extend(nodes.iter().cloned()),
            _ => {}
        }
        let mut told = Told { ledger: &mut self.ledger, sightings: &mut self.sightings };
        self.persisted.apply_telling(&record, &mut told);
        self.step.records.push(record);
    }

    pub(crate) fn new_fact(&self, kind: FactKind, text: impl Into<String>) -> Fact {
        Fact::new(self.now.unix_ms, kind, text)
    }

    pub(crate) fn fact(&mut self, fact: Fact) {
        self.step.facts.push(fact);
    }

    pub(crate) fn new_token(&mut self) -> String {
        self.counter += 1;
        format!("ec2fleet-{}-{}", self.options.nonce, self.counter)
    }
}
