"""What stands of a cluster on this node, asked of the kernel: one dump, and what is wanted beside that."""

from __future__ import annotations

from cni_plugin.kernel.door import Kernel
from cni_plugin.model.base import State, state
from cni_plugin.model.every import tunnel
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Fdb, Tunnel, Up
from cni_plugin.model.nft import NftObject
from cni_plugin.node.cluster import guard
from cni_plugin.plan.guard import places
from cni_plugin.store.clusters import others, programmed
from cni_plugin.store.records import Records


def standing(kernel: Kernel, records: Records, network: str, want: State, device: str) -> State:
    """What bears our mark and is not another cluster's, with what stands where we want something, and its guard.

    A device of ours that no cluster wants any more is known by its mark, also when nothing is on record of it.
    """
    foreign = others(records, network)
    devices = dict.fromkeys([device, *(each.name for each in want.values() if isinstance(each, Tunnel))])
    devices.pop("", None)
    on_devices = state(Addr(each, address) for each in devices for address in kernel.addresses(each))
    ours = {key: each for key, each in {**kernel.owned(*devices), **on_devices}.items() if key not in foreign}
    in_dump = (Route, Neigh, Fdb, NftObject)  # an entry by entry look would cost a message a peer
    alone = [each for each in want.values() if not isinstance(each, in_dump)]
    wanted = {each.key for each in alone}
    used = {each.name for each in (*want.values(), *foreign.values()) if isinstance(each, Tunnel)}
    idle = [
        each
        for link in kernel.own_links()
        if link.name not in used and (each := tunnel(link.name, link.alias)) is not None
    ]
    found = kernel.read([*alone, *idle, *(Up(each.name) for each in idle)])
    there = {key: each for key, each in found.items() if key in wanted or isinstance(each, Tunnel)}
    before = programmed(records, network)
    for each in idle:
        before.update(places(each.name))
    return {**ours, **there, **guard.standing(kernel, want, before)}
