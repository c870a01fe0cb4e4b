"""A node of a large cluster: what its first pod costs, when all peers are programmed, and what every later pod does.

Each node is a network namespace with one end of a veth pair for an uplink. Peers exist in the list only: that is
all that programming them needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from itertools import count

from scripts.lib.bench.report import Goal, ratio, timed
from scripts.lib.bench.spawn import Cost, Side, interleave
from scripts.lib.bench.world import Bench, attachment, inside, network
from scripts.lib.lab import namespaces
from scripts.lib.lab.runtime import Attachment, Json

PEERS = 1_000
BACKENDS = ("vxlan", "host-gw")
UNDERLAY = ip_network("10.200.0.0/16")
PODS = ip_network("10.128.0.0/11")
_serial = count()


def nodes(peers: int) -> list[Json]:
    """This node, the first, and so many peers: one address of the underlay and one /24 for pods each."""
    subnets = PODS.subnets(new_prefix=24)
    first = int(UNDERLAY.network_address) + 1
    return [
        {"name": f"node{number}", "address": str(ip_address(first + number)), "podCIDRs": [str(next(subnets))]}
        for number in range(peers + 1)
    ]


def cluster(backend: str, peers: int) -> Json:
    """The configuration's `cluster` object as the first node has it."""
    return {"network": str(PODS), "backend": {"type": backend}, "node": "node0", "nodes": nodes(peers)}


def clusters(bench: Bench) -> None:
    """First pods on nodes with many peers and with one, then further pods on such nodes."""
    made = {
        _row(backend, peers): _fresh(bench, backend, peers) for backend in BACKENDS for peers in (PEERS, 1)
    }
    found = interleave(made, 1 if bench.quick else 5, warm_up=False)
    for name, costs in found.items():
        bench.report.add(timed("cluster", name, costs))
    rows = {each.name: each for each in bench.report.of("cluster")}
    for backend in BACKENDS:
        first = rows[_row(backend, PEERS)].median / 1000
        goal = f"{PEERS:,} {backend} peers from nothing, with the first pod"
        bench.report.goals.append(Goal("cluster", goal, first, 2, "s", strictly=True))
        _later(bench, backend)


def _row(backend: str, peers: int) -> str:
    return f"first ADD: {backend}, {peers:,} peers" if peers > 1 else f"first ADD: {backend}, 1 peer"


def _later(bench: Bench, backend: str) -> None:
    """ADDs with nothing to change."""
    who = attachment(bench, 0)
    places = {peers: _node(bench, backend, peers) for peers in (PEERS, 1)}
    residents = [attachment(bench, 1 + number) for number in range(len(places))]
    for (netns, side), resident in zip(places.values(), residents, strict=True):
        with inside(netns):
            side.add(resident)
    found = interleave({str(peers): _adder(*place, who) for peers, place in places.items()}, bench.rounds)
    one = bench.report.add(timed("cluster", f"later ADD: {backend}, 1 peer", found["1"]))
    name = f"later ADD: {backend}, {PEERS:,} peers"
    many = bench.report.add(timed("cluster", name, found[str(PEERS)], one.name))
    goal = f"ADD with nothing to change, {PEERS:,} {backend} peers against 1"
    bench.report.goals.append(Goal("cluster", goal, ratio(many, one), 1.1))
    for (netns, side), resident in zip(places.values(), residents, strict=True):
        with inside(netns):
            side.delete(resident)


def _adder(netns: str, side: Side, who: Attachment) -> Callable[[], Cost]:
    def add() -> Cost:
        with inside(netns):
            taken = side.add(who)
            side.delete(who)
        return taken

    return add


def _fresh(bench: Bench, backend: str, peers: int) -> Callable[[], Cost]:
    return lambda: _adder(*_node(bench, backend, peers), attachment(bench, 0))()


def _node(bench: Bench, backend: str, peers: int) -> tuple[str, Side]:
    """A node that has never had a pod: a namespace, its state, and a network that says what its cluster is."""
    name = f"n{next(_serial)}"
    namespaces.create(name)
    address = f"{UNDERLAY.network_address + 1}/{UNDERLAY.prefixlen}"
    uplink = ["link add up0 type veth peer name wire0", "link set up0 up", "link set wire0 up"]
    namespaces.ip(name, *uplink, f"addr add {address} dev up0")
    file = bench.state / f"{name}.json"
    file.write_text(json.dumps(cluster(backend, peers)))
    own = str(next(PODS.subnets(new_prefix=24)))
    return name, bench.side(network(bench, name, [own], cluster=str(file)), run_dir=f"/run/tulle-{name}")
