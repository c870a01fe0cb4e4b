"""The agent's loop with real sockets and a worker that only notes what it is given: order, bounds, bad manners.

The loop is turned by the test itself, so nothing here depends on who is quicker.
"""

from __future__ import annotations

import array
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cni_plugin import wire
from cni_plugin.agent.guard import Late
from cni_plugin.agent.serve import server
from cni_plugin.agent.serve.server import Server
from cni_plugin.agent.serve.worker import Job, Worker
from cni_plugin.errors import CniError
from cni_plugin.verbs.run import ELSEWHERE, Reply


class Notes(Worker):
    """Answers every request with the container's name, and notes who was served with whom."""

    def __init__(self) -> None:
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.served: list[list[str]] = []
        self.noted: list[str] = []
        self.rests: list[int] = []
        self.beside: dict[Job, str] = {}
        self.done: deque[Job] = deque()
        self.most_beside = 8
        self.answer = b""
        self.awaiting: set[str] = set()
        """Containers of which it turns out on the way that others must be waited for."""

    def fileno(self) -> int:
        return self.bell

    @property
    def busy(self) -> bool:
        return bool(self.beside)

    @property
    def free(self) -> bool:
        return len(self.beside) < self.most_beside

    def containers(self) -> set[str]:
        return {each for each in self.beside.values() if each}

    def serve(self, jobs: Sequence[Job]) -> list[Job]:
        now = [job for job in jobs if not job.waits]
        self.served.append([name(job) for job in jobs])
        for job in jobs:
            if job.waits:
                self.beside[job] = job.container
            elif job.container in self.awaiting:
                job.done(ELSEWHERE, {}, time.perf_counter())
            else:
                self._done(job)
        return now

    def _done(self, job: Job) -> None:
        job.done(Reply(self.answer or name(job).encode(), 0), {}, time.perf_counter())

    def finish(self, container: str) -> None:
        """What was served beside is done."""
        (job,) = [job for job, each in self.beside.items() if each == container]
        self._done(job)
        self.done.append(job)
        os.eventfd_write(self.bell, 1)

    def finished(self) -> Iterator[Job]:
        os.eventfd_read(self.bell)
        while self.done:
            job = self.done.popleft()
            del self.beside[job]
            yield job

    def note(self, job: Job) -> None:
        self.noted.append(name(job))

    def afterwards(self) -> None:
        self.rests.append(len(self.served))

    def close(self) -> None:
        os.close(self.bell)


def name(job: Job) -> str:
    return f"{job.verb} {job.request.environ.get('CNI_CONTAINERID', '')}".strip()


def frame(verb: str, container: str, stdin: bytes = b"{}") -> bytes:
    return wire.request(wire.CNI, "tulle", f"CNI_COMMAND={verb}\0CNI_CONTAINERID={container}".encode(), stdin)


DELEGATED = b'{"cniVersion": "1.0.0", "name": "net", "type": "tulle", "ipam": {"type": "dhcp"}}'
"""A network whose IPAM is another plugin, so that its requests may have to wait."""


