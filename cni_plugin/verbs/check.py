"""CHECK: compare what ADD made with what stands; the difference, in the words of `ip` and `bridge`, is the error.

Only what is ours and still claimed by `prevResult` counts. Plugins that were chained after us may have changed MACs,
MTUs and sysctls, moved routes to another table, or replaced routes and addresses and said so, and CHECK must not take
that for damage (failure 28). Nor does it mind other pods and networks, which come and go meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address

import msgspec

from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.errors import CHECK_FAILED, INVALID_CONFIG, CniError
from cni_plugin.features.contract import NodeFeature, World, find
from cni_plugin.kernel.host import files
from cni_plugin.model.base import POD, Object, state
from cni_plugin.model.layer3 import Addr, Route
from cni_plugin.model.links import PodLink, Up
from cni_plugin.plan.address import interface
from cni_plugin.plan.pod import lasting
from cni_plugin.spec import IPConfig, Result, parse_result, readable
from cni_plugin.store.records import Record, Records, stem
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.difference import refuse
from cni_plugin.verbs.leases import leases


def check(context: Context) -> bytes:
    """Raises CniError 101 for what is not as it should be, 7 without a prevResult."""
    if context.conf.prev_result is None:
        raise CniError(INVALID_CONFIG, "Required prevResult missing: CHECK needs the result of ADD in it")
    claimed = parse_result(context.conf.prev_result, "prevResult")
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    _check_owner(context, claimed)
    record = context.records.find(context.attachment)
    want = state(_claimed(context, claimed) if record is None else _recorded(context, record, claimed))
    have = context.kernel.read(want.values())
    ops = diff(context.wiring.adopt(want, have), have)
    refuse(f"the network of {context.request.container}", ops)
    _check_interfaces(context, claimed)
    check_node(context, context.records, record)
    ips = [each.address for each in _own_ips(context, claimed) if record is None or each.address in record.ips]
    if record is None or record.ipam == context.conf.ipam.type:
        leases(context).check(ips)
    return b""


def _check_owner(context: Context, claimed: Result) -> None:
    """Whether the result is of this attachment at all."""
    ifname, netns = context.request.ifname, context.environ["CNI_NETNS"]
    own = next((each for each in claimed.interfaces if each.name == ifname and each.sandbox), None)
    if own is None:
        raise CniError(
            CHECK_FAILED,
            f"CNI created interface in container {ifname} not found in prevResult: give CHECK what its ADD answered",
        )
    if not _is_same(own.sandbox, netns):
        raise CniError(
            CHECK_FAILED,
            f"Sandbox in prevResult {own.sandbox} doesn't match configured netns: {netns}; give CHECK what its ADD "
            "answered",
        )


def _check_interfaces(context: Context, claimed: Result) -> None:
    """Whether all interfaces of the result are there; what those of others are like is not ours to say."""
    for each in claimed.interfaces:
        if each.sandbox and not _is_same(each.sandbox, context.environ["CNI_NETNS"]):
            continue
        there = context.kernel.pod_link_exists if each.sandbox else context.kernel.link_index
        if not there(each.name):
            raise CniError(
                CHECK_FAILED,
                f"Interface name {each.name} not found, which prevResult tells of: delete and add the attachment anew",
            )


def _is_same(sandbox: str, netns: str) -> bool:
    """Runtimes call one namespace by several paths: /run and /var/run, a link, /proc/PID/ns/net."""
    return sandbox == readable(netns) or files.same(sandbox, netns)


def check_node(context: Context, records: Records, record: Record | None) -> None:
    """What the node does for the pod's own network. What lacks is looked for again under the lock: what a network
    claims is noted before it is in the kernel. Raises CniError 101."""
    for name in record.claims if record is not None else ():
        feature = find(name)
        if record is None or not isinstance(feature, NodeFeature):
            continue
        own = record.claim(name, feature.CLAIM)
        if own is None or _is_ready(context, records, feature, own):
            continue
        with records.lock():
            if _is_ready(context, records, feature, own):
                continue
            claims = {**records.noted(name, feature.CLAIM), **_claimed_by_network(context, records, feature, own)}
            want = feature.state(World(claims))
            ops = diff(want, context.kernel.read(want.values()))
        raise CniError(CHECK_FAILED, f"the {name} of {record.network} is not as ADD made it", script(ops))


def _is_ready(context: Context, records: Records, feature: NodeFeature, own: msgspec.Struct) -> bool:
    claims = _claimed_by_network(context, records, feature, own)
    have = context.kernel.read(feature.state(World(claims)).values())
    return all(feature.ready(claim, name, have) for name, claim in claims.items())


def _claimed_by_network(
    context: Context, records: Records, feature: NodeFeature, own: msgspec.Struct
) -> dict[str, msgspec.Struct]:
    """What its network is noted to claim; in any case what this pod does."""
    network = context.attachment.network
    noted = records.note(feature.NAME, network, feature.CLAIM)
    return {stem(network): own if noted is None else feature.joined(noted, own)}


def _recorded(context: Context, record: Record, claimed: Result) -> Iterator[Object]:
    """The attachment as it was made, less what others may change and what the result claims no more.

    With it goes what the result claims instead, and what the bridge and nft must have for it.
    """
    told = _told(claimed)
    made = {each.address for each in record.objects if isinstance(each, Addr)}
    addresses = {each.address for each in _own_ips(context, claimed)}
    for each in lasting(record.objects):
        if isinstance(each, Addr) and each.address not in addresses:
            continue
        if not isinstance(each, Route) or each.ns != POD or _is_claimed(each, told):
            yield each
    for address in sorted(addresses - made):
        yield Addr(record.ifname, address, POD)
    yield from context.wiring.shared(record.bridge).values()
    for gateway in record.gateways:
        yield Addr(record.gateway_dev, gateway)


def _claimed(context: Context, claimed: Result) -> Iterator[Object]:
    """Without a record, as after a move from the reference plugin: the result's own word."""
    yield PodLink(context.request.ifname)
    yield Up(context.request.ifname, POD)
    for each in _own_ips(context, claimed):
        yield Addr(context.request.ifname, each.address, POD)


def _told(claimed: Result) -> dict[str, list[str]]:
    """The gateways of the result's routes, by where these lead to."""
    told: dict[str, list[str]] = {}
    for each in claimed.routes:
        told.setdefault(str(interface(each.dst).network), []).append(each.gw)
    return told


def _is_claimed(route: Route, told: Mapping[str, Sequence[str]]) -> bool:
    """Whether the result tells of this route, by this gateway or by the one that its address has."""
    gateways = told.get(route.dst, ())
    return any(not each or not route.via or ip_address(each) == ip_address(route.via) for each in gateways)


def _own_ips(context: Context, claimed: Result) -> list[IPConfig]:
    """The addresses of this interface, each in its usual spelling."""
    return [
        msgspec.structs.replace(each, address=str(interface(each.address)))
        for each in claimed.ips
        if _is_ours(context, claimed, each.interface)
    ]


def _is_ours(context: Context, claimed: Result, index: int | None) -> bool:
    """An address belongs to the interface that its index names; other plugins' interfaces may stand in the result."""
    if index is None or not 0 <= index < len(claimed.interfaces):
        return True
    interface = claimed.interfaces[index]
    return interface.name == context.request.ifname and bool(interface.sandbox)
