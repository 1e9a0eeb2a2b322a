// SPDX-License-Identifier: GPL-3.0-or-later
//! What is written to the journal, and the state that replaying it gives.
//!
//! Everything else in memory can be rebuilt from this, slurmctld and EC2.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::ec2_api::{CloudError, CloudReply, CloudRequest};
use super::name_map::NameMap;
use super::relocation::Relocation;
use super::site::{Account, Lifecycle};

/// One journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// Written and synced before the call is sent.
    Intent { id: u64, intent: Intent },
    /// The call's answer is known, or it will not be sent again.
    Outcome { id: u64, outcome: Outcome },
    /// Instances were given to nodes.
    Bound { bindings: Vec<Binding> },
    /// Nodes lost their instance.
    Unbound {
        nodes: Vec<String>,
        why: String,
        /// Their instances are to be terminated; each stays in [`Persisted::leaving`] until an intent names it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ending: bool,
    },
    /// What has been written as tags, so that it is not written again.
    Tagged { nodes: Vec<String>, level: TagLevel },
    /// The address that slurmctld now has for these nodes is their binding's.
    Told { nodes: Vec<String> },
    /// An administrator took nodes out of our hands, or gave them back.
    Lock { nodes: Vec<String>, locked: bool },
    /// An administrator stopped or resumed every action on EC2.
    Pause { paused: bool },
    /// A fleet now belongs to this node (`FleetScope::Node`).
    FleetOf { node: String, fleet: NodeFleet },
    /// The fleet of a node group (`FleetScope::Group`), or that it is gone. A fleet that takes no new nodes and
    /// is kept for those it has is under `<stem>@<fleet id>`.
    GroupFleet { stem: String, fleet: Option<GroupFleet> },
    /// The fleets were deleted.
    FleetsGone { fleet_ids: Vec<String> },
    /// How far the move of a node's disks to an on-demand instance has come, or that it is over.
    Relocation { node: String, relocation: Option<Box<Relocation>> },
}

/// A maintain fleet that holds one node's instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFleet {
    pub fleet_id: String,
    pub account: Account,
    pub lifecycle: Lifecycle,
    pub instance_type: String,
    pub subnet_id: Option<String>,
    pub launch: String,
    pub created_unix_ms: u64,
}

/// Capacity that a node group's fleet is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub spot: u32,
    pub on_demand: u32,
}

impl Target {
    /// Spot and on-demand together.
    #[must_use]
    pub fn total(self) -> u32 {
        self.spot.saturating_add(self.on_demand)
    }
}

/// A maintain fleet that holds a node group's instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "GroupFleetRecord", into = "GroupFleetRecord")]
pub struct GroupFleet {
    pub fleet_id: String,
    pub account: Account,
    /// As EC2 last accepted it; `None`: whatever target EC2 has given the fleet, it is set anew.
    pub target: Option<Target>,
    pub launch: String,
    /// Digests of what it was made from: what ModifyFleet can change, and what only another fleet can have.
    pub template: String,
    pub options: String,
    /// Sleeping instances beside which EC2 launched replacements: the target is lower by them while they sleep.
    pub uncounted: BTreeSet<String>,
}

/// A [`GroupFleet`] as the journal holds it.
#[derive(Serialize, Deserialize)]
struct GroupFleetRecord {
    fleet_id: String,
    account: Account,
    spot_target: u32,
    on_demand_target: u32,
    launch: String,
    #[serde(default)]
    template: String,
    #[serde(default)]
    options: String,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    uncounted: BTreeSet<String>,
}

impl GroupFleetRecord {
    /// Stands in both targets for one that is not known.
    const UNKNOWN_TARGET: u32 = u32::MAX;
}

impl From<GroupFleetRecord> for GroupFleet {
    fn from(record: GroupFleetRecord) -> Self {
        let known = record.spot_target != GroupFleetRecord::UNKNOWN_TARGET;
        let target = Target { spot: record.spot_target, on_demand: record.on_demand_target };
        Self {
            fleet_id: record.fleet_id,
            account: record.account,
            target: known.then_some(target),
            launch: record.launch,
            template: record.template,
            options: record.options,
            uncounted: record.uncounted,
        }
    }
}

