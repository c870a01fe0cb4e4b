"""JSON from outside: a value, or a sentence about what is wrong with it; never the end of the stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import decoding
from cni_plugin.decoding import MOST_DEPTH, decode, decode_as, string_in


class Named(msgspec.Struct):
    name: str = ""


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_as_deep_as_may_be_and_no_deeper() -> None:
    assert json.dumps(decode(nested(MOST_DEPTH))).encode() == nested(MOST_DEPTH)
    for data in (
        nested(MOST_DEPTH + 1), nested(600), nested(100_000), b"[" * 100_000, b'{"a":' * 2000,
        b'{"a":[],"b":' * 101 + b"1" + b"}" * 101, b"[[]," * 2000 + b"1" + b"]" * 2000,
    ):
        with pytest.raises(msgspec.DecodeError, match=f"more than {MOST_DEPTH} deep"):
            decode(data)


def test_a_comb_of_brackets_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one of a few MB, each tooth of it 95 deep, would hold whoever reads it for a second a level."""
    steps: list[int] = []

    def counted(each: memoryview) -> Iterator[int]:
        steps.append(len(each))
        return accumulate(each)

    monkeypatch.setattr(decoding, "accumulate", counted)
    comb = b"[" + b",".join([nested(95)] * 200) + b"]"
    assert len(decode(comb)) == 200
    assert steps == [2 + 2 * 95 * 200]


def test_a_struct_is_read_without_what_it_does_not_name_however_deep_that_is() -> None:
    assert decode_as(Named, b'{"name": "pods", "x": ' + nested(300) + b"}").name == "pods"
    with pytest.raises(msgspec.DecodeError, match="deep"):
        decode_as(Named, b'{"name": "pods", "x": ' + nested(5000) + b"}")


DEEP = st.recursive(
    st.sampled_from(['[[["', "\\", '\\"[{', "", "}]", 1, None]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["[", '"', "x"]), inner, max_size=2),
    max_leaves=20,
)


@given(DEEP, st.integers(MOST_DEPTH - 8, MOST_DEPTH + 3))
@settings(max_examples=200, deadline=None)
def test_depth_is_counted_whatever_stands_in_strings(value: Any, levels: int) -> None:
    for _ in range(levels):
        value = [value, "]"]
    text = json.dumps(value).encode()
    if depth(value) <= MOST_DEPTH:
        assert decode(text) == value
    else:
        with pytest.raises(msgspec.DecodeError, match="deep"):
            decode(text)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{\n  "a": 1 2}', "expected ',' or '}' (line 2, column 10)"),
        ('{"ä": 1,, }'.encode(), "object keys must be strings (line 1, column 9)"),
        (b'{"a": "n\xff2"}', "byte 0xff is no UTF-8 (line 1, column 9)"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"a": "\\ud800"}', "truncated"),
        (b"", "truncated"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(data: bytes, words: str) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        decode(data)
    assert words in str(caught.value)


def test_a_number_that_nothing_holds_is_told_where_no_type_is_asked_for() -> None:
    with pytest.raises(msgspec.DecodeError, match="out of range") as told:
        decode(b'{"interval": 1e400}')
    assert not isinstance(told.value, msgspec.ValidationError)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode('\ufeff{"name": "pods"}'.encode()) == {"name": "pods"}


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0123\udcffx', max_size=60))
@settings(max_examples=500, deadline=None)
def test_whatever_the_bytes_are_the_answer_is_a_value_or_a_decode_error(data: bytes | str) -> None:
    for kind in (object, Named):
        try:
            decode_as(kind, data)
        except msgspec.DecodeError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"name": "pods", "x": ' + nested(2000) + b"}", "pods"),
        (b'{"x": ' + nested(2000) + b', "Name": "pods"}', "pods"),
        (b'{"name": "a", "name": "pods", "x": [}', "pods"),
        (b'{"name": "pods", "x": {"y', "pods"),
        (b'{"x": {"name": "no"}, "y": "\\"name\\": \\"no\\"", "n": "[{", "name": "p\\u006fds"', "pods"),
        (b'{"x": {"name": "no"}, "name": 5', ""),
        (b'[{"name": "no"}', ""),
        (b'"name": "no"', ""),
        (b'{"name": "\xff"', ""),
        (b"", ""),
    ],
)
def test_a_key_at_the_top_is_found_in_what_is_no_json(data: bytes, name: str) -> None:
    assert string_in(data, "name") == name
