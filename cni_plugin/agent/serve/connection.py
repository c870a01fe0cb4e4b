"""One client of the agent: what it has sent so far, and what it has still to be told. Nothing here ever waits."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
import time
from contextlib import suppress

from cni_plugin import wire
from cni_plugin.kernel.errors import PASSING

_UCRED = struct.Struct("=3i")
_CHUNK = 1 << 16
_MOST_DESCRIPTORS = 4


class Connection:
    """One client, from its greeting to its reply. `since`: when it was last waited for, in time.monotonic()."""

    def __init__(self, channel: socket.socket, now: float) -> None:
        channel.setblocking(False)
        self._channel = channel
        self.fd = channel.fileno()
        self.since = now
        self.gone = False
        self.request: wire.Request | None = None
        self.netns = -1
        self.reply = b""
        self._data = bytearray()
        self._header: wire.Header | None = None
        self._answered = False

    @property
    def size(self) -> int:
        """Bytes of its request in memory."""
        return len(self._data)

    @property
    def is_served(self) -> bool:
        """Whether it is our turn: the request is whole and not answered yet."""
        return self.request is not None and not self._answered

    def greet(self) -> None:
        """Tell which protocol we speak: a new one's buffer takes it. Raises OSError; not for one that has gone."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._channel.send(wire.GREETING)

    def receive(self) -> bool:
        """Read what there is; whether the client is still worth waiting for. The request stands once it is whole."""
        try:
            data, descriptors = self._read()
        except OSError as error:
            return error.errno in PASSING
        self._keep(descriptors)
        self._data += data
        try:
            return bool(data) and self._parse()
        except (wire.WireError, ValueError):
            return False

    def finish(self, reply: bytes) -> None:
        """What it is to be told."""
        self.reply = reply
        self.since = time.monotonic()
        self._answered = True
        self._data = bytearray()

    def send(self) -> bool:
        """Send what the client takes; whether there is no more to do for it. One that takes nothing more is gone."""
        try:
            while self.reply:
                self.reply = self.reply[self._channel.send(self.reply) :]
        except OSError as error:
            if error.errno in PASSING:
                return False
            self.gone = True
        return True

    def close(self) -> None:
        """Let go of it and of its pod's namespace."""
        self._channel.close()
        if self.netns >= 0:
            os.close(self.netns)
            self.netns = -1

    def _read(self) -> tuple[bytes, list[int]]:
        space = socket.CMSG_SPACE(_MOST_DESCRIPTORS * 4)
        data, ancillary, flags, _ = self._channel.recvmsg(_CHUNK, space, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, raw in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
        if flags & socket.MSG_CTRUNC and not descriptors:  # our limit is reached, and the pod's namespace is lost
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return data, list(descriptors)

    def _keep(self, descriptors: list[int]) -> None:
        """The first one is the pod's namespace; nobody needs another."""
        for each in descriptors:
            if self.netns < 0:
                self.netns = each
            else:
                os.close(each)

    def _parse(self) -> bool:
        if self._header is None and len(self._data) >= wire.REQUEST_HEADER:
            self._header = wire.parse_header(self._data)
        if self._header is None:
            return True
        left = self._header.length - (len(self._data) - wire.REQUEST_HEADER)
        if left == 0:
            self.request = wire.parse_request(self._header, bytes(self._data[wire.REQUEST_HEADER :]))
        return left >= 0


def is_welcome(channel: socket.socket) -> bool:
    """Whether this is root, or who we are, in our own network namespace: another node's pods are not for us to wire.

    Where the peer's namespace cannot be seen (another PID namespace) its word is taken.
    """
    try:
        pid, uid, _ = _UCRED.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:
        return False
    if uid not in (0, os.geteuid()):
        print(f"tulled: turned away process {pid} of user {uid}: only root may ask", file=sys.stderr)
        return False
    try:
        theirs = os.stat(f"/proc/{pid}/ns/net")
    except OSError:
        return True
    ours = os.path.samestat(theirs, os.stat("/proc/self/ns/net"))
    if not ours:
        print(f"tulled: turned away process {pid}, which is in another network namespace", file=sys.stderr)
    return ours
