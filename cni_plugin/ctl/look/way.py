"""The way of a packet from a pod, hop by hop, as the kernel itself would send it: nothing is sent.

    eth0 in the pod: 0.0.0.0/0 by way of 10.244.1.1
    the wire: out of tl4f0c9d2a81b, port of tulle0 (forwarding)
    tulle0 -> eth0 by way of 192.0.2.2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import NamedTuple

from cni_plugin.ctl.host import Looker
from cni_plugin.kernel.nft.ruleset import Hook
from cni_plugin.kernel.see.look import Way, named
from cni_plugin.model.every import kinds
from cni_plugin.model.links import Tunnel
from cni_plugin.store.records import Record


class Ground(NamedTuple):
    """What the way leads over: the node, the pod, everybody's firewall chains, and what is not masqueraded."""

    host: Looker
    pod: Looker
    record: Record
    hooks: Sequence[Hook]
    inside: Sequence[str]


def way(ground: Ground, to: str) -> Iterator[str]:
    """The hops to this address, one a line; the last says where it ends, or why it does not get there."""
    record = ground.record
    first = ground.pod.way(to)
    if first.kind == "local":
        yield f"{to} is the pod's own address: it does not leave the pod"
        return
    if first.kind != "unicast":
        yield f"the pod has no way to {to}: {first.kind}"
        return
    gateway = first.via or to
    yield f"{first.dev} in the pod: " + (f"by way of {first.via}" if first.via else "on the link, no gateway")
    yield _wire(ground)
    if _borne(ground, gateway):
        yield f"{record.gateway_dev} of this node has {gateway}"
    else:
        yield _beside(ground, gateway)
        return
    if gateway != to:
        yield from _onwards(ground, to)


def _wire(ground: Ground) -> str:
    record = ground.record
    link = named(ground.host.links(), record.attachment.host_dev)
    if link is None:
        return f"the wire is cut: {record.attachment.host_dev} is gone"
    state = "down" if not link.up else link.port or "on no bridge"
    return f"the wire: out of {link.name}, port of {link.master or 'nothing'} ({state})"


def _borne(ground: Ground, address: str) -> bool:
    held = ground.host.addresses(ground.record.gateway_dev)
    return any(ip_interface(each).ip == ip_address(address) for each in held)


def _beside(ground: Ground, address: str) -> str:
    """On the bridge itself: another pod, or a router that is not this node."""
    mac = next((each.mac for each in ground.pod.neighbours() if each.address == address and each.mac), "")
    if not mac:
        return f"{ground.record.bridge} is asked who has {address}: the pod knows no MAC for it yet"
    ports = [each.dev for each in ground.host.entries() if each.mac == mac and each.dev != ground.record.bridge]
    return f"{ground.record.bridge} switches it to {mac}" + (f" behind {ports[0]}" if ports else "")


def _onwards(ground: Ground, to: str) -> Iterator[str]:
    record = ground.record
    source = next((each.partition("/")[0] for each in record.ips if (":" in each) == (":" in to)), "")
    hop = ground.host.way(to, source=source, arriving=record.gateway_dev)
    if hop.kind == "local":
        yield f"{to} is this node's own address: delivered here"
        return
    if hop.kind != "unicast":
        yield f"the node does not forward it: {hop.kind}"
        return
    yield f"{record.gateway_dev} -> {hop.dev}" + (f" by way of {hop.via}" if hop.via else ", on the link")
    for each in ground.hooks:
        if each.hook == "forward" and each.policy == "drop":
            yield f"through nft chain {each.table} {each.chain}: dropped there unless a rule accepts it"
    yield from _tunnel(ground, hop, to)
    if _is_masqueraded(ground, to):
        own = ground.host.way(to).src
        yield f"masqueraded: it leaves with the node's address{f' {own}' if own else ''}"


def _tunnel(ground: Ground, hop: Way, to: str) -> Iterator[str]:
    link = named(ground.host.links(), hop.dev)
    if link is None or link.kind not in (each.MADE_BY for each in kinds(Tunnel)):
        return
    neighbour = next(
        (each for each in ground.host.neighbours() if each.dev == hop.dev and each.address == (hop.via or to)), None
    )
    if neighbour is None:
        yield f"{link.kind.upper()}: {hop.dev} knows no MAC for {hop.via or to}: the packet ends here"
        return
    entry = next(
        (each for each in ground.host.entries() if each.dev == hop.dev and each.mac == neighbour.mac and each.address),
        None,
    )
    where = f"to node {entry.address}" if entry else "and no node for it: the packet ends here"
    yield f"{link.kind.upper()}: {where} (neighbour {neighbour.mac})"


def _is_masqueraded(ground: Ground, to: str) -> bool:
    record = ground.record
    subnets = [str(ip_interface(each).network) for each in record.ips]
    near = [ip_network(each) for each in (*subnets, *ground.inside)]
    address = ip_address(to)
    return "masquerade" in record.claims and not address.is_multicast and not any(
        address.version == each.version and address in each for each in near
    )
