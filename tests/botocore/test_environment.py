# SPDX-License-Identifier: GPL-3.0-or-later
"""What an account finds: zones, subnets, groups, types; and the protocol itself."""

import json
import urllib.error
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

import botocore.exceptions
import pytest

from conftest import doc, eventually
from test_instances import run


@doc("API_DescribeSubnets", "API_DescribeVpcs", "API_DescribeAvailabilityZones", "API_DescribeRegions", "API_DescribeSecurityGroups", "API_DescribeAccountAttributes")
def test_the_default_world(emulator, fails):
    ec2 = emulator.ec2
    subnets = {s["SubnetId"]: s for s in ec2.describe_subnets()["Subnets"]}
    assert sorted(subnets) == ["subnet-aaaa", "subnet-bbbb", "subnet-cccc", "subnet-dddd"]
    assert subnets["subnet-bbbb"]["CidrBlock"] == "127.20.0.0/16"
    assert subnets["subnet-bbbb"]["AvailabilityZone"] == "us-east-1b"
    assert subnets["subnet-aaaa"]["AvailableIpAddressCount"] == 65531
    run(emulator, 3)
    [left] = ec2.describe_subnets(SubnetIds=["subnet-aaaa"])["Subnets"]
    assert left["AvailableIpAddressCount"] == 65528
    [by_zone] = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1c"]}])["Subnets"]
    assert by_zone["SubnetId"] == "subnet-cccc"
    assert fails(ec2.describe_subnets, SubnetIds=["subnet-none"])[0] == "InvalidSubnetID.NotFound"
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    assert vpc["IsDefault"] is True and vpc["VpcId"] == left["VpcId"]
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(zone["ZoneName"], zone["ZoneId"], zone["State"]) for zone in zones][:2] == [
        ("us-east-1a", "use1-az1", "available"),
        ("us-east-1b", "use1-az2", "available"),
    ]
    assert ec2.describe_regions(RegionNames=["us-east-1"])["Regions"][0]["RegionName"] == "us-east-1"
    [group] = ec2.describe_security_groups()["SecurityGroups"]
    assert group["GroupName"] == "default"
    attributes = ec2.describe_account_attributes(AttributeNames=["default-vpc"])["AccountAttributes"]
    assert attributes[0]["AttributeValues"][0]["AttributeValue"] == vpc["VpcId"]


@doc("API_DescribeInstanceTypes", "API_DescribeInstanceTypeOfferings")
def test_instance_types(emulator, fails):
    ec2 = emulator.ec2
    [c5] = ec2.describe_instance_types(InstanceTypes=["c5.xlarge"])["InstanceTypes"]
    assert c5["VCpuInfo"]["DefaultVCpus"] == 4 and c5["VCpuInfo"]["DefaultCores"] == 2
    assert c5["MemoryInfo"]["SizeInMiB"] == 8192 and c5["HibernationSupported"] is True
    [gpu] = ec2.describe_instance_types(InstanceTypes=["p4d.24xlarge"])["InstanceTypes"]
    assert gpu["GpuInfo"]["Gpus"][0]["Count"] == 8
    pages = ec2.get_paginator("describe_instance_types").paginate(
        Filters=[{"Name": "bare-metal", "Values": ["false"]}], PaginationConfig={"PageSize": 50}
    )
    assert sum(len(page["InstanceTypes"]) for page in pages) > 100
    assert fails(ec2.describe_instance_types, InstanceTypes=["c5.enormous"])[0] == "InvalidInstanceType"
    offered = ec2.describe_instance_type_offerings(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["c5.large"]}]
    )["InstanceTypeOfferings"]
    assert [offer["Location"] for offer in offered] == [f"us-east-1{letter}" for letter in "abcd"]


@doc("API_RunInstances", "DevGuide/ec2-api-permissions.html")
def test_regions_are_apart(emulator):
    run(emulator)
    europe = emulator.client(region="eu-west-1")
    assert europe.describe_instances()["Reservations"] == []
    zones = [zone["ZoneName"] for zone in europe.describe_availability_zones()["AvailabilityZones"]]
    assert zones[0] == "eu-west-1a"
    ours = {s["CidrBlock"] for s in emulator.ec2.describe_subnets()["Subnets"]}
    theirs = {s["CidrBlock"] for s in europe.describe_subnets()["Subnets"]}
    assert ours & theirs == set()


