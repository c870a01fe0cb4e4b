"""What pyroute2 knows about netlink messages, compiled into plain tables when it is first asked about.

pyroute2 has a class for each message and each attribute. Its encoder and decoder make an object of every attribute
they meet, asked for or not: 0.1 ms a message. Here each class becomes, once, that which does its work:

    a class with fields or an `nla_map`  ->  Layout: the fixed fields as one struct, the attributes by name
    an entry of its `nla_map`            ->  Slot: the attribute's number, and the class of its value
    a class that is one value            ->  Form: from value to bytes and back, by the methods that the class has

Promise: no number and no format is ours. What these tables have no word for is Inexpressible, and `codec` has
pyroute2 itself do it. This is the only module that imports pyroute2, and only when the first message is made:
`import pyroute2` loads 370 modules (140 to 350 ms), the classes alone 120 (about 50 ms).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from struct import Struct
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

from cni_plugin.kernel.rtnl import forms
from cni_plugin.kernel.rtnl.forms import NUMBERS, Form, Inexpressible

Class: TypeAlias = Any
"""A class of pyroute2's, which has no types."""
Beside: TypeAlias = Callable[[str], object]
"""The value of the attribute of this name that stands beside the one at hand, or None."""

ATTRIBUTE = Struct("=HH")
"""struct nlattr: length, type."""
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_AF_MPLS = 28


class Slot:
    """An attribute as a layout has it. `form` is None where its class depends on what is around it."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        if entry["init"] is not None:
            raise Inexpressible(entry["name"])
        self._entry = entry
        self._kind: Class = entry["class"]
        self._settled: dict[Class, Slot] = {}
        self.number: int = entry["type"]
        self.listed: bool = entry["nla_array"]
        self.form = None if isinstance(self._kind, FunctionType) else form_of(self._kind)
        self.type = self.number | entry["nla_flags"] | (self._kind.nla_flags if self.form else 0)
        """The number with its flags, as it is sent."""

    def among(self, layout: Layout, beside: Beside, family: int) -> Slot:
        """This attribute with its form among these others: IFLA_INFO_DATA is what IFLA_INFO_KIND says."""
        if self.form is not None:
            return self
        kind = self._kind(_Around(layout.kind, beside, family))
        if kind not in self._settled:
            self._settled[kind] = Slot({**self._entry, "class": kind})
        return self._settled[kind]


class _Around:
    """The `self` for those functions of pyroute2's that choose a class by what is around the attribute."""

    def __init__(self, kind: Class, beside: Beside, family: int) -> None:
        self._kind = kind
        self._family = family
        self.get_attr = beside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def __getitem__(self, name: str) -> int:
        if name != "family":
            raise Inexpressible(name)
        return self._family


class Layout:
    """A message, or an attribute that holds others."""

    def __init__(self, kind: Class) -> None:
        if not all(code in NUMBERS or code[-1] == "x" for _, code in kind.fields):
            raise Inexpressible(kind)
        self.kind = kind
        self.fixed = Struct("=" + "".join(code for _, code in kind.fields))
        self.fields = {name: kind.defaults.get(name, 0) for name, code in kind.fields if code[-1] != "x"}
        """The names of the fixed fields, in order, and what they are when nothing is said."""
        self.cell = Struct("=" + "".join(code for _, code in kind.cell_header)) if kind.cell_header else ATTRIBUTE
        """What stands before each of several in a list: its length first."""
        self._slots: dict[str, Slot | None] = {}

    def slot(self, name: str) -> Slot | None:
        """The attribute of this name, None when there is none. Raises Inexpressible."""
        if name not in self._slots:
            entry = self._entries.get(name)
            self._slots[name] = None if entry is None else Slot(entry)
        return self._slots[name]

    def pack(self, value: Mapping[str, Any], family: int) -> bytes:
        """The fixed fields, and the attributes under "attrs". Raises Inexpressible, struct.error."""
        parts = [self.fixed.pack(*[value.get(name, default) for name, default in self.fields.items()])]
        family = value.get("family", family)
        attrs = value.get("attrs", ())
        if family == _AF_MPLS or (attrs and self.fixed.size & 3):
            raise Inexpressible(self.kind)
        for name, each in attrs:
            slot = self.slot(name)
            if slot is not None and slot.form is None:
                slot = slot.among(self, dict(attrs).get, family)
            if slot is None or slot.form is None or slot.listed:
                raise Inexpressible(name)
            payload = slot.form.pack(each, family)
            size = len(payload)
            parts += ATTRIBUTE.pack(size + 4, slot.type), payload, _PADDING[size & 3]
        return b"".join(parts)

    @cached_property
    def _entries(self) -> Mapping[str, Mapping[str, Any]]:
        """The `nla_map` by name, as pyroute2 itself compiles it when a class is first used."""
        if not self.kind.nla_map:
            return {}
        self.kind()
        entries = getattr(self.kind, "_nlmsg_base__r_nla_map", None)
        if not isinstance(entries, dict):
            raise Inexpressible(self.kind)
        return entries


