"""A kind of kernel object that nobody needs, added as anybody would add one: a class, and a file that writes and reads.

Both lie in a folder of the test's own, which the two packages are told of while the block runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from cni_plugin import model
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.rtnl import objects
from cni_plugin.model.links import Link

MODEL = '''
"""An intermediate functional block: a link that takes in what others send (drivers/net/ifb.c)."""

from typing import ClassVar

from cni_plugin.model.links import Link


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
MODULES = ("cni_plugin.model.toy", "cni_plugin.kernel.rtnl.objects.ifb")


@contextmanager
def added(folder: Path) -> Iterator[type[Link]]:
    """The class, while there is such a kind."""
    files = {model: ("toy.py", MODEL), objects: ("ifb.py", KERNEL)}
    with pytest.MonkeyPatch.context() as patch:
        for package, (name, text) in files.items():
            room = folder / package.__name__
            room.mkdir()
            (room / name).write_text(text)
            patch.setattr(package, "__path__", [*package.__path__, str(room)])
        try:
            kind: type[Link] = import_module(MODULES[0]).Ifb
            yield kind
        finally:
            for name in MODULES:
                sys.modules.pop(name, None)
            kind_of.cache_clear()
