"""A resident host deletes links without waiting for the kernel to free them: gone is gone, and quickly."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.host.netns import inside, open_namespace
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.rtnl import encode, remover
from cni_plugin.kernel.rtnl.codec import RTM_DELLINK, Message
from cni_plugin.kernel.rtnl.codec import encode as encode_message
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE
from cni_plugin.model.links import Veth
from tests.netns.kernel_world import BRIDGE, MakeNetns, bridge, path, put, run
from tests.pace import cheaper


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    """The kernel of a node with a bridge, as a resident host has it; the thread is on the node."""
    descriptor = open_namespace(path(netns("node")))
    try:
        with inside(descriptor), LinuxKernel(prompt=False) as kernel:
            put(kernel, bridge())
            yield kernel
    finally:
        os.close(descriptor)


def pairs(count: int, pod: str) -> list[Op]:
    """So many veth pairs from the bridge into a pod, made; what deletes them."""
    names = [f"tl{number:011x}" for number in range(count)]
    lines = "\n".join(
        f"link add {name} master {BRIDGE} up type veth peer name p{name[-9:]} netns {pod}" for name in names
    )
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
    return [Op("delete", Veth(name)) for name in names]


def veths(where: str | None = None) -> list[str]:
    return [line for line in run("ip -o link show type veth", where).splitlines() if line]


@pytest.mark.parametrize("count", [1, 2, 50])
def test_links_are_gone_at_both_ends_when_their_deletion_returns(
    kernel: LinuxKernel, netns: MakeNetns, count: int
) -> None:
    pod = netns("pod")
    gone = pairs(count, pod)
    assert len(veths()) == count == len(veths(pod))
    kernel.apply(gone)
    assert (veths(), veths(pod)) == ([], [])
    assert len(pairs(count, pod)) == len(veths()), "their names are free at once"


def test_a_link_that_is_gone_already_is_success_among_others(kernel: LinuxKernel, netns: MakeNetns) -> None:
    first, *others = pairs(3, netns("pod"))
    run(f"ip link del {first.object.key[2]}")
    kernel.apply([first, *others])
    assert veths() == []
    kernel.apply([first, *others])


def test_deleting_takes_less_than_a_grace_period(kernel: LinuxKernel, netns: MakeNetns) -> None:
    """The reference, and a request that is waited for to its end, take 15 to 20 ms."""
    pod = netns("pod")
    quick: list[float] = []
    whole: list[float] = []
    for _ in range(12):
        for patient, taken in ((LinuxKernel(), whole), (kernel, quick)):
            gone = pairs(1, pod)
            start = time.monotonic()
            patient.apply(gone)
            taken.append(time.monotonic() - start)
            assert veths() == []
    print(f"gone after {min(quick) * 1000:.1f} ms, freed after {min(whole) * 1000:.1f} ms")
    cheaper(min(quick), 0.75 * min(whole))


def test_only_the_links_that_were_named_go(kernel: LinuxKernel, netns: MakeNetns) -> None:
    first, *others = pairs(5, netns("pod"))
    kernel.apply(others)
    assert [first.object.key[2]] == [line.split(": ")[1].partition("@")[0] for line in veths()]


def test_a_link_that_the_kernel_does_not_let_into_the_group_is_told_and_stays(
    kernel: LinuxKernel, netns: MakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = pairs(4, netns("pod"))
    stuck = first.object.key[2]

    def grouping_but_one(name: str, group: int) -> bytearray:
        return encode.grouping(name if name != stuck else "a-name-no-link-can-have", group)

    monkeypatch.setattr(remover, "grouping", grouping_but_one)
    with pytest.raises(KernelError) as refused:
        kernel.apply([first, *others])
    assert refused.value.op == first
    assert [line.split(": ")[1].partition("@")[0] for line in veths()] == [stuck]


def test_a_port_that_left_its_bridge_is_not_a_link_that_is_gone() -> None:
    """The bridge tells of it with a message of the same kind and number, before the link is gone."""
    for family, gone in ((AF_BRIDGE, False), (socket.AF_UNSPEC, True)):
        told = Message(RTM_DELLINK, bytes(encode_message(RTM_DELLINK, 0, {"family": family, "index": 7})))
        assert remover._is_gone(told) is gone
