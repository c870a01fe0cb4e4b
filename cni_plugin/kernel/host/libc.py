"""System calls that Python has no words for, by the C library itself. Loaded when the first one is made."""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

CLONE_NEWNET = 0x40000000
"""A network namespace, include/uapi/linux/sched.h."""


@cache
def libc() -> ctypes.CDLL:
    """The library. Pass the results of its calls to `checked`."""
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> int:
    """The result of a call; `what` it was, or what about. Raises OSError when it is negative."""
    if result < 0:
        import ctypes

        code = ctypes.get_errno() or errno.EINVAL
        raise OSError(code, os.strerror(code), what)
    return result


def enter_namespace(descriptor: int) -> None:
    """Put this thread into a network namespace: setns(2), as `os.setns` since Python 3.12. Raises OSError."""
    checked(libc().setns(descriptor, CLONE_NEWNET), "setns")
