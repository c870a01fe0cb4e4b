"""What makes every operation O(1): an index by owner and a bitmap of addresses in use, both only hints.

The leases are the truth, and finding an owner's addresses or a free address in them means reading all of
them. So the private directory keeps beside them:

    .tulle/index        each owner's addresses, see `ipam.index`
    .tulle/used/4.a16   one bit an address of 10.22.0.0/16, set: in use
    .tulle/boot         a symbolic link whose text is the boot ID of the last operation

A link's text is made, replaced and read by one system call each, and never followed: it leads nowhere.

**When the hints can be trusted.** Anything that adds or removes a lease (the reference, an operator, one of
our own processes that was killed half-way) sets the directory's modification time to the time of day. Each
operation of ours ends by setting that time to `CLEAN`, a moment long past, and sets it to the time of day before it
writes to the index. If it still is CLEAN, nobody was here since; the clock's granularity does not matter. If it is
not, `rebuild` makes the hints again from the leases. The hints' own directories tell in the same way that somebody put
another file in the place of one of ours.

A hint that is wrong all the same does no harm: whoever uses one looks at the lease before acting on it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from ipam.index import Index
from ipam.own import DAMAGED, clear, ensure_directory, open_own, open_own_directory, replace
from ipam.ranges import IP
from ipam.store import TEMPORARY, Owner, Store

CLEAN = 1_009_843_200 * 10**9
"""2002-01-01 UTC in ns; whole seconds, which any file system can hold. Another layout must use another."""

_BITS = 16
_BYTES = (1 << _BITS) // 8
_FULL = b"\xff"


class Hints:
    """The hints beside the leases of an open, locked store. Methods raise OSError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._used = -1
        self._moved = False
        self.noted = False
        """Whether the directory is unclean by our own doing: then nobody need look."""
        self._blocks: dict[str, bytearray] = {}
        self._index = Index(store)
        try:
            if store.private_fd >= 0:
                self._used = open_own_directory("used", store.private_fd)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes what it opened; the store stays open."""
        self._index.close()
        if self._used >= 0:
            os.close(self._used)
        self._used = -1

    @property
    def clean(self) -> bool:
        """Whether nobody but us changed the leases since the hints were last right."""
        if not self._index.present or self._used < 0:
            return False
        return {os.fstat(fd).st_mtime_ns for fd in self._directories} == {CLEAN}

    def mark_clean(self) -> None:
        """The last act of an operation that left leases and hints in step.

        The bitmaps' directory is as it was unless one of them came or went.
        """
        try:
            for fd in self._directories if self._moved else self._directories[1:]:
                os.utime(fd, ns=(CLEAN, CLEAN))
        except OSError:
            pass  # Not our directory: it stays unclean, and every operation reads all leases.

    @property
    def _directories(self) -> tuple[int, int, int]:
        """The leases' last: what a kill leaves in between is unclean."""
        return self._used, self._store.private_fd, self._store.fd

    @property
    def boot(self) -> str | None:
        """The boot ID of our last operation here; None if there was none."""
        return _read_link("boot", self._store.private_fd) if self._store.private_fd >= 0 else None

    @boot.setter
    def boot(self, boot_id: str) -> None:
        self._write_link("boot", boot_id, self._store.private_fd)

    @property
    def last_change_ns(self) -> int:
        """When we last gave out or took back an address; 0 if never."""
        return self._index.changed_ns

    def addresses(self, owner: Owner) -> tuple[IP, ...]:
        """The addresses that this owner may hold: look at the leases."""
        return _addresses(self._index.get(_name(owner)))

    def note(self, owner: Owner, ips: Iterable[IP]) -> None:
        """Replaces what the index says of an owner; the directory is unclean from then on."""
        self.noted = True
        try:
            os.utime(self._store.fd)  # a kill in the middle of the next may tear what it says of others
        except OSError:
            pass  # Not our directory, or a full one: see `mark_clean`.
        self._index.set(_name(owner), ",".join(map(str, ips)))

    def mark(self, ip: IP, *, used: bool) -> None:
        """Sets or clears the bit of an address: one byte is written."""
        name, bit = _place(ip.version, int(ip))
        at, mask = bit >> 3, 1 << (bit & 7)
        if not used and name not in self._blocks:
            self._unset(name, at, mask)
            return
        block = self._block(name)
        byte = block[at] | mask if used else block[at] & ~mask
        if byte == block[at]:
            return
        fd = open_own(name, os.O_WRONLY | os.O_CREAT, self._used)
        try:
            os.pwrite(fd, bytes([byte]), at)
        finally:
            os.close(fd)
        block[at] = byte

    def next_free(self, version: int, first: int, last: int) -> int | None:
        """The first address in the span whose bit is clear."""
        while first <= last:
            name, bit = _place(version, first)
            base = first - bit
            free = _first_clear(self._block(name), bit, min(last - base, (1 << _BITS) - 1))
            if free is not None:
                return base + free
            first = base + (1 << _BITS)
        return None

    def count(self, version: int, first: int, last: int) -> int:
        """How many bits of the span are set: as many reads as there are blocks with an address in use in it."""
        total = 0
        for name in os.listdir(self._used):
            base = _base(name, version)
            if base is None:
                continue
            lo, hi = max(first - base, 0), min(last - base, (1 << _BITS) - 1)
            if lo <= hi:
                bits = int.from_bytes(self._block(name), "little") >> lo
                total += (bits & ((1 << (hi - lo + 1)) - 1)).bit_count()
        return total

    def rebuild(self, held: Mapping[Owner, Iterable[IP]], used: Iterable[IP]) -> None:
        """Makes the hints say this and nothing else. Killed half-way, the directory stays unclean."""
        self._open_or_make()
        self._moved = True
        self._blocks = {}
        self._index.fill({_name(owner): ",".join(map(str, ips)) for owner, ips in held.items()})
        blocks: dict[str, bytearray] = {}
        for ip in used:
            name, bit = _place(ip.version, int(ip))
            blocks.setdefault(name, bytearray(_BYTES))[bit >> 3] |= 1 << (bit & 7)
        for name in os.listdir(self._used):
            if name not in blocks and not name.startswith(DAMAGED):
                clear(name, self._used)
        for name, block in blocks.items():
            self._store.write_temporary(bytes(block))
            replace(TEMPORARY, name, self._store.private_fd, self._used)

    def _unset(self, name: str, at: int, mask: int) -> None:
        """Clears bits of a block that was not looked at: of all of it this byte is read, and only if it is there."""
        try:
            fd = open_own(name, os.O_RDWR, self._used)
        except FileNotFoundError:
            return
        try:
            byte = os.pread(fd, 1, at)
            if byte and byte[0] & mask:
                os.pwrite(fd, bytes([byte[0] & ~mask]), at)
        finally:
            os.close(fd)

    def _open_or_make(self) -> None:
        self._store.ensure_private()
        ensure_directory("used", self._store.private_fd)
        if self._used < 0:
            self._used = open_own_directory("used", self._store.private_fd)

    def _block(self, name: str) -> bytearray:
        if name not in self._blocks:
            self._blocks[name] = bytearray(self._read_block(name).ljust(_BYTES, b"\0"))
        return self._blocks[name]

    def _read_block(self, name: str) -> bytes:
        try:
            fd = open_own(name, os.O_RDONLY, self._used)
        except FileNotFoundError:
            self._moved = True  # `mark` makes it
            return b""
        try:
            return os.read(fd, _BYTES)
        finally:
            os.close(fd)

    def _write_link(self, name: str, text: str, dir_fd: int) -> None:
        try:
            os.symlink(text, name, dir_fd=dir_fd)
            return
        except FileExistsError:
            pass
        private = self._store.private_fd
        clear(TEMPORARY, private)
        os.symlink(text, TEMPORARY, dir_fd=private)
        replace(TEMPORARY, name, private, dir_fd)


