"""What tests hold time limits by: late is not never, and only late is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests import pace
from tests.pace import TooSlow, until, within


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


def test_what_took_less_than_its_limit_is_nothing() -> None:
    within(1.0, 0.999)


@pytest.mark.parametrize("seconds", [1.0, 2.5])
def test_what_took_as_long_as_its_limit_or_longer_is_too_slow_and_why_is_told(seconds: float) -> None:
    with pytest.raises(TooSlow, match=rf"^{seconds:g} s, and less than 1 s is promised\nits log\n7$"):
        within(1.0, seconds, "its log", lambda: 7)


@pytest.mark.parametrize("limit", [None, 3.0])
def test_what_comes_in_time_is_what_was_found(clock: Clock, limit: float | None) -> None:
    assert until(clock.comes(2), "it", limit, between=clock.rest) == "here"
    assert clock.now == 102.0


def test_what_comes_without_a_limit_is_never_late(clock: Clock) -> None:
    assert until(clock.comes(pace.PATIENCE), "it", between=clock.rest) == "here"


@pytest.mark.parametrize("after", [3, 3 + pace.PATIENCE])
def test_what_comes_after_its_limit_is_too_slow(clock: Clock, after: float) -> None:
    with pytest.raises(TooSlow, match=rf"^{after:g} s, and less than 3 s is promised\nit\nsaid so far$"):
        until(clock.comes(after), "it", 3.0, why=lambda: "said so far", between=clock.rest)


@pytest.mark.parametrize("limit", [None, 3.0])
def test_what_never_comes_is_a_failure_that_is_not_tried_again(clock: Clock, limit: float | None) -> None:
    with pytest.raises(AssertionError, match=r"^not within 3\d\.0 s: it said so far") as caught:
        until(clock.comes(1000), "it", limit, why=lambda: "said so far", between=clock.rest)
    assert type(caught.value) is AssertionError


def test_who_was_stopped_for_longer_than_the_patience_looks_once_more(clock: Clock) -> None:
    def stands_still() -> None:
        clock.now += pace.PATIENCE * 3

    looks = iter([False, False, True])
    assert until(lambda: next(looks), "it", between=stands_still)


def test_between_two_looks_the_processor_is_left_to_others() -> None:
    times = iter(range(20))
    before, begun = time.thread_time(), time.monotonic()
    until(lambda: next(times) == 19, "the last of 20 looks")
    assert time.monotonic() - begun > 0.15 > time.thread_time() - before
