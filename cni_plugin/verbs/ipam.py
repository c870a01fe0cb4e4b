"""The plugin called by the name of an IPAM, as `host-local`: an executable that any main plugin can delegate to.

It is given the main plugin's whole configuration, looks at nothing but `ipam` and what was asked for the pod, and
answers with an abbreviated result: addresses, routes, DNS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.ipams.contract import Leases, find
from cni_plugin.spec import parse_result, render
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.gc import listed, unfinished
from cni_plugin.verbs.leases import leases_of


def add(context: Context) -> bytes:
    """Raises IpamError; CniError 1 for what the version cannot tell, with all given back."""
    store = _leases(context)
    lease = store.add()
    try:
        return render(lease, context.version)
    except CniError:
        store.delete()
        raise


def delete(context: Context) -> bytes:
    """Raises StoreError."""
    _leases(context).delete()
    return b""


def check(context: Context) -> bytes:
    """Raises CniError 101 when the attachment holds no address.

    Which ones it holds is compared only with the interface of this request: a main plugin's result may list more.
    """
    claimed = parse_result(context.conf.prev_result or {}, "prevResult")
    mine = [
        each.address
        for each in claimed.ips
        if each.interface is not None
        and each.interface < len(claimed.interfaces)
        and claimed.interfaces[each.interface].name == context.request.ifname
    ]
    _leases(context).check(mine)
    return b""


def collect(context: Context) -> bytes:
    """Give back what no valid attachment holds; without a list nothing, for we cannot tell who is dead."""
    _leases(context).collect(listed(context))
    if context.conf.incomplete:
        raise unfinished(context.conf.incomplete)
    return b""


def status(context: Context) -> bytes:
    """Raises CniError 50 when no address is free."""
    if not context.conf.ipam.type:
        raise CniError(
            INVALID_CONFIG, f"IPAM config missing 'ipam' key: {context.name} needs its own configuration there"
        )
    _leases(context).status()
    return b""


def _leases(context: Context) -> Leases:
    """Of the IPAM that we are called as, whatever `ipam.type` says."""
    return leases_of(find(context.name), context)


VERBS: Mapping[str, Callable[[Context], bytes]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect,
    "STATUS": status,
}
