"""What the monitor tells of, and what it is silent about, by a real kernel's own events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni_plugin.kernel.host.netns import inside, open_namespace
from cni_plugin.kernel.watch.changed import (
    ADDRESSES,
    EVERYTHING,
    KNOBS,
    LINKS,
    NEIGHBOURS,
    ROUTES,
    RULES,
    UPLINKS,
    Changed,
)
from cni_plugin.kernel.watch.monitor import Monitor
from scripts.lib.lab import namespaces
from tests.netns.kernel_world import news

PORT = "tl0123456789a"
START = [
    "ip link add eth0 type veth peer name far", "ip link set far up", "ip link set eth0 up",
    "ip addr add 192.0.2.1/24 dev eth0",
    "ip link add tulle0 address 02:00:00:00:00:01 type bridge", "ip link set tulle0 up",
    "ip addr add 10.1.0.1/24 dev tulle0",
    "ip link add tulle.1 address 02:00:00:00:00:02 type vxlan id 1 dstport 8472 nolearning", "ip link set tulle.1 up",
    "ip route add 10.2.0.0/24 via 192.0.2.9 proto 84", "ip route add 10.3.0.0/24 via 192.0.2.9",
    "ip neigh add 10.2.0.0 lladdr 02:00:00:00:00:03 dev tulle.1 nud permanent",
    "bridge fdb add 02:00:00:00:00:03 dev tulle.1 dst 192.0.2.9",
    "nft add table inet tulle", "nft add chain inet tulle c", "nft add table inet others",
    f"ip link add {PORT} type veth peer name pod", f"ip link set {PORT} master tulle0 up", "ip link set pod up",
    "sysctl -qw net.ipv4.ip_forward=1",
]


class Watched:
    """A namespace with a bridge, a tunnel and an uplink, all watched."""

    def __init__(self, netns: str) -> None:
        self._netns = netns
        namespaces.run(["sh", "-e"], netns=netns, stdin="\n".join(START))
        descriptor = open_namespace(f"/run/netns/{netns}")
        with inside(descriptor):
            self.monitor = Monitor()
        names = ("tulle0", "tulle.1", "eth0")
        self.monitor.watch({each: self._index(each) for each in names}, ["tulle.1"], ["eth0"])
        self.after(*(f"ip link set {name} alias tulle:x" for name in names))  # the first event about a link is news

    def _index(self, name: str) -> int:
        return int(namespaces.run(["ip", "-o", "link", "show", name], netns=self._netns).split(":")[0])

    def after(self, *commands: str) -> Changed:
        """What is told when these commands have run."""
        for each in commands:
            namespaces.run(each.split(), netns=self._netns)
        return news(self.monitor)


@pytest.fixture
def watched(netns: Callable[[str], str]) -> Iterator[Watched]:
    made = Watched(netns("node"))
    yield made
    made.monitor.close()


TOLD = {
    "ip link set tulle0 address 02:00:00:00:00:09": LINKS,
    "ip link set tulle0 down": LINKS,
    "ip link set tulle0 mtu 1300": LINKS,
    "ip link del tulle0": LINKS | ADDRESSES,
    "ip link set tulle.1 address 02:00:00:00:00:09": LINKS,
    "ip addr del 10.1.0.1/24 dev tulle0": ADDRESSES,
    "ip addr add 10.9.0.1/24 dev eth0": ADDRESSES | UPLINKS,
    "ip link set eth0 mtu 1400": LINKS | UPLINKS,
    "ip route del 10.2.0.0/24": ROUTES,
    "ip route replace 10.2.0.0/24 via 192.0.2.8": ROUTES,
    "ip neigh del 10.2.0.0 dev tulle.1": NEIGHBOURS,
    "ip neigh replace 10.2.0.0 lladdr 02:00:00:00:00:04 dev tulle.1 nud permanent": NEIGHBOURS,
    "bridge fdb del 02:00:00:00:00:03 dev tulle.1 dst 192.0.2.9": NEIGHBOURS,
    "nft flush ruleset": RULES,
    "nft add rule inet tulle c accept": RULES,
    "nft delete chain inet tulle c": RULES,
    "sysctl -qw net.ipv4.ip_forward=0": KNOBS,
    "sysctl -qw net.ipv4.conf.tulle0.rp_filter=1": KNOBS,
}
SILENT = [
    f"ip link set {PORT} down", f"ip link set {PORT} nomaster", f"ip link del {PORT}",
    "ip link add tlabcdefabcde type veth peer name other",
    "ip link add veth1 alias elsewhere type veth peer name veth2", "ip addr add 10.8.0.1/24 dev lo",
    "ip route del 10.3.0.0/24", "ip route add 10.4.0.0/24 via 192.0.2.9",
    "ip neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    "ip neigh add 10.2.0.7 lladdr 02:00:00:00:00:03 dev tulle.1 nud reachable",
    "nft add chain inet others c", "nft delete table inet others", "nft add table ip tulle",
    "sysctl -qw net.ipv4.conf.lo.rp_filter=1",
]


@pytest.mark.parametrize("command", TOLD)
def test_what_concerns_us_is_told(watched: Watched, command: str) -> None:
    told = watched.after(command)
    assert told & TOLD[command] == TOLD[command]


def test_what_does_not_concern_us_is_not_told(watched: Watched) -> None:
    assert {each: told for each in SILENT if (told := watched.after(each))} == {}


def test_a_pods_port_on_a_bridge_that_is_not_known_is_told(watched: Watched) -> None:
    assert watched.after("ip link add br7 type bridge") == 0
    assert watched.after("ip link add tlabcdefabcde master br7 type veth peer name other") == LINKS


def test_a_link_of_ours_that_is_not_known_is_told(watched: Watched) -> None:
    assert watched.after("ip link add br7 type bridge", "ip link set br7 alias tulle:bridge") == 0, "not while down"
    assert watched.after("ip link set br7 up") == LINKS


def test_when_events_were_lost_everything_may_have_changed(watched: Watched, tmp_path: Path) -> None:
    batch = tmp_path / "routes"
    lines = (f"route add 10.{i >> 8}.{i & 255}.0/24 dev eth0 proto 84" for i in range(5 * 256, 60 * 256))
    batch.write_text("".join(f"{each}\n" for each in lines))
    assert watched.after(f"ip -batch {batch}") == EVERYTHING
