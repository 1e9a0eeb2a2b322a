# SPDX-License-Identifier: GPL-3.0-or-later
"""The same calls to the emulator and to moto's server: they agree in every field that the plugin reads.

Where moto is known to differ from EC2, the case says so and leaves the field out.
"""

import botocore.exceptions
import pytest

from conftest import client, doc


@pytest.fixture
def both(emulator, moto_url):
    """Runs a case against each and compares what it returns."""

    def run(case):
        ours = case(emulator.ec2, lambda: emulator.advance(10))
        theirs = case(client(moto_url), lambda: None)
        assert ours == theirs
        return ours

    return run


def world(ec2):
    """An image, and a subnet of the first zone, of whichever server this is."""
    images = ec2.describe_images(Owners=["amazon"], Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"]
    image = images[0]["ImageId"] if images else "ami-12345678"
    subnets = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}])["Subnets"]
    return image, subnets[0]["SubnetId"]


def code_of(call, **arguments):
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


@doc("API_DescribeInstanceTypes")
def test_facts_of_instance_types(both, emulator):
    pages = emulator.ec2.get_paginator("describe_instance_types").paginate()
    # moto has no p3 any more.
    names = [t["InstanceType"] for page in pages for t in page["InstanceTypes"] if not t["InstanceType"].startswith("p3")]
    assert len(names) > 100

    def case(ec2, settle):
        facts = {}
        for at in range(0, len(names), 50):
            for found in ec2.describe_instance_types(InstanceTypes=names[at : at + 50])["InstanceTypes"]:
                facts[found["InstanceType"]] = {
                    "vcpus": found["VCpuInfo"]["DefaultVCpus"],
                    "cores": found["VCpuInfo"]["DefaultCores"],
                    "threads": found["VCpuInfo"]["DefaultThreadsPerCore"],
                    "memory": found["MemoryInfo"]["SizeInMiB"],
                    "gpus": [(gpu["Name"], gpu["Count"]) for gpu in found.get("GpuInfo", {}).get("Gpus", [])],
                    "architecture": found["ProcessorInfo"]["SupportedArchitectures"][-1],
                    "hypervisor": found.get("Hypervisor"),
                    "bare metal": found["BareMetal"],
                    "hibernation": found["HibernationSupported"],
                    "network": found["NetworkInfo"]["NetworkPerformance"],
                    "efa": found["NetworkInfo"].get("EfaSupported", False),
                    "local disk": found["InstanceStorageSupported"],
                }
        return facts

    both(case)


@doc("API_RunInstances", "API_DescribeInstances", "API_CreateTags", "API_TerminateInstances")
def test_instances(both):
    def case(ec2, settle):
        image, subnet = world(ec2)
        made = ec2.run_instances(
            ImageId=image,
            InstanceType="c5.large",
            SubnetId=subnet,
            MinCount=2,
            MaxCount=2,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "cluster", "Value": "moto-case"}]}],
        )
        ids = [i["InstanceId"] for i in made["Instances"]]
        settle()
        ec2.create_tags(Resources=ids[:1], Tags=[{"Key": "Name", "Value": "node-1"}])
        mine = [{"Name": "tag:cluster", "Values": ["moto-case"]}, {"Name": "instance-state-name", "Values": ["pending", "running"]}]
        found = [i for r in ec2.describe_instances(Filters=mine)["Reservations"] for i in r["Instances"]]
        seen = [
            {
                "known": i["InstanceId"] in ids,
                "state": i["State"],
                "type": i["InstanceType"],
                "zone": i["Placement"]["AvailabilityZone"],
                "subnet": i["SubnetId"] == subnet,
                "image": i["ImageId"] == image,
                "index": i["AmiLaunchIndex"],
                "address": i["PrivateIpAddress"].count("."),
                "name": i["PrivateDnsName"].split(".", 1)[1],
                "spot": i.get("InstanceLifecycle"),
                "architecture": i["Architecture"],
                "root": i["RootDeviceType"],
                "tags": sorted((t["Key"], t["Value"]) for t in i["Tags"]),
            }
            for i in found
        ]
        tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": ids[:1]}])["Tags"]
        ended = ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
        settle()
        left = [i for r in ec2.describe_instances(Filters=mine)["Reservations"] for i in r["Instances"]]
        return {
            "one reservation": len({r["ReservationId"] for r in ec2.describe_instances(InstanceIds=ids)["Reservations"]}),
            "instances": seen,
            "tags": sorted((t["Key"], t["Value"], t["ResourceType"]) for t in tags),
            "ended": [(i["InstanceId"] in ids, i["CurrentState"], i["PreviousState"]) for i in ended],
            "left": left,
        }

    answer = both(case)
    assert len(answer["instances"]) == 2


