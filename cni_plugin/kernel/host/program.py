"""Another program, run to its end: the only place that starts one.

Its streams are files in memory, not pipes, so that a program that reads nothing, or complains at length, cannot
block us; `posix_spawn` needs no copy of our address space and no import of `subprocess`, which costs 10 ms. One that
has no end can be given one: it leads a process group of its own, which is killed as a whole.
"""

from __future__ import annotations

import errno
import os
from _thread import allocate_lock, start_new_thread  # built in; `threading` would be an import for each pod
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from signal import SIGKILL, SIGSTOP, valid_signals
from time import monotonic
from typing import NamedTuple

from cni_plugin.kernel.host import files
from cni_plugin.kernel.host.libc import checked, libc

MOST_BYTES = 64 << 20
"""Of what it may say on stdout or stderr."""
_MOST_ANCESTORS = 64
_AFTER_KILL = 2.0
"""Seconds until a killed program is gone; one that hangs in a system call may stay."""
_GLANCE = 0.1
"""Seconds between two looks at how much it has said: the kernel sends no event when a file in memory has grown."""
_CLONE_FS = 0x200
"""clone(2): what a thread has of its own after unshare(2) is root, working folder and umask."""


class Outcome(NamedTuple):
    """How it ended. `stderr` is empty when it went to ours."""

    code: int
    stdout: bytes
    stderr: bytes


def run(
    executable: str, arguments: list[str], environ: Mapping[str, str], stdin: bytes, *, quiet: bool,
    seconds: float = 0.0,
) -> Outcome:
    """Run it; with `quiet` its stderr is kept, otherwise it is ours.

    After `seconds`, unless they are 0, it is killed with all that it started, and before when it says too much: what it
    says is memory of this machine. Raises OSError when it cannot be started or says too much (EFBIG), or when nobody is
    told how it ended (SIGCHLD is ignored), TimeoutError when it was killed for its time.
    """
    with ExitStack() as open_files:
        source, out, err = (_memory(open_files, name) for name in ("stdin", "stdout", "stderr"))
        _write(source, stdin)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, out, 1)]
        if quiet:
            actions.append((os.POSIX_SPAWN_DUP2, err, 2))
        command = [executable, *arguments]
        pid = os.posix_spawn(executable, command, dict(environ), file_actions=actions, setpgroup=0)
        status = _await(pid, seconds, (out, err)) if seconds else os.waitpid(pid, 0)[1]
        return Outcome(os.waitstatus_to_exitcode(status), _read(out), _read(err))


def start(command: list[str], environ: Mapping[str, str], said: int) -> int:
    """Start a program that outlives us, leads a session of its own, and says what it has to say on this descriptor.

    Returns its process number. Raises OSError when it cannot be started.
    """
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [nothing, (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    # what is ignored stays so in who is started: by Python SIGPIPE, by nohup(1) SIGHUP, by which many read files anew
    heeded = valid_signals() - {SIGKILL, SIGSTOP}
    return os.posix_spawn(
        command[0], command, environ, file_actions=actions, setsid=True, setsigdef=heeded, setsigmask=()
    )


def stand_in(folder: str) -> None:
    """Have the calling thread, and the programs that it starts, stand in this folder from now on; no other thread does.

    Where there is no such folder the thread stays where it is.
    """
    with suppress(OSError):
        if folder:
            checked(libc().unshare(_CLONE_FS), "unshare")
            os.chdir(folder)


def is_ancestor(executable: str) -> bool:
    """Whether one of those that started us, near or far, runs this executable (proc_pid_exe(5), proc_pid_stat(5))."""
    pid = os.getppid()
    for _ in range(_MOST_ANCESTORS):
        try:
            if os.path.samefile(f"/proc/{pid}/exe", executable):
                return True
            stat = files.read(f"/proc/{pid}/stat") or b""
            pid = int(stat.rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # the first of all, or one that is gone
            return False
    return True


def _await(pid: int, seconds: float, said: tuple[int, ...]) -> int:
    """The status that it ended with. Kernels before 5.3 cannot wait for a process with a limit: a thread does."""
    over, found = allocate_lock(), list[int]()
    over.acquire()

    def wait() -> None:
        with suppress(ChildProcessError):
            found.append(os.waitpid(pid, 0)[1])
        over.release()

    try:
        start_new_thread(wait, ())
    except RuntimeError:  # no thread is to be had: what is wrong with this machine is not made worse by a hang
        _kill(pid)
        os.waitpid(pid, 0)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
    end = monotonic() + seconds
    while not over.acquire(timeout=max(min(end - monotonic(), _GLANCE), 0)):
        code = errno.EFBIG if _is_too_much(said) else errno.ETIMEDOUT if monotonic() >= end else 0
        if code:
            _kill(pid)
            over.acquire(timeout=_AFTER_KILL)
            raise OSError(code, os.strerror(code))  # TimeoutError, where it is one
    if not found:
        raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
    return found[0]


def _is_too_much(said: tuple[int, ...]) -> bool:
    return any(os.fstat(each).st_size > MOST_BYTES for each in said)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, SIGKILL)


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
    if _is_too_much((fd,)):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return os.pread(fd, os.fstat(fd).st_size, 0)
