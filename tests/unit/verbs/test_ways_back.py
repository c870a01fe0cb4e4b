"""A pod whose gateway is in no network with its address: the node has a way back to it while the pod lives."""

from __future__ import annotations

import pytest

from cni_plugin.model.base import HOST, POD
from cni_plugin.model.layer3 import Route
from tests.unit.support import Json, Node, executable

ALONE = '{"ips": [{"address": "172.25.0.68/32", "gateway": "172.25.0.1"}], "routes": %s}'
ON_LINK = '[{"dst": "172.25.0.1/32"}, {"dst": "0.0.0.0/0", "gw": "172.25.0.1"}]'


def static(node: Node, routes: str = ON_LINK) -> Node:
    """A network whose IPAM gives an address without a neighbour."""
    executable(node.home / "bin" / "static", f"#!/bin/sh\n[ $CNI_COMMAND != ADD ] || echo '{ALONE % routes}'\n")
    return node.configured(ipam={"type": "static"}, isGateway=True, isDefaultGateway=None, ipMasq=None)


def routes(node: Node, ns: str) -> list[Route]:
    return [each for each in node.kernel.state.values() if isinstance(each, Route) and each.ns == ns]


def test_a_route_to_the_gateway_is_on_the_link_and_the_node_has_one_back(node: Node) -> None:
    alone = static(node)
    added = alone.call("ADD")
    assert added.exit == 0, added.said
    assert [(each.dst, each.via) for each in routes(node, POD)] == [("172.25.0.1/32", ""), ("0.0.0.0/0", "172.25.0.1")]
    assert [(each.dst, each.dev) for each in routes(node, HOST)] == [("172.25.0.68/32", "tulle0")]
    checked = alone.after(added).call("CHECK")
    assert checked.exit == 0, checked.said
    assert alone.call("DEL").exit == 0
    assert (routes(node, HOST), node.left()) == ([], [])


def test_check_misses_the_nodes_route_whatever_the_result_says_of_the_pods(node: Node) -> None:
    alone = static(node)
    added = alone.call("ADD")
    (back,) = routes(node, HOST)
    del node.kernel.state[back.key]
    assert "172.25.0.68/32" in alone.after(added).call("CHECK").said


@pytest.mark.parametrize(("address", "gateway"), [("10.22.0.0/24", "169.254.1.1"), ("fd00:22::/64", "fe80::1")])
def test_a_gateway_outside_of_the_subnet_has_its_way_back_too(node: Node, address: str, gateway: str) -> None:
    ipam: Json = {"type": "host-local", "dataDir": f"{node.home}/data", "ranges": [[
        {"subnet": address, "gateway": gateway},
    ]]}
    assert node.configured(ipam=ipam, isGateway=True, isDefaultGateway=None, ipMasq=None).call("ADD").exit == 0
    assert [each.dst for each in routes(node, HOST)] == [
        "10.22.0.1/32" if "." in address else "fd00:22::1/128"
    ]


def test_otherwise_the_node_needs_none(node: Node) -> None:
    """A gateway of the pod's own subnet leads there, and who is no gateway answers nobody."""
    for given, pod in ((node, "a eth0"), (static(node).configured(isGateway=None), "b eth1")):
        reply = given.call("ADD", pod)
        assert reply.exit == 0, reply.said
    assert routes(node, HOST) == []


def test_an_add_that_fails_late_takes_it_back(node: Node) -> None:
    alone = static(node)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    node.kernel.announce = fail  # type: ignore[assignment,method-assign]
    assert alone.call("ADD").code == 5
    assert (routes(node, HOST), node.left()) == ([], [])


def test_what_is_kept_of_the_cluster_leaves_it_alone(node: Node) -> None:
    assert static(node).call("ADD").exit == 0
    assert node.kernel.owned("tulle.1") == {}
