"""What the records say of the attachments on this node, kept in memory and read again only where a file changed.

The loop asks on every change in the kernel what the bridges must be, and that follows from hundreds of records.
Promise: after `refresh` it is what is on disk now, whoever wrote it (the fallback engine of a client may have); where
nothing changed that costs one stat a network, and each distinct configuration is parsed once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from errno import ELOOP, ENOENT, ENOTDIR
from typing import NamedTuple, TypeAlias

import msgspec

from cni_plugin import decoding
from cni_plugin.attachment import Attachment
from cni_plugin.conf.reading import decode
from cni_plugin.errors import CniError
from cni_plugin.kernel.host import files
from cni_plugin.model.base import State
from cni_plugin.node.uses import Use, bridges, follows
from cni_plugin.plugins import Plugin, parse
from cni_plugin.store.records import Record, Records

_OF_ONE_POD = ("runtimeconfig", "args", "prevresult", "cni.dev/attachments", "cni.dev/valid-attachments")
"""Keys in which configurations of one network differ from pod to pod, and on which no bridge depends."""

Stamp: TypeAlias = tuple[int, int, int]


class Attached(NamedTuple):
    """One attachment, as much of it as the loop needs. `use` tells those apart that want different things."""

    attachment: Attachment
    created: float
    netns: str
    ipam: str
    bridge: str
    use: tuple[str, tuple[str, ...], int, bytes]


class _Folder(NamedTuple):
    changed: int
    settled: bool
    entries: dict[str, tuple[Stamp, Attached | None]]


class Attachments:
    """The attachments of all networks, and what they want. Raises OSError when the folder cannot be used."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._folders: dict[str, _Folder] = {}
        self._confs: dict[bytes, Plugin] = {}
        self.bridges: dict[str, State] = {}
        """What each bridge must be."""
        self.gateways: frozenset[tuple[str, str]] = frozenset()
        """Each network with each gateway that attachments of it need."""

    def __iter__(self) -> Iterator[Attached]:
        for folder in self._folders.values():
            yield from (each for _, each in folder.entries.values() if each is not None)

    def refresh(self) -> bool:
        """Read what is new on disk; whether anything was."""
        known = self._folders
        self._folders = {name: self._folder(name, known.get(name)) for name in self._records.networks()}
        changed = self._folders != known
        if changed:
            self.bridges = self._wanted()
            self.gateways = frozenset((each.attachment.network, one) for each in self for one in each.use[1])
        return changed

    def behind(self, network: str, mtu: int) -> list[Attachment]:
        """Those of a network with another MTU that nobody fixed in a configuration."""
        return [
            each.attachment
            for each in self
            if each.attachment.network == network and each.use[2] != mtu and self._follows(each)
        ]

    def _follows(self, each: Attached) -> bool:
        found = self._confs.get(each.use[3])
        return found is not None and follows(found.conf)

    def through(self, network: str, gateways: Collection[str]) -> list[Attachment]:
        """Those of a network that need one of these gateways."""
        return [
            each.attachment
            for each in self
            if each.attachment.network == network and not set(each.use[1]).isdisjoint(gateways)
        ]

    def _folder(self, network: str, known: _Folder | None) -> _Folder:
        path = self._records.folder(network)
        try:
            changed = os.stat(path).st_mtime_ns
            if known is not None and known.settled and known.changed == changed:
                return known
            settled = changed < time.time_ns() - files.TICK
            stamps = {each.name: _stamp(each) for each in os.scandir(path) if not each.name.startswith(".")}
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ELOOP):
                raise
            return _Folder(0, settled=False, entries={})
        old = known.entries if known is not None else {}
        return _Folder(changed, settled, {
            name: old[name] if name in old and old[name][0] == stamp else (stamp, self._read(network, name))
            for name, stamp in sorted(stamps.items())
        })

    def _read(self, network: str, entry: str) -> Attached | None:
        record = self._records.load(network, entry)
        if record is None:
            return None
        use = (record.bridge, record.gateways, record.mtu, _common(record))
        return Attached(record.attachment, record.created, record.netns, record.ipam, record.bridge, use)

    def _wanted(self) -> dict[str, State]:
        newest: dict[tuple[str, tuple[str, ...], int, bytes], float] = {}
        for each in self:
            newest[each.use] = max(each.created, newest.get(each.use, 0.0))
        parsed = {conf: self._confs.get(conf) or _parsed(conf) for conf in {conf for *_, conf in newest}}
        self._confs = {conf: each for conf, each in parsed.items() if each is not None}
        return bridges(
            Use(created, bridge, gateways, mtu, self._confs[conf])
            for (bridge, gateways, mtu, conf), created in newest.items()
            if conf in self._confs
        )


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _parsed(conf: bytes) -> Plugin | None:
    """None for what this release does not understand: nothing is wanted then, of a pod that lives on as it is."""
    try:
        return parse(decode(conf))
    except CniError:
        return None


def _common(record: Record) -> bytes:
    """The configuration without what is one pod's; as it is where it is no object."""
    try:
        keys = decoding.decode_as(dict[str, msgspec.Raw], record.conf)
    except msgspec.DecodeError:
        return bytes(record.conf)
    return msgspec.json.encode({key: each for key, each in keys.items() if key.lower() not in _OF_ONE_POD})
