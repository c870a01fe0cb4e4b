"""What a cluster asks of this node now: who it is there, the ways to its peers, and the plan that comes of both.

A planner remembers what it was told: asked again, it asks the kernel only for the ways that are new, unless they are to
be looked up `anew`, and what is planned of a peer that did not change is the very object that it was before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from cni_plugin.backends import contract as backends
from cni_plugin.backends.contract import Me
from cni_plugin.cluster import Cluster, Node, pod_networks
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.marks import LEAST_MTU, MAX_MTU
from cni_plugin.model.base import State
from cni_plugin.model.host import Feature
from cni_plugin.model.layer3 import Way
from cni_plugin.model.links import Tunnel
from cni_plugin.node.cluster.lists import NodeList
from cni_plugin.plan.cluster import Plan, Terms, ends, plan
from cni_plugin.plan.identity import aside, too_narrow
from cni_plugin.plan.offload import trusted
from cni_plugin.store.clusters import ClusterFacts
from cni_plugin.store.offload import broken
from cni_plugin.store.records import Records


class Planned(NamedTuple):
    """A plan, and this node as it was found, without the ways."""

    here: Me
    plan: Plan


class Planner:
    """One cluster's plans. `made`: the one that was kept last."""

    def __init__(self, kernel: Kernel, records: Records) -> None:
        self._kernel = kernel
        self._records = records
        self.made: Planned | None = None

    @property
    def ways(self) -> Mapping[str, Way]:
        """Those to peers, as far as they are known."""
        return self.made.plan.terms.me.ways if self.made else {}

    def plan(self, cluster: Cluster, *, anew: bool = True) -> Planned:
        """What this list asks for; `anew`: this node and all ways are looked up again. Raises CniError 7."""
        backend = backends.find(cluster.backend)
        conf = backend.configure(cluster.options)
        before = None if self.made is None else self.made.plan
        here = self.made.here if self.made and not anew else locate(cluster, self._kernel, self._records)
        others = [each for each in cluster.nodes if each.name != here.node.name]
        ways = self._ways_to(self._addresses(Terms(here, backend, conf), others), anew=anew)
        return Planned(here, plan(Terms(with_ways(here, ways, backend), backend, conf), others, before))

    def knows(self, cluster: Cluster) -> Cluster:
        """The same, with the very objects that were planned with where they are equal: compared once, then known."""
        known = {name: each.node for name, each in self.made.plan.parts.items()} if self.made else {}
        pairs = ((each, known.get(each.name)) for each in cluster.nodes)
        nodes = tuple(old if old is not None and old == each else each for each, old in pairs)
        return msgspec.structs.replace(cluster, nodes=nodes)

    def _addresses(self, terms: Terms, others: Sequence[Node]) -> dict[str, None]:
        """Where packets for these peers are sent."""
        before = self.made.plan if self.made else None
        same = before is not None and before.terms.reaches_as(terms)
        known = before.parts if before is not None and same else {}
        found: dict[str, None] = {}
        for each in others:
            part = known.get(each.name)
            to = part.ends if part is not None and part.node is each else ends(*terms, each)
            found.update(dict.fromkeys(to))
        return found

    def _ways_to(self, addresses: Mapping[str, None], *, anew: bool) -> dict[str, Way]:
        """Asked of the kernel for those that are new, or all; what has no way now keeps the one that it had.

        One through our own devices may be another as soon as the list is.
        """
        sure = {each for each, way in self.ways.items() if not way.own and not anew}
        found = self._kernel.ways([each for each in addresses if each not in sure])
        ways = {**self.ways, **found}
        return {each: ways[each] for each in addresses if each in ways}


def planned(cluster: Cluster, kernel: Kernel, records: Records) -> Plan:
    """What a cluster asks of this node, by one who plans it for the first time. Raises CniError 7."""
    return Planner(kernel, records).plan(cluster).plan


def locate(cluster: Cluster, kernel: Kernel, records: Records) -> Me:
    """Which node of the cluster this is, and by which interface. Raises CniError 7."""
    held = frozenset() if cluster.node else kernel.locally_held()
    node = cluster.me(held, os.uname().nodename)
    address = cluster.local or node.addresses[0]
    uplink = kernel.uplink(str(address))
    if uplink is None:
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {node.name}'s address {address} is on no interface of this machine: "
            "correct the address, or cluster.node if this is another node",
        )
    # loopback's, where a machine that routes has its address, says nothing of the links that lead away
    mtu = uplink.mtu if uplink.mtu <= MAX_MTU else kernel.default_mtu() or MAX_MTU
    offload = trusted(kernel.release()) and not broken(records)
    return Me(node, uplink.name, mtu, uplink.prefixes, cluster.local, offload=offload)


def with_ways(me: Me, ways: Mapping[str, Way], backend: backends.Backend) -> Me:
    """This node with the smallest MTU over the interfaces that lead to peers (`me.mtu` is that of its own uplink).

    What is no underlay, or is too narrow for pods, does not count: its peer is left out. Raises CniError 7 when the
    uplink itself leaves too little for IPv6 pods.
    """
    overhead = backend.OVERHEAD[me.underlay.version]
    left = me.mtu - overhead
    if left < LEAST_MTU[6] and any(each.version == 6 for each in me.node.pod_cidrs):
        raise CniError(
            INVALID_CONFIG,
            f"the MTU of {me.mtu} bytes on the way to peers by {me.uplink} leaves {left} for pods, and IPv6 needs "
            f"{LEAST_MTU[6]} (RFC 8200): raise it to at least {LEAST_MTU[6] + overhead}",
        )
    counted = [
        each for each in ways.values() if not (each.own or too_narrow(me, each, overhead) or aside(me, each))
    ]
    uplinks = tuple(sorted({each.dev for each in counted}))
    return me._replace(mtu=min([me.mtu, *(each.mtu for each in counted)]), ways=ways, uplinks=uplinks)


def facts_of(network: str, listed: NodeList, made: Plan) -> ClusterFacts:
    """What is to be noted of a plan, but for what programming tells."""
    me, backend, conf = made.terms
    cluster = listed.cluster
    device = next((each.name for each in backend.devices(conf)), "")
    return ClusterFacts(
        network=network,
        digest=listed.digest,
        boot=files.boot_id(),
        device=device,
        index=0,
        mtu=_device_mtu(made.local, device) or me.mtu - backend.OVERHEAD[me.underlay.version],
        node=me.node.name,
        backend=cluster.backend,
        pod_cidrs=tuple(map(str, me.node.pod_cidrs)),
        inside=pod_networks(cluster, cluster.nodes),
        peers=len(cluster.nodes) - 1,
        source=msgspec.Raw(msgspec.json.encode(listed.source)),
        uplinks=me.leading,
        stamp=listed.stamp,
        offload=Feature(device, tx_checksum=True) in made.local.values(),
        addresses=tuple(dict.fromkeys(map(str, (me.underlay, *(me.node.addresses if me.local is None else ()))))),
    )


def _device_mtu(want: State, device: str) -> int:
    return next((each.mtu for each in want.values() if isinstance(each, Tunnel) and each.name == device), 0)
