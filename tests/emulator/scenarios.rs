// SPDX-License-Identifier: GPL-3.0-or-later
//! Every scenario of examples/scenarios does what its description says.

use std::collections::BTreeMap;

use ec2fleet_emulator::Scenario;

use crate::account::{Account, SPOT, texts};

#[test]
fn spot_storm() {
    let mut account = Account::example("spot-storm");
    let template = account.template(&[]);
    let subnets = ["subnet-aaaa", "subnet-bbbb", "subnet-cccc"];
    account.fleet(
        "maintain",
        &template,
        &subnets,
        30,
        &[SPOT, ("SpotOptions.AllocationStrategy", "diversified")],
    );
    account.pass(60);
    assert_eq!(account.count("running"), 30);
    assert_eq!(account.count_in("running", "us-east-1a"), 10);
    // At 600 s the pool holds five: two minutes later the rest is gone, and replaced in other zones.
    account.pass(570);
    let noticed = account
        .world
        .instances()
        .iter()
        .filter(|instance| !instance["interruption_due_ms"].is_null())
        .count();
    assert_eq!(noticed, 5);
    account.pass(180);
    assert_eq!(account.count_in("running", "us-east-1a"), 5);
    assert_eq!(account.count("running"), 30);
    // At 900 s half of all is interrupted; the fleet is whole again after its replacements.
    account.pass(100);
    let noticed = account
        .world
        .instances()
        .iter()
        .filter(|instance| !instance["interruption_due_ms"].is_null())
        .count();
    assert_eq!(noticed, 15);
    account.pass(1200);
    assert_eq!(account.count("running"), 30);
    assert_eq!(account.count("terminated"), 5 + 15);
}

#[test]
fn zone_outage() {
    let mut account = Account::example("zone-outage");
    let template = account.template(&[]);
    account.fleet("maintain", &template, &["subnet-aaaa", "subnet-bbbb"], 10, &[]);
    account.pass(300);
    assert_eq!(account.count_in("running", "us-east-1a"), 10);
    account.pass(400);
    assert_eq!(account.count_in("running", "us-east-1a"), 0);
    assert_eq!(account.count_in("running", "us-east-1b"), 8);
    let launch = account.fleet("instant", &template, &["subnet-aaaa"], 1, &[]);
    assert_eq!(texts(&launch, "errorCode"), ["InsufficientInstanceCapacity"]);
    account.pass(2000);
    assert_eq!(account.count("running"), 10);
    assert_eq!(account.count_in("running", "us-east-1a"), 2);
}

#[test]
fn throttled_account() {
    let mut account = Account::example("throttled-account");
    let template = account.template(&[]);
    let mut codes: BTreeMap<String, u32> = BTreeMap::new();
    let (mut lost, mut slow) = (0, 0);
    for _ in 0..120 {
        let reply = account.call("DescribeInstances", &[("MaxResults", "100")]);
        slow += u32::from(reply.latency == 150);
        if reply.status != 200 {
            *codes.entry(texts(&reply.body, "Code").remove(0)).or_default() += 1;
        }
    }
    assert_eq!(codes, BTreeMap::from([("RequestLimitExceeded".to_owned(), 20)]));
    assert_eq!(slow, 120);
    // Twenty tokens a second come back.
    account.pass(1);
    for _ in 0..20 {
        account.ok("DescribeInstances", &[("MaxResults", "100")]);
    }
    assert_eq!(account.fail("DescribeInstances", &[("MaxResults", "100")]), "RequestLimitExceeded");
    let mut errors = Vec::new();
    for number in 0..30 {
        account.pass(1);
        let token = format!("token-{number}");
        let request = [
            ("Type", "instant"),
            ("ClientToken", token.as_str()),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId", template.as_str()),
            ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "1"),
            ("LaunchTemplateConfigs.1.Overrides.1.SubnetId", "subnet-aaaa"),
            ("TargetCapacitySpecification.TotalTargetCapacity", "2"),
        ];
        let reply = account.call("CreateFleet", &request);
        lost += u32::from(reply.lost);
        errors.extend(texts(&reply.body, "errorCode"));
        let again = account.call("CreateFleet", &request);
        assert_eq!(texts(&again.body, "fleetId"), texts(&reply.body, "fleetId"));
    }
    assert!((1..15).contains(&lost), "{lost} of 30 answers lost");
    // 64 vCPUs are 32 c5.large: the sixteen first fleets got theirs.
    assert_eq!(account.count("running") + account.count("pending"), 32);
    assert!(errors.iter().all(|code| code == "VcpuLimitExceeded") && errors.len() == 14);
}

#[test]
fn hibernation_night() {
    let mut account = Account::example("hibernation-night");
    let template = account.template(&[("LaunchTemplateData.HibernationOptions.Configured", "true")]);
    let hibernate = ("SpotOptions.InstanceInterruptionBehavior", "hibernate");
    let mut fleets = Vec::new();
    for _ in 0..10 {
        let made = account.fleet("maintain", &template, &["subnet-aaaa"], 1, &[SPOT, hibernate]);
        fleets.extend(texts(&made, "fleetId"));
    }
    account.pass(600);
    assert_eq!(account.count("running"), 10);
    let identity = |account: &Account| -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        account
            .world
            .instances()
            .iter()
            .map(|instance| (text(&instance["instance_id"]), text(&instance["private_ip"])))
            .collect()
    };
    let before = identity(&account);
    let disks = texts(&account.ok("DescribeVolumes", &[]), "volumeId");
    // 20:00: no capacity, no notice; 20:01: all asleep.
    account.pass(7200 - 600);
    assert_eq!(account.count("stopping"), 10);
    account.pass(120);
    assert_eq!(account.count("stopped"), 10);
    let id = before[0].0.as_str();
    assert_eq!(account.fail("StartInstances", &[("InstanceId.1", id)]), "IncorrectSpotRequestState");
    // Through the night nothing is launched or lost.
    account.pass(9 * 3600);
    assert_eq!(account.count("stopped"), 10);
    assert_eq!(account.world.instances().len(), 10);
    // 06:00: room for four; 06:30: for all.
    account.pass(3600);
    assert_eq!((account.count("running"), account.count("stopped")), (4, 6));
    account.pass(1800);
    assert_eq!(account.count("running"), 10);
    assert_eq!(identity(&account), before);
    assert_eq!(texts(&account.ok("DescribeVolumes", &[]), "volumeId"), disks);
    for fleet in fleets {
        account.ok("DeleteFleets", &[("FleetId.1", &fleet), ("TerminateInstances", "true")]);
    }
    account.pass(600);
    assert_eq!(account.count("terminated"), 10);
}

#[test]
fn a_wrong_scenario_is_refused_with_the_reason() {
    for (json, reason) in [
        (r#"{"sped": 60}"#, "unknown field `sped`"),
        (r#"{"account": "12"}"#, "twelve digits"),
        (r#"{"subnets": [{"id": "subnet-1", "zone": "q", "cidr": "127.1.0.0/16"}]}"#, "zone q"),
        (r#"{"subnets": [{"id": "subnet-1", "zone": "a", "cidr": "127.1.0.1/16"}]}"#, "beyond its mask"),
        (r#"{"start_time": "yesterday"}"#, "start_time"),
        (r#"{"timeline": [{"at_s": 1, "explode": {}}]}"#, "explode"),
    ] {
        let error = Scenario::from_json(json).unwrap_err();
        assert!(error.contains(reason), "{json}: {error}");
    }
}
