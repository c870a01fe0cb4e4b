"""Table `inet tulle`, as far as it is the node's own: what features have there once for all networks with pods.

    nft add rule inet tulle postrouting ip saddr { 10.244.1.0/24 } ip daddr != { 10.244.0.0/16 } masquerade
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial

from cni_plugin.diff import Op
from cni_plugin.features.contract import NodeFeature, of_node
from cni_plugin.kernel.watch.changed import RULES, Changed
from cni_plugin.node.claims import restore
from cni_plugin.node.contract import Inspection, Quiet
from cni_plugin.node.site import Site


class Part(Quiet):
    """A look for each feature of the node."""

    NAME = "tables"
    ORDER = 50
    ON: Changed = RULES

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """By the features' names."""
        del changed
        for each in of_node():
            yield Inspection(each.NAME, partial(_put_right, site, each))


def _put_right(site: Site, feature: NodeFeature) -> Sequence[Op]:
    with nullcontext() if site.dry_run else site.records.lock():  # looking leaves nothing behind, not even a lock
        return restore(site.kernel, feature, site.records.noted(feature.NAME, feature.CLAIM), dry_run=site.dry_run)
