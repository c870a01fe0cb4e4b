"""What goes wrong in one part of the agent is told, and ends nothing but what that part was about.

The loop serves pods, and beside that lives what else the agent does: the reconciler, the cluster's source, the mesh,
the metrics. Whatever one of them is given to read, and whatever it makes of it, the others go on: an exception that
nobody foresaw is told with where it came from, and its part is left alone for 1 s, then 2 s, ... 30 s.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Protocol

import msgspec

from cni_plugin.agent.patience import Patience
from cni_plugin.errors import CniError
from cni_plugin.kernel.errors import KernelError


class Watcher(Protocol):
    """Something else that lives in the loop: the reconciler, the metrics."""

    def filenos(self) -> tuple[int, ...]:
        """Descriptors to watch; asked again after each call."""

    def readable(self, fd: int) -> None:
        """One of them has something to read."""

    def due(self) -> float | None:
        """The time.monotonic() at which `run` is wanted, None: never."""

    def run(self) -> None:
        """Do what is due."""


class Resident(Watcher, Protocol):
    """One that holds sockets."""

    def close(self) -> None:
        """Let go of them."""


class Late:
    """A part that cannot be opened yet: it is tried again whenever that is due, and lives from then on."""

    def __init__(self, name: str, opened: Callable[[], Resident]) -> None:
        self.name = name
        self._opened = opened
        self._part: Resident | None = None

    def filenos(self) -> tuple[int, ...]:
        """The part's."""
        return self._part.filenos() if self._part else ()

    def readable(self, fd: int) -> None:
        """Hand it on."""
        if self._part:
            self._part.readable(fd)

    def due(self) -> float | None:
        """At once until it is there."""
        return self._part.due() if self._part else 0.0

    def run(self) -> None:
        """Open it, or have it do what is due. Raises what the opening does."""
        if self._part:
            self._part.run()
        else:
            self._part = self._opened()

    def close(self) -> None:
        """Let go of it."""
        if self._part:
            self._part.close()


class Guarded:
    """A watcher of which no call raises. While it is left alone it watches nothing and is due when that is over."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._name = watcher.name if isinstance(watcher, Late) else type(watcher).__name__.lower()
        self._patience = Patience()
        self._is_left = False

    def filenos(self) -> tuple[int, ...]:
        """Descriptors to watch now. Asked in each turn of the loop, as `due` is, so of few calls."""
        try:
            return () if self._is_left else self._watcher.filenos()
        except Exception as error:
            self._failed(error)
            return ()

    def readable(self, fd: int) -> None:
        """Hand it on."""
        try:
            if not self._is_left:
                self._watcher.readable(fd)
        except Exception as error:
            self._failed(error)

    def due(self) -> float | None:
        """When `run` is wanted."""
        try:
            return self._patience.ends() if self._is_left else self._watcher.due()
        except Exception as error:
            self._failed(error)
            return None

    def run(self) -> None:
        """Do what is due."""
        self._patience.over(time.monotonic())
        self._is_left = self._patience.holds(self._name)
        try:
            if not self._is_left:
                self._watcher.run()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        delay = self._patience.struck(self._name, [self._name], time.monotonic(), failed=True)
        self._is_left = True
        tell(f"the {self._name}", error, f"; it is left alone for {delay:g} s")


def worded(what: str, error: Exception) -> str:
    """Why a step of the agent could not be done; of what nobody foresaw more is told on stderr."""
    if not isinstance(error, CniError | KernelError | OSError | msgspec.MsgspecError):
        tell(what, error)
        return f"unforeseen {type(error).__name__}: {str(error)[:300]}"
    return str(error)


def tell(what: str, error: Exception, then: str = "") -> None:
    """A line for what went wrong; where nobody foresaw it, with where it came from."""
    if isinstance(error, CniError | KernelError):
        print(f"tulled: {what}: {error}{then}", file=sys.stderr)
        return
    at = traceback.extract_tb(error.__traceback__)[-3:]
    places = " <- ".join(f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in reversed(at))
    print(f"tulled: {what}: unforeseen {type(error).__name__}: {str(error)[:300]} ({places}){then}", file=sys.stderr)
