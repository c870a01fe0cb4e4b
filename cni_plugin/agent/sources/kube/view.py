"""What the followers have learned of the cluster, put together into the snapshots that the agent is given.

Followers change it from their threads; each change that matters rings. One thread answers by `tell`: a single change
goes on at once, a storm of them as at most 20 snapshots a second, fewer when putting one together takes long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import Event as Flag
from threading import Lock
from typing import NamedTuple, TypeVar

import msgspec

from cni_plugin.agent.sources.contract import Snapshot
from cni_plugin.agent.sources.kube.lease import leased, leftovers
from cni_plugin.agent.sources.kube.objects import Configured, Lease, Own, Seen
from cni_plugin.backends.contract import of_ours, unusable_flannel
from cni_plugin.cluster import Node, settled, used
from cni_plugin.network import NetworkConf

T = TypeVar("T")
MOST_PROBLEMS = 50


class Known(NamedTuple):
    """All that is known; `configured` is None as long as nobody has asked, `seen` likewise.

    `unleased`: why there are no Leases to be had; `seen` is what the Node objects say then.
    """

    seen: tuple[Seen, ...] | None
    configured: Configured | None
    troubles: tuple[str, ...]
    unpublished: str
    unleased: str = ""


class View:
    """Shared by the threads of a source. `rung` is set when there is something new."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._nodes: dict[str, Seen] | None = None
        self._leases: dict[str, Lease] | None = None
        self._whole: dict[str, Seen] = {}
        self._configured: Configured | None = None
        self._troubles: dict[str, str] = {}
        self._unleased = ""
        self._unpublished = ""
        self.rung = Flag()

    def known(self) -> Known:
        """All that is known at this moment."""
        with self._lock:
            conf = self._configured.conf if self._configured else None
            is_whole = self._nodes is not None and (self._leases is not None or bool(self._unleased))
            return Known(
                tuple(_used(each, conf) for each in self._whole.values()) if is_whole else None,
                self._configured,
                tuple(dict.fromkeys(filter(None, self._troubles.values()))),
                self._unpublished,
                self._unleased,
            )

    def nodes(self, known: Mapping[str, Seen]) -> None:
        """These are all nodes."""
        with self._lock:
            self._nodes = dict(known)
            changed = self._put_together()
        self._ring(changed)

    def node(self, name: str, seen: Seen | None) -> None:
        """This node is new, another, or gone."""
        with self._lock:
            self._nodes = _with(self._nodes or {}, name, seen)
            changed = self._put_one_together(name)
        self._ring(changed)

    def leases(self, known: Mapping[str, Lease | None]) -> None:
        """These are all Leases; None is somebody else's."""
        with self._lock:
            first, self._leases = self._leases is None, {name: each for name, each in known.items() if each}
            changed = self._put_together()
        self._ring(changed or first)

    def lease(self, name: str, lease: Lease | None) -> None:
        """This Lease is new, another, or gone."""
        with self._lock:
            self._leases = _with(self._leases or {}, name, lease)
            changed = self._put_one_together(name)
        self._ring(changed)

    def unleased(self, why: str) -> None:
        """Why Leases may not be read here, "" when they may."""
        with self._lock:
            changed, self._unleased = self._unleased != why, why
        self._ring(changed)

    def configured(self) -> Configured:
        """The network configuration as it is or was; what the next one is compared with."""
        with self._lock:
            return self._configured or Configured()

    def configure(self, configured: Configured) -> None:
        """This is the network configuration."""
        with self._lock:
            changed, self._configured = configured != self._configured, configured
        self._ring(changed)

    def trouble(self, about: str, why: str) -> None:
        """These cannot be followed now, and why; "" when they can."""
        with self._lock:
            changed, self._troubles[about] = self._troubles.get(about, "") != why, why
        self._ring(changed)

    def unpublished(self, why: str) -> None:
        """Why the API does not show yet what this node announces, "" when it does."""
        with self._lock:
            changed, self._unpublished = self._unpublished != why, why
        self._ring(changed)

    def _put_together(self) -> bool:
        leases, before = self._leases or {}, self._whole
        self._whole = {name: leased(each, leases.get(name)) for name, each in (self._nodes or {}).items()}
        return self._whole != before

    def _put_one_together(self, name: str) -> bool:
        node, before = (self._nodes or {}).get(name), self._whole.get(name)
        now = leased(node, (self._leases or {}).get(name)) if node else None
        self._whole = _with(self._whole, name, now)
        return now != before

    def _ring(self, changed: bool) -> None:
        if changed:
            self.rung.set()


