"""The price of an address does not depend on how many are in use, nor the package's import on what it rarely needs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest

import ipam
from ipam.spares import PLACES
from tests.pace import cheaper
from tests.unit.ipam.world import Network, count_calls, pod

IN_USE = 60_000
WIDE: dict[str, object] = {"subnet": "10.0.0.0/16"}


@pytest.fixture
def full_and_empty(quick_path: Path) -> tuple[Network, Network]:
    """A network with 60,000 addresses in use, taken over from the reference, and one with none."""
    full, empty = Network(quick_path / "full", dict(WIDE)), Network(quick_path / "empty", dict(WIDE))
    full.path.mkdir(parents=True)
    first = int(IPv4Address("10.0.0.2"))
    for n in range(IN_USE):
        with (full.path / str(IPv4Address(first + n))).open("w") as lease:
            lease.write(f"c{n}\r\neth0")
    for network in (full, empty):
        network.add("warm")
    return full, empty


def test_sixty_thousand_addresses_in_use_cost_nothing(full_and_empty: tuple[Network, Network]) -> None:
    full, empty = full_and_empty
    assert full.allocator().usage()[0].used == IN_USE + 1
    for verb in ("allocate", "release", "find", "usage"):
        calls = [count_calls(_operation(network, verb, pod("x"))) for network in (empty, full)]
        assert calls[0] == calls[1], f"{verb}: system calls with 0 and with {IN_USE} in use"
    times: dict[tuple[str, int], list[float]] = {}
    for n in range(150):  # In turns, so that whatever else this machine does hits both alike.
        for which, network in enumerate((empty, full)):
            for verb in ("allocate", "release"):
                operation = _operation(network, verb, pod(f"t{n}"))
                start = time.perf_counter()
                operation()
                times.setdefault((verb, which), []).append(time.perf_counter() - start)
    for verb in ("allocate", "release"):
        none, many = (min(times[verb, which]) for which in (0, 1))
        cheaper(many, 3 * none, f"{verb}: {none * 1e6:.0f} µs with none in use, {many * 1e6:.0f} with {IN_USE}")


def _operation(network: Network, verb: str, owner: object) -> Callable[[], object]:
    method = getattr(network.allocator(), verb)
    return method if verb == "usage" else lambda: method(owner)


def test_the_number_of_pods_ever_seen_leaves_nothing_behind_but_some_spare_files(network: Network) -> None:
    def files() -> list[str]:
        return sorted(str(f) for f in network.path.rglob("*") if not f.name.startswith("spare."))

    network.add("a")
    network.allocator().release(pod("a"))
    before = files()
    for n in range(300):
        network.add(n)
        network.allocator().release(pod(n))
    assert files() == before
    assert len(list(network.path.rglob("spare.*"))) <= PLACES


IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import ipaddress, msgspec
before = set(sys.modules)
import ipam.allocator
print(*sorted(m for m in set(sys.modules) - before if m.partition(".")[0] != "ipam"))
"""


def test_the_package_imports_almost_nothing() -> None:
    """The plugin starts once a pod: what the IPAM imports is paid each time."""
    root = Path(next(iter(ipam.__path__))).parent
    done = subprocess.run([sys.executable, "-I", "-c", IMPORTS, str(root)], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"fcntl", "errno", "zlib"}, "neither CNI nor netaddr, json, hashlib, pathlib"
