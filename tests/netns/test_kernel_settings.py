"""A link's settings: told with the link as the files have them, set by as few files as can be, and kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.rtnl import settings
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.model.base import POD, State
from cni_plugin.model.host import Sysctl
from cni_plugin.model.links import Bridge
from cni_plugin.spec import IPConfig
from cni_plugin.wirings.bridge import wiring
from cni_plugin.wirings.contract import Want, Width
from scripts.lib.lab import namespaces
from tests.netns.kernel_world import BRIDGE, MakeNetns, enter_new, kernel_of, put, run, wrong
from tests.unit.support import bridged

FOUR, SIX = IPConfig("10.22.0.5/24", "10.22.0.1"), IPConfig("fd22::5/64", "fd22::1")
CONF = bridged({"cniVersion": "1.1.0", "name": "net", "type": "tulle", "ipam": {"type": "host-local"}})


def pod_state(*ips: IPConfig) -> State:
    who = Attachment("net", "c5", "eth0")
    return wiring.pod(Want(who, CONF, BRIDGE, Width(1400), "0a:58:0a:16:00:05", ips))


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        put(kernel, [Bridge(BRIDGE)])
        yield kernel


def opened(kernel: LinuxKernel, ips: Sequence[IPConfig], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files below /proc/sys that the making of a pod opens, whether to read or to write."""
    found: list[str] = []
    real = os.open

    def watched(path: str, *arguments: int) -> int:
        if str(path).startswith("/proc/sys/net"):
            found.append(str(path).removeprefix("/proc/sys/net/"))
        return real(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", watched)
        put(kernel, pod_state(*ips).values())
    return found


@pytest.mark.parametrize("key", [
    "ipv4/forwarding", "ipv4/rp_filter", "ipv4/arp_notify", "ipv6/forwarding", "ipv6/accept_ra", "ipv6/disable_ipv6",
    "ipv6/accept_dad", "ipv6/ndisc_notify", "ipv6/keep_addr_on_down",
])
@pytest.mark.parametrize("value", ["0", "1"])
def test_a_setting_is_told_as_its_file_has_it(kernel: LinuxKernel, key: str, value: str) -> None:
    del kernel
    family, name = key.split("/")
    place = f"net/{family}/conf/{BRIDGE}/{name}"
    run(f"sysctl -qw {place}={value}")
    space = Namespace()
    assert settings.told(space.link(BRIDGE), Sysctl(place, "")) == value
    space.close()


@pytest.mark.parametrize("name", [
    "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/accept_ra",
    "net/ipv4/conf/br0/medium_id",
])
def test_what_is_no_links_setting_is_left_to_its_file(name: str) -> None:
    assert settings.link_of(Sysctl(name, "1")) == ""


def test_a_pod_with_ipv4_only_opens_no_file_below_proc_sys(
    kernel: LinuxKernel, netns: MakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_new(kernel, netns)
    assert opened(kernel, (FOUR,), monkeypatch) == []


def test_a_pod_with_ipv6_opens_only_the_files_that_have_to_be_written(
    kernel: LinuxKernel, netns: MakeNetns, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter_new(kernel, netns)
    keys = ("keep_addr_on_down", "accept_dad", "ndisc_notify")
    assert opened(kernel, (FOUR, SIX), monkeypatch) == [f"ipv6/conf/eth0/{key}" for key in keys]


@pytest.mark.parametrize("where", ["default", "all"])
def test_a_sandbox_without_ipv6_gets_it_for_its_interface_and_for_itself(
    kernel: LinuxKernel, netns: MakeNetns, where: str
) -> None:
    pod = enter_new(kernel, netns)
    run(f"sysctl -qw net.ipv6.conf.{where}.disable_ipv6=1", pod)
    wanted = pod_state(SIX).values()
    put(kernel, wanted)
    assert wrong(kernel, wanted) == []
    run("ip link set lo up", pod)
    assert namespaces.ping(pod, "fd22::5", timeout=3), "a pod reaches itself"
    assert run("sysctl -n net.ipv6.conf.default.disable_ipv6", pod) == "1\n", "other links are left as they were"


def test_a_pods_ipv6_address_outlives_its_link_going_down(kernel: LinuxKernel, netns: MakeNetns) -> None:
    pod = enter_new(kernel, netns)
    wanted = pod_state(FOUR, SIX).values()
    put(kernel, wanted)
    namespaces.ip(pod, "link set eth0 down", "link set eth0 up")
    assert wrong(kernel, wanted) == []


def test_what_pods_need_and_cannot_be_set_is_refused_with_a_remedy(kernel: LinuxKernel, netns: MakeNetns) -> None:
    enter_new(kernel, netns)
    with pytest.raises(KernelError, match="there is no IPv6 here"):
        kernel.apply([Op("create", Sysctl("net/ipv6/conf/nowhere/disable_ipv6", "0", POD))])
    assert not kernel.out_of_reach([Sysctl("net/ipv4/ip_forward", "1")])
    (reason,) = kernel.out_of_reach([Sysctl("net/ipv6/conf/nowhere/forwarding", "1")])
    assert "net/ipv6/conf/nowhere/forwarding=1" in reason and "there is no IPv6 here" in reason


def test_what_pods_can_do_without_may_stay_as_it_is(kernel: LinuxKernel) -> None:
    kernel.apply([Op("create", Sysctl("net/ipv6/conf/nowhere/accept_ra", "0"))])
