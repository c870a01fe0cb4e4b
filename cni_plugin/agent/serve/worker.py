"""Requests on the warm engine: the same `verbs.run` that serves a single one, on sockets that stay open.

What may have to wait for somebody else, a delegated IPAM or duplicate address detection, is served by a thread of its
own with a kernel of its own, so that it holds nobody; the records and leases are locked on disk, where the
fallback engine of a client may be at work just as well. Whether it may is seen in its configuration; where it turns
out only on the way (a record says so), the request is given up before anybody is waited for, and begun again there.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EAGAIN
from threading import Thread
from typing import TypeVar

import msgspec

from cni_plugin import decoding, spec, wire
from cni_plugin.agent.guard import tell
from cni_plugin.agent.metrics.journal import Journal, Served
from cni_plugin.agent.serve.connection import Connection
from cni_plugin.delegate import is_delegated
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host.program import stand_in
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.meter import Meter
from cni_plugin.verbs.run import ELSEWHERE, Agent, Call, Reply, as_cni_error, may_wait, refusal, run_together

MOST_BESIDE = 8
"""Requests that wait for others at a time, each on a thread."""
_LONGEST_NOTE = 64 << 10
Shape = TypeVar("Shape")


class _Named(msgspec.Struct):
    name: str = ""


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class Job:
    """One request on its way through the agent."""

    def __init__(self, connection: Connection, request: wire.Request) -> None:
        self.connection = connection
        self.request = request
        self.queued = time.perf_counter()
        self.arrived = time.time()
        self.result = Reply(b"", 1)
        self.steps: dict[str, float] = {}
        self.seconds = 0.0
        self.waits = self._waits()
        """Whether it may have to wait for somebody else's answer."""

    @property
    def must_wait(self) -> bool:
        """Whether it was given up, to be served where it may wait."""
        return self.result is ELSEWHERE

    @property
    def verb(self) -> str:
        """What CNI_COMMAND says; "" for a question."""
        return self.request.environ.get("CNI_COMMAND", "") if self.request.kind == wire.CNI else ""

    @property
    def container(self) -> str:
        """Whom it is about, "" for nobody; and where a plugin asks that we called, for whom others of its pod wait."""
        if self.verb not in ("ADD", "DEL", "CHECK") or is_delegated(self.request.environ):
            return ""
        return self.request.environ.get("CNI_CONTAINERID", "")

    def done(self, result: Reply, steps: Mapping[str, float], begun: float) -> None:
        """It was served, beginning then; the steps are what its meter said."""
        now = time.perf_counter()
        self.result = result
        self.steps = {"queue": begun - self.queued, **steps}
        self.seconds = now - self.queued
        self.waits = self.waits or self.must_wait

    def _waits(self) -> bool:
        request = self.request
        return request.kind == wire.CNI and not is_delegated(request.environ) and may_wait(
            request.name, self.verb, request.stdin
        )


