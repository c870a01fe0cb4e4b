"""Failures of a node's own state that the agent puts right by itself, at once, while everything else goes on.

The numbers are those of the list of forty failures that the design names. Each test breaks something as an operator
or another program would, and waits for the node to be exactly as it was: links with their MACs, addresses, routes,
entries, rules. Where the next look at everything is an hour away, only what the kernel tells can be the reason.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import pytest

from cni_plugin.agent.collector import COLLECTED
from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import REPO
from tests.netns.conftest import MakeLab
from tests.netns.failure_nodes import repair
from tests.pace import PATIENCE, until

DEVICE, BRIDGE = "tulle.1", "tulle0"
Json = dict[str, object]


class Reconciling:
    """A reconciler at work on a node."""

    def __init__(self, netns: str, run_dir: Path, interval: float, grace: float, wrapper: tuple[str, ...] = ()) -> None:
        words = [sys.executable, "-m", "tests.netns.reconciling", str(run_dir), str(interval), str(grace)]
        self.process = subprocess.Popen(
            [*namespaces.inside(netns), *wrapper, *words], cwd=REPO,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.said: list[Json] = []
        while self._line() != {"ready": True}:
            continue
        self.said.clear()

    def end(self) -> Json:
        """End it; how many passes it made and how long each took. What it had put right is in `said`."""
        cast(IO[str], self.process.stdin).close()
        while "passes" not in (line := self._line()):
            continue
        self.process.wait(PATIENCE)
        return line

    def _line(self) -> Json:
        text = cast(IO[str], self.process.stdout).readline()
        assert text, "the reconciler ended"
        self.said.append(json.loads(text))
        return self.said[-1]


@pytest.fixture
def reconcile() -> Iterator[Callable[..., Reconciling]]:
    """Starts reconcilers, whose first pass is over then; they are gone after the test."""
    started: list[Reconciling] = []

    def start(
        made: labs.Lab, node: str = "n1", *, interval: float = 3600, grace: float = 300, wrapper: tuple[str, ...] = ()
    ) -> Reconciling:
        where = made.node(node)
        started.append(Reconciling(where.netns, where.state / "run", interval, grace, wrapper))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def two_nodes(lab: MakeLab, **settings: str | int | bool) -> labs.Lab:
    made = lab(nodes=2, **settings)
    for node in made.nodes:
        made.add(node.name, "p1")
    return made


def links(made: labs.Lab, node: str) -> list[tuple[object, ...]]:
    """Our links and the pods' ports: names, MACs, MTUs, masters, whether they are up, addresses."""
    return [
        (
            each["ifname"], each["address"], each["mtu"], each.get("master"), "UP" in each["flags"],
            sorted(f"{a['local']}/{a['prefixlen']}" for a in each["addr_info"] if a["scope"] != "link"),
        )
        for each in json.loads(made.run(node, "ip", "-j", "addr", "show"))
        if each["ifname"].startswith("tl") or each["ifname"].startswith("tulle")
    ]


def snapshot(made: labs.Lab, node: str = "n1") -> tuple[object, ...]:
    """All that Tulle has on a node outside of its pods."""
    routes = [made.run(node, "ip", each, "route", "show", "proto", "84") for each in ("-4", "-6")]
    entries = ["", ""]
    if made.spec.backend == "vxlan":
        netns = made.node(node).netns
        there = namespaces.attempt(["ip", "neigh", "show", "dev", DEVICE, "nud", "permanent"], netns=netns)
        fdb = namespaces.attempt(["bridge", "fdb", "show", "dev", DEVICE], netns=netns)
        entries = [there.stdout, fdb.stdout]
    nft = namespaces.attempt(["nft", "list", "table", "inet", "tulle"], netns=made.node(node).netns).stdout
    forward = namespaces.run(["cat", "/proc/sys/net/ipv4/ip_forward"], netns=made.node(node).netns)
    return (
        sorted(map(repr, links(made, node))), *(sorted(text.splitlines()) for text in (*routes, *entries)),
        re.sub(r"# handle \d+", "", nft), forward,
    )


