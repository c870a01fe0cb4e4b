"""Each kind of operation as the line that a person would type; what plans look like as a whole is in tests/golden."""

from __future__ import annotations

from typing import get_args

import pytest

from cni_plugin.describe import describe, script
from cni_plugin.diff import Op
from cni_plugin.model.base import POD, Object, Verb
from cni_plugin.model.every import AnyObject
from cni_plugin.model.host import Daemon, Feature, File, Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan
from cni_plugin.model.nft import Chain, Element, Map, Set, Table

VXLAN = Vxlan("tulle.1", 1, 8472, "192.0.2.1", "eth0", "0a:54:0a:f4:01:00", mtu=1450)
FDB = Fdb("tulle.1", "0a:54:0a:f4:02:00", "192.0.2.2")
MAPPED = Element("m", "tcp . 80", "jump pod")
KEY = File("/run/tulle/wg.key", "secret", place="/run/tulle")
BIRD = Daemon("bird", ("/usr/sbin/bird", "-f"), "/run/tulle", reload=1)
CHARON = Daemon("charon", ("/usr/sbin/charon",), "/run/tulle")
BOUND = Fdb("tl0", "0a:58:0a:16:00:05", vid=5)
ROUTE = Route("10.244.2.0/24", "tulle.1", "10.244.2.0", onlink=True)

