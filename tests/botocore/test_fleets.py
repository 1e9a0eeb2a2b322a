# SPDX-License-Identifier: GPL-3.0-or-later
"""CreateFleet and the other fleet actions."""

from datetime import datetime, timezone

import pytest

from conftest import doc

EPOCH = datetime(2020, 1, 1, tzinfo=timezone.utc)


def config(template, types=("c5.large",), subnets=("subnet-aaaa",), version="$Latest", **more):
    return [
        {
            "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": version},
            "Overrides": [{"InstanceType": t, "SubnetId": s, **more} for t in types for s in subnets],
        }
    ]


def target(total, default="on-demand", **more):
    return {"TotalTargetCapacity": total, "DefaultTargetCapacityType": default, **more}


@doc("API_CreateFleet", "API_CreateFleetInstance")
def test_instant_answers_with_instances(emulator):
    template = emulator.template(
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}]
    )
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=config(template, ("c5.large", "c5.xlarge"), ("subnet-aaaa", "subnet-bbbb")),
        TargetCapacitySpecification=target(3),
        TagSpecifications=[
            {"ResourceType": kind, "Tags": [{"Key": "cluster", "Value": "one"}]}
            for kind in ("fleet", "instance", "volume", "network-interface")
        ],
    )
    assert made["Errors"] == []
    [part] = made["Instances"]
    assert part["Lifecycle"] == "on-demand" and part["InstanceType"] == "c5.large"
    assert part["LaunchTemplateAndOverrides"]["LaunchTemplateSpecification"] == {
        "LaunchTemplateId": template,
        "Version": "1",
    }
    ids = part["InstanceIds"]
    assert len(ids) == 3
    instances = emulator.instances(InstanceIds=ids)
    assert [i["AmiLaunchIndex"] for i in instances] == [0, 1, 2]
    assert {i["State"]["Name"] for i in instances} == {"pending"}
    tags = {tag["Key"]: tag["Value"] for tag in instances[0]["Tags"]}
    assert tags["cluster"] == "one" and tags["from"] == "template"
    assert tags["aws:ec2:fleet-id"] == made["FleetId"]
    assert tags["aws:ec2launchtemplate:id"] == template
    for resource in ("volume", "network-interface", "fleet"):
        [found] = emulator.ec2.describe_tags(
            Filters=[{"Name": "resource-type", "Values": [resource]}, {"Name": "tag:cluster", "Values": ["one"]}],
        )["Tags"][:1]
        assert found["Value"] == "one"


@doc("API_CreateFleet")
def test_the_same_client_token_gives_the_same_fleet(emulator, fails):
    template = emulator.template()
    request = dict(
        Type="instant",
        ClientToken="token-1",
        LaunchTemplateConfigs=config(template),
        TargetCapacitySpecification=target(2),
    )
    first = emulator.ec2.create_fleet(**request)
    again = emulator.ec2.create_fleet(**request)
    assert again["FleetId"] == first["FleetId"] and again["Instances"] == first["Instances"]
    assert len(emulator.instances()) == 2
    request["TargetCapacitySpecification"] = target(3)
    assert fails(emulator.ec2.create_fleet, **request)[:2] == ("IdempotentParameterMismatch", 400)


@doc("API_CreateFleetError", "UserGuide/instant-fleet.html")
def test_a_pool_without_capacity_is_an_error_of_its_override(emulator_with):
    emulator = emulator_with({"pools": [{"type": "c5.large", "zone": "us-east-1a", "capacity": 2}]})
    template = emulator.template()
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=config(template, ("c5.large",), ("subnet-aaaa", "subnet-bbbb")),
        TargetCapacitySpecification=target(5),
    )
    counts = {
        part["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"]: len(part["InstanceIds"])
        for part in made["Instances"]
    }
    assert counts == {"subnet-aaaa": 2, "subnet-bbbb": 3}
    [error] = made["Errors"]
    assert error["ErrorCode"] == "InsufficientInstanceCapacity"
    assert error["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"] == "subnet-aaaa"


