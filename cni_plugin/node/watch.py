"""What the agent is to be told of from now on, by the kernel and about files: each part of the node has its share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple


class Watch(NamedTuple):
    """What the kernel's events should be told of: links by name, and addresses that foreign routes may lead to.

    `entry` says of a MAC which VTEP is behind it, and of an address which MAC it has, "" for none of ours. `blocked`:
    somebody else's route stands in the way of one of ours. `bridges` are links of ours that may come and go; `paths`
    files that others write.
    """

    tunnels: frozenset[str] = frozenset()
    uplinks: frozenset[str] = frozenset()
    peers: tuple[str, ...] = ()
    entry: Callable[[str], str] | None = None
    blocked: bool = False
    bridges: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()


def joined(watches: Collection[Watch]) -> Watch:
    """All of it; of those who can say what is behind a MAC the first."""
    entries = [each.entry for each in watches if each.entry is not None]
    return Watch(
        frozenset().union(*(each.tunnels for each in watches)),
        frozenset().union(*(each.uplinks for each in watches)),
        tuple(peer for each in watches for peer in each.peers),
        entries[0] if entries else None,
        any(each.blocked for each in watches),
        frozenset().union(*(each.bridges for each in watches)),
        frozenset().union(*(each.paths for each in watches)),
    )
