"""What stands in the kernel, as the objects of the model, at the keys that somebody asks about.

One look-up a link serves everything that is wanted of that link; lists are filtered by the kernel (strict checking,
Linux 4.20). Where the kernel tells the same thing in other words (another spelling of an address, its own default
metric) the object comes back as it was wanted, so that comparing the two finds differences and nothing else.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from cni_plugin.diff import Op
from cni_plugin.kernel.errors import PASSING, KernelError
from cni_plugin.kernel.host.knobs import out_of_reach, read_feature, read_line
from cni_plugin.kernel.nft.nft import Nft, NftError
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import family_of, packed
from cni_plugin.kernel.rtnl.assigned import addresses_on, local_address
from cni_plugin.kernel.rtnl.codec import Attr, Message, encode
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import (
    AF_BRIDGE,
    IFA_F_DADFAILED,
    IFA_F_TENTATIVE,
    IFF_PROMISC,
    IFF_UP,
    NTF_MASTER,
    NTF_SELF,
    NUD_PERMANENT,
)
from cni_plugin.kernel.rtnl.routes import Routes
from cni_plugin.kernel.rtnl.settings import link_of
from cni_plugin.model.base import HOST, POD, Object, State, state
from cni_plugin.model.host import Feature, Sysctl
from cni_plugin.model.layer3 import Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan
from cni_plugin.model.nft import Chain, Element, NftObject, Set

_ADDR_SET = "3"
"""NET_ADDR_SET: the MAC was set by somebody, include/uapi/linux/netdevice.h."""
_VLAN_PVID, _VLAN_UNTAGGED = 2, 4
_INFO, _DATA, _SLAVE = "IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_INFO_SLAVE_DATA"


class Reader:
    """One call of `read`. What was looked up once is not looked up again."""

    def __init__(self, host: Namespace, pod: Namespace | None, nft: Nft) -> None:
        self._spaces = {HOST: host} if pod is None else {HOST: host, POD: pod}
        self._nft = nft
        self._links: dict[tuple[str, str], Message | None] = {}
        self._addresses: dict[tuple[str, str], list[Message]] = {}
        self._vlans: dict[str, dict[int, int]] = {}
        self._routes = {ns: Routes(space, ns) for ns, space in self._spaces.items()}

    def read(self, wanted: Iterable[Object]) -> State:
        """Those of the wanted that are there, as they are. Raises KernelError where something else bears the name."""
        return state(found for each in wanted if (found := self._one(each)) is not None)

    def _one(self, want: Object) -> Object | None:
        ns = POD if isinstance(want, PodLink) else getattr(want, "ns", HOST)
        if ns not in self._spaces:
            return None
        found: Object | None = _READERS[type(want).__name__](self, want)
        return found

    def _link(self, ns: str, name: str) -> Message | None:
        key = (ns, name)
        if key not in self._links:
            self._links[key] = self._spaces[ns].link(name)
        return self._links[key]

    def _link_of_kind(self, want: Bridge | Veth | Vxlan | Vlan, kind: str) -> Message | None:
        link = self._link(HOST, want.name)
        have = link.text(_INFO, "IFLA_INFO_KIND") if link else kind
        if have != kind:
            reason = f"a link of that name exists already and is no {kind} ({have or 'hardware or loopback'})"
            raise KernelError(Op("create", want), errno.EEXIST, (), reason)
        return link

    def _bridge(self, want: Bridge) -> Bridge | None:
        link = self._link_of_kind(want, "bridge")
        if link is None:
            return None
        return Bridge(
            want.name,
            mtu=link.number("IFLA_MTU"),
            mac=link.text("IFLA_ADDRESS"),
            alias=link.text("IFLA_IFALIAS"),
            vlan_filtering=bool(link.number(_INFO, _DATA, "IFLA_BR_VLAN_FILTERING")),
            pinned=_pinned(link, want),
            promisc=bool(link.field("flags") & IFF_PROMISC),
        )

    def _veth(self, want: Veth) -> Veth | None:
        link = self._link_of_kind(want, "veth")
        if link is None:
            return None
        peer, peer_mac, peer_mtu = self._peer(want, link)
        return Veth(
            want.name,
            master=self._name(link.number("IFLA_MASTER")),
            mtu=link.number("IFLA_MTU"),
            mac=link.text("IFLA_ADDRESS"),
            alias=link.text("IFLA_IFALIAS"),
            peer=peer,
            peer_mac=peer_mac,
            peer_mtu=peer_mtu,
        )

    def _peer(self, want: Veth, link: Message) -> tuple[str, str, int]:
        """The other end, when the pod that we are in has it; without a pod it is taken to be as wanted."""
        pod = self._spaces.get(POD)
        if pod is None:
            return want.peer, want.peer_mac, want.peer_mtu
        peer = self._link(POD, want.peer) if want.peer else None
        if peer is None or peer.link != link.number("IFLA_LINK"):
            peer = pod.link_at(link.number("IFLA_LINK"))
        if peer is None or peer.number("IFLA_LINK") != link.link:
            return "", "", 0
        mtu = peer.number("IFLA_MTU")
        other = mtu if mtu != link.number("IFLA_MTU") else 0
        return peer.text("IFLA_IFNAME"), peer.text("IFLA_ADDRESS"), other

    def _vxlan(self, want: Vxlan) -> Vxlan | None:
        link = self._link_of_kind(want, "vxlan")
        if link is None:
            return None
        return Vxlan(
            want.name,
            vni=link.number(_INFO, _DATA, "IFLA_VXLAN_ID"),
            port=link.number(_INFO, _DATA, "IFLA_VXLAN_PORT"),
            local=link.text(_INFO, _DATA, "IFLA_VXLAN_LOCAL") or link.text(_INFO, _DATA, "IFLA_VXLAN_LOCAL6"),
            underlay=self._name(link.number(_INFO, _DATA, "IFLA_VXLAN_LINK")),
            mac=link.text("IFLA_ADDRESS"),
            mtu=link.number("IFLA_MTU"),
            alias=link.text("IFLA_IFALIAS"),
            gbp=bool(link.number(_INFO, _DATA, "IFLA_VXLAN_GBP")),
        )

    def _vlan(self, want: Vlan) -> Vlan | None:
        link = self._link_of_kind(want, "vlan")
        if link is None:
            return None
        parent, vid = self._name(link.number("IFLA_LINK")), link.number(_INFO, _DATA, "IFLA_VLAN_ID")
        return Vlan(want.name, parent, vid, alias=link.text("IFLA_IFALIAS"))

    def _podlink(self, want: PodLink) -> PodLink | None:
        link = self._link(POD, want.name)
        if link is None:
            return None
        return PodLink(want.name, mac=link.text("IFLA_ADDRESS"), mtu=link.number("IFLA_MTU"))

    def _up(self, want: Up) -> Up | None:
        link = self._link(want.ns, want.name)
        return want if link is not None and link.field("flags") & IFF_UP else None

    def _port(self, want: Port) -> Port | None:
        link = self._link(HOST, want.name)
        if link is None or link.text(_INFO, "IFLA_INFO_SLAVE_KIND") != "bridge":
            return None
        return Port(
            want.name,
            hairpin=bool(link.number(_INFO, _SLAVE, "IFLA_BRPORT_MODE")),
            isolated=bool(link.number(_INFO, _SLAVE, "IFLA_BRPORT_ISOLATED")),
            locked=bool(link.number(_INFO, _SLAVE, "IFLA_BRPORT_LOCKED")),
        )

    def _portvlan(self, want: PortVlan) -> PortVlan | None:
        if want.name not in self._vlans:
            self._vlans[want.name] = self._vlans_of(want.name)
        have = self._vlans[want.name]
        span = range(want.vid, max(want.last, want.vid) + 1)
        flags = have.get(want.vid)
        if not want.member:
            there = any(vid in have for vid in span)
            return PortVlan(want.name, want.vid, want.last, self_=want.self_, member=there)
        if flags is None or any(vid not in have for vid in span):
            return None
        pvid, untagged = bool(flags & _VLAN_PVID), bool(flags & _VLAN_UNTAGGED)
        return PortVlan(want.name, want.vid, want.last, pvid=pvid, untagged=untagged, self_=want.self_)

    def _vlans_of(self, name: str) -> dict[int, int]:
        """The VLANs of a port with their flags (RTM_GETVLAN filters by device, Linux 5.6)."""
        space = self._spaces[HOST]
        index = space.index(name)
        if not index:
            return {}
        try:
            messages = space.netlink.dump(encode(codec.RTM_GETVLAN, 0, {"family": AF_BRIDGE, "ifindex": index}))
        except Refused as refused:
            if refused.errno in PASSING:
                raise
            return {}  # no bridge port, or a kernel that was built without VLAN filtering: there are none
        found: dict[int, int] = {}
        for message in messages:
            for entry in message.parts("BRIDGE_VLANDB_ENTRY"):
                vid = entry.number("BRIDGE_VLANDB_ENTRY_INFO", "vid")
                last = entry.number("BRIDGE_VLANDB_ENTRY_RANGE", default=vid)
                flags = entry.number("BRIDGE_VLANDB_ENTRY_INFO", "flags")
                found.update(dict.fromkeys(range(vid, last + 1), flags))
        return found

    def _sysctl(self, want: Sysctl) -> Sysctl | None:
        """What cannot be had and need not be is as it should be: there is nothing to put right."""
        space, dev = self._spaces[want.ns], link_of(want)
        if dev and self._link(want.ns, dev) is None:
            return None
        value = space.sysctl(want)
        if value != want.value and not want.vital:
            with space.inside():
                value = want.value if out_of_reach(want) else value
        return None if value is None else Sysctl(want.name, value, want.ns, want.dev)

    def _feature(self, want: Feature) -> Feature | None:
        return read_feature(want)

    def _addr(self, want: Addr) -> Addr | None:
        key = (want.ns, want.dev)
        if key not in self._addresses:
            self._addresses[key] = addresses_on(self._spaces[want.ns], want.dev)
        address, length = want.address.split("/")
        for message in self._addresses[key]:
            if message.field("prefixlen") == int(length) and same_address(local_address(message), address):
                # a wanted "no DAD" is not what stands when the address is not usable for it
                waiting = bool(message.number("IFA_FLAGS") & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
                return Addr(want.dev, want.address, want.ns, dad=want.dad or waiting)
        return None

    def _route(self, want: Route) -> Route | None:
        return self._routes[want.ns].find(want)

    def _neigh(self, want: Neigh) -> Neigh | None:
        fields = {"family": family_of(want.address), "ifindex": self._spaces[HOST].index(want.dev)}
        found = self._neighbour(fields, [("NDA_DST", want.address)])
        if found is None:
            return None
        learned = not found.field("state") & NUD_PERMANENT
        return Neigh(want.dev, want.address, found.text("NDA_LLADDR"), learned=learned)

    def _fdb(self, want: Fdb) -> Fdb | None:
        side = NTF_SELF if want.dst else NTF_MASTER
        fields = {"family": AF_BRIDGE, "ifindex": self._spaces[HOST].index(want.dev), "flags": side}
        vlan: list[Attr] = [("NDA_VLAN", want.vid)] if want.vid else []
        found = self._neighbour(fields, [("NDA_LLADDR", want.mac), *vlan])
        return None if found is None else Fdb(want.dev, want.mac, found.text("NDA_DST"), want.vid)

    def _neighbour(self, fields: dict[str, int], attrs: list[Attr]) -> Message | None:
        if not fields["ifindex"]:
            return None
        return self._spaces[HOST].netlink.ask(encode(codec.RTM_GETNEIGH, 0, fields, attrs))

    def _nftables(self, want: NftObject) -> NftObject | None:
        try:
            if isinstance(want, Chain):
                return self._nft.read(want)
            if isinstance(want, Set):
                return self._nft.read_set(want.name)
            if isinstance(want, Element):
                return want if want.value in self._nft.elements(want.set) else None
            raise TypeError(f"{want!r} is nothing of nft's")
        except NftError as error:
            raise KernelError(Op("create", want), error.errno, (), str(error)) from error

    def _name(self, index: int) -> str:
        return self._spaces[HOST].name(index)


def elements_of(nft: Nft, name: str) -> frozenset[str]:
    """What is in a set, nothing without it. Raises KernelError."""
    try:
        return nft.elements(name)
    except NftError as error:
        raise KernelError(Op("create", Set(name, "")), error.errno, (), str(error)) from error


def same_address(one: str, other: str) -> bool:
    """Whether two spellings are one address; the kernel's are already in the shortest form."""
    return one == other or packed(one) == packed(other)


