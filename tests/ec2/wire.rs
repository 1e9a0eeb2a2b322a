// SPDX-License-Identifier: GPL-3.0-or-later
//! The parameters that go over the wire, by the names of the EC2 API reference.

use ec2fleet_core::ec2_api::{
    CloudReply, CloudRequest, CreateFleet, ErrorClass, FleetReply, FleetType, LaunchedInstances, PoolError,
};
use ec2fleet_core::fleet_spec::{OnDemandOptions, SpotOptions};
use ec2fleet_core::site::{Account, Lifecycle};
use ec2fleet_ec2::Cloud;
use ec2fleet_ec2::sdk::Ec2;

use crate::backend::{options, tags};
use crate::script::{Form, Script, Step};

/// The least that makes a fleet.
pub fn small_fleet() -> CreateFleet {
    CreateFleet {
        client_token: "token-1".into(),
        fleet_type: FleetType::Instant,
        target: 4,
        lifecycle: Lifecycle::OnDemand,
        on_demand_options: OnDemandOptions::default(),
        spot_options: SpotOptions::default(),
        launch_template: serde_json::from_str(r#"{"LaunchTemplateId": "lt-1", "Version": "$Default"}"#)
            .expect("a template"),
        overrides: vec![],
        fleet_tags: tags(&[]),
        instance_tags: tags(&[]),
    }
}

const FLEET_REPLY: &str = "<CreateFleetResponse><fleetId>fleet-1</fleetId></CreateFleetResponse>";

async fn sent(request: CloudRequest, reply: &str) -> (CloudReply, Form) {
    let script = Script::start(vec![Step::Ok(reply.to_owned())]);
    let account = Account { region: "eu-west-1".into(), profile: None };
    let reply = Ec2::new(options(&script.url)).call(account, request).await.expect("a reply");
    let mut requests = script.requests();
    assert_eq!(requests.len(), 1);
    let mut form = requests.remove(0);
    assert_eq!(form.remove("Version").as_deref(), Some("2016-11-15"));
    (reply, form)
}

fn form(pairs: &[(&str, &str)]) -> Form {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn a_small_fleet_sends_nothing_that_was_not_set() {
    let (_, sent) = sent(CloudRequest::CreateFleet(Box::new(small_fleet())), FLEET_REPLY).await;
    let expected = form(&[
        ("Action", "CreateFleet"),
        ("ClientToken", "token-1"),
        ("Type", "instant"),
        ("TargetCapacitySpecification.TotalTargetCapacity", "4"),
        ("TargetCapacitySpecification.DefaultTargetCapacityType", "on-demand"),
        ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId", "lt-1"),
        ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version", "$Default"),
    ]);
    assert_eq!(sent, expected);
}

/// Every key that `partitions.json` can hold, in EC2's own JSON form.
const FULL_OVERRIDE: &str = r#"{
    "InstanceType": "c7g.xlarge", "MaxPrice": "0.25", "SubnetId": "subnet-1", "AvailabilityZone": "eu-west-1a",
    "WeightedCapacity": 1.0, "Priority": 2.5, "ImageId": "ami-1",
    "Placement": {"GroupName": "pg", "GroupId": "pg-1", "Tenancy": "dedicated", "Affinity": "host", "HostId": "h-1",
        "HostResourceGroupArn": "arn:x", "PartitionNumber": 3, "SpreadDomain": "rack", "AvailabilityZone": "eu-west-1a"},
    "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "VirtualName": "ephemeral0", "NoDevice": "",
        "Ebs": {"Encrypted": true, "DeleteOnTermination": true, "Iops": 4000, "Throughput": 250, "KmsKeyId": "key",
            "SnapshotId": "snap-1", "VolumeSize": 100, "VolumeType": "gp3"}}],
    "InstanceRequirements": {
        "VCpuCount": {"Min": 2, "Max": 8}, "MemoryMiB": {"Min": 4096}, "MemoryGiBPerVCpu": {"Min": 1.5, "Max": 4.0},
        "CpuManufacturers": ["intel", "amd"], "InstanceGenerations": ["current"],
        "AllowedInstanceTypes": ["c5*"], "ExcludedInstanceTypes": ["t*"],
        "SpotMaxPricePercentageOverLowestPrice": 50, "MaxSpotPriceAsPercentageOfOptimalOnDemandPrice": 60,
        "OnDemandMaxPricePercentageOverLowestPrice": 70, "BareMetal": "excluded", "BurstablePerformance": "included",
        "RequireHibernateSupport": true, "NetworkInterfaceCount": {"Min": 1, "Max": 2},
        "NetworkBandwidthGbps": {"Min": 10.0}, "LocalStorage": "required", "LocalStorageTypes": ["ssd"],
        "TotalLocalStorageGB": {"Max": 900.0}, "BaselineEbsBandwidthMbps": {"Min": 650},
        "AcceleratorTypes": ["gpu"], "AcceleratorCount": {"Min": 0, "Max": 4}, "AcceleratorManufacturers": ["nvidia"],
        "AcceleratorNames": ["a100"], "AcceleratorTotalMemoryMiB": {"Min": 40000}}
}"#;