@doc("API_CreateFleetError", "UserGuide/troubleshooting-launch.html")
@pytest.mark.parametrize(
    ("limits", "default", "code"),
    [
        ({"on_demand_vcpus": 4}, "on-demand", "VcpuLimitExceeded"),
        ({"spot_vcpus": 4}, "spot", "MaxSpotInstanceCountExceeded"),
        ({"spot_instances": 2}, "spot", "MaxSpotInstanceCountExceeded"),
    ],
)
def test_quotas(emulator_with, limits, default, code):
    emulator = emulator_with({"limits": limits})
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=config(emulator.template()),
        TargetCapacitySpecification=target(3, default),
    )
    assert sum(len(part["InstanceIds"]) for part in made["Instances"]) == 2
    assert [error["ErrorCode"] for error in made["Errors"]] == [code]


@doc("API_CreateFleetError")
def test_other_reasons_of_a_pool(emulator_with):
    emulator = emulator_with(
        {
            "subnets": [{"id": "subnet-tiny", "zone": "a", "cidr": "127.10.0.0/28"}],
            "pools": [{"type": "m5.large", "lifecycle": "spot", "price": 0.05}],
        }
    )
    template = emulator.template()

    def codes(total, default, types, **more):
        made = emulator.ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=config(template, types, ("subnet-tiny",), **more),
            TargetCapacitySpecification=target(total, default),
        )
        return [error["ErrorCode"] for error in made["Errors"]]

    assert codes(1, "spot", ("m5.large",), MaxPrice="0.01") == ["SpotMaxPriceTooLow"]
    assert codes(1, "spot", ("hpc6a.48xlarge",)) == ["Unsupported"]
    assert codes(12, "on-demand", ("c5.large",)) == ["InsufficientFreeAddressesInSubnet"]


@doc("API_OnDemandOptionsRequest", "API_SpotOptionsRequest")
def test_min_target_capacity_is_all_or_nothing(emulator_with):
    emulator = emulator_with(
        {
            "pools": [
                {"type": "c5.*", "zone": "us-east-1a", "capacity": 3},
                {"type": "c5.*", "zone": "us-east-1b", "capacity": 5},
            ]
        }
    )
    template = emulator.template()

    def make(total, least):
        return emulator.ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=config(template, ("c5.large",), ("subnet-aaaa", "subnet-bbbb")),
            TargetCapacitySpecification=target(total),
            OnDemandOptions={"MinTargetCapacity": least, "SingleAvailabilityZone": True},
        )

    made = make(4, 4)
    [part] = made["Instances"]
    assert part["LaunchTemplateAndOverrides"]["Overrides"]["SubnetId"] == "subnet-bbbb"
    assert len(part["InstanceIds"]) == 4
    made = make(4, 4)
    assert made["Instances"] == []
    assert {error["ErrorCode"] for error in made["Errors"]} == {"InsufficientInstanceCapacity"}
    assert len(emulator.instances()) == 4


@doc("API_CreateFleet", "API_OnDemandOptionsRequest", "API_TargetCapacitySpecificationRequest")
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"Type": "maintain", "OnDemandOptions": {"MinTargetCapacity": 1, "SingleInstanceType": True}}, "InvalidParameterCombination"),
        ({"OnDemandOptions": {"MinTargetCapacity": 1}}, "InvalidParameterCombination"),
        ({"SpotOptions": {"InstanceInterruptionBehavior": "hibernate"}}, "InvalidParameterCombination"),
        ({"Type": "sometimes"}, "InvalidParameterValue"),
        ({"SpotOptions": {"AllocationStrategy": "cheapest"}}, "InvalidParameterValue"),
        ({"ReplaceUnhealthyInstances": True}, "InvalidParameterCombination"),
        ({"TargetCapacitySpecification": target(1, OnDemandTargetCapacity=2)}, "InvalidParameterCombination"),
        ({"TargetCapacitySpecification": {"TotalTargetCapacity": -1}}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
    ],
)
def test_requests_that_are_refused(emulator, fails, change, code):
    request = dict(
        Type="instant",
        LaunchTemplateConfigs=config(emulator.template()),
        TargetCapacitySpecification=target(1),
    )
    assert fails(emulator.ec2.create_fleet, **{**request, **change})[:2] == (code, 400)
    assert emulator.instances() == []


