"""Attachments: pods without their wire, wires without their pod, and two pods with one address."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import msgspec

from cni_plugin.attachment import owner
from cni_plugin.ctl.doctor.contract import ERROR, PODS, WARNING, Finding
from cni_plugin.ctl.eyes import Eyes, Pod
from cni_plugin.kernel.host import files
from cni_plugin.kernel.see.look import Link

LAYER = PODS


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record, and what stands; `damaged`: records that could not be read."""

    pods: tuple[Pod, ...] = ()
    links: tuple[Link, ...] = ()
    damaged: tuple[str, ...] = ()
    unknown: Mapping[str, str] = {}


def gather(eyes: Eyes) -> Facts:
    """The records, good and bad, and the links."""
    pods = eyes.pods  # who reads a bad record sets it aside
    damaged = eyes.notes.many("damaged records", lambda: _damaged(eyes.records.run_dir))
    return Facts(pods=pods, links=eyes.links, damaged=damaged, unknown=eyes.unknown())


def unplugged(facts: Facts) -> Iterator[Finding]:
    """A record without a veth."""
    for pod in facts.pods:
        if pod.state == "unplugged":
            yield Finding(
                "unplugged", ERROR, f"attachment {_called(pod)}",
                f"{pod.host_dev} is gone",
                "the pod runs and has no network: somebody deleted its veth", "tullectl repair",
            )


def duplicate_addresses(facts: Facts) -> Iterator[Finding]:
    """Two attachments on record with one address."""
    holders: dict[str, list[str]] = {}
    for pod in facts.pods:
        for each in pod.ips:
            holders.setdefault(each.partition("/")[0], []).append(_called(pod))
    for address, who in holders.items():
        if len(who) > 1:
            yield Finding(
                "duplicate-address", ERROR, f"holders of {address}", "; ".join(who),
                "packets for one of these pods reach the other, now and then: connections break at random",
                "delete one of them, and look with tullectl ipam check how its lease was lost",
            )


def damaged_records(facts: Facts) -> Iterator[Finding]:
    """Records that cannot be read count as none."""
    for path in facts.damaged:
        yield Finding(
            "damaged-record", WARNING, path, "not readable, set aside",
            "what that pod owns is known by its names alone: DEL still works, CHECK and repair do not know it any more",
            f"delete the pod, then: rm '{path}'",
        )


def dead_attachments(facts: Facts) -> Iterator[Finding]:
    """Pods that are gone without a DEL."""
    for pod in facts.pods:
        if pod.state == "dead":
            yield Finding(
                "dead-attachment", WARNING, f"attachment {_called(pod)}",
                f"its namespace {pod.netns} is gone",
                "the pod ended and nobody told Tulle: its addresses stay taken until it is deleted or collected",
                f"let the runtime remove the sandbox (crictl rmp {pod.container[:12]}) or collect (GC)",
            )


def orphans(facts: Facts) -> Iterator[Finding]:
    """A veth of ours that no record tells of."""
    if "attachments" in facts.unknown:
        return
    known = {each.host_dev for each in facts.pods}
    for link in facts.links:
        who = owner(link.alias) if link.kind == "veth" else None
        if who is not None and link.name not in known:
            yield Finding(
                "orphan", WARNING, f"link {link.name}", link.alias,
                "the veth of a pod that is on no record: a DEL will find nothing to remove, and the port stays taken",
                f"ip link del {link.name}, unless {'its pod' if who.sealed else f'pod {who.container}'} still runs",
            )


def _called(pod: Pod) -> str:
    return f"{pod.container} {pod.ifname} in {pod.network}"


def _damaged(run_dir: str) -> Iterator[str]:
    """Records that could not be read, and were set aside when somebody tried; and what is no network's folder."""
    base = f"{run_dir}/attachments"
    for network in files.names(base):
        if not os.path.isdir(f"{base}/{network}"):
            yield f"{base}/{network}"
            continue
        for name in sorted(os.listdir(f"{base}/{network}")):
            if name.startswith(files.DAMAGED):
                yield f"{base}/{network}/{name}"


FINDINGS = {
    unplugged: ("unplugged",),
    duplicate_addresses: ("duplicate-address",),
    damaged_records: ("damaged-record",),
    dead_attachments: ("dead-attachment",),
    orphans: ("orphan",),
}
