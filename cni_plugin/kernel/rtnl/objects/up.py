"""Whether a link is up: a flag of the link, an object of its own because its time to come is another."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import IFF_UP
from cni_plugin.model.links import Up

GONE = encode.GONE


def write(op: Op, each: Up, _place: Place) -> Iterator[bytearray]:
    """Its request."""
    yield encode.changed_link(each.name, [], 0 if op.verb == "delete" else IFF_UP, IFF_UP)


def read(want: Up, look: Lookup) -> Up | None:
    """It where the link is up."""
    link = look.link(want.ns, want.name)
    return want if link is not None and link.field("flags") & IFF_UP else None
