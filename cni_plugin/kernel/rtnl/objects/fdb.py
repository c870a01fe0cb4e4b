"""A forwarding entry: of a tunnel's device its own (`self`), of a bridge port its bridge's (`master`)."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.codec import Attr
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE, NTF_MASTER, NTF_SELF, NUD_NOARP, NUD_PERMANENT
from cni_plugin.model.base import HOST
from cni_plugin.model.links import Fdb

GONE = encode.GONE


def write(op: Op, each: Fdb, place: Place) -> Iterator[bytearray]:
    """Its request."""
    side, state = (NTF_SELF, NUD_PERMANENT) if each.dst else (NTF_MASTER, NUD_NOARP)
    fields = {"family": AF_BRIDGE, "ifindex": place.must(each.dev), "state": state, "flags": side}
    attrs = encode.given(("NDA_LLADDR", each.mac), ("NDA_DST", each.dst), ("NDA_VLAN", each.vid))
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELNEIGH, 0, fields, attrs)
    else:
        yield codec.encode(codec.RTM_NEWNEIGH, encode.PUT, fields, attrs)


def read(want: Fdb, look: Lookup) -> Fdb | None:
    """It as it stands."""
    side = NTF_SELF if want.dst else NTF_MASTER
    fields = {"family": AF_BRIDGE, "ifindex": look.spaces[HOST].index(want.dev), "flags": side}
    vlan: list[Attr] = [("NDA_VLAN", want.vid)] if want.vid else []
    found = look.neighbour(fields, [("NDA_LLADDR", want.mac), *vlan])
    return None if found is None else Fdb(want.dev, want.mac, found.text("NDA_DST"), want.vid)
