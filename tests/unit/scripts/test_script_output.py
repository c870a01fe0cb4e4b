"""What the scripts print is what happened: the sum of several test runs, and the way of a packet in a capture."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.lib import summary
from scripts.lib.lab.tour import echo_request, expected_ttl

PASSED = '<testcase name="a"/>'
SKIPPED = '<testcase name="b"><skipped message="no vagrant here"/></testcase>'
FAILED = '<testcase name="c"><failure message="x"/></testcase>'
BROKEN = '<testcase name="d"><error message="x"/></testcase>'


def junit(directory: Path, name: str, *cases: str) -> None:
    text = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
    (directory / f"{name}.xml").write_text(text)


def test_the_last_line_is_the_sum_in_pytests_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    junit(tmp_path, "unit", PASSED, PASSED, SKIPPED)
    junit(tmp_path, "netns", PASSED)
    assert summary.main(tmp_path, 12.5) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip("=") == " 3 passed, 1 skipped in 12.50s "


def test_each_stage_says_how_long_it_took_and_what_was_slowest_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = "".join(f'<testcase classname="tests.unit.test_a" name="test_{each}" time="{each}"/>' for each in range(9))
    (tmp_path / "unit.xml").write_text(f'<testsuites><testsuite time="90">{cases}</testsuite></testsuites>')
    assert summary.main(tmp_path, 95) == 0
    first, *slowest, _ = capsys.readouterr().out.splitlines()
    assert first.split() == ["unit", "1.5", "min", "9", "passed"]
    assert slowest[0].split() == ["8.0", "s", "tests.unit.test_a.test_8"]
    assert len(slowest) == 5


@pytest.mark.parametrize("bad", [FAILED, BROKEN])
def test_one_failure_in_any_stage_fails_the_whole(tmp_path: Path, bad: str) -> None:
    junit(tmp_path, "unit", PASSED)
    junit(tmp_path, "netns", bad)
    assert summary.main(tmp_path, 1) == 1


def test_nothing_run_is_a_failure(tmp_path: Path) -> None:
    junit(tmp_path, "unit")
    assert summary.main(tmp_path, 1) == 1


INNER = "IP 10.244.1.2 > 10.244.3.2: ICMP echo request, id 1, seq 1, length 64"
OUTER = "IP 192.0.2.1.40000 > 192.0.2.3.8472: VXLAN, flags [I] (0x08), vni 1"


@pytest.mark.parametrize(
    ("seen", "packet"),
    [
        ([OUTER, INNER], [OUTER, INNER]),
        ([INNER], [INNER]),
        ([OUTER, "IP 10.244.9.9 > 10.244.9.8: ICMP echo reply", INNER], [INNER]),
    ],
)
def test_a_packet_is_in_a_tunnel_when_the_line_before_it_is_the_tunnels(seen: list[str], packet: list[str]) -> None:
    assert echo_request(seen, "10.244.3.2") == packet


def test_a_reply_or_another_target_is_not_the_request() -> None:
    lines = ["IP 10.244.3.2 > 10.244.1.2: ICMP echo reply, id 1", INNER]
    assert echo_request(lines, "10.244.1.2") == []
    assert echo_request(lines, "10.244.3.20") == []


def test_two_nodes_take_one_hop_each() -> None:
    assert (expected_ttl("n1/p1", "n1/p2", 4), expected_ttl("n1/p1", "n2/p1", 6)) == (64, 62)
