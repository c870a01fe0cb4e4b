"""Pods whose gateway is outside of their subnet reach it, and the node reaches them, by real packets."""

from __future__ import annotations

import pytest

from tests.conformance.nodes import Node, ping_all
from tests.netns.failure_nodes import REFERENCE, conf


@pytest.mark.skipif(not REFERENCE.exists(), reason="the static IPAM of the reference is not installed")
def test_a_single_address_with_a_route_on_the_link_to_its_gateway(node: Node) -> None:
    """multus#703; also where the static IPAM is of 2022 and knows neither 1.1.0 nor the scope of a route."""
    ipam = {
        "type": "static", "addresses": [{"address": "172.25.0.68/32", "gateway": "172.25.0.1"}],
        "routes": [{"dst": "172.25.0.1/32", "scope": 253}, {"dst": "0.0.0.0/0", "gw": "172.25.0.1"}],
    }
    configuration = conf(node, ipam=ipam, ipMasq=None)
    node.add(configuration).ok()
    flights = [(node.pod("pod1"), "172.25.0.1"), (node.pod("pod1"), "198.51.100.1"), (node, "172.25.0.68")]
    assert ping_all(flights) == [True] * 3
    node.delete(configuration).ok()
    assert node.run("ip", "route", "show", "172.25.0.68").stdout == ""


@pytest.mark.parametrize(
    ("subnet", "gateway", "pod"), [("2001:db8:60::/64", "fe80::1", "2001:db8:60::2")], ids=["link-local"]
)
def test_a_gateway_outside_of_the_subnet(node: Node, subnet: str, gateway: str, pod: str) -> None:
    ranges = [[{"subnet": subnet, "gateway": gateway, "rangeStart": pod}]]
    ipam = {"type": "host-local", "dataDir": str(node.data_dir), "ranges": ranges, "routes": [{"dst": "::/0"}]}
    configuration = conf(node, "6", ipam=ipam, ipMasq=None)
    node.add(configuration).ok()
    assert ping_all([(node, pod), (node.pod("pod1"), "2001:db8:ff::1")]) == [True, True]
    node.delete(configuration).ok()
    assert node.run("ip", "-6", "route", "show", pod).stdout == ""
