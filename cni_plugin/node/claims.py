"""What of a feature stands once on the node, made what networks claim of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cni_plugin.diff import Op
from cni_plugin.features.contract import NodeFeature, World
from cni_plugin.kernel.door import Kernel
from cni_plugin.node.settle import settle, steps


def restore(
    kernel: Kernel, feature: NodeFeature, claims: Mapping[str, msgspec.Struct], *, dry_run: bool = False
) -> list[Op]:
    """Make it true; the operations that it takes, or would with `dry_run`. The caller holds the lock."""
    want = feature.state(World(claims))
    have = kernel.read({**feature.places(), **want}.values())
    return steps(kernel, want, have) if dry_run else settle(kernel, want, have)