def recovery(made: labs.Lab, before: tuple[object, ...], name: str, *breaking: str) -> None:
    """Run a command on n1, and wait for the node to be as before."""
    made.run("n1", *breaking)
    settled(made, before, f"{name}: {' '.join(breaking)}")


def settled(made: labs.Lab, before: tuple[object, ...], what: str = "") -> None:
    """Wait for n1 to be as before."""
    until(lambda: snapshot(made) == before, f"n1 is as before: {what}", why=lambda: f"{before} {snapshot(made)}")


def reaches(made: labs.Lab, source: str = "n1/p1", target: str = "n2/p1") -> bool:
    """Whether pods reach each other at the first packet, in every family they have."""
    return all(namespaces.ping(made.pod(source).netns, each) is not None for each in made.pod(target).addresses)


@pytest.mark.parametrize("link", [DEVICE, BRIDGE])
def test_failure_11_a_changed_mac_is_put_right_at_once(
    lab: MakeLab, reconcile: Callable[..., Reconciling], link: str
) -> None:
    """flannel#1155: systemd-udevd changed the MAC, the peers (the pods) went on sending to the old one."""
    made = two_nodes(lab)
    loop = reconcile(made)
    assert reaches(made)
    before = snapshot(made)
    recovery(made, before, "failure 11", "ip", "link", "set", link, "address", "02:00:00:00:00:99")
    assert reaches(made)
    assert reaches(made, "n2/p1", "n1/p1")
    loop.end()
    assert [each["problem"] for each in loop.said if "what" in each] == [""]


def test_failure_22_a_flushed_ruleset_is_put_back_at_once(lab: MakeLab, reconcile: Callable[..., Reconciling]) -> None:
    """A firewall's reload flushes everybody's rules: pods would leave with addresses that nobody can answer."""
    made = two_nodes(lab)
    loop = reconcile(made)
    before = snapshot(made)
    assert "masquerade" in str(before)
    recovery(made, before, "failure 22", "nft", "flush", "ruleset")
    recovery(made, before, "failure 22", "nft", "delete", "table", "inet", "tulle")
    recovery(made, before, "failure 22", "nft", "flush", "chain", "inet", "tulle", "postrouting")
    loop.end()
    assert {each["what"] for each in loop.said if "what" in each} == {"masquerade", "guard of pods"}


def test_failure_34_a_deleted_vxlan_device_comes_back_at_once(
    lab: MakeLab, reconcile: Callable[..., Reconciling]
) -> None:
    """flannel#2247: the device was made again, but not its routes, neighbours and forwarding entries."""
    made = two_nodes(lab)
    reconcile(made)
    before = snapshot(made)
    recovery(made, before, "failure 34", "ip", "link", "del", DEVICE)
    assert reaches(made)
    recovery(made, before, "failure 34", "ip", "link", "set", DEVICE, "down")
    assert reaches(made)
    made.add("n1", "p2")
    assert reaches(made, "n1/p2")


def test_failure_34_a_deleted_bridge_comes_back_at_once_with_all_pods_on_it(
    lab: MakeLab, reconcile: Callable[..., Reconciling]
) -> None:
    """Its MAC too, for the pods' neighbour entries of their gateway hold it."""
    made = two_nodes(lab)
    made.add("n1", "p2")
    reconcile(made)
    assert reaches(made) and reaches(made, "n1/p2", "n1/p1")
    before = snapshot(made)
    recovery(made, before, "failure 34", "ip", "link", "del", BRIDGE)
    assert reaches(made)
    assert reaches(made, "n1/p2", "n1/p1")
    assert reaches(made, "n2/p1", "n1/p2")


