"""What features made that are chained after a main plugin, taken away: by a request, or with an attachment that died.

    <run>/chained/<feature>/<network>/<container>:<ifname>    what it claims for an attachment, what it made for it, and
                                                              what stood in the place of that, which is put back
"""

from __future__ import annotations

from collections.abc import Iterator

from cni_plugin.attachment import Attachment
from cni_plugin.diff import diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.model.base import HOST, state
from cni_plugin.node.claims import forget
from cni_plugin.store.records import Record, Records


def shelf(run_dir: str, feature: str) -> Records:
    """The records of a feature that is chained."""
    return Records(run_dir, f"chained/{feature}")


def shelves(run_dir: str) -> Iterator[tuple[str, Records]]:
    """Every feature that is chained to some attachment, with its records."""
    for feature in files.names(f"{run_dir}/chained"):
        yield feature, shelf(run_dir, feature)


def take_away(kernel: Kernel, records: Records, feature: str, record: Record, *, inside: bool) -> None:
    """Put back what stood before, then forget it; `inside`: also what is in the pod's namespace, which is entered.

    Raises KernelError, OSError.
    """
    made, before = (
        state(each for each in objects if inside or each.where == HOST) for objects in (record.objects, record.before)
    )
    kernel.apply(diff(before, kernel.read(made.values())))
    drop(kernel, records, feature, record.attachment)


def drop(kernel: Kernel, records: Records, feature: str, attachment: Attachment) -> None:
    """Remove a record; with the last of a network goes what the node does for all of them.

    But not while a main plugin serves the same feature to others of that network.
    """
    network = attachment.network
    with records.lock():
        last = records.remove(attachment)
        if last and all(feature not in each.claims for each in Records(records.run_dir).all(network)):
            forget(kernel, records, network, [feature])


def bury(kernel: Kernel, run_dir: str, attachment: Attachment) -> None:
    """Take away what all of them made on the node for an attachment whose pod is gone. Raises KernelError, OSError."""
    for feature, records in shelves(run_dir):
        record = records.find(attachment)
        if record is not None:
            take_away(kernel, records, feature, record, inside=False)
