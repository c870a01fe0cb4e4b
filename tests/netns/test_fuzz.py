"""Requests that no runtime would send, on the agent's socket and to the executable: each is answered, and life goes on.

150 frames and 40 calls are drawn, in half a minute; with --soak or TULLE_SOAK=1 there are 2,000 and 500 more.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from cni_plugin import wire
from tests.conformance.nodes import SYSTEM_PATH
from tests.fuzzing import LENDER, Fuzzed, drawn, flaw
from tests.netns.agents import Agent, Asker, in_node, receive
from tests.netns.test_agent_kill import AgentWorld, world_with
from tests.pace import PATIENCE
from tests.unit.support import executable


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[AgentWorld]:
    """A node with a folder for who calls from it, whose only foreign IPAM is a script."""
    with world_with(AgentWorld, plugin, tmp_path) as made:
        (made.node.state / "far" / "away").mkdir(parents=True)
        executable(made.node.state / "bin" / "lender", LENDER)
        for name in ("tulle", "bridge", "host-local"):
            (made.node.state / "bin" / name).symlink_to(plugin)
        yield made


def requests(world: AgentWorld, count: int) -> list[Fuzzed]:
    fixed = {
        "TULLE_RUN_DIR": str(world.node.run_dir), "CNI_PATH": f"{world.node.state}/bin", "PATH": SYSTEM_PATH,
        "CNI_NETNS": world.node.pod("pod1").path,
    }
    return drawn(fixed, count)


def serves_on(world: AgentWorld) -> None:
    """A pod of anybody's starts and ends."""
    assert world.ask("ADD", "last").exit == 0
    assert world.ask("DEL", "last").exit == 0


def frame(request: Fuzzed, folder: Path) -> bytes:
    environ = {**request.environ, wire.FOLDER: str(folder)}
    words = "\0".join(f"{key}={value}" for key, value in environ.items()).encode("utf-8", "surrogateescape")
    return wire.request(wire.CNI, request.name, words, request.stdin)


def bent(whole: bytes, at: int, random: Random) -> bytes:
    """The frame with something of it wrong, of each kind in its turn."""
    match at % 4:
        case 0:
            return whole[: random.randrange(len(whole))]
        case 1:
            place = random.randrange(wire.REQUEST_HEADER)
            return whole[:place] + random.randbytes(1) + whole[place + 1 :]
        case 2:
            return random.randbytes(random.randrange(1, 200))
        case _:
            return whole + b"more"


@pytest.mark.parametrize("count", [150, pytest.param(2000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_whatever_comes_on_its_socket_the_agent_answers_and_lives(world: AgentWorld, plugin: Path, count: int) -> None:
    node, asker, random = world.node, Asker(world.node, world.configuration), Random(count)
    thrown = requests(world, count)

    def throw() -> list[str]:
        flaws = []
        for at, each in enumerate(thrown):
            whole = frame(each, node.state / "far" / "away")
            if at % 5 == 0:
                with asker.connect() as channel:
                    channel.sendall(bent(whole, at // 5, random))
            with asker.connect() as channel:
                pod = os.open(each.environ["CNI_NETNS"], os.O_RDONLY)
                socket.send_fds(channel, [whole], [pod])
                os.close(pod)
                code, length = wire.parse_reply_header(receive(channel, wire.REPLY_HEADER))
                found = flaw(each, receive(channel, length), code)
            flaws += [str(found)] if found else []
        return flaws

    with Agent(node, plugin) as agent:
        assert in_node(node.path, throw) == []
        assert agent.alive(), agent.log()
        serves_on(world)
        assert "unforeseen" not in agent.log()
        agent.stop()


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
def test_whatever_the_executable_is_given_it_answers(world: AgentWorld, count: int) -> None:
    for each in requests(world, count):
        called = each.name if each.name in ("bridge", "host-local") else "tulle"
        done = subprocess.run(
            ["/usr/bin/nsenter", f"--net={world.node.path}", f"{world.node.state}/bin/{called}"],
            input=each.stdin, capture_output=True, timeout=PATIENCE, check=False, cwd=world.node.state / "far" / "away",
            env={os.fsencode(key): os.fsencode(value) for key, value in each.environ.items()},
        )
        assert flaw(each, done.stdout, done.returncode) is None
        assert b"Traceback" not in done.stderr
    serves_on(world)