@doc("API_RunInstances", "DevGuide/errors-overview.html")
def test_dry_run_everywhere(emulator, fails):
    ec2 = emulator.ec2
    template = emulator.template()
    [one] = run(emulator)
    for call, arguments in [
        (ec2.describe_instances, {}),
        (ec2.run_instances, dict(ImageId="ami-12345678", InstanceType="c5.large", MinCount=1, MaxCount=1)),
        (ec2.terminate_instances, dict(InstanceIds=[one])),
        (ec2.create_tags, dict(Resources=[one], Tags=[{"Key": "a", "Value": "b"}])),
        (
            ec2.create_fleet,
            dict(
                LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"}}],
                TargetCapacitySpecification={"TotalTargetCapacity": 1},
            ),
        ),
    ]:
        code, status, message = fails(call, DryRun=True, **arguments)
        assert (code, status) == ("DryRunOperation", 412)
        assert message == "Request would have succeeded, but DryRun flag is set."
    assert emulator.instances()[0]["State"]["Name"] == "pending"
    code = fails(ec2.run_instances, DryRun=True, ImageId="ami-12345678", InstanceType="none", MinCount=1, MaxCount=1)[0]
    assert code == "InvalidInstanceType"


@doc("DevGuide/errors-overview.html", "UserGuide/iam-policies-for-amazon-ec2.html")
def test_denied_actions(emulator_with, fails):
    emulator = emulator_with({"deny": [{"action": "ec2:RunInstances"}, {"action": "ec2:*Fleet*", "access_key": "AKIALIMITED"}]})
    arguments = dict(ImageId="ami-12345678", InstanceType="c5.large", MinCount=1, MaxCount=1, DryRun=True)
    code, status, message = fails(emulator.ec2.run_instances, **arguments)
    assert (code, status) == ("UnauthorizedOperation", 403)
    encoded = message.rsplit(": ", 1)[1]
    sts = emulator.client("sts")
    decoded = json.loads(sts.decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"])
    assert decoded["context"]["action"] == "ec2:RunInstances"
    assert sts.get_caller_identity()["Account"] == "123456789012"
    emulator.ec2.describe_fleets()
    assert fails(emulator.client(key="AKIALIMITED").describe_fleets)[0] == "UnauthorizedOperation"
    emulator.command(deny={"action": "ec2:RunInstances", "denied": False})
    assert fails(emulator.ec2.run_instances, **arguments)[0] == "DryRunOperation"


@doc("API_CreateFleetError", "UserGuide/ec2-fleet-prerequisites.html", "UserGuide/supported-iam-actions-tagging.html")
def test_a_fleet_needs_more_permissions_than_create_fleet(emulator_with, fails):
    emulator = emulator_with({"deny": [{"action": "ec2:RunInstances"}]})
    template = emulator.template()
    arguments = dict(
        Type="instant",
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"}}],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"},
    )
    made = emulator.ec2.create_fleet(**arguments)
    assert made["Instances"] == []
    assert {error["ErrorCode"] for error in made["Errors"]} == {"UnauthorizedOperation"}
    emulator.command(deny={"action": "ec2:RunInstances", "denied": False})
    emulator.command(deny={"action": "ec2:CreateTags"})
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    assert fails(emulator.ec2.create_fleet, TagSpecifications=tags, **arguments)[0] == "UnauthorizedOperation"
    assert len(emulator.ec2.create_fleet(**arguments)["Instances"]) == 1


def raw(url, get=False, **parameters):
    data = urllib.parse.urlencode({"Version": "2016-11-15", **parameters}).encode()
    request = urllib.request.Request(url + "/?" + data.decode()) if get else urllib.request.Request(url, data=data)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        root = ElementTree.fromstring(error.read())
        return error.code, root.findtext(".//Code"), root.findtext(".//Message")


