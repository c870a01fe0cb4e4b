"""The MTU of pods that live, made what the underlay leaves now (failure 14).

A pod keeps the MTU that its ADD gave it until the way to some peer gets narrower or wider; then packets that are too
large vanish somewhere in between, or room is wasted. Whoever fixed an MTU in the configuration keeps it, and so does
who changed the pod's link since. The record comes last, so that what a kill leaves half done is found and done again.

    follow(kernel, records, attachment, 1400)  ->  [change Veth tl4f0c9d2a81b, change PodLink eth0]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.conf.reading import decode
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.kernel.watch.changed import Changed
from cni_plugin.model.base import Object
from cni_plugin.model.links import PodLink, Veth
from cni_plugin.node.contract import BRIDGED, TURN, Inspection, Quiet
from cni_plugin.node.site import Site
from cni_plugin.plugins import parse
from cni_plugin.store.clusters import ClusterFacts
from cni_plugin.store.records import Record, Records
from cni_plugin.wirings.contract import Width


class Part(Quiet):
    """Those that have another one than their cluster leaves; a sandbox that is gone is let be."""

    NAME = "MTU"
    ORDER = 40
    ON: Changed = TURN
    CAUSES: Changed = BRIDGED

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One for each cluster."""
        del changed
        for facts in site.facts():
            yield Inspection(f"MTU of pods in {facts.network}", partial(_put_right, site, facts))


def _put_right(site: Site, facts: ClusterFacts) -> Sequence[Op]:
    behind = site.attachments.behind(facts.network, facts.mtu)
    ops = [op for each in behind for op in follow(site.kernel, site.records, each, facts.mtu, dry_run=site.dry_run)]
    if behind:
        site.attachments.refresh()
    return ops


def follow(
    kernel: Kernel, records: Records, attachment: Attachment, mtu: int, *, dry_run: bool = False
) -> list[Op]:
    """Give an attachment this MTU, in bytes, or what its wiring carries of it; the operations that it took.

    It takes none if it is gone. One whose namespace cannot be entered is let be as long as its wire is there: the end
    that sends comes first or not at all. Raises CniError, KernelError, OSError.
    """
    record = records.find(attachment)
    if record is None or record.mtu == mtu:
        return []
    wiring = parse(decode(bytes(record.conf))).wiring
    width = Width(mtu) if wiring is None else wiring.carried(record.bridge, mtu, kernel)
    if record.mtu == width.pod:
        return []
    try:
        kernel.enter(record.netns, allow_own=True)
        ops = _changes(kernel, record, width)
        if not dry_run:
            kernel.apply(ops)
    except NetnsError:
        if kernel.link_index(attachment.host_dev):
            return []
        ops = []
    finally:
        kernel.leave()
    if dry_run:
        return ops
    with records.lock():
        now = records.find(attachment)
        if now is not None and now.created == record.created:
            objects = tuple(_resized(each, width) for each in now.objects)
            records.put(msgspec.structs.replace(now, mtu=width.pod, objects=objects))
    return ops


def _changes(kernel: Kernel, record: Record, width: Width) -> list[Op]:
    """The end that sends gets less before the other, and more after it.

    Where the node's end is gone, so is the pod's, and what bears its name in that namespace is another's.
    """
    made = {each.key: each.mtu for each in record.objects if isinstance(each, Veth | PodLink)}
    stood = kernel.read(each for each in record.objects if each.key in made)
    if Veth(record.attachment.host_dev).key not in stood:
        return []
    have = {key: each for key, each in stood.items() if getattr(each, "mtu", 0) == made[key]}
    want = {key: _resized(each, width) for key, each in have.items()}
    ops = diff(want, have)
    return sorted(ops, key=lambda op: isinstance(op.object, PodLink), reverse=width.pod < record.mtu)


def _resized(each: Object, width: Width) -> Object:
    match each:
        case Veth():
            return msgspec.structs.replace(each, mtu=width.port or width.pod, peer_mtu=width.pod if width.port else 0)
        case PodLink():
            return msgspec.structs.replace(each, mtu=width.pod)
        case _:
            return each
