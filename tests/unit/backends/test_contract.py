"""The contract of a backend, kept by every file in `backends/`, and what is particular to each.

A new backend is held to the contract without a line here: it is found by its file.
"""

from __future__ import annotations

import pytest
from msgspec import structs

from cni_plugin import cluster
from cni_plugin.backends import contract as backend
from cni_plugin.backends.contract import Backend, Me
from cni_plugin.cluster import Node
from cni_plugin.errors import CniError
from cni_plugin.kernel.modules import modules
from cni_plugin.model.base import State
from cni_plugin.model.every import tunnel
from cni_plugin.model.layer3 import Neigh, Route
from cni_plugin.model.links import Fdb, Link, Tunnel, Vxlan
from cni_plugin.rooms import default
from tests.unit.support import cluster_node, me, node_state

FOUR = ("192.0.2.{}", "10.244.{}.0/24")
SIX = ("2001:db8::{}", "fd00:{}::/64")
DUAL = ("192.0.2.{} 2001:db8::{}", "10.244.{}.0/24 fd00:{}::/64")
FOUR_OVER_SIX = (SIX[0], FOUR[1])
SIX_OVER_FOUR = (FOUR[0], SIX[1])
MIXED = ("192.0.2.{} 2001:db8::{}", "fd00:{}::/64 10.244.{}.0/24")
FAMILIES = {"v4": FOUR, "v6": SIX, "dual": DUAL, "v6-first": MIXED, "v4-over-v6": FOUR_OVER_SIX}
Shape = tuple[str, str]

names = pytest.mark.parametrize("name", backend.names())
families = pytest.mark.parametrize("shape", FAMILIES.values(), ids=FAMILIES)


def us(shape: Shape) -> Me:
    addresses, pod_cidrs = (each.replace("{}", "1") for each in shape)
    return me(addresses, pod_cidrs)


def peer(number: int, shape: Shape) -> Node:
    return cluster_node(f"n{number}", *(each.replace("{}", str(number)) for each in shape))


def planned(found: Backend, shape: Shape, numbers: range, **options: object) -> State:
    return node_state(us(shape), (peer(each, shape) for each in numbers), found, found.configure(options))


# The contract


def test_the_backends_are_the_files() -> None:
    assert {"vxlan", "host-gw"} <= set(backend.names())


def test_a_backend_that_is_no_file_is_refused_with_those_there_are() -> None:
    for name in ("wormhole", "__init__", "..", "host_gw"):
        with pytest.raises(CniError, match=r"invalid cluster\.backend\.type .*host-gw") as caught:
            backend.find(name)
        assert caught.value.code == 7


@names
def test_it_knows_its_overhead_for_both_families(name: str) -> None:
    assert all(0 <= backend.find(name).OVERHEAD[family] < 200 for family in (4, 6))


@names
@families
def test_it_is_deterministic(name: str, shape: Shape) -> None:
    found = backend.find(name)
    one, other = planned(found, shape, range(2, 5)), planned(found, shape, range(2, 5))
    assert one == other
    assert list(one) == list(other)
    assert found.announce(us(shape).node, found.configure({})) == found.announce(us(shape).node, found.configure({}))


@names
@families
def test_the_device_of_each_route_is_the_uplink_or_its_own(name: str, shape: Shape) -> None:
    found = backend.find(name)
    local = found.local(us(shape), found.configure({}))
    known = {us(shape).uplink, *(key[2] for key in local if key[0] == "link")}
    for each in found.peer(us(shape), peer(2, shape), found.configure({})).values():
        if isinstance(each, Route | Neigh | Fdb):
            assert each.dev in known


@names
@families
def test_each_subnet_of_a_peer_has_one_route(name: str, shape: Shape) -> None:
    found = backend.find(name)
    state = found.peer(us(shape), peer(2, shape), found.configure({}))
    routes = sorted(each.dst for each in state.values() if isinstance(each, Route))
    assert routes == sorted(shape[1].replace("{}", "2").split())


@names
@families
def test_a_route_points_to_an_address_of_its_own_family_or_is_v4_by_way_of_v6(name: str, shape: Shape) -> None:
    found = backend.find(name)
    for each in found.peer(us(shape), peer(2, shape), found.configure({})).values():
        if isinstance(each, Route):
            assert (":" in each.via) == (":" in each.dst) or ":" in each.via


@names
@families
def test_a_peer_that_leaves_takes_exactly_its_own_keys_along(name: str, shape: Shape) -> None:
    found = backend.find(name)
    all_of_them, one_less = planned(found, shape, range(2, 6)), planned(found, shape, range(2, 5))
    own = found.peer(us(shape), peer(5, shape), found.configure({}))
    assert own
    assert {key for key in all_of_them.keys() - one_less.keys() if key[0] != "element"} == own.keys()
    assert one_less.items() <= all_of_them.items()


@names
@families
def test_its_devices_are_those_that_it_says(name: str, shape: Shape) -> None:
    found = backend.find(name)
    conf = found.configure({})
    links = {key[2] for key in found.local(us(shape), conf) if key[0] == "link"}
    assert links == {each.name for each in found.devices(conf)}


