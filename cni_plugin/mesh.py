"""What nodes say to each other about the overlay between them: one question, one answer, in one small datagram each.

    "how long do these take to answer you?"   header, then 8 bytes a node: the beginning of its name's SHA-256
    "so long"                                 header, then 8 bytes a node: microseconds, and how long ago (ms)

    header: "tullem", version, kind (1: question, 2: answer), nonce, count

Promises: an answer is exactly as long as its question, so that nobody is made a louder voice by a false sender; no
datagram is larger than an IPv6 path must carry (1,280, RFC 8200); what is not understood is None and no exception.
Pure; `agent.cluster.mesh` answers, `tullectl ping --all` asks. The names of nodes do not travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from struct import Struct
from typing import NamedTuple

from cni_plugin.cluster import Node
from cni_plugin.network import Address

PORT = 9473
MOST = 128
"""Nodes in one datagram."""
WAITING, LOST, STRANGER = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD
"""Instead of microseconds: not measured yet, so ask again; no answer came; not in that node's list."""

_HEAD = Struct("!6sBB8sH")
_CELL = Struct("!II")
_MAGIC, _VERSION, _QUESTION, _ANSWER = b"tullem", 1, 1, 2
NONCE = 8
SIZES = frozenset(_HEAD.size + _CELL.size * count for count in range(1, MOST + 1))
"""Bytes that a datagram can have."""


class Cell(NamedTuple):
    """A round trip in microseconds, or one of the words above; measured so many milliseconds ago."""

    microseconds: int
    age: int = 0


class Question(NamedTuple):
    """What was asked, by digest, and the number that the answer repeats."""

    nonce: bytes
    about: tuple[bytes, ...]


def digest(name: str) -> bytes:
    """What a node is called in a datagram."""
    return sha256(name.encode()).digest()[: _CELL.size]


def overlay(node: Node, *, tunnel: bool) -> tuple[Address, ...]:
    """Where a node itself speaks to pods from, one address a family, that of its first subnet first.

    Its tunnel device bears the first address of its subnet; without one the bridge has the gateway's, the second,
    which is there once the node has had a pod.
    """
    found: dict[int, Address] = {}
    for cidr in node.pod_cidrs:
        found.setdefault(cidr.version, cidr.network_address if tunnel else cidr.network_address + 1)
    return tuple(found.values())


def question(nonce: bytes, about: Sequence[bytes]) -> bytes:
    """The datagram that asks about at most MOST nodes."""
    return _HEAD.pack(_MAGIC, _VERSION, _QUESTION, nonce, len(about)) + b"".join(about)


def answer(asked: Question, cells: Sequence[Cell]) -> bytes:
    """The datagram that answers, a cell for each node that was asked about."""
    head = _HEAD.pack(_MAGIC, _VERSION, _ANSWER, asked.nonce, len(cells))
    return head + b"".join(_CELL.pack(each.microseconds, min(each.age, 0xFFFFFFFF)) for each in cells)


def read_question(data: bytes) -> Question | None:
    """What is asked, None for anything else."""
    found = _body(data, _QUESTION)
    if found is None:
        return None
    nonce, body = found
    size = _CELL.size
    return Question(nonce, tuple(body[start : start + size] for start in range(0, len(body), size)))


def read_answer(data: bytes, asked: Question) -> tuple[Cell, ...] | None:
    """The answer to this question, None for anything else."""
    found = _body(data, _ANSWER)
    if found is None or found[0] != asked.nonce or len(found[1]) != len(asked.about) * _CELL.size:
        return None
    return tuple(Cell(*each) for each in _CELL.iter_unpack(found[1]))


def nonce_of(data: bytes) -> bytes:
    """The number of a datagram, to find its question by."""
    return data[_HEAD.size - NONCE - 2 : _HEAD.size - 2]


def _body(data: bytes, kind: int) -> tuple[bytes, bytes] | None:
    """Nonce and cells of a datagram of this kind."""
    if len(data) not in SIZES:
        return None
    magic, version, its_kind, nonce, count = _HEAD.unpack_from(data)
    if (magic, version, its_kind) != (_MAGIC, _VERSION, kind) or len(data) != _HEAD.size + count * _CELL.size:
        return None
    return nonce, data[_HEAD.size :]
