# SPDX-License-Identifier: GPL-3.0-or-later
"""RunInstances, the life of instances, and launch templates and tags."""

import base64
import urllib.error

import pytest

from conftest import doc

HIBERNATING = {
    "HibernationOptions": {"Configured": True},
    "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30, "Encrypted": True}}],
}


def run(emulator, count=1, **more):
    arguments = {"ImageId": "ami-12345678", "InstanceType": "c5.large", "SubnetId": "subnet-aaaa", **more}
    made = emulator.ec2.run_instances(MinCount=count, MaxCount=count, **arguments)
    return [instance["InstanceId"] for instance in made["Instances"]]


def states(emulator, ids):
    return [i["State"]["Name"] for i in emulator.instances(InstanceIds=ids)]


@doc("API_RunInstances", "API_Instance", "UserGuide/ec2-instance-lifecycle.html")
def test_the_life_of_an_instance(emulator, fails):
    ids = run(
        emulator,
        2,
        KeyName="key",
        UserData="#!/bin/sh\n",
        IamInstanceProfile={"Name": "node"},
        SecurityGroupIds=["sg-12345678"],
        Monitoring={"Enabled": True},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "one"}]}],
    )
    assert states(emulator, ids) == ["pending", "pending"]
    emulator.advance(2)
    [instance, other] = emulator.instances(InstanceIds=ids)
    assert instance["State"] == {"Code": 16, "Name": "running"}
    assert instance["PrivateIpAddress"] == "127.10.0.4"
    assert instance["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/node")
    assert (instance["AmiLaunchIndex"], other["AmiLaunchIndex"]) == (0, 1)
    assert "InstanceLifecycle" not in instance and "StateReason" not in instance
    emulator.ec2.stop_instances(InstanceIds=ids[:1])
    assert states(emulator, ids) == ["stopping", "running"]
    emulator.advance(2)
    [stopped, _] = emulator.instances(InstanceIds=ids)
    assert stopped["State"]["Name"] == "stopped"
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (")
    started = emulator.ec2.start_instances(InstanceIds=ids[:1])["StartingInstances"]
    assert started[0]["PreviousState"]["Name"] == "stopped" and started[0]["CurrentState"]["Name"] == "pending"
    emulator.advance(2)
    assert states(emulator, ids) == ["running", "running"]
    assert emulator.instances(InstanceIds=ids[:1])[0]["PrivateIpAddress"] == "127.10.0.4"
    emulator.ec2.reboot_instances(InstanceIds=ids)
    ended = emulator.ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
    assert [item["CurrentState"] for item in ended] == [{"Code": 32, "Name": "shutting-down"}] * 2
    emulator.advance(2)
    [instance, _] = emulator.instances(InstanceIds=ids)
    assert instance["State"]["Name"] == "terminated" and "PrivateIpAddress" not in instance
    again = emulator.ec2.terminate_instances(InstanceIds=ids)["TerminatingInstances"]
    assert again[0]["PreviousState"]["Name"] == "terminated"
    assert fails(emulator.ec2.start_instances, InstanceIds=ids)[0] == "IncorrectInstanceState"
    emulator.advance(2 * 3600)
    assert fails(emulator.instances, InstanceIds=ids)[0] == "InvalidInstanceID.NotFound"


@doc("API_RunInstances", "DevGuide/ec2-api-idempotency.html")
def test_run_instances_is_idempotent(emulator, fails):
    request = dict(
        ImageId="ami-12345678", InstanceType="c5.large", MinCount=2, MaxCount=2, ClientToken="t", SubnetId="subnet-aaaa"
    )
    first = emulator.ec2.run_instances(**request)
    emulator.advance(2)
    again = emulator.ec2.run_instances(**request)
    assert again["ReservationId"] == first["ReservationId"]
    assert [i["State"]["Name"] for i in again["Instances"]] == ["running", "running"]
    assert len(emulator.instances()) == 2
    request["InstanceType"] = "c5.xlarge"
    assert fails(emulator.ec2.run_instances, **request)[0] == "IdempotentParameterMismatch"


@doc("API_RunInstances")
def test_run_instances_takes_what_there_is_between_min_and_max(emulator_with, fails):
    emulator = emulator_with({"pools": [{"capacity": 3}]})
    request = dict(ImageId="ami-12345678", InstanceType="c5.large", SubnetId="subnet-aaaa")
    assert len(emulator.ec2.run_instances(MinCount=1, MaxCount=5, **request)["Instances"]) == 3
    code, status, message = fails(emulator.ec2.run_instances, MinCount=1, MaxCount=1, **request)
    assert (code, status) == ("InsufficientInstanceCapacity", 500)
    assert "c5.large" in message and "us-east-1a" in message
    assert fails(emulator.ec2.run_instances, MinCount=2, MaxCount=1, **request)[0] == "InvalidParameterValue"


@doc("API_RunInstances", "API_TerminateInstances", "API_DescribeInstances", "DevGuide/errors-overview.html")
def test_wrong_ids_and_names(emulator, fails):
    good = run(emulator)
    ec2 = emulator.ec2
    table = [
        (ec2.terminate_instances, dict(InstanceIds=good + ["i-00000000000000000"]), "InvalidInstanceID.NotFound"),
        (ec2.describe_instances, dict(InstanceIds=["i-00000000000000000"]), "InvalidInstanceID.NotFound"),
        (ec2.describe_instances, dict(InstanceIds=["instance"]), "InvalidInstanceID.Malformed"),
        (ec2.run_instances, dict(MinCount=1, MaxCount=1, ImageId="ami-12345678", InstanceType="x.y"), "InvalidInstanceType"),
        (ec2.run_instances, dict(MinCount=1, MaxCount=1, ImageId="image", InstanceType="c5.large"), "InvalidAMIID.Malformed"),
        (ec2.run_instances, dict(MinCount=1, MaxCount=1, InstanceType="c5.large"), "MissingParameter"),
        (
            ec2.run_instances,
            dict(MinCount=1, MaxCount=1, ImageId="ami-12345678", InstanceType="c5.large", SubnetId="subnet-x"),
            "InvalidSubnetID.NotFound",
        ),
        (
            ec2.run_instances,
            dict(MinCount=1, MaxCount=1, ImageId="ami-12345678", InstanceType="c5.large", Placement={"GroupName": "none"}),
            "InvalidPlacementGroup.Unknown",
        ),
        (ec2.stop_instances, dict(InstanceIds=good), "IncorrectInstanceState"),
    ]
    for call, arguments, code in table:
        assert fails(call, **arguments)[:2] == (code, 400)
    # One bad id and nothing was terminated.
    assert states(emulator, good) == ["pending"]


@doc("API_RunInstances", "API_DescribeImages")
def test_images_of_the_scenario(emulator_with, fails):
    emulator = emulator_with(
        {"images": [{"id": "ami-aaaaaaaa", "name": "compute", "architecture": "arm64", "root_gib": 20, "encrypted": True}]}
    )
    [image] = emulator.ec2.describe_images(Owners=["self"])["Images"]
    assert image["Name"] == "compute" and image["Architecture"] == "arm64"
    assert image["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    request = dict(MinCount=1, MaxCount=1)
    code = fails(emulator.ec2.run_instances, ImageId="ami-bbbbbbbb", InstanceType="c6g.large", **request)[0]
    assert code == "InvalidAMIID.NotFound"
    code, _, message = fails(emulator.ec2.run_instances, ImageId="ami-aaaaaaaa", InstanceType="c5.large", **request)
    assert code == "InvalidParameterValue" and "architecture" in message
    emulator.ec2.run_instances(ImageId="ami-aaaaaaaa", InstanceType="c6g.large", **request)
    assert fails(emulator.ec2.describe_images, ImageIds=["ami-bbbbbbbb"])[0] == "InvalidAMIID.NotFound"


@doc("UserGuide/hibernating-prerequisites.html", "UserGuide/hibernating-instances.html", "API_StopInstances")
def test_hibernation_by_the_user(emulator, fails):
    def refused(**more):
        arguments = {"ImageId": "ami-12345678", "InstanceType": "c5.large", "MinCount": 1, "MaxCount": 1, **more}
        return fails(emulator.ec2.run_instances, **arguments)[0]

    unsupported = "UnsupportedHibernationConfiguration"
    assert refused(HibernationOptions={"Configured": True}) == unsupported
    assert refused(**{**HIBERNATING, "InstanceType": "c5.metal"}) == unsupported
    assert refused(**{**HIBERNATING, "InstanceType": "r5.4xlarge"}) == unsupported
    [instance] = run(emulator, **HIBERNATING)
    [plain] = run(emulator)
    emulator.advance(1.5)
    code = fails(emulator.ec2.stop_instances, InstanceIds=[instance], Hibernate=True)[0]
    assert code == "UnsupportedOperation"
    emulator.advance(5)
    assert fails(emulator.ec2.stop_instances, InstanceIds=[plain], Hibernate=True)[0] == unsupported
    before = emulator.instances(InstanceIds=[instance])[0]
    emulator.ec2.stop_instances(InstanceIds=[instance], Hibernate=True)
    emulator.advance(5)
    [asleep] = emulator.instances(InstanceIds=[instance])
    assert asleep["State"]["Name"] == "stopped"
    assert asleep["StateReason"]["Code"] == "Client.UserInitiatedHibernate"
    emulator.ec2.start_instances(InstanceIds=[instance])
    emulator.advance(5)
    [after] = emulator.instances(InstanceIds=[instance])
    assert after["State"]["Name"] == "running"
    for same in ("PrivateIpAddress", "NetworkInterfaces", "BlockDeviceMappings", "InstanceId", "SubnetId"):
        assert after[same] == before[same]
    moments = [s["moment"] for s in emulator.control("signals")["signals"] if s["instance_id"] == instance]
    assert moments == ["boot", "hibernate", "resume"]


@doc("API_DescribeInstances", "API_Filter")
def test_filters(emulator, fails):
    [one] = run(emulator, TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "cluster", "Value": "blue"}]}])
    [two] = run(emulator, InstanceType="m5.large", SubnetId="subnet-bbbb")
    emulator.advance(2)
    emulator.ec2.terminate_instances(InstanceIds=[two])

    def found(*filters):
        return [
            i["InstanceId"] for i in emulator.instances(Filters=[{"Name": n, "Values": list(v)} for n, *v in filters])
        ]

    instance = emulator.instances(InstanceIds=[one])[0]
    for filters, want in [
        ([("tag:cluster", "blue")], [one]),
        ([("tag:cluster", "b*")], [one]),
        ([("tag:cluster", "green", "blue")], [one]),
        ([("tag:cluster", "green")], []),
        ([("tag-key", "cluster")], [one]),
        ([("instance-state-name", "running", "shutting-down")], [one, two]),
        ([("instance-state-name", "running"), ("instance-type", "m5.*")], []),
        ([("instance-state-code", "16")], [one]),
        ([("availability-zone", "us-east-1b")], [two]),
        ([("subnet-id", "subnet-aaaa")], [one]),
        ([("private-ip-address", instance["PrivateIpAddress"])], [one]),
        ([("private-dns-name", instance["PrivateDnsName"])], [one]),
        ([("network-interface.network-interface-id", instance["NetworkInterfaces"][0]["NetworkInterfaceId"])], [one]),
        ([("image-id", "ami-12345678"), ("launch-index", "0")], [one, two]),
        ([("instance-lifecycle", "spot")], []),
        ([("vpc-id", instance["VpcId"])], [one, two]),
        ([("owner-id", "123456789012")], [one, two]),
        ([("client-token", "none")], []),
    ]:
        assert found(*filters) == want, filters
    code, _, message = fails(emulator.ec2.describe_instances, Filters=[{"Name": "colour", "Values": ["red"]}])
    assert code == "InvalidParameterValue" and "colour" in message
    many = [str(n) for n in range(201)]
    code = fails(emulator.ec2.describe_instances, Filters=[{"Name": "instance-id", "Values": many}])[0]
    assert code == "FilterLimitExceeded"


