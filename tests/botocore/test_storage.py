# SPDX-License-Identifier: GPL-3.0-or-later
"""Volumes, interfaces, capacity reservations, placement groups."""

from conftest import doc
from test_fleets import config, target
from test_instances import run


@doc("API_CreateVolume", "API_AttachVolume", "API_DetachVolume", "API_DescribeVolumes", "API_DeleteVolume")
def test_volumes(emulator, fails):
    ec2 = emulator.ec2
    [one] = run(emulator)
    emulator.advance(5)
    made = ec2.create_volume(
        AvailabilityZone="us-east-1a", Size=10, VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}],
    )
    volume = made["VolumeId"]
    assert made["State"] == "available" and made["Iops"] == 3000
    assert ec2.attach_volume(VolumeId=volume, InstanceId=one, Device="/dev/sdf")["State"] == "attaching"
    emulator.advance(1)
    [found] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [one]}, {"Name": "size", "Values": ["10"]}])["Volumes"]
    assert found["State"] == "in-use" and found["Attachments"][0]["State"] == "attached"
    assert fails(ec2.delete_volume, VolumeId=volume)[0] == "VolumeInUse"
    assert fails(ec2.attach_volume, VolumeId=volume, InstanceId=one, Device="/dev/sdg")[0] == "VolumeInUse"
    root = emulator.instances()[0]["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert fails(ec2.detach_volume, VolumeId=root)[0] == "OperationNotPermitted"
    assert ec2.detach_volume(VolumeId=volume)["State"] == "detaching"
    emulator.advance(1)
    elsewhere = ec2.create_volume(AvailabilityZone="us-east-1b", Size=1)["VolumeId"]
    assert fails(ec2.attach_volume, VolumeId=elsewhere, InstanceId=one, Device="/dev/sdh")[0] == "InvalidVolume.ZoneMismatch"
    ec2.delete_volume(VolumeId=volume)
    assert fails(ec2.describe_volumes, VolumeIds=[volume])[0] == "InvalidVolume.NotFound"
    ec2.terminate_instances(InstanceIds=[one])
    emulator.advance(5)
    assert [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]] == [elsewhere]


@doc("API_DetachVolume", "API_ModifyNetworkInterfaceAttribute", "API_AttachNetworkInterface", "UserGuide/using-eni.html")
def test_a_stopped_instances_disk_and_address_move_to_another(emulator):
    """What the move of a sleeping node to on-demand capacity needs."""
    ec2 = emulator.ec2
    eni = ec2.create_network_interface(SubnetId="subnet-aaaa")["NetworkInterface"]
    [old] = run(emulator)
    emulator.advance(5)
    attached = ec2.attach_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"], InstanceId=old, DeviceIndex=1)
    emulator.advance(5)
    ec2.modify_network_interface_attribute(
        NetworkInterfaceId=eni["NetworkInterfaceId"],
        Attachment={"AttachmentId": attached["AttachmentId"], "DeleteOnTermination": False},
    )
    ec2.stop_instances(InstanceIds=[old])
    emulator.advance(5)
    root = emulator.instances(InstanceIds=[old])[0]["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    ec2.detach_volume(VolumeId=root)
    ec2.detach_network_interface(AttachmentId=attached["AttachmentId"])
    emulator.advance(5)
    [new] = run(emulator)
    emulator.advance(5)
    ec2.stop_instances(InstanceIds=[new])
    emulator.advance(5)
    ec2.detach_volume(VolumeId=emulator.instances(InstanceIds=[new])[0]["BlockDeviceMappings"][0]["Ebs"]["VolumeId"])
    emulator.advance(5)
    ec2.attach_volume(VolumeId=root, InstanceId=new, Device="/dev/xvda")
    ec2.attach_network_interface(NetworkInterfaceId=eni["NetworkInterfaceId"], InstanceId=new, DeviceIndex=1)
    emulator.advance(5)
    ec2.start_instances(InstanceIds=[new])
    emulator.advance(5)
    [moved] = emulator.instances(InstanceIds=[new])
    assert moved["State"]["Name"] == "running"
    assert moved["BlockDeviceMappings"][0]["Ebs"]["VolumeId"] == root
    assert eni["PrivateIpAddress"] in [i["PrivateIpAddress"] for i in moved["NetworkInterfaces"]]


@doc("API_CreateNetworkInterface", "API_DescribeNetworkInterfaces", "API_DetachNetworkInterface", "API_DeleteNetworkInterface")
def test_network_interfaces(emulator, fails):
    ec2 = emulator.ec2
    [one] = run(emulator)
    made = ec2.create_network_interface(
        SubnetId="subnet-aaaa", Description="second", PrivateIpAddress="127.10.0.99", Groups=["sg-12345678"], ClientToken="t",
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}],
    )["NetworkInterface"]
    assert made["Status"] == "available" and made["PrivateIpAddress"] == "127.10.0.99"
    eni = made["NetworkInterfaceId"]
    again = ec2.create_network_interface(SubnetId="subnet-aaaa", Description="second", PrivateIpAddress="127.10.0.99", Groups=["sg-12345678"], ClientToken="t",
        TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}])
    assert again["NetworkInterface"]["NetworkInterfaceId"] == eni
    assert fails(ec2.create_network_interface, SubnetId="subnet-aaaa", PrivateIpAddress="127.10.0.99")[0] == "InvalidIPAddress.InUse"
    attachment = ec2.attach_network_interface(NetworkInterfaceId=eni, InstanceId=one, DeviceIndex=1)["AttachmentId"]
    emulator.advance(1)
    assert fails(ec2.delete_network_interface, NetworkInterfaceId=eni)[0] == "InvalidNetworkInterface.InUse"
    rows = ec2.describe_network_interfaces(Filters=[{"Name": "attachment.instance-id", "Values": [one]}])["NetworkInterfaces"]
    assert sorted(row["Attachment"]["DeviceIndex"] for row in rows) == [0, 1]
    primary = next(row["Attachment"]["AttachmentId"] for row in rows if row["Attachment"]["DeviceIndex"] == 0)
    assert fails(ec2.detach_network_interface, AttachmentId=primary)[0] == "OperationNotPermitted"
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Description={"Value": "new"})
    ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=["sg-87654321"])
    [row] = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"]
    assert row["Description"] == "new" and row["Groups"][0]["GroupId"] == "sg-87654321"
    ec2.detach_network_interface(AttachmentId=attachment)
    emulator.advance(1)
    ec2.delete_network_interface(NetworkInterfaceId=eni)
    assert fails(ec2.describe_network_interfaces, NetworkInterfaceIds=[eni])[0] == "InvalidNetworkInterfaceID.NotFound"