#[tokio::test]
async fn every_field_of_an_override_is_sent() {
    let mut fleet = small_fleet();
    fleet.overrides = vec![serde_json::from_str(FULL_OVERRIDE).expect("an override")];
    let (_, sent) = sent(CloudRequest::CreateFleet(Box::new(fleet)), FLEET_REPLY).await;
    let prefix = "LaunchTemplateConfigs.1.Overrides.1.";
    let mut sent: Form = sent
        .into_iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value)))
        .collect();
    let expected = flatten(&serde_json::from_str(FULL_OVERRIDE).expect("JSON"));
    for (name, value) in &expected {
        let on_wire = sent.remove(name).unwrap_or_else(|| panic!("{name} is not sent"));
        let same_number =
            on_wire.parse::<f64>().ok().zip(value.parse::<f64>().ok()).is_some_and(|(a, b)| a == b);
        assert!(on_wire == *value || same_number, "{name}: {on_wire} instead of {value}");
    }
    assert_eq!(sent, Form::new(), "and nothing else");
}

/// The EC2 Query form of a JSON document: nested names joined by dots, list items numbered from one.
fn flatten(value: &serde_json::Value) -> Form {
    fn visit(name: String, value: &serde_json::Value, into: &mut Form) {
        let join = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
        match value {
            serde_json::Value::Object(fields) => {
                fields.iter().for_each(|(key, value)| visit(join(wire_name(key)), value, into));
            }
            serde_json::Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, item)| visit(join(&(i + 1).to_string()), item, into));
            }
            serde_json::Value::String(text) => drop(into.insert(name, text.clone())),
            other => drop(into.insert(name, other.to_string())),
        }
    }
    // The API model gives some lists a singular name on the wire.
    fn wire_name(key: &str) -> &str {
        match key {
            "CpuManufacturers" => "CpuManufacturer",
            "InstanceGenerations" => "InstanceGeneration",
            "AllowedInstanceTypes" => "AllowedInstanceType",
            "ExcludedInstanceTypes" => "ExcludedInstanceType",
            "LocalStorageTypes" => "LocalStorageType",
            "AcceleratorTypes" => "AcceleratorType",
            "AcceleratorManufacturers" => "AcceleratorManufacturer",
            "AcceleratorNames" => "AcceleratorName",
            "BlockDeviceMappings" => "BlockDeviceMapping",
            other => other,
        }
    }
    let mut form = Form::new();
    visit(String::new(), value, &mut form);
    form
}

const SPOT_OPTIONS: &str = r#"{"AllocationStrategy": "price-capacity-optimized",
    "MaintenanceStrategies": {"CapacityRebalance": {"ReplacementStrategy": "launch-before-terminate", "TerminationDelay": 120}},
    "InstanceInterruptionBehavior": "hibernate", "InstancePoolsToUseCount": 2, "SingleInstanceType": true,
    "SingleAvailabilityZone": true, "MinTargetCapacity": 4, "MaxTotalPrice": "9.5"}"#;

const ON_DEMAND_OPTIONS: &str = r#"{"AllocationStrategy": "prioritized",
    "CapacityReservationOptions": {"UsageStrategy": "use-capacity-reservations-first"}, "SingleInstanceType": true,
    "SingleAvailabilityZone": false, "MinTargetCapacity": 3, "MaxTotalPrice": "7"}"#;

#[tokio::test]
async fn the_options_of_the_lifecycle_are_sent_and_no_others() {
    for (lifecycle, name, json, other) in [
        (Lifecycle::Spot, "SpotOptions", SPOT_OPTIONS, "OnDemandOptions"),
        (Lifecycle::OnDemand, "OnDemandOptions", ON_DEMAND_OPTIONS, "SpotOptions"),
    ] {
        let mut fleet = small_fleet();
        fleet.lifecycle = lifecycle;
        fleet.spot_options = serde_json::from_str(SPOT_OPTIONS).expect("options");
        fleet.on_demand_options = serde_json::from_str(ON_DEMAND_OPTIONS).expect("options");
        let (_, sent) = sent(CloudRequest::CreateFleet(Box::new(fleet)), FLEET_REPLY).await;
        let of = |name: &str| -> Form {
            let prefix = format!("{name}.");
            sent.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?.to_owned(), v.clone()))).collect()
        };
        assert_eq!(of(name), flatten(&serde_json::from_str(json).expect("JSON")));
        assert_eq!(of(other), Form::new());
        assert_eq!(sent["TargetCapacitySpecification.DefaultTargetCapacityType"], lifecycle.as_str());
    }
}

