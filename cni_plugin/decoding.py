"""JSON from outside: the one place that reads it, whoever wrote it.

    decode(b'{"name": "pods"}')            {"name": "pods"}
    decode_as(Record, data)                a typed value
    decode(b"[" * 600 + b"]" * 600)        DecodeError: nested more than 100 deep

Promises: whatever the bytes are, the answer is a value or a DecodeError whose text is for people (a ValidationError,
which is one, where the JSON is right and the type is not); no value is nested so deep that a walk through it, ours or a
library's, could come to the end of the stack; a byte order mark is passed over, as editors on Windows write it.
How large the bytes may be is said where they are read: `kernel.host.files`, `wire`, each source.
"""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

MOST_DEPTH = 100
"""Objects and lists within each other. A Node of Kubernetes has 10, and Python gives up on a walk at some 300."""
_MARK = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_OTHERS = bytes(set(range(256)) - set(b'"[]{}'))
_ALIKE = bytes.maketrans(b"{}", b"[]")
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
"""Signed bytes: 1 and -1."""
_STRING = rb'"[^"]*"'
_PLACE = r" \(byte (\d+)\)$"
"""Compiled when they are needed, as for hardly any pod."""

Shape = TypeVar("Shape")


def decode(data: bytes | str | msgspec.Raw) -> Any:
    """The value that this JSON is. Raises DecodeError, and no ValidationError: no type was asked for."""
    try:
        return decode_as(object, data)
    except msgspec.ValidationError as error:  # 1e400, which no float holds
        raise msgspec.DecodeError(str(error)) from None


def decode_as(kind: type[Shape], data: bytes | str | msgspec.Raw) -> Shape:
    """The value of this type that it is. Raises DecodeError.

    A Struct is as deep as its fields say, so that nothing need be looked at before; one with a field that may be
    anything is to be converted from what was decoded without a type.
    """
    text = (data.encode(errors="replace") if isinstance(data, str) else bytes(data)).removeprefix(_MARK)
    if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)) and _is_deep(text):
        raise msgspec.DecodeError(f"JSON is nested more than {MOST_DEPTH} deep")
    try:
        return msgspec.json.decode(text, type=kind)
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"JSON is malformed: {_encoding(text, error)}") from None
    except RecursionError:  # what is cut off after many an opening bracket
        raise msgspec.DecodeError(f"JSON is nested more than {MOST_DEPTH} deep") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise msgspec.DecodeError(_worded(str(error), text)) from None


def string_in(data: bytes, key: str) -> str:
    """What an object says under a key in any case, be the rest of it no JSON at all; "" where that is no string."""
    found = ""
    for each in re.finditer(rb'"%s"\s*:\s*("(?:[^"\\]|\\.)*")' % re.escape(key.encode()), data, re.IGNORECASE):
        before = _brackets(data[: each.start()])
        if before.count(b"[") - before.count(b"]") == 1:
            with suppress(msgspec.DecodeError):
                found = decode_as(str, each[1])
    return found


def _is_deep(data: bytes) -> bool:
    """Whether JSON is too deep: a bracket goes down a level or comes up again, and each is looked at once."""
    if data.count(b"[") + data.count(b"{") <= MOST_DEPTH:
        return False
    steps = memoryview(_brackets(data).translate(_STEPS)).cast("b")
    return any(depth > MOST_DEPTH for depth in accumulate(steps))


def _brackets(data: bytes) -> bytes:
    """Those that stand outside of strings, the curly ones as square ones."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return re.sub(_STRING, b"", data.translate(_ALIKE, _OTHERS).replace(b'""', b""))


def _encoding(text: bytes, error: UnicodeDecodeError) -> str:
    if text.startswith(_WIDE):
        return "it is UTF-16; save it as UTF-8"
    at = text.find(error.object)
    return f"byte 0x{error.object[error.start]:02x} is no UTF-8{_place(text, at + error.start) if at >= 0 else ''}"


def _worded(said: str, text: bytes) -> str:
    if text.startswith(_WIDE):
        return "JSON is malformed: it is UTF-16; save it as UTF-8"
    found = re.search(_PLACE, said)
    return said[: found.start()] + _place(text, int(found[1])) if found else said


def _place(text: bytes, at: int) -> str:
    """Where that byte is for who looks at it in an editor."""
    before = text[:at]
    start = before.rfind(b"\n") + 1
    return f" (line {before.count(10) + 1}, column {len(before[start:].decode(errors='replace')) + 1})"
