"""tullectl about a cluster on a real kernel: real probes between nodes that are namespaces, and what was cut there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import NETWORK, REPO
from tests.conformance.nodes import SYSTEM_PATH
from tests.netns.conftest import MakeLab
from tests.pace import until
from tests.unit.ctl.tool import Said

SVG = "{http://www.w3.org/2000/svg}"


def tullectl(lab: labs.Lab, node: str, *words: str) -> Said:
    """The tool on a node of the lab."""
    where = lab.node(node)
    built = Path(lab.spec.plugin).resolve().parent / "tullectl"
    command = [str(built)] if built.exists() else [sys.executable, "-m", "cni_plugin.ctl"]
    environ = {"PATH": SYSTEM_PATH, "PYTHONPATH": str(REPO), "NETCONFPATH": str(where.state / "net.d"),
               "TULLE_RUN_DIR": where.env["TULLE_RUN_DIR"]}  # fmt: skip
    argv = [*namespaces.inside(where.netns), *command, *words]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=60, check=False)
    return Said(done.returncode, done.stdout, done.stderr)


def findings(lab: labs.Lab, node: str, *words: str) -> dict[str, Any]:
    """What the doctor finds on a node, by name."""
    done = tullectl(lab, node, "doctor", "--json", *words)
    assert done.exit in (0, 1), done.err
    return {each["name"]: each for each in done.json}


def with_pods(lab: labs.Lab) -> labs.Lab:
    for node in lab.nodes:
        lab.add(node.name, "p1")
    return lab


@contextmanager
def agents(lab: labs.Lab, *nodes: str, **settings: object) -> Iterator[None]:
    """Real agents on these nodes, ready and heard; gone in the end."""
    with ExitStack() as stack:
        for name in nodes:
            where = lab.node(name)
            conf, log = where.state / "agent.json", where.state / "agent.log"
            labs.write_json(conf, settings)
            built = Path(lab.spec.plugin).resolve().parent / "tulled"
            command = [str(built)] if built.exists() else [sys.executable, "-I", "-m", "cni_plugin.agent"]
            process = subprocess.Popen(
                [*namespaces.inside(where.netns), *command, "--conf", str(conf)], stdin=subprocess.DEVNULL,
                stdout=stack.enter_context(log.open("w")), stderr=subprocess.STDOUT,
                env={"PATH": SYSTEM_PATH, "TULLE_RUN_DIR": where.env["TULLE_RUN_DIR"]},
            )
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
        for name in nodes:
            until(lambda name=name: tullectl(lab, name, "status", "--json").json["agent"], f"{name} has an agent")  # type: ignore[misc]
        yield


def whole_matrix(lab: labs.Lab) -> Said:
    """The matrix from n1 as soon as no row is unknown."""

    def look() -> Said | None:
        done = tullectl(lab, "n1", "ping", "--all", "--json")
        assert done.exit in (0, 1), done.err
        return None if any(row["why"] for row in done.json["rows"]) else done

    found = until(look, "every row is known")
    assert found is not None
    return found


def test_nodes_says_who_is_where_by_which_way_and_that_it_answers(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3, routed=True, direct_routing=True))
    done = tullectl(made, "n1", "nodes", "--json")
    assert done.exit == 0, done.err
    (cluster,) = done.json
    n1, n2, n3 = cluster["nodes"]
    assert (cluster["network"], cluster["node"], cluster["backend"]) == (NETWORK, "n1", "vxlan")
    assert (n1["way"], n2["way"], n3["way"]) == ("this node", "direct", "vxlan")
    assert n3["addresses"] == list(made.node("n3").addresses) and n3["subnets"] == list(made.node("n3").pod_cidrs)
    assert 0 < n2["rtt"] < 1000 and n3["reached"] and n3["programmed"]
    assert 0 <= n2["handshake"] < 60, "it is on the link, and has just answered"
    assert n3["handshake"] is None, "nobody here knows of who is behind a router"
    text = tullectl(made, "n1", "nodes").out
    assert "198.51.100.3" in text and "this node" in text and "\x1b" not in text


def test_nodes_shows_a_way_that_was_lost_and_ends_with_1(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3))
    made.run("n1", "ip", "route", "del", "10.244.2.0/24")
    done = tullectl(made, "n1", "nodes", "--no-ping")
    assert done.exit == 1
    assert "n2 lacks: ip route" in done.out and "n3 lacks" not in done.out
    assert "peer-not-programmed" in findings(made, "n1", "--no-probe")


def test_ping_sends_whole_packets_of_any_size_that_fits_and_says_when_one_does_not(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=2))
    done = tullectl(made, "n1", "ping", "n2", "--count", "1", "--size", "1450", "--json")
    assert done.exit == 0, done.err
    assert [(each["address"], each["received"]) for each in done.json["addresses"]] == [
        ("10.244.2.0", 1), ("fd00:10:244:2::", 1)
    ]
    large = tullectl(made, "n1", "ping", "n2", "--count", "1", "--size", "1451")
    assert large.exit == 1 and "Message too long" in large.out
    unknown = tullectl(made, "n1", "ping", "n9")
    assert unknown.exit == 1 and "no node 'n9': there is n1, n2" in unknown.err


def test_the_matrix_is_complete_where_agents_tell_and_shows_which_pair_is_cut(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3))
    names = [node.name for node in made.nodes]
    with agents(made, *names, mesh=True):
        done = whole_matrix(made)
        times = {row["name"]: {other: pair["ms"] for other, pair in row["pairs"].items()} for row in done.json["rows"]}
        assert (done.exit, set(times)) == (0, set(names))
        assert all(0 < times[one][other] < 1000 for one in names for other in names if one != other)
        assert "6 of 6 pairs answer, 0 are lost" in tullectl(made, "n1", "ping", "--all").out

        for port in ("n2", "n3"):  # ports of one switch that may not speak to each other
            made.run("wire", "ip", "link", "set", port, "type", "bridge_slave", "isolated", "on")
        time.sleep(2.1)  # for so long a measurement holds
        cut = tullectl(made, "n1", "ping", "--all")
        assert cut.exit == 1
        assert "n2 does not reach n3" in cut.out and "n3 does not reach n2" in cut.out and "n1 does" not in cut.out
        assert tullectl(made, "n1", "nodes").exit == 0, "this node reaches both"


@pytest.mark.parametrize(("backend", "family"), [("vxlan", "6"), ("host-gw", "4"), ("host-gw", "6")])
def test_the_matrix_is_complete_with_every_backend_and_family(lab: MakeLab, backend: str, family: str) -> None:
    made = with_pods(lab(nodes=2, backend=backend, family=family))
    with agents(made, "n1", "n2", mesh=True):
        done = whole_matrix(made)
        assert (done.exit, done.json["lost"]) == (0, [])
        assert all(pair["ms"] > 0 for row in done.json["rows"] for pair in row["pairs"].values())


def test_a_node_whose_agent_does_not_tell_is_an_unknown_row_and_no_lost_one(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3))
    with agents(made, "n1", "n2", mesh=True), agents(made, "n3"):
        until(lambda: "not known from n2" not in tullectl(made, "n1", "ping", "--all").out, "n2 tells what it knows")
        done = tullectl(made, "n1", "ping", "--all")
        assert done.exit == 0
        assert "not known from n3: its agent does not tell" in done.out
        assert made.run("n3", "ss", "-Hlun", "sport = 9473") == "", "nobody listens who was not told to"
        listening = made.run("n2", "ss", "-Hlun", "sport = 9473").split()
        assert listening[3] == "10.244.2.0:9473", "at the overlay's address alone"


def test_a_peer_of_host_gw_without_a_pod_is_unknown_and_one_with_a_pod_answers(lab: MakeLab) -> None:
    made = lab(nodes=3, backend="host-gw", family="4")
    made.add("n1", "p1")
    made.add("n2", "p1")
    done = tullectl(made, "n1", "nodes", "--json")
    _, n2, n3 = done.json[0]["nodes"]
    assert done.exit == 0
    assert (n2["way"], n2["reached"], n3["reached"]) == ("host-gw", True, None)
    assert "once the node has had a pod" in n3["why"]
    assert "peer-silent" not in findings(made, "n1")
    made.add("n3", "p1")
    assert tullectl(made, "n1", "nodes", "--json").json[0]["nodes"][2]["reached"] is True


def test_a_peer_that_does_not_answer_is_found(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3))
    made.run("wire", "ip", "link", "set", "n2", "down")
    found = findings(made, "n1")
    assert found["peer-silent"]["key"] == "echo to n2"
    assert "UDP 8472" in found["peer-silent"]["remedy"]
    assert "mtu-black-hole" not in found
    assert "peer-silent" not in findings(made, "n1", "--no-probe")
    done = tullectl(made, "n1", "nodes")
    assert done.exit == 1 and "no answer" in done.out
    assert tullectl(made, "n1", "ping", "n2", "-c", "1").exit == 1


def test_a_switch_that_drops_large_frames_is_a_black_hole_with_the_size_that_passes(lab: MakeLab) -> None:
    """Failure 7: small packets pass, large ones vanish, and nobody says so."""
    made = with_pods(lab(nodes=3))
    assert "mtu-black-hole" not in findings(made, "n1")
    made.run("wire", "ip", "link", "set", "n2", "mtu", "1400")
    found = findings(made, "n1")
    hole = found["mtu-black-hole"]
    assert (hole["severity"], hole["key"]) == ("error", "packets to n2")
    # a bridge's port grants four bytes more, for a VLAN tag (is_skb_forwardable, net/core/dev.c)
    assert hole["value"] == "1354 bytes pass, the pods' 1450 do not"
    assert '"mtu": 1354' in hole["remedy"]
    assert tullectl(made, "n1", "ping", "n2", "-c", "1", "-s", "1354").exit == 0
    assert tullectl(made, "n1", "ping", "n2", "-c", "1", "-s", "1355").exit == 1


def test_a_router_that_says_nothing_of_packets_too_big_is_a_black_hole(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=3, routed=True, family="6"))
    made.run("wire", "nft", "add table ip6 silent; add chain ip6 silent out { type filter hook output priority 0; }; "
                            "add rule ip6 silent out icmpv6 type packet-too-big drop")
    made.run("wire", "ip", "link", "set", "link2", "mtu", "1380")
    hole = findings(made, "n1")["mtu-black-hole"]
    assert hole["key"] == "packets to n3", "n2 is on this side of the router"
    assert hole["value"] == "1310 bytes pass, the pods' 1430 do not"


def test_what_flannel_left_is_found_and_a_vni_that_two_want_too(lab: MakeLab) -> None:
    made = lab(nodes=2)
    made.run("n1", "ip", "link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "eth0")
    clash = findings(made, "n1", "--no-probe")["vni-clash"]
    assert clash["key"] == "VNI 1 on UDP port 8472 of flannel.1" and "tulle.1" in clash["value"]
    made.run("n1", "ip", "link", "del", "flannel.1")
    made.run("n1", "ip", "link", "add", "flannel.7", "type", "vxlan", "id", "7", "dstport", "8472", "dev", "eth0")
    made.run("n1", "ip", "link", "add", "cni0", "type", "bridge")
    made.add("n1", "p1")
    found = tullectl(made, "n1", "doctor", "--json", "--no-probe").json
    assert [each["key"] for each in found if each["name"] == "flannel-leftover"] == ["link flannel.7", "link cni0"]


def test_addresses_and_subnets_that_do_not_fit_the_cluster_are_found(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=2, family="4"))
    made.configure("n1", ipam={"type": "host-local", "subnet": "10.99.0.0/24"})
    assert "10.99.0.0/24" in findings(made, "n1", "--no-probe")["ranges-outside-subnet"]["value"]
    path = made.node("n1").state / "cluster.json"
    good = json.loads(path.read_text())
    n1, n2 = good["nodes"]
    for subnet, name in (("10.244.1.0/24", "bad-node-list"), ("10.9.0.0/24", "wrong-cluster-cidr")):
        path.write_text(json.dumps({**good, "nodes": [n1, {**n2, "podCIDRs": [subnet]}]}))
        assert subnet in findings(made, "n1", "--no-probe")[name]["value"]
    assert tullectl(made, "n1", "nodes").exit == 1


def test_status_tells_of_the_cluster_without_an_agent(lab: MakeLab) -> None:
    made = with_pods(lab(nodes=2))
    told = tullectl(made, "n1", "status", "--json").json["cluster"]
    assert (told["node"], told["nodes"], told["backend"], told["mtu"], told["ready"]) == ("n1", 2, "vxlan", 1450, True)
    assert "Cluster: pods, 2 nodes by vxlan" in tullectl(made, "n1", "status").out


def test_an_agents_source_that_is_broken_and_nodes_that_are_in_conflict_are_found(lab: MakeLab) -> None:
    made = lab(nodes=2, family="4")
    where = made.node("n1")
    folder, whole = where.state / "nodes.d", json.loads((where.state / "cluster.json").read_text())
    third = {"name": "n3", "address": "192.0.2.3", "podCIDRs": ["10.244.2.0/24"]}
    labs.write_json(folder / "net-conf.json", {key: whole[key] for key in ("network", "backend")})
    for each in (*whole["nodes"], third):
        labs.write_json(folder / f"{each['name']}.json", each)
    made.configure("n1", cluster=f"{where.env['TULLE_RUN_DIR']}/cluster.json")
    with agents(made, "n1", node="n1", network=NETWORK, source={"type": "file", "path": str(folder)}):
        until(lambda: (tullectl(made, "n1", "status", "--json").json["cluster"] or {}).get("ready"), "n1 is ready")
        told = tullectl(made, "n1", "status", "--json").json["cluster"]
        assert (told["source"], told["node"], told["nodes"]) == ("file", "n1", 2)
        found = findings(made, "n1", "--no-probe")
        assert "n3" in found["node-conflict"]["value"] and "source-away" not in found
        (folder / "n3.json").write_text("{")
        until(lambda: "node-list-problem" in findings(made, "n1", "--no-probe"), "the problem is found")
        (folder / "net-conf.json").unlink()
        until(lambda: "source-away" in findings(made, "n1", "--no-probe"), "it is found that the source is away")
        assert tullectl(made, "n1", "nodes", "--no-ping", "--json").json[0]["nodes"][1]["programmed"] is True


def test_the_map_shows_every_node_and_pod_and_what_the_mesh_knows(lab: MakeLab, tmp_path: Path) -> None:
    made = with_pods(lab(nodes=3, routed=True, direct_routing=True))
    with agents(made, "n1", "n2", "n3", mesh=True):
        whole_matrix(made)
        done = tullectl(made, "n1", "map", "-o", str(tmp_path / "map.svg"))
        assert done.exit == 0, done.err
    root = ElementTree.parse(tmp_path / "map.svg").getroot()
    words = {each.text for each in root.iter(f"{SVG}text")}
    assert {"pods", "n2", "n3", "10.244.2.0/24", made.pod("n1/p1").netns} <= words
    threads = [each.get("class") for each in root.iter(f"{SVG}path") if "stroke-opacity" in each.attrib]
    assert sum("unknown" in str(each) for each in threads) == 0, "between n2 and n3 it is known, too"
    assert any("direct" in str(each) for each in threads)


def test_a_node_in_no_cluster_says_so(lab: MakeLab) -> None:
    made = lab(nodes=2)
    (made.node("n1").state / "net.d" / "10-tulle.conflist").unlink()
    done = tullectl(made, "n1", "ping", "--all")
    assert done.exit == 1 and "in no cluster" in done.err


@pytest.mark.parametrize("words", [("ping",), ("ping", "n2", "--all"), ("ping", "n2", "--size", "x")])
def test_a_command_line_that_makes_no_sense_ends_with_2(lab: MakeLab, words: tuple[str, ...]) -> None:
    assert tullectl(lab(nodes=2), "n1", *words).exit == 2
