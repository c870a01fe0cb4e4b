"""Questions to the agent over its socket: "status", "requests", "metrics". One question a connection, JSON back.

The tool does without an agent wherever it can, so an agent that is away is an ordinary answer here: `None`, or
`AgentAway` with the reason where nothing can be done without it. An agent that says nothing for five seconds is away.
"""

from __future__ import annotations

import socket

import msgspec

from cni_plugin import decoding, wire
from cni_plugin.errors import TRY_AGAIN_LATER, CniError

PATIENCE = 5.0
"""Seconds."""
_SERVED_AT_ONCE = 1 << 16


class AgentAway(CniError):
    """No agent answers at this run folder; `msg` says why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(TRY_AGAIN_LATER, f"no agent answers at {path}: {why}; start it with: systemctl start tulled")


def socket_of(run_dir: str) -> str:
    """The path of the agent's socket."""
    return f"{run_dir}/{wire.SOCKET}"


def ask(run_dir: str, question: str) -> object:
    """The agent's answer, decoded. Raises AgentAway."""
    path = socket_of(run_dir)
    try:
        return decoding.decode(_exchange(path, question))
    except (OSError, wire.WireError, msgspec.MsgspecError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise AgentAway(path, why) from error


def status(run_dir: str) -> dict[str, object] | None:
    """What the agent says of itself, None when it is away."""
    try:
        answer = ask(run_dir, "status")
    except AgentAway:
        return None
    return answer if isinstance(answer, dict) else None


def present(run_dir: str) -> dict[str, object]:
    """What the agent says of itself, {} when there is none. Raises AgentAway when that cannot be told."""
    try:
        answer = ask(run_dir, "status")
    except AgentAway as error:
        if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError):
            return {}
        raise
    return answer if isinstance(answer, dict) else {}


def _exchange(path: str, question: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(PATIENCE)
        channel.connect(path)
        greeting = _read(channel, len(wire.GREETING))
        first, last = greeting[5], greeting[6]
        if greeting[:5] != wire.GREETING[:5] or not first <= wire.VERSION <= last:
            raise wire.WireError(f"it greets with {greeting!r}, which this release does not understand")
        channel.sendall(wire.request(wire.ASK, question))
        code, length = wire.parse_reply_header(_read(channel, wire.REPLY_HEADER))
        answer = _read(channel, length)
        if code:
            raise wire.WireError(answer.decode(errors="replace") or f"it refuses the question {question!r}")
        return answer


def _read(channel: socket.socket, length: int) -> bytes:
    chunks = b""
    while len(chunks) < length:
        chunk = channel.recv(min(length - len(chunks), _SERVED_AT_ONCE))
        if not chunk:
            raise wire.WireError("it hung up in the middle of its answer")
        chunks += chunk
    return chunks
