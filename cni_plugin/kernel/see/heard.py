"""When this node last heard of its neighbours: what `ip -s neigh` shows as the second of "used a/b/c".

The kernel notes when a neighbour's MAC was confirmed: by an answer to ARP or neighbour discovery, or by a connection
that makes progress over it (net/core/neighbour.c). Nothing is asked of the neighbours themselves.

    192.0.2.2 dev eth0 lladdr 52:54:00:12:34:56 used 3/1/40 REACHABLE        heard of 1 s ago
"""

from __future__ import annotations

import os

from cni_plugin.kernel.rtnl.codec import RTM_GETNEIGH, encode
from cni_plugin.kernel.rtnl.namespace import Namespace

_KNOWN = 0x02 | 0x04 | 0x08 | 0x10
"""NUD_REACHABLE, STALE, DELAY, PROBE (linux/neighbour.h): one in another state never answered, or nobody asked it."""


def confirmed() -> dict[str, float]:
    """Seconds since each neighbour of the calling thread's namespace, by its address, was last confirmed.

    Raises OSError.
    """
    ticks = os.sysconf("SC_CLK_TCK")
    space = Namespace()
    try:
        found: dict[str, float] = {}
        for each in space.netlink.dump(encode(RTM_GETNEIGH, 0, {"family": 0})):
            address = each.text("NDA_DST")
            if each.field("state") & _KNOWN and each.text("NDA_LLADDR"):
                age = each.number("NDA_CACHEINFO", "ndm_confirmed") / ticks
                found[address] = min(age, found.get(address, age))
        return found
    finally:
        space.close()