def _place(version: int, number: int) -> tuple[str, int]:
    """The block of an address, and its bit there. Blocks are aligned, so they depend on no configuration."""
    return f"{version}.{number >> _BITS:x}", number & ((1 << _BITS) - 1)


def _base(name: str, version: int) -> int | None:
    """The first address of the block of that name; None for one of the other family, and for what is no block."""
    try:
        return int(name[2:], 16) << _BITS if name.startswith(f"{version}.") else None
    except ValueError:
        return None


def _first_clear(block: bytes | bytearray, lo: int, hi: int) -> int | None:
    at = lo >> 3
    byte = block[at] | ((1 << (lo & 7)) - 1)
    if byte == 0xFF:
        rest = block[at + 1 :].lstrip(_FULL)
        if not rest:
            return None
        at, byte = _BYTES - len(rest), rest[0]
    bit = (at << 3) + (~byte & (byte + 1)).bit_length() - 1
    return bit if bit <= hi else None


def _name(owner: Owner) -> str:
    """The owner's own name where a line can hold it; no interface name has a colon (dev_valid_name, net/core/dev.c)."""
    name = f"{owner.container}:{owner.ifname}"
    if len(name) <= 200 and name.isascii() and name.isprintable() and " " not in name and name[0] != "#":
        return name
    import hashlib  # 6 ms, and no runtime has such names

    return "#" + hashlib.sha256(name.encode()).hexdigest()


def _addresses(text: str) -> tuple[IP, ...]:
    try:
        return tuple(map(ip_address, text.split(","))) if text else ()
    except ValueError:
        return ()


def _read_link(name: str, dir_fd: int) -> str | None:
    try:
        text = os.readlink(name, dir_fd=dir_fd)
        return None if "/" in text else text  # somebody's link, not ours
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: somebody put a file there
            raise
        return None
