"""How full the node is at this moment: what a scrape reads from the leases, the records and the kernel.

Nothing of it is kept: a number that was counted along could drift from what is on disk, where clients without an
agent work too. A scrape costs one record, one lease bitmap and two folder listings for each network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from cni_plugin.conf import reading
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.store.records import Record, Records
from cni_plugin.verbs.usage import usage

BRIDGE_PORTS = "/sys/class/net/{}/brif"
"""One entry for each port of a bridge (net/bridge/br_sysfs_if.c)."""


class Pool(NamedTuple):
    """One range set of a network, in addresses."""

    network: str
    range_set: int
    used: int
    free: int


class Gauges:
    """Asks anew each time; `queue` says how many requests wait. No method raises: what cannot be read is left out."""

    def __init__(self, kernel: Kernel, records: Records, queue: Callable[[], int]) -> None:
        self._kernel = kernel
        self._records = records
        self.queue = queue

    def pools(self) -> list[Pool]:
        """How full each range set is."""
        return [pool for record in self._first_records() for pool in self._pools(record)]

    def attachments(self) -> dict[str, int]:
        """How many attachments each network has."""
        return {name: len(_names(self._records.folder(name))) for name in self._networks()}

    def bridge_ports(self) -> dict[str, int]:
        """How many ports each bridge of ours has; a Linux bridge holds 1,023."""
        bridges = {each.bridge for each in self._first_records() if each.bridge}
        return {name: len(_names(BRIDGE_PORTS.format(name))) for name in sorted(bridges)}

    def _networks(self) -> list[str]:
        return _names(f"{self._records.run_dir}/attachments")

    def _first_records(self) -> Iterator[Record]:
        """One attachment of each network: its configuration is the network's."""
        for network in self._networks():
            try:
                record = next(self._records.all(network), None)
            except OSError:
                continue
            if record is not None:
                yield record

    def _pools(self, record: Record) -> list[Pool]:
        try:
            found = usage(self._kernel, self._records, reading.decode(bytes(record.conf)))
        except Exception:  # whatever is wrong with one network's configuration, the others' numbers are wanted
            return []
        return [Pool(record.network, each.range_set, each.used, each.free) for each in found]


def _names(path: str) -> list[str]:
    try:
        return files.names(path)
    except OSError:
        return []
