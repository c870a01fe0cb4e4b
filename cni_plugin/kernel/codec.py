"""Netlink messages to bytes and back: pyroute2's message classes, and nothing else of it.

pyroute2 knows every attribute that a kernel has; its sockets know much more than a plugin can pay for at each
start: `import pyroute2` loads 370 modules (140 to 350 ms), the classes alone 120 (about 50 ms). This is the only
module that imports it, and only when the first message is made. Promise: bytes in, bytes out, no input or output.

    encode(RTM_NEWROUTE, CREATE, {"family": AF_INET, "dst_len": 24, ...}, [("RTA_DST", "10.244.2.0"), ...])
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from struct import Struct
from types import ModuleType
from typing import Protocol, TypeAlias, cast

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWVLAN, RTM_GETVLAN = 112, 114
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800

HEADER = Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port."""

_LINK_INDEX = Struct("=4xi")
"""The beginning of struct ifinfomsg: family, padding, type, index."""

Value: TypeAlias = "int | str | dict[str, int] | dict[str, list[tuple[str, Value]]]"
Attr: TypeAlias = "tuple[str, Value]"


class _Codec(Protocol):
    """What we use of a pyroute2 message, which is a dict with a buffer."""

    data: bytearray

    def update(self, fields: Mapping[str, int]) -> None: ...
    def __setitem__(self, name: str, value: object) -> None: ...
    def __getitem__(self, name: str) -> object: ...
    def get_attr(self, name: str) -> object: ...
    def get_attrs(self, name: str) -> list[object]: ...
    def encode(self) -> None: ...
    def decode(self) -> None: ...


class _CodecClass(Protocol):
    def __call__(self, data: bytes | None = None, offset: int = 0) -> _Codec: ...


def nest(*attrs: Attr) -> Value:
    """Attributes as the value of one."""
    return {"attrs": list(attrs)}


def encode(kind: int, flags: int, fields: Mapping[str, int], attrs: Sequence[Attr] = ()) -> bytearray:
    """One request, with sequence number and port left at 0. `fields` are those of the fixed header."""
    message = _classes()[kind](None)
    message.update(fields)
    message["attrs"] = list(attrs)
    message["header"] = {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": 0, "pid": 0}
    message.encode()
    return message.data


class Part:
    """A message from the kernel, or a part of one. What is not asked for is not decoded, so it costs nothing."""

    _holder: _Codec

    def field(self, name: str) -> int:
        """A field of the fixed header, by pyroute2's name for it."""
        return cast(int, self._holder[name])

    def number(self, *path: str, default: int = 0) -> int:
        """The integer at the end of a path of attributes."""
        value = _descend(self._holder, path)
        return value if isinstance(value, int) else default

    def text(self, *path: str) -> str:
        """The string at the end of a path of attributes: a name, a MAC, an address; "" when it is not there."""
        value = _descend(self._holder, path)
        return value if isinstance(value, str) else ""

    def parts(self, name: str) -> list[Part]:
        """The compound attributes of one name, or the elements of one that is a list."""
        values = self._holder.get_attrs(name)
        if values and isinstance(values[0], list):
            values = values[0]
        return [_part(value) for value in values]


class Message(Part):
    """A whole message."""

    def __init__(self, kind: int, data: bytes, offset: int = 0) -> None:
        self.kind = kind
        self._data = data
        self._offset = offset

    @cached_property
    def _holder(self) -> _Codec:  # type: ignore[override]
        codec = _classes()[self.kind](self._data, self._offset)
        codec.decode()
        return codec

    @property
    def link(self) -> int:
        """The number of the link that a message about a link is about: the one thing most of them are asked for."""
        (index,) = _LINK_INDEX.unpack_from(self._data, self._offset + HEADER.size)
        return cast(int, index)


def _part(holder: object) -> Part:
    part = Part()
    part._holder = cast(_Codec, holder)
    return part


def _descend(holder: object, path: Sequence[str]) -> object:
    for name in path:
        if not isinstance(holder, dict):
            return None
        found = holder.get_attr(name) if hasattr(holder, "get_attr") else None
        holder = holder.get(name) if found is None else found
    return holder


@cache
def _classes() -> Mapping[int, _CodecClass]:
    link, address, route, neigh, vlan = _load()
    table = {
        RTM_NEWLINK: link,
        RTM_NEWADDR: address,
        RTM_NEWROUTE: route,
        RTM_NEWNEIGH: neigh,
        RTM_NEWVLAN: vlan,
    }
    return {kind + verb: codec for kind, codec in table.items() for verb in range(4)}


def _load() -> tuple[_CodecClass, ...]:
    """Import the message classes without running pyroute2's `__init__`, which would import all the rest.

    A bare module of that name stands in while its submodules are loaded: the import system only wants its
    `__path__`. And pyroute2.config names three things of multiprocessing (5 ms) that its servers would use. Both
    are taken away afterwards, so that whoever imports these names later gets the real ones.
    """
    with _standing_in():
        from pyroute2.netlink.rtnl.br_vlan import br_vlan_msg
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg
    return ifinfmsg, ifaddrmsg, rtmsg, ndmsg, br_vlan_msg


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
