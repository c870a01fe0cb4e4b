"""What the parts of a node are given: the kernel, what is on record, and who else is at work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel, OwnLink
from cni_plugin.model.base import State
from cni_plugin.node.attached import Attachments
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.node.settle import apply, put_right
from cni_plugin.store.clusters import ClusterFacts, all_facts
from cni_plugin.store.records import Records


class Site:
    """A node as its parts see it. With `dry_run` nothing is changed, only looked at.

    `kept` are the networks whose clusters somebody else keeps: a source tells of their nodes.
    """

    def __init__(
        self, kernel: Kernel, records: Records, *, dry_run: bool = False,
        kept: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.kernel = kernel
        self.records = records
        self.dry_run = dry_run
        self.kept = kept
        self.attachments = Attachments(records)
        self.links: Mapping[str, OwnLink] = {}
        """The links that bear our mark, by name, as they were found when all of them were looked at last."""
        self._members: dict[str, Participant] = {}

    def facts(self) -> list[ClusterFacts]:
        """What is programmed of each cluster. Raises OSError."""
        return all_facts(self.records)

    def unkept(self) -> list[ClusterFacts]:
        """The same of those that nobody else keeps."""
        kept = self.kept()
        return [each for each in self.facts() if each.network not in kept]

    def member(self, network: str) -> Participant:
        """This node as a member of a network's cluster, as warm as it was left."""
        return self._members.setdefault(network, Participant(network, self.kernel, self.records))

    def apply(self, ops: list[Op]) -> list[Op]:
        """All or nothing, as `settle.apply`, unless we only look; the same operations."""
        if not self.dry_run:
            apply(self.kernel, ops)
        return ops

    def put_right(self, look: Callable[[], tuple[State, State]]) -> list[Op]:
        """As `settle.put_right`, here."""
        return put_right(self.kernel, self.records, look, dry_run=self.dry_run)
