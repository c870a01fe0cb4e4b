"""Whatever a request holds, the answer is JSON with a code of the specification, and the next request is served.

1,500 requests are drawn, in some seconds; with --soak or TULLE_SOAK=1 there are 20,000 more, in some minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from cni_plugin.meter import Meter
from cni_plugin.verbs.run import Agent, run
from tests.fuzzing import BASES, LENDER, Fuzzed, flaw, requests
from tests.unit.support import Node, executable

EASY = settings(
    max_examples=750, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
HARD = settings(EASY, max_examples=10_000)


@pytest.fixture(params=["engine", "agent"])
def fuzzed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that requests are thrown at, alone or in an agent; relative paths mean its own folder."""
    home = tmp_path / "far" / "away"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    executable(home / "bin" / "lender", LENDER)
    node = Node(home)
    node.agent = Agent(Meter()) if request.param == "agent" else None
    return node


def withstand(node: Node, hardness: settings) -> None:
    fixed = {"TULLE_RUN_DIR": f"{node.home}/run", "CNI_PATH": f"{node.home}/bin"}

    @hardness
    @given(requests(BASES, fixed))
    def throw(request: Fuzzed) -> None:
        stdout, code = run(request.name, request.environ, request.stdin, lambda: node.kernel, agent=node.agent)
        assert flaw(request, stdout, code) is None

    throw()
    for pod in ("last eth8", "last eth9"):
        assert node.call("ADD", pod).exit == 0
        assert node.call("DEL", pod).exit == 0


def test_any_request_is_answered_in_the_words_of_the_specification(fuzzed: Node) -> None:
    withstand(fuzzed, EASY)


@pytest.mark.soak
def test_so_are_twenty_thousand(fuzzed: Node) -> None:
    withstand(fuzzed, HARD)
