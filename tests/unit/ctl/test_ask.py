"""What tullectl asks the agent, and what it says when there is none that it understands."""

from __future__ import annotations

import pytest

from tests.unit.ctl.tool import Tool, agent
from tests.unit.support import Node


@pytest.mark.parametrize("words", [("top", "--once"), ("top", "--json"), ("replay",), ("replay", "1")])
def test_what_needs_the_agent_says_that_it_is_away_and_ends_with_1(tool: Tool, words: tuple[str, ...]) -> None:
    said = tool(*words)
    assert said.exit == 1
    assert "no agent answers" in said.err
    assert "systemctl start tulled" in said.err


def test_an_agent_of_another_protocol_is_as_good_as_away(node: Node, tool: Tool) -> None:
    with agent(node, {}, greeting=b"TULLE\x63\x64\n"):
        said = tool("top", "--once")
    assert said.exit == 1
    assert "does not understand" in said.err


def test_a_question_that_the_agent_does_not_know_is_told_in_its_words(node: Node, tool: Tool) -> None:
    with agent(node, {}):
        said = tool("replay")
    assert said.exit == 1
    assert "unknown question" in said.err
