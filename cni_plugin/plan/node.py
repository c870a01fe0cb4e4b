"""What a node needs before pods can be wired: its bridges, and forwarding. Its part of a cluster is `plan.cluster`'s.

ip link add tulle0 type bridge && ip link set tulle0 up
ip addr add 10.244.1.1/24 dev tulle0
sysctl -w net/ipv4/ip_forward=1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_interface

import msgspec

from cni_plugin.conf.plugin import NetConf
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.host import Sysctl, ipv6_settings
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge, PortVlan, Up, Vlan
from cni_plugin.plan.pod import gateway_device

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}


def bridge_state(conf: NetConf, bridge: str, gateways: Sequence[str], mtu: int) -> State:
    """The bridge, up, with the pods' gateway addresses (with prefix lengths) where it is to bear them."""
    return state(_bridge_objects(conf, bridge, gateways, mtu))


def adopt(want: State, have: State) -> State:
    """What to want of a bridge that stands already: nothing is turned off that another network turned on,

    and one that we did not make keeps its MTU and bears no mark of ours.
    """
    return {key: _adopted(each, have.get(key)) for key, each in want.items()}


def displaced(conf: NetConf, dev: str, gateways: Sequence[str], present: Iterable[str]) -> State:
    """The addresses that `forceAddress` puts out: other IPv4 ones, and IPv6 ones whose subnets overlap.

    Without it an earlier address stays beside the new one, for pods may still lead there (failure 10).
    """
    if not conf.force_address:
        return {}
    return state(Addr(dev, each) for each in present if each not in gateways and _conflicts(each, gateways))


def forwarding(families: Iterable[int]) -> State:
    """The sysctls without which a node does not route."""
    return state(Sysctl(FORWARDING[family], "1") for family in sorted(set(families)))


def still_taught(links: Iterable[str]) -> State:
    """What has these links learn from router advertisements although the node forwards IPv6 (`accept_ra` 2)."""
    return state(Sysctl(f"net/ipv6/conf/{each}/accept_ra", "2", dev=each) for each in links)


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def _bridge_objects(conf: NetConf, bridge: str, gateways: Sequence[str], mtu: int) -> Iterator[Object]:
    filtering = bool(conf.vlan or conf.vlan_trunk)
    yield Bridge(bridge, mtu=mtu, alias=BRIDGE_ALIAS, vlan_filtering=filtering, promisc=conf.promisc_mode)
    yield from _interface_objects(bridge)
    if not conf.gateway:
        return
    dev = gateway_device(conf, bridge)
    if dev != bridge:
        yield Vlan(dev, parent=bridge, vid=conf.vlan, alias=BRIDGE_ALIAS)
        yield PortVlan(bridge, conf.vlan, self_=True)
        yield from _interface_objects(dev)
    if 6 in map(family, gateways):
        yield from ipv6_settings(dev)
    for each in gateways:
        yield Addr(dev, each)
    yield from forwarding(map(family, gateways)).values()


def _interface_objects(dev: str) -> Iterator[Object]:
    """Loose reverse path filtering (failure 19), no routes from router advertisements, no DAD on the gateway."""
    yield Sysctl(f"net/ipv4/conf/{dev}/rp_filter", "2", dev=dev)
    yield Sysctl(f"net/ipv6/conf/{dev}/accept_ra", "0", dev=dev)
    yield Sysctl(f"net/ipv6/conf/{dev}/accept_dad", "0", dev=dev)
    yield Up(dev)


def _adopted(want: Object, have: Object | None) -> Object:
    if not isinstance(want, Bridge) or not isinstance(have, Bridge):
        return want
    ours = have.alias == BRIDGE_ALIAS
    return msgspec.structs.replace(
        want,
        mtu=want.mtu if ours else 0,
        alias=want.alias if ours else "",
        vlan_filtering=want.vlan_filtering or have.vlan_filtering,
        promisc=want.promisc or have.promisc,
        pinned=want.pinned or have.pinned,
    )


def _conflicts(present: str, gateways: Sequence[str]) -> bool:
    """The rule of the reference bridge: one IPv4 address; several IPv6 ones as long as their subnets are apart."""
    here = ip_interface(present)
    others = [each for each in map(ip_interface, gateways) if each.version == here.version]
    return any(here.version == 4 or here.network.overlaps(each.network) for each in others)
