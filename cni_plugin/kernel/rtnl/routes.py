"""Routes as the kernel lists them, made into the objects that were wanted.

A listed route may stand for several: next hops of one destination (ECMP) come in one message. Its protocol tells
whose it is: on the node only routes that bear ours are ever looked at, and the kernel does that filtering.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from msgspec import structs

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.addresses import family_of, packed
from cni_plugin.kernel.rtnl.codec import RTM_GETROUTE, Message, Part, encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import RTM_F_CLONED, RTN_UNICAST, RTNH_F_ONLINK
from cni_plugin.marks import ROUTE_PROTOCOL
from cni_plugin.model.base import HOST, POD
from cni_plugin.model.layer3 import Route

_IP6_RT_PRIO_USER = 1024
"""The metric that the kernel gives an IPv6 route without one, include/uapi/linux/ipv6_route.h."""
_ANY: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


_Destination: TypeAlias = tuple[bytes, int]


class _Hop(NamedTuple):
    via: str
    link: int
    onlink: bool


class Routes:
    """The routes of one namespace, listed once a family."""

    def __init__(self, space: Namespace, ns: str) -> None:
        self._space = space
        self._ns = ns
        self._listed: dict[int, dict[_Destination, list[Route]]] = {}

    def find(self, want: Route) -> Route | None:
        """The route that is the same thing as the wanted one, None when there is none."""
        candidates = self._of_family(family_of(want.dst)).get(_destination(want.dst), [])
        return next((_in_words_of(want, have) for have in candidates if _same(want, have)), None)

    def ours(self) -> Iterator[Route]:
        """All routes that bear our protocol number, of every family and table."""
        for family in _ANY:
            for routes in self._of_family(family).values():
                yield from routes

    def _of_family(self, family: int) -> dict[_Destination, list[Route]]:
        if family not in self._listed:
            listed: dict[_Destination, list[Route]] = {}
            for route in self._list(family):
                listed.setdefault(_destination(route.dst), []).append(route)
            self._listed[family] = listed
        return self._listed[family]

    def _list(self, family: int) -> Iterator[Route]:
        fields = {"family": family, "proto": ROUTE_PROTOCOL if self._ns == HOST else 0, "type": RTN_UNICAST}
        try:
            messages = self._space.netlink.dump(encode(RTM_GETROUTE, 0, fields))
        except Refused as refused:
            if refused.errno in PASSING:
                raise
            return  # a kernel without IPv6
        for message in messages:
            if message.field("type") == RTN_UNICAST and not message.field("flags") & RTM_F_CLONED:
                yield from self._routes_of(message)

    def _routes_of(self, message: Message) -> Iterator[Route]:
        family = message.field("family")
        destination = message.text("RTA_DST") or _ANY[family]
        priority = message.number("RTA_PRIORITY")
        for hop in _hops(message):
            yield Route(
                dst=f"{destination}/{message.field('dst_len')}",
                dev=self._space.name(hop.link),
                via=hop.via,
                ns=self._ns,
                src=message.text("RTA_PREFSRC"),
                mtu=message.number("RTA_METRICS", "RTAX_MTU"),
                advmss=message.number("RTA_METRICS", "RTAX_ADVMSS"),
                priority=0 if family == socket.AF_INET6 and priority == _IP6_RT_PRIO_USER else priority,
                table=message.number("RTA_TABLE", default=message.field("table")),
                scope=message.field("scope"),
                protocol=message.field("proto"),
                onlink=hop.onlink,
            )


def _hops(message: Part) -> list[_Hop]:
    several = message.parts("RTA_MULTIPATH")
    if several:
        return [_Hop(_gateway(hop), hop.field("oif"), bool(hop.field("flags") & RTNH_F_ONLINK)) for hop in several]
    return [_Hop(_gateway(message), message.number("RTA_OIF"), bool(message.field("flags") & RTNH_F_ONLINK))]


def _gateway(part: Part) -> str:
    """RTA_VIA holds a next hop of the other family."""
    return part.text("RTA_GATEWAY") or part.text("RTA_VIA", "addr")


def _same(want: Route, have: Route) -> bool:
    """Whether these, of one destination, are two states of one route: what `Route.key` tells, in any spelling."""
    if _priority(want) != have.priority:
        return False
    if want.table != have.table and not (want.ns == POD and want.table == 0):
        return False
    return want.ns != POD or (want.dev == have.dev and packed(want.via) == packed(have.via))


def _priority(route: Route) -> int:
    return 0 if ":" in route.dst and route.priority == _IP6_RT_PRIO_USER else route.priority


def _destination(prefix: str) -> _Destination:
    address, _, length = prefix.partition("/")
    wire = packed(address)
    return wire, int(length) if length else len(wire) * 8


def _in_words_of(want: Route, have: Route) -> Route:
    """The route as it stands; what the kernel merely spells otherwise, as it was wanted."""
    return structs.replace(
        have,
        dst=want.dst,
        table=want.table,
        priority=want.priority,
        via=want.via if packed(want.via) == packed(have.via) else have.via,
        src=want.src if packed(want.src) == packed(have.src) else have.src,
    )
