"""Values as netlink attributes carry them: each form is a way to bytes and the way back.

A form knows nothing of messages. Which attribute has which one `schema` takes from pyroute2, and what a form does is
what pyroute2's class of that name does, to the byte (tests/unit/kernel/rtnl/test_codec.py). Promise: pure; bytes that
do not make a value raise ValueError, a value that only pyroute2 can make bytes of Inexpressible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from struct import Struct
from typing import Any, TypeAlias

Pack: TypeAlias = Callable[[Any, int], bytes]
"""A value, and the address family of the message around it, to a payload. Also raises OSError and struct.error."""
Read: TypeAlias = Callable[[bytes, int], object]
"""A payload, and the address family of the message around it, to a value."""

NUMBERS = frozenset("bBhHiIqQ")
"""Codes of the struct module for one number."""
_MAC = Struct("=6B")
_FAMILY = Struct("=H")
_SIZES: dict[int, int] = {AF_INET: 4, AF_INET6: 16}


class Inexpressible(Exception):
    """Something that only pyroute2 itself can encode or decode."""


class Form:
    """A kind of value."""

    def __init__(self, pack: Pack, read: Read) -> None:
        self.pack = pack
        self.read = read


def number(code: str) -> Form:
    """A number by its code of the struct module: B, >H."""
    if code.lstrip("<>=") not in NUMBERS:
        raise Inexpressible(code)
    wire = Struct(code)

    def read(data: bytes, _family: int) -> object:
        if len(data) < wire.size:
            raise ValueError(data)
        return wire.unpack_from(data)[0]

    return Form(lambda value, _family: wire.pack(value), read)


def text(end: bytes) -> Form:
    """UTF-8, with this at its end."""

    def read(data: bytes, _family: int) -> object:
        return (data.strip(end) if end else data).decode()

    return Form(lambda value, _family: value.encode() + end, read)


def address(family: int) -> Form:
    """An address of this family."""
    return Form(lambda value, _family: inet_pton(family, value), lambda data, _family: inet_ntop(family, data))


def _pack_any_address(value: str, _family: int) -> bytes:
    return inet_pton(AF_INET6 if ":" in value else AF_INET, value)


def _read_any_address(data: bytes, _family: int) -> object:
    return inet_ntop(AF_INET6 if len(data) > 4 else AF_INET, data)


def _pack_target(value: str, family: int) -> bytes:
    if family not in _SIZES:
        raise Inexpressible(family)
    return inet_pton(family, value)


def _read_target(data: bytes, family: int) -> object:
    if family not in _SIZES:
        raise Inexpressible(family)
    return inet_ntop(family, data[: _SIZES[family]])


def _pack_mac(value: str, _family: int) -> bytes:
    return _MAC.pack(*[int(octet, 16) for octet in value.split(":")])


def _read_mac(data: bytes, _family: int) -> object:
    if len(data) < _MAC.size:
        raise ValueError(data)
    return data[: _MAC.size].hex(":")


def _pack_lladdr(value: str, family: int) -> bytes:
    if len(value) != 17 or "::" in value or "." in value:
        raise Inexpressible(value)
    return _pack_mac(value, family)


def _read_lladdr(data: bytes, _family: int) -> object:
    family = {4: AF_INET, 16: AF_INET6}.get(len(data))
    return data.hex(":") if family is None else inet_ntop(family, data)


def _pack_octets(value: object, _family: int) -> bytes:
    raise Inexpressible(value)


def _read_octets(data: bytes, _family: int) -> object:
    return data.hex(":")


def _pack_via(value: Mapping[str, Any], _family: int) -> bytes:
    if value["family"] not in _SIZES:
        raise Inexpressible(value)
    return _FAMILY.pack(value["family"]) + inet_pton(value["family"], value["addr"])


def _read_via(data: bytes, _family: int) -> object:
    if len(data) < _FAMILY.size:
        raise ValueError(data)
    family, rest = _FAMILY.unpack_from(data)[0], data[_FAMILY.size :]
    return {"family": family, "addr": inet_ntop(family, rest) if _SIZES.get(family) == len(rest) else rest.hex(":")}


ANY_ADDRESS = Form(_pack_any_address, _read_any_address)
"""An address whose family is told by its colon, or its length."""
TARGET = Form(_pack_target, _read_target)
"""An address of the family that the message around it has."""
MAC = Form(_pack_mac, _read_mac)
LLADDR = Form(_pack_lladdr, _read_lladdr)
"""The address of a link layer: a MAC, or for a tunnel an address."""
OCTETS = Form(_pack_octets, _read_octets)
"""What nobody knows the format of: only to be looked at, in hexadecimal."""
VIA = Form(_pack_via, _read_via)
"""struct rtvia: an address with its family, which need not be the route's."""
