"""What a peer says of itself concerns that peer alone: nobody's packets and nobody's MTU are had by a claim."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from cni_plugin.backends import contract as backend
from cni_plugin.backends.contract import Me
from cni_plugin.cluster import Node
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.layer3 import Route, Way
from cni_plugin.model.links import Fdb
from cni_plugin.network import unusable
from cni_plugin.plan.cluster import Plan, Terms, delta, plan
from tests.unit.node.cluster.test_convergence import World, near, of
from tests.unit.node.cluster.test_peers import kernel_with, listed
from tests.unit.support import cluster_node, me

VXLAN = backend.find("vxlan")
CONF = VXLAN.configure({})
US = me("192.0.2.1", "10.244.1.0/24")
N2, N3 = cluster_node("n2", "192.0.2.2", "10.244.2.0/24"), cluster_node("n3", "192.0.2.3", "10.244.3.0/24")
N2S_MAC, N3S_MAC = "0a:54:0a:f4:02:00", "0a:54:0a:f4:03:00"


def planned(*peers: Node, us: Me = US, before: Plan | None = None, name: str = "vxlan", **options: object) -> Plan:
    found = backend.find(name)
    return plan(Terms(us, found, found.configure(options)), peers, before)


def told(made: Plan) -> str:
    return "; ".join(each.msg for each in made.refused)


def reached(made: Plan) -> list[str]:
    return [name for name, part in made.parts.items() if part.refused is None]


def remotes(made: Plan) -> dict[str, str]:
    return {each.mac: each.dst for each in made.want.values() if isinstance(each, Fdb)}


def says(node: Node, since: float = 0.0, **data: str) -> Node:
    return msgspec.structs.replace(node, data=data, since=since)


# Where a node can be


@pytest.mark.parametrize("text", [
    "0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.7.7", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:192.0.2.1", "fe80::1", "ff02::1", "100::1",
])
def test_no_node_is_at_such_an_address(text: str) -> None:
    assert unusable(ip_address(text))


@pytest.mark.parametrize("text", ["192.0.2.1", "10.0.0.1", "100.64.0.1", "203.0.113.9", "fd00::1", "2001:db8::1"])
def test_any_other_may_be_a_nodes(text: str) -> None:
    assert unusable(ip_address(text)) == ""


@pytest.mark.parametrize(("address", "why"), [
    ("10.244.9.7", r"stray is left out: its address 10\.244\.9\.7 is a pod's: it lies in its own subnet"),
    ("10.244.1.7", r"stray is left out: .* lies in this node's subnet 10\.244\.1\.0/24"),
    ("10.244.2.7", r"stray is left out: its address is a pod's: it lies in 10\.244\.2\.0/24, the subnet of n2"),
    ("192.0.2.1", r"stray is left out: its address 192\.0\.2\.1 is this node's own"),
    ("192.0.2.255", r"stray is left out: .* is no station's: .* first or last of 192\.0\.2\.0/24"),
])
@pytest.mark.parametrize("name", backend.names())
def test_a_node_at_an_address_that_cannot_be_one_is_left_out_alone(name: str, address: str, why: str) -> None:
    """Failure: one Node object at a pod's address took the MTU of every pod on the node."""
    stray = cluster_node("stray", address, "10.244.9.0/24")
    us = US._replace(ways={address: Way("eth0", 1500)})
    made = planned(N2, N3, stray, us=us, name=name)
    assert reached(made) == ["n2", "n3"]
    assert made.want == planned(N2, N3, us=us, name=name).want
    with pytest.raises(Exception, match=why):
        raise made.refused[0]


def test_it_is_the_one_with_the_address_that_is_left_out_however_old_it_is() -> None:
    """Subnets are given, addresses are claimed: who claims a pod's address must not drop the node of that pod."""
    elder = says(cluster_node("a", "10.244.2.7", "10.244.9.0/24"))
    assert reached(planned(elder, says(N2, since=99.0))) == ["n2"]


def test_a_subnet_that_has_this_nodes_own_address_in_it_is_no_subnet_of_pods() -> None:
    """calico#2720: a node is given the nodes' own LAN as its pod CIDR."""
    lan = cluster_node("n9", "198.51.100.9", "192.0.2.0/25")
    made = planned(N2, lan)
    assert reached(made) == ["n2"]
    assert "n9 is left out: its subnet 192.0.2.0/25 has this node's own address 192.0.2.1 in it" in told(made)


def test_who_left_lets_in_whom_it_kept_out() -> None:
    stray = cluster_node("stray", "10.244.2.7", "10.244.9.0/24")
    first = planned(N2, stray)
    after = planned(stray, before=first)
    assert reached(after) == ["stray"]
    assert after.want == planned(stray).want
    want, have = delta(after, first)
    assert {each.dst for each in want.values() if isinstance(each, Route)} == {"10.244.9.0/24"}
    assert {each.dst for each in have.values() if isinstance(each, Route)} == {"10.244.2.0/24"}


def test_two_nodes_that_say_they_have_one_address_keep_nobody_away() -> None:
    """Who lies leads its own pods' packets astray, and nobody else's: the MACs, and so the entries, are apart."""
    liar = cluster_node("n3", "192.0.2.2", "10.244.3.0/24")
    assert remotes(planned(liar, N2)) == {N2S_MAC: "192.0.2.2", N3S_MAC: "192.0.2.2"}


# What it is known by


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("since", [(1.0, 2.0), (2.0, 1.0)])
def test_nobody_gets_another_nodes_traffic_by_announcing_its_mac(
    order: tuple[int, int], since: tuple[float, float]
) -> None:
    pair = (says(N2, since[0]), says(N3, since[1], vtepmac=N2S_MAC))
    made = planned(*(pair[each] for each in order))
    assert remotes(made) == {N2S_MAC: "192.0.2.2"}
    assert f"n3 is left out: it says it has {N2S_MAC}, which is n2's" in told(made)


