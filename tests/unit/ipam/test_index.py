"""The index finds what was noted, however much that is, and is made again when it cannot be understood."""

from __future__ import annotations

import errno
import os
from functools import partial
from pathlib import Path

import pytest

from ipam.index import BUCKET
from tests.unit.ipam.world import Network, count_calls, opened_index, pod

LONG = "f" * 60
"""Container IDs are about as long as this."""


def test_it_grows_with_what_is_noted_and_forgets_nothing(network: Network) -> None:
    network.add("first")
    noted = {f"{LONG}{n}:eth0": f"10.{n >> 8}.{n & 255}.1,fd00::{n:x}" for n in range(1000)}
    with opened_index(network.path) as index:
        for name, text in noted.items():
            index.set(name, text)
        assert {name: index.get(name) for name in noted} == noted
        for name in list(noted)[::2]:
            index.set(name, "")
            del noted[name]
        assert index.entries() == {**noted, "first:eth0": "10.1.0.2"}
        assert index.get(f"{LONG}0:eth0") == ""
    size = (network.path / ".tulle/index").stat().st_size
    assert size // BUCKET in (64, 128), "a power of two, and not much more than it needs"


def test_a_name_is_not_found_in_another_one(network: Network) -> None:
    network.add("first")
    with opened_index(network.path) as index:
        index.set("abc:eth0", "10.1.0.7")
        assert [index.get(name) for name in ("bc:eth0", "abc:eth", "abc:eth00", "abc:eth0")] == ["", "", "", "10.1.0.7"]


def test_the_same_calls_find_one_of_many_and_one_of_few(tmp_path: Path) -> None:
    few, many = (Network(tmp_path / name, {"subnet": "10.0.0.0/16"}) for name in ("few", "many"))
    few.add("a")
    many.add("a")
    many.add(*(f"{LONG}{n}" for n in range(300)))
    assert (many.path / ".tulle/index").stat().st_size > 8 * BUCKET
    counts = {count_calls(partial(each.allocator().find, pod("a"))) for each in (few, many)}
    assert len(counts) == 1


def test_it_is_one_file_whoever_comes_and_goes(network: Network) -> None:
    network.add("a")
    before = (network.path / ".tulle/index").stat().st_ino
    network.add(*range(12))
    for n in range(12):
        network.allocator().release(pod(n))
    assert (network.path / ".tulle/index").stat().st_ino == before


@pytest.mark.parametrize("size", [0, 100, 3 * BUCKET], ids=["empty", "cut off", "no power of two"])
def test_one_that_cannot_be_understood_is_made_again(network: Network, size: int) -> None:
    network.add("a", "b")
    times = network.path.stat()
    with (network.path / ".tulle/index").open("r+b") as file:
        file.truncate(size)
    os.utime(network.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert [str(ip) for ip in network.allocator().find(pod("a"))] == ["10.1.0.2"]
    assert network.add("c") == ["10.1.0.4"]
    network.check_hints()


def test_what_no_bucket_can_hold_is_refused(network: Network) -> None:
    network.add("a")
    with opened_index(network.path) as index:
        with pytest.raises(OSError, match="too long") as refused:
            index.set("x", "1" * BUCKET)
        assert refused.value.errno == errno.ENAMETOOLONG
        assert index.entries() == {"a:eth0": "10.1.0.2"}
