"""A source that is one file, in a real agent: nodes that it tells of are in the kernel, and the tool shows it by name.

The agent runs from source: what is frozen is what it was built of.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import toys
from tests.conformance.nodes import NODE4, SYSTEM_PATH, Node
from tests.netns.agents import Agent
from tests.pace import until
from tests.toy_source import lines

LINK = NODE4.rpartition(".")[0]
BOOT = (
    "import sys\n"
    "from cni_plugin.agent import sources\n"
    "from cni_plugin.agent.__main__ import main\n"
    "sources.__path__.append(sys.argv[1])\n"
    "raise SystemExit(main(sys.argv[2:]))\n"
)


class ToyAgent(Agent):
    """An agent whose room of sources has one folder more."""

    def __init__(self, node: Node, plugin: Path, folder: Path) -> None:
        super().__init__(node, plugin)
        self._words = ["nsenter", f"--net={node.path}", "--", sys.executable, "-I", "-c", BOOT, str(folder)]


def tullectl(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["nsenter", f"--net={node.path}", sys.executable, "-I", "-m", "cni_plugin.ctl", *words],
        env={"PATH": SYSTEM_PATH, "TULLE_RUN_DIR": str(node.run_dir)}, capture_output=True, text=True, check=False,
    )


def peers(node: Node) -> set[str]:
    """The subnets of other nodes that the kernel has a way to."""
    return {str(each["dst"]) for each in node.json("ip", "-j", "route", "show", "root", "10.244.0.0/16")}


def test_an_agent_learns_its_peers_from_a_source_of_one_file(node: Node, plugin: Path, tmp_path: Path) -> None:
    room, told = tmp_path / "room", tmp_path / "nodes"
    room.mkdir()
    (room / "toy.py").write_text(toys.example("agent.sources", "toy"))
    told.write_text(lines(1, 2, 3, link=LINK))
    settings = {"node": "n1", "source": {"type": "toy", "lines": str(told)}}
    (node.state / "agent.json").write_text(json.dumps(settings))

    with ToyAgent(node, plugin, room) as agent:
        until(lambda: peers(node) == {"10.244.2.0/24", "10.244.3.0/24"}, "n2 and n3 can be reached", why=agent.log)
        assert json.loads(tullectl(node, "status", "--json").stdout)["agent"]["cluster"]["source"] == "toy"
        found = json.loads(tullectl(node, "doctor", "--json", "--no-probe").stdout)
        assert [each for each in found if "source" in each["name"] or "toy" in json.dumps(each)] == []
        told.write_text(lines(1, 3, link=LINK))
        until(lambda: peers(node) == {"10.244.3.0/24"}, "n2 is gone")
