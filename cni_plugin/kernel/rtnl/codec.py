"""Netlink messages to bytes and back.

pyroute2 knows every attribute that a kernel has; `schema` makes tables of that knowledge, and here they are used:
requests are packed by them, and of a message from the kernel only that is read which somebody asks for. What the
tables have no word for pyroute2 does itself, at ten times the time. Promise: bytes in, bytes out, no input or output.

    encode(RTM_NEWROUTE, CREATE, {"family": AF_INET, "dst_len": 24, ...}, [("RTA_DST", "10.244.2.0"), ...])
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from typing import Any, TypeAlias, cast

from cni_plugin.kernel.rtnl.forms import Inexpressible
from cni_plugin.kernel.rtnl.schema import ATTRIBUTE, Layout, Slot, classes, layout_of

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWVLAN, RTM_GETVLAN = 112, 114
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""

_LINK_INDEX = struct.Struct("=4xi")
"""The beginning of struct ifinfomsg: family, padding, type, index."""
_NUMBER = 0x3FFF
"""NLA_TYPE_MASK: an attribute's type without its flags."""

Value: TypeAlias = "int | str | dict[str, int] | dict[str, list[tuple[str, Value]]]"
Attr: TypeAlias = "tuple[str, Value]"


def nest(*attrs: Attr) -> Value:
    """Attributes as the value of one."""
    return {"attrs": list(attrs)}


def encode(kind: int, flags: int, fields: Mapping[str, int], attrs: Sequence[Attr] = ()) -> bytearray:
    """One request, with sequence number and port left at 0. `fields` are those of the fixed header."""
    try:
        body = layout_of(_class_of(kind)).pack({**fields, "attrs": attrs}, 0)
    except (Inexpressible, struct.error):
        return _encoded_by_pyroute2(kind, flags, fields, attrs)
    return bytearray(HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, 0, 0) + body)


class _View:
    """Bytes as a layout has them. No attribute is walked over twice, and none after the last that is asked for."""

    def __init__(self, layout: Layout, data: bytes, start: int, end: int, family: int = 0) -> None:
        self.fields: dict[str, int] = {}
        if layout.fields:
            self.fields.update(zip(layout.fields, layout.fixed.unpack_from(data, start), strict=True))
            start = (start + layout.fixed.size + 3) & ~3
        self._layout = layout
        self._data = data
        self._first, self._next, self._end = start, start, end
        self._family = self.fields.get("family", family)
        self._seen: dict[int, int] = {}
        self._values: dict[str, object] = {}

    def get(self, name: str) -> object:
        """The value of the first attribute of this name, or of this field; None where there is none."""
        if name not in self._values:
            self._values[name] = self._read(name)
        return self._values[name]

    def several(self, name: str) -> list[_View]:
        """The compound attributes of one name, or the elements of one that is a list."""
        slot = self._slot(name)
        if slot is None:
            return []
        layout = slot.form
        if not isinstance(layout, Layout):
            raise Inexpressible(name)
        if slot.listed:
            place = self._place(slot.number)
            places = _elements(self._data, *place, layout.cell) if place else iter(())
        else:
            places = _attributes(self._data, self._first, self._end, slot.number)
        return [_View(layout, self._data, start, end, self._family) for start, end in places]

    def _read(self, name: str) -> object:
        slot = self._slot(name)
        if slot is None:
            return self.fields.get(name)
        form = slot.form
        if slot.listed or form is None:
            raise Inexpressible(name)
        place = self._place(slot.number)
        if place is None:
            return None
        if isinstance(form, Layout):
            return _View(form, self._data, *place, self._family)
        try:
            return form.read(self._data[place[0] : place[1]], self._family)
        except ValueError:
            return None

    def _slot(self, name: str) -> Slot | None:
        slot = self._layout.slot(name)
        if slot is None or slot.form is not None:
            return slot
        return slot.among(self._layout, self.get, self._family)

    def _place(self, number: int) -> tuple[int, int] | None:
        """Where the payload of the first attribute of this number begins and ends."""
        seen, data, start, last, unpack = self._seen, self._data, self._next, self._end - 4, ATTRIBUTE.unpack_from
        while number not in seen and start <= last:
            length, kind = unpack(data, start)
            seen.setdefault(kind & _NUMBER, start)
            start += (length + 3) & ~3 or 4
        self._next = start
        if number not in seen:
            return None
        start = seen[number]
        return start + 4, min(start + unpack(data, start)[0], self._end)


