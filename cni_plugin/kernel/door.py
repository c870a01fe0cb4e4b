"""The one door to the kernel: what everything above may ask of it, and nothing else.

`Kernel` is a protocol with two keepers: `kernel.linux` speaks to a real kernel, `kernel.fake` keeps its state in
memory for tests and dry runs. Only entry points choose one; all else is handed it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from cni_plugin.diff import Op
from cni_plugin.marks import TABLE
from cni_plugin.model.base import Object, State
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Way
from cni_plugin.model.links import Tunnel


class Uplink(NamedTuple):
    """The interface that holds a node's address. MTU in bytes; `prefixes` are those it is directly connected to."""

    name: str
    mtu: int
    prefixes: tuple[str, ...]


class OwnLink(NamedTuple):
    """A link that bears our mark: its name, what its ifalias says, the bridge that it is a port of."""

    name: str
    alias: str
    master: str = ""
    up: bool = True


class PodWire(NamedTuple):
    """A veth in a pod: its MAC, its addresses without prefix lengths, and its other end, if that is on the node."""

    mac: str
    addresses: tuple[str, ...]
    host_dev: str
    host_alias: str


class Kernel(Protocol):
    """A node's kernel, and the namespace of one pod once `enter` was called."""

    def enter(self, netns: str, *, allow_own: bool = False) -> None:
        """Open the pod's network namespace at this path; an earlier one is closed.

        Raises NetnsError, also for the node's own namespace unless that is allowed.
        """

    def leave(self) -> None:
        """Let go of the pod's namespace, if one was entered."""

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry the operations out in order. Deleting what is gone is success.

        Raises KernelError at the first that is refused; its `done` says what took effect.
        """

    def read(self, wanted: Iterable[Object]) -> State:
        """What stands now at the keys of these objects; nothing else is looked at, nothing is dumped."""

    def addresses(self, dev: str) -> tuple[str, ...]:
        """The addresses on a link of the node, with prefix lengths, link-local ones left out; () without the link."""

    def link_index(self, name: str) -> int:
        """The ifindex of a link of the node, 0 when there is none."""

    def link_mac(self, name: str) -> str:
        """The MAC of a link of the node, "" when there is none."""

    def link_mtu(self, name: str) -> tuple[str, int] | None:
        """The ifalias and the MTU of a link of the node, whatever its kind; None when there is none."""

    def pod_link_exists(self, name: str) -> bool:
        """Whether the pod's namespace has a link of this name."""

    def pod_wire(self, name: str) -> PodWire | None:
        """The veth of this name in the pod's namespace; None for no link, and for one of another kind."""

    def delete_pod_link(self, name: str) -> None:
        """Remove a veth of this name from the pod's namespace, if there is one; other kinds are left."""

    def announce(self, dev: str, host_dev: str) -> None:
        """Wait until the bridge forwards for `host_dev`; then the pod tells its addresses (ARP, neighbour adv.)."""

    def await_dad(self, dev: str) -> tuple[str, ...]:
        """Wait until no IPv6 address of the pod's link is tentative; those that another station turned out to have."""

    def uplink(self, address: str) -> Uplink | None:
        """The interface of the node that bears this address, None when none does."""

    def default_mtu(self) -> int:
        """The MTU in bytes of the interface that leads away from this node, 0 when none does."""

    def interfaces(self) -> Mapping[str, tuple[str, ...]]:
        """The links of the node that bear addresses, in the kernel's order, and those with prefix lengths.

        Link-local ones are left out.
        """

    def advertise(self, where: Mapping[str, str]) -> Collection[str]:
        """Tell every station on their links on which interfaces these addresses of the node are; those that it did."""

    def ways(self, addresses: Iterable[str]) -> dict[str, Way]:
        """The way to each of these addresses, at one message each.

        One without a way, or of the node's own, is left out. What was only learned of a path's MTU, and will expire,
        does not count.
        """

    def taught(self) -> tuple[str, ...]:
        """The links of the node that have routes or addresses by router advertisement and would not, did it forward."""

    def out_of_reach(self, wanted: Iterable[Sysctl]) -> tuple[str, ...]:
        """Of these settings of the node, those that are otherwise and cannot be set: why, and where they can be."""

    def rival(self, device: Tunnel) -> str:
        """The link of the node that has what a device of its kind alone can have, whoever made it; "" when none has."""

    def lacks(self, features: Collection[str]) -> tuple[str, ...]:
        """Of these features, in the words of `kernel.modules`, those that the kernel has not, as far as it tells."""

    def release(self) -> str:
        """The kernel's release, as `uname -r` tells it."""

    def port(self) -> int:
        """The netlink port from which the node is changed: events bear the port of who caused them."""

    def owned(self, *devices: str) -> State:
        """All routes that bear our protocol number, and all entries of these tunnels' devices. The one dump there is.

        Those to single pods, which lead over a bridge without a gateway, are not among them.
        """

    def elements(self, name: str, table: str = TABLE) -> State:
        """What is in a set or map of a table of ours, nothing without it. Raises KernelError.

        Values are spelt as nft prints them.
        """

    def own_links(self) -> tuple[OwnLink, ...]:
        """All links of the node that bear our mark in their ifalias."""

    def ports(self, bridge: str) -> int:
        """How many ports a bridge has; 0 without the bridge."""

    def locally_held(self) -> frozenset[str]:
        """All addresses of the node, without prefix lengths."""
