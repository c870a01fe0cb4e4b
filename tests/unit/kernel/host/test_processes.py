"""Programs in the background are known again by whoever comes after, never started twice, and no other is ended."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin.kernel.host import files, processes
from tests.pace import PATIENCE, until

SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
def note(tmp_path: Path) -> Iterator[str]:
    """Where it is noted; whatever runs is ended after the test."""
    path = f"{tmp_path}/daemons/toy"
    yield path
    processes.end(path)
    until(lambda: running(path) == [], "all that was started is over")


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is none of ours, and lives after the test as before."""
    with subprocess.Popen(SLEEP) as process:
        yield process.pid
        assert process.poll() is None, "a foreign process was ended"
        process.kill()


def running(note: str) -> list[int]:
    """The processes that were started for this note, and what they started."""
    owner, found = f"TULLE_DAEMON={note}".encode(), []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if owner in (each / "environ").read_bytes().split(b"\0"):
                found.append(int(each.name))
        except OSError:
            continue
    return found


def pid_of(note: str) -> int:
    found = processes.find(note)
    assert found is not None
    return found.pid


def begin(note: str, command: list[str], *lines: str) -> int:
    """Begun, and so far that its environment can be read: an exec is not through when its parent goes on."""
    processes.begin(note, command, lines)
    pid = pid_of(note)
    while pid not in running(note):
        os.sched_yield()
    return pid


def await_end(note: str) -> None:
    """Until the process of this note is over."""
    fd = processes.watch(note)
    if fd >= 0:
        select.select([fd], [], [], PATIENCE)
        os.close(fd)


def test_one_that_was_begun_is_found_with_what_it_was_begun_with(note: str) -> None:
    pid = begin(note, SLEEP, "digest", *SLEEP)

    assert processes.find(note) == (pid, ("digest", *SLEEP))
    assert running(note) == [pid]
    assert os.getsid(pid) == pid
    assert processes.noted(os.path.dirname(note)) == ["toy"]


def test_none_is_begun_twice(note: str) -> None:
    first = begin(note, SLEEP, "one")
    begin(note, SLEEP, "two")

    assert processes.find(note) == (first, ("one",))
    assert running(note) == [first]


def test_one_whose_note_was_lost_is_ended_before_another_is_begun(note: str) -> None:
    """As where an agent is killed between the two, or somebody empties the run folder."""
    first = begin(note, SLEEP)
    files.remove(note)
    second = begin(note, SLEEP, "again")

    assert running(note) == [second] != [first]


def test_one_that_ends_is_told_of_and_not_found(note: str) -> None:
    os.kill(begin(note, SLEEP), signal.SIGKILL)
    await_end(note)

    assert processes.find(note) is None
    assert processes.watch(note) == -1


def test_one_that_is_ended_has_no_note(note: str) -> None:
    begin(note, SLEEP)
    processes.end(note)

    assert running(note) == []
    assert not os.path.exists(note)
    processes.end(note)


def test_one_that_does_not_want_to_end_is_killed_with_what_it_started(
    note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_AFTER_TERM", 0.1)
    stubborn = f"trap '' TERM; echo ready > {note}.ready; while :; do sleep 1000; done"
    processes.begin(note, ["/bin/sh", "-c", stubborn], [])
    while not os.path.exists(f"{note}.ready"):
        os.sched_yield()
    processes.end(note)
    os.remove(f"{note}.ready")

    while running(note):  # the kernel has killed all, and takes its time to bury the last
        os.sched_yield()


@pytest.mark.parametrize("here", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_is_sent_and_heeded_whatever_we_do_with_it_and_what_it_stands_for_noted(
    note: str, here: signal.Handlers
) -> None:
    ours = signal.signal(signal.SIGHUP, here)
    # by `wait`: dash loses a signal that comes while it starts a program (vfork, and `vforked` in its trap.c)
    text = f"sleep 1000 & trap 'echo heard >> {note}.heard; kill $!; exit' HUP; echo > {note}.ready; wait"
    processes.begin(note, ["/bin/sh", "-c", text], ["old"])
    signal.signal(signal.SIGHUP, ours)
    while not os.path.exists(f"{note}.ready"):
        os.sched_yield()
    processes.tell(note, signal.SIGHUP, ["new"])
    assert Path(note).read_text().split("\n")[2:] == ["new", ""]
    await_end(note)

    assert Path(f"{note}.heard").read_text() == "heard\n"
    for each in ("heard", "ready"):
        os.remove(f"{note}.{each}")


@pytest.mark.parametrize("text", [
    "{pid} {later} {boot}\n{exe}\n", "{pid} {started} another-boot\n{exe}\n",
    "{pid} {started} {boot}\n/usr/sbin/bird\n",
    "{pid} {started}\n{exe}\n", "{pid}", "-{pid} {started} {boot}\n{exe}\n", "", "\0\xff\n",
], ids=["at another time", "in another boot", "runs another", "no boot", "cut", "negative", "empty", "odd"])
def test_a_process_that_only_has_the_number_is_never_ended(note: str, stranger: int, text: str) -> None:
    started = int(Path(f"/proc/{stranger}/stat").read_text().rpartition(")")[2].split()[19])
    exe, boot = os.readlink(f"/proc/{stranger}/exe"), files.boot_id()
    os.makedirs(os.path.dirname(note))
    Path(note).write_text(text.format(pid=stranger, started=started, later=started + 1, boot=boot, exe=exe))

    assert processes.find(note) is None
    processes.tell(note, signal.SIGKILL, [])
    processes.end(note)

    assert os.path.exists(f"/proc/{stranger}")


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing(note: str) -> None:
    with pytest.raises(FileNotFoundError):
        processes.begin(note, ["/usr/sbin/nowhere"], [])

    assert not os.path.exists(note)


def test_what_would_not_be_read_as_it_was_noted_is_refused(note: str) -> None:
    with pytest.raises(OSError, match="line breaks") as caught:
        processes.begin(note, SLEEP, ["one\ntwo"])

    assert caught.value.errno == errno.EINVAL


def test_what_it_says_goes_to_the_journal_under_its_name(
    note: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as journal:
        journal.bind(f"{tmp_path}/journal")
        journal.listen()
        monkeypatch.setattr(processes, "_JOURNAL", f"{tmp_path}/journal")
        monkeypatch.setenv("JOURNAL_STREAM", "8:12345")
        processes.begin(note, ["/bin/sh", "-c", "echo said; echo complained >&2"], [])
        with journal.accept()[0] as heard:
            heard.settimeout(PATIENCE)
            text = b""
            while more := heard.recv(4096):
                text += more

    assert text == b"toy\n\n6\n1\n0\n0\n0\nsaid\ncomplained\n"
