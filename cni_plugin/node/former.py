"""Subnets that were this node's and are not any more, as after its object was deleted and it joined anew.

Pods that live with addresses of one keep its gateway on the bridge, and with that comes the kernel's own route, which
hides the pods of whoever has the subnet now. An address cannot be changed under a pod, so such pods are told of; once
the last of them is gone the gateway is removed, and only that: an address inside the cluster, outside this node's
subnets, on a bridge or a VLAN's device that bears our mark, and wanted by no attachment.

    ip addr del 10.244.2.1/24 dev tulle0
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import State, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.node.settle import settle
from cni_plugin.store.clusters import all_facts
from cni_plugin.store.records import Records

REMEDY = "delete them (kubectl delete pod, crictl stopp), so that they come back with addresses of this node's subnets"


def clear(kernel: Kernel, records: Records, *, dry_run: bool = False) -> list[Op]:
    """Remove what is left over; the operations that it takes. Raises KernelError, OSError."""
    found = diff({}, left_over(kernel, records))
    if not found or dry_run:
        return found
    with records.lock():  # an ADD may have come to want one
        return settle(kernel, {}, left_over(kernel, records))


def left_over(kernel: Kernel, records: Records) -> State:
    """The gateways of former subnets that nobody needs. Records are read only where there is such an address."""
    known = all_facts(records)
    inside = [ip_network(each) for facts in known for each in facts.inside]
    mine = [ip_network(each) for facts in known for each in facts.pod_cidrs]
    if not inside:
        return {}
    devices = [each.name for each in kernel.own_links() if each.alias == BRIDGE_ALIAS]
    found = [
        Addr(dev, each)
        for dev in devices
        for each in kernel.addresses(dev)
        if _within(each, inside) and not _within(each, mine)
    ]
    used = {(record.gateway_dev, each) for record in records.all() for each in record.gateways} if found else set()
    return state(each for each in found if (each.dev, each.address) not in used)


def outside(addresses: Iterable[str], subnets: Iterable[str]) -> list[str]:
    """Those, with or without prefix lengths, of families of which this node has subnets, that lie in none of them."""
    mine = [ip_network(each) for each in subnets]
    families = {each.version for each in mine}
    return [each for each in addresses if ip_interface(each).version in families and not _within(each, mine)]


def worded(pods: Collection[Attachment], gateways: Collection[str]) -> str:
    """What to say of pods that live in former subnets, and how to end them."""
    subnets = ", ".join(sorted(str(ip_interface(each).network) for each in gateways))
    names = ", ".join(sorted({each.container[:12] for each in pods})[:3]) + (", ..." if len(pods) > 3 else "")
    return (
        f"{len(pods)} live with addresses of {subnets}, which is not this node's any more ({names}): no other node "
        f"sends to them, and they hide the pods of who has that subnet now; {REMEDY}"
    )


def _within(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(ip_interface(address).ip in network for network in networks)
