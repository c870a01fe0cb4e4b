"""A main plugin of which nothing is on the node, as `loopback`: no lease, no record, nothing that could be left behind.

What it makes stands in the pod's namespace and goes with it, so GC has nothing to look for, and a DEL for a namespace
that is gone is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cni_plugin.diff import Op, diff
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Addr
from cni_plugin.node.settle import apply
from cni_plugin.spec import IPConfig, Result, parse_result, readable, render
from cni_plugin.verbs.context import Context
from cni_plugin.wirings.contract import Want


def add(context: Context) -> bytes:
    """Raises KernelError, NetnsError. A result of a plugin before it is handed on as it is."""
    kernel, wiring, want = context.kernel, context.wiring, _want(context)
    kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    apply(kernel, _lacking(context))
    if context.conf.prev_result is not None:
        return render(parse_result(context.conf.prev_result, "prevResult"), context.version)
    stand = kernel.read(wiring.offered().values())
    ips = tuple(IPConfig(each.address, interface=0) for each in stand.values() if isinstance(each, Addr))
    return render(Result(wiring.interfaces(want, kernel.link_mac), ips), context.version)


def check(context: Context) -> bytes:
    """Raises CniError 101 for what is not as ADD made it, NetnsError."""
    context.kernel.enter(context.request.netns, allow_own=context.request.netns_override)
    ops = _lacking(context)
    from cni_plugin.verbs.difference import refuse  # words, which only CHECK has use for

    refuse(f"{context.name} of {context.request.container}", ops)
    return b""


def delete(context: Context) -> bytes:
    """Raises KernelError."""
    try:
        context.kernel.enter(context.request.netns)
    except NetnsError:
        return b""  # gone, or never one
    context.kernel.apply([Op("delete", each) for each in _whole(context).values()])
    return b""


def nothing(context: Context) -> bytes:
    """For GC and STATUS: nothing is held, and nothing can run out."""
    del context
    return b""


VERBS: Mapping[str, Callable[[Context], bytes]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": nothing,
    "STATUS": nothing,
}


def _want(context: Context) -> Want:
    return Want(context.attachment, context.conf, sandbox=readable(context.environ.get("CNI_NETNS", "")))


def _whole(context: Context) -> State:
    return context.wiring.pod(_want(context))


def _lacking(context: Context) -> list[Op]:
    whole = _whole(context)
    return diff(whole, context.kernel.read(whole.values()))
