"""Failures of peers in the wire between pod and node: addresses, MACs, neighbours, checks. Each cannot happen here.

The numbers are those of the list of forty failures that the design names; issues of other projects are in the texts.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from scripts.lib.lab.runtime import Attachment, Network, PluginError, Runtime
from tests.conformance.nodes import NODE4, UPLINK, WORLD4, Json, Namespace, Node, ping_all
from tests.conformance.observe import port_of, port_view, tentative
from tests.netns.failure_nodes import REFERENCE, address, conf, ranges
from tests.pace import cheaper, until

GATEWAYS = {"4": "10.60.0.1", "6": "2001:db8:60::1"}
SERVER = "import socket; s = socket.create_server(('', 8080)); s.accept()[0].sendall(b'mine')"
COUNTER = """
table inet count {
    chain input {
        type filter hook input priority 0
        udp dport 9999 counter
    }
}
"""
HOST_PORT = """
table inet hostport {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr {node} {proto} dport 18080 dnat ip to {pod}:{port}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        ct status dnat ip saddr 10.60.0.0/24 masquerade
    }}
}}
"""


def answers(source: Namespace, target: str, dev: str) -> bool:
    """Whether the very first echo request is answered, by what `source` knows or learns by asking once on `dev`."""
    for family in ("ipv4", "ipv6"):  # a lost question is not asked again before the ping is over
        source.run("sysctl", "-qw", f"net.{family}.neigh.{dev}.retrans_time_ms=600000")
    return source.run("ping", "-n", "-c1", "-W30", target, check=False).returncode == 0


def mac_of(ns: Namespace, link: str) -> str:
    return str(next(each["address"] for each in ns.json("ip", "-j", "link") if each["ifname"] == link))


def assignment(ns: Namespace, link: str) -> str:
    """How a link came by its MAC: 3 is "set" (include/uapi/linux/netdevice.h), which systemd-udevd leaves alone."""
    # sysfs shows the namespace that it was mounted in: `ip netns exec` mounts one for its own.
    return ns.run("ip", "netns", "exec", ns.name, "cat", f"/sys/class/net/{link}/addr_assign_type").stdout.strip()


def test_failure_10_a_new_subnet_does_not_fail_add_nor_cut_off_the_pods_of_the_old_one(node: Node) -> None:
    """cni#306, flannel#520: "bridge has an address different from", and no pod starts any more."""
    old, new = (conf(node, ipam=ranges(node, each)) for each in ("10.60.0.0/24", "10.61.0.0/24"))
    node.add(old, "old").ok()
    later = address(node.add(new, "new").ok())
    assert later.startswith("10.61.0.")
    assert ping_all([(node.pod("old"), "10.60.0.1"), (node.pod("new"), "10.61.0.1"), (node, later)]) == [True] * 3
    assert node.check({**old, "prevResult": _result(node, "old", "10.60.0.2/24")}, "old").exit == 0
    for configuration, pod in ((old, "old"), (new, "new")):
        node.delete(configuration, pod).ok()
    assert node.leases() == {}


def _result(node: Node, pod: str, its: str) -> Json:
    interface = {"name": "eth0", "sandbox": node.pod(pod).path}
    return {"cniVersion": "1.1.0", "interfaces": [interface], "ips": [{"address": its, "interface": 0}]}


def test_failure_11_the_macs_of_veth_and_bridge_are_set_at_creation(node: Node) -> None:
    """flannel#1155, Flatcar#278: systemd-udevd gives another MAC to every link whose MAC the kernel made up."""
    node.add(conf(node)).ok()
    pod = node.pod("pod1")
    port = port_of(node, pod, "eth0")
    assert [assignment(node, "tulle0"), assignment(node, port), assignment(pod, "eth0")] == ["3", "3", "3"]


def test_failure_15_the_bridges_mac_stays_as_pods_come_and_go(node: Node) -> None:
    """A bridge takes the lowest MAC of its ports, so each new pod may cut off all the others for a while."""
    configuration = conf(node)
    node.add(configuration, "stays").ok()
    mac = mac_of(node, "tulle0")
    for index in range(10):
        asked = {**configuration, "runtimeConfig": {"mac": f"02:00:00:00:00:{index:02x}"}}
        node.add(asked, f"pod{index}").ok()
        port = port_of(node, node.pod(f"pod{index}"), "eth0")
        node.run("ip", "link", "set", port, "address", f"02:00:00:00:01:{index:02x}")
        assert mac_of(node, "tulle0") == mac
        node.delete(configuration, f"pod{index}").ok()
        assert mac_of(node, "tulle0") == mac
    node.delete(configuration, "stays").ok()
    node.add(configuration, "again").ok()
    assert mac_of(node, "tulle0") == mac