class Client:
    """One end of a connection to the loop."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.got = b""

    def read(self) -> bool:
        """Take what there is; whether the other end is still open."""
        try:
            while data := self.socket.recv(1 << 20):
                self.got += data
        except BlockingIOError:
            return True
        except ConnectionResetError:
            pass
        return False

    @property
    def reply(self) -> bytes:
        """What was answered, whole; b"" when it was not (yet)."""
        self.read()
        data = self.got[len(wire.GREETING) :]
        if len(data) < wire.REPLY_HEADER:
            return b""
        _, length = wire.parse_reply_header(data)
        return data[wire.REPLY_HEADER :] if len(data) == wire.REPLY_HEADER + length else b""


class Loop:
    """A server, its worker and its clients."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / wire.SOCKET)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(512)
        self.worker = Notes()
        self.server = Server(self.listener, self.worker, ())
        self.clients: list[Client] = []

    def connect(self) -> Client:
        """A client that was greeted."""
        self.clients.append(Client(self.path))
        self.turn()
        return self.clients[-1]

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.server.turn(0)

    def send(self, *requests: tuple[str, str]) -> list[Client]:
        """So many clients, whose requests are all there before the loop turns again."""
        clients = [self.connect() for _ in requests]
        for client, (verb, container) in zip(clients, requests, strict=True):
            client.socket.sendall(frame(verb, container))
        return clients

    def close(self) -> None:
        self.server.close()
        self.worker.close()
        self.listener.close()
        for each in self.clients:
            each.socket.close()


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    before = descriptors()
    loop = Loop(tmp_path)
    yield loop
    loop.close()
    assert descriptors() == before, "nothing stays open"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_client_is_greeted_before_it_has_said_anything(loop: Loop) -> None:
    client = loop.connect()
    assert client.read()
    assert client.got == wire.GREETING


def test_requests_are_served_one_by_one_in_the_order_of_their_arrival(loop: Loop) -> None:
    clients = [loop.connect() for _ in range(300)]
    order = [*range(1, 300, 2), *range(0, 300, 2)]
    for number in order:
        clients[number].socket.sendall(frame("ADD", str(number)))
    loop.turn(300)
    assert loop.worker.served == [[f"ADD {number}"] for number in order]
    assert [each.reply for each in clients] == [f"ADD {number}".encode() for number in range(300)]
    assert loop.worker.noted == [f"ADD {number}" for number in order]
    assert not any(each.read() for each in clients), "a connection carries one request"


def test_dels_that_wait_together_are_served_together_and_overtake_none_of_their_container(loop: Loop) -> None:
    loop.send(("ADD", "a"), ("DEL", "b"), ("ADD", "c"), ("DEL", "c"), ("STATUS", ""), ("DEL", "d"), ("DEL", "e"))
    loop.turn(6)
    assert loop.worker.served == [["ADD a"], ["DEL b", "DEL d", "DEL e"], ["ADD c"], ["DEL c"], ["STATUS"]]


def test_two_dels_of_one_container_are_served_together(loop: Loop) -> None:
    loop.send(("DEL", "a"), ("DEL", "a"))
    loop.turn()
    assert loop.worker.served == [["DEL a", "DEL a"]]


def test_a_batch_of_dels_is_bounded(loop: Loop) -> None:
    clients = loop.send(*[("DEL", str(number)) for number in range(server.MOST_TOGETHER + 7)])
    loop.turn(2)
    assert [len(each) for each in loop.worker.served] == [server.MOST_TOGETHER, 7]
    assert all(each.reply for each in clients)


def test_what_has_to_wait_for_others_holds_up_only_its_own_container(loop: Loop) -> None:
    slow, quick, mine = loop.connect(), loop.connect(), loop.connect()
    slow.socket.sendall(frame("ADD", "slow", DELEGATED))
    loop.turn()
    quick.socket.sendall(frame("ADD", "quick"))
    mine.socket.sendall(frame("DEL", "slow"))
    loop.turn(3)
    assert (quick.reply, slow.reply, mine.reply) == (b"ADD quick", b"", b"")
    loop.worker.finish("slow")
    loop.turn(2)
    assert (slow.reply, mine.reply) == (b"ADD slow", b"DEL slow")


def test_what_turns_out_to_have_to_wait_is_begun_again_where_it_may(loop: Loop) -> None:
    loop.worker.awaiting = {"a"}
    a, b = loop.send(("DEL", "a"), ("DEL", "b"))
    loop.turn(3)
    assert loop.worker.served == [["DEL a", "DEL b"], ["DEL a"]]
    assert (a.reply, b.reply) == (b"", b"DEL b")
    loop.worker.finish("a")
    loop.turn()
    assert a.reply == b"DEL a"


