"""The loop of the agent: clients come, are greeted, say what they want, wait their turn, and are answered.

One thread does it all, so that there is nothing to lock and the order is that of arrival. Promises: a client that is
slow, stuck or gone holds nobody; what 500 clients ask at once is served one after the other with bounded memory; DELs
that wait together are done together, for many links are deleted in the time of one; no request overtakes another one
of its container; what was begun is finished, whether or not the client is still there; what goes wrong with one
client or one watcher is told, and the loop turns on.

    turn:  sockets  ->  reconcile if due  ->  the next request, or all waiting DELs  ->  replies
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from cni_plugin import wire
from cni_plugin.agent.guard import Guarded, Watcher, tell
from cni_plugin.agent.serve.connection import Connection, is_welcome
from cni_plugin.agent.serve.worker import Job, Worker

BACKLOG = 4096
MOST_CONNECTIONS = 2000
MOST_BYTES = 64 << 20
"""What unserved requests may hold in memory; beyond it nothing more is read until some are served."""
MOST_TOGETHER = 128
"""DELs in one batch: the kernel's wait is shared by then, and nobody else should wait for longer."""
PATIENCE = 10.0
"""Seconds for a client to send its request, or to take its reply."""
GOODBYE = 2.0
"""Seconds that greeted clients have for their request when the agent is told to end."""
BREATH = 0.1
"""Seconds until the next turn after one that failed: what goes wrong in each must not keep a processor busy."""


