"""Many pods at once, with as little of the bench in it as can be.

Everything is prepared: command lines, environments, files for stdin and stdout. The timed part starts processes by
posix_spawn (vfork-like: nothing of ours is copied) and waits for any of them, on one thread; replies are read
afterwards. Both sides are measured by it, and so is /bin/true, which tells what is left of the bench.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from scripts.lib.bench.agent import Place
from scripts.lib.bench.world import BenchError, inside
from scripts.lib.lab.runtime import Attachment, Json, PluginError, Reply

AT_ONCE = 16
LONGEST = 300
"""Seconds for all of them; what hangs is killed then."""


class Call(NamedTuple):
    """One process to be: absolute path, environment, and the files that are its stdin, stdout and stderr."""

    program: str
    env: Mapping[str, str]
    stdin: str
    output: str
    errors: str


class Rushed(NamedTuple):
    """How many a second, and the mean processor time of one in milliseconds: in all, and of it the agent's."""

    rate: float
    cpu: float
    agent: float = 0.0


class Crowd:
    """Pods that come and go together on one place. Files are kept below `folder`."""

    def __init__(self, place: Place, pods: Sequence[Attachment], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._place = place
        self._pods = pods
        self._folder = folder
        plugin = place.side.network.plugins[0]
        self._conf: Json = {
            **plugin, "name": place.side.network.name, "cniVersion": place.side.network.version
        }
        self._program = str(place.side.runtime.find(str(plugin["type"])))

    def add(self) -> Rushed:
        """All of them. Raises PluginError."""
        conf = self._folder / "add.json"
        conf.write_text(json.dumps(self._conf))
        return self._rush("ADD", [str(conf)] * len(self._pods))

    def delete(self) -> Rushed:
        """All of them, each with its result of ADD, as a runtime does. Raises PluginError."""
        files = []
        for number in range(len(self._pods)):
            reply = self._folder / f"ADD.{number}"
            had: Json = {"prevResult": json.loads(reply.read_bytes())} if reply.exists() else {}
            conf = self._folder / f"del.{number}.json"
            conf.write_text(json.dumps({**self._conf, **had}))
            files.append(str(conf))
        return self._rush("DEL", files)

    def _rush(self, verb: str, files: Sequence[str]) -> Rushed:
        runtime, agent = self._place.side.runtime, self._place.agent
        calls = [
            _call(self._program, runtime.environment(verb, who), file, self._folder / f"{verb}.{number}")
            for number, (who, file) in enumerate(zip(self._pods, files, strict=True))
        ]
        before = agent.cpu() if agent else 0.0
        with inside(self._place.netns):
            rushed = rush(calls)
        own = (agent.cpu() - before) / len(calls) if agent else 0.0
        return rushed._replace(cpu=rushed.cpu + own, agent=own)


def harness(number: int, folder: Path) -> Rushed:
    """The same with nothing to do: /bin/true."""
    folder.mkdir(parents=True, exist_ok=True)
    stdin = folder / "stdin"
    stdin.touch()
    return rush([_call("/bin/true", os.environ, str(stdin), folder / str(each)) for each in range(number)])


def _call(program: str, env: Mapping[str, str], stdin: str, output: Path) -> Call:
    return Call(program, env, stdin, str(output), str(output.with_name("stderr")))


def rush(calls: Sequence[Call], at_once: int = AT_ONCE) -> Rushed:
    """Run them all, so many at a time. Raises PluginError for the first that failed, BenchError when they hang."""
    waiting = iter(calls)
    running: dict[int, Call] = {}
    ended: list[tuple[Call, int, float]] = []
    with _limit(LONGEST), _nobody_left(running):
        begin = time.perf_counter()
        while True:
            while len(running) < at_once and (call := next(waiting, None)):
                running[_spawn(call)] = call
            if not running:
                break
            pid, status, usage = os.wait4(-1, 0)
            if pid not in running:
                raise BenchError("the agent ended while it was measured")
            ended.append((running.pop(pid), status, usage.ru_utime + usage.ru_stime))
        seconds = time.perf_counter() - begin
    for call, status, _ in ended:
        if status:
            reply = Reply(
                os.waitstatus_to_exitcode(status), Path(call.output).read_bytes(), Path(call.errors).read_text()
            )
            raise PluginError(call.env.get("CNI_COMMAND", "start"), call.program, reply)
    return Rushed(len(calls) / seconds, mean(cpu for *_, cpu in ended) * 1000)


def _spawn(call: Call) -> int:
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, call.stdin, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, call.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, call.errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
    ]
    return os.posix_spawn(call.program, [call.program], call.env, file_actions=actions)


@contextmanager
def _nobody_left(running: Mapping[int, Call]) -> Iterator[None]:
    try:
        yield
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Main thread only: a signal ends the wait."""

    def late(*_: object) -> None:
        raise BenchError(f"they did not all end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