class Part:
    """A message from the kernel, or a part of one. What is not asked for is not decoded, so it costs nothing."""

    _view: _View | None

    @property
    def _decoded(self) -> Any:
        """The same as pyroute2 decodes it, for what the view cannot read."""
        raise NotImplementedError

    def field(self, name: str) -> int:
        """A field of the fixed header, by pyroute2's name for it."""
        if self._view is not None and name in self._view.fields:
            return self._view.fields[name]
        return cast(int, self._decoded[name])

    def number(self, *path: str, default: int = 0) -> int:
        """The integer at the end of a path of attributes."""
        value = self._at(path)
        return value if isinstance(value, int) else default

    def text(self, *path: str) -> str:
        """The string at the end of a path of attributes: a name, a MAC, an address; "" when it is not there."""
        value = self._at(path)
        return value if isinstance(value, str) else ""

    def parts(self, name: str) -> list[Part]:
        """The compound attributes of one name, or the elements of one that is a list."""
        try:
            views: Sequence[_View | None] = self._view.several(name) if self._view else [None] * len(self._those(name))
        except Inexpressible:
            views = [None] * len(self._those(name))
        return [_Element(self, name, position, view) for position, view in enumerate(views)]

    def _those(self, name: str) -> list[Any]:
        values: list[Any] = self._decoded.get_attrs(name)
        return values[0] if values and isinstance(values[0], list) else values

    def _at(self, path: Sequence[str]) -> object:
        try:
            return _descend(self._view or self._decoded, path)
        except Inexpressible:
            return _descend(self._decoded, path)


class Message(Part):
    """A whole message."""

    def __init__(self, kind: int, data: bytes, offset: int = 0) -> None:
        self.kind = kind
        self._data = data
        self._offset = offset

    @property
    def link(self) -> int:
        """The number of the link that a message about a link is about: the one thing most of them are asked for."""
        (index,) = _LINK_INDEX.unpack_from(self._data, self._offset + HEADER.size)
        return cast(int, index)

    def payload(self, number: int) -> bytes:
        """The first attribute of this number as it lies there, b"" when there is none."""
        place = self._view._place(number) if self._view else None
        return self._data[place[0] : place[1]] if place else b""

    @cached_property
    def _view(self) -> _View | None:  # type: ignore[override]
        length, *_ = HEADER.unpack_from(self._data, self._offset)
        try:
            layout = layout_of(_class_of(self.kind))
        except Inexpressible:
            return None
        return _View(layout, self._data, self._offset + HEADER.size, self._offset + length)

    @cached_property
    def _decoded(self) -> Any:
        decoded = _class_of(self.kind)(self._data, self._offset)
        decoded.decode()
        return decoded


class _Element(Part):
    """One of several parts of the same name."""

    def __init__(self, whole: Part, name: str, position: int, view: _View | None) -> None:
        self._view = view
        self._place = whole, name, position

    @property
    def _decoded(self) -> Any:
        whole, name, position = self._place
        return whole._those(name)[position]


def _descend(holder: object, path: Sequence[str]) -> object:
    for name in path:
        if isinstance(holder, _View):
            holder = holder.get(name)
        elif isinstance(holder, dict):
            found = holder.get_attr(name) if hasattr(holder, "get_attr") else None
            holder = holder.get(name) if found is None else found
        else:
            return None
    return holder


def _attributes(data: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the payload of each attribute of this number begins and ends."""
    while start + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, start)
        if kind & _NUMBER == wanted:
            yield start + 4, min(start + length, end)
        start += (length + 3) & ~3 or 4


def _elements(data: bytes, start: int, end: int, head: struct.Struct) -> Iterator[tuple[int, int]]:
    """Where each element of a list begins and ends; what stands before it has its length first."""
    while start + 4 <= end:
        length = head.unpack_from(data, start)[0]
        yield start + head.size, min(start + length, end)
        start += (length + 3) & ~3 or 4


def _encoded_by_pyroute2(kind: int, flags: int, fields: Mapping[str, int], attrs: Sequence[Attr]) -> bytearray:
    message = _class_of(kind)()
    message.update(fields)
    message["attrs"] = list(attrs)
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": 0, "pid": 0}
    message.encode()
    return cast(bytearray, message.data)


@cache
def _class_of(kind: int) -> Any:
    """Each kind of message has four verbs: new, delete, get, set."""
    names = {
        RTM_NEWLINK: "link",
        RTM_NEWADDR: "address",
        RTM_NEWROUTE: "route",
        RTM_NEWNEIGH: "neighbour",
        RTM_NEWVLAN: "vlan",
    }
    return classes()[names[kind & ~3]]
