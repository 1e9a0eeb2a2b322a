# SPDX-License-Identifier: GPL-3.0-or-later
"""The AWS CLI against the emulator, as a person uses it."""

import json
import os
import pathlib
import subprocess
import sys

from conftest import doc


@doc("API_CreateFleet", "API_DescribeInstances")
def test_the_aws_cli(emulator_with):
    emulator = emulator_with(arguments=("--speed", "20"))
    program = pathlib.Path(sys.executable).parent / "aws"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": emulator.folder.name,
        "AWS_ENDPOINT_URL": emulator.url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PAGER": "",
        "AWS_EC2_METADATA_DISABLED": "true",
    }

    def aws(*arguments, fails=False):
        done = subprocess.run(
            [sys.executable, program, *arguments], env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout

    aws(
        "ec2", "create-launch-template", "--launch-template-name", "node",
        "--launch-template-data", json.dumps({"ImageId": "ami-12345678", "InstanceType": "c5.large"}),
    )  # fmt: skip
    fleet = json.loads(
        aws(
            "ec2", "create-fleet", "--type", "instant", "--client-token", "cli",
            "--launch-template-configs", json.dumps(
                [
                    {
                        "LaunchTemplateSpecification": {"LaunchTemplateName": "node", "Version": "$Latest"},
                        "Overrides": [{"SubnetId": "subnet-aaaa"}],
                    }
                ]
            ),
            "--target-capacity-specification", "TotalTargetCapacity=2,DefaultTargetCapacityType=spot",
            "--tag-specifications", "ResourceType=instance,Tags=[{Key=cluster,Value=cli}]",
        )  # fmt: skip
    )
    ids = fleet["Instances"][0]["InstanceIds"]
    aws("ec2", "wait", "instance-running", "--instance-ids", *ids)
    listed = aws(
        "ec2", "describe-instances", "--filters", "Name=tag:cluster,Values=cli",
        "--query", "Reservations[].Instances[].[PrivateIpAddress,State.Name,InstanceLifecycle]", "--output", "text",
    )  # fmt: skip
    assert listed == "127.10.0.4\trunning\tspot\n127.10.0.5\trunning\tspot\n"
    aws("ec2", "terminate-instances", "--instance-ids", *ids)
    refused = aws("ec2", "describe-instances", "--instance-ids", "i-00000000000000000", fails=True)
    assert "(InvalidInstanceID.NotFound)" in refused
    denied = aws("ec2", "describe-subnets", "--dry-run", fails=True)
    assert "(DryRunOperation)" in denied
