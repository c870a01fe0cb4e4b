"""What somebody breaks on a node, and how soon the agent has put it right.

The node has peers in a file and no pods. Its agent's next look at everything is an hour away: what is put right is so
because the kernel told of it. Measured is from the end of the command that breaks something until the kernel's tables
are, by `ip` and `bridge`, what they were.
"""

from __future__ import annotations

import time
from pathlib import Path

from scripts.lib.bench.agent import agent
from scripts.lib.bench.converge import await_peers
from scripts.lib.bench.converge_sources import InFile, uplink
from scripts.lib.bench.report import Goal, Series
from scripts.lib.bench.world import Bench, BenchError
from scripts.lib.lab import namespaces

DEVICE = "tulle.1"
PEERS = 50
LIMIT_SECONDS = 1
PATIENCE = 60.0
ROUNDS = 2
"""What breaks again and again within a minute is left alone for a while after the fifth time."""
DAMAGES = {
    "device deleted": f"link del {DEVICE}",
    "its MAC changed": f"link set {DEVICE} address 02:00:00:00:00:99",
    "its neighbours flushed": f"neigh flush dev {DEVICE} nud permanent",
    "routes flushed": "route flush proto 84",
}


def mend(bench: Bench) -> None:
    """Each damage some times, one after the other."""
    folder = bench.state / "mend"
    folder.mkdir()
    cluster = InFile(folder)
    cluster.put(PEERS)
    uplink("mend")
    with agent(bench, "mend", node="node0", source=cluster.source, interval=3600) as running:
        await_peers(Path(running.run_dir), PEERS - 1)
        before = _tables("mend")
        for what, command in DAMAGES.items():
            taken = tuple(_mended("mend", command, before) for _ in range(ROUNDS))
            row = bench.report.add(Series("mend", what, "ms", taken))
            goal = Goal("mend", what, row.median / 1000, LIMIT_SECONDS, "s", strictly=True, pair=(what,))
            bench.report.goals.append(goal)


def _mended(netns: str, command: str, before: list[str]) -> float:
    """Milliseconds until all is as before. Raises BenchError when it never is."""
    namespaces.ip(netns, command)
    begin = time.monotonic()
    while _tables(netns) != before:
        if time.monotonic() - begin > PATIENCE:
            raise BenchError(f"not put right within {PATIENCE:g} s: ip {command}")
    return (time.monotonic() - begin) * 1000


def _tables(netns: str) -> list[str]:
    """The device and all entries for peers."""
    words = (
        f"ip -o link show {DEVICE}", "ip route show proto 84", f"ip neigh show dev {DEVICE}",
        f"bridge fdb show dev {DEVICE}",
    )
    shown = [namespaces.attempt(each.split(), netns=netns).stdout for each in words]
    lines = [line.partition(": ")[2] or line for line in "".join(shown).splitlines()]  # without the device's number
    return sorted(lines)
