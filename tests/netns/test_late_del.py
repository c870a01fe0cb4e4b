"""A DEL that comes late finds another pod behind its path: that pod keeps its wire, its address and its lease.

cri-o#2849: after a reboot a DEL names /proc/PID/ns/net, and the process of that number is of a live pod by then. The
reference plugins unplug it.
"""

from __future__ import annotations

import shutil

import pytest

from tests.conformance.nodes import Call, Json, Node, Plugins, Reply, ping_all, run
from tests.netns.failure_nodes import REFERENCE, address, conf


def late_del(node: Node, configuration: Json, pod: str = "live", ifname: str = "eth0") -> Reply:
    """The DEL of a container long gone, by way of a path that leads into this pod now."""
    call = Call(command="DEL", container="gone", netns=node.pod(pod).path, ifname=ifname)
    return node.invoke(configuration, call)


def by_reference(node: Node, configuration: Json, pod: str = "live") -> str:
    """Have the reference bridge wire a pod on this node; the pod's address."""
    reference = Plugins("ref", REFERENCE)
    call = Call(command="ADD", container=pod, netns=node.pod(pod).path)
    own, node.plugins = node.plugins, reference
    try:
        return address(node.invoke({**configuration, "type": "bridge", "cniVersion": "1.0.0"}, call).ok())
    finally:
        node.plugins = own


@pytest.mark.parametrize("lost", [False, True], ids=["on record", "records lost"])
def test_a_late_del_leaves_the_live_pod_alone(node: Node, lost: bool) -> None:
    configuration = conf(node)
    live = address(node.add(configuration, "live").ok())
    if lost:
        shutil.rmtree(node.run_dir / "attachments")
    assert late_del(node, configuration).exit == 0
    assert late_del(node, conf(node, name="other")).exit == 0
    assert ping_all([(node.pod("live"), "10.60.0.1"), (node, live)]) == [True, True]
    assert node.leases() == {live: "live\r\neth0"}


def test_the_path_of_a_process_that_is_another_pods_by_now_unplugs_nobody(node: Node) -> None:
    configuration = conf(node)
    process = node.pod("live").start("sleep", "60")
    try:
        path = f"/proc/{process.pid}/ns/net"
        live = address(node.invoke(configuration, Call(command="ADD", container="live", netns=path)).ok())
        late = Call(command="DEL", container="gone", netns=path)
        assert node.invoke(configuration, late).exit == 0
        assert ping_all([(node, live)]) == [True]
    finally:
        process.kill()
        process.communicate()


def test_the_del_after_a_refused_add_leaves_the_pod_that_was_there_first(node: Node) -> None:
    configuration = conf(node)
    live = address(node.add(configuration, "live").ok())
    second = Call(command="ADD", container="gone", netns=node.pod("live").path)
    assert node.invoke(configuration, second).code == 4
    assert late_del(node, configuration).exit == 0
    assert ping_all([(node, live)]) == [True]
    assert node.leases() == {live: "live\r\neth0"}


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference plugins are not installed")
@pytest.mark.parametrize("name", ["net", "other"])
def test_a_pod_that_the_reference_wired_keeps_its_wire_by_its_lease(node: Node, name: str) -> None:
    """Nothing marks its veth; whose its address is stands in the lease file, in whichever network it is."""
    live = by_reference(node, conf(node, ipMasq=False, bridge="cni0"))
    assert late_del(node, conf(node, name=name, ipMasq=False, bridge="cni0")).exit == 0
    assert ping_all([(node, live)]) == [True]
    own = Call(command="DEL", container="live", netns=node.pod("live").path)
    assert node.invoke(conf(node, ipMasq=False, bridge="cni0"), own).exit == 0
    assert node.pod("live").json("ip", "-j", "link", "show", "type", "veth") == []
    assert node.leases() == {}


def test_a_veth_that_leads_to_no_bridge_of_this_node_is_not_taken_for_ours(node: Node) -> None:
    """One whose other end is in another namespace: no bridge plugin made it here."""
    elsewhere = node.pod("elsewhere")
    run("ip", "-n", node.pod("live").name, "link", "add", "eth0", "type", "veth", "peer", "e0", "netns", elsewhere.name)
    assert late_del(node, conf(node)).exit == 0
    assert len(node.pod("live").json("ip", "-j", "link", "show", "type", "veth")) == 1
