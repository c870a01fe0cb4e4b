"""What the worker notes and answers, whatever a client sends: nothing of it may end the agent."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from cni_plugin import wire
from cni_plugin.agent.metrics.journal import Journal
from cni_plugin.agent.serve import worker as worker_module
from cni_plugin.agent.serve.connection import Connection
from cni_plugin.agent.serve.worker import Job, Worker
from cni_plugin.verbs.run import Reply


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def journal() -> Journal:
    return Journal("error")


@pytest.fixture
def worker(stack: ExitStack, tmp_path: Path, journal: Journal) -> Worker:
    def broken() -> object:
        raise OSError(5, "the disk is gone")

    answers = {"requests": journal.recent, "broken": broken}
    made = Worker(str(tmp_path), journal, answers)
    stack.callback(made.close)
    return made


@pytest.fixture
def job(stack: ExitStack) -> Callable[..., Job]:
    """A job of a client that is there."""

    def make(kind: int, name: str, environ: Mapping[str, str] = {}, stdin: bytes = b"{}") -> Job:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        connection = Connection(ours, time.monotonic())
        stack.callback(connection.close)
        return Job(connection, wire.Request(kind, name, dict(environ), stdin))

    return make


def noted(worker: Worker, job: Job) -> None:
    job.done(Reply(b"{}", 0), {}, time.perf_counter())
    worker.note(job)


def test_a_request_that_is_no_utf8_can_be_told_to_the_curious(worker: Worker, job: Callable[..., Job]) -> None:
    """The bytes of an environment are anything; as Python decodes them (PEP 383) they cannot be written as JSON."""
    bad = b"a\xff".decode("utf-8", "surrogateescape")
    environ = dict.fromkeys(("CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "TRACEPARENT"), bad)
    noted(worker, job(wire.CNI, bad, {"CNI_COMMAND": bad, **environ}))
    question = job(wire.ASK, "requests")
    worker.serve([question])
    (told,) = msgspec.json.decode(question.result.stdout)
    assert question.result.code == 0
    assert {told["verb"], told["container"], told["name"], told["environ"]["CNI_IFNAME"]} == {"a\ufffd"}


def test_a_request_that_cannot_be_served_at_all_is_answered(
    worker: Worker, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> list[Reply]:
        raise MemoryError("no room")

    monkeypatch.setattr(worker_module, "run_together", broken)
    request = job(wire.CNI, "tulle", {"CNI_COMMAND": "ADD"})
    assert worker.serve([request]) == [request]
    assert request.result.code == 1
    assert msgspec.json.decode(request.result.stdout)["code"] == 11


@pytest.mark.parametrize("missing", ["thread", "sockets"])
def test_a_request_that_must_wait_is_answered_where_there_is_no_room_for_that(
    worker: Worker, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread") if missing == "thread" else OSError(24, "Too many open files")

    if missing == "thread":
        monkeypatch.setattr(Thread, "start", refused)
    else:
        monkeypatch.setattr(worker_module, "LinuxKernel", refused)
    request = job(wire.CNI, "tulle", {"CNI_COMMAND": "ADD"}, b'{"name": "pods", "ipam": {"type": "dhcp"}}')
    assert worker.serve([request]) == []
    select.select([worker.fileno()], [], [])
    assert list(worker.finished()) == [request]
    assert not worker.busy
    assert msgspec.json.decode(request.result.stdout)["code"] == 11


def test_a_question_that_cannot_be_answered_says_why(worker: Worker, job: Callable[..., Job]) -> None:
    question = job(wire.ASK, "broken")
    worker.serve([question])
    assert question.result.code == 1
    assert b"the disk is gone" in question.result.stdout
