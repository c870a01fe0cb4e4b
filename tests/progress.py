"""What a run of tests says meanwhile, instead of dots: how many are over, what failed, how long it will still take.

A plugin of pytest, for people who wait (`-p tests.progress`; scripts/test does). A line at most every so many seconds,
and one for each failure at once. `$TULLE_MINUTES`: how many minutes this run usually takes, and `$TULLE_MINUTES_AFTER`
what is to come after it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from time import monotonic

import pytest

EVERY = 20.0
"""Seconds between two lines."""
Status = tuple[str, str, object]
FIRST = 15
"""Tests after which it can be told how long the rest takes."""


class Progress:
    """What is over and what is not."""

    def __init__(self, out: pytest.TerminalReporter, usual: float, after: float) -> None:
        self._out = out
        self._usual = usual * 60
        self._after = after * 60
        self._begun = self._told = monotonic()
        self._all = 0
        self._over: set[str] = set()
        self._failed = 0

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Without xdist these are all; with it, each worker says so."""
        self._all = self._all or len(session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """Each worker finds the same."""
        self._all = len(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One more is over, or a part of it failed."""
        if report.failed:
            self._failed += 1
            self._out.write_line(f"  FAILED {report.nodeid} ({report.when})")
        if report.when == "teardown":
            self._over.add(report.nodeid)
        if monotonic() - self._told > EVERY:
            self._told = monotonic()
            self._out.write_line(f"  {self.words(self._told - self._begun)}")

    def words(self, seconds: float) -> str:
        """How it stands after so long."""
        done = len(self._over)
        said = f"{done} of {self._all} tests, {self._failed} failed, after {minutes(seconds)}"
        if done < FIRST or done >= self._all:
            return said
        left = self.left(done / self._all, seconds)
        whole = f", {minutes(left + self._after)} in all" if self._after else ""
        return f"{said}; about {minutes(left)} left{whole}"

    def left(self, part: float, seconds: float) -> float:
        """The seconds still to come: as usual at first, more and more by how it went: tests differ in length."""
        so_far = seconds / part * (1 - part)
        usual = max(self._usual - seconds, self._usual * (1 - part)) if self._usual else so_far
        return part * so_far + (1 - part) * usual


def minutes(seconds: float) -> str:
    """As people read it: 3:05 min."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    out = config.pluginmanager.get_plugin("terminalreporter")
    if out is not None and not hasattr(config, "workerinput"):
        usual, after = (float(os.environ.get(f"TULLE_MINUTES{each}") or 0) for each in ("", "_AFTER"))
        config.pluginmanager.register(Progress(out, usual, after), "tulle-progress")


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus() -> Generator[None, Status, Status]:
    """No letter for each."""
    category, _, word = yield
    return category, "", word
