"""What CNI_NETNS may be: a network namespace that is there and not our own; everything else is told apart."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.host.netns import inside, open_namespace
from cni_plugin.kernel.linux import LinuxKernel
from tests.netns.kernel_world import MakeNetns, bridge, enter_new, kernel_of, path, put, run, wire, wrong

OWN = "/proc/thread-self/ns/net"


def kind_of_refusal(path: str) -> str:
    with LinuxKernel() as kernel, pytest.raises(NetnsError) as caught:
        kernel.enter(path)
    assert caught.value.path == path
    return caught.value.kind


def test_a_path_where_nothing_is_or_whose_folder_is_a_file_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert kind_of_refusal(str(tmp_path / "nothing")) == "gone"
    assert kind_of_refusal(str(tmp_path / "file" / "below")) == "gone"


def test_files_folders_pipes_devices_and_namespaces_of_another_kind_are_no_network_namespaces(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("leftover of a namespace that was unmounted")
    os.mkfifo(tmp_path / "pipe")

    others = (tmp_path / "file", tmp_path / "pipe", tmp_path, Path("/dev/null"), Path("/proc/self/ns/uts"))
    for each in others:
        assert kind_of_refusal(str(each)) == "not-a-namespace"


def test_our_own_namespace_is_refused_by_any_of_its_names_unless_allowed(netns: MakeNetns) -> None:
    node = netns("node")
    with kernel_of(node) as kernel:
        for name in (OWN, path(node)):
            with pytest.raises(NetnsError) as caught:
                kernel.enter(name)
            assert caught.value.kind == "own"
        kernel.enter(OWN, allow_own=True)
        assert kernel.pod_link_exists("lo")


def test_the_thread_comes_back_from_a_pod_also_after_an_error(netns: MakeNetns) -> None:
    home = os.stat(OWN)
    descriptor = open_namespace(path(netns("pod")))

    with pytest.raises(ZeroDivisionError), inside(descriptor):
        assert not os.path.samestat(os.stat(OWN), home)
        raise ZeroDivisionError

    os.close(descriptor)
    assert os.path.samestat(os.stat(OWN), home)


def test_a_pod_is_wired_from_any_thread_and_the_others_stay_where_they_are(netns: MakeNetns) -> None:
    home = os.stat(OWN)
    node = netns("node")
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with kernel_of(node) as kernel:
                enter_new(kernel, netns)
                put(kernel, [*bridge(), *wire()])
                assert wrong(kernel, [*bridge(), *wire()]) == []
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert failures == []
    assert os.path.samestat(os.stat(OWN), home)


def test_entering_another_pod_lets_go_of_the_first(netns: MakeNetns) -> None:
    with kernel_of(netns("node")) as kernel:
        enter_new(kernel, netns, "a")
        before = len(os.listdir("/proc/self/fd"))
        second = enter_new(kernel, netns, "b")
        run("ip link add only-here type veth peer name p", second)

        assert len(os.listdir("/proc/self/fd")) == before
        assert kernel.pod_link_exists("only-here")


def test_nothing_is_left_open(netns: MakeNetns) -> None:
    node, before = netns("node"), len(os.listdir("/proc/self/fd"))

    with kernel_of(node) as kernel:
        enter_new(kernel, netns)
        kernel.read(wire())
        kernel.announce("eth0", "tl2")

    assert len(os.listdir("/proc/self/fd")) == before
