"""Frames between a client and the agent, over the Unix socket `<run>/agent.sock`.

The agent speaks first, so that a client knows whom it has before it has sent anything: who meets no agent, another
protocol or silence has lost nothing and serves the request by itself.

    agent    b"TULLE", first and last protocol version it speaks (a byte each), b"\\n"            8 bytes
    client   b"T", version, kind, 0, three lengths (u32, little-endian)                          16 bytes
             plugin's name, environment (NAME=VALUE with zeros between), stdin
             with it, by SCM_RIGHTS, the network namespace of CNI_NETNS, if it could be opened
    agent    b"t", version, exit code, 0, length (u32)                                           8 bytes
             what goes to stdout

A frame of kind ASK is a question of an operator's tool; the name is the question and the answer is JSON. Everything is
bounded: a frame is at most `LARGEST` bytes, a connection carries one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

VERSION = 1
CNI, ASK = 1, 2
LARGEST = 8 << 20
"""Bytes of a request without its header; a client with more to say serves itself."""
FOLDER = "TULLE_CALLED_IN"
"""The variable in which a client says where it stands, "" when that folder is gone; the engine does not see it."""
GREETING = b"TULLE" + bytes([VERSION, VERSION]) + b"\n"
SOCKET = "agent.sock"

_REQUEST = struct.Struct("<sBBxIII")
_REPLY = struct.Struct("<sBBxI")
REQUEST_HEADER = _REQUEST.size
REPLY_HEADER = _REPLY.size


class WireError(ValueError):
    """What came is no frame of ours; nothing of it may be believed."""


class Header(NamedTuple):
    """The beginning of a request: its kind, and the lengths of its three parts in bytes."""

    kind: int
    name: int
    environ: int
    stdin: int

    @property
    def length(self) -> int:
        """Bytes that follow."""
        return self.name + self.environ + self.stdin


class Request(NamedTuple):
    """One request as it came: raw, to be parsed by the engine."""

    kind: int
    name: str
    environ: dict[str, str]
    stdin: bytes


def request(kind: int, name: str, environ: bytes = b"", stdin: bytes = b"") -> bytes:
    """A request's frame."""
    text = name.encode("utf-8", "surrogateescape")
    return _REQUEST.pack(b"T", VERSION, kind, len(text), len(environ), len(stdin)) + text + environ + stdin


def parse_header(data: bytes | bytearray) -> Header:
    """The header of a request. Raises WireError."""
    mark, version, kind, *lengths = _REQUEST.unpack_from(data)
    header = Header(kind, *lengths)
    if mark != b"T" or version != VERSION or kind not in (CNI, ASK):
        raise WireError(f"a frame that begins with {data[:REQUEST_HEADER]!r}")
    if header.length > LARGEST:
        raise WireError(f"a frame of {header.length} bytes, {LARGEST} are allowed")
    return header


def parse_request(header: Header, body: bytes) -> Request:
    """The request behind its header. The environment is decoded as Python decodes its own (PEP 383)."""
    name, environ = body[: header.name], _text(body[header.name : header.name + header.environ])
    pairs = [each.partition("=") for each in environ.split("\0") if each]
    return Request(
        header.kind,
        _text(name),
        {key: value for key, _, value in pairs},
        body[header.name + header.environ :],
    )


def reply(stdout: bytes, code: int) -> bytes:
    """A reply's frame."""
    return _REPLY.pack(b"t", VERSION, code, len(stdout)) + stdout


def parse_reply_header(data: bytes) -> tuple[int, int]:
    """Exit code and length of what follows. Raises WireError."""
    mark, _, code, length = _REPLY.unpack_from(data)
    if mark != b"t":
        raise WireError(f"a reply that begins with {data[:REPLY_HEADER]!r}")
    return code, length


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
