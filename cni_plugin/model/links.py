"""Links, and what a link is told about itself and its ports: the language of `ip link` and `bridge`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from cni_plugin.marks import ALIAS
from cni_plugin.model.base import HOST, POD, Key, Object, Verb, link_key
from cni_plugin.model.words import ip, on, pairs


class Link(Object, frozen=True):
    """A link of any kind. `GROUPED`: many go at a time, so they are deleted as one group (`kernel.rtnl.remover`)."""

    HOLDS: ClassVar[bool] = True
    GROUPED: ClassVar[bool] = False
    name: str

    @property
    def key(self) -> Key:
        return link_key(self.where, self.name)

    @property
    def replaces(self) -> bool:
        return False


class Bridge(Link, frozen=True, tag="bridge"):
    """A Linux bridge. `pinned`: its MAC was set and so no longer follows its ports' (net/bridge/br_stp_if.c)."""

    RANK: ClassVar[int] = 100
    MADE_BY: ClassVar[str] = "bridge"
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    vlan_filtering: bool = False
    pinned: bool = True
    promisc: bool = False

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return _deletion(self.name)
        common = pairs(("address", self.mac), ("mtu", self.mtu))
        promisc = " promisc on" if self.promisc else ""
        if verb == "change":
            alias = pairs(("alias", self.alias))
            filtering = int(self.vlan_filtering)
            return f"ip link set {self.name}{common}{promisc}{alias} type bridge vlan_filtering {filtering}"
        vlans = " vlan_filtering 1" if self.vlan_filtering else ""
        return f"ip link add {self.name}{common} type bridge{vlans}" + (
            f" && ip link set {self.name}{promisc}" if promisc else ""
        )


class Veth(Link, frozen=True, tag="veth"):
    """A pair made at once: `name` on the host, up in `master`; `peer` in the pod, down; `peer_mtu` where it differs."""

    RANK: ClassVar[int] = 120
    MADE_BY: ClassVar[str] = "veth"
    FIXED: ClassVar[tuple[str, ...]] = ("peer",)
    GROUPED: ClassVar[bool] = True
    master: str = ""
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    peer: str = ""
    peer_mac: str = ""
    peer_mtu: int = 0

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(HOST, self.master),) if self.master else ()

    @property
    def along(self) -> tuple[Object, ...]:
        return (PodLink(self.peer, mac=self.peer_mac, mtu=self.peer_mtu or self.mtu),) if self.peer else ()

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return _deletion(self.name)
        common = pairs(("master", self.master), ("address", self.mac), ("mtu", self.mtu))
        if verb == "change":
            return f"ip link set {self.name}{common}" + (f" alias '{self.alias}'" if self.alias else "")
        peer = pairs(("address", self.peer_mac), ("mtu", self.peer_mtu or self.mtu))
        alias = f" && ip link set {self.name} alias '{self.alias}'" if self.alias else ""
        return f"ip link add {self.name} up{common} type veth peer {self.peer} netns POD{peer}{alias}"


class Tunnel(Link, frozen=True, kw_only=True):
    """A link that leads to other nodes, with something around their packets; one of ours bears the mark of its kind.

    Each field but the name has a default: `kind(name)` is one of which no more is known. `UNIQUE`: the field that no
    two on a node can have alike, "" where there is none.
    """

    UNIQUE: ClassVar[str] = ""
    mtu: int = 0
    alias: str = ""

    @classmethod
    def mark(cls) -> str:
        """The ifalias."""
        return f"{ALIAS}{cls.MADE_BY}"

    def rivals(self, other: Tunnel) -> bool:
        """Whether another one of its kind has what only one can have."""
        return bool(self.UNIQUE) and getattr(self, self.UNIQUE) == getattr(other, self.UNIQUE)


class Vxlan(Tunnel, frozen=True, tag="vxlan"):
    """A VXLAN device without learning: every neighbour and FDB entry is ours.

    Without an `underlay` its packets go by the routing table, each peer's by the interface that leads there; with one
    all leave by that (`dev` of `ip link`; vxlan_xmit_one in drivers/net/vxlan/vxlan_core.c). `gbp`: packets carry their
    mark along (Group Based Policy); a device without it drops those of one that does (vxlan_rcv).
    """

    RANK: ClassVar[int] = 110
    MADE_BY: ClassVar[str] = "vxlan"
    FIXED: ClassVar[tuple[str, ...]] = ("vni", "port", "local", "underlay", "gbp")
    UNIQUE: ClassVar[str] = "vni"
    vni: int = 0
    port: int = 0
    local: str = ""
    underlay: str = ""
    mac: str = ""
    gbp: bool = False

    @property
    def needs(self) -> tuple[Key, ...]:
        return (link_key(HOST, self.underlay),) if self.underlay else ()

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return _deletion(self.name)
        common = pairs(("address", self.mac), ("mtu", self.mtu))
        if verb == "change":
            return f"ip link set {self.name}{common}"
        bound = pairs(("dev", self.underlay))
        return (
            f"ip link add {self.name}{common} type vxlan id {self.vni} local {self.local}{bound} dstport {self.port} "
            f"nolearning{' gbp' if self.gbp else ''}"
        )


