"""What each attachment owns, on disk, so that DEL and GC need neither the pod's netns nor the configuration.

    <run>/attachments/<network>/<container>:<ifname>    one attachment: where it is, what it was given
    <run>/networks/<network>                            what the network has masqueraded, while it has attachments
    <run>/noted/<feature>/<network>                     the same of any other feature of the node
    <run>/lock                                          held while either of them changes together with nftables

A record is written before anything it names is made, and removed after all of it is gone; it is an intent, so a
kill between the two leaves what the next DEL or GC finds here. The run folder does not outlive a boot; a record
with an earlier boot's stamp is void all the same. What is named is a file, of at most 255 bytes (NAME_MAX): a longer
name has a digest there, and is found in the record itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from hashlib import sha256
from typing import Protocol, TypeVar

import msgspec

from cni_plugin import decoding
from cni_plugin.attachment import Attachment
from cni_plugin.kernel.host import files, locks
from cni_plugin.model.every import AnyObject
from cni_plugin.plan.lease import subnets
from cni_plugin.plan.masquerade import Masquerade
from cni_plugin.spec import IPConfig

DEFAULT_RUN_DIR = "/run/tulle"
_FIRST = "masquerade"
"""The feature whose notes stand where the release before looks for them."""
Claim = TypeVar("Claim", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True):
    """One attachment. `objects` are its kernel objects; `ips` have prefix lengths; `conf` is ADD's configuration.

    `claims` are what it has of features, by their names; `before` is what stood in the place of its objects, where that
    is to be put back. `masquerade` is that claim as the release before knows it, whose records have no other.
    """

    network: str
    container: str
    ifname: str
    boot: str
    netns: str
    created: float
    bridge: str
    gateway_dev: str
    mtu: int
    mac: str
    ips: tuple[str, ...]
    gateways: tuple[str, ...]
    ipam: str
    data_dir: str
    objects: tuple[AnyObject, ...]
    conf: msgspec.Raw
    masquerade: bool = False
    claims: Mapping[str, msgspec.Raw] = {}
    before: tuple[AnyObject, ...] = ()

    def __post_init__(self) -> None:
        if self.masquerade and not self.claims:
            nets = subnets([IPConfig(each) for each in self.ips])
            claim = msgspec.Raw(msgspec.json.encode(Masquerade(nets)))
            msgspec.structs.force_setattr(self, "claims", {"masquerade": claim} if nets else {})

    @property
    def attachment(self) -> Attachment:
        """Its identity."""
        return Attachment(self.network, self.container, self.ifname)

    def claim(self, feature: str, kind: type[Claim]) -> Claim | None:
        """What it has of a feature; None for nothing, or for nothing that can be understood."""
        return _understood(self.claims.get(feature, msgspec.Raw()), kind)


class Disk(Protocol):
    """What is asked of files: `kernel.host.files`, or the picture of them that a preview draws."""

    def read(self, path: str) -> bytes | None:
        """As `files.read`."""

    def note(self, path: str) -> bytes | None:
        """As `files.note`."""

    def names(self, path: str) -> list[str]:
        """As `files.names`."""

    def write(self, path: str, data: bytes) -> None:
        """As `files.write`."""

    def make_own(self, root: str, *names: str) -> None:
        """As `files.make_own`."""

    def remove(self, path: str) -> bool:
        """As `files.remove`."""

    def remove_with_leftover(self, path: str) -> bool:
        """As `files.remove_with_leftover`."""

    def remove_folder(self, path: str) -> bool:
        """As `files.remove_folder`."""

    def sweep(self, path: str) -> None:
        """As `files.sweep`."""

    def set_aside(self, path: str) -> None:
        """As `files.set_aside`."""


class Records:
    """The records below one run folder. All methods raise OSError when the folder cannot be used."""

    disk: Disk = files

    def __init__(self, run_dir: str, shelf: str = "attachments") -> None:
        self.run_dir = run_dir
        self._shelf = shelf.split("/")
        self._attachments = f"{run_dir}/{shelf}"
        self._networks = f"{run_dir}/networks"

    def lock(self) -> AbstractContextManager[None]:
        """Held while records and the masquerade chain change together."""
        files.make_root(self.run_dir)
        return locks.locked(f"{self.run_dir}/lock")

    def claim(self, attachment: Attachment) -> AbstractContextManager[None]:
        """Held while an attachment is being made. Raises BlockingIOError where somebody else is at it."""
        files.make_root(self.run_dir)
        return locks.claimed(f"{self.run_dir}/lock", int(attachment.digest[:15], 16))

    def put(self, record: Record) -> None:
        """Write an attachment's record."""
        self.disk.make_own(self.run_dir, *self._shelf, stem(record.network))
        self.disk.write(self._path(record.attachment), msgspec.json.encode(record))

    def find(self, attachment: Attachment) -> Record | None:
        """The attachment's record of this boot. One that cannot be read is set aside, and counts as none."""
        return self._load(self._path(attachment))

    def has(self, container: str, ifname: str) -> bool:
        """Whether any network has that interface of the container on record: one look for each network."""
        return any(self.find(Attachment(network, container, ifname)) for network in self.networks())

    def remove(self, attachment: Attachment) -> bool:
        """Remove the record; whether the network has no attachment left."""
        self.disk.remove_with_leftover(self._path(attachment))
        return self.disk.remove_folder(self.folder(attachment.network))

    def sweep(self, network: str) -> bool:
        """Remove what killed writers left among a network's records; whether it has none. The caller holds the lock."""
        self.disk.sweep(self.folder(network))
        return not self.disk.names(self.folder(network))

    def all(self, network: str = "") -> Iterator[Record]:
        """Every record of this boot, or those of one network."""
        for name in [network] if network else self.networks():
            for entry in self.disk.names(self.folder(name)):
                record = self.load(name, entry)
                if record is not None:
                    yield record

    def folder(self, network: str) -> str:
        """Where the records of a network are, one file each; its time changes with every one that comes or goes."""
        return f"{self._attachments}/{stem(network)}"

    def networks(self) -> list[str]:
        """The networks that have attachments, by their stems."""
        return self.disk.names(self._attachments)

    def load(self, network: str, entry: str) -> Record | None:
        """The record in a file of a network's folder."""
        return self._load(f"{self.folder(network)}/{entry}")

    def noted(self, feature: str, kind: type[Claim]) -> dict[str, Claim]:
        """What each network has noted of a feature, by their stems."""
        found = {name: self.note(feature, name, kind) for name in self.disk.names(self._notes(feature))}
        return {name: each for name, each in found.items() if each is not None}

    def note(self, feature: str, network: str, kind: type[Claim]) -> Claim | None:
        """What this one has; None where nothing is noted, or nothing that can be understood."""
        return _understood(self.disk.note(f"{self._notes(feature)}/{stem(network)}") or b"", kind)

    def set_note(self, feature: str, network: str, claim: msgspec.Struct) -> None:
        """Note what a network has of a feature."""
        folder = self._notes(feature)
        self.disk.make_own(self.run_dir, *folder.removeprefix(f"{self.run_dir}/").split("/"))
        self.disk.write(f"{folder}/{stem(network)}", msgspec.json.encode(claim))

    def drop_note(self, feature: str, network: str) -> bool:
        """Forget it; whether there was anything."""
        return self.disk.remove_with_leftover(f"{self._notes(feature)}/{stem(network)}")

    def features(self, network: str) -> list[str]:
        """The features of which a network has something noted, but for those that are chained in it still."""
        name = stem(network)
        found = [_FIRST, *self.disk.names(f"{self.run_dir}/noted")]
        noting = [each for each in found if name in self.disk.names(self._notes(each))]
        return [each for each in noting if not self.disk.names(f"{self.run_dir}/chained/{each}/{name}")]

    def _notes(self, feature: str) -> str:
        return self._networks if feature == _FIRST else f"{self.run_dir}/noted/{feature}"

    def _load(self, path: str) -> Record | None:
        """What is no record, whatever it is, stands in nobody's way: it is set aside, and `tullectl doctor` tells."""
        try:
            data = self.disk.read(path)
            record = decoding.decode_as(Record, data) if data is not None else None
            if record is not None and self._path(record.attachment) != path:
                raise msgspec.DecodeError("it names another attachment than its file")
        except (OSError, msgspec.DecodeError) as error:
            if isinstance(error, OSError) and error.errno not in files.ODD:
                raise
            self._set_aside(path, error)
            return None
        return record if record is not None and record.boot == files.boot_id() else None

    def _set_aside(self, path: str, why: Exception) -> None:
        """On a disk that cannot be written it stays, and is passed over."""
        with suppress(OSError):
            self.disk.set_aside(path)
            print(f"tulle: {path} is no record and was set aside: {why}", file=sys.stderr)

    def _path(self, attachment: Attachment) -> str:
        name = f"{attachment.container}:{attachment.ifname}"
        return f"{self.folder(attachment.network)}/{name if len(name.encode()) <= 180 else attachment.digest}"


def _understood(data: bytes | msgspec.Raw, kind: type[Claim]) -> Claim | None:
    try:
        return decoding.decode_as(kind, data)
    except msgspec.MsgspecError:
        return None


def stem(network: str) -> str:
    """What a network's file is called: its name where that is short enough; what is one already stays."""
    return network if len(network) <= 255 else f"={sha256(network.encode()).hexdigest()}"
