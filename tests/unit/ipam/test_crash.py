"""Killed before any system call, or out of disk at any: nothing is lost, nothing leaks, no address is given twice."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

import ipam
from ipam.errors import IpamError, StoreError
from ipam.spares import PLACES, name_of
from tests.unit.ipam.world import DUAL, Calls, Network, count_calls, failing_at, killed_at, pod, sigkill_at, watching

Prepare = Callable[[Network], None]
Act = Callable[[Network], object]


def _fresh(_: Network) -> None:
    pass


def _in_use(n: Network) -> None:
    n.add("a", "victim-2", "b")


def _after_the_reference(n: Network) -> None:
    n.add("a", "victim-2")
    n.write_lease("10.1.0.9", "b\r\neth0")
    n.write_lease("fd00:1::9", "b\r\neth0")


def _after_a_crash(n: Network) -> None:
    n.add("a", "b", "victim-2")
    os.link(n.path / "10.1.0.2", n.path / ".tulle/tmp")
    n.set_index("ghost:eth0", "10.1.0.8")
    n.path.touch()


def _with_spares(n: Network) -> None:
    """At each place is the file of a lease that was given back, with more text and with less than is to be."""
    n.add("a", "victim-2", "b")
    for place in range(PLACES):
        n.write_spare(place, "-one-by-now-and-long\r\neth0" if place % 2 else "-")


def _with_spares_of_a_crash(n: Network) -> None:
    """Killed between link(2) and unlink(2): what is kept at the place of the next addresses is somebody's lease."""
    n.add("a", "victim-2", "b")
    for ip in n.lease_files():
        for address in (ip_address(ip), ip_address(ip) + 3):  # its own place, and that of one to be
            spare = n.path / ".tulle" / name_of(address)
            spare.unlink(missing_ok=True)
            spare.hardlink_to(n.path / ip)
    n.path.touch()


SITUATIONS: dict[str, Prepare] = {
    "fresh": _fresh, "in-use": _in_use, "after-the-reference": _after_the_reference, "after-a-crash": _after_a_crash,
    "with-spares": _with_spares, "with-spares-of-a-crash": _with_spares_of_a_crash}
OPERATIONS: dict[str, Act] = {
    "allocate": lambda n: n.allocator().allocate(pod("victim")),
    "release": lambda n: n.allocator().release(pod("victim-2")),
    "collect": lambda n: n.allocator().collect([pod("a"), pod("b")]),
    "allocate-after-boot": lambda n: n.allocator("boot-2", lambda o: o in (pod("a"), pod("b"))).allocate(pod("victim")),
}
VICTIMS = (pod("victim"), pod("victim-2"))
KEPT = (pod("a"), pod("b"))


def _cases() -> Iterator[object]:
    for operation in OPERATIONS:
        for situation in SITUATIONS:
            if situation != "in-use" and (situation != "fresh" or operation == "allocate"):
                yield pytest.param(situation, operation, killed_at, id=f"{operation}-{situation}-played")
        yield pytest.param("in-use", operation, sigkill_at, id=f"{operation}-in-use-really")


@pytest.mark.parametrize("cleaner", ["release", "collect"])
@pytest.mark.parametrize(("situation", "operation", "kill"), list(_cases()))
def test_a_kill_before_any_system_call_loses_and_leaks_nothing(
    quick_path: Path, situation: str, operation: str, kill: Callable[[int, Callable[[], object]], bool], cleaner: str
) -> None:
    for nth in itertools.count(1):
        network = Network(quick_path / str(nth), dict(DUAL))
        SITUATIONS[situation](network)
        others = _others(network)
        if not kill(nth, functools.partial(OPERATIONS[operation], network)):
            break
        at_kill = set(network.lease_files())
        allocator = network.allocator("boot-2" if operation.endswith("boot") else "boot-1", KEPT.__contains__)
        if cleaner == "release":
            for victim in VICTIMS:
                allocator.release(victim)
        else:
            allocator.collect(KEPT)
        assert _others(network) == others, f"killed before system call {nth}"
        assert set(network.owners().values()) <= set(KEPT), f"leaked, killed before system call {nth}"
        fresh = {str(lease.address.ip) for lease in allocator.allocate(pod("fresh"))}
        assert not fresh & set(others)
        assert len(at_kill - set(others)) <= 4, "at most the two victims' own"
        network.check_hints()
    assert nth > 15, "the operation was killed at many places"


def _others(network: Network) -> dict[str, str]:
    return {ip: text for ip, text in network.lease_files().items() if not text.startswith("victim")}


@pytest.mark.parametrize("once", [True, False], ids=["one-write-fails", "all-writes-fail-from-there"])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_disk_full_at_any_write_leaves_no_address_behind(quick_path: Path, situation: str, once: bool) -> None:
    failed = 0
    probe = Network(quick_path / "probe", dict(DUAL))
    SITUATIONS[situation](probe)
    for nth in range(1, count_calls(lambda: probe.add("victim")) + 1):
        network = Network(quick_path / str(nth), dict(DUAL))
        SITUATIONS[situation](network)
        before = network.lease_files()
        try:
            with watching(failing_at(nth, once=once)):
                network.add("victim")
        except StoreError as error:
            failed += 1
            assert error.errno == errno.ENOSPC
            assert "free some space" in str(error)
            assert network.lease_files() == before, f"full at system call {nth}"
        else:
            assert len(network.lease_files()) == len(before) + 2
        network.allocator().release(pod("victim"))
        assert network.lease_files() == before
        network.add("fresh")
        network.check_hints()
    assert failed >= 5


