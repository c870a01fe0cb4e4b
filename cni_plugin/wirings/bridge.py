"""A veth pair, one end of it a port of a bridge of the node: type `tulle`, and the reference plugin `bridge`.

    ip link add tulle0 type bridge && ip link set tulle0 up
    ip addr add 10.244.1.1/24 dev tulle0
    ip link add tl4f0c9d2a81b up master tulle0 mtu 1450 type veth peer eth0 netns POD mtu 1450

The keys are those of the reference plugin with the same defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from typing import ClassVar, Self

import msgspec

from cni_plugin import marks
from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import NetConf
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.conf.reading import invalid
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.modules import VLAN_FILTERING
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.host import Sysctl, ipv6_settings
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge, Fdb, PodLink, Port, PortVlan, Up, Veth, Vlan
from cni_plugin.plan import lease as leases
from cni_plugin.plan.node import family, forwarding
from cni_plugin.plan.pod import NO_LINK_LOCAL, addresses_inside, host_mac, settings_inside, ways_back
from cni_plugin.spec import Interface, IPConfig, Result, flaw_of_ifname
from cni_plugin.wirings.contract import Base, Want, Width, Wiring

DEFAULT_VLAN = 1
POD_INTERFACE = 2
"""The pod's end comes third in the result's interfaces, after the bridge and the host's end."""


class VlanTrunk(Keys, frozen=True):
    id: int | None = None
    min_id: int | None = None
    max_id: int | None = None


class Conf(NetConf, frozen=True):
    """Its own keys; `bridge` is "" until it is known what we are called."""

    bridge: str = ""
    is_gateway: bool | None = None
    is_default_gateway: bool | None = None
    force_address: bool = False
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    vlan_trunk: tuple[VlanTrunk, ...] = ()
    preserve_default_vlan: bool = True
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False

    def called(self, name: str) -> Self:
        """With the bridge that is meant where none is named."""
        usual = marks.REFERENCE_BRIDGE if name == "bridge" else marks.BRIDGE
        return self if self.bridge else msgspec.structs.replace(self, bridge=usual)

    def check(self) -> None:
        """Raises CniError 7."""
        _check_bridge(self)
        super().check()
        _check_modes(self)
        _check_vlans(self)

    @property
    def gateway(self) -> bool:
        """Whether the bridge bears the pods' gateway address; in a cluster it does unless told otherwise."""
        if self.is_gateway is None:
            return self.default_gateway or self.cluster is not None
        return self.is_gateway or self.default_gateway

    @property
    def default_gateway(self) -> bool:
        """Whether the pods' default routes lead there; in a cluster they do unless told otherwise."""
        if self.is_default_gateway is None:
            return self.cluster is not None and self.is_gateway is not False
        return self.is_default_gateway

    @property
    def trunk(self) -> tuple[tuple[int, int], ...]:
        """The VLANs of `vlanTrunk` as (first, last)."""
        singles = [(each.id, each.id) for each in self.vlan_trunk if each.id is not None]
        spans = [
            (each.min_id, each.max_id)
            for each in self.vlan_trunk
            if each.min_id is not None and each.max_id is not None
        ]
        return tuple(sorted({*singles, *spans}))


