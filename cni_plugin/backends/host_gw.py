"""host-gw: each peer is the gateway to its pods. No tunnel, no overhead; all nodes must share a link.

    ip route add 10.244.2.0/24 via 192.0.2.2 dev eth0 proto 84

Where the peer has no IPv4 address, IPv4 pods are reached through its IPv6 one (`via inet6`, RFC 5549, Linux 5.2).
"""

from __future__ import annotations

from collections.abc import Mapping

from cni_plugin.backends.contract import Device, Me, Word
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import Conf, typed
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.model.base import State, state
from cni_plugin.model.layer3 import Route
from cni_plugin.network import Address
from cni_plugin.rooms import default

OVERHEAD: Mapping[int, int] = {4: 0, 6: 0}
NEEDS: Mapping[str, str] = {}
KEY = None
SAYS: Mapping[str, Word] = {}


class Config(Conf, frozen=True):
    """Nothing to set."""


def configure(options: Mapping[str, object]) -> Config:
    """Other backends' keys (`vni`, `port`, ...) are ignored, so that `type` alone switches a cluster."""
    return typed({}, Config) if options else Config()


def devices(conf: Config) -> tuple[Device, ...]:
    """It has none of its own."""
    del conf
    return ()


def announce(node: Node, conf: Config) -> Mapping[str, str]:
    """Nothing beyond address and subnets."""
    del node, conf
    return {}


def ends(me: Me, peer: Node, conf: Config) -> tuple[Address, ...]:
    """The gateway of each family that has pods."""
    del me, conf
    found = {cidr.version: _end(peer, cidr.version) for cidr in peer.pod_cidrs}
    return tuple(dict.fromkeys(each for each in found.values() if each is not None))


def local(me: Me, conf: Config) -> State:
    """Nothing but the uplink that is there."""
    del me, conf
    return {}


def derived(peer: Node) -> bool:
    """Always."""
    del peer
    return True


def doubt(peer: Node, conf: Config) -> str:
    """Nothing is announced that could be wrong."""
    del peer, conf
    return ""


def gate(conf: Config) -> None:
    """Peers' packets come as they are: there is no tunnel."""
    del conf


def peer(me: Me, peer: Node, conf: Config) -> State:
    """A route for each of the peer's subnets. Raises CniError 7 when the peer is not on this node's link."""
    del conf
    gateways = {cidr: _gateway(me, peer, cidr.version) for cidr in peer.pod_cidrs}
    return state(
        Route(dst=str(cidr), dev=me.link_to(gateway), via=str(gateway)) for cidr, gateway in gateways.items()
    )


def _end(peer: Node, family: int) -> Address | None:
    return peer.address(family) or (peer.address(6) if family == 4 else None)


def _gateway(me: Me, peer: Node, family: int) -> Address:
    gateway = _end(peer, family)
    if gateway is None:
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {peer.name} has IPv6 pods but no IPv6 address to route them to: give it an ipv6Address, "
            f"or use the {default('backends')} backend",
        )
    if not me.link_to(gateway):
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {peer.name}'s address {gateway} is not on the link of {me.uplink} "
            f"({', '.join(me.prefixes)}): host-gw needs all nodes on one link; use the "
            f"{default('backends')} backend, with directRouting for the peers that are",
        )
    return gateway
