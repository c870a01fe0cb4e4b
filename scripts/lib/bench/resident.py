"""What an agent takes that has nothing to do: memory, and processor time.

Three agents stand side by side on nodes of their own: one has no pods, two have many, and one of these has metrics
switched on. They are looked at over the same time, which is as long as the interval of the reconcile loop, so that
it holds one look at everything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from scripts.lib.bench.agent import Agent, ours
from scripts.lib.bench.report import Goal, Series
from scripts.lib.bench.rush import Crowd
from scripts.lib.bench.world import Bench, attachment

PODS = 500
IDLE_MIB, FULL_MIB, IDLE_PERCENT = 60, 80, 0.1
KINDS: Mapping[str, Mapping[str, object]] = {"": {}, ", metrics on": {"metrics": "127.0.0.1:9472"}}
INTERVAL, QUICK_INTERVAL = 60.0, 5.0
"""Seconds: the first is the agent's default."""
SETTLE = 2.0
"""Seconds after which what an ADD set off is over: events are acted on within 150 ms, IPv6 addresses take a second."""


def resident(bench: Bench) -> None:
    """Idle, with pods, and when they are gone."""
    seconds = QUICK_INTERVAL if bench.quick else INTERVAL
    bench.pod(len(KINDS) * PODS)
    agents: dict[str, Agent] = {}
    crowds: list[Crowd] = []
    with ExitStack() as stack:
        for number, (kind, settings) in enumerate(KINDS.items()):
            place = ours(bench, stack, f"res{number}", "10.88.0.0/16", interval=seconds, **settings)
            pods = [attachment(bench, number * PODS + each) for each in range(PODS)]
            crowds.append(Crowd(place, pods, Path("/run/crowd", place.netns)))
            if place.agent:
                agents[kind] = place.agent
        bare = ours(bench, stack, "bare", "10.88.0.0/16", interval=seconds).agent
        _memory(bench, agents, "idle")
        for crowd in crowds:
            crowd.add()
        _memory(bench, agents, f"{PODS} pods")
        everybody = {f"{PODS} pods: processor{kind}": each for kind, each in agents.items()}
        if bare:
            everybody["idle: processor"] = bare
        for name, percent in _busy(everybody, seconds).items():
            bench.report.add(Series("resident", name, "%", (percent,)))
        for crowd in crowds:
            crowd.delete()
        _memory(bench, agents, f"{PODS} pods gone")
    _goal(bench, "idle: resident", IDLE_MIB, "MiB")
    _goal(bench, f"{PODS} pods: resident", FULL_MIB, "MiB")
    if bench.quick:
        bench.report.skipped.append(("resident", "processor time at the default interval takes a minute to see"))
    else:
        _goal(bench, "idle: processor", IDLE_PERCENT, "%")
        _goal(bench, f"{PODS} pods: processor", IDLE_PERCENT, "%")
    bench.report.remarks.append(("resident", f"processor: over {seconds:g} s, with one look at everything in them"))


def _goal(bench: Bench, name: str, limit: float, unit: str) -> None:
    if row := bench.report.find("resident", name):
        text = f"agent, {name} {'memory' if unit == 'MiB' else 'time'}"
        memory = unit == "MiB"  # the same on every machine, busy or not
        bench.report.goals.append(
            Goal("resident", text, row.median, limit, unit, now=memory, strictly=not memory, pair=(name,))
        )


def _memory(bench: Bench, agents: Mapping[str, Agent], when: str) -> None:
    time.sleep(SETTLE)
    for kind, agent in agents.items():
        bench.report.add(Series("resident", f"{when}: resident{kind}", "MiB", (agent.memory("Rss"),)))
        bench.report.add(Series("resident", f"{when}: its share (PSS){kind}", "MiB", (agent.memory("Pss"),)))


def _busy(agents: Mapping[str, Agent], seconds: float) -> dict[str, float]:
    """Percent of one processor, each over the same time."""
    before = {kind: agent.cpu() for kind, agent in agents.items()}
    begin = time.perf_counter()
    time.sleep(seconds)
    milliseconds = (time.perf_counter() - begin) * 1000
    return {kind: (agent.cpu() - before[kind]) / milliseconds * 100 for kind, agent in agents.items()}
