"""Addresses as text and as bytes: the little arithmetic that netlink messages need.

Text is what people and plans write, in any spelling; bytes are what can be compared. Families are told apart by
the colon, so nothing here has a twin for IPv6.
"""

from __future__ import annotations

import os
import socket


def family_of(address: str) -> int:
    """AF_INET6 for what has a colon."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def packed(address: str) -> bytes:
    """An address as it is on the wire; empty when it is none."""
    try:
        return socket.inet_pton(family_of(address), address)
    except OSError:
        return b""


def network_of(address: str, bits: int) -> str:
    """The prefix that an address with this prefix length is in: 192.0.2.0/24 for 192.0.2.1 and 24."""
    wire = packed(address)
    spare = len(wire) * 8 - bits
    network = (int.from_bytes(wire, "big") >> spare << spare).to_bytes(len(wire), "big")
    return f"{socket.inet_ntop(family_of(address), network)}/{bits}"


def random_mac() -> str:
    """A locally administered unicast MAC."""
    return ":".join(f"{octet:02x}" for octet in b"\x02" + os.urandom(5))


def broadcast_of(address: str, bits: int) -> str:
    """The broadcast address of the IPv4 network that an address with this prefix length is in."""
    packed = int.from_bytes(socket.inet_aton(address), "big")
    return socket.inet_ntoa((packed | (1 << (32 - bits)) - 1).to_bytes(4, "big"))
