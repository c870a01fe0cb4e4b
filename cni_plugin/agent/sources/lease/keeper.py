"""Takes a subnet for this node and keeps it: the lease's whole life, on a thread of its own.

Level-triggered: each step looks at what the store holds and does the next thing that is missing. Promises: a subnet is
taken by a transaction that fails when its key is there, and given back unused when one that overlaps it was there
before; a key is written only while it is the one that was looked at; the lease is renewed `margin` seconds before its
end, and while etcd is away nothing is let go of: the node keeps what it has until the store says that it is another's.

    no key                 POST /v3/lease/grant, then /v3/kv/txn: if none begins with subnets/10.244.5.0-, put it
    a key, another value   POST /v3/kv/txn: if it is still that key, put it
    a lease near its end   POST /v3/lease/keepalive
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Event, Lock
from typing import NamedTuple

from cni_plugin.agent.sources.contract import Announcement
from cni_plugin.agent.sources.lease import claim
from cni_plugin.agent.sources.lease.claim import Us
from cni_plugin.agent.sources.lease.gateway import NOT_FOUND, EtcdError, Gateway, Json, coded, span, stored_in
from cni_plugin.agent.sources.lease.memory import Memory
from cni_plugin.agent.sources.lease.schema import SUBNETS, Entry, key_of, value_of
from cni_plugin.agent.sources.lease.view import View, few
from cni_plugin.errors import CniError
from cni_plugin.network import Network
from ipam.errors import PoolExhausted

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0
"""Seconds until what failed is tried again: doubled each time, and shaken, so that nodes do not come in step."""
ATTEMPTS = 10
"""To take a subnet against nodes that want one, too, before letting them have their turn."""
NOTICE = 3600.0
"""Seconds for which it is told that the node has another subnet than it had."""


class Terms(NamedTuple):
    """How long a lease lasts and how long before its end it is renewed, in seconds; `reserve`: it never ends."""

    ttl: int
    margin: float
    reserve: bool


class Lease(NamedTuple):
    """One of etcd's, and the time.monotonic() at which it ends unless it is renewed."""

    id: int
    ends: float


