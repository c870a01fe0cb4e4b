"""This node's word in the API: annotated for the peers, and marked as available once its network works.

Level-triggered: with each view of the node's own object, what it should say is compared with what it shows, and only
what differs is patched. Refusals and silence are answered by waiting, longer each time. Somebody who undoes our patch
again and again, a second agent with this node's name, is answered like that too (`agent.patience`).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event as Flag
from threading import Lock
from time import monotonic

from cni_plugin.agent.kube import announce
from cni_plugin.agent.kube.api import Api, worded
from cni_plugin.agent.kube.follow import Backoff, Pace
from cni_plugin.agent.kube.objects import Own
from cni_plugin.agent.patience import Patience
from cni_plugin.agent.source import Announcement


class Publisher:
    """`run` it in a thread of its own; all else may be called by any."""

    def __init__(self, connect: Callable[[], Api], node: str, unpublished: Callable[[str], None], pace: Pace) -> None:
        """`unpublished` is told why the API does not show yet what it should, "" when it does."""
        self._connect = connect
        self._node = node
        self._unpublished = unpublished
        self._backoff = Backoff(pace)
        self._patience = Patience()
        self._lock = Lock()
        self._bell = Flag()
        self._ended = Flag()
        self._own: Own | None = None
        self._flannel = False
        self._said: Announcement | None = None
        self._up = False
        self._api: Api | None = None

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
        api = self._api
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
        self._disconnect()

    def stop(self) -> None:
        """End `run` as soon as may be."""
        self._ended.set()
        self._bell.set()
        self.reconnect()

    def _turn(self) -> float | None:
        """Patch what differs; seconds until the next try if this one failed."""
        try:
            struck = self._patch()
        except Exception as error:  # the next try may do better, and nothing else depends on this one
            self._disconnect()
            wait = self._backoff.next()
            if self._backoff.failures > 1 and not self._ended.is_set():
                self._unpublished(f"peers are not told of this node: {worded(error)}")
            return wait
        self._backoff.reset()
        self._unpublished("")
        self._ended.wait(struck)
        return None

    def _patch(self) -> float:
        """Seconds for which nothing more is to be patched."""
        notes, up = self._due()
        if not notes and not up:
            return 0.0
        if self._api is None:
            self._api = self._connect()
        self._api.patch(self._node, announce.patch(notes, up=up))
        now = monotonic()
        self._patience.over(now)
        said = [f"{key}={each}" for key, each in notes.items()]  # to say something new is no quarrel
        return self._patience.struck("patch", (*said, *(["condition"] if up else [])), now, failed=False)

    def _due(self) -> tuple[dict[str, str | None], bool]:
        """What differs from what is wanted; nothing as long as the node has no object or no subnets."""
        with self._lock:
            own, flannel, said, up = self._own, self._flannel, self._said, self._up
        if own is None:
            return {}, False
        notes: dict[str, str | None] = {}
        if said is not None and own.node.pod_cidrs:
            notes = announce.differing(own, announce.wanted(own, said, flannel=flannel))
        return notes, up and own.unavailable != "False"

    def _disconnect(self) -> None:
        api, self._api = self._api, None
        if api is not None:
            api.close()
