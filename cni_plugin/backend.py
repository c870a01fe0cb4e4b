"""What carries packets from node to node: the contract that each file in `backends/` keeps, and how one is found.

A backend is pure. It is given this node and a peer and answers with the kernel objects that join them; it never
learns what the kernel has, so it cannot forget to remove anything.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from ipaddress import ip_network
from typing import NamedTuple, Protocol

from cni_plugin import backends
from cni_plugin.cluster import Node
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Way
from cni_plugin.network import Address


class Gate(NamedTuple):
    """Where a node takes its peers' packets in: a UDP port, and in nft's words what tells them from other people's."""

    name: str
    port: int
    mark: str


class Me(NamedTuple):
    """This node, and the interface that bears its address (with the prefixes that this is directly connected to).

    `mtu` in bytes is the smallest over the interfaces that lead to peers. `local`: its address on the underlay where
    peers know it by another one. `ways` lead to peers' addresses, as far as there is a way now; `uplinks` are the
    interfaces by which they do. `offload`: checksums may be left to the NIC.
    """

    node: Node
    uplink: str
    mtu: int
    prefixes: tuple[str, ...]
    local: Address | None = None
    ways: Mapping[str, Way] = {}
    uplinks: tuple[str, ...] = ()
    offload: bool = False

    @property
    def leading(self) -> tuple[str, ...]:
        """The interfaces of its underlay: that with its address, and those that lead to peers."""
        return tuple(sorted({self.uplink, *self.uplinks}))

    @property
    def underlay(self) -> Address:
        """Where its tunnels end."""
        return self.local or self.node.addresses[0]

    def link_to(self, address: Address) -> str:
        """The interface by which it reaches an address without a router, "" where there is one in between.

        Without a way, as while a link is down, the prefixes tell what is to be when it is back.
        """
        way = self.ways.get(str(address))
        if way is not None:
            return "" if way.via else way.dev
        near = any(address in network for network in map(ip_network, self.prefixes))
        return self.uplink if near else ""


class Backend(Protocol):
    """The functions of a backend's module. `OVERHEAD` in bytes, by the family of the underlay."""

    OVERHEAD: Mapping[int, int]

    def configure(self, options: Mapping[str, object]) -> object:
        """The backend's own keys as a value. Raises CniError 7."""

    def device(self, conf: object) -> str:
        """The name of the device that is this backend's alone, "" when it has none."""

    def announce(self, node: Node, conf: object) -> Mapping[str, str]:
        """What peers of this node must know beyond address and subnets, of which it has at least one."""

    def ends(self, me: Me, peer: Node, conf: object) -> tuple[Address, ...]:
        """The addresses of a peer that packets for its pods are sent to: the ways to them count. Raises nothing."""

    def local(self, me: Me, conf: object) -> State:
        """What this node needs before any peer is known. Raises CniError 7 when it cannot be had."""

    def derived(self, peer: Node) -> bool:
        """Whether what leads to a peer follows from its addresses and subnets, and not from its own word alone."""

    def doubt(self, peer: Node, conf: object) -> str:
        """What of a peer's announcement does not fit although it can be reached, and what to do; "" for nothing."""

    def gate(self, conf: object) -> Gate | None:
        """Where peers' packets come in, if nobody else's are to be believed there; None without such a place."""

    def peer(self, me: Me, peer: Node, conf: object) -> State:
        """What leads to one peer. Raises CniError 7 when it cannot be reached this way."""


def names() -> list[str]:
    """The backends there are, as `backend.type` calls them."""
    return sorted(each.name.replace("_", "-") for each in pkgutil.iter_modules(backends.__path__))


def find(name: str) -> Backend:
    """The backend of this name. Raises CniError 7."""
    module = name.replace("-", "_")
    if name not in names():
        raise CniError(INVALID_CONFIG, f"invalid cluster.backend.type {name!r}: use one of {', '.join(names())}")
    found: Backend = importlib.import_module(f"cni_plugin.backends.{module}")
    return found
