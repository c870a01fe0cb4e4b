"""What a cluster has in nftables made true beside the rest of it, and without being able to stop that.

The chains, the set and the peers in it (`plan.guard`) are part of the same plan. But a node without nftables, or whose
kernel lacks some of it, still has its network: that it is not guarded is told. Elements are listed only where
everything is looked at; that the chains stand, and so the set that they look into, one listing each tells.
"""

from __future__ import annotations

from typing import NamedTuple

from cni_plugin.diff import Op, diff, differences
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError
from cni_plugin.model.base import State, state
from cni_plugin.model.nft import Chain, Element, NftObject, Set
from cni_plugin.node.settle import apply


class Split(NamedTuple):
    """A state in two: what a cluster's packets need, and what guards them."""

    network: State
    guard: State


class Settled(NamedTuple):
    """The operations that it took, why it could not be done, and what may stand now."""

    ops: list[Op]
    problem: str
    there: State


def split(whole: State) -> Split:
    """The two parts of a state."""
    guard: State = {key: each for key, each in whole.items() if isinstance(each, NftObject)}
    return Split({key: each for key, each in whole.items() if key not in guard}, guard)


def standing(kernel: Kernel, want: State, before: State) -> State:
    """What stands of a guard, where one is wanted or was programmed; {} where the kernel does not tell."""
    places = {**split(before).guard, **split(want).guard}
    try:
        found = kernel.read(each for each in places.values() if not isinstance(each, Element))
        sets = [each.name for each in found.values() if isinstance(each, Set)]
        return {**found, **state(each for name in sets for each in kernel.elements(name).values())}
    except KernelError:
        return {}


def settle(kernel: Kernel, want: State, have: State) -> Settled:
    """Make `want` of `have`, all or nothing."""
    ops = diff(want, have)
    try:
        apply(kernel, ops)
    except KernelError as error:
        why = f"whoever reaches this node can speak to its pods as a peer could: nftables: {error.reason}"
        return Settled([], why, {**want, **have})
    return Settled(ops, "", want)


def restore(kernel: Kernel, want: State, before: State, *, anew: bool = False) -> Settled:
    """Put back what somebody took away, as who flushes all rules does; the chains tell, unless all is done `anew`.

    `before`: what was programmed, or tried to.
    """
    if not anew and _stands(kernel, want):
        return Settled([], "", want)
    return settle(kernel, want, standing(kernel, want, before))


def _stands(kernel: Kernel, want: State) -> bool:
    chains = [each for each in want.values() if isinstance(each, Chain)]
    try:
        found = kernel.read(chains)
    except KernelError:
        return False
    return all(each.key in found and not differences(each, found[each.key]) for each in chains)