def test_a_plugin_that_we_called_does_not_wait_for_the_request_that_waits_for_it(loop: Loop) -> None:
    outer, inner = loop.connect(), loop.connect()
    outer.socket.sendall(frame("ADD", "a", DELEGATED))
    loop.turn()
    environ = b"CNI_COMMAND=ADD\0CNI_CONTAINERID=a\0TULLE_DELEGATED=1"
    inner.socket.sendall(wire.request(wire.CNI, "tulle", environ, DELEGATED))
    loop.turn(2)
    assert (outer.reply, inner.reply) == (b"", b"ADD a")
    loop.worker.finish("a")
    loop.turn()
    assert outer.reply == b"ADD a"


@pytest.mark.parametrize("stdin", [b'{"x":' + b"[" * 600 + b"]" * 600 + b"}", b"\xff", b"[" * 100_000, b"[]", b""])
def test_whatever_a_request_holds_the_others_are_served(loop: Loop, stdin: bytes) -> None:
    client, other = loop.connect(), loop.connect()
    client.socket.sendall(frame("ADD", "a", stdin))
    other.socket.sendall(frame("ADD", "b"))
    loop.turn(3)
    assert (client.reply, other.reply) == (b"ADD a", b"ADD b")


def test_no_more_wait_for_others_than_may(loop: Loop) -> None:
    loop.worker.most_beside = 1
    clients = [loop.connect() for _ in range(3)]
    for client, container in zip(clients, "abc", strict=True):
        client.socket.sendall(frame("ADD", container, DELEGATED if container != "c" else b"{}"))
    loop.turn(4)
    assert loop.worker.served == [["ADD a"], ["ADD c"]]
    loop.worker.finish("a")
    loop.turn(2)
    assert loop.worker.served[2:] == [["ADD b"]]
    loop.worker.finish("b")
    loop.turn()
    assert all(each.reply for each in clients)


def test_dels_that_come_together_wait_for_others_in_no_greater_number_either(loop: Loop) -> None:
    loop.worker.most_beside = 2
    clients = [loop.connect() for _ in range(5)]
    for number, client in enumerate(clients):
        client.socket.sendall(frame("DEL", str(number), DELEGATED))
    loop.turn(8)
    assert len(loop.worker.beside) == 2
    for number in range(5):
        loop.worker.finish(str(number))
        loop.turn(2)
    assert loop.worker.served == [[f"DEL {number}"] for number in range(5)]


def test_an_add_of_which_nobody_can_be_told_is_undone_before_anything_else(loop: Loop) -> None:
    """Its client was killed while it was served; the runtime's next ADD of the container is there already."""
    client, again = loop.connect(), loop.connect()
    client.socket.sendall(frame("ADD", "a", DELEGATED))
    loop.turn()
    client.socket.close()
    again.socket.sendall(frame("ADD", "a"))
    loop.turn()
    loop.worker.finish("a")
    loop.turn(2)
    loop.worker.finish("a")
    loop.turn(2)
    assert loop.worker.served == [["ADD a"], ["DEL a"], ["ADD a"]]
    assert loop.worker.noted == ["ADD a", "DEL a", "ADD a"]
    assert again.reply == b"ADD a"


@pytest.mark.parametrize("verb", ["DEL", "CHECK"])
def test_what_else_nobody_can_be_told_of_is_left_as_it_is(loop: Loop, verb: str) -> None:
    client = loop.connect()
    client.socket.sendall(frame(verb, "a", DELEGATED))
    loop.turn()
    client.socket.close()
    loop.turn()
    loop.worker.finish("a")
    loop.turn(2)
    assert loop.worker.served == [[f"{verb} a"]]


def test_an_add_whose_client_left_while_it_waited_is_not_begun_and_a_del_is_done(loop: Loop) -> None:
    clients = loop.send(("STATUS", ""), ("ADD", "a"), ("DEL", "b"))
    loop.turn()  # all requests are read and one is served
    for each in clients[1:]:
        each.socket.close()
    loop.turn(4)
    assert loop.worker.served == [["STATUS"], ["DEL b"]]


