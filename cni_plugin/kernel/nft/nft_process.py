"""libnftables in a process of its own: where the kernel fails it, it ends the process that it is in by exit(3).

(`netlink_abi_error` and `netlink_init_error` in its src/netlink.c and src/mnl.c.) A child is that process, in the
network namespace of whoever asks: it is told commands over a pair of sockets, says what came of them, and ends with its
parent. One that ended is replaced and told again, so every text of commands must be one that may be carried out
twice. Promises: what libnftables does can cost an answer and nothing else; locks that the asking thread holds are held
by the child too until it is done, so that even a parent that is killed lets nobody in between.

    parent  ->  add table inet tulle; ... and the held locks       child: nft_run_cmd_from_buffer
            <-  accepted or not, and what was said                 0.05 ms more than in one process

A child is a fork: of this process, before there are threads; or, for one that lives long, of its keeper. That is an
early fork that does nothing else, so it is small, has no threads and is never in anybody's way. A child that was told
nothing for a while ends too: chains change when networks and policies come and go, and the library takes 3 MiB.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cni_plugin.kernel.host import locks
from cni_plugin.kernel.host.libc import enter_namespace, libc

if TYPE_CHECKING:
    import ctypes

_LIBRARY = "libnftables.so.1"
_NFT = ("/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/bin/nft", "/usr/local/sbin/nft")
_PATIENCE = 60
"""Seconds for an answer: the kernel makes its writers take turns, and somebody's ruleset of 100,000 rules is slow."""
_IDLE = 30
"""Seconds after which a child that is told nothing is not worth its memory; to make another takes some milliseconds."""
_TRIES = 3
_CHUNK = 1 << 16
_MOST_LOCKS = 8
_PR_SET_NAME = 15
_NAME = b"tulled"
"""The kernel tells with each change of its ruleset who made it, by name: that of the engine, whatever started it."""


class NftProcess:
    """A child, from the first command on, in the network namespace that this is given in. One thread at a time."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._pid = 0

    def run(self, commands: str) -> tuple[bool, str]:
        """Whether they were accepted, and what was printed. Raises OSError when three children could not tell."""
        for again in reversed(range(_TRIES)):
            try:
                return self._ask(commands.encode())
            except OSError as error:
                if error.errno == errno.EAGAIN:  # it hangs in the kernel, and ends when it comes back from there
                    self._abandon()
                    raise
                self.close()
                if not again:
                    raise
        raise AssertionError("the last try raises")

    def close(self) -> None:
        """End the child."""
        pid = self._abandon()
        if pid:
            os.waitpid(pid, 0)

    def _abandon(self) -> int:
        """Leave the child to itself. Returns its process number, 0 when there is none or it is not for us to wait."""
        channel, pid, self._channel, self._pid = self._channel, self._pid, None, 0
        if channel is not None:
            channel.close()
        return pid

    def _ask(self, commands: bytes) -> tuple[bool, str]:
        channel = self._channel or self._start()
        frame = len(commands).to_bytes(4, "little") + commands
        sent = socket.send_fds(channel, [frame], locks.held())
        channel.sendall(frame[sent:])
        head = _exactly(channel, 5)
        return bool(head[0]), _exactly(channel, int.from_bytes(head[1:], "little")).decode(errors="replace")

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            if not keeper.makes_child(theirs):
                self._pid = _fork(lambda: _live(theirs), theirs.fileno())
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, _PATIENCE.to_bytes(8, sys.byteorder) + bytes(8))
        self._channel = ours
        return ours


class Keeper:
    """Makes children for a process that lives long. `start` it before other threads and before large imports."""

    def __init__(self) -> None:
        self._channel: socket.socket | None = None
        self._pid = 0

    def start(self) -> None:
        """From now on. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._pid = _fork(lambda: _keep(theirs), theirs.fileno())
        self._channel = ours

    def close(self) -> None:
        """End it; its children end with those who use them."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
            os.waitpid(self._pid, 0)

    def makes_child(self, channel: socket.socket) -> bool:
        """Have it make one that serves this socket in the calling thread's namespace. Raises OSError.

        False where there is no keeper; one that was killed is not there any more.
        """
        if self._channel is None:
            return False
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            socket.send_fds(self._channel, [b"+"], [channel.fileno(), namespace])
        except (BrokenPipeError, ConnectionResetError):
            self.close()
            return False
        finally:
            os.close(namespace)
        return True


keeper = Keeper()
"""Of this process."""


def _keep(channel: socket.socket) -> None:
    """The keeper's life."""
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for its children
    libc()
    while True:
        word, descriptors, _, _ = socket.recv_fds(channel, 1, 2, socket.MSG_CMSG_CLOEXEC)
        if not word:
            return
        try:
            if len(descriptors) == 2:
                _fork(lambda: _enter_and_live(*descriptors), descriptors[0], descriptors[1])  # noqa: B023
        except OSError:  # whoever asked finds his socket closed
            continue
        finally:
            for each in descriptors:
                os.close(each)


