"""Locks on files of ours, which the kernel lets go of when their holder dies.

    locked("/run/tulle/lock")              all of it, for a change of what others read
    claimed("/run/tulle/lock", 0x1f0a...)  one place of it, for as long as one attachment is being made
"""

from __future__ import annotations

import fcntl
import os
from _thread import get_ident  # built in; `threading` would be an import for each pod
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct

from cni_plugin.kernel.host import files

_FLOCK = Struct("hhqqi")
"""struct flock, with 64-bit offsets (asm-generic/fcntl.h)."""
_held: dict[int, int] = {}
"""Descriptors of locks, and the threads that took them."""


@contextmanager
def locked(path: str, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the holder dies.

    Raises OSError; BlockingIOError when somebody else holds it and it is not to be waited for.
    """
    fd = _open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if wait:
            _held[fd] = get_ident()
        yield
    finally:
        _held.pop(fd, None)
        os.close(fd)


@contextmanager
def claimed(path: str, place: int) -> Iterator[None]:
    """Hold one of the 2^63 places of a file, which need not be that large; as with `locked`, of which it is no part.

    Raises BlockingIOError when it is held, by another thread or another process (F_OFD_SETLK in fcntl(2)).
    """
    fd = _open_lock(path)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0))
        yield
    finally:
        os.close(fd)


def _open_lock(path: str) -> int:
    """What stands there and is no file is set aside: nobody can hold a lock on it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in files.ODD:
            raise
        files.set_aside(path)
        return os.open(path, flags, 0o600)


def held() -> list[int]:
    """The locks that this thread holds for a while: who does its work in another process hands them over to that."""
    known = list(_held.items())  # at once: other threads take locks meanwhile
    return [fd for fd, thread in known if thread == get_ident()]