@doc("API_FleetLaunchTemplateConfigRequest", "UserGuide/ec2-fleet-prerequisites.html")
def test_configs_that_are_refused(emulator_with, fails):
    emulator = emulator_with(
        {
            "subnets": [
                {"id": "subnet-one", "zone": "a", "cidr": "127.10.0.0/16"},
                {"id": "subnet-two", "zone": "a", "cidr": "127.11.0.0/16"},
            ]
        }
    )
    template = emulator.template()
    for configs, code in [
        (config(template, subnets=("subnet-one", "subnet-two")), "InvalidFleetConfig"),
        (config(template, ("c5.large", "c5.large"), ("subnet-one",)), "InvalidFleetConfig"),
        (config(template, subnets=("subnet-none",)), "InvalidSubnetID.NotFound"),
        (config(template, ("c5.enormous",), ("subnet-one",)), "InvalidInstanceType"),
        (config("lt-00000000000000000"), "InvalidLaunchTemplateId.NotFound"),
        (config(template, subnets=("subnet-one",), version="7"), "InvalidLaunchTemplateId.VersionNotFound"),
    ]:
        got = fails(
            emulator.ec2.create_fleet,
            Type="instant",
            LaunchTemplateConfigs=configs,
            TargetCapacitySpecification=target(1),
        )
        assert got[:2] == (code, 400)


@doc("UserGuide/ec2-fleet-allocation-strategy.html")
def test_allocation_strategies(emulator_with):
    emulator = emulator_with(
        {
            "pools": [
                {"type": "c5.large", "lifecycle": "spot", "price": 0.02, "capacity": 4},
                {"type": "m5.large", "lifecycle": "spot", "price": 0.03, "capacity": 100},
                {"type": "r5.large", "lifecycle": "spot", "price": 0.04, "capacity": 1000},
            ]
        }
    )
    template = emulator.template()

    def types(strategy, total=6, **options):
        made = emulator.ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                    "Overrides": [
                        {"InstanceType": name, "SubnetId": "subnet-aaaa", "Priority": priority}
                        for name, priority in (("c5.large", 3), ("m5.large", 2), ("r5.large", 1))
                    ],
                }
            ],
            TargetCapacitySpecification=target(total, "spot"),
            SpotOptions={"AllocationStrategy": strategy, **options},
        )
        got = {part["InstanceType"]: len(part["InstanceIds"]) for part in made["Instances"]}
        emulator.ec2.delete_fleets(FleetIds=[made["FleetId"]], TerminateInstances=True)
        emulator.advance(10)
        return got

    assert types("lowest-price") == {"c5.large": 4, "m5.large": 2}
    assert types("lowest-price", 4, InstancePoolsToUseCount=2) == {"c5.large": 2, "m5.large": 2}
    assert types("diversified") == {"c5.large": 2, "m5.large": 2, "r5.large": 2}
    assert types("capacity-optimized") == {"r5.large": 6}
    assert types("capacity-optimized-prioritized") == {"r5.large": 6}
    assert types("price-capacity-optimized") == {"m5.large": 6}


@doc("API_FleetLaunchTemplateOverridesRequest")
def test_weights_and_priorities(emulator):
    template = emulator.template()
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                "Overrides": [
                    {"InstanceType": "c5.xlarge", "SubnetId": "subnet-aaaa", "WeightedCapacity": 4, "Priority": 1},
                    {"InstanceType": "c5.large", "SubnetId": "subnet-aaaa", "WeightedCapacity": 2, "Priority": 0},
                ],
            }
        ],
        OnDemandOptions={"AllocationStrategy": "prioritized"},
        TargetCapacitySpecification=target(5),
    )
    [part] = made["Instances"]
    assert part["InstanceType"] == "c5.large" and len(part["InstanceIds"]) == 3
    assert part["LaunchTemplateAndOverrides"]["Overrides"]["WeightedCapacity"] == 2.0


@doc("API_InstanceRequirementsRequest")
def test_instance_requirements_choose_types(emulator):
    template = emulator.ec2.create_launch_template(
        LaunchTemplateName="bare", LaunchTemplateData={"ImageId": "ami-12345678"}
    )["LaunchTemplate"]["LaunchTemplateId"]
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                "Overrides": [
                    {
                        "SubnetId": "subnet-aaaa",
                        "InstanceRequirements": {
                            "VCpuCount": {"Min": 4, "Max": 4},
                            "MemoryMiB": {"Min": 8192, "Max": 8192},
                            "AllowedInstanceTypes": ["c5.*"],
                        },
                    }
                ],
            }
        ],
        TargetCapacitySpecification=target(1),
    )
    assert made["Instances"][0]["InstanceType"] == "c5.xlarge"


