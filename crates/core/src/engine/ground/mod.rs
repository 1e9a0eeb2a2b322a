// SPDX-License-Identifier: GPL-3.0-or-later
//! What is known, waiting, or owed until it is done: a store for each, none of which knows another or a decider.
//!
//! The acts that touch several stores are methods of [`Ground`]: what one of them does, every decider has done alike.

pub(crate) mod addresses;
pub(crate) mod adopt;
mod bind;
pub(crate) mod delete_fleets;
mod fail;
pub(crate) mod failures;
pub(crate) mod launches;
pub(crate) mod lowering;
pub(crate) mod placeholders;
pub(crate) mod pools;
pub(crate) mod sight;
pub(crate) mod sleepers;
pub(crate) mod tags;
pub(crate) mod terminate;
pub(crate) mod waiting;
pub(crate) mod weights;

use crate::engine::cx::Cx;
use crate::engine::ground::addresses::Addresses;
use crate::engine::ground::delete_fleets::FleetDeletions;
use crate::engine::ground::failures::Failures;
use crate::engine::ground::launches::Launches;
use crate::engine::ground::lowering::Lowering;
use crate::engine::ground::placeholders::Placeholders;
use crate::engine::ground::pools::Pools;
use crate::engine::ground::sight::Sight;
use crate::engine::ground::sleepers::Sleepers;
use crate::engine::ground::tags::Tags;
use crate::engine::ground::terminate::Terminations;
use crate::engine::ground::waiting::Waiting;
use crate::engine::ground::weights::Weights;
use crate::record::Record;
use crate::site::Account;
use crate::slurm_api::SlurmResult;

/// What is known, waiting, or owed until it is done. No store knows who gives it orders.
pub(crate) struct Ground {
    pub(crate) cx: Cx,
    pub(crate) sight: Sight,
    pub(crate) waiting: Waiting,
    pub(crate) launches: Launches,
    pub(crate) pools: Pools,
    pub(crate) sleepers: Sleepers,
    pub(crate) lowering: Lowering,
    pub(crate) terminations: Terminations,
    pub(crate) deletions: FleetDeletions,
    pub(crate) addresses: Addresses,
    pub(crate) placeholders: Placeholders,
    pub(crate) failures: Failures,
    pub(crate) weights: Weights,
    pub(crate) tags: Tags,
}

impl Ground {
    /// This instance has no node and must not stay.
    pub(crate) fn end_instance(&mut self, account: &Account, id: String) {
        self.sight.orphans.remove(&id);
        self.terminations.add(&self.cx, account, id);
    }

    /// The node needs its fleet no longer: the fleet goes, and with it the instance.
    pub(crate) fn end_fleet_of(&mut self, node: &str) -> bool {
        if self.sleepers.abandon_relocation(&mut self.cx, node) {
            return true;
        }
        let Some(fleet) = self.cx.persisted.fleets.get(node).cloned() else { return false };
        self.launches.fulfilling.remove(node);
        self.deletions.end_fleet(&self.cx, &fleet.account, fleet.fleet_id);
        true
    }

    /// A deletion that an earlier process began goes on when EC2 and Slurm are known: a fleet that its node has left for
    /// another one is remembered nowhere else. False if nothing is left to delete.
    pub(crate) fn recover_deletion(&mut self, id: u64) -> bool {
        let Some(intent) = self.cx.persisted.open.get(&id) else { return false };
        if !self.sight.listed_accounts(&self.cx).contains(&intent.account) {
            return false;
        }
        self.deletions.recover(&mut self.cx, id)
    }

    /// An instance that stands behind no node and is not on its way out.
    pub(crate) fn is_stray(&self, id: &str) -> bool {
        !self.cx.ledger.is_bound(id)
            && !self.lowering.is_lowering(id)
            && !self.terminations.is_ending(&self.cx, id)
    }

    /// slurmctld may have gone back to the weights of slurm.conf.
    pub(crate) fn forget_weights(&mut self) {
        if self.weights.forget(&mut self.cx) {
            self.sight.load_slurm_again(&self.cx);
        }
    }

    /// Other rules: every node may be weighed anew.
    pub(crate) fn weigh_by_new_site(&mut self) {
        self.weights = self.weights.of_new_site(&self.cx.site);
        self.forget_weights();
    }

    /// Where an instance is back from sleep, its slurmd could not be reached before slurmctld had its address.
    pub(crate) fn take_told(&mut self, nodes: Vec<String>, result: SlurmResult) {
        let nodes = self.addresses.take_told(&mut self.cx, nodes, result);
        if !nodes.is_empty() {
            self.sleepers.reach_woken(&mut self.cx, &nodes);
            self.cx.record(Record::Told { nodes });
        }
    }
}
