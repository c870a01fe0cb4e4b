"""The clusters that this node is in, as `tullectl` sees them: who is there, by which way, and if the kernel has it.

The list is the one that was programmed (`<run>/clusters/<network>` names it), or that an agent wrote or a configuration
names where nothing was programmed yet. By which way a peer is reached is what the backend's own `peer` says, and
whether that stands is one look at the kernel for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from cni_plugin import cluster as clusters
from cni_plugin import decoding, mesh
from cni_plugin.backends.contract import Device
from cni_plugin.cluster import Cluster, Node
from cni_plugin.ctl import configs
from cni_plugin.ctl.cluster.roster import DIRECT, Member, Roster, natural
from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Route
from cni_plugin.node.cluster import guard
from cni_plugin.node.cluster.planner import planned
from cni_plugin.plan.cluster import Part, Plan
from cni_plugin.store.clusters import CLUSTER_FILE, ClusterFacts, all_facts, cluster_file
from cni_plugin.store.offload import broken
from cni_plugin.store.records import Records
from cni_plugin.verbs.run import as_cni_error

_replace = msgspec.structs.replace

class _Listed(NamedTuple):
    """Where a list is, by network, and what was programmed of it."""

    network: str
    source: object
    facts: ClusterFacts | None


def memberships(kernel: Kernel, records: Records, conf_dir: str) -> list[Roster]:
    """All clusters of this node. Raises OSError when the folders cannot be looked at; bad lists are in `trouble`."""
    return [_membership(each, kernel, records) for each in _listed(records, conf_dir)]


def _listed(records: Records, conf_dir: str) -> Iterator[_Listed]:
    seen: set[str] = set()
    paths: set[object] = set()
    for facts in all_facts(records):
        source = decoding.decode(facts.source)
        seen.add(facts.network)
        paths.add(source if isinstance(source, str) else "")
        yield _Listed(facts.network, source, facts)
    for each in configs.read(conf_dir, ()):
        if each.conf is not None and each.conf.cluster is not None and each.conf.name not in seen:
            seen.add(each.conf.name)
            paths.add(each.conf.cluster if isinstance(each.conf.cluster, str) else "")
            yield _Listed(each.conf.name, each.conf.cluster, None)
    path = cluster_file(records)
    if path not in paths and os.path.exists(path):
        yield _Listed(CLUSTER_FILE.partition(".")[0], path, None)


def _membership(listed: _Listed, kernel: Kernel, records: Records) -> Roster:
    where = listed.source if isinstance(listed.source, str) else "the configuration itself"
    facts = listed.facts
    empty = Roster(network=listed.network, source=where, programmed=facts is not None)
    try:
        cluster = clusters.parse(_raw(listed.source))
        found = _replace(
            empty, backend=cluster.backend, networks=tuple(map(str, cluster.networks)), mtu=facts.mtu if facts else 0,
            unguarded=facts.unguarded if facts else "",
            slow=_slow(cluster, facts, kernel, records) if facts else "",
        )
    except Exception as error:
        return _replace(empty, trouble=as_cni_error(error).msg)
    try:
        return _filled(found, planned(cluster, kernel, records), cluster, kernel)
    except Exception as error:
        members = tuple(_plain(each, tunnel=True) for each in cluster.nodes)
        return _replace(found, trouble=as_cni_error(error).msg, members=members)


def _slow(cluster: Cluster, facts: ClusterFacts, kernel: Kernel, records: Records) -> str:
    said = any(key.lower() == "txchecksum" for key in cluster.options)
    if not facts.device or facts.offload or said:
        return ""
    return broken(records) or f"Linux {kernel.release()} is older than 5.8, and may get them wrong after NAT"


def _filled(found: Roster, made: Plan, cluster: Cluster, kernel: Kernel) -> Roster:
    me, backend, conf = made.terms
    devices = backend.devices(conf)
    device = next(iter(devices), Device(""))
    have = {**kernel.owned(*(each.name for each in devices)), **guard.standing(kernel, made.want, {})}
    if found.unguarded:
        made = made._replace(parts={name: _unguarded(part) for name, part in made.parts.items()})
    members = []
    for node in cluster.nodes:
        plain = _plain(node, tunnel=bool(devices))
        part = made.parts.get(node.name)
        way = (cluster.backend, device.name)
        members.append(_reached(plain, part, have, way) if part else _replace(plain, me=True))
    return _replace(
        found,
        node=me.node.name,
        device=device.name,
        vni=device.number,
        port=device.port,
        members=tuple(sorted(members, key=lambda each: natural(each.name))),
    )


def _unguarded(part: Part) -> Part:
    return part._replace(state=guard.split(part.state).network)


def _raw(source: object) -> object:
    if not isinstance(source, str):
        return source
    try:
        return decoding.decode(files.follow(source))
    except OSError as error:
        raise CniError(INVALID_CONFIG, f"{source}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise CniError(INVALID_CONFIG, f"{source} is not valid JSON: {error}") from error


def _plain(node: Node, *, tunnel: bool) -> Member:
    return Member(
        name=node.name,
        addresses=tuple(map(str, node.addresses)),
        subnets=tuple(map(str, node.pod_cidrs)),
        overlay=tuple(map(str, mesh.overlay(node, tunnel=tunnel))),
        since=node.since,
    )


def _reached(plain: Member, part: Part, have: State, kind: tuple[str, str]) -> Member:
    if part.refused is not None:
        return _replace(plain, why=part.refused.msg)
    there = {key: have[key] for key in part.state if key in have}
    return _replace(plain, way=_way(part.state, *kind), missing=tuple(script(diff(part.state, there)).splitlines()))


def _way(want: State, backend: str, device: str) -> str:
    """By the links of the routes: past the backend's own device it goes directly."""
    links = {each.dev for each in want.values() if isinstance(each, Route)}
    return backend if not device or device in links else DIRECT if links else ""
