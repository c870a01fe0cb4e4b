"""The agent killed at every operation of every verb, alone and under load: no duplicate, no leak, no failed DEL.

The requests are those of the real client, which finds the agent's socket broken then: an ADD that was lost is error 11
and may be tried again after a DEL, every other verb the client has done by the engine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from cni_plugin import wire
from tests import soak
from tests.conformance.nodes import Call, Json, Node, Plugins, Reply, unique_name
from tests.netns.agents import Agent, Asker, Mortal, in_node, receive
from tests.netns.failure_nodes import conf
from tests.netns.test_rollback import EMPTY, World, _note

VALID: Mapping[str, object] = {"cni.dev/valid-attachments": [{"containerID": "other", "ifname": "eth0"}]}
Made = TypeVar("Made", bound="AgentWorld")


class AgentWorld(World):
    """A node with pods, and what is on it besides the agent's own socket and lock."""

    def ask(self, command: str, pod: str = "pod1", more: Mapping[str, object] = EMPTY) -> Reply:
        """A request by the real client."""
        whole = command not in ("GC", "STATUS")
        call = Call(
            command=command, container=pod if whole else None, ifname="eth0" if whole else None,
            netns=self.node.pod(pod).path if whole else None,
        )
        return self.node.invoke({**self.configuration, **more}, call)

    def state(self) -> Json:
        whole = super().state()
        files = whole["files"]
        assert isinstance(files, list)
        return {**whole, "files": [each for each in files if not each.startswith("run/agent.")]}


@contextmanager
def world_with(kind: type[Made], plugin: Path, state: Path) -> Iterator[Made]:
    """A world of this kind, removed in the end."""
    node = Node(unique_name("kill"), Plugins("tulle", plugin.parent), state)
    try:
        yield kind(node, conf(node, "dual"))
    finally:
        node.remove()


@pytest.fixture
def world(plugin: Path, tmp_path: Path) -> Iterator[AgentWorld]:
    """A node on which one pod lives already."""
    with world_with(AgentWorld, plugin, tmp_path) as made:
        assert made.request("ADD", "other").code == 0
        made.node.pod("pod1")
        yield made


def test_an_add_during_which_the_agent_is_killed_is_lost_and_can_be_done_again(world: AgentWorld) -> None:
    """Error 11 whatever was done already; after a DEL the node is as before, and the same ADD succeeds."""
    before = world.state()
    left: dict[str, Json] = {}
    died: list[str] = []
    for target in itertools.count(1):
        agent = Mortal(world.node, target)
        added = world.ask("ADD")
        at = agent.end()
        if added.exit == 0:
            break
        died.append(at)
        assert added.code == 11, f"killed at {target}: {at}: {added}"
        assert world.request("DEL", "pod1").code == 0
        before = _note(left, world.state(), before, f"killed at {target}: {at}")
        again = world.request("ADD", "pod1")
        assert again.code == 0, again.reply
        assert world.request("DEL", "pod1").code == 0
    assert left == {}
    assert len(died) >= 25, "every change is seen"
    assert {"netlink request", "write", "reply"} <= set(died)


def test_no_del_fails_when_the_agent_is_killed_during_it(world: AgentWorld) -> None:
    """The client has it done by the engine, and nothing is left."""
    assert world.request("ADD", "pod1").code == 0
    assert world.ask("DEL").exit == 0
    before = world.state()
    left: dict[str, Json] = {}
    died: list[str] = []
    for target in itertools.count(1):
        assert world.request("ADD", "pod1").code == 0
        agent = Mortal(world.node, target)
        deleted = world.ask("DEL")
        at = agent.end()
        assert deleted.exit == 0, f"killed at {target}: {at}: {deleted}"
        before = _note(left, world.state(), before, f"killed at {target}: {at}")
        if not at or died[-1:] == ["reply"]:
            break
        died.append(at)
    assert left == {}
    assert len(died) >= 8 and died[-1] == "reply", died


def _dels_together(world: AgentWorld, agent: int, pods: Sequence[str]) -> list[bool]:
    """DELs that wait together, because the agent stands still until all are sent; which of them were answered."""
    asker = Asker(world.node, world.configuration)
    channels = [asker.connect() for _ in pods]
    os.kill(agent, signal.SIGSTOP)
    for channel, pod in zip(channels, pods, strict=True):
        asker.send(channel, Call(command="DEL", container=pod, netns=world.node.pod(pod).path))
    os.kill(agent, signal.SIGCONT)
    answered = []
    for channel in channels:
        with channel, contextlib.suppress(ConnectionResetError):
            answered.append(receive(channel, wire.REPLY_HEADER) == wire.reply(b"", 0))
    return answered + [False] * (len(pods) - len(answered))


