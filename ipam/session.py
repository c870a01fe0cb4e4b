"""One locked operation on a network's directory, in which leases and hints are kept in step.

`Store` holds the truth and `Hints` make it quick to find; a session knows when the one can stand for the other.
It promises that what it returns was read from a lease, that hints it found wanting are made again or not used,
and that leases of an earlier boot are gone before an address is given out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import ENOENT
from types import TracebackType

import msgspec

from ipam.errors import StoreError
from ipam.hints import Hints
from ipam.ranges import IP
from ipam.store import Lease, Owner, Store

_SAME_MOMENT_NS = 2 * 10**9
"""How much later than its entry in the index a lease of ours may be written; no machine reboots so fast."""


class Boot(msgspec.Struct, frozen=True):
    """The running kernel's boot ID, and who of an earlier boot is to be kept nevertheless."""

    id: str
    is_alive: Callable[[Owner], bool] | None = None


class Session:
    """A context: it waits for the lock, and every OSError within comes out as StoreError.

    `present` is False if the network has no directory (and none was to be made); nothing else may be used then.
    `trusted` says whether the hints are right.
    """

    store: Store
    hints: Hints

    def __init__(self, path: str, boot: Boot, *, create: bool = False) -> None:
        self.path = path
        self.present = self.trusted = False
        self._boot = boot
        self._create = create

    def __enter__(self) -> Session:
        try:
            store = Store.open(self.path, create=self._create)
            if store is None:
                if self._create:
                    raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
                return self
            self.store = store
            self._look(store)
        except OSError as error:
            raise StoreError(self.path, error) from error
        self.present = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.present:
            self.hints.close()
            self.store.close()
        if isinstance(error, OSError):
            raise StoreError(self.path, error) from error

    def _look(self, store: Store) -> None:
        """Open the hints, and see whether they are right; nothing is left open where that fails."""
        try:
            self.hints = Hints(store)
            try:
                self.trusted = self.hints.clean and self.hints.boot == self._boot.id
            except BaseException:
                self.hints.close()
                raise
        except BaseException:
            store.close()
            raise

    def settle(self) -> None:
        """Makes the hints trusted: voids what an earlier boot left, and reads all leases if it must."""
        if self.trusted:
            return
        kept = []
        for lease, void in self._judged():
            if void and self._discard(lease.ip):
                continue
            kept.append(lease)
        self.store.drop_spares()  # after the void leases: a loss of power may have left one of both at once
        self.rebuild(kept)

    def try_to_settle(self) -> None:
        """`settle`, for operations that can do without: they must work on a full disk too."""
        try:
            self.settle()
        except OSError:
            pass

    def rebuild(self, leases: Iterable[Lease] | None = None) -> None:
        """Makes the hints again from all leases. Where the disk did not tell whose one is, they are not trusted yet."""
        held: dict[Owner, list[IP]] = {}
        used: list[IP] = []
        whole = True
        for lease in self.store.leases() if leases is None else leases:
            used.append(lease.ip)
            whole = whole and not lease.unread
            if lease.owner:
                held.setdefault(lease.owner, []).append(lease.ip)
        self.trusted = False
        # The boot first: what is void by the old one is gone by now, and below changes `last_change_ns`.
        self.store.ensure_private()
        self.store.discard_temporary()  # a killed writer's, which nobody may come to write over
        if self.hints.boot != self._boot.id:
            self.hints.boot = self._boot.id
        self.hints.rebuild(held, used)
        if whole:
            self.hints.mark_clean()
            self.trusted = True

    def valid(self) -> Iterator[Lease]:
        """All leases but those that are void; writes nothing."""
        return (lease for lease, void in self._judged() if not void)

    def held(self, owner: Owner, *, sure: bool = False) -> tuple[IP, ...]:
        """What the owner has; else what its container has from a reference that stored no interface.

        `sure`: raises OSError where it seems to have nothing, and may have what cannot be read.
        """
        old = Owner(owner.container, "")
        if self.trusted:
            return self._confirmed(owner, self.hints.addresses(owner)) or (
                self._confirmed(old, self.hints.addresses(old))
            )
        leases = list(self.valid())
        mine = tuple(lease.ip for lease in leases if lease.owner == owner)
        mine = mine or tuple(lease.ip for lease in leases if lease.owner == old)
        if sure and not mine:
            for lease in leases:
                lease.known()
        return mine

    def put(self, owner: Owner, ips: Sequence[IP], held: Sequence[IP]) -> None:
        """Makes these leases for an owner who already has `held`: all of them, or none and StoreError."""
        try:
            self.hints.note(owner, (*held, *ips))
            for ip in ips:
                self.store.add(ip, owner)
            for ip in ips:
                self.hints.mark(ip, used=True)
        except BaseException:
            self.give_back(owner, ips)
            raise

    def give_back(self, owner: Owner, ips: Sequence[IP]) -> None:
        """Undoes `put` as far as the disk lets it: the index still names what stays, for the next release."""
        try:
            self.drop(owner, ips)
        except OSError:
            pass

    def drop(self, owner: Owner | None, ips: Iterable[IP]) -> None:
        """Removes leases of this owner (None: of nobody known), and whatever the index says of it that is not so."""
        ips = tuple(ips)
        for ip in ips:
            self.store.remove(ip)
        if not self.trusted:
            return
        try:
            self.store.discard_temporary()
            for ip in ips:
                self.hints.mark(ip, used=False)
            for name in {owner, Owner(owner.container, "")} if owner else ():
                known = self.hints.addresses(name)
                left = self._confirmed(name, known)
                if known != left:
                    self.hints.note(name, left)
        except OSError:
            return  # The leases are gone, which is what counts; the directory stays unclean.
        self.done()

    def done(self) -> None:
        """The last act of a change: leases and hints are in step."""
        if self.trusted and (self.hints.noted or not self.hints.clean):
            self.hints.mark_clean()

    def _confirmed(self, owner: Owner, known: tuple[IP, ...]) -> tuple[IP, ...]:
        """Those of the addresses that are known of an owner which the leases say it has."""
        found = ((ip, self.store.read(ip)) for ip in known)
        return tuple(ip for ip, lease in found if lease and lease.known().owner == owner)

    def _judged(self) -> Iterator[tuple[Lease, bool]]:
        """Every lease and whether it is void: of an earlier boot, and its owner not known to be alive.

        A lease written after our last change is the reference's, maybe of this boot, and stays. A damaged one
        of an earlier boot is void like any other: after a loss of power that is what torn files are.
        """
        then = self.hints.boot
        rebooted = then is not None and then != self._boot.id
        limit = self.hints.last_change_ns + _SAME_MOMENT_NS
        for lease in self.store.leases():
            yield lease, rebooted and lease.written_ns <= limit and not self._alive(lease.owner)

    def _alive(self, owner: Owner | None) -> bool:
        return owner is not None and self._boot.is_alive is not None and self._boot.is_alive(owner)

    def _discard(self, ip: IP) -> bool:
        try:
            self.store.discard(ip)
        except IsADirectoryError:
            return False  # Not a lease of anybody: it stays, as damaged.
        return True
