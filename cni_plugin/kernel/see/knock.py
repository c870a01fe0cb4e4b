"""Two TCP segments that differ in one thing: who computed the checksum. What comes back tells whether the NIC can.

A connection's SYN leaves its checksum to the device, and goes through the node's NAT as any client's does; one that is
made by hand has its own. Whoever gets a SYN answers, with RST where nobody listens; of a segment with a wrong checksum
nobody says anything (RFC 9293, 3.1). So who answers the one and not the other is behind a NIC that gets it wrong. A
firewall that drops both says nothing about that, nor does this about streams that the NIC itself cuts into segments.

    Knock("192.0.2.1", "10.244.1.0", "10.244.2.0")   SYN from 192.0.2.1 by connect(2), SYN from 10.244.1.0 by hand
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, suppress
from struct import Struct

from cni_plugin.kernel.see.echo import checksum

PORT = 9
"""discard (RFC 863): where hardly anybody listens."""
_TCP = Struct("!HHIIBBHHH")
_SYN, _RST, _ACK = 2, 4, 16
_WINDOW = 1024
_LARGEST = 1 << 16


class Knock:
    """Both on their way to one address. `source` of the connection may be any of the node's. Raises OSError."""

    def __init__(self, source: str, own: str, to: str) -> None:
        self._family = socket.AF_INET6 if ":" in to else socket.AF_INET
        self._from = 1024 + int.from_bytes(os.urandom(2), "big") % 30000
        self.by_device = self.by_hand = False
        kind = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        with ExitStack() as undo:
            self._stream = undo.enter_context(socket.socket(self._family, socket.SOCK_STREAM | kind))
            self._raw = undo.enter_context(socket.socket(self._family, socket.SOCK_RAW | kind, socket.IPPROTO_TCP))
            if source:
                self._stream.bind((source, 0))
            self._raw.bind((own, 0))
            self._raw.sendto(self._segment(own, to), (to, 0))
            self._arrived(self._stream.connect_ex((to, PORT)))
            undo.pop_all()

    def look(self) -> bool:
        """Take what came back; whether both did."""
        with suppress(BlockingIOError):
            while True:
                self._heard(self._raw.recv(_LARGEST))
        self._arrived(self._stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        with suppress(OSError):
            self._stream.getpeername()
            self.by_device = True
        return self.by_device and self.by_hand

    def close(self) -> None:
        """Let go of both."""
        self._stream.close()
        self._raw.close()

    def _arrived(self, code: int) -> None:
        self.by_device = self.by_device or code == errno.ECONNREFUSED

    def _segment(self, own: str, to: str) -> bytes:
        head = _TCP.pack(self._from, PORT, int.from_bytes(os.urandom(4), "big"), 0, 5 << 4, _SYN, _WINDOW, 0, 0)
        ends = socket.inet_pton(self._family, own) + socket.inet_pton(self._family, to)
        pseudo = ends + socket.IPPROTO_TCP.to_bytes(2, "big") + len(head).to_bytes(2, "big")
        return head[:16] + checksum(pseudo + head).to_bytes(2, "big") + head[18:]

    def _heard(self, data: bytes) -> None:
        start = (data[0] & 15) * 4 if self._family == socket.AF_INET and data else 0
        if len(data) < start + _TCP.size:
            return
        source, target, _, _, _, flags, _, _, _ = _TCP.unpack_from(data, start)
        if (source, target) == (PORT, self._from) and flags & (_RST | _ACK):
            self.by_hand = True
