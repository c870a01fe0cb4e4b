"""Masquerade: one rule a network and family, however many pods it has.

What leaves a network's subnets for anywhere but those subnets, the rest of the cluster and multicast gets the
address of the interface it leaves by:

    ip saddr { 10.244.1.0/24 } ip daddr != { 10.244.1.0/24, 10.244.0.0/16, 224.0.0.0/4 } masquerade fully-random

The rules of all networks make up one chain that is replaced whole, in one transaction. What the node itself sends
through a tunnel of its own has another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

import msgspec

from cni_plugin.model.nft import Chain, comment
from cni_plugin.plan.node import family

CHAIN = "postrouting"
HOOK = "type nat hook postrouting priority srcnat; policy accept;"
_WORDS = {4: ("ip", "224.0.0.0/4"), 6: ("ip6", "ff00::/8")}


class Masquerade(msgspec.Struct, frozen=True):
    """What one network has masqueraded: from these subnets, to anywhere but `inside` and the subnets themselves.

    Raises ValueError for what is no network: one that stood in a note would keep the chain from all the others.
    """

    subnets: tuple[str, ...]
    inside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for each in (*self.subnets, *self.inside):
            _network(each)

    def joined(self, other: Masquerade) -> Masquerade:
        """Both: pods from before a change of the subnets go on being masqueraded."""
        return Masquerade(tuple(sorted({*self.subnets, *other.subnets})), tuple(sorted({*self.inside, *other.inside})))


def masquerade_chain(networks: Mapping[str, Masquerade]) -> Chain:
    """The chain for all networks that want it."""
    return Chain(CHAIN, HOOK, tuple(rule for name in sorted(networks) for rule in _rules(name, networks[name])))


def own_name(device: str) -> str:
    """What the chain for the node's own packets through a tunnel is called."""
    return f"own_{device.replace('.', '_')}"


def own_chain(device: str, addresses: Mapping[int, str]) -> Chain:
    """What the node itself sends through its tunnel comes back through it: from the tunnel's own address, by family.

    Who calls a Service has its source chosen before it is known where that leads: the address of another interface, to
    which the other node's answer would take another way, or none (flannel#318; strict rp_filter).
    """
    return Chain(
        own_name(device),
        HOOK,
        tuple(
            comment(
                f'oifname "{device}" {_WORDS[family][0]} saddr != {addresses[family]} fib saddr type local masquerade '
                "fully-random", "the node itself",
            )
            for family in sorted(addresses)
        ),
    )


@lru_cache(maxsize=64)
def _rules(name: str, wanted: Masquerade) -> tuple[str, ...]:
    """Remembered: every pod of a network asks for them."""
    return tuple(
        comment(_rule(number, subnets, wanted.inside), f"network {name}")
        for number in (4, 6)
        if (subnets := [each for each in wanted.subnets if family(each) == number])
    )


def _rule(number: int, subnets: Sequence[str], inside: Sequence[str]) -> str:
    word, multicast = _WORDS[number]
    outside = [*subnets, *(each for each in inside if family(each) == number), multicast]
    return f"{word} saddr {_set(subnets)} {word} daddr != {_set(outside)} masquerade fully-random"


def _set(networks: Iterable[str]) -> str:
    """An anonymous set; nft refuses one whose intervals overlap."""
    merged = collapse_addresses(map(_network, networks))  # type: ignore[type-var]
    return f"{{ {', '.join(map(str, merged))} }}"


@lru_cache(maxsize=256)
def _network(text: str) -> IPv4Network | IPv6Network:
    """Remembered: it is looked at as what a network claims is read, and again as the rule is written."""
    return ip_network(text)
