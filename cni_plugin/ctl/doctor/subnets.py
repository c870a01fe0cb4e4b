"""This node's subnets: that pods have, and are given, addresses which the other nodes send here."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

import msgspec

from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.configs import ConfigFile
from cni_plugin.ctl.doctor.contract import CLUSTER, ERROR, Finding, some
from cni_plugin.ctl.eyes import Eyes, Pod
from cni_plugin.node.former import REMEDY, outside

LAYER = CLUSTER


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster gives this node, and what is used of it."""

    clusters: tuple[Roster, ...] = ()
    configs: tuple[ConfigFile, ...] = ()
    pods: tuple[Pod, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """The list, the configurations, the records."""
    return Facts(clusters=eyes.clusters, configs=eyes.configs, pods=eyes.pods)


def ranges_outside_subnet(facts: Facts) -> Iterator[Finding]:
    """Pods are given addresses that the other nodes do not send here."""
    subnets = {each.network: each.me.subnets for each in facts.clusters if each.me}
    for config in facts.configs:
        mine = [ip_network(each) for each in subnets.get(config.network, ())]
        for text in config.ranges if mine else ():
            span = ip_network(text, strict=False)
            if not any(span.version == each.version and span.subnet_of(each) for each in mine):  # type: ignore[arg-type]
                yield Finding(
                    "ranges-outside-subnet", ERROR, f"ipam ranges in {config.path}",
                    f"{text}; this node's subnets are {', '.join(map(str, mine))}",
                    "pods get addresses that no other node sends here: they reach nobody beyond this node",
                    "remove ipam.ranges (they follow from the cluster), or write this node's own subnet",
                )


def former_subnets(facts: Facts) -> Iterator[Finding]:
    """Pods that live with addresses of a subnet that is not this node's any more, as after it joined anew."""
    for cluster in facts.clusters:
        mine = cluster.me.subnets if cluster.me else ()
        held = {
            f"{pod.container} {pod.ifname}": each
            for pod in facts.pods
            for each in pod.ips
            if pod.network == cluster.network and outside([each], mine)
        }
        if held:
            yield Finding(
                "former-subnet", ERROR, f"addresses of {some(held)} in {cluster.network}",
                f"{', '.join(list(held.values())[:3])}; this node's subnets are {', '.join(mine)}",
                "no other node sends to these pods, and as long as one lives this node's bridge hides the pods of the "
                "node that has that subnet now",
                REMEDY,
            )


FINDINGS = {ranges_outside_subnet: ("ranges-outside-subnet",), former_subnets: ("former-subnet",)}
