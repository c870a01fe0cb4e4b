"""What the verbs make beside the pod itself, and share: its bridge, its record, what its network has of the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import msgspec

from cni_plugin.attachment import Attachment, owner, sealed
from cni_plugin.diff import Op
from cni_plugin.errors import TRY_AGAIN_LATER, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.model.base import HOST, link_key, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge
from cni_plugin.node.claims import forget, note
from cni_plugin.node.settle import apply, steps, undo
from cni_plugin.store.records import Record, Records
from cni_plugin.wirings.contract import Base, Wiring


class Found(NamedTuple):
    """What is lacking of what attachments share, and its MAC where that is known and stays, whatever comes to it."""

    ops: list[Op]
    mac: str = ""


@contextmanager
def claimed(records: Records, who: Attachment) -> Iterator[None]:
    """Nobody else's ADD of the same comes in between, whose failure would take back what this one made.

    Raises CniError 11 where somebody is at it.
    """
    with ExitStack() as claim:
        try:
            claim.enter_context(records.claim(who))
        except BlockingIOError:
            raise CniError(
                TRY_AGAIN_LATER,
                f"{who.container} is being attached to {who.network} as {who.ifname!r} just now, by another ADD: a "
                "runtime asks for one thing of a container at a time",
            ) from None
        yield


def ensure_base(kernel: Kernel, records: Records, wiring: Wiring, base: Base) -> Found:
    """Make what attachments share as it should be; the operations that it took, and its MAC.

    Two first pods may meet here: who finds something to do looks again under the lock.
    """
    found = _lacking(kernel, records, wiring, base)
    if not found.ops:
        return found
    with records.lock():
        ops = _lacking(kernel, records, wiring, base).ops
        apply(kernel, ops)
        return Found(ops)


def undo_base(kernel: Kernel, records: Records, link: str, ops: Sequence[Op]) -> None:
    """Take back what `ensure_base` did, unless another attachment has come to need it."""
    if not ops:
        return
    with records.lock():
        if any(each.bridge == link for each in records.all()):
            return
        used = kernel.ports(link) > 0  # by somebody who keeps no records here
        undo(kernel, [each for each in ops if not (used and isinstance(each.object, Bridge))])


def put_record(kernel: Kernel, records: Records, record: Record, claims: Mapping[str, msgspec.Struct]) -> None:
    """Write an attachment's record, and have the node do for its network what it claims."""
    with records.lock():
        records.put(record)
        try:
            note(kernel, records, record.network, claims)
        except BaseException:
            _drop(kernel, records, record.attachment)
            raise


def drop_record(kernel: Kernel, records: Records, attachment: Attachment) -> bool:
    """Remove an attachment's record, if it has one; with a network's last goes what it claimed. Whether it was that."""
    with records.lock():
        return _drop(kernel, records, attachment)


def sweep_records(kernel: Kernel, records: Records, network: str) -> None:
    """Remove what killed writers left among a network's records, and what it claimed if nothing else is left of it.

    A record that was set aside says no more, when its pod ends, whether that was the last.
    """
    with records.lock():
        if records.sweep(network) and not wired(kernel, network):
            forget(kernel, records, network, records.features(network))


def wired(kernel: Kernel, network: str) -> list[Attachment]:
    """The attachments of a network whose wires stand, recorded or not, as their marks tell."""
    here = (network, sealed(network))
    found = (owner(each.alias) for each in kernel.own_links())
    return [each for each in found if each is not None and each.network in here]


def _lacking(kernel: Kernel, records: Records, wiring: Wiring, base: Base) -> Found:
    wanted = wiring.host(base)
    dev = wiring.gateway_dev(base.conf, base.link)
    have = kernel.read(wanted.values())
    present = kernel.addresses(dev) if base.gateways and wiring.forces(base.conf) else ()
    out = wiring.displaced(base, present)
    if out:
        kept = state(Addr(dev, each) for each in _gateways_of_others(records, base.conf.name, dev))
        out = {key: each for key, each in out.items() if key not in kept}
    have = {**have, **out}
    there = have.get(link_key(HOST, base.link))
    mac = there.mac if isinstance(there, Bridge) and there.pinned else ""
    return Found(steps(kernel, wiring.adopt(wanted, have), have), mac)


def _gateways_of_others(records: Records, network: str, dev: str) -> Iterator[str]:
    """What pods of other networks have as gateways there: `forceAddress` speaks for its own network only."""
    for each in records.all():
        if each.network != network and each.gateway_dev == dev:
            yield from each.gateways


def _drop(kernel: Kernel, records: Records, attachment: Attachment) -> bool:
    last = records.remove(attachment)
    if last:
        forget(kernel, records, attachment.network, records.features(attachment.network))
    return last
