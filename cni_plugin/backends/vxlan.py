"""VXLAN: pods' packets travel inside UDP between the nodes' addresses, over any network that routes those.

The device is bound to no interface: each peer's packets leave by the one that leads there, as its MTU assumes.
Nothing is learned and nothing is flooded. A VTEP's MAC is derived from its node's first pod subnet, so that a
peer's entries follow from the node list alone. A flannel node has one at random and announces it: that is believed as
long as it is nobody else's. For each peer there are a route, a neighbour and an FDB entry:

    ip route replace 10.244.2.0/24 via 10.244.2.0 dev tulle.1 proto 84 onlink
    ip neigh replace 10.244.2.0 lladdr 0a:54:0a:f4:02:00 dev tulle.1 nud permanent
    bridge fdb replace 0a:54:0a:f4:02:00 dev tulle.1 dst 192.0.2.2 self permanent

With `directRouting` peers on the same link get a plain route instead. Checksums are left to the NIC where the kernel
and the NIC are known to get them right (`plan.offload`), or `txChecksum` says so; failure 12: flannel#1282,
kubernetes#88986, which looks like a connection that takes 63 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

import msgspec

from cni_plugin.backends.contract import Device, Gate, Me, Word
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import Conf, typed
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.marks import MAX_MTU, MIN_MTU, TUNNEL
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.host import Feature, Sysctl, ipv6_settings
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Fdb, Up, Vxlan
from cni_plugin.network import Address, Network, is_unicast_mac

OVERHEAD: Mapping[int, int] = {4: 50, 6: 70}
"""Inner Ethernet 14, VXLAN 8, UDP 8, and an outer IPv4 header of 20 or IPv6 header of 40 bytes (RFC 7348)."""
NEEDS: Mapping[str, str] = {Vxlan.MADE_BY: "the cluster's backend carries packets between nodes by VXLAN"}
KEY = None
SAYS: Mapping[str, Word] = {
    "vni": Word("VNI", number=True),
    "vtepmac": Word(
        "VtepMAC",
        derived=True,
        fits=lambda mac: is_unicast_mac(mac.lower()),
        meant="a VTEP's MAC is a unicast one such as 0a:54:0a:f4:01:00",
    ),
}
"""flannel's vxlanLeaseAttrs (pkg/backend/vxlan)."""
DEFAULT = True

DEFAULT_PORT = 8472
"""The kernel's own (drivers/net/vxlan/vxlan_core.c), older than IANA's 4789."""


class Config(Conf, frozen=True):
    """`vni` and `port` default to flannel's on Linux, a port of 0 is that, too. `mtu` of the device in bytes, else

    `wire_mtu` of the network between the nodes, where its links claim more than it carries; 0 when it is to be derived.

    `peers_only`: what comes to the port from anybody else is dropped.
    """

    vni: int = 1
    port: int = DEFAULT_PORT
    direct_routing: bool = False
    tx_checksum: bool | None = None
    mtu: int = 0
    wire_mtu: int = 0
    gbp: bool = False
    peers_only: bool = True


def configure(options: Mapping[str, object]) -> Config:
    """Raises CniError 7."""
    conf = typed(options, Config, "cluster.backend")
    for key, value, last in (("vni", conf.vni, 2**24 - 1), ("port", conf.port, 65535)):
        if not 0 <= value <= last:
            raise CniError(INVALID_CONFIG, f"invalid cluster.backend.{key} {value}: it must be between 0 and {last}")
    for key, value, least in (("mtu", conf.mtu, MIN_MTU), ("wireMTU", conf.wire_mtu, MIN_MTU + max(OVERHEAD.values()))):
        if value and not least <= value <= MAX_MTU:
            raise CniError(
                INVALID_CONFIG,
                f"invalid cluster.backend.{key} {value}: it must be between {least} and {MAX_MTU} bytes; leave it out "
                "to derive it",
            )
    return conf if conf.port else msgspec.structs.replace(conf, port=DEFAULT_PORT)


def devices(conf: Config) -> tuple[Device, ...]:
    """`tulle.1` for VNI 1."""
    return (Device(_device(conf), conf.port, conf.vni),)


def vtep_mac(node: Node) -> str:
    """The MAC that a node announced, as flannel's nodes do; else the derived one, so that nobody need say anything.

    Raises CniError 7 for one that no interface can have.
    """
    mac = node.data.get("vtepmac", "").lower()
    if mac and not is_unicast_mac(mac):
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {node.name} is left out: its backendData has the VtepMAC {mac!r}, and a VTEP's MAC is a "
            "unicast one such as 0a:54:0a:f4:01:00",
        )
    return mac or derived_mac(node.pod_cidrs[0])


