"""Tries whether checksums that are left to the NIC arrive at other nodes, once for each device and its uplinks.

Where they are, and a peer answers a segment with a checksum of its own but not one without (`kernel.see.knock`), and
again so, that is noted for this boot: the device computes them itself from the next pass on, which costs speed and no
connection. Costs: a few seconds after the network stands, two small segments to each of at most three peers, twice to
one that looks broken. A watcher of the agent's loop; nothing waits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, Protocol

from cni_plugin.agent.cluster.mesh import place_of
from cni_plugin.kernel.see.knock import Knock
from cni_plugin.store import offload
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Records

EVERY, PATIENCE = 5.0, 4.0
"""Seconds between two looks at what is programmed; and within which an answer counts: a SYN is sent again after 1 and 3
(RFC 6298)."""
MOST_TRIED = 3


class Knocking(Protocol):
    """What is on its way to a peer: `kernel.see.knock.Knock`."""

    by_device: bool
    by_hand: bool

    def look(self) -> bool:
        """Take what came back; whether both did."""

    def close(self) -> None:
        """Let go."""


class _Trial(NamedTuple):
    to: str
    knock: Knocking
    until: float
    again: bool


class Offload:
    """See above. `anew` is called when the node must be looked at again."""

    def __init__(
        self, records: Records, anew: Callable[[], None], knock: Callable[[str, str, str], Knocking] = Knock
    ) -> None:
        self._records = records
        self._anew = anew
        self._knock = knock
        self._known: object = None
        self._trials: list[_Trial] = []
        self._source = self._own = ""
        self._next = monotonic() + EVERY

    def filenos(self) -> tuple[int, ...]:
        """Nothing that cannot wait for the next look."""
        return ()

    def readable(self, fd: int) -> None:
        """Nothing is watched."""

    def due(self) -> float | None:
        """When `run` is wanted."""
        return self._next

    def run(self) -> None:
        """Look what came back, or begin where something is new."""
        now = monotonic()
        if not self._trials:
            self._next = now + EVERY
            self._begin(now)
        else:
            self._look(now)
        if self._trials:
            self._next = now + 1.0

    def close(self) -> None:
        """Let go of what is on its way."""
        for each in self._trials:
            each.knock.close()
        self._trials = []

    def _begin(self, now: float) -> None:
        found = next((each for each in all_facts(self._records) if each.offload), None)
        mark = found and (found.index, found.uplinks, bool(found.peers))
        if found is None or mark == self._known or not found.peers or offload.broken(self._records):
            return
        self._known = mark
        place = place_of(self._records, found.network)
        if place is not None:
            self._own, self._source = place.own, _outer(found, place.own)
            for to in list(place.peers.values())[:MOST_TRIED]:
                self._try(to, now, again=False)

    def _try(self, to: str, now: float, *, again: bool) -> None:
        with suppress(OSError):  # no way there now, or no right to raw sockets: nothing is found out
            self._trials.append(_Trial(to, self._knock(self._source, self._own, to), now + PATIENCE, again))

    def _look(self, now: float) -> None:
        over = [each for each in self._trials if each.knock.look() or now >= each.until]
        self._trials = [each for each in self._trials if each not in over]
        for each in over:
            each.knock.close()
        lost = [each for each in over if each.knock.by_hand and not each.knock.by_device]
        sure = next((each for each in lost if each.again), None)
        if sure is not None:
            return self._give_up(sure.to)
        for each in lost:
            self._try(each.to, now, again=True)
        return None

    def _give_up(self, to: str) -> None:
        why = f"{to} answers TCP whose checksum this node computed, and none that was left to the NIC"
        print(f"tulled: {why}: the tunnel's device computes them from now on", file=sys.stderr)
        self.close()
        with suppress(OSError):  # no room in the run folder: tried again at the next start
            offload.note(self._records, why)
            self._anew()


def _outer(facts: ClusterFacts, own: str) -> str:
    """An address of this node's that NAT is done for, of the family of the pods; "" where it has none."""
    return next((each for each in facts.addresses if (":" in each) == (":" in own)), "")
