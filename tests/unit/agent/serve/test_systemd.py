"""What the agent says to systemd, and what it takes from it, with a stand-in for systemd on the other end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.agent.serve import systemd
from tests.pace import PATIENCE

HEIR = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from cni_plugin.agent.serve import systemd
for each in systemd.listeners(sys.argv[2]):
    channel, _ = each.accept()
    channel.send(b"served")
    print(each.getsockname(), os.get_inheritable(each.fileno()))
print(len(systemd.listeners()), sorted(key for key in os.environ if key.startswith("LISTEN_")))
"""


@pytest.fixture(params=["path", "abstract"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """$NOTIFY_SOCKET, of either kind."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@tulle-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(name.replace("@", "\0"))
        channel.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield channel


def test_systemd_is_told_in_one_message(inbox: socket.socket) -> None:
    assert systemd.notify("READY=1", "STATUS=two\nlines")
    assert inbox.recv(999) == b"READY=1\nSTATUS=two lines", "a line break in a value would be a variable of its own"


@pytest.mark.parametrize("address", ["", "nonsense", "/nowhere/notify"])
def test_without_systemd_nothing_is_told_and_nothing_fails(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not systemd.notify("READY=1")


def test_a_systemd_that_does_not_listen_holds_nobody(inbox: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_PATIENCE", 0.05)
    while systemd.notify("WATCHDOG=1"):
        pass
    assert inbox.recv(99) == b"WATCHDOG=1"


def test_the_watchdog_is_patted_at_half_of_its_time(inbox: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("cni_plugin.agent.serve.systemd.time.monotonic", lambda: now)
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    watchdog = systemd.Watchdog()
    told = []
    for now in (100.0, 101.0, 101.9, 102.0, 103.0, 104.1):
        watchdog.pat()
        try:
            told.append((now, inbox.recv(99)))
        except BlockingIOError:
            continue
    assert told == [(each, b"WATCHDOG=1") for each in (100.0, 102.0, 104.1)]


@pytest.mark.parametrize(("usec", "pid"), [("", ""), ("x", ""), ("1000000", "1")])
def test_a_watchdog_that_is_not_ours_is_left_alone(usec: str, pid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert systemd.Watchdog().interval == 0


def heir(listeners: list[socket.socket], pid_off: int, *, names: str = "", name: str = "") -> str:
    """What a process says that is given these sockets as systemd gives them, from descriptor 3 on."""
    environ = {**os.environ, "LISTEN_FDS": str(len(listeners)), "LISTEN_FDNAMES": names}
    moves = [(os.POSIX_SPAWN_DUP2, each.fileno(), 3 + index) for index, each in enumerate(listeners)]
    reader, writer = os.pipe()
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", HEIR, str(pid_off), name], environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1), *moves],
    )
    os.close(writer)
    with os.fdopen(reader) as output:
        said = output.read()
    assert os.waitpid(pid, 0)[1] == 0
    return said


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """Two listening sockets on descriptors that are out of the way, each with a client that waits."""
    made, clients = [], []
    for name in ("a", "b"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / name))
            listener.listen()
            made.append(socket.socket(fileno=os.dup(listener.fileno())))
        clients.append(socket.socket(socket.AF_UNIX))
        clients[-1].connect(str(tmp_path / name))
    yield made
    for each in (*made, *clients):
        each.close()


def test_sockets_are_taken_over_with_who_waits_in_them(listeners: list[socket.socket], tmp_path: Path) -> None:
    assert heir(listeners, 0).splitlines() == [f"{tmp_path}/a False", f"{tmp_path}/b False", "0 []"]


def test_one_socket_can_be_taken_by_its_name(listeners: list[socket.socket], tmp_path: Path) -> None:
    assert heir(listeners, 0, names="first:second", name="second").splitlines() == [f"{tmp_path}/b False", "0 []"]


def test_sockets_of_another_process_are_not_taken(listeners: list[socket.socket]) -> None:
    assert heir(listeners, 1).splitlines() == ["0 []"]


def test_without_systemd_there_are_no_sockets() -> None:
    code = "from cni_plugin.agent.serve import systemd; assert systemd.listeners() == []"
    environ = {key: each for key, each in os.environ.items() if not key.startswith("LISTEN_")}
    for more in ({}, {"LISTEN_FDS": "x", "LISTEN_PID": "1"}):
        subprocess.run([sys.executable, "-c", code], env={**environ, **more}, check=True, timeout=PATIENCE)


def test_systemd_is_shown_how_we_are_whenever_that_is_another(
    inbox: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ["ready"]
    report = systemd.Report(lambda: how[0])
    assert report.due(), "later, for READY=1 has told it just now"
    for _ in range(2):
        report.run()
    assert inbox.recv(999) == b"STATUS=ready"
    how[0] = "not ready: cluster: no subnet"
    report.run()
    assert inbox.recv(999) == b"STATUS=not ready: cluster: no subnet", "and nothing twice"
    due = report.due()
    assert due is not None and due > 0
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert systemd.Report(lambda: how[0]).due() is None, "nobody is there to be shown it"
