"""Attachments of which neither wire nor sandbox is left are taken away, a time of grace after that was first seen.

What another plugin's IPAM is told of them is waited for on a thread beside the loop, with a kernel of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Thread
from time import perf_counter
from typing import Protocol

from cni_plugin.ipams.contract import find
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.open import open_kernel
from cni_plugin.node.attached import Attached
from cni_plugin.node.site import Site
from cni_plugin.store.records import Record
from cni_plugin.verbs.gc import collect_dead, is_dead

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


class Collector:
    """Those of one node; `grace` in seconds."""

    def __init__(self, site: Site, journal: Told, grace: float) -> None:
        self._site = site
        self._journal = journal
        self._grace = grace
        self._dead: dict[Attached, float] = {}
        self._collected: deque[tuple[list[Record], list[str], float]] = deque()
        self._beside: Thread | None = None

    def check(self, now: float) -> None:
        """After all links were listed: note who is dead, and collect who has been for long enough by now."""
        site = self._site
        gone = [each for each in site.attachments if each.attachment.host_dev not in site.links]
        stand = (each for each in site.attachments if gone and each.attachment.host_dev in site.links)
        living = {(each.netns, each.attachment.container) for each in stand}
        dead = [each for each in gone if is_dead(site.kernel, each.attachment, each.netns, living)]
        self._dead = {each: self._dead.get(each, now) for each in dead}
        due = [each for each in dead if now - self._dead[each] >= self._grace]
        self._collect([each for each in due if not find(each.ipam).WAITS], site.kernel)
        foreign = [each for each in due if find(each.ipam).WAITS]
        if foreign and not (self._beside and self._beside.is_alive()):
            self._beside = Thread(target=self._collect_beside, args=(foreign,), daemon=True)
            self._beside.start()

    def tell(self) -> None:
        """Of those that were collected since it was told last, here and beside."""
        while self._collected:
            self._tell(*self._collected.popleft())

    def _collect(self, due: Sequence[Attached], kernel: Kernel) -> None:
        """One that was made anew in the meantime is not the one that died."""
        found = [self._site.records.find(each.attachment) for each in due]
        same = [record for each, record in zip(due, found, strict=True) if record and record.created == each.created]
        if not same:
            return
        start = perf_counter()
        problems = collect_dead(kernel, self._site.records, same)
        self._collected.append((same, problems, perf_counter() - start))

    def _tell(self, records: list[Record], problems: list[str], seconds: float) -> None:
        for record, problem in zip(records, problems, strict=True):
            self._journal.say(
                "error" if problem else "info", problem or "collected: neither its wire nor its sandbox is there",
                network=record.network, container=record.container, ifname=record.ifname,
            )
        self._journal.repaired(COLLECTED, problems.count(""), seconds, next(filter(None, problems), ""))

    def _collect_beside(self, due: Sequence[Attached]) -> None:
        with open_kernel() as kernel:
            self._collect(due, kernel)
