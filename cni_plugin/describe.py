"""Operations in the operator's own language: what `ip`, `bridge`, `sysctl`, `ethtool` or `nft` line would do the same.

`tullectl plan` prints these before anything is done, CHECK puts them into its error's details, golden tests
compare them. They are for people: the kernel package speaks netlink. `POD` stands for the pod's namespace.
"""

from __future__ import annotations

from collections.abc import Iterable

from cni_plugin.diff import Op


def describe(op: Op) -> str:
    """One operation as one command line (a chain as several)."""
    return op.object.words(op.verb)


def script(ops: Iterable[Op]) -> str:
    """Operations as lines, in order."""
    return "\n".join(describe(op) for op in ops)