impl From<GroupFleet> for GroupFleetRecord {
    fn from(fleet: GroupFleet) -> Self {
        let unknown = Target { spot: Self::UNKNOWN_TARGET, on_demand: Self::UNKNOWN_TARGET };
        let target = fleet.target.unwrap_or(unknown);
        Self {
            fleet_id: fleet.fleet_id,
            account: fleet.account,
            spot_target: target.spot,
            on_demand_target: target.on_demand,
            launch: fleet.launch,
            template: fleet.template,
            options: fleet.options,
            uncounted: fleet.uncounted,
        }
    }
}

/// A call to EC2 that changes something, with its full parameters and its client token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub unix_ms: u64,
    pub account: Account,
    pub request: CloudRequest,
    /// For CreateFleet: the node group's stem and the nodes that wait for it, in binding order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchIntent>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchIntent {
    pub group: String,
    pub nodes: Vec<String>,
    /// Jobs that need nodes besides these, all or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<LaunchJob>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchJob {
    pub id: u64,
    /// Hostlist of the nodes that it waits for.
    pub nodes: String,
}

/// How an intent ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done(CloudReply),
    Failed(CloudError),
    /// Given up without an answer; whatever it made is found by its tags.
    Abandoned(String),
}

/// How far a bound instance's tags have been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TagLevel {
    /// Only what CreateFleet wrote.
    #[default]
    Birth,
    /// The instance can learn its node name.
    Node,
    /// Also `Name` and the group's tags that hold a placeholder.
    Full,
}

/// One node and its instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub node: String,
    pub instance_id: String,
    pub account: Account,
    /// Client token of the launch, if it is known.
    pub launch: Option<String>,
    pub addr: String,
    pub hostname: String,
    pub instance_type: String,
    pub zone: String,
    pub lifecycle: Lifecycle,
    pub reservation_id: String,
    pub ami_launch_index: u32,
    pub bound_unix_ms: u64,
    #[serde(default)]
    pub tags: TagLevel,
    #[serde(default)]
    pub told: bool,
    /// The maintain fleet that holds the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
}

/// The fold of all records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Persisted {
    /// The next intent's number; never used twice within one journal.
    pub next_id: u64,
    pub open: BTreeMap<u64, Intent>,
    /// By node.
    pub bindings: NameMap<Binding>,
    pub locked: BTreeSet<String>,
    pub paused: bool,
    #[serde(default)]
    pub fleets: BTreeMap<String, NodeFleet>,
    #[serde(default)]
    pub group_fleets: BTreeMap<String, GroupFleet>,
    /// Instances that are to be terminated and that no open intent names, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leaving: BTreeMap<String, Account>,
    /// Moves under way, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub relocations: BTreeMap<String, Box<Relocation>>,
}

/// Told of each change that a record makes to [`Persisted`], one by one.
pub trait Changes {
    /// The node has this instance now.
    fn bound(&mut self, _: &Binding) {}
    /// The node had this instance until now.
    fn unbound(&mut self, _: &Binding) {}
    fn opened(&mut self, _: &Intent) {}
    fn closed(&mut self, _: &Intent) {}
    fn fleet_added(&mut self, _node: &str, _: &NodeFleet) {}
    fn fleet_removed(&mut self, _node: &str, _: &NodeFleet) {}
}

/// Nobody is told.
impl Changes for () {}

impl Persisted {
    /// Fold one record in. Replaying the same record twice is harmless.
    pub fn apply(&mut self, record: &Record) {
        self.apply_telling(record, &mut ());
    }

