"""A process that does nothing but reconcile, in the node's namespace that it is started in: what tests drive.

    python -m tests.netns.reconciling RUN_DIR INTERVAL GRACE

A JSON line on stdout for each repair, {"what", "operations", "ms", "problem"}; when stdin ends, one that says how many
passes were made and how long they took, {"passes": [ms, ...]}. The first pass is over when {"ready": true} is said.
"""

from __future__ import annotations

import json
import select
import sys
import time

from cni_plugin.agent.loop import Reconciler
from cni_plugin.agent.settings import Settings
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.store.records import Records


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


class Journal:
    """`agent.loop.Told`, on stdout."""

    def repaired(self, what: str, operations: int, seconds: float, problem: str = "") -> None:
        say(what=what, operations=operations, ms=round(seconds * 1000, 1), problem=problem)

    def reconciled(self, seconds: float) -> None:
        """`main` counts itself."""

    def say(self, level: str, message: str, **fields: object) -> None:
        say(level=level, message=message, **fields)


def main(run_dir: str, interval: str, grace: str) -> None:
    settings = Settings(interval=float(interval), grace=float(grace))
    passes: list[float] = []
    with LinuxKernel() as kernel:
        loop = Reconciler(kernel, Records(run_dir), Journal(), settings)
        poll = select.poll()
        for fd in (0, *loop.filenos()):
            poll.register(fd, select.POLLIN | select.POLLHUP)
        while True:
            due = loop.due()
            assert due is not None
            ready = [fd for fd, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000)]
            if 0 in ready:
                break
            for fd in ready:
                loop.readable(fd)
            due = loop.due()
            if due is not None and due <= time.monotonic():
                start = time.perf_counter()
                loop.run()
                passes.append(round((time.perf_counter() - start) * 1000, 2))
                if len(passes) == 1:
                    say(ready=True)
        loop.close()
    say(passes=passes, cpu_ms=round(time.process_time() * 1000))


if __name__ == "__main__":
    main(*sys.argv[1:])
