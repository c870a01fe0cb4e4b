"""A Linux bridge: its settings are its kind's, its MAC is its own once somebody set it."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.host.knobs import read_line
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.codec import Attr, Message
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import DATA, INFO, Lookup
from cni_plugin.kernel.rtnl.numbers import IFF_PROMISC
from cni_plugin.model.links import Bridge

GONE = encode.GONE
_ADDR_SET = "3"
"""NET_ADDR_SET: the MAC was set by somebody, include/uapi/linux/netdevice.h."""


def write(op: Op, each: Bridge, _place: Place) -> Iterator[bytearray]:
    """Its requests."""
    info = encode.kind_of_link("bridge", *_filtering(op, each))
    promisc = IFF_PROMISC if each.promisc else 0
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
    elif op.verb == "change":
        mac = each.mac or (op.was.mac if isinstance(op.was, Bridge) else "")  # set to itself, it stays
        attrs = encode.given(("IFLA_ADDRESS", mac), ("IFLA_MTU", each.mtu), ("IFLA_IFALIAS", each.alias))
        yield encode.changed_link(each.name, [*attrs, info], promisc, IFF_PROMISC)
    else:
        # a MAC that comes with the creation is "set": neither a port nor systemd-udevd changes it any more
        # (addr_assign_type 3; net/bridge/br_stp_if.c, br_stp_recalculate_bridge_id)
        attrs = [encode.mac_for(each.mac), *encode.given(("IFLA_MTU", each.mtu))]
        yield encode.new_link(each.name, [*attrs, info], promisc)
        yield from encode.aliased(each.name, each.alias)


def read(want: Bridge, look: Lookup) -> Bridge | None:
    """It as it stands."""
    link = look.link_of_kind(want)
    if link is None:
        return None
    return Bridge(
        want.name,
        mtu=link.number("IFLA_MTU"),
        mac=link.text("IFLA_ADDRESS"),
        alias=link.text("IFLA_IFALIAS"),
        vlan_filtering=bool(link.number(INFO, DATA, "IFLA_BR_VLAN_FILTERING")),
        pinned=_pinned(link, want),
        promisc=bool(link.field("flags") & IFF_PROMISC),
    )


def _filtering(op: Op, each: Bridge) -> list[Attr]:
    """Only where it makes a difference: a kernel built without VLAN filtering refuses even to have it off."""
    before = isinstance(op.was, Bridge) and op.was.vlan_filtering
    return [] if before == each.vlan_filtering else [("IFLA_BR_VLAN_FILTERING", int(each.vlan_filtering))]


def _pinned(link: Message, want: Bridge) -> bool:
    """Whether the bridge keeps its MAC. One that bears our alias is one that we gave a MAC; of others sysfs tells,

    netlink does not; but sysfs shows the namespace that it was mounted in, which may not be ours.
    """
    if want.alias and link.text("IFLA_IFALIAS") == want.alias:
        return True
    index, mac, assigned = (_sysfs(want.name, file) for file in ("ifindex", "address", "addr_assign_type"))
    return index == str(link.link) and mac == link.text("IFLA_ADDRESS") and assigned == _ADDR_SET


def _sysfs(link: str, file: str) -> str:
    try:
        return read_line(f"/sys/class/net/{link}/{file}")
    except OSError:
        return ""
