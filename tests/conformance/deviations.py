"""Where Tulle differs from the reference on purpose: each difference by name, with the reason.

Nothing else may differ. A row that no longer makes a difference is removed; the tests say so.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """`cases`: the configurations (by name or beginning of a name) in which `what` is not compared."""

    what: str
    cases: tuple[str, ...]
    reason: str


DEVIATIONS: tuple[Deviation, ...] = ()


def excused(what: str, case: str) -> bool:
    """Is this property of this configuration one that differs by design?"""
    return any(row.what == what and case.startswith(row.cases) for row in DEVIATIONS)
