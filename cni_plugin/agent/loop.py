"""The reconcile loop: what the node must be for its pods and its cluster is kept true for ever.

Level-triggered: an event only says where to look; what must be done follows from the records and the kernel alone, by
the parts of the node that `tullectl repair` looks at, too, but kept from pass to pass. Promises: what breaks is looked
at 30 ms after the last event about it and at most 150 ms after the first; every `interval` everything is looked at,
event or not; who breaks the same thing again and again is met less and less often (1 s, 2 s, ... 30 s), and it is said.
In a pass nothing is waited for and no program is started.

    event  ->  readable() notes it  ->  due()  ->  run(): the looks of each part that it concerns  ->  journal
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic, perf_counter
from typing import Protocol

from cni_plugin.agent.collector import Collector, Told
from cni_plugin.agent.guard import worded
from cni_plugin.agent.patience import Patience
from cni_plugin.agent.problems import Problems
from cni_plugin.agent.settings import Settings
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.watch.changed import EVERYTHING, UPLINKS, Changed
from cni_plugin.kernel.watch.inotify import Inotify
from cni_plugin.kernel.watch.monitor import Beyond, Monitor
from cni_plugin.node.contract import LISTS, THOROUGH, TURN, Inspection, Part, Repair, taken
from cni_plugin.node.parts import in_turn, parts
from cni_plugin.node.site import Site
from cni_plugin.node.watch import joined
from cni_plugin.store.records import Records

QUIET, LONGEST = 0.030, 0.150
"""Seconds without an event after which a pass is made, and seconds after the first event when it is made anyway."""


class Events(Protocol):
    """Where changes are told: `kernel.watch.monitor.Monitor`."""

    def filenos(self) -> tuple[int, ...]:
        """What to wait for."""

    def drain(self, fd: int) -> Changed:
        """What may have changed."""

    def watch(
        self, links: Mapping[str, int], tunnels: Collection[str], uplinks: Collection[str], beyond: Beyond
    ) -> None:
        """What matters from now on."""

    def close(self) -> None:
        """Let go."""


class ClusterKeeper(Part, Protocol):
    """A part of the agent's own, for clusters that a source tells of: `agent.cluster.membership`."""

    def networks(self) -> Collection[str]:
        """The networks that it keeps: nobody else looks at their part of the node."""

    def wanted(self) -> float | None:
        """The time.monotonic() from which on it wants a pass, event or not; 0 for at once, None for never."""