@pytest.mark.parametrize("situation", [s for s in SITUATIONS if s != "fresh"])
def test_a_full_disk_never_stops_a_release(quick_path: Path, situation: str) -> None:
    probe = Network(quick_path / "probe", dict(DUAL))
    SITUATIONS[situation](probe)
    for nth in range(1, count_calls(lambda: probe.allocator().release(pod("victim-2"))) + 1):
        network = Network(quick_path / str(nth), dict(DUAL))
        SITUATIONS[situation](network)
        others = _others(network)
        with watching(failing_at(nth)):
            assert len(network.allocator().release(pod("victim-2"))) == 2
            assert network.allocator().find(pod("victim-2")) == ()
        assert network.lease_files() == others
        network.add("fresh")
        network.check_hints()


SCRIPT = """
import sys
import time
from ipam.allocator import Allocator
from ipam.errors import StoreError
from ipam.ranges import parse
from ipam.store import Owner
a = Allocator(sys.argv[1], "pods", parse({"subnet": "10.1.0.0/24"}), boot_id="b")
given = 0
try:
    while True:
        a.allocate(Owner(f"c{given}", "eth0"))
        given += 1
except StoreError as error:
    assert error.errno == 28, error
assert given > 5, given
assert [o.container for _, o in a.leases()] == [f"c{n}" for n in range(given)], "all that succeeded, nothing else"
assert a.usage()[0].used == given
assert len(a.release(Owner("c0", "eth0"))) == 1, "a full disk stops no DEL"
a.allocate(Owner("again", "eth0"))
b = Allocator(sys.argv[1], "pods", parse({"subnet": "10.1.0.0/24"}), boot_id="c")
assert b.allocate(Owner("booted", "eth0")), "what an earlier boot had makes room"
assert [o.container for _, o in b.leases()] == ["booted"]
for n in range(1, given):
    b.allocate(Owner(f"c{n}", "eth0"))
print("full", given)
"""

READ_ONLY = """
import sys
import time
from ipam.allocator import Allocator
from ipam.errors import StoreError
from ipam.ranges import parse
from ipam.store import Owner
a = Allocator(sys.argv[1], "pods", parse({"subnet": "10.1.0.0/24"}), boot_id="c")
assert a.find(Owner("c1", "eth0")), "CHECK works"
assert a.usage()[0].used
assert a.release(Owner("nobody", "eth0")) == ()
for change in (a.allocate, a.release):
    try:
        change(Owner("c1" if change == a.release else "x", "eth0"))
    except StoreError as error:
        assert error.errno == 30 and "make that file system writable" in str(error), error
    else:
        raise AssertionError(change)
print("read-only")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: run as root")
def test_a_file_system_really_full_and_really_read_only(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare(1) is not installed (util-linux)")
    mount = tmp_path / "small"
    mount.mkdir()
    script = (f"set -e; mount -t tmpfs -o size=1m,nr_inodes=40 tulle-test {mount}\n"
              f'"$0" -c "$1" {mount}; mount -o remount,ro {mount}; "$0" -c "$2" {mount}\n')
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, SCRIPT, READ_ONLY], capture_output=True, text=True,
        cwd=Path(next(iter(ipam.__path__))).parent, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "full"
    assert "read-only" in done.stdout


def test_an_unexpected_error_gives_back_what_was_taken(dual: Network) -> None:
    """Whatever interrupts an allocation, not only the disk."""
    dual.add("a")
    before = dual.lease_files()

    def interrupt(_: int, name: str, *__: object) -> None:
        if name == "ftruncate":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watching(Calls(interrupt)):
        dual.add("b")
    assert dual.lease_files() == before
    dual.check_hints()


def test_store_errors_are_ipam_errors_with_the_path(network: Network) -> None:
    network.data_dir.joinpath("pods").write_text("a file where a directory is needed")
    with pytest.raises(IpamError, match=r"/pods cannot be used: .*: move away the file"):
        network.add("a")


def test_a_kill_while_a_boot_is_settled_never_voids_what_the_reference_made_in_this_boot(quick_path: Path) -> None:
    """It is told apart by our last change of the boot before: settling must not move that before it is done."""
    for nth in itertools.count(1):
        network = Network(quick_path / str(nth), dict(DUAL))
        network.add("a", "b")
        hour_ago = time.time() - 3600
        os.utime(network.path / ".tulle/index", (hour_ago, hour_ago))
        for ip in network.lease_files():
            os.utime(network.path / ip, (hour_ago, hour_ago))
        network.write_lease("10.1.0.9", "reference\r\neth0", age=60)
        died = killed_at(nth, functools.partial(network.allocator("boot-2").allocate, pod("victim")))
        network.allocator("boot-2").release(pod("victim"))
        assert set(network.owners().values()) == {pod("reference")}, f"killed before system call {nth}"
        if not died:
            break
    assert nth > 30


def test_a_disk_that_writes_less_than_it_is_given_is_given_the_rest(network: Network) -> None:
    class Slow(Calls):
        def __getattr__(self, name: str) -> object:
            return (lambda fd, text: os.write(fd, text[:3])) if name == "write" else super().__getattr__(name)

    with watching(Slow(lambda *_: None)):
        assert network.add("a-rather-long-name") == ["10.1.0.2"]
    assert network.lease_files() == {"10.1.0.2": "a-rather-long-name\r\neth0"}
    assert (network.path / "last_reserved_ip.0").read_text() == "10.1.0.2"
    network.check_hints()
