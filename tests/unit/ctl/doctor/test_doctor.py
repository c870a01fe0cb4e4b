"""`tullectl doctor` on a kernel in memory: what it says, and with which exit code it ends."""

from __future__ import annotations

from cni_plugin.attachment import Attachment
from cni_plugin.client import VERSION
from cni_plugin.kernel.see.look import Link
from tests.unit.ctl.tool import Around, Tool, agent, configure
from tests.unit.support import Node

HOST = Attachment("pods", "a", "eth0").host_dev
STATUS = {"version": "0.1.0", "pid": 7, "started": 1.0, "queue": 2, "served": 9, "ready": True}


def test_doctor_of_a_node_that_is_right_ends_with_0(node: Node, tool: Tool) -> None:
    configure(node)
    node.call("ADD")
    tool.around(Around([Link("tulle0", 2, "bridge", 1500, assigned=3)]))
    with agent(node, {"status": {**STATUS, "version": VERSION}}):
        said = tool("doctor", "--json", "--data-dir", f"{node.home}/data")
    left = [each for each in said.json if each["name"] != "run-dir-not-tmpfs"]
    assert left == []


def test_doctor_explains_what_it_finds_and_ends_with_1(node: Node, tool: Tool) -> None:
    configure(node, agent="required")
    node.call("ADD")
    node.unplug("a eth0")
    said = tool("doctor", "--data-dir", f"{node.home}/data")
    assert said.exit == 1
    assert f"error attachment a eth0 in pods: {HOST} is gone" in said.out
    assert "the pod runs and has no network" in said.out
    assert "tullectl repair" in said.out
    assert "no pod can be started until the agent is back" in " ".join(said.out.split())
    assert "2 errors" in said.out


def test_doctor_never_calls_fine_what_it_could_not_see(node: Node, tool: Tool) -> None:
    configure(node)
    machine = Around()
    machine.broken = True
    tool.around(machine)
    said = tool("doctor", "--data-dir", f"{node.home}/data")
    assert said.exit == 1
    assert "not known links: Operation not permitted" in said.out
