# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: an emulator per test with a clock that the test moves, and one moto server for all."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

import boto3
import botocore.config
import botocore.exceptions
import pytest

from checker import Checker

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CHECKED_ACTIONS = set()
DOCS = "https://docs.aws.amazon.com/AWSEC2/latest/"


def binary():
    default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "ec2-emulator"
    return os.environ.get("EC2_EMULATOR", str(default))


def doc(*pages):
    """Names the EC2 documentation that a case holds the emulator to."""
    for page in pages:
        assert page.startswith(("API_", "UserGuide/", "DevGuide/")), page

    def mark(function):
        function.doc_pages = [
            DOCS + ("APIReference/" + page + ".html" if page.startswith("API_") else page) for page in pages
        ]
        return function

    return mark


def client(url, service="ec2", region="us-east-1", key="AKIAEXAMPLE"):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key="secret",
        config=botocore.config.Config(retries={"max_attempts": 0}, read_timeout=30),
    )


class Emulator:
    def __init__(self, scenario=None, arguments=("--speed", "0")):
        self.folder = tempfile.TemporaryDirectory()
        command = [binary(), "--listen", "127.0.0.1:0", *arguments]
        if scenario is not None:
            path = pathlib.Path(self.folder.name) / "scenario.json"
            path.write_text(json.dumps(scenario))
            command += ["--scenario", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        self.url = line.split()[-1]
        self.checker = Checker()
        self.ec2 = self.client()

    def client(self, service="ec2", **arguments):
        made = client(self.url, service, **arguments)
        self.checker.attach(made)
        return made

    def control(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.url}/_control/{path}", data=data) as answer:
            return json.load(answer)

    def advance(self, seconds):
        return self.control("time", {"advance_ms": int(seconds * 1000)})

    def command(self, **command):
        return self.control("command", command)

    def metadata(self, instance, path, token=None):
        request = urllib.request.Request(f"{self.url}/imds/{instance}/{path}")
        if token:
            request.add_header("X-aws-ec2-metadata-token", token)
        with urllib.request.urlopen(request) as answer:
            return answer.read().decode()

    def template(self, name="template", **data):
        data = {"ImageId": "ami-12345678", "InstanceType": "c5.large", **data}
        made = self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
        return made["LaunchTemplate"]["LaunchTemplateId"]

    def instances(self, **arguments):
        pages = self.ec2.get_paginator("describe_instances").paginate(**arguments)
        return [i for page in pages for r in page["Reservations"] for i in r["Instances"]]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.process.stdout.close()
        self.folder.cleanup()


@pytest.fixture
def emulator_with():
    """Makes emulators with scenarios; at the end every answer must have fitted the service model."""
    made = []

    def make(scenario=None, **arguments):
        made.append(Emulator(scenario, **arguments))
        return made[-1]

    yield make
    problems = []
    for emulator in made:
        CHECKED_ACTIONS.update(emulator.checker.actions)
        problems += emulator.checker.problems
        emulator.stop()
    assert not problems, "\n".join(sorted(set(problems)))


@pytest.fixture
def emulator(emulator_with):
    return emulator_with()


@pytest.fixture
def ec2(emulator):
    return emulator.ec2


@pytest.fixture
def fails():
    """Runs a call that must fail; gives code, HTTP status and message."""

    def run(call, **arguments):
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            call(**arguments)
        answer = caught.value.response
        return (
            answer["Error"]["Code"],
            answer["ResponseMetadata"]["HTTPStatusCode"],
            answer["Error"]["Message"],
        )

    return run


@pytest.fixture(scope="session")
def moto_url():
    """moto's own server, in a process of its own."""
    script = (
        "import sys\n"
        "from werkzeug.serving import make_server\n"
        "from moto.server import DomainDispatcherApplication, create_backend_app\n"
        "server = make_server('127.0.0.1', 0, DomainDispatcherApplication(create_backend_app), threaded=True)\n"
        "print(server.port, flush=True)\n"
        "server.serve_forever()\n"
    )
    environment = dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="true")
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    port = process.stdout.readline().strip()
    assert port, "moto's server did not start"
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=30)
    process.stdout.close()


def eventually(check, seconds=30):
    """For what happens in real time. The limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while True:
        result = check()
        if result or time.monotonic() > end:
            return result
        time.sleep(0.02)


def pytest_collection_modifyitems(items):
    """The coverage test is about all others: it comes last. Every contract case names its documentation."""
    items.sort(key=lambda item: item.path.name == "test_coverage.py")
    for item in items:
        if item.path.name not in ("test_coverage.py", "test_requests.py"):
            assert getattr(item.function, "doc_pages", None), f"{item.nodeid} names no EC2 documentation"
