// SPDX-License-Identifier: GPL-3.0-or-later
//! Tags that tell an instance its node name, and tags for people.

use std::collections::{BTreeMap, BTreeSet};

use crate::ec2_api::{CloudError, CloudRequest, CloudResult, ErrorClass};
use crate::ec2_limits;
use crate::engine::cx::Cx;
use crate::engine::cx::agenda::Agenda;
use crate::engine::cx::attempt::{Attempt, Deadline};
use crate::engine::cx::calls::CloudPurpose;
use crate::fact::FactKind;
use crate::limits::backoff_ms;
use crate::record::{Binding, Outcome, Record, TagLevel};
use crate::site::{Account, FleetScope, NodeNaming, Site};
use crate::{hostlist, tag};

/// `Name` tags wait until the launch is over and the calls that nodes need have been made.
const NAME_DELAY_MS: u64 = 60_000;

/// A node tag that EC2 refuses is given up after this many calls: the node then finds itself by its address.
const MAX_ATTEMPTS: u32 = 6;

/// Bound nodes whose tags are not complete, with the `mono_ms` at which they are due.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tags {
    node_tags: Agenda<String>,
    full_tags: Agenda<String>,
    attempts: BTreeMap<String, u32>,
    /// Nodes whose reservation could not be tagged as a whole: one missing instance must not hold up the others.
    alone: BTreeSet<String>,
    /// `Full` calls leave one at a time.
    full: Attempt,
}

impl Tags {
    pub(crate) fn bound(&mut self, bindings: &[Binding], site: &Site, now: u64, delay: u64) {
        for binding in bindings {
            let eager =
                site.locate(&binding.node).is_some_and(|(group, _)| group.naming == NodeNaming::NameTag);
            self.node_tags.set(binding.node.clone(), now + delay);
            self.full_tags.set(binding.node.clone(), if eager { now } else { now + NAME_DELAY_MS });
        }
    }

    pub(crate) fn forget(&mut self, node: &str) {
        self.node_tags.remove(node);
        self.full_tags.remove(node);
        self.attempts.remove(node);
        self.alone.remove(node);
    }

    pub(crate) fn node_tags_done(&self) -> bool {
        self.node_tags.is_empty()
    }
}

/// One CreateTags call to be.
struct TagCall {
    account: Account,
    nodes: Vec<String>,
    ids: Vec<String>,
    tags: BTreeMap<String, String>,
    level: TagLevel,
}

impl Tags {
    pub(crate) fn recover_tags(&mut self, cx: &Cx) {
        for binding in cx.persisted.bindings.values() {
            if binding.tags < TagLevel::Node {
                self.node_tags.set(binding.node.clone(), cx.now.mono_ms);
            }
            if binding.tags < TagLevel::Full {
                self.full_tags.set(binding.node.clone(), cx.now.mono_ms + NAME_DELAY_MS);
            }
        }
    }

    pub(crate) fn write_tags(&mut self, cx: &mut Cx) -> Deadline {
        if cx.persisted.paused {
            return Deadline::NONE;
        }
        self.write_node_tags(cx).or(self.write_full_tags(cx))
    }

    fn write_node_tags(&mut self, cx: &mut Cx) -> Deadline {
        let due = self.node_tags.take_due(cx.now.mono_ms);
        for call in self.reservation_calls(cx, &due) {
            self.send_tags(cx, call);
        }
        self.node_tags.next().into()
    }

