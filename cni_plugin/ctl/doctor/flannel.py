"""What flannel left behind, or still has: links of its own, and a device with our VNI on our port."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.doctor.contract import CLUSTER, ERROR, HINT, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes
from cni_plugin.kernel.see.look import Link, named

LAYER = CLUSTER
_FLANNEL = ("flannel.", "flannel-v6.", "flannel-wg", "flannel.ipip")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All links, which of them are ours, and what the clusters' own devices have."""

    links: tuple[Link, ...] = ()
    own: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    clusters: tuple[Roster, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """The links and the clusters."""
    return Facts(links=eyes.links, own=eyes.own, bridges=eyes.bridges, clusters=eyes.clusters)


def leftovers(facts: Facts) -> Iterator[Finding]:
    """What flannel left behind, and a device of somebody else's with our VNI on our port, of which one alone works."""
    ours = {each.device: each for each in facts.clusters if each.device}
    for link in facts.links:
        if link.name in ours or link.name in facts.own:
            continue
        same = (each for each in ours.values() if link.vni and (each.vni, each.port) == (link.vni, link.udp_port))
        clash = next(same, None)
        if clash is not None:
            yield Finding(
                "vni-clash", ERROR, f"VNI {link.vni} on UDP port {link.udp_port} of {link.name}",
                f"{clash.device} has the same", "the kernel lets one device have them: the other cannot be made",
                f"ip link del {link.name}, once nobody uses it, or set another backend.vni for the whole cluster",
            )
        elif link.name.startswith(_FLANNEL):
            yield Finding(
                "flannel-leftover", WARNING, f"link {link.name}", "there",
                "routes of flannel's may lead packets into a network that is no more",
                f"when flannel is gone from this node: ip link del {link.name}",
            )
    yield from _cni0(facts)


def _cni0(facts: Facts) -> Iterator[Finding]:
    link = named(facts.links, "cni0")
    if link is None or "cni0" in facts.bridges or not facts.clusters:
        return
    ports = sum(each.master == "cni0" for each in facts.links)
    yield Finding(
        "flannel-leftover", HINT if ports else WARNING, "link cni0", f"{ports} ports",
        "pods of the former network still run on it: they are not Tulle's" if ports
        else "an empty bridge whose subnet may be this node's own: packets to pods end there",
        "delete those pods, they come back on Tulle" if ports else "ip link del cni0",
    )


FINDINGS = {leftovers: ("vni-clash", "flannel-leftover")}
