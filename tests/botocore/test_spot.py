# SPDX-License-Identifier: GPL-3.0-or-later
"""Spot: interruption, hibernation and return, requests, prices."""

import json
import urllib.error

import pytest

from conftest import doc
from test_fleets import config, described, members, target
from test_instances import HIBERNATING, run

POOL = {"type": "c5.large", "zone": "us-east-1a", "lifecycle": "spot"}


def request_of(emulator, instance):
    [found] = emulator.ec2.describe_spot_instance_requests(
        Filters=[{"Name": "instance-id", "Values": [instance]}]
    )["SpotInstanceRequests"]
    return found


def spot(emulator, count=1, **options):
    return run(emulator, count, InstanceMarketOptions={"MarketType": "spot", "SpotOptions": options})


def hibernating_fleet(emulator, **more):
    """One node: a maintain fleet with target 1 and one pool."""
    template = emulator.template(**HIBERNATING)
    fleet = emulator.ec2.create_fleet(
        Type="maintain",
        LaunchTemplateConfigs=config(template, **more),
        TargetCapacitySpecification=target(1, "spot"),
        SpotOptions={"InstanceInterruptionBehavior": "hibernate"},
    )["FleetId"]
    emulator.advance(5)
    [member] = members(emulator, fleet)
    return fleet, member["InstanceId"]


@doc("UserGuide/spot-instance-termination-notices.html", "UserGuide/spot-request-status.html")
def test_interruption_with_two_minutes_of_notice(emulator):
    [one] = spot(emulator)
    emulator.advance(5)
    instance = emulator.instances(InstanceIds=[one])[0]
    assert instance["InstanceLifecycle"] == "spot"
    assert request_of(emulator, one)["State"] == "active"
    with pytest.raises(urllib.error.HTTPError):
        emulator.metadata(one, "latest/meta-data/spot/instance-action")
    emulator.command(pool={**POOL, "capacity": 0})
    notice = json.loads(emulator.metadata(one, "latest/meta-data/spot/instance-action"))
    assert notice["action"] == "terminate"
    assert emulator.metadata(one, "latest/meta-data/spot/termination-time") == notice["time"]
    assert request_of(emulator, one)["Status"]["Code"] == "marked-for-termination"
    emulator.advance(119)
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "running"
    emulator.advance(5)
    ended = emulator.instances(InstanceIds=[one])[0]
    assert ended["State"]["Name"] == "terminated"
    assert ended["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    closed = request_of(emulator, one)
    assert (closed["State"], closed["Status"]["Code"]) == ("closed", "instance-terminated-no-capacity")


@doc("UserGuide/hibernate-spot-instances.html", "UserGuide/interruption-behavior.html")
def test_hibernation_and_return(emulator, fails):
    fleet, one = hibernating_fleet(emulator)
    before = emulator.instances(InstanceIds=[one])[0]
    emulator.command(pool={**POOL, "capacity": 0})
    # Hibernation begins at once: there is no notice of two minutes.
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "stopping"
    notice = json.loads(emulator.metadata(one, "latest/meta-data/spot/instance-action"))
    assert notice["action"] == "hibernate"
    emulator.advance(5)
    asleep = emulator.instances(InstanceIds=[one])[0]
    assert asleep["State"]["Name"] == "stopped"
    assert asleep["StateReason"]["Code"] == "Server.SpotInstanceStop"
    assert request_of(emulator, one)["Status"]["Code"] == "instance-stopped-no-capacity"
    assert fails(emulator.ec2.start_instances, InstanceIds=[one])[0] == "IncorrectSpotRequestState"
    assert members(emulator, fleet) == []
    emulator.advance(3600)
    assert len(emulator.instances()) == 1
    emulator.command(pool={**POOL, "capacity": 5})
    emulator.advance(5)
    after = emulator.instances(InstanceIds=[one])[0]
    assert after["State"]["Name"] == "running"
    for same in ("InstanceId", "PrivateIpAddress", "BlockDeviceMappings", "NetworkInterfaces"):
        assert after[same] == before[same]
    assert request_of(emulator, one)["Status"]["Code"] == "fulfilled"
    moments = [signal["moment"] for signal in emulator.control("signals")["signals"]]
    assert moments == ["boot", "hibernate", "resume"]


@doc("UserGuide/hibernate-spot-instances.html", "API_DeleteFleets")
def test_deleting_the_fleet_ends_the_sleeping_instance(emulator):
    fleet, one = hibernating_fleet(emulator)
    emulator.command(interrupt={"instances": [one]})
    emulator.advance(60)
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "stopped"
    emulator.ec2.delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    emulator.advance(5)
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "terminated"
    assert described(emulator, fleet)["FleetState"] == "deleted"


@doc("API_CancelSpotInstanceRequests", "UserGuide/using-spot-instances-request.html")
def test_cancelling_requests(emulator, fails):
    _, asleep = hibernating_fleet(emulator)
    [awake] = spot(emulator)
    emulator.advance(5)
    emulator.command(interrupt={"instances": [asleep]})
    emulator.advance(10)
    ids = [request_of(emulator, one)["SpotInstanceRequestId"] for one in (asleep, awake)]
    answer = emulator.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    assert {item["State"] for item in answer["CancelledSpotInstanceRequests"]} == {"cancelled"}
    emulator.advance(5)
    states = {i["InstanceId"]: i["State"]["Name"] for i in emulator.instances()}
    assert (states[asleep], states[awake]) == ("terminated", "running")
    assert request_of(emulator, awake)["Status"]["Code"] == "request-canceled-and-instance-running"
    code = fails(emulator.ec2.cancel_spot_instance_requests, SpotInstanceRequestIds=["sir-00000000"])[0]
    assert code == "InvalidSpotInstanceRequestID.NotFound"


@doc("UserGuide/interruption-behavior.html", "UserGuide/hibernate-spot-instances.html")
@pytest.mark.parametrize("replace", [False, True])
def test_replacement_while_hibernated_is_a_switch(emulator_with, replace):
    emulator = emulator_with({"replace_while_hibernated": replace})
    template = emulator.template(**HIBERNATING)
    fleet = emulator.ec2.create_fleet(
        Type="maintain",
        LaunchTemplateConfigs=config(template, subnets=("subnet-aaaa", "subnet-bbbb")),
        TargetCapacitySpecification=target(1, "spot"),
        SpotOptions={"InstanceInterruptionBehavior": "hibernate"},
    )["FleetId"]
    emulator.advance(5)
    [member] = members(emulator, fleet)
    zone = emulator.instances(InstanceIds=[member["InstanceId"]])[0]["Placement"]["AvailabilityZone"]
    emulator.command(pool={**POOL, "zone": zone, "capacity": 0})
    emulator.advance(60)
    assert len(members(emulator, fleet)) == (1 if replace else 0)


@doc("UserGuide/interruption-behavior.html", "API_SpotMarketOptions")
def test_stop_on_interruption(emulator, fails):
    code = fails(
        emulator.ec2.run_instances,
        ImageId="ami-12345678",
        InstanceType="c5.large",
        MinCount=1,
        MaxCount=1,
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"InstanceInterruptionBehavior": "stop"}},
    )[0]
    assert code == "InvalidParameterCombination"
    [one] = spot(emulator, SpotInstanceType="persistent", InstanceInterruptionBehavior="stop")
    emulator.advance(5)
    emulator.command(interrupt={"instances": [one], "hold_ms": 300000})
    assert json.loads(emulator.metadata(one, "latest/meta-data/spot/instance-action"))["action"] == "stop"
    emulator.advance(125)
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "stopped"
    emulator.advance(300)
    assert emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "running"


