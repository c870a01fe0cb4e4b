"""Failures of peers between nodes: VXLAN devices, MTUs, stale entries, families. Each cannot happen here.

The numbers are those of the list of forty failures that the design names; issues of other projects are in the texts.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import cluster
from tests.netns.conftest import MakeLab
from tests.netns.failure_nodes import repair
from tests.pace import until

DEVICE = "tulle.1"
ServerInN2 = Callable[[labs.Lab], None]
SERVER = """
import socket
listener = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    caller = listener.accept()[0]
    received = 0
    while data := caller.recv(65536):
        received += len(data)
    caller.sendall(str(received).encode())
    caller.close()
"""
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.sendall(b'x' * int(sys.argv[3])); s.shutdown(socket.SHUT_WR)
print(s.recv(99).decode())
"""
SERVICE = """
table inet service {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr 203.0.113.80 tcp dport 80 dnat ip to {pod}:8080
    }}
    chain output {{
        type nat hook output priority -100
        ip daddr 203.0.113.80 tcp dport 80 dnat ip to {pod}:8080
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ct status dnat masquerade
    }}
}}
"""


def two_nodes(lab: MakeLab, **settings: str | int | bool) -> labs.Lab:
    made = lab(nodes=2, **settings)
    for node in made.nodes:
        made.add(node.name, "p1")
    return made


def reaches(made: labs.Lab, source: str = "n1/p1", target: str = "n2/p1") -> bool:
    """Whether pods reach each other at the first packet, in every family they have."""
    pod = made.pod(target)
    return all(namespaces.ping(made.pod(source).netns, each) is not None for each in pod.addresses)


def device(made: labs.Lab, node: str) -> dict[str, object]:
    (link,) = json.loads(made.run(node, "ip", "-d", "-j", "link", "show", DEVICE))
    assert isinstance(link, dict)
    return link


def transfer(made: labs.Lab, source: str, target: str, port: int, size: int) -> int:
    """Send `size` bytes by TCP to the server in n2/p1: how many arrived there."""
    netns, _ = made.place(source)
    words = ["python3", "-c", CLIENT, target, str(port), str(size)]
    done = until(
        lambda: done if (done := namespaces.attempt(words, netns=netns)).returncode == 0 else None, f"{target} listens"
    )
    assert done is not None
    return int(done.stdout)


def knocks(made: labs.Lab, source: str) -> int:
    """How often TCP there had to ask for a connection again, each time a second or more later (TCPSynRetrans)."""
    names, values = (line.split() for line in made.run(source, "cat", "/proc/net/netstat").splitlines()[:2])
    return int(dict(zip(names, values, strict=True))["TCPSynRetrans"])


@pytest.fixture
def server_in_n2() -> Iterator[Callable[[labs.Lab], None]]:
    """Starts a TCP server in n2/p1 that says how much it was sent; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(made: labs.Lab) -> None:
        argv = [*namespaces.inside(made.pod("n2/p1").netns), "python3", "-c", SERVER]
        started.append(subprocess.Popen(argv))

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_failure_11_the_vxlan_devices_mac_is_set_at_creation(lab: MakeLab) -> None:
    """flannel#1155: systemd-udevd changed the MAC, the peers went on sending to the old one."""
    made = two_nodes(lab)
    for node in made.nodes:
        # 3 is "set", and udev leaves such a MAC alone (NET_ADDR_SET, include/uapi/linux/netdevice.h).
        path = f"/sys/class/net/{DEVICE}/addr_assign_type"
        assert namespaces.run(["ip", "netns", "exec", node.netns, "cat", path]).strip() == "3"
    first = [device(made, node.name)["address"] for node in made.nodes]
    for node in made.nodes:
        made.run(node.name, "ip", "link", "del", DEVICE)
        made.add(node.name, "p2")
    assert [device(made, node.name)["address"] for node in made.nodes] == first, "derived, not made up"
    assert reaches(made)


def test_failure_11_a_changed_vxlan_mac_is_put_right(lab: MakeLab, plugin: Path) -> None:
    made = two_nodes(lab)
    mac = device(made, "n2")["address"]
    made.run("n2", "ip", "link", "set", DEVICE, "address", "02:00:00:00:00:99")
    assert not reaches(made)
    repair(plugin, made, "n2")
    assert device(made, "n2")["address"] == mac
    assert reaches(made)


@pytest.mark.parametrize("family", ["4", "6"])
def test_failure_12_checksums_are_left_to_the_nic_and_tcp_connects_at_the_first_packet(
    lab: MakeLab, family: str, server_in_n2: ServerInN2
) -> None:
    """calico#3145, kubernetes#88986: SYNs through NAT and VXLAN had wrong checksums; connecting took 63 s."""
    made = two_nodes(lab, family=family)
    for node in made.nodes:
        features = made.run(node.name, "ethtool", "-k", DEVICE)
        assert "tx-checksum-ip-generic: on" in features, "these tests' kernel is a new one"
    server_in_n2(made)
    target = made.pod("n2/p1").address(int(family))
    transfer(made, "n1/p1", target, 8080, 10)  # until the server is up
    for source in ("n1/p1", "n1"):
        before = knocks(made, source)
        assert transfer(made, source, target, 8080, 1000) == 1000, source
        assert knocks(made, source) == before, source


