"""ADD: lease, record, bridge, wire. What fails takes back all that came before it.

The record is written before the kernel is touched, so that whatever a kill leaves behind is known to the next DEL
or GC. With an IPAM that needs the interface (DHCP) the link is made first and the addresses follow.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cni_plugin.diff import Op, diff
from cni_plugin.errors import ADDRESS_UNAVAILABLE, INVALID_CONFIG, INVALID_ENVIRONMENT, TRY_AGAIN_LATER, CniError
from cni_plugin.features import contract as features
from cni_plugin.features.contract import Asked
from cni_plugin.ipams.contract import Leases, find
from cni_plugin.kernel.errors import KernelError
from cni_plugin.marks import LEAST_MTU
from cni_plugin.model.base import State, state
from cni_plugin.node.settle import apply
from cni_plugin.plan.pod import beside_wire, derived_mac, learned_neighbours, links_on_node
from cni_plugin.spec import Result, readable, render
from cni_plugin.store.records import Record
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.delete import teardown
from cni_plugin.verbs.ensure import claimed, drop_record, ensure_base, put_record, undo_base
from cni_plugin.verbs.leases import leases
from cni_plugin.wirings.contract import Base, Want
from cni_plugin.wish import wish

if TYPE_CHECKING:
    from cni_plugin.store.clusters import ClusterFacts


class Step(NamedTuple):
    """What is to be made: the lease, what stands of the attachment already, and what counts as inside the cluster.

    `data_dir` is the folder that the lease is in, "" for none.
    """

    lease: Result
    data_dir: str
    stood: State
    inside: tuple[str, ...]


class Made(NamedTuple):
    """What was made: the attachment, its claims, and the MAC of its bridge, "" where that is still to be asked for."""

    stands: State
    claims: Mapping[str, msgspec.Struct]
    bridge_mac: str


def add(context: Context) -> bytes:
    """Wire the pod and tell how. Raises CniError, IpamError, KernelError, NetnsError."""
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    context.tell_doubts()
    with claimed(context.records, context.attachment):
        return _add(context)


def _add(context: Context) -> bytes:
    _refuse_existing(context)
    facts = _facts(context)
    ipam = leases(context, facts.pod_cidrs if facts else ())
    with ExitStack() as undo:
        late = find(context.conf.ipam.type).NEEDS_LINK
        lease = Result() if late else _leased(context, ipam, undo)
        want = _want(context, lease, facts)
        inside = facts.inside if facts else ()
        made = _make(context, want, Step(lease, ipam.data_dir, {}, inside), undo)
        if late:
            lease = _leased(context, ipam, undo)
            want = msgspec.structs.replace(want, ips=lease.ips, routes=lease.routes)
            made = _make(context, want, Step(lease, ipam.data_dir, made.stands, inside), undo)
        _announce(context)
        reply = render(_result(context, want, lease, made), context.version)
        undo.pop_all()
    return reply


def _facts(context: Context) -> ClusterFacts | None:
    """What the cluster says, its part of this node made true; None for a network without one."""
    if context.conf.cluster is None:
        return None
    # a fifth of what an engine imports, for who is in no cluster nothing
    from cni_plugin.node.cluster.ensure import ensure

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
    if context.wiring.alive(attachment, context.kernel):
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
    return context.wiring.completed(context.conf, lease)


def _take_back(step: Callable[..., object], *arguments: object) -> None:
    """One step of a rollback. Its own failure must not hide the one that it is taken back for."""
    try:
        step(*arguments)
    except Exception as error:
        print(f"tulle: while taking back a failed ADD: {error}; DEL will try again", file=sys.stderr)


def _want(context: Context, lease: Result, facts: ClusterFacts | None) -> Want:
    """The MTU is the configuration's own, else what the cluster leaves, else that of what leads away from the node."""
    conf, wiring, who = context.conf, context.wiring, context.attachment
    link = wiring.link(conf)
    mtu = conf.mtu or (facts.mtu if facts else context.kernel.default_mtu())
    width = wiring.carried(link, mtu, context.kernel)
    where = f" of the {wiring.LINK} {link}" if width.pod < mtu else ""
    if width.pod and width.pod < LEAST_MTU[6] and any(":" in each.address for each in lease.ips):
        raise CniError(
            INVALID_CONFIG,
            f"invalid mtu {width.pod}{where}: IPv6 needs at least {LEAST_MTU[6]} bytes (RFC 8200); raise it",
        )
    if where and conf.mtu:
        print(
            f"tulle: {conf.name}: the pod gets an MTU of {width.pod} and not {mtu}: the {wiring.LINK} {link} carries "
            f"no more, and it is not Tulle's to widen: ip link set {link} mtu {mtu}",
            file=sys.stderr,
        )
    mac = wish(conf, context.request.args).mac or derived_mac(who, [each.address for each in lease.ips])
    return Want(who, conf, link, width, mac, lease.ips, lease.routes, readable(context.environ["CNI_NETNS"]))


