"""Keys and values of a network in etcd, in flannel's own words, so that its nodes and ours share one cluster.

    /coreos.com/network/config                  {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}
    /coreos.com/network/subnets/10.244.5.0-24   {"PublicIP": "192.0.2.5", "PublicIPv6": null, "BackendType": "vxlan",
                                                 "BackendData": {"VNI": 1, "VtepMAC": "0a:54:0a:f4:05:00"},
                                                 "Node": "n5", "Since": 1763700000.0}

A node with a subnet of each family has both in its key: `10.244.5.0-24&fd00:10:244:5::-64` (flannel's
pkg/subnet/subnet.go). `Node` and `Since` are ours; flannel, as every reader of JSON in Go, passes over keys it does not
know, and its nodes are called after their address. A value without a BackendType is a reservation: nobody lives there
yet. Pure. Promises: what cannot be understood is still taken, for its key says so, and is nobody's peer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from typing import NamedTuple

import msgspec

from cni_plugin import decoding
from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.backends.contract import in_flannels_words, misfits
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import Conf, typed
from cni_plugin.errors import CniError
from cni_plugin.network import Address, Network

CONFIG, SUBNETS = "config", "subnets/"
NOWHERE = IPv4Address(0)
"""flannel's PublicIP of a node that has no IPv4 address: its type has no other word for that."""


class _Value(Conf, frozen=True):
    public_ip: str = ""
    public_ipv6: str = ""
    backend_type: str = ""
    backend_data: Mapping[str, object] = {}
    backend_v6_data: Mapping[str, object] = {}
    node: str = ""
    since: float = 0.0


class Stored(NamedTuple):
    """A key as etcd has it: `created` and `modified` are revisions, `lease` is 0 where there is none."""

    key: str
    value: bytes
    created: int
    modified: int
    lease: int


class Entry(NamedTuple):
    """A subnet that somebody has. `name`: what the value calls its node, "" for a flannel's; `backend`: "" for none."""

    stored: Stored
    cidrs: tuple[Network, ...]
    name: str = ""
    addresses: tuple[Address, ...] = ()
    backend: str = ""
    data: Mapping[str, str] = {}
    since: float = 0.0
    problem: str = ""

    @property
    def node(self) -> Node | None:
        """Whom to reach there: None while it is but reserved, or cannot be understood."""
        if not self.backend or not self.addresses:
            return None
        return Node(self.name or str(self.addresses[0]), self.addresses, self.cidrs, self.data, self.since)


def key_of(cidrs: Sequence[Network]) -> str:
    """The last part of the key for a subnet of one family, or one of each."""
    ordered = sorted(cidrs, key=lambda each: each.version)
    return "&".join(f"{each.network_address}-{each.prefixlen}" for each in ordered)


def cidrs_of(key: str) -> tuple[Network, ...]:
    """The subnets that a key names, IPv4 first. Raises ValueError when it names none."""
    cidrs = tuple(ip_network("/".join(each.rsplit("-", 1))) for each in key.split("&"))
    if [each.version for each in cidrs] not in ([4], [6], [4, 6]) or key_of(cidrs) != key:
        raise ValueError("write it as flannel does: 10.244.5.0-24, or 10.244.5.0-24&fd00:10:244:5::-64")
    return cidrs


def entry(stored: Stored) -> Entry:
    """What a key below `subnets/` says. Raises ValueError when the key names no subnet."""
    cidrs = cidrs_of(stored.key)
    try:
        value = typed(decoding.decode(stored.value), _Value)
        addresses = tuple(ip_address(each) for each in (value.public_ip, value.public_ipv6) if each)
        data = _data(value.backend_data or value.backend_v6_data, value.backend_type)
    except (ValueError, CniError) as error:
        why = error.msg if isinstance(error, CniError) else str(error)
        return Entry(stored, cidrs, problem=f"{stored.key} is taken, but its value is not understood: {why}")
    told = tuple(each for each in addresses if each != NOWHERE)
    return Entry(stored, cidrs, value.node, told, value.backend_type, data, value.since)


def value_of(said: Announcement, cidrs: tuple[Network, ...], node: str, since: float) -> bytes:
    """What this node writes under its key.

    flannel's nodes look for BackendV6Data where the key has an IPv6 subnet, and leave a node without it out as a whole.
    """
    four, six = (next((each for each in said.addresses if each.version == family), None) for family in (4, 6))
    written = in_flannels_words(said.data(cidrs), said.backend)
    has_six = any(each.version == 6 for each in cidrs)
    return msgspec.json.encode({
        "PublicIP": str(four or NOWHERE),
        "PublicIPv6": str(six) if six else None,
        "BackendType": said.backend,
        **({"BackendData": written} if written else {}),
        **({"BackendV6Data": written} if written and has_six else {}),
        "Node": node,
        "Since": since,
    })


def _data(raw: Mapping[str, object], backend: str) -> Mapping[str, str]:
    """What a backend announced, as strings. Raises ValueError for what cannot be meant."""
    data = {key.lower(): str(each) for key, each in raw.items() if isinstance(each, str | int)}
    for key, meant in misfits(data, backend).items():
        raise ValueError(f"{data[key]!r}: {meant}")
    return data