@pytest.mark.parametrize("by", ["agent", "tullectl"])
def test_failure_34_ports_get_back_what_they_lose_with_their_bridge(
    lab: MakeLab, reconcile: Callable[..., Reconciling], plugin: Path, by: str
) -> None:
    """A port that is locked (macspoofchk) and has lost its forwarding entry would let nothing in."""
    made = lab(nodes=1, family="4")
    made.configure("n1", macspoofchk=True, hairpinMode=True)
    made.add("n1", "p1")
    made.add("n1", "p2")
    if by == "agent":
        reconcile(made)
        recovery(made, snapshot(made), "failure 34", "ip", "link", "del", BRIDGE)
    else:
        made.run("n1", "ip", "link", "del", BRIDGE)
        repair(plugin, made, "n1")
        for pod in made.pods:  # nobody remembers the bridge's MAC, so what pods had learned of it leads nowhere
            made.run(pod, "ip", "neigh", "flush", "all")
    assert reaches(made, "n1/p1", "n1/p2")
    details = made.run("n1", "bridge", "-d", "link")
    assert details.count("hairpin on") == details.count("locked on") == 2


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_failure_34_an_uplink_that_went_and_came_back_is_put_right_at_once(
    lab: MakeLab, reconcile: Callable[..., Reconciling], backend: str
) -> None:
    made = two_nodes(lab, backend=backend)
    loop = reconcile(made)
    before = snapshot(made)
    address = f"{made.node('n1').addresses[1]}/64"
    bounce = f"ip link set eth0 down; ip link set eth0 up; ip addr replace {address} dev eth0 nodad"
    recovery(made, before, "failure 34", "sh", "-c", bounce)
    assert reaches(made)
    made.run("n1", "ip", "link", "set", "eth0", "down")
    time.sleep(2)  # it is tried, in vain, less and less often
    recovery(made, before, "failure 34, after 2 s", "sh", "-c", bounce.split("; ", 1)[1])
    assert reaches(made)
    loop.end()


BREAKING = {
    "IPv4 routes": "ip route flush proto 84",
    "IPv6 routes": "ip -6 route flush proto 84",
    "a gateway address": f"ip addr del 10.244.1.1/24 dev {BRIDGE}",
    "an IPv6 gateway address": f"ip -6 addr flush dev {BRIDGE} scope global",
    "the device's address": f"ip addr flush dev {DEVICE} scope global",
    "a neighbour": f"ip neigh del 10.244.2.0 dev {DEVICE}",
    "all neighbours": f"ip neigh flush dev {DEVICE} nud permanent",
    "a neighbour's MAC": f"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:77 dev {DEVICE} nud permanent",
    "a forwarding entry": f"bridge fdb del 0a:54:0a:f4:02:00 dev {DEVICE} dst 192.0.2.2",
    "forwarding": "sysctl -qw net.ipv4.ip_forward=0",
    "a bridge that is down": f"ip link set {BRIDGE} down",
    "an MTU": f"ip link set {BRIDGE} mtu 1300",
}


def test_failure_35_what_was_flushed_is_put_back_at_once(
    lab: MakeLab, reconcile: Callable[..., Reconciling]
) -> None:
    """flannel#1980 and many others: routes and addresses went with a restart of the network manager."""
    made = two_nodes(lab)
    loop = reconcile(made)
    before = snapshot(made)
    for what, command in BREAKING.items():
        recovery(made, before, f"failure 35, {what}", *command.split())
    assert reaches(made)
    assert reaches(made, "n2/p1", "n1/p1")
    loop.end()
    assert [each for each in loop.said if each.get("problem")] == []


def test_failure_35_a_port_that_lost_its_bridge_is_put_back_at_the_next_look_at_everything(
    lab: MakeLab, reconcile: Callable[..., Reconciling]
) -> None:
    made = two_nodes(lab, family="4")
    ports = [str(each[0]) for each in links(made, "n1") if each[3] == BRIDGE]
    made.add("n1", "p2")
    before = snapshot(made)
    (port,) = ports
    made.run("n1", "ip", "link", "set", port, "nomaster", "down")
    assert not reaches(made)  # before there is a loop, whose next look may come at any moment
    loop = reconcile(made, interval=1)  # its first look is over then, and what that did is not told
    settled(made, before)
    assert reaches(made)
    made.run("n1", "ip", "link", "set", port, "nomaster", "down")
    settled(made, before)
    assert reaches(made)
    loop.end()
    assert [each["what"] for each in loop.said if "what" in each] == ["ports of pods"]


