"""What can go wrong behind the door, in words that the layers above can act on."""

from __future__ import annotations

import errno as errnos
import os
from collections.abc import Sequence
from typing import Literal

from cni_plugin.describe import describe
from cni_plugin.diff import Op
from cni_plugin.kernel.modules import missing, remedy

PASSING = frozenset(
    (errnos.EINTR, errnos.EAGAIN, errnos.ENOMEM, errnos.ENOBUFS, errnos.EMFILE, errnos.ENFILE, errnos.ENOLCK)
)
"""The kernel is short of something now, which says nothing of what was asked for: the same may succeed soon."""
UNTOLD = PASSING | {errnos.EIO}
"""The same, and what a disk says that cannot tell what is on it: not that nothing is."""


class KernelError(Exception):
    """An operation was refused. `done` are the operations that took effect, in order: what rollback inverts."""

    def __init__(self, op: Op, errno: int, done: Sequence[Op] = (), reason: str = "") -> None:
        self.op = op
        self.errno = errno
        self.done = tuple(done)
        self.reason = reason or os.strerror(errno)
        lacking = missing(op.object, errno) if op.verb == "create" else ""
        then = f"; {remedy(lacking)}" if lacking else ""
        super().__init__(f"{describe(op).splitlines()[-1]}: {self.reason}{then}")


class NetnsError(Exception):
    """CNI_NETNS does not lead to a network namespace that a pod can be wired in."""

    def __init__(self, kind: Literal["gone", "not-a-namespace", "own"], path: str) -> None:
        self.kind = kind
        self.path = path
        super().__init__(f"{path}: {kind}")
