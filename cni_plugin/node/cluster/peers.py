"""This node's part of a cluster: made true when the node list is new or has changed, and left alone otherwise.

    <run>/clusters/<network>      the digest of the list that was programmed, and what pods need to know of it
    <run>/programmed/<network>    the objects that came of it, so that two clusters on one node do not undo each other

An ADD with nothing to change costs one file read and one netlink request, however many peers there are.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from cni_plugin import backend as backends
from cni_plugin import cluster as clusters
from cni_plugin import decoding, doubts
from cni_plugin.conf.plugin import NetConf
from cni_plugin.diff import Op
from cni_plugin.errors import INVALID_CONFIG, TRY_AGAIN_LATER, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.marks import LEAST_MTU, MAX_MTU, TUNNEL_ALIAS
from cni_plugin.model.base import State, state
from cni_plugin.model.host import Feature
from cni_plugin.model.layer3 import Addr, Neigh, Route, Way
from cni_plugin.model.links import Fdb, Up, Vxlan
from cni_plugin.model.nft import NftObject
from cni_plugin.node.cluster import guard
from cni_plugin.node.settle import naming_rivals, settle, settle_most
from cni_plugin.plan.cluster import Plan, Terms, ends, plan
from cni_plugin.plan.identity import aside, too_narrow
from cni_plugin.plan.offload import trusted
from cni_plugin.store.clusters import ClusterFacts, Stamp, cluster_file, load, note, others, programmed, save
from cni_plugin.store.offload import broken
from cni_plugin.store.records import Records

_TICK = 50_000_000
"""Nanoseconds within which two writings of a file may bear the same time."""

def ensure(conf: NetConf, kernel: Kernel, records: Records) -> ClusterFacts | None:
    """Make this node's part of the cluster true if it may not be; None for a network without a cluster.

    Raises CniError 7 for a bad list, 11 for one that the agent has yet to learn, and KernelError.
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
        ops = program(conf.name, conf.cluster, kernel, records)
        print(f"tulle: {conf.name}: the node list is new here: {len(ops)} changes", file=sys.stderr)
        tell_doubts(conf.name, _decoded(conf.cluster, _data(conf.cluster, records)))
        known = load(records, conf.name)
        if known and known.unguarded:
            print(f"tulle: {conf.name}: {known.unguarded}", file=sys.stderr)
        return known


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
    if not (stamp and same) and known.digest != digest_of(_data(conf.cluster, records)):
        return None, False
    if not _stands(known, kernel):
        return None, False
    return msgspec.structs.replace(known, stamp=stamp), same


class Survey(NamedTuple):
    """A cluster as it should be on this node, and as it is."""

    facts: ClusterFacts
    want: State
    have: State


def survey(network: str, source: str | Mapping[str, object], kernel: Kernel, records: Records) -> Survey:
    """Look at everything and touch nothing.

    Raises CniError 7 for a bad list, also for a single peer that cannot be reached, unless an agent keeps the list:
    then that one is left out.
    """
    stamp = stamp_of(source)
    data = _data(source, records)
    cluster = clusters.parse(_decoded(source, data))
    made = planned(cluster, kernel, records)
    if made.refused and source != cluster_file(records):
        raise made.refused[0]
    facts = facts_of(network, cluster, made, source)
    facts = msgspec.structs.replace(facts, digest=digest_of(data), stamp=stamp)
    have = standing(kernel, made.want, others(records, network), facts.device)
    have.update(guard.standing(kernel, made.want, programmed(records, network)))
    return Survey(facts, made.want, have)


