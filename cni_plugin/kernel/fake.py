"""A kernel in memory, for tests and dry runs: the objects that stand, and the rules a real one has for them.

It knows what a kernel refuses (a link that exists, an address on a link that does not) and what goes along with
what (everything on a link, the pod's end with its veth), and it can be made to fail at any operation. Promise: what
`apply` accepts here in some order, it accepts there.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import TypeVar

from msgspec import structs

from cni_plugin.diff import Op
from cni_plugin.kernel.door import OwnLink, PodWire, Uplink
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.marks import ALIAS, TABLE
from cni_plugin.model.base import HOST, POD, Key, Object, State, link_key, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route, Way
from cni_plugin.model.links import Fdb, Link, Tunnel, Veth
from cni_plugin.model.nft import Element, Table

_T = TypeVar("_T")
_MAC = "02:00:00:00:00:01"
_ROUTERS = {4: "192.0.2.254", 6: "fe80::fe"}
"""Where the uplink's link ends, what lies beyond is reached by way of these."""


class FakeKernel:
    """`door.Kernel` over a dict. `fail_at` counts operations from 0 over all calls of `apply`; that one is refused.

    `held` are addresses of the node beside those in `state`; `namespaces` the paths that `enter` finds (None: any).
    `taught_links` are links with routes by router advertisement, `read_only` sysctls that cannot be set,
    `lacking` features that are not there.
    `found_ways` are ways that differ from the uplink's (None: there is none); `asked` counts how often `ways`, `owned`
    and `read` were asked for how many things.
    """

    def __init__(
        self,
        objects: Iterable[Object] = (),
        *,
        fail_at: int | None = None,
        uplink: Uplink | None = None,
        held: Iterable[str] = (),
        namespaces: Iterable[str] | None = None,
    ) -> None:
        self.state: State = state(objects)
        self.fail_at = fail_at
        self.applied: list[Op] = []
        self.announced: list[tuple[str, str]] = []
        self.advertised: list[dict[str, str]] = []
        self.pod = ""
        self.found_ways: dict[str, Way | None] = {}
        self.asked: Counter[str] = Counter()
        self.uplink_there = uplink
        self.running = "6.1.0"
        self.taught_links: tuple[str, ...] = ()
        self.read_only: frozenset[str] = frozenset()
        self.lacking: frozenset[str] = frozenset()
        self._held = frozenset(held)
        self._namespaces = None if namespaces is None else frozenset(namespaces)
        self._tried = 0
        links = [key[2] for key in self.state if key[:2] == ("link", HOST)]
        self._numbers = {name: number for number, name in enumerate(links, 2)}
        self._last_number = len(links) + 1

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pod = ""

    def enter(self, netns: str, *, allow_own: bool = False) -> None:
        """Note the path. Raises NetnsError for one that is not among `namespaces`; "self" is the node's own."""
        if netns == "self" and not allow_own:
            raise NetnsError("own", netns)
        if self._namespaces is not None and netns not in self._namespaces:
            raise NetnsError("gone", netns)
        self.pod = netns

    def leave(self) -> None:
        """Forget the path."""
        self.pod = ""

    def apply(self, ops: Sequence[Op]) -> None:
        """Carry the operations out in order. Raises KernelError as a kernel would, or at operation `fail_at`."""
        done: list[Op] = []
        for op in ops:
            refusal = errno.EIO if self._tried == self.fail_at else self._refusal(op)
            self._tried += 1
            if refusal:
                raise KernelError(op, refusal, done)
            self._carry_out(op)
            done.append(op)
            self.applied.append(op)

    def read(self, wanted: Iterable[Object]) -> State:
        """What stands at the keys of these objects."""
        self.asked["read"] += 1
        found = (self._find(each) for each in wanted)
        return state(each for each in found if each is not None)

    def addresses(self, dev: str) -> tuple[str, ...]:
        """The addresses on a link of the node."""
        return tuple(each.address for each in self._all(Addr) if each.ns == HOST and each.dev == dev)

    def link_index(self, name: str) -> int:
        """A number for a link of the node, 0 when there is none."""
        return self._numbers.get(name, 0)

    def link_mac(self, name: str) -> str:
        """The MAC of a link of the node, "" when there is none."""
        link = self.state.get(link_key(HOST, name))
        return (getattr(link, "mac", "") or _MAC) if link else ""

    def link_mtu(self, name: str) -> tuple[str, int] | None:
        """The ifalias and the MTU of a link of the node, whatever its kind; None when there is none."""
        link = self.state.get(link_key(HOST, name))
        return (getattr(link, "alias", ""), getattr(link, "mtu", 0)) if link else None

    def pod_link_exists(self, name: str) -> bool:
        """Whether the pod has a link of this name."""
        return link_key(POD, name) in self.state

    def pod_wire(self, name: str) -> PodWire | None:
        """The pod's end of a veth, with its addresses and the node's end."""
        addresses = tuple(each.address.split("/")[0] for each in self._all(Addr) if (each.ns, each.dev) == (POD, name))
        veth = next((each for each in self._all(Veth) if each.peer == name), None)
        return PodWire(veth.peer_mac, addresses, veth.name, veth.alias) if veth else None

    def delete_pod_link(self, name: str) -> None:
        """Remove the pod's end of a veth, and so the veth."""
        for veth in self._all(Veth):
            if veth.peer == name:
                self._remove(veth.key)

    def announce(self, dev: str, host_dev: str) -> None:
        """Note that it was asked for, in `announced`."""
        self.announced.append((dev, host_dev))

    def await_dad(self, dev: str) -> tuple[str, ...]:
        """Nobody else has any address here."""
        del dev
        return ()

    def uplink(self, address: str) -> Uplink | None:
        """What the constructor was given, if the node holds this address."""
        return self.uplink_there if address in self.locally_held() else None

    def default_mtu(self) -> int:
        """The MTU of the uplink, 0 without one."""
        return self.uplink_there.mtu if self.uplink_there else 0

    def advertise(self, where: Mapping[str, str]) -> Collection[str]:
        """Kept in `advertised`."""
        self.advertised.append(dict(where))
        return list(where)

    def interfaces(self) -> Mapping[str, tuple[str, ...]]:
        """Links with addresses; those that are `held` are the uplink's."""
        names = dict.fromkeys(each.dev for each in self._all(Addr) if each.ns == HOST)
        found = {name: self.addresses(name) for name in names}
        if self.uplink_there is not None and self._held:
            held = tuple(f"{each}/{64 if ':' in each else 24}" for each in sorted(self._held))
            found[self.uplink_there.name] = (*held, *found.get(self.uplink_there.name, ()))
        return found

    def ways(self, addresses: Iterable[str]) -> dict[str, Way]:
        """As `found_ways` says; else by the uplink, through a router to what is not on its link."""
        found = {each: self.found_ways[each] if each in self.found_ways else self._way(each) for each in addresses}
        self.asked["ways"] += len(found)
        return {address: each for address, each in found.items() if each is not None}

    def taught(self) -> tuple[str, ...]:
        """As `taught_links` says."""
        return self.taught_links

    def out_of_reach(self, wanted: Iterable[Sysctl]) -> tuple[str, ...]:
        """Those of `read_only` that do not stand."""
        there = [each for each in wanted if each.name in self.read_only and self.state.get(each.key) != each]
        return tuple(f"sysctl -w {each.name}={each.value}: it is read-only" for each in there)

    def rival(self, device: Tunnel) -> str:
        """The one of its kind that has the same in the field that is one's alone."""
        return next((each.name for each in self._all(type(device)) if device.rivals(each)), "")

    def lacks(self, features: Collection[str]) -> tuple[str, ...]:
        """As `lacking` says."""
        return tuple(each for each in features if each in self.lacking)

    def release(self) -> str:
        """Of a kernel that is new enough for everything."""
        return self.running

    def port(self) -> int:
        """There is no netlink here."""
        return 0

    def owned(self, *devices: str) -> State:
        """Routes with our protocol number on the node, and the entries of these devices."""
        self.asked["owned"] += 1
        ours = (each for each in self._all(Route) if each.ns == HOST and not each.foreign)
        routes = (each for each in ours if each.via or each.dev in devices)
        neighbours = (each for each in self._all(Neigh) if each.dev in devices and not each.learned)
        remotes = (each for each in self._all(Fdb) if each.dev in devices and each.dst)
        return state([*routes, *neighbours, *remotes])

    def elements(self, name: str, table: str = TABLE) -> State:
        """What is in a set or map."""
        return state(each for each in self._all(Element) if (each.set, each.table) == (name, table))

    def own_links(self) -> tuple[OwnLink, ...]:
        """Links with our mark."""
        links = (each for each in self._all(Link) if each.where == HOST)
        found = (OwnLink(each.name, getattr(each, "alias", ""), getattr(each, "master", "")) for each in links)
        return tuple(each for each in found if each.alias.startswith(ALIAS))

    def ports(self, bridge: str) -> int:
        """Links in the bridge."""
        return len(self._ports_of(bridge))

    def locally_held(self) -> frozenset[str]:
        """`held`, and the addresses on the node's links."""
        return self._held | {each.address.split("/")[0] for each in self._all(Addr) if each.ns == HOST}

    def _way(self, address: str) -> Way | None:
        if self.uplink_there is None or address in self.locally_held():
            return None
        where = ip_address(address)
        near = any(where in network for network in map(ip_network, self.uplink_there.prefixes))
        return Way(self.uplink_there.name, self.uplink_there.mtu, via="" if near else _ROUTERS[where.version])

    def _all(self, kind: type[_T]) -> list[_T]:
        return [each for each in self.state.values() if isinstance(each, kind)]

    def _find(self, want: Object) -> Object | None:
        have = want.found_in(self.state)
        if have is None and isinstance(want, Table) and any(each.holder == want.key for each in self.state.values()):
            return want  # it was made with the first thing in it
        return None if have is None or have.foreign else have

    def _refusal(self, op: Op) -> int:
        """The errno that a kernel would answer with, 0 if it would do it."""
        if op.verb == "delete":
            return 0
        needs = [op.object.holder, *op.object.needs]
        if any(key is not None and not self._exists(key) for key in needs):
            return errno.ENODEV
        standing = self.state.get(op.object.key)
        if op.object.COMES_ALONG and standing is None:
            return errno.ENODEV
        if op.verb == "create" and standing is not None and (standing.foreign or not op.object.replaces):
            return errno.EEXIST
        return 0

    def _exists(self, key: Key) -> bool:
        """Every namespace has a loopback, and links may stand that nobody here made: the node's uplink.

        A table is made with the first thing in it.
        """
        if key[0] == "table":
            return True
        given = {self.uplink_there.name} if self.uplink_there else set()
        ways = {each.dev for each in self.found_ways.values() if each is not None}
        return key in self.state or key[2] == "lo" or key[2] in given | ways

    def _carry_out(self, op: Op) -> None:
        each = op.object
        if op.verb == "delete":
            standing = self._find(each) if isinstance(each, Table) else self.state.get(each.key)
            if standing is not None and not standing.foreign:
                self.state[each.key] = standing
                self._remove(each.key)
        elif each.absent:
            self.state.pop(each.key, None)
        else:
            self._note(each.key)
            self.state[each.key] = each
            if op.verb == "create":
                self.state.update(state(each.along))

    def _note(self, key: Key) -> None:
        """A link has its number for life, and no other link gets it."""
        if key[:2] == ("link", HOST) and key not in self.state:
            self._last_number += 1
            self._numbers[key[2]] = self._last_number

    def _remove(self, key: Key) -> None:
        gone = self.state.pop(key, None)
        if key[:2] == ("link", HOST):
            self._numbers.pop(key[2], None)
        if gone is None or not gone.HOLDS:
            return
        for each in gone.along:
            self._remove(each.key)
        for each in [each for each in self.state.values() if each.holder == key]:
            self._remove(each.key)
        if isinstance(gone, Link) and gone.where == HOST:
            for port in self._ports_of(gone.name):
                self._release(port)

    def _ports_of(self, bridge: str) -> list[Link]:
        return [each for each in self._all(Link) if getattr(each, "master", "") == bridge]

    def _release(self, port: Link) -> None:
        """A bridge that goes leaves its ports behind, without what made them ports."""
        self.state[port.key] = structs.replace(port, master="")
        for each in [each for each in self.state.values() if each.OF_PORT and each.holder == port.key]:
            self._remove(each.key)
