"""`tullectl ping NODE`: echoes through the overlay to one node, in each family that both have.

Each is a packet of its own, sent after the answer to the one before or after its time is over; nothing is fragmented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic

import msgspec

from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.reach import Heard, Probe, Target
from cni_plugin.errors import INVALID_CONFIG, CniError


class Echoed(msgspec.Struct, frozen=True):
    """One echo: to whom, its number from 1, the round trip in ms or None, and why there was none."""

    address: str
    number: int
    ms: float | None
    why: str = ""


class Summary(msgspec.Struct, frozen=True):
    """All echoes to one address; times in ms, None without an answer."""

    address: str
    sent: int
    received: int
    least: float | None = None
    mean: float | None = None
    most: float | None = None


def find(clusters: Sequence[Roster], name: str) -> tuple[Roster, Member]:
    """The node of this name, address or overlay address, in the first cluster that has it. Raises CniError 7."""
    for cluster in clusters:
        for each in cluster.members:
            if name in (each.name, *each.addresses, *each.overlay):
                return cluster, each
    known = [each.name for cluster in clusters for each in cluster.members]
    more = ", ..." if len(known) > 8 else ""
    raise CniError(INVALID_CONFIG, f"no node {name!r}: there is {', '.join(known[:8]) or 'no cluster here'}{more}")


def ping(probe: Probe, address: str, how: tuple[int, int, float], wait: Callable[[float], None]) -> Iterator[Echoed]:
    """So many echoes (`how`: count, bytes of packet, seconds), one a second, each told as soon as it is known."""
    count, size, patience = how
    for number in range(1, count + 1):
        begin = monotonic()
        (heard,) = probe([Target(address, size)], patience)
        yield _echoed(address, number, heard)
        if number < count:
            wait(max(begin + 1.0 - monotonic(), 0.0))


def summary(address: str, echoes: Sequence[Echoed]) -> Summary:
    """What they come to."""
    times = [each.ms for each in echoes if each.ms is not None]
    if not times:
        return Summary(address, len(echoes), 0)
    return Summary(address, len(echoes), len(times), min(times), sum(times) / len(times), max(times))


def _echoed(address: str, number: int, heard: Heard) -> Echoed:
    return Echoed(address, number, heard.ms, heard.why)
