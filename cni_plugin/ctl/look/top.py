"""`tullectl top`: how many requests the agent serves and how long they take, verb by verb and step by step.

The agent counts from its start; the difference of two looks is what happened between them. On a terminal the last
minute is shown, anew each second, until Enter or Ctrl-C; else, or with `--once`, all since the agent started.
"""

from __future__ import annotations

import select
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from cni_plugin.ctl.ask import ask
from cni_plugin.errors import DECODING_FAILURE, CniError
from cni_plugin.histogram import quantile

INTERVAL = 1.0
"""Seconds between two looks."""
WINDOW = 61
"""Looks that are kept: a minute."""


class Durations(msgspec.Struct, frozen=True):
    """A histogram as the agent tells it; `seconds` is their sum."""

    count: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = ()


class VerbCount(msgspec.Struct, frozen=True):
    """What the agent counts of one verb; `codes` are CNI error codes, "0" is success."""

    count: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = ()
    codes: dict[str, int] = {}
    steps: dict[str, Durations] = {}


class Repairs(msgspec.Struct, frozen=True):
    """What the agent put right of one kind."""

    count: int = 0
    operations: int = 0
    problems: int = 0


class Look(msgspec.Struct, frozen=True):
    """All counters at one time."""

    started: float = 0.0
    at: float = 0.0
    verbs: dict[str, VerbCount] = {}
    repairs: dict[str, Repairs] = {}


class TopRow(msgspec.Struct, frozen=True):
    """A line: of a verb, or (with `step`) of one of its steps. Durations in milliseconds, rate a second."""

    verb: str
    step: str
    count: int
    rate: float
    p50: float
    p90: float
    p99: float
    mean: float
    errors: int = 0


def look(run_dir: str) -> Look:
    """The agent's counters now. Raises AgentAway; CniError 6 for an answer that this release does not understand."""
    try:
        return msgspec.convert(ask(run_dir, "metrics"), Look)
    except msgspec.ValidationError as error:
        raise CniError(
            DECODING_FAILURE, f"the agent's answer is not understood: {error}; is it of another release?"
        ) from error


def rows(now: Look, before: Look | None = None) -> list[TopRow]:
    """What was served between two looks, or since the agent started."""
    if before is not None and before.started != now.started:  # another agent: its counters began anew
        before = None
    since = before.at if before else now.started
    return list(_rows(now, before or Look(), max(now.at - since, 0.001)))


def live(run_dir: str, draw: Callable[[Sequence[TopRow], Look, float], None]) -> None:
    """Draw the last minute each second, until somebody presses Enter or stdin ends. Raises what `look` raises."""
    seen = deque([look(run_dir)], maxlen=WINDOW)
    draw(rows(seen[0]), seen[0], seen[0].at - seen[0].started)
    while not _told_to_end():
        seen.append(look(run_dir))
        draw(rows(seen[-1], seen[0]), seen[-1], seen[-1].at - seen[0].at)


def _told_to_end() -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], INTERVAL)
    return bool(ready)


def _rows(now: Look, before: Look, seconds: float) -> Iterator[TopRow]:
    for name, verb in sorted(now.verbs.items()):
        old = before.verbs.get(name, VerbCount())
        yield _row((name, ""), verb, old, seconds, errors=_errors(verb.codes) - _errors(old.codes))
        for step, each in verb.steps.items():
            yield _row((name, step), each, old.steps.get(step, Durations()), seconds)


def _row(
    name: tuple[str, str], now: VerbCount | Durations, old: VerbCount | Durations, seconds: float, *, errors: int = 0
) -> TopRow:
    count = now.count - old.count
    earlier = old.buckets or (0,) * len(now.buckets)
    buckets = [a - b for a, b in zip(now.buckets, earlier, strict=False)]
    p50, p90, p99 = (quantile(buckets, share) * 1000 if count else 0.0 for share in (0.5, 0.9, 0.99))
    mean = (now.seconds - old.seconds) / count * 1000 if count else 0.0
    return TopRow(*name, count, count / seconds, p50, p90, p99, mean, errors)


def _errors(codes: Mapping[str, int]) -> int:
    return sum(count for code, count in codes.items() if code != "0")
