"""Two virtual machines with a stock Debian kernel, each a node: for what this machine's own kernel cannot show.

The machines come from a lab that boots them from this machine's own files (`$TULLE_VMLAB`, or ../shared/vmlab beside
the repository); without it the tests are skipped by name. The node list has node1 and node2 at 10.77.0.1 and .2.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BUNDLE = REPO / "dist" / "tulle"
PLUGIN = "/vmshare/tulle/tulle"
"""In the machines: a copy in the folder that the lab shares with them, for they see their own /tmp and not ours."""
VMLAB = Path(os.environ.get("TULLE_VMLAB", REPO.parent / "shared" / "vmlab")) / "vmlab.sh"
LAB = f"tulle{os.getpid() % 10000}"

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not VMLAB.exists(), reason=f"there is no virtual machine lab: set TULLE_VMLAB ({VMLAB})"),
    pytest.mark.skipif(not BUNDLE.exists(), reason="dist/tulle is not built: run scripts/build"),
]


class Vm:
    """One booted machine. `sh` runs a script in it and gives back stdout; a failure is an AssertionError."""

    def __init__(self, number: int) -> None:
        self.name, self.number = f"vm{number}", number
        self.interfaces: list[str] = []

    def sh(self, script: str, *, check: bool = True, seconds: int = 90) -> str:
        """Run a shell script."""
        argv = [str(VMLAB), "exec", "-n", "-t", str(seconds), self.name, "--", "sh", "-ec", script]
        done = subprocess.run(argv, env=_env(), capture_output=True, text=True, timeout=seconds + 60, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def cni(self, verb: str, pod: str, conf: dict[str, object], *, check: bool = True) -> dict[str, object]:
        """Call the plugin as a runtime would, for a pod in the namespace of that name."""
        env = f"CNI_COMMAND={verb} CNI_CONTAINERID={pod} CNI_NETNS=/run/netns/{pod} CNI_IFNAME=eth0 CNI_PATH=/opt"
        out = self.sh(f"echo {shlex.quote(json.dumps(conf))} | env {env} {PLUGIN}", check=check)
        return dict(json.loads(out)) if out.strip() else {}

    def add(self, pod: str, conf: dict[str, object]) -> list[str]:
        """A new pod; its addresses. The interfaces of the result are kept."""
        self.sh(f"ip netns add {pod}")
        result = self.cni("ADD", pod, conf)
        ips, interfaces = result["ips"], result["interfaces"]
        assert isinstance(ips, list) and isinstance(interfaces, list)
        self.interfaces = [each["name"] for each in interfaces]
        return [each["address"].split("/")[0] for each in ips]

    def delete(self, pod: str, conf: dict[str, object]) -> None:
        """The pod and its namespace go."""
        self.cni("DEL", pod, conf)
        self.sh(f"ip netns del {pod}")

    def pings(self, pod: str, address: str, *options: str) -> bool:
        """Whether one of three packets from the pod is answered."""
        words = " ".join(options)
        out = self.sh(f"ip netns exec {pod} ping -c 3 -i 0.2 -W 2 {words} {address} || true")
        return " 0 received" not in out and "received" in out


def _env() -> dict[str, str]:
    return {**os.environ, "VMLAB_ID": LAB}


@pytest.fixture(scope="module")
def vms() -> Iterator[tuple[Vm, Vm]]:
    """Both machines, booted; stopped at the end whatever happened."""
    for step in (["prepare"], ["up", "2"]):
        done = subprocess.run([str(VMLAB), *step], env=_env(), capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            subprocess.run([str(VMLAB), "down"], env=_env(), capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"vmlab {step}: {done.stdout}\n{done.stderr}"
    try:
        state = Path(os.environ.get("VMLAB_DIR", "/var/cache/vmlab"))
        shutil.copytree(BUNDLE, state / f"run-{LAB}" / "share" / "tulle", symlinks=True)
        yield Vm(1), Vm(2)
    finally:
        subprocess.run([str(VMLAB), "down"], env=_env(), capture_output=True, timeout=60, check=False)


def cluster_conf(number: int, backend: str) -> dict[str, object]:
    """The configuration of node `number`."""
    nodes = [
        {
            "name": f"node{each}",
            "address": f"10.77.0.{each}",
            "ipv6Address": f"fd00:77::{each}",
            "podCIDRs": [f"10.244.{each}.0/24", f"fd00:244:{each}::/64"],
        }
        for each in (1, 2)
    ]
    cluster = {"network": "10.244.0.0/16", "backend": {"type": backend}, "node": f"node{number}", "nodes": nodes}
    return {"cniVersion": "1.1.0", "name": "vms", "type": "tulle", "cluster": cluster, "ipam": {"type": "host-local"}}


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
        checked = vm.cni("CHECK", "v2", {**vlan_conf(preserveDefaultVlan=False), "prevResult": {"cniVersion": "1.0.0"}})
        assert checked == {}
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