class Reconciler:
    """See above. All on one thread, but for what a foreign IPAM is told of collected attachments. Raises OSError."""

    def __init__(
        self, kernel: Kernel, records: Records, journal: Told, settings: Settings, events: Events | None = None,
        *, keeper: ClusterKeeper | None = None,
    ) -> None:
        self._site = Site(kernel, records, kept=keeper.networks if keeper is not None else tuple)
        self._parts = sorted([*parts(), *([keeper] if keeper is not None else [])], key=lambda each: each.ORDER)
        self._keeper = keeper
        self._journal = journal
        self._settings = settings
        self._events: Events = Monitor() if events is None else events
        self._patience = Patience()
        self._problems = Problems()
        self._collector = Collector(self._site, journal, settings.grace)
        self._lists = _inotify()
        self._words: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._changed: Changed = 0
        self._first = self._last = 0.0
        self._next = monotonic()
        self.passes = 0
        """Passes made so far."""

    @property
    def problem(self) -> str:
        """What of the node is wrong and could not be put right, "" when all is well."""
        return "; ".join(f"{what}: {why}" for what, why in (dict(self._problems) | self._words).items())

    def filenos(self) -> tuple[int, ...]:
        """What to wait for."""
        return (*self._events.filenos(), *(self._lists.filenos() if self._lists else ()))

    def readable(self, fd: int) -> None:
        """Read the events that are there, and note where to look."""
        if self._lists is not None and fd in self._lists.filenos():
            changed = LISTS if self._lists.drain() else 0
        else:
            changed = self._events.drain(fd)
        if changed & (UPLINKS | LISTS):
            self._patience.forgive()
        if changed:
            self._last = monotonic()
            self._first = self._first if self._changed else self._last
            self._changed |= changed

    def anew(self) -> None:
        """Look at everything as soon as may be."""
        self._next = monotonic()

    def due(self) -> float | None:
        """The time.monotonic() of the next pass."""
        soon = min(self._last + QUIET, self._first + LONGEST) if self._changed else self._next
        wanted = self._keeper.wanted() if self._keeper is not None else None
        return min(soon, self._next, self._patience.ends(), *([] if wanted is None else [wanted]))

    def run(self) -> None:
        """One pass: over what may have changed, and over everything when that is due."""
        now = monotonic()
        full = now >= self._next
        thorough = full or now >= self._patience.ends()
        changed = EVERYTHING | LISTS | THOROUGH if thorough else self._changed
        if full:
            self._next = now + self._settings.interval
        self._changed = 0
        self._patience.over(now)
        self.passes += 1
        self._look(changed | TURN)
        if full:
            self._guarded("self-check", lambda: self._collector.check(monotonic()))
        self._collector.tell()
        self._journal.reconciled(monotonic() - now)

    def close(self) -> None:
        """Let go of the sockets."""
        self._events.close()
        if self._lists is not None:
            self._lists.close()

    def _look(self, changed: Changed) -> None:
        """One part after the other, each for itself: what goes wrong with one keeps no other from its turn."""
        self._guarded("records", self._site.attachments.refresh)
        in_turn(self._parts, changed, self._look_at)
        self._tell_words()
        self._guarded("watch", self._watch)

    def _look_at(self, part: Part, changed: Changed) -> bool:
        """Take the looks of a part; whether one of them put something right."""
        seen: set[str] = set()
        right: list[str] = []

        def look() -> None:
            for each in part.looks(self._site, changed):
                seen.add(each.what)
                if each.take is not None and self._step(each):
                    right.append(each.what)
            self._problems.settle(part.NAME, seen)

        self._guarded(part.NAME, look)
        return bool(right)

    def _step(self, look: Inspection) -> bool:
        if self._patience.holds(look.what) and not look.own_pace:
            return False
        start = perf_counter()
        try:
            found = taken(look)
        except Exception as error:
            found = Repair(look.what, problem=worded(look.what, error))
        self._tell(found, perf_counter() - start)
        return bool(found.ops)

    def _guarded(self, what: str, step: Callable[[], object]) -> None:
        """What goes wrong in one part of a pass ends neither the pass nor the agent, which serves pods."""
        if self._patience.holds(what):
            return
        start = perf_counter()
        try:
            step()
        except Exception as error:
            self._tell(Repair(what, problem=worded(what, error)), perf_counter() - start)
        else:
            self._problems.note(what, "")

    def _tell(self, found: Repair, seconds: float) -> None:
        what, ops, problem = found
        self._problems.note(what, problem)
        if not ops and not problem:
            return
        things = [what] if problem else [op.object.key for op in ops]
        delay = self._patience.struck(what, things, monotonic(), failed=bool(problem))
        if delay and not problem:
            problem = f"broken again and again, so somebody else changes it too; next look in {delay:g} s"
        self._journal.repaired(what, len(ops), seconds, problem)

    def _tell_words(self) -> None:
        """What only a person can put right, once for each time that it is other words."""
        words = {what: why for part in self._parts for what, why in part.words().items()}
        for what, why in words.items():
            if why != self._words.get(what):
                self._journal.say("warn", f"{what}: {why}")
        self._words = words

    def _watch(self) -> None:
        watch = joined([each.watch(self._site) for each in self._parts])
        uplinks = watch.uplinks - watch.tunnels
        # a bridge that the last pod has left is not wanted, but known, so that the next pod on it is no news
        names = watch.bridges | watch.tunnels | uplinks | self._numbers.keys()
        kernel = self._site.kernel
        links = {name: kernel.link_index(name) for name in names}
        self._numbers = {name: index for name, index in links.items() if index}
        everywhere = self._keeper is not None
        beyond = Beyond(watch.peers, watch.entry, kernel.port(), everywhere=everywhere, blocked=watch.blocked)
        self._events.watch(links, watch.tunnels, uplinks - watch.bridges, beyond)
        if self._lists is not None:
            self._guarded("node lists", partial(self._lists.watch, watch.paths))


def _inotify() -> Inotify | None:
    """Without it lists are read again at the interval only (EMFILE: fs.inotify.max_user_instances)."""
    try:
        return Inotify()
    except OSError:
        return None
