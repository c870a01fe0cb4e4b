"""What the kernel tells of by itself, boiled down to the kinds of things that may not be as they should be any more.

A pod's start makes a dozen link events and each neighbour that is resolved makes one, so most of what comes in here is
of no concern, and is dropped after a look at its fixed header. Promise: whatever is changed of the watched links and
what hangs on them, of our routes and rules, or of forwarding is told; pods that come and go, and our own rules, are
not. A kernel that had to drop events (ENOBUFS) may have changed everything.

    monitor.watch({"tulle0": 4, "tulle.1": 5, "eth0": 2}, tunnels=("tulle.1",), uplinks=("eth0",))
    monitor.drain(fd)  ->  LINKS | ROUTES
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from struct import Struct
from typing import NamedTuple, TypeAlias

from cni_plugin.kernel.codec import HEADER
from cni_plugin.kernel.raw import (
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
from cni_plugin.model import ROUTE_PROTOCOL

Changed: TypeAlias = int
LINKS, ADDRESSES, ROUTES, NEIGHBOURS, RULES, KNOBS, UPLINKS = 1, 2, 4, 8, 16, 32, 64
EVERYTHING: Changed = 127

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
_SCOPE_LINK = 253
_NUD_FAILED, _NUD_NOARP, _NUD_PERMANENT = 0x20, 0x40, 0x80
_IFF_UP, _IFF_PROMISC = 0x1, 0x100
_IFLA_BR_VLAN_FILTERING = 7
_NEWGEN = 10 << 8 | 15
_GEN_PROC_PID, _GEN_PROC_NAME, _NFPROTO_INET, _TABLE_NAME = 2, 3, 1, 1
_ENGINE = b"tulled\0"
_OUR_TABLE = b"tulle\0"
_MARK = b"tulle:"
_POD_PORT = re.compile(rb"tl[0-9a-f]{11}\0")


class _Event(NamedTuple):
    kind: int
    flags: int
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

    def watch(self, links: Mapping[str, int], tunnels: Collection[str], uplinks: Collection[str]) -> None:
        """From now on these links matter (numbers by name, 0 for one that is missing).

        Of `tunnels` also the entries do; `uplinks` are those that are not ours to change.
        """
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
                if error.errno != errno.ENOBUFS:
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
            return _route_change(event)
        if event.kind in (_NEWADDR, _DELADDR):
            _, _, _, scope, index = _IFADDR.unpack_from(event.data, event.body)
            return self._on(index, ADDRESSES) if index in self._links and scope != _SCOPE_LINK else 0
        return self._knob_event(event) if event.kind == _NEWNETCONF else 0

    def _neighbour_event(self, event: _Event) -> Changed:
        """All that we make is permanent; one of ours that is deleted is "failed" before it goes."""
        _, index, state, _, _ = _ND.unpack_from(event.data, event.body)
        if index not in self._tunnels or (state & _NUD_NOARP and not state & _NUD_PERMANENT):
            return 0
        gone = event.kind == _DELNEIGH or state & _NUD_FAILED
        return NEIGHBOURS if gone or state & _NUD_PERMANENT else 0

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
        found = flags & (_IFF_UP | _IFF_PROMISC), _settings(event)
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


def _route_change(event: _Event) -> Changed:
    """Of our routes all; and somebody else's that was put in the place of another, which is told of theirs."""
    _, _, _, _, _, protocol, _, _, _ = _RT.unpack_from(event.data, event.body)
    replaced = event.kind == _NEWROUTE and event.flags & _NLM_F_REPLACE
    return ROUTES if protocol == ROUTE_PROTOCOL or replaced else 0


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
        length, kind, flags, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield _Event(kind, flags, data, offset + HEADER.size, offset + length)
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
