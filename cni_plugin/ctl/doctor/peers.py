"""The ways to peers: that each is there, and what real packets tell of it.

Peers are asked a small packet, and one as large as the pods' may be; and where that vanishes, how large one may be.
Bounded: all peers at once, a sample of a large cluster, and about a second; a second more where large packets vanish.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial

import msgspec

from cni_plugin.ctl.cluster import nodes
from cni_plugin.ctl.cluster.matrix import sample
from cni_plugin.ctl.cluster.nodes import NO_POD_YET
from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.doctor.contract import CLUSTER, ERROR, Finding, some
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.ctl.reach import SILENT, Heard, Probe, Target, family_of, largest

LAYER = CLUSTER
MOST = 100
"""Peers that are asked."""
MOST_MEASURED = 16
"""Peers behind black holes to which the largest packet is looked for: it takes hundreds of packets each."""
WAIT = 0.6
"""Seconds for the answers; half of that where sizes are tried, whose packets mostly do not come back."""
_MOST_TOLD = 5
"""Peers without a way that are told of in a cluster."""


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer answered through the overlay: to a small packet (`ms`), and to one of the pods' whole MTU (`whole`).

    `mtu` and `passes` in bytes; `passes` is the largest that got there where that was looked for, else 0. `excused`:
    the peer need not answer, for its bridge is not there yet.
    """

    network: str
    node: str
    address: str
    mtu: int
    ms: float | None = None
    whole: bool = True
    passes: int = 0
    excused: bool = False
    why: str = ""

    @property
    def silent(self) -> bool:
        """It should have answered."""
        return self.ms is None and not self.excused

    @property
    def hole(self) -> bool:
        """Small packets pass and large ones vanish."""
        return self.ms is not None and not self.whole


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The clusters, and what their nodes answered; `probed` is empty where nobody was to be asked."""

    clusters: tuple[Roster, ...] = ()
    probed: tuple[Probed, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """The lists; and what the peers answer, unless no packet is to be sent."""
    asked = [each for each in eyes.clusters if each.peers and each.programmed and not each.trouble]
    probed = (
        one
        for each in (asked if eyes.probing else ())
        for one in eyes.notes.many(f"peers of {each.network}", partial(_ask, each, eyes))
    )
    return Facts(clusters=eyes.clusters, probed=tuple(probed))


def no_way(facts: Facts) -> Iterator[Finding]:
    """Peers that the backend cannot reach, or whose entries the kernel has lost."""
    for cluster in facts.clusters:
        stuck = [each for each in cluster.peers if not each.way and each.why]
        for each in stuck[:_MOST_TOLD]:
            yield Finding(
                "no-way-to-peer", ERROR, f"{each.name} by {cluster.backend}", each.why,
                f"pods here and pods of {each.name} do not reach each other", "see the remedy in what the backend says",
            )
        lost = [each for each in cluster.peers if each.missing and cluster.programmed]
        if lost:
            yield Finding(
                "peer-not-programmed", ERROR, f"ways to {some([each.name for each in lost])}",
                f"the kernel lacks {lost[0].missing[0]}" + (" and more" if len(lost[0].missing) > 1 else ""),
                "packets to their pods go astray", "tullectl repair",
            )


def silent_peers(facts: Facts) -> Iterator[Finding]:
    """Peers that do not answer through the overlay, though their entries stand."""
    for cluster in facts.clusters:
        asked = [each for each in facts.probed if each.network == cluster.network]
        silent = [each for each in asked if each.silent]
        if not silent:
            continue
        everybody = len(silent) == len({each.address for each in asked}) and len(silent) > 1
        yield Finding(
            "peer-silent", ERROR, f"echo to {some([each.node for each in silent])}",
            f"{silent[0].address}: {silent[0].why}" + (f" ({len(silent)} of {len(asked)} asked)" if asked else ""),
            ("no peer is reached from here: this node's own firewall or link is the likeliest place" if everybody
             else "pods of this node and of those do not reach each other"),
            _way_through(cluster) + f"; tullectl ping {silent[0].node}; is the agent running there?",
        )


def black_holes(facts: Facts) -> Iterator[Finding]:
    """Small packets pass and large ones do not, and nobody says so to the sender."""
    for cluster in facts.clusters:
        holes: dict[int, list[Probed]] = {}
        for each in facts.probed:
            if each.network == cluster.network and each.hole:
                holes.setdefault(each.passes, []).append(each)
        for passes, found in sorted(holes.items()):
            yield Finding(
                "mtu-black-hole", ERROR, f"packets to {some([each.node for each in found])}",
                f"{passes} bytes pass, the pods' {found[0].mtu} do not" if passes
                else f"small ones pass, the pods' {found[0].mtu} bytes do not",
                "connections open and then hang: ping and small answers work, downloads, TLS and kubectl logs do not",
                f'let the links between the nodes carry {found[0].mtu - passes} bytes more, or set "mtu": {passes} in '
                "the network configuration and start the pods anew" if passes
                else f"tullectl ping {found[0].node} --size N tells what passes; see the finding about the others",
            )


def _way_through(cluster: Roster) -> str:
    if cluster.port:
        return f"let UDP {cluster.port} through between the nodes"
    return "let the nodes forward the pods' own addresses (cloud networks drop them: source/destination check)"


def _ask(cluster: Roster, eyes: Eyes) -> tuple[Probed, ...]:
    own = nodes.sources(cluster, eyes.kernel.locally_held())
    with eyes.host.prober(own) as probe:
        return between(cluster, probe, own.keys() or {cluster.family})


def between(cluster: Roster, probe: Probe, sources: Collection[int]) -> tuple[Probed, ...]:
    """Ask the peers that a way leads to, in each family in which this node has an overlay address. Raises OSError."""
    peers = [each for each in sample(cluster, MOST) if each.way and not each.missing]
    pairs = [(each, address) for each in peers for address in each.overlay if family_of(address) in sources]
    asks = [Target(address, size) for _, address in pairs for size in (0, cluster.mtu)]
    heard = probe(asks, WAIT) if asks else []
    small, large = heard[::2], heard[1::2]
    excused = _excused(cluster, probe, [each for (each, _), one in zip(pairs, small, strict=True) if one.ms is None])
    found = [
        _probed(cluster, pair, (one, other), excused) for pair, one, other in zip(pairs, small, large, strict=True)
    ]
    return tuple(_measured(found, probe, cluster.mtu))


def _probed(
    cluster: Roster, pair: tuple[Member, str], heard: tuple[Heard, Heard], excused: Collection[str]
) -> Probed:
    peer, address = pair
    small, large = heard
    # what this node's own kernel refuses to send is no hole: it is told that its link is too small
    whole = not cluster.mtu or large.ms is not None or large.why != SILENT
    return Probed(
        network=cluster.network, node=peer.name, address=address, mtu=cluster.mtu, ms=small.ms, whole=whole,
        excused=peer.name in excused, why=NO_POD_YET if peer.name in excused else small.why,
    )


def _excused(cluster: Roster, probe: Probe, silent: Sequence[Member]) -> set[str]:
    """Without a tunnel, the nodes that answer although their bridges do not."""
    if cluster.device or not silent:
        return set()
    heard = probe([Target(each.addresses[0]) for each in silent], WAIT)
    return {each.name for each, one in zip(silent, heard, strict=True) if one.ms is not None}


def _measured(found: Sequence[Probed], probe: Probe, mtu: int) -> Iterator[Probed]:
    holes = [each.address for each in found if each.hole][:MOST_MEASURED]
    sizes = dict(zip(holes, largest(probe, holes, mtu, WAIT / 2), strict=True))
    for each in found:
        yield msgspec.structs.replace(each, passes=sizes.get(each.address, 0)) if each.hole else each


FINDINGS = {
    no_way: ("no-way-to-peer", "peer-not-programmed"),
    silent_peers: ("peer-silent",),
    black_holes: ("mtu-black-hole",),
}
