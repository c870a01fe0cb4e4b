"""What Tulle may make in a kernel, as frozen values.

A desired network is a `State`: a mapping from each object's key to the object. Pure code computes states,
`diff` compares two of them, and the kernel package makes one true. Nothing here has an effect, and nothing
here knows where a value came from; that is what lets the same values be planned, printed, compared, rolled
back and stored.

An object lives in a namespace: `HOST` (the node) or `POD` (the sandbox of the request at hand). In a wanted
object an empty string or a zero means "whatever the kernel has"; a bool always means what it says.

    Veth("tl0123456789a", master="tulle0", peer="eth0")   ip link add tl0123456789a master tulle0 type veth peer eth0
    Addr("eth0", "10.22.0.2/16", ns=POD)                  ip -n POD addr add 10.22.0.2/16 dev eth0
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, NamedTuple, TypeAlias

import msgspec

HOST = ""
POD = "pod"

BOOT_PROTOCOL = 3
"""RTPROT_BOOT, what `ip route add` marks routes with; a pod's routes bear it, for they go with the pod."""

ROUTE_PROTOCOL = 84
"""The mark of our routes (`proto 84` in `ip route`): what bears another is never touched."""

ALIAS_MARK = "tulle:"
"""What the ifalias of a link of ours begins with."""

MAIN_TABLE = 254
"""RT_TABLE_MAIN, include/uapi/linux/rtnetlink.h."""

Key: TypeAlias = tuple[str, ...]


class Way(NamedTuple):
    """How this node's kernel sends to an address: by `dev`, from `source`, to the router `via`, "" without one.

    `mtu` in bytes: that of the interface, or of the route where it is less. `own`: the interface bears our mark;
    `guests`: it is a bridge without a wire, on which are but containers and virtual machines of this node. Not to be
    made, but what plans are made of.
    """

    dev: str
    mtu: int
    source: str = ""
    via: str = ""
    own: bool = False
    guests: bool = False


class Object(msgspec.Struct, frozen=True, tag_field="object"):
    """Anything that can be wanted of a kernel. `FIXED` names the fields that only a new object can change."""

    FIXED: ClassVar[tuple[str, ...]] = ()

    @property
    def key(self) -> Key:
        """What makes this object itself: two objects of one key are two states of the same thing."""
        raise NotImplementedError

    @property
    def holder(self) -> Key | None:
        """The key of the link whose removal takes this object along."""
        return None


def _link(ns: str, name: str) -> Key:
    return ("link", ns, name)


def _set(name: str) -> Key:
    return ("set", HOST, name)


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
        return _link(HOST, self.name)


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
        return _link(HOST, self.name)


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
        return _link(HOST, self.name)


class Vlan(Object, frozen=True, tag="vlan"):
    """An 802.1Q device on `parent`: where a bridge that filters VLANs has a gateway address in VLAN `vid`."""

    FIXED: ClassVar[tuple[str, ...]] = ("parent", "vid")
    name: str
    parent: str
    vid: int
    alias: str = ""

    @property
    def key(self) -> Key:
        return _link(HOST, self.name)

    @property
    def holder(self) -> Key | None:
        return _link(HOST, self.parent)


class PodLink(Object, frozen=True, tag="podlink"):
    """The end of a veth pair that is in the pod, as CHECK finds it; made with its `Veth`, never by itself."""

    name: str
    mac: str = ""
    mtu: int = 0

    @property
    def key(self) -> Key:
        return _link(POD, self.name)


class Up(Object, frozen=True, tag="up"):
    """The link is administratively up."""

    name: str
    ns: str = HOST

    @property
    def key(self) -> Key:
        return ("up", self.ns, self.name)

    @property
    def holder(self) -> Key | None:
        return _link(self.ns, self.name)


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
        return _link(HOST, self.name)


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
        return _link(HOST, self.name)


class Sysctl(Object, frozen=True, tag="sysctl"):
    """A value below /proc/sys. `dev` is the link whose removal takes the key along, if there is one."""

    VITAL: ClassVar[tuple[str, ...]] = ("/ip_forward", "/forwarding", "/disable_ipv6")

    name: str
    value: str
    ns: str = HOST
    dev: str = ""

    @property
    def key(self) -> Key:
        return ("sysctl", self.ns, self.name)

    @property
    def vital(self) -> bool:
        """Whether pods get no packets without it; all else makes things surer or quicker and may stay as it is."""
        return self.name.endswith(self.VITAL)

    @property
    def holder(self) -> Key | None:
        return _link(self.ns, self.dev) if self.dev else None


