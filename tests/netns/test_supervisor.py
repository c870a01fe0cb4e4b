"""Programs of other makers are kept running by the agent: begun, begun again with patience, taken over, ended."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from time import monotonic

import pytest

from cni_plugin.agent import patience
from cni_plugin.agent.supervisor import Supervisor
from cni_plugin.kernel.host import processes
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.model.base import Object, state
from cni_plugin.model.host import Daemon, File, digest_of
from tests.netns.kernel_world import MakeNetns, kernel_of
from tests.pace import PATIENCE

TOY = """#!/bin/sh
echo begun $(cat {folder}/toy.conf 2>/dev/null) >> {folder}/log
trap 'echo told $(cat {folder}/toy.conf) >> {folder}/log' HUP
trap 'echo ended >> {folder}/log; exit' TERM
while :; do sleep 0.5 & wait; done  # dash loses a signal that comes while it starts a program to wait for
"""
AGENT = """
import sys, time
from cni_plugin.agent.supervisor import Supervisor
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.model.base import state
from cni_plugin.model.host import Daemon, digest_of
folder, *argv = sys.argv[1:]
Supervisor(folder, LinuxKernel, print).want(state([Daemon("toy", tuple(argv), folder, digest_of([]))]))
print("wanted", flush=True)
sys.stdin.read()
"""


class Node:
    """A node with a run folder, the toy program, and a supervisor that can be had more than once."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)
        self.said: list[str] = []
        self.toy = folder / "toyd"
        self.toy.write_text(TOY.format(folder=folder))
        self.toy.chmod(0o755)
        self.supervisor = Supervisor(self.folder, LinuxKernel, self.said.append)

    def daemon(self, *argv: str, name: str = "toy", conf: str = "", reload: int = 0) -> list[Object]:
        """The daemon and, where it has one, the file that it reads."""
        files = [File(f"{self.folder}/toy.conf", conf, place=self.folder)] if conf else []
        return [*files, Daemon(name, argv or (str(self.toy),), self.folder, digest_of(files), reload)]

    def want(self, *objects: Object) -> None:
        self.supervisor.want(state(objects))

    def pid(self, name: str = "toy") -> int:
        """Its process, 0 where it has none."""
        found = processes.find(f"{self.folder}/daemons/{name}")
        return found.pid if found else 0

    def log(self) -> list[str]:
        path = Path(self.folder, "log")
        return path.read_text().splitlines() if path.exists() else []


def until(holds: Callable[[], object]) -> None:
    """Wait for it."""
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end, "it did not come"
        select.select([], [], [], 0.01)


