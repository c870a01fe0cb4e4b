"""The cost of one more pod on a node that has few and on one that is nearly full, and what a full one says.

Two nodes, so that both are measured by turns. A Linux bridge holds 1,023 ports (BR_MAX_PORTS, net/bridge/br_private.h:
port numbers have 10 bits and 0 is none).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from scripts.lib.bench.agent import STEPS, Place, Served, ours
from scripts.lib.bench.report import Goal, compare, number, timed
from scripts.lib.bench.rush import Crowd
from scripts.lib.bench.spawn import Cost, interleave
from scripts.lib.bench.world import Bench, attachment, inside
from scripts.lib.lab.runtime import Attachment, Network, PluginError

FEW, MANY, PORTS = 9, 999, 1023
LIMIT = 1.2
SETTLE, QUICK_SETTLE = 20.0, 2.0
"""Seconds after which the pods are calmer: each asks for an IPv6 router when it comes, and less and less often then
(RFC 7559), and every such packet goes to every port of the bridge."""
STATUS_SINCE = "1.1.0"


def density(bench: Bench) -> None:
    """One pod comes and goes on each of two nodes by turns; then the bridge is filled."""
    bench.pod(FEW + PORTS + 2)
    pods = [attachment(bench, number) for number in range(FEW + PORTS + 2)]
    sparse_pods, few_more, dense_pods, last = pods[:FEW], pods[FEW], pods[FEW + 1 : -1], pods[-1]
    with ExitStack() as stack:
        sparse = ours(bench, stack, "density-s", "10.86.0.0/16")
        dense = ours(bench, stack, "density-d", "10.87.0.0/16")
        _fill(stack, sparse, sparse_pods)
        rate = _fill(stack, dense, dense_pods[:MANY])
        time.sleep(QUICK_SETTLE if bench.quick else SETTLE)
        seen: dict[str, list[Served]] = {"tenth": [], "thousandth": []}
        turns = {
            "tenth": _turn(sparse, few_more, seen["tenth"]), "thousandth": _turn(dense, last, seen["thousandth"])
        }
        found = interleave(turns, max(bench.rounds, 11))
        for index, verb in enumerate(("ADD", "DEL")):
            for name, pairs in found.items():
                row = timed("density", f"{verb} of the {name} pod", [pair[index] for pair in pairs],
                            f"{verb} of the tenth pod")
                bench.report.add(row)
        pair = ("ADD of the thousandth pod", "ADD of the tenth pod")
        compare(bench.report, Goal("density", "ADD of the thousandth pod against the tenth", 0, LIMIT, pair=pair))
        bench.report.remarks.append(("density", f"{MANY} pods came at {rate:.0f} a second"))
        for name, served in seen.items():
            told = ", ".join(f"{step} {number(median(each.steps.get(step, 0.0) for each in served))}" for step in STEPS)
            bench.report.remarks.append(("density", f"the agent's part of the {name} pod's ADD, in ms: {told}"))
        _fill(stack, dense, dense_pods[MANY:PORTS])
        _overflow(bench, dense, last)


def _fill(stack: ExitStack, place: Place, pods: Sequence[Attachment]) -> float:
    """Let them come, how many a second, and go with the stack."""
    crowd = Crowd(place, pods, Path("/run/crowd", f"{place.netns}-{len(pods)}"))
    stack.callback(crowd.delete)
    return crowd.add().rate


def _turn(place: Place, who: Attachment, seen: list[Served]) -> Callable[[], tuple[Cost, Cost]]:
    def both() -> tuple[Cost, Cost]:
        added = place.add(who)
        if place.agent:
            seen.append(place.agent.last())
        return added, place.delete(who)

    return both


def _overflow(bench: Bench, place: Place, one_more: Attachment) -> None:
    """What is said when no port is left: a remark, and a failure when one more pod is accepted in silence."""
    said = {"ADD": "accepted", "STATUS": "ready"}
    network = place.side.network
    try:
        place.add(one_more)
    except PluginError as error:
        said["ADD"] = f"code {error.code}: {error.msg}"
    try:
        with inside(place.netns):
            place.side.runtime.status(Network(network.name, STATUS_SINCE, network.plugins))
    except PluginError as error:
        said["STATUS"] = f"code {error.code}: {error.msg}"
    bench.report.remarks += [
        ("density", f"{verb} with {PORTS:,} pods on the bridge: {words}") for verb, words in said.items()
    ]
