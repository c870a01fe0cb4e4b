"""What the reference of Debian 12 (1.1.1) cannot show: newer keys, version 1.1.0, and what packets make of them.

The expected values are facts of the reference's source at 1.9.1 (plugins/main/bridge/bridge.go) and of the
specification 1.1.0, written down here; where the older reference can do the same, it runs the same test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.cases import BASE, DEFAULT4, DEFAULT6, DUAL, V4, V6, sets
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import UPLINK, Json, Node, Plugins, ping_all
from tests.conformance.observe import port_of, port_view, routes, seen, tentative, watch

NO_VLANS = "this kernel has no VLAN filtering in bridges (CONFIG_BRIDGE_VLAN_FILTERING)"


def conf(node: Node, ipam: Json | None = None, **keys: object) -> Json:
    """A configuration of version 1.1.0; keys with the value None are left out."""
    inner = {"type": "host-local", "dataDir": str(node.data_dir), **(V4 if ipam is None else ipam)}
    whole: Json = {**BASE, "cniVersion": "1.1.0", "ipam": inner, **keys}
    return {key: value for key, value in whole.items() if value is not None}


def wired(node: Node, configuration: Json, *pods: str) -> list[Json]:
    """ADD each pod; the results."""
    return [node.add(configuration, pod).ok() for pod in pods]


def first_address(result: Json) -> str:
    ips = result["ips"]
    assert isinstance(ips, list)
    return str(ips[0]["address"]).partition("/")[0]


@pytest.fixture
def node(nodes: Nodes, tulle: Plugins) -> Node:
    return nodes(tulle)


def test_isolated_ports_reach_the_gateway_but_not_each_other(node: Node) -> None:
    isolated = conf(node, portIsolation=True)
    _, two = wired(node, isolated, "pod1", "pod2")
    one = node.pod("pod1")
    port = port_view(node, port_of(node, one, "eth0"))
    assert port["flags"]["isolated"] is True  # type: ignore[index]
    assert ping_all([(one, "10.60.0.1"), (one, first_address(two))]) == [True, False]


def test_disabled_container_interface_is_wired_but_stays_down(node: Node) -> None:
    result = node.add(conf(node, ipam=None, isGateway=False, disableContainerInterface=True) | {"ipam": {}}).ok()
    assert "ips" not in result
    (link,) = (each for each in node.pod("pod1").json("ip", "-j", "link") if each["ifname"] == "eth0")
    assert "UP" not in link["flags"]  # type: ignore[operator]
    assert port_view(node, port_of(node, node.pod("pod1"), "eth0"))["master"] == "br0"


def test_disabled_container_interface_cannot_have_addresses(node: Node) -> None:
    refused = node.add(conf(node, disableContainerInterface=True))
    assert refused.code == 7
    assert "disableContainerInterface" in refused.message
    assert node.leases() == {}


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_masquerade_is_done_in_nftables_whichever_backend_is_named(node: Node, backend: str) -> None:
    watch(node.world)
    wired(node, conf(node, ipMasq=True, ipMasqBackend=backend), "pod1")
    assert ping_all([(node.pod("pod1"), "198.51.100.2")]) == [True]
    assert seen(node.world) == ["198.51.100.1"]
    tables = node.run("nft", "list", "tables").stdout.split("\n")
    assert [each for each in tables if each] == ["table inet tulle"]


def test_result_of_version_1_1_0_tells_the_mtu_of_each_interface(node: Node) -> None:
    (result,) = wired(node, conf(node, mtu=1300), "pod1")
    assert result["cniVersion"] == "1.1.0"
    interfaces = result["interfaces"]
    assert isinstance(interfaces, list)
    assert [each.get("mtu") for each in interfaces if each["name"] != "br0"] == [1300, 1300]


def test_routes_have_the_metrics_that_version_1_1_0_gives_them(node: Node) -> None:
    asked = {"dst": "10.77.0.0/16", "gw": "10.60.0.9", "mtu": 1280, "advmss": 1200, "priority": 77, "table": 51}
    on_link = {"dst": "10.78.0.0/16", "scope": 253}
    (result,) = wired(node, conf(node, ipam={**V4, "routes": [DEFAULT4, asked, on_link]}), "pod1")
    assert result["routes"] == [DEFAULT4, asked, on_link]
    found = {str(each["dst"]): each for each in routes(node.pod("pod1"))}
    assert found["10.77.0.0/16"] == {
        "dst": "10.77.0.0/16", "gateway": "10.60.0.9", "dev": "eth0", "metric": 77, "table": "51",
        "metrics": [{"mtu": 1280, "advmss": 1200}],
    }
    assert found["10.78.0.0/16"]["scope"] == "link"
    assert "gateway" not in found["10.78.0.0/16"]


def test_route_keys_of_version_1_1_0_are_not_shown_to_older_runtimes(node: Node) -> None:
    asked = {"dst": "10.77.0.0/16", "gw": "10.60.0.9", "priority": 77}
    (result,) = wired(node, conf(node, ipam={**V4, "routes": [asked]}, cniVersion="1.0.0"), "pod1")
    assert result["routes"] == [{"dst": "10.77.0.0/16", "gw": "10.60.0.9"}]
    assert [each["metric"] for each in routes(node.pod("pod1")) if each["dst"] == "10.77.0.0/16"] == [77]


def test_dns_of_the_runtime_is_in_the_result(node: Node) -> None:
    dns = {"Servers": ["10.9.9.9"], "Searches": ["example.org"], "Options": ["ndots:3"]}  # as go-cni spells it
    (result,) = wired(node, conf(node, runtimeConfig={"dns": dns}), "pod1")
    assert result["dns"] == {"nameservers": ["10.9.9.9"], "search": ["example.org"], "options": ["ndots:3"]}


@pytest.mark.parametrize("family", ["4", "6"])
def test_a_forged_mac_gets_nowhere(nodes: Nodes, tulle: Plugins, reference: Plugins, family: str) -> None:
    """Under `macspoofchk` only frames with the interface's own MAC get in; both sides, by different means."""
    for plugins in (reference, tulle):
        node = nodes(plugins)
        wired(node, {**conf(node, ipam=V4 if family == "4" else V6, macspoofchk=True), "cniVersion": "1.0.0"}, "pod1")
        pod, gateway = node.pod("pod1"), "10.60.0.1" if family == "4" else "2001:db8:60::1"
        own = next(str(each["address"]) for each in pod.json("ip", "-j", "link") if each["ifname"] == "eth0")
        assert ping_all([(pod, gateway)], wait=3) == [True], plugins.side
        pod.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:66")
        assert ping_all([(pod, gateway)]) == [False], plugins.side
        pod.run("ip", "link", "set", "eth0", "address", own)
        assert ping_all([(pod, gateway)], wait=3) == [True], plugins.side


