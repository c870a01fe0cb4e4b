"""Operations as rtnetlink requests: what each object is to the kernel.

Pure but for one question: the numbers of the links that an operation names. Promise: a request of ours never changes
what another program made: created is with NLM_F_EXCL, except where the device is ours alone (the neighbours and
the forwarding entries of a VXLAN device, static entries of our bridge ports) or where several may stand side by side.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import codec
from cni_plugin.kernel.rtnl.addresses import broadcast_of, family_of, random_mac
from cni_plugin.kernel.rtnl.codec import Attr, nest
from cni_plugin.kernel.rtnl.numbers import AF_BRIDGE, IFF_PROMISC, IFF_UP, NTF_MASTER, NTF_SELF, NUD_PERMANENT
from cni_plugin.kernel.rtnl.settings import INET_CONF
from cni_plugin.model.base import POD, Verb
from cni_plugin.model.host import Sysctl
from cni_plugin.model.layer3 import MAIN_TABLE, Addr, Neigh, Route
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan, Vxlan

_NEW = codec.NLM_F_CREATE | codec.NLM_F_EXCL
_PUT = codec.NLM_F_CREATE | codec.NLM_F_REPLACE
_IFA_F_NODAD = 0x02
_NUD_NOARP = 0x40
_RTN_UNICAST = 1
_RTNH_F_ONLINK = 4
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_NOWHERE = 0, 253, 255
_TABLE_COMPAT = 252
_BRIDGE_FLAGS_MASTER, _BRIDGE_FLAGS_SELF = 1, 2
_VLAN_PVID, _VLAN_UNTAGGED, _VLAN_RANGE_BEGIN, _VLAN_RANGE_END = 2, 4, 8, 16

_NLA_F_NESTED = 0x8000
_IFLA_AF_SPEC, _IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE = 26, 1, 8
_BY_NETLINK = ("rp_filter", "arp_notify")
"""Of a link's IPv4 settings, those that nothing else in the kernel has to hear of: a message sets the number alone."""

GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO})
"""What the kernel says when that which is to be deleted is not there."""
_NO_IPV6 = GONE | {errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
"""What it says about IPv6 where there is none (ipv6.disable=1): then there is nothing to set and nothing to delete."""
_NO_VLANS = GONE | {errno.EOPNOTSUPP, errno.EINVAL}
"""What it says about a VLAN of a link that is no bridge port, or when it was built without VLAN filtering."""


class Absent(Exception):
    """The operation names a link that does not exist."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"there is no link {name}")


class Place(NamedTuple):
    """Where an operation takes place: the number of a link by name (0: none), the descriptor of the pod's netns."""

    number: Callable[[str], int]
    pod: int | None

    def must(self, name: str) -> int:
        """The number of a link that has to be there. Raises Absent."""
        index = self.number(name)
        if not index:
            raise Absent(name)
        return index


def requests(op: Op, place: Place) -> list[bytearray]:
    """The requests that carry this operation out, in order. Raises Absent."""
    return list(_WRITERS[type(op.object).__name__](op, op.object, place))


def replacement(route: Route, place: Place) -> list[bytearray]:
    """The creation of a route of ours once more, this time instead of the one that stands. Raises Absent."""
    return list(_route(Op("change", route), route, place))


def by_netlink(each: Sysctl) -> bool:
    """Whether a sysctl can be set by a message, which costs less than a file; and looking a file up below /proc/sys/net

    takes longer with every namespace in which somebody did (fs/proc/proc_sysctl.c, proc_sys_compare).
    """
    if each.name == f"net/ipv6/conf/{each.dev}/addr_gen_mode":
        return True
    return each.name in {f"net/ipv4/conf/{each.dev}/{key}" for key in _BY_NETLINK}


def _sysctl(op: Op, each: Sysctl, _place: Place) -> Iterator[bytearray]:
    """A setting of a link: inet_set_link_af in net/ipv4/devinet.c, inet6_set_link_af in net/ipv6/addrconf.c."""
    if op.verb == "delete":
        return
    if each.name.startswith("net/ipv4/"):
        value = struct.pack("=HHI", 8, INET_CONF[each.name.rpartition("/")[2]], int(each.value))
        spec = _nested(socket.AF_INET, _nested(_IFLA_INET_CONF, value))
    else:
        spec = _nested(socket.AF_INET6, struct.pack("=HHBxxx", 5, _IFLA_INET6_ADDR_GEN_MODE, int(each.value)))
    message = codec.encode(codec.RTM_SETLINK, 0, {"family": 0, "index": 0}, [("IFLA_IFNAME", each.dev)])
    message += _nested(_IFLA_AF_SPEC, spec)
    struct.pack_into("=I", message, 0, len(message))
    yield message


def _nested(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind | _NLA_F_NESTED) + content


def grouping(name: str, group: int) -> bytearray:
    """The request that puts a link into a group of links."""
    fields = {"family": 0, "index": 0}
    return codec.encode(codec.RTM_SETLINK, 0, fields, [("IFLA_IFNAME", name), ("IFLA_GROUP", group)])


def deletion_at(index: int) -> bytearray:
    """The request that deletes the link of this number."""
    return codec.encode(codec.RTM_DELLINK, 0, {"family": 0, "index": index})


def group_deletion(group: int) -> bytearray:
    """The request that deletes all links of a group."""
    return codec.encode(codec.RTM_DELLINK, 0, {"family": 0, "index": 0}, [("IFLA_GROUP", group)])


def adds(verb: Verb, each: object) -> bool:
    """Whether the operation puts something there; wanting no membership of a VLAN takes one away."""
    return (verb != "delete") == (not isinstance(each, PortVlan) or each.member)


def harmless_to(op: Op) -> frozenset[int]:
    """The refusals that are as good as success: what is to be taken away is not there."""
    if isinstance(op.object, Sysctl) and op.object.name.startswith("net/ipv6/"):
        return _NO_IPV6
    if adds(op.verb, op.object):
        return frozenset()
    if isinstance(op.object, Addr | Neigh | Route):
        return _NO_IPV6
    return _NO_VLANS if isinstance(op.object, PortVlan | Port) else GONE


def _attrs(*pairs: tuple[str, int | str]) -> list[Attr]:
    """Those that have a value: an empty string and a zero leave it to the kernel."""
    return [(name, value) for name, value in pairs if value]


def _link(kind: int, name: str, attrs: list[Attr], verb: int = 0, up: int = 0) -> bytearray:
    fields = {"family": 0, "index": 0, "flags": up, "change": up}
    return codec.encode(kind, verb, fields, [("IFLA_IFNAME", name), *attrs])


def _set(name: str, attrs: list[Attr], flags: int = 0, mask: int = 0) -> bytearray:
    """RTM_NEWLINK without NLM_F_CREATE: unlike RTM_SETLINK it takes the settings of a kind and of a port too."""
    fields = {"family": 0, "index": 0, "flags": flags, "change": mask or flags}
    return codec.encode(codec.RTM_NEWLINK, 0, fields, [("IFLA_IFNAME", name), *attrs])


def _info(kind: str, *data: Attr) -> Attr:
    return ("IFLA_LINKINFO", nest(("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", nest(*data))))


def _remove_link(name: str) -> bytearray:
    return _link(codec.RTM_DELLINK, name, [])


def _alias(name: str, alias: str) -> Iterator[bytearray]:
    """The alias wants a request of its own: the kernel does not look at it when it makes a link."""
    if alias:
        yield _set(name, [("IFLA_IFALIAS", alias)])


def _bridge(op: Op, each: Bridge, _place: Place) -> Iterator[bytearray]:
    info = _info("bridge", *_filtering(op, each))
    promisc = IFF_PROMISC if each.promisc else 0
    if op.verb == "delete":
        yield _remove_link(each.name)
    elif op.verb == "change":
        mac = each.mac or (op.was.mac if isinstance(op.was, Bridge) else "")  # set to itself, it stays
        attrs = _attrs(("IFLA_ADDRESS", mac), ("IFLA_MTU", each.mtu), ("IFLA_IFALIAS", each.alias))
        yield _set(each.name, [*attrs, info], promisc, IFF_PROMISC)
    else:
        # a MAC that comes with the creation is "set": neither a port nor systemd-udevd changes it any more
        # (addr_assign_type 3; net/bridge/br_stp_if.c, br_stp_recalculate_bridge_id)
        attrs = _attrs(("IFLA_ADDRESS", each.mac or random_mac()), ("IFLA_MTU", each.mtu))
        yield _link(codec.RTM_NEWLINK, each.name, [*attrs, info], _NEW, promisc)
        yield from _alias(each.name, each.alias)


def _filtering(op: Op, each: Bridge) -> list[Attr]:
    """Only where it makes a difference: a kernel built without VLAN filtering refuses even to have it off."""
    before = isinstance(op.was, Bridge) and op.was.vlan_filtering
    return [] if before == each.vlan_filtering else [("IFLA_BR_VLAN_FILTERING", int(each.vlan_filtering))]


_ONE_QUEUE: tuple[Attr, ...] = (("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1))
"""Unasked, the kernel makes a queue for each processor and then lets all but one of them lie idle, for which it waits
for an RCU grace period, 1 ms, with rtnl held (veth_init_queues in drivers/net/veth.c, since Linux 5.15)."""


def _veth(op: Op, each: Veth, place: Place) -> Iterator[bytearray]:
    if op.verb == "delete":
        yield _remove_link(each.name)
        return
    master = place.must(each.master) if each.master else 0
    attrs = _attrs(("IFLA_MASTER", master), ("IFLA_MTU", each.mtu))
    if op.verb == "change":
        yield _set(each.name, [*attrs, *_attrs(("IFLA_ADDRESS", each.mac), ("IFLA_IFALIAS", each.alias))], IFF_UP)
        return
    peer = [*_ONE_QUEUE, *_attrs(
        ("IFLA_IFNAME", each.peer), ("IFLA_ADDRESS", each.peer_mac or random_mac()),
        ("IFLA_MTU", each.peer_mtu or each.mtu),
    )]
    if place.pod is not None:
        peer.append(("IFLA_NET_NS_FD", place.pod))
    info = _info("veth", ("VETH_INFO_PEER", nest(*peer)))
    address: Attr = ("IFLA_ADDRESS", each.mac or random_mac())
    yield _link(codec.RTM_NEWLINK, each.name, [*attrs, *_ONE_QUEUE, address, info], _NEW, IFF_UP)
    yield from _alias(each.name, each.alias)


def _vxlan(op: Op, each: Vxlan, place: Place) -> Iterator[bytearray]:
    if op.verb == "delete":
        yield _remove_link(each.name)
        return
    same = isinstance(op.was, Vxlan) and op.was.mac == each.mac  # to set it takes all neighbours (neigh_changeaddr)
    attrs = _attrs(("IFLA_ADDRESS", "" if same else each.mac), ("IFLA_MTU", each.mtu))
    if op.verb == "change":
        yield _set(each.name, [*attrs, *_attrs(("IFLA_IFALIAS", each.alias))])
        return
    local = "IFLA_VXLAN_LOCAL6" if ":" in each.local else "IFLA_VXLAN_LOCAL"
    info = _info(
        "vxlan",
        ("IFLA_VXLAN_ID", each.vni),
        ("IFLA_VXLAN_PORT", each.port),
        (local, each.local),
        *_attrs(("IFLA_VXLAN_LINK", place.must(each.underlay) if each.underlay else 0)),
        ("IFLA_VXLAN_LEARNING", 0),
        *([("IFLA_VXLAN_GBP", True)] if each.gbp else []),
    )
    if not each.mac:
        attrs.append(("IFLA_ADDRESS", random_mac()))
    yield _link(codec.RTM_NEWLINK, each.name, [*attrs, info], _NEW)
    yield from _alias(each.name, each.alias)


def _vlan(op: Op, each: Vlan, place: Place) -> Iterator[bytearray]:
    if op.verb == "delete":
        yield _remove_link(each.name)
        return
    if op.verb == "create":
        info = _info("vlan", ("IFLA_VLAN_ID", each.vid))
        yield _link(codec.RTM_NEWLINK, each.name, [("IFLA_LINK", place.must(each.parent)), info], _NEW)
    yield from _alias(each.name, each.alias)


def _podlink(op: Op, each: PodLink, place: Place) -> Iterator[bytearray]:
    if op.verb == "delete":
        yield _remove_link(each.name)
    elif op.verb == "change":
        same = isinstance(op.was, PodLink) and op.was.mac == each.mac  # to set it takes all neighbours
        yield _set(each.name, _attrs(("IFLA_ADDRESS", "" if same else each.mac), ("IFLA_MTU", each.mtu)))
    else:  # it came with its veth, or it cannot be made at all
        place.must(each.name)


def _up(op: Op, each: Up, _place: Place) -> Iterator[bytearray]:
    yield _set(each.name, [], 0 if op.verb == "delete" else IFF_UP, IFF_UP)


def _port(op: Op, each: Port, _place: Place) -> Iterator[bytearray]:
    flags = Port(each.name) if op.verb == "delete" else each
    data = nest(
        ("IFLA_BRPORT_MODE", int(flags.hairpin)),
        ("IFLA_BRPORT_ISOLATED", int(flags.isolated)),
        ("IFLA_BRPORT_LOCKED", int(flags.locked)),
    )
    info = nest(("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", data))
    yield _set(each.name, [("IFLA_LINKINFO", info)])


def _portvlan(op: Op, each: PortVlan, place: Place) -> Iterator[bytearray]:
    flags = _VLAN_PVID * each.pvid | _VLAN_UNTAGGED * each.untagged
    span = [(each.vid, flags)]
    if each.last > each.vid:
        span = [(each.vid, flags | _VLAN_RANGE_BEGIN), (each.last, flags | _VLAN_RANGE_END)]
    entries: list[Attr] = [("IFLA_BRIDGE_VLAN_INFO", {"vid": vid, "flags": bits}) for vid, bits in span]
    side = _BRIDGE_FLAGS_SELF if each.self_ else _BRIDGE_FLAGS_MASTER
    fields = {"family": AF_BRIDGE, "index": place.must(each.name), "flags": 0, "change": 0}
    kind = codec.RTM_SETLINK if adds(op.verb, each) else codec.RTM_DELLINK
    yield codec.encode(kind, 0, fields, [("IFLA_AF_SPEC", nest(("IFLA_BRIDGE_FLAGS", side), *entries))])


def _addr(op: Op, each: Addr, place: Place) -> Iterator[bytearray]:
    address, length = each.address.split("/")
    family, bits = family_of(address), int(length)
    nodad = _IFA_F_NODAD if family == socket.AF_INET6 and not each.dad else 0
    fields = {"family": family, "prefixlen": bits, "flags": nodad, "scope": 0, "index": place.must(each.dev)}
    attrs: list[Attr] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELADDR, 0, fields, attrs)
        return
    if family == socket.AF_INET and bits < 31:
        attrs.append(("IFA_BROADCAST", broadcast_of(address, bits)))
    yield codec.encode(codec.RTM_NEWADDR, _NEW if op.verb == "create" else _PUT, fields, attrs)


def _route(op: Op, each: Route, place: Place) -> Iterator[bytearray]:
    address, _, length = each.dst.partition("/")
    family = family_of(address)
    bits = int(length or (128 if family == socket.AF_INET6 else 32))
    table = each.table or MAIN_TABLE
    fields = {
        "family": family,
        "dst_len": bits,
        "table": table if table < 256 else _TABLE_COMPAT,
        "proto": each.protocol,
        "scope": _scope(op.verb, each),
        "type": _RTN_UNICAST,
        "flags": _RTNH_F_ONLINK if each.onlink and op.verb != "delete" else 0,
    }
    attrs: list[Attr] = [("RTA_DST", address)] if bits else []
    attrs += [("RTA_OIF", place.must(each.dev)), ("RTA_TABLE", table), *_gateway(each, family)]
    attrs += _attrs(("RTA_PRIORITY", each.priority))
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELROUTE, 0, fields, attrs)
        return
    attrs += _attrs(("RTA_PREFSRC", each.src))
    if metrics := _attrs(("RTAX_MTU", each.mtu), ("RTAX_ADVMSS", each.advmss)):
        attrs.append(("RTA_METRICS", nest(*metrics)))
    yield codec.encode(codec.RTM_NEWROUTE, _route_flags(op.verb, each), fields, attrs)


def _route_flags(verb: Verb, each: Route) -> int:
    """In a pod several routes to one destination may stand side by side: neither EXCL nor REPLACE."""
    if verb == "change":
        return _PUT
    return codec.NLM_F_CREATE if each.ns == POD else _NEW


def _scope(verb: Verb, each: Route) -> int:
    if each.scope >= 0:
        return each.scope
    if verb == "delete":
        return _SCOPE_NOWHERE  # "any", net/ipv4/fib_trie.c, fib_table_delete
    return _SCOPE_UNIVERSE if each.via or ":" in each.dst else _SCOPE_LINK


def _gateway(each: Route, family: int) -> list[Attr]:
    if not each.via:
        return []
    if family_of(each.via) == family:
        return [("RTA_GATEWAY", each.via)]
    via: dict[str, Any] = {"family": family_of(each.via), "addr": each.via}
    return [("RTA_VIA", via)]


def _neigh(op: Op, each: Neigh, place: Place) -> Iterator[bytearray]:
    fields = {"family": family_of(each.address), "ifindex": place.must(each.dev), "state": NUD_PERMANENT}
    attrs: list[Attr] = [("NDA_DST", each.address)]
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELNEIGH, 0, fields, attrs)
    else:
        yield codec.encode(codec.RTM_NEWNEIGH, _PUT, fields, [*attrs, ("NDA_LLADDR", each.mac)])


def _fdb(op: Op, each: Fdb, place: Place) -> Iterator[bytearray]:
    side, state = (NTF_SELF, NUD_PERMANENT) if each.dst else (NTF_MASTER, _NUD_NOARP)
    fields = {"family": AF_BRIDGE, "ifindex": place.must(each.dev), "state": state, "flags": side}
    attrs = _attrs(("NDA_LLADDR", each.mac), ("NDA_DST", each.dst), ("NDA_VLAN", each.vid))
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELNEIGH, 0, fields, attrs)
    else:
        yield codec.encode(codec.RTM_NEWNEIGH, _PUT, fields, attrs)


_WRITERS: dict[str, Callable[[Op, Any, Place], Iterator[bytearray]]] = {
    "Bridge": _bridge,
    "Veth": _veth,
    "Vxlan": _vxlan,
    "Vlan": _vlan,
    "PodLink": _podlink,
    "Up": _up,
    "Sysctl": _sysctl,
    "Port": _port,
    "PortVlan": _portvlan,
    "Addr": _addr,
    "Route": _route,
    "Neigh": _neigh,
    "Fdb": _fdb,
}
