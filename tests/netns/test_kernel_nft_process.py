"""libnftables ends the process that it is in when the kernel fails it. That is never ours, and it is replaced."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.host import locks
from cni_plugin.kernel.host.libc import libc
from cni_plugin.kernel.host.netns import in_a_fresh_one
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.nft import nft_process
from cni_plugin.kernel.nft.nft import Nft, NftError
from cni_plugin.kernel.nft.nft_process import Keeper
from cni_plugin.model.base import state
from cni_plugin.model.nft import Chain
from tests.netns.kernel_world import MakeNetns, kernel_of, put, run
from tests.pace import until

CHAIN = Chain("masq", "type nat hook postrouting priority 100; policy accept;", ('accept comment "tulle 01234567"',))
Told = Callable[[nft_process._Library, bytes], tuple[bool, bytes]]


@pytest.fixture(params=["forked", "kept"])
def kernel(netns: MakeNetns, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LinuxKernel]:
    """A node whose nftables are done by a fork of this process, as an engine has it, or of its keeper, as an agent."""
    before, keeper = children(os.getpid()), Keeper()
    monkeypatch.setattr(nft_process, "keeper", keeper)
    if request.param == "kept":
        keeper.start()
    with kernel_of(netns("node")) as kernel:
        yield kernel
    keeper.close()
    assert children(os.getpid()) == before, "nobody is left behind"


def children(process: int) -> list[int]:
    """The processes that this one has made, and those that they have."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    found = [int(each) for task in tasks for each in task.read_text().split()]
    return found + [grandchild for each in found for grandchild in children(each)]


def is_over(process: int) -> bool:
    """Whether it has ended, be it that nobody has heard of that yet (proc_pid_stat(5): Z)."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def failing(monkeypatch: pytest.MonkeyPatch, times: int, count: Path) -> None:
    """Have the library call exit(3) when it has carried out what it was told, so many times."""
    carry_out: Told = nft_process._Library.run

    def once_more(self: nft_process._Library, commands: bytes) -> tuple[bool, bytes]:
        answer = carry_out(self, commands)
        with count.open("a") as file:
            file.write("x")
        if count.stat().st_size <= times:
            libc().exit(1)
        return answer

    monkeypatch.setattr(nft_process._Library, "run", once_more)


def test_a_process_that_the_library_ended_is_replaced_and_told_again(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if nft_process.keeper._channel is not None:
        pytest.skip("the keeper is older than what this test does to the library")
    failing(monkeypatch, 1, tmp_path / "count")
    put(kernel, [CHAIN])
    assert kernel.read([CHAIN]) == state([CHAIN])


def test_one_that_is_ended_each_time_costs_an_error_that_says_to_try_again(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if nft_process.keeper._channel is not None:
        pytest.skip("the keeper is older than what this test does to the library")
    failing(monkeypatch, 3, tmp_path / "count")
    with pytest.raises(KernelError, match="no answer from nftables") as caught:
        put(kernel, [CHAIN])
    assert caught.value.errno == errno.EAGAIN
    kernel.apply([Op("delete", CHAIN)])
    assert "tulle" not in run("nft list ruleset")


def test_whoever_kills_it_is_not_noticed(kernel: LinuxKernel) -> None:
    put(kernel, [CHAIN])
    for each in children(os.getpid()):
        os.kill(each, signal.SIGKILL)  # the keeper, too
    kernel.apply([Op("delete", CHAIN)])
    assert "tulle" not in run("nft list ruleset")


def test_it_is_not_ended_by_what_ends_its_parent_in_order(kernel: LinuxKernel) -> None:
    put(kernel, [CHAIN])
    before = children(os.getpid())
    for each in before:
        os.kill(each, signal.SIGTERM)
    kernel.apply([Op("delete", CHAIN)])
    assert children(os.getpid()) == before


@pytest.mark.parametrize("kept", [False, True], ids=["forked", "kept"])
def test_one_that_is_told_nothing_for_a_while_ends_and_is_not_missed(
    netns: MakeNetns, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    keeper = Keeper()
    monkeypatch.setattr(nft_process, "keeper", keeper)
    monkeypatch.setattr(nft_process, "_IDLE", 0.01)
    if kept:
        keeper.start()
    before = children(os.getpid())
    with kernel_of(netns("node")) as kernel:
        put(kernel, [CHAIN])
        until(lambda: all(is_over(each) for each in children(os.getpid()) if each not in before), "the child's end")
        kernel.apply([Op("delete", CHAIN)])
        assert "tulle" not in run("nft list ruleset")
    keeper.close()


@pytest.mark.parametrize("kept", [False, True], ids=["forked", "kept"])
def test_without_the_library_the_program_does_it(
    netns: MakeNetns, monkeypatch: pytest.MonkeyPatch, *, kept: bool
) -> None:
    keeper = Keeper()
    monkeypatch.setattr(nft_process, "keeper", keeper)
    monkeypatch.setattr(nft_process, "_load_library", lambda: None)
    if kept:
        keeper.start()
    with kernel_of(netns("node")) as kernel:
        put(kernel, [CHAIN])
        assert kernel.read([CHAIN]) == state([CHAIN])
    keeper.close()


@pytest.mark.usefixtures("kernel")
def test_it_works_in_the_namespace_of_whoever_asks_first(netns: MakeNetns) -> None:
    other = netns("other")
    with kernel_of(other) as elsewhere:
        put(elsewhere, [CHAIN])
        with in_a_fresh_one():
            assert elsewhere.read([CHAIN]) == state([CHAIN])
    assert "tulle" not in run("nft list ruleset")
    assert "tulle" in run("nft list ruleset", netns=other)


@pytest.mark.usefixtures("kernel")
def test_long_commands_and_long_answers_arrive_whole() -> None:
    nft = Nft()
    elements = ", ".join(f"10.{each >> 8}.{each & 255}.1" for each in range(20_000))
    assert nft.run(f"add table inet big; add set inet big s {{ type ipv4_addr; elements = {{ {elements} }}; }}")[0]
    accepted, words = nft.run("list table inet big")
    nft.close()
    assert accepted
    assert words.count(".1,") >= 19_999 - words.count(".1 }")


@pytest.mark.usefixtures("kernel")
def test_a_kernel_without_a_descriptor_left_is_an_error_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    nft = Nft()
    monkeypatch.setattr(socket, "socketpair", none_left)
    with pytest.raises(NftError, match="Too many open files") as caught:
        nft.run("list ruleset")
    assert caught.value.errno == errno.EMFILE
    monkeypatch.undo()
    assert nft.run("list ruleset")[0]
    nft.close()


def test_a_lock_is_held_until_the_child_of_a_killed_holder_is_done(tmp_path: Path, netns: MakeNetns) -> None:
    """Else the next holder's transaction could be overtaken by an older one."""
    lock, begun, go = tmp_path / "lock", tmp_path / "begun", tmp_path / "go"
    os.mkfifo(begun)
    os.mkfifo(go)

    def slow(_: nft_process._Library, __: bytes) -> tuple[bool, bytes]:
        begun.write_text("x")
        go.read_text()
        return True, b""

    with kernel_of(netns("node")):
        holder = os.fork()
        if not holder:
            nft_process._Library.run = slow  # type: ignore[method-assign, assignment]
            with locks.locked(str(lock)):
                Nft().run("list ruleset")
        begun.read_text()
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        with pytest.raises(BlockingIOError), locks.locked(str(lock), wait=False):
            pass
        go.write_text("x")
        with locks.locked(str(lock)):
            pass