def maintain(emulator, total=2, default="on-demand", **more):
    arguments = dict(Type="maintain", TargetCapacitySpecification=target(total, default))
    if "LaunchTemplateConfigs" not in more:
        arguments["LaunchTemplateConfigs"] = config(emulator.template(), subnets=("subnet-aaaa", "subnet-bbbb"))
    return emulator.ec2.create_fleet(**{**arguments, **more})["FleetId"]


def described(emulator, fleet):
    [found] = emulator.ec2.describe_fleets(FleetIds=[fleet])["Fleets"]
    return found


def members(emulator, fleet):
    return emulator.ec2.describe_fleet_instances(FleetId=fleet)["ActiveInstances"]


@doc("API_CreateFleet", "API_FleetData", "UserGuide/manage-ec2-fleet.html")
def test_a_maintain_fleet_is_asynchronous_and_replaces_what_it_loses(emulator):
    fleet = maintain(emulator, TagSpecifications=[{"ResourceType": "fleet", "Tags": [{"Key": "k", "Value": "v"}]}])
    first = described(emulator, fleet)
    assert (first["FleetState"], first["ActivityStatus"]) == ("submitted", "pending_fulfillment")
    assert emulator.instances() == []
    emulator.advance(3)
    now = described(emulator, fleet)
    assert (now["FleetState"], now["ActivityStatus"]) == ("active", "fulfilled")
    assert now["FulfilledCapacity"] == 2.0 and now["FulfilledOnDemandCapacity"] == 2.0
    assert now["Tags"] == [{"Key": "k", "Value": "v"}]
    assert now["SpotOptions"]["AllocationStrategy"] == now["OnDemandOptions"]["AllocationStrategy"] == "lowestPrice"
    before = {member["InstanceId"] for member in members(emulator, fleet)}
    reservations = emulator.ec2.describe_instances()["Reservations"]
    assert len(reservations) == 2
    lost = sorted(before)[0]
    emulator.ec2.terminate_instances(InstanceIds=[lost])
    assert described(emulator, fleet)["ActivityStatus"] == "pending_fulfillment"
    emulator.advance(10)
    after = {member["InstanceId"] for member in members(emulator, fleet)}
    assert lost not in after and len(after) == 2 and len(after & before) == 1


@doc("API_DescribeFleetHistory", "API_EventInformation")
def test_the_history_of_a_fleet(emulator):
    fleet = maintain(emulator)
    emulator.advance(3)
    [lost, _] = [member["InstanceId"] for member in members(emulator, fleet)]
    emulator.ec2.terminate_instances(InstanceIds=[lost])
    emulator.ec2.modify_fleet(FleetId=fleet, TargetCapacitySpecification={"TotalTargetCapacity": 3})
    emulator.advance(5)
    emulator.ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    emulator.advance(5)
    history = emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH)
    events = [(r["EventType"], r["EventInformation"]["EventSubType"]) for r in history["HistoryRecords"]]
    assert events[:4] == [
        ("fleetRequestChange", "submitted"),
        ("instanceChange", "launched"),
        ("instanceChange", "launched"),
        ("fleetRequestChange", "active"),
    ]
    assert ("instanceChange", "terminated") in events
    changes = [sub for kind, sub in events if kind == "fleetRequestChange"]
    assert changes == ["submitted", "active", "modify_in_progress", "modify_succeeded", "deleted_terminating", "deleted"]
    assert history["LastEvaluatedTime"]
    first = emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH, MaxResults=2)
    assert len(first["HistoryRecords"]) == 2 and "LastEvaluatedTime" not in first
    rest = emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH, MaxResults=1000, NextToken=first["NextToken"])
    assert len(rest["HistoryRecords"]) == len(events) - 2
    only = emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH, EventType="instance-change")
    assert {record["EventType"] for record in only["HistoryRecords"]} == {"instanceChange"}


@doc("API_DescribeFleetHistory")
def test_the_history_comes_late_and_has_no_shortage(emulator_with):
    emulator = emulator_with({"delays": {"fleet_history_ms": 30000}, "pools": [{"capacity": 0}]})
    fleet = maintain(emulator)
    emulator.advance(29)
    assert emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH)["HistoryRecords"] == []
    emulator.advance(60)
    history = emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH)["HistoryRecords"]
    assert [r["EventInformation"]["EventSubType"] for r in history] == ["submitted", "active"]
    assert described(emulator, fleet)["Errors"][0]["ErrorCode"] == "InsufficientInstanceCapacity"
    emulator.advance(49 * 3600)
    assert emulator.ec2.describe_fleet_history(FleetId=fleet, StartTime=EPOCH)["HistoryRecords"] == []


