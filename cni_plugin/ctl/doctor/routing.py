"""Routing for pods: that the kernel forwards in their families, and does not drop what comes in by another way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, NODE, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes, Limit, number
from cni_plugin.plan.node import FORWARDING

LAYER = NODE
_ALL = "net/ipv4/conf/all/rp_filter"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The families (4, 6) that this node must route for its pods, and by which links."""

    families: tuple[int, ...] = ()
    bridges: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    sysctls: dict[str, str] = {}
    unknown: Mapping[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """What there is to route, and the sysctls that it takes."""
    ways = [name for each in eyes.limits for name in (each.uplink, each.device) if name]
    links = dict.fromkeys([*eyes.bridges, *ways])
    sysctls = eyes.sysctls([*FORWARDING.values(), _ALL, *map(_filter, links)])
    return Facts(
        families=eyes.families, bridges=eyes.bridges, limits=eyes.limits, sysctls=sysctls, unknown=eyes.unknown()
    )


def no_ipv6(facts: Facts) -> Iterator[Finding]:
    """Pods are to have IPv6 addresses, and the kernel has no IPv6 (ipv6.disable=1, or built without)."""
    key = FORWARDING[6]
    if 6 in facts.families and key not in facts.sysctls and key not in facts.unknown:
        yield Finding(
            "no-ipv6", ERROR, key, "there is no such key",
            "pods are given IPv6 addresses, and this kernel cannot carry them: no pod of that network starts",
            "remove ipv6.disable=1 from the kernel's command line, or the IPv6 ranges from the configuration",
        )


def forwarding_off(facts: Facts) -> Iterator[Finding]:
    """The kernel does not route for the pods."""
    for family in facts.families:
        key = FORWARDING[family]
        if facts.sysctls.get(key) == "0":
            yield Finding(
                "forwarding-off", ERROR, key, "0",
                f"pods reach each other on this node and nothing else by IPv{family}: no other node, no Service, no "
                "Internet; something has switched off what ADD switches on",
                f"sysctl -w {key}=1, and look for who sets it in /etc/sysctl.d",
            )


def strict_rp_filter(facts: Facts) -> Iterator[Finding]:
    """The kernel uses the larger of `all` and the link's own value (Documentation/networking/ip-sysctl.rst)."""
    everywhere = number(facts.sysctls.get(_ALL))
    uplinks = [each.uplink for each in facts.limits if each.uplink]
    tunnels = [each.device for each in facts.limits if each.device]
    for dev in dict.fromkeys([*facts.bridges, *tunnels, *uplinks]):
        key = _filter(dev)
        own = facts.sysctls.get(key)
        if own is not None and max(everywhere, number(own)) == 1:
            yield Finding(
                "strict-rp-filter", WARNING, key, f"{own} (all: {everywhere})",
                f"the kernel silently drops what comes in by {dev} when the answer would leave by another interface: "
                "connections by a second NIC, a nodePort or a tunnel hang",
                f"sysctl -w {key}=2",
            )


def _filter(dev: str) -> str:
    return f"net/ipv4/conf/{dev}/rp_filter"


FINDINGS = {no_ipv6: ("no-ipv6",), forwarding_off: ("forwarding-off",), strict_rp_filter: ("strict-rp-filter",)}