@pytest.mark.parametrize("hairpin", [True, False], ids=["hairpin", "plain"])
def test_failure_16_a_pod_reaches_itself_through_its_own_host_port(node: Node, hairpin: bool) -> None:
    """kube-router#637, weave's HAIRPIN_MODE: a pod's call to its own service went out and never came back.

    With br_netfilter the translated packet leaves by the port it came in by, which takes a hairpin port.
    """
    node.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={int(hairpin)}", check=hairpin)
    pod_address = address(node.add(conf(node, hairpinMode=hairpin)).ok())
    pod = node.pod("pod1")
    flags = port_view(node, port_of(node, pod, "eth0"))["flags"]
    assert isinstance(flags, dict) and flags["hairpin"] is hairpin
    node.run("nft", "-f", "-", stdin=HOST_PORT.format(node=NODE4, proto="tcp", pod=pod_address, port=8080))
    server = pod.start("python3", "-c", SERVER)
    try:
        assert _call_until_up(pod, NODE4, 18080) == "mine"
    finally:
        server.kill()
        server.communicate()


def _call_until_up(client: Namespace, target: str, port: int) -> str:
    code = f"import socket; print(socket.create_connection(('{target}', {port}), 2).recv(99).decode())"
    return said_at_last(client, code)


def said_at_last(client: Namespace, code: str) -> str:
    """What Python code prints there that fails as long as a server is not up."""
    said = until(
        lambda: done if (done := client.run("python3", "-c", code, check=False)).returncode == 0 else None,
        f"an answer to {code}",
    )
    assert said is not None
    return said.stdout.strip()


@pytest.mark.parametrize("hairpin", [True, False], ids=["hairpin", "plain"])
def test_failure_17_one_datagram_arrives_once(node: Node, hairpin: bool) -> None:
    """kubernetes#25793: a promiscuous bridge gave each packet to the pod twice."""
    node.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={int(hairpin)}", check=hairpin)
    configuration = conf(node, hairpinMode=hairpin)
    target = address(node.add(configuration, "pod1").ok())
    node.add(configuration, "pod2").ok()
    server = node.pod("pod1")
    server.run("nft", "-f", "-", stdin=COUNTER)
    node.run("nft", "-f", "-", stdin=HOST_PORT.format(node=NODE4, proto="udp", pod=target, port=9999))
    link = next(each for each in node.json("ip", "-j", "-d", "link") if each["ifname"] == "tulle0")
    assert link["promiscuity"] == 0
    senders = ((node.pod("pod2"), target, 9999), (node.world, NODE4, 18080), (server, NODE4, 18080))
    for expected, (client, where, port) in enumerate(senders, 1):
        client.run("bash", "-c", f"echo once > /dev/udp/{where}/{port}")
        assert _counted(server, expected) == expected


def _counted(ns: Namespace, expected: int) -> int:
    """The datagrams counted: after as many as are expected came, a moment is left for one too many."""

    def now() -> int:
        match = re.search(r"packets (\d+)", ns.run("nft", "list", "ruleset").stdout)
        return int(match[1]) if match else 0

    until(lambda: now() >= expected, f"{expected} datagrams", why=now)
    time.sleep(0.1)
    return now()


@pytest.mark.parametrize("state", ["stale", "reachable", "permanent"])
@pytest.mark.parametrize("family", ["4", "6"])
def test_failure_18_a_reused_address_answers_at_the_first_packet(node: Node, family: str, state: str) -> None:
    """cni#88, plugins#858: the host went on sending to the MAC of the address's former holder for seconds."""
    configuration = conf(node, family)
    node.add(configuration, "neighbour").ok()
    asked = {"4": "10.60.0.77", "6": "2001:db8:60::77"}[family]
    for ns, dev in ((node, "tulle0"), (node.pod("neighbour"), "eth0")):
        if ns is not node and state == "permanent":
            continue  # what an administrator pinned in a pod is the pod's own affair
        ns.run("ip", "neigh", "replace", asked, "lladdr", "02:de:ad:00:00:01", "dev", dev, "nud", state)
    node.add({**configuration, "runtimeConfig": {"ips": [asked]}}, "pod1").ok()
    assert answers(node, asked, "tulle0")
    if state != "permanent":
        assert answers(node.pod("neighbour"), asked, "eth0")
    node.delete(configuration, "pod1").ok()
    assert asked not in node.run("ip", "neigh", "show", "dev", "tulle0").stdout


