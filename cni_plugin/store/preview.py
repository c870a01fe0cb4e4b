"""What would be on disk after a request that is only previewed: it is kept in memory, over what is there.

    records = PreviewedRecords("/run/tulle")
    records.put(record)             no file is written
    records.find(attachment)        ->  the record
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from cni_plugin.attachment import Attachment
from cni_plugin.kernel.host import files
from cni_plugin.store.records import Records


class PreviewedRecords(Records):
    """The records as they would be: what is written stays in memory, and nothing is locked."""

    def __init__(self, run_dir: str) -> None:
        super().__init__(run_dir)
        self.disk = Picture()

    def lock(self) -> AbstractContextManager[None]:
        """Nobody else sees them."""
        return nullcontext()

    def claim(self, attachment: Attachment) -> AbstractContextManager[None]:
        """Nobody else is at it."""
        del attachment
        return nullcontext()


class Picture:
    """`Disk` over the real one, which is only read."""

    def __init__(self) -> None:
        self._changed: dict[str, bytes | None] = {}

    def read(self, path: str) -> bytes | None:
        """What was written, else what is there."""
        return self._changed[path] if path in self._changed else files.read(path)

    def note(self, path: str) -> bytes | None:
        """What was written, else what is there."""
        return self._changed[path] if path in self._changed else files.note(path)

    def names(self, path: str) -> list[str]:
        """What is there without what was removed, and what was written, also in folders below."""
        gone = {each for each, data in self._changed.items() if data is None}
        there = {each for each in files.names(path) if f"{path}/{each}" not in gone}
        made = {each for each in self._changed.keys() - gone if each.startswith(f"{path}/")}
        return sorted(there | {each.removeprefix(f"{path}/").partition("/")[0] for each in made})

    def write(self, path: str, data: bytes) -> None:
        """Kept."""
        self._changed[path] = data

    def make_own(self, root: str, *names: str) -> None:
        """Nothing: a folder is there with what is in it."""

    def remove(self, path: str) -> bool:
        """Forgotten; whether there was one."""
        there = self.note(path) is not None
        self._changed[path] = None
        return there

    def remove_with_leftover(self, path: str) -> bool:
        """Forgotten; whether there was one."""
        return self.remove(path)

    def remove_folder(self, path: str) -> bool:
        """Whether there is nothing in it."""
        return not self.names(path)

    def sweep(self, path: str) -> None:
        """Nothing: no writer was killed here."""

    def set_aside(self, path: str) -> None:
        """Forgotten."""
        self._changed[path] = None
