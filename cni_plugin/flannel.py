"""flannel's net-conf.json, read as flannel reads it (pkg/subnet/config.go, pkg/backend), so that its clusters move as
they are.

    {"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:244::/48", "SubnetLen": 24,
     "Backend": {"Type": "vxlan", "VNI": 1, "Port": 8472, "MTU": 1500, "DirectRouting": true}}

Where that differs from Tulle's own `cluster` object:

    Network         host bits are masked (net.ParseCIDR)
    EnableIPv6      IPv6 is off unless this is true, whatever IPv6Network says
    Backend.MTU     is that of the wire: the overhead still comes off (`wireMTU` in the `cluster` object)
    SubnetLen, -Min, -Max   count where nodes take their subnets themselves (etcd): where Kubernetes or a file hands
                            them out, what is left of them says nothing

What flannel refuses is refused. What it takes and we do otherwise: without a Backend it is `udp`, and here our own
default; a missing Network is no mistake where subnets are handed out, which are then taken as they are; Learning stays
off, for all that could be learned is written down; an MTU is never more than the links to peers have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cni_plugin.backends import contract as backends
from cni_plugin.conf.reading import typed
from cni_plugin.doubts import of_network
from cni_plugin.errors import CniError
from cni_plugin.network import (
    Address,
    Carving,
    Network,
    NetworkConf,
    NetworkKeys,
    address_of,
    backend_of,
    invalid,
    network_of,
    options_of,
)

_WIRE = "wireMTU"
"""Our word for what flannel's MTU means."""
_POINTERS = ("ipv6subnetmin", "ipv6subnetmax")
"""null is absent there; of the other addresses flannel parses the word itself."""


class _Family(NamedTuple):
    """What a file says of one family. `default`: a node's prefix length where it says none; `longest`: with room."""

    version: int
    on: bool
    network: str
    length: int
    lowest: str
    highest: str
    default: int
    longest: int

    def key(self, name: str) -> str:
        """As flannel spells it."""
        return name if self.version == 4 else f"IPv6{name}"


def parse(raw: Mapping[str, object], *, carved: bool = False) -> NetworkConf:
    """From the file's JSON object; `carved`: nodes take their subnets themselves. Raises CniError 7."""
    try:
        return _parsed(raw, carved=carved)
    except CniError as error:  # of the `cluster` object, of which the writer of this file knows nothing
        said = error.msg.replace("cluster.backend", "Backend").replace("cluster.", "").replace(_WIRE, "MTU")
        raise CniError(error.code, said) from error


def _parsed(raw: Mapping[str, object], *, carved: bool) -> NetworkConf:
    _refuse_empty(raw)
    conf = typed(raw, NetworkKeys)
    families = _families(conf)
    networks = {each: _network(each) for each in families if each.network}
    bounds = {each: _bounds(each) for each in families}
    used = [each for each in families if each.on]
    if not used:
        raise invalid("EnableIPv4", False, "with IPv6 off, too, no family is left: set this or EnableIPv6 to true")
    for each in families if carved else ():
        if each.on and each not in networks:
            remedy = f"write one, such as 10.244.0.0/16, or switch IPv{each.version} off by EnableIPv{each.version}"
            raise invalid(each.key("Network"), each.network, remedy)
    return NetworkConf(
        networks=tuple(networks[each] for each in used if each in networks),
        backend=backend_of(conf),
        options=_options(raw, conf),
        carvings=tuple(_carving(each, networks[each], bounds[each]) for each in used) if carved else (),
        off=_off(conf, families),
        doubts=(*_doubts(conf), *of_network(raw, conf)),
    )


def _families(conf: NetworkKeys) -> tuple[_Family, _Family]:
    four = (conf.network, conf.subnet_len, conf.subnet_min, conf.subnet_max)
    six = (conf.ipv6_network, conf.ipv6_subnet_len, conf.ipv6_subnet_min, conf.ipv6_subnet_max)
    return _Family(4, conf.enable_ipv4 is not False, *four, 24, 30), _Family(6, conf.enable_ipv6 is True, *six, 64, 126)


