"""`tullectl repair` and `cleanup` on a kernel in memory: what is put right, and what is taken away."""

from __future__ import annotations

import json

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import POD
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Bridge, Up, Veth, Vxlan
from cni_plugin.model.nft import Chain, NftObject, Set
from tests.unit.ctl.tool import CLUSTER, Tool
from tests.unit.support import UPLINK, Node

HOST = Attachment("pods", "a", "eth0").host_dev


def test_repair_of_a_node_that_is_right_changes_nothing(node: Node, tool: Tool) -> None:
    node.configured(cluster=CLUSTER).call("ADD")
    before, done = dict(node.kernel.state), len(node.kernel.applied)
    said = tool("repair")
    assert said.exit == 0, said.out
    assert (node.kernel.state, len(node.kernel.applied)) == (before, done)
    assert "attachment a eth0 in pods: right" in said.out
    assert tool("repair", "--dry-run").exit == 0


BROKEN = {
    "address in the pod": ("addr", POD, "eth0", "10.22.0.2/24"),
    "pod's link down": ("up", POD, "eth0"),
    "gateway address": ("addr", "", "tulle0", "10.22.0.1/24"),
    "masquerade": ("chain", "", "postrouting"),
    "route to a peer": ("route", "", "254", "10.244.2.0/24", "0", ""),
    "neighbour entry of a peer": ("neigh", "", "tulle.1", "10.244.2.0"),
    "wire": ("link", "", HOST),
    "tunnel": ("link", "", "tulle.1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_repair_puts_right_what_somebody_broke(node: Node, tool: Tool, what: str) -> None:
    from cni_plugin.diff import Op

    node.configured(cluster=CLUSTER).call("ADD")
    before = dict(node.kernel.state)
    node.kernel.apply([Op("delete", node.kernel.state[BROKEN[what]])])
    broken = dict(node.kernel.state)

    looked = tool("repair", "--dry-run")
    assert looked.exit == 1
    assert ": wrong" in looked.out
    assert node.kernel.state == broken

    said = tool("repair")
    assert said.exit == 0, said.out
    assert ": put right" in said.out
    assert node.kernel.state == before
    assert tool("repair", "--dry-run").exit == 0


def test_repair_as_json_has_the_lines(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    said = tool("repair", "--dry-run", "--json")
    assert said.exit == 1
    (wrong,) = [each for each in json.loads(said.out) if each["ops"]]
    assert wrong == {
        "what": "attachment a eth0 in pods", "ops": ["ip -n POD addr add 10.22.0.2/24 dev eth0"], "problem": "",
    }


def test_repair_tells_of_a_pod_whose_namespace_is_gone_and_goes_on(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.unplug("a eth0")
    del node.kernel.state["addr", POD, "eth1", "10.22.0.3/24"]
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=("/run/netns/b",))
    said = tool("repair")
    assert said.exit == 1
    assert "attachment a eth0 in pods: its namespace /run/netns/a is gone" in said.out
    assert "attachment b eth1 in pods: put right" in said.out
    assert Addr("eth1", "10.22.0.3/24", POD) in node.kernel.state.values()


def test_repair_that_the_kernel_refuses_is_told_and_ends_with_1(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["up", POD, "eth0"]
    node.kernel.fail_at = len(node.kernel.applied)
    said = tool("repair")
    assert said.exit == 1
    assert "Input/output error" in said.out
    assert Up("eth0", POD) not in node.kernel.state.values()


def test_cleanup_removes_all_that_bears_our_mark_and_only_when_told_to(node: Node, tool: Tool) -> None:
    foreign = (Bridge("br7"), Route("203.0.113.0/24", "eth0", protocol=4), Veth("veth7", master="br7"))
    node.kernel.state.update({each.key: each for each in foreign})
    member = node.configured(cluster=CLUSTER)
    member.call("ADD")
    assert tool("cleanup", "--yes").exit == 1, "a pod is still wired"
    member.call("DEL")
    before = dict(node.kernel.state)
    said = tool("cleanup")
    assert (said.exit, node.kernel.state) == (0, before)
    assert "ip link del tulle0" in said.out
    assert "add --yes to do it" in said.err
    assert tool("cleanup", "--yes").exit == 0
    assert set(node.standing().values()) == set(foreign)
    assert not [each for each in node.kernel.state.values() if isinstance(each, Chain | Vxlan)]
    assert "nothing of ours is here" in tool("cleanup").out


def test_cleanup_removes_what_guarded_a_tunnel_that_somebody_took_away(node: Node, tool: Tool) -> None:
    """As a release does that knows of no guard, on the way back to it."""
    member = node.configured(cluster=CLUSTER)
    member.call("ADD")
    member.call("DEL")
    node.kernel.apply([Op("delete", each) for each in node.kernel.state.values() if isinstance(each, Vxlan)])
    assert [each for each in node.kernel.state.values() if isinstance(each, Set)]
    assert tool("cleanup", "--yes").exit == 0
    assert not [each for each in node.kernel.state.values() if isinstance(each, NftObject)]
