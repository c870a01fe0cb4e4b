"""What a verb does with and without a resident agent, and on a bridge that is full: on a kernel in memory."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.marks import MOST_PORTS
from cni_plugin.meter import Meter
from cni_plugin.model.links import Veth
from cni_plugin.verbs.run import Agent
from tests.unit.support import Node


@pytest.fixture
def required(node: Node) -> Node:
    """A network that wants its agent."""
    return node.configured(agent="required")


@pytest.mark.parametrize(("verb", "code"), [("ADD", 11), ("CHECK", 11), ("STATUS", 50)])
def test_a_network_that_requires_the_agent_says_that_it_is_away(required: Node, verb: str, code: int) -> None:
    reply = required.call(verb)
    assert reply.code == code
    assert "the agent is away" in reply.said
    assert "systemctl status tulled" in reply.said
    assert required.kernel.applied == []


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_cleaning_up_works_without_the_agent_that_is_required(node: Node, required: Node, verb: str) -> None:
    assert node.call("ADD").exit == 0
    gone = required.configured(**{"cni.dev/valid-attachments": []})
    assert gone.call(verb).exit == 0
    assert node.left() == []


def test_in_the_agent_everything_is_served(required: Node) -> None:
    required.agent = Agent(Meter())
    assert required.call("ADD").exit == 0
    assert required.call("STATUS").exit == 0
    assert required.call("DEL").exit == 0


def test_the_agents_meter_has_the_steps_of_an_add(node: Node) -> None:
    node.agent = Agent(Meter())
    assert node.call("ADD").exit == 0
    assert {"ipam", "records", "other"} <= set(node.agent.meter.take())


def test_status_tells_of_a_bridge_without_a_free_port(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.kernel, "ports", lambda bridge: MOST_PORTS - (bridge != "tulle0"))
    reply = node.call("STATUS")
    assert reply.code == 50
    assert "all 1023 ports of the bridge tulle0 are in use" in reply.said
    assert node.configured(bridge="br7").call("STATUS").exit == 0


def test_an_add_to_a_full_bridge_tells_the_remedy_and_leaves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = node.kernel.apply

    def full(ops: Sequence[Op]) -> None:
        for op in ops:
            if isinstance(op.object, Veth) and op.verb == "create":
                raise KernelError(op, errno.EXFULL)
        apply(ops)

    monkeypatch.setattr(node.kernel, "apply", full)
    reply = node.call("ADD")
    assert reply.code == 11
    assert "all 1023 ports" in reply.said
    assert "another bridge" in reply.said
    assert node.left() == []
    assert node.leases() == {}
