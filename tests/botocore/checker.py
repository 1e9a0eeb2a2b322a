# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks raw EC2 answers against botocore's service model: no unknown and no missing required member."""

import xml.etree.ElementTree as ElementTree
from datetime import datetime

# What EC2 really sends and the model does not have.
#  - `return` in answers of actions whose model has no output or no such member (API reference, "Response Elements").
#  - event types of DescribeFleetHistory: the model lists the request's values, not the answer's
#    (API_HistoryRecordEntry; on the wire: fleetRequestChange, instanceChange, ...).
#  - CancelSpotInstanceRequests and others list fewer states than instances have.
ALLOWED_MEMBERS = {"return"}
#  - allocation strategies: CreateFleet takes lowest-price, DescribeFleets answers lowestPrice, and so for the others
#    (seen in answers of EC2, for example in aws-controllers-k8s/ec2-controller pull request 308).
ALLOWED_VALUES = {
    "SpotAllocationStrategy": {
        "lowestPrice",
        "capacityOptimized",
        "capacityOptimizedPrioritized",
        "priceCapacityOptimized",
    },
    "FleetOnDemandAllocationStrategy": {"lowestPrice"},
    "FleetEventType": {
        "fleetRequestChange",
        "instanceChange",
        "spotInstanceRequestChange",
        "information",
        "error",
    },
}


def local(tag):
    return tag.rsplit("}", 1)[-1]


class Checker:
    """Collects what is wrong with the answers that it has seen, and the actions that it has seen."""

    def __init__(self):
        self.problems = []
        self.actions = set()
        self.members = {}

    def attach(self, client):
        client.meta.events.register("after-call", self._after_call)

    def _after_call(self, http_response, parsed, model, **kwargs):
        del parsed, kwargs
        if http_response.status_code >= 300:
            self.error(model.name, http_response.content)
        else:
            self.answer(model, http_response.content)

    def answer(self, model, content):
        self.actions.add(model.name)
        root = ElementTree.fromstring(content)
        where = model.name
        if local(root.tag) != f"{where}Response":
            self.problems.append(f"{where}: the root element is {root.tag}")
        if model.service_model.service_name == "sts":
            root = root[0]
        elif not root.tag.startswith("{http://ec2.amazonaws.com/doc/"):
            self.problems.append(f"{where}: namespace {root.tag}")
        if model.output_shape is None:
            for child in root:
                if local(child.tag) not in ALLOWED_MEMBERS | {"requestId"}:
                    self.problems.append(f"{where}: {local(child.tag)} in an empty answer")
            return
        self.structure(where, model.output_shape, root, top=True)

    def error(self, action, content):
        root = ElementTree.fromstring(content)
        names = {local(element.tag) for element in root.iter()}
        missing = {"Code", "Message"} - names
        request_id = {"RequestID", "RequestId"} & names
        if missing or not request_id:
            self.problems.append(f"{action}: error without {missing or 'RequestID'}")

    def structure(self, where, shape, element, top=False):
        members = {}
        for name, member in shape.members.items():
            members[member.serialization.get("name", name)] = (name, member)
        seen = set()
        for child in element:
            name = local(child.tag)
            if top and name in {"requestId"} | ALLOWED_MEMBERS and name not in members:
                continue
            if name not in members:
                self.problems.append(f"{where}: unknown member {name}")
                continue
            if name in seen:
                self.problems.append(f"{where}: {name} appears twice")
            seen.add(name)
            model_name, member = members[name]
            self.members.setdefault(shape.name, set()).add(model_name)
            self.value(f"{where}.{name}", member, child)
        present = {members[name][0] for name in seen}
        for required in shape.required_members:
            if required not in present:
                self.problems.append(f"{where}: required member {required} is missing")

    def value(self, where, shape, element):
        kind = shape.type_name
        if kind == "structure":
            self.structure(where, shape, element)
        elif kind == "list":
            item = shape.member.serialization.get("name", "item")
            for child in element:
                if local(child.tag) != item:
                    self.problems.append(f"{where}: list element {local(child.tag)}, expected {item}")
                self.value(f"{where}[]", shape.member, child)
        else:
            self.scalar(where, shape, element)

    def scalar(self, where, shape, element):
        text = element.text or ""
        if len(element):
            self.problems.append(f"{where}: text expected, elements found")
            return
        kind = shape.type_name
        try:
            if kind in ("integer", "long"):
                int(text)
            elif kind in ("float", "double"):
                float(text)
            elif kind == "boolean" and text not in ("true", "false"):
                raise ValueError(text)
            elif kind == "timestamp":
                datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
        except ValueError:
            self.problems.append(f"{where}: {text!r} is not a {kind}")
        choices = getattr(shape, "enum", None)
        if choices and text not in choices and text not in ALLOWED_VALUES.get(shape.name, ()):
            self.problems.append(f"{where}: {text!r} is not one of {choices}")