@pytest.mark.parametrize(("verb", "served"), [("ADD", []), ("DEL", [["DEL a"]])])
def test_so_it_is_when_the_client_left_with_its_last_word(loop: Loop, verb: str, served: list[list[str]]) -> None:
    (client,) = loop.send((verb, "a"))
    client.socket.close()
    loop.turn(3)
    assert loop.worker.served == served


def test_a_request_that_comes_in_pieces_is_served_when_it_is_whole(loop: Loop) -> None:
    client = loop.connect()
    for byte in frame("ADD", "a"):
        assert loop.worker.served == []
        client.socket.sendall(bytes([byte]))
        loop.turn()
    assert client.reply == b"ADD a"


def test_a_request_of_megabytes_is_served(loop: Loop) -> None:
    client = loop.connect()
    rest = frame("ADD", "a", b" " * 5_000_000)
    while rest:
        try:
            rest = rest[client.socket.send(rest) :]
        except BlockingIOError:
            loop.turn()
    loop.turn(100)
    assert client.reply == b"ADD a"


BAD = {
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a huge length": b"T\x01\x01\x00" + b"\xff" * 12,
    "one byte too much": b"T\x01\x01\x00" + (wire.LARGEST + 1).to_bytes(4, "little") + bytes(8),
    "more than it announced": frame("ADD", "a") + b"x",
    "an unknown kind": wire.request(9, "tulle"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_who_does_not_keep_to_the_protocol_is_hung_up_on(loop: Loop, data: bytes) -> None:
    bad, good = loop.connect(), loop.connect()
    bad.socket.sendall(data)
    good.socket.sendall(frame("ADD", "good"))
    loop.turn(2)
    assert not bad.read()
    assert (bad.got, good.reply) == (wire.GREETING, b"ADD good")
    assert loop.worker.served == [["ADD good"]]


def test_silence_is_borne_for_a_while_and_holds_nobody_up(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, half = loop.connect(), loop.connect()
    half.socket.sendall(frame("ADD", "half")[:-1])
    (good,) = loop.send(("ADD", "good"))
    loop.turn()
    assert good.reply == b"ADD good"
    assert silent.read() and half.read()
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    time.sleep(0.01)
    loop.turn()
    assert not silent.read()
    assert not half.read()
    assert loop.worker.served == [["ADD good"]]


def test_who_waits_for_its_turn_may_wait_for_long(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop's patience is with clients that are slow, not with itself."""
    client = loop.connect()
    client.socket.sendall(frame("ADD", "slow", DELEGATED))
    loop.turn()
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    time.sleep(0.01)
    loop.turn(2)
    assert client.read()
    loop.worker.finish("slow")
    loop.turn()
    assert client.reply == b"ADD slow"


def test_a_reply_that_is_not_read_waits_and_holds_nobody_up(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    loop.worker.answer = b"x" * 3_000_000
    slow, never = loop.send(("ADD", "slow"), ("ADD", "never"))
    loop.turn(3)
    loop.worker.answer = b""
    (good,) = loop.send(("ADD", "good"))
    loop.turn()
    assert good.reply == b"ADD good"
    while slow.read():
        loop.turn()
    assert slow.reply == b"x" * 3_000_000
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    loop.turn()
    assert not never.read()
    assert len(never.got) < 3_000_000, "what the socket held"


def test_of_descriptors_the_first_is_kept_until_the_reply_and_no_other(loop: Loop) -> None:
    def sent(count: int, data: bytes) -> None:
        files = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(count)])
        client.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        for each in files:
            os.close(each)

    client = loop.connect()
    before = descriptors()
    whole = frame("ADD", "a")
    for count, data in ((1, whole[:5]), (3, whole[5:10]), (100, whole[10:20])):
        sent(count, data)
        loop.turn()
        assert descriptors() == before + 1
    client.socket.sendall(whole[20:])
    loop.turn()
    assert client.reply == b"ADD a"
    assert descriptors() == before - 1, "the connection is closed, too"


def test_more_clients_than_there_is_room_for_wait_outside(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    clients = [loop.connect() for _ in range(5)]
    assert [each.read() and bool(each.got) for each in clients] == [True] * 3 + [False] * 2
    for each in clients:
        each.socket.sendall(frame("ADD", "a"))
    loop.turn(10)
    assert [each.reply for each in clients] == [b"ADD a"] * 5


def test_a_full_house_does_not_keep_the_loop_awake(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do clients who wait outside; they are let in as soon as somebody leaves."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 1)
    first, second = loop.connect(), loop.connect()
    loop.turn()
    start = time.monotonic()
    loop.server.turn(0.2)
    assert time.monotonic() - start > 0.15
    first.socket.close()
    loop.turn(3)
    assert second.read() and second.got == wire.GREETING


def test_a_lack_of_descriptors_is_got_over(loop: Loop) -> None:
    """Also when nobody is connected, so that nobody's leaving can tell that there are some again."""
    client = Client(loop.path)
    loop.clients.append(client)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)  # is what accept would get
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        loop.turn(3)
        assert client.read() and client.got == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    loop.turn(3)
    assert client.read() and client.got == wire.GREETING


def test_more_bytes_than_there_is_room_for_wait_outside(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound nothing more is read of requests that are not whole, until one is served."""
    monkeypatch.setattr(server, "MOST_BYTES", 100_000)
    clients = [loop.connect() for _ in range(20)]
    rest = dict.fromkeys(clients, frame("ADD", "a", b" " * 60_000))
    most = 0
    for _ in range(1000):
        for each in clients:
            if rest[each]:
                rest[each] = rest[each][each.socket.send(rest[each][:10_000]) :]
        loop.turn()
        most = max(most, loop.server._held())
    assert [each.reply for each in clients] == [b"ADD a"] * 20
    assert most < 100_000 + 20 * 60_000 / 2, "not all of them at once"


def test_told_to_stop_it_serves_who_is_there_and_ends(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who were greeted have their time to speak, and when nobody is left that is over; nobody comes after it."""
    monkeypatch.setattr(server, "GOODBYE", 9999.0)
    waiting = loop.send(("ADD", "a"), ("DEL", "b"))
    late = loop.connect()
    loop.server.stop()
    turns = 0

    def each_turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 3:
            late.socket.sendall(frame("DEL", "late"))

    loop.server.run(each_turn)
    assert [each.reply for each in (*waiting, late)] == [b"ADD a", b"DEL b", b"DEL late"]


def test_told_to_stop_it_waits_for_a_silent_client_no_longer_than_it_must(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "GOODBYE", 0.2)
    silent = loop.connect()
    loop.server.stop()
    start = time.monotonic()
    loop.server.run(lambda: None)
    assert time.monotonic() - start > 0.1
    loop.server.close()
    assert not silent.read()


def test_after_a_turn_that_failed_there_is_another_one_and_nobody_is_told_that_all_is_well(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "BREATH", 0.0)
    turn, failing, whole = loop.server.turn, [True, True], list[int]()
    client = loop.send(("ADD", "a"))[0]
    loop.server.stop()

    def failing_at_first(seconds: float) -> None:
        if failing and failing.pop():
            raise MemoryError("none left")
        turn(seconds)

    monkeypatch.setattr(loop.server, "turn", failing_at_first)
    loop.server.run(lambda: whole.append(len(failing)))
    assert client.reply == b"ADD a"
    assert set(whole) == {0}
    assert capsys.readouterr().err.count("a turn: unforeseen MemoryError: none left") == 2


class Guest:
    """Something else that lives in the loop."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.read: list[bytes] = []
        self.runs = 0
        self.at: float | None = None

    def filenos(self) -> tuple[int, ...]:
        return (self.reader,)

    def readable(self, fd: int) -> None:
        self.read.append(os.read(fd, 100))
        self.at = time.monotonic()

    def due(self) -> float | None:
        return self.at

    def run(self) -> None:
        self.runs += 1
        self.at = None

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


def test_what_else_lives_in_the_loop_is_told_of_its_events_and_run_between_two_requests(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    guest = Guest()
    loop.server.close()
    loop.server = Server(loop.listener, loop.worker, [guest])
    try:
        loop.send(("ADD", "a"), ("ADD", "b"))
        os.write(guest.writer, b"event")
        loop.turn()
        assert (guest.read, guest.runs, loop.worker.served) == ([b"event"], 1, [["ADD a"]])
        loop.turn()
        assert (guest.runs, loop.worker.served) == (1, [["ADD a"], ["ADD b"]])
    finally:
        loop.close()
        guest.close()


class Broken(Guest):
    """Fails in everything it is asked."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.calls = 0
        self.at = 0.0

    def _fail(self, where: str) -> None:
        if where == self.where:
            self.calls += 1
            raise RecursionError("so deep")

    def filenos(self) -> tuple[int, ...]:
        self._fail("filenos")
        return super().filenos()

    def readable(self, fd: int) -> None:
        self._fail("readable")
        super().readable(fd)

    def due(self) -> float | None:
        self._fail("due")
        return 0.0

    def run(self) -> None:
        self._fail("run")


@pytest.mark.parametrize("where", ["filenos", "readable", "due", "run"])
def test_what_goes_wrong_with_one_watcher_is_told_once_and_holds_up_nobody(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(tmp_path)
    broken, guest = Broken(where), Guest()
    loop.server.close()
    loop.server = Server(loop.listener, loop.worker, [broken, guest])
    try:
        os.write(broken.writer, b"event")
        os.write(guest.writer, b"event")
        loop.send(("ADD", "a"), ("ADD", "b"))
        loop.turn(50)
        assert loop.worker.served == [["ADD a"], ["ADD b"]]
        assert (guest.read, guest.runs, broken.calls) == ([b"event"], 1, 1)
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "the broken: unforeseen RecursionError: so deep (test_server.py:" in said
        assert "left alone for 1 s" in said
        later = time.monotonic() + 1.01
        monkeypatch.setattr(time, "monotonic", lambda: later)
        loop.turn(20)
        assert broken.calls == 2, "tried again, and left alone for longer"
        assert "left alone for 2 s" in capsys.readouterr().err
    finally:
        loop.close()
        guest.close()
        broken.close()


def test_a_client_with_whom_something_goes_wrong_is_hung_up_on_and_no_other(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clients = [loop.connect(), loop.connect()]

    def parse(*_: object) -> wire.Request:
        monkeypatch.undo()
        raise MemoryError

    monkeypatch.setattr(wire, "parse_request", parse)
    for each in clients:
        each.socket.sendall(frame("ADD", "a"))
    loop.turn(3)
    assert sorted((each.read(), each.reply) for each in clients) == [(False, b""), (False, b"ADD a")]
    assert "MemoryError" in capsys.readouterr().err


def test_a_part_that_cannot_be_opened_is_tried_again_and_lives_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guest, taken = Guest(), [True]

    def opened() -> Guest:
        if taken:
            raise CniError(5, "the port is taken")
        return guest

    loop = Loop(tmp_path)
    late = Late("metrics", opened)
    loop.server.close()
    loop.server = Server(loop.listener, loop.worker, [late])
    try:
        os.write(guest.writer, b"event")
        loop.turn(5)
        assert capsys.readouterr().err == "tulled: the metrics: the port is taken; it is left alone for 1 s\n"
        taken.clear()
        later = time.monotonic() + 1.01
        monkeypatch.setattr(time, "monotonic", lambda: later)
        loop.turn(3)
        assert (guest.read, guest.runs) == ([b"event"], 1)
    finally:
        loop.close()
        late.close()
