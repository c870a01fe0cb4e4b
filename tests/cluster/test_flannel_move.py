"""From flannel to Tulle, node by node, with traffic running: the way that the README tells, with its commands.

There is an etcd and three nodes of flannel (`flannel.py` says how they come to be). Pods of all nodes ping each other
all the time; while a node is moved its own pods are elsewhere, and no packet of any other pod may be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from itertools import permutations
from pathlib import Path

import pytest

from scripts.lib.lab import labs
from tests.cluster import flannel
from tests.cluster.etcd import CONF, PREFIX, Agents, Member, Pinging, running
from tests.cluster.flannel import Flanneld
from tests.netns.conftest import MakeLab, host_untouched, lab, plugin  # noqa: F401
from tests.pace import until

pytestmark = [
    pytest.mark.skipif(not Path("/usr/lib/cni/bridge").exists(), reason="flannel's pods need the bridge plugin"),
]
NODES = ("n1", "n2", "n3")


class Cluster:
    """Nodes of both kinds on one etcd."""

    def __init__(self, made: labs.Lab, etcd: Member) -> None:
        self.lab, self.etcd = made, etcd
        self.flanneld = {node.name: Flanneld(node, etcd) for node in made.nodes}
        self.agents = Agents(made, {"type": "etcd", "endpoints": [etcd.url], "prefix": PREFIX})

    def start_flannel(self, name: str) -> None:
        """What a node of flannel has: flanneld, and its CNI configuration."""
        node, daemon = self.lab.node(name), self.flanneld[name]
        daemon.start()
        labs.write_json(node.state / "net.d" / "10-flannel.conflist", flannel.conflist(node, daemon.subnet))

    def drain(self, name: str) -> None:
        """Its pods end."""
        for path in [each for each in self.lab.pods if each.startswith(f"{name}/")]:
            self.lab.delete(path)

    def to_tulle(self, name: str) -> None:
        """As the README says it: drain, stop flanneld, remove what it made, start Tulle, let pods come back."""
        node = self.lab.node(name)
        self.drain(name)
        self.flanneld[name].stop()
        for device in (flannel.DEVICE, "cni0"):
            self.lab.run(name, "ip", "link", "delete", device)
        (node.state / "net.d" / "10-flannel.conflist").unlink()
        self.agents.start(name)
        self.lab.add(name, "p")

    def to_flannel(self, name: str) -> None:
        """The way back."""
        node = self.lab.node(name)
        self.drain(name)
        self.agents.stop(name)
        for device in ("tulle.1", "tulle0"):
            self.lab.run(name, "ip", "link", "delete", device)
        (node.state / "net.d" / "10-tulle.conflist").unlink()
        self.start_flannel(name)
        self.lab.add(name, "p")

    def traffic(self, *but: str) -> Pinging:
        """Pings between the pods of all nodes, but for those of these nodes."""
        pods = {name: self.lab.pod(f"{name}/p") for name in NODES if name not in but}
        return Pinging({
            f"{one} to {other}": (pods[one].netns, pods[other].address(4)) for one, other in permutations(pods, 2)
        })

    def all_reach_all(self) -> bool:
        with self.traffic() as traffic:
            pass
        return not any(traffic.lost.values())


@pytest.fixture
def cluster(lab: MakeLab, tmp_path: Path) -> Iterator[Cluster]:  # noqa: F811
    """Three nodes of flannel, with a pod each."""
    made = lab(nodes=3, family="4")
    for node in made.nodes:
        (node.state / "net.d" / "10-tulle.conflist").unlink()
    with ExitStack() as stack:
        etcd = Member(made.spec.wire, tmp_path / "etcd", "192.0.2.254")
        stack.enter_context(running(etcd))
        etcd.put("config", CONF)
        found = Cluster(made, etcd)
        stack.enter_context(found.agents)
        for name, daemon in found.flanneld.items():
            stack.callback(daemon.stop)
            found.start_flannel(name)
            made.add(name, "p")
        until(found.all_reach_all, "flannel's nodes reach each other")
        yield found


def test_a_cluster_is_moved_node_by_node_and_only_pods_of_the_node_being_moved_notice(cluster: Cluster) -> None:
    subnets = {name: str(cluster.flanneld[name].subnet) for name in NODES}
    for moved in NODES:
        with cluster.traffic(moved) as traffic:
            cluster.to_tulle(moved)
            until(cluster.all_reach_all, f"all pods reach all once {moved} is Tulle's")
        assert not any(traffic.lost.values()), f"while {moved} was moved: {traffic.lost} of {traffic.sent}"
        assert all(sent > 20 for sent in traffic.sent.values())
        assert cluster.agents.subnet(moved) == subnets[moved], "the node keeps the subnet that flannel gave it"
        assert ip_address(cluster.lab.pod(f"{moved}/p").address(4)) in cluster.flanneld[moved].subnet
    values = cluster.etcd.subnets()
    assert {key.replace("-", "/"): value["Node"] for key, value in values.items()} == {
        subnet: name for name, subnet in subnets.items()
    }
    for name in NODES:
        assert "flannel" not in cluster.lab.run(name, "ip", "link")
        assert cluster.agents.peers(name) == {*NODES} - {name}


def test_a_node_of_flannel_follows_a_neighbour_that_was_moved_and_one_that_left(cluster: Cluster) -> None:
    subnet = str(cluster.flanneld["n2"].subnet)
    before = cluster.flanneld["n2"].mac
    assert cluster.flanneld["n1"].knows(subnet, before)
    cluster.to_tulle("n2")
    mac = cluster.etcd.subnets()[subnet.replace("/", "-")]["BackendData"]["VtepMAC"]  # type: ignore[index]
    until(lambda: cluster.flanneld["n1"].knows(subnet, mac), "flannel's node sends to the new VTEP")
    assert mac != before
    assert cluster.agents.peers("n2") == {"192.0.2.1", "192.0.2.3"}, "flannel's nodes are called after their address"
    cluster.agents.kill("n2")
    cluster.etcd.remove(f"subnets/{subnet.replace('/', '-')}")
    until(lambda: subnet not in cluster.lab.run("n1", "ip", "route"), "and lets go of one that left")


def test_a_node_that_was_moved_can_be_moved_back(cluster: Cluster) -> None:
    subnet = str(cluster.flanneld["n2"].subnet)
    cluster.to_tulle("n2")
    until(cluster.all_reach_all, "it is Tulle's")
    with cluster.traffic("n2") as traffic:
        cluster.to_flannel("n2")
        until(cluster.all_reach_all, "it is flannel's again")
    assert not any(traffic.lost.values())
    assert str(cluster.flanneld["n2"].subnet) == subnet
    assert "Node" not in cluster.etcd.subnets()[subnet.replace("/", "-")]


def test_packets_between_nodes_of_both_kinds_keep_their_pods_address(cluster: Cluster) -> None:
    """Pods of a flannel node are no strangers to whom an address must be lent."""
    cluster.to_tulle("n1")
    until(cluster.all_reach_all, "all reach all")
    one, other = (cluster.lab.pod(f"{name}/p") for name in ("n1", "n3"))
    with cluster.lab.capture("udp port 8472") as seen:
        cluster.lab.run("n1/p", "ping", "-n", "-c1", "-W2", other.address(4))
        cluster.lab.run("n3/p", "ping", "-n", "-c1", "-W2", one.address(4))
    for source, target in ((one, other), (other, one)):
        assert any(f"IP {source.address(4)} > {target.address(4)}: ICMP echo request" in line for line in seen), seen


def test_a_device_of_flannels_that_was_left_is_told_of_and_once_it_is_gone_the_node_is_ready(cluster: Cluster) -> None:
    cluster.drain("n1")
    cluster.flanneld["n1"].stop()
    cluster.agents.begin("n1")
    said = "specified VNI already exists"  # the kernel lets one device have it (drivers/net/vxlan/vxlan_core.c)
    until(lambda: said in cluster.agents.log("n1"), "it is said", why=lambda: cluster.agents.log("n1"))
    cluster.lab.run("n1", "ip", "link", "delete", flannel.DEVICE)
    conf = cluster.agents.conf(cluster.lab.node("n1"))
    until(conf.exists, "the node is ready", patience=60, why=lambda: cluster.agents.log("n1"))
