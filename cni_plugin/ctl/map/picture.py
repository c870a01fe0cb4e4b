"""What `tullectl map` draws, as plain values: nodes, what is between them as far as it is known, this node's pods.

Pure: the same cluster, round trips, pods and date give the same picture. `map_layout` says where things go, `map_svg`
draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec

from cni_plugin.ctl.cluster.matrix import MatrixRow, Pair
from cni_plugin.ctl.cluster.roster import DIRECT, Roster
from cni_plugin.store.records import Record

MOST_NAMED = 60
"""Nodes that are drawn with names, and with lines between others."""
FAST, MIDDLE, SLOW, LOST, UNKNOWN = "fast", "middle", "slow", "lost", "unknown"
LIMITS = ((1.0, FAST), (10.0, MIDDLE))
"""Milliseconds below which a round trip is called so; SLOW beyond."""


class Spot(msgspec.Struct, frozen=True):
    """A node; `pace` is how it answers this one, `trip` that in words."""

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    pace: str = UNKNOWN
    trip: str = ""
    me: bool = False


class Line(msgspec.Struct, frozen=True):
    """Between two nodes, by their positions. `mine`: one of them is this node, and so `direct` is known."""

    one: int
    other: int
    pace: str = UNKNOWN
    mine: bool = False
    direct: bool = False


class PodLabel(msgspec.Struct, frozen=True):
    """A pod of this node."""

    name: str
    ips: tuple[str, ...]
    bridge: str


class Drawing(msgspec.Struct, frozen=True):
    """All of it. `nodes` begin with this one; `about` is said of the whole below the title."""

    title: str
    about: str
    date: str
    nodes: tuple[Spot, ...]
    lines: tuple[Line, ...]
    pods: tuple[PodLabel, ...]


def picture(cluster: Roster, rows: Sequence[MatrixRow], records: Sequence[Record], date: str) -> Drawing:
    """The picture of a cluster that this node is in, with the round trips that are known."""
    known = {row.name: row.pairs for row in rows}
    own = known.get(cluster.node, {})
    members = [each for each in (cluster.me, *cluster.peers) if each is not None]
    ways = {each.name: each.way for each in members}
    nodes = tuple(
        Spot(
            each.name, each.addresses, each.subnets, FAST if each.me else pace(own.get(each.name)),
            "" if each.me else _trip(each.way, own.get(each.name)), each.me,
        )
        for each in members
    )
    return Drawing(
        title=cluster.network,
        about=_about(cluster, len(members)),
        date=date,
        nodes=nodes,
        lines=tuple(_lines([each.name for each in members], known, ways)),
        pods=tuple(map(_pod, records)),
    )


def pace(pair: Pair | None) -> str:
    """How fast a pair is, in a word that a picture has a colour for."""
    if pair is None or (pair.ms is None and not pair.lost):
        return UNKNOWN
    if pair.ms is None:
        return LOST
    return next((word for limit, word in LIMITS if pair.ms < limit), SLOW)


def _lines(names: Sequence[str], known: Mapping[str, Mapping[str, Pair]], ways: Mapping[str, str]) -> list[Line]:
    """One a pair; it is as bad as the worse of its two directions."""
    found = []
    few = len(names) <= MOST_NAMED
    for one, other in combinations(range(len(names)), 2) if few else ((0, each) for each in range(1, len(names))):
        name, far = names[one], names[other]
        paces = {pace(known.get(name, {}).get(far)), pace(known.get(far, {}).get(name))}
        worst = next((each for each in (LOST, SLOW, MIDDLE, FAST) if each in paces), UNKNOWN)
        found.append(Line(one, other, worst, one == 0, one == 0 and ways[far] in (DIRECT, "host-gw")))
    return found


def _pod(record: Record) -> PodLabel:
    return PodLabel(record.container, tuple(each.partition("/")[0] for each in record.ips), record.bridge)


def _trip(way: str, pair: Pair | None) -> str:
    if pair is None or (pair.ms is None and not pair.lost):
        return way or "no way"
    return f"{way} · {'no answer' if pair.ms is None else f'{pair.ms:.2f} ms'}"


def _about(cluster: Roster, count: int) -> str:
    wire = f" (VNI {cluster.vni}, UDP {cluster.port})" if cluster.vni else ""
    words = [f"{count} node{'s' if count > 1 else ''}", f"{cluster.backend}{wire}", ", ".join(cluster.networks)]
    return " · ".join(each for each in [*words, f"MTU {cluster.mtu}" if cluster.mtu else ""] if each)
