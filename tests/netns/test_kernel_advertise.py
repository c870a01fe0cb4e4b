"""Addresses that move from one interface of a node to another: who had them in its table learns the new MAC at once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from scripts.lib.lab import namespaces
from tests.netns.agents import in_node

ADDRESSES = ("192.0.2.1", "2001:db8:1::1")
Make = Callable[[str], str]


@pytest.fixture
def wire(netns: Make) -> tuple[str, str]:
    """A node with two interfaces, the second one down, and a neighbour, all on one bridge."""
    node, neighbour, middle = netns("node"), netns("near"), netns("wire")
    namespaces.ip(middle, "link add wire type bridge", "link set wire up")
    for name, end, where in (("one", "eth0", node), ("two", "eth1", node), ("three", "eth0", neighbour)):
        pair = f"link add {name} type veth peer name {end} netns {where}"
        namespaces.ip(middle, pair, f"link set {name} master wire up")
        namespaces.ip(where, f"link set {end} up")
    namespaces.ip(node, "link set eth1 down")  # else either answers for an address of the other (arp_ignore)
    namespaces.ip(neighbour, "addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8:1::2/64 dev eth0 nodad")
    return node, neighbour


def mac(netns: str, dev: str) -> str:
    (link,) = json.loads(namespaces.run(["ip", "-j", "link", "show", dev], netns=netns))
    return str(link["address"])


def known(netns: str, address: str) -> str:
    """The MAC that a station has for an address, "" for none."""
    found = json.loads(namespaces.run(["ip", "-j", "neigh", "show", address], netns=netns))
    return str(found[0].get("lladdr", "")) if found else ""


def advertise(netns: str, dev: str) -> list[str]:
    def work() -> list[str]:
        with LinuxKernel() as kernel:
            return list(kernel.advertise(dict.fromkeys(ADDRESSES, dev)))

    return in_node(f"{namespaces.NETNS_DIR / netns}", work)


def place(netns: str, dev: str, *more: str) -> None:
    six = f"addr add {ADDRESSES[1]}/64 dev {dev} {' '.join(more)}"
    namespaces.ip(netns, f"link set {dev} up", f"addr add {ADDRESSES[0]}/24 dev {dev}", six)


def test_a_neighbour_learns_the_mac_of_the_interface_that_an_address_moved_to(wire: tuple[str, str]) -> None:
    node, neighbour = wire
    place(node, "eth0", "nodad")
    for each in ADDRESSES:
        assert namespaces.ping(neighbour, each, timeout=3)
        assert known(neighbour, each) == mac(node, "eth0")
    namespaces.ip(node, "addr flush dev eth0 scope global", "link set eth0 down")
    place(node, "eth1", "nodad")
    assert [known(neighbour, each) for each in ADDRESSES] == [mac(node, "eth0")] * 2, "nobody told it"
    assert advertise(node, "eth1") == list(ADDRESSES)
    assert [known(neighbour, each) for each in ADDRESSES] == [mac(node, "eth1")] * 2
    assert all(namespaces.ping(neighbour, each) for each in ADDRESSES)


def test_who_does_not_know_an_address_is_not_made_to(wire: tuple[str, str]) -> None:
    node, neighbour = wire
    place(node, "eth1", "nodad")
    advertise(node, "eth1")
    assert [known(neighbour, each) for each in ADDRESSES] == ["", ""]


def test_an_address_that_is_not_certain_yet_is_not_told(wire: tuple[str, str]) -> None:
    """RFC 4862, section 5.4: somebody else may have it; so it is not said that it was told, and told later."""
    node, _ = wire
    place(node, "eth1")
    assert advertise(node, "eth1") == [ADDRESSES[0]]
    assert advertise(node, "no-such-link") == []
