"""`tullectl top`: an agent's counters as rates and latencies, between two looks at them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from cni_plugin.ctl.look import top
from cni_plugin.histogram import Histogram
from tests.unit.ctl.tool import Tool, agent, metrics
from tests.unit.support import Node


def counted(*seconds: float, codes: dict[str, int]) -> dict[str, object]:
    """A verb's counters as the agent tells them."""
    histogram, ipam = Histogram(), Histogram()
    for each in seconds:
        histogram.observe(each)
        ipam.observe(each / 10)
    return {**histogram.snapshot(), "codes": codes, "steps": {"ipam": ipam.snapshot()}}


def test_top_shows_counts_rates_latencies_and_errors_by_verb_and_step(node: Node, tool: Tool) -> None:
    with agent(node, {"metrics": metrics(110.0, ADD=counted(*[0.004] * 19, 0.2, codes={"0": 19, "11": 1}))}):
        told = tool("top", "--json").json
        text = tool("top", "--once").out
    assert isinstance(told, dict)
    add, ipam = told["rows"]
    assert (add["verb"], add["step"], add["count"], add["rate"], add["errors"]) == ("ADD", "", 20, 2.0, 1)
    assert 3 < add["p50"] <= 5 < 100 < add["p99"] <= 250
    assert (ipam["verb"], ipam["step"], ipam["count"]) == ("ADD", "ipam", 20)
    assert "ADD" in text
    assert "masquerade 3 times" in text


def test_top_draws_until_somebody_ends_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    read, write = os.pipe()
    with os.fdopen(read) as stdin, agent(node, {"metrics": metrics(110.0, ADD=counted(0.004, codes={"0": 1}))}):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(top, "INTERVAL", 0.01)

        def draw(rows: Sequence[top.TopRow], now: top.Look, seconds: float) -> None:
            del now, seconds
            seen.append(len(rows))
            if len(seen) == 3:
                os.close(write)

        top.live(f"{node.home}/run", draw)
    assert seen == [2, 2, 2]


def look(at: float, **verbs: object) -> top.Look:
    import msgspec

    return msgspec.convert(metrics(at, **verbs), top.Look)


def test_top_between_two_looks_counts_only_what_happened_between_them() -> None:
    before = look(110.0, ADD=counted(0.2, 0.2, codes={"0": 1, "11": 1}))
    now = look(112.0, ADD=counted(0.2, 0.2, *[0.001] * 4, codes={"0": 5, "11": 1}), DEL=counted(0.02, codes={"0": 1}))
    rows = {(each.verb, each.step): each for each in top.rows(now, before)}
    assert (rows["ADD", ""].count, rows["ADD", ""].rate, rows["ADD", ""].errors) == (4, 2.0, 0)
    assert rows["ADD", ""].p99 <= 1.0
    assert rows["ADD", ""].mean == pytest.approx(1.0)
    assert rows["DEL", ""].count == 1


def test_top_of_an_agent_that_was_started_again_begins_anew() -> None:
    import msgspec

    before = msgspec.structs.replace(look(110.0, ADD=counted(*[0.1] * 50, codes={"0": 50})), started=5.0)
    (row, _) = top.rows(look(112.0, ADD=counted(0.1, codes={"0": 1})), before)
    assert row.count == 1