@doc("API_ModifyFleet")
def test_modify_fleet(emulator, fails):
    fleet = maintain(emulator, 4)
    emulator.advance(3)
    emulator.ec2.modify_fleet(FleetId=fleet, TargetCapacitySpecification={"TotalTargetCapacity": 6})
    assert described(emulator, fleet)["FleetState"] == "modifying"
    code, status, _ = fails(
        emulator.ec2.modify_fleet, FleetId=fleet, TargetCapacitySpecification={"TotalTargetCapacity": 7}
    )
    assert (code, status) == ("FleetNotInModifiableState", 400)
    emulator.advance(3)
    assert described(emulator, fleet)["FleetState"] == "active"
    assert len(members(emulator, fleet)) == 6
    # Lower the target first without termination, then end the chosen instance: nothing else ends or starts.
    emulator.ec2.modify_fleet(
        FleetId=fleet,
        ExcessCapacityTerminationPolicy="no-termination",
        TargetCapacitySpecification={"TotalTargetCapacity": 5},
    )
    emulator.advance(3)
    assert len(members(emulator, fleet)) == 6
    victim = members(emulator, fleet)[0]["InstanceId"]
    emulator.ec2.terminate_instances(InstanceIds=[victim])
    emulator.advance(30)
    left = [member["InstanceId"] for member in members(emulator, fleet)]
    assert len(left) == 5 and victim not in left
    # With termination the fleet chooses.
    emulator.ec2.modify_fleet(
        FleetId=fleet,
        ExcessCapacityTerminationPolicy="termination",
        TargetCapacitySpecification={"TotalTargetCapacity": 1},
        LaunchTemplateConfigs=config(emulator.template("other"), ("m5.large",)),
    )
    emulator.advance(30)
    assert len(members(emulator, fleet)) == 1
    overrides = described(emulator, fleet)["LaunchTemplateConfigs"][0]["Overrides"]
    assert overrides[0]["InstanceType"] == "m5.large"


@doc("API_ModifyFleet", "API_DescribeFleetInstances", "API_DescribeFleets", "API_DeleteFleets")
def test_what_instant_fleets_do_not_do(emulator, fails):
    made = emulator.ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=config(emulator.template()),
        TargetCapacitySpecification=target(2),
    )
    fleet = made["FleetId"]
    assert fails(emulator.ec2.describe_fleet_instances, FleetId=fleet)[:2] == ("Unsupported", 400)
    assert fails(
        emulator.ec2.modify_fleet, FleetId=fleet, TargetCapacitySpecification={"TotalTargetCapacity": 1}
    )[:2] == ("FleetNotInModifiableState", 400)
    assert emulator.ec2.describe_fleets()["Fleets"] == []
    found = described(emulator, fleet)
    assert found["Instances"] == made["Instances"] and found["Type"] == "instant"
    assert fails(emulator.ec2.delete_fleets, FleetIds=[fleet], TerminateInstances=False)[1] == 400
    emulator.ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    emulator.advance(5)
    assert {i["State"]["Name"] for i in emulator.instances()} == {"terminated"}


@doc("API_DeleteFleets", "API_DeleteFleetErrorItem", "UserGuide/delete-fleet.html")
def test_delete_fleets(emulator):
    ending, keeping = maintain(emulator), maintain(emulator, LaunchTemplateConfigs=config(emulator.template("other")))
    emulator.advance(3)
    answer = emulator.ec2.delete_fleets(FleetIds=[ending], TerminateInstances=True)
    assert answer["SuccessfulFleetDeletions"] == [
        {"FleetId": ending, "CurrentFleetState": "deleted_terminating", "PreviousFleetState": "active"}
    ]
    emulator.ec2.delete_fleets(FleetIds=[keeping], TerminateInstances=False)
    emulator.advance(30)
    assert described(emulator, ending)["FleetState"] == "deleted"
    assert described(emulator, keeping)["FleetState"] == "deleted_running"
    assert described(emulator, keeping)["ActivityStatus"] == "pending_termination"
    left = [i["InstanceId"] for i in emulator.instances() if i["State"]["Name"] == "running"]
    assert len(left) == 2
    emulator.ec2.terminate_instances(InstanceIds=left)
    emulator.advance(30)
    assert described(emulator, keeping)["FleetState"] == "deleted"
    answer = emulator.ec2.delete_fleets(
        FleetIds=[ending, "fleet-00000000-0000-0000-0000-000000000000", "fleet-x"], TerminateInstances=True
    )
    codes = [item["Error"]["Code"] for item in answer["UnsuccessfulFleetDeletions"]]
    assert codes == ["fleetNotInDeletableState", "fleetIdDoesNotExist", "fleetIdMalformed"]


