"""Which addresses may be given out, and in what order: pure values, no disk.

An IPAM configuration names range sets; a pod gets one address of each. This module promises that what it
returns is consistent (every range inside its subnet, no two of them overlapping, one family a set), that
the network, broadcast and gateway addresses are never among the candidates, and that a configuration that
breaks a rule is refused with the key, the value and the remedy. The rules and the defaults are those of the
reference host-local, so that both give out the same addresses from the same files:

    {"subnet": "10.22.0.0/24"}     10.22.0.2 .. 10.22.0.254, gateway 10.22.0.1
    {"subnet": "fd00:22::/64"}     fd00:22::2 .. fd00:22::ffff:ffff:ffff:ffff, gateway fd00:22::1

Two differences, both on the safe side: an explicit `rangeStart` or `rangeEnd` may name the network or the
broadcast address, but no pod gets it; and the gateway of one range is not given out by another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from ipam.errors import RangeError

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Span = tuple[int, int]
"""First and last address as integers, both inclusive."""


class Range(msgspec.Struct, frozen=True):
    """The addresses from `start` to `end`, both inclusive, of one subnet."""

    subnet: Network
    start: IP
    end: IP
    gateway: IP

    def __contains__(self, ip: IP) -> bool:
        return ip.version == self.start.version and int(self.start) <= int(ip) <= int(self.end)

    def __str__(self) -> str:
        whole = int(self.start) <= int(self.subnet[1]) and int(self.end) >= int(self.subnet[-2])
        return str(self.subnet) if whole else f"{self.start}-{self.end} of {self.subnet}"

    def overlaps(self, other: Range) -> bool:
        """Whether an address lies in both."""
        return other.start in self or self.start in other


class RangeSet(msgspec.Struct, frozen=True):
    """Ranges of one family of which a pod gets one address; made by `parse`.

    `reserved` are the addresses inside the ranges that nobody may have.
    """

    index: int
    ranges: tuple[Range, ...]
    reserved: frozenset[IP] = frozenset()

    def __contains__(self, ip: IP) -> bool:
        return self.range_of(ip) is not None

    def __str__(self) -> str:
        return ", ".join(map(str, self.ranges))

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.ranges[0].start.version

    @property
    def size(self) -> int:
        """How many addresses can be in use at once."""
        return sum(last - first + 1 for first, last in self.spans()) - len(self.reserved)

    def range_of(self, ip: IP) -> Range | None:
        """The range that the address lies in."""
        return next((r for r in self.ranges if ip in r), None)

    def spans(self, after: IP | None = None) -> Iterator[Span]:
        """Every address of the set once, as spans in the order in which to try them: round robin after `after`.

        Without `after`, or when it lies in no range (the configuration changed), from the very first address.
        """
        spans = [(int(r.start), int(r.end)) for r in self.ranges]
        home = next((i for i, r in enumerate(self.ranges) if after in r), None) if after is not None else None
        if after is None or home is None:
            yield from spans
            return
        first, last = spans[home]
        if int(after) < last:
            yield int(after) + 1, last
        yield from spans[home + 1 :] + spans[:home]
        yield first, int(after)


def parse(ipam: Mapping[str, object], extra: Sequence[object] = ()) -> tuple[RangeSet, ...]:
    """The range sets of an IPAM configuration, in the order of the addresses in the result.

    That is, as the reference has it: the sets of `extra` (`runtimeConfig.ipRanges`), the old-style range on the
    top level, then `ranges`. Keys match in any case, `null` and "" are absent. Raises RangeError.
    """
    found = list(_sets("runtimeConfig.ipRanges", extra))
    if _get(ipam, "subnet") is not None:
        found.append(("", (_range("", ipam),)))
    found.extend(_sets("ranges", _get(ipam, "ranges") or ()))
    if not found:
        raise RangeError("ranges", None, "names no range", 'give a subnet, such as [[{"subnet": "10.22.0.0/24"}]]')
    _refuse_overlaps(found)
    gateways = {r.gateway for _, ranges in found for r in ranges}
    return tuple(RangeSet(i, ranges, _reserved(ranges, gateways)) for i, (_, ranges) in enumerate(found))


def canonical(ip: IP) -> IP:
    """An IPv4-mapped IPv6 address as the IPv4 address that it means; any other as it is."""
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def address(family: int, number: int) -> IP:
    """The address of that number."""
    return IPv4Address(number) if family == 4 else IPv6Address(number)


def _sets(key: str, value: object) -> Iterator[tuple[str, tuple[Range, ...]]]:
    for i, members in enumerate(_list(key, value)):
        at = f"{key}[{i}]"
        ranges = tuple(_range(f"{at}[{j}].", _object(f"{at}[{j}]", one)) for j, one in enumerate(_list(at, members)))
        if not ranges:
            raise RangeError(at, [], "is an empty range set", "give it a range, or remove it")
        if mixed := next((r for r in ranges if r.start.version != ranges[0].start.version), None):
            raise RangeError(at, str(mixed.subnet), f"is of another family than {ranges[0].subnet}",
                             "give each family a range set of its own, and a pod gets an address of each")
        yield at, ranges


def _range(prefix: str, raw: Mapping[str, object]) -> Range:
    subnet = _subnet(f"{prefix}subnet", _get(raw, "subnet"))
    start = _inside(f"{prefix}rangeStart", _get(raw, "rangeStart"), subnet)
    end = _inside(f"{prefix}rangeEnd", _get(raw, "rangeEnd"), subnet)
    # The reference leaves out the broadcast address for IPv4 only: IPv6 has none.
    end = end or (subnet[-2] if subnet.version == 4 else subnet[-1])
    start = start or subnet[1]
    if int(end) < int(start):
        raise RangeError(f"{prefix}rangeEnd", str(end), f"comes before rangeStart {start}", "swap the two")
    return Range(subnet, start, end, _gateway(f"{prefix}gateway", _get(raw, "gateway"), subnet))


def _subnet(key: str, value: object) -> Network:
    example = "write it as 10.22.0.0/24 or fd00:22::/64"
    if value is None:
        raise RangeError(key, value, "is missing", example)
    _, slash, length = value.partition("/") if isinstance(value, str) else ("", "", "")
    # Python would also take a netmask for a length and a bare address for a /32; the reference takes neither.
    if not (slash and length.isdecimal()) or "%" in str(value):
        raise RangeError(key, value, "is not an address and a prefix length", example)
    try:
        subnet = ip_network(str(value), strict=False)
    except ValueError as error:
        raise RangeError(key, value, f"is no subnet ({error})", example) from None
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        raise RangeError(key, value, "is too small to allocate from",
                         f"use a /{subnet.max_prefixlen - 2} or larger: gateway, network and broadcast are reserved")
    if str(subnet.network_address) != str(ip_address(str(value).partition("/")[0])):
        raise RangeError(key, value, "has host bits set", f"the network is {subnet}; write that")
    if isinstance(subnet, IPv6Network) and subnet.network_address.ipv4_mapped:
        raise RangeError(key, value, "is IPv4 written as IPv6", "write it as an IPv4 subnet")
    return subnet


def _inside(key: str, value: object, subnet: Network) -> IP | None:
    ip = _address(key, value)
    if ip is not None and ip not in subnet:
        raise RangeError(key, value, f"is not in the subnet {subnet}", f"name an address of {subnet}, or leave it out")
    return ip


def _gateway(key: str, value: object, subnet: Network) -> IP:
    """A gateway outside the subnet is allowed, as in the reference: 169.254.1.1 serves any subnet."""
    gateway = _address(key, value)
    if gateway is None:
        return subnet[1]
    if gateway.version != subnet.version:
        raise RangeError(key, value, f"is of another family than the subnet {subnet}",
                         f"name an IPv{subnet.version} address")
    if gateway.version == 4 and gateway in (subnet.network_address, subnet.broadcast_address):
        raise RangeError(key, value, f"is the network or broadcast address of {subnet}",
                         f"use {subnet[1]}, or leave it out")
    return gateway


def _address(key: str, value: object) -> IP | None:
    if value is None:
        return None
    try:
        if isinstance(value, str) and "%" not in value:
            return canonical(ip_address(value))
    except ValueError:
        pass
    raise RangeError(key, value, "is not an IP address", "write it as 10.22.0.10 or fd00:22::10")


def _refuse_overlaps(found: Sequence[tuple[str, tuple[Range, ...]]]) -> None:
    named = [(key or "subnet", r) for key, ranges in found for r in ranges]
    for i, (key, one) in enumerate(named):
        for other_key, other in named[:i]:
            if one.overlaps(other):
                raise RangeError(key, f"{one.start}-{one.end}", f"overlaps {other.start}-{other.end} of {other_key}",
                                 "make the ranges disjoint")


def _reserved(ranges: Sequence[Range], gateways: Collection[IP]) -> frozenset[IP]:
    """Any gateway, the network address (for IPv6 the subnet-router anycast, RFC 4291 2.6.1), IPv4's broadcast."""
    kept = {ip for ip in gateways if any(ip in r for r in ranges)}
    for r in ranges:
        ends = (r.subnet[0], r.subnet[-1]) if r.subnet.version == 4 else (r.subnet[0],)
        kept.update(ip for ip in ends if ip in r)
    return frozenset(kept)


def _get(raw: Mapping[str, object], name: str) -> object:
    """The value of a key in any case (as Go's encoding/json reads it); "" counts as absent."""
    value = raw.get(name)
    if value is None:
        value = next((v for k, v in raw.items() if v is not None and k.lower() == name.lower()), None)
    return None if value == "" else value


def _list(key: str, value: object) -> Sequence[object]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value
    raise RangeError(key, value, "is not a list", 'ranges is a list of lists: [[{"subnet": "10.22.0.0/24"}]]')


def _object(key: str, value: object) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    raise RangeError(key, value, "is not an object", 'a range looks like {"subnet": "10.22.0.0/24"}')
