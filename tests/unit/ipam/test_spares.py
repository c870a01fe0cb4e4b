"""A pod that comes after others went costs no new inode, and no file of a living lease is ever written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ipam.spares import PLACES
from tests.unit.ipam.world import Calls, Network, pod, watching


@pytest.fixture
def small(tmp_path: Path) -> Network:
    """13 addresses, so that they come round again soon."""
    return Network(tmp_path, {"subnet": "10.1.0.0/28"})


def test_no_inode_comes_or_goes_once_there_were_as_many_pods(small: Network) -> None:
    def come_and_go() -> set[int]:
        small.add(*range(13))
        inodes = {(small.path / ip).stat().st_ino for ip in small.lease_files()}
        for n in range(13):
            small.allocator().release(pod(n))
        return inodes

    first = come_and_go()
    assert come_and_go() == come_and_go() == first and len(first) == 13
    assert small.lease_files() == {}
    small.check_hints()


def test_a_lease_in_an_old_file_says_only_what_is_new_and_since_when(network: Network) -> None:
    network.add("first")
    spare = network.write_spare(3, "somebody-with-a-very-long-name\r\nnet17")
    os.utime(spare, (1, 1))
    inode = spare.stat().st_ino
    network.add("b")
    assert network.lease_files()["10.1.0.3"] == "b\r\neth0"
    found = (network.path / "10.1.0.3").stat()
    assert (found.st_ino, found.st_mode & 0o777, found.st_nlink) == (inode, 0o600, 1)
    assert found.st_mtime > 1_000_000
    assert not spare.exists()


def test_no_file_says_that_a_pod_that_is_gone_has_an_address(dual: Network) -> None:
    """The reference's CHECK believes any file below the directory."""
    dual.add("a", "b")
    dual.allocator().release(pod("a"))
    texts = [each.read_bytes() for each in dual.path.rglob("*") if each.is_file()]
    assert [texts.count(text) for text in (b"b\r\neth0", b"a\r\neth0", b"-\r\neth0")] == [2, 0, 2]


def test_at_most_so_many_files_are_kept(tmp_path: Path) -> None:
    network = Network(tmp_path, {"subnet": "10.1.0.0/22"})
    network.add(*range(PLACES + 50))
    for n in range(PLACES + 50):
        network.allocator().release(pod(n))
    assert network.lease_files() == {}
    assert len(list((network.path / ".tulle").glob("spare.*"))) == PLACES
    network.check_hints()


def test_both_addresses_of_a_pod_leave_their_files(dual: Network) -> None:
    dual.add("a")
    inodes = {(dual.path / ip).stat().st_ino for ip in dual.lease_files()}
    dual.allocator().release(pod("a"))
    dual.add("b")
    assert len(inodes) == 2
    assert {(dual.path / ip).stat().st_ino for ip in dual.lease_files()} == inodes


def _second_name(spare: Path) -> None:
    spare.hardlink_to(spare.parent.parent / "10.1.0.2")


def _link(spare: Path) -> None:
    spare.symlink_to(spare.parent.parent / "10.1.0.2")


def _readable(spare: Path) -> None:
    spare.write_text("x")
    spare.chmod(0o644)


def _others(spare: Path) -> None:
    spare.write_text("x")
    spare.chmod(0o600)
    os.chown(spare, 12345, 12345)


def _huge(spare: Path) -> None:
    spare.write_bytes(bytes(5000))
    spare.chmod(0o600)


@pytest.mark.parametrize("what", [_second_name, _link, os.mkfifo, _readable, _others, _huge])
def test_what_is_no_plain_file_of_ours_is_not_written_to(network: Network, what: Callable[[Path], None]) -> None:
    if what is _others and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    network.add("first")
    before = network.lease_files()["10.1.0.2"]
    what(network.path / ".tulle/spare.3")
    assert network.add("b") == ["10.1.0.3"]
    assert network.lease_files() == {"10.1.0.2": before, "10.1.0.3": "b\r\neth0"}
    assert not (network.path / ".tulle/spare.3").exists()
    network.check_hints()


def test_a_lease_that_has_a_second_name_is_removed_and_its_file_not_kept(network: Network) -> None:
    """rename(2) onto the file's own other name would do nothing and report success."""
    network.add("first")
    (network.path / ".tulle/spare.2").hardlink_to(network.path / "10.1.0.2")
    assert len(network.allocator().release(pod("first"))) == 1
    assert network.lease_files() == {}


def test_one_pod_after_another_writes_the_same_file_though_addresses_are_given_out_in_turn(network: Network) -> None:
    inodes = set()
    for n in range(20):
        (ip,) = network.add(n)
        inodes.add((network.path / ip).stat().st_ino)
        network.allocator().release(pod(n))
    assert len(inodes) == 1
    assert len(list((network.path / ".tulle").glob("spare.*"))) == 1


def test_none_is_kept_over_a_boot_or_a_crash(network: Network) -> None:
    """What a loss of power leaves may look like a spare file and be a lease: each name may reach the disk or not."""
    network.add("a", "b")
    network.allocator().release(pod("a"))
    assert list((network.path / ".tulle").glob("spare.*"))
    network.allocator("boot-2").allocate(pod("c"))
    assert list((network.path / ".tulle").glob("spare.*")) == []
    network.allocator("boot-2").release(pod("c"))
    network.path.touch()
    network.allocator("boot-2").allocate(pod("d"))
    assert list((network.path / ".tulle").glob("spare.*")) == []


class _Without(Calls):
    """A file system on which one call does nothing and reports success."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda *_: None)
        self._nothing = name

    def __getattr__(self, name: str) -> object:
        return (lambda *_, **__: None) if name == self._nothing else super().__getattr__(name)


def test_a_lease_is_gone_though_its_file_could_not_be_moved_and_nothing_said_so(network: Network) -> None:
    network.add("a")
    with watching(_Without("rename")):
        assert len(network.allocator().release(pod("a"))) == 1
    assert network.lease_files() == {}
    network.check_hints()


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "close"])
def test_a_kept_file_that_cannot_be_written_is_replaced_by_a_new_one(network: Network, call: str) -> None:
    """EIO, or what NFS says only when a file is closed."""
    network.add("a")
    place = network.write_spare(3, "-" + "x" * 100)
    inode = place.stat().st_ino
    failed: list[str] = []

    def fail(_: int, name: str, args: tuple[object, ...], __: dict[str, object]) -> None:
        if name == call and isinstance(args[0], int) and os.fstat(args[0]).st_ino == inode and not failed:
            failed.append(name)
            if name == "close":
                os.close(args[0])
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    calls = Calls(fail)
    calls.WATCHED = calls.WATCHED | {"close"}
    with watching(calls):
        assert network.add("b") == ["10.1.0.3"]
    assert network.lease_files()["10.1.0.3"] == "b\r\neth0"
    network.check_hints()
