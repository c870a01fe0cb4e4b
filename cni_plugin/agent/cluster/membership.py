"""This node as a member of a cluster: from what a source says to packets that arrive.

    snapshot  ->  which address is mine  ->  told to the source  ->  <run>/cluster.json  ->  the kernel
              ->  the CNI configuration, last  ->  the source's mark that the network works

Level-triggered like the loop that it is part of: each look goes through all steps with the newest snapshot and stops at
the first that cannot be done, which is then the reason why the node is not ready; what worked before goes on working.
The file makes the engine without an agent as wise as the agent: configurations name it as their `cluster`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from time import monotonic, perf_counter
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from cni_plugin import cluster as clusters
from cni_plugin.agent import conflist
from cni_plugin.agent.cluster.whereabouts import MOST_ASKED, Machine, Whereabouts, held_by, whereabouts
from cni_plugin.agent.guard import worded
from cni_plugin.agent.settings import Settings
from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, Source, open_source
from cni_plugin.backends import contract as backends
from cni_plugin.cluster import Cluster, Node, same_name
from cni_plugin.diff import Op
from cni_plugin.errors import BUG, INVALID_CONFIG, CniError
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.watch.changed import ADDRESSES, LINKS, UPLINKS, WAYS, Changed
from cni_plugin.network import Address, Network, NetworkConf
from cni_plugin.node.cluster.participant import Participant
from cni_plugin.node.contract import ALL, TURN, Inspection
from cni_plugin.node.site import Site
from cni_plugin.node.watch import Watch
from cni_plugin.store.clusters import ClusterFacts, cluster_file
from cni_plugin.store.records import Records

SOON, LATE = 1.0, 30.0
"""Seconds after which what was refused is tried again, at first and at most."""
Opener: TypeAlias = Callable[[Mapping[str, object], str, Mailbox], Source]
_WHERE: Changed = ADDRESSES | LINKS | UPLINKS | WAYS
"""What may make another address this node's."""


class Told(Protocol):
    """Who is told what happens: the journal."""

    def say(self, level: str, message: str, **fields: object) -> None:
        """A line worth reading."""


class NotYet(Exception):
    """What this node waits for, in words; nothing is wrong with what it has done so far."""


class _Published(NamedTuple):
    where: Whereabouts
    backend: str
    options: Mapping[str, object]