@doc("API_CreateCapacityReservation", "API_DescribeCapacityReservations", "API_CancelCapacityReservation", "UserGuide/ec2-capacity-reservations.html")
def test_capacity_reservations(emulator_with, fails):
    emulator = emulator_with({"pools": [{"type": "c5.large", "zone": "us-east-1a", "lifecycle": "on-demand", "capacity": 2}]})
    ec2 = emulator.ec2
    arguments = dict(InstanceType="c5.large", InstancePlatform="Linux/UNIX", AvailabilityZone="us-east-1a")
    assert fails(ec2.create_capacity_reservation, InstanceCount=3, **arguments)[0] == "InsufficientInstanceCapacity"
    made = ec2.create_capacity_reservation(InstanceCount=2, InstanceMatchCriteria="targeted", **arguments)["CapacityReservation"]
    reservation = made["CapacityReservationId"]
    assert (made["TotalInstanceCount"], made["AvailableInstanceCount"], made["State"]) == (2, 2, "active")
    request = dict(ImageId="ami-12345678", InstanceType="c5.large", SubnetId="subnet-aaaa", MinCount=1, MaxCount=1)
    assert fails(ec2.run_instances, **request)[0] == "InsufficientInstanceCapacity"
    into = {"CapacityReservationSpecification": {"CapacityReservationTarget": {"CapacityReservationId": reservation}}}
    for _ in range(2):
        [instance] = ec2.run_instances(**request, **into)["Instances"]
        assert instance["CapacityReservationId"] == reservation
    assert fails(ec2.run_instances, **request, **into)[0] == "ReservationCapacityExceeded"
    [found] = ec2.describe_capacity_reservations(Filters=[{"Name": "state", "Values": ["active"]}])["CapacityReservations"]
    assert found["AvailableInstanceCount"] == 0
    ec2.terminate_instances(InstanceIds=[i["InstanceId"] for i in emulator.instances()])
    emulator.advance(5)
    ec2.cancel_capacity_reservation(CapacityReservationId=reservation)
    assert len(ec2.run_instances(**{**request, "MaxCount": 5})["Instances"]) == 2
    assert fails(ec2.cancel_capacity_reservation, CapacityReservationId="cr-0")[0] == "InvalidCapacityReservationId.NotFound"


@doc("UserGuide/ec2-fleet-on-demand-capacity-reservations.html", "API_CapacityReservationOptionsRequest")
def test_fleets_use_open_reservations_first(emulator):
    ec2 = emulator.ec2
    ec2.create_capacity_reservation(InstanceType="m5.large", InstancePlatform="Linux/UNIX", AvailabilityZone="us-east-1a", InstanceCount=1)
    made = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=config(emulator.template(), ("c5.large", "m5.large")),
        TargetCapacitySpecification=target(1),
        OnDemandOptions={"CapacityReservationOptions": {"UsageStrategy": "use-capacity-reservations-first"}},
    )
    assert made["Instances"][0]["InstanceType"] == "m5.large"


@doc("API_CreatePlacementGroup", "API_DescribePlacementGroups", "API_DeletePlacementGroup")
def test_placement_groups(emulator, fails):
    ec2 = emulator.ec2
    made = ec2.create_placement_group(
        GroupName="tight", Strategy="cluster",
        TagSpecifications=[{"ResourceType": "placement-group", "Tags": [{"Key": "a", "Value": "b"}]}],
    )["PlacementGroup"]
    assert made["State"] == "available" and made["Tags"] == [{"Key": "a", "Value": "b"}]
    assert fails(ec2.create_placement_group, GroupName="tight", Strategy="cluster")[0] == "InvalidPlacementGroup.Duplicate"
    [one] = run(emulator, Placement={"GroupName": "tight"})
    assert emulator.instances()[0]["Placement"]["GroupName"] == "tight"
    assert fails(ec2.delete_placement_group, GroupName="tight")[0] == "InvalidPlacementGroup.InUse"
    ec2.terminate_instances(InstanceIds=[one])
    emulator.advance(5)
    [found] = ec2.describe_placement_groups(GroupNames=["tight"])["PlacementGroups"]
    assert found["Strategy"] == "cluster"
    ec2.delete_placement_group(GroupName="tight")
    assert fails(ec2.describe_placement_groups, GroupNames=["tight"])[0] == "InvalidPlacementGroup.Unknown"
