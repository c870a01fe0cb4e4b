"""Network namespaces: a path becomes a descriptor, and a descriptor a place where this thread can do one thing.

A thread moves into another namespace only to open a socket there or to write a file below /proc/sys/net, which shows
the namespace of whoever looks; everything else goes through a socket that was opened inside and remembers. Promise:
after `inside` the thread is back where it was, or the process is no more: one that stays in a pod's
namespace by mistake would wire the next pod into it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from cni_plugin.kernel.errors import UNTOLD, NetnsError
from cni_plugin.kernel.host.libc import CLONE_NEWNET, checked, enter_namespace, libc

_NS_GET_NSTYPE = 0xB703
_TRIES_TO_RETURN = 10_000
_OWN = "/proc/thread-self/ns/net"


def open_namespace(path: str, *, allow_own: bool = False, lent: int = -1) -> int:
    """A descriptor of the network namespace at this path; of the one that somebody opened there and lent, if so.

    Raises NetnsError: "gone" when nothing is there, "not-a-namespace" when something else is, "own" when it is
    the caller's and that is not allowed. Raises OSError when that cannot be found out, now or by us.
    """
    try:
        # O_NONBLOCK: a FIFO put there by mistake must not hold us up
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK) if lent < 0 else os.dup(lent)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NetnsError("gone", path) from error
    except OSError as error:
        raise _bad(error, path) from error
    try:
        _verify(descriptor, path, allow_own=allow_own)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _verify(descriptor: int, path: str, *, allow_own: bool) -> None:
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as error:
        raise _bad(error, path) from error
    if kind != CLONE_NEWNET:
        raise NetnsError("not-a-namespace", path)
    if not allow_own and os.path.samestat(os.fstat(descriptor), os.stat(_OWN)):
        raise NetnsError("own", path)


def _bad(error: OSError, path: str) -> Exception:
    """What is only out of reach, now or for us, says nothing of what is there: taken for none, a pod would be dead."""
    unknown = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, *UNTOLD)
    return error if error.errno in unknown else NetnsError("not-a-namespace", path)


@contextmanager
def inside(descriptor: int | None) -> Iterator[None]:
    """This thread is in that network namespace while the block runs; None is where it is already. Raises OSError."""
    if descriptor is None:
        yield
        return
    with _away(partial(enter_namespace, descriptor)):
        yield


@contextmanager
def in_a_fresh_one() -> Iterator[None]:
    """This thread is in a network namespace of its own, that ends with what was opened in it. Raises OSError."""
    with _away(lambda: checked(libc().unshare(CLONE_NEWNET), "unshare")):
        yield


@contextmanager
def _away(leave: Callable[[], object]) -> Iterator[None]:
    home = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        leave()
        try:
            yield
        finally:
            _return(home)
    finally:
        os.close(home)


def _return(home: int) -> None:
    """The kernel may be short of memory for a moment; who may leave a namespace may always return."""
    for _ in range(_TRIES_TO_RETURN):
        with suppress(OSError):
            return enter_namespace(home)
    os.write(2, b"cannot leave the pod's network namespace: giving up\n")
    os.abort()
