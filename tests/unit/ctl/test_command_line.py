"""tullectl on a kernel in memory: what it prints, what it changes and with which exit code it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.client import VERSION
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.model.base import POD
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import Bridge, Up, Veth, Vxlan
from cni_plugin.model.nft import Chain
from tests.unit.ctl.tool import Said, Tool
from tests.unit.support import UPLINK, Json, Node

HOST = Attachment("pods", "a", "eth0").host_dev
CLUSTER: Json = {
    "node": "n1",
    "nodes": [
        {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]},
        {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.244.2.0/24"]},
    ],
}


@pytest.fixture
def tool(node: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """tullectl on this node."""
    return Tool(node, monkeypatch)


@pytest.fixture
def conf(node: Node) -> str:
    """The node's configuration as a file."""
    path = node.home / "10-tulle.conflist"
    plugin = {key: each for key, each in node.conf.items() if key not in ("name", "cniVersion")}
    path.write_text(json.dumps({"name": "pods", "cniVersion": "1.1.0", "plugins": [plugin, {"type": "portmap"}]}))
    return str(path)


def data(node: Node) -> tuple[str, str]:
    return "--data-dir", f"{node.home}/data"


# The command line


def test_it_says_its_version(tool: Tool) -> None:
    assert tool("--version") == Said(0, f"tullectl {VERSION}\n", "")


@pytest.mark.parametrize("words", [(), ("plan",), ("status",), ("ipam",), ("ipam", "list"), ("repair",), ("cleanup",)])
def test_every_command_has_help(tool: Tool, words: tuple[str, ...]) -> None:
    said = tool(*words, "--help")
    assert said.exit == 0
    assert "Usage:" in said.out


@pytest.mark.parametrize("words", [("frob",), ("status", "--frob"), ("ipam", "release", "pods")])
def test_a_wrong_command_line_ends_with_2(tool: Tool, words: tuple[str, ...]) -> None:
    assert tool(*words).exit == 2


# plan

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


# status


def test_status_of_a_bare_node_is_empty(tool: Tool) -> None:
    empty: Json = {
        "networks": [], "attachments": [], "bridges": [], "clusters": [], "agent": None, "cluster": None,
    }  # fmt: skip
    assert json.loads(tool("status", "--json").out) == empty
    assert "Attachments: none" in tool("status").out


