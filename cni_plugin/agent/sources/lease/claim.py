"""Which subnet is this node's, and which it may take: pure decisions over what the store holds.

A key is this node's when two of three agree: the name in it, its address, the subnet that this node remembers. A
flannel's key has no name, so there the address alone decides, as flannel itself does it; a reservation may have a name
alone. So a node keeps its subnet when its address changes or its disk is new, and two machines that were cloned with
one name do not take each other's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from cni_plugin.agent.sources.lease.schema import Entry
from cni_plugin.cluster import same_name
from cni_plugin.network import Address, Network, NetworkConf
from ipam.carve import carve


class Us(NamedTuple):
    """This node: its name, the addresses that peers are told, and the subnets that it has or had last, () for none."""

    name: str
    addresses: Sequence[Address]
    remembered: tuple[Network, ...] = ()


def is_ours(entry: Entry, us: Us) -> bool:
    """Whether a key is this node's own."""
    address = any(each in us.addresses for each in entry.addresses)
    if not entry.name:
        return address
    if not entry.addresses:
        return same_name(entry.name, us.name)
    return same_name(entry.name, us.name) + address + (entry.cidrs == us.remembered) >= 2


def chosen(entries: Iterable[Entry], us: Us, conf: NetworkConf) -> tuple[Entry | None, tuple[Entry, ...]]:
    """The key to go on with, if there is one that fits the configuration, and those of this node's that are too many.

    What it has goes before what is reserved for it, that before what is leased, and the elder before the younger.
    """
    own = sorted(
        (each for each in entries if is_ours(each, us)),
        key=lambda each: (each.cidrs != us.remembered, each.stored.lease != 0, each.stored.created),
    )
    first = next((each for each in own if fits(each.cidrs, conf)), None)
    return first, tuple(each for each in own if each is not first and each.stored.lease)


def twins(entries: Iterable[Entry], us: Us) -> tuple[str, ...]:
    """What to say of keys that bear this node's name and are another's."""
    return tuple(
        f"another node calls itself {us.name}, too: {each.addresses[0]} with {each.stored.key}; give each node a name "
        "of its own, or remove that key if this node had it before"
        for each in entries
        if same_name(each.name, us.name) and each.addresses and not is_ours(each, us)
    )


def taken_by_flannel(entries: Iterable[Entry], before: tuple[Network, ...]) -> str:
    """What to add where a flannel has the subnet that this node had: it may be this node's own, behind a NAT."""
    theirs = next((each for each in entries if each.cidrs == before and each.addresses and not each.name), None)
    if theirs is None:
        return ""
    address = theirs.addresses[0]
    return f". {theirs.stored.key} is a flannel's at {address}: if that was this node's --public-ip, set address.public"


def fits(cidrs: Collection[Network], conf: NetworkConf) -> bool:
    """Whether subnets are what the configuration gives a node: one of each family, of its length, in its bounds."""
    return len(cidrs) == len(conf.carvings) > 0 and all(
        any(
            each.version == carving.network.version
            and each.prefixlen == carving.length
            and int(carving.first) <= int(each.network_address) <= int(carving.last)
            for each in cidrs
        )
        for carving in conf.carvings
    )


def pick(entries: Sequence[Entry], us: Us, conf: NetworkConf, attempt: int = 0) -> tuple[Network, ...]:
    """The subnets to ask for: those remembered while they are free, else free ones from where the name points to.

    Who lost against another node looks elsewhere at the next `attempt`. Raises PoolExhausted.
    """
    taken = [cidr for each in entries for cidr in each.cidrs]
    if fits(us.remembered, conf) and not overlaps(us.remembered, taken):
        return us.remembered
    start = int.from_bytes(sha256(f"{us.name} {attempt or ''}".encode()).digest()[:8])
    return tuple(carve(each.first, each.last, each.length, taken, start) for each in conf.carvings)


def overlaps(cidrs: Iterable[Network], others: Collection[Network]) -> bool:
    """Whether an address lies in one of these and in one of those."""
    return any(each.version == other.version and each.overlaps(other) for each in cidrs for other in others)


def elder(entries: Iterable[Entry], own: Entry) -> Entry | None:
    """A key that was there before this one and overlaps it: a transaction looks at whole keys alone."""
    return next(
        (each for each in entries if each.stored.created < own.stored.created and overlaps(own.cidrs, each.cidrs)), None
    )