@names
@families
def test_a_link_of_its_own_bears_the_mark_by_which_a_former_one_is_known(name: str, shape: Shape) -> None:
    found = backend.find(name)
    conf = found.configure({})
    for each in found.local(us(shape), conf).values():
        if isinstance(each, Link):
            assert isinstance(each, Tunnel) and each.alias == each.mark()
            assert tunnel(each.name, each.alias) == type(each)(each.name)


@names
@families
def test_it_needs_of_the_kernel_what_its_objects_are_made_by(name: str, shape: Shape) -> None:
    found = backend.find(name)
    conf = found.configure({})
    all_of_it = {**found.local(us(shape), conf), **found.peer(us(shape), peer(2, shape), conf)}
    assert {each.MADE_BY for each in all_of_it.values()} - {""} <= found.NEEDS.keys()
    assert all(modules(each) and why for each, why in found.NEEDS.items())


@names
def test_where_peers_come_in_is_called_after_its_device(name: str) -> None:
    found = backend.find(name)
    conf = found.configure({})
    gate, devices = found.gate(conf), found.devices(conf)
    assert gate is None or (gate.name, gate.port) in [(each.name.partition(".")[2], each.port) for each in devices]


@names
@families
def test_what_it_announces_is_read_back_from_flannels_words(name: str, shape: Shape) -> None:
    found = backend.find(name)
    data = found.announce(us(shape).node, found.configure({}))
    heard = {key.lower(): str(each) for key, each in backend.in_flannels_words(data, name).items()}
    assert heard == {key.lower(): each for key, each in data.items()}
    assert heard.keys() <= found.SAYS.keys()
    assert backend.misfits(heard, name) == {}
    assert all(word.spelled.lower() == key for key, word in found.SAYS.items())


@names
@families
def test_nodes_of_ours_need_not_say_what_is_derived(name: str, shape: Shape) -> None:
    found = backend.find(name)
    conf = found.configure({})
    silent = peer(2, shape)
    said = structs.replace(silent, data={key.lower(): each for key, each in found.announce(silent, conf).items()})
    assert found.peer(us(shape), backend.of_ours(said), conf) == found.peer(us(shape), silent, conf)
    assert backend.unusable_flannel(said, name) == ""


def test_one_is_meant_where_none_is_named() -> None:
    assert [name for name in backend.names() if getattr(backend.find(name), "DEFAULT", False)] == [default("backends")]
    assert cluster.parse({"nodes": [{"name": "a", "address": "192.0.2.1", "podCIDRs": []}]}).backend == "vxlan"


@names
def test_none_has_a_key_that_nobody_keeps(name: str) -> None:
    """The first that has one brings the place where `store` keeps it."""
    assert backend.find(name).KEY is None


@names
def test_other_backends_keys_are_passed_over(name: str) -> None:
    """`type` alone switches a cluster from one backend to another."""
    found = backend.find(name)
    assert found.configure({"somethingelse": "x"}) == found.configure({})


# host-gw


def test_host_gw_passes_over_the_keys_of_vxlan() -> None:
    found = backend.find("host-gw")
    assert found.configure({"vni": 1, "port": 8472, "directrouting": True}) == found.configure({})


def test_host_gw_reaches_v4_pods_by_way_of_a_v6_address() -> None:
    state = planned(backend.find("host-gw"), FOUR_OVER_SIX, range(2, 3))
    (route,) = (each for each in state.values() if isinstance(each, Route))
    assert (route.dst, route.via, route.dev) == ("10.244.2.0/24", "2001:db8::2", "eth0")


def test_host_gw_refuses_v6_pods_behind_a_v4_address() -> None:
    with pytest.raises(CniError, match=r"n2 has IPv6 pods but no IPv6 address.*or use the vxlan backend") as caught:
        planned(backend.find("host-gw"), SIX_OVER_FOUR, range(2, 3))
    assert caught.value.code == 7


def test_host_gw_refuses_a_peer_behind_a_router() -> None:
    found = backend.find("host-gw")
    far = cluster_node("far", "198.51.100.2", "10.244.2.0/24")
    with pytest.raises(CniError, match=r"far's address 198\.51\.100\.2 is not on the link of eth0") as caught:
        found.peer(us(FOUR), far, found.configure({}))
    assert caught.value.code == 7


# VXLAN


@pytest.mark.parametrize(("shape", "mtu"), [(FOUR, 1450), (SIX, 1430), (FOUR_OVER_SIX, 1430), (SIX_OVER_FOUR, 1450)])
def test_vxlan_leaves_room_for_its_headers_by_the_family_of_the_underlay(shape: Shape, mtu: int) -> None:
    """Failure 14."""
    state = planned(backend.find("vxlan"), shape, range(2, 3))
    assert [each.mtu for each in state.values() if isinstance(each, Vxlan)] == [mtu]


