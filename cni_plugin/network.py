"""What a cluster's network is: its address space, how that is cut into the nodes' subnets, and what carries packets.

    {"Network": "10.244.0.0/16", "SubnetLen": 24, "Backend": {"Type": "vxlan", "VNI": 1}}

That is flannel's net-conf.json, which is accepted as it is; keys match in any case. A family is in use when its network
is given, unless `enableIPv4` or `enableIPv6` says false.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

import msgspec

from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.netconf import _Conf, typed

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

_DEFAULT_LENGTH = {4: 24, 6: 64}
_LONGEST = {4: 30, 6: 126}
"""A subnet needs room for a gateway and a pod, besides its first address and its last."""
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
"""For VXLAN it means "every MAC that is not known" (drivers/net/vxlan/vxlan_core.c, vxlan_xmit)."""
_NAMES = {
    4: ("network", "subnetLen", "subnetMin", "subnetMax"),
    6: ("ipv6Network", "ipv6SubnetLen", "ipv6SubnetMin", "ipv6SubnetMax"),
}


class _NetworkConf(_Conf, frozen=True):
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
    """The network configuration; `options` are the backend's own keys."""

    carvings: tuple[Carving, ...]
    backend: str
    options: Mapping[str, object]

    @property
    def networks(self) -> tuple[Network, ...]:
        """The address space of each family in use."""
        return tuple(each.network for each in self.carvings)


def parse(raw: object, at: str = "the network configuration") -> NetworkConf:
    """From its JSON object; keys that are not about the network are left alone. Raises CniError 7."""
    conf = typed(raw, _NetworkConf, at)
    backend = conf.backend.get("type", "vxlan")
    if not isinstance(backend, str):
        raise invalid("backend.type", backend, "give the name of a backend, such as vxlan or host-gw")
    four = (conf.network, conf.subnet_len, conf.subnet_min, conf.subnet_max)
    six = (conf.ipv6_network, conf.ipv6_subnet_len, conf.ipv6_subnet_min, conf.ipv6_subnet_max)
    return NetworkConf(
        carvings=tuple(
            _carving(family, given)
            for family, given, enabled in ((4, four, conf.enable_ipv4), (6, six, conf.enable_ipv6))
            if given[0] and enabled is not False
        ),
        backend=backend,
        options={key: each for key, each in conf.backend.items() if key != "type"},
    )


def invalid(key: str, value: object, remedy: str) -> CniError:
    """The error for a key of the cluster's configuration."""
    return CniError(INVALID_CONFIG, f"invalid cluster.{key} {value!r}: {remedy}")


def network_of(key: str, text: str, family: int | None = None) -> Network:
    """A network from its text. Raises CniError 7 that names the key."""
    try:
        network = ip_network(text)
    except ValueError as error:
        raise invalid(key, text, f"write a network as address/prefix: {error}") from None
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


def _carving(family: int, given: tuple[str, int, str, str]) -> Carving:
    """flannel's defaults: /24 or /64, or two bits longer than a network too small for four; the first is left out."""
    text, length, lowest, highest = given
    name, name_of_length, name_of_first, name_of_last = _NAMES[family]
    network = network_of(name, text, family)
    default = _DEFAULT_LENGTH[family]
    longest = max(_LONGEST[family], network.prefixlen)
    length = length or (default if network.prefixlen <= default - 2 else min(network.prefixlen + 2, longest))
    if not network.prefixlen <= length <= longest:
        raise invalid(name_of_length, length, f"a subnet of {network} has a length of {network.prefixlen} to {longest}")
    size = 1 << (network.max_prefixlen - length)
    end = int(network.broadcast_address) + 1 - size
    second = min(int(network.network_address) + size, end)
    first = address_of(name_of_first, lowest, family) if lowest else _address(family, second)
    last = address_of(name_of_last, highest, family) if highest else _address(family, end)
    for key, each in ((name_of_first, first), (name_of_last, last)):
        if each not in network or int(each) % size:
            raise invalid(key, str(each), f"it must be where a /{length} of {network} begins")
    if int(first) > int(last):
        raise invalid(name_of_first, str(first), f"it must not lie behind {name_of_last} {last}")
    return Carving(network, length, first, last)


def _address(family: int, value: int) -> Address:
    return IPv4Address(value) if family == 4 else IPv6Address(value)
