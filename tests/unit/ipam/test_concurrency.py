"""Many processes on one pool at once, as when a node starts: no address twice, none lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ipam
from tests.unit.ipam.world import Network, pod

ROOT = Path(next(iter(ipam.__path__))).parent
PROCESSES = 16

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from ipam.allocator import Allocator
from ipam.ranges import parse
from ipam.store import Owner
worker, rounds = sys.argv[3], int(sys.argv[4])
sets = parse({"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]})
a = Allocator(sys.argv[2], "pods", sets, boot_id="b")
sys.stdin.readline()
for n in range(rounds):
    owner = Owner(f"{worker}-{n}", "eth0")
    mine = a.allocate(owner)
    print("+", *(l.address.ip for l in mine), flush=True)
    assert a.find(owner) == tuple(l.address.ip for l in mine)
    if n % 4 != 3:  # Said before it is done: the address may be somebody else's the moment it is free.
        print("-", *(l.address.ip for l in mine), flush=True)
        assert a.release(owner) == tuple(l.address.ip for l in mine)
"""


def _start(network: Network, worker: int, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(ROOT), str(network.data_dir), f"w{worker}", str(rounds)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_five_hundred_adds_from_sixteen_processes(network: Network) -> None:
    rounds = 32
    workers = [_start(network, n, rounds) for n in range(PROCESSES)]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate()[0].split("\n") for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    kept: list[str] = []
    for lines in said:
        held: set[str] = set()
        for line in filter(None, lines):
            sign, *addresses = line.split()
            held = held | set(addresses) if sign == "+" else held - set(addresses)
        kept += held
    assert len(kept) == len(set(kept)) == PROCESSES * (rounds // 4) * 2, "no duplicate"
    assert sorted(kept) == sorted(network.lease_files()), "none lost, nothing else there"
    network.check_hints()


def test_a_killed_process_gives_its_lock_back_and_harms_nobody(network: Network) -> None:
    """SIGKILL at moments nobody chose, while others work."""
    workers = [_start(network, n, 400) for n in range(4)]
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
        assert worker.stdout
        worker.stdout.readline()
    time.sleep(0.05)
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
    network.ipam = {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]}
    network.allocator("b").collect([])
    assert network.lease_files() == {}
    network.check_hints()
    assert len(network.allocator("b").allocate(pod("after"))) == 2