def test_dels_that_are_done_together_are_all_finished_when_the_agent_is_killed_during_them(world: AgentWorld) -> None:
    """Each by its own client's engine, whatever was done of it and of the other."""
    pods = ("pod1", "pod2")
    for pod in pods:
        assert world.request("ADD", pod).code == 0
        assert world.ask("DEL", pod).exit == 0
    before = world.state()
    left: dict[str, Json] = {}
    answered: list[bool] = []
    for target in itertools.count(1):
        for pod in pods:
            assert world.request("ADD", pod).code == 0
        agent = Mortal(world.node, target)
        answered = in_node(world.node.path, partial(_dels_together, world, agent.pid, pods))
        at = agent.end()
        for pod in pods:
            assert world.request("DEL", pod).code == 0
        before = _note(left, world.state(), before, f"killed at {target}: {at}, when {answered} were answered")
        if all(answered):
            break
    assert left == {}
    assert target > 12, "two DELs have more operations than that"


@pytest.mark.parametrize("verb", ["CHECK", "GC", "STATUS"])
def test_no_other_verb_fails_when_the_agent_is_killed_during_it(world: AgentWorld, verb: str) -> None:
    added = world.request("ADD", "pod1")
    more: Mapping[str, object] = {"prevResult": json.loads(added.reply.split("\n")[0])} if verb == "CHECK" else {}
    if verb == "GC":
        more = VALID
        assert world.request("DEL", "pod1").code == 0
    before = world.state()
    left: dict[str, Json] = {}
    died: list[str] = []
    while died[-1:] != ["reply"]:
        if verb == "GC":
            assert world.request("ADD", "pod1").code == 0
        agent = Mortal(world.node, len(died) + 1)
        reply = world.ask(verb, more=more)
        died.append(agent.end())
        assert reply.exit == 0, f"killed at {died}: {reply}"
        assert died[-1], "the reply is the last operation of all"
        before = _note(left, world.state(), before, f"killed at {len(died)}: {died[-1]}")
    assert left == {}
    assert len(died) >= (8 if verb == "GC" else 1)


class Mix:
    """Threads that ADD and DEL pods of their own by the real client, for as long as they are let."""

    def __init__(self, world: AgentWorld) -> None:
        self.world = world
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.live: dict[str, str] = {}
        self.counts = {"ADD": 0, "lost": 0, "DEL": 0, "others": 0}
        self.stable = world.ask("ADD", "stable").ok()
        self._lock = threading.Lock()

    def cycle(self, name: str) -> None:
        """ADD two pods and DEL them again and again."""
        pods = (f"{name}a", f"{name}b")
        while not self.over.is_set():
            for pod in pods:
                added = self.world.ask("ADD", pod)
                if added.exit == 0:
                    self._alive(pod, added)
                elif added.code != 11:
                    self.wrong.append(f"ADD of {pod}: {added}")
                self._count("ADD" if added.exit == 0 else "lost")
            for pod in pods:
                with self._lock:
                    self.live = {address: owner for address, owner in self.live.items() if owner != pod}
                deleted = self.world.ask("DEL", pod)
                self._count("DEL")
                if deleted.exit:
                    self.wrong.append(f"DEL of {pod}: {deleted}")

    def others(self) -> None:
        """GC without a list, STATUS, and CHECK of the pod that stays: none may ever fail."""
        for verb in itertools.cycle(("GC", "STATUS", "CHECK")):
            if self.over.is_set():
                break
            more = {"prevResult": self.stable} if verb == "CHECK" else EMPTY
            reply = self.world.ask(verb, "stable", more)
            self._count("others")
            if reply.exit:
                self.wrong.append(f"{verb}: {reply}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def _alive(self, pod: str, added: Reply) -> None:
        ips = added.ok()["ips"]
        assert isinstance(ips, list)
        for each in ips:
            with self._lock:
                owner = self.live.setdefault(each["address"], pod)
            if owner != pod:
                self.wrong.append(f"{each['address']} is {owner}'s and {pod}'s")


MIXED = [f"mix{number}" for number in range(6)]


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_the_agent_killed_again_and_again_under_a_mix_of_all_verbs_harms_no_pod(world: AgentWorld) -> None:
    for pod in (*(f"{name}{each}" for name in MIXED for each in "ab"), "stable"):
        world.node.pod(pod)
    before = world.state()
    mix = Mix(world)
    threads = [threading.Thread(target=mix.cycle, args=(name,)) for name in MIXED]
    threads.append(threading.Thread(target=mix.others))
    chance = random.Random(3)
    kills = 0
    for each in threads:
        each.start()
    try:
        for _ in soak.turns("an agent that is killed", least=70):
            Mortal(world.node, chance.randrange(1, 120)).wait()
            kills += 1
            if mix.wrong:
                break
    finally:
        mix.over.set()
        for each in threads:
            each.join()
    assert world.ask("DEL", "stable").exit == 0
    print(f"\n{kills} kills; {mix.counts}")
    assert mix.wrong == []
    assert mix.counts["lost"] > 5 and mix.counts["ADD"] > 50
    with Agent(world.node, world.node.plugins.directory / "tulle"):
        assert world.ask("GC", more=VALID).exit == 0
        assert world.state() == before