def test_failure_18_a_pod_with_another_mac_on_a_used_address_answers_at_once(node: Node) -> None:
    configuration = conf(node)
    node.add(configuration, "neighbour").ok()
    for mac in ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"):
        asked = {**configuration, "runtimeConfig": {"ips": ["10.60.0.77"], "mac": mac}}
        node.add(asked, "pod1").ok()
        for source, dev in ((node, "tulle0"), (node.pod("neighbour"), "eth0")):
            assert answers(source, "10.60.0.77", dev), mac
        node.delete(asked, "pod1").ok()


def test_failure_19_strict_reverse_path_filters_of_the_node_do_not_drop_pods_packets(node: Node) -> None:
    """kube-router#138, submariner#4099: a host port answered on one interface of the node and not on the other."""
    second = node.pod("second-network")
    node.run("ip", "link", "add", "up1", "type", "veth", "peer", UPLINK, "netns", second.name)
    node.run("ip", "addr", "add", "203.0.113.1/24", "dev", "up1")
    node.run("ip", "link", "set", "up1", "up")
    second.run("ip", "addr", "add", "203.0.113.2/24", "dev", UPLINK)
    second.run("ip", "link", "set", UPLINK, "up")
    for key in ("all", "default", "up1", UPLINK):
        node.run("sysctl", "-qw", f"net.ipv4.conf.{key}.rp_filter=1")
    pod_address = address(node.add(conf(node)).ok())
    for target in (NODE4, "203.0.113.1"):
        table = HOST_PORT.format(node=target, proto="tcp", pod=pod_address, port=8080)
        node.run("nft", "-f", "-", stdin=table.replace("hostport", f"hostport_{target.replace('.', '_')}"))
    server = node.pod("pod1").start("python3", "-m", "http.server", "8080")
    try:
        get = "import urllib.request; print(urllib.request.urlopen('http://{}:18080/', timeout=3).status)"
        for client, target in ((node.world, NODE4), (second, "203.0.113.1")):
            assert said_at_last(client, get.format(target)) == "200"
    finally:
        server.kill()
        server.communicate()
    assert node.sysctl("net/ipv4/conf/tulle0/rp_filter") == "2"
    assert node.sysctl("net/ipv4/conf/up1/rp_filter") == "1", "other links' settings are not ours"


FOREIGN = """
table ip nat {
    chain POSTROUTING {
        type nat hook postrouting priority 100
        ip saddr 10.99.0.0/16 counter masquerade
    }
}
table inet filter {
    set banned {
        type ipv4_addr
        elements = { 192.0.2.99 }
    }
    chain forward {
        type filter hook forward priority 0
        ip saddr @banned drop
    }
}
table bridge guard {
    chain input {
        type filter hook input priority 0
        ether type vlan drop
    }
}
"""


def test_failure_21_rules_of_others_stay_byte_for_byte(node: Node) -> None:
    """kube-router#1415: two versions of the iptables program ruined each other's rules. Here none is called."""
    node.run("nft", "-f", "-", stdin=FOREIGN)
    if Path("/usr/sbin/iptables").exists():
        rule = "-t mangle -A FORWARD -p tcp -m comment --comment not-ours -j ACCEPT"
        node.run("iptables", *rule.split())
    before = _foreign(node)
    configuration = conf(node, "dual", macspoofchk=True)
    for index in range(3):
        node.add(configuration, f"pod{index}").ok()
        assert _foreign(node) == before
    assert "table inet tulle" in node.run("nft", "list", "tables").stdout
    for index in range(3):
        node.delete(configuration, f"pod{index}").ok()
        assert _foreign(node) == before
    assert node.run("nft", "list", "ruleset").stdout == before


def _foreign(node: Node) -> str:
    tables = node.run("nft", "list", "tables").stdout.splitlines()
    others = [each.split() for each in tables if each and each != "table inet tulle"]
    return "".join(node.run("nft", "list", *each).stdout for each in others)


