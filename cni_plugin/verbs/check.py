"""CHECK: compare what ADD made with what stands; the difference, in the words of `ip` and `bridge`, is the error.

Only what is ours and still claimed counts. Plugins that were chained after us may have changed MACs, MTUs and sysctls
or moved routes to another table, and CHECK must not take that for damage (failure 28). Nor does it mind other pods and
networks, which come and go meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.errors import CHECK_FAILED, INVALID_CONFIG, CniError
from cni_plugin.model import POD, Addr, AnyObject, Bridge, Chain, PodLink, Up, state
from cni_plugin.plan.lease import subnets
from cni_plugin.plan.masquerade import Masquerade, masquerade_chain
from cni_plugin.plan.node import adopt
from cni_plugin.plan.pod import lasting
from cni_plugin.records import Record, stem
from cni_plugin.spec import IPConfig, Result, parse_result
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.leases import leases


def check(context: Context) -> bytes:
    """Raises CniError 101 for what is not as it should be, 7 without a prevResult."""
    if context.conf.prev_result is None:
        raise CniError(INVALID_CONFIG, "Required prevResult missing: CHECK needs the result of ADD in it")
    claimed = parse_result(context.conf.prev_result, "prevResult")
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    record = context.records.find(context.attachment)
    want = state(_recorded(record, claimed) if record else _claimed(context, claimed))
    have = context.kernel.read(want.values())
    ops = diff(adopt(want, have), have)
    if ops:
        raise CniError(
            CHECK_FAILED,
            f"the network of {context.request.container} is not as ADD made it; the details would put it right",
            script(ops),
        )
    _check_masquerade(context, record)
    ips = [each.address for each in claimed.ips if _is_ours(context, claimed, each.interface)]
    if record is None or record.ipam == context.conf.ipam.type:
        leases(context).check(ips)
    return b""


def _check_masquerade(context: Context, record: Record | None) -> None:
    """The rules of the pod's own network. What lacks is looked for again under the lock: what a network has
    masqueraded is on record before it is in the kernel."""
    if record is None or not (record.masquerade and record.ips) or _is_masqueraded(context, record):
        return
    with context.records.lock():
        if _is_masqueraded(context, record):
            return
        own = {stem(record.network): _own_masquerade(context, record)}
        chain = masquerade_chain({**context.records.masquerades(), **own})
        ops = diff(state([chain]), context.kernel.read([chain]))
    raise CniError(CHECK_FAILED, f"the masquerade of {record.network} is not as ADD made it", script(ops))


def _is_masqueraded(context: Context, record: Record) -> bool:
    want = masquerade_chain({stem(record.network): _own_masquerade(context, record)})
    have = next(iter(context.kernel.read([want]).values()), None)
    return isinstance(have, Chain) and have.hook == want.hook and set(want.rules) <= set(have.rules)


def _own_masquerade(context: Context, record: Record) -> Masquerade:
    """What the network has masqueraded; in any case the subnets of this pod."""
    own = Masquerade(subnets([IPConfig(each) for each in record.ips]))
    noted = context.records.masquerade(record.network)
    return own if noted is None else noted.joined(own)


def _recorded(record: Record, claimed: Result) -> Iterator[AnyObject]:
    """The attachment as it was made, less what others may change, and what the bridge and nft must have for it."""
    addresses = {each.address for each in claimed.ips}
    for each in lasting(record.objects):
        if not isinstance(each, Addr) or each.address in addresses:
            yield each
    yield Bridge(record.bridge, pinned=False)  # that it is there; `adopt` takes the rest as it is
    yield Up(record.bridge)
    for gateway in record.gateways:
        yield Addr(record.gateway_dev, gateway)


def _claimed(context: Context, claimed: Result) -> Iterator[AnyObject]:
    """Without a record, as after a move from the reference plugin: the result's own word."""
    yield PodLink(context.request.ifname)
    yield Up(context.request.ifname, POD)
    for each in claimed.ips:
        if _is_ours(context, claimed, each.interface):
            yield Addr(context.request.ifname, each.address, POD)


def _is_ours(context: Context, claimed: Result, index: int | None) -> bool:
    """An address belongs to the interface that its index names; other plugins' interfaces may stand in the result."""
    if index is None or not 0 <= index < len(claimed.interfaces):
        return True
    interface = claimed.interfaces[index]
    return interface.name == context.request.ifname and bool(interface.sandbox)
