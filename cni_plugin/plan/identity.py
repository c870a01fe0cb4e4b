"""Whether a peer can be where it says, and be told from the others: nobody's word takes another's packets.

A node announces its addresses, and of a flannel node also the MAC of its VTEP. What is announced concerns its own pods
alone: an address that is a pod's, that is reached through our own devices, or that only a link leads to which is too
narrow for everybody's pods, or is a narrower bridge of containers, leaves out just the peer that says so. Of one MAC,
or anything else that two peers would need for themselves alone, who has it by its subnet goes before who only says so,
and the elder before the younger.

    virtual-kubelet  10.244.2.7  10.244.9.0/24    left out: its address is a pod's of n2, which has 10.244.2.0/24
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Protocol, TypeAlias

from cni_plugin.backends.contract import Me
from cni_plugin.cluster import Node
from cni_plugin.marks import LEAST_MTU
from cni_plugin.model.base import Key, State
from cni_plugin.model.layer3 import Route, Way
from cni_plugin.model.nft import Element
from cni_plugin.network import Address, Network

Lengths: TypeAlias = frozenset[tuple[int, int]]
"""The families and prefix lengths of pods' subnets; a cluster has one or two."""


class Peer(Protocol):
    """As much as is asked of a part of a plan."""

    @property
    def node(self) -> Node:
        """Who it is."""

    @property
    def state(self) -> State:
        """What leads there."""

    @property
    def covers(self) -> tuple[Key, ...]:
        """The keys of the routes that would lead its own ends into the pods' network."""


def misplaced(me: Me, peer: Node, ways: Mapping[Address, Way | None], overhead: int) -> str:
    """Why this peer cannot be reached at these ends, as far as this node can tell; "" when it may be."""
    mine = (me.underlay, *me.node.addresses)
    for cidr in peer.pod_cidrs:
        for each in mine:
            if each in cidr:
                return f"its subnet {cidr} has this node's own address {each} in it"
    for end, way in ways.items():
        why = _no_end(me, peer, end, mine) or _no_underlay(me, way, overhead)
        if why:
            return f"its address {end} {why}"
    return ""


def too_narrow(me: Me, way: Way, overhead: int) -> bool:
    """Whether a way carries too little for pods with what the backend puts around their packets."""
    return way.mtu - overhead < max((LEAST_MTU[each.version] for each in me.node.pod_cidrs), default=LEAST_MTU[4])


def aside(me: Me, way: Way) -> bool:
    """Whether a way leads to guests of this node, by a bridge that is not its underlay and carries less than that."""
    return way.guests and not way.via and way.dev != me.uplink and way.mtu < me.mtu


def covers(ends: Sequence[Address], lengths: Lengths) -> tuple[Key, ...]:
    """The keys of routes to subnets of these lengths in which the ends would lie."""
    return tuple(
        Route(dst=str(_around(end, length)), dev="").key
        for end in ends
        for family, length in sorted(lengths)
        if family == end.version
    )


def contested(peers: Collection[Peer], want: State, derived: Callable[[Node], bool]) -> dict[str, str]:
    """Those that cannot stand beside the others, by name, and why; `want` is what all of them need."""
    inside = [each for each in peers if not want.keys().isdisjoint(each.covers)]
    found = {each.node.name: _in_a_subnet(each, peers, want) for each in inside}
    if len(want) < sum(len(each.state) for each in peers):
        standing = [each for each in peers if each.node.name not in found]
        standing.sort(key=lambda each: (not derived(each.node), each.node.since, each.node.name))
        found.update(_taken(standing))
    return found


def _no_end(me: Me, peer: Node, end: Address, mine: Collection[Address]) -> str:
    if end in mine:
        return "is this node's own"
    for owner, cidrs in (("this node's", me.node.pod_cidrs), ("its own", peer.pod_cidrs)):
        for cidr in cidrs:
            if end in cidr:
                return f"is a pod's: it lies in {owner} subnet {cidr}"
    network = _edges(me.prefixes).get(end)
    if network is not None:
        return f"is no station's: it is the first or last of {network}, which {me.uplink} is connected to"
    return ""


@lru_cache(maxsize=4)
def _edges(prefixes: tuple[str, ...]) -> Mapping[Address, Network]:
    """The first and last addresses of networks that keep those for themselves. Remembered, for each peer is asked."""
    networks = [each for each in map(ip_network, prefixes) if each.version == 4 and each.prefixlen < 31]
    return {edge: each for each in networks for edge in (each[0], each[-1])}


def _around(address: Address, length: int) -> Network:
    """By its number, which is quicker than by its text."""
    kind = IPv4Network if address.version == 4 else IPv6Network
    return kind((int(address), length), strict=False)


def _no_underlay(me: Me, way: Way | None, overhead: int) -> str:
    if way is None:
        return ""
    if way.own:
        return f"is reached through {way.dev}, which is Tulle's own: a tunnel in a tunnel"
    if aside(me, way):
        return (
            f"is reached by the bridge {way.dev}, on which are but guests of this node, and whose {way.mtu} bytes are "
            f"fewer than the {me.mtu} of {me.uplink}: raise that bridge's MTU, if a node is there"
        )
    if way.mtu < me.mtu and too_narrow(me, way, overhead):
        least = max(LEAST_MTU[each.version] for each in me.node.pod_cidrs)
        return (
            f"is reached by {way.dev}, whose {way.mtu} bytes leave {way.mtu - overhead} for pods, and they need "
            f"{least}: raise it to at least {least + overhead}"
        )
    return ""


def _in_a_subnet(peer: Peer, peers: Collection[Peer], want: State) -> str:
    key = next(each for each in peer.covers if each in want)
    owner = next(each.node.name for each in peers if key in each.state)
    return f"its address is a pod's: it lies in {key[3]}, the subnet of {owner}"


def _taken(peers: Sequence[Peer]) -> Iterator[tuple[str, str]]:
    """Of those that want what one before them has; several may be at one address."""
    owners: dict[Key, str] = {}
    for each in peers:
        own = [key for key, need in each.state.items() if not isinstance(need, Element)]
        key = next((key for key in own if key in owners), None)
        if key is None:
            owners.update(dict.fromkeys(own, each.node.name))
        else:
            yield each.node.name, f"it says it has {key[3]}, which is {owners[key]}'s"
