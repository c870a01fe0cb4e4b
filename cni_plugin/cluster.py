"""The nodes of a cluster, as the `cluster` key of a configuration gives them: an object, or the path of a file.

    {"network": "10.244.0.0/16", "backend": {"type": "host-gw"}, "node": "node1",
     "nodes": [{"name": "node1", "address": "192.0.2.1", "podCIDRs": ["10.244.1.0/24"]}, ...]}

Keys match in any case, so flannel's net-conf.json is understood. A node that can be reached by both families has
`address` and `ipv6Address`; `backendData` is what it announced for the backend, such as its VTEP's MAC. Validation is
strict, for a node list is written by people: two nodes with one subnet or one address would answer for each other.
Of a list that machines keep, `settled` leaves out the younger of two with one subnet instead, and says so. One address
costs nobody else anything there: who announces another's only leads its own pods' packets astray.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from cni_plugin.conf.reading import Conf, typed
from cni_plugin.network import Address, Network, NetworkConf, address_of, invalid, network_of, unusable
from cni_plugin.network import parse as parse_network


class _NodeConf(Conf, frozen=True):
    name: str
    address: str
    pod_cidrs: tuple[str, ...]
    ipv6_address: str = ""
    backend_data: Mapping[str, str] = {}
    since: float = 0.0


class _ClusterConf(Conf, frozen=True):
    node: str = ""
    local_address: str = ""
    nodes: tuple[_NodeConf, ...] = ()
    settled: bool = False


class Node(msgspec.Struct, frozen=True):
    """A node: where it is reached, the first address being the one that tunnels use, and the subnets of its pods.

    `data` is what it announced for the backend, keys in lower case; `since` when it joined, in seconds since the epoch,
    0 where nobody knows.
    """

    name: str
    addresses: tuple[Address, ...]
    pod_cidrs: tuple[Network, ...]
    data: Mapping[str, str] = {}
    since: float = 0.0

    def address(self, family: int) -> Address | None:
        """Its address of family 4 or 6."""
        return next((each for each in self.addresses if each.version == family), None)


class Cluster(msgspec.Struct, frozen=True):
    """All nodes; `networks` are those that pods of the whole cluster live in, `options` the backend's own keys.

    `local` is this node's own address on the underlay where peers are told another one (NAT in between); else None.
    """

    networks: tuple[Network, ...]
    backend: str
    options: Mapping[str, object]
    node: str
    nodes: tuple[Node, ...]
    local: Address | None = None

    def me(self, held: frozenset[str], hostname: str) -> Node:
        """The node that this is: by `node`, else by host name, else by an address that this machine holds.

        Raises CniError 7 when none or more than one fits.
        """
        wanted = self.node or hostname
        found = [each for each in self.nodes if each.name == wanted]
        found = found or [each for each in self.nodes if same_name(each.name, wanted)]
        if not found and not self.node:
            found = [each for each in self.nodes if any(str(address) in held for address in each.addresses)]
        if len(found) != 1:
            known = ", ".join(each.name for each in self.nodes[:8]) + (", ..." if len(self.nodes) > 8 else "")
            raise invalid("node", wanted, f"name this node as it is called in cluster.nodes ({known})")
        return found[0]


def shapes(raw: object) -> tuple[msgspec.Struct, ...]:
    """What of a `cluster` object is not its network's, typed. Raises CniError 7."""
    return (typed(raw, _ClusterConf, "cluster"),)


def same_name(one: str, other: str) -> bool:
    """Whether two names are one node's: host names compare without case (RFC 4343), and a kubelet lowers its own."""
    return one.casefold() == other.casefold()


def parse(raw: object) -> Cluster:
    """A cluster from its JSON object. Raises CniError 7."""
    conf = typed(raw, _ClusterConf, "cluster")
    if not conf.nodes:
        raise invalid("nodes", [], "list every node with name, address and podCIDRs")
    network = parse_network(raw, "cluster")
    cluster = Cluster(
        networks=network.networks,
        backend=network.backend,
        options=network.options,
        node=conf.node,
        nodes=tuple(_node(each, f"nodes[{index}]") for index, each in enumerate(conf.nodes)),
        local=address_of("localAddress", conf.local_address) if conf.local_address else None,
    )
    if not conf.settled:
        _check_unique(cluster)
    _check_subnets(cluster)
    return cluster


def render(cluster: Cluster) -> bytes:
    """The JSON that `parse` reads, as a list that a machine keeps."""
    names = {4: "network", 6: "ipv6Network"}
    return msgspec.json.encode({
        **{names[each.version]: str(each) for each in cluster.networks},
        "backend": {"type": cluster.backend, **cluster.options},
        "node": cluster.node,
        **({"localAddress": str(cluster.local)} if cluster.local else {}),
        "nodes": [_node_json(each) for each in cluster.nodes],
        "settled": True,
    })


def used(node: Node, conf: NetworkConf | None) -> Node:
    """A node without the subnets of a family that is switched off."""
    if conf is None or not any(each.version in conf.off for each in node.pod_cidrs):
        return node
    return msgspec.structs.replace(
        node, pod_cidrs=tuple(each for each in node.pod_cidrs if each.version not in conf.off)
    )