@doc("API_CreateLaunchTemplate", "API_CreateLaunchTemplateVersion", "API_DescribeLaunchTemplateVersions")
def test_launch_templates(both):
    def case(ec2, settle):
        image, _ = world(ec2)
        made = ec2.create_launch_template(
            LaunchTemplateName="moto-case",
            LaunchTemplateData={
                "ImageId": image,
                "InstanceType": "c5.large",
                "KeyName": "key",
                "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}],
            },
        )["LaunchTemplate"]
        second = ec2.create_launch_template_version(
            # moto does not carry over what SourceVersion has, so the case gives it again.
            LaunchTemplateName="moto-case",
            SourceVersion="1",
            LaunchTemplateData={"InstanceType": "m5.large", "ImageId": image, "KeyName": "key"},
        )["LaunchTemplateVersion"]
        versions = ec2.describe_launch_template_versions(LaunchTemplateName="moto-case", Versions=["1", "$Latest", "$Default"])
        rows = [
            (
                v["VersionNumber"],
                v["DefaultVersion"],
                v["LaunchTemplateData"]["InstanceType"],
                v["LaunchTemplateData"]["ImageId"] == image,
                v["LaunchTemplateData"].get("KeyName"),
            )
            for v in versions["LaunchTemplateVersions"]
        ]
        [found] = ec2.describe_launch_templates(LaunchTemplateNames=["moto-case"])["LaunchTemplates"]
        ec2.delete_launch_template(LaunchTemplateName="moto-case")
        return {
            "made": (made["LaunchTemplateName"], made["DefaultVersionNumber"], made["LatestVersionNumber"]),
            "second": second["VersionNumber"],
            # moto lists the versions of a request in ascending order, EC2 in the order asked for.
            "rows": sorted(rows, key=str)[:1] + [sorted({row[0] for row in rows})],
            "found": (found["DefaultVersionNumber"], found["LatestVersionNumber"]),
        }

    both(case)


@doc("API_CreateFleet", "API_CreateFleetInstance", "API_DeleteFleets")
@pytest.mark.parametrize("lifecycle", ["on-demand", "spot"])
def test_instant_fleets(both, lifecycle):
    def case(ec2, settle):
        image, subnet = world(ec2)
        name = f"moto-fleet-{lifecycle}"
        template = ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": image, "InstanceType": "c5.large"}
        )["LaunchTemplate"]["LaunchTemplateId"]
        made = ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "1"},
                    "Overrides": [{"InstanceType": "c5.large", "SubnetId": subnet}],
                }
            ],
            TargetCapacitySpecification={"TotalTargetCapacity": 2, "DefaultTargetCapacityType": lifecycle},
            TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "case", "Value": name}]}],
        )
        settle()
        ids = [i for part in made["Instances"] for i in part["InstanceIds"]]
        found = [
            i
            for r in ec2.describe_instances(Filters=[{"Name": "tag:case", "Values": [name]}])["Reservations"]
            for i in r["Instances"]
        ]
        answer = {
            "parts": sorted((part["Lifecycle"], part["InstanceType"]) for part in made["Instances"])[:1],
            "count": len(ids),
            "errors": made.get("Errors", []),
            "same": sorted(i["InstanceId"] for i in found) == sorted(ids),
            # moto gives the instances of an instant fleet no aws:ec2:fleet-id.
            "lifecycles": {i.get("InstanceLifecycle") for i in found},
            "subnets": {i["SubnetId"] == subnet for i in found},
        }
        ended = ec2.delete_fleets(FleetIds=[made["FleetId"]], TerminateInstances=True)
        answer["deleted"] = len(ended["SuccessfulFleetDeletions"])
        settle()
        # moto deletes without the stage deleted_terminating.
        states = {i["State"]["Name"] for r in ec2.describe_instances(InstanceIds=ids)["Reservations"] for i in r["Instances"]}
        answer["states"] = states
        ec2.delete_launch_template(LaunchTemplateId=template)
        return answer

    both(case)


@doc("API_DescribeSubnets", "API_DescribeAvailabilityZones")
def test_subnets(both):
    def case(ec2, settle):
        [subnet] = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}])["Subnets"]
        [same] = ec2.describe_subnets(SubnetIds=[subnet["SubnetId"]])["Subnets"]
        return {
            "same": same["SubnetId"] == subnet["SubnetId"],
            "zone": subnet["AvailabilityZone"],
            "state": subnet["State"],
            "default": subnet["DefaultForAz"],
            "free": subnet["AvailableIpAddressCount"] > 0,
        }

    both(case)


@doc("API_DescribeInstanceStatus")
def test_status(both):
    def case(ec2, settle):
        image, subnet = world(ec2)
        [made] = ec2.run_instances(ImageId=image, InstanceType="c5.large", SubnetId=subnet, MinCount=1, MaxCount=1)["Instances"]
        settle()
        [status] = ec2.describe_instance_status(InstanceIds=[made["InstanceId"]])["InstanceStatuses"]
        return (
            status["InstanceState"],
            status["InstanceStatus"]["Status"],
            status["InstanceStatus"]["Details"],
            status["SystemStatus"]["Status"],
        )

    both(case)


@doc("DevGuide/errors-overview.html")
def test_errors(both):
    def case(ec2, settle):
        image, _ = world(ec2)
        return [
            code_of(ec2.describe_instances, InstanceIds=["i-00000000000000000"]),
            code_of(ec2.terminate_instances, InstanceIds=["i-00000000000000000"]),
            code_of(ec2.describe_subnets, SubnetIds=["subnet-00000000000000000"]),
            code_of(ec2.run_instances, ImageId=image, InstanceType="c5.large", MinCount=1, MaxCount=1, DryRun=True),
            code_of(ec2.describe_volumes, VolumeIds=["vol-00000000000000000"]),
            code_of(ec2.describe_launch_template_versions, LaunchTemplateId="lt-00000000000000000"),
            code_of(ec2.describe_instance_types, InstanceTypes=["no.such"]),
        ]

    both(case)
