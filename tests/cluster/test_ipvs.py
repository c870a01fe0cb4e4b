"""Services by kube-proxy's IPVS mode, on Tulle's network: two virtual machines, whose kernel has IPVS.

There is no kube-proxy in the machines. What it has in the kernel in that mode is put there by hand: virtual servers
that masquerade, a dummy device with the Services' addresses, connection tracking for IPVS, the rules that mark who is
masqueraded, and strict ARP. In both families.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.answering import CLIENT, SERVER, Answer, answers
from tests.cluster.vms import LACKS, PLUGIN, Vm, booted, cluster_conf, from_outside
from tests.pace import until

SERVICE_PORT, NODE_PORT, POD_PORT = 80, 30080, 8080
WEB = {4: "10.96.0.20", 6: "fd00:10:96::20"}
ALONE = {4: "10.96.0.30", 6: "fd00:10:96::30"}
TRY = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
STRICT_ARP = "sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"
MARKS = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES ! -s {pods} -d {services} -p tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-NODE-PORT -p tcp --dport 30080 -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
{loops}
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""
"""kube-proxy's rules in IPVS mode (pkg/proxy/ipvs), its ipsets written out: they are few here."""
TOOLS = {"ipvsadm": "ipvsadm", "iptables-restore": "iptables"}

pytestmark = [
    pytest.mark.xdist_group("ipvs"),
    pytest.mark.skipif(bool(LACKS), reason=LACKS),
    *(pytest.mark.skipif(shutil.which(each) is None, reason=f"no {each}: apt-get install {package}")
      for each, package in TOOLS.items()),
]


def services(servers: list[list[str]], node: Vm) -> str:
    """The script that does on a node what kube-proxy does in IPVS mode, for the Services WEB and ALONE.

    `servers` are the addresses of the pod on each machine that serves; ALONE has that of the first machine alone. The
    dummy device stays down, as kube-proxy leaves it.
    """
    lines = ["modprobe -a ip_vs ip_vs_rr", "sysctl -qw net.ipv4.vs.conntrack=1", "ip link add kube-ipvs0 type dummy"]
    for family, mine in ((4, f"10.77.0.{node.number}"), (6, f"[fd00:77::{node.number}]")):
        pods = [next(each for each in addresses if (":" in each) == (family == 6)) for addresses in servers]
        ends = [f"[{each}]:{POD_PORT}" if family == 6 else f"{each}:{POD_PORT}" for each in pods]
        shown = {each: f"[{each}]" if family == 6 else each for each in (WEB[family], ALONE[family])}
        virtual = [
            (f"{shown[WEB[family]]}:{SERVICE_PORT}", ends), (f"{mine}:{NODE_PORT}", ends[1:]),
            (f"{shown[ALONE[family]]}:{SERVICE_PORT}", ends[:1]),
        ]
        lines += [f"ip addr add {each}/{32 if family == 4 else 128} dev kube-ipvs0" for each in shown]
        for each, real in virtual:
            lines += [f"ipvsadm -A -t {each} -s rr", *(f"ipvsadm -a -t {each} -r {one} -m" for one in real)]
        loops = "\n".join(
            f"-A KUBE-POSTROUTING -s {each} -d {each} -p tcp --dport {POD_PORT} -j MASQUERADE" for each in pods
        )
        nets = {4: ("10.244.0.0/16", "10.96.0.0/16"), 6: ("fd00:244::/32", "fd00:10:96::/112")}[family]
        rules = MARKS.format(pods=nets[0], services=nets[1], loops=loops)
        lines.append(f"echo {shlex.quote(rules)} | {'ip6tables' if family == 6 else 'iptables'}-restore --noflush")
    return "\n".join(lines)


class Ipvs(NamedTuple):
    """Both machines with Services by IPVS; the addresses of the client on the first, what the doctor said before."""

    machines: tuple[Vm, Vm]
    client: list[str]
    before: str

    def asked(self, place: str, address: str, port: int = SERVICE_PORT, times: int = 4) -> list[Answer]:
        """What connections from a pod of the first machine, or that itself (""), are told."""
        return answers(self.machines[0].python(place, CLIENT, address, str(port), str(times)))


def doctor(vm: Vm) -> str:
    """What it finds on a machine."""
    return vm.sh(f"{Path(PLUGIN).with_name('tullectl')} doctor --json || true")


@pytest.fixture(scope="module")
def ipvs() -> Iterator[Ipvs]:
    """Strict ARP from the beginning, as with `--ipvs-strict-arp`; the pods as conf/kubernetes has them."""
    with booted() as vms:
        yield with_services(vms)


