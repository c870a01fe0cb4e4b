"""Client and agent over the socket: what each says is what the other reads, and what goes wrong costs nobody a pod.

The client is the real one in a process of its own; the agent is a listener that misbehaves as told. A witness stands
in for the engine, as in `test_client`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cni_plugin import client, wire
from tests.pace import PATIENCE
from tests.unit import test_client
from tests.unit.test_client import Caller

Say = Callable[[socket.socket], None]
ENVIRON = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "ünï", "CNI_ARGS": "K=\udcff;X=a=b", "EMPTY": ""}


class Got(NamedTuple):
    """What the listener was sent: a request and descriptors, which it has to close."""

    request: wire.Request
    files: list[int]


def receive(channel: socket.socket) -> Got:
    """One request, read as the frames are told in `wire`. Raises OSError, WireError."""
    data, files, _, _ = socket.recv_fds(channel, 1 << 20, 8)
    if len(data) < wire.REQUEST_HEADER:
        raise ConnectionResetError("gone")
    while len(data) < wire.REQUEST_HEADER + wire.parse_header(data).length:
        data += channel.recv(1 << 20)
    header = wire.parse_header(data)
    return Got(wire.parse_request(header, data[wire.REQUEST_HEADER :]), files)


class Listener:
    """An agent's socket at which somebody does with each client as told; `got` is what they were sent."""

    def __init__(self, folder: Path, behave: Say | None) -> None:
        self.folder = folder
        self.got: list[Got] = []
        self.callers = 0
        self._over = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / wire.SOCKET))
        self._socket.listen(8)
        self._behave = behave or self.answer
        self._thread = threading.Thread(target=self._live)
        self._thread.start()

    def answer(self, channel: socket.socket) -> None:
        channel.sendall(wire.GREETING)
        self.got.append(receive(channel))
        channel.sendall(wire.reply(b'{"said": "by the agent"}\n', 7))

    def _live(self) -> None:
        while True:
            channel, _ = self._socket.accept()
            with channel, contextlib.suppress(OSError, wire.WireError):
                if self._over:
                    return
                self.callers += 1
                channel.settimeout(PATIENCE)
                self._behave(channel)

    def close(self) -> None:
        self._over = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.folder / wire.SOCKET))
            self._thread.join(timeout=PATIENCE)
        self._socket.close()
        for each in self.got:
            for fd in each.files:
                os.close(fd)


class Place:
    """A client and the socket that it finds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.caller = Caller(folder)
        self.listeners: list[Listener] = []

    def listen(self, behave: Say | None = None) -> Listener:
        self.listeners.append(Listener(self.folder, behave))
        return self.listeners[-1]

    def call(self, stdin: bytes = b"{}", name: str = "tulle", **environ: str) -> tuple[int, bytes]:
        """Exit code and stdout."""
        whole = {**ENVIRON, "TULLE_RUN_DIR": str(self.folder), **environ}
        done = self.caller.run(name, stdin, whole)
        assert done.stderr == b""
        return done.returncode, done.stdout

    @property
    def engine_ran(self) -> bool:
        return (self.folder / "witness.json").exists()

    def lost(self, answered: tuple[int, bytes]) -> bool:
        """Whether the answer is error 11, and the engine was not asked."""
        code, stdout = answered
        return (code, json.loads(stdout)["code"], self.engine_ran) == (1, 11, False)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for each in place.listeners:
        each.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits for one second where it would wait for long."""
    quick = "client.GREETING_SECONDS = client.REPLY_SECONDS = 1\nclient.engine ="
    monkeypatch.setattr(test_client, "CLIENT", test_client.CLIENT.replace("client.engine =", quick))


def test_the_clients_own_lines_agree_with_the_frames() -> None:
    assert (wire.VERSION, len(wire.GREETING)) == (client.WIRE, client.GREETING)
    assert client.LARGEST <= wire.LARGEST
    assert wire.FOLDER.encode() == client.FOLDER


def test_the_agent_gets_the_request_byte_for_byte_and_the_caller_its_answer(place: Place) -> None:
    listener = place.listen()
    stdin = b'{"name": "n", \x00\xff "odd": "bytes"}' + b"x" * 300_000
    assert place.call(stdin, "host-local") == (7, b'{"said": "by the agent"}\n')
    assert not place.engine_ran
    (got,) = listener.got
    assert (got.request.kind, got.request.name, got.request.stdin) == (wire.CNI, "host-local", stdin)
    assert {key: got.request.environ[key] for key in ENVIRON} == ENVIRON
    assert got.files == []


def test_the_pods_namespace_is_handed_on_as_an_open_file(place: Place) -> None:
    listener = place.listen()
    place.call(CNI_NETNS="/proc/self/ns/net")
    place.call(CNI_NETNS="/nowhere")
    assert [len(each.files) for each in listener.got] == [1, 0]
    assert os.path.samestat(os.fstat(listener.got[0].files[0]), os.stat("/proc/self/ns/net"))


@pytest.mark.parametrize(
    "greeting",
    [b"TULLE\x02\x03\n", b"TULLE\x00\x00\n", b"HTTP/1.1 400 Bad Request\r\n", b"TULLE", b""],
    ids=["newer", "older", "another protocol", "half a greeting", "hung up"],
)
def test_who_greets_in_other_words_is_told_nothing_and_the_engine_serves(place: Place, greeting: bytes) -> None:
    heard: list[bytes] = []

    def greet(channel: socket.socket) -> None:
        channel.sendall(greeting)
        channel.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # it did not read all of the greeting either
            heard.append(channel.recv(100))

    place.listen(greet)
    assert place.call() == (42, b"")
    assert place.engine_ran
    assert heard in ([b""], [])