def _enter_and_live(channel: int, namespace: int) -> None:
    enter_namespace(namespace)
    os.close(namespace)
    _live(socket.socket(fileno=channel))


def _live(channel: socket.socket) -> None:
    """A child's life: as long as somebody at the other end has something to say."""
    libc().prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
    library = _load_library()
    run = _run_program if library is None else _Library(library).run
    told = select.poll()  # where descriptors have numbers above 1,023, select(2) knows none of them
    told.register(channel, select.POLLIN)
    while told.poll(_IDLE * 1000):
        frame, locks, _, _ = socket.recv_fds(channel, _CHUNK, _MOST_LOCKS, socket.MSG_CMSG_CLOEXEC)
        if not frame:
            return
        missing = 4 + int.from_bytes(frame[:4], "little") - len(frame)
        accepted, words = run((frame + _exactly(channel, missing))[4:])
        for each in locks:
            os.close(each)
        channel.sendall(bytes([accepted]) + len(words).to_bytes(4, "little") + words)


def _fork(live: Callable[[], None], *keep: int) -> int:
    """A child that lives so, with these descriptors and stderr and no other. Returns its process number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        import signal

        gc.disable()  # what is not looked at stays shared with the parent
        for number in (signal.SIGTERM, signal.SIGINT):  # meant for the parent, which may not be through
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where there is no library it waits for nft
        _let_go_of_all_but(keep)
        live()
    finally:
        os._exit(0)


def _let_go_of_all_but(keep: Sequence[int]) -> None:
    """Who waits for the end of our parent's output must not wait for ours, and what it holds is not ours to hold."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    first = 3
    for each in sorted(keep):
        os.closerange(first, each)
        first = each + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _exactly(channel: socket.socket, size: int) -> bytes:
    """So many bytes. Raises OSError, ECONNRESET when the other end is closed before."""
    data = bytearray()
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise ConnectionResetError(errno.ECONNRESET, "libnftables has ended its process")
        data += more
    return bytes(data)


class _Library:
    """libnftables(3): a context with buffers in place of stdout and stderr."""

    def __init__(self, library: ctypes.CDLL) -> None:
        import ctypes

        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for name in ("output", "error"):
            getattr(library, f"nft_ctx_buffer_{name}").argtypes = [ctypes.c_void_p]
            reader = getattr(library, f"nft_ctx_get_{name}_buffer")
            reader.argtypes, reader.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._library = library
        self._context = ctypes.c_void_p(library.nft_ctx_new(0))

    def run(self, commands: bytes) -> tuple[bool, bytes]:
        """Whether they were accepted, and what was printed."""
        library, context = self._library, self._context
        library.nft_ctx_buffer_output(context)  # again before each run: it rewinds
        library.nft_ctx_buffer_error(context)
        accepted = library.nft_run_cmd_from_buffer(context, commands) == 0
        text = library.nft_ctx_get_output_buffer(context) if accepted else library.nft_ctx_get_error_buffer(context)
        return accepted, text or b""


def _load_library() -> ctypes.CDLL | None:
    """From our bundle if we are one, else as the loader finds it."""
    import ctypes

    bundle = getattr(sys, "_MEIPASS", "")
    for place in ([os.path.join(bundle, _LIBRARY)] if bundle else []) + [_LIBRARY]:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    return None


def _run_program(commands: bytes) -> tuple[bool, bytes]:
    """The same by `nft -f -`, with an environment of its own."""
    from cni_plugin.kernel.host.program import run as run_program  # where the library is, it is nothing

    program = next((path for path in _NFT if os.access(path, os.X_OK)), None)
    if program is None:
        return False, f"neither {_LIBRARY} nor nft is installed (Debian: apt install nftables)".encode()
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    result = run_program(program, ["-f", "-"], environment, commands, quiet=True)
    accepted = result.code == 0
    return accepted, result.stdout if accepted else result.stderr
