"""The in-process half of the IPAM benchmark, for the interpreter that has Tulle's dependencies.

    python -P ipam_worker.py REPO DATADIR SUBNET ROUNDS POOL...

Allocates and releases in each pool by turns and prints the milliseconds as JSON. Each operation is by an Allocator
of its own, as in a plugin, of which every request is a process: nothing is remembered in memory between two.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.allocator import Allocator

MakeAllocator = Callable[[], "Allocator"]


def main(arguments: list[str]) -> int:
    repo, data_dir, subnet, rounds, *pools = arguments
    sys.path.insert(0, repo)
    allocators = {name: _maker(data_dir, name, subnet) for name in pools}
    times: dict[str, dict[str, list[float]]] = {
        name: {"adopt": [sum(_pair(make))], "allocate": [], "release": []} for name, make in allocators.items()
    }
    for turn in range(int(rounds)):
        for name in pools[turn % len(pools) :] + pools[: turn % len(pools)]:
            allocated, released = _pair(allocators[name])
            times[name]["allocate"].append(allocated)
            times[name]["release"].append(released)
    json.dump(times, sys.stdout)
    return 0


def _maker(data_dir: str, network: str, subnet: str) -> MakeAllocator:
    from ipam.allocator import Allocator
    from ipam.ranges import parse

    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return lambda: Allocator(data_dir, network, parse({"ranges": [[{"subnet": subnet}]]}), boot_id=boot)


def _pair(make: MakeAllocator) -> tuple[float, float]:
    """Milliseconds of an allocation and of the release after it, each with the making of its allocator."""
    from ipam.store import Owner

    owner = Owner("in-process", "eth0")
    start = time.perf_counter()
    make().allocate(owner)
    between = time.perf_counter()
    make().release(owner)
    return (between - start) * 1000, (time.perf_counter() - between) * 1000


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
