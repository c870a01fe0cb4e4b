"""Netlink attributes as they lie in a buffer: for events, of which a busy node has hundreds a second, and for nftables.

Nothing is known but the header of an attribute (struct nlattr, include/uapi/linux/netlink.h: length, type).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from struct import Struct

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS = 1, 3, 4, 5, 10, 18, 20
IFLA_AF_SPEC, IFLA_EXT_MASK = 26, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INET_CONF, IFLA_INET6_CONF = 1, 2
NESTED = 0x8000
"""NLA_F_NESTED: it has attributes in it."""
_HEADER = Struct("=HH")
_TYPE = 0x3FFF
"""NLA_TYPE_MASK: the two upper bits say that it is nested, and that it is in network byte order."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _HEADER.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The attributes between two offsets, each with its type and its bytes as they are."""
    unpack, last = _HEADER.unpack_from, end - 4
    while start <= last:
        length, kind = unpack(data, start)
        if length < 4:
            return
        yield kind & _TYPE, data[start + 4 : start + length]
        start += (length + 3) & ~3


def nested(value: bytes, kind: int) -> bytes:
    """The first of the attributes within an attribute that is of this type, b"" when none is."""
    for key, each in attributes(value, 0, len(value)):
        if key == kind:
            return each
    return b""


def number(value: bytes) -> int:
    """An integer attribute, which the kernel writes in the machine's byte order."""
    return int.from_bytes(value, sys.byteorder)
