"""An agent in a child of the test, of which system calls of a kind can be made to fail, from outside, while it lives.

What fails is what Python is told: the call is not made. Only calls of the agent itself fail; its children for nftables
and the engine of a client that it turned away are as they always are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cni_plugin.agent import service
from cni_plugin.kernel.host import netns
from cni_plugin.kernel.nft.nft_process import keeper
from tests.conformance.nodes import SYSTEM_PATH, Node
from tests.netns.agents import HERE, _Ready, opened
from tests.netns.failing_engine import enter

OF_SOCKETS = {
    "send": ("send", "sendall", "sendto", "sendmsg"),
    "receive": ("recv", "recvfrom", "recvmsg"),
    "set up a socket": ("bind", "connect", "setsockopt", "getsockopt", "getsockname", "setblocking", "settimeout"),
    "accept": ("accept",),
}
OF_FILES = {
    "open": ("open",),
    "read": ("read", "pread", "readlink"),
    "write": ("write", "pwrite", "ftruncate", "utime"),
    "look": ("stat", "fstat", "lstat", "listdir", "scandir", "statvfs"),
    "change a folder": ("rename", "link", "unlink", "mkdir", "rmdir", "symlink", "chmod"),
    "make a descriptor": ("dup", "eventfd", "memfd_create"),
    "ring a bell": ("eventfd_read", "eventfd_write"),
}
OF_EPOLL = ("poll", "register", "modify", "unregister")
KINDS = (*OF_SOCKETS, *OF_FILES, "make a socket", "wait", "lock", "ioctl", "enter a namespace", "start a thread")
CODES = (errno.ENOBUFS, errno.ENOMEM, errno.EMFILE, errno.EIO, errno.EINTR, errno.ENOSPC, errno.EROFS)
SOON = (2, 5, 13, 34)
"""Which call of its kind fails, beside the first."""
_ARMED = struct.Struct("=III")


def faults(kind: str) -> Iterator[tuple[int, int]]:
    """With each code the first call, and with one after the other a later one.

    EINVAL of a file is no fault: it says that something else than a file stands there.
    """
    codes = CODES if kind in OF_FILES else (errno.EINVAL, *CODES)
    yield from ((code, 1) for code in codes)
    yield from zip(codes, SOON, strict=False)


class Faults:
    """Which kind of call fails, with what, and how many may pass before: in memory that parent and child share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _ARMED.size)

    def arm(self, kind: str, code: int, nth: int) -> None:
        """The nth call of this kind from now on fails, once."""
        self._memory[:] = _ARMED.pack(KINDS.index(kind), code, nth)

    def disarm(self) -> bool:
        """Let all succeed; whether one failed."""
        _, code, left = _ARMED.unpack(self._memory[:])
        self._memory[:] = bytes(_ARMED.size)
        return bool(code and not left)

    def meet(self, kind: str) -> int:
        """What this call is to fail with, 0 when it is not."""
        armed, code, left = _ARMED.unpack(self._memory[:])
        if not left or KINDS[armed] != kind:
            return 0
        self._memory[:] = _ARMED.pack(armed, code, left - 1)
        return 0 if left > 1 else int(code)

    def may_fail(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with this in front of it."""

        def faulty(*arguments: object, **named: object) -> object:
            if code := self.meet(kind):
                if kind == "start a thread":
                    raise RuntimeError("can't start new thread")
                raise OSError(code, os.strerror(code), "injected")
            return call(*arguments, **named)

        return faulty

    def install(self) -> None:
        """Put it in front of all calls of this process, which is to end as an agent."""
        made: dict[str, Callable[..., Any]] = {}
        for kind, names in OF_SOCKETS.items():
            made |= {name: self.may_fail(kind, getattr(socket.socket, name)) for name in names}
        made["__init__"] = lambda *arguments, **named: self._make(*arguments, **named)
        socket.socket = type("socket", (socket.socket,), made)  # type: ignore[misc, assignment]
        for kind, names in OF_FILES.items():
            for name in names:
                setattr(os, name, self.may_fail(kind, getattr(os, name)))
        fcntl.flock = self.may_fail("lock", fcntl.flock)
        fcntl.ioctl = self.may_fail("ioctl", fcntl.ioctl)
        threading.Thread.start = self.may_fail("start a thread", threading.Thread.start)  # type: ignore[method-assign]
        enters = "enter_namespace"
        setattr(netns, enters, self.may_fail("enter a namespace", getattr(netns, enters)))
        select.epoll = self._epoll  # type: ignore[misc, assignment]

    def _make(self, channel: socket.socket, *arguments: Any, **named: Any) -> None:
        """The call is made where there is no descriptor yet."""
        code = self.meet("make a socket") if len(arguments) < 4 and named.get("fileno") is None else 0
        if code:
            raise OSError(code, os.strerror(code), "injected")
        initialise(channel, *arguments, **named)

    def _epoll(self) -> object:
        """One of which calls may fail; the class itself cannot be inherited from."""
        real = epoll()
        failing = {name: staticmethod(self.may_fail("wait", getattr(real, name))) for name in OF_EPOLL}
        return type("epoll", (), {**failing, "fileno": staticmethod(real.fileno), "close": staticmethod(real.close)})()


epoll, initialise = select.epoll, socket.socket.__init__


class FaultyAgent:
    """The agent of a node, in a child of the test. A context manager: ready when it is entered."""

    def __init__(self, node: Node, faults: Faults) -> None:
        self._node = node
        self._faults = faults
        self.pid = 0

    def __enter__(self) -> FaultyAgent:
        ready = _Ready()
        self.pid = os.fork()
        if self.pid == 0:
            self._live(ready.path)
        with contextlib.closing(ready):
            ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def alive(self) -> bool:
        if self.pid and os.waitpid(self.pid, os.WNOHANG) != (0, 0):
            self.pid = 0
        return self.pid != 0

    def descriptors(self) -> Counter[str]:
        """What it holds open, by kind and path; numbers of sockets left out."""
        return Counter(opened(self.pid))

    def log(self) -> str:
        return (self._node.state / "agent.log").read_text(errors="replace")[-4000:]

    def _live(self, ready: str) -> None:
        """The life of the child; never returns."""
        with contextlib.suppress(BaseException):
            try:
                assert HERE, "imported"
                enter(self._node.path)
                log = os.open(self._node.state / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                os.environ.clear()
                os.environ.update({"PATH": SYSTEM_PATH, "NOTIFY_SOCKET": ready})
                keeper.start()
                self._faults.install()
                service.serve(str(self._node.run_dir), str(self._node.state / "agent.json"))
            except BaseException:
                traceback.print_exc()
        os._exit(99)
