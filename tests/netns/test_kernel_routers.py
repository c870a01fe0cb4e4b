"""What a node has learned from router advertisements it keeps, when pods with IPv6 make it forward."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.node.settle import settle
from cni_plugin.plan.node import forwarding
from scripts.lib.lab import namespaces
from tests.netns.kernel_world import MakeNetns, kernel_of, run
from tests.pace import until

ADVERTISE = """
import socket, struct
channel = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 86400, 14400, 0, socket.inet_pton(socket.AF_INET6, "2001:db8:7::"))
advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix
channel.sendto(advertisement, ("ff02::1", 0, 0, socket.if_nametoindex("eth0")))
"""


class Node:
    """A node with an uplink to a router that advertises itself."""

    def __init__(self, kernel: LinuxKernel, router: str) -> None:
        self.kernel = kernel
        self._router = router

    def learns(self) -> bool:
        """The router speaks once: whether there is a default route then, or was before."""
        namespaces.attempt([sys.executable, "-c", ADVERTISE], netns=self._router)  # its own address may be yet to come
        return self.default_route()

    def default_route(self) -> bool:
        return "proto ra" in run("ip -6 route show default")

    def forward(self) -> None:
        """Have it forward, as the first pod with IPv6 does."""
        want = forwarding([6])
        settle(self.kernel, want, self.kernel.read(want.values()))
        assert run("sysctl -n net.ipv6.conf.all.forwarding") == "1\n"


@pytest.fixture
def node(netns: MakeNetns) -> Iterator[Node]:
    here, router = netns("node"), netns("router")
    for each in (here, router):  # else the routers' link-local addresses would be probed first
        namespaces.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"], netns=each)
    namespaces.ip(here, f"link add eth0 type veth peer name eth0 netns {router}", "link set eth0 up")
    namespaces.ip(here, "link add eth1 type veth peer name far1", "link set eth1 up")
    namespaces.ip(router, "link set eth0 up")
    with kernel_of(here) as kernel:
        made = Node(kernel, router)
        until(made.learns, "the node has a default route")
        yield made


def accepts(dev: str) -> str:
    return run(f"sysctl -n net.ipv6.conf.{dev}.accept_ra").strip()


def test_the_default_route_and_what_comes_after_it_are_kept(node: Node) -> None:
    assert "2001:db8:7::/64" in run("ip -6 route show")
    node.forward()
    assert node.default_route()
    assert "2001:db8:7::/64" in run("ip -6 route show")
    run("ip -6 route del default")
    until(node.learns, "an advertisement counts as before")


def test_only_the_link_that_has_learned_something_is_touched(node: Node) -> None:
    node.forward()
    assert (accepts("eth0"), accepts("eth1"), accepts("all"), accepts("default")) == ("2", "1", "1", "1")


def test_a_link_with_an_address_by_advertisement_and_no_route_counts(node: Node) -> None:
    run("ip -6 route del default")
    assert node.kernel.taught() == ("eth0",)


@pytest.mark.parametrize("value", ["0", "2"])
def test_what_somebody_else_decided_of_a_link_is_left(node: Node, value: str) -> None:
    run(f"sysctl -qw net.ipv6.conf.eth0.accept_ra={value}")
    assert node.kernel.taught() == ()
    node.forward()
    assert accepts("eth0") == value


def test_a_node_that_forwards_already_has_nothing_to_lose(node: Node) -> None:
    node.forward()
    run("sysctl -qw net.ipv6.conf.eth0.accept_ra=1")
    node.forward()
    assert accepts("eth0") == "1"