def test_nor_by_announcing_this_nodes_own() -> None:
    made = planned(N2, says(N3, vtepmac="0A:54:0A:F4:01:00"))
    assert reached(made) == ["n2"]
    assert "n3 is left out: it says that its VTEP has the MAC 0a:54:0a:f4:01:00, which is that of me" in told(made)


@pytest.mark.parametrize("mac", [f"{'00:' * 5}00", f"{'ff:' * 5}ff", "01:00:5e:00:00:01", "33:33:00:00:00:01", "x"])
def test_nor_one_that_is_everybodys(mac: str) -> None:
    """All zeros is where VXLAN sends what it knows no entry for."""
    assert reached(planned(N2, says(N3, vtepmac=mac))) == ["n2"]


def test_a_flannel_nodes_own_mac_is_believed() -> None:
    assert remotes(planned(N2, says(N3, vtepmac="82:4B:b6:2f:54:4e")))["82:4b:b6:2f:54:4e"] == "192.0.2.3"


def test_of_two_flannel_nodes_with_one_mac_the_elder_stays() -> None:
    mac = "82:4b:b6:2f:54:4e"
    made = planned(says(N2, 2.0, vtepmac=mac), says(N3, 1.0, vtepmac=mac))
    assert (reached(made), remotes(made)) == (["n3"], {mac: "192.0.2.3"})


def test_another_vni_is_told_and_keeps_nobody_away() -> None:
    made = planned(N2, says(N3, vni="7"))
    assert reached(made) == ["n2", "n3"]
    assert made.doubts == ("n3 announces VNI 7, and the network's is 1: restart its agent, or flanneld there",)
    assert planned(N2, says(N3, vni="7"), vni=7).doubts == ()


# What leads there


def mtu_with(tmp_path: Path, way: Way, *, cidrs: tuple[str, ...] = ("10.244.1.0/24",)) -> tuple[int, tuple[str, ...]]:
    kernel: FakeKernel = kernel_with()
    kernel.found_ways["198.51.100.3"] = way
    world = World(str(tmp_path), kernel)
    world.learns(of(*near(2), listed(3, "far", "4"), cidrs=cidrs))
    member = world.member
    assert member.facts is not None
    return member.facts.mtu, member.problems


def test_a_way_through_our_own_devices_is_no_underlay_and_no_mtu(tmp_path: Path) -> None:
    mtu, problems = mtu_with(tmp_path, Way("tulle.1", 1450, own=True))
    assert mtu == 1450
    assert len(problems) == 1
    assert "n3 is left out: its address 198.51.100.3 is reached through tulle.1, which is Tulle's own" in problems[0]


@pytest.mark.parametrize(("cidrs", "mtu", "least"), [(("10.244.1.0/24",), 600, 626), (("fd00:1::/64",), 1300, 1330)])
def test_a_way_that_is_too_narrow_for_pods_leaves_out_who_is_behind_it(
    tmp_path: Path, cidrs: tuple[str, ...], mtu: int, least: int
) -> None:
    left, problems = mtu_with(tmp_path, Way("ppp0", mtu), cidrs=cidrs)
    assert left == 1450
    assert f"reached by ppp0, whose {mtu} bytes leave {mtu - 50} for pods" in problems[0]
    assert f"raise it to at least {least}" in problems[0]


def test_a_bridge_of_guests_that_carries_less_than_the_underlay_takes_nothing_of_the_mtu(tmp_path: Path) -> None:
    """A container's address, docker's or podman's: nobody beyond this node is there."""
    left, problems = mtu_with(tmp_path, Way("docker0", 1400, guests=True))
    assert left == 1450
    assert "198.51.100.3 is reached by the bridge docker0, on which are but guests of this node" in problems[0]


@pytest.mark.parametrize("way", [Way("virbr0", 1500, guests=True), Way("br1", 1400, via="203.0.113.1", guests=True)])
def test_a_node_may_be_a_guest_of_another_or_beyond_one(tmp_path: Path, way: Way) -> None:
    assert mtu_with(tmp_path, way) == (way.mtu - 50, ())


def test_when_the_way_becomes_another_the_peer_is_back(tmp_path: Path) -> None:
    kernel = kernel_with()
    kernel.found_ways["198.51.100.3"] = Way("tulle.1", 1450, own=True)
    world = World(str(tmp_path), kernel)
    cluster = of(*near(2), listed(3, "far", "4"))
    world.learns(cluster)
    kernel.found_ways["198.51.100.3"] = Way("eth1", 1500)
    world.learns(of(*near(2, 4), listed(3, "far", "4")))
    assert world.member.problems == ()


def test_a_plan_is_the_one_from_nothing_whoever_contests_what() -> None:
    """Each list follows each other one."""
    flannel = "82:4b:b6:2f:54:4e"
    lists = [
        (N2, N3), (N2,), (says(N2, vtepmac=flannel), says(N3, vtepmac=flannel)), (says(N3, vtepmac=N2S_MAC), N2),
        (cluster_node("n3", "10.244.2.9", "10.244.3.0/24"), N2), (cluster_node("n2", "192.0.2.2", "10.244.2.0/23"),),
        (cluster_node("n3", "10.244.2.9", "10.244.3.0/24"), cluster_node("n2", "192.0.2.2", "10.244.2.128/25")),
    ]
    for first in lists:
        before = planned(*first)
        for second in lists:
            after = planned(*second, before=before)
            anew = planned(*second)
            assert (after.want, told(after)) == (anew.want, told(anew))
            want, have = delta(after, before)
            assert {**{k: v for k, v in before.want.items() if k not in have}, **want} == anew.want
