"""What systemd and the agent tell each other: who is ready, who is alive, and whose socket it is.

    systemd.listeners()                        the sockets that systemd listens on for us (sd_listen_fds(3))
    systemd.notify("READY=1", "STATUS=...")    how we are (sd_notify(3))
    systemd.Watchdog().pat()                   we are alive, said twice in each WatchdogSec= (sd_watchdog_enabled(3))
    systemd.Report(how)                        how we are, said whenever that is another: a `server.Watcher`

Without systemd each of these does nothing. None raises, and none waits for longer than a second.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from cni_plugin.kernel.errors import PASSING

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""
_MOST_SOCKETS = 64
_TRIES = 3
_PATIENCE = 1.0
"""Seconds that a message may take to get into a queue that is full."""


def listeners(name: str = "") -> list[socket.socket]:
    """The sockets handed over to this very process, in the order of the units; those of this FileDescriptorName=.

    They are ours from then on: the variables are taken out of the environment, so that no child takes them for its own.
    """
    pid, count, names = (os.environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if not (count.isdecimal() and pid == str(os.getpid())):
        return []
    found = []
    labels = names.split(":") if names else []
    for index in range(min(int(count), _MOST_SOCKETS)):
        label = labels[index] if index < len(labels) else "unknown"
        with suppress(OSError):
            os.set_inheritable(FIRST_FD + index, False)
            if name in ("", label):
                found.append(socket.socket(fileno=FIRST_FD + index))
    return found


def notify(*lines: str) -> bool:
    """Tell systemd, in one message; whether it was sent. A value has no line breaks."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    message = "\n".join(each.replace("\n", " ") for each in lines).encode()
    for _ in range(_TRIES):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_PATIENCE)
                return channel.sendto(message, address) == len(message)
        except OSError as error:
            if error.errno not in PASSING:
                break
    return False


class Watchdog:
    """Reassures systemd's watchdog, if one watches over this process."""

    def __init__(self) -> None:
        self.interval = _half_of_watchdog()
        self._next = 0.0

    def pat(self) -> None:
        """Call it whenever the main loop has turned; it speaks up when half of the watchdog's time is over."""
        if not self.interval:
            return
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.interval
            notify("WATCHDOG=1")


class Report:
    """What `systemctl status` shows of us after READY=1, looked at every INTERVAL seconds.

    A `server.Watcher` without descriptors. A look reads what is in use of every pool, under its lock.
    """

    INTERVAL = 30.0

    def __init__(self, how: Callable[[], str]) -> None:
        self._how = how
        self._told = ""
        self._next = time.monotonic() + self.INTERVAL if os.environ.get("NOTIFY_SOCKET") else None

    def filenos(self) -> tuple[int, ...]:
        """None."""
        return ()

    def readable(self, _fd: int) -> None:
        """Never."""

    def due(self) -> float | None:
        """When to look next; never without systemd."""
        return self._next

    def run(self) -> None:
        """Look, and tell what is new."""
        self._next = time.monotonic() + self.INTERVAL
        how = self._how()
        if how != self._told and notify(f"STATUS={how}"):
            self._told = how


def _half_of_watchdog() -> float:
    """Seconds; 0 when nobody watches. $WATCHDOG_PID names whom it is for."""
    pid, microseconds = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / 2e6
