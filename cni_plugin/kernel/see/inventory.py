"""What a node has of its own and of ours: where its addresses are, where it sends what, which links bear our mark.

Nothing here is asked for at a key: these are what plans are made of, and what is found that nobody plans for any more.
"""

from __future__ import annotations

from collections.abc import Mapping

from cni_plugin.kernel.door import OwnLink, Uplink
from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.kinds import kind_of
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import family_of, network_of, packed
from cni_plugin.kernel.rtnl.assigned import addresses_at, local_address, prefix_of
from cni_plugin.kernel.rtnl.codec import Attr, Message, encode
from cni_plugin.kernel.rtnl.lookup import INFO, KIND, Lookup
from cni_plugin.kernel.rtnl.namespace import RTEXT_FILTER_SKIP_STATS, Namespace
from cni_plugin.kernel.rtnl.netlink import Refused
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE, IFF_UP, NTF_SELF, NUD_PERMANENT, RTN_UNICAST, SCOPE_LINK
from cni_plugin.kernel.rtnl.routes import Routes
from cni_plugin.marks import ALIAS
from cni_plugin.model.base import HOST, Object, State, state
from cni_plugin.model.layer3 import Neigh
from cni_plugin.model.links import Fdb, Tunnel

_ANYWHERE = ("192.0.0.8", "100::1")
"""The dummy address of RFC 7600 and one to be discarded (RFC 6666), which no network has: the way to them is the way
out. Nothing is sent there."""


def uplink(space: Namespace, address: str) -> Uplink | None:
    """The interface that bears this address, None when none does."""
    wire = packed(address)
    for each in addresses_at(space, family=family_of(address)):
        if packed(local_address(each)) == wire:
            return _uplink_at(space, each.field("index"))
    return None


def default_mtu(space: Namespace) -> int:
    """The MTU of the interface that leads away from here, by IPv4 if there is such a way; 0 without one."""
    for address in _ANYWHERE:
        family = family_of(address)
        bits = len(packed(address)) * 8
        request = encode(codec.RTM_GETROUTE, 0, {"family": family, "dst_len": bits}, [("RTA_DST", address)])
        try:
            route = space.netlink.ask(request)
        except Refused as refused:
            if refused.errno in PASSING:
                raise
            continue  # ENETUNREACH
        if route is None or route.field("type") != RTN_UNICAST:
            continue
        if link := space.link_at(route.number("RTA_OIF")):
            return link.number("IFLA_MTU")
    return 0


def interfaces(space: Namespace) -> Mapping[str, tuple[str, ...]]:
    """The links that bear addresses, and those with prefix lengths, link-local ones left out."""
    found: dict[int, list[str]] = {}
    for each in addresses_at(space):
        if each.field("scope") != SCOPE_LINK:
            found.setdefault(each.field("index"), []).append(prefix_of(each))
    return {space.name(index): tuple(found[index]) for index in sorted(found)}


def locally_held(space: Namespace) -> frozenset[str]:
    """All addresses, without prefix lengths."""
    return frozenset(map(local_address, addresses_at(space)))


def own_links(space: Namespace) -> tuple[OwnLink, ...]:
    """All links that bear our mark in their ifalias."""
    names: dict[int, str] = {}
    found: list[tuple[OwnLink, int]] = []
    for each in space.links():
        name, alias = each.text("IFLA_IFNAME"), each.text("IFLA_IFALIAS")
        names[each.link] = name
        if alias.startswith(ALIAS):
            up = bool(each.field("flags") & IFF_UP)
            found.append((OwnLink(name, alias, up=up), each.number("IFLA_MASTER")))
    return tuple(link._replace(master=names.get(master, "")) for link, master in found)


def ports(space: Namespace, bridge: int) -> int:
    """How many ports the bridge of this number has; the kernel picks them out of all (IFLA_MASTER, Linux 4.20)."""
    attrs: list[Attr] = [("IFLA_MASTER", bridge), ("IFLA_EXT_MASK", RTEXT_FILTER_SKIP_STATS)]
    return len(space.netlink.dump(encode(codec.RTM_GETLINK, 0, {"family": 0}, attrs)))


def rival(space: Namespace, device: Tunnel) -> str:
    """The link that has what a device of its kind alone can have, whoever made it; "" when none has."""
    kind, look = type(device), Lookup(space)
    names = [each.text("IFLA_IFNAME") for each in space.links() if each.text(INFO, KIND) == kind.MADE_BY]
    found = (kind_of(kind).read(kind(each), look) for each in names)
    return next((each.name for each in found if isinstance(each, kind) and device.rivals(each)), "")


def owned(space: Namespace, *devices: str) -> State:
    """All routes with our protocol number but those to pods, and all permanent entries of these tunnels' devices."""
    objects: list[Object] = [each for each in Routes(space, HOST).ours() if each.via or each.dev in devices]
    for device in devices:
        if index := space.index(device):
            objects += (_neigh(device, each) for each in _entries(space, 0, index) if _is_permanent(each))
            objects += (_fdb(device, each) for each in _entries(space, AF_BRIDGE, index) if _is_remote(each))
    return state(objects)


def _uplink_at(space: Namespace, index: int) -> Uplink | None:
    link = space.link_at(index)
    if link is None:
        return None
    networks = (
        network_of(local_address(each), each.field("prefixlen"))
        for each in addresses_at(space, index)
        if each.field("scope") != SCOPE_LINK
    )
    prefixes = tuple(dict.fromkeys(networks))
    return Uplink(link.text("IFLA_IFNAME"), link.number("IFLA_MTU"), prefixes)


def _entries(space: Namespace, family: int, index: int) -> list[Message]:
    attrs: list[Attr] = [("NDA_IFINDEX", index)]
    return space.netlink.dump(encode(codec.RTM_GETNEIGH, 0, {"family": family}, attrs))


def _is_permanent(message: Message) -> bool:
    return bool(message.field("state") & NUD_PERMANENT)


def _is_remote(message: Message) -> bool:
    return bool(message.field("flags") & NTF_SELF and message.text("NDA_DST"))


def _neigh(device: str, message: Message) -> Neigh:
    return Neigh(device, message.text("NDA_DST"), message.text("NDA_LLADDR"))


def _fdb(device: str, message: Message) -> Fdb:
    return Fdb(device, message.text("NDA_LLADDR"), message.text("NDA_DST"))