@doc("API_DescribeInstances", "DevGuide/query-requests.html")
def test_pages(emulator, fails):
    ids = [instance for n in range(6) for instance in run(emulator, 2)]
    pages = list(emulator.ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
    assert len(pages) == 3
    assert [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]] == ids
    ec2 = emulator.ec2
    assert fails(ec2.describe_instances, MaxResults=4)[0] == "InvalidParameterValue"
    assert fails(ec2.describe_instances, MaxResults=1001)[0] == "InvalidParameterValue"
    assert fails(ec2.describe_instances, MaxResults=5, InstanceIds=ids[:1])[0] == "InvalidParameterCombination"
    assert fails(ec2.describe_instances, NextToken="nonsense")[0] == "InvalidNextToken"


@doc("API_DescribeInstanceStatus", "API_InstanceStatusEvent", "UserGuide/monitoring-system-instance-status-check.html")
def test_status_checks_and_scheduled_events(emulator):
    [one] = run(emulator)
    assert emulator.ec2.describe_instance_status()["InstanceStatuses"] == []
    [pending] = emulator.ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    assert pending["InstanceStatus"]["Status"] == "not-applicable"

    def check():
        [status] = emulator.ec2.describe_instance_status(InstanceIds=[one])["InstanceStatuses"]
        return status["InstanceStatus"]["Status"], status["InstanceStatus"]["Details"][0]["Status"]

    emulator.advance(1.5)
    assert check() == ("initializing", "initializing")
    emulator.advance(5)
    assert check() == ("ok", "passed")
    emulator.command(impair={"instances": [one]})
    assert check() == ("impaired", "failed")
    [found] = emulator.ec2.describe_instance_status(
        Filters=[{"Name": "instance-status.status", "Values": ["impaired"]}]
    )["InstanceStatuses"]
    assert found["InstanceId"] == one and found["SystemStatus"]["Status"] == "ok"
    emulator.command(impair={"instances": [one], "impaired": False})
    emulator.command(event={"instances": [one], "code": "instance-stop", "in_ms": 60000})
    [status] = emulator.ec2.describe_instance_status(
        Filters=[{"Name": "event.code", "Values": ["instance-stop"]}]
    )["InstanceStatuses"]
    assert status["Events"][0]["Code"] == "instance-stop"
    emulator.advance(70)
    assert states(emulator, [one]) == ["stopped"]


