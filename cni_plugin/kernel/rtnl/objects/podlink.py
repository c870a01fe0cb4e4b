"""The pod's end of a veth pair, which came with the pair: it can be changed and removed, and not be made."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.model.base import POD
from cni_plugin.model.links import PodLink

GONE = encode.GONE


def write(op: Op, each: PodLink, place: Place) -> Iterator[bytearray]:
    """Its requests; none for a creation, but it has to be there."""
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
    elif op.verb == "change":
        same = isinstance(op.was, PodLink) and op.was.mac == each.mac  # to set it takes all neighbours
        attrs = encode.given(("IFLA_ADDRESS", "" if same else each.mac), ("IFLA_MTU", each.mtu))
        yield encode.changed_link(each.name, attrs)
    else:
        place.must(each.name)


def read(want: PodLink, look: Lookup) -> PodLink | None:
    """It as it stands, a link of whatever kind."""
    link = look.link(POD, want.name)
    if link is None:
        return None
    return PodLink(want.name, mac=link.text("IFLA_ADDRESS"), mtu=link.number("IFLA_MTU"))
