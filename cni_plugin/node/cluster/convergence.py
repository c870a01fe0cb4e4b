"""A cluster that changes all the time, followed by the difference: what was programmed is kept in memory.

Where `peers.program` looks at everything, this looks at what changed: a new list costs one plan of the peers that are
not as they were, one diff of those, one batch for the kernel; no dump, however large the cluster. Whatever makes that
unsure brings the whole look back: the first time, another hand that programmed (the fallback engine of a client), what
others changed in the kernel, what was refused. Promises: after any walk over lists, damage and refusals the kernel is
what a fresh plan makes; a list that cannot be planned changes nothing, neither kernel nor files; a single peer that
cannot be reached keeps no other away, and is told.

    convergence = Convergence("tulle", kernel, records)
    convergence.converge(cluster, path)      a list was learned
    convergence.look(ROUTES)                 the kernel told that routes changed

Written in this order, so that a kill leaves what the next start, or the next ADD alone, puts right: the list
(`<run>/cluster.json`), the kernel, what was programmed, the facts with the list's digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from cni_plugin import backend as backends
from cni_plugin.backend import Me
from cni_plugin.cluster import Cluster, Node, render
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.watch.monitor import ADDRESSES, KNOBS, LINKS, NEIGHBOURS, ROUTES, RULES, UPLINKS, WAYS, Changed
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Neigh, Way
from cni_plugin.model.links import Fdb
from cni_plugin.node.cluster import guard, peers
from cni_plugin.node.settle import naming_rivals, settle_most
from cni_plugin.plan.cluster import Plan, Terms, delta, ends, plan
from cni_plugin.store import clusters as notes
from cni_plugin.store.clusters import ClusterFacts
from cni_plugin.store.records import Records

OURS = LINKS | ADDRESSES | ROUTES | NEIGHBOURS | KNOBS
"""After these what we made may not stand any more."""
THEIRS = ADDRESSES | UPLINKS | WAYS
"""After these the ways to peers may lead elsewhere."""


class Watch(NamedTuple):
    """What the kernel's events should be told of: links by name, and addresses that foreign routes may lead to.

    `entry` says of a MAC which VTEP is behind it, and of an address which MAC it has, "" for none of ours. `blocked`:
    somebody else's route stands in the way of one of ours.
    """

    tunnels: frozenset[str] = frozenset()
    uplinks: frozenset[str] = frozenset()
    peers: tuple[str, ...] = ()
    entry: Callable[[str], str] | None = None
    blocked: bool = False


class Convergence:
    """One network's part of the node. All on the thread of its kernel; it takes the records' lock itself."""

    def __init__(self, network: str, kernel: Kernel, records: Records) -> None:
        self._network = network
        self._kernel = kernel
        self._records = records
        self._path = ""
        self._cluster: Cluster | None = None
        self._plan: Plan | None = None
        self._here: Me | None = None
        self._ways: dict[str, Way] = {}
        self._sure = False
        self._refused: tuple[str, ...] = ()
        self.facts: ClusterFacts | None = None
        """What is programmed, None before anything was."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Peers that are left out, and why, what is amiss with others, and why the tunnel is not guarded."""
        if self._plan is None or self.facts is None:
            return self._refused
        unguarded = [self.facts.unguarded] if self.facts.unguarded else []
        return (*(each.msg for each in self._plan.refused), *self._plan.doubts, *self._refused, *unguarded)

    @property
    def watch(self) -> Watch:
        """What to be told of from now on."""
        if self._plan is None or self.facts is None:
            return Watch()
        want, device = self._plan.want, self.facts.device

        def entry(what: str) -> str:
            found = want.get(Fdb(device, what).key) or want.get(Neigh(device, what).key)
            return found.dst if isinstance(found, Fdb) else found.mac if isinstance(found, Neigh) else ""

        tunnels, uplinks = frozenset({device} - {""}), frozenset(self.facts.uplinks)
        return Watch(tunnels, uplinks, tuple(self._ways), entry, bool(self._refused))

    def converge(self, cluster: Cluster, path: str) -> list[Op]:
        """Make this list true, and keep it in the file that configurations name as `cluster`; the operations it took.

        Raises CniError 7 when this node cannot take part, before anything is changed; KernelError, OSError.
        """
        sure = self._is_sure() and path == self._path
        if sure and cluster == self._cluster:
            return []
        self._path = path
        cluster = self._with_known_nodes(cluster)
        return self._move(cluster, anew=not sure or self._has_moved(cluster))

    def look(self, changed: Changed) -> list[Op]:
        """Put right what others changed, by what the kernel told of; nothing before the first list. Raises as above."""
        if self._cluster is None:
            return []
        if self._sure and not changed & (OURS | THEIRS):
            return self._look_at_guard(changed)
        self._sure = self._sure and not changed & OURS
        return self._move(self._cluster, anew=True)

    def forget(self) -> list[Op]:
        """The network is given up: what was programmed is taken away, with all that is noted of it, and the list."""
        with self._records.lock():
            device = self.facts.device if self.facts else ""
            others = notes.others(self._records, self._network)
            ops = diff({}, peers.standing(self._kernel, {}, others, device))
            self._kernel.apply(ops)
            guarded = guard.standing(self._kernel, {}, notes.programmed(self._records, self._network))
            ops += guard.settle(self._kernel, {}, guarded).ops
            notes.forget(self._records, self._network)
            files.remove(self._path)
        self._cluster = self._plan = self._here = self.facts = None
        self._ways, self._refused, self._sure = {}, (), False
        return ops

    def _with_known_nodes(self, cluster: Cluster) -> Cluster:
        """The same, with the very objects that were planned with where they are equal: compared once, then known."""
        known = {name: each.node for name, each in self._plan.parts.items()} if self._plan else {}
        pairs = ((each, known.get(each.name)) for each in cluster.nodes)
        nodes = tuple(old if old is not None and old == each else each for each, old in pairs)
        return msgspec.structs.replace(cluster, nodes=nodes)

    def _is_sure(self) -> bool:
        """Whether what is remembered was true after our last step, and nobody else has programmed since."""
        noted = notes.load(self._records, self._network)
        return self._sure and noted is not None and self.facts is not None and _same(noted, self.facts)

    def _has_moved(self, cluster: Cluster) -> bool:
        """Whether this node is another one than before, or lies elsewhere."""
        if self._here is None or self._cluster is None or cluster.local != self._cluster.local:
            return True
        return not cluster.node or self._here.node not in cluster.nodes

    def _move(self, cluster: Cluster, *, anew: bool) -> list[Op]:
        """From what stands to what this list asks for; `anew`: this node and all ways are looked up again."""
        here, made = self._planned(cluster, anew=anew)
        with self._records.lock():
            sure = self._is_sure()
            facts = self._kept(cluster, peers.facts_of(self._network, cluster, made, self._path))
            want, have = self._difference(made) if sure else self._everything(made, facts)
            self._cluster, self._sure = cluster, False  # whatever comes now: this is what is to be
            wanted, found = guard.split(want), guard.split(have)
            with naming_rivals(self._kernel):
                ops, self._refused = settle_most(self._kernel, wanted.network, found.network)
            guarded = guard.settle(self._kernel, wanted.guard, found.guard)
            ops += guarded.ops
            facts = peers.as_programmed(facts, self._kernel, guarded.problem)
            if ops or not sure or facts != self.facts:
                notes.save(self._records, facts, {**made.want, **guarded.there})
        self._plan, self._here, self.facts = made, here, facts
        self._ways = dict(made.terms.me.ways)
        self._sure = not self._refused
        return ops

    def _planned(self, cluster: Cluster, *, anew: bool) -> tuple[Me, Plan]:
        backend = backends.find(cluster.backend)
        conf = backend.configure(cluster.options)
        here = peers.locate(cluster, self._kernel, self._records) if anew or self._here is None else self._here
        others = [each for each in cluster.nodes if each.name != here.node.name]
        ways = self._ways_to(self._addresses(Terms(here, backend, conf), others), anew=anew)
        terms = Terms(peers.with_ways(here, ways, backend), backend, conf)
        return here, plan(terms, others, self._plan)

    def _addresses(self, terms: Terms, others: Sequence[Node]) -> dict[str, None]:
        """Where packets for these peers are sent."""
        before = self._plan
        same = before is not None and before.terms.reaches_as(terms)
        known = before.parts if before is not None and same else {}
        found: dict[str, None] = {}
        for each in others:
            part = known.get(each.name)
            to = part.ends if part is not None and part.node is each else ends(*terms, each)
            found.update(dict.fromkeys(to))
        return found

    def _ways_to(self, addresses: Mapping[str, None], *, anew: bool) -> dict[str, Way]:
        """Asked of the kernel for those that are new, or all; what has no way now keeps the one that it had.

        One through our own devices may be another as soon as the list is.
        """
        sure = {each for each, way in self._ways.items() if not way.own and not anew}
        found = self._kernel.ways([each for each in addresses if each not in sure])
        ways = {**self._ways, **found}
        return {each: ways[each] for each in addresses if each in ways}

    def _kept(self, cluster: Cluster, facts: ClusterFacts) -> ClusterFacts:
        """ClusterFacts with the digest and the stamp of the list's file, which is written if it is another one."""
        known, stamp = self.facts, peers.stamp_of(self._path, replaced=True)
        if known is not None and known.stamp == stamp and cluster == self._cluster:
            return msgspec.structs.replace(facts, digest=known.digest, stamp=stamp)
        data = render(cluster)
        if files.read(self._path) != data:
            files.write(self._path, data)
            stamp = peers.stamp_of(self._path, replaced=True)
        return msgspec.structs.replace(facts, digest=peers.digest_of(data), stamp=stamp)

    def _difference(self, made: Plan) -> tuple[State, State]:
        """What to compare when all stands that was planned before; what another cluster has come to want stays."""
        assert self._plan is not None, "sure of nothing"
        want, have = delta(made, self._plan)
        if have.keys() - want.keys():
            others = notes.others(self._records, self._network)
            have = {key: each for key, each in have.items() if key in want or key not in others}
        return want, have

    def _everything(self, made: Plan, facts: ClusterFacts) -> tuple[State, State]:
        others = notes.others(self._records, self._network)
        have = peers.standing(self._kernel, made.want, others, facts.device)
        have.update(guard.standing(self._kernel, made.want, notes.programmed(self._records, self._network)))
        return made.want, have

    def _look_at_guard(self, changed: Changed) -> list[Op]:
        """Put it back where somebody took it away, as who flushes all rules does; try again where it was refused."""
        facts, plan = self.facts, self._plan
        if facts is None or plan is None or not (changed & RULES or facts.unguarded):
            return []
        with self._records.lock():
            before = notes.programmed(self._records, self._network)
            found = guard.restore(self._kernel, guard.split(plan.want).guard, before, anew=bool(facts.unguarded))
            if found.problem != facts.unguarded:
                self.facts = msgspec.structs.replace(facts, unguarded=found.problem)
                notes.save(self._records, self.facts, {**plan.want, **found.there})
        return found.ops


def _same(one: ClusterFacts, other: ClusterFacts) -> bool:
    """What the list's file looks like is noted by whoever reads it."""
    return msgspec.structs.replace(one, stamp=()) == msgspec.structs.replace(other, stamp=())
