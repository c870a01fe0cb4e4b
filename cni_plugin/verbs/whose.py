"""Whose a wire is that stands in a pod, where the attachment that is asked about is not on record.

A runtime's DEL may come late, and the path of its namespace be another pod's by then. So a wire is left alone as soon
as anything says that it is another's: the mark on its other end, a record of this node, the lease of one of its
addresses, the result that the runtime kept of the ADD. Where nothing speaks of it, it is taken to be the one meant, as
the reference plugins take it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from itertools import product

from cni_plugin.conf.plugin import DEFAULT_DATA_DIR
from cni_plugin.errors import CniError
from cni_plugin.kernel.door import PodWire
from cni_plugin.kernel.errors import UNTOLD
from cni_plugin.kernel.host import files
from cni_plugin.marks import ALIAS, HOST_DEV
from cni_plugin.spec import parse_result
from cni_plugin.verbs.context import Context
from ipam.store import Owner, holder


def is_anothers(context: Context, wire: PodWire) -> bool:
    """Whether a wire that stands under CNI_IFNAME is known not to be this request's attachment.

    Raises OSError where the disk does not tell now: the wire may be a pod's that lives.
    """
    if wire.host_alias.startswith(ALIAS):
        return True  # ours are taken away by their names, so this one is not the request's
    if not wire.host_dev or _is_on_record(context, wire):  # a bridge's wire has its other end on the node
        return True
    holders = set(_holders(context, wire))
    if holders:
        return Owner(context.request.container, context.request.ifname) not in holders
    return _is_denied(context, wire)


def _is_on_record(context: Context, wire: PodWire) -> bool:
    """As another container's, or as this one's in another network: a DEL of a network it never had is not for it.

    All records are read only where the wire is named as ours are, and has lost its mark.
    """
    if context.records.has(context.request.container, context.request.ifname):
        return True
    named = wire.host_dev.startswith(HOST_DEV)
    return named and any(each.attachment.host_dev == wire.host_dev for each in context.records.all())


def _holders(context: Context, wire: PodWire) -> Iterator[Owner]:
    """Who holds the wire's addresses by the leases of host-local, in whichever network."""
    data_dir = context.conf.ipam.folder or DEFAULT_DATA_DIR
    try:
        networks = files.names(data_dir)
    except OSError as error:
        if error.errno in UNTOLD:
            raise
        return  # what is no folder, or not ours to read, tells nothing
    for network, address in product(networks, wire.addresses):
        owner = holder(f"{data_dir}/{network}", ip_address(address))
        if owner is not None:
            yield owner


def _is_denied(context: Context, wire: PodWire) -> bool:
    """Whether the result of the ADD, which DEL is given from version 0.4.0 on, tells of another pair than this one."""
    try:
        result = parse_result(context.conf.prev_result or {}, "prevResult")
    except CniError:
        return False
    ours = [each for each in result.interfaces if each.sandbox and each.name == context.request.ifname and each.mac]
    theirs = {each.name for each in result.interfaces if not each.sandbox}
    return bool(ours) and wire.host_dev not in theirs and all(each.mac.lower() != wire.mac for each in ours)
