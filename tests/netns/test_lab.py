"""The lab itself: that it is a cluster, that packets in it go the way it says, and that nothing of it remains."""

from __future__ import annotations

import ipaddress
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.lib.lab import agents, kube_parts, labs, namespaces
from scripts.lib.lab.topology import LABS, REPO, LabError, Node, Spec, cluster
from scripts.lib.lab.tour import echo_request
from tests.netns.conftest import MakeLab, unique
from tests.pace import PATIENCE, until

LAB = str(REPO / "scripts" / "lab")


def lab_command(*words: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    reads = [f"--{each}-caps=+dac_read_search" for each in ("inh", "ambient")]  # the clone may lie in root's own folder
    become = ["setpriv", f"--reuid={user}", "--clear-groups", *reads] if user else []
    argv = [*become, sys.executable, LAB, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def with_pods(lab: labs.Lab) -> labs.Lab:
    for node in lab.nodes:
        lab.add(node.name, "p1")
    return lab


@pytest.mark.parametrize("family", ["4", "6", "dual"])
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_every_pod_reaches_every_pod_at_its_first_packet(lab: MakeLab, backend: str, family: str) -> None:
    cluster = with_pods(lab(nodes=3, backend=backend, family=family))
    cluster.add("n1", "p2")
    pods = list(cluster.pods.values())
    lost = [
        f"{source.path} to {target.path}, IPv{each}"
        for each in cluster.spec.families for source in pods for target in pods
        if source is not target and namespaces.ping(source.netns, target.address(each)) is None
    ]
    assert lost == []


def test_nodes_reach_pods_of_other_nodes_and_pods_reach_nodes(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=2))
    for family, node_address in zip((4, 6), cluster.node("n2").addresses, strict=True):
        assert namespaces.ping(cluster.node("n1").netns, cluster.pod("n2/p1").address(family))
        assert namespaces.ping(cluster.pod("n1/p1").netns, node_address)


@pytest.mark.parametrize(("backend", "lines"), [("vxlan", 2), ("host-gw", 1)])
def test_the_wire_shows_vxlan_only_when_the_backend_is_vxlan(lab: MakeLab, backend: str, lines: int) -> None:
    cluster = with_pods(lab(nodes=2, backend=backend))
    for family in (4, 6):
        address = cluster.pod("n2/p1").address(family)
        with cluster.capture("udp port 8472 or icmp or icmp6") as seen:
            assert namespaces.ping(cluster.pod("n1/p1").netns, address)
        assert len(echo_request(seen, address)) == lines, seen
        assert any(".8472: " in line for line in seen) == (backend == "vxlan")


def test_direct_routing_tunnels_only_to_the_node_behind_the_router(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=3, routed=True, direct_routing=True))
    lines = {}
    for name in ("n2", "n3"):
        address = cluster.pod(f"{name}/p1").address(4)
        with cluster.capture("udp port 8472 or icmp") as seen:
            assert namespaces.ping(cluster.pod("n1/p1").netns, address)
        lines[name] = len(echo_request(seen, address))
    assert lines == {"n2": 1, "n3": 2}  # the tunnel's line comes on top of the packet's own


def test_a_packet_of_the_whole_pod_mtu_crosses_and_one_byte_more_does_not_leave(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=2, mtu=1400))
    source, target = cluster.pod("n1/p1"), cluster.pod("n2/p1")
    mtu = int(cluster.run("n1/p1", "ip", "-o", "link", "show", "eth0").split(" mtu ")[1].split()[0])
    assert 1300 <= mtu < 1400
    for family in (4, 6):
        assert namespaces.ping(source.netns, target.address(family), size=mtu)
        assert namespaces.ping(source.netns, target.address(family), size=mtu + 1) is None


def test_the_router_between_two_links_is_a_hop(lab: MakeLab) -> None:
    cluster = lab(nodes=3, routed=True)
    n1, n2, n3 = (cluster.node(name) for name in ("n1", "n2", "n3"))
    for near, far in zip(n2.addresses, n3.addresses, strict=True):
        same_link, behind_router = namespaces.ping(n1.netns, near), namespaces.ping(n1.netns, far)
        assert same_link and same_link.ttl == 64
        assert behind_router and behind_router.ttl == 63


def test_a_pod_that_was_deleted_leaves_its_node_as_it_was(lab: MakeLab) -> None:
    cluster = lab(nodes=2)
    cluster.add("n1", "p1")
    before = cluster.run("n1", "ip", "-o", "addr"), leases(cluster, "n1")
    cluster.add("n1", "p2")
    cluster.delete("n1/p2")
    assert (cluster.run("n1", "ip", "-o", "addr"), leases(cluster, "n1")) == before


