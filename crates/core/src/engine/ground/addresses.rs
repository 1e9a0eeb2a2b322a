// SPDX-License-Identifier: GPL-3.0-or-later
//! Addresses that slurmctld does not have yet.

use std::collections::BTreeSet;

use crate::engine::cx::Cx;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::SlurmPurpose;
use crate::fact::FactKind;
use crate::record::{Binding, Record};
use crate::slurm_api::{NodeUpdate, SlurmError, SlurmRequest, SlurmResult};

/// Failures of nodes wait for the addresses of others until slurmctld has refused these so often.
const PATIENT_REFUSALS: u32 = 4;

/// Nodes whose address slurmctld does not have yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    nodes: BTreeSet<String>,
    attempt: Attempt,
    /// How often slurmctld was reached and did not take them, in a row.
    refusals: u32,
}

impl Addresses {
    pub(crate) fn want(&mut self, node: String) {
        self.nodes.insert(node);
    }

    pub(crate) fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty() && !self.attempt.in_flight()
    }

    /// Addresses are on their way or will be soon; those that slurmctld keeps refusing are nothing to wait for.
    pub(crate) fn is_owed(&self) -> bool {
        self.attempt.in_flight() || (!self.nodes.is_empty() && self.refusals < PATIENT_REFUSALS)
    }
}

impl Addresses {
    /// Tell slurmctld; not while an update with other addresses is `under_way`, which might arrive later than this one.
    pub(crate) fn tell(&mut self, cx: &mut Cx, under_way: bool) -> Deadline {
        if self.nodes.is_empty() || self.attempt.in_flight() || under_way {
            return Deadline::NONE;
        }
        if let Some(at) = self.attempt.waits_until(cx.now.mono_ms) {
            return Deadline::at(at);
        }
        let nodes = std::mem::take(&mut self.nodes);
        let mut update =
            NodeUpdate { addrs: Some(Vec::new()), hostnames: Some(Vec::new()), ..NodeUpdate::default() };
        let (mut ids, mut types) = (Vec::new(), Vec::new());
        for node in nodes {
            let Some(binding) = cx.persisted.bindings.get(&node) else { continue };
            update.addrs.get_or_insert_default().push(binding.addr.clone());
            update.hostnames.get_or_insert_default().push(binding.hostname.clone());
            ids.push(binding.instance_id.clone());
            types.push(binding.instance_type.clone());
            update.names.push(node);
        }
        if update.names.is_empty() {
            return Deadline::NONE;
        }
        update.instance_ids = Some(ids);
        update.instance_types = Some(types);
        self.attempt.begin();
        let nodes = update.names.clone();
        cx.slurm_call(SlurmPurpose::Tell { nodes }, SlurmRequest::UpdateNodes(update));
        Deadline::NONE
    }

    /// Returns the nodes whose present address slurmctld has now.
    pub(crate) fn take_told(
        &mut self,
        cx: &mut Cx,
        mut nodes: Vec<String>,
        result: SlurmResult,
    ) -> Vec<String> {
        let Err(error) = result else {
            self.attempt.succeeded();
            self.refusals = 0;
            // A node that got another instance or address meanwhile is yet to be told of it.
            nodes.retain(|node| !self.nodes.contains(node));
            if nodes.is_empty() {
                return nodes;
            }
            for name in &nodes {
                let addr = cx.persisted.bindings.get(name).map(|binding| binding.addr.clone());
                if let Some(node) = cx.nodes.get_mut(name) {
                    node.slurm_addr = addr;
                }
            }
            let text = format!("slurmctld has {} addresses", nodes.len());
            cx.fact(cx.new_fact(FactKind::AddressesSet, text).nodes(&nodes).after_ms(cx.waited(&nodes)));
            return nodes;
        };
        self.refusals += u32::from(!matches!(error, SlurmError::Unreachable { .. }));
        self.attempt.failed(cx.now.mono_ms, 0, &mut cx.rng);
        cx.fact(cx.new_fact(FactKind::SlurmUnknown, error.to_string()).nodes(&nodes));
        nodes.retain(|node| cx.persisted.bindings.contains_key(node));
        self.nodes.extend(nodes);
        Vec::new()
    }

    /// Bound instances whose private address is another than before.
    pub(crate) fn follow_addresses(&mut self, cx: &mut Cx, moved: Vec<(Binding, String)>) {
        if moved.is_empty() {
            return;
        }
        let changed: Vec<Binding> = moved
            .into_iter()
            .map(|(binding, addr)| Binding { hostname: hostname_of(&addr), addr, told: false, ..binding })
            .collect();
        let names: Vec<String> = changed.iter().map(|binding| binding.node.clone()).collect();
        cx.fact(cx.new_fact(FactKind::AddressChanged, "instances have a new private address").nodes(&names));
        for name in names {
            self.want(name);
        }
        cx.record(Record::Bound { bindings: changed });
    }
}

/// `ip-10-1-2-3`: the name that EC2 gives a host by its address, and the NodeHostname that sites know.
#[must_use]
pub fn hostname_of(addr: &str) -> String {
    format!("ip-{}", addr.replace(['.', ':'], "-"))
}
