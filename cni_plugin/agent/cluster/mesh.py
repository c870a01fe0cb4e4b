"""This node's row of the matrix that `tullectl ping --all` draws: how fast each peer answers through the overlay.

Off unless the settings say `"mesh": true`. It listens on UDP 9473 at this node's overlay address alone, so that nobody
outside is heard, and answers only who sends from another node's overlay address. Nothing is
measured until somebody asks, and then at most once in two seconds, whoever asks how often; who asks meanwhile is told
what is known and that the rest is on its way. Promises: nothing waits, and a turn of the loop is held for a millisecond
or two at most; an answer is as long as its question, and there are at most 200 of them in a second.

    question from 10.244.2.0:41012  ->  ICMP echo from 10.244.1.0 to those asked about  ->  answer, when asked again
"""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, Protocol

import msgspec

from cni_plugin import cluster as clusters
from cni_plugin import decoding, mesh
from cni_plugin.errors import CniError
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.echo import Echo, Reply
from cni_plugin.mesh import LOST, STRANGER, WAITING, Cell
from cni_plugin.store import clusters as notes
from cni_plugin.store.clusters import ClusterFacts
from cni_plugin.store.records import Records

EVERY = 2.0
"""Seconds between two rounds, for which a measurement holds; and between two looks whether the list has changed."""
PATIENCE = 1.0
"""Seconds in which an echo must come back; half way one that has not is sent once more."""
MOST_AT_ONCE = 64
"""Echoes sent, and datagrams read, in one turn of the loop."""
MOST_ASKED = 1024
"""Nodes in one round; who asks about more is told in the next."""
MOST_ANSWERS = 200
"""In one second."""


class Place(NamedTuple):
    """Where this node stands in the overlay: its own address there, and each peer's by digest."""

    own: str
    peers: dict[bytes, str]


class Echoing(Protocol):
    """What sends echoes: `kernel.see.echo.Echo`."""

    def fileno(self) -> int:
        """Readable when something came back."""

    def send(self, to: str, number: int, size: int = 0) -> int:
        """Send one; the time of that in nanoseconds. Raises OSError."""

    def replies(self) -> Iterable[Reply]:
        """What has come back."""

    def close(self) -> None:
        """Let go."""