LINES: tuple[tuple[Verb, Object, str], ...] = (
    ("create", Bridge("br0", 1450, vlan_filtering=True), "ip link add br0 mtu 1450 type bridge vlan_filtering 1"),
    ("create", Bridge("br0", promisc=True), "ip link add br0 type bridge && ip link set br0 promisc on"),
    ("change", Bridge("br0", 1400), "ip link set br0 mtu 1400 type bridge vlan_filtering 0"),
    ("delete", Bridge("br0", 1400), "ip link del br0"),
    (
        "create", Veth("tl0", "br0", 1450, "0e:00:00:00:00:01", "tulle:a/b/c", "eth0", "0a:00:00:00:00:01"),
        "ip link add tl0 up master br0 address 0e:00:00:00:00:01 mtu 1450 type veth peer eth0 netns POD "
        "address 0a:00:00:00:00:01 mtu 1450 && ip link set tl0 alias 'tulle:a/b/c'",
    ),
    ("change", Veth("tl0", "br1", alias="x"), "ip link set tl0 master br1 alias 'x'"),
    ("delete", Veth("tl0"), "ip link del tl0"),
    (
        "create", VXLAN,
        "ip link add tulle.1 address 0a:54:0a:f4:01:00 mtu 1450 type vxlan id 1 local 192.0.2.1 dev eth0 "
        "dstport 8472 nolearning",
    ),
    ("change", VXLAN, "ip link set tulle.1 address 0a:54:0a:f4:01:00 mtu 1450"),
    ("delete", VXLAN, "ip link del tulle.1"),
    ("create", Vlan("br0.5", "br0", 5), "ip link add link br0 name br0.5 type vlan id 5"),
    ("delete", Vlan("br0.5", "br0", 5), "ip link del br0.5"),
    ("create", PodLink("eth0"), "# eth0 in POD comes with its veth"),
    ("change", PodLink("eth0", mtu=1400), "ip -n POD link set eth0 mtu 1400"),
    ("create", Up("br0"), "ip link set br0 up"),
    ("delete", Up("eth0", POD), "ip -n POD link set eth0 down"),
    ("create", Port("tl0", hairpin=True), "bridge link set dev tl0 hairpin on isolated off locked off"),
    ("delete", Port("tl0", hairpin=True), "bridge link set dev tl0 hairpin off isolated off locked off"),
    ("create", PortVlan("tl0", 5, pvid=True, untagged=True), "bridge vlan add dev tl0 vid 5 pvid untagged"),
    ("create", PortVlan("tl0", 5, 9), "bridge vlan add dev tl0 vid 5-9"),
    ("create", PortVlan("br0", 5, self_=True), "bridge vlan add dev br0 vid 5 self"),
    ("delete", PortVlan("tl0", 5), "bridge vlan del dev tl0 vid 5"),
    ("create", PortVlan("tl0", 1, member=False), "bridge vlan del dev tl0 vid 1"),
    ("delete", PortVlan("tl0", 1, member=False), "bridge vlan add dev tl0 vid 1"),
    ("create", Sysctl("net/ipv4/ip_forward", "1"), "sysctl -w net/ipv4/ip_forward=1"),
    ("create", Sysctl("net/ipv4/x", "1", POD), "ip netns exec POD sysctl -w net/ipv4/x=1"),
    ("delete", Sysctl("net/ipv4/ip_forward", "1"), "# net/ipv4/ip_forward is left as it is"),
    ("create", Feature("tulle.1", tx_checksum=False), "ethtool -K tulle.1 tx off"),
    ("delete", Feature("tulle.1", tx_checksum=False), "ethtool -K tulle.1 tx on"),
    ("create", KEY, "install -m 0600 /dev/stdin /run/tulle/wg.key  # 6 bytes"),
    ("delete", KEY, "rm /run/tulle/wg.key"),
    ("create", BIRD, "setsid /usr/sbin/bird -f &"),
    ("change", BIRD, "kill -1 $(cut -d' ' -f1 /run/tulle/daemons/bird)"),
    ("change", CHARON, "kill $(cut -d' ' -f1 /run/tulle/daemons/charon); setsid /usr/sbin/charon &"),
    ("delete", CHARON, "kill $(cut -d' ' -f1 /run/tulle/daemons/charon)"),
    ("create", Addr("eth0", "10.22.0.5/24", POD), "ip -n POD addr add 10.22.0.5/24 dev eth0"),
    ("create", Addr("br0", "fd00::1/64"), "ip addr add fd00::1/64 dev br0 nodad"),
    ("create", Addr("br0", "fd00::1/64", dad=True), "ip addr add fd00::1/64 dev br0"),
    ("delete", Addr("br0", "fd00::1/64"), "ip addr del fd00::1/64 dev br0"),
    ("create", ROUTE, "ip route add 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink"),
    ("change", ROUTE, "ip route replace 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink"),
    ("delete", Route("10.9.0.0/16", "eth0"), "ip route del 10.9.0.0/16 dev eth0 proto 84"),
    (
        "create", Route("10.9.0.0/16", "eth0", "fd00::1", POD, "10.22.0.5", 1400, 1360, 7, 100, 253, 3),
        "ip -n POD route add 10.9.0.0/16 via inet6 fd00::1 dev eth0 src 10.22.0.5 table 100 metric 7 scope 253 "
        "mtu 1400 advmss 1360",
    ),
    (
        "create", Neigh("tulle.1", "10.244.2.0", "0a:54:0a:f4:02:00"),
        "ip neigh replace 10.244.2.0 lladdr 0a:54:0a:f4:02:00 dev tulle.1 nud permanent",
    ),
    ("delete", Neigh("br0", "10.22.0.5", learned=True), "ip neigh del 10.22.0.5 dev br0"),
    ("create", FDB, "bridge fdb replace 0a:54:0a:f4:02:00 dev tulle.1 dst 192.0.2.2 self permanent"),
    ("delete", FDB, "bridge fdb del 0a:54:0a:f4:02:00 dev tulle.1 dst 192.0.2.2 self permanent"),
    ("create", BOUND, "bridge fdb replace 0a:58:0a:16:00:05 dev tl0 master static vlan 5"),
    ("delete", BOUND, "bridge fdb del 0a:58:0a:16:00:05 dev tl0 master static vlan 5"),
    (
        "create", Chain("c", "type nat hook postrouting priority srcnat;", ("accept",)),
        "nft add table inet tulle\nnft 'add chain inet tulle c { type nat hook postrouting priority srcnat; }'\n"
        "nft flush chain inet tulle c\nnft 'add rule inet tulle c accept'",
    ),
    ("delete", Chain("c", ""), "nft delete chain inet tulle c"),
    (
        "create", Set("s", "ipv4_addr"),
        "nft add table inet tulle\nnft 'add set inet tulle s { type ipv4_addr; }'",
    ),
    ("delete", Set("s", "ipv4_addr"), "nft delete set inet tulle s"),
    ("create", Element("s", "192.0.2.2"), "nft 'add element inet tulle s { 192.0.2.2 }'"),
    ("delete", Element("s", "192.0.2.2"), "nft 'delete element inet tulle s { 192.0.2.2 }'"),
    (
        "create", Set("s", "ipv4_addr", interval=True, table="bridge tulle"),
        "nft add table bridge tulle\nnft 'add set bridge tulle s { type ipv4_addr; flags interval; }'",
    ),
    (
        "create", Map("m", "inet_proto . inet_service", data="verdict"),
        "nft add table inet tulle\nnft 'add map inet tulle m { type inet_proto . inet_service : verdict; }'",
    ),
    ("delete", Map("m", "mark", data="verdict"), "nft delete map inet tulle m"),
    ("create", MAPPED, "nft 'add element inet tulle m { tcp . 80 : jump pod }'"),
    (
        "change", MAPPED,
        "nft 'delete element inet tulle m { tcp . 80 }; add element inet tulle m { tcp . 80 : jump pod }'",
    ),
    ("delete", MAPPED, "nft 'delete element inet tulle m { tcp . 80 }'"),
    (
        "create", Chain("pod", ""),
        "nft add table inet tulle\nnft add chain inet tulle pod\nnft flush chain inet tulle pod",
    ),
    ("create", Table(), "nft add table inet tulle"),
    ("delete", Table("bridge tulle"), "nft delete table bridge tulle"),
)


@pytest.mark.parametrize(("verb", "each", "line"), LINES)
def test_an_operation_is_a_line(verb: Verb, each: Object, line: str) -> None:
    assert describe(Op(verb, each)) == line


def test_every_kind_of_object_has_words() -> None:
    assert set(get_args(AnyObject)) == {type(each) for _, each, _ in LINES}


def test_a_script_is_the_lines_in_order() -> None:
    assert script([Op("create", Up("a")), Op("delete", Up("b"))]) == "ip link set a up\nip link set b down"
