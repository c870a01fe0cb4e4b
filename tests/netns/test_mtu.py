"""The MTU of pods that live: it follows the underlay, on both ends of their wires, while packets go through.

Two nodes on one link whose MTU is changed under them; each node has a reconciler, as the agent has one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from scripts.lib.lab import labs, namespaces
from tests.netns.conftest import MakeLab
from tests.netns.test_failures_agent_repair import Reconciling, reconcile
from tests.netns.test_failures_cluster import ServerInN2, server_in_n2, transfer, two_nodes
from tests.pace import until

__all__ = ["reconcile", "server_in_n2"]
Reconcile = Callable[..., Reconciling]
OVERHEAD = {("vxlan", "4"): 50, ("vxlan", "6"): 70, ("host-gw", "dual"): 0}


def underlay(made: labs.Lab, mtu: int) -> None:
    """Give the link between the nodes this MTU."""
    wires = [("wire", each.name) for each in made.nodes]
    for place, link in (("wire", "link1"), *wires, *((each.name, "eth0") for each in made.nodes)):
        made.run(place, "ip", "link", "set", link, "mtu", str(mtu))


def mtu(made: labs.Lab, where: str, link: str) -> int:
    (found,) = json.loads(made.run(where, "ip", "-j", "link", "show", link))
    return int(found["mtu"])


def mtus(made: labs.Lab, node: str, pod: str = "p1") -> dict[str, int]:
    """The MTUs that a packet of a pod meets on its node."""
    (inside,) = json.loads(made.run(f"{node}/{pod}", "ip", "-j", "link", "show", "eth0"))
    ports = json.loads(made.run(node, "ip", "-j", "link", "show", "type", "veth"))
    port = next(each["ifname"] for each in ports if each["ifindex"] == inside["link_index"])
    found = {"port": mtu(made, node, port), "bridge": mtu(made, node, "tulle0")}
    found["pod"] = mtu(made, f"{node}/{pod}", "eth0")
    return found | ({"device": mtu(made, node, "tulle.1")} if made.spec.backend == "vxlan" else {})


def follows(made: labs.Lab, node: str, wanted: int, pod: str = "p1") -> None:
    """Wait until all links of a pod have this MTU."""
    until(
        lambda: set(mtus(made, node, pod).values()) == {wanted}, f"{pod} of {node} has {wanted}",
        why=lambda: mtus(made, node, pod),
    )


def crosses(made: labs.Lab, size: int) -> bool:
    """Whether a packet of this size goes from pod to pod and back unfragmented, in every family."""
    return all(
        namespaces.ping(made.pod("n1/p1").netns, each, size=size) is not None for each in made.pod("n2/p1").addresses
    )


def is_refused_at_home(made: labs.Lab, size: int) -> bool:
    """Whether the pod itself says that a packet of this size is too long."""
    for target in made.pod("n2/p1").addresses:
        payload = str(size - (48 if ":" in target else 28))
        words = ["ping", "-n", "-c1", "-W1", "-M", "do", "-s", payload, target]
        done = namespaces.attempt(words, netns=made.pod("n1/p1").netns)
        if "message too long" not in done.stdout + done.stderr:
            return False
    return True


@pytest.mark.parametrize(("backend", "family"), OVERHEAD)
def test_failure_14_pods_that_live_follow_an_underlay_that_gets_narrower_and_wider_again(
    lab: MakeLab, reconcile: Reconcile, server_in_n2: ServerInN2, backend: str, family: str
) -> None:
    """hcloud#450, kube-hetzner#2286: what was right when the pod started is a black hole when the underlay changes."""
    made = two_nodes(lab, backend=backend, family=family)
    loops = [reconcile(made, node.name) for node in made.nodes]
    server_in_n2(made)
    for size in (1500, 1450, 1500):
        underlay(made, size)
        inner = size - OVERHEAD[backend, family]
        for node in made.nodes:
            follows(made, node.name, inner)
        assert crosses(made, inner)
        assert is_refused_at_home(made, inner + 1)
        for target in made.pod("n2/p1").addresses:
            assert transfer(made, "n1/p1", target, 8080, 1_000_000) == 1_000_000
    made.add("n1", "p2")
    follows(made, "n1", inner, "p2")
    for each in loops:
        each.end()
        assert [said for said in each.said if said.get("problem")] == []


def test_failure_14_a_route_to_one_peer_that_is_narrower_counts(lab: MakeLab, reconcile: Reconcile) -> None:
    made = two_nodes(lab, family="4")
    reconcile(made)
    made.run("n1", "ip", "route", "add", made.node("n2").addresses[0], "dev", "eth0", "mtu", "1400")
    made.run("n1", "ip", "link", "set", "eth0", "mtu", "1499")  # of others' routes nobody tells but where a source is
    follows(made, "n1", 1350)


def test_an_mtu_that_a_configuration_fixes_stays(lab: MakeLab, reconcile: Reconcile) -> None:
    made = lab(nodes=2, family="4")
    made.configure("n1", mtu=1400)
    made.add("n1", "p1")
    loop = reconcile(made)
    underlay(made, 1300)
    until(lambda: mtu(made, "n1", "tulle.1") == 1250, "the device follows")
    time.sleep(0.3)
    assert mtus(made, "n1") | {"device": 1250} == {"pod": 1400, "port": 1400, "bridge": 1400, "device": 1250}
    loop.end()


def test_an_mtu_that_somebody_gave_a_pod_since_stays_and_a_sandbox_that_is_gone_stops_nobody(
    lab: MakeLab, reconcile: Reconcile
) -> None:
    made = lab(nodes=2, family="4")
    for pod in ("p1", "p2", "p3"):
        made.add("n1", pod)
    loop = reconcile(made)
    made.run("n1/p2", "ip", "link", "set", "eth0", "mtu", "1200")
    namespaces.delete(made.pod("n1/p3").netns)
    while len(json.loads(made.run("n1", "ip", "-j", "link", "show", "master", "tulle0"))) > 2:
        time.sleep(0.02)  # the kernel takes a namespace apart when it has the time
    underlay(made, 1400)
    follows(made, "n1", 1350)
    assert mtu(made, "n1/p2", "eth0") == 1200
    loop.end()
    assert [each for each in loop.said if each.get("problem")] == []
