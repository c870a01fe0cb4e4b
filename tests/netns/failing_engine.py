"""The engine in a process of its own, made to fail or to be killed at its n-th operation.

An operation is whatever changes something outside of the process: each netlink request, each nft transaction, each
file event (as `sys.addaudithook` sees them: open for writing, rename, link, remove, ...) and each write to a file.
Sysctls are files too. They are counted from 1 in the order in which they happen; the process is the real engine, in
the node's own namespaces, with the real kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cni_plugin.ipams import host_local
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.nft import nft
from cni_plugin.kernel.open import open_kernel
from cni_plugin.kernel.rtnl import netlink
from cni_plugin.verbs import add, delete, gc
from cni_plugin.verbs.run import run

CLONE_NEWNET = 0x40000000
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILE_EVENTS = frozenset({
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
    "fcntl.ioctl",
})
Mode = Literal["count", "fail", "kill"]


LOADED = (LinuxKernel, add, delete, gc, host_local)
"""What the engine imports late, imported here once instead of in every child."""


class Outcome(NamedTuple):
    """What became of one run: how many operations were begun, the exit code (-9 when killed), and the reply."""

    operations: int
    code: int
    reply: str


class Injector:
    """Counts operations; at the `target`-th it fails it, or ends the process as SIGKILL does."""

    def __init__(self, mode: Mode, target: int) -> None:
        self.mode = mode
        self.target = target
        self.seen = 0
        self.armed = True
        self.process = 0
        self.names: list[str] = []

    def step(self, name: str) -> bool:
        """Whether this operation is to fail; does not return when the process is to be killed."""
        if not self.armed or os.getpid() != self.process:  # the engine's child for nftables: a transaction is a step
            return False
        self.seen += 1
        self.names.append(name)
        if self.seen != self.target or self.mode == "count":
            return False
        if self.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    def audit(self, event: str, args: tuple[object, ...]) -> None:
        """An audit hook; raising in it makes the call fail before it has any effect."""
        changes = event in FILE_EVENTS or (event == "open" and isinstance(args[2], int) and bool(args[2] & WRITES))
        if changes and self.step(f"{event} {args[0]!r}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "injected")

    def install(self) -> None:
        """Put the counting in front of everything that changes something. For a process that ends soon."""
        self.process = os.getpid()
        send, change, write = netlink.Netlink.send, nft.Nft.change, os.write

        def counted_send(self_: netlink.Netlink, requests: Sequence[bytearray]) -> list[netlink.Outcome]:
            # One by one: in a batch the kernel carries out those after a refused one too, and so does this.
            outcomes: list[netlink.Outcome] = []
            for each in requests:
                refused = self.step("netlink request")
                outcomes += [netlink.Outcome(errno.EPERM, "injected")] if refused else send(self_, [each])
            return outcomes

        def counted_change(self_: nft.Nft, ops: Sequence[object]) -> None:
            if self.step("nft transaction"):
                raise nft.NftError("injected")
            change(self_, ops)  # type: ignore[arg-type]

        def counted_write(fd: int, data: bytes) -> int:
            if self.step("write"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, data)

        netlink.Netlink.send = counted_send  # type: ignore[method-assign, assignment]
        nft.Nft.change = counted_change  # type: ignore[method-assign, assignment]
        os.write = counted_write  # type: ignore[assignment]
        sys.addaudithook(self.audit)


def enter(netns: str) -> None:
    """Put this process into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(netns, os.O_RDONLY)
    if libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns", netns)
    os.close(fd)


def serve(node: str, environ: Mapping[str, str], stdin: bytes, mode: Mode = "count", target: int = 0) -> Outcome:
    """Run one request on a node in a child process; wait for it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(node, environ, stdin, Injector(mode, target), writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    count, _, reply = said.partition("\n")
    return Outcome(int(count or 0), os.waitstatus_to_exitcode(status), reply)


def _child(node: str, environ: Mapping[str, str], stdin: bytes, injector: Injector, answer: int) -> None:
    """The life of the child; never returns."""
    code = 99
    with contextlib.suppress(BaseException):
        try:
            enter(node)
            os.environ.clear()
            os.environ.update(environ)
            write = os.write
            injector.install()
            reply = run("tulle", os.environ, stdin, open_kernel)
            injector.step("reply")  # the last moment at which the request can still be lost
            injector.armed = False
            text = "\n".join([reply.stdout.decode(), *injector.names])
            write(answer, f"{injector.seen}\n{text}".encode())
            code = reply.code
        except BaseException:
            traceback.print_exc()
    os._exit(code)
