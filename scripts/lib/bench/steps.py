"""Where the time of an ADD and of a DEL goes with an agent, step by step, with the floor beside it.

The whole is what a runtime waits for; the client's start and end is the client run for nothing; the agent's steps are
what it says of the very same requests; what is left is the way between the two. All are medians. The floor
is the same request served in one process, where only the time inside of system calls counts: nothing that we
write can be quicker than that. strace(1) shows the client's own events, in their order; it slows what it traces.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

from scripts.lib.bench.agent import RESIDENTS, STEPS, Place, Served, ours
from scripts.lib.bench.report import number
from scripts.lib.bench.spawn import Cost, conf_bytes, expect, interleave, run
from scripts.lib.bench.world import REPO, Bench, BenchError, attachment, inside
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import Attachment, Json

VERBS = ("ADD", "DEL")
KINDS = ("netlink", "nft", "files", "namespaces", "packets")
WORKER = Path(__file__).with_name("floor_worker.py")
TRACES = 7
TRACED = "execve,connect,sendmsg,recvfrom,write,exit_group"
LINE = re.compile(r"^(?P<pid>\d+) +(?P<time>\d+\.\d+) (?P<call>\w+)\((?P<rest>.*)$")


class Round(NamedTuple):
    """One request: what it cost, and what the agent says of it."""

    cost: Cost
    agent: Served


class Event(NamedTuple):
    """A traced call of the client: seconds since the first, its name and what stood after that."""

    at: float
    call: str
    rest: str


def steps(bench: Bench) -> list[str]:
    """The lines of `--profile` that are about the agent."""
    who = attachment(bench, RESIDENTS)
    with ExitStack() as stack:
        place = ours(bench, stack, "steps", "10.89.0.0/16")
        place.add(attachment(bench, 0))
        stack.callback(place.delete, attachment(bench, 0))
        turns = {"pair": lambda: _pair(place, who), "client": lambda: _client(bench)}
        found = interleave(turns, 2 * bench.rounds)
        pairs = cast(list[dict[str, Round]], found["pair"])
        alone = median(each.wall for each in cast(list[Cost], found["client"]))
        floor = _floor(bench, place, who)
        lines = _table({verb: [each[verb] for each in pairs] for verb in VERBS}, alone, floor)
        for verb in VERBS:
            lines += ["", *_timeline(bench, place, who, verb)]
    return lines


def _pair(place: Place, who: Attachment) -> dict[str, Round]:
    return {"ADD": _round(place, place.add(who)), "DEL": _round(place, place.delete(who))}


def _round(place: Place, cost: Cost) -> Round:
    assert place.agent
    return Round(cost, place.agent.last())


def _client(bench: Bench) -> Cost:
    return expect(run([str(bench.plugin)], env={}), "the client")


def _table(
    rounds: Mapping[str, Sequence[Round]], alone: float, floor: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """One column for each verb, in milliseconds."""
    rows: dict[str, list[float]] = {"client: start-up to main, and the end": [alone] * len(rounds)}
    between = "client: connect, greeting, request, reply"
    rows[between] = [median(each.cost.wall - each.agent.ms for each in all_) - alone for all_ in rounds.values()]
    for step in STEPS:
        rows[f"agent: {step}"] = [
            median(each.agent.steps.get(step, 0.0) for each in all_) for all_ in rounds.values()
        ]
    rows["the whole"] = [median(each.cost.wall for each in all_) for all_ in rounds.values()]
    if floor:
        rows["floor: kernel only"] = [sum(floor[verb].get(kind, 0.0) for kind in KINDS) for verb in rounds]
        for kind in KINDS:
            rows[f"  of it {kind}"] = [floor[verb].get(kind, 0.0) for verb in rounds]
    count = len(next(iter(rounds.values())))
    head = f"With an agent, milliseconds, medians of {count}"
    lines = [f"{head:46}" + "".join(f"{verb:>9}" for verb in rounds)]
    lines += [f"  {name:44}" + "".join(f"{number(each):>9}" for each in row) for name, row in rows.items()]
    return lines if floor else [*lines, "  skipped: the floor (scripts/build makes the interpreter it needs)"]


def _conf(place: Place) -> Json:
    network = place.side.network
    return {**network.plugins[0], "name": network.name, "cniVersion": network.version}


def _floor(bench: Bench, place: Place, who: Attachment) -> dict[str, dict[str, float]]:
    """Milliseconds inside of system calls by verb and kind: medians. {} without an interpreter for it."""
    if not bench.python.exists() or not place.agent:
        return {}
    conf = bench.state / "floor.json"
    conf.write_text(json.dumps(_conf(place)))
    argv = [str(bench.python), "-P", str(WORKER), str(REPO), place.agent.run_dir, str(conf), who.netns, who.container]
    output = namespaces.run([*argv, str(2 * bench.rounds)], netns=place.netns, timeout=120)
    found: dict[str, list[dict[str, float]]] = json.loads(output)
    return {
        verb: {kind: median(each.get(kind, 0.0) for each in rows) for kind in KINDS} for verb, rows in found.items()
    }


def _timeline(bench: Bench, place: Place, who: Attachment, verb: str) -> list[str]:
    title = f"The client of one {verb}, under strace, the quickest of {TRACES}"
    strace = shutil.which("strace")
    if not strace:
        return [title, "  skipped: there is no strace (apt-get install strace)"]
    runtime, log = place.side.runtime, bench.state / "strace.log"
    argv = [strace, "-f", "--seccomp-bpf", "-ttt", "-s", "32", "-e", f"trace={TRACED}", "-o", str(log)]
    argv.append(str(runtime.find(str(place.side.network.plugins[0]["type"]))))
    traces: list[tuple[float, str, Round]] = []
    for _ in range(TRACES):
        if verb == "DEL":
            place.add(who)
        with inside(place.netns):
            ran = run(argv, env=runtime.environment(verb, who), stdin=conf_bytes(_conf(place)))
        traces.append((expect(ran, "the traced client").wall, log.read_text(), _round(place, ran.cost)))
        if verb == "ADD":
            place.delete(who)
    wall, trace, served = min(traces, key=lambda each: each[0])
    return [title, *describe(client_events(trace), wall, served)]


def client_events(trace: str) -> list[Event]:
    """The calls in a log of `strace -f -ttt`, their time counted from the first."""
    matches = [match for match in map(LINE.match, trace.splitlines()) if match]
    begin = float(matches[0]["time"]) if matches else 0.0
    return [Event(float(each["time"]) - begin, each["call"], each["rest"]) for each in matches]


def describe(events: Sequence[Event], wall: float, served: Round) -> list[str]:
    """Start and length of each stretch of the client, the agent's steps inside of the one that waits for it."""
    marks = list(_marks(events))
    ends = [at for at, _ in marks[1:]] + [wall / 1000]
    lines = []
    for (at, what), end in zip(marks, ends, strict=True):
        lines.append(f"  {at * 1000:8.1f} ms  {(end - at) * 1000:7.1f} ms  {what}")
        if what.startswith("request"):
            told = ", ".join(f"{name} {number(served.agent.steps.get(name, 0.0))}" for name in STEPS)
            lines.append(f"{'':26}the agent's {number(served.agent.ms)} ms of it: {told}")
    return lines


def _marks(events: Sequence[Event]) -> list[tuple[float, str]]:
    """What begins when. Raises BenchError for a client that did not ask the agent."""
    execs = _times(events, "execve")
    connects, requests, ends = (_times(events, call) for call in ("connect", "sendmsg", "exit_group"))
    if not (execs and connects and requests and ends):
        raise BenchError("the client did not ask the agent: its trace has no connect, no request or no end")
    written = [at for at in _times(events, "write") if at > requests[0]]  # none for a reply of no bytes
    return [
        (execs[0], "the loader" if len(execs) > 1 else "the interpreter, main() until connect()"),
        *((at, "the loader again, the interpreter, main() until connect()") for at in execs[1:2]),
        (connects[0], "connect, greeting"),
        (requests[0], "request sent, reply awaited"),
        *((at, "reply to stdout, taking down") for at in written[:1]),
        (ends[0], "exit until reaped (and strace's own start)"),
    ]


def _times(events: Sequence[Event], call: str) -> list[float]:
    return [each.at for each in events if each.call == call]
