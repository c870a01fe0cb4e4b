"""The loopback of a pod, set up and taken down again as the reference plugin of that name does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.spec import VERSIONS
from cni_plugin.verbs.run import run as serve
from tests.netns.kernel_world import MakeNetns, kernel_of, path, run
from tests.unit.support import Json


@pytest.fixture
def kernel(netns: MakeNetns) -> Iterator[LinuxKernel]:
    with kernel_of(netns("node")) as kernel:
        yield kernel


@pytest.fixture
def pod(netns: MakeNetns) -> str:
    """Its loopback is down, as a runtime's is when it asks."""
    made = netns("pod")
    run(f"ip -n {made} link set lo down")
    return made


class Loopback:
    """The plugin on this node, asked as containerd asks it: with a network of its own, by any interface's name."""

    def __init__(self, kernel: LinuxKernel, home: Path, pod: str) -> None:
        self.kernel, self.home, self.pod = kernel, home, pod

    def __call__(
        self, verb: str, version: str = "1.1.0", *, netns: str = "", keys: Json | None = None
    ) -> tuple[int, Json]:
        conf = {"cniVersion": version, "name": "cni-loopback", "type": "loopback", **(keys or {})}
        environ = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth7", "CNI_PATH": "/nowhere",
            "CNI_NETNS": netns or path(self.pod), "TULLE_RUN_DIR": f"{self.home}/run",
        }
        stdout, code = serve("loopback", environ, json.dumps(conf).encode(), lambda: nullcontext(self.kernel))
        return code, json.loads(stdout) if stdout else {}

    @property
    def up(self) -> bool:
        (link,) = json.loads(run(f"ip -n {self.pod} -j link show lo"))
        return "UP" in link["flags"]


@pytest.fixture
def loopback(kernel: LinuxKernel, tmp_path: Path, pod: str) -> Loopback:
    return Loopback(kernel, tmp_path, pod)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_comes_up_and_goes_down_in_every_version_as_often_as_is_asked(loopback: Loopback, version: str) -> None:
    assert not loopback.up
    for _ in range(2):
        code, result = loopback("ADD", version)
        assert (code, result["cniVersion"], loopback.up) == (0, version, True)
    for _ in range(2):
        assert (loopback("DEL", version), loopback.up) == ((0, {}), False)
    assert not (loopback.home / "run").exists(), "nothing of it outlives the pod, so nothing is noted"


def test_the_result_tells_of_it_and_of_the_addresses_that_it_has(loopback: Loopback) -> None:
    _, result = loopback("ADD")
    sandbox = path(loopback.pod)
    assert result == {
        "cniVersion": "1.1.0", "dns": {},
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}, {"address": "::1/128", "interface": 0}],
    }


def test_without_ipv6_it_has_no_such_address(loopback: Loopback) -> None:
    run(f"ip netns exec {loopback.pod} sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    _, result = loopback("ADD", "0.3.1")
    assert result["ips"] == [{"version": "4", "address": "127.0.0.1/8", "interface": 0}]


def test_the_result_of_a_plugin_before_it_is_handed_on(loopback: Loopback) -> None:
    before = {
        "cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "/x"}],
        "ips": [{"address": "10.1.2.3/24", "interface": 0}], "dns": {},
    }
    assert loopback("ADD", "1.0.0", keys={"prevResult": before}) == (0, before)
    assert loopback.up


def test_check_tells_that_it_is_down(loopback: Loopback) -> None:
    _, result = loopback("ADD")
    assert loopback("CHECK", keys={"prevResult": result}) == loopback("CHECK") == (0, {})
    run(f"ip -n {loopback.pod} link set lo down")
    code, error = loopback("CHECK", keys={"prevResult": result})
    assert (code, error["code"], error["details"]) == (1, 101, "ip -n POD link set lo up")


def test_a_namespace_that_is_gone_is_refused_by_add_and_fine_with_del(loopback: Loopback) -> None:
    code, error = loopback("ADD", netns="/run/netns/nowhere")
    assert (code, error["code"]) == (1, 8)
    assert loopback("DEL", netns="/run/netns/nowhere") == (0, {})


def test_gc_and_status_have_nothing_to_do(loopback: Loopback) -> None:
    loopback("ADD")
    nobody: Json = {"cni.dev/valid-attachments": []}
    assert loopback("GC", keys=nobody) == loopback("STATUS") == (0, {})
    assert loopback.up


def test_keys_that_are_another_plugins_are_let_be(loopback: Loopback) -> None:
    assert loopback("ADD", "1.0.0", keys={"bridge": 5, "ipam": {"type": "host-local", "subnet": "x"}})[0] == 0
