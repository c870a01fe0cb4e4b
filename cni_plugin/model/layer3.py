"""What leads packets over links: addresses, routes and neighbours, the language of `ip`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from msgspec import structs

from cni_plugin.marks import ROUTE_PROTOCOL
from cni_plugin.model.base import HOST, POD, Key, Object, Verb, link_key
from cni_plugin.model.words import ADD, ip, pairs

MAIN_TABLE = 254
"""RT_TABLE_MAIN, include/uapi/linux/rtnetlink.h."""


class Way(NamedTuple):
    """How this node's kernel sends to an address: by `dev`, from `source`, to the router `via`, "" without one.

    `mtu` in bytes: that of the interface, or of the route where it is less. `own`: the interface bears our mark;
    `guests`: it is a bridge without a wire, on which are but containers and virtual machines of this node. Not to be
    made, but what plans are made of.
    """

    dev: str
    mtu: int
    source: str = ""
    via: str = ""
    own: bool = False
    guests: bool = False


class Addr(Object, frozen=True, tag="addr"):
    """An address with its prefix length on a link. `dad`: IPv6 duplicate address detection is wanted."""

    RANK: ClassVar[int] = 300
    FIXED: ClassVar[tuple[str, ...]] = ("dad",)
    dev: str
    address: str
    ns: str = HOST
    dad: bool = False

    @property
    def key(self) -> Key:
        return ("addr", self.ns, self.dev, self.address)

    @property
    def holder(self) -> Key | None:
        return link_key(self.ns, self.dev)

    @property
    def replaces(self) -> bool:
        return False

    def words(self, verb: Verb) -> str:
        nodad = " nodad" if ":" in self.address and not self.dad and verb != "delete" else ""
        return f"{ip(self.ns)} addr {ADD[verb]} {self.address} dev {self.dev}{nodad}"


class Route(Object, frozen=True, tag="route"):
    """A unicast route. `via` may be of the other family (RFC 5549); `scope` is rtnetlink's number, -1 the kernel's.

    Wanted in table 0 of a pod it may stand in any: a chained plugin may have moved it (source based routing does).
    To lead over another link it is made anew: an IPv6 gateway that is on-link there must not be reachable by the old
    route while the new one is checked (net/ipv6/route.c, ip6_route_check_nh_onlink).
    """

    RANK: ClassVar[int] = 330
    FIXED: ClassVar[tuple[str, ...]] = ("dev",)
    dst: str
    dev: str
    via: str = ""
    ns: str = HOST
    src: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int = MAIN_TABLE
    scope: int = -1
    protocol: int = ROUTE_PROTOCOL
    onlink: bool = False

    @property
    def key(self) -> Key:
        return ("route", self.ns, str(self.table), self.dst, str(self.priority), self.gateway_key)

    @property
    def gateway_key(self) -> str:
        """In a pod several routes to one destination may stand side by side (ECMP); on the host one is ours."""
        return f"{self.via}%{self.dev}" if self.ns == POD else ""

    @property
    def holder(self) -> Key | None:
        return link_key(self.ns, self.dev)

    @property
    def foreign(self) -> bool:
        return self.ns == HOST and self.protocol != ROUTE_PROTOCOL

    @property
    def replaces(self) -> bool:
        return self.ns == HOST

    @property
    def title(self) -> str:
        return f"a route to {self.dst}"

    def words(self, verb: Verb) -> str:
        family = "inet6 " if ":" in self.via and ":" not in self.dst else ""
        via = f" via {family}{self.via}" if self.via else ""
        rest = pairs(
            ("proto", self.protocol if self.ns != POD else 0),
            ("src", self.src),
            ("table", self.table if self.table != MAIN_TABLE else 0),
            ("metric", self.priority),
            ("scope", self.scope),
            ("mtu", self.mtu),
            ("advmss", self.advmss),
        )
        onlink = " onlink" if self.onlink else ""
        return f"{ip(self.ns)} route {ADD[verb]} {self.dst}{via} dev {self.dev}{rest}{onlink}"

    def found_in(self, state: Mapping[Key, Object]) -> Object | None:
        have = state.get(self.key)
        return self._moved(state) if have is None and self.ns == POD and not self.table else have

    def _moved(self, state: Mapping[Key, Object]) -> Route | None:
        """A pod's route that may stand in any table, as if it stood where it was looked for."""
        same = (self.ns, self.dst, self.dev, self.via, self.priority)
        for each in state.values():
            if isinstance(each, Route) and (each.ns, each.dst, each.dev, each.via, each.priority) == same:
                return structs.replace(each, table=0)
        return None


class Neigh(Object, frozen=True, tag="neigh"):
    """A neighbour entry: permanent for a VTEP; `learned` is one the kernel found, which is only ever forgotten."""

    RANK: ClassVar[int] = 310
    dev: str
    address: str
    mac: str = ""
    learned: bool = False

    @property
    def key(self) -> Key:
        return ("neigh", HOST, self.dev, self.address)

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.dev)

    @property
    def undone(self) -> bool:
        return not self.learned  # else it is only a cache

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return f"ip neigh del {self.address} dev {self.dev}"
        return f"ip neigh replace {self.address} lladdr {self.mac} dev {self.dev} nud permanent"