@pytest.mark.parametrize(("asked", "mtu"), [(None, 1500), (1400, 1400)], ids=["derived", "set"])
def test_mtu_of_a_node_without_default_route_is_the_kernels_unless_set(
    node: Node, asked: int | None, mtu: int
) -> None:
    node.run("ip", "route", "del", "default")
    node.run("ip", "-6", "route", "del", "default")
    node.run("ip", "link", "set", UPLINK, "mtu", "1450")
    wired(node, conf(node, mtu=asked), "pod1")
    assert _pod_mtu(node) == mtu


@pytest.mark.parametrize("address", ["203.0.113.7/24", "192.0.2.1/24", "198.18.0.1/15"])
def test_mtu_is_that_of_the_uplink_whatever_the_nodes_own_address(node: Node, address: str) -> None:
    node.run("ip", "link", "set", UPLINK, "mtu", "1450")
    node.run("ip", "addr", "add", address, "dev", UPLINK)
    wired(node, conf(node), "pod1")
    assert _pod_mtu(node) == 1450


def _pod_mtu(node: Node) -> object:
    return next(each["mtu"] for each in node.pod("pod1").json("ip", "-j", "link") if each["ifname"] == "eth0")


def test_addresses_can_be_used_at_once_unless_detection_is_asked_for(node: Node) -> None:
    """`enabledad` is the newer reference's key; off, no address is ever tentative."""
    wired(node, conf(node, ipam=DUAL), "pod1")
    assert tentative(node.pod("pod1")) == []
    assert tentative(node) == []
    wired(node, conf(node, ipam=DUAL, enabledad=True), "pod2")
    flags = node.pod("pod2").run("ip", "-6", "addr", "show", "dev", "eth0", "scope", "global").stdout
    assert "nodad" not in flags


