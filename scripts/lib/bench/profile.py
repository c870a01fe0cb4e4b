"""Where the time of one ADD goes without an agent: between which events, before the first message in which imports.

The timeline is that of the built executable under strace(1), which slows each traced call down: few are traced (the
rest run at full speed thanks to seccomp), yet the whole is longer than an ADD alone. The imports are of the engine
from source, in the order of their own time; in the bundle they come from an archive and take a little less. Of
several runs the quickest is shown: in a timeline there is no median, and what others do to us only adds.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scripts.lib.bench import steps
from scripts.lib.bench.report import number
from scripts.lib.bench.spawn import Cost, Ran, Side, conf_bytes, expect, run
from scripts.lib.bench.world import Bench, attachment, network
from scripts.lib.lab.runtime import Attachment

RUNS = 7
TRACED = "execve,socket,sendto,sendmsg,flock,exit_group"
LINE = re.compile(r"^(?P<pid>\d+) +(?P<time>\d+\.\d+) (?P<call>\w+)\((?P<rest>.*)$")
IMPORT = re.compile(r"^import time: +(\d+) \| +(\d+) \| ( *)(\S+)$")


@dataclass(frozen=True)
class Event:
    """A traced call: seconds since the first, the process, the call and what stood after its name."""

    at: float
    pid: int
    call: str
    rest: str


def profile(bench: Bench) -> str:
    """The text of `--profile`: with an agent, then without. A pod is there already, as in the section `pod`."""
    with_agent = steps.steps(bench)
    side = bench.side(network(bench, "profile", ["10.85.0.0/16"], ipMasq=True))
    resident, who = attachment(bench, 0), attachment(bench, 1)
    side.add(resident)
    try:
        return "\n".join([*with_agent, "", *_timeline(bench, side, who), "", *_imports(bench, side, who)])
    finally:
        side.delete(resident)


def _timeline(bench: Bench, side: Side, who: Attachment) -> list[str]:
    title = ["Timeline of one ADD without an agent, by the built executable, under strace"]
    if not shutil.which("strace"):
        return [*title, "  skipped: there is no strace (apt-get install strace)"]
    log = bench.state / "strace.log"
    plugin = str(side.runtime.find(bench.plugin.name))
    strace = [str(shutil.which("strace")), "-f", "--seccomp-bpf", "-ttt", "-s", "32", "-e", f"trace={TRACED}"]
    traces: list[tuple[Cost, str]] = []
    for _ in range(RUNS):
        cost = expect(_request([*strace, "-o", str(log), plugin], side, who), "the traced ADD")
        side.delete(who)
        traces.append((cost, log.read_text()))
    cost, trace = min(traces)
    rows = [f"  {start:8.1f} ms  {ms:7.1f} ms  {what}" for start, ms, what in phases(events(trace))]
    alone = min(side.add_and_delete(who)[0] for _ in range(RUNS))
    return [
        *title, *rows, f"  with strace {number(cost.wall)} ms (cpu {number(cost.cpu)} ms), "
        f"without {number(alone.wall)} ms (cpu {number(alone.cpu)} ms)",
    ]


def _request(argv: Sequence[str], side: Side, who: Attachment) -> Ran:
    conf = {**side.network.plugins[0], "name": side.network.name, "cniVersion": side.network.version}
    return run(argv, env=side.runtime.environment("ADD", who), stdin=conf_bytes(conf))


def events(trace: str) -> list[Event]:
    """The calls of a log of `strace -f -ttt -o`, their time counted from the first."""
    matches = [match for match in map(LINE.match, trace.splitlines()) if match]
    begin = float(matches[0]["time"]) if matches else 0.0
    return [Event(float(m["time"]) - begin, int(m["pid"]), m["call"], m["rest"]) for m in matches]


def phases(trace: Sequence[Event]) -> list[tuple[float, float, str]]:
    """Start and duration in milliseconds of each stretch between two events that mean something."""
    marks = [(each.at * 1000, text) for each, text in _marks(trace)]
    ends = [*(at for at, _ in marks), *(each.at * 1000 for each in trace[-1:])][1:]
    return [(at, end - at, text) for (at, text), end in zip(marks, ends, strict=True)]


def _marks(trace: Sequence[Event]) -> Iterable[tuple[Event, str]]:
    """Each exec, the first lock, the first and the last word to the kernel, and the end."""
    for number_, each in enumerate(each for each in trace if each.call == "execve"):
        name = each.rest.split('"')[1].rpartition("/")[2] if '"' in each.rest else "?"
        yield each, f"exec {name}" + (" (the loader again, for the library path)" if number_ % 2 else "")
    engine = [each for each in trace if each.call == "execve"][-1:]
    after = [each for each in trace if engine and each.at > engine[0].at]
    sockets = [each for each in after if each.call == "socket" and "AF_NETLINK" in each.rest]
    sent = [each for each in after if each.call in ("sendto", "sendmsg")]
    if sockets:
        yield sockets[0], "first netlink socket: imports so far are done, the request is parsed"
    if sent:
        yield sent[-1], f"last of {len(sent)} messages to the kernel; then the reply and the end"


def _imports(bench: Bench, side: Side, who: Attachment) -> list[str]:
    title = ["Imports of the engine from source (python -X importtime), milliseconds of their own"]
    if not bench.python.exists():
        return [*title, f"  skipped: {bench.python} is not there (scripts/build makes it)"]
    argv = [str(bench.python), "-X", "importtime", "-I", "-m", "cni_plugin.agent", "--once", bench.plugin.name]
    runs: list[list[tuple[str, float]]] = []
    for _ in range(RUNS):
        ran = _request(argv, side, who)
        expect(ran, "the engine from source")
        side.delete(who)
        runs.append(imports(ran.reply.stderr))
    times = min(runs, key=lambda run: sum(ms for _, ms in run))
    groups = by_package(times)
    lines = [f"  {ms:7.1f}  {count:4}  {name}" for name, ms, count in groups[:12]]
    slowest = sorted(times, key=lambda each: -each[1])[:12]
    return [
        *title, f"  {sum(ms for _, ms in times):7.1f}  {len(times):4}  in all", *lines,
        "", "The slowest modules", *(f"  {ms:7.1f}  {name}" for name, ms in slowest),
    ]


def imports(text: str) -> list[tuple[str, float]]:
    """Module and milliseconds of its own, from what `-X importtime` writes to stderr."""
    matches = [match for match in map(IMPORT.match, text.splitlines()) if match]
    return [(match[4], int(match[1]) / 1000) for match in matches]


def by_package(times: Iterable[tuple[str, float]]) -> list[tuple[str, float, int]]:
    """Top-level package, milliseconds, number of modules; the most expensive first, the standard library as one."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, ms in times:
        top = name.partition(".")[0]
        found["the standard library" if top in sys.stdlib_module_names else top].append(ms)
    return sorted(((name, sum(each), len(each)) for name, each in found.items()), key=lambda row: -row[1])

