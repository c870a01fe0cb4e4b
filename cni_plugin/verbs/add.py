"""ADD: lease, record, bridge, wire. What fails takes back all that came before it.

The record is written before the kernel is touched, so that whatever a kill leaves behind is known to the next DEL
or GC. With an IPAM that needs the interface (DHCP) the link is made first and the addresses follow.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cni_plugin.diff import Op, diff
from cni_plugin.errors import ADDRESS_UNAVAILABLE, INVALID_CONFIG, INVALID_ENVIRONMENT, TRY_AGAIN_LATER, CniError
from cni_plugin.ipams.contract import Leases, find
from cni_plugin.kernel.errors import KernelError
from cni_plugin.marks import LEAST_MTU
from cni_plugin.model.base import State
from cni_plugin.model.links import Veth
from cni_plugin.node.mtu import fitting, wanted
from cni_plugin.node.settle import apply
from cni_plugin.plan import lease as plan
from cni_plugin.plan.masquerade import Masquerade
from cni_plugin.plan.pod import Wire, derived_mac, gateway_device, host_mac, learned_neighbours, node_routes, pod_state
from cni_plugin.spec import Interface, Result, readable, render
from cni_plugin.store.records import Record
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.delete import teardown
from cni_plugin.verbs.ensure import drop_record, ensure_bridge, full_bridge, put_record, undo_bridge
from cni_plugin.verbs.leases import leases
from cni_plugin.wish import wish

if TYPE_CHECKING:
    from cni_plugin.store.clusters import ClusterFacts


class Step(NamedTuple):
    """What is to be made: the lease, with the folder that it is in, if it is in one; what stands of the attachment

    already; and what counts as inside the cluster.
    """

    lease: Result
    data_dir: str
    stood: State
    inside: tuple[str, ...]


class Made(NamedTuple):
    """What stands of the attachment, and the MAC of its bridge, "" where that is still to be asked for."""

    stands: State
    bridge_mac: str


def add(context: Context) -> bytes:
    """Wire the pod and tell how. Raises CniError, IpamError, KernelError, NetnsError."""
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    context.tell_doubts()
    with ExitStack() as claim:
        try:
            claim.enter_context(context.records.claim(context.attachment))
        except BlockingIOError:
            raise CniError(
                TRY_AGAIN_LATER,
                f"{context.request.container} is being attached to {context.attachment.network} as "
                f"{context.request.ifname!r} just now, by another ADD: a runtime asks for one thing of a container at "
                "a time",
            ) from None
        return _add(context)


def _add(context: Context) -> bytes:
    """Nobody else's ADD of the same comes in between, whose failure would take back what this one made."""
    _refuse_existing(context)
    facts = _facts(context)
    ipam = leases(context, facts.pod_cidrs if facts else ())
    with ExitStack() as undo:
        late = find(context.conf.ipam.type).NEEDS_LINK
        lease = Result() if late else _leased(context, ipam, undo)
        wire = _wire(context, lease, facts)
        inside = facts.inside if facts else ()
        made = _make(context, wire, Step(lease, ipam.data_dir, {}, inside), undo)
        if late:
            lease = _leased(context, ipam, undo)
            made = _make(context, wire, Step(lease, ipam.data_dir, made.stands, inside), undo)
        _announce(context)
        reply = render(_result(context, wire, lease, made.bridge_mac), context.version)
        undo.pop_all()
    return reply


def _facts(context: Context) -> ClusterFacts | None:
    """What the cluster says, its part of this node made true; None for a network without one."""
    if context.conf.cluster is None:
        return None
    from cni_plugin.node.cluster.peers import (
        ensure,  # a fifth of what an engine imports, for who is in no cluster nothing
    )

    return ensure(context.conf, context.kernel, context.records)


def _refuse_existing(context: Context) -> None:
    """What a killed ADD left on record is taken away; an interface is not (specification: ADD must refuse)."""
    attachment, request = context.attachment, context.request
    if context.kernel.pod_link_exists(request.ifname):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"container veth name provided ({request.ifname}) already exists in {request.netns}: use another "
            "CNI_IFNAME, or DEL it first",
        )
    if context.kernel.link_index(attachment.host_dev):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"{request.container} is attached to {attachment.network} as {request.ifname!r} already, by way of "
            f"{attachment.host_dev}, in another namespace: DEL it first",
        )
    record = context.records.find(attachment)
    if record is not None:
        teardown(context, attachment, record)
        leases(context).delete()


def _leased(context: Context, ipam: Leases, undo: ExitStack) -> Result:
    with context.meter.step("ipam"):
        lease = ipam.add()
    undo.callback(_take_back, ipam.delete)
    return plan.completed(context.conf, lease)


def _take_back(step: Callable[..., object], *arguments: object) -> None:
    """One step of a rollback. Its own failure must not hide the one that it is taken back for."""
    try:
        step(*arguments)
    except Exception as error:
        print(f"tulle: while taking back a failed ADD: {error}; DEL will try again", file=sys.stderr)


