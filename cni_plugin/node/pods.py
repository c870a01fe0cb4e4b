"""The pods' ports on the bridges: the host's ends of their wires, with all that they lose with a bridge.

    ip link set tl4f0c9d2a81b master tulle0 up

A pair that is gone is not made anew, and what is inside the pods is not looked at: `node.within` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import OwnLink
from cni_plugin.kernel.watch.changed import LINKS, Changed
from cni_plugin.model.base import Object, state
from cni_plugin.model.links import Fdb, Port, PortVlan, Up, Veth
from cni_plugin.node.contract import BRIDGED, THOROUGH, Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.store.records import Record


class Part(Quiet):
    """Those that are down or have lost their bridge. Links are listed when it is time, and when a bridge is new."""

    NAME = "ports"
    ORDER = 20
    ON: Changed = LINKS | BRIDGED | THOROUGH

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """All of them at once."""
        names = site.attachments.bridges
        before = self._numbers
        # of a bridge that the last pod has left the number stays known, so that the next pod on it is no news
        self._numbers = {**before, **{name: site.kernel.link_index(name) for name in names}}
        due = changed & THOROUGH or any(self._numbers[name] != before.get(name, 0) for name in names)
        yield Inspection("ports of pods", partial(_put_right, site) if due else None)


def _put_right(site: Site) -> Sequence[Op]:
    site.links = {each.name: each for each in site.kernel.own_links()} if site.attachments.bridges else {}
    found = ((site.records.find(each), link) for each, link in _stray(site))
    want = state(each for record, link in found if record is not None for each in _port(record, link))
    # who is no port of a bridge may not even be asked for entries (EINVAL); one that stands is put there again
    have = site.kernel.read(each for each in want.values() if not isinstance(each, Fdb))
    return site.apply(diff(want, have))


def _stray(site: Site) -> Iterator[tuple[Attachment, OwnLink]]:
    for each in site.attachments:
        link = site.links.get(each.attachment.host_dev)
        if link is not None and (link.master != each.bridge or not link.up):
            yield each.attachment, link


def _port(record: Record, link: OwnLink) -> Iterator[Object]:
    """The host's end on its bridge, with all that it loses with it; what is inside the pod is not looked at."""
    if not link.up:
        yield Up(link.name)
    for each in record.objects:
        if isinstance(each, Veth):
            yield msgspec.structs.replace(each, mac="", mtu=0, peer="", peer_mac="", peer_mtu=0)
        elif isinstance(each, Port | PortVlan | Fdb):
            yield each