def test_failure_40_resync_of_1000_peers_is_one_pass_each_time_and_execs_nothing(
    lab: MakeLab, reconcile: Callable[..., Reconciling], tmp_path: Path
) -> None:
    """kube-proxy, flannel and others start a program for each entry: a node with 1,000 peers took minutes."""
    made = lab(nodes=1, family="4")
    path = made.node("n1").state / "cluster.json"
    whole = json.loads(path.read_text())
    whole["network"] = "10.0.0.0/8"
    whole["nodes"] += [
        {"name": f"p{i}", "address": f"198.18.{i // 200}.{i % 200 + 1}", "podCIDRs": [f"10.{i // 200}.{i % 200}.0/24"]}
        for i in range(1000)
    ]
    labs.write_json(path, whole)
    made.add("n1", "p1")
    trace = tmp_path / "trace"
    loop = reconcile(made, wrapper=("strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=execve", "-o", str(trace)))
    before = snapshot(made)
    assert str(before).count("proto 84") == 0 and len(cast(list[str], before[1])) == 1000
    recovery(made, before, "failure 40", "ip", "link", "del", DEVICE)
    recovery(made, before, "failure 40", "ip", "route", "flush", "proto", "84")
    ended = loop.end()
    repairs = [(each["what"], each["operations"], each["ms"]) for each in loop.said if "what" in each]
    print(f"repairs {repairs}, passes {ended['passes']} ms", file=sys.stderr)
    assert [each for each in repairs if cast(int, each[1]) >= 1000]
    assert trace.read_text().count("execve(") == 1, "that by which the reconciler itself was started"


def test_pods_that_come_and_go_cause_no_pass(lab: MakeLab, reconcile: Callable[..., Reconciling]) -> None:
    """Each makes a dozen link events, and the first and the last one some about the bridge."""
    made = lab(nodes=1, family="4")
    made.configure("n1", ipMasq=False)  # rules that another process made are looked at
    for _ in range(2):  # so that the bridge, and its MTU, have seen all that they will see
        made.add("n1", "p1")
        made.delete("n1/p1")
    loop = reconcile(made)
    for _ in range(10):
        made.add("n1", "p1")
        made.add("n1", "p2")
        made.delete("n1/p1")
        made.delete("n1/p2")
    ended = loop.end()
    print(f"passes {ended['passes']} ms", file=sys.stderr)
    assert [each for each in loop.said if "what" in each] == []
    assert len(cast(list[float], ended["passes"])) <= 4


def test_a_pod_whose_sandbox_went_without_a_del_is_collected(
    lab: MakeLab, reconcile: Callable[..., Reconciling]
) -> None:
    """Runtimes that never call GC, and lost DELs: an address is not lost for longer than the time of grace."""
    made = two_nodes(lab, family="4")
    made.add("n1", "p2")
    state = made.node("n1").state
    loop = reconcile(made, interval=1, grace=1)
    gone = made.pods.pop("n1/p2")
    namespaces.delete(gone.netns)
    leases = state / "ipam" / "pods"
    start = time.monotonic()
    until(lambda: not (leases / gone.addresses[0]).exists(), "the address is free")
    took = time.monotonic() - start
    records = state / "run" / "attachments" / "pods"
    until(lambda: len(list(records.iterdir())) == 1, "the record goes after its lease")
    assert [path.name for path in records.iterdir()] == [f"{made.pod('n1/p1').netns}:eth0"]
    assert took >= 1, "not before the grace is over"
    assert reaches(made)
    loop.end()
    assert [each["problem"] for each in loop.said if each.get("what") == COLLECTED] == [""]
