"""The agent's journal: what it counts, what it remembers, what it logs, and that no log can hold it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr

import msgspec
import pytest

from cni_plugin import histogram
from cni_plugin.agent.metrics import journal as module
from cni_plugin.agent.metrics.journal import Journal, Served, trace
from cni_plugin.agent.metrics.log import LONGEST_LINE, Log

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def served(verb: str = "ADD", code: int = 0, *, seconds: float = 0.0034, **more: object) -> Served:
    """An answered request."""
    values: dict[str, object] = {
        "verb": verb, "name": "tulle", "network": "pods", "container": "3f1c", "ifname": "eth0", "code": code,
        "message": "no free address" if code else "", "at": 1.0, "seconds": seconds,
        "steps": {"queue": 0.0002, "ipam": 0.0004, "netlink": 0.0021}, "environ": {}, "stdin": "{}", "stdout": "{}",
    }
    return msgspec.convert({**values, **more}, Served)


class Pipe:
    """A pipe as stderr."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def lines(self) -> list[str]:
        """What came so far."""
        try:
            return os.read(self.reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for fd in (made.reader, made.writer):
        try:
            os.close(fd)
        except OSError:
            pass


def parsed(line: str) -> dict[str, str]:
    """A line of logfmt whose values are plain words."""
    return dict(word.split("=", 1) for word in line.split(" "))


def test_a_request_is_one_line_of_logfmt(pipe: Pipe) -> None:
    Journal("info", Log("info", pipe.writer)).served(served())
    (line,) = pipe.lines()
    assert parsed(line) == {
        "level": "info", "msg": "served", "verb": "ADD", "network": "pods", "container": "3f1c", "ifname": "eth0",
        "code": "0", "ms": "3.400", "queue_ms": "0.200", "ipam_ms": "0.400", "netlink_ms": "2.100",
    }


def test_an_error_is_told_with_its_code_and_its_message(pipe: Pipe) -> None:
    journal = Journal("info", Log("info", pipe.writer))
    journal.served(served(code=7, message='invalid "bridge"\nname'))
    journal.served(served(code=11))
    first, second = pipe.lines()
    assert first.startswith('level=error msg="invalid \\"bridge\\"\\nname" verb=ADD ') and " code=7 " in first
    assert second.startswith("level=warn "), "to be tried again later is no failure of the node"


@pytest.mark.parametrize(
    ("level", "logged"),
    [("error", ["7"]), ("warn", ["7", "11"]), ("info", ["7", "11", "0"]), ("debug", ["7", "11", "0", "0"])],
)
def test_a_level_logs_itself_and_what_is_graver(pipe: Pipe, level: str, logged: list[str]) -> None:
    journal = Journal(level, Log(level, pipe.writer))
    for each in (served(code=7, message="no"), served(code=11, message="no"), served(), served("STATUS")):
        journal.served(each)
    assert [parsed(line)["code"] for line in pipe.lines()] == logged


def test_a_line_has_a_priority_when_stderr_leads_to_the_journal(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.fstat(pipe.writer)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    log = Log("debug", pipe.writer)
    for level in ("error", "warn", "info", "debug"):
        log.write(level, "x", {})
    assert [line[:3] for line in pipe.lines()] == ["<3>", "<4>", "<6>", "<7>"]
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    Log("info", pipe.writer).write("info", "x", {})
    assert pipe.lines() == ["level=info msg=x"], "it leads to another stream: a file, a terminal"


def test_a_full_pipe_holds_nobody_and_what_was_lost_is_told(pipe: Pipe) -> None:
    log = Log("info", pipe.writer)
    for _ in range(2000):
        log.write("info", "x" * 100, {})
    lost = log.dropped
    assert 0 < lost < 2000
    assert os.get_blocking(pipe.writer), "the mode of the pipe is also others' who have it"
    written = pipe.lines()
    assert len(written) == 2000 - lost and all(line == written[0] for line in written), "whole lines only"
    log.write("info", "y", {})
    log.write("info", "z", {})
    assert pipe.lines() == [f"level=info msg=y dropped_lines={lost}", "level=info msg=z"]


def test_a_closed_pipe_holds_nobody(pipe: Pipe) -> None:
    log = Log("info", pipe.writer)
    os.close(pipe.reader)
    log.write("info", "x", {})
    assert log.dropped == 1


def test_what_the_engine_says_on_stderr_is_logged_and_waits_for_nobody(pipe: Pipe) -> None:
    journal = Journal("info", Log("info", pipe.writer))
    with redirect_stderr(journal.stderr()):
        print("tulle: the node list", "is new", file=sys.stderr)
        print("half", end="", file=sys.stderr)
        assert pipe.lines() == ['level=warn msg="tulle: the node list is new"']
        for _ in range(2000):
            print("x" * 100, file=sys.stderr)
    assert journal.dropped > 0


def test_a_full_socket_holds_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        log = Log("info", ours.fileno())
        for _ in range(3000):
            log.write("info", "x" * 1000, {})
        assert 0 < log.dropped < 3000
        assert theirs.recv(18) == b"level=info msg=xxx"
        assert ours.getblocking()
        log.close()


def test_a_line_is_bounded_and_never_more_than_one(pipe: Pipe) -> None:
    each = served(code=7, network="n\n" * 9999, container="\udcff", message='"' * 99999)
    Journal("info", Log("info", pipe.writer)).served(each)
    data = os.read(pipe.reader, 1 << 20)
    assert len(data) <= LONGEST_LINE and data.count(b"\n") == 1 and data.endswith(b"\n")


def test_the_callers_span_is_in_the_line(pipe: Pipe) -> None:
    Journal("info", Log("info", pipe.writer)).served(served(environ={"TRACEPARENT": f"00-{TRACE}-{SPAN}-01"}))
    words = parsed(pipe.lines()[0])
    assert (words["trace_id"], words["span_id"]) == (TRACE, SPAN)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-holds", True),
        (f"00-{TRACE}-{SPAN}-01-more", False),
        (f"ff-{TRACE}-{SPAN}-01", False),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{SPAN}-01", False),
        (f"00-{TRACE}-{SPAN}-01\n", False),
        ("", False),
    ],
)
def test_a_span_is_taken_only_as_the_standard_writes_it(text: str, valid: bool) -> None:
    assert trace({"TRACEPARENT": text}) == ({"trace_id": TRACE, "span_id": SPAN} if valid else {})