    /// As [`Self::apply`], and tell of what changes.
    pub fn apply_telling(&mut self, record: &Record, changes: &mut impl Changes) {
        match record {
            Record::Intent { id, intent } => {
                self.next_id = self.next_id.max(id + 1);
                if let CloudRequest::TerminateInstances { ids } = &intent.request {
                    for id in ids {
                        self.leaving.remove(id);
                    }
                }
                changes.opened(intent);
                if let Some(before) = self.open.insert(*id, intent.clone()) {
                    changes.closed(&before);
                }
            }
            Record::Outcome { id, outcome } => {
                self.next_id = self.next_id.max(id + 1);
                let Some(intent) = self.open.remove(id) else { return };
                changes.closed(&intent);
                if let (CloudRequest::TerminateInstances { ids }, Outcome::Abandoned(_)) =
                    (intent.request, outcome)
                {
                    self.leaving.extend(ids.into_iter().map(|id| (id, intent.account.clone())));
                }
            }
            Record::Bound { bindings } => {
                for binding in bindings {
                    self.leaving.remove(&binding.instance_id);
                    match self.bindings.insert(binding.node.clone(), binding.clone()) {
                        // The same instance with another address.
                        Some(before)
                            if before.instance_id == binding.instance_id && before.fleet == binding.fleet => {
                        }
                        before => {
                            if let Some(before) = before {
                                changes.unbound(&before);
                            }
                            changes.bound(binding);
                        }
                    }
                }
            }
            Record::Unbound { nodes, ending, .. } => {
                for node in nodes {
                    let Some(binding) = self.bindings.swap_remove(node) else { continue };
                    changes.unbound(&binding);
                    if *ending {
                        self.leaving.insert(binding.instance_id, binding.account);
                    }
                }
            }
            Record::Tagged { nodes, level } => {
                for node in nodes {
                    if let Some(binding) = self.bindings.get_mut(node) {
                        binding.tags = binding.tags.max(*level);
                    }
                }
            }
            Record::Told { nodes } => {
                for node in nodes {
                    if let Some(binding) = self.bindings.get_mut(node) {
                        binding.told = true;
                    }
                }
            }
            Record::Lock { nodes, locked } => {
                for node in nodes {
                    if *locked {
                        self.locked.insert(node.clone());
                    } else {
                        self.locked.remove(node);
                    }
                }
            }
            Record::Pause { paused } => self.paused = *paused,
            Record::FleetOf { node, fleet } => {
                if let Some(before) = self.fleets.insert(node.clone(), fleet.clone()) {
                    changes.fleet_removed(node, &before);
                }
                changes.fleet_added(node, fleet);
            }
            Record::GroupFleet { stem, fleet } => match fleet {
                Some(fleet) => {
                    self.group_fleets.insert(stem.clone(), fleet.clone());
                }
                None => {
                    self.group_fleets.remove(stem);
                }
            },
            Record::Relocation { node, relocation } => match relocation {
                Some(relocation) => {
                    self.relocations.insert(node.clone(), relocation.clone());
                }
                None => {
                    self.relocations.remove(node);
                }
            },
            Record::FleetsGone { fleet_ids } => {
                let gone: BTreeSet<&String> = fleet_ids.iter().collect();
                self.fleets.retain(|node, fleet| {
                    let stays = !gone.contains(&fleet.fleet_id);
                    if !stays {
                        changes.fleet_removed(node, fleet);
                    }
                    stays
                });
                self.group_fleets.retain(|_, fleet| !gone.contains(&fleet.fleet_id));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleets_target_that_is_not_known_reads_and_writes_as_it_always_has() {
        let stands = |target: u64| {
            format!(
                r#"{{"fleet_id":"fleet-1","account":{{"region":"r","profile":null}},"spot_target":{target},"on_demand_target":{target},"launch":"t","template":"","options":""}}"#
            )
        };
        let read = |text: &str| serde_json::from_str::<GroupFleet>(text).expect("a fleet");
        let (unknown, known) = (read(&stands(u64::from(u32::MAX))), read(&stands(3)));
        assert_eq!(unknown.target, None);
        assert_eq!(known.target.map(Target::total), Some(6));
        for (fleet, target) in [(unknown, u64::from(u32::MAX)), (known, 3)] {
            assert_eq!(serde_json::to_string(&fleet).expect("JSON"), stands(target));
        }
    }
}
