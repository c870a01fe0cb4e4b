"""An 802.1Q device on another link, of which nothing but the alias can be changed."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import DATA, INFO, Lookup
from cni_plugin.model.links import Vlan

GONE = encode.GONE


def write(op: Op, each: Vlan, place: Place) -> Iterator[bytearray]:
    """Its requests."""
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
        return
    if op.verb == "create":
        info = encode.kind_of_link("vlan", ("IFLA_VLAN_ID", each.vid))
        yield encode.new_link(each.name, [("IFLA_LINK", place.must(each.parent)), info])
    yield from encode.aliased(each.name, each.alias)


def read(want: Vlan, look: Lookup) -> Vlan | None:
    """It as it stands."""
    link = look.link_of_kind(want)
    if link is None:
        return None
    parent, vid = look.name(link.number("IFLA_LINK")), link.number(INFO, DATA, "IFLA_VLAN_ID")
    return Vlan(want.name, parent, vid, alias=link.text("IFLA_IFALIAS"))
