"""Subnets that were this node's and are not any more, as after its object was deleted and it joined anew.

Pods that live with addresses of one keep its gateway on the bridge, and with that comes the kernel's own route, which
hides the pods of whoever has the subnet now. An address cannot be changed under a pod, so such pods are told of; once
the last of them is gone the gateway is removed, and only that: an address inside the cluster, outside this node's
subnets, on a bridge or a VLAN's device that bears our mark, and wanted by no attachment.

    ip addr del 10.244.2.1/24 dev tulle0
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.watch.changed import ROUTES, Changed
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import State, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.node.attached import Attachments
from cni_plugin.node.contract import THOROUGH, TURN, Inspection
from cni_plugin.node.settle import put_right
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Records

REMEDY = "delete them (kubectl delete pod, crictl stopp), so that they come back with addresses of this node's subnets"


class Part:
    """Their gateways, which stand in the way of clusters, and words about their pods, remembered from look to look."""

    NAME = "former subnets"
    ORDER = 38
    ON: Changed = TURN | THOROUGH
    CAUSES: Changed = ROUTES

    def __init__(self) -> None:
        self._basis: object = None
        self._words: dict[str, str] = {}

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """When the node's subnets or the gateways that pods need are others than at the last look, or it is time."""
        known = site.facts()
        before = self._basis
        self._basis = (site.attachments.gateways, [(each.network, each.pod_cidrs) for each in known])
        due = bool(changed & THOROUGH) or (bool(known) and self._basis != before)
        take = partial(clear, site.kernel, site.records, dry_run=site.dry_run)
        yield Inspection("gateways of former subnets", take if due else None)
        if due or self._words:
            self._words = {each.network: words for each in known if (words := _words(site.attachments, each))}

    def watch(self, site: Site) -> Watch:
        """While there are such pods the records of their network: the end of the last is no event."""
        return Watch(paths=frozenset(site.records.folder(network) for network in self._words))

    def words(self) -> Mapping[str, str]:
        """Nothing can be put right for such pods: by what they are called, what to do about them."""
        return {f"pods of {network}": words for network, words in self._words.items()}


def clear(kernel: Kernel, records: Records, *, dry_run: bool = False) -> list[Op]:
    """Remove what is left over; the operations that it takes. Raises KernelError, OSError."""
    # once more under the lock, for an ADD may have come to want one
    return put_right(kernel, records, lambda: ({}, left_over(kernel, records)), dry_run=dry_run)


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


def _words(attachments: Attachments, facts: ClusterFacts) -> str:
    """What to say of a network's pods, "" where all have addresses of this node's subnets."""
    mine = (one for network, one in attachments.gateways if network == facts.network)
    left = outside(mine, facts.pod_cidrs)
    return worded(attachments.through(facts.network, left), left) if left else ""


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
