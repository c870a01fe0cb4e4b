"""The MTU that a pod gets: what its configuration asks for, or its cluster leaves, and no more than its bridge carries.

A bridge follows the narrowest of its ports until somebody gives it an MTU (br_mtu_auto_adjust in net/bridge/br_if.c):
so at one that is not ours the port has what the bridge has, which then stays as it is, and only the pod's own end may
have less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cni_plugin.conf.plugin import NetConf
from cni_plugin.kernel.door import Kernel
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.links import Bridge

if TYPE_CHECKING:
    from cni_plugin.store.clusters import ClusterFacts


class Width(NamedTuple):
    """MTUs in bytes: of a pod's own end, and of the node's where that has another one, else 0."""

    pod: int
    port: int = 0


def wanted(conf: NetConf, facts: ClusterFacts | None, kernel: Kernel) -> int:
    """What a configuration asks for: its own MTU, else what the cluster leaves, else what leads away from the node."""
    return conf.mtu or (facts.mtu if facts else kernel.default_mtu())


def fitting(mtu: int, bridge: str, kernel: Kernel) -> Width:
    """As much of an MTU as a bridge carries, 0 for the kernel's choice. Costs a question about the bridge."""
    want = Bridge(bridge, alias=BRIDGE_ALIAS)
    there = kernel.read([want]).get(want.key)
    if not isinstance(there, Bridge) or there.alias == BRIDGE_ALIAS:
        return Width(mtu)
    least = min(mtu or there.mtu, there.mtu)
    return Width(least, there.mtu if there.mtu != least else 0)
