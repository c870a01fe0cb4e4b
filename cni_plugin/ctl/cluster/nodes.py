"""`tullectl nodes`: who is in the cluster, where, with which subnets, since when, by which way, and whether it answers.

A peer that no tunnel leads to is asked at its bridge, which bears an address once the node has had a pod; where that is
silent and the node itself answers, it is not called lost. The last handshake is when this node's kernel last heard of
the peer on its own link; of a peer behind a router nobody here knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.reach import Heard, Probe, Target, family_of

MOST = 1000
"""Peers that are asked at a time; of more a sample."""
NO_POD_YET = "the node answers, its bridge does not: it is there once the node has had a pod"


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the table has it. `rtt` in ms, None: no answer or not asked (`why`); `handshake` in seconds ago.

    `reached`: whether it answers, None where that was not asked or cannot be said. `programmed`: None for this node,
    and where nothing was programmed yet.
    """

    name: str
    addresses: tuple[str, ...]
    subnets: tuple[str, ...]
    since: float
    way: str
    rtt: float | None = None
    reached: bool | None = None
    why: str = ""
    handshake: float | None = None
    programmed: bool | None = None
    missing: tuple[str, ...] = ()


class Answer(NamedTuple):
    """What came of asking a peer: the better of its overlay addresses, or why there is none."""

    ms: float | None
    reached: bool | None
    why: str = ""


def answers(probe: Probe, cluster: Roster, peers: Sequence[Member], wait: float) -> dict[str, Answer]:
    """Ask each peer at its overlay address; without a tunnel the silent ones' own addresses too. Raises OSError."""
    family = cluster.family
    asked = [each for each in peers if each.way and each.at(family)]
    heard = probe([Target(each.at(family)) for each in asked], wait)
    found = {each.name: one for each, one in zip(asked, heard, strict=True)}
    silent = [] if cluster.device else [each for each in asked if found[each.name].ms is None]
    near = probe([Target(each.addresses[0]) for each in silent], wait) if silent else []
    alive = {each.name for each, heard in zip(silent, near, strict=True) if heard.ms is not None}
    return {each.name: _answer(each, found.get(each.name), alive=each.name in alive) for each in peers}


def seen(
    cluster: Roster, told: Mapping[str, Answer] | None = None, confirmed: Mapping[str, float] | None = None
) -> list[NodeRow]:
    """The rows, `told` None where nobody was asked."""
    return [_seen(each, cluster, (told or {}).get(each.name), confirmed or {}) for each in cluster.members]


def wrong(rows: Sequence[NodeRow]) -> bool:
    """Whether something is not as it should be: a way that is not there, or a peer that should answer and does not."""
    return any(each.reached is False or each.programmed is False or each.way == "" for each in rows)


def _answer(peer: Member, heard: Heard | None, *, alive: bool) -> Answer:
    if heard is None:
        return Answer(None, False, peer.why or "no overlay address of this node's family")
    if heard.ms is None and alive:
        return Answer(None, None, NO_POD_YET)
    return Answer(heard.ms, heard.ms is not None, heard.why)


def _seen(member: Member, cluster: Roster, told: Answer | None, confirmed: Mapping[str, float]) -> NodeRow:
    handshakes = [confirmed[each] for each in member.addresses if each in confirmed]
    return NodeRow(
        name=member.name,
        addresses=member.addresses,
        subnets=member.subnets,
        since=member.since,
        way="this node" if member.me else member.way,
        rtt=told.ms if told else None,
        reached=told.reached if told else None,
        why=told.why if told else member.why,
        handshake=min(handshakes, default=None),
        programmed=None if member.me or not cluster.programmed else not member.missing and bool(member.way),
        missing=member.missing,
    )


def sources(cluster: Roster, held: frozenset[str]) -> dict[int, str]:
    """This node's own overlay addresses by family, as far as it bears them now."""
    me = cluster.me
    return {family_of(each): each for each in me.overlay if each in held} if me else {}