def with_services(vms: tuple[Vm, Vm]) -> Ipvs:
    """A server on each machine, a client on the first, Services on both."""
    confs = [{**cluster_conf(each.number, "vxlan"), "ipMasq": True, "hairpinMode": True} for each in vms]
    servers = []
    for vm, conf in zip(vms, confs, strict=True):
        vm.sh(f"{STRICT_ARP}; modprobe br_netfilter")
        servers.append(vm.add("server", conf))
        vm.python("server", SERVER, vm.name, str(POD_PORT), rest=">/run/server.log 2>&1 &")
    client = vms[0].add("client", confs[0])
    before = doctor(vms[0])
    for vm in vms:
        vm.sh(services(servers, vm))
        until(lambda vm=vm: "listens" in vm.sh("cat /run/server.log"), f"the server of {vm.name} listens")  # type: ignore[misc]
    return Ipvs(vms, client, before)


def of(vm: Vm) -> set[str]:
    """All addresses of the machine itself."""
    return {each["local"] for link in json.loads(vm.sh("ip -j addr")) for each in link["addr_info"]}


def test_a_pod_reaches_every_endpoint_of_a_service_and_is_seen_by_its_own_address(ipvs: Ipvs) -> None:
    for address, mine in zip(WEB.values(), ipvs.client, strict=True):
        found = ipvs.asked("client", address)
        assert sorted(found) == [Answer("vm1", mine)] * 2 + [Answer("vm2", mine)] * 2, "turn by turn"


def test_a_pod_reaches_itself_through_its_service(ipvs: Ipvs) -> None:
    for address in ALONE.values():
        ((server, seen),) = ipvs.asked("server", address, times=1)
        assert server == "vm1" and seen in of(ipvs.machines[0])


def test_a_pod_reaches_a_backend_beside_it_only_where_rules_see_what_crosses_the_bridge(ipvs: Ipvs) -> None:
    """The answer goes from port to port of the bridge, and unseen nobody gives it the Service's address back."""
    vm = ipvs.machines[0]
    calls = "sysctl -qw net.bridge.bridge-nf-call-iptables={0} net.bridge.bridge-nf-call-ip6tables={0}"
    vm.sh(calls.format(0))
    try:
        for address in ALONE.values():
            assert "TimeoutError" in vm.python("client", TRY, address, str(SERVICE_PORT), rest="2>&1 || true")
    finally:
        vm.sh(calls.format(1))
    for address, mine in zip(ALONE.values(), ipvs.client, strict=True):
        assert ipvs.asked("client", address, times=1) == [Answer("vm1", mine)]


def test_a_node_reaches_every_endpoint_of_a_service(ipvs: Ipvs) -> None:
    for address in WEB.values():
        found = ipvs.asked("", address)
        assert {each.server for each in found} == {"vm1", "vm2"}
        assert {each.client for each in found} <= of(ipvs.machines[0]) - {*WEB.values(), *ALONE.values()}


def test_from_outside_a_node_port_leads_to_the_other_node_and_back(ipvs: Ipvs) -> None:
    for address in ("10.77.0.1", "fd00:77::1"):
        ((server, seen),) = answers(from_outside("python3", "-c", CLIENT, address, str(NODE_PORT), "1"))
        assert server == "vm2" and seen in of(ipvs.machines[0])


def test_pods_and_nodes_reach_each_other_with_strict_arp(ipvs: Ipvs) -> None:
    """Nothing answers for an address of another interface then: bridge, uplink and VXLAN device need not."""
    one, other = ipvs.machines
    for vm in ipvs.machines:
        vm.sh("ip neigh flush dev tulle0; ip neigh flush dev eth0 nud reachable nud stale")
    for target in (*other.addresses("server"), *one.addresses("server"), "10.77.0.2", "fd00:77::2"):
        assert one.pings("client", target), target


def test_the_doctor_does_not_mind_the_services_device(ipvs: Ipvs) -> None:
    after = doctor(ipvs.machines[0])
    assert "kube-ipvs0" in ipvs.machines[0].sh("ip -br link")
    assert set(names(after)) == set(names(ipvs.before)) - {"br-netfilter"}, "with Services that is as it should be"
    assert not any(each in after for each in ("kube-ipvs0", *WEB.values(), *ALONE.values()))


def names(findings: str) -> list[str]:
    return [str(each["name"]) for each in json.loads(findings)]
