"""Called by the name loopback, the bundle does what the reference plugin of that name does, and answers as it does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.cases import VERSIONS
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Json, Node, Plugins

LISTED = [each for each in VERSIONS if each >= "0.3.0"]
"""Before 0.3.0 the reference answers in the shape of a later version, which no runtime can read."""


def conf(version: str, **keys: object) -> Json:
    return {"cniVersion": version, "name": "cni-loopback", "type": "loopback", **keys}


def state(node: Node) -> tuple[bool, list[str]]:
    """Whether the pod's loopback is up, and its addresses."""
    found: Any = node.pod("pod1").json("ip", "-j", "addr", "show", "lo")
    (link,) = found
    return "UP" in link["flags"], [f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]]


def told(node: Node, result: Any) -> Json:
    """A result without what differs between two nodes, and without the family that the reference leaves out."""
    ips = [{key: each for key, each in ip.items() if key != "version"} for ip in result.get("ips", [])]
    lo = [{**each, "sandbox": each["sandbox"] == node.pod("pod1").path} for each in result["interfaces"]]
    return {**result, "ips": ips, "interfaces": lo}


@pytest.mark.parametrize("version", LISTED)
def test_loopback_answers_like_the_reference_and_leaves_the_same(
    nodes: Nodes, tulle: Plugins, reference: Plugins, version: str
) -> None:
    if version == "1.1.0":
        pytest.skip("this machine's reference loopback does not speak 1.1.0")
    seen = []
    for side in (reference, tulle):
        node = nodes(side)
        node.pod("pod1").run("ip", "link", "set", "lo", "down")
        added = told(node, node.add(conf(version)).ok())
        up = state(node)
        again = told(node, node.add(conf(version)).ok())
        if version >= "0.4.0":
            node.check(conf(version, prevResult=node.add(conf(version)).ok())).ok()
        for _ in range(2):
            node.delete(conf(version)).ok()
        seen.append((added, again, up, state(node)))
    assert seen[0] == seen[1]


def test_loopback_hands_on_the_result_of_the_plugin_before_it(
    nodes: Nodes, tulle: Plugins, reference: Plugins
) -> None:
    before: Json = {
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 0}], "dns": {},
    }
    assert [nodes(each).add(conf("1.0.0", prevResult=before)).ok() for each in (reference, tulle)] == [before, before]


def test_a_pod_with_all_of_a_runtimes_usual_plugins_needs_none_but_ours(nodes: Nodes, tulle: Plugins) -> None:
    node = nodes(tulle)
    node.pod("pod1").run("ip", "link", "set", "lo", "down")
    network: Json = {
        "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "isDefaultGateway": True,
        "ipam": {"type": "host-local", "dataDir": str(node.data_dir), "subnet": "10.60.0.0/24"},
    }
    node.add(conf("1.1.0")).ok()
    result = node.add(network).ok()
    assert state(node) == (True, ["127.0.0.1/8", "::1/128"])
    node.pod("pod1").run("ping", "-c1", "-W2", "127.0.0.1")
    node.check({**network, "prevResult": result}).ok()
    for each in (network, conf("1.1.0")):
        node.delete(each).ok()
    assert state(node)[0] is False
    assert node.leases() == {}