    /// One call per reservation where one list serves all its instances, else one per instance.
    fn reservation_calls(&self, cx: &Cx, due: &BTreeSet<String>) -> Vec<TagCall> {
        let mut reservations: BTreeMap<(&Account, &str), Vec<&Binding>> = BTreeMap::new();
        let wanted: BTreeSet<&str> = due
            .iter()
            .filter_map(|node| cx.persisted.bindings.get(node))
            .map(|binding| binding.reservation_id.as_str())
            .collect();
        for node in wanted.into_iter().flat_map(|reservation| cx.ledger.nodes_of_reservation(reservation)) {
            let Some(binding) = cx.persisted.bindings.get(node) else { continue };
            reservations.entry((&binding.account, &binding.reservation_id)).or_default().push(binding);
        }
        let mut calls = Vec::new();
        for ((account, _), mut bindings) in reservations {
            bindings.sort_by_key(|binding| binding.ami_launch_index);
            // Instances of maintain fleets have no tag of ours from birth.
            if bindings.iter().any(|binding| self.in_maintain_fleet(cx, &binding.node)) {
                let mine = bindings.into_iter().filter(|binding| due.contains(&binding.node));
                calls.extend(mine.map(|binding| self.fleet_tags(cx, binding)));
                continue;
            }
            let gapless =
                bindings.iter().zip(0u32..).all(|(binding, index)| binding.ami_launch_index == index);
            let list = hostlist::fold_ordered(bindings.iter().map(|binding| &binding.node));
            let together = !bindings.iter().any(|binding| self.alone.contains(&binding.node));
            if gapless && together && bindings.len() > 1 && list.len() <= ec2_limits::TAG_VALUE_CHARS {
                calls.push(TagCall {
                    account: account.clone(),
                    nodes: bindings.iter().map(|binding| binding.node.clone()).collect(),
                    ids: bindings.iter().map(|binding| binding.instance_id.clone()).collect(),
                    tags: BTreeMap::from([(tag::NODES.to_owned(), list)]),
                    level: TagLevel::Node,
                });
                continue;
            }
            for binding in bindings.into_iter().filter(|binding| due.contains(&binding.node)) {
                calls.push(TagCall {
                    account: account.clone(),
                    nodes: vec![binding.node.clone()],
                    ids: vec![binding.instance_id.clone()],
                    tags: BTreeMap::from([(tag::NODE.to_owned(), binding.node.clone())]),
                    level: TagLevel::Node,
                });
            }
        }
        calls
    }

    fn in_maintain_fleet(&self, cx: &Cx, node: &str) -> bool {
        cx.site.locate(node).is_some_and(|(group, _)| group.scope != FleetScope::Launch)
    }

    fn fleet_tags(&self, cx: &Cx, binding: &Binding) -> TagCall {
        let mut tags = cx.site.locate(&binding.node).map_or_else(BTreeMap::new, |(group, _)| {
            tag::at_birth(&cx.site, group, binding.launch.as_deref().unwrap_or_default())
        });
        tags.insert(tag::NODE.to_owned(), binding.node.clone());
        TagCall {
            account: binding.account.clone(),
            nodes: vec![binding.node.clone()],
            ids: vec![binding.instance_id.clone()],
            tags,
            level: TagLevel::Node,
        }
    }

    fn write_full_tags(&mut self, cx: &mut Cx) -> Deadline {
        if self.full.in_flight() {
            return Deadline::NONE;
        }
        let Some((node, at)) = self.full_tags.first().map(|(node, at)| (node.clone(), at)) else {
            return Deadline::NONE;
        };
        if at > cx.now.mono_ms {
            return Deadline::at(at);
        }
        self.full_tags.remove(&node);
        if let Some(call) = self.full_call(cx, node) {
            self.full.begin();
            self.send_tags(cx, call);
        }
        Deadline::NONE
    }

    fn full_call(&self, cx: &Cx, node: String) -> Option<TagCall> {
        let binding = cx.persisted.bindings.get(&node)?;
        let (group, _) = cx.site.locate(&node)?;
        // With what the call before writes: an instance that counts as full must not lack it, whatever became of that call.
        let mut tags = if self.in_maintain_fleet(cx, &node) {
            self.fleet_tags(cx, binding).tags
        } else {
            BTreeMap::from([(tag::NODE.to_owned(), node.clone())])
        };
        tags.insert(tag::NAME.to_owned(), node.clone());
        for (key, value) in &group.tags {
            if tag::has_placeholder(value) {
                tags.insert(key.clone(), tag::fill(value, &node, &binding.addr, &binding.hostname));
            }
        }
        Some(TagCall {
            account: binding.account.clone(),
            nodes: vec![node],
            ids: vec![binding.instance_id.clone()],
            tags,
            level: TagLevel::Full,
        })
    }

