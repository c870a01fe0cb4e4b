"""What a source says into its mailbox, as the agent's loop would hear it."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from cni_plugin.agent.sources.contract import Mailbox, Snapshot
from tests import pace


class Told:
    """What a mailbox was told, newest last; `snapshot` and `trouble` as they stand."""

    def __init__(self) -> None:
        self.mailbox = Mailbox()
        self.snapshot: Snapshot | None = None
        self.trouble = ""
        self.snapshots = 0

    def until(self, holds: Callable[[Snapshot], bool]) -> Snapshot:
        """Wait for a snapshot of which this holds."""
        self.wait(lambda: self.snapshot is not None and holds(self.snapshot))
        assert self.snapshot is not None
        return self.snapshot

    def wait(self, holds: Callable[[], bool]) -> None:
        """Read until this holds."""
        pace.until(
            holds, "what the source should say",
            why=lambda: f"{self.snapshot} {self.trouble}", between=lambda: self.read(0.05),
        )

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


def wait(holds: Callable[[], bool]) -> None:
    """Wait for what no source tells, such as what its server was asked."""
    pace.until(holds, "what should have happened")