class Row:
    """What was measured, and what is being measured. No two echoes of a minute have one number."""

    def __init__(self, echo: Echoing, peers: dict[bytes, str]) -> None:
        self._echo = echo
        self._peers = peers
        self._known: dict[bytes, tuple[int, float]] = {}
        self._wanted: dict[bytes, None] = {}
        self._open: dict[bytes, None] = {}
        self._to_send: deque[bytes] = deque()
        self._flying: dict[int, tuple[bytes, int]] = {}
        self._number = 0
        self._again = self._end = 0.0
        self._began = -EVERY

    def cell(self, about: bytes) -> Cell:
        """What is known of a node; where that is nothing, or old, it is measured in the next round."""
        if about not in self._peers:
            return Cell(STRANGER)
        value, at = self._known.get(about, (WAITING, 0.0))
        age = monotonic() - at
        if value != WAITING and age <= EVERY:
            return Cell(value, int(age * 1000))
        if len(self._wanted) < MOST_ASKED:
            self._wanted[about] = None
        return Cell(WAITING)

    def due(self) -> float | None:
        """When `run` is wanted."""
        if self._to_send:
            return 0.0  # now, and by any clock that was read before
        if self._open:
            return min(self._again, self._end)
        return self._began + EVERY if self._wanted else None

    def run(self) -> None:
        """Go on with the round, end it, or begin the next."""
        now = monotonic()
        if self._open and now >= self._end:
            self._known.update(dict.fromkeys(self._open, (LOST, now)))
            self._open = {}
            self._to_send.clear()
        elif self._open and now >= self._again:
            self._again = self._end
            self._to_send.extend(self._open)
        elif not self._open and self._wanted and now >= self._began + EVERY:
            self._begin(now)
        for _ in range(min(MOST_AT_ONCE, len(self._to_send))):
            self._send(self._to_send.popleft())

    def heard(self) -> None:
        """Note what came back."""
        for each in self._echo.replies():
            about, began = self._flying.get(each.number, (b"", 0))
            if about in self._open and self._peers[about] == each.address:
                del self._open[about]
                self._known[about] = max((each.at - began) // 1000, 1), monotonic()

    def _begin(self, now: float) -> None:
        self._open, self._wanted = self._wanted, {}
        self._to_send = deque(self._open)
        self._flying = {}
        self._began = now
        self._again, self._end = now + PATIENCE / 2, now + PATIENCE

    def _send(self, about: bytes) -> None:
        self._number = (self._number + 1) % 65536
        with suppress(OSError):  # no way there now: nothing will come back
            self._flying[self._number] = about, self._echo.send(self._peers[about], self._number)


class Mesh:
    """A watcher of the agent's loop, see above. `network` is preferred where a node is in several clusters."""

    def __init__(
        self, records: Records, network: str = "", *, open_echo: Callable[[int, str], Echoing] = Echo,
        port: int = mesh.PORT,
    ) -> None:
        self._records = records
        self._network = network
        self._open_echo = open_echo
        self._port = port
        self._mark: object = None
        self._place: Place | None = None
        self._callers: frozenset[str] = frozenset()
        self._socket: socket.socket | None = None
        self._echo: Echoing | None = None
        self._row: Row | None = None
        self._next = monotonic()
        self._said = ""
        self._allowance, self._counted = MOST_ANSWERS, 0.0

    def filenos(self) -> tuple[int, ...]:
        """What to wait for."""
        return tuple(each.fileno() for each in (self._socket, self._echo) if each is not None)

    def readable(self, fd: int) -> None:
        """A question, or an echo."""
        if self._row is None or self._socket is None:
            return
        if fd == self._socket.fileno():
            self._asked(self._socket, self._row)
        else:
            self._row.heard()

    def due(self) -> float | None:
        """When `run` is wanted."""
        due = self._row.due() if self._row else None
        return self._next if due is None else min(due, self._next)

    def run(self) -> None:
        """Look whether the list has changed, and go on measuring."""
        if monotonic() >= self._next:
            self._next = monotonic() + EVERY
            self._look()
        if self._row:
            self._row.run()

    def close(self) -> None:
        """Let go of the sockets."""
        for each in (self._socket, self._echo):
            if each is not None:
                each.close()
        self._socket = self._echo = self._row = None

    def _look(self) -> None:
        mark = _mark(self._records.run_dir)
        if mark != self._mark:
            self._mark = mark
            place = place_of(self._records, self._network)
            if place != self._place:
                self.close()
                self._place = place
        if self._place is not None and self._row is None:
            self._open(self._place)

    def _open(self, place: Place) -> None:
        """Listen and be able to ask; while the address is not there yet, the next look tries again. Says why once."""
        family = 6 if ":" in place.own else 4
        try:
            self._socket = _listening(family, place.own, self._port)
            self._echo = self._open_echo(family, place.own)
        except OSError as error:
            self._say(f"tulled: mesh: not at {place.own} yet: {error.strerror or error}")
            return self.close()
        self._say("")
        self._row = Row(self._echo, place.peers)
        self._callers = frozenset(place.peers.values())
        return None

    def _say(self, words: str) -> None:
        if words and words != self._said:
            print(words, file=sys.stderr)
        self._said = words

    def _asked(self, channel: socket.socket, row: Row) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                data, sender = channel.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:  # what an earlier answer met
                continue
            asked = mesh.read_question(data) if sender[0] in self._callers else None
            if asked is not None and self._may_answer():
                with suppress(OSError):
                    channel.sendto(mesh.answer(asked, [row.cell(each) for each in asked.about]), sender)

    def _may_answer(self) -> bool:
        now = monotonic()
        if now - self._counted >= 1.0:
            self._counted, self._allowance = now, MOST_ANSWERS
        self._allowance -= 1
        return self._allowance >= 0


def place_of(records: Records, network: str) -> Place | None:
    """This node's place in that network, or in the first that has one; None where it has none. Never raises."""
    names = files.names(f"{records.run_dir}/clusters")
    for name in sorted(names, key=lambda each: (each != network, each)):
        with suppress(CniError, OSError, msgspec.MsgspecError):
            facts = notes.load(records, name)
            found = _place(facts) if facts is not None else None
            if found is not None:
                return found
    return None


def _place(facts: ClusterFacts) -> Place | None:
    source = decoding.decode(facts.source)
    raw = decoding.decode(files.follow(source)) if isinstance(source, str) else source
    nodes = clusters.parse(raw).nodes
    tunnel = bool(facts.device)
    mine = next((mesh.overlay(each, tunnel=tunnel) for each in nodes if each.name == facts.node), ())
    if not mine:
        return None
    found: dict[bytes, str] = {}
    for each in nodes:
        same = [one for one in mesh.overlay(each, tunnel=tunnel) if one.version == mine[0].version]
        if same and each.name != facts.node:
            found[mesh.digest(each.name)] = str(same[0])
    return Place(str(mine[0]), found)


def _mark(run_dir: str) -> Sequence[object]:
    """What changes whenever what was programmed of a cluster is written."""
    found = []
    for name in files.names(f"{run_dir}/clusters"):
        with suppress(OSError):
            stat = os.stat(f"{run_dir}/clusters/{name}")
            found.append((name, stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return found


def _listening(family: int, address: str, port: int) -> socket.socket:
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    channel = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind)
    try:
        channel.bind((address, port))
    except OSError:
        channel.close()
        raise
    return channel
