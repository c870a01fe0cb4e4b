"""A node of a large cluster that changes: what following it costs, from the source's word to the kernel.

A node is a network namespace with one end of a veth pair; the other nodes exist in the source only, which is all that
following them takes. `converge_worker` is the agent's loop, source and membership with the netlink messages
counted; memory is that of the real agent. Sources are the real ones: a file, and a real Kubernetes API where there is
one to be had ($KUBEBUILDER_ASSETS, ../shared/kube or PATH).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import IO, NamedTuple, cast

from scripts.lib.bench.agent import agent
from scripts.lib.bench.converge_sources import Cluster, InFile, kubernetes, uplink
from scripts.lib.bench.report import Goal, Series
from scripts.lib.bench.world import REPO, Bench, BenchError, inside
from scripts.lib.lab import namespaces
from scripts.lib.lab.kube_parts import lacks
from scripts.lib.lab.topology import LabError

SIZES = (1_000, 5_000)
NOTHING_SECONDS, CHANGE_MS, LOOK_SECONDS, MEMORY_MIB, HEARD_SECONDS = 2, 50, 1, 100, 1
"""The limits: all peers from nothing, one change among them, putting all back, the agent, from the source's word on."""
ROUNDS, QUICK_ROUNDS = 20, 6
PATIENCE = 60.0
_serial = iter(range(1_000))


class Pass(NamedTuple):
    """One pass of the loop. `at`: time.monotonic() at its end; `received`: messages of the kernel."""

    at: float
    ms: float
    cpu: float
    sent: int
    received: int
    nodes: int
    operations: int
    problems: list[str]


class Node:
    """A worker on a node of its own."""

    def __init__(self, bench: Bench, cluster: Cluster) -> None:
        self.netns = f"scale{next(_serial)}"
        uplink(self.netns)
        cluster.reach(self.netns)
        run_dir, conf = f"/run/{self.netns}", bench.state / f"{self.netns}.json"
        conf.write_text(json.dumps({"node": "node0", "source": cluster.source, "interval": 3600}))
        words = [bench.python, "-P", REPO / "scripts/lib/bench/converge_worker.py", conf, run_dir]
        self._log = bench.state / f"{self.netns}.log"
        with inside(self.netns), self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, env={**os.environ, "PYTHONPATH": str(REPO)},
            )
        self._passes: Queue[Pass] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        """End it."""
        cast(IO[str], self._process.stdin).close()
        self._process.wait(PATIENCE)

    def until(self, wanted: Callable[[Pass], bool], what: str) -> list[Pass]:
        """The passes up to one that is wanted, and those that it sets off. Raises BenchError."""
        found: list[Pass] = []
        deadline = time.monotonic() + PATIENCE
        while not found or not wanted(found[-1]):
            try:
                found.append(self._passes.get(timeout=max(0.0, deadline - time.monotonic())))
            except Empty:
                said = [*(each for one in found for each in one.problems), self._log.read_text()[-500:]]
                raise BenchError(f"not within {PATIENCE:g} s: {what}: {said}") from None
        return found + self.rest()

    def rest(self) -> list[Pass]:
        """What follows within three of the loop's longest delays."""
        time.sleep(0.5)
        found: list[Pass] = []
        while not self._passes.empty():
            found.append(self._passes.get())
        return found

    def _read(self) -> None:
        for line in cast(IO[str], self._process.stdout):
            self._passes.put(Pass(**json.loads(line)))


def scale(bench: Bench) -> None:
    """Each size by a file; the smaller one by a real Kubernetes API as well."""
    for size in SIZES[:1] if bench.quick else SIZES:
        folder = bench.state / f"file{size}"
        folder.mkdir()
        _measure(bench, InFile(folder), f"{size:,} in a file", size)
    if bench.quick:
        bench.report.skipped.append(("scale", "5,000 nodes, and a Kubernetes API, take a minute"))
    elif why := lacks():
        bench.report.skipped.append(("scale", f"a Kubernetes API: {why}"))
    else:
        try:
            with kubernetes("scale") as cluster:
                _measure(bench, cluster, f"{SIZES[0]:,} in Kubernetes", SIZES[0])
        except LabError as error:
            raise BenchError(str(error)) from error


def _measure(bench: Bench, cluster: Cluster, name: str, size: int) -> None:
    cluster.put(size)
    node = Node(bench, cluster)
    try:
        _from_nothing(bench, node, name, size)
        _changes(bench, cluster, node, name, size)
        _put_back(bench, node, name, size)
    finally:
        node.close()
    _memory(bench, cluster, name, size)


