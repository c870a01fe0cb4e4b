"""What the verbs make beside the pod itself, and share: its bridge, its record, and its network's masquerade."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cni_plugin.attachment import Attachment
from cni_plugin.conf.plugin import NetConf
from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel
from cni_plugin.marks import MOST_PORTS
from cni_plugin.model.base import State, state
from cni_plugin.model.layer3 import Addr
from cni_plugin.model.links import Bridge
from cni_plugin.node.settle import apply, settle, steps, undo
from cni_plugin.plan.masquerade import Masquerade, masquerade_chain
from cni_plugin.plan.node import adopt, bridge_state, displaced
from cni_plugin.plan.pod import gateway_device
from cni_plugin.store.records import Record, Records, stem


def full_bridge(bridge: str) -> str:
    """What to say of a bridge without a free port."""
    return (
        f"all {MOST_PORTS} ports of the bridge {bridge} are in use, and a Linux bridge has no more: let pods end, or "
        "give new pods a network with another bridge (kubelet: maxPods)"
    )


class Bridged(NamedTuple):
    """What a bridge lacks, and its MAC where that is known and stays: no port that comes to it changes it."""

    ops: list[Op]
    mac: str = ""


def ensure_bridge(kernel: Kernel, records: Records, conf: NetConf, want: tuple[str, Sequence[str], int]) -> Bridged:
    """Make the bridge (name, gateways, MTU in bytes) as it should be; the operations that it took, and its MAC.

    Two first pods may meet here: who finds something to do looks again under the lock.
    """
    found = _lacking(kernel, records, conf, want)
    if not found.ops:
        return found
    with records.lock():
        ops = _lacking(kernel, records, conf, want).ops
        apply(kernel, ops)
        return Bridged(ops)


def undo_bridge(kernel: Kernel, records: Records, bridge: str, ops: Sequence[Op]) -> None:
    """Take back what `ensure_bridge` did, unless another attachment has come to need it."""
    if not ops:
        return
    with records.lock():
        if any(each.bridge == bridge for each in records.all()):
            return
        used = kernel.ports(bridge) > 0  # by somebody who keeps no records here
        undo(kernel, [each for each in ops if not (used and isinstance(each.object, Bridge))])


def put_record(kernel: Kernel, records: Records, record: Record, wanted: Masquerade | None) -> None:
    """Write an attachment's record, and have its network masqueraded if it is to be."""
    with records.lock():
        records.put(record)
        try:
            if wanted is not None:
                _masquerade(kernel, records, record.network, wanted)
        except BaseException:
            _drop(kernel, records, record.attachment)
            raise


def drop_record(kernel: Kernel, records: Records, attachment: Attachment) -> bool:
    """Remove an attachment's record, if it has one; with the last of a network goes its masquerade. Whether it was."""
    with records.lock():
        return _drop(kernel, records, attachment)


def sweep_records(records: Records, network: str) -> None:
    """Remove what killed writers left among a network's records."""
    with records.lock():
        records.sweep(network)


def restore_masquerade(kernel: Kernel, networks: Mapping[str, Masquerade]) -> list[Op]:
    """Make the chain what the records say; the operations that it took. The caller holds the lock."""
    chain = masquerade_chain(networks)
    want: State = {chain.key: chain} if networks else {}
    return settle(kernel, want, kernel.read([chain]))


def _lacking(kernel: Kernel, records: Records, conf: NetConf, want: tuple[str, Sequence[str], int]) -> Bridged:
    bridge, gateways, mtu = want
    wanted = bridge_state(conf, bridge, gateways, mtu)
    dev = gateway_device(conf, bridge)
    have = kernel.read(wanted.values())
    present = kernel.addresses(dev) if gateways and conf.force_address else ()
    out = displaced(conf, dev, gateways, present)
    if out:
        kept = state(Addr(dev, each) for each in _gateways_of_others(records, conf.name, dev))
        out = {key: each for key, each in out.items() if key not in kept}
    have = {**have, **out}
    there = have.get(Bridge(bridge).key)
    mac = there.mac if isinstance(there, Bridge) and there.pinned else ""
    return Bridged(steps(kernel, adopt(wanted, have), have), mac)


def _gateways_of_others(records: Records, network: str, dev: str) -> Iterator[str]:
    """What pods of other networks have as gateways there: `forceAddress` speaks for its own network only."""
    for each in records.all():
        if each.network != network and each.gateway_dev == dev:
            yield from each.gateways


def _masquerade(kernel: Kernel, records: Records, network: str, wanted: Masquerade) -> None:
    networks = records.masquerades()
    name = stem(network)
    known = networks.get(name)
    joined = wanted if known is None else known.joined(wanted)
    if joined != known:
        records.set_masquerade(network, joined)
    restore_masquerade(kernel, {**networks, name: joined})


def _drop(kernel: Kernel, records: Records, attachment: Attachment) -> bool:
    """The note of a masquerade goes last: it tells the next DEL, should this one fail, what is left to do."""
    last = records.remove(attachment)
    networks = records.masquerades() if last else {}
    if networks.pop(stem(attachment.network), None) is not None:
        restore_masquerade(kernel, networks)
        records.drop_masquerade(attachment.network)
    return last
