"""Put right what somebody broke: everything that is on record, compared with the kernel once more.

The same states that ADD applied, from the records alone; no configuration is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import msgspec

from cni_plugin.diff import Op, diff
from cni_plugin.errors import CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.model import State, state
from cni_plugin.netconf import decode, parse
from cni_plugin.plan.masquerade import masquerade_chain
from cni_plugin.plan.node import adopt, bridge_state
from cni_plugin.plan.pod import lasting
from cni_plugin.records import Record, Records
from cni_plugin.verbs.ensure import apply
from cni_plugin.verbs.peers import Facts, all_facts, program, survey


class Repair(NamedTuple):
    """One thing that was looked at: what it took to put it right, or why that could not be done."""

    what: str
    ops: tuple[Op, ...] = ()
    problem: str = ""


def repair(kernel: Kernel, records: Records, *, dry_run: bool = False) -> Iterator[Repair]:
    """Look at every cluster, the bridges, the masquerade, and every attachment; with `dry_run` only look."""
    for facts in all_facts(records):
        yield _attempt(f"cluster of {facts.network}", partial(_cluster, facts, kernel, records, dry_run=dry_run))
    attachments = list(records.all())
    for bridge, want in _bridges(kernel, attachments).items():
        yield _attempt(f"bridge {bridge}", partial(_settle, kernel, want, dry_run=dry_run))
    yield _attempt("masquerade", partial(_masquerade, kernel, records, dry_run=dry_run))
    for record in attachments:
        name = f"attachment {record.container} {record.ifname} in {record.network}"
        yield _attempt(name, partial(_attachment, kernel, record, dry_run=dry_run))


def _attempt(what: str, step: Callable[[], list[Op]]) -> Repair:
    try:
        return Repair(what, tuple(step()))
    except NetnsError as error:
        return Repair(what, problem=f"its namespace {error.path} is gone; GC or DEL will take the rest away")
    except (CniError, KernelError, OSError) as error:
        return Repair(what, problem=str(error))


def _cluster(facts: Facts, kernel: Kernel, records: Records, *, dry_run: bool) -> list[Op]:
    source = msgspec.json.decode(facts.source)
    if dry_run:
        _, want, have = survey(facts.network, source, kernel, records)
        return diff(want, have)
    with records.lock():
        return program(facts.network, source, kernel, records)


def _bridges(kernel: Kernel, attachments: list[Record]) -> dict[str, State]:
    """What each bridge must be for the attachments on it."""
    found: dict[str, State] = {}
    for record in attachments:
        conf = parse(decode(bytes(record.conf)))
        want = bridge_state(conf, record.bridge, record.gateways, record.mtu)
        found[record.bridge] = {**found.get(record.bridge, {}), **want}
    return {name: adopt(want, kernel.read(want.values())) for name, want in found.items()}


def _settle(kernel: Kernel, want: State, *, dry_run: bool) -> list[Op]:
    ops = diff(want, kernel.read(want.values()))
    if not dry_run:
        apply(kernel, ops)
    return ops


def _masquerade(kernel: Kernel, records: Records, *, dry_run: bool) -> list[Op]:
    with records.lock():
        networks = records.masquerades()
        chain = masquerade_chain(networks)
        want = state([chain]) if networks else {}
        ops = diff(want, kernel.read([chain]))
        if not dry_run:
            apply(kernel, ops)
    return ops


def _attachment(kernel: Kernel, record: Record, *, dry_run: bool) -> list[Op]:
    """A pair that is gone is made anew as it was; of one that stands only what nobody else may change is put back."""
    kernel.enter(record.netns, allow_own=True)
    stands = kernel.link_index(record.attachment.host_dev) != 0
    want = state(lasting(record.objects) if stands else record.objects)
    ops = _settle(kernel, want, dry_run=dry_run)
    if not stands and not dry_run:
        kernel.announce(record.ifname, record.attachment.host_dev)
    return ops
