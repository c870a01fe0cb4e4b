"""The mesh: what nodes say to each other about round trips, what strangers may say to them, and what that costs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin import mesh
from cni_plugin.agent.cluster import mesh as answering
from cni_plugin.agent.cluster.mesh import Mesh, Place, Row, place_of
from cni_plugin.cluster import Node
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.echo import Reply, checksum
from cni_plugin.mesh import LOST, MOST, STRANGER, WAITING, Cell, Question
from cni_plugin.store.records import Records

NONCE = b"01234567"
digests = st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=MOST)
cells = st.builds(Cell, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


class Clock:
    """Time, as a test tells it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Echoes:
    """Echoes to a world in which `alive` answer at once."""

    def __init__(self, *alive: str) -> None:
        self.alive = set(alive)
        self.sent: list[str] = []
        self._back: list[Reply] = []

    def fileno(self) -> int:
        return -1

    def send(self, to: str, number: int, size: int = 0) -> int:
        assert size == 0, "the smallest is enough"
        self.sent.append(to)
        if to == "unreachable":
            raise OSError(101, "Network is unreachable")
        if to in self.alive:
            self._back.append(Reply(to, number, 500_000))
        return 0

    def replies(self) -> Iterator[Reply]:
        back, self._back = self._back, []
        yield from back

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(answering, "monotonic", made)
    return made


def row(echoes: Echoes, *addresses: str) -> Row:
    return Row(echoes, {mesh.digest(each): each for each in addresses})


def value(found: Row, address: str) -> int:
    return found.cell(mesh.digest(address)).microseconds


def run(found: Row) -> None:
    found.run()
    found.heard()


# datagrams


@settings(max_examples=100, deadline=None)
@given(digests, st.data())
def test_an_answer_comes_back_as_given_and_is_as_long_as_its_question(about: list[bytes], data: st.DataObject) -> None:
    asked = mesh.question(NONCE, about)
    read = mesh.read_question(asked)
    assert read == Question(NONCE, tuple(about))
    told = data.draw(st.lists(cells, min_size=len(about), max_size=len(about)))
    said = mesh.answer(Question(NONCE, tuple(about)), told)
    assert mesh.read_answer(said, Question(NONCE, tuple(about))) == tuple(told)
    assert mesh.nonce_of(said) == NONCE
    assert len(said) == len(asked) <= 1280 - 48


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_noise_is_nothing(noise: bytes) -> None:
    assert mesh.read_question(noise) is None
    assert mesh.read_answer(noise, Question(NONCE, (b"x" * 8,))) is None


@settings(max_examples=100, deadline=None)
@given(digests, st.data())
def test_a_question_cut_lengthened_or_changed_in_its_head_is_nothing(about: list[bytes], data: st.DataObject) -> None:
    whole = mesh.question(NONCE, about)
    assert mesh.read_question(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert mesh.read_question(whole + b"x" * data.draw(st.integers(1, 100))) is None
    at = data.draw(st.integers(0, 7))
    assert mesh.read_question(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]) is None


def test_an_answer_counts_for_its_own_question_alone() -> None:
    asked = Question(NONCE, (b"a" * 8, b"b" * 8))
    said = mesh.answer(asked, [Cell(1), Cell(2)])
    assert mesh.read_answer(said, asked._replace(nonce=b"another1")) is None
    assert mesh.read_answer(said, asked._replace(about=asked.about[:1])) is None
    assert mesh.read_answer(mesh.question(NONCE, asked.about), asked) is None


