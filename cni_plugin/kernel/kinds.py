"""Where each kind of object is written and read: one file a kind, found by the kind's name.

    Bridge   kernel/rtnl/objects/bridge.py     write: its requests; read: what stands
    Sysctl   kernel/host/objects/sysctl.py     turn: by a file or a call; read: what stands

A file is imported when the first object of its kind is met, so that nobody pays for kinds that he does not use. What is
nft's is written together, in one transaction, by `kernel.nft`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl.encode import Place, adds
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.base import Object


class Kind(Protocol):
    """The file of a kind: `write` and `GONE` where rtnetlink takes it, `turn` where it is set by hand, always `read`.

    `GONE`: the refusals that say that what is to be taken away is not there.
    """

    GONE: frozenset[int]

    def write(self, op: Op, each: Any, place: Place) -> Iterable[bytearray]:
        """The requests that carry the operation out, in order; of a new link the first one makes it. Raises Absent."""

    def turn(self, op: Op, each: Any, space: Namespace) -> None:
        """Carry it out; this thread is inside the namespace. Raises OSError."""

    def read(self, want: Any, look: Lookup) -> Object | None:
        """It as it stands, in the words of who wants it where the kernel merely spells it otherwise."""


@cache
def kind_of(each: type[Object]) -> Kind:
    """The file of this kind."""
    found: Kind = import_module(f"cni_plugin.kernel.{each.SPOKEN}.objects.{each.__name__.lower()}")
    return found


def requests(op: Op, place: Place) -> list[bytearray]:
    """The requests that carry this operation out, in order. Raises Absent."""
    return list(kind_of(type(op.object)).write(op, op.object, place))


def replacement(each: Object, place: Place) -> list[bytearray]:
    """The creation of an object of ours once more, this time instead of the one that stands. Raises Absent."""
    return requests(Op("change", each), place)


def harmless_to(op: Op) -> frozenset[int]:
    """The refusals that are as good as success: what is to be taken away is not there."""
    if adds(op.verb, op.object) and not op.object.dispensable:
        return frozenset()
    return kind_of(type(op.object)).GONE
