"""`tullectl trace` of pods in memory: all that belongs to one, and what is wrong with it."""

from __future__ import annotations

import time

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.kernel.see.look import Entry, Link, Way
from cni_plugin.model.base import POD
from tests.unit.ctl.tool import Glasses, Tool, View
from tests.unit.support import Node

HOST = Attachment("pods", "a", "eth0").host_dev


def eyes() -> Glasses:
    """A node and its pod `a` as they stand after ADD."""
    host = View(
        [Link(HOST, 7, "veth", 1500, "0e:ab:00:00:00:01", "tulle:pods/a/eth0", "tulle0", port="forwarding",
              counters={"rx_packets": 12})],
        addresses={"tulle0": ("10.22.0.1/24",)},
        ways={"10.22.0.2>203.0.113.9": Way("unicast", "up0", "198.51.100.2"), "203.0.113.9": Way("unicast", "up0")},
        neighbours=[Entry("tulle0", "0a:58:0a:16:00:02", "10.22.0.2", "reachable"), Entry("up0", "02::", "192.0.2.9")],
        entries=[Entry(HOST, "0a:58:0a:16:00:02"), Entry("tl-other", "0a:58:0a:16:00:77")],
    )  # fmt: skip
    ways = {"10.22.0.1": Way("unicast", "eth0"), "203.0.113.9": Way("unicast", "eth0", "10.22.0.1")}
    inside = View([Link("eth0", 2, "veth", 1500)], addresses={"eth0": ("10.22.0.2/24",)}, ways=ways)
    rules = (
        "table ip filter {\n\tchain FORWARD {\n\t\tip saddr 10.22.0.2 drop\n\t\tip saddr 10.22.0.20 drop\n\t}\n}\n"
        'table inet tulle {\n\tchain postrouting {\n\t\tmasquerade comment "network pods 1"\n\t}\n}\n'
    )
    return Glasses({"": host, "/run/netns/a": inside}, rules)


def test_trace_tells_everything_of_a_pod_and_why(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(eyes())
    said = tool("trace", "a", "--to", "203.0.113.9")
    assert said.exit == 0, said.out
    for each in (
        "attachment a eth0 in pods: up", "ip -n POD addr add 10.22.0.2/24 dev eth0", f"{HOST}, index 7",
        "# the address that host-local leased", "10.22.0.2 is 0a:58:0a:16:00:02 on tulle0 (reachable)",
        "0e:ab:00:00:00:01", "rx_packets 12",
        f"0a:58:0a:16:00:02 behind {HOST}", "ip filter FORWARD: ip saddr 10.22.0.2 drop", "masquerade comment",
        "the way to 10.22.0.1", "tulle0 of this node has 10.22.0.1", "the way to 203.0.113.9", "masqueraded",
    ):  # fmt: skip
        assert each in said.out, f"{each}\n\n{said.out}"
    for each in ("10.22.0.20", "tl-other", "up0 (", "WRONG"):
        assert each not in said.out, each


@pytest.mark.parametrize("words", ["abcdef", "abc", "10.22.0.2"])
def test_trace_finds_a_pod_by_its_id_by_the_beginning_of_it_and_by_its_address(
    node: Node, tool: Tool, words: str
) -> None:
    node.call("ADD", "abcdef eth0")
    node.call("ADD", "xyz eth1")
    tool.around(Glasses({}))
    (told,) = tool("trace", words, "--json").json
    assert told["attachment"]["container"] == "abcdef"


def test_trace_of_an_ambiguous_beginning_names_the_pods_it_may_be(node: Node, tool: Tool) -> None:
    for pod in ("abc1 eth0", "abc2 eth1"):
        node.call("ADD", pod)
    said = tool("trace", "abc")
    assert said.exit == 1
    assert "it may be abc1, abc2" in said.err


def test_trace_of_nobody_says_so(tool: Tool) -> None:
    said = tool("trace", "192.0.2.1")
    assert said.exit == 1
    assert "no attachment on record has '192.0.2.1'" in said.err


def test_trace_to_what_is_no_address_is_a_wrong_command_line(node: Node, tool: Tool) -> None:
    node.call("ADD")
    assert tool("trace", "a", "--to", "there").exit == 2


def test_trace_shows_what_is_wrong_with_the_line_that_puts_it_right(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(eyes())
    del node.kernel.state["addr", POD, "eth0", "10.22.0.2/24"]
    said = tool("trace", "a")
    assert said.exit == 1
    assert "WRONG ip -n POD addr add 10.22.0.2/24 dev eth0" in said.out


def test_trace_of_a_pod_whose_namespace_is_gone_tells_the_rest(node: Node, tool: Tool) -> None:
    node.call("ADD")
    tool.around(Glasses({"": View()}))
    said = tool("trace", "a")
    assert said.exit == 1
    assert "not known" in said.out
    assert "the pod's namespace: CNI_NETNS '/run/netns/a' names nothing" in said.out
    assert "10.22.0.2" in said.out


def test_times_are_those_of_the_node(node: Node, tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    node.call("ADD")
    tool.around(Glasses({}))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    (record,) = node.records.all()
    (told,) = tool("trace", "a", "--json").json
    assert told["attachment"]["created"] == time.strftime("%Y-%m-%dT%H:%M:%S+0000", time.gmtime(record.created))
