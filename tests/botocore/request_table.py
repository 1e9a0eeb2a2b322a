# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes crates/emulator/src/api/requests.txt: which parameters each EC2 action accepts.

The names, types and "required" marks are facts of the EC2 API, read from the service model of the
installed botocore. `test_requests.py` fails when the committed table and the model disagree on a
parameter that the table has.

    python tests/botocore/request_table.py > crates/emulator/src/api/requests.txt
"""

import botocore.loaders
import botocore.model

EMULATED = """
AttachNetworkInterface AttachVolume CancelCapacityReservation CancelSpotInstanceRequests
CreateCapacityReservation CreateFleet CreateLaunchTemplate CreateLaunchTemplateVersion
CreateNetworkInterface CreatePlacementGroup CreateTags CreateVolume DeleteFleets
DeleteLaunchTemplate DeleteNetworkInterface DeletePlacementGroup DeleteTags DeleteVolume
DescribeAccountAttributes DescribeAvailabilityZones DescribeCapacityReservations
DescribeFleetHistory DescribeFleetInstances DescribeFleets DescribeImages
DescribeInstanceAttribute DescribeInstanceStatus DescribeInstanceTypeOfferings
DescribeInstanceTypes DescribeInstances DescribeLaunchTemplateVersions DescribeLaunchTemplates
DescribeNetworkInterfaces DescribePlacementGroups DescribeRegions DescribeSecurityGroups
DescribeSpotInstanceRequests DescribeSpotPriceHistory DescribeSubnets DescribeTags
DescribeVolumes DescribeVpcs DetachNetworkInterface DetachVolume GetConsoleOutput
GetSpotPlacementScores ModifyFleet ModifyInstanceAttribute ModifyInstanceMetadataOptions
ModifyLaunchTemplate ModifyNetworkInterfaceAttribute RebootInstances RunInstances StartInstances
StopInstances TerminateInstances
""".split()

SCALARS = {
    "string": "s",
    "blob": "s",
    "integer": "i",
    "long": "i",
    "float": "n",
    "double": "n",
    "boolean": "b",
    "timestamp": "t",
}


def query_name(member, name):
    """EC2 Query: queryName, or else the location name with a capital first letter."""
    serialization = member.serialization
    if "queryName" in serialization:
        return serialization["queryName"]
    location = serialization.get("name", name)
    return location[0].upper() + location[1:]


def lines(shape, depth, parents):
    for name, member in shape.members.items():
        mark = "!" if name in shape.required_members else ""
        inner = member.member if member.type_name == "list" else member
        if inner.type_name == "structure":
            if inner.name in parents:
                continue
            kind = "{}"
        else:
            kind = SCALARS[inner.type_name]
        if member.type_name == "list":
            kind = "[" + kind + "]"
        yield f"{' ' * depth}{query_name(member, name)}{mark} {kind}"
        if inner.type_name == "structure":
            yield from lines(inner, depth + 1, parents + [inner.name])


def service_model():
    loader = botocore.loaders.Loader()
    return botocore.model.ServiceModel(loader.load_service_model("ec2", "service-2"))


def table():
    model = service_model()
    yield "# Parameters of the emulated EC2 actions (EC2 API reference, version 2016-11-15)."
    yield "# Made by tests/botocore/request_table.py. ! = required; s text, i integer, n number, b boolean,"
    yield "# t time, {} structure, [x] list of x. Last line: actions that exist and are not emulated."
    for action in EMULATED:
        yield action
        shape = model.operation_model(action).input_shape
        if shape is not None:
            yield from lines(shape, 1, [shape.name])
    rest = [name for name in model.operation_names if name not in EMULATED]
    yield "~ " + " ".join(rest)


if __name__ == "__main__":
    for line in table():
        print(line)