def runtime(node: Node) -> Runtime:
    return Runtime(
        path=(node.plugins.directory, REFERENCE),
        cache=node.state / "results",
        enter=("nsenter", f"--net={node.path}", "--"),
        env={"TULLE_RUN_DIR": str(node.run_dir)},
    )


def test_failure_28_check_passes_after_tuning_and_sbr_and_fails_without_the_address(node: Node) -> None:
    """plugins#805, cni#1057, nomad#25510: CHECK failed over what a chained plugin had changed, and killed pods."""
    for plugin in ("tuning", "sbr"):
        if not (REFERENCE / plugin).exists():
            pytest.skip(f"no reference {plugin}: install containernetworking-plugins")
    chained: list[Json] = [{"type": "tuning", "mac": "c2:11:22:33:44:55", "mtu": 1400}, {"type": "sbr"}]
    ours = {key: each for key, each in conf(node).items() if key not in ("cniVersion", "name")}
    network = Network.parse({"cniVersion": "1.0.0", "name": "net", "plugins": [ours, *chained]})
    attachment = Attachment(container="pod1", netns=node.pod("pod1").path)
    cni = runtime(node)
    cni.add(network, attachment)
    assert mac_of(node.pod("pod1"), "eth0") == "c2:11:22:33:44:55"
    main = node.pod("pod1").run("ip", "route", "show", "table", "main").stdout
    assert "10.60.0.1" not in main, "sbr moved the routes"
    first = Network.parse({"cniVersion": "1.0.0", "name": "net", "plugins": [ours]})
    cni.check(first, attachment)
    node.pod("pod1").run("ip", "addr", "flush", "dev", "eth0")
    with pytest.raises(PluginError) as refused:
        cni.check(first, attachment)
    assert "10.60.0.2/24" in refused.value.details
    cni.delete(network, attachment)
    assert node.leases() == {}


def test_failure_28_check_tells_what_is_missing_in_the_words_of_ip(node: Node) -> None:
    configuration = conf(node)
    result = node.add(configuration).ok()
    checked = {**configuration, "prevResult": result}
    assert node.check(checked).exit == 0
    pod = node.pod("pod1")
    breakages: list[tuple[Namespace, list[str], str]] = [
        (node, ["nft", "delete", "table", "inet", "tulle"], "masquerade"),
        (pod, ["ip", "route", "del", "default"], "ip -n POD route"),
        (node, ["ip", "link", "set", port_of(node, pod, "eth0"), "nomaster"], "master tulle0"),
        (node, ["ip", "addr", "del", "10.60.0.1/24", "dev", "tulle0"], "10.60.0.1/24 dev tulle0"),
    ]
    for ns, breakage, word in breakages:
        ns.run(*breakage)
        failed = node.check(checked)
        assert failed.exit != 0, f"CHECK passes after {breakage}"
        assert word in failed.message


def test_failure_37_an_add_of_two_families_takes_hardly_longer_than_one(node: Node) -> None:
    """plugins#680, kubernetes#54651: duplicate address detection cost 1 to 2 s a pod."""
    times: dict[str, list[float]] = {"4": [], "dual": []}
    for index in range(10):
        for family, taken in times.items():
            configuration = conf(node, family, bridge=f"br{family}", name=f"net{family}")
            pod = node.pod(f"{family}x{index}")
            start = time.perf_counter()
            node.add(configuration, f"{family}x{index}").ok()
            taken.append(time.perf_counter() - start)
            assert tentative(pod) == [] and tentative(node) == []
            waiting = pod.run("ip", "-6", "addr", "show", "dev", "eth0", "tentative").stdout
            assert waiting == "", "not even the link-local address waits"
            link_local = pod.run("ip", "-6", "addr", "show", "dev", "eth0", "scope", "link").stdout
            assert bool(link_local) == (family == "dual"), "IPv6 link-local where there is IPv6"
    cheaper(min(times["dual"][1:]), 2 * min(times["4"][1:]), times)


def test_failure_37_both_families_work_the_moment_add_returns(node: Node) -> None:
    node.world.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=1")
    node.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=1")
    node.add(conf(node, "dual")).ok()
    pod = node.pod("pod1")
    for target in (GATEWAYS["6"], GATEWAYS["4"], WORLD4):
        assert answers(pod, target, "eth0"), target
