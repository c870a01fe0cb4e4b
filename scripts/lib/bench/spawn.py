"""One program, run once and timed from spawn to reaped, and several of them by turns.

What is measured is what a container runtime waits for: posix_spawn to exit, everything that it reads and writes in
memory files, no shell and no other program between. Sides are run by turns (A B, B A, A B ...) in one process, so
that whatever the machine does meanwhile happens to all of them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from scripts.lib.lab.runtime import Attachment, Json, Network, PluginError, Reply, Runtime

T = TypeVar("T")


class Cost(NamedTuple):
    """Milliseconds: from spawn to reaped, and of processor time of the program and of all that it waited for."""

    wall: float
    cpu: float


class Ran(NamedTuple):
    """What became of one program."""

    cost: Cost
    reply: Reply


def interleave(
    sides: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[T]]:
    """Each side `rounds` times, by turns; who begins changes, so that nobody always follows the same neighbour.

    With `warm_up` one round before is thrown away: it fills caches."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(-1 if warm_up else 0, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            value = sides[name]()
            if turn >= 0:
                found[name].append(value)
    return found


def run(argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float = 120.0) -> Ran:
    """Runs a program, timed. Raises TimeoutError when it had to be killed, OSError when it could not start."""
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, each, fd) for fd, each in enumerate(files)]
        start = time.perf_counter()
        pid = os.posix_spawn(argv[0], list(argv), env, file_actions=actions)
        status, cpu = _wait(pid, timeout, argv[0])
        cost = Cost((time.perf_counter() - start) * 1000, cpu)
        out, err = (_content(each) for each in files[1:])
    finally:
        for each in files:
            os.close(each)
    return Ran(cost, Reply(os.waitstatus_to_exitcode(status), out, err.decode(errors="replace")))


def _wait(pid: int, timeout: float, name: str) -> tuple[int, float]:
    """Exit status and processor time. The poll costs 20 us and is what lets a program that hangs be ended."""
    handle = os.pidfd_open(pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        if not waiting.poll(timeout * 1000):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"{name} did not end within {timeout:g} s")
        _, status, usage = os.wait4(pid, 0)
        return status, (usage.ru_utime + usage.ru_stime) * 1000
    finally:
        os.close(handle)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _contents(verb: str, attachment: Attachment | None) -> dict[str, str]:
    who = attachment or Attachment(container="", ifname="")
    return {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": who.container, "CNI_NETNS": who.netns,
        "CNI_IFNAME": who.ifname, "CNI_ARGS": who.args,
    }


@dataclass(frozen=True)
class TimedRuntime(Runtime):
    """The lab's runtime, with a stopwatch around each execution and nothing else: `costs` in order of their ends."""

    costs: list[Cost] = field(default_factory=list)

    def execute(
        self, verb: str, plugin: str, conf: Mapping[str, object], attachment: Attachment | None
    ) -> Reply:
        env = self.environment(verb, attachment)
        ran = run(
            [*self.enter, str(self.find(plugin))], env=env, stdin=json.dumps(conf).encode(), timeout=self.timeout
        )
        self.costs.append(ran.cost)
        return ran.reply

    def environment(self, verb: str, attachment: Attachment | None) -> dict[str, str]:
        """What the plugin finds in its environment."""
        return {
            **os.environ, **self.env, **_contents(verb, attachment),
            "CNI_PATH": os.pathsep.join(map(str, self.path)),
        }


@dataclass(frozen=True)
class Side:
    """One implementation at work on one network: who calls, and with what configuration."""

    runtime: TimedRuntime
    network: Network

    def add(self, attachment: Attachment) -> Cost:
        """What an ADD cost. Raises PluginError."""
        self.runtime.add(self.network, attachment)
        return self.runtime.costs[-1]

    def delete(self, attachment: Attachment) -> Cost:
        """What a DEL cost. Raises PluginError."""
        self.runtime.delete(self.network, attachment)
        return self.runtime.costs[-1]

    def add_and_delete(self, attachment: Attachment) -> tuple[Cost, Cost]:
        """What an ADD and the DEL after it cost. Raises PluginError."""
        return self.add(attachment), self.delete(attachment)


def expect(ran: Ran, what: str) -> Cost:
    """The cost of a program that must have succeeded. Raises PluginError."""
    if ran.reply.code != 0:
        raise PluginError("start", what, ran.reply)
    return ran.cost


def conf_bytes(conf: Json) -> bytes:
    return json.dumps(conf).encode()
