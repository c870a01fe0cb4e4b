"""Where an address of this node is now, told to every station on its link: they may still hold another interface's MAC.

An address that moves to another interface keeps its entry in its neighbours' tables, with the MAC of the old one, for
half a minute and more: what a node forwards for its pods makes it ask for its neighbours by its link-local address, so
nobody learns the new MAC of the address that routes lead to.

    arping -A -c 1 -I eth1 192.0.2.1        a gratuitous ARP (RFC 5227, section 3: an announcement)
    ndsend 2001:db8::1 eth1                 an unsolicited neighbour advertisement (RFC 4861, section 7.2.6)
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, ip_address
from struct import Struct

_ARP = Struct("!HHBBH6s4s6s4s")
_ETHERNET, _IPV4, _REQUEST = 1, 0x0800, 1
_ETH_P_ARP = 0x0806
_EVERYBODY = b"\xff" * 6
_ADVERTISEMENT = Struct("!BBHI16sBB6s")
_KIND, _ROUTER, _OVERRIDE = 136, 1 << 31, 1 << 29
"""RFC 4861, section 4.4. A node forwards for its pods, so it is a router."""
_TARGET_LINK_LAYER, _EIGHT_BYTES = 2, 1
_ALL_NODES = "ff02::1"
_HOPS = 255
"""Else it is not believed: it came from another link."""


def advertise(address: str, dev: str, index: int, mac: str) -> None:
    """Send it, in the network namespace of this thread. Raises OSError, also for an address that is not certain yet."""
    where = ip_address(address)
    lladdr = bytes.fromhex(mac.replace(":", ""))
    if isinstance(where, IPv4Address):
        packet = _ARP.pack(
            _ETHERNET, _IPV4, len(lladdr), len(where.packed), _REQUEST, lladdr, where.packed, bytes(6), where.packed
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0) as channel:
            channel.sendto(packet, (dev, _ETH_P_ARP, 0, _ETHERNET, _EVERYBODY))
        return
    packet = _ADVERTISEMENT.pack(
        _KIND, 0, 0, _ROUTER | _OVERRIDE, where.packed, _TARGET_LINK_LAYER, _EIGHT_BYTES, lladdr
    )
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMPV6) as channel:
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOPS)
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        channel.bind((address, 0))
        channel.sendto(packet, (_ALL_NODES, 0, 0, index))
