"""How the node would send to each of many addresses, as its own routing decides: the interface, the router, the MTU.

One question an address (RTM_GETROUTE: inet_rtm_getroute in net/ipv4/route.c, inet6_rtm_getroute in net/ipv6/route.c), a
hundred in one write, and one more a link, two where that is a bridge. An answer has what a host learned from "packet
too big" messages in place of the route's own MTU, with the time when that expires; anybody can send such messages, so
of those the route itself is asked for (RTM_F_FIB_MATCH, Linux 4.13).

    ways(space, ["192.0.2.2", "198.51.100.3"])
    ->  {"192.0.2.2": Way("eth0", 1500, "192.0.2.1"), "198.51.100.3": Way("eth0", 1500, "192.0.2.1", "192.0.2.254")}
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import family_of, packed
from cni_plugin.kernel.rtnl.codec import HEADER, NLM_F_REQUEST, RTM_GETLINK, RTM_GETROUTE
from cni_plugin.kernel.rtnl.namespace import RTEXT_FILTER_SKIP_STATS, Namespace
from cni_plugin.kernel.rtnl.numbers import RTN_UNICAST
from cni_plugin.kernel.rtnl.raw import (
    IFLA_AF_SPEC,
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INET6_CONF,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    attributes,
    nested,
    number,
)
from cni_plugin.marks import ALIAS
from cni_plugin.model.layer3 import Way

_RTMSG, _IFINFO, _ATTRIBUTE, _NUMBER = Struct("=BBBBBBBBI"), Struct("=BxHiII"), Struct("=HH"), Struct("=I")
_RTM_F_FIB_MATCH = 0x2000
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_METRICS, _RTA_CACHEINFO, _RTA_VIA = 1, 4, 5, 7, 8, 12, 18
_RTAX_MTU = 2
_CACHEINFO = Struct("=IIi")
"""The beginning of struct rta_cacheinfo: references, last use, time until it expires (0: never)."""
_DEVCONF_MTU6 = 2
_VIA_FAMILY = Struct("=H")
_GUESTS = ("veth", "tun")
"""The kinds of links by which containers and virtual machines are on a bridge; a tap is a `tun`."""


class _Answer(NamedTuple):
    link: int
    source: str
    via: str
    mtu: int
    expires: bool


class _Link(NamedTuple):
    """MTUs in bytes; `mtu6` is what IPv6 makes of it, 0 where it is off. `own`: it bears our mark; `guests`: as Way."""

    name: str
    mtu: int
    mtu6: int
    own: bool
    kind: str
    guests: bool = False


def ways(space: Namespace, addresses: Iterable[str]) -> dict[str, Way]:
    """The way to each address that has one. Raises OSError."""
    wires = {address: wire for address in addresses if (wire := packed(address))}
    found = _ask(space, wires, 0)
    learned = {address: wires[address] for address, each in found.items() if each.mtu and each.expires}
    lasting = _ask(space, learned, _RTM_F_FIB_MATCH)
    for address in learned:
        found[address] = found[address]._replace(mtu=lasting[address].mtu if address in lasting else 0)
    links = _links(space, sorted({each.link for each in found.values()}))
    return {
        address: Way(link.name, _mtu(link, address, each.mtu), each.source, each.via, link.own, link.guests)
        for address, each in found.items()
        if (link := links.get(each.link)) is not None
    }


def _mtu(link: _Link, address: str, of_route: int) -> int:
    of_link = link.mtu6 or link.mtu if ":" in address else link.mtu
    return min(of_link, of_route or of_link)


def _ask(space: Namespace, wires: dict[str, bytes], flags: int) -> dict[str, _Answer]:
    answers = space.netlink.ask_all([_question(address, wire, flags) for address, wire in wires.items()])
    found = ((address, _read(answer)) for address, answer in zip(wires, answers, strict=True))
    return {address: each for address, each in found if each is not None}


def _question(address: str, wire: bytes, flags: int) -> bytearray:
    body = _RTMSG.pack(family_of(address), len(wire) * 8, 0, 0, 0, 0, 0, 0, flags)
    return _request(RTM_GETROUTE, body + _attribute(_RTA_DST, wire))


def _request(kind: int, body: bytes) -> bytearray:
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST, 0, 0) + body)


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value


def _read(answer: bytes) -> _Answer | None:
    """None for what is not sent to another host: an unreachable destination, a local one, a broadcast."""
    if not answer:
        return None
    family, _, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(answer, HEADER.size)
    found = dict(attributes(answer, HEADER.size + _RTMSG.size, len(answer)))
    link = number(found.get(_RTA_OIF, b""))
    if kind != RTN_UNICAST or not link:
        return None
    metrics = found.get(_RTA_METRICS, b"")
    mtu = next((number(each) for key, each in attributes(metrics, 0, len(metrics)) if key == _RTAX_MTU), 0)
    cache = found.get(_RTA_CACHEINFO, b"")
    expires = _CACHEINFO.unpack_from(cache)[2] != 0 if cache else False
    return _Answer(link, _text(family, found.get(_RTA_PREFSRC, b"")), _via(family, found), mtu, expires)


def _via(family: int, found: dict[int, bytes]) -> str:
    """struct rtvia, where the router has an address of the other family: that family, then the address."""
    if other := found.get(_RTA_VIA):
        return _text(_VIA_FAMILY.unpack_from(other)[0], other[_VIA_FAMILY.size :])
    return _text(family, found.get(_RTA_GATEWAY, b""))


def _text(family: int, wire: bytes) -> str:
    return socket.inet_ntop(family, wire) if wire else ""


def _links(space: Namespace, indexes: Sequence[int]) -> dict[int, _Link]:
    mask = _attribute(IFLA_EXT_MASK, _NUMBER.pack(RTEXT_FILTER_SKIP_STATS))
    questions = [_request(RTM_GETLINK, _IFINFO.pack(0, 0, index, 0, 0) + mask) for index in indexes]
    answers = space.netlink.ask_all(questions)
    found = {index: _link(answer) for index, answer in zip(indexes, answers, strict=True) if answer}
    bridges = {index for index, each in found.items() if each.kind == "bridge" and not each.own}
    return {
        index: each._replace(guests=index in bridges and _has_no_wire(space, index)) for index, each in found.items()
    }


def _has_no_wire(space: Namespace, bridge: int) -> bool:
    """By a dump of the bridge's ports (IFLA_MASTER filters it since Linux 4.6; older kernels list all links)."""
    request = codec.encode(RTM_GETLINK, 0, {"family": 0}, [("IFLA_MASTER", bridge)])
    ports = (each for each in space.netlink.dump(request) if each.number("IFLA_MASTER") == bridge)
    return all(each.text("IFLA_LINKINFO", "IFLA_INFO_KIND") in _GUESTS for each in ports)


def _link(answer: bytes) -> _Link:
    found = dict(attributes(answer, HEADER.size + _IFINFO.size, len(answer)))
    inet6 = nested(nested(found.get(IFLA_AF_SPEC, b""), socket.AF_INET6), IFLA_INET6_CONF)
    mtu6 = number(inet6[4 * _DEVCONF_MTU6 : 4 * _DEVCONF_MTU6 + 4])
    own = found.get(IFLA_IFALIAS, b"").startswith(ALIAS.encode())
    kind = nested(found.get(IFLA_LINKINFO, b""), IFLA_INFO_KIND).rstrip(b"\0").decode()
    return _Link(found[IFLA_IFNAME].rstrip(b"\0").decode(), number(found[IFLA_MTU]), mtu6, own, kind)
