"""Machines whose kernel lacks something: pods are served by what there is, engine and agent alike.

Each row is a pair of machines booted with that command line; a pod on each, and packets between the two.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.cluster.vms import LACKS, PLUGIN, Vm, booted, cluster_conf
from tests.pace import until

pytestmark = [pytest.mark.skipif(LACKS != "", reason=LACKS), pytest.mark.timeout(600)]

SIX: dict[str, object] = {
    "cniVersion": "1.1.0", "name": "six", "type": "tulle", "isDefaultGateway": True,
    "ipam": {"type": "host-local", "subnet": "fd00:9::/64"},
}
"""A network of IPv6, without a cluster."""
KERNELS = {"no IPv6": "ipv6.disable=1", "no vxlan": "module_blacklist=vxlan"}


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def machines(kernel: str) -> Iterator[tuple[Vm, Vm]]:
    with booted(KERNELS[kernel]) as pair:
        yield pair


def four_only(number: int, backend: str) -> dict[str, object]:
    """The configuration of a node, of IPv4 alone."""
    conf = json.loads(json.dumps(cluster_conf(number, backend)))
    del conf["cluster"]["ipv6Network"]
    for each in conf["cluster"]["nodes"]:
        del each["ipv6Address"]
        each["podCIDRs"] = each["podCIDRs"][:1]
    return dict(conf)


def works_on(kernel: str) -> str:
    """The backend that such a kernel has."""
    return "host-gw" if kernel == "no vxlan" else "vxlan"


@pytest.mark.parametrize("how", ["engine", "agent"])
def test_pods_of_two_nodes_live_their_lives(kernel: str, machines: tuple[Vm, Vm], how: str) -> None:
    confs = {vm: four_only(vm.number, works_on(kernel)) for vm in machines}
    for vm in machines:
        if how == "agent":
            serve(vm)
        vm.cni("STATUS", "none", confs[vm])
    addresses = {vm: vm.add(f"{how}{vm.number}", confs[vm])[0] for vm in machines}
    one, two = machines
    assert one.pings(f"{how}1", addresses[two])
    for vm in machines:
        pod = f"{how}{vm.number}"
        vm.cni("GC", pod, {**confs[vm], "cni.dev/valid-attachments": [{"containerID": pod, "ifname": "eth0"}]})
        vm.delete(pod, confs[vm])
        assert vm.sh("ip -o link show type veth") == ""


def test_what_the_kernel_cannot_do_is_told_beforehand(kernel: str, machines: tuple[Vm, Vm]) -> None:
    vm, _ = machines
    conf = four_only(1, "vxlan") if kernel == "no vxlan" else SIX
    status = vm.cni("STATUS", "none", conf, check=False)
    assert status["code"] == 50
    assert ("vxlan" if kernel == "no vxlan" else "there is no IPv6 here") in str(status)
    vm.sh("ip netns add refused")
    assert "code" in vm.cni("ADD", "refused", conf, check=False)
    vm.delete("refused", conf)
    assert vm.sh("ip -o link show type veth") == ""


def serve(vm: Vm) -> None:
    """Start an agent that lives as long as the machine."""
    engine = shlex.quote(PLUGIN.replace("/tulle/tulle", "/tulle/tulled"))
    vm.sh(f"setsid {engine} >/run/agent.log 2>&1 </dev/null &")
    until(lambda: "agent.sock" in vm.sh("ls /run/tulle 2>&1 || true"), "the agent serves")
