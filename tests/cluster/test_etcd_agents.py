"""Whole agents on nodes with pods, an etcd among them: what the source promises is what packets see.

Each node is a namespace of a lab; etcd is on the wire, at the underlay's own address.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from scripts.lib.lab import labs, namespaces
from tests.cluster.etcd import CONF, PREFIX, Agents, Member, Pinging, running
from tests.conformance.nodes import Call, Json, Node, Plugins
from tests.netns.agents import Asker, in_node
from tests.netns.conftest import MakeLab, host_untouched, lab, plugin  # noqa: F401
from tests.pace import until

ROUTER = "192.0.2.254"
TTL = 5


class Cluster(NamedTuple):
    """A lab, its etcd and its agents."""

    lab: labs.Lab
    etcd: Member
    agents: Agents

    def ping(self, source: str, target: str) -> namespaces.Ping | None:
        return namespaces.ping(self.lab.pod(source).netns, self.lab.pod(target).address(4), timeout=1)

    def traffic(self, *pairs: str) -> Pinging:
        """Pings that go on: `n1/p1 n2/p1`."""
        words = {pair: pair.split() for pair in pairs}
        return Pinging({
            pair: (self.lab.pod(one).netns, self.lab.pod(other).address(4)) for pair, (one, other) in words.items()
        })


MakeCluster = Callable[..., Cluster]


@pytest.fixture
def cluster(lab: MakeLab, tmp_path: Path) -> Iterator[MakeCluster]:  # noqa: F811
    """Makes a cluster of so many nodes, with no pod yet. Keywords are settings of the source."""
    with ExitStack() as stack:

        def make(nodes: int, **settings: object) -> Cluster:
            made = lab(nodes=nodes, family="4")
            member = Member(made.spec.wire, tmp_path / "etcd", ROUTER)
            stack.enter_context(running(member))
            member.put("config", CONF)
            source = {"type": "etcd", "endpoints": [member.url], "prefix": PREFIX, **settings}
            agents = stack.enter_context(Agents(made, source))
            agents.start()
            return Cluster(made, member, agents)

        yield make


def cut(made: Cluster, node: str) -> None:
    """Pull the plug of a node's network."""
    made.lab.run("wire", "ip", "link", "set", node, "down")


def mend(made: Cluster, node: str) -> None:
    made.lab.run("wire", "ip", "link", "set", node, "up")


def test_twenty_agents_that_start_at_once_have_disjoint_subnets_and_their_pods_reach_each_other(
    cluster: MakeCluster,
) -> None:
    made = cluster(20)
    names = [node.name for node in made.lab.nodes]
    subnets = [ip_network(made.agents.subnet(name)) for name in names]
    assert len(set(subnets)) == 20 and not any(
        one.overlaps(other) for at, one in enumerate(subnets) for other in subnets[at + 1 :]
    )
    assert sorted(made.etcd.subnets()) == sorted(str(each).replace("/", "-") for each in subnets)
    for name in names:
        until(lambda node=name: len(made.agents.peers(node)) == 19, f"{name} knows all")  # type: ignore[misc]
    some = ["n1", "n7", "n20"]
    for name in some:
        pod = made.lab.add(name, "p")
        assert ip_address(pod.address(4)) in subnets[names.index(name)]
    for one in some:
        for other in some:
            assert made.ping(f"{one}/p", f"{other}/p"), f"{one} reaches {other}"


def test_no_packet_is_lost_while_etcd_is_stopped_and_started_again(cluster: MakeCluster) -> None:
    made = cluster(3, ttl=TTL)
    for name in ("n1", "n2", "n3"):
        made.lab.add(name, "p")
    pairs = ("n1/p n2/p", "n2/p n3/p", "n3/p n1/p")
    until(lambda: all(made.ping(*pair.split()) for pair in pairs), "pods reach each other")
    with made.traffic(*pairs) as traffic:
        time.sleep(1)
        made.etcd.stop()
        time.sleep(TTL + 3)
        late = made.lab.add("n1", "late")
        assert made.ping("n1/late", "n3/p"), "new pods need no etcd"
        made.etcd.start()
        time.sleep(3)
    assert sum(traffic.sent.values()) > 3 * 150
    assert traffic.lost == dict.fromkeys(pairs, 0)
    assert ip_address(late.address(4)) in ip_network(made.agents.subnet("n1"))
    assert len(made.etcd.subnets()) == 3


def test_agents_that_are_killed_and_started_again_lose_no_packet_and_have_the_same_subnets(
    cluster: MakeCluster,
) -> None:
    made = cluster(2)
    subnets = [made.agents.subnet(name) for name in ("n1", "n2")]
    made.lab.add("n1", "p")
    made.lab.add("n2", "p")
    until(lambda: made.ping("n1/p", "n2/p"), "pods reach each other")
    with made.traffic("n1/p n2/p") as traffic:
        made.agents.kill("n1", "n2")
        time.sleep(1)
        made.agents.start("n1", "n2")
        time.sleep(2)
    assert traffic.lost == {"n1/p n2/p": 0} and traffic.sent["n1/p n2/p"] > 50
    assert [made.agents.subnet(name) for name in ("n1", "n2")] == subnets


