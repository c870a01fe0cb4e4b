"""Pods that outlived the subnet that they have their addresses of: nothing can be put right for them, so they are told.

    pods of pods: 2 live with addresses of 10.244.2.0/24, which is not this node's any more (...): ...

What the words are, and what is done about the gateways that such pods leave behind, is `node.former`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cni_plugin.node import former
from cni_plugin.node.attached import Attachments
from cni_plugin.store.clusters import ClusterFacts


class Outlived:
    """What is known of them after each look; `words` is what to say of each network that has some."""

    def __init__(self, attachments: Attachments, warn: Callable[[str], object]) -> None:
        self.words: dict[str, str] = {}
        self._attachments = attachments
        self._warn = warn
        self._basis: object = None

    def is_due(self, known: Sequence[ClusterFacts]) -> bool:
        """Whether the node's subnets, or the gateways that pods need, are others than when this was asked before."""
        before = self._basis
        self._basis = (self._attachments.gateways, [(each.network, each.pod_cidrs) for each in known])
        return bool(known) and self._basis != before

    def look(self, known: Sequence[ClusterFacts]) -> None:
        """Find them, and tell of those that are new."""
        found = {each.network: words for each in known if (words := self._of(each))}
        for network, words in found.items():
            if words != self.words.get(network):
                self._warn(f"pods of {network}: {words}")
        self.words = found

    def _of(self, facts: ClusterFacts) -> str:
        mine = (one for network, one in self._attachments.gateways if network == facts.network)
        left = former.outside(mine, facts.pod_cidrs)
        return former.worded(self._attachments.through(facts.network, left), left) if left else ""
