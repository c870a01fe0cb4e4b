#!/usr/bin/env python3
"""What scripts/quickstart shows: three nodes on this machine, first over VXLAN, then over host-gw.

It exists so that a newcomer sees in seconds that packets really cross, by which way, and what the kernel holds
for it. Everything printed is measured in this run; nothing is left behind. The exit code is 1 when any packet
was lost, or took another way than the backend promises.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.labs import Lab
from scripts.lib.lab.runtime import PluginError
from scripts.lib.lab.topology import LabError, Pod, Spec

WIDTH = 104
Table = dict[tuple[str, str, int], namespaces.Ping | None]

VXLAN_FACTS = (
    ("the tunnel's end on this node; its MAC was set at creation, so that nothing changes it",
     "ip -d link show tulle.1"),
    ("one route for each peer's pods, marked as Tulle's by protocol 84", "ip route show proto 84"),
    ("the same for IPv6", "ip -6 route show proto 84"),
    ("whose MAC the next hop has: known beforehand, nobody needs to ask", "ip neigh show dev tulle.1"),
    ("which node that MAC lives on: where the outer packet goes", "bridge fdb show dev tulle.1"),
    ("the pods' ports on the bridge; a port's alias names its owner", "ip link show master tulle0"),
    ("packets that leave the cluster get the node's address; one rule for all pods",
     "nft list table inet tulle"),
)
HOST_GW_FACTS = (
    ("one route for each peer's pods, straight to the peer's own address", "ip route show proto 84"),
    ("the same for IPv6", "ip -6 route show proto 84"),
    ("and no tunnel device", "ip -br link show type vxlan"),
)
NEXT_STEPS = """
{bold}Play with it{plain}         scripts/lab up        then scripts/lab status, exec n1/p1, exec wire, down
                     scripts/lab up --source kubernetes (or etcd, file): agents that learn their nodes
{bold}Install it for real{plain}  scripts/install       the bundle to /opt/tulle, the plugin to /opt/cni/bin, a network
                                            to /etc/cni/net.d: container runtimes use it from then on
                     scripts/install -h    several nodes (--cluster FILE), another root, removal
{bold}On Kubernetes{plain}        scripts/image, then kubectl apply -f conf/kubernetes/tulle.yaml: docs/kubernetes.md
{bold}Run every test{plain}       scripts/test"""


class Screen:
    """Prints; colours on a terminal only."""

    def __init__(self) -> None:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.codes = dict(
            zip(("bold", "dim", "good", "bad", "plain"), ("1", "2", "32", "31;1", "0"), strict=True)
        )
        self.codes = {name: f"\033[{code}m" if colour else "" for name, code in self.codes.items()}

    def paint(self, style: str, text: str) -> str:
        return f"{self.codes[style]}{text}{self.codes['plain']}"

    def title(self, text: str) -> None:
        print(f"\n{self.paint('bold', text)}\n")

    def line(self, text: str = "", style: str = "plain") -> None:
        print(self.paint(style, f"  {text}") if text else "", flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Says what is being done while it is being done, then how long it took."""
        print(f"  {text} ".ljust(WIDTH - 12, "."), end=" ", flush=True)
        start = time.monotonic()
        try:
            yield
        except BaseException:
            print(self.paint("bad", "failed"), flush=True)
            raise
        print(f"{time.monotonic() - start:5.1f} s", flush=True)


def tour(screen: Screen, spec: Spec, facts: Sequence[tuple[str, str]], *, keep: bool) -> bool:
    """One backend from nothing to nothing; whether everything was as it should be."""
    with screen.step(f"a network and {spec.nodes} nodes, as network namespaces"):
        labs.down(spec.name)  # what a run that was interrupted has left
        lab = labs.up(spec)
    try:
        with screen.step("two pods on each node, each wired by one call of the executable (ADD)"):
            for node in lab.nodes:
                for number in (1, 2):
                    lab.add(node.name, f"p{number}")
        print_pods(screen, lab)
        good = [show_pings(screen, lab), show_path(screen, lab), show_mtu(screen, lab)]
        show_kernel(screen, lab, facts)
    finally:
        if not keep:
            with screen.step("everything removed again"):
                labs.down(spec.name)
    return all(good)