def settled(nodes: Iterable[Node], networks: Sequence[Network]) -> tuple[tuple[Node, ...], tuple[str, ...]]:
    """Those that can stand side by side, the elder before the younger, and what there is to complain of.

    Every node of the cluster that sees the same list comes to the same answer.
    """
    kept: list[Node] = []
    complaints: list[str] = []
    claims = _Claims(networks)
    for node in sorted(nodes, key=lambda each: (each.since, each.name)):
        complaint = claims.make(node)
        if complaint:
            complaints.append(complaint)
        else:
            kept.append(node)
    return tuple(sorted(kept, key=lambda each: each.name)), (*complaints, *_shared(kept))


def _shared(nodes: Iterable[Node]) -> Iterator[str]:
    """Of the addresses that several nodes say they have."""
    seen: dict[Address, str] = {}
    for node in nodes:
        for address in node.addresses:
            first = seen.setdefault(address, node.name)
            if first != node.name:
                yield (
                    f"{node.name} has the same address {address} as {first}: what is sent to the pods of both goes to "
                    "the one host that has it; delete the node that is no more, or correct the address"
                )


def _node(conf: _NodeConf, at: str) -> Node:
    addresses = [_reachable(f"{at}.address", address_of(f"{at}.address", conf.address))]
    if conf.ipv6_address:
        addresses.append(_reachable(f"{at}.ipv6Address", address_of(f"{at}.ipv6Address", conf.ipv6_address, 6)))
    return Node(
        conf.name,
        tuple(addresses),
        tuple(network_of(f"{at}.podCIDRs[{index}]", text) for index, text in enumerate(conf.pod_cidrs)),
        conf.backend_data,
        conf.since,
    )


def _reachable(key: str, address: Address) -> Address:
    why = unusable(address)
    if why:
        raise invalid(key, str(address), f"it must be where the other nodes can send to, and it is {why}")
    return address


def _node_json(node: Node) -> dict[str, object]:
    first, *others = map(str, node.addresses)
    return {
        "name": node.name,
        "address": first,
        **({"ipv6Address": others[0]} if others else {}),
        "podCIDRs": [str(each) for each in node.pod_cidrs],
        **({"backendData": node.data} if node.data else {}),
        **({"since": node.since} if node.since else {}),
    }


class _Claims:
    """Who has which name and subnet; a new claim is granted or refused with the reason."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._names: set[str] = set()
        self._first: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}

    def make(self, node: Node) -> str:
        """Grant all that a node claims, or nothing; why not, "" when granted."""
        if node.name in self._names:
            return f"{node.name} is left out: there is an elder node of that name"
        for address in node.addresses:
            if why := unusable(address):
                return f"{node.name} is left out: its address {address} is {why}"
        for cidr in node.pod_cidrs:
            complaint = self._against(cidr)
            if complaint:
                return f"{node.name} is left out: its subnet {complaint}"
        self._names.add(node.name)
        for cidr in node.pod_cidrs:
            insort(self._first[cidr.version], (int(cidr.network_address), int(cidr.broadcast_address), node.name))
        return ""

    def _against(self, cidr: Network) -> str:
        around = [each for each in self._networks if each.version == cidr.version]
        if around and not any(_lies_in(cidr, each) for each in around):
            return f"{cidr} lies outside the cluster's network {around[0]}"
        spans = self._first[cidr.version]
        begin, end = int(cidr.network_address), int(cidr.broadcast_address)
        # those granted lie apart, so the last that begins before our end is the one that could reach into ours
        at = bisect(spans, (end + 1,))
        if at and spans[at - 1][1] >= begin:
            return f"{cidr} overlaps one of {spans[at - 1][2]}"
        return ""


def _lies_in(cidr: Network, network: Network) -> bool:
    return cidr.subnet_of(network)  # type: ignore[arg-type]


def _check_unique(cluster: Cluster) -> None:
    seen: dict[tuple[str, str], str] = {}
    for node in cluster.nodes:
        for pair in (("name", node.name), *(("address", str(each)) for each in node.addresses)):
            if pair in seen:
                raise invalid("nodes", pair[1], f"{node.name} has the same {pair[0]} as {seen[pair]}")
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
            raise invalid("nodes", str(second), f"it is {other}'s and overlaps {first}, which is {one}'s")
    for _, _, name, cidr in owned:
        around = [each for each in cluster.networks if each.version == cidr.version]
        if around and not any(_lies_in(cidr, each) for each in around):
            raise invalid("nodes", str(cidr), f"{name}'s subnet lies outside the cluster's network {around[0]}")


def pod_networks(cluster: Cluster, nodes: Sequence[Node]) -> tuple[str, ...]:
    """What counts as inside the cluster: its networks, and of a family without one the subnets of these nodes."""
    named = {each.version for each in cluster.networks}
    subnets = (cidr for node in nodes for cidr in node.pod_cidrs if cidr.version not in named)
    return tuple(map(str, (*cluster.networks, *subnets)))
