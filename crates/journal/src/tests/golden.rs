// SPDX-License-Identifier: GPL-3.0-or-later
//! Journals that an earlier release has written (tests/fixtures/journal-0.1/README.md).

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use ec2fleet_core::ec2_api::{CloudRequest, FleetType};
use ec2fleet_core::record::{TagLevel, Target};
use ec2fleet_core::relocation::Stage;
use ec2fleet_core::site::{Account, Lifecycle};

const FILES: [&str; 3] = ["records", "snapshot", "snapshot-then-records"];

/// Fields that a later release does not keep: they are in the files, and nothing reads them.
const GONE: [&str; 0] = [];

fn fixtures() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .map(|dir| dir.join("tests/fixtures/journal-0.1"))
        .find(|dir| dir.is_dir())
        .expect("tests/fixtures is in this folder or above it")
}

fn bytes(file: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(file).join("journal")).unwrap()
}

fn open(file: &str) -> (Persisted, Vec<u8>) {
    let opened = Journal::open(Memory(bytes(file)), "c").unwrap_or_else(|error| panic!("{file}: {error}"));
    assert_eq!(opened.damage, None, "{file}");
    (opened.state, opened.journal.into_storage().0)
}

/// The state as 0.1 wrote it, without what is not kept.
fn expected() -> Value {
    let text = std::fs::read_to_string(fixtures().join("state.json")).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    forget(&mut value);
    value
}

fn forget(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !GONE.contains(&key.as_str()));
            map.values_mut().for_each(forget);
        }
        Value::Array(list) => list.iter_mut().for_each(forget),
        _ => {}
    }
}

#[test]
fn a_journal_of_version_0_1_opens_to_the_state_that_it_was_written_from() {
    let expected = expected();
    for file in FILES {
        let (state, rewritten) = open(file);
        // Compared as a map without an order: a field may have moved.
        let found = serde_json::to_value(&state).unwrap();
        assert_eq!(found, expected, "{file}");
        let (again, _) = open_bytes(&rewritten).unwrap();
        assert_eq!(again, state, "{file}: rewritten");
    }
}

#[test]
fn a_snapshot_of_version_0_1_is_rewritten_byte_by_byte() {
    let (_, rewritten) = open("snapshot");
    if GONE.is_empty() {
        assert_eq!(rewritten, bytes("snapshot"));
    } else {
        assert!(rewritten.len() < bytes("snapshot").len());
    }
}

/// Torn at many places: what an upgrade finds after a crash is a prefix, never an error.
#[test]
fn a_torn_journal_of_version_0_1_opens() {
    let bytes = bytes("snapshot-then-records");
    for length in (0..bytes.len()).step_by(499) {
        let (_, damage) = open_bytes(&bytes[..length]).unwrap_or_else(|error| panic!("{length}: {error}"));
        assert_eq!(damage, None);
    }
}

#[test]
fn every_kind_of_record_and_call_of_version_0_1_is_in_these_journals() {
    let all = bytes("records");
    let scan = frame::scan(&all).unwrap();
    assert_eq!((scan.frames.len(), scan.damage), (107, None));
    let mut kinds = std::collections::BTreeSet::new();
    for payload in scan.frames {
        let value: Value = serde_json::from_slice(payload).unwrap();
        kinds.insert(value["Record"]["record"].as_str().unwrap().to_owned());
    }
    let known = [
        "bound",
        "fleet-of",
        "fleets-gone",
        "group-fleet",
        "intent",
        "lock",
        "outcome",
        "pause",
        "relocation",
        "tagged",
        "told",
        "unbound",
    ];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), known);

    let (state, _) = open("records");
    let mut actions: Vec<&str> = state.open.values().map(|intent| intent.request.action()).collect();
    actions.sort_unstable();
    actions.dedup();
    let called = [
        "AttachVolume",
        "CancelCapacityReservation",
        "CancelSpotInstanceRequests",
        "CreateCapacityReservation",
        "CreateFleet",
        "CreateTags",
        "DeleteFleets",
        "DeleteVolume",
        "DescribeFleetHistory",
        "DescribeFleets",
        "DescribeInstances",
        "DescribeVolumes",
        "DetachVolume",
        "ModifyFleet",
        "ModifyInstanceAttribute",
        "ModifyNetworkInterfaceAttribute",
        "RunInstances",
        "StartInstances",
        "StopInstances",
        "TerminateInstances",
    ];
    assert_eq!(actions, called);
}

