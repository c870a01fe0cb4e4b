"""The clusters that this node is in by lists that people keep: what a source tells of is its own keeper's.

    ip route replace 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from cni_plugin import decoding
from cni_plugin.diff import Op
from cni_plugin.kernel.watch.changed import WAYS, Changed
from cni_plugin.node.cluster.participant import OURS
from cni_plugin.node.contract import LISTS, THOROUGH, TURN, Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch
from cni_plugin.store.clusters import ClusterFacts


class Part(Quiet):
    """This node's part of each. Where all is right no file is written."""

    NAME = "clusters"
    ORDER = 30
    ON: Changed = OURS | WAYS | LISTS | THOROUGH
    CAUSES: Changed = TURN

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One for each network."""
        for facts in site.unkept():
            yield Inspection(f"cluster of {facts.network}", partial(_put_right, site, facts, changed))

    def watch(self, site: Site) -> Watch:
        """Every device and uplink, and the files of lists; an agent's own changes with what its source says."""
        known, kept = site.facts(), site.kept()
        sources = (decoding.decode(each.source) for each in known if each.network not in kept)
        return Watch(
            tunnels=frozenset(each.device for each in known if each.device),
            uplinks=frozenset(name for each in known for name in each.uplinks),
            paths=frozenset(each for each in sources if isinstance(each, str)),
        )


def _put_right(site: Site, facts: ClusterFacts, changed: Changed) -> Sequence[Op]:
    member, source = site.member(facts.network), decoding.decode(facts.source)
    if site.dry_run:
        return member.differences(source)
    return member.follow(source, changed if not changed & THOROUGH else OURS)