def _off(conf: NetworkKeys, families: tuple[_Family, _Family]) -> tuple[int, ...]:
    """A family that the file speaks of and that is not on; one that it does not know is used as subnets are given."""
    said = {4: conf.enable_ipv4 is not None, 6: conf.enable_ipv6 is not None or bool(conf.ipv6_network)}
    return tuple(each.version for each in families if not each.on and said[each.version])


def _doubts(conf: NetworkKeys) -> list[str]:
    found = []
    if conf.ipv6_network and conf.enable_ipv6 is None:
        found.append(f"IPv6Network is {conf.ipv6_network} and EnableIPv6 is not there: as with flannel, IPv6 is off")
    return found


def _refuse_empty(raw: Mapping[str, object]) -> None:
    """An address that is there and says nothing is no address to flannel either."""
    for key, value in raw.items():
        name = key.lower()
        is_text = name.endswith(("network", "subnetmin", "subnetmax"))
        if is_text and (value == "" or (value is None and name not in _POINTERS)):
            raise invalid(key, value, "write an address, or leave the key out")


def _network(family: _Family) -> Network:
    key = family.key("Network")
    found = network_of(key, family.network, family.version, masked=True)
    if family.on and not found.prefixlen:  # k3s writes ::/0 for a family that it switches off
        raise invalid(key, family.network, "that is every address there is; name the network of the pods")
    return found


def _options(raw: Mapping[str, object], conf: NetworkKeys) -> dict[str, object]:
    """The backend's keys by our names, of the types that they must have: a mistake is one at once, and told."""
    written = next((each for key, each in reversed(list(raw.items())) if key.lower() == "backend"), None)
    given = written if isinstance(written, dict) else {}
    named = {_WIRE if key.lower() == "mtu" else key: each for key, each in given.items() if key.lower() != "type"}
    backends.find(backend_of(conf)).configure(named)
    return {_WIRE.lower() if key == "mtu" else key: each for key, each in options_of(conf).items()}


def _bounds(family: _Family) -> tuple[Address | None, Address | None]:
    """Where the first and the last subnet begin, None where that is not said; to flannel 0.0.0.0 is none."""
    if family.length < 0:
        raise invalid(family.key("SubnetLen"), family.length, "it must not be negative")
    texts = ((family.key("SubnetMin"), family.lowest), (family.key("SubnetMax"), family.highest))
    lowest, highest = (address_of(key, text, family.version) if text else None for key, text in texts)
    return (lowest if lowest and int(lowest) else None), (highest if highest and int(highest) else None)


def _carving(family: _Family, network: Network, bounds: tuple[Address | None, Address | None]) -> Carving:
    """/24 or /64 for a node, or a fourth of a network too small for four; the first is left out."""
    length = _length(family, network)
    size = 1 << (network.max_prefixlen - length)
    for name, each in zip(("SubnetMin", "SubnetMax"), bounds, strict=True):
        if each is not None and (each not in network or int(each) % size):
            raise invalid(family.key(name), str(each), f"it must be where a /{length} of {network} begins")
    first = bounds[0] or network.network_address + size
    last = bounds[1] or network.network_address + network.num_addresses - size
    if int(first) > int(last):
        raise invalid(family.key("SubnetMin"), str(first), f"it must not lie behind {family.key('SubnetMax')} {last}")
    return Carving(network, length, first, last)


def _length(family: _Family, network: Network) -> int:
    least = network.prefixlen + 2
    if least > family.longest:
        raise invalid(family.key("Network"), str(network), f"it has no room for four subnets of /{family.longest}")
    if not family.length:
        return max(family.default, least)
    if not least <= family.length <= family.longest:
        remedy = f"{network} must have room for four subnets, and each for a gateway and a pod: {least} to"
        raise invalid(family.key("SubnetLen"), family.length, f"{remedy} {family.longest}")
    return family.length
