"""What stands in a pod and is the same however it got its interface: addresses, routes, settings; and its names.

    ip -n POD link set eth0 up
    ip -n POD addr add 10.244.1.2/24 dev eth0
    ip -n POD route add 0.0.0.0/0 via 10.244.1.1 dev eth0
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Address

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.marks import BOOT_PROTOCOL
from cni_plugin.model.base import HOST, POD, Object, State, state
from cni_plugin.model.host import Sysctl, ipv6_settings
from cni_plugin.model.layer3 import MAIN_TABLE, Addr, Neigh, Route
from cni_plugin.model.links import Fdb, Link, PodLink, Up, Veth
from cni_plugin.plan.address import interface
from cni_plugin.spec import IPConfig, RouteConfig

NO_LINK_LOCAL = "1"
"""IN6_ADDR_GEN_MODE_NONE, include/uapi/linux/if_link.h."""


def derived_mac(attachment: Attachment, ips: Sequence[str]) -> str:
    """A locally administered MAC for the pod: from its first IPv4 address, so that who comes to hold the address

    has the MAC that its neighbours already know (failure 18); without one from the attachment's digest.
    """
    four = next((each for text in ips if isinstance(each := interface(text), IPv4Interface)), None)
    body = four.ip.packed if four is not None else bytes.fromhex(attachment.digest[:8])
    return ":".join(f"{byte:02x}" for byte in (b"\x0a\x58" if four is not None else b"\x0a\x59") + body)


def host_mac(attachment: Attachment) -> str:
    """The MAC of the host's end: set, so that no daemon renames it (systemd's MACAddressPolicy, failure 11)."""
    return ":".join(("0e", *(attachment.digest[at : at + 2] for at in range(22, 32, 2))))


def links_on_node(objects: Iterable[Object]) -> list[Link]:
    """The ends of an attachment's wires on the node, and whatever other links it has there."""
    return [each for each in objects if isinstance(each, Link) and each.where == HOST]


def beside_wire(objects: Iterable[Object]) -> list[Object]:
    """What of an attachment on the node goes with none of its links: routes to the pod, elements of features."""
    here = {each.key: each for each in objects if each.where == HOST}
    return [each for each in here.values() if each.holder not in here and not isinstance(each, Link)]


def ways_back(dev: str, ips: Sequence[IPConfig]) -> Iterator[Route]:
    """Where the node is the gateway and a pod's address is in no network with it, the node's route to that pod.

    So it is with a /32, or with a gateway such as 169.254.1.1 or fe80::1: the gateway's address leads to no pod then.
    """
    for each in ips:
        pod = interface(each.address)
        if each.gateway and interface(each.gateway).ip not in pod.network:
            yield Route(f"{pod.ip}/{pod.max_prefixlen}", dev)


def learned_neighbours(dev: str, ips: Sequence[str], mac: str) -> State:
    """What the node may have learned of a pod with these addresses: assumed there, so that a diff removes it.

    Nothing where no link of the node's, "", has the pod among its neighbours.
    """
    if not dev:
        return {}
    addresses = [*(str(interface(each).ip) for each in ips), link_local(mac)]
    return state(Neigh(dev, each, learned=True) for each in addresses)


def link_local(mac: str) -> str:
    """The IPv6 address that a link gives itself from its MAC (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    interface = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + interface))


def lasting(objects: Iterable[Object]) -> Iterator[Object]:
    """What of an attachment must stay as it was made.

    Plugins chained after us may change MACs, MTUs and sysctls and move routes to another table (failure 28).
    """
    for each in objects:
        match each:
            case Sysctl() | Neigh() | Fdb():
                continue
            case Veth():
                yield msgspec.structs.replace(each, mac="", mtu=0, peer_mac="", peer_mtu=0)
            case PodLink():
                yield PodLink(each.name)
            case Route() if each.ns == POD:
                yield msgspec.structs.replace(each, table=0, protocol=0, mtu=0, advmss=0)
            case _:
                yield each


def settings_inside(dev: str, families: set[int], *, dad: bool) -> Iterator[Object]:
    """The pod's end, up, with what addresses of these families need; `dad`: duplicate address detection stays on.

    The sysctls stand before the link is up: a link-local address would else wait for DAD (failure 37).

    A pod with IPv4 addresses only has no IPv6 link-local one either. Nobody would speak to it, but for each of them the
    kernel sends half a dozen packets that a bridge floods to all its pods, with the lock held that the next ADD needs:
    with 1,000 pods 10 ms and more.
    """
    if 6 in families:
        yield from _ipv6_objects(dev, dad=dad)
    if families == {4}:
        yield Sysctl(f"net/ipv6/conf/{dev}/addr_gen_mode", NO_LINK_LOCAL, ns=POD, dev=dev)
    if 4 in families:
        yield Sysctl(f"net/ipv4/conf/{dev}/arp_notify", "1", ns=POD, dev=dev)
    yield Up(dev, POD)


def _ipv6_objects(dev: str, *, dad: bool) -> Iterator[Object]:
    """Files, most of them, so they stand side by side: a thread enters the sandbox once for them all.

    A pod reaches its own address by way of lo (net/ipv6/route.c), which the reference switches on too.
    """
    yield Sysctl("net/ipv6/conf/lo/disable_ipv6", "0", ns=POD)
    yield from ipv6_settings(dev, POD)
    if not dad:
        yield Sysctl(f"net/ipv6/conf/{dev}/accept_dad", "0", ns=POD, dev=dev)
    yield Sysctl(f"net/ipv6/conf/{dev}/ndisc_notify", "1", ns=POD, dev=dev)


def addresses_inside(
    dev: str, ips: Sequence[IPConfig], routes: Sequence[RouteConfig], *, dad: bool
) -> Iterator[Object]:
    """The addresses of the pod's end, and the routes by it."""
    for each in ips:
        yield Addr(dev, each.address, POD, dad=dad)
    gateways = {(":" in each.gateway): each.gateway for each in reversed(ips) if each.gateway}
    for route in routes:
        yield _route(dev, route, gateways.get(":" in route.dst, ""))


def _route(dev: str, route: RouteConfig, gateway: str) -> Route:
    """A route of the result. One without a gateway of its own uses that of its family, unless it is on the link,

    as one that leads to that very gateway can only be.
    """
    on_link = route.scope is not None and route.scope >= 253  # RT_SCOPE_LINK, include/uapi/linux/rtnetlink.h
    to = interface(route.dst).network
    on_link |= bool(gateway) and to == interface(gateway).network
    return Route(
        dst=str(to),
        dev=dev,
        via=route.gw or ("" if on_link else gateway),
        ns=POD,
        mtu=route.mtu,
        advmss=route.advmss,
        priority=route.priority,
        table=MAIN_TABLE if not route.table else route.table,
        scope=-1 if route.scope is None else route.scope,
        protocol=BOOT_PROTOCOL,
    )
