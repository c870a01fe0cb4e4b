"""What the kernel tells of by itself, boiled down to the kinds of things that may not be as they should be any more.

A pod's start makes a dozen link events and each neighbour that is resolved makes one, so most of what comes in here is
of no concern, and is dropped after a look at its fixed header. Promise: whatever is changed of the watched links and
what hangs on them, of our routes and rules, or of forwarding is told; pods that come and go, and our own rules, are
not. A kernel that had to drop events (ENOBUFS) may have changed everything.

    monitor.watch({"tulle0": 4, "tulle.1": 5, "eth0": 2}, tunnels=("tulle.1",), uplinks=("eth0",))
    monitor.drain(fd)  ->  LINKS | ROUTES
"""

from __future__ import annotations

import os
import re
import socket
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from struct import Struct
from typing import NamedTuple

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.addresses import family_of, packed
from cni_plugin.kernel.rtnl.codec import HEADER
from cni_plugin.kernel.rtnl.numbers import (
    AF_BRIDGE,
    IFF_PROMISC,
    IFF_UP,
    NUD_NOARP,
    NUD_PERMANENT,
    RTM_F_CLONED,
    SCOPE_LINK,
)
from cni_plugin.kernel.rtnl.raw import (
    IFLA_ADDRESS,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    attributes,
    number,
)
from cni_plugin.kernel.watch.changed import (
    ADDRESSES,
    EVERYTHING,
    KNOBS,
    LINKS,
    NEIGHBOURS,
    ROUTES,
    RULES,
    UPLINKS,
    WAYS,
    Changed,
)
from cni_plugin.marks import ALIAS, HOST_DEV, ROUTE_PROTOCOL, TABLE

_GROUPS = (1, 3, 5, 7, 9, 11, 24, 25)
"""RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE, _IPV4_NETCONF, _IPV6_NETCONF."""
_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_SO_RCVBUFFORCE, _BUFFER = 33, 4 << 20
_AT_ONCE = 500
"""Events that one `drain` looks at: a flood must not hold up what else is to be done."""

_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWNEIGH, _DELNEIGH = 16, 17, 20, 21, 24, 25, 28, 29
_NEWNETCONF = 80
_NETCONFA_IFINDEX, _NETCONFA_ALL = 1, b"\xff\xff\xff\xff"
_IFINFO, _IFADDR, _RT, _ND = Struct("=BxHiII"), Struct("=BBBBI"), Struct("=BBBBBBBBI"), Struct("=BxxxiHBB")
_NLM_F_REPLACE = 0x100
_NDA_DST, _NDA_LLADDR, _RTA_DST = 1, 2, 1
_LEADS_AWAY = (1, 6, 7, 8)
"""RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT."""
_NUD_FAILED = 0x20
_IFLA_BR_VLAN_FILTERING = 7
_NEWGEN = 10 << 8 | 15
_GEN_PROC_PID, _GEN_PROC_NAME, _NFPROTO_INET, _TABLE_NAME = 2, 3, 1, 1
_ENGINE = b"tulled\0"
_OUR_TABLE = TABLE.split()[1].encode() + b"\0"
_BITS: dict[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 128}
_MARK = ALIAS.encode()
_POD_PORT = re.compile(rb"%s[0-9a-f]{11}\0" % HOST_DEV.encode())


class Beyond(NamedTuple):
    """What else matters to who follows a cluster: others' routes to these peers, and addresses of all links.

    What the netlink port `port` did is no news, it is ours; but of tunnels' entries the kernel does not always say who
    changed them. `entry` tells what there should be: of a MAC the VTEP behind it, of an address the MAC, "" for none.
    `blocked`: a route of ours waits for somebody else's to go.
    """

    peers: tuple[str, ...] = ()
    entry: Callable[[str], str] | None = None
    port: int = 0
    everywhere: bool = False
    blocked: bool = False


_NOTHING = Beyond()


class _Event(NamedTuple):
    kind: int
    flags: int
    port: int
    data: bytes
    body: int
    end: int


