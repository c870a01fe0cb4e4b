"""Links, and what a link is told about itself and its ports: the language of `ip link` and `bridge`."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from cni_plugin.model.base import HOST, POD, Key, Object, link_key


class Bridge(Object, frozen=True, tag="bridge"):
    """A Linux bridge. `pinned`: its MAC was set and so no longer follows its ports' (net/bridge/br_stp_if.c)."""

    name: str
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    vlan_filtering: bool = False
    pinned: bool = True
    promisc: bool = False

    @property
    def key(self) -> Key:
        return link_key(HOST, self.name)


class Veth(Object, frozen=True, tag="veth"):
    """A pair made at once: `name` on the host, up in `master`; `peer` in the pod, down; `peer_mtu` where it differs."""

    FIXED: ClassVar[tuple[str, ...]] = ("peer",)
    name: str
    master: str = ""
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    peer: str = ""
    peer_mac: str = ""
    peer_mtu: int = 0

    @property
    def key(self) -> Key:
        return link_key(HOST, self.name)


class Vxlan(Object, frozen=True, tag="vxlan"):
    """A VXLAN device without learning: every neighbour and FDB entry is ours.

    Without an `underlay` its packets go by the routing table, each peer's by the interface that leads there; with one
    all leave by that (`dev` of `ip link`; vxlan_xmit_one in drivers/net/vxlan/vxlan_core.c). `gbp`: packets carry their
    mark along (Group Based Policy); a device without it drops those of one that does (vxlan_rcv).
    """

    FIXED: ClassVar[tuple[str, ...]] = ("vni", "port", "local", "underlay", "gbp")
    name: str
    vni: int
    port: int
    local: str
    underlay: str = ""
    mac: str = ""
    mtu: int = 0
    alias: str = ""
    gbp: bool = False

    @property
    def key(self) -> Key:
        return link_key(HOST, self.name)


class Vlan(Object, frozen=True, tag="vlan"):
    """An 802.1Q device on `parent`: where a bridge that filters VLANs has a gateway address in VLAN `vid`."""

    FIXED: ClassVar[tuple[str, ...]] = ("parent", "vid")
    name: str
    parent: str
    vid: int
    alias: str = ""

    @property
    def key(self) -> Key:
        return link_key(HOST, self.name)

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.parent)


class PodLink(Object, frozen=True, tag="podlink"):
    """The end of a veth pair that is in the pod, as CHECK finds it; made with its `Veth`, never by itself."""

    name: str
    mac: str = ""
    mtu: int = 0

    @property
    def key(self) -> Key:
        return link_key(POD, self.name)


LinkObject: TypeAlias = Bridge | Veth | Vxlan | Vlan | PodLink


class Up(Object, frozen=True, tag="up"):
    """The link is administratively up."""

    name: str
    ns: str = HOST

    @property
    def key(self) -> Key:
        return ("up", self.ns, self.name)

    @property
    def holder(self) -> Key | None:
        return link_key(self.ns, self.name)


class Port(Object, frozen=True, tag="port"):
    """The flags of a bridge port. `locked`: only source MACs with a static FDB entry may enter (Linux 5.18)."""

    name: str
    hairpin: bool = False
    isolated: bool = False
    locked: bool = False

    @property
    def key(self) -> Key:
        return ("port", HOST, self.name)

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.name)


class PortVlan(Object, frozen=True, tag="portvlan"):
    """VLANs `vid` to `last` on a bridge port, or on the bridge itself (`self_`); not `member`: it is in none."""

    name: str
    vid: int
    last: int = 0
    pvid: bool = False
    untagged: bool = False
    self_: bool = False
    member: bool = True

    @property
    def key(self) -> Key:
        return ("portvlan", HOST, self.name, str(self.vid), str(self.last or self.vid))

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.name)


class Fdb(Object, frozen=True, tag="fdb"):
    """A forwarding entry: `dst` is the VTEP behind a VXLAN device; without one it binds a MAC to a bridge port."""

    dev: str
    mac: str
    dst: str = ""
    vid: int = 0

    @property
    def key(self) -> Key:
        return ("fdb", HOST, self.dev, self.mac, str(self.vid))

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.dev)
