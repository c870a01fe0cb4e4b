"""`tullectl plan` on a kernel in memory: the lines that an ADD would carry out, and nothing done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.ctl.tool import CLUSTER, Tool
from tests.unit.support import Node


@pytest.fixture
def conf(node: Node) -> str:
    """The node's configuration as a file."""
    path = node.home / "10-tulle.conflist"
    plugin = {key: each for key, each in node.conf.items() if key not in ("name", "cniVersion")}
    path.write_text(json.dumps({"name": "pods", "cniVersion": "1.1.0", "plugins": [plugin, {"type": "portmap"}]}))
    return str(path)


HEADINGS = ("# masquerade", "# the bridge tulle0", "# the pod")


def test_plan_prints_what_add_would_do_and_touches_nothing(node: Node, tool: Tool, conf: str) -> None:
    said = tool("plan", conf)
    assert said.exit == 0, said.err
    for line in (
        "ip link add tulle0 mtu 1500 type bridge",
        "ip addr add 10.22.0.1/24 dev tulle0",
        "ip -n POD addr add 10.22.0.2/24 dev eth0",
        "ip -n POD route add 0.0.0.0/0 via 10.22.0.1 dev eth0",
        "ip saddr { 10.22.0.0/24 }",
    ):
        assert line in said.out
    assert node.kernel.state == {}
    assert node.left() == [Path(conf).name]
    assert not (node.home / "data").exists()


def test_plan_prints_the_very_lines_that_add_carries_out(node: Node, tool: Tool, conf: str) -> None:
    from cni_plugin.describe import script

    said = tool("plan", conf, "--container", "a")
    node.call("ADD")
    done = script(node.kernel.applied).splitlines()
    assert [line for line in said.out.splitlines() if line not in HEADINGS] == done


@pytest.mark.parametrize("version", ["0.2.0", "1.1.0"])
def test_plan_of_an_ipam_that_cannot_be_asked_beforehand_leaves_out_its_addresses(
    node: Node, tool: Tool, tmp_path: Path, version: str
) -> None:
    """A result before 0.3.0 needs an address: the ADD has one, and must not be said to fail."""
    path = tmp_path / "10-static.conf"
    path.write_text(json.dumps({**node.conf, "cniVersion": version, "ipam": {"type": "static"}}))
    said = tool("plan", str(path))
    assert said.exit == 0, said.err
    assert "ip link add tulle0" in said.out
    assert "addr add" not in said.out


def test_plan_of_no_addresses_fails_in_the_versions_that_need_one(node: Node, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "10-none.conf"
    path.write_text(json.dumps({**node.conf, "cniVersion": "0.2.0", "ipam": {}}))
    said = tool("plan", str(path))
    assert (said.exit, "no valid IP addresses" in said.err) == (1, True)


def test_plan_as_json_has_the_same_lines(tool: Tool, conf: str) -> None:
    steps = json.loads(tool("plan", conf, "--json").out)
    lines = [line for step in steps for line in (f"# {step['what']}", *step["ops"])]
    assert lines == tool("plan", conf).out.splitlines()


def test_plan_of_a_second_pod_leaves_out_what_stands(node: Node, tool: Tool, conf: str) -> None:
    node.call("ADD")
    said = tool("plan", conf, "--container", "b", "--ifname", "eth1")
    assert said.out.count("# nothing to do: it is as it should be") == 2
    assert "10.22.0.3/24" in said.out
    assert list(node.leases()) == ["10.22.0.2"]


def test_plan_of_a_cluster_shows_the_way_to_each_peer(node: Node, tool: Tool, tmp_path: Path) -> None:
    path = tmp_path / "c.conf"
    path.write_text(json.dumps({**node.conf, "ipam": {"type": "host-local"}, "cluster": CLUSTER}))
    said = tool("plan", str(path))
    assert said.exit == 0, said.err
    assert "1 peers by vxlan" in said.out
    assert "ip route add 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink" in said.out
    assert node.kernel.state == {}


def test_plan_takes_the_configuration_that_a_runtime_would_take(
    tool: Tool, conf: str
) -> None:
    assert "ip link add tulle0" in tool("plan", NETCONFPATH=str(Path(conf).parent)).out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("{", "not valid JSON"),
        ('{"name": "pods", "plugins": [{"type": "macvlan"}]}', "no plugin of type tulle or bridge"),
        ('{"name": "pods", "type": "tulle", "mtu": 1}', "invalid mtu 1"),
        ('{"type": "tulle"}', "invalid name"),
    ],
)
def test_plan_of_a_bad_configuration_says_what_is_wrong_and_ends_with_1(
    tool: Tool, tmp_path: Path, text: str | None, says: str
) -> None:
    path = tmp_path / "bad.conf"
    if text is not None:
        path.write_text(text)
    said = tool("plan", str(path))
    assert said.exit == 1
    assert said.out == ""
    assert says in said.err