class Vlan(Link, frozen=True, tag="vlan"):
    """An 802.1Q device on `parent`: where a bridge that filters VLANs has a gateway address in VLAN `vid`."""

    RANK: ClassVar[int] = 130
    MADE_BY: ClassVar[str] = "vlan"
    FIXED: ClassVar[tuple[str, ...]] = ("parent", "vid")
    parent: str
    vid: int
    alias: str = ""

    @property
    def holder(self) -> Key | None:
        return link_key(HOST, self.parent)

    def words(self, verb: Verb) -> str:
        if verb == "delete":
            return _deletion(self.name)
        return f"ip link add link {self.parent} name {self.name} type vlan id {self.vid}"


class PodLink(Link, frozen=True, tag="podlink"):
    """The end of a veth pair that is in the pod, as CHECK finds it; made with its `Veth`, never by itself."""

    RANK: ClassVar[int] = 140
    COMES_ALONG: ClassVar[bool] = True
    mac: str = ""
    mtu: int = 0

    @property
    def where(self) -> str:
        return POD

    @property
    def replaces(self) -> bool:
        return True

    def words(self, verb: Verb) -> str:
        if verb == "create":
            return f"# {self.name} in POD comes with its veth"
        return f"ip -n POD link set {self.name}" + pairs(("address", self.mac), ("mtu", self.mtu))


class Up(Object, frozen=True, tag="up"):
    """The link is administratively up."""

    RANK: ClassVar[int] = 240
    name: str
    ns: str = HOST

    @property
    def key(self) -> Key:
        return ("up", self.ns, self.name)

    @property
    def holder(self) -> Key | None:
        return link_key(self.ns, self.name)

    def words(self, verb: Verb) -> str:
        return f"{ip(self.ns)} link set {self.name} {'down' if verb == 'delete' else 'up'}"


class Port(Object, frozen=True, tag="port"):
    """The flags of a bridge port. `locked`: only source MACs with a static FDB entry may enter (Linux 5.18)."""

    RANK: ClassVar[int] = 220
    OF_PORT: ClassVar[bool] = True
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

    def words(self, verb: Verb) -> str:
        flags = Port(self.name) if verb == "delete" else self
        return (
            f"bridge link set dev {self.name} hairpin {on(flags.hairpin)} "
            f"isolated {on(flags.isolated)} locked {on(flags.locked)}"
        )


class PortVlan(Object, frozen=True, tag="portvlan"):
    """VLANs `vid` to `last` on a bridge port, or on the bridge itself (`self_`); not `member`: it is in none."""

    RANK: ClassVar[int] = 230
    OF_PORT: ClassVar[bool] = True
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

    @property
    def absent(self) -> bool:
        return not self.member

    def words(self, verb: Verb) -> str:
        vids = f"{self.vid}-{self.last}" if self.last else f"{self.vid}"
        flags = (" pvid" if self.pvid else "") + (" untagged" if self.untagged else "")
        word = "del" if (verb == "delete") == self.member else "add"
        return f"bridge vlan {word} dev {self.name} vid {vids}{flags}{' self' if self.self_ else ''}"

    def found_in(self, state: Mapping[Key, Object]) -> Object | None:
        have = state.get(self.key)
        return self if have is None and self.absent and self.holder in state else have


class Fdb(Object, frozen=True, tag="fdb"):
    """A forwarding entry: `dst` is the VTEP behind a tunnel's device; without one it binds a MAC to a bridge port."""

    RANK: ClassVar[int] = 320
    OF_PORT: ClassVar[bool] = True
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

    def words(self, verb: Verb) -> str:
        word = "del" if verb == "delete" else "replace"
        way = f"dst {self.dst} self permanent" if self.dst else "master static"
        return f"bridge fdb {word} {self.mac} dev {self.dev} {way}{pairs(('vlan', self.vid))}"


def _deletion(name: str) -> str:
    return f"ip link del {name}"
