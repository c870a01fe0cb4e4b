"""A VXLAN device, whose neighbours go when its MAC is set, be it to what it is."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.codec import Attr
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import DATA, INFO, Lookup
from cni_plugin.model.links import Vxlan

GONE = encode.GONE


def write(op: Op, each: Vxlan, place: Place) -> Iterator[bytearray]:
    """Its requests."""
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
        return
    same = isinstance(op.was, Vxlan) and op.was.mac == each.mac  # to set it takes all neighbours (neigh_changeaddr)
    attrs = encode.given(("IFLA_ADDRESS", "" if same else each.mac), ("IFLA_MTU", each.mtu))
    if op.verb == "change":
        yield encode.changed_link(each.name, [*attrs, *encode.given(("IFLA_IFALIAS", each.alias))])
        return
    if not each.mac:
        attrs.append(encode.mac_for(""))
    yield encode.new_link(each.name, [*attrs, encode.kind_of_link(Vxlan.MADE_BY, *_told(each, place))])
    yield from encode.aliased(each.name, each.alias)


def read(want: Vxlan, look: Lookup) -> Vxlan | None:
    """It as it stands."""
    link = look.link_of_kind(want)
    if link is None:
        return None
    return Vxlan(
        want.name,
        vni=link.number(INFO, DATA, "IFLA_VXLAN_ID"),
        port=link.number(INFO, DATA, "IFLA_VXLAN_PORT"),
        local=link.text(INFO, DATA, "IFLA_VXLAN_LOCAL") or link.text(INFO, DATA, "IFLA_VXLAN_LOCAL6"),
        underlay=look.name(link.number(INFO, DATA, "IFLA_VXLAN_LINK")),
        mac=link.text("IFLA_ADDRESS"),
        mtu=link.number("IFLA_MTU"),
        alias=link.text("IFLA_IFALIAS"),
        gbp=bool(link.number(INFO, DATA, "IFLA_VXLAN_GBP")),
    )


def _told(each: Vxlan, place: Place) -> Iterator[Attr]:
    yield ("IFLA_VXLAN_ID", each.vni)
    yield ("IFLA_VXLAN_PORT", each.port)
    yield ("IFLA_VXLAN_LOCAL6" if ":" in each.local else "IFLA_VXLAN_LOCAL", each.local)
    yield from encode.given(("IFLA_VXLAN_LINK", place.must(each.underlay) if each.underlay else 0))
    yield ("IFLA_VXLAN_LEARNING", 0)
    if each.gbp:
        yield ("IFLA_VXLAN_GBP", True)
