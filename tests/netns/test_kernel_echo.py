"""ICMP echoes and what is known of neighbours, on a real kernel: who answers counts, and nobody else."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from typing import TypeVar

import pytest

from cni_plugin.kernel.see.echo import LEAST, Echo, Reply
from cni_plugin.kernel.see.heard import confirmed
from scripts.lib.lab import namespaces
from tests.netns.agents import in_node

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


Answer = TypeVar("Answer")


def there(netns: str, work: Callable[[], Answer]) -> Answer:
    """What this finds in a namespace of that name."""
    return in_node(str(namespaces.NETNS_DIR / netns), work)


def back(echo: Echo, seconds: float = 2.0) -> list[Reply]:
    """What comes back until there is something, or for so long."""
    poll = select.poll()
    poll.register(echo.fileno(), select.POLLIN)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        poll.poll(50)
        found = list(echo.replies())
        if found:
            return found
    return []


@pytest.mark.parametrize("family", [4, 6])
def test_an_echo_comes_back_with_its_number_and_the_kernels_time(netns: Callable[[str], str], family: int) -> None:
    """Who reads late makes nobody look slow: an echo is as old as that when it is read."""

    def work() -> list[tuple[str, int, int, int]]:
        found = []
        with closing(Echo(family)) as echo:
            for number in range(5, 10):  # the first may come before the kernel has begun to take the time
                sent = echo.send(LOOPBACK[family], number, 1400)
                time.sleep(0.2)
                (reply,) = back(echo)
                found.append((reply.address, reply.number, reply.at - sent, time.time_ns() - reply.at))
        return found

    found = there(netns("n"), work)
    assert [tuple(each[:2]) for each in found] == [(LOOPBACK[family], each) for each in range(5, 10)]
    assert min(there_and_back for *_, there_and_back, _ in found) >= 0
    assert max(age for *_, age in found) > 150_000_000


@pytest.mark.parametrize("family", [4, 6])
def test_other_peoples_pings_count_for_nothing(netns: Callable[[str], str], family: int) -> None:
    def work() -> list[int]:
        with closing(Echo(family)) as mine, closing(Echo(family)) as other:
            other.send(LOOPBACK[family], 1)
            subprocess.run(["ping", "-c", "1", LOOPBACK[family]], stdout=subprocess.DEVNULL, check=True)
            return [len(back(mine, 0.3)), len(back(other))]

    assert there(netns("n"), work) == [0, 1]


@pytest.mark.parametrize("family", [4, 6])
def test_a_packet_has_the_size_that_was_asked_for_and_is_never_cut(netns: Callable[[str], str], family: int) -> None:
    def work() -> list[object]:
        subprocess.run(["ip", "link", "set", "lo", "mtu", "1400"], check=True)
        with closing(Echo(family)) as echo:
            echo.send(LOOPBACK[family], 1, 1400)
            passed = len(back(echo))
            try:
                echo.send(LOOPBACK[family], 2, 1401)
            except OSError as error:
                return [passed, error.strerror]
        return [passed, "sent"]

    assert there(netns("n"), work) == [1, "Message too long"]
    assert LEAST == {4: 36, 6: 56}


def test_an_address_that_is_not_ours_is_no_source(netns: Callable[[str], str]) -> None:
    def work() -> str:
        try:
            Echo(4, "192.0.2.9")
        except OSError as error:
            return str(error.strerror)
        return "taken"

    assert there(netns("n"), work) == "Cannot assign requested address"


def test_a_neighbour_that_answered_is_known_and_one_that_never_did_is_not(netns: Callable[[str], str]) -> None:
    one, other = netns("a"), netns("b")
    namespaces.ip(one, f"link add v0 type veth peer name v0 netns {other}")
    for number, name in enumerate((one, other), 1):
        namespaces.ip(name, "link set v0 up", f"addr add 192.0.2.{number}/24 dev v0")
    begun = time.monotonic()
    assert namespaces.ping(one, "192.0.2.2")
    assert namespaces.ping(one, "192.0.2.3", timeout=0.2) is None
    found = there(one, confirmed)
    assert found.keys() == {"192.0.2.2"}
    assert 0 <= found["192.0.2.2"] <= time.monotonic() - begun