def leases(lab: labs.Lab, node: str) -> list[str]:
    every = (lab.node(node).state / "ipam" / "pods").iterdir()
    return sorted(path.name for path in every if path.name[0].isdigit() or ":" in path.name)


def test_up_status_exec_down_as_a_person_types_them(plugin: Path) -> None:
    name = unique()
    try:
        up = lab_command("up", "--name", name, "--nodes", "2", "--pods", "1", "--plugin", str(plugin))
        assert up.returncode == 0, up.stderr
        assert "n2/p1" in up.stdout
        status = lab_command("status", "--name", name)
        assert "n1" in status.stdout and "192.0.2.1" in status.stdout and "10.244.2.2" in status.stdout
        assert json.loads(lab_command("status", "--name", name, "--json").stdout)["spec"]["nodes"] == 2
        in_pod = lab_command("exec", "--name", name, "n1/p1", "--", "ip", "-4", "-o", "addr", "show", "eth0")
        assert "10.244.1.2/24" in in_pod.stdout
        assert lab_command("exec", "--name", name, "n1", "--", "sh", "-c", "exit 7").returncode == 7
        run_dir = lab_command("exec", "--name", name, "n2", "--", "sh", "-c", "echo $TULLE_RUN_DIR").stdout
        assert run_dir.strip() == f"/run/tulle-lab/{name}/n2/run"
        assert lab_command("add", "--name", name, "n1/p2").returncode == 0
        assert lab_command("del", "--name", name, "n1/p2").returncode == 0
    finally:
        down = lab_command("down", "--name", name)
    assert (down.returncode, down.stdout) == (0, f"lab {name} is down\n")
    assert namespaces.existing(f"tulle-{name}-") == []
    assert not (LABS / name).exists()


def test_down_ends_processes_in_the_lab_and_can_be_repeated(lab: MakeLab) -> None:
    cluster = lab(nodes=1)
    netns = cluster.node("n1").netns
    argv = [*namespaces.inside(netns), "sh", "-c", "echo inside; exec sleep 1000"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as sleeper:
        assert sleeper.stdout and sleeper.stdout.readline() == "inside\n"
        assert labs.down(cluster.spec.name)
        assert sleeper.wait(timeout=PATIENCE) == -signal.SIGKILL
    assert not labs.down(cluster.spec.name)


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.3, 0.6])
def test_down_removes_what_a_killed_up_has_left(plugin: Path, delay: float) -> None:
    name = unique()
    with subprocess.Popen(
        [sys.executable, LAB, "up", "--name", name, "--nodes", "9", "--plugin", str(plugin)], stdout=subprocess.DEVNULL
    ) as up:
        time.sleep(delay)
        up.kill()
    lab_command("down", "--name", name)
    assert namespaces.existing(f"tulle-{name}-") == []
    assert not (LABS / name).exists()


def test_two_labs_run_side_by_side_with_the_same_addresses(lab: MakeLab) -> None:
    one, other = with_pods(lab(nodes=2, backend="host-gw")), with_pods(lab(nodes=2, family="4"))
    for each in (one, other):
        assert namespaces.ping(each.pod("n1/p1").netns, each.pod("n2/p1").address(4))
    labs.down(one.spec.name)
    assert namespaces.ping(other.pod("n1/p1").netns, other.pod("n2/p1").address(4))


def test_a_name_in_use_is_refused_with_the_remedy_and_the_lab_stays(lab: MakeLab) -> None:
    cluster = lab(nodes=1)
    with pytest.raises(LabError, match=f"scripts/lab down --name {cluster.spec.name}"):
        labs.up(cluster.spec)
    assert namespaces.existing(cluster.spec.prefix) == sorted([cluster.spec.wire, cluster.node("n1").netns])


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("up", "--name", "Not-OK"), "lower-case letters"),
        (("up", "--nodes", "0"), "use 1 to 99"),
        (("up", "--mtu", "1000"), "at least 1280 for IPv6"),
        (("up", "--backend", "host-gw", "--routed"), "use vxlan"),
        (("up", "--plugin", "/nowhere/tulle"), "scripts/build"),
        (("up", "--source", "kubernetes", "--family", "6"), "use 4 or dual"),
        (("kubectl", "get", "nodes"), "scripts/lab up"),
        (("status",), "scripts/lab up"),
        (("exec", "n1"), "scripts/lab up"),
        (("add", "n1/p1/x"), "write node/pod"),
    ],
)
def test_a_mistake_is_answered_with_its_remedy(words: tuple[str, ...], remedy: str) -> None:
    name = () if "--name" in words else ("--name", unique())
    done = lab_command(words[0], *name, *words[1:])
    assert done.returncode == 1
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_without_root_it_says_so(plugin: Path) -> None:
    done = lab_command("up", "--name", unique(), "--plugin", str(plugin), user=65534)
    assert done.returncode == 1
    assert "root" in done.stderr


