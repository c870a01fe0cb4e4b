"""Real packets through the overlay, many at a time: who answers, how fast, and how large a packet gets there whole.

Echoes leave from this node's own overlay address, so they take the way that pods' packets take, and come back by it.
Promises: everything is bounded: all are asked at once, who is silent once more half way, and after the wait it is over;
what the kernel refuses to send is told with its words.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from time import monotonic
from typing import NamedTuple, TypeAlias

from cni_plugin.kernel.see.echo import LEAST, Echo

WAIT = 1.0
"""Seconds."""
SILENT = "no answer"
_AT_ONCE = 32
"""Sent between two looks at what came back, so that answers do not pile up."""
_SIZES = 16
"""Sizes tried at a time when the largest one that passes is looked for."""


class Target(NamedTuple):
    """Whom to ask, with a packet of `size` bytes (0: the smallest)."""

    to: str
    size: int = 0


class Heard(NamedTuple):
    """The round trip in milliseconds, None when there was none, and why not."""

    ms: float | None
    why: str = ""


Probe: TypeAlias = Callable[[Sequence[Target], float], list[Heard]]
"""Ask all of these, and wait so many seconds at most."""


class Prober:
    """A Probe from these addresses of this node, by family; the kernel chooses where there is none.

    A context manager. Raises OSError when no socket can be had, or the address is not this node's.
    """

    def __init__(self, sources: Mapping[int, str]) -> None:
        self._sources = sources
        self._echoes: dict[int, Echo] = {}
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self, asks: Sequence[Target], wait: float = WAIT) -> list[Heard]:
        """Ask all of these; who is silent is asked once more half way."""
        for family in {family_of(each.to) for each in asks} - self._echoes.keys():
            echo = Echo(family, self._sources.get(family, ""))
            self._echoes[family] = self._stack.enter_context(closing(echo))
        begin = monotonic()
        going = _Round(asks)
        for share in (0.5, 1.0):
            self._send(going)
            self._listen(going, begin + wait * share)
        return [each or Heard(None, SILENT) for each in going.heard]

    def _send(self, going: _Round) -> None:
        for count, position in enumerate(going.silent(), 1):
            ask = going.asks[position]
            self._number = (self._number + 1) % 65536
            try:
                at = self._echoes[family_of(ask.to)].send(ask.to, self._number, ask.size)
                going.flying[self._number] = position, at
            except OSError as error:
                going.heard[position] = Heard(None, error.strerror or str(error))
            if count % _AT_ONCE == 0:
                self._read(going)

    def _listen(self, going: _Round, until: float) -> None:
        poll = select.poll()
        for echo in self._echoes.values():
            poll.register(echo.fileno(), select.POLLIN)
        while going.silent() and (left := until - monotonic()) > 0:
            poll.poll(left * 1000 + 1)
            self._read(going)

    def _read(self, going: _Round) -> None:
        for echo in self._echoes.values():
            for reply in echo.replies():
                if reply.number in going.flying:
                    position, at = going.flying.pop(reply.number)
                    going.heard[position] = going.heard[position] or Heard(max((reply.at - at) / 1e6, 0.001))


class _Round:
    """What was asked, and what has been heard of it."""

    def __init__(self, asks: Sequence[Target]) -> None:
        self.asks = asks
        self.heard: list[Heard | None] = [None] * len(asks)
        self.flying: dict[int, tuple[int, int]] = {}

    def silent(self) -> list[int]:
        """Positions of those who have not answered."""
        return [position for position, each in enumerate(self.heard) if each is None]


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def largest(probe: Probe, addresses: Sequence[str], most: int, wait: float) -> list[int]:
    """The largest packet in bytes that each of these answers whole; all at once, sixteen sizes at a time.

    They answer the smallest and not `most`. It takes three waits at most for 1,500 bytes, four for 65,535.
    """
    bounds = {each: (LEAST[family_of(each)], most) for each in addresses}
    while any(high - low > 1 for low, high in bounds.values()):
        asks = [Target(each, size) for each, span in bounds.items() for size in _between(*span)]
        passed = {ask for ask, heard in zip(asks, probe(asks, wait), strict=True) if heard.ms is not None}
        for each, (low, high) in bounds.items():
            sizes = _between(low, high)
            through = max((size for size in sizes if Target(each, size) in passed), default=low)
            bounds[each] = through, min((size for size in (*sizes, high) if size > through), default=high)
    return [bounds[each][0] for each in addresses]


def _between(low: int, high: int) -> list[int]:
    """Sizes that part what lies between into equal pieces."""
    pieces = min(_SIZES + 1, high - low)
    return [low + (high - low) * piece // pieces for piece in range(1, pieces)]
