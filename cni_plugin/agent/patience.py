"""How often the same thing is put right before somebody is taken to be working against us.

Two managers that each put back what the other changes would keep a core busy between them. What breaks now and then is
put right at once; from the sixth time within a minute on it is left for 1 s, then 2 s, ... 30 s; what cannot be
put right at all waits like that from the first time on. Times are those of time.monotonic(), in seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from math import inf
from typing import NamedTuple

FREE = 5
FIRST, LONGEST = 1.0, 30.0
MEMORY = 60.0
"""Seconds that something must have stayed right to be forgiven."""


class _Strikes(NamedTuple):
    number: int
    last: float


class Patience:
    """What was broken lately, and which looks are not taken for a while."""

    def __init__(self) -> None:
        self._strikes: dict[Hashable, _Strikes] = {}
        self._held: dict[str, float] = {}

    def struck(self, what: str, things: Iterable[Hashable], now: float, *, failed: bool) -> float:
        """A look found these things broken and put them right, or could not; the seconds until the next such look."""
        number = max((self._count(each, now) for each in things), default=1)
        beyond = number - (0 if failed else FREE)
        delay = min(LONGEST, FIRST * 2.0 ** min(beyond - 1, 5)) if beyond > 0 else 0.0
        if delay:
            self._held[what] = now + delay
        return delay

    def holds(self, what: str) -> bool:
        """Whether this look is not to be taken yet."""
        return what in self._held

    def ends(self) -> float:
        """When the next look is allowed again, infinity when none waits."""
        return min(self._held.values(), default=inf)

    def over(self, now: float) -> None:
        """Let go of what has waited long enough, and forget what has been right for long."""
        self._held = {what: until for what, until in self._held.items() if until > now}
        self._strikes = {each: strikes for each, strikes in self._strikes.items() if now - strikes.last < MEMORY}

    def forgive(self) -> None:
        """The world changed in a way that may make everything possible again."""
        self._held.clear()
        self._strikes.clear()

    def _count(self, thing: Hashable, now: float) -> int:
        known = self._strikes.get(thing)
        number = known.number + 1 if known is not None and now - known.last < MEMORY else 1
        self._strikes[thing] = _Strikes(number, now)
        return number
