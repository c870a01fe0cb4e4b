"""The keys of JSON objects, which are the fields of structs: what was meant by one that is none, and how to say so.

    strangers({"isGatway": True}, NetConf())   ->   Stranger("isGatway", "isGateway")

Promises: what is known already costs a look into a dictionary and imports nothing; a field is the one place where a key
stands, so that a new one is known at once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from functools import cache
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

_WORDS = {"id": "ID", "cidrs": "CIDRs", "ip": "IP", "ipv4": "IPv4", "ipv6": "IPv6", "mtu": "MTU"}
_CLOSE = 0.8
"""Of difflib's measure: one wrong letter in five, two in eleven."""
_MISSING, _NONE_OF = "Object missing required field `", "Invalid enum value "


class Stranger(NamedTuple):
    """A key that nobody reads: where it stands, and the one that was probably meant, else ""."""

    path: str
    meant: str


@cache
def spelled(field: str) -> str:
    """A field's key as people write it: `pod_cidrs` is `podCIDRs`."""
    first, *rest = field.split("_")
    return first + "".join(_WORDS.get(each, each.capitalize()) for each in rest)


def near(word: str, known: Iterable[str]) -> str:
    """The one of these that is probably meant by a word, "" when none is close."""
    plain = {_plain(each): each for each in known}
    wanted = _plain(word)
    found = next((each for each in plain if sorted(each) == sorted(wanted)), "")  # letters that changed places
    if not found:
        from difflib import get_close_matches  # 5 ms, and only for who made a mistake

        found = next(iter(get_close_matches(wanted, plain, 1, _CLOSE)), "")
    return plain.get(found, "")


def strangers(
    value: object, *made: object, at: str = "", exact: bool = False, besides: Container[str] = ()
) -> Iterator[Stranger]:
    """Keys of a JSON value that none of the structs `made` of it has, at any depth; `exact`: case matters.

    Those of others, in lower case, are passed over.
    """
    if isinstance(value, list):
        for index, each in enumerate(value):
            inside = [one[index] for one in made if isinstance(one, tuple) and index < len(one)]
            yield from strangers(each, *inside, at=f"{at}[{index}]", exact=exact, besides=besides)
    structs = [each for each in made if isinstance(each, msgspec.Struct)]
    if not isinstance(value, dict) or not structs:
        return
    known = _known(tuple(type(each) for each in structs))
    for key, each in value.items():
        path = f"{at}.{key}" if at else key
        field = known.get(key if exact else key.lower())
        if field is None and key.lower() not in besides:
            words = [key if exact or not key.isalnum() else spelled(field) for key, field in known.items()]
            yield Stranger(path, near(key, words))
        elif field is not None and isinstance(each, dict | list):
            inside = [getattr(one, field) for one in structs if field in one.__struct_fields__]
            yield from strangers(each, *inside, at=path, exact=exact, besides=besides)


def complaint(error: msgspec.ValidationError, raw: object, at: str, shape: Any) -> str:
    """msgspec says `Expected `int`, got `str` - at `$.mtu``: give the key as written, and the value there."""
    what, _, path = str(error).partition(" - at `$")
    keys, value, fields = [at] if at else [], raw, [""]
    for step in path.rstrip("`").replace("[", ".[").split(".")[1:]:
        if isinstance(value, dict):
            written = next((key for key in value if key.lower() == step.lower()), step)
            keys.append(written)
            fields.append(step)
            value = value.get(written)
        elif isinstance(value, list) and step.startswith("[") and step[1:-1].isdigit():
            keys[-1:] = [f"{keys[-1] if keys else ''}{step}"]
            value = value[int(step[1:-1])]
    name = ".".join(keys) or "the configuration"
    return f"invalid {name} {value!r}: {_reason(what, value, fields[-1], shape)}"


def _reason(what: str, value: object, key: str, shape: Any) -> str:
    """With the key that is missing as people write it, and what else a word may be."""
    if what.startswith(_MISSING):
        field = _field(shape, what.removeprefix(_MISSING).rstrip("`"))
        wrong = near(field, value) if isinstance(value, dict) else ""
        return f"it has no {field}" + (f": write {field} where you wrote {wrong}" if wrong else "")
    if what.startswith(_NONE_OF):
        return f"use one of {', '.join(map(repr, _choices(shape, key)))}"
    return f"{what[:1].lower()}{what[1:]}"


@cache
def _known(kinds: tuple[type, ...]) -> dict[str, str]:
    """The field behind each key; remembered, for every ADD asks."""
    return {key: field for each in kinds for key, field in _fields(each)}


def _fields(struct: Any) -> Iterable[tuple[str, str]]:
    return zip(struct.__struct_encode_fields__, struct.__struct_fields__, strict=True)


def _shapes(shape: Any) -> Iterator[Any]:
    """The struct, and those within it."""
    for each in (shape, *get_args(shape)):
        if isinstance(each, type) and issubclass(each, msgspec.Struct):
            yield each
            for hint in get_type_hints(each).values():
                yield from _shapes(hint)
        elif each is not shape:
            yield from _shapes(each)


def _field(shape: Any, key: str) -> str:
    return next((spelled(field) for each in _shapes(shape) for found, field in _fields(each) if found == key), key)


def _choices(shape: Any, key: str) -> tuple[object, ...]:
    for each in _shapes(shape):
        for found, field in _fields(each):
            hint = get_type_hints(each)[field]
            if found == key and get_origin(hint) is Literal:
                return get_args(hint)
    return ()


def _plain(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))
