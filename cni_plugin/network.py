"""What a cluster's network is: its address space, how that is cut into the nodes' subnets, and what carries packets.

    {"network": "10.244.0.0/16", "ipv6Network": "fd00:10:244::/48", "backend": {"type": "host-gw"}}

Those are keys of Tulle's own `cluster` object, in any case. A family is in use when its network is given, unless
`enableIPv4` or `enableIPv6` says false. flannel's net-conf.json has the same keys and means some of them otherwise:
`flannel` reads that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

import msgspec

from cni_plugin.conf import reading
from cni_plugin.conf.reading import Conf, typed
from cni_plugin.errors import CniError
from cni_plugin.rooms import default

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

_NOWHERE: tuple[tuple[Network, str], ...] = (
    (IPv4Network("0.0.0.0/8"), "unspecified"),
    (IPv4Network("127.0.0.0/8"), "a loopback address"),
    (IPv4Network("169.254.0.0/16"), "link-local, somebody else's on each link"),
    (IPv4Network("224.0.0.0/4"), "a multicast address"),
    (IPv4Network("240.0.0.0/4"), "reserved, or everybody's (broadcast)"),
    (IPv6Network("::/128"), "unspecified"),
    (IPv6Network("::1/128"), "a loopback address"),
    (IPv6Network("::ffff:0:0/96"), "an IPv4 address in IPv6's clothes: write that"),
    (IPv6Network("100::/64"), "for what is to be discarded"),
    (IPv6Network("fe80::/10"), "link-local, somebody else's on each link"),
    (IPv6Network("ff00::/8"), "a multicast address"),
)
"""Where no node can be that others send to (RFC 6890, and the registries that it began)."""
_UNICAST_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")
"""The lowest bit of the first byte is clear."""
_NO_MAC = "00:00:00:00:00:00"
"""To a tunnel's device it means "every MAC that is not known" (`bridge fdb`)."""


class NetworkKeys(Conf, frozen=True):
    """The keys, as `cluster` and net-conf.json have them."""

    network: str = ""
    subnet_len: int = 0
    subnet_min: str = ""
    subnet_max: str = ""
    ipv6_network: str = ""
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: str = ""
    ipv6_subnet_max: str = ""
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    backend: Mapping[str, object] = {}


class Carving(NamedTuple):
    """How one family's network is cut: subnets of prefix length `length`, from the one at `first` to that at `last`."""

    network: Network
    length: int
    first: Address
    last: Address


class NetworkConf(msgspec.Struct, frozen=True):
    """The network configuration: the address space of each family in use, and the backend with its own keys.

    `carvings` are there where nodes take their subnets themselves. `off` are families (4, 6) whose subnets are not
    used, also where a node has one. `doubts` are told to people.
    """

    networks: tuple[Network, ...]
    backend: str
    options: Mapping[str, object]
    carvings: tuple[Carving, ...] = ()
    off: tuple[int, ...] = ()
    doubts: tuple[str, ...] = ()


def parse(raw: object, at: str = "cluster") -> NetworkConf:
    """From the `cluster` object; keys that are not about the network are left alone. Raises CniError 7."""
    conf = typed(raw, NetworkKeys, at)
    found = (
        ("network", conf.network, 4, conf.enable_ipv4), ("ipv6Network", conf.ipv6_network, 6, conf.enable_ipv6)
    )
    return NetworkConf(
        networks=tuple(
            network_of(key, text, family) for key, text, family, enabled in found if text and enabled is not False
        ),
        backend=backend_of(conf),
        options=options_of(conf),
    )


def backend_of(conf: NetworkKeys) -> str:
    """The backend's name, which may be written in any case. Raises CniError 7."""
    backend = conf.backend["type"] if "type" in conf.backend else default("backends")
    if not isinstance(backend, str):
        raise invalid("backend.type", backend, f"give the name of a backend, such as {default('backends')} or host-gw")
    return backend.lower()


def options_of(conf: NetworkKeys) -> dict[str, object]:
    """The backend's own keys."""
    return {key: each for key, each in conf.backend.items() if key != "type"}


def invalid(key: str, value: object, remedy: str) -> CniError:
    """The error for a key of the cluster's configuration."""
    return reading.invalid(f"cluster.{key}", value, remedy)


def network_of(key: str, text: str, family: int | None = None, *, masked: bool = False) -> Network:
    """A network from its text; `masked`: the host's bits count for nothing. Raises CniError 7 that names the key."""
    try:
        network = ip_network(text, strict=not masked)
    except ValueError as error:
        raise invalid(key, text, f"write a network as address/prefix: {error}") from None
    if not text.partition("/")[2].isdigit():  # a netmask, or an address alone, which would be a network of one
        raise invalid(key, text, f"write a network as address/prefix, such as {network}")
    if family is not None and network.version != family:
        raise invalid(key, text, f"it must be an IPv{family} network")
    return network


def address_of(key: str, text: str, family: int | None = None) -> Address:
    """An address from its text. Raises CniError 7 that names the key."""
    try:
        address = ip_address(text)
    except ValueError:
        raise invalid(key, text, "write an IPv4 or IPv6 address without a prefix") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise invalid(key, text, "write it without a zone: what follows the % means something on one machine alone")
    if family is not None and address.version != family:
        raise invalid(key, text, f"it must be an IPv{family} address")
    return address


@lru_cache(maxsize=4096)
def unusable(address: Address) -> str:
    """Why no node can be reached at this address, "" for one that may be a node's. Remembered: lists come often."""
    return next((why for network, why in _NOWHERE if address in network), "")


def is_unicast_mac(text: str) -> bool:
    """Whether it is the MAC of one interface, six bytes in lower case hexadecimal, colons in between."""
    return _UNICAST_MAC.fullmatch(text) is not None and text != _NO_MAC