def program(network: str, source: str | Mapping[str, object], kernel: Kernel, records: Records) -> list[Op]:
    """Compare all of this node's part with the kernel and put right what differs; the operations that it took.

    Where nothing differs from what is noted no file is written. The caller holds the lock. Raises CniError 7 for a
    bad list, and KernelError.
    """
    facts, want, have = survey(network, source, kernel, records)
    lenient = source == cluster_file(records)
    wanted, found = guard.split(want), guard.split(have)
    with naming_rivals(kernel):
        pair = wanted.network, found.network
        ops = settle_most(kernel, *pair)[0] if lenient else settle(kernel, *pair)
    guarded = guard.settle(kernel, wanted.guard, found.guard)
    facts = as_programmed(facts, kernel, guarded.problem)
    if ops or guarded.ops or load(records, network) != facts:
        save(records, facts, {**want, **guarded.there})
    return ops + guarded.ops


def as_programmed(facts: ClusterFacts, kernel: Kernel, unguarded: str) -> ClusterFacts:
    """With the number that the device got, and why there is no guard."""
    index = kernel.link_index(facts.device) if facts.device else 0
    return msgspec.structs.replace(facts, index=index, unguarded=unguarded)


def planned(cluster: clusters.Cluster, kernel: Kernel, records: Records) -> Plan:
    """What a cluster asks of this node. The kernel is asked for its address and for the ways to all peers.

    Raises CniError 7.
    """
    backend = backends.find(cluster.backend)
    conf = backend.configure(cluster.options)
    me = locate(cluster, kernel, records)
    peers = [each for each in cluster.nodes if each.name != me.node.name]
    ways = kernel.ways({each for peer in peers for each in ends(me, backend, conf, peer)})
    return plan(Terms(with_ways(me, ways, backend), backend, conf), peers)


def locate(cluster: clusters.Cluster, kernel: Kernel, records: Records) -> backends.Me:
    """Which node of the cluster this is, and by which interface. Raises CniError 7."""
    held = frozenset() if cluster.node else kernel.locally_held()
    node = cluster.me(held, os.uname().nodename)
    address = cluster.local or node.addresses[0]
    uplink = kernel.uplink(str(address))
    if uplink is None:
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {node.name}'s address {address} is on no interface of this machine: "
            "correct the address, or cluster.node if this is another node",
        )
    # loopback's, where a machine that routes has its address, says nothing of the links that lead away
    mtu = uplink.mtu if uplink.mtu <= MAX_MTU else kernel.default_mtu() or MAX_MTU
    offload = trusted(kernel.release()) and not broken(records)
    return backends.Me(node, uplink.name, mtu, uplink.prefixes, cluster.local, offload=offload)


def with_ways(me: backends.Me, ways: Mapping[str, Way], backend: backends.Backend) -> backends.Me:
    """This node with the smallest MTU over the interfaces that lead to peers (`me.mtu` is that of its own uplink).

    What is no underlay, or is too narrow for pods, does not count: its peer is left out. Raises CniError 7 when the
    uplink itself leaves too little for IPv6 pods.
    """
    overhead = backend.OVERHEAD[me.underlay.version]
    left = me.mtu - overhead
    if left < LEAST_MTU[6] and any(each.version == 6 for each in me.node.pod_cidrs):
        raise CniError(
            INVALID_CONFIG,
            f"the MTU of {me.mtu} bytes on the way to peers by {me.uplink} leaves {left} for pods, and IPv6 needs "
            f"{LEAST_MTU[6]} (RFC 8200): raise it to at least {LEAST_MTU[6] + overhead}",
        )
    counted = [
        each for each in ways.values() if not (each.own or too_narrow(me, each, overhead) or aside(me, each))
    ]
    uplinks = tuple(sorted({each.dev for each in counted}))
    return me._replace(mtu=min([me.mtu, *(each.mtu for each in counted)]), ways=ways, uplinks=uplinks)