def derived_mac(cidr: Network) -> str:
    """A locally administered MAC that names a node's first subnet: its IPv4 address, or a digest of an IPv6 one."""
    body = cidr.network_address.packed if cidr.version == 4 else sha256(cidr.network_address.packed).digest()[:4]
    return ":".join(f"{byte:02x}" for byte in (b"\x0a\x54" if cidr.version == 4 else b"\x0a\x36") + body)


def announce(node: Node, conf: Config) -> Mapping[str, str]:
    """The VTEP's MAC and VNI, which peers could also derive."""
    return {"vtepMAC": derived_mac(node.pod_cidrs[0]), "vni": str(conf.vni)}


def ends(me: Me, peer: Node, conf: Config) -> tuple[Address, ...]:
    """Its end of the tunnel, and with `directRouting` the addresses that plain routes could lead to."""
    families = [me.underlay.version, *(cidr.version for cidr in peer.pod_cidrs if conf.direct_routing)]
    found = (peer.address(each) for each in dict.fromkeys(families))
    return tuple(each for each in found if each is not None)


def local(me: Me, conf: Config) -> State:
    """The device, with the first address of each family's first subnet, from which this node itself speaks to pods."""
    if not me.node.pod_cidrs:
        raise CniError(INVALID_CONFIG, f"cluster.nodes: {me.node.name} has no podCIDRs, and VXLAN needs at least one")
    underlay = me.underlay
    name = _device(conf)
    objects: list[Object] = [
        Vxlan(
            name,
            vni=conf.vni,
            port=conf.port,
            local=str(underlay),
            mac=derived_mac(me.node.pod_cidrs[0]),
            mtu=conf.mtu or min(me.mtu, conf.wire_mtu or me.mtu) - OVERHEAD[underlay.version],
            alias=Vxlan.mark(),
            gbp=conf.gbp,
        ),
        Sysctl(f"net/ipv4/conf/{name}/rp_filter", "2", dev=name),
        Sysctl(f"net/ipv6/conf/{name}/accept_ra", "0", dev=name),
        Sysctl(f"net/ipv6/conf/{name}/accept_dad", "0", dev=name),
        Feature(name, tx_checksum=me.offload if conf.tx_checksum is None else conf.tx_checksum),
        Up(name),
    ]
    for family in (4, 6):
        first = next((each for each in me.node.pod_cidrs if each.version == family), None)
        if first is not None:
            objects += ipv6_settings(name) if family == 6 else ()
            objects.append(Addr(name, f"{first.network_address}/{first.max_prefixlen}"))
    return state(objects)


def derived(peer: Node) -> bool:
    """Whether its MAC follows from its subnet."""
    mac = peer.data.get("vtepmac", "").lower()
    return not mac or not peer.pod_cidrs or mac == derived_mac(peer.pod_cidrs[0])


def doubt(peer: Node, conf: Config) -> str:
    """Another VNI: what is sent there with ours, no device of that node takes."""
    vni = peer.data.get("vni", "")
    if vni in ("", str(conf.vni)):
        return ""
    return f"{peer.name} announces VNI {vni}, and the network's is {conf.vni}: restart its agent, or flanneld there"


def gate(conf: Config) -> Gate | None:
    """The UDP port, and the VNI: 24 bits behind the UDP header's 8 bytes and 4 of VXLAN's own (RFC 7348, section 5)."""
    return Gate(str(conf.vni), conf.port, f"@th,96,24 {conf.vni}") if conf.peers_only else None


def peer(me: Me, peer: Node, conf: Config) -> State:
    """Raises CniError 7 when the peer has no address of this node's family, or this node's MAC."""
    remote = peer.address(me.underlay.version)
    if remote is None:
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {peer.name} has no IPv{me.underlay.version} address, which {me.node.name}'s "
            "VXLAN device uses: give all nodes an address of one family",
        )
    if not derived(peer) and vtep_mac(peer) == derived_mac(me.node.pod_cidrs[0]):
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {peer.name} is left out: it says that its VTEP has the MAC {vtep_mac(peer)}, which is "
            f"that of {me.node.name}, this node",
        )
    return state(each for cidr in peer.pod_cidrs for each in _ways(me, peer, remote, cidr, conf))


def _device(conf: Config) -> str:
    return f"{TUNNEL}{conf.vni}"


def _ways(me: Me, peer: Node, remote: Address, cidr: Network, conf: Config) -> Iterator[Object]:
    direct = peer.address(cidr.version)
    link = me.link_to(direct) if conf.direct_routing and direct is not None else ""
    if link:
        yield Route(dst=str(cidr), dev=link, via=str(direct))
        return
    mac, gateway = vtep_mac(peer), str(cidr.network_address)
    yield Fdb(_device(conf), mac, str(remote))
    yield Neigh(_device(conf), gateway, mac)
    yield Route(dst=str(cidr), dev=_device(conf), via=gateway, onlink=True)