@doc("API_ModifyInstanceAttribute", "API_DescribeInstanceAttribute", "API_ModifyInstanceMetadataOptions")
def test_attributes(emulator, fails):
    [one] = run(emulator)
    emulator.advance(5)
    ec2 = emulator.ec2

    def attribute(name):
        answer = ec2.describe_instance_attribute(InstanceId=one, Attribute=name)
        return answer[name[0].upper() + name[1:]]

    assert fails(ec2.modify_instance_attribute, InstanceId=one, InstanceType={"Value": "m5.large"})[0] == "IncorrectInstanceState"
    ec2.modify_instance_attribute(InstanceId=one, DisableApiTermination={"Value": True})
    assert attribute("disableApiTermination") == {"Value": True}
    assert fails(ec2.terminate_instances, InstanceIds=[one])[0] == "OperationNotPermitted"
    ec2.modify_instance_attribute(InstanceId=one, Attribute="disableApiTermination", Value="false")
    ec2.modify_instance_attribute(InstanceId=one, DisableApiStop={"Value": True})
    assert fails(ec2.stop_instances, InstanceIds=[one])[0] == "OperationNotPermitted"
    ec2.modify_instance_attribute(InstanceId=one, DisableApiStop={"Value": False})
    ec2.modify_instance_attribute(InstanceId=one, Groups=["sg-12345678"])
    ec2.modify_instance_attribute(
        InstanceId=one, BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"DeleteOnTermination": False}}]
    )
    ec2.stop_instances(InstanceIds=[one])
    emulator.advance(5)
    ec2.modify_instance_attribute(InstanceId=one, InstanceType={"Value": "m5.large"})
    ec2.modify_instance_attribute(InstanceId=one, UserData={"Value": b"#!/bin/sh\n"})
    assert attribute("instanceType") == {"Value": "m5.large"}
    assert base64.b64decode(attribute("userData")["Value"])
    assert ec2.describe_instance_attribute(InstanceId=one, Attribute="groupSet")["Groups"][0]["GroupId"] == "sg-12345678"
    mapped = ec2.describe_instance_attribute(InstanceId=one, Attribute="blockDeviceMapping")["BlockDeviceMappings"]
    assert mapped[0]["Ebs"]["DeleteOnTermination"] is False
    answer = ec2.modify_instance_metadata_options(InstanceId=one, HttpTokens="required", InstanceMetadataTags="enabled")
    assert answer["InstanceMetadataOptions"]["HttpTokens"] == "required"
    ec2.start_instances(InstanceIds=[one])
    emulator.advance(5)
    assert emulator.instances(InstanceIds=[one])[0]["InstanceType"] == "m5.large"
    volume = mapped[0]["Ebs"]["VolumeId"]
    ec2.terminate_instances(InstanceIds=[one])
    emulator.advance(5)
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"] == "available"


