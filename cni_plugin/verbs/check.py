"""CHECK: compare what ADD made with what stands; the difference, in the words of `ip` and `bridge`, is the error.

Only what is ours and still claimed counts. Plugins that were chained after us may have changed MACs, MTUs and sysctls
or moved routes to another table, and CHECK must not take that for damage (failure 28).
"""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.describe import script
from cni_plugin.diff import diff
from cni_plugin.errors import CHECK_FAILED, INVALID_CONFIG, CniError
from cni_plugin.model import POD, Addr, AnyObject, Bridge, PodLink, Up, state
from cni_plugin.plan.masquerade import masquerade_chain
from cni_plugin.plan.node import adopt
from cni_plugin.plan.pod import lasting
from cni_plugin.records import Record
from cni_plugin.spec import Result, parse_result
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.leases import leases


def check(context: Context) -> bytes:
    """Raises CniError 101 for what is not as it should be, 7 without a prevResult."""
    if context.conf.prev_result is None:
        raise CniError(INVALID_CONFIG, "invalid prevResult None: CHECK needs the result of ADD in it")
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
    if record is None or not record.masquerade:
        return
    chain = masquerade_chain(context.records.masquerades())
    ops = diff(state([chain]), context.kernel.read([chain]))
    if ops:
        raise CniError(CHECK_FAILED, f"the masquerade of {record.network} is not as ADD made it", script(ops))


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
