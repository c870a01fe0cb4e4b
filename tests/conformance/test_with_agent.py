"""cnitool, podman and containerd once more on a node with an agent: one that runs, and one that comes and goes.

The tests themselves are those of the three clients; here their nodes have an agent. Each must have served something,
or the test proved nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.conformance.clients import address, network
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Node, Plugins, ping_all
from tests.conformance.observe import snapshot
from tests.conformance.test_cnitool import (  # noqa: F401
    CniTool,
    node,
    test_add_check_del_through_cnitool,
    test_capability_arguments_reach_the_plugin,
    test_gc_removes_the_pods_that_are_gone,
    test_gc_without_a_list_leaves_a_living_pod_that_cnitool_forgot,
    test_status_tells_when_the_pool_is_empty,
    tool,
)
from tests.conformance.test_containerd import (  # noqa: F401
    Containerd,
    _wait_for_lease,
    containerd,
    test_two_containerd_containers_talk,
)
from tests.conformance.test_podman import (  # noqa: F401
    Podman,
    podman,
    test_a_podman_container_gets_the_address_it_was_started_with,
    test_two_podman_containers_talk,
)
from tests.netns.agents import Agent, Asker, in_node
from tests.pace import PATIENCE


class Restarting:
    """Stops the agent in order and starts it again, for as long as it is let."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def _live(self) -> None:
        while not self._over.wait(0.1):
            self._agent.stop()
            self._over.wait(0.1)
            self._agent.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


class NodesWithAgent(Nodes):
    """Makes nodes on each of which an agent runs."""

    def __init__(self, stack: ExitStack, tmp_path: Path, *, restarting: bool) -> None:
        super().__init__(stack, tmp_path)
        self.agents: list[Agent] = []
        self._kept = stack
        self._restarting = restarting

    def __call__(self, plugins: Plugins) -> Node:
        made = super().__call__(plugins)
        agent = Agent(made, plugins.directory / "tulle")
        agent.start()
        self._kept.callback(agent.kill)
        self.agents.append(agent)
        if self._restarting:
            self._kept.enter_context(closing(Restarting(agent)))
        return made


@pytest.fixture(params=["the agent runs", "the agent comes and goes"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Nodes]:
    restarting = request.param == "the agent comes and goes"
    with ExitStack() as stack:
        made = NodesWithAgent(stack, tmp_path, restarting=restarting)
        yield made
        for agent in made.agents:
            skipped = not agent.node.pods
            assert skipped or restarting or not agent.alive() or verbs(agent), "everything went past the agent"


def verbs(agent: Agent) -> list[str]:
    """What the agent served last, by name."""
    served = in_node(agent.node.path, lambda: Asker(agent.node, {}).question("requests"))
    assert isinstance(served, list)
    return [each["verb"] for each in served]


@pytest.fixture
def switched(tmp_path: Path, tulle: Plugins) -> Iterator[tuple[Node, Agent]]:
    """A node and its agent, which the test starts."""
    with ExitStack() as stack:
        made = Nodes(stack, tmp_path)(tulle)
        agent = Agent(made, tulle.directory / "tulle")
        stack.callback(agent.kill)
        yield made, agent


def test_what_the_agent_added_the_engine_takes_down_and_the_other_way_round(switched: tuple[Node, Agent]) -> None:
    """By cnitool: CHECK and DEL by whoever did not do the ADD, pods of both side by side."""
    where, agent = switched
    with closing(CniTool(where)) as client:
        client.configure({**network(where), "cniVersion": "1.1.0"})
        before = snapshot(where)
        one, two = where.pod("pod1"), where.pod("pod2")
        client.add(one)
        agent.start()
        other = address(client.add(two))
        assert ping_all([(one, other), (one, "10.60.0.1")]) == [True, True]
        for verb in ("check", "status", "del"):
            done = client(verb, one)
            assert done.returncode == 0, done.stdout + done.stderr
        assert verbs(agent)[0] == "ADD" and {"CHECK", "DEL"} <= set(verbs(agent))
        assert list(where.leases()) == [other]
        agent.stop()
        for verb in ("check", "status", "del", "del"):
            done = client(verb, two)
            assert done.returncode == 0, done.stdout + done.stderr
        after = snapshot(where)
        assert (after["leases"], after["ruleset"]) == ({}, before["ruleset"])


ONLY_RUNNING = pytest.mark.parametrize("nodes", ["the agent runs"], indirect=True)
AGENT_FIRST = pytest.mark.parametrize("agent_first", [True, False], ids=["agent then engine", "engine then agent"])


def the_agent(nodes: Nodes) -> Agent:
    assert isinstance(nodes, NodesWithAgent)
    (agent,) = nodes.agents
    return agent


def switch(agent: Agent) -> None:
    """Between the first container's ADD and all that follows."""
    if agent.alive():
        assert "ADD" in verbs(agent)
        agent.stop()
    else:
        agent.start()


@ONLY_RUNNING
@AGENT_FIRST
def test_a_podman_container_is_taken_down_by_who_did_not_wire_it(
    nodes: Nodes, podman: Podman, agent_first: bool  # noqa: F811
) -> None:
    agent, where = the_agent(nodes), podman.node
    before = snapshot(where)
    if not agent_first:
        agent.stop()
    server = podman.run(*podman.container("server", "/bin/sleep", "60", remove=False))
    assert server.returncode == 0, server.stderr
    (server_address,) = where.leases()
    switch(agent)
    client = podman.run(*podman.container("client", "/bin/ping", "-c", "1", "-W", "2", server_address))
    assert "1 packets received" in client.stdout, client.stdout + client.stderr
    stopped = podman.run(*podman.words("rm", "--force", "--time", "0", server.stdout.strip()))
    assert (stopped.returncode, stopped.stderr) == (0, "")
    after = snapshot(where)
    assert (after["leases"], after["records"], after["ruleset"]) == ({}, [], before["ruleset"])


@ONLY_RUNNING
@AGENT_FIRST
def test_a_containerd_container_is_taken_down_by_who_did_not_wire_it(
    nodes: Nodes, containerd: Containerd, agent_first: bool  # noqa: F811
) -> None:
    agent, where = the_agent(nodes), containerd.node
    before = snapshot(where)
    if not agent_first:
        agent.stop()
    command = ("run", "--rm", "--cni", "--rootfs", str(containerd.rootfs))
    server = containerd.start(*containerd.ctr(*command, containerd.name("server"), "/bin/sleep", "30"))
    server_address = _wait_for_lease(where)
    switch(agent)
    ping = (containerd.name("client"), "/bin/ping", "-c", "1", "-W", "2", server_address)
    client = containerd.run(*containerd.ctr(*command, *ping))
    assert "1 packets received" in client.stdout, client.stdout + client.stderr
    containerd.run(*containerd.ctr("tasks", "kill", "--signal", "9", containerd.name("server")))
    server.communicate(timeout=PATIENCE)
    after = snapshot(where)
    assert (after["leases"], after["records"], after["ruleset"]) == ({}, [], before["ruleset"])