class BridgeWiring(Wiring):
    """What is served."""

    NAMES = ("tulle", "bridge")
    FEATURES = ("masquerade",)
    CAPABILITIES: ClassVar[Mapping[str, str]] = {"portmappings": "portmap", "bandwidth": "bandwidth"}
    LINK = "bridge"
    KEYS = Conf
    NEEDS: ClassVar[Mapping[str, str]] = {
        Bridge.MADE_BY: "no pod can be wired without a bridge",
        Veth.MADE_BY: "no pod can be wired without veth pairs",
        VLAN_FILTERING: "a network asks for VLANs, and its pods would all be in one",
    }

    def needed(self, conf: Conf) -> Collection[str]:
        """VLAN filtering where there are VLANs."""
        return [each for each in self.NEEDS if each != VLAN_FILTERING or conf.vlan or conf.vlan_trunk]

    def dad(self, conf: Conf) -> bool:
        """`enabledad`."""
        return conf.enabledad

    def silent(self, conf: Conf) -> bool:
        """Its end stays down."""
        return conf.disable_container_interface

    def host_dev(self, who: Attachment) -> str:
        """The port of the bridge."""
        return who.host_dev

    def link(self, conf: Conf) -> str:
        """The bridge."""
        return conf.bridge

    def carried(self, link: str, mtu: int, kernel: Kernel) -> Width:
        """A bridge follows the narrowest of its ports until somebody gives it an MTU (br_mtu_auto_adjust in

        net/bridge/br_if.c): so at one that is not ours the port has what the bridge has, which then stays as it is, and
        only the pod's own end may have less. Costs a question about the bridge.
        """
        alias, most = kernel.link_mtu(link) or (BRIDGE_ALIAS, 0)
        if alias == BRIDGE_ALIAS:
            return Width(mtu)
        least = min(mtu or most, most)
        return Width(least, most if most != least else 0)

    def full(self, link: str) -> str:
        """A bridge has room for so many ports."""
        return (
            f"all {marks.MOST_PORTS} ports of the bridge {link} are in use, and a Linux bridge has no more: let pods "
            "end, or give new pods a network with another bridge (kubelet: maxPods)"
        )

    def completed(self, conf: Conf, lease: Result) -> Result:
        """Gateways where the bridge is one, default routes, DNS."""
        dns = leases.dns(conf, lease.dns)
        found = leases.completed(lease, place=POD_INTERFACE, gateway=conf.gateway, default=conf.default_gateway)
        return msgspec.structs.replace(found, dns=dns)

    def gateways(self, conf: Conf, ips: Sequence[IPConfig]) -> tuple[str, ...]:
        """Those of the leases, where the bridge is to bear them."""
        return leases.gateways(ips) if conf.gateway else ()

    def gateway_dev(self, conf: Conf, link: str) -> str:
        """The bridge, or its VLAN's device."""
        return f"{link}.{conf.vlan}" if conf.vlan else link

    def host(self, base: Base) -> State:
        """The bridge, up, with the pods' gateway addresses where it is to bear them."""
        return state(_bridge_objects(base, self.gateway_dev(base.conf, base.link)))

    def shared(self, link: str) -> State:
        """The bridge, up; `adopt` takes the rest as it is."""
        return state([Bridge(link, pinned=False), Up(link)])

    def forces(self, conf: Conf) -> bool:
        """`forceAddress`."""
        return conf.force_address

    def displaced(self, base: Base, present: Iterable[str]) -> State:
        """The addresses that `forceAddress` puts out: other IPv4 ones, and IPv6 ones whose subnets overlap.

        Without it an earlier address stays beside the new one, for pods may still lead there (failure 10).
        """
        if not base.conf.force_address:
            return {}
        dev, gateways = self.gateway_dev(base.conf, base.link), base.gateways
        return state(Addr(dev, each) for each in present if each not in gateways and _conflicts(each, gateways))

    def adopt(self, want: State, have: State) -> State:
        """What to want of a bridge that stands already: nothing is turned off that another network turned on,

        and one that we did not make keeps its MTU and bears no mark of ours.
        """
        return {key: _adopted(each, have.get(key)) for key, each in want.items()}

    def pod(self, want: Want) -> State:
        """The pair, its port, what stands in the pod, and the way back to it."""
        conf: Conf = want.conf
        dev = want.who.ifname
        families = {6 if ":" in each.address else 4 for each in want.ips}
        quiet = conf.disable_container_interface
        return state([
            *_link_objects(want),
            *(() if quiet else settings_inside(dev, families, dad=conf.enabledad)),
            *addresses_inside(dev, want.ips, want.routes, dad=conf.enabledad),
            *(ways_back(self.gateway_dev(conf, want.link), want.ips) if conf.gateway else ()),
        ])

    def interfaces(self, want: Want, mac_of: Callable[[str], str]) -> tuple[Interface, ...]:
        """The bridge, both ends of the pair, and a VLAN's gateway, in the reference's order."""
        who, dev = want.who, self.gateway_dev(want.conf, want.link)
        beside = [dev] if dev != want.link and self.gateways(want.conf, want.ips) else []
        return (
            Interface(want.link, mac_of(want.link)),
            Interface(who.host_dev, host_mac(who), mtu=want.width.port or want.width.pod),
            Interface(who.ifname, want.mac, mtu=want.width.pod, sandbox=want.sandbox),
            *(Interface(name, mac_of(name)) for name in beside),
        )

    def bare(self, who: Attachment) -> State:
        """The host's end, which takes the pod's along."""
        return state([Veth(who.host_dev)])


