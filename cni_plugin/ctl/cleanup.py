"""`tullectl cleanup`: what takes away all that Tulle made on a node outside of pods, by the marks that it bears."""

from __future__ import annotations

from cni_plugin.diff import Op, diff
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.features.contract import of_node
from cni_plugin.kernel.door import Kernel
from cni_plugin.marks import BRIDGE_ALIAS, TABLE
from cni_plugin.model.base import State, state
from cni_plugin.model.every import tunnel
from cni_plugin.model.links import Bridge
from cni_plugin.model.nft import Chain, NftObject, SetOrMap, Table
from cni_plugin.node.settle import apply
from cni_plugin.store.clusters import all_facts, forget
from cni_plugin.store.records import Records


def cleanup(kernel: Kernel, records: Records, *, really: bool) -> list[Op]:
    """What takes away all of ours on the node; done when `really`. Raises CniError 7 while pods are wired."""
    with records.lock():
        left = [each.container for each in records.all()]
        if left:
            raise CniError(
                INVALID_CONFIG, f"{len(left)} attachments are left ({', '.join(left[:5])}): let the runtime delete them"
            )
        ops = diff({}, _own_state(kernel))
        if really:
            apply(kernel, ops)
            for each in all_facts(records):
                forget(records, each.network)
    return ops


def _own_state(kernel: Kernel) -> State:
    """Links and routes that bear our mark, and our tables whole: what guarded a tunnel that is gone is there still."""
    links = kernel.own_links()
    bridges = [Bridge(each.name) for each in links if each.alias == BRIDGE_ALIAS and "." not in each.name]
    tunnels = [each for each in (tunnel(link.name, link.alias) for link in links) if each is not None]
    owned = kernel.owned(*(each.name for each in tunnels))
    places = [place for each in of_node() for place in each.places().values()]
    within = {each.table for each in places if isinstance(each, Chain | SetOrMap)}
    tables = [Table(name) for name in sorted({TABLE, *within})]
    rest = [each for each in places if not isinstance(each, NftObject)]
    return {**owned, **state([*bridges, *tunnels]), **kernel.read([*tables, *rest])}