def facts_of(
    network: str, cluster: clusters.Cluster, made: Plan, source: str | Mapping[str, object]
) -> ClusterFacts:
    """What is to be noted of a plan, but for what the list's file is, and what programming tells."""
    me, backend, conf = made.terms
    device = backend.device(conf)
    return ClusterFacts(
        network=network,
        digest="",
        boot=files.boot_id(),
        device=device,
        index=0,
        mtu=_device_mtu(made.local, device) or me.mtu - backend.OVERHEAD[me.underlay.version],
        node=me.node.name,
        backend=cluster.backend,
        pod_cidrs=tuple(map(str, me.node.pod_cidrs)),
        inside=clusters.pod_networks(cluster, cluster.nodes),
        peers=len(cluster.nodes) - 1,
        source=msgspec.Raw(msgspec.json.encode(source)),
        uplinks=me.leading,
        offload=Feature(device, tx_checksum=True) in made.local.values(),
        addresses=tuple(dict.fromkeys(map(str, (me.underlay, *(me.node.addresses if me.local is None else ()))))),
    )


def _data(source: str | Mapping[str, object], records: Records) -> bytes:
    if not isinstance(source, str):
        return msgspec.json.encode(source)
    try:
        return files.follow(source)
    except FileNotFoundError as error:
        if source == cluster_file(records):
            raise CniError(
                TRY_AGAIN_LATER,
                f"the agent has not learned the cluster yet: there is no {source}; its log says what it waits for "
                "(journalctl -u tulled, or kubectl logs)",
            ) from None
        raise _unreadable(source, error) from error
    except OSError as error:
        if error.errno not in files.MISNAMED:
            raise
        raise _unreadable(source, error) from error


def _unreadable(source: str, error: OSError) -> CniError:
    return CniError(INVALID_CONFIG, f"invalid cluster {source!r}: {error.strerror}; name a JSON file that can be read")


def stamp_of(source: str | Mapping[str, object], *, replaced: bool = False) -> Stamp:
    """What tells a file from another one at its place without reading it, () where nothing does.

    Of one that was written just now a second writing might bear the same time (a jiffy, before Linux 6.13), unless it
    is only ever `replaced` by a rename.
    """
    if not isinstance(source, str):
        return ()
    try:
        found = os.stat(source)
    except (OSError, ValueError):  # a path with a NUL in it is none
        return ()
    if not replaced and abs(time.time_ns() - found.st_mtime_ns) < _TICK:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _decoded(source: str | Mapping[str, object], data: bytes) -> object:
    if not isinstance(source, str):
        return source
    try:
        return decoding.decode(data)
    except msgspec.DecodeError as error:
        raise CniError(INVALID_CONFIG, f"invalid cluster {source!r}: the file is not valid JSON: {error}") from error


def digest_of(data: bytes) -> str:
    """What tells a list from every other."""
    return sha256(data).hexdigest()


def _stands(facts: ClusterFacts, kernel: Kernel) -> bool:
    """A device that was deleted, or made anew by somebody, has lost its entries: its index tells."""
    return not facts.device or kernel.link_index(facts.device) == facts.index


def standing(kernel: Kernel, want: State, others: State, device: str) -> State:
    """What bears our mark and is not another cluster's, with what stands where we want something; no guard."""
    on_device = state(Addr(device, each) for each in kernel.addresses(device)) if device else {}
    ours = {key: each for key, each in {**kernel.owned(device), **on_device}.items() if key not in others}
    in_dump = (Route, Neigh, Fdb, NftObject)  # an entry by entry look would cost a message a peer
    alone = [each for each in want.values() if not isinstance(each, in_dump)]
    wanted = {each.key for each in alone}
    used = {each.name for each in (*want.values(), *others.values()) if isinstance(each, Vxlan)}
    idle = [
        Vxlan(link.name, vni=0, port=0, local="", underlay="")
        for link in kernel.own_links()
        if link.alias == TUNNEL_ALIAS and link.name not in used
    ]
    found = kernel.read([*alone, *idle, *(Up(each.name) for each in idle)])
    return {**ours, **{key: each for key, each in found.items() if key in wanted or isinstance(each, Vxlan)}}


def _device_mtu(want: State, device: str) -> int:
    return next((each.mtu for each in want.values() if isinstance(each, Vxlan) and each.name == device), 0)
