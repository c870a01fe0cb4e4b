"""A Linux bridge holds 1,023 ports: what the pod after the last one is told, and what STATUS says before."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conformance.nodes import Call
from tests.netns.failure_nodes import conf, node_with, status


def test_past_the_last_port_add_and_status_say_so_and_nothing_is_left(plugin: Path, tmp_path: Path) -> None:
    with node_with(plugin, tmp_path) as node:
        configuration = conf(node)
        resident = Call(command="ADD", container="resident", netns=node.pod("resident").path)
        assert node.invoke(configuration, resident).exit == 0
        assert status(node, configuration).exit == 0
        # pairs with both ends on the node: both are ports, and it takes half as many
        pair = "link add a{0} master tulle0 type veth peer name b{0}\nlink set b{0} master tulle0"
        lines = [pair.format(number) for number in range(511)]
        subprocess.run(
            ["ip", "-n", node.name, "-batch", "-"], input="\n".join(lines), text=True, check=True, timeout=90
        )
        full = status(node, configuration)
        assert full.code == 50
        assert "1023 ports of the bridge tulle0" in full.message
        refused = node.invoke(configuration, Call(command="ADD", container="late", netns=node.pod("late").path))
        assert refused.code == 11
        assert "1023 ports of the bridge tulle0" in refused.message
        assert sorted(each.name for each in (node.data_dir / "net").glob("10.*")) == ["10.60.0.2"]
        node.run("ip", "link", "del", "a0")
        again = node.invoke(configuration, Call(command="ADD", container="late", netns=node.pod("late").path))
        assert again.exit == 0
