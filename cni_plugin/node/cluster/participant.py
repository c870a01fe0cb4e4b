"""This node as a member of a cluster: the one way in which that is made true, cold or warm.

Made anew, it knows nothing: it looks at everything, as the engine of one request does, and `tullectl repair`. Kept, as
by the agent, it remembers what it programmed and looks at what changed: a new list costs one plan of the peers
that are not as they were, one diff of those, one batch for the kernel; no dump, however large the cluster. Whatever
makes that unsure brings the whole look back: another hand that programmed (the fallback engine of a client), what
others changed in the kernel, what was refused. Promises: after any walk over lists, damage and refusals the kernel is
what a fresh plan makes; a list that cannot be planned changes nothing, neither kernel nor files; where an agent learns
the list, a single peer that cannot be reached keeps no other away, and is told.

    member = Participant("tulle", kernel, records)
    member.converge(cluster, path)      a list was learned
    member.follow(path)                 a list that people keep may have changed
    member.look(ROUTES)                 the kernel told that routes changed

Written in this order, so that a kill leaves what the next start, or the next ADD alone, puts right: the list
(`<run>/cluster.json`), the kernel, what was programmed, the facts with the list's digest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import msgspec

from cni_plugin.cluster import Cluster
from cni_plugin.diff import Op, diff
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.host import files
from cni_plugin.kernel.watch.changed import ADDRESSES, KNOBS, LINKS, NEIGHBOURS, ROUTES, RULES, UPLINKS, WAYS, Changed
from cni_plugin.model.base import State
from cni_plugin.model.layer3 import Neigh
from cni_plugin.model.links import Fdb
from cni_plugin.node.cluster import guard
from cni_plugin.node.cluster.lists import NodeList, Source, data_of, digest_of, read, written
from cni_plugin.node.cluster.planner import Planned, Planner, facts_of
from cni_plugin.node.cluster.standing import standing
from cni_plugin.node.settle import Settler, steps
from cni_plugin.node.watch import Watch
from cni_plugin.plan.cluster import Plan, delta
from cni_plugin.store.clusters import ClusterFacts, forget, load, others, programmed, save
from cni_plugin.store.records import Records

OURS = LINKS | ADDRESSES | ROUTES | NEIGHBOURS | KNOBS
"""After these what we made may not stand any more."""
THEIRS = ADDRESSES | UPLINKS | WAYS
"""After these the ways to peers may lead elsewhere."""


class Participant:
    """One network's part of the node. All on the thread of its kernel; it takes the records' lock itself."""

    def __init__(self, network: str, kernel: Kernel, records: Records) -> None:
        self._network = network
        self._kernel = kernel
        self._records = records
        self._listed: NodeList | None = None
        self._planner = Planner(kernel, records)
        self._settler = Settler(kernel)
        self.facts: ClusterFacts | None = None
        """What is programmed, None before anything was."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Peers that are left out, and why, what is amiss with others, and why the tunnel is not guarded."""
        made, refused = self._planner.made, self._settler.refused
        if made is None or self.facts is None:
            return refused
        unguarded = [self.facts.unguarded] if self.facts.unguarded else []
        return (*(each.msg for each in made.plan.refused), *made.plan.doubts, *refused, *unguarded)

    @property
    def watch(self) -> Watch:
        """What to be told of from now on."""
        made = self._planner.made
        if made is None or self.facts is None:
            return Watch()
        device = self.facts.device
        tunnels, uplinks = frozenset({device} - {""}), frozenset(self.facts.uplinks)
        entry = _entries(made.plan.want, device)
        return Watch(tunnels, uplinks, tuple(self._planner.ways), entry, bool(self._settler.refused))

    def converge(self, cluster: Cluster, path: str) -> list[Op]:
        """Make this list true, and keep it in the file that configurations name as `cluster`; the operations it took.

        Raises CniError 7 when this node cannot take part, before anything is changed; KernelError, OSError.
        """
        before = self._listed
        sure = before is not None and self._is_sure() and path == before.source
        if sure and before is not None and cluster == before.cluster:
            return []
        cluster = self._planner.knows(cluster)
        listed = NodeList(cluster, path, lenient=True, learned=True)
        return self._move(listed, self._records.lock(), anew=not sure or self._has_moved(cluster))

    def follow(self, source: Source, changed: Changed = OURS) -> list[Op]:
        """Make true what the list there asks for now, if it is another one, and else `look`. Raises as `program`."""
        before = self._listed
        if changed & OURS:
            self._settler.sure = False
        known = before.digest if before is not None and before.source == source and self._is_sure() else ""
        if known and known == digest_of(data_of(source, self._records)):
            return self.look(changed)
        return self._move(read(source, self._records), self._records.lock(), anew=True)

    def program(self, source: Source) -> list[Op]:
        """Look at everything, and put right what differs from the list there; the operations that it took.

        Where nothing differs from what is noted no file is written. The caller holds the lock. Raises CniError 7 for a
        bad list, also for a single peer that cannot be reached, unless an agent keeps the list; and KernelError.
        """
        return self._move(read(source, self._records), nullcontext(), anew=True)

    def differences(self, source: Source) -> list[Op]:
        """What `program` would do now. Nothing is touched; raises as that does."""
        listed = read(source, self._records)
        made = self._planned(listed, anew=True)
        return steps(self._kernel, *self._everything(made.plan, facts_of(self._network, listed, made.plan)))

    def look(self, changed: Changed) -> list[Op]:
        """Put right what others changed, by what the kernel told of; nothing before the first list. Raises as above."""
        if self._listed is None:
            return []
        if self._settler.sure and not changed & (OURS | THEIRS):
            return self._look_at_guard(changed)
        if changed & OURS:
            self._settler.sure = False
        return self._move(self._listed, self._records.lock(), anew=True)

    def forget(self) -> list[Op]:
        """The network is given up: what was programmed is taken away, with all that is noted of it, and the list."""
        with self._records.lock():
            device = self.facts.device if self.facts else ""
            found = guard.split(standing(self._kernel, self._records, self._network, {}, device))
            ops = diff({}, found.network)
            self._kernel.apply(ops)
            ops += guard.settle(self._kernel, {}, found.guard).ops
            forget(self._records, self._network)
            if self._listed is not None and isinstance(self._listed.source, str):
                files.remove(self._listed.source)
        self._listed = self.facts = None
        self._planner, self._settler = Planner(self._kernel, self._records), Settler(self._kernel)
        return ops

    def _is_sure(self) -> bool:
        """Whether what is remembered was true after our last step, and nobody else has programmed since."""
        noted = load(self._records, self._network)
        return self._settler.sure and noted is not None and self.facts is not None and _same(noted, self.facts)

    def _has_moved(self, cluster: Cluster) -> bool:
        """Whether this node is another one than before, or lies elsewhere."""
        made, before = self._planner.made, self._listed
        if made is None or before is None or cluster.local != before.cluster.local:
            return True
        return not cluster.node or made.here.node not in cluster.nodes

    def _planned(self, listed: NodeList, *, anew: bool) -> Planned:
        made = self._planner.plan(listed.cluster, anew=anew)
        if made.plan.refused and not listed.lenient:
            raise made.plan.refused[0]
        return made

    def _move(self, listed: NodeList, lock: AbstractContextManager[None], *, anew: bool) -> list[Op]:
        """From what stands to what this list asks for; `anew`: this node and all ways are looked up again."""
        made = self._planned(listed, anew=anew)
        with lock:
            sure = self._is_sure()
            listed = written(listed, self._listed, self.facts)
            facts = facts_of(self._network, listed, made.plan)
            want, have = self._difference(made.plan) if sure else self._everything(made.plan, facts)
            self._listed = listed  # whatever comes now: this is what is to be
            wanted, found = guard.split(want), guard.split(have)
            ops = self._settler.settle(wanted.network, found.network, lenient=listed.lenient)
            guarded = guard.settle(self._kernel, wanted.guard, found.guard)
            ops += guarded.ops
            facts = self._as_programmed(facts, guarded.problem)
            noted = self.facts if sure else load(self._records, self._network)
            if ops or facts != noted or (listed.learned and not sure):
                save(self._records, facts, {**made.plan.want, **guarded.there})
        self._planner.made, self.facts = made, facts
        self._settler.done()
        return ops

    def _as_programmed(self, facts: ClusterFacts, unguarded: str) -> ClusterFacts:
        """With the number that the device got, and why there is no guard."""
        index = self._kernel.link_index(facts.device) if facts.device else 0
        return msgspec.structs.replace(facts, index=index, unguarded=unguarded)

    def _difference(self, plan: Plan) -> tuple[State, State]:
        """What to compare when all stands that was planned before; what another cluster has come to want stays."""
        assert self._planner.made is not None, "sure of nothing"
        want, have = delta(plan, self._planner.made.plan)
        if have.keys() - want.keys():
            foreign = others(self._records, self._network)
            have = {key: each for key, each in have.items() if key in want or key not in foreign}
        return want, have

    def _everything(self, plan: Plan, facts: ClusterFacts) -> tuple[State, State]:
        return plan.want, standing(self._kernel, self._records, self._network, plan.want, facts.device)

    def _look_at_guard(self, changed: Changed) -> list[Op]:
        """Put it back where somebody took it away, as who flushes all rules does; try again where it was refused."""
        facts, made = self.facts, self._planner.made
        if facts is None or made is None or not (changed & RULES or facts.unguarded):
            return []
        want = made.plan.want
        with self._records.lock():
            before = programmed(self._records, self._network)
            found = guard.restore(self._kernel, guard.split(want).guard, before, anew=bool(facts.unguarded))
            if found.problem != facts.unguarded:
                self.facts = msgspec.structs.replace(facts, unguarded=found.problem)
                save(self._records, self.facts, {**want, **found.there})
        return found.ops


def _entries(want: State, device: str) -> Callable[[str], str]:
    """Of a MAC which VTEP is behind it, and of an address which MAC it has, "" for none of ours."""

    def entry(what: str) -> str:
        found = want.get(Fdb(device, what).key) or want.get(Neigh(device, what).key)
        return found.dst if isinstance(found, Fdb) else found.mac if isinstance(found, Neigh) else ""

    return entry


def _same(one: ClusterFacts, other: ClusterFacts) -> bool:
    """What the list's file looks like is noted by whoever reads it."""
    return msgspec.structs.replace(one, stamp=()) == msgspec.structs.replace(other, stamp=())