class Worker:
    """Serves jobs; one at a time on its own thread, some beside it. `close` it in the end."""

    def __init__(self, run_dir: str, journal: Journal, answers: Mapping[str, Callable[[], object]]) -> None:
        self._run_dir = run_dir
        self._journal = journal
        self._answers = answers
        self._agent = Agent(Meter(), waits=False)
        self.kernel = LinuxKernel(self._agent.meter, prompt=False)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._beside: dict[Job, str] = {}
        self._finished: deque[Job] = deque()

    @property
    def busy(self) -> bool:
        """Whether threads are at work."""
        return bool(self._beside)

    @property
    def free(self) -> bool:
        """Whether one more job may be served beside."""
        return len(self._beside) < MOST_BESIDE

    def fileno(self) -> int:
        """Readable when `finished` has something."""
        return self._bell

    def containers(self) -> set[str]:
        """Whose requests are being served beside: nothing else of theirs may begin."""
        return {each for each in self._beside.values() if each}

    def serve(self, jobs: Sequence[Job]) -> list[Job]:
        """Serve these, several only if all are DELs; those that are done now, or `must_wait`.

        The others come by `finished`.
        """
        now = [job for job in jobs if not job.waits]
        for job in jobs:
            if job.waits:
                self._beside[job] = job.container
                self._begin_beside(job)
        if len(now) == 1 and now[0].request.kind == wire.ASK:
            self._reply(now[0])
        elif now:
            self._serve(now, self.kernel, self._agent)
        return now

    def finished(self) -> Iterator[Job]:
        """Jobs that threads have done."""
        os.eventfd_read(self._bell)
        while self._finished:
            job = self._finished.popleft()
            del self._beside[job]
            yield job

    def afterwards(self) -> None:
        """What is to be done for served jobs, but need not be waited for."""
        try:
            self.kernel.announce_late()
        except OSError as error:
            print(f"tulled: a pod could not be announced to its neighbours: {error}", file=sys.stderr)
        except Exception as error:
            tell("announcing a pod to its neighbours", error)

    def note(self, job: Job) -> None:
        """Tell the journal of a job that was answered."""
        try:
            if job.verb:
                self._note(job)
        except Exception as error:
            tell("noting a request", error)

    def _note(self, job: Job) -> None:
        request, failed = job.request, _Error()
        if job.result.code:
            failed = _decoded(job.result.stdout, _Error) or _Error(code=job.result.code)
        environ = request.environ
        self._journal.served(
            Served(
                verb=_clean(job.verb),
                name=_clean(request.name),
                network=(_decoded(request.stdin, _Named) or _Named()).name,
                container=_clean(environ.get("CNI_CONTAINERID", "")),
                ifname=_clean(environ.get("CNI_IFNAME", "")),
                code=failed.code,
                message=failed.msg,
                at=job.arrived,
                seconds=job.seconds,
                steps=job.steps,
                environ={
                    _clean(key): _clean(each)
                    for key, each in environ.items()
                    if key.startswith("CNI_") or key == "TRACEPARENT"
                },
                stdin=_text(request.stdin),
                stdout=_text(job.result.stdout),
            )
        )

    def close(self) -> None:
        """Let go of the sockets."""
        self.kernel.close()
        os.close(self._bell)

    def _serve(self, jobs: Sequence[Job], kernel: LinuxKernel, agent: Agent) -> None:
        begun = time.perf_counter()
        agent.meter.take()
        calls = [self._call(job.request) for job in jobs]
        lent = {
            spec.absolute(each.environ.get("CNI_NETNS", ""), each.folder or ""): job.connection.netns
            for each, job in zip(calls, jobs, strict=True)
            if job.connection.netns >= 0
        }
        try:
            with kernel.lent(lent):
                results = run_together(calls, lambda: _staying(kernel), agent=agent)
        except Exception as error:
            results = [refusal(error, verb=job.verb) for job in jobs]
        steps = agent.meter.take()  # of them all: each waited for the others
        for job, result in zip(jobs, results, strict=True):
            job.done(result, steps, begun)

    def _call(self, request: wire.Request) -> Call:
        environ = {**request.environ, "TULLE_RUN_DIR": self._run_dir}
        return Call(request.name, environ, request.stdin, environ.pop(wire.FOLDER, ""))

    def _serve_beside(self, job: Job) -> None:
        agent = Agent(Meter())
        stand_in(job.request.environ.get(wire.FOLDER, ""))
        try:
            with LinuxKernel(agent.meter) as kernel:
                self._serve([job], kernel, agent)
        except Exception as error:
            job.done(refusal(error, verb=job.verb), {}, job.queued)
        finally:
            self._finished.append(job)
            os.eventfd_write(self._bell, 1)

    def _begin_beside(self, job: Job) -> None:
        """Raises nothing: where no thread can be had the request is refused."""
        try:
            Thread(target=self._serve_beside, args=(job,), daemon=True).start()
        except RuntimeError as error:
            why = OSError(EAGAIN, f"no thread can be started ({error})")
            job.done(refusal(why, verb=job.verb), {}, job.queued)
            self._finished.append(job)
            os.eventfd_write(self._bell, 1)

    def _reply(self, job: Job) -> None:
        answer = self._answers.get(job.request.name)
        if answer is None:
            known = ", ".join(sorted(self._answers))
            job.result = Reply(f"unknown question {job.request.name!r}: one of {known}".encode(), 2)
            return
        try:
            job.result = Reply(msgspec.json.encode(answer()), 0)
        except Exception as error:  # whoever is curious must not end the agent, which serves pods
            job.result = Reply(as_cni_error(error).msg.encode(errors="replace"), 1)


@contextmanager
def _staying(kernel: LinuxKernel) -> Iterator[Kernel]:
    """The kernel for one request: it leaves the pod, and keeps its sockets."""
    try:
        yield kernel
    finally:
        kernel.leave()


def _decoded(data: bytes, kind: type[Shape]) -> Shape | None:
    try:
        return decoding.decode_as(kind, data)
    except msgspec.DecodeError:
        return None


def _clean(text: str) -> str:
    """What came as bytes that are no UTF-8 cannot be written down: neither as JSON nor in a log."""
    return text.encode("utf-8", "surrogateescape").decode(errors="replace")


def _text(data: bytes) -> str:
    return data[:_LONGEST_NOTE].decode(errors="replace")
