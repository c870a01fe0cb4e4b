"""cnitool, the specification's own client, drives the bundle through every verb it has."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conformance.clients import Client, address, find_cnitool, network, results
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import Json, Namespace, Node, Plugins, ping_all
from tests.conformance.observe import snapshot


class CniTool(Client):
    """cnitool on one node. Skips the test without one."""

    def __init__(self, node: Node) -> None:
        self._tool = find_cnitool()
        super().__init__(node)

    def __call__(self, verb: str, pod: Namespace, **env: str) -> subprocess.CompletedProcess[str]:
        variables = {"NETCONFPATH": str(self.confs), "CNI_PATH": self.path, **env}
        return self.run(self._tool, verb, "net", pod.path, env=variables)

    def add(self, pod: Namespace, **env: str) -> Json:
        done = self("add", pod, **env)
        assert done.returncode == 0, done.stdout + done.stderr
        return results(done.stdout)


@pytest.fixture
def node(nodes: Nodes, tulle: Plugins) -> Node:
    return nodes(tulle)


@pytest.fixture
def tool(node: Node) -> Iterator[CniTool]:
    with closing(CniTool(node)) as tool:
        yield tool


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_add_check_del_through_cnitool(node: Node, tool: CniTool, version: str) -> None:
    tool.configure({**network(node), "cniVersion": version})
    before = snapshot(node)
    one, two = node.pod("pod1"), node.pod("pod2")
    result = tool.add(one)
    assert result["cniVersion"] == version
    other = address(tool.add(two))
    assert ping_all([(one, other), (one, "10.60.0.1"), (two, address(result))]) == [True, True, True]
    assert tool("check", one).returncode == 0
    node.run("ip", "-n", one.name, "addr", "flush", "dev", "eth0")
    assert tool("check", one).returncode != 0
    for pod in (one, two, one):  # the second time there is nothing left to do, which is no error
        done = tool("del", pod)
        assert done.returncode == 0, done.stdout + done.stderr
    assert node.leases() == {}
    assert snapshot(node)["ruleset"] == before["ruleset"]


def test_status_tells_when_the_pool_is_empty(node: Node, tool: CniTool) -> None:
    ipam = {"type": "host-local", "dataDir": str(node.data_dir), "ranges": [[{"subnet": "10.60.0.0/30"}]]}
    tool.configure({**network(node, ipam=ipam), "cniVersion": "1.1.0"})
    pod = node.pod("pod1")
    assert tool("status", pod).returncode == 0
    tool.add(pod)
    full = tool("status", pod)
    assert full.returncode != 0
    assert "1 of 1 in use" in full.stdout + full.stderr
    assert tool("del", pod).returncode == 0
    assert tool("status", pod).returncode == 0


def test_gc_removes_the_pods_that_are_gone(node: Node, tool: CniTool) -> None:
    """cnitool keeps no list of what is valid: it forgets all it knew by DEL, then calls GC without a list."""
    tool.configure({**network(node), "cniVersion": "1.1.0"})
    before = snapshot(node)
    for name in ("pod1", "pod2"):
        tool.add(node.pod(name))
    node.pod("pod1").remove()
    collected = tool("gc", node.pod("pod2"))
    assert collected.returncode == 0, collected.stdout + collected.stderr
    after = snapshot(node)
    assert (after["leases"], after["records"], after["ruleset"]) == ({}, [], before["ruleset"])


def test_gc_without_a_list_leaves_a_living_pod_that_cnitool_forgot(node: Node, tool: CniTool) -> None:
    tool.configure({**network(node), "cniVersion": "1.1.0"})
    one = node.pod("pod1")
    living, gone = address(tool.add(one)), address(tool.add(node.pod("pod2")))
    for cached in (tool.state / "var-lib/cni/results").iterdir():
        cached.unlink()
    node.remove_pod("pod2")
    collected = tool("gc", one)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    assert list(node.leases()) == [living]
    assert gone not in node.leases()
    assert ping_all([(one, "10.60.0.1")]) == [True]


def test_capability_arguments_reach_the_plugin(node: Node, tool: CniTool) -> None:
    tool.configure(network(node, capabilities={"ips": True, "mac": True}))
    result = tool.add(node.pod("pod1"), CAP_ARGS='{"ips": ["10.60.0.42/24"], "mac": "c2:11:22:33:44:55"}')
    assert address(result) == "10.60.0.42"
    assert "c2:11:22:33:44:55" in node.run("ip", "-n", node.pod("pod1").name, "link").stdout
