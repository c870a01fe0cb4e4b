"""The netlink socket: many requests in one write, all errors read at once.

Plain and blocking, because a kernel answers before `send` returns: every request in the buffer has been carried out
by then, whether or not an earlier one failed. Only the last one of a buffer asks for an acknowledgement; the others
speak up when they are refused. Promises: each request's outcome, in order, with the kernel's own words for a refusal;
a socket that lost an answer, or a kernel that was short of memory for it, is done without: the next one is opened in
the same namespace, a question is asked again, and a request is told to be one of which nobody knows.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.codec import HEADER, NLM_F_ACK, NLM_F_DUMP, Message

_SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 10, 11, 12
_ERROR, _DONE = 2, 3
_CAPPED, _ACK_TLVS, _DUMP_INTR = 0x100, 0x200, 0x10
_ERROR_MESSAGE = 1
_FLAGS, _NUMBER, _CODE = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=i")
_RECEIVE = 1 << 16
_BYTES_AT_ONCE = 1 << 15
_REQUESTS_AT_ONCE = 100
"""A refusal takes up to 1.3 KiB of the receive buffer (default 208 KiB): 100 can never overflow it."""
_DUMP_TRIES = 10
_TRIES = 3
"""Where something passing is in the way."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Outcome(NamedTuple):
    """What became of a request: errno 0 is success, `reason` what the kernel said about a refusal.

    `unsure`: it was sent, and may have been carried out.
    """

    errno: int
    reason: str = ""
    unsure: bool = False


class Refused(OSError):
    """A question that the kernel refused to answer, with its errno and its words."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.errno, outcome.reason)


class _Frame(NamedTuple):
    kind: int
    flags: int
    sequence: int
    data: bytes
    offset: int
    length: int


class Netlink:
    """A socket of NETLINK_ROUTE in the network namespace that `inside` leads to, the calling thread's if to none.

    Raises OSError.
    """

    def __init__(
        self, groups: int = 0, inside: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        self._groups = groups
        self._inside = inside
        self._sequence = 0
        self._open: socket.socket | None = self._opened()

    def close(self) -> None:
        """Close the socket; twice does no harm. What is asked later opens another one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    @property
    def _socket(self) -> socket.socket:
        if self._open is None:
            self._open = self._opened()
        return self._open

    def _opened(self) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with self._inside():
            channel = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
                channel.setsockopt(_SOL_NETLINK, option, 1)
            channel.bind((0, self._groups))
        except BaseException:
            channel.close()
            raise
        return channel

    @property
    def port(self) -> int:
        """The socket's own number, which events bear that its requests cause."""
        name: tuple[int, int] = self._socket.getsockname()
        return name[0]

    def send(self, requests: Sequence[bytearray]) -> list[Outcome]:
        """Carry all of these out, also those after a refused one; their outcomes in the same order. Raises OSError."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(requests):
            chunk = _chunk(requests, len(outcomes))
            outcomes += self._exchange(chunk)
        return outcomes

    def ask(self, request: bytearray) -> Message | None:
        """The answer to one question about one object, None when there is no such thing. Raises Refused, OSError."""
        return self._insist(self._ask, request)

    def _ask(self, request: bytearray) -> Message | None:
        self._number(request)
        self._socket.send(request)
        for frame in self._receive(self._sequence):
            if frame.kind != _ERROR:
                return Message(frame.kind, frame.data, frame.offset)
            outcome = _outcome(frame)
            if outcome.errno in (errno.ENODEV, errno.ENOENT, errno.ESRCH):
                return None
            raise Refused(outcome)
        raise AssertionError("a socket has no end")

    def ask_all(self, requests: Sequence[bytearray]) -> list[bytes]:
        """The answers to many questions about one object each, whole messages in order; b"" for a refusal.

        Raises OSError, also when something passing kept the kernel from an answer.
        """
        answers: list[bytes] = []
        while len(answers) < len(requests):
            chunk = _chunk(requests, len(answers))
            answers += self._insist(self._questions, chunk)
        return answers

    def dump(self, request: bytearray) -> list[Message]:
        """Everything that matches. A list that changed while it was read is read again. Raises Refused, OSError."""
        return self._insist(self._dump, request)

    def _dump(self, request: bytearray) -> list[Message]:
        for _ in range(_DUMP_TRIES):
            self._number(request, NLM_F_DUMP)
            self._socket.send(request)
            messages, torn = self._read_dump()
            if not torn:
                break
        return messages

    def events(self, seconds: float) -> Iterator[Message]:
        """What the kernel tells to this socket's groups, as it happens, for so long at most."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(_RECEIVE)
            except TimeoutError:
                return
            except OSError as error:
                if error.errno not in PASSING:  # some events were lost: what came of them is there to be read
                    raise
                continue
            for frame in _frames(data):
                yield Message(frame.kind, frame.data, frame.offset)

    def fileno(self) -> int:
        """Readable when the kernel has told something."""
        return self._socket.fileno()

    def read(self) -> list[Message]:
        """What the kernel has told next to this socket's groups. Nothing is told of events that were lost."""
        try:
            data = self._socket.recv(_RECEIVE)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            return []
        return [Message(frame.kind, frame.data, frame.offset) for frame in _frames(data)]

    def _insist(self, question: Callable[[Asked], Answer], asked: Asked) -> Answer:
        """Ask again what changes nothing, on another socket: this one may hold half of an answer."""
        for _ in range(_TRIES - 1):
            try:
                return question(asked)
            except OSError as error:
                if error.errno not in PASSING:
                    raise
                self.close()
        return question(asked)

    def _exchange(self, chunk: Sequence[bytearray]) -> list[Outcome]:
        first = self._sequence + 1
        for request in chunk:
            self._number(request)
        last = self._sequence
        _flag(chunk[-1], NLM_F_ACK)
        self._insist(self._send, b"".join(chunk))
        outcomes = [Outcome(0)] * len(chunk)
        try:
            for frame in self._receive(first):
                if frame.kind == _ERROR:
                    outcomes[frame.sequence - first] = _outcome(frame)
                    if frame.sequence == last:
                        break
        except OSError as error:
            self.close()
            lost = Outcome(error.errno or errno.EIO, f"the kernel's answer is lost ({error.strerror})", unsure=True)
            return [each if each.errno else lost for each in outcomes]
        return outcomes

    def _send(self, data: bytes) -> int:
        return self._socket.send(data)

    def _questions(self, chunk: Sequence[bytearray]) -> list[bytes]:
        """Each is answered once, by a message or by an error."""
        first = self._sequence + 1
        for request in chunk:
            self._number(request)
        self._socket.send(b"".join(chunk))
        answers: list[bytes | None] = [None] * len(chunk)
        missing = len(chunk)
        for frame in self._receive(first):
            place = frame.sequence - first
            missing -= answers[place] is None
            if frame.kind == _ERROR and (refusal := _outcome(frame)).errno in PASSING:
                raise Refused(refusal)
            answers[place] = b"" if frame.kind == _ERROR else frame.data[frame.offset : frame.offset + frame.length]
            if not missing:
                break
        return [each or b"" for each in answers]

    def _read_dump(self) -> tuple[list[Message], bool]:
        messages: list[Message] = []
        torn = False
        for frame in self._receive(self._sequence):
            torn = torn or bool(frame.flags & _DUMP_INTR)
            if frame.kind in (_DONE, _ERROR):
                outcome = _outcome(frame) if frame.length > HEADER.size else Outcome(0)
                if outcome.errno:
                    raise Refused(outcome)
                break
            messages.append(Message(frame.kind, frame.data, frame.offset))
        return messages, torn

    def _receive(self, oldest: int) -> Iterator[_Frame]:
        channel = self._socket  # what is left of an answer comes by no other
        while True:
            for frame in _frames(channel.recv(_RECEIVE)):
                if frame.sequence >= oldest:  # older: the rest of something that was given up
                    yield frame

    def _number(self, request: bytearray, flags: int = 0) -> None:
        self._sequence += 1
        _NUMBER.pack_into(request, 8, self._sequence)
        if flags:
            _flag(request, flags)