def print_pods(screen: Screen, lab: Lab) -> None:
    """Who is where."""
    screen.line()
    for node in lab.nodes:
        screen.line(f"node {node.name}   {'   '.join(node.addresses)}", "bold")
        for pod in lab.pods.values():
            if pod.node == node.name:
                screen.line(f"  pod {pod.path}   {'   '.join(pod.addresses)}")
    screen.line()


def ping_all(lab: Lab) -> Table:
    """One echo request from each pod to each other pod, in each family."""
    pods = list(lab.pods.values())
    return {
        (source.path, target.path, family): namespaces.ping(source.netns, target.address(family))
        for family in lab.spec.families for source in pods for target in pods if source is not target
    }


def show_pings(screen: Screen, lab: Lab) -> bool:
    """The matrix; whether every reply came, and with the TTL that its way allows."""
    pairs = len(lab.pods) * (len(lab.pods) - 1) * len(lab.spec.families)
    with screen.step(f"every pod pings every pod, IPv4 and IPv6: {pairs} pings"):
        table = ping_all(lab)
    for family in lab.spec.families:
        screen.line()
        screen.line(f"IPv{family}, ms there and back".ljust(28) + "".join(f"{path:>9}" for path in lab.pods), "bold")
        for source in lab.pods:
            cells = [_cell(screen, table, (source, target, family)) for target in lab.pods]
            screen.line(f"from {source}".ljust(28) + "".join(cells))
    lost = sum(reply is None for reply in table.values())
    strays = [key for key, reply in table.items() if reply and reply.ttl != expected_ttl(*key)]
    screen.line()
    screen.line(f"{len(table) - lost} of {len(table)} answered", "bad" if lost else "good")
    for source, target, family in strays:
        reply = table[source, target, family]
        screen.line(f"{source} to {target}: TTL {reply.ttl if reply else 0} is not what that way gives", "bad")
    if not lost and not strays:
        screen.line("same node: TTL 64, over the bridge; other node: TTL 62, both nodes routed it once")
    return not lost and not strays


def expected_ttl(source: str, target: str, _family: int) -> int:
    """A packet starts with 64; each of the two nodes takes one, on one node the bridge takes none."""
    return 64 if source.split("/")[0] == target.split("/")[0] else 62


def _cell(screen: Screen, table: Table, key: tuple[str, str, int]) -> str:
    if key not in table:
        return f"{'-':>9}"
    reply = table[key]
    return f"{reply.ms:>9.2f}" if reply else screen.paint("bad", f"{'LOST':>9}")


def show_path(screen: Screen, lab: Lab) -> bool:
    """Each hop of one packet in each family; whether it crossed the wire as the backend promises."""
    source, target = lab.pod("n1/p1"), lab.pod(f"n{lab.spec.nodes}/p1")
    good = [_show_path(screen, lab, source, (target, family)) for family in lab.spec.families]
    return all(good)


def _show_path(screen: Screen, lab: Lab, source: Pod, to: tuple[Pod, int]) -> bool:
    target, family = to
    address = target.address(family)
    with lab.capture("udp port 8472 or icmp or icmp6") as seen:
        namespaces.ping(source.netns, address)
    packet = echo_request(seen, address)
    hops = (
        (f"pod {source.path}", lab.run(source.path, "ip", "route", "get", address)),
        (f"node {source.node}", lab.run(source.node, "ip", "route", "get", address)),
        ("the wire", packet[0] if packet else "nothing was seen"),
        *(("", f"[ {inner.strip()} ]") for inner in packet[1:]),
        (f"node {target.node}", lab.run(target.node, "ip", "route", "get", address)),
    )
    screen.line()
    screen.line(f"The way of one IPv{family} packet from {source.path} to {target.path}", "bold")
    for where, text in hops:
        screen.line(f"  {where:10} {_tidy(' '.join(text.split()))}")
    tunnelled = any(".8472: " in line for line in seen)
    good = len(packet) == (2 if lab.spec.backend == "vxlan" else 1) and tunnelled == (lab.spec.backend == "vxlan")
    how = "inside a UDP datagram to port 8472 (VXLAN)" if tunnelled else "as it is, not one datagram to port 8472"
    screen.line(f"  {'':10} = {how}", "good" if good else "bad")
    return good


