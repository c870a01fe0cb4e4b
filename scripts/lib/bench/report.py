"""What a benchmark has to say: samples, goals and what was left out, as values, as a table and as JSON.

Pure. The figures are medians, with the 10th and 90th percentile beside them: on a shared machine the mean is
whatever the neighbours made of it, and a median without its spread is a promise nobody gave.

    one pod, alone                  median      p10      p90      cpu    n   compared
      ADD: tulle                   61.2 ms     58.9     70.4     55.3   21   1.52 x ADD: reference
      ADD: reference               40.3 ms     38.1     46.0     31.9   21

Beside the time on the clock stands that on the processor: it is what a busy machine changes least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Protocol

WIDTH = 46


@dataclass(frozen=True)
class Series:
    """The samples of one thing, in `unit`. `against` names the series of the same section to compare with.

    `cpu`: milliseconds of processor time beside each sample, where that is known."""

    section: str
    name: str
    unit: str
    samples: tuple[float, ...]
    against: str = ""
    cpu: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return median(self.samples)

    def percentile(self, percent: float) -> float:
        """The smallest sample that at least `percent` of them do not exceed (nearest rank)."""
        rank = math.ceil(percent / 100 * len(self.samples))
        return sorted(self.samples)[max(rank, 1) - 1]


class _Cost(Protocol):
    @property
    def wall(self) -> float: ...
    @property
    def cpu(self) -> float: ...


def timed(section: str, name: str, costs: Sequence[_Cost], against: str = "") -> Series:
    """A series in milliseconds, of programs that were run. `against` itself is compared with nothing."""
    return Series(
        section, name, "ms", tuple(each.wall for each in costs), "" if name == against else against,
        tuple(each.cpu for each in costs),
    )


@dataclass(frozen=True)
class Goal:
    """A figure that the project holds itself to: `value` must not exceed `limit`, or be less if `strictly`.

    `least`: it must reach the limit instead. `now`: expected of every run; the others are what the design aims at.
    `pair`: the series that it was made of, ours and the one that it is compared with."""

    section: str
    text: str
    value: float
    limit: float
    unit: str = "x"
    now: bool = False
    strictly: bool = False
    note: str = ""
    least: bool = False
    pair: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        if self.least:
            return self.value >= self.limit
        return self.value < self.limit if self.strictly else self.value <= self.limit

    @property
    def bound(self) -> str:
        """What is asked for, in words: `<= 0.60 x`."""
        return f"{'>=' if self.least else '<' if self.strictly else '<='} {number(self.limit)} {self.unit}"


@dataclass
class Report:
    """All of one run, filled section by section."""

    facts: dict[str, str]
    sections: Mapping[str, str]
    series: list[Series] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)

    def add(self, series: Series) -> Series:
        self.series.append(series)
        return series

    def of(self, section: str) -> list[Series]:
        return [each for each in self.series if each.section == section]

    def find(self, section: str, name: str) -> Series | None:
        """The series of that name, None when it was not measured."""
        return next((each for each in self.of(section) if each.name == name), None)

    def missed(self) -> list[Goal]:
        """The goals expected now that were not met."""
        return [goal for goal in self.goals if goal.now and not goal.met]


def ratio(one: Series, other: Series) -> float:
    """How many times the other's median this one's is; infinite for a median of 0."""
    return one.median / other.median if other.median else math.inf


def compare(report: Report, goal: Goal) -> None:
    """Hold a goal, given without its value, to the ratio of its pair; nothing when one of them was not measured."""
    one, other = (report.find(goal.section, name) for name in goal.pair)
    if one and other:
        report.goals.append(replace(goal, value=ratio(one, other)))


def number(value: float) -> str:
    """Three digits that matter, and no more."""
    if not math.isfinite(value):
        return "-"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 0.1 or not value else 3
    return f"{value:,.{digits}f}"


def section_table(report: Report, section: str) -> str:
    """One section: a line for each series, then its goals, remarks and what was skipped."""
    title = report.sections[section]
    lines = [f"{title:{WIDTH}} {'median':>12} {'p10':>8} {'p90':>8} {'cpu':>8} {'n':>4}   compared"]
    rows = report.of(section)
    named = {each.name: each for each in rows}
    for row in rows:
        lines.append(_row(row, named.get(row.against)))
    lines += [_goal(goal) for goal in report.goals if goal.section == section]
    lines += [f"  note: {text}" for where, text in report.remarks if where == section]
    lines += [f"  skipped: {text}" for where, text in report.skipped if where == section]
    lines += [f"  FAILED: {text}" for where, text in report.failed if where == section]
    return "\n".join(lines)


def _row(row: Series, other: Series | None) -> str:
    low, high = (number(row.percentile(percent)) for percent in (10, 90))
    compared = f"   {number(ratio(row, other))} x {other.name}" if other else ""
    figure = f"{number(row.median)} {row.unit}"
    cpu = number(median(row.cpu)) if row.cpu else ""
    return f"  {row.name:{WIDTH - 2}} {figure:>12} {low:>8} {high:>8} {cpu:>8} {len(row.samples):>4}{compared}"


def _goal(goal: Goal) -> str:
    kind = "expected now" if goal.now else "goal"
    verdict = ("met" if goal.met else "MISSED") + (f" ({goal.note})" if goal.note else "")
    return f"  {kind}: {goal.text} {goal.bound}: {number(goal.value)} {goal.unit}, {verdict}"


def facts_table(facts: Mapping[str, str]) -> str:
    return "\n".join(f"{name:12} {value}" for name, value in facts.items())


def verdict(report: Report) -> str:
    """The last line: how many goals were met, and which were not."""
    expected = [goal for goal in report.goals if goal.now]
    missed = report.missed()
    others = [goal for goal in report.goals if not goal.now]
    line = f"{len(expected) - len(missed)} of {len(expected)} figures expected now are met"
    if others:
        line += f", {sum(goal.met for goal in others)} of {len(others)} further goals"
    return line + "".join(f"\n  missed: {goal.text}" for goal in missed)


def as_json(report: Report) -> dict[str, object]:
    """Everything, every sample included, for a program that compares runs."""
    return {
        "facts": report.facts,
        "series": [
            {**vars(each), "samples": _rounded(each.samples), "cpu": _rounded(each.cpu), "median": each.median}
            for each in report.series
        ],
        "goals": [{**vars(goal), "value": round(goal.value, 4), "met": goal.met} for goal in report.goals],
        "failed": [{"section": section, "reason": reason} for section, reason in report.failed],
        "skipped": [{"section": section, "reason": reason} for section, reason in report.skipped],
        "remarks": [{"section": section, "text": text} for section, text in report.remarks],
    }


def _rounded(samples: Sequence[float]) -> list[float]:
    return [round(sample, 4) for sample in samples]
