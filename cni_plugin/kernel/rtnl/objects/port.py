"""The flags of a bridge port, which the link itself is told as what it is to its master."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.codec import nest
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import INFO, Lookup
from cni_plugin.model.base import HOST
from cni_plugin.model.links import Port

GONE = encode.NO_VLANS
_KIND, _SLAVE = "IFLA_INFO_SLAVE_KIND", "IFLA_INFO_SLAVE_DATA"


def write(op: Op, each: Port, _place: Place) -> Iterator[bytearray]:
    """Its request."""
    flags = Port(each.name) if op.verb == "delete" else each
    data = nest(
        ("IFLA_BRPORT_MODE", int(flags.hairpin)),
        ("IFLA_BRPORT_ISOLATED", int(flags.isolated)),
        ("IFLA_BRPORT_LOCKED", int(flags.locked)),
    )
    yield encode.changed_link(each.name, [("IFLA_LINKINFO", nest((_KIND, "bridge"), (_SLAVE, data)))])


def read(want: Port, look: Lookup) -> Port | None:
    """It as it stands, of a link that is in a bridge."""
    link = look.link(HOST, want.name)
    if link is None or link.text(INFO, _KIND) != "bridge":
        return None
    return Port(
        want.name,
        hairpin=bool(link.number(INFO, _SLAVE, "IFLA_BRPORT_MODE")),
        isolated=bool(link.number(INFO, _SLAVE, "IFLA_BRPORT_ISOLATED")),
        locked=bool(link.number(INFO, _SLAVE, "IFLA_BRPORT_LOCKED")),
    )
