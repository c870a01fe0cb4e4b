"""A kind of kernel object that nobody needs, added as anybody would add one: a class, and a file that writes and reads.

Both lie in a folder of the test's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from cni_plugin.kernel.kinds import kind_of
from cni_plugin.model.links import Link
from tests import toys

MODEL = '''
"""An intermediate functional block: a link that takes in what others send (drivers/net/ifb.c)."""

from typing import ClassVar

from cni_plugin.model.links import Link
from tests import toys


class Ifb(Link, frozen=True, tag="ifb"):
    """As `ip` has it."""

    RANK: ClassVar[int] = 150
    MADE_BY: ClassVar[str] = "ifb"
    mtu: int = 0
    alias: str = ""

    def words(self, verb):
        if verb == "delete":
            return f"ip link del {self.name}"
        return f"ip link {'add' if verb == 'create' else 'set'} {self.name} mtu {self.mtu} type ifb"
'''
KERNEL = '''
"""Its requests, and it as it stands."""

from cni_plugin.kernel.rtnl import encode
from cni_plugin.model.toy import Ifb

GONE = encode.GONE


def write(op, each, place):
    attrs = encode.given(("IFLA_MTU", each.mtu))
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
    elif op.verb == "change":
        yield encode.changed_link(each.name, attrs)
    else:
        yield encode.new_link(each.name, [*attrs, encode.kind_of_link("ifb")])
        yield from encode.aliased(each.name, each.alias)


def read(want, look):
    link = look.link_of_kind(want, "ifb")
    return link and Ifb(want.name, link.number("IFLA_MTU"), link.text("IFLA_IFALIAS"))
'''


@contextmanager
def added(folder: Path) -> Iterator[type[Link]]:
    """The class, while there is such a kind."""
    with toys.added(folder, "model", "toy", MODEL), toys.added(folder, "kernel.rtnl.objects", "ifb", KERNEL):
        try:
            kind: type[Link] = import_module("cni_plugin.model.toy").Ifb
            yield kind
        finally:
            kind_of.cache_clear()
