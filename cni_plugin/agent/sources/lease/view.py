"""What the store holds, as far as this node heard: kept by listing and by the stream of changes, read by all threads.

Promises: a configuration that is broken or gone changes nothing but what is complained of, and as long as it is gone
the nodes last told stay, for then the whole store may be; news that is older than what is known is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from threading import Lock

from cni_plugin import flannel
from cni_plugin.agent.sources.lease.gateway import Change
from cni_plugin.agent.sources.lease.schema import CONFIG, SUBNETS, Entry, Stored, entry
from cni_plugin.backends.contract import of_ours, unusable_flannel
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import decode
from cni_plugin.errors import CniError
from cni_plugin.network import NetworkConf
from cni_plugin.rooms import default

MOST_COMPLAINTS = 20


class View:
    """`prefix` ends in a slash; `changed` is called after each change, by the thread that made it."""

    def __init__(self, prefix: str, changed: Callable[[], None]) -> None:
        self.prefix = prefix
        self.conf: NetworkConf | None = None
        self.revision = 0
        self._changed = changed
        self._lock = Lock()
        self._config: bytes | None = None
        self._complaint = ""
        self._entries: dict[str, Entry] = {}
        self._strange: dict[str, str] = {}

    @property
    def whole(self) -> bool:
        """Whether the store has a configuration now, and so is what it should be."""
        return self._config is not None

    def entries(self) -> tuple[Entry, ...]:
        """Every subnet that somebody has."""
        with self._lock:
            return tuple(self._entries.values())

    def complaints(self) -> tuple[str, ...]:
        """What in the store cannot be understood."""
        with self._lock:
            found = [self._complaint, *self._strange.values(), *(each.problem for each in self._entries.values())]
        return few(filter(None, found))

    def load(self, revision: int, stored: Iterable[Stored], *, anew: bool = False) -> None:
        """All that there is at a revision; `anew` when the store may be another than it was."""
        with self._lock:
            if revision < self.revision and not anew:
                return
            found = {each.key: each for each in stored}
            known = (*self._entries, *self._strange)
            for key in known:
                if f"{self.prefix}{SUBNETS}{key}" not in found:
                    self._note(f"{self.prefix}{SUBNETS}{key}", None)
            for key in {f"{self.prefix}{CONFIG}", *found}:
                self._note(key, found.get(key))
            self.revision = revision
        self._changed()

    def apply(self, changes: Collection[Change]) -> None:
        """What the stream said: of several revisions it may be, and of such as were listed meanwhile."""
        with self._lock:
            news = [each for each in changes if each.stored.modified > self.revision]
            for each in news:
                self._note(each.stored.key, None if each.gone else each.stored)
            self.revision = max((each.stored.modified for each in news), default=self.revision)
        if news:
            self._changed()

    def _note(self, key: str, stored: Stored | None) -> None:
        if key == f"{self.prefix}{CONFIG}":
            self._configure(key, stored.value if stored else None)
        elif key.startswith(f"{self.prefix}{SUBNETS}"):
            self._note_subnet(key.removeprefix(f"{self.prefix}{SUBNETS}"), stored)

    def _note_subnet(self, name: str, stored: Stored | None) -> None:
        known = self._entries.pop(name, None)
        self._strange.pop(name, None)
        if stored is None:
            return
        stored = stored._replace(key=name)
        try:
            self._entries[name] = known if known and known.stored == stored else entry(stored)
        except ValueError as error:
            self._strange[name] = f"{self.prefix}{SUBNETS}{name} names no subnet and is passed over: {error}"

    def _configure(self, key: str, value: bytes | None) -> None:
        if value == self._config is not None:
            return
        self._config = value
        still = "; what it said last stays true" if self.conf else ""
        if value is None:
            example = f'\'{{"Network": "10.244.0.0/16", "Backend": {{"Type": "{default("backends")}"}}}}\''
            self._complaint = f"{key} is missing: write the network's configuration: etcdctl put {key} {example}{still}"
            return
        try:
            conf = flannel.parse(decode(value, "in the key"), carved=True)
        except CniError as error:
            self._complaint = f"{key}: {error.msg}{still}"
            return
        self.conf, self._complaint = conf, "; ".join(f"{key}: {each}" for each in conf.doubts)


def peers(entries: Iterable[Entry], backend: str) -> tuple[list[Node], tuple[str, ...]]:
    """Who lives in the subnets, and what there is to say of them.

    What was announced for another backend is of no use to this one. Nodes of flannel's, which have no name in their
    value, are reached by what they said alone; those of ours never by what is derived.
    """
    nodes, complaints = [], []
    for each in entries:
        node = each.node
        if node is None:
            continue
        if each.backend != backend:
            complaints.append(f"{node.name} announces {each.backend}, and the network's backend is {backend}")
            node = Node(node.name, node.addresses, node.pod_cidrs, {}, node.since)
        why = "" if each.name else unusable_flannel(node, backend)
        if why:
            complaints.append(why)
        else:
            nodes.append(of_ours(node) if each.name else node)
    return nodes, few(complaints)


def few(complaints: Iterable[str]) -> tuple[str, ...]:
    """No more of them than a person reads."""
    found = tuple(complaints)
    more = len(found) - MOST_COMPLAINTS
    return found if more <= 0 else (*found[:MOST_COMPLAINTS], f"and {more} more of that kind")