def _pinned(link: Message, want: Bridge) -> bool:
    """Whether the bridge keeps its MAC. One that bears our alias is one that we gave a MAC; of others sysfs tells,

    netlink does not; but sysfs shows the namespace that it was mounted in, which may not be ours.
    """
    if want.alias and link.text("IFLA_IFALIAS") == want.alias:
        return True
    index, mac, assigned = (_sysfs(want.name, file) for file in ("ifindex", "address", "addr_assign_type"))
    return index == str(link.link) and mac == link.text("IFLA_ADDRESS") and assigned == _ADDR_SET


def _sysfs(link: str, file: str) -> str:
    try:
        return read_line(f"/sys/class/net/{link}/{file}")
    except OSError:
        return ""


_READERS: dict[str, Callable[[Reader, Any], Any]] = {
    "Bridge": Reader._bridge,
    "Veth": Reader._veth,
    "Vxlan": Reader._vxlan,
    "Vlan": Reader._vlan,
    "PodLink": Reader._podlink,
    "Up": Reader._up,
    "Port": Reader._port,
    "PortVlan": Reader._portvlan,
    "Sysctl": Reader._sysctl,
    "Feature": Reader._feature,
    "Addr": Reader._addr,
    "Route": Reader._route,
    "Neigh": Reader._neigh,
    "Fdb": Reader._fdb,
    "Chain": Reader._nftables,
    "Set": Reader._nftables,
    "Element": Reader._nftables,
}
