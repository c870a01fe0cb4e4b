"""Time in tests: waiting for what comes, and limits. A shared machine now and then stands still for seconds.

What came too late is tried again, twice at most and a while later (`--only-rerun` in pyproject.toml, for `TooSlow`
alone, and counted in the last line as "rerun"): slow code is slow each time. All other failures count at once, so that
what never came is no TooSlow. A test that may be tried again leaves what it shares with others as it found it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

PATIENCE = 30.0
"""Seconds after which what has not come never comes: no machine that tests run on stands still for that long."""
Found = TypeVar("Found")


class TooSlow(AssertionError):
    """It works, but took longer than it may."""


def within(limit: float, seconds: float, *about: object) -> None:
    """It took less than `limit`, both in seconds; raises TooSlow with what is to be told, or asked then, about it."""
    if not seconds < limit:
        told = [str(each() if callable(each) else each) for each in about]
        raise TooSlow("\n".join([f"{seconds:.4g} s, and less than {limit:.4g} s is promised", *told]))


def rest() -> None:
    """Leave the processor to what is waited for."""
    sleep(0.01)


def until(
    look: Callable[[], Found],
    what: str,
    limit: float | None = None,
    *,
    patience: float = PATIENCE,
    why: Callable[[], object] = lambda: "",
    between: Callable[[], object] = rest,
) -> Found:
    """What `look` finds, once that is true; `why` is asked when that is too late, `between` done between two looks.

    Without a `limit` nothing is promised but that it comes, and `patience` is for that. With one it is TooSlow when it
    comes later, and `patience` begins then.
    """
    start, over = monotonic(), False
    while not (found := look()):
        assert not over, f"not within {monotonic() - start:.1f} s: {what} {why()}".rstrip()
        over = monotonic() - start > (limit or 0.0) + patience  # one more look: this one may be an old one
        between()
    if limit is not None:
        within(limit, monotonic() - start, what, why)
    return found