def test_a_failed_add_leaves_no_pod_and_names_the_plugins_reason(lab: MakeLab) -> None:
    cluster = lab(nodes=1)
    cluster.configure("n1", mtu=-1)
    with pytest.raises(Exception, match="mtu"):
        cluster.add("n1", "p1")
    assert namespaces.existing(f"{cluster.node('n1').netns}-") == []
    cluster.configure("n1")
    assert cluster.add("n1", "p1").address(4) == "10.244.1.2"


def test_each_node_reads_the_same_cluster_but_its_own_name() -> None:
    spec = Spec(nodes=2)
    nodes = tuple(Node(spec, number) for number in (1, 2))
    first, second = (cluster(node, nodes) for node in nodes)
    assert (first.pop("node"), second.pop("node")) == ("n1", "n2")
    assert first == second


def test_the_plugin_sees_the_nodes_own_state_directory(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=2))
    for node in cluster.nodes:
        assert any((node.state / "run").rglob("*")), "no attachment record below TULLE_RUN_DIR"
    assert [path for path in Path("/run/tulle").rglob("*") if cluster.spec.name in path.name] == []


def reaches(lab: labs.Lab, source: str, target: str) -> bool:
    """Whether a pod reaches another, sooner or later: peers are told of a node, not asked."""

    def answered() -> bool:
        return all(namespaces.ping(lab.pod(source).netns, lab.pod(target).address(each)) for each in lab.spec.families)

    return until(answered, f"{source} reaches {target}")


def test_agents_follow_the_one_cluster_file_that_they_share(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=2, source="file"))
    assert reaches(cluster, "n1/p1", "n2/p1")
    third = cluster.add_node()
    agents.ready(third)
    cluster.add("n3", "p1")
    assert reaches(cluster, "n1/p1", "n3/p1") and reaches(cluster, "n3/p1", "n2/p1")
    assert third.pod_cidrs[0] in cluster.run("n1", "ip", "route")
    cluster.remove_node()
    until(lambda: third.pod_cidrs[0] not in cluster.run("n1", "ip", "route"), "n1 lets go of the node that left")
    assert reaches(cluster, "n1/p1", "n2/p1")


@pytest.mark.skipif(bool(kube_parts.lacks(("etcd",), ())), reason=kube_parts.lacks(("etcd",), ()))
@pytest.mark.parametrize("family", ["4", "6", "dual"])
def test_agents_lease_their_subnets_from_the_etcd_on_the_wire(lab: MakeLab, family: str) -> None:
    cluster = with_pods(lab(nodes=3, source="etcd", family=family))
    subnets = {node.name: [ipaddress.ip_network(each) for each in agents.subnets(node)] for node in cluster.nodes}
    assert len({each for several in subnets.values() for each in several}) == 3 * len(cluster.spec.families)
    for pod in cluster.pods.values():
        assert all(any(ipaddress.ip_address(each) in one for one in subnets[pod.node]) for each in pod.addresses)
    pairs = [(source, target) for source in cluster.pods for target in cluster.pods if source != target]
    assert [pair for pair in pairs if not reaches(cluster, *pair)] == []


def test_a_lab_without_kubernetes_says_so(lab: MakeLab) -> None:
    cluster = lab(nodes=1)
    done = lab_command("kubectl", "--name", cluster.spec.name, "-n", "kube-system", "get", "pods")
    assert done.returncode == 1 and "--source kubernetes" in done.stderr


def test_a_node_is_added_and_the_last_one_removed_as_a_person_types_it(lab: MakeLab) -> None:
    cluster = with_pods(lab(nodes=2))
    name = cluster.spec.name
    assert "n3 " in lab_command("add", "--name", name, "n3").stdout
    assert lab_command("add", "--name", name, "n3/p1").returncode == 0
    grown = labs.load(name)
    grown.add("n1", "p2")  # without an agent, a node looks at its list when the next pod comes
    assert namespaces.ping(grown.pod("n1/p1").netns, grown.pod("n3/p1").address(4)), "every node has the new list"
    assert "the last node's name" in lab_command("del", "--name", name, "n2").stderr
    assert lab_command("del", "--name", name, "n3").returncode == 0
    assert [each.name for each in labs.load(name).nodes] == ["n1", "n2"]
    assert not any("n3" in each for each in namespaces.existing(cluster.spec.prefix))
