"""The commands of the manual, as they stand there: in a shell of this machine, where they make labs, and on a node.

Which blocks these are, they say themselves (`tests/manual.py`).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lib.lab import labs, namespaces
from tests.manual import REPO, Block, script, tried_by
from tests.netns.conftest import BUNDLE, MakeLab, unique
from tests.pace import PATIENCE, until

ENTRIES = {"tullectl": "cni_plugin.ctl", "tulled": "cni_plugin.agent"}


@pytest.fixture
def name() -> Iterator[str]:
    """Of a lab that somebody else makes; nothing is left of it."""
    made = unique()
    yield made
    labs.down(made)
    assert namespaces.existing(f"tulle-{made}-") == []


@pytest.fixture
def tools(plugin: Path, tmp_path: Path) -> str:
    """A PATH with the tools of the executable under test, whether it is a bundle or not."""
    for tool, module in ENTRIES.items():
        if not plugin.with_name(tool).exists():
            (tmp_path / tool).write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -m {module} \"$@\"\n")
            (tmp_path / tool).chmod(0o755)
    return f"{plugin.parent}:{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # the lab runs as we do


@pytest.mark.parametrize("block", tried_by(__file__, "here"), ids=str)
def test_what_is_typed_here_works_as_it_stands(block: Block, plugin: Path, tools: str, name: str) -> None:
    if "etcd" in block.text and shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    if "quickstart" in block.text and plugin != BUNDLE:
        pytest.skip("dist/tulle is missing or older than the sources, and quickstart would build it: run scripts/build")
    environ = {**os.environ, "TULLE_LAB": name, "TULLE_PLUGIN": str(plugin), "PATH": tools}
    words = ["bash", "-euxo", "pipefail", "-c", script([block])]
    done = subprocess.run(words, cwd=REPO, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=2 * PATIENCE, check=False)  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert namespaces.existing(f"tulle-{name}-") == [], "the block takes down what it puts up"


@pytest.fixture
def lab_with_agents(lab: MakeLab) -> labs.Lab:
    """Three nodes with an agent and a pod each, that know each other."""
    made = lab(nodes=3, source="file")
    for node in made.nodes:
        made.add(node.name, "p1")
    return made


@pytest.mark.parametrize("block", tried_by(__file__, "on a node"), ids=str)
def test_what_is_typed_on_a_node_works_as_it_stands(
    block: Block, lab_with_agents: labs.Lab, tools: str, tmp_path: Path
) -> None:
    node = lab_with_agents.node("n1")
    environ = {"PATH": tools, "NETCONFPATH": str(node.state / "net.d"), "TULLE_RUN_DIR": node.env["TULLE_RUN_DIR"]}

    def said(line: str) -> subprocess.CompletedProcess[str]:
        words = [*namespaces.inside(node.netns), "sh", "-ec", line]
        return subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE,
                              check=False)  # fmt: skip

    until(lambda: said("tullectl nodes").returncode == 0, "the nodes know each other")
    everything = []
    for line in block.commands:
        done = said(line)
        # 1: something is not well, as the pools of the machine below may be, and it is said what
        assert done.returncode == 0 or (done.returncode == 1 and done.stdout), f"{line}\n{done.stdout}{done.stderr}"
        everything += [" ".join(each.split()) for each in done.stdout.splitlines()]
    for line in block.printed:
        if not any(each.isdigit() for each in line):
            assert " ".join(line.split()) in everything, "a table looks as it is shown"
