// SPDX-License-Identifier: GPL-3.0-or-later
//! Behaviour of the world that needs exact times or many regions.

use ec2fleet_emulator::{Moment, Scenario};

use crate::account::{Account, SPOT, texts};

#[test]
fn the_same_seed_gives_the_same_world() {
    let play = |seed: u64| {
        let mut account = Account::new(Scenario {
            seed,
            ..Scenario::from_json(
                r#"{"delays": {"pending_jitter_ms": 5000}, "consistency_ms": 2000,
                    "boots": [{"rate": 0.3, "outcome": "terminated"}]}"#,
            )
            .unwrap()
        });
        let template = account.template(&[]);
        let mut seen = account.fleet("maintain", &template, &["subnet-aaaa"], 20, &[SPOT]);
        for _ in 0..10 {
            account.pass(1);
            seen += &account.ok("DescribeInstances", &[]);
        }
        account.command(r#"{"interrupt": {"count": 3}}"#);
        account.pass(200);
        seen += &account.ok("DescribeInstances", &[]);
        seen
    };
    assert_eq!(play(1), play(1));
    assert_ne!(play(1), play(2));
}

#[test]
fn time_passes_in_steps_of_any_size_alike() {
    let play = |steps: &[i64]| {
        let mut account = Account::with("{}");
        let template = account.template(&[]);
        account.fleet("maintain", &template, &["subnet-aaaa"], 3, &[]);
        for step in steps {
            account.pass(*step);
        }
        account.world.instances()
    };
    assert_eq!(play(&[60]), play(&[1; 60]));
}

#[test]
fn hooks_are_told_in_order() {
    let mut account = Account::with("{}");
    let run =
        [("ImageId", "ami-12345678"), ("InstanceType", "c5.large"), ("MinCount", "1"), ("MaxCount", "1")];
    let id = texts(&account.ok("RunInstances", &run), "instanceId").remove(0);
    let instance = [("InstanceId.1", id.as_str())];
    account.pass(5);
    account.ok("RebootInstances", &instance);
    account.ok("StopInstances", &instance);
    account.pass(5);
    account.ok("StartInstances", &instance);
    account.pass(5);
    account.ok("TerminateInstances", &instance);
    account.pass(5);
    let moments: Vec<Moment> = account.world.take_signals().iter().map(|signal| signal.moment).collect();
    use Moment::{Boot, End};
    assert_eq!(moments, [Boot, End, Boot, End, Boot, End]);
}

#[test]
fn an_instance_that_never_booted_has_no_end() {
    let mut account = Account::with("{}");
    let run =
        [("ImageId", "ami-12345678"), ("InstanceType", "c5.large"), ("MinCount", "1"), ("MaxCount", "1")];
    let id = texts(&account.ok("RunInstances", &run), "instanceId").remove(0);
    account.ok("TerminateInstances", &[("InstanceId.1", &id)]);
    account.pass(60);
    assert!(account.world.take_signals().is_empty());
    assert_eq!(account.count("terminated"), 1);
}

#[test]
fn a_forgotten_capacity_shortage_ends_when_capacity_returns() {
    let mut account = Account::with(r#"{"pools": [{"capacity": 0}]}"#);
    let template = account.template(&[]);
    account.fleet("maintain", &template, &["subnet-aaaa"], 2, &[]);
    account.pass(600);
    assert_eq!(account.world.instances().len(), 0);
    account.command(r#"{"pool": {"type": "c5.large", "capacity": 1}}"#);
    account.pass(10);
    assert_eq!(account.count("running"), 1);
    account.command(r#"{"pool": {"type": "c5.large", "capacity": 2}}"#);
    account.pass(10);
    assert_eq!(account.count("running"), 2);
}

#[test]
fn an_interrupted_pending_instance_of_a_hibernating_fleet_ends() {
    let mut account =
        Account::with(r#"{"images": [{"id": "ami-0a1b2c3d4e5f60718", "encrypted": true, "root_gib": 30}]}"#);
    let template = account.template(&[("LaunchTemplateData.HibernationOptions.Configured", "true")]);
    let hibernate = ("SpotOptions.InstanceInterruptionBehavior", "hibernate");
    account.fleet("maintain", &template, &["subnet-aaaa"], 1, &[SPOT, hibernate]);
    account.pass(1);
    assert_eq!(account.count("pending"), 1);
    account.command(r#"{"pool": {"type": "c5.large", "lifecycle": "spot", "capacity": 0}}"#);
    account.pass(30);
    assert_eq!(account.count("terminated"), 1);
    assert_eq!(account.world.instances().len(), 1);
}

#[test]
fn memory_does_not_grow_with_a_shortage() {
    let mut account = Account::with(r#"{"pools": [{"capacity": 0}], "delays": {"fleet_retry_ms": 1000}}"#);
    let template = account.template(&[]);
    account.fleet("maintain", &template, &["subnet-aaaa"], 5, &[]);
    account.pass(10);
    let size = format!("{:?}", account.world).len();
    account.pass(10_000);
    assert!(format!("{:?}", account.world).len() < size + 1000);
}

#[test]
fn calls_are_counted_since_a_mark() {
    let mut account = Account::with("{}");
    account.ok("DescribeInstances", &[]);
    let mark = account.world.mark();
    account.ok("DescribeSubnets", &[]);
    account.fail("DescribeSubnets", &[("SubnetId.1", "subnet-x")]);
    assert_eq!(
        account.world.calls(mark).into_iter().collect::<Vec<_>>(),
        [("DescribeSubnets".to_owned(), 2)]
    );
    assert_eq!(account.world.calls(0).values().sum::<u64>(), 3);
    let errors: Vec<_> = account.world.log(mark).map(|entry| entry.error.clone()).collect();
    assert_eq!(errors, [None, Some("InvalidSubnetID.NotFound".to_owned())]);
}

#[test]
fn what_has_ended_is_forgotten_in_time() {
    let mut account = Account::with("{}");
    let template = account.template(&[]);
    let token = ("ClientToken", "token");
    let made = account.fleet("instant", &template, &["subnet-aaaa"], 2, &[SPOT, token]);
    let fleet = texts(&made, "fleetId").remove(0);
    account.pass(10);
    let ids = texts(&account.ok("DescribeInstances", &[]), "instanceId");
    account.ok("TerminateInstances", &[("InstanceId.1", &ids[0]), ("InstanceId.2", &ids[1])]);
    account.pass(600);
    let ask = [("FleetId.1", fleet.as_str())];
    assert_eq!(texts(&account.ok("DescribeFleets", &ask), "fleetId"), [fleet.as_str()]);
    assert_eq!(texts(&account.ok("DescribeSpotInstanceRequests", &[]), "spotInstanceRequestId").len(), 2);
    account.pass(2 * 3600);
    assert_eq!(texts(&account.ok("DescribeSpotInstanceRequests", &[]), "spotInstanceRequestId").len(), 0);
    assert_eq!(account.fail("DescribeInstances", &[("InstanceId.1", &ids[0])]), "InvalidInstanceID.NotFound");
    account.pass(48 * 3600);
    assert_eq!(account.fail("DescribeFleets", &ask), "InvalidFleetId.NotFound");
}
