"""What the commands about a cluster begin with: which cluster, and what this node's peers answer."""

from __future__ import annotations

from typing import NamedTuple

from cni_plugin.ctl.cluster import matrix, members, nodes
from cni_plugin.ctl.cluster.nodes import Answer
from cni_plugin.ctl.cluster.roster import Member, Roster
from cni_plugin.ctl.host import Host
from cni_plugin.ctl.reach import WAIT
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.store.records import Records


class Asked(NamedTuple):
    """What came of asking this node's peers, and its overlay address, "" when it bears none."""

    peers: tuple[Member, ...]
    told: dict[str, Answer]
    source: str


def clusters(kernel: Kernel, run_dir: str, conf_dir: str, network: str = "") -> list[Roster]:
    """Those of this node, or the one of this network. Raises CniError 7 where there is none."""
    found = members.memberships(kernel, Records(run_dir), conf_dir)
    chosen = [each for each in found if network in ("", each.network)]
    if not chosen:
        known = ", ".join(each.network for each in found)
        raise CniError(
            INVALID_CONFIG,
            f"no cluster of network {network!r}: there is {known}" if found
            else "this node is in no cluster: no configuration names a node list, and no agent has written one",
        )
    return chosen


def ask(cluster: Roster, kernel: Kernel, most: int) -> Asked:
    """Ask a sample of so many peers. Raises CniError 7 where the list cannot be used, OSError."""
    listed(cluster)
    peers = matrix.sample(cluster, most)
    own = nodes.sources(cluster, kernel.locally_held())
    with Host().prober(own) as probe:
        return Asked(peers, nodes.answers(probe, cluster, peers, WAIT), own.get(cluster.family, ""))


def listed(cluster: Roster) -> None:
    """See that the list has this node. Raises CniError 7."""
    if cluster.me is None:
        raise CniError(INVALID_CONFIG, cluster.trouble or f"{cluster.source} does not have this node")
