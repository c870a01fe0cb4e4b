"""The agent on a node, as tests want it: started and stopped, killed, or made to die at its n-th operation.

`Agent` is the executable under test in the node's namespace. `Mortal` is the same service in a child of the test, with
the injector of `failing_engine` armed from the moment that it is ready. `Asker` speaks to the socket itself, without
the executable in between: for many requests a second, and for what no client of ours would ever send.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

from cni_plugin import wire
from cni_plugin.agent import loop, service
from cni_plugin.agent.serve import connection, server, systemd, worker
from tests.conformance.nodes import SYSTEM_PATH, Call, Json, Node
from tests.netns.failing_engine import LOADED, Injector, enter
from tests.pace import PATIENCE

HERE = (*LOADED, loop, server, service, worker)
"""What the agent imports, imported here once instead of in every child."""
Answer = TypeVar("Answer")


class _Ready:
    """Where an agent says READY=1, as to systemd. A path: abstract sockets are a network namespace's own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tulle-ready-")
        self.path = f"{self._folder.name}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE)

    def wait(self) -> None:
        while b"READY=1" not in self._socket.recv(4096):
            pass

    def said(self) -> bool:
        """Whether something was said meanwhile."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return b"READY=1" in self._socket.recv(4096)
        return False

    def close(self) -> None:
        self._socket.close()
        self._folder.cleanup()


class Agent:
    """The agent of a node. A context manager: ready when it is entered, gone when it is left."""

    def __init__(self, node: Node, plugin: Path, *, mounts: str = "") -> None:
        """`plugin` is the client that it belongs to, `mounts` the file of another mount namespace to live in."""
        self.node = node
        self.socket = node.run_dir / wire.SOCKET
        self._words = ["nsenter", f"--net={node.path}", *([f"--mount={mounts}"] if mounts else []), "--"]
        built = plugin.resolve().parent / "tulled"
        self._words += [str(built)] if built.exists() else [sys.executable, "-I", "-m", "cni_plugin.agent"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def begin(self) -> _Ready:
        """Start it and do not wait; where it will say that it is ready."""
        ready = _Ready()
        environ = {"PATH": SYSTEM_PATH, "TULLE_RUN_DIR": str(self.node.run_dir), "NOTIFY_SOCKET": ready.path}
        with (self.node.state / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._words, "--conf", str(self.node.state / "agent.json")],
                env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        return ready

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with contextlib.closing(self.begin()) as ready:
            try:
                ready.wait()
            except TimeoutError:
                self.kill()
                raise AssertionError(f"the agent is not ready after {PATIENCE:g} s: {self.log()}") from None

    def log(self) -> str:
        return (self.node.state / "agent.log").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """End it in order, as systemd does."""
        assert self._process is not None, "not started"
        self._process.terminate()
        assert self._process.wait(timeout=PATIENCE) == 0, self.log()
        self._process = None

    def kill(self) -> None:
        """End it as the kernel does when memory runs out."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=PATIENCE)
            self._process = None

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def descriptors(self) -> list[str]:
        """What it holds open, by kind and path; numbers of sockets left out."""
        return opened(self.pid)

    def memory(self, what: str = "VmRSS") -> float:
        """MiB resident now; of `VmHWM`, at most so far."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", text)[1]) / 1024  # type: ignore[index]

    def __enter__(self) -> Agent:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def opened(pid: int) -> list[str]:
    """What a process holds open, by kind and path; numbers of sockets left out."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(re.sub(r"\d+", "N", os.readlink(each)))
    return sorted(found)


class _Telling(Injector):
    """Writes the name of the operation at which it ends the process before it does."""

    def __init__(self, target: int, pipe: int) -> None:
        super().__init__("kill", target)
        self.armed = False
        self._pipe = pipe
        self._write = os.write

    def step(self, name: str) -> bool:
        if self.armed and self.seen + 1 == self.target:
            self._write(self._pipe, name.encode())
        return super().step(name)