class Server:
    """The loop over a listening socket. `close` it in the end."""

    def __init__(self, listener: socket.socket, worker: Worker, watchers: Iterable[Watcher]) -> None:
        self._listener = listener
        self._worker = worker
        self._watchers = tuple(map(Guarded, watchers))
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._waiting: deque[Job] = deque()
        self._stuck = False
        self._hears = True
        self._paused: list[Connection] = []
        self._watched: dict[int, Guarded] = {}
        self._stop_at: float | None = None
        self._bell: socket.socket | None = None
        listener.setblocking(False)
        self._poll.register(listener.fileno(), select.EPOLLIN)
        self._poll.register(worker.fileno(), select.EPOLLIN)

    @property
    def queue(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def watch_bell(self, bell: socket.socket) -> None:
        """Wake up when something comes in here, which says nothing else."""
        self._bell = bell
        self._poll.register(bell.fileno(), select.EPOLLIN)

    def stop(self) -> None:
        """Serve who is here already, and let `run` return then."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + GOODBYE
            self._poll.unregister(self._listener.fileno())

    def run(self, each_turn: Callable[[], None]) -> None:
        """Turn until stopped. `each_turn` is called after each whole turn, at least once a second.

        Not after one that failed: where each does, whoever watches over us is to begin anew.
        """
        while not self._is_done():
            try:
                self.turn(self._pause() if self._stuck or not self._waiting else 0.0)
            except Exception as error:
                tell("a turn", error)
                self._rest()
            else:
                each_turn()

    def close(self) -> None:
        """Let go of all sockets. Who was not answered serves itself, or is told that its reply is lost."""
        for each in list(self._connections.values()):
            self._drop(each)
        self._poll.close()

    def turn(self, seconds: float) -> None:
        """Wait so long for something to happen, and do what is to be done."""
        self._watch()
        happened = self._wait(seconds)
        for fd, events in happened:
            try:
                self._happened(fd, events)
            except Exception as error:
                self._failed(fd, error)
        if not happened:  # descriptors may have run out for a reason outside
            self._hear(True)
        self._lose_patience()
        now = time.monotonic()
        for each in self._watchers:
            due = each.due()
            if due is not None and due <= now:
                each.run()
        self._serve()

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        try:
            return self._poll.poll(seconds)
        except OSError as error:
            tell("waiting", error)
            self._rest()
            return []

    def _rest(self) -> None:
        """A moment in which only the word to end is heard."""
        with suppress(OSError):
            select.select([self._bell] if self._bell else [], [], [], BREATH)

    def _is_done(self) -> bool:
        if self._stop_at is None:
            return False
        busy = self._waiting or self._worker.busy or any(each.reply for each in self._connections.values())
        return not busy and (not self._connections or time.monotonic() >= self._stop_at)

    def _pause(self) -> float:
        now = time.monotonic()
        times = [each.due() for each in self._watchers]
        wanted = min((each for each in times if each is not None), default=now + 1.0)
        return min(max(wanted - now, 0.0), 0.05 if self._stop_at else 1.0)

    def _watch(self) -> None:
        """Keep the set of descriptors that others want watched."""
        wanted = {fd: each for each in self._watchers for fd in each.filenos()}
        if wanted != self._watched:
            for fd in self._watched.keys() - wanted.keys():
                try:
                    self._poll.unregister(fd)
                except OSError:  # closed by its owner, which takes it out of the set
                    continue
            self._watched = {fd: each for fd, each in wanted.items() if fd in self._watched or self._begins(fd)}

    def _begins(self, fd: int) -> bool:
        """Whether this is watched from now on; where there is no room for it, the next turn tries again."""
        try:
            self._poll.register(fd, select.EPOLLIN)
        except OSError as error:
            tell("watching", error)
            return False
        return True

    def _happened(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._worker.fileno():
            for job in self._worker.finished():
                self._answer(job)
        elif self._bell is not None and fd == self._bell.fileno():
            self._bell.recv(4096)
        elif fd in self._watched:
            self._watched[fd].readable(fd)
        elif fd in self._connections:
            self._spoken(self._connections[fd], events)

    def _failed(self, fd: int, error: Exception) -> None:
        """Hang up on the client with whom this happened; where it was none, the next turn is another try."""
        tell("the socket", error)
        if fd in self._connections:
            self._drop(self._connections[fd])

    def _expect(self, fd: int, events: int) -> bool:
        """Wait for these events there; whether that can be done."""
        try:
            self._poll.modify(fd, events)
        except OSError as error:
            tell("waiting", error)
            return False
        return True

    def _hear(self, on: bool) -> None:
        """Whether new clients are let in; who is not waits in the backlog until somebody else has gone."""
        if on != self._hears and self._stop_at is None and self._expect(self._listener.fileno(), on * select.EPOLLIN):
            self._hears = on

    def _accept(self) -> None:
        while True:
            if len(self._connections) >= MOST_CONNECTIONS:
                return self._hear(False)
            try:
                channel, _ = self._listener.accept()
            except BlockingIOError:
                return None
            except OSError:  # no descriptors left
                return self._hear(False)
            try:
                self._let_in(channel)
            except OSError as error:  # there is no room to look at it, or to wait for it
                channel.close()
                tell("a new client", error)

    def _let_in(self, channel: socket.socket) -> None:
        if not is_welcome(channel):
            channel.close()
            return
        connection = Connection(channel, time.monotonic())
        connection.greet()
        self._poll.register(connection.fd, select.EPOLLIN | select.EPOLLRDHUP)
        self._connections[connection.fd] = connection

    def _spoken(self, each: Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            self._write(each)
            if each.gone:
                self._drop(each)
            return
        if each.request is not None or not each.receive():
            self._hung_up(each)
        elif each.request is not None:
            self._waiting.append(Job(each, each.request))
            if events & select.EPOLLRDHUP:  # it left right after its last word
                self._hung_up(each)
            else:
                self._poll.modify(each.fd, select.EPOLLRDHUP)
        if self._held() > MOST_BYTES and each.fd in self._connections and each.request is None:
            self._poll.modify(each.fd, 0)
            self._paused.insert(0, each)

    def _hung_up(self, each: Connection) -> None:
        """Who leaves without a request is forgotten; whose request waits, or is being served, is kept in mind."""
        each.gone = True
        if each.request is None:
            self._drop(each)
        else:
            self._poll.unregister(each.fd)

    def _held(self) -> int:
        return sum(each.size for each in self._connections.values()) if len(self._connections) > 8 else 0

    def _lose_patience(self) -> None:
        limit = time.monotonic() - PATIENCE
        for each in [each for each in self._connections.values() if each.since < limit and not each.is_served]:
            self._drop(each)

    def _serve(self) -> None:
        """The next request, or all DELs that may be done with it."""
        jobs = self._next()
        self._stuck = not jobs
        if jobs:
            for job in self._worker.serve(jobs):
                if job.must_wait:
                    self._waiting.appendleft(job)
                else:
                    self._answer(job)
            self._worker.afterwards()
        self._read_on(0 if jobs else 1)

    def _read_on(self, at_least: int) -> None:
        """Read on from all that were paused once there is room; from one, lest all wait for each other, if need be."""
        count = len(self._paused) if self._held() <= MOST_BYTES else at_least
        for each in [self._paused.pop(0) for _ in self._paused[:count]]:
            if self._connections.get(each.fd) is each:  # not another one's, who got the number after it
                each.gone |= not self._expect(each.fd, select.EPOLLIN | select.EPOLLRDHUP)

    def _next(self) -> list[Job]:
        """Takes out of the queue, in order, what is to be done now."""
        taken: list[Job] = []
        passed: list[Job] = []
        before = self._worker.containers()
        while self._waiting and len(taken) < MOST_TOGETHER:
            job = self._waiting.popleft()
            if job.connection.gone and job.verb == "ADD":
                self._drop(job.connection)  # not begun, so nothing is there that would have to be taken back
            elif job.container in before or (taken and (job.verb != "DEL" or job.waits)) or not self._may_begin(job):
                before.add(job.container)
                passed.append(job)
            else:
                taken.append(job)
                if job.verb != "DEL":
                    break
        self._waiting.extendleft(reversed(passed))
        return taken

    def _may_begin(self, job: Job) -> bool:
        return self._worker.free or not job.waits

    def _answer(self, job: Job) -> None:
        each = job.connection
        each.gone |= self._connections.get(each.fd) is not each
        if not each.gone:
            each.finish(wire.reply(job.result.stdout, job.result.code))
            self._write(each)
        if each.gone:
            self._take_back(job)
        self._worker.note(job)

    def _take_back(self, job: Job) -> None:
        """An ADD whose result nobody was told may be taken for none: it is undone before anything else is done."""
        if job.verb == "ADD" and not job.result.code:
            environ = {**job.request.environ, "CNI_COMMAND": "DEL"}
            self._waiting.appendleft(Job(job.connection, job.request._replace(environ=environ)))
        else:
            self._drop(job.connection)

    def _write(self, each: Connection) -> None:
        if each.send():
            if not each.gone:
                self._drop(each)
        else:
            each.gone |= not self._expect(each.fd, select.EPOLLOUT)

    def _drop(self, each: Connection) -> None:
        if self._connections.get(each.fd) is each:  # not another one's, who got the number after it
            del self._connections[each.fd]
        each.close()  # takes it out of the epoll set too
        self._hear(True)
