"""Gives out addresses, takes them back, and never gives out one twice.

    allocator = Allocator("/var/lib/cni/networks", "pods", parse(ipam), boot_id=boot_id)
    lease, = allocator.allocate(Owner("3f1c", "eth0"))      10.22.0.2/24 by way of 10.22.0.1
    allocator.release(Owner("3f1c", "eth0"))                (10.22.0.2,)

Promises: an owner gets one address of each range set or none of any; killed between any two system calls, an
operation leaves nothing that the owner's next `release`, or `collect`, does not take back; what is on disk is
shared with the reference host-local (`ipam.store`); no operation but `collect` and those for people (`leases`,
`damaged`, `preview`, `free_ranges`) costs more for addresses already in use. The exceptions, once each: after
somebody else worked on the directory, after a crash and after a boot, all leases are read.

Every operation holds the network's lock from first to last. `allocate` writes in the order index, leases,
bitmap, mark; `release` in the order leases, bitmap, index, mark: so that what a kill leaves is either named by
the index or shows in the directory's time (`ipam.hints`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

import msgspec

from ipam.errors import (
    AddressOutside,
    AddressTaken,
    CollectError,
    DuplicateAllocation,
    IpamError,
    PoolExhausted,
    StoreError,
)
from ipam.hints import Hints
from ipam.ranges import IP, RangeSet, address, canonical
from ipam.session import Boot, Session
from ipam.store import Lease as Stored
from ipam.store import Owner, is_storable

DEFAULT_DATA_DIR = "/var/lib/cni/networks"
"""Where the reference keeps its state unless told otherwise."""


class Lease(msgspec.Struct, frozen=True):
    """One address of one range set, with the prefix length of its subnet."""

    address: IPv4Interface | IPv6Interface
    gateway: IP | None
    range_set: int


class Usage(msgspec.Struct, frozen=True):
    """How full a range set is; `free` is `size - used`."""

    range_set: int
    used: int
    free: int
    size: int


class Damaged(msgspec.Struct, frozen=True):
    """A lease file that cannot be understood. Its address is not given out again until `release_address`."""

    address: IP
    flaw: str


class Allocator:
    """The addresses of one network on this node.

    `boot_id` is that of the running kernel (/proc/sys/kernel/random/boot_id). A lease of an earlier boot is void
    unless `is_alive(owner)`: its pod went with that boot. What the reference left is adopted as it is.
    Every method raises StoreError when the disk does not do what is asked.
    """

    def __init__(
        self, data_dir: str, network: str, sets: Sequence[RangeSet], *,
        boot_id: str, is_alive: Callable[[Owner], bool] | None = None,
    ) -> None:
        if not network or "/" in network or "\0" in network or network in (".", ".."):
            raise IpamError(f"the network name {network!r} cannot name a directory: use letters, digits, '_', '.', '-'")
        self._path = f"{data_dir or DEFAULT_DATA_DIR}/{network}"
        self._sets = tuple(sets)
        self._boot = Boot(boot_id, is_alive)

    def allocate(self, owner: Owner, requested: Sequence[IP] = ()) -> tuple[Lease, ...]:
        """One address of each range set, in their order: the requested one where one is, else the next free.

        Raises AddressOutside, AddressTaken, DuplicateAllocation, PoolExhausted, StoreError; then nothing changed.
        """
        if not is_storable(owner):
            raise IpamError(f"{owner!r} cannot own an address: name a container, without white space in its names")
        wishes = _assign(self._sets, requested)
        with self._session(create=True) as session:
            session.settle()
            held = session.held(owner)
            for ip in held:
                if any(ip in one for one in self._sets):
                    raise DuplicateAllocation(
                        f"{ip} has been allocated to {owner}, duplicate allocation is not allowed: release it (DEL) "
                        "before asking for another")
            chosen = [_choose(session, one, wishes.get(one.index)) for one in self._sets]
            session.put(owner, chosen, held)
            try:
                for one, ip in zip(self._sets, chosen, strict=True):
                    session.store.set_cursor(one.index, ip)
            except BaseException:
                session.give_back(owner, chosen)
                raise
            session.done()
        return tuple(map(_lease, self._sets, chosen))

    def release(self, owner: Owner) -> tuple[IP, ...]:
        """Takes back all that the owner holds and says what that was; () if it was nothing."""
        with self._session() as session:
            if not session.present:
                return ()
            session.try_to_settle()
            held = session.held(owner)
            session.drop(owner, held)
            return held

    def find(self, owner: Owner) -> tuple[IP, ...]:
        """What the owner holds; writes nothing. StoreError where nothing is known of it, and not all can be read."""
        with self._session() as session:
            return session.held(owner, sure=True) if session.present else ()

    def release_address(self, ip: IP) -> Owner | None:
        """For operators: takes back one address, damaged or not, whoever has it, and says who had it."""
        with self._session() as session:
            if not session.present:
                return None
            session.try_to_settle()
            lease = session.store.read(ip)
            owner = lease.owner if lease else None
            session.drop(owner, [ip])
            return owner

    def collect(self, valid: Collection[Owner]) -> tuple[Owner, ...]:
        """Takes back all that belongs to none of these owners, and says whose it was; damaged leases stay.

        An owner without an interface (a lease of an early reference) is valid if its container is. Goes on when
        one cannot be removed, and raises CollectError at the end.
        """
        keep = {*valid, *(Owner(owner.container, "") for owner in valid)}
        gone: set[Owner] = set()
        errors: list[StoreError] = []
        with self._session() as session:
            if not session.present:
                return ()
            session.try_to_settle()
            for lease in session.store.leases():
                if lease.owner is None or lease.owner in keep:
                    continue
                try:
                    session.store.remove(lease.ip)
                    gone.add(lease.owner)
                except OSError as error:
                    errors.append(StoreError(f"{self._path}/{lease.ip}", error))
            with suppress(OSError):  # a full disk: the leases are gone, and hints are made when they are next needed
                session.rebuild()
        if errors:
            raise CollectError(errors)
        return tuple(sorted(gone))

    def leases(self) -> Iterator[tuple[IP, Owner]]:
        """Every address in use and whose it is, in the order of addresses."""
        return iter([(lease.ip, lease.owner) for lease in self._snapshot() if lease.owner])

    def damaged(self) -> tuple[Damaged, ...]:
        """The leases that cannot be understood, in the order of addresses."""
        return tuple(Damaged(lease.ip, lease.flaw) for lease in self._snapshot() if not lease.owner)

    def usage(self) -> tuple[Usage, ...]:
        """How full each range set is; writes nothing."""
        with self._session() as session:
            if session.present and session.trusted:
                counts = [_marked(session.hints, one) for one in self._sets]
            else:
                ips = [lease.ip for lease in session.valid()] if session.present else []
                counts = [sum(ip in one and ip not in one.reserved for ip in ips) for one in self._sets]
        return tuple(
            Usage(one.index, used, one.size - used, one.size) for one, used in zip(self._sets, counts, strict=True))

    def preview(self, requested: Sequence[IP] = ()) -> tuple[Lease, ...]:
        """What `allocate` would give now if nobody came first; writes nothing. Raises as that does."""
        wishes = _assign(self._sets, requested)
        with self._session() as session:
            taken = {lease.ip for lease in session.valid()} if session.present else set()
            cursors = [session.store.cursor(one.index) if session.present else None for one in self._sets]
            granted = {one.index: _granted(session, one, wishes[one.index])
                       for one in self._sets if one.index in wishes}
        chosen = (granted.get(one.index) or _first_free(one, cursor, taken)
                  for one, cursor in zip(self._sets, cursors, strict=True))
        return tuple(map(_lease, self._sets, chosen))

    def free_ranges(self) -> tuple[tuple[IP, IP], ...]:
        """The addresses that are free, as pairs of first and last, for people to read."""
        from netaddr import IPRange, IPSet  # 30 ms, and only the operator's tool asks

        taken = [str(lease.ip) for lease in self._snapshot()]
        free = IPSet()
        for one in self._sets:
            taken += map(str, one.reserved)
            for r in one.ranges:
                free.add(IPRange(str(r.start), str(r.end)))
        free -= IPSet(taken)
        return tuple((address(r.version, r.first), address(r.version, r.last)) for r in free.iter_ipranges())

    def _session(self, *, create: bool = False) -> Session:
        return Session(self._path, self._boot, create=create)

    def _snapshot(self) -> list[Stored]:
        with self._session() as session:
            leases = list(session.valid()) if session.present else []
        return sorted(leases, key=lambda lease: (lease.ip.version, int(lease.ip)))


def _lease(one: RangeSet, ip: IP) -> Lease:
    r = one.range_of(ip)
    assert r is not None
    return Lease(ip_interface(f"{ip}/{r.subnet.prefixlen}"), r.gateway, one.index)


def _assign(sets: Sequence[RangeSet], requested: Sequence[IP]) -> dict[int, IP]:
    """Which range set serves which requested address: each set one, the first that fits."""
    left = list(dict.fromkeys(map(canonical, requested)))
    wishes: dict[int, IP] = {}
    for one in sets:
        ip = next((ip for ip in left if ip in one), None)
        if ip is not None:
            wishes[one.index] = ip
            left.remove(ip)
    if left:
        raise AddressOutside(
            f"failed to allocate all requested IPs: {', '.join(map(str, left))}: no range set can serve them, and each "
            f"of [{'], ['.join(map(str, sets))}] gives one address: request one inside, or change the ranges")
    return wishes


def _choose(session: Session, one: RangeSet, wish: IP | None) -> IP:
    if wish is not None:
        return _granted(session, one, wish)
    cursor = session.store.cursor(one.index)
    ip = _next_free(session, one, cursor)
    if ip is not None:
        return ip
    used = sum(ip in one and ip not in one.reserved for ip in session.store.addresses())
    if used < one.size:
        session.rebuild()  # The bitmap says full and the directory does not.
        ip = _next_free(session, one, cursor)
    if ip is None:
        raise PoolExhausted(
            f"no IP addresses available in range set: no free address in {one} ({one.size} usable, {used} in use): "
            "delete pods that are not needed, have the runtime collect what is left over (GC), or give the network a "
            "larger range")
    return ip


def _granted(session: Session, one: RangeSet, wish: IP) -> IP:
    if wish in one.reserved:
        raise AddressTaken(
            f"requested IP address {wish} is not available in range set {one}, being reserved as gateway, network or "
            "broadcast: request another")
    lease = session.store.read(wish) if session.present else None
    if lease is None:
        return wish
    holder = f"belongs to {lease.owner}" if lease.owner else f"has a damaged lease file ({lease.flaw})"
    raise AddressTaken(
        f"requested IP address {wish} is not available in range set {one}: it {holder}: request another, or release "
        "that one first")


def _next_free(session: Session, one: RangeSet, cursor: IP | None) -> IP | None:
    """The first address of the set, round robin after the cursor, that is neither reserved nor leased."""
    for first, last in one.spans(cursor):
        while (number := session.hints.next_free(one.family, first, last)) is not None:
            ip = address(one.family, number)
            if ip not in one.reserved:
                if not session.store.exists(ip):
                    return ip
                session.hints.mark(ip, used=True)
            first = number + 1
    return None


def _first_free(one: RangeSet, cursor: IP | None, taken: Collection[IP]) -> IP:
    for first, last in one.spans(cursor):
        for number in range(first, last + 1):
            ip = address(one.family, number)
            if ip not in one.reserved and ip not in taken:
                return ip
    raise PoolExhausted(f"no free address in {one} ({one.size} usable, all in use)")


def _marked(hints: Hints, one: RangeSet) -> int:
    """How many addresses of the set are in use by the bitmap."""
    used = sum(hints.count(one.family, first, last) for first, last in one.spans())
    return used - sum(hints.count(one.family, int(ip), int(ip)) for ip in one.reserved)