@pytest.fixture
def node(netns: MakeNetns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Its patience is a hundredth of the real one; nothing runs after the test."""
    monkeypatch.setattr(patience, "LONGEST", 0.3)
    monkeypatch.setattr(patience, "FIRST", 0.01)
    with kernel_of(netns("node")):
        made = Node(tmp_path)
        yield made
        made.supervisor.close()
        assert os.listdir(tmp_path / "daemons") == []


def test_what_is_wanted_runs_with_the_file_that_it_reads_and_ends_with_the_agent(node: Node) -> None:
    node.want(*node.daemon(conf="one"))
    until(lambda: node.log() == ["begun one"])
    assert node.pid()
    assert node.supervisor.problem == ""
    node.supervisor.close()

    assert node.log() == ["begun one", "ended"]
    assert not node.pid()
    assert not os.path.exists(f"{node.folder}/toy.conf")


def test_without_anything_wanted_there_is_no_thread(node: Node) -> None:
    node.want()
    assert node.supervisor._thread is None
    node.want(*node.daemon())
    until(node.pid)


def test_one_that_is_killed_is_begun_again(node: Node) -> None:
    node.want(*node.daemon())
    until(lambda: node.log())
    first = node.pid()
    os.kill(first, signal.SIGKILL)
    until(lambda: node.pid() not in (0, first))

    assert node.said == ["the daemon toy: it ended by itself; next try in 0.01 s"]
    until(lambda: not node.supervisor.problem)


def test_one_that_ends_at_once_is_tried_less_and_less_often(node: Node) -> None:
    node.want(*node.daemon("/bin/true"))
    until(lambda: len(node.said) >= 7)
    delays = [each.rpartition("in ")[2] for each in node.said[:7]]

    assert delays == ["0.01 s", "0.02 s", "0.04 s", "0.08 s", "0.16 s", "0.3 s", "0.3 s"]
    assert node.supervisor.problem == "the daemon toy: it ended by itself"


def test_one_that_is_not_installed_is_told_of_and_keeps_nobody_else_from_running(node: Node) -> None:
    node.want(*node.daemon("/usr/sbin/nowhere", name="a"), *node.daemon())
    until(node.pid)
    until(lambda: node.supervisor.problem)

    assert "there is no /usr/sbin/nowhere: install the package that it is in" in node.supervisor.problem
    node.want(*node.daemon())
    until(lambda: not node.supervisor.problem)


def test_a_file_that_cannot_be_written_keeps_what_would_read_it_from_running(node: Node) -> None:
    os.mkdir(f"{node.folder}/theirs")
    Path(node.folder, "theirs/toy.conf").write_text("by hand")
    theirs = File(f"{node.folder}/theirs/toy.conf", "# made by tulle")
    node.want(theirs, *node.daemon())
    until(lambda: "is there already and not ours" in node.supervisor.problem)

    assert node.log() == []
    os.remove(theirs.path)
    until(node.pid)


@pytest.mark.parametrize(("reload", "then"), [(0, ["ended", "begun two"]), (signal.SIGHUP, ["told two"])])
def test_a_change_of_what_it_reads_is_told_to_it(node: Node, reload: int, then: list[str]) -> None:
    node.want(*node.daemon(conf="one", reload=reload))
    until(lambda: node.log() == ["begun one"])
    first = node.pid()
    node.want(*node.daemon(conf="two", reload=reload))
    until(lambda: node.log()[1:] == then)

    assert (node.pid() == first) == bool(reload)
    assert node.said == []


def test_one_with_other_arguments_takes_the_place_of_the_former(node: Node) -> None:
    node.want(*node.daemon())
    until(lambda: node.log())
    node.want(*node.daemon(str(node.toy), "other"))
    until(lambda: node.log() == ["begun", "ended", "begun"])


def test_one_that_is_no_longer_wanted_is_ended_and_the_others_are_let_be(node: Node) -> None:
    node.want(*node.daemon(), *node.daemon("/bin/sleep", "1000", name="other"))
    until(lambda: node.log() and node.pid("other"))
    other = node.pid("other")
    node.want(*node.daemon("/bin/sleep", "1000", name="other"))
    until(lambda: node.log()[-1] == "ended")

    assert node.pid("other") == other


@contextmanager
def agent(node: Node, *argv: str) -> Iterator[Popen[str]]:
    """A process that wants the toy, killed after the block."""
    command = [sys.executable, "-c", AGENT, node.folder, *argv]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "wanted\n"
        yield process
        process.kill()


@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "no longer wanted"])
def test_what_a_killed_agent_left_is_taken_over_or_ended_and_never_begun_twice(node: Node, *, wanted: bool) -> None:
    with agent(node, str(node.toy)):
        until(lambda: node.log())
        first = node.pid()
    assert node.pid() == first

    if wanted:
        node.want(*node.daemon(), *node.daemon("/bin/sleep", "1000", name="other"))
    else:
        node.want(*node.daemon("/bin/sleep", "1000", name="other"))
    until(lambda: node.pid("other"))
    until(lambda: wanted or node.log() == ["begun", "ended"])
    if wanted:
        assert (node.pid(), node.log()) == (first, node.log()[:1])
        os.kill(first, signal.SIGKILL)  # and is watched, though it is no child
        until(lambda: node.pid() not in (0, first))
