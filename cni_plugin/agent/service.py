"""The agent from start to end: what it needs is put together, the loop turns, and SIGTERM ends it in order.

    <run>/agent.sock     the socket, 0600, unless systemd hands one over
    <run>/agent.lock     held while an agent lives: there is one for a run folder
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from cni_plugin import wire
from cni_plugin.agent import settings as configuration
from cni_plugin.agent.cluster.offload import Offload
from cni_plugin.agent.guard import Late, Resident, Watcher
from cni_plugin.agent.loop import Reconciler
from cni_plugin.agent.metrics.gauges import Gauges
from cni_plugin.agent.metrics.journal import Journal
from cni_plugin.agent.serve import systemd
from cni_plugin.agent.serve.server import BACKLOG, Server
from cni_plugin.agent.serve.worker import Worker
from cni_plugin.agent.settings import Settings
from cni_plugin.agent.supervisor import Supervisor
from cni_plugin.client import VERSION
from cni_plugin.errors import INVALID_CONFIG, NOT_AVAILABLE, CniError
from cni_plugin.kernel.host import files, locks
from cni_plugin.kernel.open import open_kernel
from cni_plugin.marks import MOST_PORTS
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records
from cni_plugin.verbs.run import as_cni_error
from cni_plugin.wirings.bridge import wiring as bridges

if TYPE_CHECKING:
    from cni_plugin.agent.cluster.membership import Membership
    from cni_plugin.agent.metrics.server import MetricsServer


def serve(run_dir: str, conf: str) -> int:
    """Be the agent until SIGTERM or SIGINT. Returns the exit code: 1 when it cannot start, and says why on stderr."""
    run_dir = run_dir or os.environ.get("TULLE_RUN_DIR") or DEFAULT_RUN_DIR
    try:
        settings = configuration.load(conf or configuration.DEFAULT_PATH)
        with ExitStack() as stack:
            _Agent(run_dir, settings, stack).live()
    except Exception as error:
        print(f"tulled: {as_cni_error(error).msg}", file=sys.stderr)
        return 1
    return 0


class _Agent:
    """All parts of a running agent; what they hold is let go of with the stack."""

    def __init__(self, run_dir: str, settings: Settings, stack: ExitStack) -> None:
        self._run_dir = run_dir
        self._settings = settings
        self._started = time.time()
        _raise_limits()
        files.make_root(run_dir)
        stack.enter_context(_only_one(f"{run_dir}/agent.lock"))
        self._early = _early(settings.metrics, stack) if settings.metrics else None
        self._journal = Journal(settings.log)
        stack.enter_context(redirect_stderr(self._journal.stderr()))  # what verbs say must not wait for a full pipe
        answers = {
            "status": self._status,
            "requests": self._journal.recent,
            "metrics": self._journal.snapshot,
        }
        self._worker = Worker(run_dir, self._journal, answers)
        stack.callback(self._worker.close)
        self._records = Records(run_dir)
        self._gauges = Gauges(self._worker.kernel, self._records, lambda: self._server.queue)
        self._membership = self._member(stack) if settings.source else None
        self._reconciler = Reconciler(
            self._worker.kernel, self._records, self._journal, settings, keeper=self._membership
        )
        stack.callback(self._reconciler.close)
        self._supervisor = Supervisor(run_dir, open_kernel, partial(self._journal.say, "warn"))
        stack.callback(self._supervisor.close)
        listener = stack.enter_context(_listening(f"{run_dir}/{wire.SOCKET}"))
        self._server = Server(listener, self._worker, self._watchers(stack))
        stack.callback(self._server.close)
        stack.enter_context(_signals(self._server))

    def live(self) -> None:
        """Turn until told to end."""
        self._reconciler.run()
        gc.collect()
        gc.freeze()  # what stands now stays: no collection need look at it again
        systemd.notify("READY=1", f"STATUS={self._how()}")
        self._server.run(systemd.Watchdog().pat)
        systemd.notify("STOPPING=1")

    def _member(self, stack: ExitStack) -> Membership:
        from cni_plugin.agent.cluster.membership import Membership  # not needed where nodes are listed by hand

        membership = Membership(self._worker.kernel, self._records, self._journal, self._settings)
        stack.callback(membership.close)
        return membership

    def _watchers(self, stack: ExitStack) -> list[Watcher]:
        watchers: list[Watcher] = [self._reconciler, systemd.Report(self._how)]
        if self._membership:
            watchers.append(self._membership)
        offload = Offload(self._records, self._reconciler.anew)
        stack.callback(offload.close)
        watchers.append(offload)
        if self._settings.mesh:
            from cni_plugin.agent.cluster.mesh import Mesh

            watchers.append(_begun("mesh", partial(Mesh, self._records, self._settings.network), stack))
        if self._settings.metrics:
            watchers.append(_begun("metrics server", self._metrics, stack))
        return watchers

    def _metrics(self) -> MetricsServer:
        from cni_plugin.agent.metrics.server import MetricsServer, listening  # 20 ms and some MiB, for who wants it

        early, self._early = self._early, None
        listener = early or listening(self._settings.metrics)
        return MetricsServer(listener, self._journal, self._unready, self._gauges)

    def _how(self) -> str:
        """In a line, for systemd."""
        problem = self._unready()
        return f"serving {self._run_dir}/{wire.SOCKET}, {f'not ready: {problem}' if problem else 'ready'}"

    def _unready(self) -> str:
        """Why no pod should be started here now, "" when nothing is in the way: the one truth that all others show."""
        full = [f"network {each.network} has no free address" for each in self._gauges.pools() if not each.free]
        full += [bridges.full(name) for name, ports in self._gauges.bridge_ports().items() if ports >= MOST_PORTS]
        cluster = self._membership.reason if self._membership else ""
        return "; ".join(filter(None, [cluster, self._reconciler.problem, self._supervisor.problem, *full]))

    def _status(self) -> dict[str, object]:
        from cni_plugin.harmless import Censor  # 5 ms, and only for somebody who asks

        problem, censor = self._unready(), Censor()
        settings = censor.json(msgspec.to_builtins(self._settings))
        told = {
            "version": VERSION,
            "pid": os.getpid(),
            "started": self._started,
            "run_dir": self._run_dir,
            "queue": self._server.queue,
            "served": self._journal.total,
            "ready": not problem,
            "problem": problem,
            "cluster": self._membership.status() if self._membership else None,
        }
        return {**{key: censor.told(each) for key, each in told.items()}, "settings": settings}


def _begun(name: str, opened: Callable[[], Resident], stack: ExitStack) -> Watcher:
    """A part of the agent; one that cannot be had now, a port being taken, is tried again beside all else.

    Raises CniError 7 for settings that cannot be used.
    """
    try:
        part = opened()
    except (CniError, OSError) as error:
        if isinstance(error, CniError) and error.code == INVALID_CONFIG:
            raise
        part = Late(name, opened)
    stack.callback(part.close)
    return part


def _raise_limits() -> None:
    """Each client takes two descriptors while it waits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _only_one(path: str) -> Iterator[None]:
    """Hold a lock for life. Raises CniError 50 when another agent does."""
    try:
        with locks.locked(path, wait=False):
            yield
    except BlockingIOError as error:
        raise CniError(NOT_AVAILABLE, f"another agent is running: it holds {path}; systemctl stop tulled") from error


def _early(address: str, stack: ExitStack) -> socket.socket | None:
    """Before all else: kubelet asks as soon as the process is there, and waits for the answer where it can connect."""
    from cni_plugin.agent.metrics.server import listening

    try:
        return stack.enter_context(listening(address))
    except CniError as error:
        if error.code == INVALID_CONFIG:
            raise
        return None  # it is tried again with the server


@contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """The socket that clients connect to: systemd's, which outlives us, or our own, which goes with us."""
    given = systemd.listeners()
    if given:
        with given[0] as listener:
            yield listener
        return
    files.remove(path)  # what an agent that was killed left behind: we hold the lock
    mask = os.umask(0o177)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        listener.bind(path)
    finally:
        os.umask(mask)
    with listener:
        listener.listen(BACKLOG)
        try:
            yield listener
        finally:
            files.remove(path)


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """SIGTERM and SIGINT stop the loop; a pair of sockets wakes it up for that."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        reader.setblocking(False)
        server.watch_bell(reader)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.stop())
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