def _from_nothing(bench: Bench, node: Node, name: str, size: int) -> None:
    passes = node.until(partial(_follows, size), f"{size} nodes are followed")
    (first,) = [each for each in passes if each.nodes]
    if first.operations < 3 * (size - 1):
        raise BenchError(f"{first.operations} operations for {size} nodes: {first.problems}")
    row = f"{name}: from nothing"
    bench.report.add(Series("scale", row, "ms", (first.ms,), cpu=(first.cpu,)))
    bench.report.add(Series("scale", f"{row}, requests", "", (float(first.sent),)))
    if size == SIZES[0]:
        goal = Goal("scale", row, first.ms / 1000, NOTHING_SECONDS, "s", strictly=True, pair=(row,))
        bench.report.goals.append(goal)


def _changes(bench: Bench, cluster: Cluster, node: Node, name: str, size: int) -> None:
    """One node joins and leaves by turns; also what such a change sets off in later passes counts."""
    clock: list[float] = []
    cpu: list[float] = []
    whole: list[float] = []
    sent: list[float] = []
    received: list[float] = []
    for number in range(QUICK_ROUNDS if bench.quick else ROUNDS):
        node.rest()
        change, wanted = (cluster.leave, size) if number % 2 else (cluster.join, size + 1)
        begin = time.monotonic()
        change()
        passes = node.until(partial(_follows, wanted), f"{wanted} nodes are followed")
        done = next(each for each in passes if each.nodes)
        clock.append(done.ms)
        cpu.append(done.cpu)
        whole.append((done.at - begin) * 1000)
        sent.append(sum(each.sent for each in passes))
        received.append(sum(each.received for each in passes))
    row, heard = f"{name}: one change", f"{name}: source to kernel"
    bench.report.add(Series("scale", row, "ms", tuple(clock), cpu=tuple(cpu)))
    bench.report.add(Series("scale", heard, "ms", tuple(whole)))
    bench.report.add(Series("scale", f"{row}, requests", "", tuple(sent)))
    bench.report.add(Series("scale", f"{row}, replies", "", tuple(received)))
    found = {each.name: each.median for each in bench.report.of("scale")}
    if size == SIZES[0]:
        bench.report.goals.append(Goal("scale", row, found[row], CHANGE_MS, "ms", strictly=True, pair=(row,)))
    goal = Goal("scale", heard, found[heard] / 1000, HEARD_SECONDS, "s", strictly=True, pair=(heard,))
    bench.report.goals.append(goal)


def _follows(nodes: int, each: Pass) -> bool:
    return each.nodes == nodes


def _put_back(bench: Bench, node: Node, name: str, size: int) -> None:
    """Somebody flushes all routes; the agent finds out what is missing."""
    node.rest()
    namespaces.run(["ip", "route", "flush", "proto", "84"], netns=node.netns)
    passes = node.until(lambda each: each.operations > 0, "flushed routes are put back")
    done = sum(each.operations for each in passes)
    if done < size - 1:
        raise BenchError(f"{done} of {size - 1} routes were put back")
    spent = [each for each in passes if each.operations]
    row = f"{name}: routes put back"
    series = Series("scale", row, "ms", (sum(each.ms for each in spent),), cpu=(sum(each.cpu for each in spent),))
    bench.report.add(series)
    if size == SIZES[0]:
        goal = Goal("scale", row, series.median / 1000, LOOK_SECONDS, "s", strictly=True, pair=(row,))
        bench.report.goals.append(goal)


def _memory(bench: Bench, cluster: Cluster, name: str, size: int) -> None:
    netns = f"scale{next(_serial)}"
    uplink(netns)
    cluster.reach(netns)
    with agent(bench, netns, node="node0", source=cluster.source) as running:
        await_peers(Path(running.run_dir), size - 1)
        cluster.join()  # what following changes takes, too
        time.sleep(2)
        cluster.leave()
        time.sleep(2)
        row = f"{name}: agent, resident"
        bench.report.add(Series("scale", row, "MiB", (running.memory("Rss"),)))
        bench.report.add(Series("scale", f"{name}: agent, its share (PSS)", "MiB", (running.memory("Pss"),)))
    found = next(each for each in bench.report.of("scale") if each.name == row)
    bench.report.goals.append(Goal("scale", row, found.median, MEMORY_MIB, "MiB", now=True, pair=(row,)))


def await_peers(run_dir: Path, peers: int) -> None:
    """Wait until the agent follows so many. Raises BenchError when it never does."""
    deadline = time.monotonic() + PATIENCE
    facts = run_dir / "clusters" / "tulle"
    while not facts.exists() or json.loads(facts.read_text())["peers"] != peers:
        if time.monotonic() > deadline:
            raise BenchError(f"the agent does not follow {peers} peers within {PATIENCE:g} s")
        time.sleep(0.05)
