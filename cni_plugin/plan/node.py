"""What a node needs before it routes for pods, however these are wired. Its part of a cluster is `plan.cluster`'s.

sysctl -w net/ipv4/ip_forward=1
"""

from __future__ import annotations

from collections.abc import Iterable

from cni_plugin.model.base import State, state
from cni_plugin.model.host import Sysctl

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def forwarding(families: Iterable[int]) -> State:
    """The sysctls without which a node does not route."""
    return state(Sysctl(FORWARDING[family], "1") for family in sorted(set(families)))


def still_taught(links: Iterable[str]) -> State:
    """What has these links learn from router advertisements although the node forwards IPv6 (`accept_ra` 2)."""
    return state(Sysctl(f"net/ipv6/conf/{each}/accept_ra", "2", dev=each) for each in links)


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4