def test_default_route_of_each_family_leads_to_its_gateway(node: Node) -> None:
    (result,) = wired(node, conf(node, ipam={"ranges": DUAL["ranges"]}, isDefaultGateway=True), "pod1")
    assert result["routes"] == [{**DEFAULT4, "gw": "10.60.0.1"}, {**DEFAULT6, "gw": "2001:db8:60::1"}]


def _vlans(node: Node, pod: str) -> list[tuple[object, object, object]]:
    found = port_view(node, port_of(node, node.pod(pod), "eth0"))["vlans"]
    assert isinstance(found, list)
    return [(each["vlan"], each.get("vlanEnd"), tuple(each.get("flags", ()))) for each in found]


def test_vlan_trunk_lets_its_vlans_pass_tagged(node: Node, vlans: bool) -> None:
    if not vlans:
        pytest.skip(NO_VLANS)
    trunk = [{"id": 7}, {"minID": 10, "maxID": 12}]
    wired(node, conf(node, isGateway=False, vlanTrunk=trunk), "pod1")
    found = _vlans(node, "pod1")
    assert found[0] == (1, None, ("PVID", "Egress Untagged"))
    assert {each[0] for each in found[1:]} | {each[1] for each in found[1:]} - {None} >= {7, 10, 12}
    wired(node, conf(node, isGateway=False, vlanTrunk=trunk, preserveDefaultVlan=False), "pod2")
    assert 1 not in {each[0] for each in _vlans(node, "pod2")}


def test_a_port_in_a_vlan_alone_leaves_the_default_vlan(node: Node, vlans: bool) -> None:
    if not vlans:
        pytest.skip(NO_VLANS)
    wired(node, conf(node, isGateway=False, vlan=100, preserveDefaultVlan=False), "pod1")
    assert _vlans(node, "pod1") == [(100, None, ("PVID", "Egress Untagged"))]


def test_vlans_without_kernel_support_are_refused_and_leave_nothing(node: Node, vlans: bool) -> None:
    if vlans:
        pytest.skip("this kernel has VLAN filtering in bridges")
    refused = node.add(conf(node, vlan=100))
    assert refused.exit != 0
    assert "vlan" in refused.message.lower()
    assert node.leases() == {}
    assert node.json("ip", "-j", "link", "show", "type", "veth") == [
        each for each in node.json("ip", "-j", "link") if each["ifname"] == UPLINK
    ]


@pytest.mark.parametrize(
    ("trunk", "word"),
    [
        ([{"id": 0}], "0"), ([{"id": 4095}], "4095"), ([{"minID": 5}], "maxID"), ([{"maxID": 5}], "minID"),
        ([{"minID": 9, "maxID": 5}], "minID"), ([{"minID": 0, "maxID": 5}], "0"),
        ([{"minID": 1, "maxID": 4096}], "4096"),
    ],
)
def test_wrong_vlan_trunks_are_refused(node: Node, trunk: list[Json], word: str) -> None:
    refused = node.add(conf(node, vlanTrunk=trunk))
    assert refused.code == 7
    assert word in refused.message


def test_two_networks_share_a_bridge_and_both_have_their_gateways(node: Node) -> None:
    second = {"ranges": sets({"subnet": "2001:db8:62::/64"}), "routes": [DEFAULT6]}
    wired(node, conf(node), "pod1")
    wired(node, conf(node, ipam=second, name="net2"), "pod2")
    assert ping_all([(node.pod("pod1"), "10.60.0.1"), (node.pod("pod2"), "2001:db8:62::1")]) == [True, True]


def test_unwritable_state_is_refused_with_its_path(node: Node, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    configuration = conf(node)
    configuration["ipam"] = {**V4, "type": "host-local", "dataDir": str(blocked / "ipam")}
    refused = node.add(configuration)
    assert refused.code == 5
    assert str(blocked) in refused.message
