"""The bridges that pods are on, with their gateways, as the records of all of them want it.

    ip link add tulle0 address 0a:58:0a:f4:01:01 type bridge && ip addr add 10.244.1.1/24 dev tulle0
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.watch.changed import ADDRESSES, KNOBS, LINKS, Changed
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import State
from cni_plugin.model.links import Bridge, Up
from cni_plugin.node.contract import BRIDGED, Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch
from cni_plugin.wirings.bridge import wiring


class Part(Quiet):
    """Each of them; the MAC of one of ours is remembered, for the pods' neighbour entries hold the one that it had."""

    NAME = "bridges"
    ORDER = 10
    ON: Changed = LINKS | ADDRESSES | KNOBS | BRIDGED
    CAUSES: Changed = BRIDGED

    def __init__(self) -> None:
        self._macs: dict[str, str] = {}

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One for each."""
        del changed
        for name, want in site.attachments.bridges.items():
            yield Inspection(f"bridge {name}", partial(_put_right, site, want, self._macs.get(name, "")))
        self._remember(site)

    def watch(self, site: Site) -> Watch:
        """Them, and the devices of their VLANs."""
        wanted = (each for want in site.attachments.bridges.values() for each in want.values())
        return Watch(bridges=frozenset(each.name for each in wanted if isinstance(each, Up)))

    def _remember(self, site: Site) -> None:
        """The MAC of each bridge of ours, which pods know: one that is made anew, or was changed, gets it back."""
        names = site.attachments.bridges.keys()
        # one without pods is asked again and again: the next pod on it may come without a pass that would tell
        idle = {name for name in self._macs.keys() - names if site.kernel.link_index(name)}
        self._macs = {name: mac for name, mac in self._macs.items() if name in names}
        for name in (names - self._macs.keys()) | idle:
            try:
                found = list(site.kernel.read([Bridge(name)]).values())
            except KernelError:  # no bridge, and told by the look at it
                continue
            for each in found:
                if isinstance(each, Bridge) and each.alias == BRIDGE_ALIAS and each.mac:
                    self._macs[name] = each.mac


def _put_right(site: Site, want: State, mac: str) -> Sequence[Op]:
    """With this MAC if it is ours. Raises KernelError."""

    def look() -> tuple[State, State]:
        have = site.kernel.read(want.values())
        adopted = wiring.adopt(want, have)
        for key, each in want.items():
            if mac and isinstance(each, Bridge) and getattr(have.get(key, each), "alias", "") == BRIDGE_ALIAS:
                adopted[key] = msgspec.structs.replace(adopted[key], mac=mac)
        return adopted, have

    return site.put_right(look)
