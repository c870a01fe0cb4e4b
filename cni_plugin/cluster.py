"""The nodes of a cluster, as the `cluster` key of a configuration gives them: an object, or the path of a file.

    {"network": "10.244.0.0/16", "backend": {"type": "vxlan", "vni": 1}, "node": "node1",
     "nodes": [{"name": "node1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}, ...]}

Keys match in any case, so flannel's net-conf.json is understood. A node that can be reached by both families has
`address` and `ipv6Address`. Validation is strict, for a node list is written by people: two nodes with one subnet
or one address would answer for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import pairwise
from typing import TypeAlias

import msgspec

from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.netconf import _Conf, typed

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address


class _NodeConf(_Conf, frozen=True):
    name: str
    address: str
    pod_cidrs: tuple[str, ...]
    ipv6_address: str = ""


class _ClusterConf(_Conf, frozen=True):
    network: str = ""
    ipv6_network: str = ""
    backend: Mapping[str, object] = {}
    node: str = ""
    nodes: tuple[_NodeConf, ...] = ()


class Node(msgspec.Struct, frozen=True):
    """A node: where it is reached, the first address being the one that tunnels use, and the subnets of its pods."""

    name: str
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[Network, ...]

    def address(self, family: int) -> Address | None:
        """Its address of family 4 or 6."""
        return next((each for each in self.addresses if each.version == family), None)


class Cluster(msgspec.Struct, frozen=True):
    """All nodes; `networks` are those that pods of the whole cluster live in, `options` the backend's own keys."""

    networks: tuple[Network, ...]
    backend: str
    options: Mapping[str, object]
    node: str
    nodes: tuple[Node, ...]

    def me(self, held: frozenset[str], hostname: str) -> Node:
        """The node that this is: by `node`, else by host name, else by an address that this machine holds.

        Raises CniError 7 when none or more than one fits.
        """
        wanted = self.node or hostname
        found = [each for each in self.nodes if each.name == wanted]
        if not found and not self.node:
            found = [each for each in self.nodes if any(str(address) in held for address in each.addresses)]
        if len(found) != 1:
            known = ", ".join(each.name for each in self.nodes[:8]) + (", ..." if len(self.nodes) > 8 else "")
            raise _invalid("node", wanted, f"name this node as it is called in cluster.nodes ({known})")
        return found[0]


def parse(raw: object) -> Cluster:
    """A cluster from its JSON object. Raises CniError 7."""
    conf = typed(raw, _ClusterConf, "cluster")
    if not conf.nodes:
        raise _invalid("nodes", [], "list every node with name, address and podCIDRs")
    backend = conf.backend.get("type", "vxlan")
    if not isinstance(backend, str):
        raise _invalid("backend.type", backend, "give the name of a backend, such as vxlan or host-gw")
    cluster = Cluster(
        networks=tuple(
            _network("network" if family == 4 else "ipv6Network", text, family)
            for family, text in ((4, conf.network), (6, conf.ipv6_network))
            if text
        ),
        backend=backend,
        options={key: each for key, each in conf.backend.items() if key != "type"},
        node=conf.node,
        nodes=tuple(_node(each, f"nodes[{index}]") for index, each in enumerate(conf.nodes)),
    )
    _check_unique(cluster)
    _check_subnets(cluster)
    return cluster


def _invalid(key: str, value: object, remedy: str) -> CniError:
    return CniError(INVALID_CONFIG, f"invalid cluster.{key} {value!r}: {remedy}")


def _network(key: str, text: str, family: int | None = None) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise _invalid(key, text, f"write a network as address/prefix: {error}") from None
    if family is not None and network.version != family:
        raise _invalid(key, text, f"it must be an IPv{family} network")
    return network


def _node(conf: _NodeConf, at: str) -> Node:
    addresses = [_address(f"{at}.address", conf.address)]
    if conf.ipv6_address:
        addresses.append(_address(f"{at}.ipv6Address", conf.ipv6_address))
        if addresses[1].version != 6:
            raise _invalid(f"{at}.ipv6Address", conf.ipv6_address, "it must be an IPv6 address")
    return Node(
        conf.name,
        tuple(addresses),
        tuple(_network(f"{at}.podCIDRs[{index}]", text) for index, text in enumerate(conf.pod_cidrs)),
    )


def _address(key: str, text: str) -> Address:
    try:
        return ip_address(text)
    except ValueError:
        raise _invalid(key, text, "write an IPv4 or IPv6 address without a prefix") from None


def _check_unique(cluster: Cluster) -> None:
    seen: dict[tuple[str, str], str] = {}
    for node in cluster.nodes:
        for pair in (("name", node.name), *(("address", str(each)) for each in node.addresses)):
            if pair in seen:
                raise _invalid("nodes", pair[1], f"{node.name} has the same {pair[0]} as {seen[pair]}")
            seen[pair] = node.name


def _check_subnets(cluster: Cluster) -> None:
    """No two subnets overlap (neighbours in order would), and each lies in the cluster's network."""
    owned = sorted(
        (
            (cidr.version, int(cidr.network_address), node.name, cidr)
            for node in cluster.nodes
            for cidr in node.pod_cidrs
        ),
        key=lambda each: each[:2],
    )
    for (_, _, one, first), (_, _, other, second) in pairwise(owned):
        if first.overlaps(second):
            raise _invalid("nodes", str(second), f"it is {other}'s and overlaps {first}, which is {one}'s")
    for _, _, name, cidr in owned:
        around = [each for each in cluster.networks if each.version == cidr.version]
        if around and not any(cidr.subnet_of(each) for each in around):  # type: ignore[arg-type]
            raise _invalid("nodes", str(cidr), f"{name}'s subnet lies outside the cluster's network {around[0]}")


def pod_networks(cluster: Cluster, nodes: Sequence[Node]) -> tuple[str, ...]:
    """What counts as inside the cluster: its networks, or where none is given the subnets of these nodes."""
    return tuple(str(each) for each in cluster.networks) or tuple(
        str(cidr) for node in nodes for cidr in node.pod_cidrs
    )
