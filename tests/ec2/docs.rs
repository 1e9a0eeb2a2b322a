// SPDX-License-Identifier: GPL-3.0-or-later
//! docs/ec2.md says what the code does.

use ec2fleet_core::ec2_api::ErrorClass;
use ec2fleet_ec2::catalog::{Action, Need};
use ec2fleet_ec2::errors::{TransportFailure, classify};
use ec2fleet_ec2::sdk::Timeouts;

const PAGE: &str = include_str!("../../docs/ec2.md");

/// The second and later cells of the table row that begins with `first`.
fn row(first: &str) -> Vec<&'static str> {
    let mut rows = PAGE.lines().filter_map(|line| line.strip_prefix(&format!("| {first} | ")));
    let row = rows.next().unwrap_or_else(|| panic!("no row {first:?}"));
    assert!(rows.next().is_none(), "one row {first:?}");
    row.trim_end_matches(" |").split(" | ").collect()
}

#[test]
fn every_action_is_listed_under_its_need() {
    for (first, need) in [
        ("always", Need::Always),
        ("with maintain fleets", Need::MaintainFleets),
        ("with `AfterMaxHibernation` on-demand", Need::MoveToOnDemand),
        ("by the `ec2fleet` tool", Need::Tool),
    ] {
        let listed: Vec<&str> = row(first)[0].split(", ").collect();
        let needed: Vec<&str> =
            Action::ALL.iter().filter(|action| action.need() == need).map(|action| action.as_str()).collect();
        assert_eq!(listed, needed, "{first}");
    }
}

#[test]
fn codes_are_listed_under_their_class() {
    let classes = [
        ErrorClass::Capacity,
        ErrorClass::Quota,
        ErrorClass::Throttle,
        ErrorClass::Configuration,
        ErrorClass::Permission,
        ErrorClass::NotFound,
        ErrorClass::IdempotentMismatch,
        ErrorClass::Transient,
    ];
    let mut checked = 0;
    for class in classes {
        let whole_codes = row(class.as_str())[0]
            .split(", ")
            .filter(|code| code.chars().all(|c| c.is_ascii_alphanumeric() || c == '.'));
        for code in whole_codes {
            assert_eq!(classify(code), class, "{code}");
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked} codes");
}

#[test]
fn limits_and_our_own_codes_are_as_written() {
    let times = Timeouts::default();
    let seconds = |first: &str| row(first)[0].parse::<f64>().expect("a number");
    assert_eq!(seconds("TCP and TLS connection"), times.connect.as_secs_f64());
    let create = "CreateFleet (an instant fleet answers after all its pools were asked)";
    assert_eq!(seconds(create), times.create_fleet.as_secs_f64());
    assert_eq!(seconds("every other request"), times.request.as_secs_f64());
    assert_eq!(seconds("loading credentials"), times.credentials.as_secs_f64());
    for failure in TransportFailure::ALL {
        assert!(PAGE.contains(&format!("`{}`", failure.code())), "{}", failure.code());
    }
}
