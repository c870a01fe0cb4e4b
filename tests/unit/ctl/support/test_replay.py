"""`tullectl replay`: requests that were served once, served again where it can do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment
from tests.unit.ctl.tool import Tool, agent, served
from tests.unit.support import Node, Reply

HOST = Attachment("pods", "a", "eth0").host_dev


def test_replay_lists_the_requests_the_last_one_last(node: Node, tool: Tool) -> None:
    requests = [served(node), served(node, "DEL", message="")]
    with agent(node, {"requests": requests}):
        said = tool("replay")
        told = tool("replay", "--json").json
    assert said.exit == 0
    first, last = said.out.splitlines()[-2:]
    assert first.split()[0::2][:2] == ["2", "ADD"]
    assert last.split()[0::2][:2] == ["1", "DEL"]
    assert isinstance(told, list)
    assert [each["verb"] for each in told] == ["ADD", "DEL"]


@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "STATUS"])
def test_replay_serves_a_request_again_and_touches_nothing(
    node: Node, tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    added = served(node)
    if verb == "CHECK":
        node = node.after(Reply(0, json.loads(added["stdout"])))
    request = added if verb == "ADD" else served(node, verb)
    before = (dict(node.kernel.state), len(node.kernel.applied), node.left(), node.leases())
    with agent(node, {"requests": [request]}):
        said = tool("replay", "1")
        told = tool("replay", "1", "--json").json
    assert said.exit == 0, said.out + said.err
    assert isinstance(told, dict)
    assert told["same"]
    expected = {"ADD": "ip -n POD addr add 10.22.0.2/24 dev eth0", "DEL": f"ip link del {HOST}"}
    assert expected.get(verb, "# nothing was changed") in said.out
    assert (dict(node.kernel.state), len(node.kernel.applied), node.left(), node.leases()) == before
    assert list((tmp_path / "tmp").iterdir()) == []


def test_replay_asks_for_the_addresses_that_were_given(node: Node, tool: Tool) -> None:
    node.call("ADD", "first eth7")
    request = served(node, "ADD", "second eth0")
    assert "10.22.0.3" in request["stdout"]
    with agent(node, {"requests": [request]}):
        assert "ip -n POD addr add 10.22.0.3/24 dev eth0" in tool("replay", "1").out


def test_replay_of_a_cluster_reads_its_node_list_and_programs_a_kernel_in_memory(
    node: Node, tool: Tool, tmp_path: Path
) -> None:
    nodes = [
        {"name": f"n{each}", "address": f"192.0.2.{each}", "podCIDRs": [f"10.244.{each}.0/24"]} for each in (1, 2)
    ]
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"node": "n1", "nodes": nodes}))
    member = node.configured(cluster=str(path), ipam={"type": "host-local", "dataDir": f"{node.home}/data"})
    with agent(node, {"requests": [served(member)]}):
        said = tool("replay", "1")
    assert said.exit == 0, said.out + said.err
    assert "ip route add 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink" in said.out


def test_replay_of_a_failure_fails_again_and_of_one_that_does_not_ends_with_1(node: Node, tool: Tool) -> None:
    bad = node.configured(mtu=1)
    with agent(node, {"requests": [served(bad)]}):
        assert tool("replay", "1").exit == 0
    with agent(node, {"requests": [served(node, code=11, stdout='{"code": 11}')]}):
        said = tool("replay", "1")
    assert said.exit == 1
    assert "another outcome" in said.out


def test_replay_of_a_delegated_ipam_is_refused_with_the_reason(node: Node, tool: Tool) -> None:
    request = served(node, stdin=json.dumps({**node.conf, "ipam": {"type": "dhcp"}}))
    with agent(node, {"requests": [request]}):
        said = tool("replay", "1")
    assert said.exit == 1
    assert "'dhcp', another program" in said.err


def test_replay_of_a_request_that_is_not_there_names_those_that_are(node: Node, tool: Tool) -> None:
    with agent(node, {"requests": [served(node)]}):
        said = tool("replay", "2")
    assert said.exit == 1
    assert "1 (the last) to 1" in said.err
