"""What a lab consists of, as values: names, addresses, and the two files that its nodes read.

Pure: the same Spec always gives the same lab, and nothing here touches the machine. `labs.py` makes it real.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from scripts.lib.lab.runtime import Json

REPO = Path(__file__).resolve().parents[3]
LABS = Path("/run/tulle-lab")
NETWORK = "pods"
FAMILIES = {"4": (4,), "6": (6,), "dual": (4, 6)}
BACKENDS = ("vxlan", "host-gw")
SOURCES = ("static", "file", "etcd", "kubernetes")

# The underlay's addresses are those for documentation (RFC 5737, RFC 3849): they hide no real network.
LINK_NETS: dict[tuple[int, int], str] = {
    (1, 4): "192.0.2.0/24", (1, 6): "2001:db8:1::/64",
    (2, 4): "198.51.100.0/24", (2, 6): "2001:db8:2::/64",
}
POD_NETS = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
ROUTER = 254  # the underlay's own address on each link


class LabError(Exception):
    """What went wrong and what to do about it, in words for the person who typed the command."""


@dataclass(frozen=True)
class Spec:
    """What a lab is made from. `routed`: node 3 and later are on a second link, behind a router.

    `source`: where nodes learn of each other; static is a list that each has, and takes no agent.
    """

    name: str = "lab"
    nodes: int = 3
    backend: str = "vxlan"
    family: str = "dual"
    mtu: int = 1500
    routed: bool = False
    direct_routing: bool = False
    source: str = "static"
    plugin: str = str(REPO / "dist/tulle/tulle")

    def check(self) -> None:
        """Raises LabError that names the setting, its value and the remedy."""
        if not re.fullmatch(r"[a-z0-9]{1,20}", self.name):
            raise LabError(f"--name {self.name}: use 1 to 20 lower-case letters and digits")
        if not 1 <= self.nodes <= 99:
            raise LabError(f"--nodes {self.nodes}: use 1 to 99")
        if self.backend not in BACKENDS:
            raise LabError(f"--backend {self.backend}: use one of {', '.join(BACKENDS)}")
        if self.family not in FAMILIES:
            raise LabError(f"--family {self.family}: use one of {', '.join(FAMILIES)}")
        if not 576 <= self.mtu <= 65535 or (self.mtu < 1280 and self.family != "4"):
            raise LabError(f"--mtu {self.mtu}: use 576 to 65535, at least 1280 for IPv6")
        if self.backend == "host-gw" and self.routed:
            raise LabError("--backend host-gw with --routed: host-gw needs all nodes on one link; use vxlan")
        if self.source not in SOURCES:
            raise LabError(f"--source {self.source}: use one of {', '.join(SOURCES)}")
        if self.source == "kubernetes" and self.family == "6":
            raise LabError("--source kubernetes with --family 6: nodes have one IPv4 address there; use 4 or dual")
        if not os.access(self.plugin, os.X_OK):
            raise LabError(f"{self.plugin} is no executable: build it with scripts/build, or use --plugin")

    @property
    def prefix(self) -> str:
        return f"tulle-{self.name}-"

    @property
    def families(self) -> tuple[int, ...]:
        return FAMILIES[self.family]

    @property
    def links(self) -> tuple[int, ...]:
        return (1, 2) if self.routed else (1,)

    @property
    def wire(self) -> str:
        """The namespace of the underlay."""
        return f"{self.prefix}wire"


@dataclass(frozen=True)
class Node:
    """One node of a lab: names, addresses and paths, all derived from its number."""

    spec: Spec
    number: int

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def netns(self) -> str:
        return f"{self.spec.prefix}{self.name}"

    @property
    def state(self) -> Path:
        return LABS / self.spec.name / self.name

    @property
    def link(self) -> int:
        return 2 if self.spec.routed and self.number > 2 else 1

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(host(LINK_NETS[self.link, family], self.number) for family in self.spec.families)

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        """The node's number is the third byte (v4) or the fourth group (v6), so that people see it."""
        cidrs = {4: f"10.244.{self.number}.0/24", 6: f"fd00:10:244:{self.number}::/64"}
        return tuple(cidrs[family] for family in self.spec.families)

    @property
    def env(self) -> dict[str, str]:
        """What tells Tulle's executables that they are on this node."""
        path = f"{Path(self.spec.plugin).parent}:{os.environ.get('PATH', os.defpath)}"
        return {"TULLE_RUN_DIR": str(self.state / "run"), "PATH": path}


@dataclass(frozen=True)
class Pod:
    """One pod: where it is, and the addresses that the plugin said it has."""

    node: str
    name: str
    netns: str
    addresses: tuple[str, ...] = ()
    attachment: Json = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.node}/{self.name}"

    def address(self, family: int) -> str:
        """Its address of family 4 or 6. Raises LookupError when it has none."""
        for address in self.addresses:
            if ipaddress.ip_address(address).version == family:
                return address
        raise LookupError(f"{self.path} has no IPv{family} address: {', '.join(self.addresses) or 'none'}")


def host(network: str, number: int) -> str:
    """The address of that number in a network."""
    return str(ipaddress.ip_network(network)[number])


def cluster(node: Node, nodes: tuple[Node, ...]) -> Json:
    """The `cluster` object as `node` reads it."""
    return {**shared_cluster(node.spec, nodes), "node": node.name}


def shared_cluster(spec: Spec, nodes: tuple[Node, ...]) -> Json:
    """The cluster as all nodes read it."""
    networks = {4: "network", 6: "ipv6Network"}
    return {
        **{networks[family]: POD_NETS[family] for family in spec.families},
        "backend": backend(spec),
        "nodes": [_peer(one) for one in nodes],
    }


def backend(spec: Spec) -> Json:
    """What carries packets, and its options."""
    if spec.backend != "vxlan":
        return {"type": spec.backend}
    return {"type": spec.backend, "vni": 1, "port": 8472, "directRouting": spec.direct_routing}


def _peer(node: Node) -> Json:
    return {
        "name": node.name,
        "address": node.addresses[0],
        **({"ipv6Address": node.addresses[1]} if len(node.addresses) > 1 else {}),
        "podCIDRs": list(node.pod_cidrs),
    }


def conflist(node: Node, **keys: object) -> Json:
    """The node's network configuration, or where an agent adds the cluster to it, the template; `keys` are added."""
    plugin: Json = {
        "type": Path(node.spec.plugin).name,
        "ipMasq": True,
        "ipam": {"type": "host-local", "dataDir": str(node.state / "ipam")},
    }
    if node.spec.source == "static":
        plugin["cluster"] = str(node.state / "cluster.json")
    return {"cniVersion": "1.1.0", "name": NETWORK, "plugins": [plugin | keys]}
