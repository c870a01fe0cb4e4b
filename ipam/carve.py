"""Which subnet of a network a node may have: pure, no disk, no store.

A network is cut into subnets of one length that lie side by side, from the one at `first` to the one at `last`; what
others hold, of whatever length, is kept clear of. Promises: the subnet lies within the bounds, overlaps nothing that is
taken, and is the first such one from `start` on, round the end, so that nodes that begin elsewhere seldom meet.

    carve(10.244.1.0, 10.244.255.0, 24, taken=[10.244.4.0/24], start=3)     10.244.5.0/24
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ipam.errors import PoolExhausted
from ipam.ranges import IP, Network


def carve(first: IP, last: IP, length: int, taken: Iterable[Network], start: int = 0) -> Network:
    """A free subnet of prefix length `length`; `start` counts subnets from the first one, modulo all of them.

    Cost: O(n log n) in the taken ones, however large the network is. Raises PoolExhausted.
    """
    from netaddr import IPRange, IPSet  # 30 ms, and only those who take a subnet need it

    size = 1 << (first.max_prefixlen - length)
    count = (int(last) - int(first)) // size + 1
    begin = int(first) + start % count * size
    space = IPSet(IPRange(str(first), str(last + (size - 1))))
    holes = space - IPSet([str(each) for each in taken if each.version == first.version])
    blocks = [each for each in holes.iter_cidrs() if each.prefixlen <= length]  # an aligned hole holds whole subnets
    behind = [max(each.first, begin) for each in blocks if each.last >= begin]
    if not blocks:
        raise PoolExhausted(
            f"no subnet is free: all of {count} from {first}/{length} to {last}/{length} are taken: make the network "
            "larger or its subnets smaller, or remove what nodes that are gone for good still hold"
        )
    return _network(first, min(behind or (each.first for each in blocks)), length)


def _network(like: IP, value: int, length: int) -> Network:
    if like.version == 4:
        return IPv4Network((IPv4Address(value), length))
    return IPv6Network((IPv6Address(value), length))
