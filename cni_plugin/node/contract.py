"""What a part of the node promises: the contract that each file of this room with a `Part` in it keeps.

A part is one kind of thing that is to be as the records say: the bridges, this node's clusters, the ports of pods. It
says what concerns it, and offers looks; who takes them puts right what is found. The agent keeps the parts and takes
their looks when the kernel tells of something, so they may remember; `tullectl repair` and `diff` make them anew and
take all. A new part is a new file, with nothing else touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from cni_plugin.diff import Op
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.kernel.watch.changed import EVERYTHING, Changed
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch

LISTS: Changed = EVERYTHING + 1
"""A file that a part has told of in its `Watch` changed, beside what the kernel tells."""
BRIDGED: Changed = LISTS << 1
"""What attachments want of their bridges changed."""
TURN: Changed = BRIDGED << 1
"""Always: for who finds out by himself, at next to no cost, whether there is anything to look at."""
THOROUGH: Changed = TURN << 1
"""It is time to look at everything, event or not."""
WITHIN: Changed = THOROUGH << 1
"""And inside the pods' namespaces, where only a person has us look."""
ALL: Changed = (WITHIN << 1) - 1


class Inspection(NamedTuple):
    """One thing to be looked at: what it is called, and what puts it right, with the operations that it took.

    `take` raises for what cannot be done; None where it is there and need not be looked at now. `own_pace`: it is not
    kept waiting for what happened before.
    """

    what: str
    take: Callable[[], Sequence[Op]] | None
    own_pace: bool = False


class Repair(NamedTuple):
    """One thing that was looked at: what it took to put it right, or why that could not be done."""

    what: str
    ops: tuple[Op, ...] = ()
    problem: str = ""


class Part(Protocol):
    """A class named `Part` in a file of this room; made without arguments.

    `NAME` is what the part as a whole is called, `ORDER` its place among the others; no two share either. `ON` is what
    concerns it, and `CAUSES` what others are concerned with after it put something right.
    """

    NAME: str
    ORDER: int
    ON: Changed
    CAUSES: Changed

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """What is to be looked at now, each taken or passed over before the next is asked for."""

    def watch(self, site: Site) -> Watch:
        """What to be told of from now on."""

    def words(self) -> Mapping[str, str]:
        """What is wrong, by what it is about, and nobody but a person can put right."""


class Quiet:
    """What most parts have to say: nothing beyond their looks."""

    CAUSES: Changed = 0

    def watch(self, site: Site) -> Watch:
        """Nothing that others do not watch."""
        del site
        return Watch()

    def words(self) -> Mapping[str, str]:
        """Nothing that a person must know."""
        return {}


def taken(look: Inspection) -> Repair:
    """What came of a look. Never raises for what is foreseen to go wrong."""
    try:
        return Repair(look.what, tuple(look.take()) if look.take is not None else ())
    except NetnsError as error:
        return Repair(look.what, problem=f"its namespace {error.path} is gone; GC or DEL will take the rest away")
    except (CniError, KernelError, OSError, msgspec.MsgspecError) as error:
        return Repair(look.what, problem=str(error))
