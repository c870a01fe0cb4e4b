"""Programs of other makers that run because we want them, kept running: begun, watched, begun again, ended.

Who wants some says which (`want`), with the files that they read; what is to be done follows from that and from what
runs, as for everything of the node. Promises: one that ends is begun again after 1 s, then 2 s, ... 30 s for as long as
it does not stay for a minute; one that cannot be begun is told of (`problem`), and tried again like that; what an agent
that was killed has left running is taken over, or ended where nobody wants it, and never begun twice. An agent that
ends in order ends all of them.

All this has a thread of its own, from the first that is wanted on: to end one may take seconds, and pods do not wait
for it. The kernel tells when one ends (pidfd_open(2)); nothing is looked at by the clock.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from math import inf
from threading import Thread
from time import monotonic

from cni_plugin.agent.guard import worded
from cni_plugin.agent.patience import Patience
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import processes
from cni_plugin.model.base import Key, State, state
from cni_plugin.model.host import Daemon

_ALL = "programs in the background"


class Supervisor:
    """See above. `opened` gives the kernel for its thread, `say` takes what is worth a line; `place` is the run folder.
    """

    def __init__(
        self, place: str, opened: Callable[[], AbstractContextManager[Kernel]], say: Callable[[str], object]
    ) -> None:
        self._place = place
        self._opened = opened
        self._say = say
        self._wanted: State = {}
        self._known: State | None = None
        self._there: State = {}
        self._runs: dict[Key, Daemon] = {}
        self._problems: dict[str, str] = {}
        self._patience = Patience()
        self._thread: Thread | None = None
        self._bell = -1
        self._ends = False

    @property
    def problem(self) -> str:
        """What does not run as it should, "" when all does."""
        return "; ".join(f"{what}: {why}" for what, why in sorted(self._problems.copy().items()))

    def want(self, wanted: State) -> None:
        """From now on these daemons and files are wanted, and of what was before no others."""
        self._wanted = wanted
        if self._thread is not None:
            os.eventfd_write(self._bell, 1)
        elif wanted:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._thread = Thread(target=self._live, name="supervisor", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End all that runs, and wait for that."""
        if self._thread is not None:
            self._ends = True
            self.want({})
            self._thread.join()
            os.close(self._bell)
            self._thread = None

    def _live(self) -> None:
        with self._opened() as kernel:
            while True:
                last = self._ends
                try:
                    self._turn(kernel)
                except Exception as error:
                    self._hold(_ALL, worded(_ALL, error))
                if last:
                    return
                self._wait()

    def _turn(self, kernel: Kernel) -> None:
        """Make true what is wanted."""
        wanted = self._wanted
        self._patience.over(monotonic())
        if wanted != self._known:  # what went wrong before may go well now
            self._patience.forgive()
            left = state(Daemon(name, (), self._place) for name in self._left())
            self._there, self._known = {**left, **self._there, **wanted}, wanted
        have = kernel.read(self._there.values())
        self._note_ended(wanted, have)
        for op in diff(wanted, have):
            if not self._carry_out(kernel, op):
                break
        for key, each in self._there.items():
            if isinstance(each, Daemon) and key not in wanted and key not in have:
                processes.end(each.note)  # it ended by itself: nothing is left but its note

    def _left(self) -> list[str]:
        """What an agent that was killed may have left."""
        return processes.noted(f"{self._place}/daemons") if self._known is None else []

    def _note_ended(self, wanted: State, have: State) -> None:
        self._problems = {what: why for what, why in self._problems.items() if self._patience.holds(what)}
        for key, each in self._runs.items():
            if key in wanted and key not in have:
                self._hold(each.title, "it ended by itself")
        self._runs = {key: each for key, each in wanted.items() if key in have and isinstance(each, Daemon)}

    def _carry_out(self, kernel: Kernel, op: Op) -> bool:
        """Whether what comes after may be done: without a file that it may read no daemon is begun."""
        each = op.object
        goes_on = isinstance(each, Daemon) or op.verb == "delete"
        if self._patience.holds(each.title):
            return goes_on
        try:
            kernel.apply([op])
        except Exception as error:
            self._hold(each.title, worded(each.title, error))
            return goes_on
        if isinstance(each, Daemon) and op.verb != "delete":
            self._runs[each.key] = each
        return True

    def _hold(self, what: str, why: str) -> None:
        delay = self._patience.struck(what, [what], monotonic(), failed=True)
        self._problems[what] = why
        self._say(f"{what}: {why}; next try in {delay:g} s")

    def _wait(self) -> None:
        """Until somebody wants something else, one that runs has ended, or what was held may be tried again."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        with ExitStack() as stack:
            for each in self._runs.values():
                try:
                    fd = processes.watch(each.note)
                except OSError as error:
                    self._hold(_ALL, worded(_ALL, error))
                    continue
                if fd < 0:  # it has ended already
                    return
                stack.callback(os.close, fd)
                poll.register(fd, select.POLLIN)
            until = self._patience.ends()
            poll.poll(None if until == inf else max(0.0, until - monotonic()) * 1000 + 1)
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
