"""What stands of a cluster on this node, asked of the kernel: one dump, and what is wanted beside that."""

from __future__ import annotations

from cni_plugin.kernel.door import Kernel
from cni_plugin.marks import TUNNEL_ALIAS
from cni_plugin.model.base import State, state
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Fdb, Up, Vxlan
from cni_plugin.model.nft import NftObject
from cni_plugin.node.cluster import guard
from cni_plugin.store.clusters import others, programmed
from cni_plugin.store.records import Records


def standing(kernel: Kernel, records: Records, network: str, want: State, device: str) -> State:
    """What bears our mark and is not another cluster's, with what stands where we want something, and its guard."""
    foreign = others(records, network)
    on_device = state(Addr(device, each) for each in kernel.addresses(device)) if device else {}
    ours = {key: each for key, each in {**kernel.owned(device), **on_device}.items() if key not in foreign}
    in_dump = (Route, Neigh, Fdb, NftObject)  # an entry by entry look would cost a message a peer
    alone = [each for each in want.values() if not isinstance(each, in_dump)]
    wanted = {each.key for each in alone}
    used = {each.name for each in (*want.values(), *foreign.values()) if isinstance(each, Vxlan)}
    idle = [
        Vxlan(link.name, vni=0, port=0, local="", underlay="")
        for link in kernel.own_links()
        if link.alias == TUNNEL_ALIAS and link.name not in used
    ]
    found = kernel.read([*alone, *idle, *(Up(each.name) for each in idle)])
    there = {key: each for key, each in found.items() if key in wanted or isinstance(each, Vxlan)}
    return {**ours, **there, **guard.standing(kernel, want, programmed(records, network))}
