"""IPAM with few and with many addresses in use: in process, as the executable `host-local`, and by the reference.

A pool is a /16 whose addresses in use are spread at random, the same for both sides, in files as the reference
writes them. Ours therefore begins by adopting what another implementation left, and is told apart from what follows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from scripts.lib.bench.report import Goal, Report, Series, ratio, timed
from scripts.lib.bench.spawn import Cost, Side, interleave
from scripts.lib.bench.world import REPO, VERSION, Bench, attachment
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import Attachment, Network

IN_USE = (0, 1_000, 10_000, 60_000)
PREFIX = "10.77"
RATIO = 1.5
WORKER = Path(__file__).with_name("ipam_worker.py")


def ipam(bench: Bench) -> None:
    """Allocate and release, on pools of a /16 that differ in nothing but what is in use."""
    for kind in ("ours", "reference"):
        (bench.state / kind).mkdir()
    for count in IN_USE:
        fill(bench.state / "ours" / pool(count), addresses(count))
        copy(bench.state / "ours" / pool(count), bench.state / "reference" / pool(count))
    _in_process(bench)
    _executable(bench)


def pool(count: int) -> str:
    return f"used-{count}"


def addresses(count: int) -> list[str]:
    """So many addresses of the pool, spread at random but always the same; network, gateway, broadcast left out."""
    numbers = Random(count).sample(range(2, (1 << 16) - 1), count)
    return [f"{PREFIX}.{number >> 8}.{number & 255}" for number in numbers]


def fill(directory: Path, used: list[str]) -> None:
    """Leases as the reference host-local writes them."""
    directory.mkdir()
    where = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, address in enumerate(used):
            fd = os.open(address, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=where)
            os.write(fd, f"used{number:060x}\r\neth0".encode())
            os.close(fd)
    finally:
        os.close(where)


def copy(source: Path, target: Path) -> None:
    """The same leases once more, as second names of the same files: neither side ever writes into one."""
    target.mkdir()
    for entry in os.scandir(source):
        os.link(entry.path, target / entry.name)


def _in_process(bench: Bench) -> None:
    if not bench.python.exists():
        bench.report.skipped.append(("ipam", f"in process: {bench.python} is not there (scripts/build makes it)"))
        return
    rounds = str(10 * bench.rounds)
    pools = [pool(count) for count in IN_USE]
    output = namespaces.run(
        [str(bench.python), "-P", str(WORKER), str(REPO), f"{bench.state}/ours", f"{PREFIX}.0.0/16", rounds, *pools],
        timeout=600,
    )
    found: dict[str, dict[str, list[float]]] = json.loads(output)
    for count in IN_USE:
        pairs = tuple(map(sum, zip(found[pool(count)]["allocate"], found[pool(count)]["release"], strict=True)))
        against = _row("in process", 0) if count else ""
        bench.report.add(Series("ipam", _row("in process", count), "ms", pairs, against))
    first = ", ".join(f"{found[pool(count)]['adopt'][0]:.1f} ms for {count:,}" for count in IN_USE)
    bench.report.remarks.append(("ipam", f"in process = allocate + release; adopting foreign leases, once: {first}"))
    _goal(bench.report, "in process")


def _executable(bench: Bench) -> None:
    sides = {("ours", count): _side(bench, "ours", count) for count in IN_USE}
    if bench.reference:
        sides |= {("reference", count): _side(bench, "reference", count) for count in IN_USE}
    who = attachment(bench, 0)
    found = interleave(
        {f"{kind} {count}": _pair(side, who) for (kind, count), side in sides.items()}, bench.rounds
    )
    for index, verb in enumerate(("ADD", "DEL")):
        for kind, count in sides:
            costs = [pair[index] for pair in found[f"{kind} {count}"]]
            against = _row(f"{verb}, {kind}", 0)
            bench.report.add(timed("ipam", _row(f"{verb}, {kind}", count), costs, against))
    _goal(bench.report, "ADD, ours")
    _goal(bench.report, "DEL, ours")


def _goal(report: Report, what: str) -> None:
    rows = {each.name: each for each in report.of("ipam")}
    most = ratio(rows[_row(what, IN_USE[-1])], rows[_row(what, 0)])
    report.goals.append(Goal("ipam", f"{what}: {IN_USE[-1]:,} in use against none", most, RATIO, now=True))


def _row(what: str, count: int) -> str:
    return f"{what}: {count:,} in use"


def _side(bench: Bench, kind: str, count: int) -> Side:
    """The executable called `host-local`, as a main plugin would delegate to it."""
    conf = {"type": "host-local", "dataDir": str(bench.state / kind), "ranges": [[{"subnet": f"{PREFIX}.0.0/16"}]]}
    network = Network(pool(count), VERSION, ({"type": "host-local", "ipam": conf},))
    return bench.side(network, reference=kind == "reference")


def _pair(side: Side, who: Attachment) -> Callable[[], tuple[Cost, Cost]]:
    return lambda: side.add_and_delete(who)
