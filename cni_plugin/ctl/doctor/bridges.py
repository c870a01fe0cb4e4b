"""The bridges that pods are on: that they are up, keep VLANs apart, and have room for more ports."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.doctor.contract import ERROR, PODS, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes, Pod
from cni_plugin.kernel.see.look import Link, named
from cni_plugin.marks import MOST_PORTS

LAYER = PODS
MANY_PORTS = 900


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The bridges by name, all links, and who wants what of them."""

    bridges: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    pods: tuple[Pod, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """Records and links."""
    return Facts(bridges=eyes.bridges, links=eyes.links, pods=eyes.pods)


def bridge_down(facts: Facts) -> Iterator[Finding]:
    """A bridge that pods are on is down or gone."""
    for name in facts.bridges:
        link = named(facts.links, name)
        if facts.links and (link is None or not link.up):
            yield Finding(
                "bridge-down", ERROR, f"bridge {name}", "gone" if link is None else "down",
                "no pod on it reaches anything", "tullectl repair",
            )


def vlans_not_kept_apart(facts: Facts) -> Iterator[Finding]:
    """A bridge whose pods are in VLANs, and that does not filter them."""
    vlan = [each for each in facts.pods if each.vlan]
    for bridge in dict.fromkeys(each.bridge for each in vlan):
        link = named(facts.links, bridge)
        if link is not None and link.vlan_filtering is False:
            yield Finding(
                "vlan-filtering-off", ERROR, f"vlan_filtering of {bridge}", "0",
                "pods that should be kept apart by VLANs see each other",
                f"ip link set {bridge} type bridge vlan_filtering 1",
            )


def many_ports(facts: Facts) -> Iterator[Finding]:
    """A Linux bridge has room for 1,023 ports."""
    for bridge in facts.bridges:
        count = sum(each.master == bridge for each in facts.links)
        if count >= MANY_PORTS:
            yield Finding(
                "many-ports", ERROR if count >= MOST_PORTS else WARNING, f"ports of {bridge}",
                f"{count} of {MOST_PORTS}",
                "a Linux bridge holds 1,023 ports: the next pods on this node "
                + ("cannot be started" if count >= MOST_PORTS else "will soon not start any more"),
                "lower the kubelet's maxPods, or give a second network a bridge of its own",
            )


FINDINGS = {
    bridge_down: ("bridge-down",),
    vlans_not_kept_apart: ("vlan-filtering-off",),
    many_ports: ("many-ports",),
}