class Mortal:
    """An agent that is killed at its `target`-th operation after it was ready; sending a reply is one, too."""

    def __init__(self, node: Node, target: int) -> None:
        self._reader, writer = os.pipe()
        ready = _Ready()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _live(node, ready.path, _Telling(target, writer))
        os.close(writer)
        with contextlib.closing(ready):
            ready.wait()

    def end(self) -> str:
        """Wait for its end if it is dying, else end it; the operation at which it died, "" when it lived on."""
        with os.fdopen(self._reader, "rb") as pipe:
            os.set_blocking(pipe.fileno(), False)
            name = pipe.read()
        if not name:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        return (name or b"").decode()

    def wait(self) -> None:
        """Wait for its end."""
        with os.fdopen(self._reader, "rb") as pipe:
            pipe.read()
        os.waitpid(self.pid, 0)


def _live(node: Node, ready: str, injector: Injector) -> None:
    """The life of the child; never returns."""
    with contextlib.suppress(BaseException):
        try:
            enter(node.path)
            log = os.open(node.state / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.clear()
            os.environ.update({"PATH": SYSTEM_PATH, "NOTIFY_SOCKET": ready})
            injector.install()
            notify, finish = systemd.notify, connection.Connection.finish

            def arming(*lines: str) -> bool:
                injector.armed = True
                return notify(*lines)

            def dying(self: connection.Connection, reply: bytes) -> None:
                injector.step("reply")
                finish(self, reply)

            systemd.notify = arming
            systemd.Report.INTERVAL = 10 * PATIENCE  # its operations are not those of a request
            connection.Connection.finish = dying  # type: ignore[method-assign]
            service.serve(str(node.run_dir), str(node.state / "agent.json"))
        except BaseException:
            traceback.print_exc()
    os._exit(99)


class Asker:
    """Requests over the agent's socket, from within the node's namespace (`in_node`)."""

    def __init__(self, node: Node, configuration: Mapping[str, object]) -> None:
        self.node = node
        self.configuration = configuration

    def connect(self) -> socket.socket:
        """A connection that was greeted."""
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(PATIENCE)
        channel.connect(str(self.node.run_dir / wire.SOCKET))
        assert receive(channel, len(wire.GREETING)) == wire.GREETING
        return channel

    def frame(self, call: Call, **more: object) -> bytes:
        environ = call.environ(self.node.plugins, self.node.run_dir)
        words = b"\0".join(f"{key}={value}".encode() for key, value in environ.items())
        return wire.request(wire.CNI, "tulle", words, json.dumps({**self.configuration, **more}).encode())

    def send(self, channel: socket.socket, call: Call, **more: object) -> None:
        """Send a request, with the pod's namespace if there is one."""
        opened = [os.open(call.netns, os.O_RDONLY)] if call.netns and os.path.exists(call.netns) else []
        frame = self.frame(call, **more)
        sent = socket.send_fds(channel, [frame], opened)
        if sent < len(frame):  # to send nothing is refused once the agent has answered and let go
            channel.sendall(frame[sent:])
        for each in opened:
            os.close(each)

    def __call__(self, call: Call, **more: object) -> tuple[int, Json]:
        """One request: exit code and answer."""
        with self.connect() as channel:
            self.send(channel, call, **more)
            answer = replied(channel)
            assert channel.recv(1) == b"", "the agent has let go of us"
            return answer

    def question(self, name: str) -> object:
        """What an operator's tool asks."""
        with self.connect() as channel:
            channel.sendall(wire.request(wire.ASK, name))
            code, length = wire.parse_reply_header(receive(channel, wire.REPLY_HEADER))
            assert code == 0
            answer = receive(channel, length)
            assert channel.recv(1) == b"", "the agent has let go of us"
            return json.loads(answer)


def replied(channel: socket.socket) -> tuple[int, Json]:
    """Exit code and decoded answer, {} when it is empty."""
    code, length = wire.parse_reply_header(receive(channel, wire.REPLY_HEADER))
    text = receive(channel, length)
    return code, json.loads(text) if text.strip() else {}


def receive(channel: socket.socket, size: int) -> bytes:
    """Exactly so many bytes; fewer when the other side ends before."""
    data = b""
    while len(data) < size and (more := channel.recv(size - len(data))):
        data += more
    return data


def in_node(netns: str, work: Callable[[], Answer]) -> Answer:
    """Do something in a child process that lives in this network namespace; what it returned, by way of JSON.

    A process, because the agent looks at the namespace of a client's first thread.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said, code = b"", 1
        try:
            enter(netns)
            said, code = json.dumps(work()).encode(), 0
        except BaseException:
            said = traceback.format_exc().encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(said)
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, text
    return cast(Answer, json.loads(text))