#[tokio::test]
async fn an_instant_fleet_tags_what_it_launches_and_a_maintain_fleet_only_itself() {
    for (fleet_type, expected) in [
        (FleetType::Instant, &["fleet", "instance", "volume", "network-interface"][..]),
        (FleetType::Maintain, &["fleet"]),
    ] {
        let mut fleet = small_fleet();
        fleet.fleet_type = fleet_type;
        fleet.fleet_tags = tags(&[("a", "1")]);
        fleet.instance_tags = tags(&[("b", "2"), ("c", "")]);
        let (_, sent) = sent(CloudRequest::CreateFleet(Box::new(fleet)), FLEET_REPLY).await;
        let kinds: Vec<&str> = (1..=9)
            .map_while(|i| sent.get(&format!("TagSpecification.{i}.ResourceType")).map(String::as_str))
            .collect();
        assert_eq!(kinds, expected);
        assert_eq!(sent["TagSpecification.1.Tag.1.Key"], "a");
        if fleet_type == FleetType::Instant {
            assert_eq!(sent["TagSpecification.4.Tag.2.Key"], "c");
            assert_eq!(sent["TagSpecification.4.Tag.2.Value"], "");
        }
    }
}

#[tokio::test]
async fn a_fleet_reply_is_read_pool_by_pool() {
    let reply = r"<CreateFleetResponse><requestId>r</requestId><fleetId>fleet-7</fleetId>
        <fleetInstanceSet><item>
            <launchTemplateAndOverrides><overrides><instanceType>c5.large</instanceType><subnetId>subnet-1</subnetId>
                <availabilityZone>eu-west-1a</availabilityZone></overrides></launchTemplateAndOverrides>
            <lifecycle>spot</lifecycle><instanceIds><item>i-1</item><item>i-2</item></instanceIds>
            <instanceType>c5.large</instanceType>
        </item></fleetInstanceSet>
        <errorSet><item>
            <launchTemplateAndOverrides><overrides><instanceType>c6i.large</instanceType><subnetId>subnet-2</subnetId>
                <availabilityZone>eu-west-1b</availabilityZone></overrides></launchTemplateAndOverrides>
            <lifecycle>spot</lifecycle><errorCode>InsufficientInstanceCapacity</errorCode>
            <errorMessage>We currently do not have sufficient capacity.</errorMessage>
        </item><item><lifecycle>on-demand</lifecycle><errorCode>VcpuLimitExceeded</errorCode></item></errorSet>
        </CreateFleetResponse>";
    let (read, _) = sent(CloudRequest::CreateFleet(Box::new(small_fleet())), reply).await;
    let expected = FleetReply {
        fleet_id: "fleet-7".into(),
        instances: vec![LaunchedInstances {
            ids: vec!["i-1".into(), "i-2".into()],
            instance_type: "c5.large".into(),
            lifecycle: Lifecycle::Spot,
            subnet_id: Some("subnet-1".into()),
            zone: Some("eu-west-1a".into()),
        }],
        errors: vec![
            PoolError {
                code: "InsufficientInstanceCapacity".into(),
                message: "We currently do not have sufficient capacity.".into(),
                class: ErrorClass::Capacity,
                lifecycle: Lifecycle::Spot,
                instance_type: Some("c6i.large".into()),
                subnet_id: Some("subnet-2".into()),
                zone: Some("eu-west-1b".into()),
            },
            PoolError {
                code: "VcpuLimitExceeded".into(),
                message: String::new(),
                class: ErrorClass::Quota,
                lifecycle: Lifecycle::OnDemand,
                instance_type: None,
                subnet_id: None,
                zone: None,
            },
        ],
    };
    assert_eq!(read, CloudReply::Fleet(expected));
}

