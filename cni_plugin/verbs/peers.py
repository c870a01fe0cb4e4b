"""This node's part of a cluster: made true when the node list is new or has changed, and left alone otherwise.

    <run>/clusters/<network>      the digest of the list that was programmed, and what pods need to know of it
    <run>/programmed/<network>    the objects that came of it, so that two clusters on one node do not undo each other

An ADD with nothing to change costs one file read and one netlink request, however many peers there are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

import msgspec

from cni_plugin import backend as backends
from cni_plugin import cluster as clusters
from cni_plugin.diff import Op
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel import files
from cni_plugin.kernel.door import Kernel
from cni_plugin.model import Addr, AnyObject, Route, State, Up, Vxlan, state
from cni_plugin.netconf import NetConf
from cni_plugin.plan.node import node_state
from cni_plugin.records import Records
from cni_plugin.verbs.ensure import settle

VXLAN_ALIAS = "tulle:vxlan"


class Facts(msgspec.Struct, frozen=True):
    """What was programmed, and what wiring a pod needs to know of it. `mtu` in bytes."""

    network: str
    digest: str
    boot: str
    device: str
    index: int
    mtu: int
    node: str
    backend: str
    pod_cidrs: tuple[str, ...]
    inside: tuple[str, ...]
    peers: int
    source: msgspec.Raw


def ensure(conf: NetConf, kernel: Kernel, records: Records) -> Facts | None:
    """Make this node's part of the cluster true if it may not be; None for a network without a cluster.

    Raises CniError 7 for a bad list, and KernelError.
    """
    if conf.cluster is None:
        return None
    data = _data(conf.cluster)
    known = load(records, conf.name)
    if known is not None and known.digest == _digest(data) and _stands(known, kernel):
        return known
    with records.lock():
        known = load(records, conf.name)
        if known is not None and known.digest == _digest(data) and _stands(known, kernel):
            return known
        ops = program(conf.name, conf.cluster, kernel, records)
        print(f"tulle: {conf.name}: the node list is new here: {len(ops)} changes", file=sys.stderr)
        return load(records, conf.name)


class Survey(NamedTuple):
    """A cluster as it should be on this node, and as it is."""

    facts: Facts
    want: State
    have: State


def survey(network: str, source: str | Mapping[str, object], kernel: Kernel, records: Records) -> Survey:
    """Look at everything and touch nothing. Raises CniError 7 for a bad list."""
    data = _data(source)
    cluster = clusters.parse(_decoded(source, data))
    backend = backends.find(cluster.backend)
    options = backend.configure(cluster.options)
    me = _me(cluster, kernel)
    want = node_state(me, (each for each in cluster.nodes if each != me.node), backend, options)
    device = backend.device(options)
    facts = Facts(
        network=network,
        digest=_digest(data),
        boot=files.boot_id(),
        device=device,
        index=0,
        mtu=_device_mtu(want, device) or me.mtu - backend.OVERHEAD[me.node.addresses[0].version],
        node=me.node.name,
        backend=cluster.backend,
        pod_cidrs=tuple(map(str, me.node.pod_cidrs)),
        inside=clusters.pod_networks(cluster, cluster.nodes),
        peers=len(cluster.nodes) - 1,
        source=msgspec.Raw(msgspec.json.encode(source)),
    )
    return Survey(facts, want, _have(kernel, want, _programmed(records, network), device))


def program(network: str, source: str | Mapping[str, object], kernel: Kernel, records: Records) -> list[Op]:
    """Compare all of this node's part with the kernel and put right what differs; the operations that it took.

    Where nothing differs from what is noted no file is written. The caller holds the lock. Raises CniError 7 for a
    bad list, and KernelError.
    """
    facts, want, have = survey(network, source, kernel, records)
    ops = settle(kernel, want, have)
    facts = msgspec.structs.replace(facts, index=kernel.link_index(facts.device) if facts.device else 0)
    if ops or not _is_noted(records, facts):
        _save(records, facts, want)
    return ops


def load(records: Records, network: str) -> Facts | None:
    """What was programmed for a network in this boot."""
    try:
        data = files.read(f"{records.run_dir}/clusters/{network}")
        facts = msgspec.json.decode(data, type=Facts) if data else None
    except (msgspec.MsgspecError, OSError):
        return None
    return facts if facts is not None and facts.boot == files.boot_id() else None


def all_facts(records: Records) -> list[Facts]:
    """What was programmed for each network."""
    found = (load(records, name) for name in files.names(f"{records.run_dir}/clusters"))
    return [each for each in found if each is not None]


def programmed(records: Records, network: str) -> State:
    """The objects that were programmed for a network."""
    try:
        data = files.read(f"{records.run_dir}/programmed/{network}")
        return state(msgspec.json.decode(data, type=tuple[AnyObject, ...])) if data else {}
    except (msgspec.MsgspecError, OSError):
        return {}


def forget(records: Records, network: str) -> None:
    """Drop what is noted of a network, so that the next ensure begins anew."""
    files.remove(f"{records.run_dir}/clusters/{network}")
    files.remove(f"{records.run_dir}/programmed/{network}")


def _data(source: str | Mapping[str, object]) -> bytes:
    if not isinstance(source, str):
        return msgspec.json.encode(source)
    try:
        return files.follow(source)
    except OSError as error:
        raise CniError(
            INVALID_CONFIG, f"invalid cluster {source!r}: {error.strerror}; name a JSON file that can be read"
        ) from error


def _decoded(source: str | Mapping[str, object], data: bytes) -> object:
    if not isinstance(source, str):
        return source
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CniError(INVALID_CONFIG, f"invalid cluster {source!r}: the file is not valid JSON: {error}") from error


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _stands(facts: Facts, kernel: Kernel) -> bool:
    """A device that was deleted, or made anew by somebody, has lost its entries: its index tells."""
    return not facts.device or kernel.link_index(facts.device) == facts.index


def _me(cluster: clusters.Cluster, kernel: Kernel) -> backends.Me:
    node = cluster.me(kernel.locally_held(), os.uname().nodename)
    uplink = kernel.uplink(str(node.addresses[0]))
    if uplink is None:
        raise CniError(
            INVALID_CONFIG,
            f"cluster.nodes: {node.name}'s address {node.addresses[0]} is on no interface of this machine: "
            "correct the address, or cluster.node if this is another node",
        )
    return backends.Me(node, uplink.name, uplink.mtu, uplink.prefixes)


def _have(kernel: Kernel, want: State, others: State, device: str) -> State:
    """What bears our mark and is not another cluster's, with what stands at the places that we want."""
    # Routes and entries come from the one dump; an entry by entry look would cost a message a peer.
    on_device = state(Addr(device, each) for each in kernel.addresses(device)) if device else {}
    ours = {key: each for key, each in {**kernel.owned(device), **on_device}.items() if key not in others}
    alone = [each for each in want.values() if not isinstance(each, Route) and each.key[0] not in ("neigh", "fdb")]
    wanted = {each.key for each in alone}
    used = {each.name for each in (*want.values(), *others.values()) if isinstance(each, Vxlan)}
    idle = [
        Vxlan(link.name, vni=0, port=0, local="", underlay="")
        for link in kernel.own_links()
        if link.alias == VXLAN_ALIAS and link.name not in used
    ]
    found = kernel.read([*alone, *idle, *(Up(each.name) for each in idle)])
    return {**ours, **{key: each for key, each in found.items() if key in wanted or isinstance(each, Vxlan)}}


def _programmed(records: Records, but: str) -> State:
    """What other clusters' networks had programmed."""
    found: State = {}
    for name in files.names(f"{records.run_dir}/programmed"):
        if name != but:
            found.update(programmed(records, name))
    return found


def _is_noted(records: Records, facts: Facts) -> bool:
    known = load(records, facts.network)
    return known is not None and msgspec.json.encode(known) == msgspec.json.encode(facts)


def _device_mtu(want: State, device: str) -> int:
    return next((each.mtu for each in want.values() if isinstance(each, Vxlan) and each.name == device), 0)


def _save(records: Records, facts: Facts, want: State) -> None:
    for folder in ("clusters", "programmed"):
        files.make_folder(f"{records.run_dir}/{folder}")
    files.write(f"{records.run_dir}/programmed/{facts.network}", msgspec.json.encode(tuple(want.values())))
    files.write(f"{records.run_dir}/clusters/{facts.network}", msgspec.json.encode(facts))