def _make(context: Context, want: Want, step: Step, undo: ExitStack) -> Made:
    """Bring the attachment from where it stands to what its lease makes of it."""
    wiring, kernel, records = context.wiring, context.kernel, context.records
    claims = _claims(context, step)
    whole = wiring.pod(want)
    for name, claim in claims.items():
        whole |= features.called(name).pod(claim, want.who)
    record = _record(context, want, step, Made(whole, claims, ""))
    shared: list[Op] = []
    # after the record is dropped, for the records tell whether anybody else has come to need the bridge
    undo.callback(_take_back, undo_base, kernel, records, want.link, shared)
    with context.meter.step("records"):
        put_record(kernel, records, record, claims)
    undo.callback(_take_back, drop_record, kernel, records, want.who)
    base = ensure_base(kernel, records, wiring, Base(want.conf, want.link, record.gateways, want.width.pod))
    shared += base.ops
    try:
        apply(kernel, diff(whole, {**step.stood, **learned_neighbours(record.gateway_dev, record.ips, want.mac)}))
    except KernelError as error:
        if error.errno == errno.EXFULL:  # br_add_if in net/bridge/br_if.c: no port number is left
            raise CniError(TRY_AGAIN_LATER, wiring.full(want.link), str(error)) from error
        raise
    links = {} if step.stood else {**state(links_on_node(record.objects)), **wiring.bare(want.who)}
    back = [*beside_wire(record.objects), *links.values()]
    for each in back:
        undo.callback(_take_back, apply, kernel, [Op("delete", each)])
    return Made(whole, claims, base.mac)


def _claims(context: Context, step: Step) -> dict[str, msgspec.Struct]:
    """What the attachment has of the features that the wiring serves itself."""
    asked = Asked(context.attachment, step.lease, context.request.args, step.inside)
    found = {name: features.called(name).claim(conf, asked) for name, conf in context.plugin.features.items()}
    return {name: claim for name, claim in found.items() if claim is not None}


def _announce(context: Context) -> None:
    """Return when the pod's packets get through. Raises CniError 102 when DAD was asked for and found a duplicate."""
    wiring, ifname = context.wiring, context.request.ifname
    if wiring.silent(context.conf):
        return
    context.kernel.announce(ifname, wiring.host_dev(context.attachment))
    taken = context.kernel.await_dad(ifname) if wiring.dad(context.conf) else ()
    if taken:
        raise CniError(
            ADDRESS_UNAVAILABLE,
            f"duplicate address detection (enabledad): somebody on the bridge has {', '.join(taken)} already; find out "
            "who, and leave the address out of ipam.ranges",
        )


def _record(context: Context, want: Want, step: Step, made: Made) -> Record:
    from cni_plugin.kernel.host.files import boot_id

    conf, wiring, ips = want.conf, context.wiring, step.lease.ips
    return Record(
        network=want.who.network,
        container=want.who.container,
        ifname=want.who.ifname,
        boot=boot_id(),
        netns=readable(context.request.netns),
        created=time.time(),
        bridge=want.link,
        gateway_dev=wiring.gateway_dev(conf, want.link),
        mtu=want.width.pod,
        mac=want.mac,
        ips=tuple(each.address for each in ips),
        gateways=wiring.gateways(conf, ips),
        ipam=conf.ipam.type,
        data_dir=step.data_dir,
        objects=tuple(made.stands.values()),
        conf=msgspec.Raw(context.stdin),
        masquerade="masquerade" in made.claims,
        claims={name: features.called(name).kept(claim) for name, claim in made.claims.items()},
    )


def _result(context: Context, want: Want, lease: Result, made: Made) -> Result:
    def mac_of(name: str) -> str:
        return (made.bridge_mac if name == want.link else "") or context.kernel.link_mac(name)

    found = msgspec.structs.replace(lease, interfaces=context.wiring.interfaces(want, mac_of))
    for name, claim in made.claims.items():
        found = features.called(name).result(claim, found)
    return found
