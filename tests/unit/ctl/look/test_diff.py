"""`tullectl diff` on a kernel in memory: what differs, as the lines that would put it right."""

from __future__ import annotations

from cni_plugin.model.base import POD
from tests.unit.ctl.tool import Tool
from tests.unit.support import Node


def test_diff_of_a_node_that_is_right_says_so_and_ends_with_0(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("diff")
    assert (said.exit, said.out) == (0, "all is as it should be\n")
    assert tool("diff", "--json").json == []


def test_diff_prints_the_lines_that_would_put_it_right_does_nothing_and_ends_with_1(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    broken = dict(node.kernel.state)
    said = tool("diff")
    assert said.exit == 1
    assert said.out == "# attachment a eth0 in pods\nip -n POD addr add 10.22.0.2/24 dev eth0\n"
    (wrong,) = tool("diff", "--json").json
    assert wrong["ops"] == ["ip -n POD addr add 10.22.0.2/24 dev eth0"]
    assert node.kernel.state == broken
