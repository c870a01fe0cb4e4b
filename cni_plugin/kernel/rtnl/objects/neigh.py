"""A neighbour entry, put in the place of whatever was known of that address."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.addresses import family_of
from cni_plugin.kernel.rtnl.codec import Attr
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import NUD_PERMANENT
from cni_plugin.model.base import HOST
from cni_plugin.model.layer3 import Neigh

GONE = encode.NO_IPV6


def write(op: Op, each: Neigh, place: Place) -> Iterator[bytearray]:
    """Its request."""
    fields = {"family": family_of(each.address), "ifindex": place.must(each.dev), "state": NUD_PERMANENT}
    attrs: list[Attr] = [("NDA_DST", each.address)]
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELNEIGH, 0, fields, attrs)
    else:
        yield codec.encode(codec.RTM_NEWNEIGH, encode.PUT, fields, [*attrs, ("NDA_LLADDR", each.mac)])


def read(want: Neigh, look: Lookup) -> Neigh | None:
    """It as it stands; one that is not permanent the kernel learned by itself."""
    fields = {"family": family_of(want.address), "ifindex": look.spaces[HOST].index(want.dev)}
    found = look.neighbour(fields, [("NDA_DST", want.address)])
    if found is None:
        return None
    learned = not found.field("state") & NUD_PERMANENT
    return Neigh(want.dev, want.address, found.text("NDA_LLADDR"), learned=learned)