class Monitor:
    """Two sockets of the network namespace that the calling thread is in. `close` it in the end. Raises OSError."""

    def __init__(self) -> None:
        self._links: frozenset[int] = frozenset()
        self._names: frozenset[bytes] = frozenset()
        self._tunnels: frozenset[int] = frozenset()
        self._uplinks: frozenset[int] = frozenset()
        self._beyond = Beyond()
        self._peers: dict[int, list[int]] = {}
        self._seen: dict[int, object] = {}
        self._rules_touched = False
        self._sockets: dict[int, tuple[socket.socket, Callable[[_Event], Changed]]] = {}
        route = _subscribed(socket.NETLINK_ROUTE, sum(1 << (each - 1) for each in _GROUPS))
        self._sockets[route.fileno()] = route, self._route_event
        try:
            nft = _subscribed(_NETFILTER, 1 << (_NFNLGRP_NFTABLES - 1))
        except OSError:  # a kernel without nftables has no rules that could change
            return
        self._sockets[nft.fileno()] = nft, self._nft_event

    def close(self) -> None:
        """Close the sockets; twice does no harm."""
        for each, _ in self._sockets.values():
            each.close()
        self._sockets.clear()

    def filenos(self) -> tuple[int, ...]:
        """What to wait for: readable when there is something to drain."""
        return tuple(self._sockets)

    def watch(
        self, links: Mapping[str, int], tunnels: Collection[str], uplinks: Collection[str], beyond: Beyond = _NOTHING
    ) -> None:
        """From now on these links matter (numbers by name, 0 for one that is missing).

        Of `tunnels` also the entries do; `uplinks` are those that are not ours to change.
        """
        if beyond.peers != self._beyond.peers:
            self._peers = _sorted(beyond.peers)
        self._beyond = beyond
        self._links = frozenset(index for index in links.values() if index)
        self._names = frozenset(name.encode() + b"\0" for name in links)
        self._uplinks = frozenset(links[name] for name in uplinks if links.get(name))
        self._tunnels = frozenset(links[name] for name in tunnels if links.get(name))
        self._seen = {index: each for index, each in self._seen.items() if index in self._links}

    def drain(self, fd: int) -> Changed:
        """Read what is there, or a good part of it; what may have changed, 0 for nothing that matters."""
        channel, judge = self._sockets[fd]
        changed: Changed = 0
        for _ in range(_AT_ONCE):
            try:
                data = channel.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                self._seen.clear()
                changed = EVERYTHING
                continue
            for event in _events(data):
                changed |= judge(event)
        return changed

    def _route_event(self, event: _Event) -> Changed:
        if event.kind in (_NEWLINK, _DELLINK):
            return self._link_event(event)
        if event.kind in (_NEWNEIGH, _DELNEIGH):
            return self._neighbour_event(event)
        if event.kind in (_NEWROUTE, _DELROUTE):
            return self._route_change(event)
        if event.kind in (_NEWADDR, _DELADDR):
            _, _, _, scope, index = _IFADDR.unpack_from(event.data, event.body)
            if scope == SCOPE_LINK:
                return 0
            if index in self._links:
                return self._on(index, ADDRESSES)
            return UPLINKS | WAYS if self._beyond.everywhere else 0
        return self._knob_event(event) if event.kind == _NEWNETCONF else 0

    def _neighbour_event(self, event: _Event) -> Changed:
        """All that we make is permanent; one of ours that is deleted is "failed" before it goes."""
        _, index, state, _, _ = _ND.unpack_from(event.data, event.body)
        if index not in self._tunnels or (state & NUD_NOARP and not state & NUD_PERMANENT) or self._is_mine(event):
            return 0
        gone = event.kind == _DELNEIGH or bool(state & _NUD_FAILED)
        if self._beyond.entry is not None:
            return NEIGHBOURS if self._entry_differs(event, self._beyond.entry, gone=gone) else 0
        return NEIGHBOURS if gone or state & NUD_PERMANENT else 0

    def _entry_differs(self, event: _Event, entry: Callable[[str], str], *, gone: bool) -> bool:
        """What drivers tell of a tunnel's entry bears nobody's port, nor does what neigh_cleanup_and_release tells."""
        found = dict(attributes(event.data, event.body + _ND.size, event.end))
        mac, address = found.get(_NDA_LLADDR, b"").hex(":"), _address(found.get(_NDA_DST, b""))
        what, leads_to = (mac, address) if event.data[event.body] == AF_BRIDGE else (address, mac)
        return entry(what) != ("" if gone else leads_to)

    def _route_change(self, event: _Event) -> Changed:
        """Of our routes all; somebody else's in the place of another, which is told of theirs; or on a peer's way."""
        family, bits, _, _, _, protocol, _, kind, flags = _RT.unpack_from(event.data, event.body)
        if protocol == ROUTE_PROTOCOL:
            return 0 if self._is_mine(event) else ROUTES
        if kind not in _LEADS_AWAY or flags & RTM_F_CLONED:
            return 0
        replaced = event.kind == _NEWROUTE and event.flags & _NLM_F_REPLACE
        freed = event.kind == _DELROUTE and self._beyond.blocked
        return (ROUTES if replaced or freed else 0) | (WAYS if self._leads_to_peer(family, bits, event) else 0)

    def _leads_to_peer(self, family: int, bits: int, event: _Event) -> bool:
        peers = self._peers.get(family)
        if not peers:
            return False
        around = attributes(event.data, event.body + _RT.size, event.end)
        first = int.from_bytes(next((value for kind, value in around if kind == _RTA_DST), b""), "big")
        at = bisect_left(peers, first)
        return at < len(peers) and peers[at] < first + (1 << (_BITS[family] - bits))

    def _is_mine(self, event: _Event) -> bool:
        return event.port != 0 and event.port == self._beyond.port

    def _knob_event(self, event: _Event) -> Changed:
        """net/ipv4/devinet.c: a value was written for one link, or for all of them."""
        for kind, value in attributes(event.data, event.body + 4, event.end):
            if kind == _NETCONFA_IFINDEX:
                return KNOBS if value == _NETCONFA_ALL or number(value) in self._links else 0
        return 0

    def _link_event(self, event: _Event) -> Changed:
        family, _, index, flags, _ = _IFINFO.unpack_from(event.data, event.body)
        if index in self._links:
            if family or event.kind == _DELLINK:
                self._seen.pop(index, None)
                return self._on(index, LINKS)
            return self._compare(index, flags, event)
        if family or event.kind == _DELLINK:
            return 0
        return LINKS if self._concerns(event) else 0

    def _compare(self, index: int, flags: int, event: _Event) -> Changed:
        """A bridge tells of each change of its carrier, the first and the last pod's, and of its features."""
        found = flags & (IFF_UP | IFF_PROMISC), _settings(event)
        if self._seen.get(index) == found:
            return 0
        self._seen[index] = found
        return self._on(index, LINKS)

    def _on(self, index: int, changed: Changed) -> Changed:
        return changed | (UPLINKS if index in self._uplinks else 0)

    def _concerns(self, event: _Event) -> bool:
        """An unknown link: whether it is ours, bears a name that we miss, or is a pod's port on an unknown bridge."""
        port = False
        for kind, value in attributes(event.data, event.body + _IFINFO.size, event.end):
            if kind == IFLA_IFNAME:
                if value in self._names:
                    return True
                port = _POD_PORT.fullmatch(value) is not None
            elif kind == IFLA_MASTER:
                return port and number(value) not in self._links
            elif kind == IFLA_IFALIAS:
                return not port and value.startswith(_MARK)
        return False

    def _nft_event(self, event: _Event) -> Changed:
        """A transaction tells of its objects, and then of the new generation and who made it."""
        if event.kind == _NEWGEN:
            touched, self._rules_touched = self._rules_touched, False
            return RULES if touched and not _is_own(event) else 0
        if event.data[event.body] == _NFPROTO_INET and not self._rules_touched:
            self._rules_touched = (_TABLE_NAME, _OUR_TABLE) in attributes(event.data, event.body + 4, event.end)
        return 0