@doc("UserGuide/instancedata-data-retrieval.html", "UserGuide/work-with-tags-in-IMDS.html", "UserGuide/configuring-instance-metadata-service.html")
def test_instance_metadata(emulator):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "at-launch", "Value": "1"}]}]
    shown = {"InstanceMetadataTags": "enabled", "HttpTokens": "required"}
    [nitro] = run(emulator, MetadataOptions=shown, TagSpecifications=tags)
    [xen] = run(emulator, InstanceType="c4.large", MetadataOptions={"InstanceMetadataTags": "enabled"}, TagSpecifications=tags)
    [hidden] = run(emulator, TagSpecifications=tags)
    emulator.advance(5)
    emulator.ec2.create_tags(Resources=[nitro, xen, hidden], Tags=[{"Key": "later", "Value": "2"}])
    with pytest.raises(urllib.error.HTTPError) as caught:
        emulator.metadata(nitro, "latest/meta-data/instance-id")
    assert caught.value.code == 401

    def token(instance, ttl="60"):
        import urllib.request

        request = urllib.request.Request(f"{emulator.url}/imds/{instance}/latest/api/token", method="PUT")
        request.add_header("X-aws-ec2-metadata-token-ttl-seconds", ttl)
        return urllib.request.urlopen(request).read().decode()

    session = token(nitro)
    assert emulator.metadata(nitro, "latest/meta-data/instance-id", session) == nitro
    assert emulator.metadata(nitro, "latest/meta-data/tags/instance/later", session) == "2"
    assert emulator.metadata(nitro, "latest/meta-data/tags/instance", session) == "at-launch\nlater"
    assert emulator.metadata(xen, "latest/meta-data/tags/instance") == "at-launch"
    assert emulator.metadata(xen, "latest/meta-data/local-ipv4") == "127.10.0.5"
    for instance, path, code in [
        (hidden, "latest/meta-data/tags/instance", 404),
        (xen, "latest/meta-data/spot/instance-action", 404),
        ("i-00000000000000000", "latest/meta-data/", 404),
    ]:
        with pytest.raises(urllib.error.HTTPError) as caught:
            emulator.metadata(instance, path)
        assert caught.value.code == code
    with pytest.raises(urllib.error.HTTPError) as caught:
        token(nitro, "99999")
    assert caught.value.code == 400
    emulator.advance(61)
    with pytest.raises(urllib.error.HTTPError) as caught:
        emulator.metadata(nitro, "latest/meta-data/instance-id", session)
    assert caught.value.code == 401


