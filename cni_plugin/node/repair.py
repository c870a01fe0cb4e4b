"""Put right what somebody broke: everything that is on record, compared with the kernel once more.

The same states that ADD applied, from the records alone; no configuration is needed. The node's own state comes first
(clusters, bridges, masquerade, the pods' ports on the bridges), which the agent's loop looks at on every change; what
stands inside the pods' namespaces only `tullectl repair` looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import msgspec

from cni_plugin import decoding
from cni_plugin.attachment import Attachment
from cni_plugin.conf.reading import decode
from cni_plugin.diff import Op, diff, differences
from cni_plugin.errors import CniError
from cni_plugin.features.contract import World
from cni_plugin.features.masquerade import feature as masqueraded
from cni_plugin.kernel.door import Kernel, OwnLink
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.marks import BRIDGE_ALIAS
from cni_plugin.model.base import Object, State, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge, Fdb, Port, PortVlan, Up, Veth
from cni_plugin.node import former
from cni_plugin.node.cluster import guard
from cni_plugin.node.cluster.peers import program, survey
from cni_plugin.node.mtu import follow, follows
from cni_plugin.node.settle import apply, steps
from cni_plugin.plan.pod import lasting
from cni_plugin.plugins import Plugin, parse
from cni_plugin.store.clusters import ClusterFacts, all_facts, programmed
from cni_plugin.store.records import Record, Records
from cni_plugin.wirings.bridge import wiring as bridge_wiring
from cni_plugin.wirings.contract import Base, Wiring


class Repair(NamedTuple):
    """One thing that was looked at: what it took to put it right, or why that could not be done."""

    what: str
    ops: tuple[Op, ...] = ()
    problem: str = ""


class Use(NamedTuple):
    """What attachments want of a bridge. `created` is the time of the newest of them; `mtu` in bytes."""

    created: float
    bridge: str
    gateways: tuple[str, ...]
    mtu: int
    plugin: Plugin


def repair(kernel: Kernel, records: Records, *, dry_run: bool = False) -> Iterator[Repair]:
    """Look at every cluster, the bridges, the masquerade, and every attachment; with `dry_run` only look."""
    attachments = list(records.all())
    yield gateways(kernel, records, dry_run=dry_run)
    for facts in all_facts(records):
        yield cluster(facts, kernel, records, dry_run=dry_run)
    for facts in all_facts(records):
        behind = [each.attachment for each in attachments if _is_behind(each, facts)]
        yield mtu(kernel, records, behind, facts, dry_run=dry_run)
    attachments = list(records.all())
    uses = (Use(each.created, each.bridge, each.gateways, each.mtu, _plugin(each)) for each in attachments)
    for want in bridges(uses).values():
        yield bridge(kernel, records, want, dry_run=dry_run)
    yield masquerade(kernel, records, dry_run=dry_run)
    on = {each.attachment: each.bridge for each in attachments}
    links = {each.name: each for each in kernel.own_links()}
    yield ports(kernel, records, on, links, dry_run=dry_run)
    for record in attachments:
        name = f"attachment {record.container} {record.ifname} in {record.network}"
        yield _attempt(name, partial(_attachment, kernel, record, dry_run=dry_run))


def cluster(facts: ClusterFacts, kernel: Kernel, records: Records, *, dry_run: bool = False) -> Repair:
    """This node's part of a cluster. Where all is right no file is written."""
    return _attempt(f"cluster of {facts.network}", partial(_cluster, facts, kernel, records, dry_run=dry_run))


def guarded(facts: ClusterFacts, kernel: Kernel, records: Records) -> Repair:
    """The guard of a cluster's tunnel, when others have changed rules."""
    with records.lock():
        before = programmed(records, facts.network)
        found = guard.restore(kernel, guard.split(before).guard, before)
    return Repair(f"guard of {facts.network}", tuple(found.ops), found.problem)


def mtu(
    kernel: Kernel, records: Records, behind: Iterable[Attachment], facts: ClusterFacts, *, dry_run: bool = False
) -> Repair:
    """The MTU of attachments that have another one than their cluster leaves; a sandbox that is gone is let be."""
    step = partial(_follow, kernel, records, behind, facts.mtu, dry_run=dry_run)
    return _attempt(f"MTU of pods in {facts.network}", step)


def gateways(kernel: Kernel, records: Records, *, dry_run: bool = False) -> Repair:
    """What is left on our bridges of subnets that were this node's; in the way of clusters, so before them."""
    return _attempt("gateways of former subnets", partial(former.clear, kernel, records, dry_run=dry_run))


def bridges(uses: Iterable[Use]) -> dict[str, State]:
    """What each bridge must be for the attachments on it: where they differ, what the newest one's ADD made of it."""
    found: dict[str, State] = {}
    in_order = sorted(uses, key=lambda each: each.created)
    for use in in_order:
        conf, wiring = use.plugin.conf, use.plugin.wiring
        if not use.bridge or wiring is None:
            continue
        forced = in_order if wiring.forces(conf) else ()
        others = {gateway for each in forced if each.plugin.conf.name != conf.name for gateway in each.gateways}
        base = Base(conf, use.bridge, use.gateways, use.mtu)
        found[use.bridge] = _joined(found.get(use.bridge, {}), wiring, base, others)
    return found


def bridge(kernel: Kernel, records: Records, want: State, mac: str = "", *, dry_run: bool = False) -> Repair:
    """A bridge as `bridges` tells, with this MAC if it is ours: the pods' neighbour entries hold the one it had.

    Who finds something to do looks again under the lock: an ADD may be making the same bridge.
    """
    name = next(each.name for each in want.values() if isinstance(each, Bridge))
    return _attempt(f"bridge {name}", partial(_bridge, kernel, records, want, mac, dry_run=dry_run))


