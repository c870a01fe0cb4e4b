"""Programs in the background, known again by whoever comes after us: none is started twice, and no other is ever ended.

Which process a daemon is stands in a note: its number, when it was started and in which boot, by which no other process
is it (proc_pid_stat(5)); what it runs; and what it was begun with. Who is killed between starting one and noting that
leaves one without a note: its environment says whose it is, and it is ended before another is started.

    4711 8842213 5c1f...   /usr/sbin/bird      then what it was begun with, a line each
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from cni_plugin.kernel.host import files, program

_OWNER = "TULLE_DAEMON"
_AFTER_TERM = 5.0
"""Seconds until one that was asked to end is killed with all that it started."""
_AFTER_KILL = 2.0
_STDERR = 2
_JOURNAL = "/run/systemd/journal/stdout"
"""A connection begins with a name, a unit, a priority, and whether prefixes are heeded (journald-stream.c of systemd).
"""
_INFO = 6
_DELETED = " (deleted)"
"""What follows the name of a file that was replaced since, by an upgrade (proc_pid_exe(5))."""


class Process(NamedTuple):
    """A process that is what its note says; `begun_with` are the lines that it was begun with."""

    pid: int
    begun_with: tuple[str, ...]


class _Seen(NamedTuple):
    """Of a line of /proc/PID/stat."""

    state: str
    session: int
    started: str


def find(note: str) -> Process | None:
    """The process of a note; None where there is no such process any more. Raises OSError."""
    lines = (files.note(note) or b"").decode(errors="replace").split("\n")
    pid, started, boot = (lines[0].split() + [""] * 3)[:3]
    if not pid.isdecimal() or boot != files.boot_id():
        return None
    seen = _seen(int(pid))
    if seen is None or seen.started != started or _runs(int(pid)) not in lines[1:2]:
        return None
    return Process(int(pid), tuple(lines[2:-1]))


def begin(note: str, command: Sequence[str], begun_with: Sequence[str]) -> None:
    """Start it, unless it runs; one whose note was lost is ended first. Raises OSError, ENOSYS before Linux 5.3."""
    if any("\n" in each for each in (note, *begun_with)):
        raise OSError(errno.EINVAL, "what a daemon is begun with has no line breaks in it")
    os.close(os.pidfd_open(os.getpid()))
    files.make_folder(os.path.dirname(note))
    if find(note) is not None:
        return
    for pid in _without_note(note):
        _write(note, pid, ())
        end(note)
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", _OWNER: note}
    with _voice(os.path.basename(note)) as voice:
        pid = program.start(list(command), environ, voice)
    _write(note, pid, begun_with)


def noted(folder: str) -> list[str]:
    """The names of the notes in a folder. Raises OSError."""
    return files.names(folder)


def tell(note: str, number: int, begun_with: Sequence[str]) -> None:
    """Send a signal to it, if it runs, by which it is as if it was begun with these lines. Raises OSError."""
    with _held(note) as held:
        if held is not None:
            found, fd = held
            _write(note, found.pid, begun_with)
            signal.pidfd_send_signal(fd, number)


def end(note: str) -> None:
    """Ask it to end, and kill it with what it started if it does not; there is no note of it then. Raises OSError."""
    with _held(note) as held:
        if held is not None:
            found, fd = held
            signal.pidfd_send_signal(fd, signal.SIGTERM)
            if not _is_over(fd, _AFTER_TERM):
                os.killpg(found.pid, signal.SIGKILL)
                _is_over(fd, _AFTER_KILL)
            _seen(found.pid)  # a child of ours is waited for
    files.remove(note)


def watch(note: str) -> int:
    """A descriptor, for the caller to close, that can be read when it has ended; -1 where it does not run.

    Raises OSError.
    """
    held = _hold(note)
    return -1 if held is None else held[1]


def _hold(note: str) -> tuple[Process, int] | None:
    found = find(note)
    if found is None:
        return None
    try:
        fd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return None
    if find(note) != found:  # it ended before, and its number may be another's
        os.close(fd)
        return None
    return found, fd


@contextmanager
def _held(note: str) -> Iterator[tuple[Process, int] | None]:
    """It with that descriptor while the block runs, None where it does not; to signal who ended since is no error."""
    held = _hold(note)
    try:
        with suppress(ProcessLookupError):
            yield held
    finally:
        if held is not None:
            os.close(held[1])


def _is_over(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _write(note: str, pid: int, begun_with: Sequence[str]) -> None:
    seen = _seen(pid)
    if seen is not None:  # else it is over already, and whoever watches it sees that
        lines = [f"{pid} {seen.started} {files.boot_id()}", _runs(pid), *begun_with, ""]
        files.write(note, "\n".join(lines).encode())


def _seen(pid: int) -> _Seen | None:
    """None for one that is over; a child of ours is waited for."""
    try:
        stat = (files.read(f"/proc/{pid}/stat") or b"").decode(errors="replace")
    except OSError:
        return None
    words = stat.rpartition(")")[2].split()
    if len(words) < 20 or words[0] in ("Z", "X"):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        return None
    return _Seen(words[0], int(words[3]), words[19])


def _runs(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(_DELETED)
    except OSError:
        return ""


def _without_note(note: str) -> Iterator[int]:
    """Processes that were started to be it: those that have this in their environment, and lead a session of their own.
    """
    owner = f"{_OWNER}={note}".encode()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            environ = files.read(f"/proc/{pid}/environ") or b""
        except OSError:  # over, or not ours to read
            continue
        if owner in environ.split(b"\0") and (seen := _seen(pid)) is not None and seen.session == pid:
            yield pid


@contextmanager
def _voice(name: str) -> Iterator[int]:
    """What it says goes where what we say goes: to the journal under its name, if we are a service of systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as journal:
        yield journal.fileno() if _is_heard(journal, name) else _STDERR


def _is_heard(journal: socket.socket, name: str) -> bool:
    if "JOURNAL_STREAM" not in os.environ:  # which systemd sets for those whose stderr it is
        return False
    try:
        journal.connect(_JOURNAL)
        journal.sendall(f"{name}\n\n{_INFO}\n1\n0\n0\n0\n".encode())
    except OSError:
        return False
    return True
