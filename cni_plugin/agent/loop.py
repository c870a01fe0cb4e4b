"""The reconcile loop: what the node must be for its pods and its cluster is kept true for ever.

Level-triggered: an event only says where to look; what must be done follows from the records and the kernel alone, by
the functions that `tullectl repair` uses. Promises: what breaks is looked at 30 ms after the last event about it and at
most 150 ms after the first; every `interval` everything is looked at, event or not; who breaks the same thing again and
again is met less and less often (1 s, 2 s, ... 30 s), and it is said; attachments whose sandbox is gone are collected
`grace` seconds after that was first seen. In a pass nothing is waited for and no program is started.

    event  ->  readable() notes it  ->  due()  ->  run(): bridges, ports, clusters, masquerade  ->  journal
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from threading import Thread
from time import monotonic, perf_counter
from typing import Protocol

from cni_plugin import decoding
from cni_plugin.agent.guard import worded
from cni_plugin.agent.outlived import Outlived
from cni_plugin.agent.patience import Patience
from cni_plugin.agent.problems import Problems
from cni_plugin.agent.settings import Settings
from cni_plugin.ipams.contract import find
from cni_plugin.kernel.door import Kernel, OwnLink
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.open import open_kernel
from cni_plugin.kernel.watch.inotify import Inotify
from cni_plugin.kernel.watch.monitor import (
    ADDRESSES,
    EVERYTHING,
    KNOBS,
    LINKS,
    NEIGHBOURS,
    ROUTES,
    RULES,
    UPLINKS,
    WAYS,
    Beyond,
    Changed,
    Monitor,
)
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.links import Bridge, Up
from cni_plugin.node.attached import Attached, Attachments
from cni_plugin.node.cluster.convergence import Watch
from cni_plugin.node.repair import Repair, bridge, cluster, gateways, guarded, masquerade, mtu, ports
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.gc import collect_dead, is_dead

QUIET, LONGEST = 0.030, 0.150
"""Seconds without an event after which a pass is made, and seconds after the first event when it is made anyway."""

LISTS: Changed = EVERYTHING + 1
"""A file that a configuration names as its `cluster` changed, beside what the monitor tells."""
_OF_CLUSTERS = LINKS | ADDRESSES | ROUTES | NEIGHBOURS | KNOBS | WAYS | LISTS

COLLECTED = "attachments without a sandbox"
"""What collecting them is called where repairs are counted."""


class Told(Protocol):
    """Who wants to know of repairs: the journal."""

    def repaired(self, what: str, operations: int, seconds: float, problem: str = "") -> None:
        """Something was put right by so many operations, or could not be."""

    def reconciled(self, seconds: float) -> None:
        """A pass is done."""

    def say(self, level: str, message: str, **fields: object) -> None:
        """Anything else that is worth a line."""


class Events(Protocol):
    """Where changes are told: `kernel.monitor.Monitor`."""

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


class Clusters(Protocol):
    """Who keeps clusters that a source tells of: `agent.cluster.membership`. All calls come in a pass of the loop."""

    def networks(self) -> Collection[str]:
        """The networks that it keeps: nobody else looks at their part of the node."""

    def look(self, changed: Changed) -> Iterable[Repair]:
        """Make true what the source said, and put right what may have changed."""

    def watch(self) -> Watch:
        """What to be told of from now on."""


class Reconciler:
    """See above. All on one thread, but for what a foreign IPAM is told of collected attachments. Raises OSError."""

    def __init__(
        self, kernel: Kernel, records: Records, journal: Told, settings: Settings, events: Events | None = None,
        *, clusters: Clusters | None = None,
    ) -> None:
        self._kernel = kernel
        self._records = records
        self._journal = journal
        self._settings = settings
        self._events: Events = Monitor() if events is None else events
        self._attachments = Attachments(records)
        self._patience = Patience()
        self._problems = Problems()
        self._macs: dict[str, str] = {}
        self._dead: dict[Attached, float] = {}
        self._collected: deque[tuple[list[Record], list[str], float]] = deque()
        self._beside: Thread | None = None
        self._clusters = clusters
        self._lists = _inotify()
        self._awake = False
        self._numbers: dict[str, int] = {}
        self._outlived = Outlived(self._attachments, partial(journal.say, "warn"))
        self._own: dict[str, OwnLink] = {}
        self._changed: Changed = 0
        self._first = self._last = 0.0
        self._next = monotonic()
        self.passes = 0
        """Passes made so far."""

    @property
    def problem(self) -> str:
        """What of the node is wrong and could not be put right, "" when all is well."""
        found = dict(self._problems) | {f"pods of {network}": words for network, words in self._outlived.words.items()}
        return "; ".join(f"{what}: {why}" for what, why in found.items())

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

    def wake(self) -> None:
        """Make a pass at once: the source said something."""
        self._awake = True

    def anew(self) -> None:
        """Look at everything as soon as may be."""
        self._next = monotonic()

    def due(self) -> float | None:
        """The time.monotonic() of the next pass."""
        if self._awake:
            return 0.0
        soon = min(self._last + QUIET, self._first + LONGEST) if self._changed else self._next
        return min(soon, self._next, self._patience.ends())

    def run(self) -> None:
        """One pass: over what may have changed, and over everything when that is due."""
        now = monotonic()
        full = now >= self._next
        again = now >= self._patience.ends()
        changed = EVERYTHING | LISTS if full or again else self._changed
        if full:
            self._next = now + self._settings.interval
        self._changed, self._awake = 0, False
        self._patience.over(now)
        self.passes += 1
        self._look(changed, thorough=full or again)
        if full:
            self._guarded("self-check", self._check)
        while self._collected:
            self._tell_of_collected(*self._collected.popleft())
        self._journal.reconciled(monotonic() - now)

    def close(self) -> None:
        """Let go of the sockets."""
        self._events.close()
        if self._lists is not None:
            self._lists.close()

    def _look(self, changed: Changed, *, thorough: bool) -> None:
        """One part after the other, each for itself: what goes wrong with one keeps no other from its turn."""
        self._guarded("records", self._attachments.refresh)
        if changed & (LINKS | ADDRESSES | KNOBS):
            self._guarded("bridges", self._look_at_bridges)
        self._guarded("ports", partial(self._look_at_ports, changed, thorough=thorough))
        self._guarded("clusters", partial(self._look_at_clusters, changed))
        self._guarded("former subnets", partial(self._look_at_former_subnets, thorough=thorough))
        self._guarded("MTU", self._follow_mtu)
        if changed & RULES:
            self._step("masquerade", partial(masquerade, self._kernel, self._records))
        self._guarded("watch", self._watch)

    def _look_at_ports(self, changed: Changed, *, thorough: bool) -> None:
        if not thorough and not (changed & LINKS and self._is_new_bridge()):
            return
        self._own = {each.name: each for each in self._kernel.own_links()} if self._attachments.bridges else {}
        on = {each.attachment: each.bridge for each in self._attachments}
        self._step("ports of pods", partial(ports, self._kernel, self._records, on, self._own))

    def _look_at_bridges(self) -> None:
        for name, want in self._attachments.bridges.items():
            look = partial(bridge, self._kernel, self._records, want, self._macs.get(name, ""))
            self._step(f"bridge {name}", look)
        self._problems.settle("bridges", {f"bridge {name}" for name in self._attachments.bridges})
        self._remember_macs()

    def _look_at_clusters(self, changed: Changed) -> None:
        kept: Collection[str] = ()
        if self._clusters is not None:
            start, told = perf_counter(), set()
            for found in self._clusters.look(changed):
                self._tell(found, perf_counter() - start)
                told.add(found.what)
            self._problems.settle("source", told)
            kept = self._clusters.networks()
        what, look = ("cluster", cluster) if changed & _OF_CLUSTERS else ("guard", guarded)
        if changed & (_OF_CLUSTERS | RULES):
            others = [each for each in all_facts(self._records) if each.network not in kept]
            for facts in others:
                self._step(f"{what} of {facts.network}", partial(look, facts, self._kernel, self._records))
            if what == "cluster":  # which looks at its guard, too
                self._problems.settle("guard", set())
            self._problems.settle(what, {f"{what} of {each.network}" for each in others})

    def _look_at_former_subnets(self, *, thorough: bool) -> None:
        """When the node's subnets or the gateways that pods need are others than at the last look, or it is time."""
        known = all_facts(self._records)
        due = self._outlived.is_due(known) or (thorough and bool(known))
        if due:
            self._step("gateways of former subnets", partial(gateways, self._kernel, self._records))
        if due or self._outlived.words:
            self._outlived.look(known)

    def _follow_mtu(self) -> None:
        """Pods that live get the MTU that the underlay leaves now, and their bridges after them."""
        followed = set()
        for facts in all_facts(self._records):
            behind = self._attachments.behind(facts.network, facts.mtu)
            if behind:
                what = f"MTU of pods in {facts.network}"
                self._step(what, partial(mtu, self._kernel, self._records, behind, facts))
                followed.add(what)
        self._problems.settle("MTU", followed)
        if followed and self._attachments.refresh():
            self._look_at_bridges()

    def _step(self, what: str, look: Callable[[], Repair]) -> None:
        if self._patience.holds(what):
            return
        start = perf_counter()
        try:
            found = look()
        except Exception as error:
            found = Repair(what, problem=worded(what, error))
        self._tell(found, perf_counter() - start)

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

    def _is_new_bridge(self) -> bool:
        """Whether a bridge is not the one that it was after the last pass, and so has none of the pods' ports."""
        names = self._attachments.bridges
        return any(self._kernel.link_index(name) != self._numbers.get(name, 0) for name in names)

    def _remember_macs(self) -> None:
        """The MAC of each bridge of ours, which pods know: one that is made anew, or was changed, gets it back."""
        names = self._attachments.bridges.keys()
        # one without pods is asked again and again: the next pod on it may come without a pass that would tell
        idle = {name for name in self._macs.keys() - names if self._kernel.link_index(name)}
        self._macs = {name: mac for name, mac in self._macs.items() if name in names}
        for name in (names - self._macs.keys()) | idle:
            try:
                found = list(self._kernel.read([Bridge(name)]).values())
            except KernelError:  # no bridge, and told by the look at it
                continue
            for each in found:
                if isinstance(each, Bridge) and each.alias == BRIDGE_ALIAS and each.mac:
                    self._macs[name] = each.mac

    def _watch(self) -> None:
        wanted = (each for want in self._attachments.bridges.values() for each in want.values())
        bridges = {each.name for each in wanted if isinstance(each, Up)}
        more = self._clusters.watch() if self._clusters is not None else Watch()
        facts = all_facts(self._records)
        tunnels = {each.device for each in facts if each.device} | more.tunnels
        uplinks = {name for each in facts for name in each.uplinks} | more.uplinks - tunnels
        # a bridge that the last pod has left is not wanted, but known, so that the next pod on it is no news
        names = bridges | tunnels | uplinks | self._numbers.keys()
        links = {name: self._kernel.link_index(name) for name in names}
        self._numbers = {name: index for name, index in links.items() if index}
        everywhere = self._clusters is not None
        beyond = Beyond(more.peers, more.entry, self._kernel.port(), everywhere=everywhere, blocked=more.blocked)
        self._events.watch(links, tunnels, uplinks - bridges, beyond)
        self._watch_lists(facts)

    def _watch_lists(self, facts: Iterable[ClusterFacts]) -> None:
        """The files of lists that people keep; an agent's own changes with what its source says.

        And while there are pods of former subnets the records of their network, for the end of the last is no event.
        """
        kept = self._clusters.networks() if self._clusters is not None else ()
        sources = (decoding.decode(each.source) for each in facts if each.network not in kept)
        paths = {each for each in sources if isinstance(each, str)}
        paths |= {self._records.folder(network) for network in self._outlived.words}
        if self._lists is not None:
            self._guarded("node lists", partial(self._lists.watch, paths))

    def _check(self) -> None:
        """Collect attachments of which neither wire nor sandbox is left, after a time of grace."""
        now = monotonic()
        gone = [each for each in self._attachments if each.attachment.host_dev not in self._own]
        stand = (each for each in self._attachments if gone and each.attachment.host_dev in self._own)
        living = {(each.netns, each.attachment.container) for each in stand}
        dead = [each for each in gone if is_dead(self._kernel, each.attachment, each.netns, living)]
        self._dead = {each: self._dead.get(each, now) for each in dead}
        due = [each for each in dead if now - self._dead[each] >= self._settings.grace]
        self._collect([each for each in due if not find(each.ipam).WAITS], self._kernel)
        foreign = [each for each in due if find(each.ipam).WAITS]
        if foreign and not (self._beside and self._beside.is_alive()):
            self._beside = Thread(target=self._collect_beside, args=(foreign,), daemon=True)
            self._beside.start()

    def _collect(self, due: Sequence[Attached], kernel: Kernel) -> None:
        """One that was made anew in the meantime is not the one that died."""
        found = [self._records.find(each.attachment) for each in due]
        same = [record for each, record in zip(due, found, strict=True) if record and record.created == each.created]
        if not same:
            return
        start = perf_counter()
        problems = collect_dead(kernel, self._records, same)
        self._collected.append((same, problems, perf_counter() - start))

    def _tell_of_collected(self, records: list[Record], problems: list[str], seconds: float) -> None:
        for record, problem in zip(records, problems, strict=True):
            self._journal.say(
                "error" if problem else "info", problem or "collected: neither its wire nor its sandbox is there",
                network=record.network, container=record.container, ifname=record.ifname,
            )
        self._journal.repaired(COLLECTED, problems.count(""), seconds, next(filter(None, problems), ""))

    def _collect_beside(self, due: Sequence[Attached]) -> None:
        """Another plugin's answer may take its time, so it is awaited on a thread, with a kernel of its own."""
        with open_kernel() as kernel:
            self._collect(due, kernel)


def _inotify() -> Inotify | None:
    """Without it lists are read again at the interval only (EMFILE: fs.inotify.max_user_instances)."""
    try:
        return Inotify()
    except OSError:
        return None
