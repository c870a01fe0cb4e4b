"""The command line of tullectl: its words, its help, and with which exit code a wrong one ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cni_plugin.client import VERSION
from tests.unit.ctl.tool import Glasses, Said, Tool
from tests.unit.support import Node

ROOT = Path(__file__).parents[3]


def test_it_says_its_version(tool: Tool) -> None:
    assert tool("--version") == Said(0, f"tullectl {VERSION}\n", "")


@pytest.mark.parametrize("words", [(), ("plan",), ("status",), ("ipam",), ("ipam", "list"), ("repair",), ("cleanup",)])
def test_every_command_has_help(tool: Tool, words: tuple[str, ...]) -> None:
    said = tool(*words, "--help")
    assert said.exit == 0
    assert "Usage:" in said.out


@pytest.mark.parametrize("words", [("frob",), ("status", "--frob"), ("ipam", "release", "pods")])
def test_a_wrong_command_line_ends_with_2(tool: Tool, words: tuple[str, ...]) -> None:
    assert tool(*words).exit == 2


@pytest.mark.parametrize("words", ["diff", "doctor", "trace", "top", "replay", "bundle"])
def test_every_new_command_has_help_and_refuses_a_wrong_word(tool: Tool, words: str) -> None:
    assert "Usage:" in tool(words, "--help").out
    assert tool(words, "--frob").exit == 2


def test_nothing_is_coloured_where_nobody_looks(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Glasses({}))
    for words in (("doctor",), ("status",), ("trace", "a"), ("diff",)):
        assert "\x1b" not in tool(*words).out


def test_the_command_line_is_made_without_what_its_commands_need() -> None:
    """Neither the engine nor netlink nor any topic of the doctor: who asks for help waits for none of them."""
    told = "import sys; from cni_plugin.ctl.__main__ import command_line; command_line(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    ours = ("cni_plugin.verbs", "cni_plugin.node", "cni_plugin.kernel.rtnl", "cni_plugin.ctl.doctor")
    assert [each for each in loaded if each.startswith((*ours, "pyroute2", "netaddr"))] == []
    assert {"cni_plugin.ctl.look.commands", "cni_plugin.ctl.commands"} <= loaded