def _sorted(peers: Iterable[str]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for each in peers:
        found.setdefault(family_of(each), []).append(int.from_bytes(packed(each), "big"))
    return {family: sorted(each) for family, each in found.items()}


def _address(wire: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(wire) == 4 else socket.AF_INET6, wire) if wire else ""


def _subscribed(protocol: int, groups: int) -> socket.socket:
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    try:
        channel.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:  # the default then; ENOBUFS comes earlier
        pass
    try:
        channel.bind((0, groups))
    except OSError:
        channel.close()
        raise
    return channel


def _events(data: bytes) -> Iterator[_Event]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, _, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield _Event(kind, flags, port, data, offset + HEADER.size, offset + length)
        offset += (length + 3) & ~3


def _settings(event: _Event) -> tuple[tuple[int, bytes], ...]:
    """What somebody may have set of a link; a bridge's timers, which always run, left out."""
    kept = (IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_IFALIAS)
    found: list[tuple[int, bytes]] = []
    for kind, value in attributes(event.data, event.body + _IFINFO.size, event.end):
        if kind in kept:
            found.append((kind, value))
        elif kind == IFLA_LINKINFO:
            found += _info(value)
    return tuple(found)


def _info(value: bytes) -> list[tuple[int, bytes]]:
    info = dict(attributes(value, 0, len(value)))
    data = info.get(IFLA_INFO_DATA, b"")
    if info.get(IFLA_INFO_KIND) == b"bridge\0":
        return [each for each in attributes(data, 0, len(data)) if each[0] == _IFLA_BR_VLAN_FILTERING]
    return [(IFLA_INFO_DATA, data)]


def _is_own(event: _Event) -> bool:
    """Whether a thread of this process did it, or an engine that does what the records say, as we would.

    The name also serves in a container that has process numbers of its own.
    """
    who = dict(attributes(event.data, event.body + 4, event.end))
    pid = int.from_bytes(who.get(_GEN_PROC_PID, b""), "big")
    return who.get(_GEN_PROC_NAME) == _ENGINE or os.path.exists(f"/proc/self/task/{pid}")