def test_a_newer_agent_that_speaks_our_version_too_is_asked(place: Place) -> None:
    def greet(channel: socket.socket) -> None:
        channel.sendall(b"TULLE" + bytes([wire.VERSION, wire.VERSION + 3]) + b"\n")
        receive(channel)
        channel.sendall(wire.reply(b"{}", 0))

    place.listen(greet)
    assert place.call() == (0, b"{}")
    assert not place.engine_ran


def _is_silent(channel: socket.socket) -> None:
    channel.recv(1)  # until the client goes


@pytest.mark.usefixtures("hurried")
def test_who_never_greets_is_given_up_and_the_engine_serves(place: Place) -> None:
    listener = place.listen(_is_silent)
    assert place.call() == (42, b"")
    assert (place.engine_ran, listener.callers) == (True, 1)


def _hangs_up(channel: socket.socket) -> None:
    channel.sendall(wire.GREETING)
    for fd in receive(channel).files:
        os.close(fd)


def _hangs_up_in_the_middle(channel: socket.socket) -> None:
    _hangs_up(channel)
    channel.sendall(wire.reply(b'{"ips": []}', 0)[:-3])


def _hangs_up_before_it_has_read_all(channel: socket.socket) -> None:
    channel.sendall(wire.GREETING)
    channel.recv(20)


def _never_answers(channel: socket.socket) -> None:
    _hangs_up(channel)
    _is_silent(channel)


LOSSES = [_hangs_up, _hangs_up_in_the_middle, _hangs_up_before_it_has_read_all, _never_answers]


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("lose", LOSSES, ids=lambda each: str(each.__name__).strip("_"))
def test_a_lost_reply_is_error_11_for_add_and_no_error_for_any_other_verb(place: Place, lose: Say) -> None:
    """Nobody knows how far an ADD came, so it is not done twice; a DEL may be."""
    place.listen(lose)
    big = b"{" + b" " * 3_000_000 + b"}"  # more than the socket's buffer takes
    assert place.lost(place.call(big))
    for verb in ("DEL",) if lose is _never_answers else ("DEL", "CHECK", "GC", "STATUS"):
        assert place.call(big, CNI_COMMAND=verb) == (42, b"")
        assert place.engine_ran
        (place.folder / "witness.json").unlink()


def test_where_nobody_listens_any_more_the_engine_serves(place: Place) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.folder / wire.SOCKET))
    assert place.call() == (42, b"")
    assert place.engine_ran


@pytest.mark.parametrize("over", [0, 1])
def test_what_is_larger_than_a_frame_may_be_goes_to_the_engine(place: Place, over: int) -> None:
    listener = place.listen()
    place.call(b"")
    around = wire.REQUEST_HEADER + len("tulle") + _environ_length(listener.got[0].request)
    stdin = b" " * (client.LARGEST - around + over)
    assert place.call(stdin) == ((42, b"") if over else (7, b'{"said": "by the agent"}\n'))
    assert place.engine_ran == bool(over)


def _environ_length(request: wire.Request) -> int:
    pairs = request.environ.items()
    return len(b"\0".join(os.fsencode(key) + b"=" + os.fsencode(value) for key, value in pairs))


NONE = [
    '{"agent": "none"}', '{"AGENT": "None"}', '{"agent":"none"}',
    '{"name": "n",\n "Agent"\t:\n "NONE", "type": "tulle"}',
]
OTHERS = ['{"agent": "auto"}', '{"agent": "required"}', '{"agent": "nonesuch"}', '{"name": "none"}', '"agent"', ""]


@pytest.mark.parametrize("spelling", NONE)
def test_a_network_that_declines_the_agent_is_served_by_the_engine(place: Place, spelling: str) -> None:
    listener = place.listen()
    assert place.call(spelling.encode()) == (42, b"")
    assert (place.engine_ran, listener.callers) == (True, 0)


@pytest.mark.parametrize("spelling", OTHERS)
def test_any_other_network_is_the_agents(place: Place, spelling: str) -> None:
    listener = place.listen()
    assert place.call(spelling.encode())[0] == 7
    assert (place.engine_ran, listener.callers) == (False, 1)


@pytest.mark.parametrize(
    "frame",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 2,
        wire.request(wire.CNI, "tulle")[:1] + b"\x09" + wire.request(wire.CNI, "tulle")[2:],
        wire.request(77, "tulle"),
        b"T\x01\x01\x00" + (wire.LARGEST + 1).to_bytes(4, "little") + bytes(8),
        b"T\x01\x01\x00" + b"\xff" * 12,
    ],
    ids=["another protocol", "another version", "an unknown kind", "too large", "too large by far"],
)
def test_what_is_no_frame_of_ours_is_not_believed(frame: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.parse_header(frame)


def test_a_frame_is_read_as_it_was_written() -> None:
    frame = wire.request(wire.ASK, "é\udcff", b"A=1\0B=x=y\0\0C=", b"\x00\xff")
    header = wire.parse_header(frame)
    assert len(frame) == wire.REQUEST_HEADER + header.length
    request = wire.parse_request(header, frame[wire.REQUEST_HEADER :])
    assert request == (wire.ASK, "é\udcff", {"A": "1", "B": "x=y", "C": ""}, b"\x00\xff")
    reply = wire.reply(b"text", 7)
    assert (wire.parse_reply_header(reply), reply[wire.REPLY_HEADER :]) == ((7, 4), b"text")