@pytest.mark.parametrize(("shape", "remote"), [(FOUR_OVER_SIX, "2001:db8::2"), (SIX_OVER_FOUR, "192.0.2.2")])
def test_vxlan_carries_either_family_over_the_other(shape: Shape, remote: str) -> None:
    """Failure 38."""
    state = planned(backend.find("vxlan"), shape, range(2, 3))
    assert [each.dst for each in state.values() if isinstance(each, Fdb)] == [remote]
    (route,) = (each for each in state.values() if isinstance(each, Route))
    assert (":" in route.via) == (":" in route.dst)


def test_vxlan_gives_its_device_a_mac_from_the_start_and_knows_every_peers() -> None:
    """Failure 11: a MAC that was set is left alone by systemd, and peers derive it from the node list."""
    found = backend.find("vxlan")
    there = us(FOUR)
    (device,) = (each for each in found.local(there, found.configure({})).values() if isinstance(each, Vxlan))
    seen = found.peer(me("192.0.2.9", "10.244.9.0/24"), there.node, found.configure({}))
    assert [each.mac for each in seen.values() if isinstance(each, Fdb | Neigh)] == [device.mac, device.mac]
    assert int(device.mac[:2], 16) & 3 == 2, "locally administered, unicast"


def test_vxlan_macs_differ_from_node_to_node() -> None:
    for shape in (FOUR, SIX):
        state = planned(backend.find("vxlan"), shape, range(2, 250))
        assert len({each.mac for each in state.values() if isinstance(each, Fdb)}) == 248


def test_vxlan_routes_peers_on_its_link_directly_when_asked_to() -> None:
    state = planned(backend.find("vxlan"), FOUR, range(2, 3), directrouting=True)
    assert [(each.dev, each.via) for each in state.values() if isinstance(each, Route)] == [("eth0", "192.0.2.2")]
    assert not [each for each in state.values() if isinstance(each, Fdb | Neigh)]


def test_vxlan_tunnels_to_peers_behind_a_router_even_then() -> None:
    found = backend.find("vxlan")
    far = cluster_node("far", "198.51.100.2", "10.244.2.0/24")
    state = found.peer(us(FOUR), far, found.configure({"directrouting": True}))
    assert [each.dev for each in state.values() if isinstance(each, Route)] == ["tulle.1"]


def test_vxlan_routes_one_family_directly_and_tunnels_the_other_where_that_is_what_there_is() -> None:
    found = backend.find("vxlan")
    half = cluster_node("half", "192.0.2.2", "10.244.2.0/24 fd00:2::/64")
    state = found.peer(us(DUAL), half, found.configure({"directrouting": True}))
    ways = {each.dst: each.dev for each in state.values() if isinstance(each, Route)}
    assert ways == {"10.244.2.0/24": "eth0", "fd00:2::/64": "tulle.1"}


def test_vxlan_refuses_a_peer_that_has_no_address_of_this_nodes_family() -> None:
    found = backend.find("vxlan")
    with pytest.raises(CniError, match=r"n2 has no IPv4 address.*one family") as caught:
        found.peer(us(FOUR), peer(2, SIX), found.configure({}))
    assert caught.value.code == 7


def test_the_overhead_comes_off_the_wires_mtu_and_not_off_the_devices() -> None:
    found = backend.find("vxlan")

    def mtu(**options: int) -> int:
        state = found.local(me("192.0.2.1", "10.244.1.0/24"), found.configure(options))
        return next(each.mtu for each in state.values() if isinstance(each, Vxlan))

    assert (mtu(), mtu(wireMTU=1420), mtu(mtu=1420), mtu(wireMTU=1420, mtu=1300)) == (1450, 1370, 1420, 1300)
    assert mtu(wireMTU=9000) == 1450, "a link carries no more than it says"


def test_a_port_of_0_is_the_kernels_own() -> None:
    assert backend.find("vxlan").configure({"port": 0}) == backend.find("vxlan").configure({})


def test_vxlan_needs_a_subnet_to_derive_its_mac_from() -> None:
    found = backend.find("vxlan")
    with pytest.raises(CniError, match="me has no podCIDRs"):
        found.local(me("192.0.2.1", ""), found.configure({}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vni": -1}, "invalid cluster.backend.vni -1: it must be between 0 and 16777215"),
        ({"vni": 2**24}, "invalid cluster.backend.vni 16777216"),
        ({"port": 65536}, "invalid cluster.backend.port 65536: it must be between 0 and 65535"),
        ({"mtu": -1}, "invalid cluster.backend.mtu -1: it must be between 68 and 65535 bytes; leave it out"),
        ({"mtu": 67}, "invalid cluster.backend.mtu 67"),
        ({"wireMTU": 120}, "invalid cluster.backend.wireMTU 120: it must be between 138 and 65535 bytes"),
        ({"wireMTU": 65536}, "invalid cluster.backend.wireMTU 65536"),
        ({"vni": "1"}, "invalid cluster.backend.vni '1'"),
        ({"directrouting": "yes"}, "invalid cluster.backend.directrouting 'yes'"),
    ],
)
def test_vxlan_refuses_options_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(CniError) as caught:
        backend.find("vxlan").configure(options)
    assert caught.value.code == 7
    assert says in caught.value.msg
