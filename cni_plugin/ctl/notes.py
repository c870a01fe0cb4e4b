"""Looking at many things of which some cannot be seen: each by itself, what fails noted with its reason.

The operator's tool must say most when least works; and what it could not look at it must not call fine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from cni_plugin.verbs.run import as_cni_error

_T = TypeVar("_T")


class Notes:
    """What could not be found out, and why."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def one(self, what: str, step: Callable[[], _T]) -> _T | None:
        """What the step finds; None when it fails, and the reason is noted."""
        try:
            return step()
        except Exception as error:
            self.unknown[what] = _words(error)
            return None

    def many(self, what: str, step: Callable[[], Iterable[_T]]) -> tuple[_T, ...]:
        """All that the step finds; nothing when it fails, and the reason is noted."""
        return self.one(what, lambda: tuple(step())) or ()


def _words(error: Exception) -> str:
    """An error in words; of the system's own the words that it has, without a guess at the remedy."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return as_cni_error(error).msg