@doc("DevGuide/query-requests.html", "DevGuide/errors-overview.html")
def test_the_query_protocol(emulator):
    url = emulator.url
    assert raw(url, Action="DescribeRegions")[0] == 200
    assert raw(url, get=True, Action="DescribeRegions")[0] == 200
    for parameters, code in [
        ({}, "MissingAction"),
        ({"Action": "LaunchRocket"}, "InvalidAction"),
        ({"Action": "AllocateAddress"}, "UnsupportedOperation"),
        ({"Action": "DescribeInstances", "Colour": "red"}, "UnknownParameter"),
        ({"Action": "DescribeInstances", "Filter.1.Colour": "red"}, "UnknownParameter"),
        ({"Action": "DescribeInstances", "MaxResults": "many"}, "InvalidParameterValue"),
        ({"Action": "DescribeInstances", "DryRun": "maybe"}, "InvalidParameterValue"),
        ({"Action": "TerminateInstances"}, "MissingParameter"),
        ({"Action": "DescribeFleetHistory", "FleetId": "fleet-0", "StartTime": "noon"}, "InvalidParameterValue"),
    ]:
        assert raw(url, **parameters)[:2] == (400, code), parameters


@doc("DevGuide/ec2-api-throttling.html")
def test_throttling_by_token_buckets(emulator_with, fails):
    emulator = emulator_with({"throttle": True})
    arguments = dict(ImageId="ami-12345678", InstanceType="c5.large", MinCount=1, MaxCount=1)
    for _ in range(5):
        emulator.ec2.run_instances(**arguments)
    assert fails(emulator.ec2.run_instances, **arguments)[:2] == ("RequestLimitExceeded", 503)
    emulator.advance(0.5)
    emulator.ec2.run_instances(**arguments)
    assert fails(emulator.ec2.run_instances, **arguments)[0] == "RequestLimitExceeded"
    emulator.command(throttle={"enabled": False})
    emulator.ec2.run_instances(**arguments)


@doc("DevGuide/errors-overview.html", "DevGuide/eventual-consistency.html")
def test_faults(emulator, fails):
    ec2 = emulator.ec2
    emulator.command(fault={"action": "Describe*", "code": "InternalError", "count": 1})
    assert fails(ec2.describe_instances)[:2] == ("InternalError", 500)
    ec2.describe_instances()
    # A lost reply: the effect is there, the answer is not; the same token then gives the first result.
    emulator.command(fault={"action": "RunInstances", "lost_reply": True, "count": 1})
    arguments = dict(ImageId="ami-12345678", InstanceType="c5.large", MinCount=1, MaxCount=1, ClientToken="once")
    with pytest.raises(botocore.exceptions.HTTPClientError):
        ec2.run_instances(**arguments)
    assert len(emulator.instances()) == 1
    [instance] = ec2.run_instances(**arguments)["Instances"]
    assert instance["InstanceId"] == emulator.instances()[0]["InstanceId"]
    # Eventual consistency: what was just launched may not be found yet.
    emulator.command(consistency={"ms": 10_000_000})
    [late] = run(emulator)
    assert fails(ec2.describe_instances, InstanceIds=[late])[0] == "InvalidInstanceID.NotFound"
    assert fails(ec2.create_tags, Resources=[late], Tags=[{"Key": "a", "Value": "b"}])[0] == "InvalidInstanceID.NotFound"
    emulator.advance(10_000)
    assert len(emulator.instances(InstanceIds=[late])) == 1


@doc("API_CreateFleet", "UserGuide/using-regions-availability-zones.html")
def test_the_control_endpoint(emulator):
    mark = emulator.control("mark")["mark"]
    [one] = run(emulator)
    emulator.advance(5)
    emulator.ec2.describe_instances()
    counted = emulator.control(f"calls?since={mark}")
    assert counted["calls"] == {"DescribeInstances": 1, "RunInstances": 1} and counted["total"] == 2
    [first, _] = emulator.control(f"log?since={mark}")["log"]
    assert first["action"] == "RunInstances" and first["status"] == 200 and first["arrival_ns"] > 1e18
    emulator.command(zone={"name": "us-east-1a", "available": False})
    emulator.advance(5)
    assert emulator.control("instances")["instances"][0]["state"] == "terminated"
    zone = emulator.ec2.describe_availability_zones(ZoneNames=["us-east-1a"])["AvailabilityZones"][0]
    assert zone["State"] == "impaired"
    with pytest.raises(urllib.error.HTTPError) as caught:
        emulator.command(interrupt={"instances": [one]})
    assert "not an instance" in json.load(caught.value)["error"]


@doc("API_RunInstances")
def test_real_time_passes_by_itself(emulator_with):
    emulator = emulator_with(arguments=("--speed", "60"))
    [one] = run(emulator)
    assert eventually(lambda: emulator.instances(InstanceIds=[one])[0]["State"]["Name"] == "running")
