"""The frozen client's one codec is the standard library's UTF-8, whatever a stream asks of it."""

from __future__ import annotations

import codecs
import io
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "scripts/lib/pack/client_encodings.py"

WITHOUT_THE_STANDARD_LIBRARY = f"""
import sys
before = set(sys.modules)
exec(compile(open({str(SOURCE)!r}).read(), "encodings", "exec"), {{"__name__": "encodings"}})
print(*sorted(set(sys.modules) - before))
"""


@pytest.fixture(scope="module")
def names() -> dict[str, object]:
    """What the module defines. It would take the place of `io` in this very interpreter, so that is put back."""
    found: dict[str, object] = {"__name__": "encodings"}
    try:
        exec(compile(SOURCE.read_text(), str(SOURCE), "exec"), found)
    finally:
        sys.modules["io"] = io
    codecs.unregister(found["search_function"])  # type: ignore[arg-type]
    return found


PIECES = [b"plain", "ä€\U0001f40b".encode()[:4], "ä€\U0001f40b".encode()[4:], b"", b"end"]


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_pieces_are_decoded_as_the_standard_library_does(names: dict[str, object], errors: str) -> None:
    ours = names["Incremental"](errors)  # type: ignore[operator]
    theirs = codecs.getincrementaldecoder("utf-8")(errors)
    for piece in PIECES:
        assert ours.decode(piece) == theirs.decode(piece)
        assert ours.getstate() == theirs.getstate()
    assert ours.decode(b"\xc3\xa4", True) == theirs.decode(b"\xc3\xa4", True)


def test_what_is_cut_off_in_the_end_is_an_error(names: dict[str, object]) -> None:
    ours = names["Incremental"]()  # type: ignore[operator]
    assert ours.decode(b"\xe2\x82") == ""
    with pytest.raises(UnicodeDecodeError):
        ours.decode(b"", True)
    ours.reset()
    assert ours.decode(b"a", True) == "a"


def test_a_decoder_goes_on_from_where_another_was(names: dict[str, object]) -> None:
    one, other = (names["Incremental"]() for _ in range(2))  # type: ignore[operator]
    one.decode(b"\xe2\x82")
    other.setstate(one.getstate())
    assert other.decode(b"\xac") == "€"
    other.setstate(0)
    assert other.encode("€") == "€".encode()


def test_no_name_but_that_of_utf8_means_anything(names: dict[str, object]) -> None:
    search = names["search_function"]
    assert [search(name) is names["UTF_8"] for name in ("utf-8", "utf_8", "utf8")] == [True] * 3  # type: ignore[operator]
    assert search("latin-1") is None  # type: ignore[operator]


def test_nothing_is_imported_that_is_not_built_in() -> None:
    """Each module that starts with the client is paid for by each pod."""
    argv = [sys.executable, "-I", "-S", "-c", WITHOUT_THE_STANDARD_LIBRARY]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