@cache
def form_of(kind: Class) -> Form | Layout:
    """What does the work of this class. Raises Inexpressible."""
    make = _makers().get(_methods(kind))
    if make is None or kind.value_map or kind.align != 4:
        raise Inexpressible(kind)
    return make(kind)


def layout_of(kind: Class) -> Layout:
    """What does the work of this class of a message. Raises Inexpressible."""
    found = form_of(kind)
    if isinstance(found, Form):
        raise Inexpressible(kind)
    return found


def _methods(kind: Class) -> tuple[object, ...]:
    return kind.encode, kind.ft_encode, kind.decode, kind.ft_decode


@cache
def _makers() -> Mapping[tuple[object, ...], Callable[[Class], Form | Layout]]:
    """By the four methods that make a class what it is; one with any other is not known here.

    Those of the plain ones that have methods of their own do something for names in place of numbers, and for MPLS.
    """
    nla, link, peer, route, hop = (classes()[name] for name in ("attribute", "link", "peer", "route", "hop"))
    plain = (nla, nla.uint32, link, peer, link.netns_fd, link.af_spec_bridge.vlan_info, route, hop)
    known: dict[Class, Callable[[Class], Form | Layout]] = dict.fromkeys(plain, _plain)
    known |= {
        nla.asciiz: lambda kind: forms.text(b"\0" if kind.zstring else b""),
        nla.ip4addr: lambda kind: forms.address(kind.family),
        nla.ipaddr: lambda _: forms.ANY_ADDRESS,
        nla.target: _target,
        nla.l2addr: lambda _: forms.MAC,
        nla.lladdr: lambda _: forms.LLADDR,
        nla.hex: lambda _: forms.OCTETS,
        route.rtvia: lambda _: forms.VIA,
    }
    return {_methods(kind): make for kind, make in known.items()}


def _plain(kind: Class) -> Form | Layout:
    """Fixed fields, then attributes; a number when the only field is called "value"."""
    if [name for name, _ in kind.fields] == ["value"] and not kind.nla_map:
        return forms.number(kind.fields[0][1])
    return Layout(kind)


def _target(kind: Class) -> Form:
    if kind.family is not None:
        raise Inexpressible(kind)
    return forms.TARGET


@cache
def classes() -> Mapping[str, Class]:
    """Those of pyroute2's classes that all others are reached from.

    They are imported without running pyroute2's `__init__`, which would import all the rest: a bare module of that
    name stands in while its submodules are loaded, for the import system only wants its `__path__`. And
    pyroute2.config names three things of multiprocessing (5 ms) that its servers would use. Both are taken away
    afterwards, so that whoever imports these names later gets the real ones.
    """
    with _standing_in():
        from pyroute2.netlink import nla
        from pyroute2.netlink.rtnl.br_vlan import br_vlan_msg
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import nh, rtmsg
    return {
        "attribute": nla,
        "link": ifinfmsg,
        "peer": ifinfveth,
        "address": ifaddrmsg,
        "route": rtmsg,
        "hop": nh,
        "neighbour": ndmsg,
        "vlan": br_vlan_msg,
    }


@contextmanager
def _standing_in() -> Iterator[None]:
    modules = {each.__name__: each for each in (_bare_package("pyroute2"), _bare_multiprocessing())}
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _bare_package(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec
    return module


def _bare_multiprocessing() -> ModuleType:
    module = ModuleType("multiprocessing")
    vars(module).update(Pipe=None, Queue=None, Process=None)
    return module
