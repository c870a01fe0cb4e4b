"""The VLANs of a bridge port or of a bridge, which the kernel takes and tells as ranges."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.codec import Attr, nest
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE
from cni_plugin.model.base import HOST
from cni_plugin.model.links import PortVlan

GONE = encode.NO_VLANS
_FLAGS_MASTER, _FLAGS_SELF = 1, 2
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 2, 4, 8, 16
"""BRIDGE_VLAN_INFO_* in include/uapi/linux/if_bridge.h, as BRIDGE_FLAGS_* above."""


def write(op: Op, each: PortVlan, place: Place) -> Iterator[bytearray]:
    """Its request."""
    flags = _PVID * each.pvid | _UNTAGGED * each.untagged
    span = [(each.vid, flags)]
    if each.last > each.vid:
        span = [(each.vid, flags | _RANGE_BEGIN), (each.last, flags | _RANGE_END)]
    entries: list[Attr] = [("IFLA_BRIDGE_VLAN_INFO", {"vid": vid, "flags": bits}) for vid, bits in span]
    side = _FLAGS_SELF if each.self_ else _FLAGS_MASTER
    fields = {"family": AF_BRIDGE, "index": place.must(each.name), "flags": 0, "change": 0}
    kind = codec.RTM_SETLINK if encode.adds(op.verb, each) else codec.RTM_DELLINK
    yield codec.encode(kind, 0, fields, [("IFLA_AF_SPEC", nest(("IFLA_BRIDGE_FLAGS", side), *entries))])


def read(want: PortVlan, look: Lookup) -> PortVlan | None:
    """It as it stands: all of the range, or for one that is to be in none whether any of it."""
    have = look.once(("vlans", want.name), lambda: _vlans_of(look.spaces[HOST], want.name))
    span = range(want.vid, max(want.last, want.vid) + 1)
    flags = have.get(want.vid)
    if not want.member:
        there = any(vid in have for vid in span)
        return PortVlan(want.name, want.vid, want.last, self_=want.self_, member=there)
    if flags is None or any(vid not in have for vid in span):
        return None
    pvid, untagged = bool(flags & _PVID), bool(flags & _UNTAGGED)
    return PortVlan(want.name, want.vid, want.last, pvid=pvid, untagged=untagged, self_=want.self_)


def _vlans_of(space: Namespace, name: str) -> dict[int, int]:
    """The VLANs of a port with their flags (RTM_GETVLAN filters by device, Linux 5.6)."""
    index = space.index(name)
    if not index:
        return {}
    try:
        messages = space.netlink.dump(codec.encode(codec.RTM_GETVLAN, 0, {"family": AF_BRIDGE, "ifindex": index}))
    except Refused as refused:
        if refused.errno in PASSING:
            raise
        return {}  # no bridge port, or a kernel that was built without VLAN filtering: there are none
    found: dict[int, int] = {}
    for message in messages:
        for entry in message.parts("BRIDGE_VLANDB_ENTRY"):
            vid = entry.number("BRIDGE_VLANDB_ENTRY_INFO", "vid")
            last = entry.number("BRIDGE_VLANDB_ENTRY_RANGE", default=vid)
            flags = entry.number("BRIDGE_VLANDB_ENTRY_INFO", "flags")
            found.update(dict.fromkeys(range(vid, last + 1), flags))
    return found
