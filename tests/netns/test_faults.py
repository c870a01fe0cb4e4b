"""A kernel that fails one system call of the agent, whichever: the agent lives, answers, and nothing is left behind.

Within the process, for breadth; and by strace on the built agent, for truth (--soak).
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agents import Agent, Asker, in_node
from tests.netns.faulty_agent import KINDS, Faults, FaultyAgent, faults
from tests.netns.test_agent_kill import AgentWorld, world_with
from tests.netns.test_rollback import _note
from tests.pace import until


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[AgentWorld]:
    with world_with(AgentWorld, plugin, tmp_path) as world:
        assert world.ask("ADD", "other").exit == 0
        world.node.pod("pod1")
        yield world


def served(world: AgentWorld, verb: str) -> None:
    """Once more, with nothing in the way."""
    reply = world.ask(verb)
    assert reply.exit == 0, reply


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind).replace(" ", "_"))
def test_a_call_that_fails_in_the_agent_costs_an_answer_at_most(world: AgentWorld, kind: str) -> None:
    fault = Faults()
    with FaultyAgent(world.node, fault) as agent:
        for verb in ("ADD", "DEL"):  # what is opened once is open then
            served(world, verb)
        before, held = world.state(), agent.descriptors()
        for verb, (code, nth) in itertools.product(("ADD", "DEL"), faults(kind)):
            if verb == "DEL":
                served(world, "ADD")
            fault.arm(kind, code, nth)
            reply = world.ask(verb)
            fault.disarm()
            when = f"{verb} with {errno.errorcode[code]} at the {nth}th"
            assert agent.alive(), (when, agent.log())
            assert reply.exit == 0 or 0 < reply.code < 900, (when, reply)
            served(world, "DEL")
        assert _difference(world, before) == {}
        asker = Asker(world.node, world.configuration)
        assert in_node(world.node.path, lambda: asker.question("status"))
        assert agent.descriptors() - held == {}, "none is left open"


def _difference(world: AgentWorld, before: dict[str, object]) -> dict[str, object]:
    left: dict[str, dict[str, object]] = {}
    _note(left, world.state(), before, "left")
    return dict(left)


CALLS = (
    "recvfrom", "recvmsg", "sendto", "sendmsg", "openat", "socket", "fstat", "ioctl", "flock", "accept4", "epoll_wait",
    "epoll_ctl", "dup", "fcntl", "getsockopt", "setsockopt", "bind", "read", "write", "setns", "eventfd2", "linkat",
    "unlinkat", "rename", "mkdir", "getdents64", "pread64", "pwrite64", "newfstatat", "utimensat",
)
NAMES = ("ENOBUFS", "ENOMEM", "EMFILE", "EIO", "EINTR", "ENOSPC", "EROFS")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_a_call_that_the_kernel_fails_costs_an_answer_at_most(world: AgentWorld, plugin: Path, name: str) -> None:
    """The built agent, with strace at it, which makes one call fail."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    with Agent(world.node, plugin) as agent:
        for verb in ("ADD", "DEL"):
            served(world, verb)
        before = world.state()
        for call, nth, verb in itertools.product(CALLS, (1, 2, 4), ("ADD", "DEL")):
            if verb == "DEL":
                served(world, "ADD")
            tracer = _failing(agent.pid, f"{call}:error={name}:when={nth}")
            try:
                reply = world.ask(verb)
            finally:
                tracer.terminate()
                tracer.wait()
            when = f"{verb} with {name} at {call} number {nth}"
            assert agent.alive(), (when, agent.log())
            assert reply.exit == 0 or 0 < reply.code < 900, (when, reply)
            served(world, "DEL")
        assert _difference(world, before) == {}


def _failing(pid: int, injection: str) -> subprocess.Popen[bytes]:
    """strace, once it has hold of the process."""
    words = ["strace", "-qq", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={injection.partition(':')[0]}"]
    tracer = subprocess.Popen([*words, "-e", f"inject={injection}"], stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{pid}/status")
    until(lambda: tracer.poll() is not None or re.search(r"TracerPid:\s+[1-9]", status.read_text()), "strace is there")
    if tracer.poll() is not None:
        pytest.skip("this machine does not let strace trace")
    return tracer