class Feature(Object, frozen=True, tag="feature"):
    """Transmit checksum offload of a link, as `ethtool -K dev tx on|off` sets it."""

    dev: str
    tx_checksum: bool

    @property
    def key(self) -> Key:
        return ("feature", HOST, self.dev)

    @property
    def holder(self) -> Key | None:
        return _link(HOST, self.dev)


class Addr(Object, frozen=True, tag="addr"):
    """An address with its prefix length on a link. `dad`: IPv6 duplicate address detection is wanted."""

    FIXED: ClassVar[tuple[str, ...]] = ("dad",)
    dev: str
    address: str
    ns: str = HOST
    dad: bool = False

    @property
    def key(self) -> Key:
        return ("addr", self.ns, self.dev, self.address)

    @property
    def holder(self) -> Key | None:
        return _link(self.ns, self.dev)


class Route(Object, frozen=True, tag="route"):
    """A unicast route. `via` may be of the other family (RFC 5549); `scope` is rtnetlink's number, -1 the kernel's.

    Wanted in table 0 of a pod it may stand in any: a chained plugin may have moved it (source based routing does).
    To lead over another link it is made anew: an IPv6 gateway that is on-link there must not be reachable by the old
    route while the new one is checked (net/ipv6/route.c, ip6_route_check_nh_onlink).
    """

    FIXED: ClassVar[tuple[str, ...]] = ("dev",)
    dst: str
    dev: str
    via: str = ""
    ns: str = HOST
    src: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int = MAIN_TABLE
    scope: int = -1
    protocol: int = ROUTE_PROTOCOL
    onlink: bool = False

    @property
    def key(self) -> Key:
        return ("route", self.ns, str(self.table), self.dst, str(self.priority), self.gateway_key)

    @property
    def gateway_key(self) -> str:
        """In a pod several routes to one destination may stand side by side (ECMP); on the host one is ours."""
        return f"{self.via}%{self.dev}" if self.ns == POD else ""

    @property
    def holder(self) -> Key | None:
        return _link(self.ns, self.dev)


class Neigh(Object, frozen=True, tag="neigh"):
    """A neighbour entry: permanent for a VTEP; `learned` is one the kernel found, which is only ever forgotten."""

    dev: str
    address: str
    mac: str = ""
    learned: bool = False

    @property
    def key(self) -> Key:
        return ("neigh", HOST, self.dev, self.address)

    @property
    def holder(self) -> Key | None:
        return _link(HOST, self.dev)


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
        return _link(HOST, self.dev)


class Chain(Object, frozen=True, tag="chain"):
    """A base chain of table `inet tulle`, whole: `hook` is its declaration, each rule a line of the nft language.

    The kernel does not give rules back as they were written, so each is followed by a comment with a digest
    of its text (`plan.masquerade`); two chains are equal when hook and rules are.
    """

    name: str
    hook: str
    rules: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        return ("chain", HOST, self.name)


class Set(Object, frozen=True, tag="set"):
    """A named set of table `inet tulle`, of a type in nft's words. What is in it are objects of their own."""

    FIXED: ClassVar[tuple[str, ...]] = ("type",)
    name: str
    type: str

    @property
    def key(self) -> Key:
        return _set(self.name)


class Element(Object, frozen=True, tag="element"):
    """One value in a set: it comes and goes alone, however many others there are. Several may want the same."""

    set: str
    value: str

    @property
    def key(self) -> Key:
        return ("element", HOST, self.set, self.value)

    @property
    def holder(self) -> Key | None:
        return _set(self.set)


LinkObject: TypeAlias = Bridge | Veth | Vxlan | Vlan | PodLink
AnyObject: TypeAlias = (
    LinkObject | Up | Port | PortVlan | Sysctl | Feature | Addr | Route | Neigh | Fdb | Chain | Set | Element
)
NftObject: TypeAlias = Chain | Set | Element
State: TypeAlias = dict[Key, AnyObject]


def ipv6_settings(dev: str, ns: str = HOST) -> tuple[Sysctl, ...]:
    """What a link needs to take IPv6 addresses where IPv6 is off for new links, and to keep them while it is down.

    docker and others switch it off in each sandbox (net.ipv6.conf.default.disable_ipv6); a link that goes down loses
    its IPv6 addresses, unlike its IPv4 ones (addrconf_ifdown in net/ipv6/addrconf.c).
    """
    wanted = (("disable_ipv6", "0"), ("keep_addr_on_down", "1"))
    return tuple(Sysctl(f"net/ipv6/conf/{dev}/{key}", value, ns, dev) for key, value in wanted)


def state(objects: Iterable[AnyObject]) -> State:
    """The state that holds just these objects; a later one of the same key wins."""
    return {each.key: each for each in objects}
