"""Another program, run to its end: the only place that starts one.

Its streams are files in memory, not pipes, so that a program that reads nothing, or complains at length, cannot
block us; `posix_spawn` needs no copy of our address space and no import of `subprocess`, which costs 10 ms.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple


class Outcome(NamedTuple):
    """How it ended. `stderr` is empty when it went to ours."""

    code: int
    stdout: bytes
    stderr: bytes


def run(executable: str, arguments: list[str], environ: Mapping[str, str], stdin: bytes, *, quiet: bool) -> Outcome:
    """Run it; with `quiet` its stderr is kept, otherwise it is ours. Raises OSError when it cannot be started."""
    with ExitStack() as open_files:
        source, out, err = (_memory(open_files, name) for name in ("stdin", "stdout", "stderr"))
        _write(source, stdin)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, out, 1)]
        if quiet:
            actions.append((os.POSIX_SPAWN_DUP2, err, 2))
        pid = os.posix_spawn(executable, [executable, *arguments], dict(environ), file_actions=actions)
        _, status = os.waitpid(pid, 0)
        return Outcome(os.waitstatus_to_exitcode(status), _read(out), _read(err))


def _memory(open_files: ExitStack, name: str) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    open_files.callback(os.close, fd)
    return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)


def _read(fd: int) -> bytes:
    """From the beginning: the program shares our offset, which stands at its end."""
    return os.pread(fd, os.fstat(fd).st_size, 0)