#[test]
fn what_matters_most_in_a_journal_of_version_0_1_is_understood() {
    for file in FILES {
        let (state, _) = open(file);
        let here = Account { region: "eu-west-1".into(), profile: None };
        let there = Account { region: "us-gov-west-1".into(), profile: Some("gov".into()) };
        assert_eq!((state.next_id, state.open.len(), state.bindings.len()), (122, 24, 4), "{file}");

        let first = &state.open[&1];
        let CloudRequest::CreateFleet(request) = &first.request else { panic!("{:?}", first.request) };
        assert_eq!((request.fleet_type, request.lifecycle), (FleetType::Instant, Lifecycle::Spot));
        assert_eq!((request.client_token.as_str(), request.target, request.overrides.len()), ("tok-1", 3, 2));
        assert_eq!(request.spot_options.min_target_capacity, Some(3));
        let requirements = request.overrides[1].instance_requirements.as_ref().unwrap();
        assert_eq!(requirements.accelerator_names, ["a100"]);
        let launch = first.launch.as_ref().unwrap();
        assert_eq!((launch.group.as_str(), launch.nodes.len(), launch.jobs[0].id), ("p-g", 3, 4711));
        let second = &state.open[&2];
        assert_eq!(second.account, there);
        assert!(second.launch.as_ref().unwrap().jobs.is_empty());

        let ends: Vec<&CloudRequest> = state
            .open
            .values()
            .map(|intent| &intent.request)
            .filter(|request| {
                matches!(
                    request,
                    CloudRequest::TerminateInstances { .. }
                        | CloudRequest::DeleteFleets { .. }
                        | CloudRequest::ModifyFleet { .. }
                )
            })
            .collect();
        assert!(
            matches!(ends.as_slice(), [
                CloudRequest::TerminateInstances { ids },
                CloudRequest::ModifyFleet { fleet_id, target: 5, spot_target: 3, on_demand_target: 2, template: Some(_), .. },
                CloudRequest::ModifyFleet { target: 1, template: None, .. },
                CloudRequest::DeleteFleets { ids: fleets, .. },
            ] if *ids == ["i-31", "i-32"] && fleet_id == "fleet-g" && *fleets == ["fleet-7", "fleet-8"]),
            "{ends:?}"
        );

        let binding = |node: &str| &state.bindings[node];
        assert_eq!((binding("p-g-0").tags, binding("p-g-0").told), (TagLevel::Birth, false));
        assert_eq!((binding("p-g-1").tags, binding("p-g-1").told), (TagLevel::Node, true));
        assert_eq!((binding("p-g-2").tags, binding("p-g-2").told), (TagLevel::Full, true));
        assert_eq!(binding("p-g-1").fleet.as_deref(), Some("fleet-1"));
        assert_eq!(
            (binding("p-g-5").launch.as_deref(), binding("p-g-5").lifecycle),
            (None, Lifecycle::OnDemand)
        );
        let leaving: Vec<(&str, &Account)> =
            state.leaving.iter().map(|(id, owner)| (id.as_str(), owner)).collect();
        assert_eq!(leaving, [("i-104", &here), ("i-left-1", &there), ("i-left-2", &there)]);

        assert!(state.paused);
        assert_eq!(state.locked.iter().map(String::as_str).collect::<Vec<_>>(), ["p-g-2", "q-h-0"]);
        let fleets: Vec<(&str, &str)> =
            state.fleets.iter().map(|(node, fleet)| (node.as_str(), fleet.fleet_id.as_str())).collect();
        assert_eq!(fleets, [("p-g-1", "fleet-1"), ("p-g-2", "fleet-2")]);
        assert_eq!(state.fleets["p-g-1"].subnet_id.as_deref(), Some("subnet-a"));

        let targets: Vec<(&str, Option<u32>, usize)> = state
            .group_fleets
            .iter()
            .map(|(key, fleet)| (key.as_str(), fleet.target.map(Target::total), fleet.uncounted.len()))
            .collect();
        assert_eq!(targets, [("p-g", Some(5), 2), ("p-g@fleet-old", Some(5), 0), ("q-h", None, 2)]);

        assert_eq!(state.relocations.len(), Stage::ALL.len());
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            let moving = &state.relocations[&format!("m-s-{number}")];
            assert_eq!(moving.stage, stage);
            assert_eq!((moving.tries, moving.volumes.len(), moving.launch.interfaces.len()), (2, 2, 2));
            assert_eq!(moving.moved, stage >= Stage::Restore);
            assert_eq!(moving.abandoned, stage == Stage::Abandon);
            assert_eq!((moving.to.as_deref(), moving.reservation.as_deref()), (Some("i-to"), Some("cr-1")));
        }
    }
}
