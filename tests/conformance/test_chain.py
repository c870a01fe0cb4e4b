"""The reference's portmap, bandwidth and tuning work when they are chained after us, and leave with the pod."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.lib.lab.runtime import Attachment, Network, Runtime
from tests.conformance.clients import address, network
from tests.conformance.conftest import Nodes
from tests.conformance.nodes import NODE4, Json, Namespace, Node, Plugins, ping_all
from tests.conformance.observe import snapshot

ECHO = "import socket; s = socket.create_server(('', 8080)); s.settimeout(20); c = s.accept()[0]; c.sendall(c.recv(9))"
CALL = (
    "import socket, sys; s = socket.create_connection((sys.argv[1], 18080), 3); s.sendall(b'hello'); print(s.recv(9))"
)


@pytest.fixture
def node(nodes: Nodes, tulle: Plugins, reference: Plugins) -> Node:
    for plugin in ("portmap", "bandwidth", "tuning"):
        if not (reference.directory / plugin).exists():
            pytest.skip(f"no reference {plugin} in {reference.directory}")
    return nodes(tulle)


def runtime(node: Node, reference: Plugins) -> Runtime:
    return Runtime(
        path=(node.plugins.directory, reference.directory),
        cache=node.state / "results",
        enter=("nsenter", f"--net={node.path}", "--"),
        env={"TULLE_RUN_DIR": str(node.run_dir)},
    )


def attachment(node: Node, pod: str = "pod1", **capabilities: object) -> Attachment:
    return Attachment(container=pod, netns=node.pod(pod).path, capabilities=capabilities)


def chain(node: Node, version: str, *plugins: Json) -> Network:
    return Network.parse({**network(node, *plugins), "cniVersion": version})


def alone(network: Network) -> Network:
    """The list without what comes after us, for a CHECK of our own part with the whole chain's result.

    The reference's portmap (1.1.1) fails its own CHECK of a pod that has no IPv6 address.
    """
    return replace(network, plugins=network.plugins[:1])


def answered(server: Namespace, client: Namespace, target: str) -> str:
    """What a client gets from a server that echoes on port 8080, called at `target`:18080; with its source."""
    echo = server.start("python3", "-c", ECHO)
    try:
        for _ in range(20):
            said = client.run("python3", "-c", CALL, target, check=False)
            if said.returncode == 0:
                break
        return said.stdout.strip()
    finally:
        echo.kill()
        echo.communicate()


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_portmap_after_us_forwards_a_host_port(node: Node, reference: Plugins, version: str) -> None:
    before = snapshot(node)
    portmap: Json = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    ours, cni = chain(node, version, portmap), runtime(node, reference)
    mappings = [{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}]
    first, second = attachment(node, portMappings=mappings), attachment(node, "pod2")
    cni.add(ours, first)
    cni.add(ours, second)
    assert answered(node.pod("pod1"), node.world, NODE4) == "b'hello'"
    assert answered(node.pod("pod1"), node.pod("pod2"), NODE4) == "b'hello'"
    if version != "0.3.1":
        cni.check(alone(ours), first)
    for each in (first, second):
        cni.delete(ours, each)
    after = snapshot(node)
    assert (after["leases"], after["records"]) == ({}, [])
    assert "tulle" not in str(after["ruleset"]) and "tulle" not in str(before["ruleset"])
    assert "10.60.0" not in str(after["ruleset"])


def test_bandwidth_after_us_shapes_the_pods_port(node: Node, reference: Plugins) -> None:
    bandwidth: Json = {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000}
    ours, cni = chain(node, "1.0.0", bandwidth), runtime(node, reference)
    cni.add(ours, attachment(node))
    shaped = node.run("tc", "qdisc", "show").stdout
    assert "tbf" in shaped
    cni.check(ours, attachment(node))
    cni.delete(ours, attachment(node))
    assert "tbf" not in node.run("tc", "qdisc", "show").stdout


def test_tuning_after_us_may_change_what_we_made(node: Node, reference: Plugins) -> None:
    tuning: Json = {
        "type": "tuning", "mac": "c2:11:22:33:44:55", "mtu": 1300, "sysctl": {"net.ipv4.conf.eth0.arp_ignore": "1"},
    }
    ours, cni = chain(node, "1.0.0", tuning), runtime(node, reference)
    cni.add(ours, attachment(node))
    (link,) = (each for each in node.pod("pod1").json("ip", "-j", "link") if each["ifname"] == "eth0")
    assert (link["address"], link["mtu"]) == ("c2:11:22:33:44:55", 1300)
    assert ping_all([(node.pod("pod1"), "10.60.0.1")]) == [True]
    cni.check(ours, attachment(node))
    cni.delete(ours, attachment(node))
    assert node.leases() == {}


def test_all_three_after_us(node: Node, reference: Plugins) -> None:
    plugins: list[Json] = [
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_ignore": "1"}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    ]
    ours, cni = chain(node, "1.0.0", *plugins), runtime(node, reference)
    pod = attachment(
        node,
        portMappings=[{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}],
        bandwidth={"ingressRate": 80_000_000, "ingressBurst": 8_000_000},
    )
    result = cni.add(ours, pod)
    assert answered(node.pod("pod1"), node.world, NODE4) == "b'hello'"
    assert address(result) == "10.60.0.2"
    cni.check(alone(ours), pod)
    cni.delete(ours, pod)
    cni.delete(ours, pod)
    assert (node.leases(), snapshot(node)["records"]) == ({}, [])
