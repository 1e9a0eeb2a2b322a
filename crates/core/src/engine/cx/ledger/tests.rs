// SPDX-License-Identifier: GPL-3.0-or-later

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::record::{LaunchIntent, Outcome, Record, TagLevel};
use crate::site::Settings;

fn account(number: u8) -> Account {
    Account { region: format!("region-{}", number % 2), profile: None }
}

fn site(max_nodes: u32) -> Arc<Site> {
    let mut group = crate::engine::tests::group("g");
    group.max_nodes = max_nodes;
    Arc::new(Site::new("c".into(), Vec::new(), vec![group], Settings::default()))
}

fn node(number: u8) -> String {
    format!("p-g-{}", number % 6)
}

/// Whatever is said of an instance follows from its number.
fn binding(number: u8, instance: u8) -> Binding {
    let instance = instance % 8;
    Binding {
        node: node(number),
        instance_id: format!("i-{instance}"),
        account: account(instance),
        launch: None,
        addr: format!("10.0.0.{number}"),
        hostname: String::new(),
        instance_type: String::new(),
        zone: String::new(),
        lifecycle: if instance.is_multiple_of(2) { Lifecycle::Spot } else { Lifecycle::OnDemand },
        reservation_id: format!("r-{}", instance % 3),
        ami_launch_index: 0,
        bound_unix_ms: 0,
        tags: TagLevel::Birth,
        told: false,
        fleet: (instance > 2).then(|| format!("fleet-{}", instance % 3)),
    }
}

fn fleet(number: u8) -> NodeFleet {
    let number = number % 5;
    NodeFleet {
        fleet_id: format!("fleet-{number}"),
        account: account(number),
        lifecycle: Lifecycle::Spot,
        instance_type: String::new(),
        subnet_id: None,
        launch: String::new(),
        created_unix_ms: 0,
    }
}

fn ids(prefix: &str, numbers: &[u8]) -> Vec<String> {
    numbers.iter().map(|number| format!("{prefix}-{}", number % 5)).collect()
}

fn records() -> impl Strategy<Value = Record> {
    let numbers = || vec(any::<u8>(), 0..4);
    prop_oneof![
        vec((any::<u8>(), any::<u8>()), 1..4).prop_map(|pairs| Record::Bound {
            bindings: pairs.into_iter().map(|(node, instance)| binding(node, instance)).collect()
        }),
        (numbers(), any::<bool>()).prop_map(|(nodes, ending)| Record::Unbound {
            nodes: nodes.into_iter().map(node).collect(),
            why: String::new(),
            ending
        }),
        (0..6u64, numbers(), any::<bool>()).prop_map(|(id, numbers, fleets)| {
            let request = if fleets {
                CloudRequest::DeleteFleets { ids: ids("fleet", &numbers), terminate_instances: true }
            } else {
                CloudRequest::TerminateInstances { ids: ids("i", &numbers) }
            };
            let launch = None::<LaunchIntent>;
            Record::Intent { id, intent: Intent { unix_ms: 0, account: account(0), request, launch } }
        }),
        (0..6u64).prop_map(|id| Record::Outcome { id, outcome: Outcome::Abandoned(String::new()) }),
        (any::<u8>(), any::<u8>())
            .prop_map(|(owner, id)| Record::FleetOf { node: node(owner), fleet: fleet(id) }),
        numbers().prop_map(|numbers| Record::FleetsGone { fleet_ids: ids("fleet", &numbers) }),
        numbers().prop_map(|numbers| Record::Told { nodes: numbers.into_iter().map(node).collect() }),
    ]
}

proptest! {
    #[test]
    fn the_index_is_what_a_recount_gives(records in vec(records(), 0..60)) {
        let site = site(4);
        let mut persisted = Persisted::default();
        let mut index = Ledger::of(&persisted, Arc::clone(&site));
        for record in &records {
            // One instance has one node, and one fleet: nothing else is ever recorded.
            if let Record::Bound { bindings } = record {
                let mut ids = BTreeSet::new();
                let free = bindings.iter().all(|new| {
                    ids.insert(&new.instance_id)
                        && persisted.bindings.values().all(|old| {
                            old.instance_id != new.instance_id || old.node == new.node
                        })
                });
                if !free {
                    continue;
                }
            }
            if let Record::FleetOf { node, fleet } = record
                && persisted.fleets.iter().any(|(other, old)| other != node && old.fleet_id == fleet.fleet_id)
            {
                continue;
            }
            persisted.apply_telling(record, &mut index);
            prop_assert_eq!(&index, &Ledger::of(&persisted, Arc::clone(&site)));
        }
    }
}
