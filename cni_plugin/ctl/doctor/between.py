"""What the doctor asks the peers: a small packet, and one as large as the pods' may be; and how large one may be.

Bounded: all peers at once, a sample of a large cluster, and about a second; a second more where large packets vanish.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from cni_plugin.ctl.cluster.matrix import sample
from cni_plugin.ctl.cluster.nodes import NO_POD_YET
from cni_plugin.ctl.cluster.roster import Member, Membership
from cni_plugin.ctl.facts import Probed
from cni_plugin.ctl.reach import SILENT, Ask, Heard, Probe, family_of, largest

MOST = 100
"""Peers that are asked."""
MOST_MEASURED = 16
"""Peers behind black holes to which the largest packet is looked for: it takes hundreds of packets each."""
WAIT = 0.6
"""Seconds for the answers; half of that where sizes are tried, whose packets mostly do not come back."""


def between(cluster: Membership, probe: Probe, sources: Collection[int]) -> tuple[Probed, ...]:
    """Ask the peers that a way leads to, in each family in which this node has an overlay address. Raises OSError."""
    peers = [each for each in sample(cluster, MOST) if each.way and not each.missing]
    pairs = [(each, address) for each in peers for address in each.overlay if family_of(address) in sources]
    asks = [Ask(address, size) for _, address in pairs for size in (0, cluster.mtu)]
    heard = probe(asks, WAIT) if asks else []
    small, large = heard[::2], heard[1::2]
    excused = _excused(cluster, probe, [each for (each, _), one in zip(pairs, small, strict=True) if one.ms is None])
    found = [
        _probed(cluster, pair, (one, other), excused) for pair, one, other in zip(pairs, small, large, strict=True)
    ]
    return tuple(_measured(found, probe, cluster.mtu))


def _probed(
    cluster: Membership, pair: tuple[Member, str], heard: tuple[Heard, Heard], excused: Collection[str]
) -> Probed:
    peer, address = pair
    small, large = heard
    # what this node's own kernel refuses to send is no hole: it is told that its link is too small
    whole = not cluster.mtu or large.ms is not None or large.why != SILENT
    return Probed(
        network=cluster.network, node=peer.name, address=address, mtu=cluster.mtu, ms=small.ms, whole=whole,
        excused=peer.name in excused, why=NO_POD_YET if peer.name in excused else small.why,
    )


def _excused(cluster: Membership, probe: Probe, silent: Sequence[Member]) -> set[str]:
    """Without a tunnel, the nodes that answer although their bridges do not."""
    if cluster.device or not silent:
        return set()
    heard = probe([Ask(each.addresses[0]) for each in silent], WAIT)
    return {each.name for each, one in zip(silent, heard, strict=True) if one.ms is not None}


def _measured(found: Sequence[Probed], probe: Probe, mtu: int) -> Iterator[Probed]:
    holes = [each.address for each in found if each.hole][:MOST_MEASURED]
    sizes = dict(zip(holes, largest(probe, holes, mtu, WAIT / 2), strict=True))
    for each in found:
        yield msgspec.structs.replace(each, passes=sizes.get(each.address, 0)) if each.hole else each