def test_what_is_asked_all_the_time_and_goes_well_is_not_worth_a_line(pipe: Pipe) -> None:
    journal = Journal("info", Log("info", pipe.writer))
    journal.served(served("STATUS"))
    journal.served(served("STATUS", 50))
    assert len(pipe.lines()) == 1


def test_a_repair_is_told_and_counted(pipe: Pipe) -> None:
    journal = Journal("info", Log("info", pipe.writer))
    journal.repaired("masquerade", 2, 0.004)
    journal.repaired("masquerade", 1, 0.001, "the kernel refused")
    first, second = pipe.lines()
    assert parsed(first)["operations"] == "2" and first.startswith("level=warn msg=repaired repair=masquerade ")
    assert second.startswith('level=error msg="the kernel refused" repair=masquerade ')
    found = journal.snapshot()["repairs"]
    assert found == {"masquerade": {"count": 2, "operations": 3, "problems": 1, "seconds": pytest.approx(0.005)}}


def test_the_last_fifty_are_remembered_oldest_first() -> None:
    journal = Journal("error")
    for index in range(60):
        journal.served(served(container=str(index)))
    assert [each.container for each in journal.recent()] == [str(index) for index in range(10, 60)]
    assert journal.total == 60


def test_a_snapshot_is_json_and_says_how_it_went() -> None:
    journal = Journal("error", Log("error", os.open(os.devnull, os.O_WRONLY)))
    for _ in range(98):
        journal.served(served(seconds=0.004))
    journal.served(served(code=11, seconds=0.2))
    journal.served(served("DEL", seconds=0.02))
    found = msgspec.json.decode(msgspec.json.encode(journal.snapshot()))
    add = found["verbs"]["ADD"]
    assert (add["count"], add["codes"]) == (99, {"0": 98, "11": 1})
    assert 0.003 <= add["p50"] <= 0.005 < 0.1 <= add["longest"] == 0.2
    assert add["steps"]["netlink"]["count"] == 99 and "nft" not in add["steps"]
    assert found["total"] == 100 and set(found["verbs"]) == {"ADD", "DEL"}


def test_names_that_a_client_makes_up_take_no_memory() -> None:
    journal = Journal("error", Log("error", os.open(os.devnull, os.O_WRONLY)))
    for index in range(500):
        journal.served(served(f"VERB{index}", code=1000 + index, steps={f"step{index}": 1.0}))
        journal.repaired(f"repair{index}", 1, 0.0)
    assert set(journal.verbs) == {"other"}
    assert set(journal.verbs["other"].steps) == set(module.STEPS)
    assert len(journal.verbs["other"].codes) <= module.MOST_KINDS + 1 >= len(journal.repairs)
    assert sum(journal.verbs["other"].codes.values()) == 500, "and all are counted"


def test_a_quantile_is_right_to_a_bucket() -> None:
    made = histogram.Histogram()
    for milliseconds in range(1, 101):
        made.observe(milliseconds / 1000)
    assert made.count == 100 and made.total == pytest.approx(5.05)
    for share in (0.5, 0.9, 0.99):
        bounds = [0.0, *histogram.BOUNDS]
        upper = next(each for each in bounds if each >= share * 0.1)
        assert bounds[bounds.index(upper) - 1] <= histogram.quantile(made.counts, share) <= upper
    assert histogram.quantile([0] * len(made.counts), 0.5) == 0.0
    made.observe(99.0)
    assert made.counts[-1] == 1 and histogram.quantile(made.counts, 1.0) == histogram.BOUNDS[-1]


def test_a_clock_that_goes_back_counts_as_no_time() -> None:
    made = histogram.Histogram()
    made.observe(-1.0)
    assert (made.counts[0], made.total) == (1, 0.0)
