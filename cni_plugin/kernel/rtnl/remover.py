"""Deleting links without waiting for the kernel to tidy up behind them.

RTM_DELLINK returns 15 to 20 ms after the link is gone: the kernel first closes it and takes it out of all lists, tells
everybody (1 ms), lets go of rtnl, and only then waits for an RCU barrier, on behalf of the caller, before it frees the
memory (net/core/dev.c, unregister_netdevice_many_notify and netdev_run_todo). Nobody can see, reach or use the link by
then, and its name is free. So a thread makes the request, and we go on at the kernel's own word, RTM_DELLINK, that
each of the links is gone; or when the request returns, should that come first. Where sockets, descriptors or threads
have run out, the links are deleted without all that, and waited for.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

from cni_plugin.kernel.errors import PASSING
from cni_plugin.kernel.rtnl.codec import RTM_DELLINK, Message
from cni_plugin.kernel.rtnl.encode import deletion_at, group_deletion, grouping
from cni_plugin.kernel.rtnl.namespace import Namespace
from cni_plugin.kernel.rtnl.netlink import Netlink, Outcome
from cni_plugin.marks import GROUP

MOST = 16
"""Requests under way at a time; who would make one more waits for the kernel himself."""
PATIENCE_MS = 10_000
_RTMGRP_LINK = 1


class Remover:
    """Deletes links of the namespace that it is made in. `close` waits for nothing."""

    def __init__(self) -> None:
        self._under_way: list[_Request] = []

    def remove(self, host: Namespace, names: Sequence[str]) -> list[Outcome]:
        """Return when none of these links is there any more; what became of each, one that was not there included."""
        indexes = {name: link.link for name in names if (link := host.link(name)) is not None}
        if not indexes:
            return [Outcome(0)] * len(names)
        outcomes = dict.fromkeys(names, Outcome(0)) | self._deleted(host, indexes)
        short = {name: indexes[name] for name, outcome in outcomes.items() if outcome.errno in PASSING}
        if short:
            again = host.netlink.send([deletion_at(index) for index in short.values()])
            outcomes.update(zip(short, again, strict=True))
        return [outcomes[name] for name in names]

    def _deleted(self, host: Namespace, indexes: dict[str, int]) -> dict[str, Outcome]:
        try:
            events = Netlink(_RTMGRP_LINK)
            try:
                return self._delete(host, indexes, events)
            finally:
                events.close()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            return dict.fromkeys(indexes, Outcome(error.errno, str(error)))

    def _delete(self, host: Namespace, indexes: dict[str, int], events: Netlink) -> dict[str, Outcome]:
        if len(indexes) == 1:
            outcome = self._request(deletion_at(*indexes.values()), events, set(indexes.values()))
            return dict.fromkeys(indexes, outcome)
        grouped = dict(zip(indexes, host.netlink.send([grouping(name, GROUP) for name in indexes]), strict=True))
        inside = {name: indexes[name] for name, each in grouped.items() if not each.errno}
        if inside:
            outcome = self._request(group_deletion(GROUP), events, set(inside.values()))
            grouped.update(dict.fromkeys(inside, outcome))
        return grouped

    def _request(self, message: bytearray, events: Netlink, left: set[int]) -> Outcome:
        request = _Request(message)
        self._under_way = [each for each in self._under_way if each.is_alive()]
        self._under_way.append(request)
        try:
            request.start()
        except RuntimeError:  # the machine gives us no more threads
            request.run()
        try:
            if len(self._under_way) > MOST and request.is_alive():
                request.join()
            return _wait(request, events, left)
        finally:
            request.forget()


class _Request(Thread):
    """One request on a socket of its own, whose end can be waited for as a descriptor."""

    def __init__(self, request: bytearray) -> None:
        super().__init__(daemon=True)
        self._request = request
        self.outcome = Outcome(0)
        self._netlink = Netlink()
        self.bell = -1
        try:
            self.bell = os.eventfd(0, os.EFD_CLOEXEC)
            self._heard = os.dup(self.bell)
        except BaseException:
            self._netlink.close()
            if self.bell >= 0:
                os.close(self.bell)
            raise

    def run(self) -> None:
        """Make it."""
        try:
            (self.outcome,) = self._netlink.send([self._request])
        except OSError as error:
            self.outcome = Outcome(error.errno or 5, str(error))
        finally:
            with suppress(OSError):  # it is heard then when patience is at its end
                os.eventfd_write(self._heard, 1)
            os.close(self._heard)
            self._netlink.close()

    def forget(self) -> None:
        """Nobody waits for its end any more."""
        os.close(self.bell)


def _wait(request: _Request, events: Netlink, left: set[int]) -> Outcome:
    poll = select.poll()
    poll.register(events.fileno(), select.POLLIN)
    poll.register(request.bell, select.POLLIN)
    while left:
        ready = {fd for fd, _ in poll.poll(PATIENCE_MS)}
        if request.bell in ready or not ready:
            if request.is_alive():
                request.join()
            return request.outcome
        left -= {event.link for event in events.read() if _is_gone(event)}
    return Outcome(0)


def _is_gone(event: Message) -> bool:
    """Not the bridge's word (AF_BRIDGE), which comes first and says only that it has a port less."""
    return event.kind == RTM_DELLINK and event.field("family") == socket.AF_UNSPEC
