"""What is in sets and maps, as bytes: the few types that we use, and several of them together.

    packer("ipv4_addr . inet_service")("192.0.2.1 . 80")   c0000201 0050 0000, from it to it
    packer("ipv4_addr")("10.0.0.0/8")                      from 0a000000 to 0affffff
    data_packer("verdict")("jump pod7")                    NFTA_DATA_VERDICT, NFT_JUMP and the name

Of several together each is padded to four bytes. Numbers of types are nft's own (include/datatype.h of nftables), which
the kernel keeps for whoever lists a set; those of verdicts are the kernel's (include/uapi/linux/netfilter/nf_tables.h).
What is read is spelt as nft prints it. Promise: what is no value of a type is a ValueError that says so.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import NamedTuple

from cni_plugin.kernel.rtnl.raw import NESTED, attribute, nested

VERDICT = "verdict"
VERDICT_TYPE = 0xFFFFFF00
"""NFT_DATA_VERDICT, the type of a map's data."""
_VALUE, _VERDICT = 1, 2
_CODE, _CHAIN = 1, 2
_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_PROTOCOLS = {
    "icmp": 1, "tcp": 6, "udp": 17, "dccp": 33, "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "sctp": 132,
    "udplite": 136,
}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_BITS = 6
"""TYPE_BITS: the numbers of several types together make up one, the first in the highest bits."""


class Type(NamedTuple):
    """One type: nft's number for it, its bytes, and how its values are written.

    `ranges`: there are such of it; `native`: it is not in the network's byte order but in the machine's.
    """

    number: int
    size: int
    pack: Callable[[str], bytes]
    unpack: Callable[[bytes], str]
    ranges: bool = False
    native: bool = False


def _port(text: str) -> bytes:
    return struct.pack("!H", int(text))


def _mark(text: str) -> bytes:
    return struct.pack("=I", int(text, 0))


def _protocol(text: str) -> bytes:
    return struct.pack("B", _PROTOCOLS[text] if text in _PROTOCOLS else int(text))


def _mac(text: str) -> bytes:
    octets = bytes.fromhex(text.replace(":", ""))
    if len(octets) != 6:
        raise ValueError("not six octets")
    return octets


def _name(text: str) -> bytes:
    name = text.strip('"').encode()
    if not 0 < len(name) < 16:
        raise ValueError("not of 1 to 15 bytes")
    return name.ljust(16, b"\0")


TYPES = {
    "ipv4_addr": Type(7, 4, partial(inet_pton, AF_INET), partial(inet_ntop, AF_INET), ranges=True),
    "ipv6_addr": Type(8, 16, partial(inet_pton, AF_INET6), partial(inet_ntop, AF_INET6), ranges=True),
    "ether_addr": Type(9, 6, _mac, lambda wire: wire.hex(":")),
    "inet_proto": Type(12, 1, _protocol, lambda wire: _PROTOCOL_NAMES.get(wire[0], str(wire[0]))),
    "inet_service": Type(13, 2, _port, lambda wire: str(int.from_bytes(wire, "big")), ranges=True),
    "mark": Type(19, 4, _mark, lambda wire: f"0x{int.from_bytes(wire, sys.byteorder):08x}", native=True),
    "ifname": Type(41, 16, _name, lambda wire: f'"{wire.rstrip(bytes(1)).decode()}"', native=True),
}
_OF_NUMBER = {each.number: name for name, each in TYPES.items()}


class Span(NamedTuple):
    """From this value to this one, as they are compared; both are the same where it is one value."""

    first: bytes
    last: bytes


def parts(kind: str) -> list[Type]:
    """The types that this one is made of. Raises ValueError for one that is not known here."""
    try:
        return [TYPES[each] for each in kind.split(" . ")]
    except KeyError as error:
        raise ValueError(f"{kind} has a type that is not known here") from error


def number_of(kind: str) -> int:
    """nft's number for it. Raises ValueError."""
    number = 0
    for each in parts(kind):
        number = number << _BITS | each.number
    return number


def kind_of(number: int) -> str:
    """The type that has this number, in words. Raises ValueError."""
    names: list[str] = []
    while number:
        name = _OF_NUMBER.get(number & (1 << _BITS) - 1)
        if name is None:
            raise ValueError(f"a type of number {number} is not known here")
        names.insert(0, name)
        number >>= _BITS
    return " . ".join(names)


def sizes(kind: str) -> list[int]:
    """The bytes that each of it takes. Raises ValueError."""
    found = [each.size for each in parts(kind)]
    return [each + 3 & ~3 for each in found] if len(found) > 1 else found


