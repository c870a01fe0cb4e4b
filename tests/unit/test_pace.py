"""What tests wait by: late is not never, and no test asserts how quick its machine is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import pace
from tests.pace import cheaper, until


class Clock:
    """A clock that goes on by a second whenever somebody rests, and what comes at a time."""

    def __init__(self) -> None:
        self.now = 100.0

    def rest(self) -> None:
        self.now += 1.0

    def comes(self, after: float) -> Callable[[], str]:
        at = self.now + after
        return lambda: "here" if self.now >= at else ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "monotonic", lambda: made.now)
    return made


def test_what_took_less_than_another_thing_is_cheaper() -> None:
    other = 1.0
    cheaper(0.999, other)


@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_what_took_as_long_as_another_thing_is_no_cheaper_and_why_is_told(seconds: float) -> None:
    other = 1.0
    with pytest.raises(AssertionError, match=rf"^{seconds:g} s, which is not less than 1 s\nits log\n7"):
        cheaper(seconds, other, "its log", 7)


@pytest.mark.parametrize("after", [0, 2, pace.PATIENCE])
def test_what_comes_is_what_was_found_and_never_late(clock: Clock, after: float) -> None:
    assert until(clock.comes(after), "it", between=clock.rest) == "here"
    assert clock.now == 100.0 + after


def test_what_never_comes_is_a_failure_and_why_is_told(clock: Clock) -> None:
    with pytest.raises(AssertionError, match=r"^never came, in 18\d s: it said so far"):
        until(clock.comes(1000), "it", why=lambda: "said so far", between=clock.rest)


def test_who_was_stopped_for_longer_than_the_patience_looks_once_more(clock: Clock) -> None:
    def stands_still() -> None:
        clock.now += pace.PATIENCE * 3

    looks = iter([False, False, True])
    assert until(lambda: next(looks), "it", between=stands_still)


def test_between_two_looks_the_processor_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(pace, "sleep", rests.append)
    times = iter(range(20))
    until(lambda: next(times) == 19, "the last of 20 looks")
    assert len(rests) == 19 and min(rests) > 0
