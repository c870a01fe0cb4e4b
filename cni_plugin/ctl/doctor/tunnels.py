"""Tunnels between nodes: that only peers can speak through them, and that they are as fast as they can be."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.doctor.contract import CLUSTER, HINT, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes

LAYER = CLUSTER


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The clusters with their devices."""

    clusters: tuple[Roster, ...] = ()


def gather(eyes: Eyes) -> Facts:
    """What was programmed."""
    return Facts(clusters=eyes.clusters)


def not_guarded(facts: Facts) -> Iterator[Finding]:
    """nftables cannot keep those out who are no peers."""
    for each in facts.clusters:
        if each.unguarded:
            yield Finding(
                "not-guarded", WARNING, f"UDP port {each.port} of {each.device}", each.unguarded,
                "any pod, and any host that reaches this node, can send to its pods as if it were another pod",
                "modprobe nf_tables, or install nftables (Debian: apt install nftables); then tullectl repair",
            )


def slow_tunnel(facts: Facts) -> Iterator[Finding]:
    """Checksums that the tunnel's device computes."""
    for each in facts.clusters:
        if each.slow:
            yield Finding(
                "slow-tunnel", HINT, f"checksums of {each.device}", f"not left to the NIC: {each.slow}",
                "the kernel cuts each stream into packets above the tunnel: about a fifth of the speed between nodes",
                'another driver or firmware of the NIC, or a newer kernel; who knows better sets "txChecksum": true in '
                "the backend",
            )


FINDINGS = {not_guarded: ("not-guarded",), slow_tunnel: ("slow-tunnel",)}
