"""Sets, maps and what is in them, as messages: what changes by itself and often, and must cost the same among 50,000.

    changes               the messages of a transaction                 20 us for one element, whatever there is
    described             of which types a set is                       10 us
    element               one, found by its value                       10 us
    elements              all of them: 50,000 addresses in 0.16 s, where nft takes 0.3 to print them; 50,000 of a map
                          from three values to two in 0.5, where nft takes 1.4

For nft nothing is noted but in which byte order a set's values are (`NFTA_SET_USERDATA`), which it needs to list them:
what else one version of it notes another may not know, and some crash on it. Numbers are those of
include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from struct import Struct
from typing import NamedTuple, TypeAlias

from cni_plugin.diff import Op
from cni_plugin.kernel.nft import nft_values
from cni_plugin.kernel.nft.nft_raw import (
    DELETE_ELEMENT,
    DELETE_SET,
    DELETE_TABLE,
    GET_ELEMENT,
    GET_SET,
    GET_TABLE,
    NEW_ELEMENT,
    NEW_SET,
    NEW_TABLE,
    Change,
    RawNft,
    text,
)
from cni_plugin.kernel.nft.nft_values import VERDICT, VERDICT_TYPE, Span
from cni_plugin.kernel.rtnl.codec import NLM_F_CREATE, NLM_F_DUMP
from cni_plugin.kernel.rtnl.raw import NESTED, attribute, attributes, nested
from cni_plugin.model.base import Object
from cni_plugin.model.nft import Element, SetOrMap, Table, by_set

_NAME, _FLAGS, _KEY_TYPE, _KEY_SIZE, _DATA_TYPE, _DATA_SIZE, _DESCRIPTION, _ID, _NOTES = 2, 3, 4, 5, 6, 7, 9, 10, 13
_INTERVAL, _MAP, _CONCAT = 0x4, 0x8, 0x80
_FIELDS, _FIELD_SIZE = 2, 1
_OF_SET, _ELEMENTS = 2, 3
_ITEM = 1
_KEY, _DATA, _ELEMENT_FLAGS, _KEY_END = 1, 2, 3, 10
_VALUE = 1
_INTERVAL_END = 1
_HEAD, _HEADS = 4, 12
"""Bytes of one attribute's head, and of three: of an element, its key, and that one's value."""
_VERDICT_SIZE = 16
"""struct nft_verdict."""
_MOST = 60_000
"""Bytes of elements in a message: the length of an attribute has 16 bits."""

Place: TypeAlias = tuple[str, str]
"""A table, and a set or map in it."""
Contents: TypeAlias = dict[str, str]
"""Values, each with what it leads to, "" in a set."""


class Kind(NamedTuple):
    """What a set or map holds: `data` is "" for a set."""

    type: str
    data: str
    interval: bool

    @property
    def bounds(self) -> bool:
        """Whether a range is kept as two elements: its first value, and the one after its last."""
        return self.interval and " . " not in self.type


def kind_of(each: SetOrMap) -> Kind:
    """What it holds."""
    return Kind(each.type, each.leads_to, each.interval)


def described(raw: RawNft, place: Place) -> Kind | None:
    """What a set or map holds, None where there is none. Raises OSError, ValueError where a type is not known here."""
    table, name = place
    for _, body in raw.ask(Change(GET_SET, table, text(_NAME, name))):
        found = {kind: int.from_bytes(value, "big") for kind, value in attributes(body, 0, len(body))}
        flags, data = found.get(_FLAGS, 0), found.get(_DATA_TYPE, 0)
        leads_to = "" if not flags & _MAP else VERDICT if data == VERDICT_TYPE else nft_values.kind_of(data)
        return Kind(nft_values.kind_of(found[_KEY_TYPE]), leads_to, bool(flags & _INTERVAL))
    return None


def table_stands(raw: RawNft, table: str) -> bool:
    """Whether there is this table. Raises OSError."""
    return bool(raw.ask(Change(GET_TABLE, table)))


def element(raw: RawNft, place: Place, kind: Kind, value: str) -> str | None:
    """What this value leads to, "" in a set; None where it is not there. Raises OSError, ValueError.

    Not of one whose ranges are two elements: the kernel has no word for both.
    """
    (item,) = _packer(kind)(value, "")
    what = text(_OF_SET, place[1]) + attribute(_ELEMENTS | NESTED, item)
    for _, body in raw.ask(Change(GET_ELEMENT, place[0], what)):
        (found,) = _found(nested(body, _ELEMENTS))
        return _data_reader(kind)(found.data)
    return None


def elements(raw: RawNft, place: Place, kind: Kind) -> Contents:
    """All that is in it. Raises OSError, ValueError."""
    answers = raw.ask(Change(GET_ELEMENT, place[0], text(_OF_SET, place[1]), NLM_F_DUMP))
    items = (each for _, body in answers for each in _found(nested(body, _ELEMENTS)))
    words, leads_to = nft_values.reader(kind.type), _data_reader(kind)
    return {words(each.span): leads_to(each.data) for each in (_ranges(items) if kind.bounds else items)}


def changes(ops: Iterable[Op], kinds: Mapping[Place, Kind]) -> list[Change]:
    """The messages for operations on tables, sets, maps and elements: first what goes. Raises ValueError, KeyError.

    `kinds`: what those hold that are not made here.
    """
    ops = list(ops)
    gone = [op.object for op in ops if op.verb == "delete"]
    made = [op.object for op in ops if op.verb != "delete"]
    former = [op.was for op in ops if op.verb == "change" and isinstance(op.was, Element)]
    sets = [each for each in made if isinstance(each, SetOrMap)]
    tables = dict.fromkeys(
        each.name if isinstance(each, Table) else each.table for each in made if isinstance(each, SetOrMap | Table)
    )
    return [
        *_of_elements(DELETE_ELEMENT, [*gone, *former], kinds),
        *(Change(DELETE_SET, each.table, text(_NAME, each.name)) for each in gone if isinstance(each, SetOrMap)),
        *(Change(DELETE_TABLE, each.name) for each in gone if isinstance(each, Table)),
        *(Change(NEW_TABLE, each, flags=NLM_F_CREATE) for each in tables),
        *(Change(NEW_SET, each.table, _declaration(each, number), NLM_F_CREATE) for number, each in enumerate(sets, 1)),
        *_of_elements(NEW_ELEMENT, made, {**kinds, **{(each.table, each.name): kind_of(each) for each in sets}}),
    ]


def _declaration(each: SetOrMap, number: int) -> bytes:
    """As nft would have it, but for its notes."""
    kind, sizes = kind_of(each), nft_values.sizes(each.type)
    flags = (_INTERVAL if each.interval else 0) | (_MAP if kind.data else 0)
    numbers = {_KEY_TYPE: nft_values.number_of(each.type), _KEY_SIZE: sum(sizes), _ID: number}
    if kind.data:
        numbers[_DATA_TYPE] = VERDICT_TYPE if kind.data == VERDICT else nft_values.number_of(kind.data)
        numbers[_DATA_SIZE] = _VERDICT_SIZE if kind.data == VERDICT else sum(nft_values.sizes(kind.data))
    fields = b""
    if each.interval and len(sizes) > 1:  # what the kernel must know to look for ranges of several values together
        flags |= _CONCAT
        each_field = (attribute(_ITEM | NESTED, attribute(_FIELD_SIZE, _number(size))) for size in sizes)
        fields = attribute(_DESCRIPTION | NESTED, attribute(_FIELDS | NESTED, b"".join(each_field)))
    attrs = (attribute(key, _number(value)) for key, value in (numbers | {_FLAGS: flags}).items())
    notes = attribute(_NOTES, _byte_orders(kind))
    return text(_NAME, each.name) + b"".join(attrs) + fields + notes


def _byte_orders(kind: Kind) -> bytes:
    """Of keys and data, as nft has always noted them: a byte for the type, one for the length, and the value."""
    types = [kind.type] if kind.data in ("", VERDICT) else [kind.type, kind.data]
    return b"".join(struct.pack("=BBI", number, 4, nft_values.byte_order(each)) for number, each in enumerate(types))


def _of_elements(kind: int, objects: Iterable[Object], kinds: Mapping[Place, Kind]) -> Iterator[Change]:
    """A message for each set; several where there are more than one may hold."""
    flags = NLM_F_CREATE if kind == NEW_ELEMENT else 0
    for place, found in by_set(objects).items():
        packed = _packer(kinds[place])
        items = (packed(each.value, each.data if flags else "") for each in found)
        for some in _portions(item for both in items for item in both):
            yield Change(kind, place[0], text(_OF_SET, place[1]) + attribute(_ELEMENTS | NESTED, some), flags)


def _portions(items: Iterable[bytes]) -> Iterator[bytes]:
    portion = bytearray()
    for each in items:
        if len(portion) + len(each) > _MOST:
            yield bytes(portion)
            portion.clear()
        portion += each
    if portion:
        yield bytes(portion)


def _packer(kind: Kind) -> Callable[[str, str], list[bytes]]:
    """What makes an element as it is sent, or both that a range is kept as, of its value and data.

    The last of all values has no other after it. Raises ValueError, as what it gives does.
    """
    packed, leads_to = nft_values.packer(kind.type), nft_values.data_packer(kind.data) if kind.data else None
    bound = attribute(_ELEMENT_FLAGS, _number(_INTERVAL_END))

    def items(value: str, data: str) -> list[bytes]:
        first, last = packed(value)
        content = _key(_KEY, first)
        if kind.interval and not kind.bounds:
            content += _key(_KEY_END, last)
        if data and leads_to:
            content += attribute(_DATA | NESTED, leads_to(data))
        after = nft_values.after(last) if kind.bounds else None
        item = attribute(_ITEM | NESTED, content)
        return [item] if after is None else [item, attribute(_ITEM | NESTED, _key(_KEY, after) + bound)]

    return items


def _data_reader(kind: Kind) -> Callable[[bytes], str]:
    return nft_values.data_reader(kind.data) if kind.data else lambda _: ""


def _key(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(_VALUE, value))


def _number(value: int) -> bytes:
    return value.to_bytes(4, "big")


class _Found(NamedTuple):
    """An element as it was read. `bound`: it is what a range ends before."""

    span: Span
    data: bytes
    bound: bool = False


def _found(items: bytes) -> Iterable[_Found]:
    """Elements one after the other; where all lie as the first does, as nearly all do, at a fifth of the time."""
    step = int.from_bytes(items[:2], sys.byteorder) + 3 & ~3
    one = next(iter(_found_one_by_one(items[:step])), None)
    if one is None or len(items) % step:
        return _found_one_by_one(items)
    key, data = one.span.first, one.data
    layout = Struct(f"={_HEADS}s{len(key)}s{-len(key) % 4}x" + (f"{_HEAD}s{len(data)}s" if data else ""))
    if layout.size != step:  # there is more to it than key and data
        return _found_one_by_one(items)
    found = list(layout.iter_unpack(items))
    if len({each[::2] for each in found}) > 1:
        return _found_one_by_one(items)
    if data:
        return [_Found(Span(first, first), leads_to) for _, first, _, leads_to in found]
    return [_Found(Span(first, first), b"") for _, first in found]


def _found_one_by_one(items: bytes) -> Iterator[_Found]:
    for _, item in attributes(items, 0, len(items)):
        parts = dict(attributes(item, 0, len(item)))
        first = nested(parts[_KEY], _VALUE)
        last = nested(parts[_KEY_END], _VALUE) if _KEY_END in parts else first
        flags = int.from_bytes(parts.get(_ELEMENT_FLAGS, b""), "big")
        yield _Found(Span(first, last), parts.get(_DATA, b""), bool(flags & _INTERVAL_END))


def _ranges(found: Iterable[_Found]) -> Iterator[_Found]:
    """Of elements in any order the ranges that they stand for: where one ends another may begin."""
    begun: _Found | None = None
    for each in sorted(found, key=lambda one: (one.span.first, not one.bound)):
        if begun is not None:
            yield begun._replace(span=Span(begun.span.first, nft_values.before(each.span.first)))
        begun = None if each.bound else each
    if begun is not None:
        yield begun._replace(span=Span(begun.span.first, b"\xff" * len(begun.span.first)))
