"""GC: take away every attachment of the network that the runtime does not list; go on past errors, report all.

Attachments are known by their records, by the mark on their veth, and by their leases: an ADD that was killed left
at least one of these. Without a list (`cnitool gc` sends none) only what is provably dead goes: its veth is
gone, which dies with the pod's namespace, and nothing stands where its namespace was.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cni_plugin.diff import Op
from cni_plugin.errors import GC_INCOMPLETE, CniError
from cni_plugin.kernel.errors import NetnsError
from cni_plugin.model import Veth
from cni_plugin.plan.pod import Attachment, owner
from cni_plugin.records import Record
from cni_plugin.verbs.context import Context
from cni_plugin.verbs.delete import release, unplug
from cni_plugin.verbs.ensure import drop_record, sweep_records
from cni_plugin.verbs.leases import leases


def collect(context: Context) -> bytes:
    """Raises CniError 103 that tells everything that could not be taken away."""
    known = context.conf.valid
    valid = None if known is None else frozenset((each.container_id, each.ifname) for each in known)
    records = {each.attachment: each for each in context.records.all(context.conf.name)}
    failures: dict[Attachment | str, str] = {}
    for attachment in sorted({*records, *_marked(context)}):
        record = records.get(attachment)
        if not _is_valid(context, attachment, record, valid):
            _try(failures, attachment, partial(_take_away, context, attachment, record))
    # what could not be unplugged keeps its address: nobody else may have it while the old wire can send from it
    stuck = {(each.container, each.ifname) for each in failures if isinstance(each, Attachment)}
    _try(failures, "ipam", partial(leases(context).collect, None if valid is None else valid | stuck))
    _try(failures, "records", partial(sweep_records, context.records, context.conf.name))
    if failures:
        raise CniError(
            GC_INCOMPLETE,
            f"{len(failures)} of the stale attachments could not be collected",
            "\n".join(
                f"{' '.join(what) if isinstance(what, Attachment) else what}: {why}" for what, why in failures.items()
            ),
        )
    return b""


def _is_valid(
    context: Context, attachment: Attachment, record: Record | None, valid: frozenset[tuple[str, str]] | None
) -> bool:
    if valid is not None:
        return (attachment.container, attachment.ifname) in valid
    return not _is_dead(context, attachment, record)


def _is_dead(context: Context, attachment: Attachment, record: Record | None) -> bool:
    """Both ends of a pair die together, so a veth that is gone and a namespace that is gone are proof."""
    if context.kernel.link_index(attachment.host_dev):
        return False
    if record is None:
        return False  # a lease alone proves nothing: another plugin may have delegated to us
    try:
        context.kernel.enter(record.netns)
    except NetnsError:
        return True
    return False


def _marked(context: Context) -> list[Attachment]:
    """The attachments of this network whose veth stands, recorded or not."""
    found = (owner(each.alias) for each in context.kernel.own_links())
    return [each for each in found if each is not None and each.network == context.conf.name]


def _take_away(context: Context, attachment: Attachment, record: Record | None) -> None:
    if record is None:
        context.kernel.apply([Op("delete", Veth(attachment.host_dev))])  # its leases are collected with the rest
        return
    unplug(context, attachment, record)
    release(context, record)
    drop_record(context.kernel, context.records, attachment)


def _try(failures: dict[Attachment | str, str], what: Attachment | str, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:
        failures[what] = str(error)
