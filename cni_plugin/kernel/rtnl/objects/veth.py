"""A veth pair, made at once with its end in the pod, whose settings are told of with the node's end."""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import encode
from cni_plugin.kernel.rtnl.codec import Attr, Message, nest
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import IFF_UP
from cni_plugin.model.base import POD
from cni_plugin.model.links import Veth

GONE = encode.GONE
_ONE_QUEUE: tuple[Attr, ...] = (("IFLA_NUM_TX_QUEUES", 1), ("IFLA_NUM_RX_QUEUES", 1))
"""Unasked, the kernel makes a queue for each processor and then lets all but one of them lie idle, for which it waits
for an RCU grace period, 1 ms, with rtnl held (veth_init_queues in drivers/net/veth.c, since Linux 5.15)."""


def write(op: Op, each: Veth, place: Place) -> Iterator[bytearray]:
    """Its requests."""
    if op.verb == "delete":
        yield encode.deleted_link(each.name)
        return
    master = place.must(each.master) if each.master else 0
    attrs = encode.given(("IFLA_MASTER", master), ("IFLA_MTU", each.mtu))
    if op.verb == "change":
        own = encode.given(("IFLA_ADDRESS", each.mac), ("IFLA_IFALIAS", each.alias))
        yield encode.changed_link(each.name, [*attrs, *own], IFF_UP)
        return
    info = encode.kind_of_link("veth", ("VETH_INFO_PEER", nest(*_peer(each, place))))
    yield encode.new_link(each.name, [*attrs, *_ONE_QUEUE, encode.mac_for(each.mac), info], IFF_UP)
    yield from encode.aliased(each.name, each.alias)


def read(want: Veth, look: Lookup) -> Veth | None:
    """It as it stands."""
    link = look.link_of_kind(want)
    if link is None:
        return None
    peer, peer_mac, peer_mtu = _other_end(want, link, look)
    return Veth(
        want.name,
        master=look.name(link.number("IFLA_MASTER")),
        mtu=link.number("IFLA_MTU"),
        mac=link.text("IFLA_ADDRESS"),
        alias=link.text("IFLA_IFALIAS"),
        peer=peer,
        peer_mac=peer_mac,
        peer_mtu=peer_mtu,
    )


def _peer(each: Veth, place: Place) -> Iterator[Attr]:
    yield from _ONE_QUEUE
    yield from encode.given(("IFLA_IFNAME", each.peer))
    yield encode.mac_for(each.peer_mac)
    yield from encode.given(("IFLA_MTU", each.peer_mtu or each.mtu))
    if place.pod is not None:
        yield ("IFLA_NET_NS_FD", place.pod)


def _other_end(want: Veth, link: Message, look: Lookup) -> tuple[str, str, int]:
    """The other end, when the pod that we are in has it; without a pod it is taken to be as wanted."""
    pod = look.spaces.get(POD)
    if pod is None:
        return want.peer, want.peer_mac, want.peer_mtu
    peer = look.link(POD, want.peer) if want.peer else None
    if peer is None or peer.link != link.number("IFLA_LINK"):
        peer = pod.link_at(link.number("IFLA_LINK"))
    if peer is None or peer.number("IFLA_LINK") != link.link:
        return "", "", 0
    mtu = peer.number("IFLA_MTU")
    other = mtu if mtu != link.number("IFLA_MTU") else 0
    return peer.text("IFLA_IFNAME"), peer.text("IFLA_ADDRESS"), other
