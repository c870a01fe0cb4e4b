"""What the tests of the kernel package share: a node and its pods as namespaces, and a pod's wire as it is wanted.

The test's thread itself is moved into the node's namespace, as a plugin's is when a runtime calls it; commands that a
test runs without naming a namespace therefore run on the node.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from cni_plugin.describe import describe
from cni_plugin.diff import diff
from cni_plugin.kernel.host.netns import inside, open_namespace
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.rtnl.netlink import Netlink
from cni_plugin.kernel.watch.changed import Changed
from cni_plugin.kernel.watch.monitor import Monitor
from cni_plugin.model.base import POD, Object, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Bridge, PodLink, Port, Up, Veth
from scripts.lib.lab import namespaces
from tests.pace import PATIENCE

MakeNetns = Callable[[str], str]
BRIDGE = "tulle0"


def path(netns: str) -> str:
    return str(namespaces.NETNS_DIR / netns)


@contextmanager
def kernel_of(netns: str) -> Iterator[LinuxKernel]:
    """A kernel whose node is this namespace; the thread is in it meanwhile."""
    descriptor = open_namespace(path(netns))
    try:
        with inside(descriptor), LinuxKernel() as kernel:
            yield kernel
    finally:
        os.close(descriptor)


def enter_new(kernel: LinuxKernel, make: MakeNetns, name: str = "pod") -> str:
    """A new pod's namespace, entered: its full name."""
    pod = make(name)
    kernel.enter(path(pod))
    return pod


def put(kernel: LinuxKernel, objects: Iterable[Object]) -> None:
    """Make them, as ADD does: against nothing."""
    kernel.apply(diff(state(objects), {}))


def wrong(kernel: LinuxKernel, objects: Iterable[Object]) -> list[str]:
    """What is not as wanted, in the operator's words."""
    want = state(objects)
    return [describe(op) for op in diff(want, kernel.read(want.values()))]


def run(command: str, netns: str | None = None) -> str:
    """The output of a command on the node, or in a pod."""
    return namespaces.run(command.split(), netns=netns)


def news(monitor: Monitor) -> Changed:
    """What a monitor tells until it has been silent for a while."""
    poll, changed = select.poll(), 0
    for fd in monitor.filenos():
        poll.register(fd, select.POLLIN)
    while ready := poll.poll(60):
        for fd, _ in ready:
            changed |= monitor.drain(fd)
    return changed


def bridge() -> list[Object]:
    return [
        Bridge(BRIDGE, mac="02:00:00:00:00:01", alias="tulle:net"),
        Up(BRIDGE),
        Addr(BRIDGE, "10.22.0.1/16"),
        Addr(BRIDGE, "fd22::1/64"),
    ]


def wire(number: int = 2, dev: str = "eth0") -> list[Object]:
    """A pod of two families on the bridge, announcing itself; `number` is the end of its addresses."""
    mac = f"0a:58:0a:16:00:{number:02x}"
    host = f"tl{number}"
    switches = ("ipv4/conf/{}/arp_notify 1", "ipv6/conf/{}/ndisc_notify 1", "ipv6/conf/{}/accept_dad 0")
    sysctls = (each.format(dev).split() for each in switches)
    return [
        Veth(host, master=BRIDGE, mtu=1400, alias=f"tulle:net/c{number}/{dev}", peer=dev, peer_mac=mac),
        Port(host, hairpin=True),
        PodLink(dev, mac=mac, mtu=1400),
        *(Sysctl(f"net/{name}", value, POD, dev) for name, value in sysctls),
        Up("lo", POD),
        Up(dev, POD),
        Addr(dev, f"10.22.0.{number}/16", POD),
        Addr(dev, f"fd22::{number:x}/64", POD),
        Route("0.0.0.0/0", dev, "10.22.0.1", POD),
        Route("::/0", dev, "fd22::1", POD),
    ]


@contextmanager
def listening(netns: str, dev: str) -> Iterator[socket.socket]:
    """A socket that hears every frame that comes in on this link."""
    descriptor = open_namespace(path(netns))
    try:
        with inside(descriptor):
            listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
            listener.bind((dev, 3))
    finally:
        os.close(descriptor)
    with listener:
        listener.settimeout(PATIENCE)
        yield listener


@contextmanager
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts requests to the kernel and answers from it: [requests, answers]."""
    counted = [0, 0]
    names = ("send", "ask", "ask_all", "dump")
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(Netlink, name, _counting(getattr(Netlink, name), counted))
        yield counted


def _counting(method: Callable[..., object], counted: list[int]) -> Callable[..., object]:
    def call(self: Netlink, requests: object) -> object:
        answers = method(self, requests)
        counted[0] += len(requests) if isinstance(requests, list) else 1
        counted[1] += len(answers) if isinstance(answers, list) else 1
        return answers

    return call
