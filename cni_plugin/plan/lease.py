"""What the configuration adds to what the IPAM gave: gateways, default routes, DNS. Pure.

Source: the reference bridge plugin's visible effects (containernetworking/plugins, plugins/main/bridge).
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

import msgspec

from cni_plugin.conf.plugin import NetConf
from cni_plugin.plan.address import interface
from cni_plugin.plan.node import family
from cni_plugin.spec import Dns, IPConfig, Result, RouteConfig

_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


def completed(lease: Result, *, place: int, gateway: bool, default: bool) -> Result:
    """The lease with gateways where the node is one, and default routes by them where they are wanted.

    `place` is that of the pod's end among the result's interfaces.
    """
    ips = tuple(_completed(each, place, gateway=gateway) for each in lease.ips)
    routes = (*lease.routes, *(_default_routes(ips, lease.routes) if default else ()))
    return msgspec.structs.replace(lease, ips=ips, routes=routes)


def dns(conf: NetConf, leased: Dns) -> Dns:
    """What the runtime asks for this pod goes before the network's own, and that before the IPAM's."""
    asked = conf.runtime_config.dns
    base = conf.dns if conf.dns != Dns() else leased
    return Dns(
        asked.servers or base.nameservers, base.domain, asked.searches or base.search, asked.options or base.options
    )


def gateways(ips: Sequence[IPConfig]) -> tuple[str, ...]:
    """The gateways of these leases, with prefix lengths."""
    return tuple(
        dict.fromkeys(f"{each.gateway}/{interface(each.address).network.prefixlen}" for each in ips if each.gateway)
    )


def subnets(ips: Sequence[IPConfig]) -> tuple[str, ...]:
    """The networks that these addresses are in."""
    return tuple(dict.fromkeys(str(interface(each.address).network) for each in ips))


def _completed(each: IPConfig, place: int, *, gateway: bool) -> IPConfig:
    via = each.gateway
    if not via and gateway:
        via = str(interface(each.address).network.network_address + 1)
    return IPConfig(each.address, via, place)


def _default_routes(ips: Sequence[IPConfig], routes: Sequence[RouteConfig]) -> list[RouteConfig]:
    """One a family, unless the IPAM gave a default route with a gateway for it."""
    given = {family(each.dst) for each in routes if each.gw and ip_network(each.dst, strict=False).prefixlen == 0}
    first = {family(each.address): each.gateway for each in reversed(ips) if each.gateway}
    return [RouteConfig(_DEFAULT[number], first[number]) for number in sorted(first) if number not in given]