    fn send_tags(&mut self, cx: &mut Cx, call: TagCall) {
        let request = CloudRequest::CreateTags { ids: call.ids, tags: call.tags };
        let id = cx.record_intent(&call.account, request.clone(), None);
        cx.cloud(
            CloudPurpose::Tags { account: call.account, intent: id, nodes: call.nodes, level: call.level },
            request,
        );
    }

    pub(crate) fn take_tagged(
        &mut self,
        cx: &mut Cx,
        id: u64,
        nodes: Vec<String>,
        level: TagLevel,
        result: CloudResult,
    ) {
        if level == TagLevel::Full {
            self.full.answered();
        }
        // A node may have got another instance since: that one has its own call.
        let nodes = self.still_bound(cx, id, nodes);
        match result {
            Ok(reply) => {
                for node in &nodes {
                    self.attempts.remove(node);
                }
                let text =
                    if level == TagLevel::Full { "Name tags written" } else { "node names written as tags" };
                cx.fact(cx.new_fact(FactKind::TagsWritten, text).nodes(&nodes));
                cx.record(Record::Outcome { id, outcome: Outcome::Done(reply) });
                if !nodes.is_empty() {
                    cx.record(Record::Tagged { nodes, level });
                }
            }
            Err(error) => {
                cx.record(Record::Outcome { id, outcome: Outcome::Failed(error.clone()) });
                cx.fact(
                    cx.new_fact(FactKind::TagsFailed, error.message.clone())
                        .nodes(&nodes)
                        .code(error.code.clone()),
                );
                self.tag_again(cx, &nodes, level, &error);
            }
        }
    }

    /// Of the nodes of a CreateTags intent those that still have the instance which the call names.
    fn still_bound(&self, cx: &Cx, id: u64, nodes: Vec<String>) -> Vec<String> {
        let Some(CloudRequest::CreateTags { ids, .. }) =
            cx.persisted.open.get(&id).map(|intent| &intent.request)
        else {
            return Vec::new();
        };
        let bound = |node: &String, id: &String| {
            cx.persisted.bindings.get(node).is_some_and(|binding| binding.instance_id == *id)
        };
        nodes.into_iter().zip(ids).filter(|(node, id)| bound(node, id)).map(|(node, _)| node).collect()
    }

    fn tag_again(&mut self, cx: &mut Cx, nodes: &[String], level: TagLevel, error: &CloudError) {
        let grace = u64::from(cx.site.settings.consistency_grace_s) * 1000;
        let tried =
            nodes.iter().filter_map(|node| self.attempts.get(node)).max().copied().unwrap_or_default();
        // The same moment for all, so that they are one call again.
        let at = cx.now.mono_ms + backoff_ms(tried + 2, &mut cx.rng);
        for node in nodes {
            let attempts = self.attempts.entry(node.clone()).or_default();
            *attempts += 1;
            let young = cx.nodes.get(node).is_some_and(|known| cx.now.since(known.bound_at) < grace);
            // EC2 may not know a new instance yet; one that has ended is found out by the lists.
            let patient = error.class.is_retryable() || (error.class == ErrorClass::NotFound && young);
            if *attempts >= MAX_ATTEMPTS && !patient {
                continue;
            }
            if !error.class.is_retryable() && nodes.len() > 1 {
                self.alone.insert(node.clone());
            }
            let queue = if level == TagLevel::Full { &mut self.full_tags } else { &mut self.node_tags };
            queue.set(node.clone(), at);
        }
    }
}
