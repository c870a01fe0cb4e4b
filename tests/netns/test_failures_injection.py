"""Who may speak through the overlay, in real kernels: what a peer sends arrives, and what anybody else sends does not.

Somebody who is no peer, and a pod, make packets by hand as a VXLAN device would send them, to the port of a node's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from scripts.lib.lab import labs, namespaces
from tests.netns.conftest import MakeLab
from tests.netns.test_failures_agent_repair import reconcile
from tests.netns.test_failures_cluster import device, reaches, two_nodes
from tests.netns.test_mtu import Reconcile
from tests.pace import until

__all__ = ["reconcile"]
PORT, OTHER_VNI = 7777, 99
LISTEN = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', int(sys.argv[1])))
print('ready', flush=True)
while True: print(s.recv(99).decode(), flush=True)
"""
INJECT = """
import socket, struct, sys
to, vni, mac, inner_from, inner_to, port, words, bound = sys.argv[1:9]
family = socket.AF_INET6 if ':' in inner_to else socket.AF_INET
def total(data):
    data += bytes(len(data) % 2)
    n = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while n >> 16: n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
a, b = (socket.inet_pton(family, each) for each in (inner_from, inner_to))
data = words.encode()
udp = struct.pack('!HHHH', 5555, int(port), 8 + len(data), 0) + data
pseudo = a + b + (struct.pack('!I3xB', len(udp), 17) if ':' in inner_to else struct.pack('!xBH', 17, len(udp)))
udp = udp[:6] + struct.pack('!H', total(pseudo + udp) or 0xffff) + udp[8:]
if ':' in inner_to: ip = struct.pack('!IHBB', 6 << 28, len(udp), 17, 64) + a + b
else:
    head = struct.pack('!BBHHHBBH', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + a + b
    ip = head[:10] + struct.pack('!H', total(head)) + head[12:]
frame = bytes.fromhex(mac.replace(':', '')) + bytes.fromhex('0a5401020304')
frame += struct.pack('!H', 0x86dd if ':' in inner_to else 0x800) + ip + udp
packet = struct.pack('!II', 0x08000000, int(vni) << 8) + frame
s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, socket.SOCK_DGRAM)
if bound: s.bind((bound, 0))
for _ in range(3): s.sendto(packet, (to, 8472))
"""


@contextmanager
def heard(made: labs.Lab, where: str = "n1/p1") -> Iterator[list[str]]:
    """What a pod hears, complete when the block is left: a last word from its own node comes behind all others."""
    netns, _ = made.place(where)
    words = ["python3", "-c", LISTEN, str(PORT)]
    with subprocess.Popen([*namespaces.inside(netns), *words], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        try:
            assert listener.stdout.readline().strip() == "ready"
            found: list[str] = []
            yield found
            said = ["bash", "-c", f"echo over > /dev/udp/{made.pod(where).addresses[0]}/{PORT}"]
            namespaces.run(said, netns=made.node(where.partition("/")[0]).netns)
            while (line := listener.stdout.readline().strip()) != "over":
                found.append(line)
        finally:
            listener.kill()


def inject(made: labs.Lab, source: str, target: str, words: str, *, vni: int = 1, bound: str = "") -> None:
    """Have a place send to a node's port what that should hand to its pod p1."""
    node = made.node(target)
    netns, _ = made.place(source)
    pod = made.pod(f"{target}/p1").addresses[0]
    inside = str(ip_network(made.node("n2" if target == "n1" else "n1").pod_cidrs[0])[77])
    mac = str(device(made, target)["address"])
    argv = [node.addresses[0], str(vni), mac, inside, pod, str(PORT), words, bound]
    done = namespaces.attempt(["python3", "-c", INJECT, *argv], netns=netns)
    assert done.returncode == 0 or "Operation not permitted" in done.stderr, done.stderr


def bear(made: labs.Lab, where: str, address: str) -> None:
    """Give a place one more address, as whoever has CAP_NET_ADMIN in a pod can."""
    bits = ip_address(address).max_prefixlen
    made.run(where, "ip", "addr", "add", f"{address}/{bits}", "dev", "lo")


@pytest.mark.parametrize("family", ["4", "6"])
def test_nobody_but_a_peer_speaks_through_the_overlay(lab: MakeLab, family: str) -> None:
    made = two_nodes(lab, family=family)
    n1, n2 = (made.node(each).addresses[0] for each in ("n1", "n2"))
    bear(made, "n1/p1", n2)
    bear(made, "n2/p1", n1)
    with heard(made) as words:
        inject(made, "wire", "n1", "from a host that is no peer")
        inject(made, "n1/p1", "n1", "from a pod of the node itself")
        inject(made, "n1/p1", "n1", "from a pod that says it is a peer", bound=n2)
        inject(made, "n2/p1", "n1", "from a pod of a peer, masqueraded")
        inject(made, "n2", "n1", "from a peer")
    assert set(words) == {"from a peer"}
    with heard(made, "n2/p1") as words:
        inject(made, "n1/p1", "n2", "from a pod that says it is no pod of its node", bound=n2)
        inject(made, "n1/p1", "n2", "from a pod")
    assert words == []
    made.run("n1", "nft", "flush", "ruleset")
    with heard(made) as words:
        inject(made, "wire", "n1", "from a host that is no peer")
    assert words, "without the guard it would have been taken in"
    del made.pods["n1/p1"], made.pods["n2/p1"]
    for node in ("n1", "n2"):
        made.add(node, "p2")
    assert reaches(made, "n1/p2", "n2/p2")


@pytest.mark.parametrize("family", ["4", "6"])
def test_other_peoples_tunnels_at_the_same_port_are_let_be(lab: MakeLab, family: str) -> None:
    made = two_nodes(lab, family=family)
    wire = json_address(made, family)
    bits = 24 if family == "4" else 64
    inner = ("10.99.0.{}", "fd99::{}")[family == "6"]
    for number, (place, local, remote, dev) in enumerate(
        (("n1", made.node("n1").addresses[0], wire, "eth0"), ("wire", wire, made.node("n1").addresses[0], "link1")), 1
    ):
        words = f"ip link add theirs type vxlan id {OTHER_VNI} local {local} remote {remote} dev {dev} dstport 8472"
        made.run(place, *words.split())
        made.run(place, *f"ip addr add {inner.format(number)}/{bits} dev theirs".split(),
                 *(["nodad"] if family == "6" else []))
        made.run(place, "ip", "link", "set", "theirs", "up")
    assert namespaces.ping(made.spec.wire, inner.format(1)) is not None
    assert reaches(made)


def json_address(made: labs.Lab, family: str) -> str:
    """The address that the wire itself has on the nodes' link."""
    found = namespaces.run(["ip", "-o", f"-{family}", "addr", "show", "dev", "link1", "scope", "global"],
                       netns=made.spec.wire)
    return found.split()[3].partition("/")[0]


def test_who_flushes_all_rules_opens_the_overlay_for_a_moment_only(lab: MakeLab, reconcile: Reconcile) -> None:
    made = two_nodes(lab, family="4")
    loop = reconcile(made, "n1")
    made.run("n1", "nft", "flush", "ruleset")
    until(lambda: "peers4_1" in made.run("n1", "nft", "list", "ruleset"), "the guard is back")
    with heard(made) as words:
        inject(made, "wire", "n1", "from a host that is no peer")
        inject(made, "n2", "n1", "from a peer")
    assert set(words) == {"from a peer"}
    loop.end()
