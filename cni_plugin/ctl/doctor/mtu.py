"""MTUs: that a packet which fits a pod's link fits the whole way out of this node."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import LINKS, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes, Limit, Pod
from cni_plugin.kernel.see.look import Link, named

LAYER = LINKS


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What each network must fit through, and the links on the way there."""

    limits: tuple[Limit, ...] = ()
    pods: tuple[Pod, ...] = ()
    links: tuple[Link, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """The ways out, the pods' ends and what is in between."""
    return Facts(limits=eyes.limits, pods=eyes.pods, links=eyes.links)


def mtu_too_large(facts: Facts) -> Iterator[Finding]:
    """A packet that fits a pod's link does not fit the way out."""
    for limit in facts.limits:
        # a network without gateways is switched on its bridge and does not leave by the uplink
        pods = [each for each in facts.pods if each.network == limit.network and each.gateways]
        names = [limit.device, *(each.bridge for each in pods), *(each.host_dev for each in pods)]
        links = [link for name in dict.fromkeys(names) if name and (link := named(facts.links, name))]
        wrong = [each for each in links if limit.mtu and each.mtu > limit.most]
        if wrong:
            around = f" less {limit.overhead} for the tunnel" if limit.overhead else ""
            others = f" (and {len(wrong) - 1} more links)" if len(wrong) > 1 else ""
            yield Finding(
                "mtu-too-large", WARNING, f"mtu of {wrong[0].name}{others}",
                f"{wrong[0].mtu}; {limit.uplink} has {limit.mtu}{around}",
                "small packets pass and large ones vanish: ping works, downloads and TLS handshakes hang",
                f'set "mtu": {limit.most} in the configuration (or remove it) and start the pods anew; now: '
                + "; ".join(f"ip link set {each.name} mtu {limit.most}" for each in wrong[:3]),
            )


def mtu_differs(facts: Facts) -> Iterator[Finding]:
    """The two ends of a pod's wire, or the bridge between them, disagree."""
    for pod in facts.pods:
        link, bridge = named(facts.links, pod.host_dev), named(facts.links, pod.bridge)
        if link is None or bridge is None:
            continue
        ends = {f"bridge {bridge.name}": bridge.mtu, link.name: link.mtu}
        ends |= {f"{pod.ifname} in {pod.container}": pod.mtu} if pod.mtu else {}
        if len(set(ends.values())) > 1:
            least = min(ends.values())
            yield Finding(
                "mtu-differs", WARNING, f"mtu of {link.name}", ", ".join(f"{key} {each}" for key, each in ends.items()),
                "frames larger than the narrowest of them are dropped without a word: large transfers of this pod hang",
                f"ip link set {link.name} mtu {least}; ip link set {bridge.name} mtu {least}; "
                f"nsenter --net={pod.netns} ip link set {pod.ifname} mtu {least}",
            )


FINDINGS = {mtu_too_large: ("mtu-too-large",), mtu_differs: ("mtu-differs",)}
