"""A node that follows a cluster, with its messages counted: started in the namespace of that node by `converge`.

    python -P converge_worker.py AGENT_SETTINGS RUN_DIR

The agent's own parts, wired as the agent wires them: a source on its threads, the membership, the reconcile loop. Only
clients are missing. On stdout a JSON line for each pass: when it was over (time.monotonic), milliseconds on the clock
and of processor time, netlink requests sent and messages received in it, the nodes of the list that was followed (0 for
none), operations, problems. It ends when stdin does.
"""

from __future__ import annotations

import json
import select
import sys
import time
from pathlib import Path
from typing import Any

from cni_plugin.agent import settings as configuration
from cni_plugin.agent.cluster.membership import Membership
from cni_plugin.agent.loop import Reconciler
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.rtnl import netlink
from cni_plugin.store.records import Records


class Counts:
    """What went over all netlink sockets but the monitor's."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        number, frames = netlink.Netlink._number, netlink._frames

        def counted(self_: netlink.Netlink, request: bytearray, flags: int = 0) -> None:
            self.sent += 1
            number(self_, request, flags)

        def read(data: bytes) -> list[Any]:
            found = frames(data)
            self.received += len(found)
            return found

        netlink.Netlink._number = counted  # type: ignore[method-assign, assignment]
        netlink._frames = read

    def take(self) -> tuple[int, int]:
        """Since the last time."""
        found = self.sent, self.received
        self.sent = self.received = 0
        return found


class Journal:
    """What is said within one pass."""

    def __init__(self) -> None:
        self.nodes = self.operations = 0
        self.problems: list[str] = []

    def forget(self) -> None:
        """The pass is told."""
        self.nodes = self.operations = 0
        self.problems = []

    def repaired(self, what: str, operations: int, seconds: float, problem: str = "") -> None:
        """Something was put right."""
        del what, seconds
        self.operations += operations
        self.problems += [problem] if problem else []

    def reconciled(self, seconds: float) -> None:
        """The pass itself is measured from outside."""

    def say(self, level: str, message: str, **fields: object) -> None:
        """Of a list that was followed, how large it is."""
        if message == "the cluster changed":
            self.nodes = int(str(fields["nodes"]))
            self.operations += int(str(fields["operations"]))
        elif level in ("error", "warn"):
            self.problems.append(message)


def main(conf: str, run_dir: str) -> None:
    """Live until stdin ends."""
    counts, journal = Counts(), Journal()
    settings = configuration.load(conf)
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    with LinuxKernel(prompt=False) as kernel:
        membership = Membership(kernel, Records(run_dir), journal, settings)
        loop = Reconciler(kernel, Records(run_dir), journal, settings, keeper=membership)
        poll = select.poll()
        for fd in (0, *loop.filenos(), *membership.filenos()):
            poll.register(fd, select.POLLIN | select.POLLHUP)
        while _turn(poll, loop, membership):
            _tell(*_pass(loop), counts, journal)
        membership.close()


def _turn(poll: select.poll, loop: Reconciler, membership: Membership) -> bool:
    """Wait for a pass to be due; whether to go on."""
    while True:
        left = (loop.due() or 0) - time.monotonic()
        if left <= 0:
            return True
        for fd, _ in poll.poll(left * 1000):
            if fd == 0:
                return False
            (membership if fd in membership.filenos() else loop).readable(fd)


def _pass(loop: Reconciler) -> tuple[float, float]:
    clock, cpu = time.perf_counter(), time.thread_time()
    loop.run()
    return (time.perf_counter() - clock) * 1000, (time.thread_time() - cpu) * 1000


def _tell(clock: float, cpu: float, counts: Counts, journal: Journal) -> None:
    sent, received = counts.take()
    line = {
        "at": time.monotonic(), "ms": clock, "cpu": cpu, "sent": sent, "received": received,
        "nodes": journal.nodes, "operations": journal.operations, "problems": journal.problems,
    }
    journal.forget()
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
