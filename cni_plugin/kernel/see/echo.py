"""ICMP echo: whether an address answers, how long that takes, and whether a packet of a given size gets there whole.

    ping -c 1 -I 10.244.1.0 -M probe -s 1422 10.244.2.0

Raw sockets, because the ones without rights are closed to everybody by default (net.ipv4.ping_group_range, ip-sysctl).
Promises: nothing waits; who answers is matched by identifier and token, so that another program's pings, or an answer
that somebody made up, count for nothing; the time of arrival is the kernel's, so a busy reader makes nobody look slow.
Echoes are never fragmented, and what the kernel has learnt of the path's MTU is not asked (IP_PMTUDISC_PROBE, ip(7)).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

HEADER = {4: 28, 6: 48}
"""Bytes of the IP header (without options) and the ICMP header around an echo's data."""
LEAST = {family: size + 8 for family, size in HEADER.items()}
"""The smallest packet, whose data is the token alone."""

_ICMP = Struct("!BBHHH")
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_PROTOCOLS = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_SOL_RAW, _FILTER = 255, 1
"""SOL_RAW; ICMP_FILTER (linux/icmp.h) and ICMPV6_FILTER (linux/icmpv6.h): a bit that is set keeps a type out."""
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, and *_PMTUDISC_PROBE (linux/in.h, linux/in6.h)."""
_TIMESTAMPNS = 35
"""SO_TIMESTAMPNS (asm-generic/socket.h): a struct timespec of CLOCK_REALTIME comes with each packet.

It is when the packet came; right after the machine's first such socket was opened it may be when it was read
(net_enable_timestamp in net/core/dev.c leaves the switching on to a work queue).
"""
_TIMESPEC = Struct("=qq")
_BUFFER = 1 << 20
_LARGEST = 1 << 16


class Reply(NamedTuple):
    """An echo that came back: from whom, its number, and when, in nanoseconds of CLOCK_REALTIME."""

    address: str
    number: int
    at: int


class Echo:
    """A socket for echoes of one family (4, 6), sent from `source` ("": the kernel chooses). Raises OSError."""

    def __init__(self, family: int, source: str = "") -> None:
        self.family = family
        self._token = os.urandom(8)
        self._ident = int.from_bytes(os.urandom(2), "big")
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(_FAMILIES[family], kind, _PROTOCOLS[family])
        try:
            self._prepare(source)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when something came back."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; twice does no harm."""
        self._socket.close()

    def send(self, to: str, number: int, size: int = 0) -> int:
        """Send one, `size` bytes of IP packet in all (0: the smallest); the time.time_ns() of that.

        Raises OSError with the kernel's reason: no route, larger than the link's MTU, forbidden.
        """
        data = self._token + bytes(max(size - LEAST[self.family], 0))
        head = _ICMP.pack(_REQUEST[self.family], 0, 0, self._ident, number)
        if self.family == 4:  # in ICMPv6 the kernel fills it in, for it covers addresses too (RFC 4443, 2.3)
            head = _ICMP.pack(_REQUEST[4], 0, checksum(head + data), self._ident, number)
        at = time.time_ns()
        self._socket.sendto(head + data, (to, 0))
        return at

    def replies(self) -> Iterator[Reply]:
        """What has come back since."""
        while True:
            try:
                data, notes, _, sender = self._socket.recvmsg(_LARGEST, 64)
            except OSError:  # nothing more, or nothing for now
                return
            number = self._number(data)
            if number is not None:
                yield Reply(str(sender[0]), number, _arrival(notes))

    def _prepare(self, source: str) -> None:
        level, name = _MTU_DISCOVER[self.family]
        self._socket.setsockopt(level, name, _PROBE)
        self._socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        reply = _REPLY[self.family]
        level, words = (_SOL_RAW, 1) if self.family == 4 else (socket.IPPROTO_ICMPV6, 8)
        kept_out = [0xFFFFFFFF] * words
        kept_out[reply // 32] ^= 1 << reply % 32
        self._socket.setsockopt(level, _FILTER, Struct(f"={words}I").pack(*kept_out))
        if source:
            self._socket.bind((source, 0))

    def _number(self, data: bytes) -> int | None:
        """The number of an echo of ours. Of IPv4 a raw socket gives the header, too (raw(7))."""
        start = (data[0] & 15) * 4 if self.family == 4 and data else 0
        if len(data) < start + _ICMP.size + len(self._token):
            return None
        kind, _, _, ident, number = _ICMP.unpack_from(data, start)
        mine = data[start + _ICMP.size :][: len(self._token)] == self._token
        return int(number) if kind == _REPLY[self.family] and ident == self._ident and mine else None


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of these bytes."""
    even = data + bytes(len(data) % 2)
    total = sum(memoryview(even).cast("H"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return socket.htons(~total & 0xFFFF)


def _arrival(notes: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == _TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return time.time_ns()
