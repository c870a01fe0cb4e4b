"""DEL: take away all that the attachment owns, whatever is left of netns, configuration and result.

What is on record goes first; without a record, what follows from the attachment's name (its veth, its leases) and
what stands in the pod under CNI_IFNAME goes, so a pod wired by the reference plugin is taken down as well; but nothing
that is known to be another attachment's (`whose`). Nothing left to do is success. The link goes before its address is
given back, so nobody else can get the address while the old pod can still send from it.
"""

from __future__ import annotations

import sys

import msgspec

from cni_plugin.attachment import Attachment
from cni_plugin.diff import Op
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.errors import KernelError, NetnsError
from cni_plugin.kernel.host import files
from cni_plugin.model.base import state
from cni_plugin.plan.pod import beside_wire, learned_neighbours, links_on_node
from cni_plugin.plugins import bare_ipam
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.ensure import drop_record
from cni_plugin.verbs.leases import leases
from cni_plugin.verbs.teardown import Takedown
from cni_plugin.wirings.contract import Wiring


def delete(context: Context) -> Takedown[bytes]:
    """Raises IpamError, KernelError, OSError for what could not be taken away; all else is gone then."""
    attachment = context.attachment
    with context.meter.step("records"):
        record = context.records.find(attachment)
    if record is None:
        _delete_unrecorded(context)
    yield unplugging(context.wiring, attachment, record)
    release(context, record)
    with context.meter.step("records"):
        forget(context.kernel, context.records, attachment)
    return b""


def teardown(context: Context, attachment: Attachment, record: Record) -> None:
    """Take the kernel objects and the record of an attachment away; leases are the caller's."""
    context.kernel.apply(unplugging(context.wiring, attachment, record))
    drop_record(context.kernel, context.records, attachment)


def forget(kernel: Kernel, records: Records, attachment: Attachment) -> None:
    """Remove the record; with the last of a network go the gateways of subnets that the node has no more."""
    last = drop_record(kernel, records, attachment)
    if last and files.names(f"{records.run_dir}/clusters"):
        from cni_plugin.node import former  # for who is in no cluster it is nothing

        try:
            former.clear(kernel, records)
        except (KernelError, OSError) as error:
            print(f"tulle: gateways of former subnets are left: {error}; tullectl repair tries again", file=sys.stderr)


def unplugging(wiring: Wiring, attachment: Attachment, record: Record | None) -> list[Op]:
    """What takes away what the attachment has on the node, and what the node remembers of its addresses."""
    there = wiring.bare(attachment)
    if record is not None:
        links, beside = links_on_node(record.objects), beside_wire(record.objects)
        forgotten = learned_neighbours(record.gateway_dev, record.ips, record.mac) if record.mac else {}
        there = {**state(links), **there, **forgotten, **state(beside)}
    return [Op("delete", each) for each in there.values()]


def release(context: Context, record: Record | None) -> None:
    """Give addresses back to the IPAM that gave them: the record knows it even when the configuration changed."""
    if record is not None:
        context = with_recorded(context, record)
    with context.meter.step("ipam"):
        leases(context).delete()


def with_recorded(context: Context, record: Record) -> Context:
    """The context as the attachment's ADD had it, as far as the IPAM is concerned."""
    request = context.request._replace(container=record.container, ifname=record.ifname, netns=record.netns)
    environ = {
        **context.environ,
        "CNI_CONTAINERID": record.container,
        "CNI_IFNAME": record.ifname,
        "CNI_NETNS": context.request.netns or record.netns,
    }
    conf = msgspec.structs.replace(
        context.conf, name=record.network, ipam=bare_ipam(record.ipam, record.data_dir)
    )
    plugin = msgspec.structs.replace(context.plugin, conf=conf)
    stdin = context.stdin if context.conf.ipam.type == record.ipam else bytes(record.conf)
    return context._replace(request=request, environ=environ, plugin=plugin, stdin=stdin)


def _delete_unrecorded(context: Context) -> None:
    """A pod that was wired by another plugin: its end of the pair, if it is there and nobody else's.

    A path of a namespace may by now be another pod's: /proc/PID/ns/net is, once a process number is used again.
    """
    try:
        context.kernel.enter(context.request.netns)
    except NetnsError:
        return  # gone, or never one: its links went with it
    from cni_plugin.verbs.whose import is_anothers  # for what is on record it is nothing

    wire = context.kernel.pod_wire(context.request.ifname)
    if wire is not None and not is_anothers(context, wire):
        context.kernel.delete_pod_link(context.request.ifname)
