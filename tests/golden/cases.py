"""The networks whose plans are golden texts; the same ones are carried out line by line in a namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_interface

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.backends import contract as backend
from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.errors import CniError
from cni_plugin.model.base import State
from cni_plugin.plan.masquerade import Masquerade, masquerade_chain
from cni_plugin.plan.pod import derived_mac
from cni_plugin.spec import IPConfig, Result, RouteConfig
from cni_plugin.wirings.bridge import wiring
from cni_plugin.wirings.contract import Base, Want, Width
from tests.unit.support import cluster_node, me, net_conf, node_state

Json = dict[str, object]
ATTACHMENT = Attachment("pods", "c1", "eth0")
FOUR = IPConfig("10.244.1.5/24", "10.244.1.1")
SIX = IPConfig("fd00:1::5/64", "fd00:1::1")
IPAM: Json = {"type": "host-local"}
ROUTES = (
    RouteConfig("10.9.8.7/16"),
    RouteConfig("10.8.0.0/16", "10.244.1.9", mtu=1400, advmss=1360, priority=50, table=100),
    RouteConfig("198.51.100.0/24", scope=253),
    RouteConfig("fd00:9::/64", "fd00:1::9"),
)

PODS: Mapping[str, tuple[Json, tuple[IPConfig, ...], tuple[RouteConfig, ...]]] = {
    "v4": ({"isDefaultGateway": True, "ipam": IPAM}, (FOUR,), ()),
    "v6": ({"isDefaultGateway": True, "ipam": IPAM}, (SIX,), ()),
    "dual": ({"isDefaultGateway": True, "ipam": IPAM}, (FOUR, SIX), ()),
    "not-a-gateway": ({"ipam": IPAM}, (FOUR,), ()),
    "routes": ({"isGateway": True, "ipam": IPAM}, (FOUR, SIX), ROUTES),
    "vlan-and-trunk": (
        {"isGateway": True, "vlan": 100, "vlanTrunk": [{"id": 101}, {"minID": 200, "maxID": 299}], "ipam": IPAM},
        (FOUR,), (),
    ),
    "vlan-alone": ({"vlan": 100, "preserveDefaultVlan": False, "ipam": IPAM}, (FOUR,), ()),
    "macspoofchk": ({"macspoofchk": True, "vlan": 100, "ipam": IPAM}, (FOUR,), ()),
    "isolation": ({"portIsolation": True, "ipam": IPAM}, (FOUR,), ()),
    "hairpin": ({"hairpinMode": True, "ipam": IPAM}, (FOUR,), ()),
    "promiscuous": ({"promiscMode": True, "ipam": IPAM}, (FOUR,), ()),
    "enabledad": ({"enabledad": True, "isGateway": True, "ipam": IPAM}, (SIX,), ()),
    "layer-2": ({}, (), ()),
    "disable-container-interface": ({"disableContainerInterface": True}, (), ()),
}

BACKENDS: Mapping[str, tuple[str, str]] = {
    "v4": ("192.0.2.{}", "10.244.{}.0/24"),
    "v6": ("2001:db8::{}", "fd00:{}::/64"),
    "dual": ("192.0.2.{} 2001:db8::{}", "10.244.{}.0/24 fd00:{}::/64"),
    "v4-over-v6": ("2001:db8::{}", "10.244.{}.0/24"),
    "v6-over-v4": ("192.0.2.{}", "fd00:{}::/64"),
}

MASQUERADES: Mapping[str, Mapping[str, Masquerade]] = {
    "one-network": {"pods": Masquerade(("10.244.1.0/24",), ("10.244.0.0/16",))},
    "dual": {"pods": Masquerade(("10.244.1.0/24", "fd00:1::/64"), ("10.244.0.0/16", "fd00::/16"))},
    "overlapping-subnets": {"pods": Masquerade(("10.22.0.0/25", "10.22.0.0/24", "10.22.1.0/24", "10.22.0.128/25"))},
    "several-networks": {"b": Masquerade(("10.2.0.0/16",)), "a": Masquerade(("10.1.0.0/16", "fd01::/64"))},
    "long-name": {"n" * 200: Masquerade(("10.1.0.0/16",))},
}


def pod(name: str) -> Iterator[tuple[str, State]]:
    """The steps of wiring a pod: the bridge, then the pod."""
    keys, leased, routes = PODS[name]
    conf = net_conf(**keys)
    given = wiring.completed(conf, Result(ips=leased, routes=routes))
    yield "the bridge", wiring.host(Base(conf, "tulle0", wiring.gateways(conf, given.ips), 1450))
    mac = derived_mac(ATTACHMENT, [each.address for each in given.ips])
    yield "the pod", wiring.pod(Want(ATTACHMENT, conf, "tulle0", Width(1450), mac, given.ips, given.routes))


def node(name: str, shape: tuple[str, str], **options: object) -> State:
    """This node's part of a cluster with two peers on its link. Raises CniError where the backend cannot."""
    found = backend.find(name)
    peers = [cluster_node(f"n{i}", *(each.replace("{}", str(i)) for each in shape)) for i in (2, 3)]
    addresses, pod_cidrs = (each.replace("{}", "1") for each in shape)
    return node_state(me(addresses, pod_cidrs), peers, found, found.configure(options))