def byte_order(kind: str) -> int:
    """nft's number for that of its values (enum byteorder): the machine's, the network's, of several none."""
    types = parts(kind)
    return 0 if len(types) > 1 else 1 if types[0].native else 2


def packer(kind: str) -> Callable[[str], Span]:
    """What makes bytes of values or ranges, and raises ValueError for what is none. Raises ValueError for the type."""
    types = parts(kind)
    padding = [bytes(-each.size % 4) for each in types]

    def together(text: str) -> Span:
        spans = [_span(each, word) for each, word in zip(types, text.split(" . "), strict=True)]
        return Span(*(b"".join([each[end] + pad for each, pad in zip(spans, padding, strict=True)]) for end in (0, 1)))

    def packed(text: str) -> Span:
        try:
            return together(text) if len(types) > 1 else _span(types[0], text)
        except (OSError, ValueError, OverflowError, struct.error) as error:
            raise ValueError(f"{text} is no {kind}: {error}") from error

    return packed


def reader(kind: str) -> Callable[[Span], str]:
    """What gives the words for what was read. Raises ValueError for the type."""
    types = parts(kind)
    if len(types) == 1:
        return partial(_words, types[0])
    starts = accumulate(sizes(kind)[:-1], initial=0)
    places = [(each, slice(start, start + each.size)) for each, start in zip(types, starts, strict=True)]

    def together(found: Span) -> str:
        first, last = found
        if first == last:
            return " . ".join([each.unpack(first[here]) for each, here in places])
        return " . ".join([_words(each, Span(first[here], last[here])) for each, here in places])

    return together


def data_packer(kind: str) -> Callable[[str], bytes]:
    """What makes the inside of NFTA_SET_ELEM_DATA of what an element leads to, and raises ValueError for what is none.

    Raises ValueError for the type.
    """
    if kind == VERDICT:
        return _verdict
    packed = packer(kind)
    return lambda text: attribute(_VALUE, packed(text).first)


def data_reader(kind: str) -> Callable[[bytes], str]:
    """What gives the words for the inside of NFTA_SET_ELEM_DATA. Raises ValueError for the type."""
    if kind == VERDICT:
        return _verdict_words
    words = reader(kind)

    def read(wire: bytes) -> str:
        value = nested(wire, _VALUE)
        return words(Span(value, value))

    return read


def _verdict(text: str) -> bytes:
    code, _, chain = text.partition(" ")
    if code not in _VERDICTS or bool(chain) != (code in ("jump", "goto")):
        raise ValueError(f"{text} is no verdict")
    name = attribute(_CHAIN, chain.encode() + b"\0") if chain else b""
    return attribute(_VERDICT | NESTED, attribute(_CODE, struct.pack("!i", _VERDICTS[code])) + name)


def _verdict_words(wire: bytes) -> str:
    verdict = nested(wire, _VERDICT)
    code = int.from_bytes(nested(verdict, _CODE), "big", signed=True)
    word = next((each for each, number in _VERDICTS.items() if number == code), str(code))
    return f"{word} {nested(verdict, _CHAIN).rstrip(bytes(1)).decode()}".rstrip()


def after(value: bytes) -> bytes | None:
    """The value that comes next; None after the last of all."""
    number = int.from_bytes(value, "big") + 1
    return None if number >> 8 * len(value) else number.to_bytes(len(value), "big")


def before(value: bytes) -> bytes:
    """The value that comes before one that is not the first of all."""
    return (int.from_bytes(value, "big") - 1).to_bytes(len(value), "big")


def _span(each: Type, text: str) -> Span:
    if not each.ranges:
        value = each.pack(text)
        return Span(value, value)
    start, slash, bits = text.partition("/")
    start, dash, end = start.partition("-")
    first = each.pack(start)
    if not slash:
        return Span(first, each.pack(end) if dash else first)
    hosts = (1 << 8 * each.size - int(bits)) - 1
    low = int.from_bytes(first, "big") & ~hosts
    return Span(low.to_bytes(each.size, "big"), (low | hosts).to_bytes(each.size, "big"))


def _words(each: Type, found: Span) -> str:
    if found.first == found.last:
        return each.unpack(found.first)
    low, high = (int.from_bytes(end, "big") for end in found)
    hosts = low ^ high
    is_prefix = not hosts & (hosts + 1) and not low & hosts
    if is_prefix and each.size >= 4:
        return f"{each.unpack(found.first)}/{8 * each.size - hosts.bit_length()}"
    return f"{each.unpack(found.first)}-{each.unpack(found.last)}"
