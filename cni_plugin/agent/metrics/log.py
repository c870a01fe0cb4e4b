"""The agent's log: one line of logfmt a happening, on stderr, which systemd keeps in the journal.

    <6>level=info msg=served verb=ADD network=pods container=3f1c ifname=eth0 code=0 ms=3.412 ipam_ms=0.401

logfmt is what people can read in `journalctl -u tulled` and what Loki's `| logfmt` takes apart. The number in front
is for journald alone (sd-daemon(3)), so it is there only when stderr leads to it ($JOURNAL_STREAM).

Promise: a log that is full, slow or closed never holds or ends the agent. The line is dropped and counted, and the
next one that gets through tells how many were.
"""

from __future__ import annotations

import io
import os
import re
import select
import socket
import stat
from collections.abc import Mapping

import msgspec

PRIORITIES = {"error": 3, "warn": 4, "info": 6, "debug": 7}
"""syslog(3)'s numbers of our levels; a level logs itself and what is before it."""
LONGEST_LINE = 4096
"""PIPE_BUF: up to here a write to a pipe is whole or not at all (pipe(7))."""
_LONGEST_VALUE = 256
_LONGEST_MESSAGE = 2048
_PLAIN = re.compile(r"[\w\-.,:;/+@%()\[\]{}<>|~#&*!?^$'`]+")


class Log:
    """Writes lines of this level and the graver ones. `dropped` counts those that could not be written."""

    def __init__(self, level: str = "info", fd: int = 2) -> None:
        self._most = PRIORITIES[level]
        self._sink = _Sink(fd)
        self._prefixed = _is_journal(fd)
        self._untold = 0
        self.dropped = 0

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """One line. Never waits, never raises."""
        if PRIORITIES[level] > self._most:
            return
        told = {"dropped_lines": self._untold} if self._untold else {}
        if self._sink.write(self._render(level, message, {**fields, **told})):
            self._untold = 0
        else:
            self._untold += 1
            self.dropped += 1

    def close(self) -> None:
        """Let go of what was opened; stderr itself stays."""
        self._sink.close()

    def _render(self, level: str, message: str, fields: Mapping[str, object]) -> bytes:
        words = [f"level={level}", f"msg={_value(message, _LONGEST_MESSAGE)}"]
        words += [f"{key}={_value(each, _LONGEST_VALUE)}" for key, each in fields.items() if each not in ("", None)]
        prefix = f"<{PRIORITIES[level]}>" if self._prefixed else ""
        return (prefix + " ".join(words)).encode(errors="replace")[: LONGEST_LINE - 1] + b"\n"


class Lines(io.TextIOBase):
    """Stands in for sys.stderr in the agent: what the engine says there becomes lines of the log, and waits for nobody.

        stack.enter_context(redirect_stderr(Lines(log)))
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._begun = ""

    def write(self, text: str) -> int:
        """Keep what is said until its line is whole."""
        *whole, self._begun = (self._begun + text).split("\n")
        for line in filter(None, whole):
            self._log.write("warn", line, {})
        self._begun = self._begun[-_LONGEST_MESSAGE:]
        return len(text)


class _Sink:
    """Where lines go. What others share with us, the mode of their terminal or pipe, is left as it is.

    A socket is sent to without waiting. All else is opened once more, for O_NONBLOCK belongs to an opening and not to
    a file; where that is not allowed we write only when poll says that there is room.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._socket: socket.socket | None = None
        self._own = -1
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                self._socket = socket.socket(fileno=os.dup(fd))
            else:
                flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            pass

    def write(self, line: bytes) -> bool:
        """Whether the whole line was taken."""
        try:
            if self._socket is not None:
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(line)
            if self._own >= 0:
                return os.write(self._own, line) == len(line)
            return _has_room(self._fd) and os.write(self._fd, line) == len(line)
        except (OSError, ValueError):  # closed: as poll says it
            return False

    def close(self) -> None:
        """Let go of our own openings."""
        if self._socket is not None:
            self._socket.close()
        if self._own >= 0:
            os.close(self._own)
        self._socket, self._own = None, -1


def _has_room(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(events == select.POLLOUT for _, events in poll.poll(0))


def _is_journal(fd: int) -> bool:
    """Whether this is the stream that systemd connected to the journal: $JOURNAL_STREAM is its device and inode."""
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _value(value: object, longest: int) -> str:
    """As logfmt has it: quoted like a JSON string when it is not one plain word."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if len(text) > longest:
        text = f"{text[: longest - 3]}..."
    if _PLAIN.fullmatch(text):
        return text
    return msgspec.json.encode(text.encode(errors="replace").decode()).decode()