def masquerade(kernel: Kernel, records: Records, *, dry_run: bool = False) -> Repair:
    """The chain of all networks."""
    return _attempt("masquerade", partial(_masquerade, kernel, records, dry_run=dry_run))


def ports(
    kernel: Kernel,
    records: Records,
    on: Mapping[Attachment, str],
    links: Mapping[str, OwnLink],
    *,
    dry_run: bool = False,
) -> Repair:
    """The host's ends that are down or have lost their bridge (`on`: the bridge of each; `links`: ours, by name).

    A pair that is gone is not made anew.
    """
    stray = [
        (each, link)
        for each, name in on.items()
        if (link := links.get(each.host_dev)) is not None and (link.master != name or not link.up)
    ]
    return _attempt("ports of pods", partial(_ports, kernel, records, stray, dry_run=dry_run))


def _attempt(what: str, step: Callable[[], list[Op]]) -> Repair:
    try:
        return Repair(what, tuple(step()))
    except NetnsError as error:
        return Repair(what, problem=f"its namespace {error.path} is gone; GC or DEL will take the rest away")
    except (CniError, KernelError, OSError, msgspec.MsgspecError) as error:
        return Repair(what, problem=str(error))


def _plugin(record: Record) -> Plugin:
    return parse(decode(bytes(record.conf)))


def _cluster(facts: ClusterFacts, kernel: Kernel, records: Records, *, dry_run: bool) -> list[Op]:
    source = decoding.decode(facts.source)
    if dry_run:
        _, want, have = survey(facts.network, source, kernel, records)
        return steps(kernel, want, have)
    with records.lock():
        return program(facts.network, source, kernel, records)


def _is_behind(record: Record, facts: ClusterFacts) -> bool:
    """Whether an attachment has another MTU than its cluster leaves, and nobody fixed it."""
    return record.network == facts.network and record.mtu != facts.mtu and follows(_plugin(record).conf)


def _follow(
    kernel: Kernel, records: Records, behind: Iterable[Attachment], mtu: int, *, dry_run: bool
) -> list[Op]:
    return [op for each in behind for op in follow(kernel, records, each, mtu, dry_run=dry_run)]


def _joined(known: State, wiring: Wiring, base: Base, others: Collection[str]) -> State:
    """What another use adds: addresses stand side by side (failure 10) unless `forceAddress` puts earlier ones out,

    which it does with its own network's: not with those, which are other networks' gateways.
    """
    present = (each.address for each in known.values() if isinstance(each, Addr) and each.address not in others)
    out = wiring.displaced(base, present)
    kept = {key: each for key, each in known.items() if key not in out}
    return {**kept, **wiring.adopt(wiring.host(base), kept)}


def _bridge(kernel: Kernel, records: Records, want: State, mac: str, *, dry_run: bool) -> list[Op]:
    ops = _bridge_ops(kernel, want, mac)
    if dry_run or not ops:
        return ops
    with records.lock():
        ops = _bridge_ops(kernel, want, mac)
        apply(kernel, ops)
    return ops


def _bridge_ops(kernel: Kernel, want: State, mac: str) -> list[Op]:
    have = kernel.read(want.values())
    adopted = bridge_wiring.adopt(want, have)
    for key, each in want.items():
        if mac and isinstance(each, Bridge) and getattr(have.get(key, each), "alias", "") == BRIDGE_ALIAS:
            adopted[key] = msgspec.structs.replace(adopted[key], mac=mac)
    return steps(kernel, adopted, have)


def _settle(kernel: Kernel, want: State, have: State, *, dry_run: bool) -> list[Op]:
    ops = diff(want, have)
    if not dry_run:
        apply(kernel, ops)
    return ops


def _masquerade(kernel: Kernel, records: Records, *, dry_run: bool) -> list[Op]:
    with nullcontext() if dry_run else records.lock():  # looking leaves nothing behind, not even a lock
        want = masqueraded.state(World(records.masquerades()))
        return _settle(kernel, want, kernel.read({**masqueraded.places(), **want}.values()), dry_run=dry_run)


def _ports(kernel: Kernel, records: Records, stray: list[tuple[Attachment, OwnLink]], *, dry_run: bool) -> list[Op]:
    found = ((records.find(attachment), link) for attachment, link in stray)
    want = state(each for record, link in found if record is not None for each in _port(record, link))
    # who is no port of a bridge may not even be asked for entries (EINVAL); one that stands is put there again
    have = kernel.read(each for each in want.values() if not isinstance(each, Fdb))
    return _settle(kernel, want, have, dry_run=dry_run)


def _port(record: Record, link: OwnLink) -> Iterator[Object]:
    """The host's end on its bridge, with all that it loses with it; what is inside the pod is not looked at."""
    if not link.up:
        yield Up(link.name)
    for each in record.objects:
        if isinstance(each, Veth):
            yield msgspec.structs.replace(each, mac="", mtu=0, peer="", peer_mac="", peer_mtu=0)
        elif isinstance(each, Port | PortVlan | Fdb):
            yield each


def _attachment(kernel: Kernel, record: Record, *, dry_run: bool) -> list[Op]:
    """A pair that is gone is made anew as it was; of one that stands only what nobody else may change is put back."""
    kernel.enter(record.netns, allow_own=True)
    stands = kernel.link_index(record.attachment.host_dev) != 0
    want = state(lasting(record.objects) if stands else record.objects)
    have = kernel.read(want.values())
    if stands and any("master" in differences(each, have[key]) for key, each in want.items() if key in have):
        want |= state(each for each in record.objects if isinstance(each, Fdb))  # they went with the bridge
    ops = _settle(kernel, want, have, dry_run=dry_run)
    if not stands and not dry_run:
        kernel.announce(record.ifname, record.attachment.host_dev)
    return ops
