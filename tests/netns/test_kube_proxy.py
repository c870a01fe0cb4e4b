"""Services by kube-proxy's nftables mode, on Tulle's network: what its rules ask of a pod network holds here.

No kube-proxy of that kind (1.29 and later) is to be had where these tests run. `KubeProxy` writes a table of the same
shape: the same name, hooks, priorities, maps and marks (kubernetes/kubernetes, pkg/proxy/nftables; KEP-3866), for the
Services of one small cluster, in both families. Its iptables mode is in tests/cluster/test_kubernetes.py with the real
one, its IPVS mode in tests/cluster/test_ipvs.py.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from scripts.lib.lab import labs, namespaces
from scripts.lib.lab.topology import POD_NETS, Node
from tests.answering import CLIENT, SERVER, Answer, answers
from tests.netns.agents import in_node
from tests.netns.conftest import MakeLab
from tests.netns.members import Members, members
from tests.netns.test_ctl_cluster import findings

PORT, NODE_PORT = 8080, 30080
SERVICE_NETS = {4: "10.96.0.", 6: "fd00:10:96::"}
FRAMES = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
WORDS = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
BASE_CHAINS = """
  chain filter-prerouting {{
    type filter hook prerouting priority -110; policy accept;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump endpoints-check
    ct state new jump firewall-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain endpoints-check {{
    {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain firewall-check {{
    {ip} daddr . meta l4proto . th dport vmap @firewall-ips
  }}
  chain cluster-ips-check {{
    {ip} daddr @cluster-ips reject comment "no such port of that Service"
  }}
  chain reject-chain {{
    reject
  }}
  chain mark-for-masquerade {{
    meta mark set meta mark or 0x4000
  }}
  chain masquerading {{
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
"""

pytestmark = pytest.mark.skipif(not FRAMES.exists(), reason="br_netfilter is not loaded: modprobe br_netfilter")


@dataclass(frozen=True)
class Service:
    """A Service of port 80; `endpoints` are pods' paths, none is a Service that nobody serves."""

    name: str
    number: int
    endpoints: tuple[str, ...]
    node_port: int = 0

    def address(self, family: int) -> str:
        """Its ClusterIP."""
        return f"{SERVICE_NETS[family]}{self.number}"


WEB = Service("web", 20, ("n1/server", "n2/server"))
ALONE = Service("alone", 30, ("n1/server",))
FAR = Service("far", 40, ("n2/server",), NODE_PORT)
NOBODY = Service("nobody", 50, ())
SERVICES = (WEB, ALONE, FAR, NOBODY)


class KubeProxy:
    """kube-proxy on one node of a lab, as far as its table goes."""

    def __init__(self, made: labs.Lab, node: Node) -> None:
        self.made, self.node = made, node

    def sync(self) -> None:
        """Write the tables of all families anew, each whole, in one transaction: as after its start."""
        text = "".join(self.table(family) for family in self.made.spec.families)
        namespaces.run(["nft", "-f", "-"], netns=self.node.netns, stdin=text)

    def listed(self) -> str:
        """Its tables as they are in the kernel; the handles tell a rule that was written anew from the old one."""
        tables = ([WORDS[family][0], "kube-proxy"] for family in self.made.spec.families)
        return "".join(self.made.run(self.node.name, "nft", "-a", "list", "table", *each) for each in tables)

    def table(self, family: int) -> str:
        """The commands that make the table of one family, whether there is one or not."""
        ip, kind = WORDS[family]
        served = [each for each in SERVICES if each.endpoints]
        unserved = [each for each in SERVICES if not each.endpoints]
        ports = [each for each in served if each.node_port]
        key = f"{kind} . inet_proto . inet_service"
        objects = [
            _object("set cluster-ips", kind, [each.address(family) for each in SERVICES]),
            _object("set nodeport-ips", kind, [self.node.addresses[self.made.spec.families.index(family)]]),
            _object("map service-ips", f"{key} : verdict",
                    [f"{each.address(family)} . tcp . 80 : goto {_chain('service', each)}" for each in served]),
            _object("map service-nodeports", "inet_proto . inet_service : verdict",
                    [f"tcp . {each.node_port} : goto {_chain('external', each)}" for each in ports]),
            _object("map no-endpoint-services", f"{key} : verdict",
                    [f"{each.address(family)} . tcp . 80 : goto reject-chain" for each in unserved]),
            _object("map no-endpoint-nodeports", "inet_proto . inet_service : verdict", []),
            _object("map firewall-ips", f"{key} : verdict", []),
        ]
        chains = "".join(self._service(each, family) for each in served)
        base = BASE_CHAINS.format(ip=ip)
        name = f"table {ip} kube-proxy"
        return f"{name}\ndelete {name}\n{name} {{\n{''.join(objects)}{base}{chains}}}\n"

    def _service(self, service: Service, family: int) -> str:
        """Its chains: who comes from outside of the pods is masqueraded, and so is an endpoint that reaches itself."""
        ip, pods = WORDS[family][0], POD_NETS[family]
        addresses = {each: self.made.pod(each).address(family) for each in service.endpoints}
        ends = {each: f"{_chain('endpoint', service)}__{each}/{PORT}" for each in service.endpoints}
        choice = ", ".join(f"{number} : goto {ends[each]}" for number, each in enumerate(service.endpoints))
        mark = "jump mark-for-masquerade"
        text = "".join(
            f"  chain {ends[each]} {{\n    {ip} saddr {address} {mark}\n"
            f"    meta l4proto tcp dnat to {f'[{address}]' if family == 6 else address}:{PORT}\n  }}\n"
            for each, address in addresses.items()
        )
        name = _chain("service", service)
        text += (
            f"  chain {name} {{\n"
            f"    {ip} daddr {service.address(family)} tcp dport 80 {ip} saddr != {pods} {mark}\n"
            f"    numgen random mod {len(ends)} vmap {{ {choice} }}\n  }}\n"
        )
        if service.node_port:
            text += f"  chain {_chain('external', service)} {{\n    {mark}\n    goto {name}\n  }}\n"
        return text


def _chain(kind: str, service: Service) -> str:
    return f"{kind}-ABCDEFGH-default/{service.name}/tcp/http"


def _object(name: str, kind: str, elements: list[str]) -> str:
    """A set or a map; nft knows no empty list of elements."""
    listed = f"elements = {{ {', '.join(elements)} }}; " if elements else ""
    return f"  {name} {{ type {kind}; {listed}}}\n"


StartServers = Callable[[labs.Lab], None]


@pytest.fixture
def serve() -> Iterator[StartServers]:
    """Starts a server in every pod named `server`, which says who it is and who asks; they end with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(made: labs.Lab) -> None:
        mine = [
            subprocess.Popen([*namespaces.inside(pod.netns), "python3", "-c", SERVER, pod.path, str(PORT)],
                             stdout=subprocess.PIPE, text=True)
            for pod in made.pods.values() if pod.name == "server"
        ]
        started.extend(mine)
        for each in mine:
            assert each.stdout and each.stdout.readline() == "listens\n"

    yield start
    for each in started:
        each.kill()
        each.communicate()


def with_services(made: labs.Lab, serve: StartServers) -> list[KubeProxy]:
    """A server on each node, a client on the first, and kube-proxy everywhere."""
    for path in ("n1/server", "n2/server", "n1/client"):
        if path not in made.pods:
            made.add(*path.split("/"))
    serve(made)
    proxies = [KubeProxy(made, node) for node in made.nodes]
    for each in proxies:
        see_frames(made, each.node.name, True)
        each.sync()
    return proxies


@pytest.fixture(params=[True, False], ids=["ipMasq", "no ipMasq"])
def cluster(request: pytest.FixtureRequest, lab: MakeLab, serve: StartServers) -> labs.Lab:
    """Two nodes in VXLAN with Services; their pods are masqueraded as conf/kubernetes has it, or not at all."""
    made = lab(nodes=2)
    for node in made.nodes:
        made.configure(node.name, ipMasq=bool(request.param), hairpinMode=True)
    with_services(made, serve)
    return made


def see_frames(made: labs.Lab, node: str, seen: bool) -> None:
    """Whether frames between two pods of a node pass its rules for packets, too."""
    keys = (f"bridge__bridge-nf-call-{each}tables" for each in ("ip", "ip6"))
    namespaces.sysctl(made.node(node).netns, **dict.fromkeys(keys, int(seen)))


def asked(made: labs.Lab, where: str, address: str, port: int = 80, times: int = 1) -> set[Answer]:
    """What so many connections from there are told. Raises CommandError when one of them is not answered."""
    return set(answers(made.run(where, "python3", "-c", CLIENT, address, str(port), str(times))))


def of(made: labs.Lab, node: str) -> set[str]:
    """All addresses of a node itself."""
    links = cast(list[dict[str, list[dict[str, str]]]], json.loads(made.run(node, "ip", "-j", "addr")))
    return {each["local"] for link in links for each in link["addr_info"]}


def every_family(made: labs.Lab) -> Iterator[tuple[int, str, str]]:
    """A family, the addresses of n1 and n1/client in it."""
    for index, family in enumerate(made.spec.families):
        yield family, made.node("n1").addresses[index], made.pod("n1/client").address(family)


def test_a_pod_reaches_a_service_on_both_nodes_and_is_seen_by_its_own_address(cluster: labs.Lab) -> None:
    serves(cluster)


def test_a_pod_reaches_itself_through_its_service(cluster: labs.Lab) -> None:
    """kube-proxy masquerades it: what a pod gets from its own address it would not answer to the Service."""
    for family, _, _ in every_family(cluster):
        ((server, seen),) = asked(cluster, "n1/server", ALONE.address(family))
        assert server == "n1/server" and seen in of(cluster, "n1")


def test_a_node_reaches_a_service_on_both_nodes(cluster: labs.Lab) -> None:
    for family, _, _ in every_family(cluster):
        found = asked(cluster, "n1", WEB.address(family), times=24)
        assert {each.server for each in found} == {"n1/server", "n2/server"}
        assert {each.client for each in found} <= of(cluster, "n1")


def test_from_outside_the_node_port_of_a_node_without_an_endpoint_leads_to_the_other_and_back(
    cluster: labs.Lab,
) -> None:
    """The pod answers the node that was asked, which only that one can translate back."""
    for _, node, _ in every_family(cluster):
        ((server, seen),) = asked(cluster, "wire", node, FAR.node_port)
        assert server == "n2/server" and seen in of(cluster, "n1")


@pytest.mark.parametrize("where", ["n1/client", "n1"])
def test_a_service_without_endpoints_is_refused_and_not_timed_out(cluster: labs.Lab, where: str) -> None:
    """With IPv6 by the second packet, after a second: Linux takes no notice of an ICMPv6 error while it connects."""

    def refused(address: str) -> bool:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, 80), 60)
        return True

    netns = str(namespaces.NETNS_DIR / cluster.place(where)[0])
    for family in (4, 6):
        assert in_node(netns, partial(refused, NOBODY.address(family)))


def test_a_pod_reaches_a_backend_beside_it_only_where_rules_see_what_crosses_the_bridge(cluster: labs.Lab) -> None:
    """The answer goes from port to port of the bridge, and unseen nobody gives it the Service's address back.

    So it is with every bridge plugin and in every mode of kube-proxy. Other nodes and the node itself do without.
    """

    def unanswered(address: str) -> bool:
        with pytest.raises(TimeoutError):
            socket.create_connection((address, 80), 1)
        return True

    see_frames(cluster, "n1", False)
    assert "kube-proxy with nftables" in findings(cluster, "n1")["services-need-br-netfilter"]["why"]
    for family, _, client in every_family(cluster):
        address = ALONE.address(family)
        assert in_node(str(namespaces.NETNS_DIR / cluster.pod("n1/client").netns), partial(unanswered, address))
        assert {each.server for each in asked(cluster, "n1", address)} == {"n1/server"}
        assert asked(cluster, "n1/client", FAR.address(family)) == {Answer("n2/server", client)}
    see_frames(cluster, "n1", True)
    assert not {"services-need-br-netfilter", "br-netfilter"} & findings(cluster, "n1").keys()
    for family, _, client in every_family(cluster):
        assert asked(cluster, "n1/client", ALONE.address(family)) == {Answer("n1/server", client)}


def ours(made: labs.Lab, node: str) -> str:
    """Tulle's table there with its handles, "" when there is none."""
    return namespaces.attempt(["nft", "-a", "list", "table", "inet", "tulle"], netns=made.node(node).netns).stdout


@pytest.fixture
def followed(lab: MakeLab, plugin: Path, serve: StartServers) -> Iterator[tuple[Members, KubeProxy]]:
    """Two nodes with agents and Services, and the kube-proxy of the first."""
    made = lab(nodes=2)
    with members(made, plugin) as them:
        them.save()
        them.join()
        first, _ = with_services(made, serve)
        assert "masquerade" in ours(made, "n1")
        yield them, first


def test_pods_and_repairs_leave_kube_proxys_table_byte_for_byte_as_it_was(followed: tuple[Members, KubeProxy]) -> None:
    them, first = followed
    made, before = them.lab, first.listed()
    made.add("n1", "p2")
    made.delete("n1/p2")
    made.run("n1", "nft", "delete", "table", "inet", "tulle")
    them.until(lambda: "masquerade" in ours(made, "n1"), "our table is there again")
    assert first.listed() == before, "not one rule was written anew"
    serves(made)


def test_a_kube_proxy_that_writes_its_table_anew_leaves_ours_and_the_agent_does_nothing_about_it(
    followed: tuple[Members, KubeProxy],
) -> None:
    them, first = followed
    made, mine, theirs = them.lab, ours(them.lab, "n1"), first.listed()
    for _ in range(5):
        first.sync()
        serves(made)
    made.run("n1", "ip", "route", "del", made.node("n2").pod_cidrs[0])
    them.until(lambda: them.off("n1") == [], "the agent has looked at the node since")
    assert ours(made, "n1") == mine, "not one rule was written anew"
    assert without_handles(first.listed()) == without_handles(theirs)


def without_handles(listed: str) -> str:
    return re.sub(r" # handle \d+", "", listed)


def serves(made: labs.Lab) -> None:
    """A Service with a backend on each node serves a pod in every family."""
    for family, _, client in every_family(made):
        found = asked(made, "n1/client", WEB.address(family), times=24)
        assert found == {Answer("n1/server", client), Answer("n2/server", client)}