wiring = BridgeWiring()


def _bridge_objects(base: Base, dev: str) -> Iterator[Object]:
    conf: Conf = base.conf
    bridge, gateways, mtu = base.link, base.gateways, base.mtu
    filtering = bool(conf.vlan or conf.vlan_trunk)
    yield Bridge(bridge, mtu=mtu, alias=BRIDGE_ALIAS, vlan_filtering=filtering, promisc=conf.promisc_mode)
    yield from _interface_objects(bridge)
    if not conf.gateway:
        return
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


def _link_objects(want: Want) -> Iterator[Object]:
    conf: Conf = want.conf
    name, pod = want.who.host_dev, want.who.ifname
    yield Veth(
        name,
        master=want.link,
        mtu=want.width.port or want.width.pod,
        mac=host_mac(want.who),
        alias=want.who.alias,
        peer=pod,
        peer_mac=want.mac,
        peer_mtu=want.width.pod if want.width.port else 0,
    )
    yield PodLink(pod, mac=want.mac, mtu=want.width.pod)
    yield Sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", NO_LINK_LOCAL, dev=name)  # a port speaks for nobody
    port = Port(name, hairpin=conf.hairpin_mode, isolated=conf.port_isolation, locked=conf.macspoofchk)
    if port != Port(name):
        yield port
    if conf.macspoofchk:
        yield Fdb(name, want.mac, vid=conf.vlan)
    yield from _vlan_objects(conf, name)


def _vlan_objects(conf: Conf, port: str) -> Iterator[Object]:
    if not (conf.vlan or conf.vlan_trunk):
        return
    if not conf.preserve_default_vlan:
        yield PortVlan(port, DEFAULT_VLAN, member=False)
    if conf.vlan:
        yield PortVlan(port, conf.vlan, pvid=True, untagged=True)
    for first, last in conf.trunk:
        yield PortVlan(port, first, last if last != first else 0)


def _check_bridge(conf: Conf) -> None:
    name = conf.bridge
    flaw = flaw_of_ifname(name) if name else ""
    if flaw:
        raise invalid("bridge", name, f"the interface name {flaw}")
    if conf.vlan and conf.gateway and (flaw := flaw_of_ifname(f"{name}.{conf.vlan}")):
        raise invalid("bridge", name, f"its VLAN's interface would be {name}.{conf.vlan}, and that name {flaw}")


def _check_modes(conf: Conf) -> None:
    if conf.hairpin_mode and conf.promisc_mode:
        raise CniError(
            INVALID_CONFIG,
            "cannot set hairpin mode and promiscuous mode at the same time. Set hairpinMode or promiscMode to false",
        )
    if conf.disable_container_interface and conf.ipam.type:
        raise CniError(
            INVALID_CONFIG,
            "cannot use IPAM when DisableContainerInterface flag is set: remove disableContainerInterface or ipam.type "
            f"{conf.ipam.type!r}",
        )


def _check_vlans(conf: Conf) -> None:
    if not 0 <= conf.vlan <= 4094:
        raise CniError(
            INVALID_CONFIG,
            f"invalid VLAN ID {conf.vlan} (must be between 0 and 4094): set vlan to one of these, 0 for none",
        )
    for each in conf.vlan_trunk:
        _check_trunk(each)
    if not conf.preserve_default_vlan and not conf.vlan and not conf.vlan_trunk:
        raise invalid("preserveDefaultVlan", False, "without vlan or vlanTrunk the port would be in no VLAN at all")


def _check_trunk(each: VlanTrunk) -> None:
    shape = {"id": each.id, "minID": each.min_id, "maxID": each.max_id}
    given = {key: value for key, value in shape.items() if value is not None}
    if not given:
        raise invalid("vlanTrunk", given, "give each entry an id, or minID and maxID")
    if (each.min_id is None) != (each.max_id is None):
        raise invalid("vlanTrunk", given, "minID and maxID should be configured simultaneously")
    if any(not 1 <= value <= 4094 for value in given.values()):
        raise invalid("vlanTrunk", given, "VLAN ids must be between 1 and 4094")
    if each.min_id is not None and each.max_id is not None and each.min_id > each.max_id:
        raise invalid("vlanTrunk", given, "minID must not be greater than maxID")