def direct_routing() -> State:
    """A VXLAN node with a peer on its link and one behind a router."""
    found = backend.find("vxlan")
    peers = [cluster_node("near", "192.0.2.2", "10.244.2.0/24"), cluster_node("far", "198.51.100.3", "10.244.3.0/24")]
    return node_state(me("192.0.2.1", "10.244.1.0/24"), peers, found, found.configure({"directrouting": True}))


def masquerade(name: str) -> State:
    """The masquerade chain of these networks."""
    chain = masquerade_chain(MASQUERADES[name])
    return {chain.key: chain}


def made(state: State) -> str:
    """How a state is made from nothing."""
    return script(diff(state, {}))


def gone(state: State) -> str:
    """How all of it is taken away."""
    return script(diff({}, state))


def said(name: str, shape: tuple[str, str]) -> str:
    """A backend's plan, or how it refuses."""
    try:
        return made(node(name, shape))
    except CniError as error:
        return f"# refused with code {error.code}: {error.msg}"


def requests() -> Iterator[tuple[str, Json]]:
    """For each golden plan the configuration with which a runtime would ask for it; `dataDir` is the caller's."""
    for name, (keys, leased, routes) in PODS.items():
        ranges = [[{"subnet": str(ip_interface(each.address).network), "rangeStart": each.address.partition("/")[0]}]
                  for each in leased]
        own = [{key: each for key, each in msgspec.to_builtins(route).items() if each} for route in routes]
        ipam: Json = {"ipam": {**IPAM, "ranges": ranges, "routes": own}} if leased else {}
        yield f"pod-{name}", {**keys, **ipam}
    pods: Json = {"isDefaultGateway": True, "ipMasq": True, "ipam": IPAM}
    for backend_name in backend.names():
        for family, shape in BACKENDS.items():
            yield f"backend-{backend_name}-{family}", {**pods, "cluster": _listed(backend_name, shape)}
    yield "backend-vxlan-direct-routing", {**pods, "cluster": _listed("vxlan", BACKENDS["v4"], directRouting=True)}
    for name, networks in MASQUERADES.items():
        subnets = [each for network in networks.values() for each in network.subnets]
        ranges = [[{"subnet": each}] for each in subnets[:1]]
        yield f"masquerade-{name}", {**pods, "name": next(iter(networks)), "ipam": {**IPAM, "ranges": ranges}}


def _listed(name: str, shape: tuple[str, str], **options: object) -> Json:
    """A list of three nodes, of which this is the first."""
    nodes = []
    for number in (1, 2, 3):
        addresses, pod_cidrs = (each.replace("{}", str(number)).split() for each in shape)
        keys = {"ipv6Address" if ":" in each and len(addresses) > 1 else "address": each for each in addresses}
        nodes.append({"name": f"n{number}", **keys, "podCIDRs": pod_cidrs})
    return {"node": "n1", "backend": {"type": name, **options}, "nodes": nodes}
