"""The first packet after an address is reused gets through at once: neighbours are told, and the port forwards."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from tests.netns.kernel_world import BRIDGE, MakeNetns, bridge, enter_new, kernel_of, listening, put, run, wire

ARP, IPV6 = 0x0806, 0x86DD
NEIGHBOUR_ADVERTISEMENT = 136


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        put(kernel, bridge())
        yield kernel


def announced_address(frame: bytes) -> str:
    """The address that a gratuitous ARP or an unsolicited neighbour advertisement is about, "" for other frames."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == ARP and frame[28:32] == frame[38:42]:
        return socket.inet_ntop(socket.AF_INET, frame[28:32])
    if kind == IPV6 and frame[20] == socket.IPPROTO_ICMPV6 and frame[54] == NEIGHBOUR_ADVERTISEMENT:
        return socket.inet_ntop(socket.AF_INET6, frame[62:78])
    return ""


def test_every_address_of_a_new_pod_is_announced_to_its_neighbours(kernel: LinuxKernel, netns: MakeNetns) -> None:
    neighbour = enter_new(kernel, netns, "neighbour")
    put(kernel, wire(3))
    enter_new(kernel, netns)

    with listening(neighbour, "eth0") as listener:
        put(kernel, wire(2))
        kernel.announce("eth0", "tl2")
        missing = {"10.22.0.2", "fd22::2"}
        while missing:  # the listener's timeout ends the test
            missing.discard(announced_address(listener.recv(2048)))


@pytest.mark.parametrize("address", ["10.22.0.2", "fd22::2"])
def test_failure_18_stale_neighbour_entries_of_a_reused_address_are_corrected(
    kernel: LinuxKernel, netns: MakeNetns, address: str
) -> None:
    neighbour = enter_new(kernel, netns, "neighbour")
    put(kernel, wire(3))
    run(f"ip neigh replace {address} lladdr 02:ba:d0:00:00:01 nud stale dev eth0", neighbour)
    run(f"ip neigh replace {address} lladdr 02:ba:d0:00:00:01 nud reachable dev {BRIDGE}")

    enter_new(kernel, netns)
    put(kernel, wire(2))
    kernel.announce("eth0", "tl2")

    assert "0a:58:0a:16:00:02" in run(f"ip neigh show {address}")
    run(f"ping -c1 -W1 {address}")
    run(f"ping -c1 -W1 {address}", neighbour)


def test_the_bridge_forwards_for_the_pod_when_its_announcement_is_made(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)

    put(kernel, wire())
    kernel.announce("eth0", "tl2")

    assert "state forwarding" in run("bridge link show dev tl2")


def test_a_port_that_a_spanning_tree_holds_back_is_waited_for(kernel: LinuxKernel, netns: MakeNetns) -> None:
    run(f"ip link set {BRIDGE} type bridge stp_state 1 forward_delay 200")
    enter_new(kernel, netns)
    put(kernel, wire())
    assert "state forwarding" not in run("bridge link show dev tl2")

    kernel.announce("eth0", "tl2")

    assert "state forwarding" in run("bridge link show dev tl2")


def test_announcing_a_pod_that_is_gone_is_no_error(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)

    kernel.announce("eth0", "tl2")
