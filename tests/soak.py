"""How long soaks go on. What they do again and again has no end; the minutes that a run has for all are divided.

    TULLE_SOAK_MINUTES=20     the minutes of all soaks together, each at its turn; two at a time take half of that
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic

MINUTES = float(os.environ.get("TULLE_SOAK_MINUTES") or 20)
SHARES = {
    "a walk of a cluster": 0.15,  # three of them, by where the nodes are listed
    "adds and dels": 0.12,
    "an agent that is killed": 0.08,
    "calls that fail": 0.015,  # for each kind of call and verb
    "leases": 0.1,
    "pods without a namespace": 0.04,
}
"""Parts of the whole. The rest is left to soaks with an end, such as a build."""


def seconds(what: str) -> float:
    """How long this soak goes on."""
    return SHARES[what] * MINUTES * 60


def turns(what: str, least: int = 1) -> Iterator[int]:
    """0, 1, ... as long as this soak has time, but at least so many."""
    end, turn = monotonic() + seconds(what), 0
    while turn < least or monotonic() < end:
        yield turn
        turn += 1