@doc("API_CreateTags", "API_DeleteTags", "API_DescribeTags", "UserGuide/Using_Tags.html")
def test_tags(emulator, fails):
    [one] = run(emulator)
    ec2 = emulator.ec2
    ec2.create_tags(Resources=[one, "subnet-aaaa"], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    rows = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [one]}])["Tags"]
    assert [(row["Key"], row["Value"], row["ResourceType"]) for row in rows] == [
        ("a", "1", "instance"),
        ("b", "2", "instance"),
    ]
    ec2.create_tags(Resources=[one], Tags=[{"Key": "a", "Value": "3"}])
    ec2.delete_tags(Resources=[one], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    assert emulator.instances()[0]["Tags"] == [{"Key": "a", "Value": "3"}]
    ec2.delete_tags(Resources=[one])
    assert "Tags" not in emulator.instances()[0] or emulator.instances()[0]["Tags"] == []
    pages = ec2.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 5})
    assert [row["ResourceId"] for page in pages for row in page["Tags"]] == ["subnet-aaaa", "subnet-aaaa"]
    for resources, tags, code in [
        (["i-00000000000000000"], [{"Key": "a", "Value": "1"}], "InvalidInstanceID.NotFound"),
        (["nothing"], [{"Key": "a", "Value": "1"}], "InvalidID"),
        ([one], [{"Key": "aws:x", "Value": "1"}], "InvalidParameterValue"),
        ([one], [{"Key": "a", "Value": "v" * 257}], "InvalidParameterValue"),
        ([one], [{"Key": "k" * 129, "Value": ""}], "InvalidParameterValue"),
        ([one], [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}], "InvalidParameterValue"),
        ([one], [{"Key": f"k{n}", "Value": ""} for n in range(51)], "TagLimitExceeded"),
        ([one] * 1001, [{"Key": "a", "Value": "1"}], "InvalidParameterValue"),
    ]:
        assert fails(ec2.create_tags, Resources=resources, Tags=tags)[:2] == (code, 400)


