"""What a source says into its mailbox, as the agent's loop would hear it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from cni_plugin.agent.source import Mailbox, Snapshot


class Told:
    """What a mailbox was told, newest last; `snapshot` and `trouble` as they stand."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        self.snapshots = 0

    def until(self, holds: Callable[[Snapshot], bool], seconds: float = 5.0) -> Snapshot:
        """Wait for a snapshot of which this holds."""
        self.wait(lambda: self.snapshot is not None and holds(self.snapshot), seconds)
        assert self.snapshot is not None
        return self.snapshot

    def wait(self, holds: Callable[[], bool], seconds: float = 5.0) -> None:
        """Read until this holds."""
        end = time.monotonic() + seconds
        while not holds():
            left = end - time.monotonic()
            assert left > 0, f"never came: {self.snapshot} {self.trouble}"
            self.read(min(left, 0.05))

    def read(self, seconds: float) -> None:
        """Take what comes within this time."""
        if select.select([self.mailbox], [], [], seconds)[0]:
            snapshot, self.trouble = self.mailbox.take()
            if snapshot is not None:
                self.snapshot = snapshot
                self.snapshots += 1

    def read_for(self, seconds: float) -> None:
        """Take all that comes during this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(max(0.0, end - time.monotonic()))

    def names(self) -> list[str]:
        """The nodes of the newest snapshot."""
        return [each.name for each in self.snapshot.nodes] if self.snapshot else []
