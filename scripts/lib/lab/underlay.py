"""The underlay of a lab in the kernel: the wire's bridges, with a router where there are two, and a node's link to it.

Promises: all of it lies in the namespaces that `topology` names, so it goes with them; a node can be plugged in again
after its namespace was deleted.
"""

from __future__ import annotations

import ipaddress

from scripts.lib.lab import namespaces
from scripts.lib.lab.topology import LINK_NETS, ROUTER, Node, Spec


def make_wire(spec: Spec) -> None:
    """The namespace between the nodes, with a bridge for each link, which has the router's addresses."""
    namespaces.create(spec.wire)
    for link in spec.links:
        nets = [ipaddress.ip_network(LINK_NETS[link, family]) for family in spec.families]
        namespaces.ip(spec.wire, f"link add link{link} mtu {spec.mtu} type bridge")
        _skip_dad(spec, spec.wire, f"link{link}")
        namespaces.ip(
            spec.wire,
            f"link set link{link} up",
            *(f"addr add {net[ROUTER]}/{net.prefixlen} dev link{link}" for net in nets),
        )
    if spec.routed:
        keys = {4: "ipv4__ip_forward", 6: "ipv6__conf__all__forwarding"}
        namespaces.sysctl(spec.wire, **{keys[family]: 1 for family in spec.families})


def make_node(node: Node) -> None:
    """A node's namespace, with an eth0 on the wire that has its addresses."""
    spec = node.spec
    namespaces.create(node.netns)
    nets = [ipaddress.ip_network(LINK_NETS[node.link, family]) for family in spec.families]
    namespaces.ip(
        spec.wire,
        f"link add {node.name} mtu {spec.mtu} type veth peer name eth0 mtu {spec.mtu} netns {node.netns}",
        f"link set {node.name} master link{node.link} up",
    )
    _skip_dad(spec, node.netns, "eth0")
    namespaces.ip(
        node.netns,
        "link set eth0 up",
        *(f"addr add {net[node.number]}/{net.prefixlen} dev eth0" for net in nets),
        *(f"route add default via {net[ROUTER]}" for net in nets),
    )


def _skip_dad(spec: Spec, netns: str, device: str) -> None:
    """Duplicate address detection keeps even the link-local address unusable for a second, and a router cannot ask
    for a neighbour's MAC without one (Linux, ndisc_send_ns). Only for the underlay: the plugin deals with its own."""
    if 6 in spec.families:
        namespaces.sysctl(netns, **{f"ipv6__conf__{device}__accept_dad": 0})