@doc("UserGuide/how-spot-instances-work.html")
def test_a_price_above_the_maximum_interrupts(emulator):
    [cheap] = spot(emulator, MaxPrice="0.05")
    [any_price] = spot(emulator)
    emulator.advance(5)
    emulator.command(pool={**POOL, "price": 0.06})
    emulator.advance(130)
    states = {i["InstanceId"]: i["State"]["Name"] for i in emulator.instances()}
    assert states == {cheap: "terminated", any_price: "running"}
    [row] = emulator.ec2.describe_spot_price_history(
        InstanceTypes=["c5.large"], AvailabilityZone="us-east-1a", ProductDescriptions=["Linux/UNIX"]
    )["SpotPriceHistory"]
    assert float(row["SpotPrice"]) == 0.06


@doc("API_StopInstances", "API_StartInstances")
def test_stopping_spot_instances(emulator, fails):
    [once] = spot(emulator)
    [persistent] = spot(emulator, SpotInstanceType="persistent", InstanceInterruptionBehavior="stop")
    emulator.advance(5)
    assert fails(emulator.ec2.stop_instances, InstanceIds=[once])[0] == "UnsupportedOperation"
    emulator.ec2.stop_instances(InstanceIds=[persistent])
    emulator.advance(5)
    found = request_of(emulator, persistent)
    assert (found["State"], found["Status"]["Code"]) == ("disabled", "instance-stopped-by-user")
    emulator.ec2.start_instances(InstanceIds=[persistent])
    emulator.advance(5)
    assert request_of(emulator, persistent)["State"] == "active"


@doc("API_GetSpotPlacementScores", "API_DescribeSpotPriceHistory")
def test_scores_and_prices(emulator_with):
    emulator = emulator_with(
        {"pools": [{"lifecycle": "spot", "capacity": 0}, {"type": "c5.large", "zone": "us-east-1b", "lifecycle": "spot", "capacity": 50}]}
    )
    scores = emulator.ec2.get_spot_placement_scores(
        InstanceTypes=["c5.large"], TargetCapacity=100, SingleAvailabilityZone=True
    )["SpotPlacementScores"]
    assert {score["AvailabilityZoneId"]: score["Score"] for score in scores} == {
        "use1-az1": 1, "use1-az2": 5, "use1-az3": 1, "use1-az4": 1,
    }
    pages = emulator.ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=["c5.large", "m5.large"], PaginationConfig={"PageSize": 3}
    )
    rows = [row for page in pages for row in page["SpotPriceHistory"]]
    assert len(rows) == 8 and all(0 < float(row["SpotPrice"]) < 0.1 for row in rows)