@doc("API_CreateFleet", "UserGuide/ec2-fleet-request-type.html")
def test_a_request_fleet_does_not_replace(emulator):
    fleet = maintain(emulator, Type="request")
    emulator.advance(3)
    lost = members(emulator, fleet)[0]["InstanceId"]
    emulator.ec2.terminate_instances(InstanceIds=[lost])
    emulator.advance(60)
    assert len(members(emulator, fleet)) == 1


@doc("API_CreateFleet", "API_FleetData")
def test_fleet_validity_ends(emulator):
    now = datetime.fromtimestamp(emulator.control("time")["now_ms"] / 1000, timezone.utc)
    fleet = maintain(
        emulator, ValidUntil=now.replace(microsecond=0).fromtimestamp(now.timestamp() + 100, timezone.utc),
        TerminateInstancesWithExpiration=True,
    )
    emulator.advance(5)
    assert len(members(emulator, fleet)) == 2
    emulator.advance(200)
    assert members(emulator, fleet) == []


@doc("API_DescribeFleets")
def test_describe_fleets_filters_and_pages(emulator, fails):
    fleets = [maintain(emulator, LaunchTemplateConfigs=config(emulator.template(f"t{n}aa"))) for n in range(3)]
    emulator.advance(3)
    emulator.ec2.delete_fleets(FleetIds=[fleets[0]], TerminateInstances=True)
    active = emulator.ec2.describe_fleets(Filters=[{"Name": "fleet-state", "Values": ["active"]}])["Fleets"]
    assert [fleet["FleetId"] for fleet in active] == fleets[1:]
    pages = emulator.ec2.get_paginator("describe_fleets").paginate(PaginationConfig={"PageSize": 1})
    assert [fleet["FleetId"] for page in pages for fleet in page["Fleets"]] == fleets
    code = fails(emulator.ec2.describe_fleets, FleetIds=["fleet-00000000-0000-0000-0000-000000000000"])[0]
    assert code == "InvalidFleetId.NotFound"


@doc("UserGuide/ec2-fleet-quotas.html")
def test_the_quota_of_active_fleets(emulator_with, fails):
    emulator = emulator_with({"limits": {"fleets": 1}})
    fleet = maintain(emulator)
    arguments = dict(
        Type="maintain",
        LaunchTemplateConfigs=config(emulator.template("second")),
        TargetCapacitySpecification=target(1),
    )
    assert fails(emulator.ec2.create_fleet, **arguments)[0] == "MaxFleetCountExceeded"
    emulator.ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    emulator.ec2.create_fleet(**arguments)


@doc("UserGuide/ec2-fleet-capacity-rebalance.html")
def test_capacity_rebalance_launches_the_replacement_first(emulator):
    fleet = maintain(
        emulator,
        1,
        "spot",
        SpotOptions={
            "MaintenanceStrategies": {
                "CapacityRebalance": {"ReplacementStrategy": "launch-before-terminate", "TerminationDelay": 120}
            }
        },
    )
    emulator.advance(3)
    [old] = [member["InstanceId"] for member in members(emulator, fleet)]
    emulator.command(rebalance={"instances": [old]})
    assert "noticeTime" in emulator.metadata(old, "latest/meta-data/events/recommendations/rebalance")
    emulator.advance(3)
    assert len(members(emulator, fleet)) == 2
    emulator.advance(130)
    [new] = [member["InstanceId"] for member in members(emulator, fleet)]
    assert new != old


@doc("UserGuide/manage-ec2-fleet.html")
def test_unhealthy_instances_are_replaced(emulator):
    fleet = maintain(emulator, 1, ReplaceUnhealthyInstances=True)
    emulator.advance(5)
    [old] = members(emulator, fleet)
    assert old["InstanceHealth"] == "healthy"
    emulator.command(impair={"instances": [old["InstanceId"]]})
    emulator.advance(30)
    [new] = members(emulator, fleet)
    assert new["InstanceId"] != old["InstanceId"]
