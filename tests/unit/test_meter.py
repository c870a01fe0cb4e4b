"""Time counts for one step at a time, and all of it is counted."""

from __future__ import annotations

from itertools import count

import pytest

from cni_plugin import meter
from cni_plugin.meter import Meter


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Meter:
    """A meter whose clock goes on by one second at each look."""
    ticks = count()
    monkeypatch.setattr(meter, "perf_counter", lambda: float(next(ticks)))
    return Meter()


def test_an_inner_step_takes_its_time_from_the_outer_one(watch: Meter) -> None:
    with watch.step("records"):  # 1 s of nothing before
        with watch.step("nft"):  # 1 s of records before
            pass  # 1 s
    assert watch.take() == {"other": 2.0, "records": 2.0, "nft": 1.0}


def test_what_was_taken_is_not_counted_again(watch: Meter) -> None:
    with watch.step("ipam"):
        pass
    watch.take()
    assert watch.take() == {"other": 1.0}


def test_a_step_that_fails_ends_as_well(watch: Meter) -> None:
    with pytest.raises(OSError), watch.step("netlink"):
        raise OSError
    with watch.step("ipam"):
        pass
    assert set(watch.take()) == {"other", "netlink", "ipam"}
