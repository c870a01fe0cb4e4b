"""A feature that is called under its own name, after a main plugin: ours or anybody's (`node.chained`).

The record is written before the kernel is touched, as ADD of a main plugin does it, so that DEL and GC need neither a
result nor the configuration. What a feature made in the pod's namespace is taken away by who gives that namespace: a
path that only the record knows may be another pod's by now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec

from cni_plugin.conf.reading import Conf
from cni_plugin.diff import diff
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.features.contract import Asked, Feature
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.kernel.host.files import boot_id
from cni_plugin.model.base import State, state
from cni_plugin.node.chained import drop, shelf, take_away
from cni_plugin.node.claims import note
from cni_plugin.node.settle import apply
from cni_plugin.spec import Result, parse_result, readable, render
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.check import check_node
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.difference import refuse
from cni_plugin.verbs.ensure import claimed
from cni_plugin.verbs.gc import is_valid, listed, living, unfinished


def add(context: Context) -> bytes:
    """Raises CniError 7 without a result to add to, and what the feature raises; KernelError, NetnsError."""
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    context.tell_doubts()
    previous = _previous(context)
    with claimed(_records(context), context.attachment):
        return _add(context, previous)


def _add(context: Context, previous: Result) -> bytes:
    kernel, records, feature = context.kernel, _records(context), _feature(context)
    killed = records.find(context.attachment)
    if killed is not None:
        take_away(kernel, records, feature.NAME, killed, inside=True)
    claim = feature.claim(_keys(context), Asked(context.attachment, previous, context.request.args))
    if claim is None:
        return render(previous, context.version)
    want = feature.pod(claim, context.attachment)
    before = kernel.read(want.values())
    reply = render(feature.result(claim, previous), context.version)
    try:
        with records.lock():
            records.put(_record(context, previous, claim, (want, before)))
            note(kernel, records, context.attachment.network, {feature.NAME: claim})
        apply(kernel, diff(want, before))
    except (KernelError, OSError):
        drop(kernel, records, feature.NAME, context.attachment)
        raise
    return reply


def check(context: Context) -> bytes:
    """Raises CniError 101 for what is not as ADD made it, 7 without a prevResult."""
    feature, previous = _feature(context), _previous(context)
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    records = _records(context)
    record = records.find(context.attachment)
    if record is not None:
        want = state(record.objects)
    else:
        claim = feature.claim(_keys(context), Asked(context.attachment, previous, context.request.args))
        want = {} if claim is None else feature.pod(claim, context.attachment)
    ops = diff(want, context.kernel.read(want.values()))
    refuse(f"{context.name} of {context.request.container}", ops)
    check_node(context, records, record)
    return b""


def delete(context: Context) -> bytes:
    """Raises KernelError, OSError."""
    records = _records(context)
    record = records.find(context.attachment)
    if record is None:
        return b""
    try:
        context.kernel.enter(context.request.netns)
        inside = True
    except NetnsError:
        inside = False  # gone, and what stood in it
    take_away(context.kernel, records, _feature(context).NAME, record, inside=inside)
    return b""


def collect(context: Context) -> bytes:
    """Raises CniError 103 that tells everything that could not be taken away."""
    valid = listed(context)
    lives = living(context) if valid is None else frozenset()
    failures = dict(context.conf.incomplete)
    records = _records(context)
    for record in list(records.all(context.conf.name)):
        if is_valid(context.kernel, record.attachment, record.netns, valid, lives):
            continue
        try:
            take_away(context.kernel, records, _feature(context).NAME, record, inside=False)
        except (KernelError, OSError) as error:
            failures[f"{record.container} {record.ifname}"] = str(error)
    if failures:
        raise unfinished(failures)
    return b""


def status(context: Context) -> bytes:
    """Raises CniError 50 with the reason."""
    context.tell_doubts()
    from cni_plugin.verbs.status import refuse_unready  # for STATUS alone

    refuse_unready(context)
    return b""


VERBS: Mapping[str, Callable[[Context], bytes]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect,
    "STATUS": status,
}


def _feature(context: Context) -> Feature:
    assert context.plugin.feature is not None
    return context.plugin.feature


def _keys(context: Context) -> Conf:
    return context.plugin.features[_feature(context).NAME]


def _records(context: Context) -> Records:
    return shelf(context.records.run_dir, _feature(context).NAME)


def _previous(context: Context) -> Result:
    if context.conf.prev_result is None:
        raise CniError(
            INVALID_CONFIG,
            f"Required prevResult missing: {context.name} adds to what a main plugin made; name it after one in the "
            "list of plugins",
        )
    return parse_result(context.conf.prev_result, "prevResult")


def _record(context: Context, previous: Result, claim: msgspec.Struct, states: tuple[State, State]) -> Record:
    feature, who, (want, before) = _feature(context), context.attachment, states
    return Record(
        network=who.network,
        container=who.container,
        ifname=who.ifname,
        boot=boot_id(),
        netns=readable(context.request.netns),
        created=time.time(),
        bridge="",
        gateway_dev="",
        mtu=0,
        mac="",
        ips=tuple(each.address for each in previous.ips),
        gateways=(),
        ipam="",
        data_dir="",
        objects=tuple(want.values()),
        conf=msgspec.Raw(context.stdin),
        claims={feature.NAME: feature.kept(claim)},
        before=tuple(before.values()),
    )