@doc("API_CreateLaunchTemplate", "API_CreateLaunchTemplateVersion", "API_DescribeLaunchTemplates", "API_DescribeLaunchTemplateVersions", "API_ModifyLaunchTemplate", "API_DeleteLaunchTemplate")
def test_launch_templates(emulator, fails):
    ec2 = emulator.ec2
    everything = {
        "EbsOptimized": True,
        "IamInstanceProfile": {"Name": "node"},
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}},
            {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
            {"DeviceName": "/dev/sdc", "NoDevice": ""},
        ],
        "NetworkInterfaces": [
            {"DeviceIndex": 0, "SubnetId": "subnet-bbbb", "Groups": ["sg-12345678"], "AssociatePublicIpAddress": False, "DeleteOnTermination": True}
        ],
        "ImageId": "ami-12345678",
        "InstanceType": "c5.large",
        "KeyName": "key",
        "Monitoring": {"Enabled": True},
        "Placement": {"AvailabilityZone": "us-east-1b", "Tenancy": "default"},
        "DisableApiTermination": False,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "UserData": "IyEvYmluL3NoCg==",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}],
        "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.5", "SpotInstanceType": "one-time"}},
        "CreditSpecification": {"CpuCredits": "standard"},
        "CpuOptions": {"CoreCount": 1, "ThreadsPerCore": 1},
        "CapacityReservationSpecification": {"CapacityReservationPreference": "open"},
        "HibernationOptions": {"Configured": False},
        "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled", "HttpPutResponseHopLimit": 2},
        "EnclaveOptions": {"Enabled": False},
        "MaintenanceOptions": {"AutoRecovery": "default"},
        "DisableApiStop": False,
    }
    made = ec2.create_launch_template(
        LaunchTemplateName="node",
        VersionDescription="first",
        LaunchTemplateData=everything,
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "team", "Value": "hpc"}]}],
    )["LaunchTemplate"]
    assert (made["DefaultVersionNumber"], made["LatestVersionNumber"]) == (1, 1)
    [version] = ec2.describe_launch_template_versions(LaunchTemplateId=made["LaunchTemplateId"])["LaunchTemplateVersions"]
    assert version["LaunchTemplateData"] == everything
    assert version["VersionDescription"] == "first" and version["DefaultVersion"] is True
    second = ec2.create_launch_template_version(
        LaunchTemplateName="node", SourceVersion="1", LaunchTemplateData={"InstanceType": "m5.large"}
    )["LaunchTemplateVersion"]
    assert second["VersionNumber"] == 2 and second["LaunchTemplateData"]["KeyName"] == "key"
    assert second["LaunchTemplateData"]["InstanceType"] == "m5.large"
    numbers = [
        v["VersionNumber"]
        for v in ec2.describe_launch_template_versions(LaunchTemplateName="node", Versions=["$Latest", "$Default"])["LaunchTemplateVersions"]
    ]
    assert numbers == [2, 1]
    ec2.modify_launch_template(LaunchTemplateName="node", DefaultVersion="2")
    [found] = ec2.describe_launch_templates(LaunchTemplateNames=["node"])["LaunchTemplates"]
    assert (found["DefaultVersionNumber"], found["LatestVersionNumber"]) == (2, 2)
    assert found["Tags"] == [{"Key": "team", "Value": "hpc"}]
    run_with = ec2.run_instances(MinCount=1, MaxCount=1, LaunchTemplate={"LaunchTemplateName": "node"})["Instances"][0]
    assert run_with["InstanceType"] == "m5.large" and run_with["SubnetId"] == "subnet-bbbb"
    assert run_with["InstanceLifecycle"] == "spot" and run_with["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 1}
    assert fails(ec2.create_launch_template, LaunchTemplateName="node", LaunchTemplateData={"KeyName": "k"})[0] == "InvalidLaunchTemplateName.AlreadyExistsException"
    assert fails(ec2.describe_launch_template_versions, LaunchTemplateName="node", Versions=["9"])[0] == "InvalidLaunchTemplateId.VersionNotFound"
    assert fails(ec2.describe_launch_templates, LaunchTemplateNames=["none"])[0] == "InvalidLaunchTemplateName.NotFoundException"
    assert fails(ec2.describe_launch_templates, LaunchTemplateIds=["lt-00000000000000000"])[0] == "InvalidLaunchTemplateId.NotFound"
    ec2.delete_launch_template(LaunchTemplateName="node")
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []


@doc("API_CreateLaunchTemplate", "API_ValidationWarning")
def test_a_template_that_cannot_launch_is_made_with_a_warning(emulator, fails):
    made = emulator.ec2.create_launch_template(
        LaunchTemplateName="odd", LaunchTemplateData={"ImageId": "ami-12345678", "InstanceType": "c5.enormous"}
    )
    assert [error["Code"] for error in made["Warning"]["Errors"]] == ["InvalidInstanceType"]
    code = fails(emulator.ec2.run_instances, MinCount=1, MaxCount=1, LaunchTemplate={"LaunchTemplateName": "odd"})[0]
    assert code == "InvalidInstanceType"


@doc("API_GetConsoleOutput", "UserGuide/troubleshoot-unreachable-instance.html")
def test_boot_failures(emulator_with):
    emulator = emulator_with(
        {
            "boots": [
                {"type": "c5.*", "outcome": "terminated"},
                {"type": "m5.*", "outcome": "impaired"},
                {"type": "r5.*", "outcome": {"slow": 60000}},
            ]
        }
    )
    [dead], [impaired], [slow] = (run(emulator, InstanceType=name) for name in ("c5.large", "m5.large", "r5.large"))
    emulator.advance(30)
    assert states(emulator, [dead, impaired, slow]) == ["terminated", "running", "pending"]
    [gone] = emulator.instances(InstanceIds=[dead])
    assert gone["StateReason"]["Code"] == "Server.InternalError"
    assert "panic" in emulator.ec2.get_console_output(InstanceId=impaired)["Output"]
    moments = {s["instance_id"] for s in emulator.control("signals")["signals"]}
    assert moments == set()
    emulator.advance(60)
    assert states(emulator, [slow]) == ["running"]
    assert {s["instance_id"] for s in emulator.control("signals")["signals"]} == {slow}
