"""Objects of one kind, followed: listed once, then every change, for as long as we live and whatever the server does.

    list in pages -> watch from that version -> the server ends the watch after 5 to 10 minutes -> watch from the newest
                  -> 410 Gone: what happened since is forgotten there; list again
                  -> refused, cut off, silent, gone for an hour: wait 0.2 s, 0.4 s, ... 30 s, and go on where we were
                  -> away for more than two minutes: list again, for if its storage was restored from a backup, our
                     version lies in the future there, and a watch from it is silent for ever

The waits are drawn at random from the upper half, for all nodes lose the same server at the same moment. What was known
stays known until a new list is complete. Bookmarks keep the version fresh when nothing changes, so that a list, the one
thing that is dear to the server, is rare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from random import SystemRandom
from threading import Event as Flag
from time import monotonic
from typing import Generic, NamedTuple, Protocol, TypeVar

import msgspec

from cni_plugin.agent.sources.kube.api import Api, Event, Kind, Line
from cni_plugin.agent.sources.kube.errors import ApiError, Gone, Refused, worded

_random = SystemRandom()
T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Pace(NamedTuple):
    """Times in seconds; `page` in objects. `steady`: a watch that lived so long was a good one.

    `doubt`: after an outage so long the version is not relied on any more. `spacing` is the least time between two
    snapshots.
    """

    first: float = 0.2
    longest: float = 30.0
    answer: float = 15.0
    watch: tuple[float, float] = (300.0, 600.0)
    grace: float = 10.0
    steady: float = 2.0
    doubt: float = 120.0
    spacing: float = 0.05
    page: int = 250


class Sink(Protocol[T_contra]):
    """Who wants to know."""

    def replace(self, known: Mapping[str, T_contra], /) -> None:
        """These are all."""

    def change(self, name: str, value: T_contra | None, /) -> None:
        """This one is new or another; None when it is gone."""

    def trouble(self, why: str, *, refused: bool = False) -> None:
        """The server cannot be asked, or refuses; "" when it can again."""


class Backoff:
    """How long to wait after failures in a row."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more."""
        most = min(self._pace.longest, self._pace.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return _random.uniform(most / 2, most)

    def reset(self) -> None:
        """It works."""
        self.failures = 0


class Follower(Generic[T]):
    """Follows one kind; `run` it in a thread of its own."""

    def __init__(
        self, connect: Callable[[], Api], kind: Kind, read: Callable[[msgspec.Raw], T], sink: Sink[T], pace: Pace
    ) -> None:
        self._line = Line(connect)
        self._kind = kind
        self._read = read
        self._sink = sink
        self._pace = pace
        self._backoff = Backoff(pace)
        self._ended = Flag()
        self._nudged = Flag()
        self._version = ""
        self._listed = False
        self._agreed = True
        self._lost = inf

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.is_set():
            try:
                self._turn(self._line.api())
            except Gone as error:
                self._forgotten(error)
            except Exception as error:  # whatever it was, what is known stays, and the next try may do better
                self._failed(error)
        self._line.close()

    def stop(self) -> None:
        """End `run` as soon as may be; for other threads."""
        self._ended.set()
        self.reconnect()

    def reconnect(self, *, stranded: bool = False) -> None:
        """Go on over a new connection, at once; `stranded`: only if the old one's own address is gone."""
        api = self._line.held
        if stranded and (api is None or not api.is_stranded()):
            return
        self._nudged.set()
        if api is not None:
            api.stop()

    def _turn(self, api: Api) -> None:
        """A list if we have no version to go on from, and one watch."""
        if not self._version:
            self._list(api)
        begun = monotonic()
        try:
            self._watch(api)
        finally:
            if monotonic() - begun > self._pace.steady:
                self._backoff.reset()
        if monotonic() - begun <= self._pace.steady and not self._ended.is_set():
            raise ApiError("the API server ended a watch as soon as it had begun")

    def _list(self, api: Api) -> None:
        known: dict[str, T] = {}
        version = ""
        for page in api.pages(self._kind, self._pace.page):
            version = page.version
            known.update((name, self._read(each)) for name, each in page.items)
            if self._ended.is_set():
                return
        self._sink.replace(known)
        self._listed = True
        self._version = version

    def _watch(self, api: Api) -> None:
        seconds = round(_random.uniform(*self._pace.watch))
        for event in api.watch(self._kind, self._version, seconds, self._pace.grace):
            if event is None:
                self._agreed, self._lost = True, inf
                self._sink.trouble("")
            else:
                self._take(event)
                self._backoff.reset()
            if self._ended.is_set():
                return

    def _take(self, event: Event) -> None:
        if event.what == "DELETED":
            self._sink.change(event.name, None)
        elif event.what in ("ADDED", "MODIFIED"):
            self._sink.change(event.name, self._read(event.object))
        self._version = event.version or self._version

    def _forgotten(self, error: Gone) -> None:
        """List again, at once the first time: that the version is forgotten is no fault of anybody's."""
        self._version = ""
        if self._agreed:
            self._agreed = False
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Tell, unless a single hiccup, and wait."""
        at = f" at {self._line.held.server}" if self._line.held is not None else ""
        self._line.close()
        self._lost = min(self._lost, monotonic())
        if monotonic() - self._lost > self._pace.doubt:
            self._version = ""
        wait = self._backoff.next()
        if not self._nudged.is_set() and (self._backoff.failures > 1 or not self._listed):
            self._sink.trouble(f"the Kubernetes API{at}: {worded(error)}", refused=isinstance(error, Refused))
        if self._nudged.wait(wait):
            self._backoff.reset()
            self._nudged.clear()
