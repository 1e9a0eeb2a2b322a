// SPDX-License-Identifier: GPL-3.0-or-later
//! Instances that go once the target of their fleet is lowered.

use std::collections::BTreeMap;

use crate::ec2_api::{CloudResult, Instance};
use crate::engine::cx::Cx;
use crate::engine::cx::calls::CloudPurpose;
use crate::record::{Binding, Outcome, Record};
use crate::site::Account;
use crate::tag::FLEET_ID;

/// Instances that go once the target of their fleet is lowered.
#[derive(Debug, Default)]
pub(crate) struct Lowering {
    /// By the key of the fleet: instances of suspended nodes, with their Spot requests.
    owed: BTreeMap<String, BTreeMap<String, Option<String>>>,
    /// Spot requests of instances, by instance.
    pub(crate) spot_requests: BTreeMap<String, String>,
}

impl Lowering {
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Instances of this fleet wait for its target.
    pub(crate) fn owes(&self, key: &str) -> bool {
        self.owed.contains_key(key)
    }

    pub(crate) fn take(&mut self, key: &str) -> BTreeMap<String, Option<String>> {
        self.owed.remove(key).unwrap_or_default()
    }

    pub(crate) fn rename(&mut self, key: &str, new: &str) {
        if let Some(owed) = self.owed.remove(key) {
            self.owed.insert(new.to_owned(), owed);
        }
    }

    /// The node is suspended: its instance goes once the target is lowered. False if no group fleet holds it.
    pub(crate) fn lower_for(&mut self, cx: &Cx, binding: &Binding) -> bool {
        let Some(key) = binding.fleet.as_deref().and_then(|fleet| cx.group_fleet_key(fleet)) else {
            return false;
        };
        self.lower(&key, &binding.instance_id);
        true
    }

    pub(crate) fn lower(&mut self, key: &str, instance_id: &str) {
        let request = self.spot_requests.get(instance_id).cloned();
        self.owed.entry(key.to_owned()).or_default().insert(instance_id.to_owned(), request);
    }

    /// An instance that an earlier process was about to end. False if no group fleet holds it.
    pub(crate) fn lower_leaving(&mut self, cx: &Cx, instance: &Instance) -> bool {
        let fleet = instance.tags.get(FLEET_ID);
        let Some(key) = fleet.and_then(|fleet| cx.group_fleet_key(fleet)) else { return false };
        self.lower(&key, &instance.id);
        true
    }

    pub(crate) fn is_lowering(&self, instance_id: &str) -> bool {
        self.owed.values().any(|owed| owed.contains_key(instance_id))
    }

    /// A cancelled request that EC2 does not know any more has ended with its instance.
    pub(crate) fn take_cancelled(&mut self, cx: &mut Cx, account: &Account, id: u64, result: CloudResult) {
        let outcome = match result {
            Ok(reply) => Outcome::Done(reply),
            Err(error) if error.class.is_retryable() => {
                // A persistent request that stays open would launch another instance.
                if let Some(request) = cx.open_request(id) {
                    cx.cloud(CloudPurpose::CancelSpot { account: account.clone(), intent: id }, request);
                }
                return;
            }
            Err(error) => Outcome::Failed(error),
        };
        cx.record(Record::Outcome { id, outcome });
    }

    pub(crate) fn note_spot_request(&mut self, instance: &Instance) {
        if let Some(request) = &instance.spot_request_id {
            self.spot_requests.insert(instance.id.clone(), request.clone());
        }
    }
}

impl Lowering {
    /// Instances that wait for the target of their fleet.
    pub(crate) fn instances(&self) -> impl Iterator<Item = &String> {
        self.owed.values().flat_map(BTreeMap::keys)
    }
}