def test_a_tunnel_bears_the_first_address_of_each_family_and_a_bridge_the_second() -> None:
    cidrs = tuple(map(ip_network, ("10.244.1.0/24", "10.245.1.0/24", "fd00:1::/64")))
    node = Node("n1", (ip_address("192.0.2.1"),), cidrs)
    assert [*map(str, mesh.overlay(node, tunnel=True))] == ["10.244.1.0", "fd00:1::"]
    assert [*map(str, mesh.overlay(node, tunnel=False))] == ["10.244.1.1", "fd00:1::1"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_a_packet_with_its_checksum_in_it_sums_up_to_nothing(data: bytes) -> None:
    even = data + bytes(len(data) % 2)
    assert checksum(even + checksum(even).to_bytes(2, "big")) == 0


# a row


def test_nothing_is_sent_until_somebody_asks(clock: Clock) -> None:
    echoes = Echoes("a", "b")
    found = row(echoes, "a", "b")
    clock.now += 100
    found.run()
    assert (found.due(), echoes.sent) == (None, [])


def test_who_was_asked_about_is_measured_and_nobody_else(clock: Clock) -> None:
    echoes = Echoes("a", "b")
    found = row(echoes, "a", "b")
    assert value(found, "a") == WAITING
    assert found.due() is not None and found.due() <= clock.now  # type: ignore[operator]
    run(found)
    assert (value(found, "a"), echoes.sent) == (500, ["a"])


def test_a_stranger_is_called_so_and_never_asked(clock: Clock) -> None:
    echoes = Echoes("a")
    found = row(echoes, "a")
    assert value(found, "who") == STRANGER
    clock.now += 10
    run(found)
    assert echoes.sent == []


def test_there_is_one_round_in_two_seconds_however_often_is_asked(clock: Clock) -> None:
    echoes = Echoes("a")
    found = row(echoes, "a")
    for _ in range(400):  # ten seconds
        value(found, "a")
        run(found)
        clock.now += 0.025
    assert 4 <= len(echoes.sent) <= 6


def test_who_is_silent_is_asked_twice_and_then_lost_and_is_measured_anew_when_back(clock: Clock) -> None:
    echoes = Echoes()
    found = row(echoes, "a")
    value(found, "a")
    for _ in range(11):
        run(found)
        clock.now += 0.1
    run(found)
    assert (value(found, "a"), echoes.sent) == (LOST, ["a", "a"])
    echoes.alive.add("a")
    clock.now += answering.EVERY + 0.1
    assert value(found, "a") == WAITING, "what is old does not count"
    run(found)
    assert value(found, "a") == 500


def test_a_late_echo_of_an_earlier_round_counts_for_nothing(clock: Clock) -> None:
    class Late(Echoes):
        """Answers are kept back."""

        def replies(self) -> Iterator[Reply]:
            return iter(())

    echoes = Late("a")
    found = row(echoes, "a")
    value(found, "a")
    found.run()
    late = list(Echoes.replies(echoes))
    clock.now += 1.1
    found.run()
    clock.now += answering.EVERY + 0.1
    assert value(found, "a") == WAITING
    found.run()
    echoes.replies = lambda: iter(late)  # type: ignore[method-assign]
    found.heard()
    assert value(found, "a") == WAITING


@pytest.mark.usefixtures("clock")
def test_an_answer_from_another_address_counts_for_nothing() -> None:
    echoes = Echoes("a")
    found = row(echoes, "a")
    value(found, "a")
    found.run()
    echoes._back = [each._replace(address="liar") for each in echoes._back]
    found.heard()
    assert value(found, "a") == WAITING


def test_a_large_round_is_sent_in_parts_and_a_way_that_is_not_there_stops_nobody(clock: Clock) -> None:
    names = ["unreachable", *(f"p{number}" for number in range(200))]
    echoes = Echoes(*names)
    found = row(echoes, *names)
    for each in names:
        value(found, each)
    found.run()
    assert len(echoes.sent) == answering.MOST_AT_ONCE
    due = found.due()
    assert due is not None and due < clock.now, "it goes on in the next turn, which read the clock before it asks"
    for _ in range(5):
        run(found)
    clock.now += 1.1
    found.run()
    assert [value(found, each) for each in names] == [LOST, *[500] * 200]


# the watcher


def clustered(home: Path, *cidrs: str, node: str = "n1", device: str = "tulle.1") -> Records:
    """A run folder in which a cluster was programmed: n1, n2, ... with these subnets."""
    nodes = [
        {"name": f"n{number}", "address": f"192.0.2.{number}", "podCIDRs": [cidr]}
        for number, cidr in enumerate(cidrs, 1)
    ]
    facts = {
        "network": "pods", "digest": "", "boot": files.boot_id(), "device": device, "index": 1, "mtu": 1450,
        "node": node, "backend": "vxlan", "pod_cidrs": [cidrs[0]], "inside": [], "peers": len(cidrs) - 1,
        "source": {"node": node, "nodes": nodes},
    }  # fmt: skip
    folder = home / "clusters"
    folder.mkdir(exist_ok=True)
    path = folder / ".new"
    path.write_text(json.dumps(facts))
    path.rename(folder / "pods")
    return Records(str(home))


def test_the_place_of_a_node_is_where_it_and_its_peers_speak_to_pods_from(tmp_path: Path) -> None:
    records = clustered(tmp_path, "10.244.1.0/24", "10.244.2.0/24", "fd00:3::/64")
    assert place_of(records, "pods") == Place("10.244.1.0", {mesh.digest("n2"): "10.244.2.0"})
    records = clustered(tmp_path, "10.244.1.0/24", "10.244.2.0/24", device="")
    assert place_of(records, "") == Place("10.244.1.1", {mesh.digest("n2"): "10.244.2.1"})


@pytest.mark.parametrize("text", ["", "{", '{"network": 1}'])
def test_a_damaged_note_is_no_place(tmp_path: Path, text: str) -> None:
    records = clustered(tmp_path, "10.244.1.0/24")
    (tmp_path / "clusters" / "pods").write_text(text)
    assert place_of(records, "pods") is None
    assert place_of(Records(str(tmp_path / "nowhere")), "pods") is None


class World:
    """A mesh on loopback, whose addresses are all this machine's, and a caller at any of them."""

    def __init__(self, records: Records, clock: Clock) -> None:
        self.clock = clock
        self.echoes = Echoes("127.9.2.0", "127.9.3.0")
        self.mesh = Mesh(records, open_echo=lambda _family, _source: self.echoes, port=0)
        self.callers: list[socket.socket] = []
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.mesh.run()

    @property
    def address(self) -> tuple[str, int]:
        fds = [each for each in self.mesh.filenos() if each >= 0]
        with socket.socket(fileno=os.dup(fds[0])) as channel:
            found = channel.getsockname()
        return str(found[0]), int(found[1])

    def say(self, data: bytes, source: str = "127.9.2.0", times: int = 1) -> list[bytes]:
        """Send this so often, let the mesh have its turn, and what came back."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            caller.bind((source, 0))
            for _ in range(times):
                caller.sendto(data, self.address)
                self.mesh.readable(self.mesh.filenos()[0])
            caller.setblocking(False)
            back = []
            while True:
                try:
                    back.append(caller.recv(4096))
                except BlockingIOError:
                    return back


@pytest.fixture
def world(tmp_path: Path, clock: Clock) -> Iterator[World]:
    made = World(clustered(tmp_path, "127.9.1.0/24", "127.9.2.0/24", "127.9.3.0/24"), clock)
    yield made
    made.mesh.close()


ASKED = Question(NONCE, (mesh.digest("n2"), mesh.digest("n3"), mesh.digest("n9")))


def test_it_listens_at_the_overlay_address_alone(world: World) -> None:
    assert world.address[0] == "127.9.1.0"


def test_a_peer_that_asks_twice_has_the_row(world: World) -> None:
    question = mesh.question(NONCE, ASKED.about)
    (first,) = world.say(question)
    assert [each.microseconds for each in mesh.read_answer(first, ASKED) or ()] == [WAITING, WAITING, STRANGER]
    world.turn()
    world.mesh.readable(-1)
    (second,) = world.say(question)
    assert [each.microseconds for each in mesh.read_answer(second, ASKED) or ()] == [500, 500, STRANGER]


def test_who_is_no_node_is_not_answered_and_makes_nobody_send(world: World) -> None:
    question = mesh.question(NONCE, ASKED.about)
    assert world.say(question, source="127.9.2.7") == [], "a pod of a node"
    assert world.say(question, source="127.9.1.0") == [], "this node itself"
    world.turn(10)
    assert world.echoes.sent == []


@pytest.mark.parametrize("data", [
    b"", b"x", b"tullem", bytes(2048), mesh.answer(ASKED, [Cell(1)] * 3), mesh.question(NONCE, ASKED.about)[:-1],
    mesh.question(NONCE, ASKED.about * 43)[: 20 + 128 * 8],
])  # fmt: skip
def test_a_peer_that_talks_nonsense_is_not_answered_and_the_next_one_is(world: World, data: bytes) -> None:
    assert world.say(data) == []
    assert len(world.say(mesh.question(NONCE, ASKED.about))) == 1


def test_there_are_so_many_answers_in_a_second_and_no_more(world: World) -> None:
    question = mesh.question(NONCE, ASKED.about)
    assert len(world.say(question, times=300)) == answering.MOST_ANSWERS
    world.clock.now += 1.0
    assert len(world.say(question)) == 1


def test_another_subnet_is_listened_at_two_seconds_after_it_was_programmed(world: World, tmp_path: Path) -> None:
    clustered(tmp_path, "127.9.4.0/24", "127.9.2.0/24")
    world.turn(answering.EVERY / 2)
    assert world.address[0] == "127.9.1.0"
    world.turn(answering.EVERY / 2)
    assert world.address[0] == "127.9.4.0"


def test_an_address_that_is_not_there_yet_is_tried_again(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = clustered(tmp_path, "127.9.1.0/24", "127.9.2.0/24")
    listening = answering._listening

    def refused(*_: object) -> socket.socket:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(answering, "_listening", refused)
    world = World(records, clock)
    world.turn(answering.EVERY)
    assert world.mesh.filenos() == ()
    assert capsys.readouterr().err == "tulled: mesh: not at 127.9.1.0 yet: Cannot assign requested address\n", "once"
    monkeypatch.setattr(answering, "_listening", listening)
    world.turn(answering.EVERY)
    assert world.address[0] == "127.9.1.0"
    world.mesh.close()
    assert world.mesh.filenos() == ()


def test_a_node_in_no_cluster_listens_nowhere_and_looks_again(tmp_path: Path, clock: Clock) -> None:
    found = Mesh(Records(str(tmp_path)))
    found.run()
    assert (found.filenos(), found.due()) == ((), clock.now + answering.EVERY)
