"""What of the node is wrong and could not be put right: the reason why it is not ready, as long as it is one.

A part of a pass looks at many things, and things go. What is right again says so itself; what is gone says nothing any
more, and neither does a source that has nothing to complain of. So a part also tells what all it has looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Set


class Problems:
    """By what was looked at, in the order in which they were found."""

    def __init__(self) -> None:
        self._why: dict[str, str] = {}
        self._seen: dict[str, Set[str]] = {}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """What is wrong, and why."""
        return iter(self._why.items())

    def note(self, what: str, why: str) -> None:
        """It was looked at, and this is wrong with it, "" for nothing."""
        self._why.pop(what, None)
        if why:
            self._why[what] = why

    def settle(self, part: str, seen: Set[str]) -> None:
        """A part has looked at all that there is for it: what was wrong with anything else is so no more."""
        for what in self._seen.get(part, frozenset()) - seen:
            self._why.pop(what, None)
        self._seen[part] = seen
