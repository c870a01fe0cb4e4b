"""`tullectl status` on a kernel in memory: networks, attachments, bridges, clusters and the agent."""

from __future__ import annotations

import json

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.kernel.see.look import Link
from cni_plugin.model.base import POD
from cni_plugin.plan.masquerade import Masquerade
from tests.unit.ctl.tool import CLUSTER, Around, Tool, agent
from tests.unit.support import UPLINK, Json, Node

HOST = Attachment("pods", "a", "eth0").host_dev
STATUS = {"version": "0.1.0", "pid": 7, "started": 1.0, "queue": 2, "served": 9, "ready": True}


def test_status_of_a_bare_node_is_empty(tool: Tool) -> None:
    empty: Json = {
        "networks": [], "attachments": [], "bridges": [], "clusters": [], "agent": None, "cluster": None,
    }  # fmt: skip
    assert json.loads(tool("status", "--json").out) == empty
    assert "Attachments: none" in tool("status").out


def test_status_shows_attachments_and_addresses(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    report = json.loads(tool("status", "--json").out)
    assert [(each["container"], each["ips"], each["state"]) for each in report["attachments"]] == [
        ("a", ["10.22.0.2/24"], "up"), ("b", ["10.22.0.3/24"], "up"),
    ]
    (network,) = report["networks"]
    assert (network["network"], network["attachments"], network["masquerade"]) == ("pods", 2, ["10.22.0.0/24"])
    assert (network["used"], network["free"], network["of"]) == ([2], [251], [253])
    table = tool("status").out
    assert "10.22.0.2/24" in table
    assert HOST in table


def test_status_shows_what_a_network_of_a_long_name_has_masqueraded(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (made,) = node.records.all()
    node.records.put(msgspec.structs.replace(made, network="n" * 300, data_dir=""))
    node.records.set_note("masquerade", "n" * 300, Masquerade(("10.22.1.0/24",)))
    shown = {each["network"]: each["masquerade"] for each in json.loads(tool("status", "--json").out)["networks"]}
    assert shown == {"n" * 300: ["10.22.1.0/24"], "pods": ["10.22.0.0/24"]}


def test_a_pod_that_has_no_link_on_the_node_is_not_called_unplugged(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (made,) = node.records.all()
    inside = tuple(each for each in made.objects if each.where == POD)
    node.records.put(msgspec.structs.replace(made, objects=inside))
    node.unplug("a eth0")
    assert [each["state"] for each in json.loads(tool("status", "--json").out)["attachments"]] == ["up"]


def test_status_tells_an_unplugged_pod_from_a_dead_one(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.unplug("a eth0")
    node.unplug("b eth1")
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=("/run/netns/a",))
    states = {each["container"]: each["state"] for each in json.loads(tool("status", "--json").out)["attachments"]}
    assert states == {"a": "unplugged", "b": "dead"}


def test_status_shows_clusters(node: Node, tool: Tool) -> None:
    node.configured(cluster=CLUSTER).call("ADD")
    (cluster,) = json.loads(tool("status", "--json").out)["clusters"]
    assert (cluster["node"], cluster["backend"], cluster["device"], cluster["peers"]) == ("n1", "vxlan", "tulle.1", 1)


def test_status_shows_the_agent_and_the_bridges_ports(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Around([Link("tulle0", 2, "bridge", 1500), Link(HOST, 3, "veth", 1500, master="tulle0")]))
    assert "Agent: away" in tool("status").out
    with agent(node, {"status": STATUS}):
        report = tool("status", "--json").json
        text = tool("status").out
    assert isinstance(report, dict)
    assert report["agent"] == STATUS
    assert report["bridges"] == [{"bridge": "tulle0", "mtu": 1500, "ports": 1, "of": 1023}]
    assert "pid 7" in text
    assert "2 waiting, 9 served" in text