def _wire(context: Context, lease: Result, facts: ClusterFacts | None) -> Wire:
    attachment = context.attachment
    mtu = wanted(context.conf, facts, context.kernel)
    width = fitting(mtu, context.bridge, context.kernel)
    where = f" of the bridge {context.bridge}" if width.pod < mtu else ""
    if width.pod and width.pod < LEAST_MTU[6] and any(":" in each.address for each in lease.ips):
        raise CniError(
            INVALID_CONFIG,
            f"invalid mtu {width.pod}{where}: IPv6 needs at least {LEAST_MTU[6]} bytes (RFC 8200); raise it",
        )
    if where and context.conf.mtu:
        print(
            f"tulle: {context.conf.name}: the pod gets an MTU of {width.pod} and not {mtu}: the bridge "
            f"{context.bridge} carries no more, and it is not Tulle's to widen: ip link set {context.bridge} mtu {mtu}",
            file=sys.stderr,
        )
    mac = wish(context.conf, context.request.args).mac
    mac = mac or derived_mac(attachment, [each.address for each in lease.ips])
    return Wire(attachment, context.bridge, width.pod, mac, width.port)


def _make(context: Context, wire: Wire, step: Step, undo: ExitStack) -> Made:
    """Bring the attachment from where it stands to what its lease makes of it."""
    conf, kernel, records = context.conf, context.kernel, context.records
    want = pod_state(conf, wire, step.lease.ips, step.lease.routes)
    record = _record(context, wire, step, want)
    masquerade = Masquerade(plan.subnets(step.lease.ips), step.inside) if conf.ip_masq and record.ips else None
    bridged: list[Op] = []
    # after the record is dropped, for the records tell whether anybody else has come to need the bridge
    undo.callback(_take_back, undo_bridge, kernel, records, wire.bridge, bridged)
    with context.meter.step("records"):
        put_record(kernel, records, record, masquerade)
    undo.callback(_take_back, drop_record, kernel, records, wire.attachment)
    bridge = ensure_bridge(kernel, records, conf, (wire.bridge, record.gateways, wire.mtu))
    bridged += bridge.ops
    try:
        apply(kernel, diff(want, {**step.stood, **learned_neighbours(record.gateway_dev, record.ips, wire.mac)}))
    except KernelError as error:
        if error.errno == errno.EXFULL:  # br_add_if in net/bridge/br_if.c: no port number is left
            raise CniError(TRY_AGAIN_LATER, full_bridge(wire.bridge), str(error)) from error
        raise
    back = [Op("delete", each) for each in node_routes(record.objects)]
    if not step.stood:
        back.append(Op("delete", Veth(wire.attachment.host_dev)))
    for each in back:
        undo.callback(_take_back, apply, kernel, [each])
    return Made(want, bridge.mac)


def _announce(context: Context) -> None:
    """Return when the pod's packets get through. Raises CniError 102 when DAD was asked for and found a duplicate."""
    if context.conf.disable_container_interface:
        return
    ifname = context.request.ifname
    context.kernel.announce(ifname, context.attachment.host_dev)
    taken = context.kernel.await_dad(ifname) if context.conf.enabledad else ()
    if taken:
        raise CniError(
            ADDRESS_UNAVAILABLE,
            f"duplicate address detection (enabledad): somebody on the bridge has {', '.join(taken)} already; find out "
            "who, and leave the address out of ipam.ranges",
        )


def _record(context: Context, wire: Wire, step: Step, want: State) -> Record:
    from cni_plugin.kernel.host.files import boot_id

    conf, attachment = context.conf, context.attachment
    return Record(
        network=attachment.network,
        container=attachment.container,
        ifname=attachment.ifname,
        boot=boot_id(),
        netns=readable(context.request.netns),
        created=time.time(),
        bridge=wire.bridge,
        gateway_dev=gateway_device(conf, wire.bridge),
        mtu=wire.mtu,
        mac=wire.mac,
        ips=tuple(each.address for each in step.lease.ips),
        gateways=plan.gateways(conf, step.lease.ips),
        ipam=conf.ipam.type,
        data_dir=step.data_dir,
        masquerade=conf.ip_masq,
        objects=tuple(want.values()),
        conf=msgspec.Raw(context.stdin),
    )


def _result(context: Context, wire: Wire, lease: Result, bridge_mac: str) -> Result:
    attachment = wire.attachment
    gateway_dev = gateway_device(context.conf, wire.bridge)
    beside = [gateway_dev] if gateway_dev != wire.bridge and plan.gateways(context.conf, lease.ips) else []
    interfaces = (
        Interface(wire.bridge, bridge_mac or context.kernel.link_mac(wire.bridge)),
        Interface(attachment.host_dev, host_mac(attachment), mtu=wire.port_mtu or wire.mtu),
        Interface(attachment.ifname, wire.mac, mtu=wire.mtu, sandbox=readable(context.environ["CNI_NETNS"])),
        *(Interface(name, context.kernel.link_mac(name)) for name in beside),  # a VLAN's gateway, as the reference has
    )
    return msgspec.structs.replace(lease, interfaces=interfaces)