class Keeper:
    """`run` it on a thread; the other methods are any thread's."""

    def __init__(self, gateway: Gateway, view: View, terms: Terms, node: str, memory: Memory) -> None:
        self._gateway, self._view, self._terms, self._node, self._memory = gateway, view, terms, node, memory
        self._wake, self._again = Event(), Event()
        self._over = False
        self._said: Announcement | None = None
        self._lease: Lease | None = None
        self._lock = Lock()
        self._held: tuple[Network, ...] = ()
        self._key = ""
        self._problems: tuple[str, ...] = ()
        self._notice, self._noticed = "", 0.0

    def publish(self, said: Announcement) -> None:
        """What to write; nothing is taken before it is known."""
        self._said = said
        self.wake()

    def wake(self) -> None:
        """Something may have changed."""
        self._wake.set()

    def stop(self) -> None:
        """End `run`."""
        self._over = True
        self._again.set()
        self._wake.set()

    def hurry(self) -> None:
        """etcd is there again: what failed may be tried again now."""
        self._again.set()

    def mine(self, entries: Collection[Entry]) -> tuple[tuple[Network, ...], tuple[str, ...]]:
        """The subnets that this node has, and what is wrong with them.

        A subnet whose key is gone stays this node's until somebody else's key says otherwise.
        """
        with self._lock:
            key, held, problems = self._key, self._held, self._problems
            if self._notice and time.monotonic() - self._noticed < NOTICE:
                problems = (*problems, self._notice)
        us = Us(self._node, self._said.addresses if self._said else (), held)
        if any(each.stored.key == key and claim.is_ours(each, us) for each in entries):
            return held, problems
        lost = claim.overlaps(held, [cidr for each in entries for cidr in each.cidrs])
        return () if lost else held, problems

    def run(self, trouble: Callable[[str], None], changed: Callable[[], None]) -> None:
        """Until it is stopped; `trouble` is told why etcd is of no use, "" when it is, `changed` when `mine` is new."""
        failures = 0
        while True:
            self._wake.clear()
            self._again.clear()
            if self._over:
                return
            before = self._key, self._held, self._problems
            done, complaint = self._guarded(trouble)
            failures = 0 if done else failures + 1
            self._problems = tuple(filter(None, (*self._twins(), complaint)))
            if before != (self._key, self._held, self._problems):
                changed()
            if done:
                self._wake.wait(self._until_renewal())
            else:
                self._again.wait(backoff(0 if complaint else failures - 1))
            if complaint:  # nothing that time alone would heal
                renewal = self._until_renewal()
                self._wake.wait(LONGEST_WAIT if renewal is None else min(LONGEST_WAIT, renewal))

    def _guarded(self, trouble: Callable[[str], None]) -> tuple[bool, str]:
        """One step; whether all is done, and what people must be told of the node's subnet, "" for nothing."""
        try:
            done = self._step()
        except EtcdError as error:
            if error.code != NOT_FOUND:
                trouble(str(error))
            self._lease = None if error.code == NOT_FOUND else self._lease  # it ended on its way
            return False, ""
        except (PoolExhausted, CniError) as error:
            trouble("")
            return False, error.msg if isinstance(error, CniError) else str(error)
        except OSError as error:
            trouble("")
            return False, f"the subnet cannot be remembered: {error}"
        except Exception as error:  # whatever is answered, what is held is kept, and the next step may do better
            trouble(f"etcd's answer is not understood: {error!r}")
            return False, ""
        trouble("")
        return done, ""

    def _step(self) -> bool:
        """Do what is missing; whether nothing is. Raises EtcdError, PoolExhausted, CniError, OSError."""
        conf, said = self._view.conf, self._said
        self._renew()
        if said is None or conf is None or not self._view.whole:
            return True
        us = self._us(said)
        for attempt in range(ATTEMPTS):
            entries = self._view.entries()
            own, many = claim.chosen(entries, us, conf)
            if own is None:
                cidrs = claim.pick([each for each in entries if each not in many], us, conf, attempt)
                own = self._acquire(cidrs, said, many)
            if own is not None:
                break
        else:
            return False
        self._remember(own)
        done = self._hold(own, said) and all(self._remove(each) for each in many)
        self._memory.write(own.cidrs)  # last: a disk that is full or read-only keeps nobody from being a node
        return done

    def _us(self, said: Announcement) -> Us:
        return Us(self._node, said.addresses, self._held or self._memory.read())

    def _twins(self) -> tuple[str, ...]:
        with suppress(OSError):  # without what this node had nobody can be told from it; the step tried again says so
            return few(claim.twins(self._view.entries(), self._us(self._said))) if self._said else ()
        return ()

    def _acquire(self, cidrs: tuple[Network, ...], said: Announcement, unfit: tuple[Entry, ...]) -> Entry | None:
        """Take subnets, and let go of those that do not fit any more; None when somebody came first."""
        key = key_of(cidrs)
        base = span(f"{self._view.prefix}{SUBNETS}{key.split('-', 1)[0]}-")
        absent = {**base, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        put = self._put(key, value_of(said, cidrs, self._node, time.time()), self._lease_of_own())
        if not self._commit([absent, *map(self._same, unfit)], [put, *map(self._delete, unfit)]):
            return None
        own = next((each for each in self._view.entries() if each.stored.key == key), None)
        if own is not None and claim.elder(self._view.entries(), own):
            self._remove(own)
            return None
        return own

    def _remember(self, own: Entry) -> None:
        """This is ours now; said aloud when it is another one than before."""
        before = self._held or self._memory.read()
        if before and before != own.cidrs:
            had, has = (" and ".join(map(str, each)) for each in (before, own.cidrs))
            self._notice = f"{self._node} had {had} and has {has} now: pods that were started before must be made anew"
            self._notice += claim.taken_by_flannel(self._view.entries(), before)
            self._noticed = time.monotonic()
        with self._lock:
            self._held, self._key = own.cidrs, own.stored.key

    def _hold(self, own: Entry, said: Announcement) -> bool:
        """See that the key says what it should and has the lease that it should; whether it does."""
        lease = self._lease_of(own)
        value = value_of(said, own.cidrs, self._node, own.since or time.time())
        if (own.stored.value, own.stored.lease) == (value, lease):
            return True
        return self._commit([self._same(own)], [self._put(own.stored.key, value, lease)])

    def _lease_of(self, own: Entry) -> int:
        """A key without a lease is a reservation, whoever made it, and stays one."""
        if self._terms.reserve or own.stored.lease == 0:
            return 0
        if self._lease is None or self._lease.id != own.stored.lease:
            self._adopt(own.stored.lease)
        return self._lease_of_own()

    def _lease_of_own(self) -> int:
        if self._terms.reserve:
            return 0
        if self._lease is None or self._lease.ends < time.monotonic():
            asked = time.monotonic()
            answer = self._gateway.call("/lease/grant", TTL=str(self._terms.ttl), ID="0")
            self._lease = Lease(int(answer["ID"]), asked + int(answer["TTL"]))
        return self._lease.id

    def _adopt(self, lease: int) -> None:
        """Go on with the lease of an earlier life, if it is one that we would have asked for."""
        asked = time.monotonic()
        answer = self._gateway.call("/lease/timetolive", ID=str(lease))
        left = int(answer.get("TTL", -1))
        if left > 0 and int(answer.get("grantedTTL", 0)) == self._terms.ttl:
            self._lease = Lease(lease, asked + left)

    def _renew(self) -> None:
        """Raises EtcdError, NOT_FOUND when it was too late."""
        if self._lease is None or self._until_renewal() != 0.0:
            return
        asked = time.monotonic()
        answer = self._gateway.call("/lease/keepalive", ID=str(self._lease.id)).get("result", {})
        if "TTL" not in answer:
            raise EtcdError("the lease is over", NOT_FOUND)
        self._lease = Lease(self._lease.id, asked + int(answer["TTL"]))

    def _until_renewal(self) -> float | None:
        """Seconds, 0.0 when it is due."""
        if self._lease is None or self._terms.reserve:
            return None
        return max(0.0, self._lease.ends - self._terms.margin - time.monotonic())

    def _remove(self, entry: Entry) -> bool:
        return self._commit([self._same(entry)], [self._delete(entry)])

    def _commit(self, compare: list[Json], success: list[Json]) -> bool:
        """Whether it was done; how the store is after it, or as it kept it from being done, is seen at once."""
        look = {"request_range": span(self._view.prefix)}
        answer = self._gateway.call("/kv/txn", compare=compare, success=[*success, look], failure=[look])
        listing = answer["responses"][-1]["response_range"]
        self._view.load(int(answer["header"]["revision"]), stored_in(listing))
        return bool(answer.get("succeeded"))

    def _full(self, key: str) -> str:
        return coded(f"{self._view.prefix}{SUBNETS}{key}")

    def _same(self, entry: Entry) -> Json:
        """It is still the key that was looked at, whatever it says by now."""
        created = str(entry.stored.created)
        return {"key": self._full(entry.stored.key), "target": "CREATE", "result": "EQUAL", "create_revision": created}

    def _put(self, key: str, value: bytes, lease: int) -> Json:
        return {"request_put": {"key": self._full(key), "value": coded(value), "lease": str(lease)}}

    def _delete(self, entry: Entry) -> Json:
        return {"request_delete_range": {"key": self._full(entry.stored.key)}}


def backoff(failures: int) -> float:
    """The nodes that lost against another one come again at once, those of a store that is away less and less often."""
    return min(FIRST_WAIT * 2.0 ** min(failures, 10), LONGEST_WAIT) * random.uniform(0.5, 1.5)