def test_status_shows_attachments_and_addresses(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    report = json.loads(tool("status", "--json").out)
    assert [(each["container"], each["ips"], each["state"]) for each in report["attachments"]] == [
        ("a", ["10.22.0.2/24"], "up"), ("b", ["10.22.0.3/24"], "up"),
    ]
    (network,) = report["networks"]
    assert (network["network"], network["attachments"], network["masquerade"]) == ("pods", 2, ["10.22.0.0/24"])
    assert (network["used"], network["free"], network["of"]) == ([2], [251], [253])
    table = tool("status").out
    assert "10.22.0.2/24" in table
    assert HOST in table


def test_status_tells_an_unplugged_pod_from_a_dead_one(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.unplug("a eth0")
    node.unplug("b eth1")
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=("/run/netns/a",))
    states = {each["container"]: each["state"] for each in json.loads(tool("status", "--json").out)["attachments"]}
    assert states == {"a": "unplugged", "b": "dead"}


def test_status_shows_clusters(node: Node, tool: Tool) -> None:
    node.configured(cluster=CLUSTER).call("ADD")
    (cluster,) = json.loads(tool("status", "--json").out)["clusters"]
    assert (cluster["node"], cluster["backend"], cluster["device"], cluster["peers"]) == ("n1", "vxlan", "tulle.1", 1)


# ipam


def test_ipam_list_says_who_has_which_address(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (row,) = json.loads(tool("ipam", "list", "pods", "--json", *data(node)).out)
    assert (row["address"], row["container"], row["ifname"]) == ("10.22.0.2", "a", "eth0")
    assert "10.22.0.2" in tool("ipam", "list", *data(node)).out
    assert json.loads(tool("ipam", "list", "others", "--json", *data(node)).out) == []


def test_ipam_list_finds_the_folder_of_an_attachment_by_itself(node: Node, tool: Tool) -> None:
    node.call("ADD")
    found = json.loads(tool("ipam", "list", "pods", "--json", "--data-dir", f"{node.home}/elsewhere").out)
    assert [each["address"] for each in found] == ["10.22.0.2"]


def test_ipam_check_is_content_with_what_is_right(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("ipam", "check", *data(node))
    assert said.exit == 0
    assert "every lease belongs to an attachment" in said.out
    assert json.loads(tool("ipam", "check", "--json", *data(node)).out) == []


def test_ipam_check_misses_no_lease_in_a_folder_that_its_attachment_does_not_lease_from(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (node.home / "elsewhere" / "pods").mkdir(parents=True)
    assert tool("ipam", "check", "--data-dir", f"{node.home}/elsewhere").exit == 0


def leak(node: Node) -> None:
    for path in (node.home / "run" / "attachments" / "pods").iterdir():
        path.unlink()


def damage(node: Node) -> None:
    (node.home / "data" / "pods" / "10.22.0.2").write_bytes(b"")


def lose(node: Node) -> None:
    (node.home / "data" / "pods" / "10.22.0.2").unlink()


def bury(node: Node) -> None:
    node.unplug("a eth0")
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (leak, "leaked: no attachment has it"),
        (damage, "damaged"),
        (lose, "in use without a lease"),
        (bury, "leaked: its attachment is dead"),
    ],
)
def test_ipam_check_names_what_is_wrong_and_ends_with_1(
    node: Node, tool: Tool, harm: Callable[[Node], None], problem: str
) -> None:
    node.call("ADD")
    harm(node)
    said = tool("ipam", "check", "pods", "--json", *data(node))
    assert said.exit == 1
    found = [(each["address"], each["problem"]) for each in json.loads(said.out)]
    assert any(address == "10.22.0.2" and text.startswith(problem) for address, text in found), found
    assert "10.22.0.2" in tool("ipam", "check", *data(node)).out


def test_ipam_release_takes_a_leaked_address_back(node: Node, tool: Tool) -> None:
    node.call("ADD")
    leak(node)
    said = tool("ipam", "release", "pods", "10.22.0.2", *data(node))
    assert said.exit == 0
    assert "it was a eth0's" in said.out
    assert node.leases() == {}
    assert "nobody had it" in tool("ipam", "release", "pods", "10.22.0.2", *data(node)).out


def test_ipam_release_leaves_an_address_in_use_unless_forced_to(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("ipam", "release", "pods", "10.22.0.2", *data(node))
    assert said.exit == 1
    assert "the attachment a eth0" in said.err
    assert list(node.leases()) == ["10.22.0.2"]
    assert tool("ipam", "release", "pods", "10.22.0.2", "--force", *data(node)).exit == 0
    assert node.leases() == {}


@pytest.mark.parametrize(("network", "address"), [("pods", "ten"), ("pods", "10.22.0.0/24"), ("../pods", "10.22.0.2")])
def test_ipam_release_of_what_is_no_address_or_no_network_is_refused(tool: Tool, network: str, address: str) -> None:
    said = tool("ipam", "release", network, address)
    assert said.exit == 1
    assert "invalid" in said.err


# repair


def test_repair_of_a_node_that_is_right_changes_nothing(node: Node, tool: Tool) -> None:
    node.configured(cluster=CLUSTER).call("ADD")
    before, done = dict(node.kernel.state), len(node.kernel.applied)
    said = tool("repair")
    assert said.exit == 0, said.out
    assert (node.kernel.state, len(node.kernel.applied)) == (before, done)
    assert "attachment a eth0 in pods: right" in said.out
    assert tool("repair", "--dry-run").exit == 0


BROKEN = {
    "address in the pod": ("addr", POD, "eth0", "10.22.0.2/24"),
    "pod's link down": ("up", POD, "eth0"),
    "gateway address": ("addr", "", "tulle0", "10.22.0.1/24"),
    "masquerade": ("chain", "", "postrouting"),
    "route to a peer": ("route", "", "254", "10.244.2.0/24", "0", ""),
    "neighbour entry of a peer": ("neigh", "", "tulle.1", "10.244.2.0"),
    "wire": ("link", "", HOST),
    "tunnel": ("link", "", "tulle.1"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_repair_puts_right_what_somebody_broke(node: Node, tool: Tool, what: str) -> None:
    from cni_plugin.diff import Op

    node.configured(cluster=CLUSTER).call("ADD")
    before = dict(node.kernel.state)
    node.kernel.apply([Op("delete", node.kernel.state[BROKEN[what]])])
    broken = dict(node.kernel.state)

    looked = tool("repair", "--dry-run")
    assert looked.exit == 1
    assert ": wrong" in looked.out
    assert node.kernel.state == broken

    said = tool("repair")
    assert said.exit == 0, said.out
    assert ": put right" in said.out
    assert node.kernel.state == before
    assert tool("repair", "--dry-run").exit == 0


def test_repair_as_json_has_the_lines(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    said = tool("repair", "--dry-run", "--json")
    assert said.exit == 1
    (wrong,) = [each for each in json.loads(said.out) if each["ops"]]
    assert wrong == {
        "what": "attachment a eth0 in pods", "ops": ["ip -n POD addr add 10.22.0.2/24 dev eth0"], "problem": "",
    }


def test_repair_tells_of_a_pod_whose_namespace_is_gone_and_goes_on(node: Node, tool: Tool) -> None:
    node.call("ADD")
    node.call("ADD", "b eth1")
    node.unplug("a eth0")
    del node.kernel.state["addr", POD, "eth1", "10.22.0.3/24"]
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=("/run/netns/b",))
    said = tool("repair")
    assert said.exit == 1
    assert "attachment a eth0 in pods: its namespace /run/netns/a is gone" in said.out
    assert "attachment b eth1 in pods: put right" in said.out
    assert Addr("eth1", "10.22.0.3/24", POD) in node.kernel.state.values()


def test_repair_that_the_kernel_refuses_is_told_and_ends_with_1(node: Node, tool: Tool) -> None:
    node.call("ADD")
    del node.kernel.state["up", POD, "eth0"]
    node.kernel.fail_at = len(node.kernel.applied)
    said = tool("repair")
    assert said.exit == 1
    assert "Input/output error" in said.out
    assert Up("eth0", POD) not in node.kernel.state.values()


# cleanup


def test_cleanup_removes_all_that_bears_our_mark_and_only_when_told_to(node: Node, tool: Tool) -> None:
    foreign = (Bridge("br7"), Route("203.0.113.0/24", "eth0", protocol=4), Veth("veth7", master="br7"))
    node.kernel.state.update({each.key: each for each in foreign})
    member = node.configured(cluster=CLUSTER)
    member.call("ADD")
    assert tool("cleanup", "--yes").exit == 1, "a pod is still wired"
    member.call("DEL")
    before = dict(node.kernel.state)
    said = tool("cleanup")
    assert (said.exit, node.kernel.state) == (0, before)
    assert "ip link del tulle0" in said.out
    assert "add --yes to do it" in said.err
    assert tool("cleanup", "--yes").exit == 0
    assert set(node.standing().values()) == set(foreign)
    assert not [each for each in node.kernel.state.values() if isinstance(each, Chain | Vxlan)]
    assert "nothing of ours is here" in tool("cleanup").out
