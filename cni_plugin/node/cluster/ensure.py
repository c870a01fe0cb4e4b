"""What an ADD needs of this node's part of a cluster: that it is true, at no cost where it is already.

An ADD with nothing to change costs one file read and one netlink request, however many peers there are.
"""

from __future__ import annotations

import sys

import msgspec

from cni_plugin import doubts
from cni_plugin.backends import contract as backends
from cni_plugin.conf.plugin import NetConf
from cni_plugin.errors import NOT_AVAILABLE, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.modules import remedy
from cni_plugin.node.cluster.lists import data_of, decoded, digest_of, read, stamp_of
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.store.clusters import ClusterFacts, load, note
from cni_plugin.store.records import Records


def ensure(conf: NetConf, kernel: Kernel, records: Records, *, wary: bool = False) -> ClusterFacts | None:
    """Make this node's part of the cluster true if it may not be; None for a network without a cluster.

    `wary`: what the backend needs of the kernel is looked for before. Raises CniError 7 for a bad list, 11 for one that
    the agent has yet to learn, 50 for a kernel that was found to lack something, and KernelError.
    """
    if conf.cluster is None:
        return None
    known, noted = _current(conf, kernel, records)
    if known is not None and noted:
        return known
    with records.lock():
        known, noted = _current(conf, kernel, records)
        if known is not None:
            note(records, known)  # what the file looks like now spares the next one the reading
            return known
        if wary:
            _refuse_lacking(read(conf.cluster, records).cluster.backend, kernel)
        member = Participant(conf.name, kernel, records)
        ops = member.program(conf.cluster)
        print(f"tulle: {conf.name}: the node list is new here: {len(ops)} changes", file=sys.stderr)
        tell_doubts(conf.name, decoded(conf.cluster, data_of(conf.cluster, records)))
        if member.facts and member.facts.unguarded:
            print(f"tulle: {conf.name}: {member.facts.unguarded}", file=sys.stderr)
        return member.facts


def _refuse_lacking(backend: str, kernel: Kernel) -> None:
    needs = backends.find(backend).NEEDS
    for each in kernel.lacks(needs):
        raise CniError(NOT_AVAILABLE, f"the kernel has no {each}, and {needs[each]}", remedy(each))


def tell_doubts(network: str, raw: object) -> None:
    """What is probably a mistake in a list, on stderr."""
    for each in doubts.of_cluster(raw):
        print(f"tulle: {network}: {each}", file=sys.stderr)


def _current(conf: NetConf, kernel: Kernel, records: Records) -> tuple[ClusterFacts | None, bool]:
    """What came of the list as it is now, unless somebody took the device away; whether just that is noted."""
    assert conf.cluster is not None
    known = load(records, conf.name)
    if known is None:
        return None, False
    stamp = stamp_of(conf.cluster)
    same = known.stamp == stamp
    if not (stamp and same) and known.digest != digest_of(data_of(conf.cluster, records)):
        return None, False
    if not _stands(known, kernel):
        return None, False
    return msgspec.structs.replace(known, stamp=stamp), same


def _stands(facts: ClusterFacts, kernel: Kernel) -> bool:
    """A device that was deleted, or made anew by somebody, has lost its entries: its index tells."""
    return not facts.device or kernel.link_index(facts.device) == facts.index
