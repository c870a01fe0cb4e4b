"""Which of its addresses this node tells its peers. Pure: what the machine has is handed in.

The first rule that yields an address holds:

    address.interface     the first of these interfaces that has one
    address.pattern       the first interface whose whole name matches
    address.canReach      the interface that leads to this address
    the source            the addresses that it knows this node by, as far as the node has them (kubelet's InternalIP),
                          and of a family that it does not speak of, that of the same interface
    the peers             the interface by which most of them are reached
    the default route     the interface that leads anywhere else

An interface may have an address of each family: IPv4 goes first, for tunnels use the first one. Where a way has a
source of its own (`ip route ... src 198.51.100.1`), that goes before its interface's addresses: a machine that routes
may have its address on loopback alone, and none on the links that lead away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from cni_plugin.agent.settings import AddressSettings
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model.layer3 import Way
from cni_plugin.network import Address, unusable

Leads: TypeAlias = Callable[[Sequence[str]], Mapping[str, Way]]
"""From addresses to the ways by which the kernel would reach them; what it cannot reach is left out."""
MOST_ASKED = 32
"""Peers whose ways are looked at: the question is only which interface most of them are behind."""
ANYWHERE = ("198.41.0.4", "2001:503:ba3e::2:30")
"""Public addresses that no node has, a root name server's; nothing is sent to them, the kernel is asked for the way."""

SERVICES = "kube-ipvs0"
"""kube-proxy's dummy device in IPVS mode: it holds the addresses of Services, among them some that are nodes' too."""


class Machine(NamedTuple):
    """The addresses of each interface, link-local ones left out, in the kernel's order; and where ways lead."""

    held: Mapping[str, tuple[Address, ...]]
    leads: Leads


class Whereabouts(NamedTuple):
    """`local` are this node's own addresses, `told` those that peers are told: the same unless a NAT is in between.

    `firm`: other peers would not have made it another choice.
    """

    local: tuple[Address, ...]
    told: tuple[Address, ...]
    why: str
    firm: bool


def whereabouts(
    settings: AddressSettings, machine: Machine, known: Sequence[Address], peers: Sequence[Address]
) -> Whereabouts | None:
    """Where this node is; `known` is what the source says of it. None when nothing yields an address.

    Raises CniError 7 for a setting that cannot be used.
    """
    found = next((each for each in _rules(settings, machine, known, peers) if each[0]), None)
    if found is None:
        return None
    local, why, firm = found
    public = (
        *([_address("public", settings.public, 4)] if settings.public else []),
        *([_address("publicIPv6", settings.public_ipv6, 6)] if settings.public_ipv6 else []),
    )
    replaced = {each.version for each in public}
    told = sorted((*public, *(each for each in local if each.version not in replaced)), key=lambda each: each.version)
    return Whereabouts(local, tuple(told), why, firm)


def check(settings: AddressSettings) -> None:
    """Raises CniError 7 for a setting that cannot be used, whatever the machine has."""
    if settings.pattern:
        _matcher(settings.pattern)
    for key, text, family in (
        ("canReach", settings.can_reach, 0), ("public", settings.public, 4), ("publicIPv6", settings.public_ipv6, 6)
    ):
        if text:
            _address(key, text, family)


def _rules(
    settings: AddressSettings, machine: Machine, known: Sequence[Address], peers: Sequence[Address]
) -> Iterator[tuple[tuple[Address, ...], str, bool]]:
    for name in settings.interface:
        yield _of(machine, name), f"address.interface {name}", True
    if settings.pattern:
        for name in filter(_matcher(settings.pattern), machine.held):
            yield _of(machine, name), f"address.pattern {settings.pattern}", True
    if settings.can_reach:
        target = str(_address("canReach", settings.can_reach))
        yield _leading(machine, [target]), f"address.canReach {target}", True
    if settings.interface or settings.pattern or settings.can_reach:
        return  # who asked for one interface is not served by another
    yield _known(machine, known), "the source knows this node by it", True
    yield _leading(machine, [str(each) for each in peers[:MOST_ASKED]]), "peers are reached by its interface", False
    yield _leading(machine, ANYWHERE), "its interface has the default route", False


def _matcher(pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        remedy = "write a regular expression such as 'eth[0-9]+'"
        raise CniError(INVALID_CONFIG, f"invalid address.pattern {pattern!r}: {error}; {remedy}") from error
    return lambda name: compiled.fullmatch(name) is not None


def _address(key: str, text: str, family: int = 0) -> Address:
    with suppress(ValueError):
        address = ip_address(text)
        if family in (0, address.version):
            return address
    kind = f"IPv{family} address" if family else "address"
    raise CniError(INVALID_CONFIG, f"invalid address.{key} {text!r}: write an {kind} without a prefix")


def _leading(machine: Machine, targets: Sequence[str]) -> tuple[Address, ...]:
    """The addresses by which most of these are reached; of two equal interfaces, those of the first in order."""
    ways = machine.leads(targets) if targets else {}
    counted = Counter(ways[each].dev for each in targets if each in ways)
    led = (_led(machine, [each for each in ways.values() if each.dev == name]) for name, _ in counted.most_common())
    return next(filter(None, led), ())


def _led(machine: Machine, ways: Sequence[Way]) -> tuple[Address, ...]:
    """An IPv6 way without a source of its own is answered with a temporary address, so there the interface's go first.

    (rt6_fill_node in net/ipv6/route.c, by ipv6_dev_get_saddr and use_tempaddr.)
    """
    sources = [ip_address(each.source) for each in ways if each.source]
    here = [each for each in sources if any(each in held for held in machine.held.values())]
    own = machine.held.get(ways[0].dev, ())
    return _both([*(each for each in here if each.version == 4), *own, *here])


def _known(machine: Machine, known: Sequence[Address]) -> tuple[Address, ...]:
    """kubelet tells one address where nobody asked it for two; a network of both families needs the other one, too."""
    names = {address: name for name, addresses in machine.held.items() for address in addresses}
    here = [each for each in known if each in names]
    return _both([*here, *machine.held[names[here[0]]]]) if here else ()


def _of(machine: Machine, name: str) -> tuple[Address, ...]:
    return _both(machine.held.get(name, ()))


def _both(addresses: Sequence[Address]) -> tuple[Address, ...]:
    """The first of each family, IPv4 first."""
    first: dict[int, Address] = {}
    for each in addresses:
        first.setdefault(each.version, each)
    return tuple(first[version] for version in sorted(first))


def held_by(addresses: Mapping[str, Sequence[str]]) -> dict[str, tuple[Address, ...]]:
    """`Machine.held` from texts, with or without prefix lengths; those that no peer could send to are left out.

    Nor are those of Services, which every node holds.
    """
    return {
        name: tuple(each for each in (ip_address(text.partition("/")[0]) for text in texts) if not unusable(each))
        for name, texts in addresses.items()
        if name != SERVICES
    }
