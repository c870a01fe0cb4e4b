"""Time in tests: no test knows how quick its machine is, or what else that machine does.

What must come has minutes: only what never comes fails. That something is cheap is told by what it takes (messages,
system calls, objects), or by comparing two things that were measured by turns in the same run. How many seconds
something takes is a figure of `scripts/bench`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

PATIENCE = 180.0
"""Seconds after which what has not come never comes: no machine that tests run on stands still for that long."""
Found = TypeVar("Found")


def cheaper(seconds: float, than: float, *about: object) -> None:
    """One thing took less than a multiple of what another took in the same run, with room for noise; both in seconds.

    Each is the least, or a low part, of several that were taken by turns: other work only ever adds to them.
    """
    assert seconds < than, "\n".join([f"{seconds:.4g} s, which is not less than {than:.4g} s", *map(str, about)])


def rest() -> None:
    """Leave the processor to what is waited for."""
    sleep(0.01)


def until(
    look: Callable[[], Found],
    what: str,
    *,
    patience: float = PATIENCE,
    why: Callable[[], object] = lambda: "",
    between: Callable[[], object] = rest,
) -> Found:
    """What `look` finds, once that is true; `why` is asked when it never comes, `between` done between two looks."""
    start, over = monotonic(), False
    while not (found := look()):
        assert not over, f"never came, in {monotonic() - start:.0f} s: {what} {why()}".rstrip()
        over = monotonic() - start > patience  # one more look: this one may be an old one
        between()
    return found