def test_a_node_that_is_cut_off_past_its_time_is_let_go_of_and_comes_back(cluster: MakeCluster) -> None:
    made = cluster(3, ttl=TTL)
    for name in ("n1", "n2", "n3"):
        made.lab.add(name, "p")
    until(lambda: made.ping("n3/p", "n1/p") and made.ping("n1/p", "n2/p"), "pods reach each other")
    subnet = made.agents.subnet("n3")
    with made.traffic("n1/p n2/p") as traffic:
        cut(made, "n3")
        until(lambda: made.agents.peers("n1") == {"n2"}, "its peers let go of it")
        until(lambda: subnet not in made.lab.run("n1", "ip", "route"), "and of the route to it")
        assert made.agents.subnet("n3") == subnet, "which keeps what it has: its pods still talk to each other"
        time.sleep(1)
        mend(made, "n3")
        until(lambda: made.agents.peers("n1") == {"n2", "n3"}, "it is back")
        until(lambda: made.ping("n3/p", "n1/p") and made.ping("n2/p", "n3/p"), "its pods reach the others")
    assert made.agents.subnet("n3") == subnet, "with the subnet that it had: nobody had taken it"
    assert traffic.lost == {"n1/p n2/p": 0}, "and the others never noticed"


def test_a_node_that_is_cut_off_while_another_takes_its_subnet_has_another_one(cluster: MakeCluster) -> None:
    made = cluster(2, ttl=TTL)
    subnet = made.agents.subnet("n2")
    key = subnet.replace("/", "-")
    cut(made, "n2")
    until(lambda: key not in made.etcd.subnets(), "its lease ends")
    made.etcd.put(f"subnets/{key}", {"PublicIP": "192.0.2.50", "BackendType": "vxlan", "Node": "thief"})
    mend(made, "n2")
    until(lambda: made.agents.subnet("n2") not in ("", subnet), "it has another subnet")
    assert not ip_network(made.agents.subnet("n2")).overlaps(ip_network(subnet))
    until(lambda: made.agents.subnet("n2").replace("/", "-") in made.etcd.subnets(), "by a lease of its own")
    made.lab.add("n1", "p")
    pod = made.lab.add("n2", "p")
    assert ip_address(pod.address(4)) in ip_network(made.agents.subnet("n2"))
    until(lambda: made.ping("n1/p", "n2/p"), "and its new pods are reached there")
    assert f"n2 had {subnet}" in made.agents.log("n2"), "it is said that old pods must be made anew"


def test_failure_36_the_nodes_that_are_left_use_the_whole_range_once_dead_ones_have_had_their_time(
    cluster: MakeCluster,
) -> None:
    """weave#2797, #3384: 70 % of the range was out of reach, held by peers that were gone."""
    made = cluster(5, ttl=TTL)
    held = {made.agents.subnet(f"n{number}") for number in range(1, 6)}
    made.agents.kill("n1", "n2", "n3")
    left = {made.agents.subnet("n4"), made.agents.subnet("n5")}
    until(lambda: {each.replace("-", "/") for each in made.etcd.subnets()} == left, "what the dead held is free")
    until(lambda: made.agents.peers("n4") == {"n5"}, "and nobody looks for them any more")
    for number in (1, 2, 3):
        (made.lab.node(f"n{number}").state / "run" / "lease.json").unlink()
    made.etcd.put("config", {**CONF, **_bounds(held)})
    made.agents.start("n1", "n2", "n3")
    assert all(made.agents.subnet(f"n{number}") for number in range(1, 6))


def _bounds(subnets: set[str]) -> dict[str, str]:
    """No subnet but those between the first and the last of these."""
    ordered = sorted(ip_network(each).network_address for each in subnets)
    return {"SubnetMin": str(ordered[0]), "SubnetMax": str(ordered[-1])}


def test_failure_7_five_hundred_pods_that_start_at_once_on_five_nodes_have_five_hundred_addresses(
    cluster: MakeCluster,
) -> None:
    """whereabouts#110, #313: duplicates, and minutes; the cluster's store is never asked by an ADD here."""
    made = cluster(5)
    made.etcd.stop()
    pods = {node.name: [f"{node.netns}-q{number}" for number in range(100)] for node in made.lab.nodes}
    namespaces.run(["ip", "-batch", "-"], stdin="".join(f"netns add {pod}\n" for each in pods.values() for pod in each))
    with ThreadPoolExecutor(5) as pool:
        done = dict(zip(pods, pool.map(lambda name: _add(made.lab, name, pods[name]), pods), strict=True))
    added = [(name, address, took) for name, each in done.items() for address, took in each]
    assert len({address for _, address, _ in added}) == 500
    subnets = {name: ip_network(made.agents.subnet(name)) for name in pods}
    assert all(ip_address(address) in subnets[name] for name, address, _ in added)
    times = sorted(took for *_, took in added)
    print(f"500 pods at once on five nodes: median {times[250]:.1f} s, p99 {times[494]:.1f} s")


def _add(lab: labs.Lab, name: str, pods: list[str]) -> list[list[Any]]:  # noqa: F811
    """All these pods at once, asked of the node's agent; the address of each, and how long it took."""
    node = lab.node(name)
    conf: Json = json.loads((node.state / "net.d" / "10-tulle.conflist").read_text())
    plugins = Plugins("tulle", Path(node.spec.plugin).parent)
    where = SimpleNamespace(run_dir=node.state / "run", plugins=plugins, state=node.state)
    ask = Asker(
        cast(Node, where), {**conf["plugins"][0], "cniVersion": conf["cniVersion"], "name": conf["name"]}  # type: ignore[index]
    )

    def add(pod: str) -> tuple[str, float]:
        start = time.perf_counter()
        code, answer = ask(Call(command="ADD", container=pod, netns=str(namespaces.NETNS_DIR / pod)))
        took = time.perf_counter() - start
        assert code == 0, answer
        return re.findall(r"'address': '([\d.]+)/", str(answer))[0], took

    def all_at_once() -> list[tuple[str, float]]:
        with ThreadPoolExecutor(len(pods)) as pool:
            return list(pool.map(add, pods))

    return cast(list[list[Any]], in_node(str(namespaces.NETNS_DIR / node.netns), all_at_once))
