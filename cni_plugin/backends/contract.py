"""What carries packets from node to node: the contract that each file in `backends/` keeps, and how one is found.

A backend is pure. It is given this node and a peer and answers with the kernel objects that join them; it never
learns what the kernel has, so it cannot forget to remove anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from ipaddress import ip_network
from typing import NamedTuple, Protocol, cast

import msgspec

from cni_plugin import rooms
from cni_plugin.cluster import Node
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Way
from cni_plugin.network import Address


class Word(NamedTuple):
    """Something that nodes announce for a backend: `spelled` as flannel has it, in its JSON a `number` where it is one.

    `derived`: of a node of ours it follows from the subnets, so that it counts from flannel's alone, which cannot be
    reached without it. `fits`: whether a value can be meant, `meant` in a user's words.
    """

    spelled: str
    number: bool = False
    derived: bool = False
    fits: Callable[[str], bool] = bool
    meant: str = ""


class Device(NamedTuple):
    """A link that is a backend's alone. `port`: UDP, where peers' packets come in; `number`: what tells those from

    others at the same port. Both 0 where there is no such thing.
    """

    name: str
    port: int = 0
    number: int = 0


class Gate(NamedTuple):
    """Where a node takes its peers' packets in: a UDP port, and in nft's words what tells them from other people's.

    `name` is what follows the dot in its device's name.
    """

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
    """A file of this room. One of them says `DEFAULT`: it is meant where a cluster names none.

    `OVERHEAD` in bytes, by the family of the underlay. `NEEDS`: what it needs of the kernel, in the words of
    `kernel.modules`, and what each is needed for, in a user's. `KEY`: what its private key is called, which `store`
    then keeps for this node alone, and which is in no announcement, log or bundle; None for a backend without one.
    `SAYS`: what its nodes announce, and what is read of flannel's, by keys in lower case.
    """

    OVERHEAD: Mapping[int, int]
    NEEDS: Mapping[str, str]
    KEY: str | None
    SAYS: Mapping[str, Word]

    def configure(self, options: Mapping[str, object]) -> object:
        """The backend's own keys as a value. Raises CniError 7."""

    def devices(self, conf: object) -> tuple[Device, ...]:
        """The links that are this backend's alone, the one first by which it is known; () when it has none.

        Each is a `Tunnel` with the mark of its kind, by which it is known when it is a former backend's.
        """

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
    return rooms.names("backends")


def find(name: str) -> Backend:
    """The backend of this name. Raises CniError 7."""
    found = _known(name)
    if found is None:
        raise CniError(INVALID_CONFIG, f"invalid cluster.backend.type {name!r}: use one of {', '.join(names())}")
    return found


def in_flannels_words(data: Mapping[str, str], backend: str) -> dict[str, object]:
    """What is announced for a backend as flannel's nodes read it."""
    words = _words(backend)
    found = ((words.get(key.lower(), Word(key)), each) for key, each in data.items())
    return {word.spelled: int(each) if word.number else each for word, each in found}


def misfits(data: Mapping[str, str], backend: str) -> dict[str, str]:
    """Of what was announced, keys in lower case, what cannot be meant, and what is."""
    words = _words(backend)
    return {key: words[key].meant for key, each in data.items() if key in words and not words[key].fits(each)}


def of_ours(node: Node) -> Node:
    """A node of ours without what any backend derives for it, whatever it announced."""
    words = _everybodys_words()
    data = {key: each for key, each in node.data.items() if key not in words or not words[key].derived}
    return msgspec.structs.replace(node, data=data)


def unusable_flannel(node: Node, backend: str) -> str:
    """Why a node of flannel's cannot be reached: it has not said what nobody can derive for it; "" when it can."""
    found = _known(backend)
    words = found.SAYS.items() if found else ()
    lacking = (word.spelled for key, word in words if word.derived and not node.data.get(key))
    return next((_left_out(node, backend, each) for each in lacking), "")


def _left_out(node: Node, backend: str, word: str) -> str:
    return (
        f"{node.name} is left out: it is flannel's, and its backend-data has no {word} that packets could be sent to: "
        f"see that flanneld runs there, with the backend {backend}"
    )


def _known(name: str) -> Backend | None:
    return None if "_" in name else cast("Backend | None", rooms.tenant("backends", name))


def _words(backend: str) -> Mapping[str, Word]:
    """What is announced for a backend, or for any where it is none that we have."""
    found = _known(backend)
    return found.SAYS if found else _everybodys_words()


@lru_cache(maxsize=1)
def _everybodys_words() -> Mapping[str, Word]:
    return {key: word for name in names() for key, word in find(name).SAYS.items()}