def _with(known: dict[str, T], name: str, value: T | None) -> dict[str, T]:
    """Changed in place."""
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value
    return known


def snapshot(known: Known, this_node: str) -> Snapshot | None:
    """What the agent is told; None until both the nodes and the configuration were asked for. Pure."""
    if known.seen is None or known.configured is None:
        return None
    conf, own = known.configured.conf, own_of(known.seen, this_node)
    backend = conf.backend if conf else ""
    nodes, conflicts = settled(_reached(known.seen, backend), conf.networks if conf else ())
    problems = (
        *known.configured.problems,
        *([] if own else [_absent(this_node)]),
        *filter(None, (known.unpublished, known.unleased, leftovers(known.seen))),
        *conflicts,
        *_problems(known.seen, backend, this_node),
    )
    return Snapshot(conf, nodes, own.node if own else None, known.configured.cni, _some(problems))


def _used(seen: Seen, conf: NetworkConf | None) -> Seen:
    """Without the subnets of a family that is switched off."""
    if conf is None or not conf.off:
        return seen
    node = used(seen.node, conf) if seen.node else None
    own = msgspec.structs.replace(seen.own, bare=used(seen.own.bare, conf)) if seen.own else None
    return msgspec.structs.replace(seen, node=node if node and node.pod_cidrs else None, own=own)


def _reached(seen: Sequence[Seen], backend: str) -> Iterator[Node]:
    """The nodes that can be reached. What one announced for another backend means nothing to this one."""
    for each in seen:
        node = _said(each, backend)
        if node is not None and not (each.flannels and unusable_flannel(node, backend)):
            yield node


def _said(each: Seen, backend: str) -> Node | None:
    """The node with what counts of its announcement."""
    if each.node is None or (each.flannels and not _is_foreign(each, backend)):
        return each.node
    return msgspec.structs.replace(each.node, data={}) if _is_foreign(each, backend) else of_ours(each.node)


def _absent(this_node: str) -> str:
    return f"this node, {this_node}, is not in the API: start its kubelet, or set node to its name there"


def _problems(seen: Sequence[Seen], backend: str, this_node: str) -> Iterator[str]:
    """What there is to say of each node, by name. That this one's own announcement is an old one is no news to it."""
    worth = [each for each in seen if each.problems or each.flannels or _is_foreign(each, backend)]
    for each in sorted(worth, key=lambda each: each.name):
        yield from each.problems
        if each.node is not None and each.name != this_node and _is_foreign(each, backend):
            yield f"node {each.name} announces the backend {each.backend}, but the network's is {backend}: update it"
        node = _said(each, backend)
        if node is not None and each.flannels and each.name != this_node and (why := unusable_flannel(node, backend)):
            yield f"node {why}"


def _is_foreign(seen: Seen, backend: str) -> bool:
    return bool(seen.backend and backend) and seen.backend != backend


def _some(problems: Sequence[str]) -> tuple[str, ...]:
    rest = len(problems) - MOST_PROBLEMS
    return (*problems[:MOST_PROBLEMS], *([f"and {rest} more"] if rest > 0 else []))


def own_of(seen: Sequence[Seen], this_node: str) -> Own | None:
    """This node's own object."""
    return next((each.own for each in seen if each.name == this_node), None)


def has_flannel(seen: Sequence[Seen], this_node: str) -> bool:
    """Whether some other node is still flannel's."""
    return any(each.flannels for each in seen if each.name != this_node)