#[tokio::test]
async fn fleet_history_is_read_as_it_is_on_the_wire() {
    let reply = r#"<DescribeFleetHistoryResponse><historyRecordSet><item>
        <eventInformation><eventSubType>launched</eventSubType><eventDescription>{"x":1}</eventDescription>
            <instanceId>i-1</instanceId></eventInformation>
        <eventType>instanceChange</eventType><timestamp>2026-11-21T07:00:00.250Z</timestamp></item><item>
        <eventInformation><eventSubType>progress</eventSubType></eventInformation>
        <eventType>fleetRequestChange</eventType><timestamp>2026-11-21T07:00:01Z</timestamp></item>
        </historyRecordSet></DescribeFleetHistoryResponse>"#;
    let request =
        CloudRequest::DescribeFleetHistory { fleet_id: "fleet-1".into(), start_unix_ms: 1_795_244_400_000 };
    let (read, sent) = sent(request, reply).await;
    let CloudReply::History(records) = read else { panic!("{read:?}") };
    assert_eq!(sent["StartTime"], "2026-11-21T07:00:00Z");
    assert_eq!(records[0].event_type, "instanceChange");
    assert_eq!(records[0].event_sub_type, "launched");
    assert_eq!(records[0].description, r#"{"x":1}"#);
    assert_eq!(records[0].instance_id.as_deref(), Some("i-1"));
    assert_eq!(records[0].unix_ms, 1_795_244_400_250);
    assert_eq!(records[1].event_type, "fleetRequestChange");
    assert_eq!(records[1].instance_id, None);
}

#[tokio::test]
async fn modifying_a_fleet_says_what_becomes_of_the_excess() {
    for (terminate_excess, policy) in [(true, "termination"), (false, "no-termination")] {
        let request = CloudRequest::ModifyFleet {
            fleet_id: "fleet-1".into(),
            target: 5,
            spot_target: 3,
            on_demand_target: 2,
            terminate_excess,
            template: None,
        };
        let (reply, sent) =
            sent(request, "<ModifyFleetResponse><return>true</return></ModifyFleetResponse>").await;
        assert_eq!(reply, CloudReply::Modified);
        let expected = form(&[
            ("Action", "ModifyFleet"),
            ("FleetId", "fleet-1"),
            ("ExcessCapacityTerminationPolicy", policy),
            ("TargetCapacitySpecification.TotalTargetCapacity", "5"),
            ("TargetCapacitySpecification.SpotTargetCapacity", "3"),
            ("TargetCapacitySpecification.OnDemandTargetCapacity", "2"),
        ]);
        assert_eq!(sent, expected);
    }
}

#[tokio::test]
async fn deletions_that_failed_are_told_from_those_that_did_not() {
    let reply = "<DeleteFleetsResponse><successfulFleetDeletionSet><item><fleetId>fleet-1</fleetId></item>\
        </successfulFleetDeletionSet><unsuccessfulFleetDeletionSet><item><fleetId>fleet-2</fleetId><error>\
        <code>fleetNotInDeletableState</code><message>m</message></error></item></unsuccessfulFleetDeletionSet>\
        </DeleteFleetsResponse>";
    let request = CloudRequest::DeleteFleets {
        ids: vec!["fleet-1".into(), "fleet-2".into()],
        terminate_instances: true,
    };
    let (read, sent) = sent(request, reply).await;
    let expected = CloudReply::Deleted {
        deleted: vec!["fleet-1".into()],
        failed: vec![("fleet-2".into(), "fleetNotInDeletableState".into())],
    };
    assert_eq!(read, expected);
    assert_eq!((&*sent["TerminateInstances"], &*sent["FleetId.2"]), ("true", "fleet-2"));
}

#[tokio::test]
async fn long_lists_are_sent_in_the_chunks_that_ec2_takes() {
    let ids = |stem: &str| -> Vec<String> { (0..2_001).map(|i| format!("{stem}-{i:x}")).collect() };
    let empty = |action: &str| Step::Ok(format!("<{action}Response></{action}Response>"));
    let table = [
        (CloudRequest::TerminateInstances { ids: ids("i") }, "InstanceId.", 1_000, 3),
        (CloudRequest::CreateTags { ids: ids("i"), tags: tags(&[("Name", "n")]) }, "ResourceId.", 1_000, 3),
        (CloudRequest::DescribeInstances { ids: ids("i") }, "Filter.1.Value.", 200, 11),
        (CloudRequest::DeleteFleets { ids: ids("fleet"), terminate_instances: false }, "FleetId.", 100, 21),
        (CloudRequest::CancelSpotInstanceRequests { ids: ids("sir") }, "SpotInstanceRequestId.", 1_000, 3),
    ];
    for (request, parameter, most, calls) in table {
        let action = request.action();
        let script = Script::start(vec![empty(action); calls]);
        let account = Account { region: "eu-west-1".into(), profile: None };
        Ec2::new(options(&script.url)).call(account, request).await.expect("a reply");
        let sizes: Vec<usize> = script
            .requests()
            .iter()
            .map(|form| form.keys().filter(|key| key.starts_with(parameter)).count())
            .collect();
        assert_eq!(sizes.len(), calls, "{action}: {sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), 2_001, "{action}");
        assert!(sizes.iter().all(|size| *size <= most), "{action}: {sizes:?}");
    }
}
