"""A whole cluster as one node plans it, kept by peer, so that a change of one peer is planned and compared alone.

Pure: `plan` is given what the kernel said of the ways, and the plan before if there is one. Promises: a plan made from
an earlier one is the plan that is made from nothing, whatever changed; what leads to a peer is that peer's alone, for
who cannot be told from others is left out (`plan.identity`); only what differs between two plans goes into `delta`.

    before = plan(terms, nodes);  after = plan(terms, nodes[:-1], before);  delta(after, before)  ->  want, have
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from cni_plugin.backends.contract import Backend, Me
from cni_plugin.cluster import Node
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model.base import Key, State, state
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import Addr, Way
from cni_plugin.plan.guard import admitted, watched
from cni_plugin.plan.identity import Lengths, contested, covers, misplaced
from cni_plugin.plan.masquerade import own_chain
from cni_plugin.plan.node import family, forwarding


class Terms(NamedTuple):
    """What the ways to all peers depend on; `me` with the ways that there are now."""

    me: Me
    backend: Backend
    conf: object

    def same_as(self, other: Terms) -> bool:
        """Whether a peer that did not change, nor the way to it, is reached as before."""
        return self._replace(me=self.me._replace(ways={})) == other._replace(me=other.me._replace(ways={}))

    def reaches_as(self, other: Terms) -> bool:
        """Whether the same addresses of a peer count."""
        mine, theirs = self.me.underlay.version, other.me.underlay.version
        return (self.backend, self.conf, mine) == (other.backend, other.conf, theirs)


class Part(NamedTuple):
    """One peer: where packets for its pods are sent, the ways to there, and what that takes; or why it cannot be.

    `covers`: the keys of routes by which its ends would be pods'; `contested`: it is refused for another peer's sake.
    """

    node: Node
    ends: tuple[str, ...]
    ways: tuple[Way | None, ...]
    state: State
    refused: CniError | None = None
    covers: tuple[Key, ...] = ()
    contested: bool = False


class Plan(NamedTuple):
    """This node's part of a cluster: `want` is all of it, `local` what is there without peers, `parts` by peer.

    `lengths` are those of the peers' subnets.
    """

    terms: Terms
    local: State
    parts: Mapping[str, Part]
    want: State
    lengths: Lengths

    @property
    def refused(self) -> tuple[CniError, ...]:
        """Why peers are left out."""
        return tuple(each.refused for each in self.parts.values() if each.refused is not None)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is amiss with peers that are reached all the same."""
        _, backend, conf = self.terms
        found = (backend.doubt(each.node, conf) for each in self.parts.values() if each.refused is None)
        return tuple(filter(None, found))


def ends(me: Me, backend: Backend, conf: object, peer: Node) -> tuple[str, ...]:
    """The addresses of a peer that packets for its pods are sent to."""
    return tuple(map(str, backend.ends(me, peer, conf)))


def plan(terms: Terms, peers: Iterable[Node], before: Plan | None = None) -> Plan:
    """Raises CniError 7 where the node itself cannot take part; a peer that cannot is left out."""
    me, backend, conf = terms
    peers = tuple(peers)
    lengths = frozenset((cidr.version, cidr.prefixlen) for each in peers for cidr in each.pod_cidrs)
    same = before is not None and before.lengths == lengths and before.terms.same_as(terms)
    known = before.parts if before is not None and same else {}
    gate = backend.gate(conf)
    local = {**forwarding({cidr.version for cidr in me.node.pod_cidrs}), **backend.local(me, conf)}
    local.update(watched(me, gate) if gate else {})
    for device in backend.devices(conf):
        local.update(_own(local, device.name))
    parts = {each.name: _part(terms, lengths, each, known.get(each.name)) for each in peers}
    want = _joined(parts)
    losers = contested(parts.values(), want, backend.derived)
    if losers:
        parts.update(_left_out(parts, losers))
        want = _joined(parts)
    want.update(local)
    return Plan(terms, local, parts, want, lengths)


def delta(after: Plan, before: Plan) -> tuple[State, State]:
    """What to compare so that the second plan, which stands, becomes the first; sysctls of the whole node never go."""
    if not after.terms.same_as(before.terms):
        return after.want, {key: each for key, each in before.want.items() if key in after.want or not _is_shared(each)}
    # several may be at one address, and what one of them leaves behind is another's
    gone = {name: part for name, part in before.parts.items() if after.parts.get(name) is not part}
    new = {name: part for name, part in after.parts.items() if before.parts.get(name) is not part}
    want, have = _joined(new), _joined(gone)
    return want, {key: each for key, each in have.items() if key in want or key not in after.want}


def _part(terms: Terms, lengths: Lengths, peer: Node, known: Part | None) -> Part:
    me, backend, conf = terms
    same = known is not None and (known.node is peer or known.node == peer)
    to = known.ends if known is not None and same else ends(me, backend, conf, peer)
    ways = tuple(map(me.ways.get, to))
    if known is not None and same and known.ways == ways and not known.contested:
        return known
    addresses = tuple(map(ip_address, to))
    found = Part(peer, to, ways, {}, covers=covers(addresses, lengths))
    why = misplaced(me, peer, dict(zip(addresses, ways, strict=True)), backend.OVERHEAD[me.underlay.version])
    if why:
        return found._replace(refused=_refusal(peer, why))
    try:
        gate = backend.gate(conf)
        return found._replace(state={**backend.peer(me, peer, conf), **(admitted(me, peer, gate) if gate else {})})
    except CniError as error:
        return found._replace(refused=error)


def _own(local: State, device: str) -> State:
    """The chain for what this node itself sends through its device."""
    found = (each.address.partition("/")[0] for each in local.values() if isinstance(each, Addr) and each.dev == device)
    addresses = {family(each): each for each in found}
    return state([own_chain(device, addresses)] if addresses else [])


def _left_out(parts: Mapping[str, Part], losers: Mapping[str, str]) -> Iterator[tuple[str, Part]]:
    for name, why in losers.items():
        part = parts[name]
        yield name, part._replace(state={}, refused=_refusal(part.node, why), contested=True)


def _refusal(peer: Node, why: str) -> CniError:
    return CniError(INVALID_CONFIG, f"cluster.nodes: {peer.name} is left out: {why}")


def _joined(parts: Mapping[str, Part]) -> State:
    joined: State = {}
    for each in parts.values():
        joined.update(each.state)
    return joined


def _is_shared(each: object) -> bool:
    return isinstance(each, Sysctl) and not each.dev