def _flag(request: bytearray, flags: int) -> None:
    _FLAGS.pack_into(request, 6, _FLAGS.unpack_from(request, 6)[0] | flags)


def _chunk(requests: Sequence[bytearray], start: int) -> Sequence[bytearray]:
    size, end = 0, start
    while end < len(requests) and end - start < _REQUESTS_AT_ONCE and size < _BYTES_AT_ONCE:
        size += len(requests[end])
        end += 1
    return requests[start:end]


def _frames(data: bytes) -> list[_Frame]:
    found, offset, last = list[_Frame](), 0, len(data) - HEADER.size
    while offset <= last:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        found.append(_Frame(kind, flags, sequence, data, offset, length))
        offset += (length + 3) & ~3
    return found


def _outcome(frame: _Frame) -> Outcome:
    """struct nlmsgerr: the errno, negative; the request's header (and the request, if not capped); then attributes."""
    (code,) = _CODE.unpack_from(frame.data, frame.offset + HEADER.size)
    if not code:
        return Outcome(0)
    words = _kernel_words(frame) if frame.flags & _ACK_TLVS else ""
    plain = os.strerror(-code)
    return Outcome(-code, f"{words} ({plain})" if words else plain)


def _kernel_words(frame: _Frame) -> str:
    start = frame.offset + HEADER.size + 4
    if frame.kind == _ERROR:
        (echoed,) = struct.unpack_from("=I", frame.data, start)
        start += HEADER.size if frame.flags & _CAPPED else (echoed + 3) & ~3
    end = frame.offset + frame.length
    while start + 4 <= end:
        length, kind = struct.unpack_from("=HH", frame.data, start)
        if kind == _ERROR_MESSAGE:
            return frame.data[start + 4 : start + length].rstrip(b"\0").decode(errors="replace")
        start += max((length + 3) & ~3, 4)
    return ""