def echo_request(seen: Sequence[str], address: str) -> list[str]:
    """The lines of tcpdump for the first echo request to `address`: one, or the tunnel's line and then its own."""
    for outer, inner in zip(["", *seen], seen, strict=False):
        if f"> {address}: ICMP" in inner and "request" in inner:
            return [outer, inner] if "VXLAN" in outer else [inner]
    return []


def show_mtu(screen: Screen, lab: Lab) -> bool:
    """Whether a packet as large as the pod may send crosses without being cut."""
    source, target = lab.pod("n1/p1"), lab.pod(f"n{lab.spec.nodes}/p1")
    mtu = int(lab.run(source.path, "ip", "-o", "link", "show", "eth0").split(" mtu ")[1].split()[0])
    good = all(namespaces.ping(source.netns, target.address(family), size=mtu) for family in lab.spec.families)
    verdict = "crosses whole" if good else "does not cross: the MTU is wrong"
    screen.line()
    screen.line(f"a packet of the pods' whole MTU ({mtu}, the wire has {lab.spec.mtu}) {verdict}",
                "good" if good else "bad")
    return good


def show_kernel(screen: Screen, lab: Lab, facts: Sequence[tuple[str, str]]) -> None:
    """What the plugin made on n1, in the operator's own commands, each with its reason."""
    screen.line()
    screen.line("What the kernel of node n1 holds, and why", "bold")
    for why, command in facts:
        if "-6" in command.split() and 6 not in lab.spec.families:
            continue
        done = namespaces.attempt(command.split(), netns=lab.node("n1").netns)
        lines = (done.stdout or done.stderr).rstrip().splitlines() or ["(nothing)"]
        screen.line(f"  # {why}", "dim")
        screen.line(f"  $ {command}")
        for line in lines[:24]:
            screen.line(f"    {_tidy(line)}")
        if len(lines) > 24:
            screen.line(f"    ... and {len(lines) - 24} lines more")
    screen.line()


# What iproute2 and tcpdump print beside the point of a line.
NOISE = re.compile(
    r" (uid \d+|metric \d+|pref medium|from ::|cache|qdisc .*|brd ff:ff:.*|ttl auto .*|srcport 0 0|comment .*)"
    r"|, flags \[I\] \(0x08\),|\bIP6? |, (id \d+, )?seq \d+, length \d+"
)


def _tidy(text: str, width: int = WIDTH) -> str:
    text = NOISE.sub("", text.expandtabs(4)).rstrip()
    return text if len(text) <= width else text[: width - 3] + "..."


def main() -> int:
    """0 when every packet arrived in the way promised, 1 else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the host-gw lab up, to look into")
    parser.add_argument("--plugin", default=Spec().plugin, help="the executable (default: %(default)s)")
    options = parser.parse_args()
    name = os.environ.get("TULLE_LAB", "quickstart")
    screen, spec = Screen(), Spec(name=name, plugin=str(Path(options.plugin).absolute()))
    rounds: tuple[tuple[str, Spec, Sequence[tuple[str, str]], bool], ...] = (
        ("Over VXLAN: packets between nodes travel inside UDP", spec, VXLAN_FACTS, False),
        ("Over host-gw: packets between nodes travel as they are",
         replace(spec, backend="host-gw"), HOST_GW_FACTS, options.keep),
    )
    good = []
    try:
        for title, each, facts, keep in rounds:
            screen.title(title)
            good.append(tour(screen, each, facts, keep=keep))
    except (LabError, PluginError, LookupError, namespaces.CommandError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    _print_end(screen, name, good=all(good), keep=options.keep)
    return 0 if all(good) else 1


def _print_end(screen: Screen, name: str, *, good: bool, keep: bool) -> None:
    if keep:
        screen.line(f"the lab stays up: scripts/lab status --name {name}; scripts/lab down --name {name}")
    if good:
        print(NEXT_STEPS.format(**screen.codes))
    else:
        screen.line("Something did not arrive as it should; the lines in red above say what. To look into it:", "bad")
        screen.line("  scripts/quickstart --keep; scripts/lab exec --name quickstart n1 -- ip route")


if __name__ == "__main__":
    sys.exit(main())
