"""A flannel node as flanneld would make it, for there is no flannel to be had here: its device, its entries, its key.

What it does, and in what order, is from flannel's sources: pkg/backend/vxlan (`flannel.1` with a MAC of its own, the
subnet's .0 as its address, for each lease an ARP entry, an FDB entry and an onlink route), pkg/subnet/etcd (the lease
of a day, the own subnet found again by PublicIP), pkg/subnet (subnet.env). It is as edge-triggered as flanneld is: what
an event does not say is not done. Pods are wired by the reference bridge plugin, as flannel's CNI plugin has it do.
"""

from __future__ import annotations

import json
import random
import subprocess
import threading
from ipaddress import IPv4Network, ip_network

from scripts.lib.lab import namespaces
from scripts.lib.lab.topology import NETWORK, Node
from tests.cluster.etcd import PREFIX, Member
from tests.conformance.nodes import Json
from tests.pace import until

DEVICE = "flannel.1"
SUBNETS = f"{PREFIX}/subnets/"


class Flanneld:
    """flanneld of one node of a lab. `start` it, `stop` it: device, entries and key stay, as they do."""

    def __init__(self, node: Node, etcd: Member) -> None:
        self.node, self._etcd = node, etcd
        self.subnet = IPv4Network("0.0.0.0/0")
        self.mac = ":".join(f"{each:02x}" for each in (random.randrange(256) & 0xFE | 2, *random.randbytes(5)))
        self._leases: dict[IPv4Network, Json] = {}
        self._watch: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Take a subnet, make the device, and follow the leases of the others."""
        self._make_device()
        self.subnet = self._acquire()
        self._ip(f"addr replace {self.subnet[0]}/32 dev {DEVICE}", f"link set {DEVICE} up")
        self._write_subnet_env()
        revision = int(json.loads(self._etcd.ctl("get", PREFIX, "-w", "json"))["header"]["revision"])
        for key, value in self._etcd.subnets().items():
            self._added(key, value)
        words = ["etcdctl", "--endpoints", self._etcd.url, "watch", "--prefix", SUBNETS, "--rev", str(revision + 1)]
        self._watch = subprocess.Popen(
            [*namespaces.inside(self.node.netns), "env", "ETCDCTL_API=3", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self._follow, args=(self._watch,), daemon=True).start()

    def stop(self) -> None:
        """As systemctl stop does."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch = None

    def knows(self, subnet: str, mac: str) -> bool:
        """Whether it would send packets for a subnet to that VTEP."""
        neighbours = namespaces.run(["ip", "neigh", "show", "dev", DEVICE], netns=self.node.netns)
        return f"{subnet.split('/')[0]} lladdr {mac} PERMANENT" in neighbours

    def _make_device(self) -> None:
        underlay = self.node.addresses[0]
        self._ip(
            f"link add {DEVICE} address {self.mac} mtu 1450 type vxlan id 1 dev eth0 local {underlay} dstport 8472 "
            "nolearning"
        )

    def _acquire(self) -> IPv4Network:
        """The subnet that bears this node's PublicIP, or one of the first hundred that are free."""
        held = self._etcd.subnets()
        mine = [key for key, value in held.items() if value["PublicIP"] == self.node.addresses[0]]
        taken = [_subnet(key) for key in held]
        every = list(IPv4Network("10.244.0.0/16").subnets(new_prefix=24))[1:]
        free = [each for each in every if not any(each.overlaps(other) for other in taken)][:100]
        subnet = _subnet(mine[0]) if mine else random.choice(free)
        lease = self._etcd.ctl("lease", "grant", "86400").split()[1]
        value = {
            "PublicIP": self.node.addresses[0], "PublicIPv6": None, "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": self.mac},
        }
        self._etcd.put(f"subnets/{str(subnet).replace('/', '-')}", value, "--lease", lease)
        return subnet

    def _write_subnet_env(self) -> None:
        (self.node.state / "subnet.env").write_text(
            f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={self.subnet[1]}/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        )

    def _follow(self, watch: subprocess.Popen[str]) -> None:
        """etcdctl prints PUT, the key and the value, or DELETE, the key and an empty line."""
        assert watch.stdout is not None
        for kind in watch.stdout:
            key, value = watch.stdout.readline().strip(), watch.stdout.readline().strip()
            if kind.strip() == "PUT":
                self._added(key.removeprefix(SUBNETS), json.loads(value))
            else:
                self._removed(key.removeprefix(SUBNETS))

    def _added(self, key: str, value: Json) -> None:
        subnet = _subnet(key)
        if subnet == self.subnet or value["BackendType"] != "vxlan":
            return
        self._leases[subnet] = value
        mac = str(value["BackendData"]["VtepMAC"])  # type: ignore[index]
        self._ip(f"neigh replace {subnet[0]} lladdr {mac} dev {DEVICE} nud permanent")
        self._bridge(f"fdb replace {mac} dev {DEVICE} dst {value['PublicIP']} self permanent")
        self._ip(f"route replace {subnet} via {subnet[0]} dev {DEVICE} onlink")

    def _removed(self, key: str) -> None:
        subnet = _subnet(key)
        value = self._leases.pop(subnet, None)
        if value is None:
            return
        mac = str(value["BackendData"]["VtepMAC"])  # type: ignore[index]
        self._ip(f"neigh del {subnet[0]} dev {DEVICE}")
        self._bridge(f"fdb del {mac} dev {DEVICE} dst {value['PublicIP']} self")
        self._ip(f"route del {subnet}")

    def _ip(self, *commands: str) -> None:
        namespaces.ip(self.node.netns, *commands)

    def _bridge(self, command: str) -> None:
        namespaces.run(["bridge", *command.split()], netns=self.node.netns)


def _subnet(key: str) -> IPv4Network:
    """Of a key of one family."""
    found = ip_network(key.replace("-", "/"))
    assert isinstance(found, IPv4Network)
    return found


def conflist(node: Node, subnet: IPv4Network) -> Json:
    """What flannel's CNI plugin makes of its `delegate` and of subnet.env."""
    bridge = {
        "type": "bridge", "bridge": "cni0", "mtu": 1450, "hairpinMode": True, "isDefaultGateway": True, "ipMasq": False,
        "ipam": {
            "type": "host-local", "dataDir": str(node.state / "ipam"), "subnet": str(subnet),
            "routes": [{"dst": "10.244.0.0/16"}],
        },
    }
    return {"cniVersion": "0.3.1", "name": NETWORK, "plugins": [bridge]}


def gone(node: Node, device: str) -> None:
    """Returns when a link of the node is no more."""
    show = ["ip", "link", "show", device]
    until(lambda: namespaces.attempt(show, netns=node.netns).returncode != 0, f"{device} is gone")
