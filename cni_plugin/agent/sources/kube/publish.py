"""This node's word in the API: its Lease, and where flannel or the cloud is to read something there, its Node's status.

Level-triggered: with each view of the node's own objects, what they should say is compared with what they show, and
only what differs is written. Refusals and silence are answered by waiting, longer each time; that the one object is
refused keeps nobody from the other. Somebody who undoes our word again and again, a second agent with this node's name,
is answered like that too (`agent.patience`).

Where the API takes no Leases, as one does that has the rules of a release before, the Node's annotations say the same:
peers understand them of a node without a Lease.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Event as Flag
from threading import Lock
from time import monotonic

from cni_plugin.agent.patience import Patience
from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.kube import announce, lease
from cni_plugin.agent.sources.kube.annotations import ANNOUNCED, MANAGED
from cni_plugin.agent.sources.kube.api import Api, Line
from cni_plugin.agent.sources.kube.errors import worded
from cni_plugin.agent.sources.kube.follow import Backoff, Pace
from cni_plugin.agent.sources.kube.objects import Own


class Publisher:
    """`run` it in a thread of its own; all else may be called by any."""

    def __init__(
        self, connect: Callable[[], Api], namespace: str, unpublished: Callable[[str], None], pace: Pace
    ) -> None:
        """`namespace`: that of the Leases. `unpublished` is told why the API does not show yet what it should."""
        self._line = Line(connect)
        self._namespace = namespace
        self._unpublished = unpublished
        self._backoff = Backoff(pace)
        self._again = pace.grace
        self._patience = Patience()
        self._lock = Lock()
        self._bell = Flag()
        self._ended = Flag()
        self._own: Own | None = None
        self._flannel = False
        self._said: Announcement | None = None
        self._up = False
        self._refusals = 0

    def shown(self, own: Own | None, *, flannel: bool) -> None:
        """The API shows this of our node; `flannel`: some other node is still flannel's."""
        with self._lock:
            changed = (own, flannel) != (self._own, self._flannel)
            self._own, self._flannel = own, flannel
        if changed:
            self._bell.set()

    def say(self, said: Announcement) -> None:
        """Peers must know this."""
        with self._lock:
            self._said = said
        self._bell.set()

    def reconnect(self, *, stranded: bool = False) -> None:
        """Speak over a new connection from now on; `stranded`: only if the old one's own address is gone."""
        api = self._line.held
        if api is not None and (not stranded or api.is_stranded()):
            api.stop()

    def up(self) -> None:
        """The network of this node works."""
        with self._lock:
            self._up = True
        self._bell.set()

    def run(self) -> None:
        """Until `stop`."""
        wait: float | None = None
        while not self._ended.is_set():
            self._bell.wait(wait)
            self._bell.clear()
            wait = None if self._ended.is_set() else self._turn()
        self._line.close()

    def stop(self) -> None:
        """End `run` as soon as may be."""
        self._ended.set()
        self._bell.set()
        self.reconnect()

    def _turn(self) -> float | None:
        """Write what differs; seconds until the next look, None when the next one is at the next news.

        What was written is looked at again: if it was undone at once, the API shows what it did before.
        """
        troubles: list[str] = []
        struck: list[float | None] = []
        for what, write in (("peers are not told of this node by its Lease", self._announce),
                            ("this node's status", self._status)):
            try:
                struck.append(write())
            except Exception as error:  # the next try may do better, and nothing else depends on this one
                self._line.close()
                troubles.append(f"{what}: {worded(error)}")
        if troubles:
            wait = self._backoff.next()
            if self._backoff.failures > 1 and not self._ended.is_set():
                self._unpublished("; ".join(troubles))
            return wait
        self._backoff.reset()
        self._unpublished("")
        written = [each for each in struck if each is not None]
        self._ended.wait(max(written, default=0.0))
        return self._again if written else None

    def _announce(self) -> float | None:
        """As `_lease`, whose second failure in a row has the Node's annotations say it, as far as that is allowed."""
        try:
            struck = self._lease()
        except Exception:
            self._refusals += 1
            if self._refusals > 1:
                self._line.close()
                with suppress(Exception):  # what is told is why there is no Lease, which is what there should be
                    self._annotate()
            raise
        self._refusals = 0
        return struck

    def _annotate(self) -> None:
        own, _, said, _ = self._now()
        if own is None or said is None:
            return
        wanted = announce.notes(own, said)
        notes = announce.differing(own, {key: wanted[key] for key in ANNOUNCED if key in wanted})
        if notes:
            self._line.api().patch(own.node.name, announce.patch(notes, up=False))

    def _lease(self) -> float | None:
        """Seconds for which nothing more is to be written, None if nothing was. A node without subnets says nothing."""
        own, _, said, _ = self._now()
        if own is None or said is None or not own.node.pod_cidrs:
            return None
        notes = announce.notes(own, said)
        if lease.says(own, notes):
            return None
        self._line.api().apply(self._namespace, own.node.name, lease.body(own, notes))
        return self._struck("lease", notes)

    def _status(self) -> float | None:
        """The same of the Node's status. That its network is there is said only where somebody says that it is not."""
        own, flannel, said, up = self._now()
        if own is None:
            return None
        notes: dict[str, str] = {}
        if said is not None and own.node.pod_cidrs and (flannel or MANAGED in own.notes):
            notes = announce.differing(own, announce.flannels(own, said))
        up = up and own.unavailable not in ("", "False")
        if not notes and not up:
            return None
        self._line.api().patch(own.node.name, announce.patch(notes, up=up))
        return self._struck("status", {**notes, **({"NetworkUnavailable": "False"} if up else {})})

    def _struck(self, what: str, said: Mapping[str, str]) -> float:
        now = monotonic()
        self._patience.over(now)
        thing = (what, *said.items())  # to say something new is no quarrel
        return self._patience.struck(what, [thing], now, failed=False)

    def _now(self) -> tuple[Own | None, bool, Announcement | None, bool]:
        with self._lock:
            return self._own, self._flannel, self._said, self._up