class Membership:
    """One network that a source tells the nodes of. Raises CniError 7 for settings that cannot be used.

    It lives in the agent twice: the server calls `readable` when the source said something, and to the reconciler it is
    a part of the node beside the others, which says when a pass is `wanted`.
    """

    NAME = "source"
    ORDER = 28
    ON: Changed = ALL
    CAUSES: Changed = TURN

    def __init__(
        self, kernel: Kernel, records: Records, journal: Told, settings: Settings, opened: Opener = open_source
    ) -> None:
        self._kernel = kernel
        self._records = records
        self._journal = journal
        self._settings = settings
        self._name = settings.node or os.environ.get("NODE_NAME") or os.uname().nodename
        self._path = cluster_file(records)
        self._snapshot: Snapshot | None = None
        self._taken = 0.0
        self._trouble = ""
        self._where: Whereabouts | None = None
        self._basis: tuple[tuple[Address, ...], tuple[Address, ...]] = ((), ())
        self._advertised: dict[str, str] = {}
        self._published: _Published | None = None
        self._cluster: Cluster | None = None
        self._members: dict[str, Participant] = {}
        self._reason = "the source has not answered yet"
        self._ready = False
        self._delay = self._again = 0.0
        self._is_news = False
        self._mailbox = Mailbox()
        try:
            self._source = opened(settings.source, self._name, self._mailbox)
        except BaseException:
            self._mailbox.close()
            raise

    @property
    def reason(self) -> str:
        """Why pods should not come to this node yet, "" when they may."""
        return self._reason and f"cluster: {self._reason}{f' ({self._trouble})' if self._trouble else ''}"

    def filenos(self) -> tuple[int, ...]:
        """Where the source rings."""
        return (self._mailbox.fileno(),)

    def readable(self, _fd: int) -> None:
        """Take what the source said."""
        newest, trouble = self._mailbox.take()
        if trouble != self._trouble:
            self._journal.say("warn" if trouble else "info", trouble or "the source is back", source=self._kind)
        self._trouble = trouble
        if newest is not None:
            for each in set(newest.problems) - set(self._snapshot.problems if self._snapshot else ()):
                self._journal.say("warn", each, source=self._kind)
            self._snapshot, self._taken = newest, time.time()
            if newest.me is not None and same_name(newest.me.name, self._name):
                self._name = newest.me.name  # as the source spells it
            self._is_news = True

    def due(self) -> None:
        """Never by itself: it takes part in a pass, see `wanted`."""

    def run(self) -> None:
        """Nothing."""

    def wanted(self) -> float | None:
        """When: at once for news, later for what was refused; what is only waited for tells of itself."""
        return 0.0 if self._is_news else self._again or None

    def networks(self) -> Collection[str]:
        """The network that is kept here, once it was made true; the loop leaves it to us."""
        return [name for name, each in self._members.items() if each.facts is not None]

    def watch(self, site: Site) -> Watch:
        """What of the kernel matters to us."""
        del site
        return next((each.watch for each in self._members.values()), Watch())

    def words(self) -> Mapping[str, str]:
        """Nothing beside the reason that the status tells."""
        return {}

    def looks(self, site: Site, changed: Changed) -> Iterator[Inspection]:
        """One, at its own pace: as far as it goes."""
        del site
        yield Inspection(self._what, partial(self._look, changed), own_pace=True)

    def _look(self, changed: Changed) -> Sequence[Op]:
        """What it took to put right what others had broken. Raises for what cannot be done."""
        start = perf_counter()
        self._is_news, self._again = False, 0.0
        try:
            ops = self._advance(changed)
        except NotYet as wait:
            self._wait(str(wait))
            return []
        except Exception as error:
            why = worded(self._what, error)
            self._wait(why)
            self._delay = min(max(2 * self._delay, SOON), LATE)
            self._again = monotonic() + self._delay
            raise CniError(error.code if isinstance(error, CniError) else BUG, why) from error
        self._arrive(perf_counter() - start)
        return ops

    def status(self) -> dict[str, object]:
        """For whoever asks the agent."""
        snapshot, facts = self._snapshot, self._facts
        return {
            "source": self._kind,
            "network": next(iter(self._members), self._settings.network),
            "node": self._name,
            "ready": not self._reason,
            "reason": self._reason,
            "trouble": self._trouble,
            "problems": [*(snapshot.problems if snapshot else ()), *self._left_out()],
            "snapshot": self._taken,
            "nodes": len(self._cluster.nodes) if self._cluster else 0,
            "addresses": [str(each) for each in self._where.told] if self._where else [],
            "address_rule": self._where.why if self._where else "",
            "podCIDRs": list(facts.pod_cidrs) if facts else [],
            "backend": facts.backend if facts else "",
            "mtu": facts.mtu if facts else 0,
        }

    def close(self) -> None:
        """End the source. What was made stays: pods need it."""
        self._source.close()
        self._mailbox.close()

    @property
    def _kind(self) -> str:
        return str(self._settings.source.get("type", ""))

    @property
    def _what(self) -> str:
        return f"cluster of {next(iter(self._members), self._settings.network)}"

    @property
    def _facts(self) -> ClusterFacts | None:
        return next((each.facts for each in self._members.values()), None)

    def _left_out(self) -> tuple[str, ...]:
        return next((each.problems for each in self._members.values()), ())

    def _advance(self, changed: Changed) -> Sequence[Op]:
        snapshot = self._snapshot
        if snapshot is None:
            raise NotYet("the source has not answered yet")
        if snapshot.conf is None:
            raise NotYet("; ".join(snapshot.problems) or "the source has no network configuration")
        where = self._find_myself(snapshot, changed)
        self._announce(where, snapshot.conf)
        cni = self._cni(snapshot)
        member = self._of_network(conflist.name_of(cni) if cni else self._settings.network)
        self._converge(member, self._joined(snapshot, snapshot.conf, where))
        start = perf_counter()
        ops = member.look(changed)
        if ops:
            self._journal.say("debug", "looked at the cluster", ms=(perf_counter() - start) * 1000)
        if self._settings.cni.path and cni is not None and conflist.put(
            self._settings.cni.path, conflist.completed(cni, self._path)
        ):
            self._journal.say("info", "wrote the CNI configuration", path=self._settings.cni.path)
        return ops

    def _find_myself(self, snapshot: Snapshot, changed: Changed) -> Whereabouts:
        """Links and addresses are listed only when the kernel told of some, or what the source says is another."""
        known = snapshot.me.addresses if snapshot.me else ()
        others = (each.addresses[0] for each in self._others(snapshot) if each.addresses)
        peers = tuple(islice(others, MOST_ASKED))
        where, basis = self._where, (known, peers)
        same = basis == self._basis or (where is not None and where.firm and known == self._basis[0])
        if where is not None and same and not changed & _WHERE:
            return where
        ours = {each.name for each in self._kernel.own_links()}
        theirs = {name: each for name, each in self._kernel.interfaces().items() if name not in ours}
        machine = Machine(held_by(theirs), self._kernel.ways)
        found = whereabouts(self._settings.address, machine, known, peers)
        if found is None:
            raise NotYet("no interface has an address that peers could reach: see address in the agent's settings")
        if self._where is None or found.told != self._where.told:
            told = ", ".join(map(str, found.told))
            self._journal.say("info", f"this node is at {told}: {found.why}", node=self._name)
        self._where, self._basis = found, basis
        self._advertise(machine, found)
        return found

    def _advertise(self, machine: Machine, where: Whereabouts) -> None:
        """Neighbours that know an address by the interface that it was on before would not find it for a minute."""
        at = {str(each): name for name, held in machine.held.items() for each in held if each in where.local}
        new = {address: name for address, name in at.items() if self._advertised.get(address) != name}
        told = self._kernel.advertise(new) if new else ()
        self._advertised = {each: name for each, name in at.items() if each in told or each not in new}

    def _announce(self, where: Whereabouts, conf: NetworkConf) -> None:
        said = _Published(where, conf.backend, conf.options)
        if said == self._published:
            return
        backend = backends.find(conf.backend)
        options = backend.configure(conf.options)
        name = self._name

        def data(cidrs: tuple[Network, ...]) -> Mapping[str, str]:
            return backend.announce(Node(name, where.told, cidrs), options)

        self._source.publish(Announcement(where.told, conf.backend, data))
        self._published = said

    def _joined(self, snapshot: Snapshot, conf: NetworkConf, where: Whereabouts) -> Cluster:
        """The cluster with this node in it as it knows itself."""
        known = snapshot.me
        if known is None or not known.pod_cidrs:
            raise NotYet(f"the source has no subnet for the node {self._name} yet")
        me = msgspec.structs.replace(known, name=self._name, addresses=where.told, data={})
        others = self._others(snapshot)
        if len(others) == len(snapshot.nodes):
            _, complaints = clusters.settled([*others, me], conf.networks)
            if any(each.startswith(f"{self._name} ") for each in complaints):
                raise CniError(INVALID_CONFIG, next(each for each in complaints if each.startswith(f"{self._name} ")))
        return Cluster(
            networks=conf.networks,
            backend=conf.backend,
            options=conf.options,
            node=self._name,
            nodes=tuple(sorted((*others, me), key=lambda each: each.name)),
            local=where.local[0] if where.local[0] != where.told[0] else None,
        )

    def _others(self, snapshot: Snapshot) -> list[Node]:
        return [each for each in snapshot.nodes if not same_name(each.name, self._name)]

    def _cni(self, snapshot: Snapshot) -> Mapping[str, object] | None:
        """What the CNI configuration is made of; None where nobody wants one written and there is no template."""
        found = snapshot.cni or conflist.template(self._settings.cni.template)
        if found is None and self._settings.cni.path:
            return {**conflist.DEFAULT, "name": self._settings.network}
        return found

    def _of_network(self, network: str) -> Participant:
        if network not in self._members:
            for each in self._members.values():  # renamed: what was made for the old name goes
                each.forget()
            self._members = {network: Participant(network, self._kernel, self._records)}
        return self._members[network]

    def _converge(self, member: Participant, cluster: Cluster) -> None:
        if cluster == self._cluster and member.facts is not None:
            return
        start = perf_counter()
        before = len(self._cluster.nodes) if self._cluster else 0
        ops = member.converge(cluster, self._path)
        self._cluster = cluster
        self._journal.say(
            "info", "the cluster changed", nodes=len(cluster.nodes), before=before, operations=len(ops),
            ms=(perf_counter() - start) * 1000,
        )
        for each in member.problems:
            self._journal.say("warn", each)

    def _wait(self, reason: str) -> None:
        if reason != self._reason:
            self._journal.say("warn", f"not ready: {reason}", node=self._name)
        self._reason = reason

    def _arrive(self, seconds: float) -> None:
        if self._reason or not self._ready:
            self._journal.say("info", "the cluster's network is ready on this node", ms=seconds * 1000)
            self._source.ready()
        self._reason, self._ready, self._delay, self._again = "", True, 0.0, 0.0
