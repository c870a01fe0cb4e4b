"""What a node says of itself, in real kernels: it costs nobody else a packet, or a byte of the MTU of their pods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.lib.lab import labs
from tests.netns.conftest import MakeLab
from tests.netns.members import Json, Members, members
from tests.netns.test_mtu import OVERHEAD, crosses, mtu

SUBNETS = {4: "10.244.99.0/24", 6: "fd00:10:244:99::/64"}
N2S_MAC = "0a:54:0a:f4:02:00"


def stray(made: labs.Lab, address: str, **more: object) -> Json:
    """A node at this address, with a subnet of its own in the first family of the lab."""
    first = 6 if ":" in made.node("n1").pod_cidrs[0] else 4
    return {"name": "stray", "address": address, "podCIDRs": [SUBNETS[first]], **more}


def members_with_pods(them: Members) -> None:
    them.save()
    them.join()
    for node in them.lab.nodes:
        them.lab.add(node.name, "p1")


def says(them: Members, node: str, words: str) -> None:
    """Wait until the agent of a node has this to say."""
    them.until(lambda: words in str(them.status(node)["problems"]), f"{node} says {words}")


@pytest.mark.parametrize(("backend", "family"), OVERHEAD)
def test_a_node_at_the_address_of_a_pod_is_left_out_and_takes_nothing_of_the_pods_mtu(
    lab: MakeLab, plugin: Path, backend: str, family: str
) -> None:
    """Virtual-kubelet run as a pod, kwok, nested clusters: a tunnel in a tunnel, 50 bytes less at each look."""
    made = lab(nodes=2, backend=backend, family=family)
    inner = 1500 - OVERHEAD[backend, family]
    with members(made, plugin, interval=1) as them:
        members_with_pods(them)
        for number, address in enumerate((made.pod("n2/p1").addresses[0], made.pod("n1/p1").addresses[0])):
            them.list["stray"] = stray(made, address, since=-1.0 if number else 9.0)
            them.save()
            for node in ("n1", "n2"):
                says(them, node, "stray is left out: its address")
            assert SUBNETS[6 if ":" in made.node("n1").pod_cidrs[0] else 4] not in them.programmed("n1")
            assert [mtu(made, f"{node}/p1", "eth0") for node in ("n1", "n2")] == [inner, inner]
            assert crosses(made, inner)
        made.add("n1", "p2")
        assert mtu(made, "n1/p2", "eth0") == inner
        del them.list["stray"]
        them.save()
        them.until(lambda: not them.status("n1")["problems"], "all is well")


def test_nobody_gets_another_nodes_traffic_by_its_mac_or_its_address(lab: MakeLab, plugin: Path) -> None:
    made = lab(nodes=3, family="4")
    with members(made, plugin) as them:
        them.save("n1", "n2")
        them.join("n1", "n2")
        for node in ("n1", "n2"):
            made.add(node, "p1")
        there = made.node("n3").addresses[0]
        for mac in (N2S_MAC, "0A:54:0A:F4:01:00"):
            liar: Json = {"name": "a3", "address": there, "podCIDRs": ["10.244.3.0/24"], "since": -1.0}
            them.list["n3"] = {**liar, "backendData": {"VtepMAC": mac}}
            them.save()
            says(them, "n1", "a3 is left out: it says")
            with made.capture(f"udp port 8472 and dst {there}") as lines:
                assert crosses(made, 1450)
            assert lines == []
            assert f"{N2S_MAC} dst {made.node('n2').addresses[0]}" in them.programmed("n1")


@pytest.mark.parametrize("text", ["255.255.255.255", "240.0.0.1", "224.0.0.1", "127.0.0.1", "0.0.0.0"])
def test_what_is_no_nodes_address_is_refused_with_the_reason(lab: MakeLab, plugin: Path, text: str) -> None:
    made = lab(nodes=1, family="4")
    with members(made, plugin) as them:
        members_with_pods(them)
        them.list["stray"] = stray(made, text)
        them.save()
        words = "it must be where the other nodes can send to"
        them.until(lambda: words in str(them.status("n1")["trouble"]), "it is said")
        assert json.loads(made.run("n1", "ip", "-j", "route", "show", "proto", "84")) == []