def test_failure_12_nor_does_a_service_address_in_front_of_it_make_it_slow(
    lab: MakeLab, server_in_n2: ServerInN2
) -> None:
    made = two_nodes(lab, family="4")
    server_in_n2(made)
    target = made.pod("n2/p1").address(4)
    transfer(made, "n1/p1", target, 8080, 10)
    namespaces.run(["nft", "-f", "-"], netns=made.node("n1").netns, stdin=SERVICE.format(pod=target))
    for source in ("n1/p1", "n1"):
        before = knocks(made, source)
        assert transfer(made, source, "203.0.113.80", 80, 1000) == 1000, source
        assert knocks(made, source) == before, source


FACE = """
table inet face {{
    chain output {{
        type nat hook output priority -100
        {word} daddr {face} tcp dport 80 dnat {word} to {backend}:8080
    }}
}}
"""


@pytest.mark.parametrize(("family", "face"), [("4", "203.0.113.80"), ("6", "2001:db8:80::80")])
def test_a_process_of_the_node_reaches_a_service_whose_backend_is_on_another_node(
    lab: MakeLab, server_in_n2: ServerInN2, family: str, face: str
) -> None:
    """flannel#318: its source was chosen by the Service's address, and the answer to that took another way."""
    made = two_nodes(lab, family=family)
    for node in made.nodes:
        made.run(node.name, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.eth0.rp_filter=1")
    server_in_n2(made)
    pod = made.pod("n2/p1").addresses[0]
    transfer(made, "n1", pod, 8080, 10)
    word, backend = ("ip", pod) if family == "4" else ("ip6", f"[{pod}]")
    text = FACE.format(word=word, face=face, backend=backend)
    namespaces.run(["nft", "-f", "-"], netns=made.node("n1").netns, stdin=text)
    assert transfer(made, "n1", face, 80, 1000) == 1000


def _mtu(made: labs.Lab, where: str, link: str) -> int:
    (found,) = json.loads(made.run(where, "ip", "-j", "link", "show", link))
    return int(found["mtu"])


@pytest.mark.parametrize(
    ("backend", "family", "overhead"),
    [("vxlan", "4", 50), ("vxlan", "6", 70), ("vxlan", "dual", 50), ("host-gw", "4", 0)],
)
def test_failure_14_pods_have_the_uplinks_mtu_less_the_exact_overhead(
    lab: MakeLab, backend: str, family: str, overhead: int, server_in_n2: ServerInN2
) -> None:
    """calico#1709, hcloud#450: too large an MTU is a black hole, small packets pass and large ones vanish."""
    made = two_nodes(lab, backend=backend, family=family, mtu=1450)
    mtu = 1450 - overhead
    assert _mtu(made, "n1/p1", "eth0") == _mtu(made, "n1", "tulle0") == mtu
    if backend == "vxlan":
        assert _mtu(made, "n1", DEVICE) == mtu
    target = made.pod("n2/p1").address(made.spec.families[0])
    source = made.pod("n1/p1").netns
    assert namespaces.ping(source, target, size=mtu) is not None, "a packet of the whole MTU crosses"
    headers = 48 if ":" in target else 28
    larger = ["ping", "-n", "-c1", "-W1", "-M", "do", "-s", str(mtu + 1 - headers), target]
    refused = namespaces.attempt(larger, netns=source)
    assert "message too long" in refused.stdout + refused.stderr, "one byte more is refused at home, not lost"
    server_in_n2(made)
    assert transfer(made, "n1/p1", target, 8080, 1_000_000) == 1_000_000


def test_failure_14_the_smaller_of_two_uplinks_mtu_counts(lab: MakeLab) -> None:
    made = lab(nodes=2, family="4")
    made.run("n1", "ip", "link", "add", "other", "mtu", "9000", "type", "veth", "peer", "otherpeer")
    made.run("n1", "ip", "link", "set", "other", "up")
    made.add("n1", "p1")
    assert _mtu(made, "n1/p1", "eth0") == 1450, "that of the interface which leads to the peers, not any other's"


def _programmed(made: labs.Lab, node: str) -> str:
    """All that a node holds for its peers, as text."""
    routes = [made.run(node, "ip", each, "route", "show", "proto", "84") for each in ("-4", "-6")]
    vxlan = [["ip", "neigh", "show", "dev", DEVICE], ["bridge", "fdb", "show", "dev", DEVICE]]
    return "\n".join([*routes, *(made.run(node, *each) for each in vxlan if made.spec.backend == "vxlan")])


@pytest.mark.parametrize("by", ["add", "repair"])
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_32_nothing_of_a_node_that_left_stays_and_nothing_of_others_goes(
    lab: MakeLab, plugin: Path, backend: str, by: str
) -> None:
    """flannel#2554, calico#7281: entries of a node deleted meanwhile stayed, and led its address nowhere."""
    made = lab(nodes=3, backend=backend)
    for node in made.nodes:
        made.add(node.name, "p1")
    left = made.node("n3")
    assert all(each in _programmed(made, "n1") for each in left.pod_cidrs)
    foreign = "198.18.0.0/15 via 192.0.2.3 dev eth0 proto static"
    made.run("n1", "ip", "route", "add", *foreign.split())
    made.run("n1", "ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.2", "dev", "eth0")
    neighbour = "192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent"
    made.run("n1", "ip", "neigh", "add", *neighbour.split())
    made.set_cluster(tuple(node for node in made.nodes if node is not left))
    if by == "add":
        made.add("n1", "p2")
    else:
        repair(plugin, made, "n1")
    now = _programmed(made, "n1")
    for trace in (*left.pod_cidrs, *left.addresses, *(each.split("/")[0].rstrip(":") for each in left.pod_cidrs)):
        assert trace not in now
    routes = made.run("n1", "ip", "route")
    assert "198.18.0.0/15 via 192.0.2.3" in routes and "198.51.100.0/24 via 192.0.2.2" in routes
    assert "02:00:00:00:00:77" in made.run("n1", "ip", "neigh")
    assert reaches(made, "n1/p1", "n2/p1")


@pytest.mark.parametrize("by", ["add", "repair"])
def test_failure_34_a_deleted_vxlan_device_comes_back_with_all_its_entries(
    lab: MakeLab, plugin: Path, by: str
) -> None:
    """flannel#2247: the device was made again, but not its routes, neighbours and forwarding entries."""
    made = two_nodes(lab)
    before = _programmed(made, "n1")
    made.run("n1", "ip", "link", "del", DEVICE)
    assert not reaches(made)
    if by == "add":
        made.add("n1", "p2")
    else:
        repair(plugin, made, "n1")
    assert reaches(made)
    assert sorted(_programmed(made, "n1").split("\n")) == sorted(before.split("\n"))


def test_failure_34_an_uplink_that_went_and_came_back_is_put_right(lab: MakeLab, plugin: Path) -> None:
    made = two_nodes(lab)
    before = sorted(_programmed(made, "n1").split("\n"))
    made.run("n1", "ip", "link", "set", "eth0", "down")  # the kernel drops IPv6 addresses and all routes by eth0
    made.run("n1", "ip", "link", "set", "eth0", "up")
    made.run("n1", "ip", "addr", "replace", f"{made.node('n1').addresses[1]}/64", "dev", "eth0", "nodad")
    repair(plugin, made, "n1")
    assert reaches(made)
    assert sorted(_programmed(made, "n1").split("\n")) == before


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_38_a_network_of_ipv6_alone_is_whole(lab: MakeLab, backend: str) -> None:
    """kube-router's IPv6 limits, flannel#2289: half of what works in IPv4 did not in IPv6."""
    made = lab(nodes=3, backend=backend, family="6")
    for node in made.nodes:
        made.add(node.name, "p1")
    assert "inet " not in made.run("n1", "ip", "addr", "show", "dev", "eth0")
    pods = list(made.pods)
    assert [pair for pair in ((a, b) for a in pods for b in pods if a != b) if not reaches(made, *pair)] == []


@pytest.mark.parametrize(("underlay", "pods"), [("4", "6"), ("6", "4"), ("4", "dual"), ("6", "dual")])
def test_failure_38_either_family_is_carried_over_either(lab: MakeLab, underlay: str, pods: str) -> None:
    made = lab(nodes=2, family="dual")
    chosen = {"4": 0, "6": 1}[underlay]
    carried = {"4": [0], "6": [1], "dual": [0, 1]}[pods]
    for node in made.nodes:
        whole = cluster(node, made.nodes)
        for key in ({"network", "ipv6Network"} - {("network", "ipv6Network")[each] for each in carried}):
            del whole[key]
        whole["nodes"] = [
            {"name": each.name, "address": each.addresses[chosen], "podCIDRs": [each.pod_cidrs[i] for i in carried]}
            for each in made.nodes
        ]
        labs.write_json(node.state / "cluster.json", whole)
        made.add(node.name, "p1")
    assert len(made.pod("n2/p1").addresses) == len(carried)
    expression = "udp port 8472 and " + ("ip" if underlay == "4" else "ip6")
    with made.capture(expression) as seen:
        assert reaches(made)
    assert len(seen) >= 2 * len(carried), "the packets went over the underlay of that family"
    assert _mtu(made, "n1/p1", "eth0") == 1500 - {"4": 50, "6": 70}[underlay]
