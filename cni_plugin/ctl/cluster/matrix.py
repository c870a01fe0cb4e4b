"""`tullectl ping --all`: how long each node takes to answer each other one, through the overlay.

This node's row it measures itself. The other rows their agents measure, when they are asked for them (`mesh`, which the
agents' settings switch on); of a node that does not tell, the row is unknown and says why. A pair is lost when one of
the two was asked and heard nothing: that alone counts as wrong.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic

import msgspec

from cni_plugin import mesh
from cni_plugin.ctl.cluster.nodes import Answer
from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.reach import family_of
from cni_plugin.mesh import LOST, STRANGER, WAITING, Cell, Question

MOST = 200
"""Nodes in one matrix; of a larger cluster a sample is taken."""
WAIT, SILENCE, AGAIN = 4.0, 1.5, 0.25
"""Seconds for all rows; for the first word of a node; between two questions to one that has not told all yet."""
NO_MESH = f'its agent does not tell: set "mesh": true in its settings, and let UDP {mesh.PORT} through the overlay'
NOT_HERE = "this node has no overlay address yet to ask from: without a tunnel it has one once it has had a pod"
NOT_TOLD = "it did not tell of all in time"


class Pair(msgspec.Struct, frozen=True):
    """From one node to another: a round trip in ms, or lost, or (neither) not known."""

    ms: float | None = None
    lost: bool = False


class MatrixRow(msgspec.Struct, frozen=True):
    """What one node measured, by the other's name; `why` says why nothing, or not all, is known."""

    name: str
    pairs: dict[str, Pair] = {}
    why: str = ""


def sample(cluster: Roster, most: int = MOST) -> tuple[Member, ...]:
    """Peers, evenly from all over the list where there are more than `most`."""
    peers = cluster.peers
    if len(peers) <= most:
        return peers
    return tuple(peers[position * len(peers) // most] for position in range(most))


def matrix(cluster: Roster, peers: Sequence[Member], own: Mapping[str, Answer], source: str) -> list[MatrixRow]:
    """All rows, this node's first. `source` is its overlay address, "" when it bears none. Raises OSError."""
    family = family_of(source) if source else 0
    asked = {each.name: each.at(family) for each in peers if family and own[each.name].reached and each.at(family)}
    names = [cluster.node, *(each.name for each in peers)]
    said = ask(source, asked, names) if asked else {}
    absent = {name for name, each in own.items() if each.reached is None}
    mine = MatrixRow(cluster.node, {name: _own(each) for name, each in own.items()})
    silent = NO_MESH if source else NOT_HERE
    return [mine, *(_row((each.name, silent), said.get(each.name), own[each.name], absent) for each in peers)]


def lost(rows: Iterable[MatrixRow]) -> list[tuple[str, str]]:
    """The pairs that should reach each other and do not."""
    return [(row.name, name) for row in rows for name, pair in row.pairs.items() if pair.lost]


def ask(source: str, addresses: Mapping[str, str], names: Sequence[str]) -> dict[str, dict[str, Cell]]:
    """What each node (by name, at this address) says of all the others; who says nothing is left out. Raises OSError.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, kind) as channel:
        channel.bind((source, 0))
        asking = _Asking(addresses, names)
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        begin = monotonic()
        while asking.left(monotonic() - begin):
            asking.send(channel)
            until = monotonic() + AGAIN
            while asking.left(monotonic() - begin) and (wait := until - monotonic()) > 0:
                poll.poll(wait * 1000 + 1)
                asking.read(channel)
        return asking.told


class _Asking:
    """Questions that are out, and what has been told."""

    def __init__(self, addresses: Mapping[str, str], names: Sequence[str]) -> None:
        self._names = {mesh.digest(each): each for each in names}
        self._addresses = addresses
        self._open: dict[bytes, tuple[str, Question]] = {}
        self.told: dict[str, dict[str, Cell]] = {}
        for node in addresses:
            about = [each for each, name in self._names.items() if name != node]
            for start in range(0, len(about), mesh.MOST):
                nonce = os.urandom(mesh.NONCE)
                self._open[nonce] = node, Question(nonce, tuple(about[start : start + mesh.MOST]))

    def left(self, seconds: float) -> bool:
        """Whether there is somebody to wait for after so many seconds: who said nothing for long is given up."""
        return seconds < WAIT and any(seconds < SILENCE or node in self.told for node, _ in self._open.values())

    def send(self, channel: socket.socket) -> None:
        """Ask who has not told all."""
        for nonce, (node, asked) in self._open.items():
            try:
                channel.sendto(mesh.question(nonce, asked.about), (self._addresses[node], mesh.PORT))
            except OSError:  # no way there, or not now
                continue

    def read(self, channel: socket.socket) -> None:
        """Take in what was told."""
        while True:
            try:
                data, sender = channel.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                continue
            nonce = mesh.nonce_of(data)
            node, asked = self._open.get(nonce, ("", Question(b"", ())))
            cells = mesh.read_answer(data, asked) if node and self._addresses[node] == sender[0] else None
            if cells is not None:
                self._take(node, asked, cells)

    def _take(self, node: str, asked: Question, cells: Sequence[Cell]) -> None:
        row = self.told.setdefault(node, {})
        row.update({self._names[each]: cell for each, cell in zip(asked.about, cells, strict=True)})
        if all(each.microseconds != WAITING for each in cells):
            del self._open[asked.nonce]


def _own(each: Answer) -> Pair:
    return Pair(each.ms, each.reached is False)


def _row(whose: tuple[str, str], said: Mapping[str, Cell] | None, own: Answer, absent: set[str]) -> MatrixRow:
    name, silent = whose
    if said is None:
        return MatrixRow(name, {}, silent if own.reached else f"it does not answer this node: {own.why}")
    pairs = {other: _pair(cell, absent=other in absent) for other, cell in said.items()}
    open_ones = any(cell.microseconds == WAITING for cell in said.values())
    return MatrixRow(name, pairs, NOT_TOLD if open_ones else "")


def _pair(cell: Cell, *, absent: bool) -> Pair:
    if cell.microseconds == LOST:
        return Pair(None, not absent)
    return Pair() if cell.microseconds in (WAITING, STRANGER) else Pair(cell.microseconds / 1000)
