"""The guards of clusters' tunnels, when others have changed rules alone: who looks at a cluster looks at its guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from cni_plugin import decoding
from cni_plugin.diff import Op
from cni_plugin.errors import KERNEL_REFUSED, CniError
from cni_plugin.kernel.watch.changed import RULES, Changed
from cni_plugin.node import clusters
from cni_plugin.node.contract import Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.store.clusters import ClusterFacts


class Part(Quiet):
    """The chains, the set and the peers in it of each network."""

    NAME = "guards"
    ORDER = 35
    ON: Changed = RULES | clusters.Part.ON

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One for each network, unless the clusters are looked at as a whole."""
        if not changed & clusters.Part.ON:
            for facts in site.unkept():
                yield Inspection(f"guard of {facts.network}", partial(_put_right, site, facts))


def _put_right(site: Site, facts: ClusterFacts) -> Sequence[Op]:
    """Raises CniError 100 where there is none now."""
    member = site.member(facts.network)
    ops = member.follow(decoding.decode(facts.source), RULES)
    if member.facts is not None and member.facts.unguarded:
        raise CniError(KERNEL_REFUSED, member.facts.unguarded)
    return ops
