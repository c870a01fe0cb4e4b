"""What of a feature stands once on the node, made what networks claim of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cni_plugin.diff import Op
from cni_plugin.features.contract import NodeFeature, World, called, find
from cni_plugin.kernel.door import Kernel
from cni_plugin.node.settle import settle, steps
from cni_plugin.store.records import Records, stem


def restore(
    kernel: Kernel, feature: NodeFeature, claims: Mapping[str, msgspec.Struct], *, dry_run: bool = False
) -> list[Op]:
    """Make it true; the operations that it takes, or would with `dry_run`. The caller holds the lock."""
    want = feature.state(World(claims))
    have = kernel.read({**feature.places(), **want}.values())
    return steps(kernel, want, have) if dry_run else settle(kernel, want, have)


def note(kernel: Kernel, records: Records, network: str, claims: Mapping[str, msgspec.Struct]) -> None:
    """Have what an attachment of a network claims of the node noted, and made true. The caller holds the lock."""
    for name, claim in claims.items():
        feature = called(name)
        if isinstance(feature, NodeFeature):
            known = records.noted(name, feature.CLAIM)
            before = known.get(stem(network))
            joined = claim if before is None else feature.joined(before, claim)
            if joined != before:
                records.set_note(name, network, joined)
            restore(kernel, feature, {**known, stem(network): joined})


def forget(kernel: Kernel, records: Records, network: str, names: Iterable[str]) -> None:
    """Take back what a network had claimed of these features. The caller holds the lock.

    The note goes last: it tells the next DEL, should this one fail, what is left to do.
    """
    for name in names:
        feature = find(name)
        if isinstance(feature, NodeFeature):
            known = records.noted(name, feature.CLAIM)
            known.pop(stem(network), None)  # one that cannot be understood has its rules all the same
            restore(kernel, feature, known)
        records.drop_note(name, network)
