"""tullectl about the cluster: nodes, ping, map, status and the doctor, on a kernel in memory; peers answer as told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.ctl import reach
from cni_plugin.ctl.cluster import matrix
from cni_plugin.ctl.cluster import show as show_cluster
from cni_plugin.ctl.cluster.matrix import MatrixRow, Pair
from cni_plugin.ctl.cluster.roster import Member, Roster, natural
from cni_plugin.ctl.reach import SILENT, Heard, Target, largest
from cni_plugin.ctl.show import out
from cni_plugin.diff import diff
from cni_plugin.mesh import LOST, STRANGER, WAITING, Cell
from cni_plugin.model.links import Fdb
from tests.unit.ctl.tool import Around, Tool, agent, configure
from tests.unit.support import Json, Node

ME: Json = {"name": "me", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"], "since": 1000}
LIST: Json = {
    "network": "10.244.0.0/16", "backend": {"type": "vxlan", "directRouting": True}, "node": "me",
    "nodes": [
        ME,
        {"name": "n10", "address": "192.0.2.10", "podCIDRs": ["10.244.10.0/24"]},
        {"name": "n2", "address": "198.51.100.2", "podCIDRs": ["10.244.2.0/24"]},
    ],
}  # fmt: skip
NEAR, FAR = "10.244.10.0", "10.244.2.0"
ALL = {NEAR: 1500, FAR: 1500}


@pytest.fixture
def site(node: Node) -> Node:
    """A node of a cluster, with one pod; the list is in a file."""
    (node.home / "list.json").write_text(json.dumps(LIST))
    ipam = {"type": "host-local", "dataDir": f"{node.home}/d"}
    made = node.configured(cluster=str(node.home / "list.json"), ipam=ipam)
    assert made.call("ADD").exit == 0
    configure(made)
    return made


@pytest.fixture
def tool(site: Node, monkeypatch: pytest.MonkeyPatch) -> Tool:
    (site.home / "net.d" / "10-tulle.conflist").unlink()
    (site.home / "net.d").rmdir()
    made = Tool(site, monkeypatch)
    configure(site)
    made.around(Around(answers=ALL))
    return made


def rows_of(tool: Tool, *words: str) -> dict[str, Any]:
    (found,) = tool("nodes", "--json", *words).json
    return {each["name"]: each for each in found["nodes"]}


# nodes


def test_nodes_come_in_the_order_that_people_count_in(tool: Tool) -> None:
    assert list(rows_of(tool)) == ["me", "n2", "n10"]
    assert sorted(["n10", "n2", "n1", "a"], key=natural) == ["a", "n1", "n2", "n10"]


def test_nodes_tells_the_way_the_round_trip_and_whether_it_is_programmed(tool: Tool) -> None:
    found = rows_of(tool)
    assert [found[name]["way"] for name in found] == ["this node", "vxlan", "direct"]
    assert [found[name]["rtt"] for name in found] == [None, 0.5, 0.5]
    assert [found[name]["programmed"] for name in found] == [None, True, True]
    assert found["me"]["since"] == 1000.0
    text = tool("nodes").out
    assert "0.50 ms" in text and "d ago" in text and "in kernel" in text


def test_nodes_ends_with_1_when_a_peer_is_silent_and_says_so(tool: Tool) -> None:
    tool.around(Around(answers={NEAR: 1500}))
    said = tool("nodes")
    assert said.exit == 1 and "n2: no answer" in said.out
    assert tool("nodes", "--no-ping").exit == 0
    assert "round trip" not in tool("nodes", "--no-ping").out


def test_nodes_ends_with_1_when_an_entry_is_gone_and_shows_the_line_that_puts_it_back(tool: Tool, site: Node) -> None:
    (entry,) = (each for each in site.kernel.owned("tulle.1").values() if isinstance(each, Fdb))
    site.kernel.apply(diff({}, {entry.key: entry}))
    said = tool("nodes")
    assert said.exit == 1
    assert "n2 lacks: bridge fdb" in said.out
    assert rows_of(tool)["n2"]["programmed"] is False and rows_of(tool)["n10"]["programmed"] is True


def test_nodes_of_a_list_that_is_wrong_says_why_and_ends_with_1(tool: Tool, site: Node) -> None:
    (site.home / "list.json").write_text("{")
    said = tool("nodes")
    assert said.exit == 1 and "not valid JSON" in said.out


def test_a_list_that_was_never_programmed_is_shown_as_such(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(node, monkeypatch)
    tool.around(Around(answers=ALL))
    (node.home / "list.json").write_text(json.dumps(LIST))
    configure(node.configured(cluster=str(node.home / "list.json")))
    assert {each["programmed"] for each in rows_of(tool).values()} == {None}
    assert tool("status", "--json").json["cluster"]["reason"].startswith("nothing is programmed yet")


def test_without_tunnel_a_silent_bridge_is_excused_while_its_node_answers(tool: Tool, site: Node) -> None:
    (site.home / "list.json").write_text(json.dumps({**LIST, "backend": {"type": "host-gw"}, "nodes": [
        ME, {"name": "n10", "address": "192.0.2.10", "podCIDRs": ["10.244.10.0/24"]},
    ]}))  # fmt: skip
    assert tool("repair").exit == 0
    tool.around(Around(answers={"192.0.2.10": 1500}))
    assert tool("nodes").exit == 0
    assert (rows_of(tool)["n10"]["way"], rows_of(tool)["n10"]["reached"]) == ("host-gw", None)
    said = tool("ping", "--all")
    assert said.exit == 0 and "its bridge does not" in said.out, "nobody is lost who need not be there"
    tool.around(Around(answers={}))
    assert tool("nodes").exit == 1
    tool.around(Around(answers={"10.244.10.1": 1500}))
    assert rows_of(tool)["n10"]["reached"] is True


def test_a_node_in_no_cluster_is_told_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Tool(node, monkeypatch)("nodes")
    assert (said.exit, said.err.count("tullectl:")) == (1, 1) and "in no cluster" in said.err


def test_a_network_that_is_not_there_is_refused_with_those_that_are(tool: Tool) -> None:
    said = tool("ping", "n2", "--network", "other")
    assert said.exit == 1 and "there is pods" in said.err


# ping


def test_ping_says_each_echo_and_what_they_come_to(tool: Tool) -> None:
    said = tool("ping", "n2", "-c", "1")
    assert said.exit == 0
    echo, total = said.out.splitlines()
    assert echo == "n2 (10.244.2.0) 1: 0.500 ms"
    assert total == "1 of 1 answered from 10.244.2.0, 0.500/0.500/0.500 ms least/mean/most"


@pytest.mark.parametrize("name", ["n2", "198.51.100.2", "10.244.2.0"])
def test_a_node_is_found_by_any_of_its_names(tool: Tool, name: str) -> None:
    assert tool("ping", name, "-c", "1", "--json").json["node"] == "n2"


def test_ping_ends_with_1_when_nothing_comes_back(tool: Tool) -> None:
    tool.around(Around(answers={FAR: 1300}))
    assert tool("ping", "n2", "-c", "1", "-s", "1300").exit == 0
    said = tool("ping", "n2", "-c", "1", "-s", "1301")
    assert said.exit == 1 and "0 of 1 answered" in said.out
    assert tool("ping", "n2", "-s", "20").exit == 1


# the matrix


def asked(monkeypatch: pytest.MonkeyPatch, said: dict[str, dict[str, Cell]]) -> None:
    monkeypatch.setattr(matrix, "ask", lambda _source, _addresses, _names: said)


def test_the_matrix_has_a_row_of_each_node_that_tells(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch, {"n2": {"me": Cell(400), "n10": Cell(700)}, "n10": {"me": Cell(300), "n2": Cell(600)}})
    said = tool("ping", "--all")
    assert said.exit == 0
    assert [line.split() for line in said.out.splitlines()[1:4]] == [
        ["me", "-", "0.50", "0.50"], ["n2", "0.40", "-", "0.70"], ["n10", "0.30", "0.60", "-"],
    ]  # fmt: skip
    assert "6 of 6 pairs answer, 0 are lost; median 0.50 ms" in said.out


def test_a_lost_pair_is_named_and_ends_with_1_and_an_unknown_one_does_not(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, {"n2": {"me": Cell(400), "n10": Cell(LOST)}})
    said = tool("ping", "--all")
    assert said.exit == 1
    assert "n2 does not reach n10" in said.out and "not known from n10: its agent does not tell" in said.out
    asked(monkeypatch, {"n2": {"me": Cell(400), "n10": Cell(STRANGER)}, "n10": {"me": Cell(1), "n2": Cell(WAITING)}})
    said = tool("ping", "--all")
    assert said.exit == 0 and "not known from n10: it did not tell of all in time" in said.out


def test_a_peer_that_does_not_answer_this_node_is_not_asked_for_its_row(tool: Tool) -> None:
    tool.around(Around(answers={}))
    said = tool("ping", "--all")
    assert said.exit == 1
    assert "me does not reach n2" in said.out and "not known from n2, n10: it does not answer this node" in said.out


def test_a_large_matrix_has_a_sign_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"n{number}" for number in range(1, 31)]
    rows = [MatrixRow(one, {other: Pair(0.4) for other in names if other != one}) for one in names]
    rows[4] = MatrixRow("n5", {**rows[4].pairs, "n7": Pair(None, True), "n9": Pair()})
    show_cluster.matrix(rows, matrix.lost(rows), left_out=70)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[2].rstrip()) < 60
    assert next(each for each in lines if each.startswith("5 n5")).split()[2] == "....-.X.?....................."
    assert "70 more nodes were left out: this is a sample" in lines
    assert out.is_terminal is False


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 9999), min_size=2, max_size=40), st.sets(st.integers(0, 39)))
def test_any_matrix_can_be_drawn_and_says_how_many_are_lost(times: list[float], gone: set[int]) -> None:
    names = [f"[n{number}]" for number in range(len(times))]
    to_each = {name: Pair(None, True) if at in gone else Pair(times[at]) for at, name in enumerate(names)}
    rows = [MatrixRow(one, {other: pair for other, pair in to_each.items() if other != one}) for one in names]
    with out.capture() as captured:
        show_cluster.matrix(rows, matrix.lost(rows), left_out=0)
    lost = len(gone & set(range(len(times)))) * (len(times) - 1)
    assert f"{lost} are lost" in captured.get()


def test_of_a_large_cluster_a_sample_from_all_over_is_taken() -> None:
    members = [Member(name=f"n{number}", addresses=(), subnets=(), me=number == 0) for number in range(1001)]
    cluster = Roster(network="pods", source="", members=tuple(members))
    found = [each.name for each in matrix.sample(cluster, 10)]
    assert found == ["n1", "n101", "n201", "n301", "n401", "n501", "n601", "n701", "n801", "n901"]


# how large a packet may be


class Link_(dict[str, int]):
    """Addresses and the largest packet that each answers; counts what it was asked."""

    calls = 0

    def __call__(self, asks: Sequence[Target], wait: float) -> list[Heard]:
        self.calls += 1
        assert wait > 0
        return [Heard(0.1) if each.size <= self[each.to] else Heard(None, SILENT) for each in asks]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), st.integers(56, 8999), min_size=1))
def test_the_largest_packet_that_passes_is_found_to_the_byte_in_four_waits(limits: dict[str, int]) -> None:
    probe = Link_(limits)
    assert largest(probe, list(limits), 9000, 0.1) == list(limits.values())
    assert probe.calls <= 4


def test_nothing_is_sent_where_nobody_is_asked() -> None:
    assert largest(Link_(), [], 1450, 0.1) == []
    with reach.Prober({}) as probe:
        assert probe([], 1.0) == []


# the doctor


def test_the_doctor_asks_the_peers_unless_told_not_to(tool: Tool) -> None:
    tool.around(Around(answers={NEAR: 1450, FAR: 1312}))
    hole = next(each for each in tool("doctor", "--json").json if each["name"] == "mtu-black-hole")
    assert (hole["key"], hole["value"]) == ("packets to n2", "1312 bytes pass, the pods' 1450 do not")
    assert "mtu-black-hole" not in tool("doctor", "--no-probe").out


# status and map


def test_status_tells_of_the_cluster_by_the_agents_word_where_there_is_an_agent(tool: Tool, site: Node) -> None:
    told = {"source": "etcd", "network": "tulle", "node": "me", "ready": False, "reason": "no lease", "nodes": 3,
            "trouble": "etcd is away", "problems": ["n7 is left out"], "backend": "vxlan", "mtu": 1450,
            "addresses": ["192.0.2.1"], "podCIDRs": ["10.244.1.0/24"]}  # fmt: skip
    answer = {"version": "0.1.0", "pid": 7, "started": 1.0, "queue": 0, "served": 0, "ready": True, "cluster": told}
    with agent(site, {"status": answer}):
        assert tool("status", "--json").json["cluster"] == told
        text = tool("status").out
    assert "from etcd" in text and "not ready (no lease)" in text
    assert "  etcd is away" in text and "  n7 is left out" in text
    without = tool("status").out
    assert "Cluster: pods, 3 nodes by vxlan" in without and "Agent: away" in without


def test_map_writes_a_file_or_stdout_and_needs_no_answer(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(monkeypatch, {})
    said = tool("map", "-o", str(tmp_path / "it.svg"))
    assert said.exit == 0 and "3 nodes, 1 pods" in said.out
    assert (tmp_path / "it.svg").read_text().startswith("<svg")
    assert "n10" in tool("map", "--output", "-", "--no-ping").out
