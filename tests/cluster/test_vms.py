"""Two virtual machines with a stock Debian kernel, each a node: what this machine's own kernel cannot show.

Without the lab that boots them (`tests/cluster/vms.py`) the tests are skipped by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.cluster.vms import LACKS, Vm, booted, cluster_conf

pytestmark = pytest.mark.skipif(bool(LACKS), reason=LACKS)


@pytest.fixture(scope="module")
def vms() -> Iterator[tuple[Vm, Vm]]:
    with booted() as machines:
        yield machines


@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
def test_pods_on_two_debian_machines_reach_each_other(vms: tuple[Vm, Vm], backend: str) -> None:
    confs = [cluster_conf(each.number, backend) for each in vms]
    addresses = [vm.add(f"p-{backend}", conf) for vm, conf in zip(vms, confs, strict=True)]
    try:
        assert vms[0].sh("uname -r").startswith("6.1."), "the stock kernel of Debian 12"
        for target in addresses[1]:
            assert vms[0].pings(f"p-{backend}", target), f"{backend}: {addresses[0]} does not reach {target}"
        mtu = int(vms[0].sh(f"ip netns exec p-{backend} cat /sys/class/net/eth0/mtu"))
        assert mtu == (1450 if backend == "vxlan" else 1500)
        assert vms[0].pings(f"p-{backend}", addresses[1][0], "-M do", f"-s {mtu - 28}"), "a packet of the whole MTU"
    finally:
        for vm, conf in zip(vms, confs, strict=True):
            vm.delete(f"p-{backend}", conf)


def test_a_change_of_backend_leaves_nothing_of_the_old_one(vms: tuple[Vm, Vm]) -> None:
    vm = vms[0]
    vm.add("p1", cluster_conf(1, "vxlan"))
    assert "tulle.1" in vm.sh("ip -br link")
    vm.add("p2", cluster_conf(1, "host-gw"))
    try:
        assert "tulle.1" not in vm.sh("ip -br link")
        assert "10.244.2.0/24 via 10.77.0.2 dev eth0" in vm.sh("ip route show proto 84")
    finally:
        for pod in ("p1", "p2"):
            vm.delete(pod, cluster_conf(1, "host-gw"))


def vlan_conf(**keys: object) -> dict[str, object]:
    """A bridge of its own that filters VLANs, with a gateway in VLAN 100."""
    return {
        "cniVersion": "1.0.0",
        "name": "vlans",
        "type": "tulle",
        "bridge": "vbr0",
        "isGateway": True,
        "vlan": 100,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.55.0.0/24"}]]},
        **keys,
    }


def test_pods_of_a_vlan_reach_each_other_and_its_gateway_and_no_other_vlan(vms: tuple[Vm, Vm]) -> None:
    vm = vms[0]
    other = vlan_conf(vlan=200, isGateway=False, name="vlans2", ipam={
        "type": "host-local", "ranges": [[{"subnet": "10.55.0.0/24", "rangeStart": "10.55.0.100"}]]})
    (first,), (second,) = vm.add("v1", vlan_conf()), vm.add("v2", vlan_conf(preserveDefaultVlan=False))
    assert vm.interfaces[0] == "vbr0" and vm.interfaces[2:] == ["eth0", "vbr0.100"], "the VLAN's gateway is told"
    answered = vm.result
    (foreign,) = vm.add("v3", other)
    try:
        assert vm.pings("v1", "10.55.0.1"), "the gateway on vbr0.100"
        assert vm.pings("v1", second)
        assert not vm.pings("v3", first), "VLAN 200 must not reach VLAN 100"
        assert foreign.startswith("10.55.0.10")
        ports = json.loads(vm.sh("bridge -j vlan show"))
        vids = {port["ifname"]: [each["vlan"] for each in port["vlans"]] for port in ports}
        owners = {link["ifalias"]: link["ifname"] for link in json.loads(vm.sh("ip -d -j link")) if "ifalias" in link}
        assert vids[owners["tulle:vlans/v1/eth0"]] == [1, 100]
        assert vids[owners["tulle:vlans/v2/eth0"]] == [100], "preserveDefaultVlan: false"
        assert vm.cni("CHECK", "v2", {**vlan_conf(preserveDefaultVlan=False), "prevResult": answered}) == {}
    finally:
        for pod, conf in (("v1", vlan_conf()), ("v2", vlan_conf()), ("v3", other)):
            vm.delete(pod, conf)


def test_a_trunk_carries_its_vlans_tagged(vms: tuple[Vm, Vm]) -> None:
    vm = vms[0]
    conf = vlan_conf(vlan=0, isGateway=False, vlanTrunk=[{"id": 7}, {"minID": 20, "maxID": 22}])
    vm.add("t1", conf)
    try:
        ports = {each["ifname"]: each["vlans"] for each in json.loads(vm.sh("bridge -j vlan show"))}
        (mine,) = [vlans for name, vlans in ports.items() if name.startswith("tl")]
        spans = {(each["vlan"], each.get("vlanEnd", each["vlan"])) for each in mine if not each.get("flags")}
        covered = {vid for first, last in spans for vid in range(first, last + 1)}
        assert covered == {7, 20, 21, 22}
    finally:
        vm.delete("t1", conf)
