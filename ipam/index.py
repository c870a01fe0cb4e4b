"""Who has which addresses, found by one read: the file `.tulle/index`, a table of text in buckets of 4 KiB.

    3f1c:eth0 10.22.0.2,fd00:22::2      a line of the bucket that CRC-32 of the owner's name leads to, zeros behind

One file, and not one for each owner, because a new inode is what an address costs most: ext4 without a journal looks
for one that was not freed in the last minute, and after a few hundred pods that takes 0.7 ms (find_inode_bit and
recently_deleted in fs/ext4/ialloc.c). A bucket is read and written by one system call; when one is full, all
are written anew, twice as many of them, so that the price of an entry stays the same on the average.

Only a hint, as `ipam.hints` tells, and nothing here waits or locks: the caller holds the network's lock.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Mapping

from ipam.own import open_own
from ipam.store import TEMPORARY, Store

NAME = "index"
BUCKET = 4096
"""Bytes of a bucket, and more than any line has."""
_ROOMY = BUCKET // 2
"""So full may buckets be in a table that is made anew."""
_MOST = 1 << 20
"""Buckets; a table of which even so many are too few is not one of ours."""


class Index:
    """The table beside the leases of an open, locked store. Methods raise OSError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fd = -1
        self._buckets = 0
        self._refusal = 0
        self._known: dict[str, bytes] = {}
        """The buckets of names that were asked for: nobody else writes to them while the lock is held."""
        self._open()

    def close(self) -> None:
        """Closes the file; the store stays open."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._buckets, self._known = -1, 0, {}

    @property
    def present(self) -> bool:
        """Whether there is a table that can be understood."""
        return self._buckets > 0

    @property
    def changed_ns(self) -> int:
        """When it was last written to; 0 if there is none."""
        return os.fstat(self._fd).st_mtime_ns if self._fd >= 0 else 0

    def get(self, name: str) -> str:
        """What is noted under a name without white space; "" if nothing is."""
        if not self.present:
            return ""
        bucket = b"\n" + self._bucket(name)
        _, found, rest = bucket.partition(f"\n{name} ".encode())
        return rest.partition(b"\n")[0].decode(errors="replace") if found else ""

    def set(self, name: str, text: str) -> None:
        """Replaces what is noted under a name; "" removes it."""
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        at = self._place(name)
        key = f"{name} ".encode()
        lines = [each for each in self._bucket(name).splitlines(keepends=True) if not each.startswith(key)]
        bucket = b"".join([*lines, _line(name, text)])
        if len(bucket) <= BUCKET:
            self._known.clear()
            if os.pwrite(self._fd, bucket.ljust(BUCKET, b"\0"), at) != BUCKET:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            self._write({**self.entries(), name: text}, 2 * self._buckets)

    def entries(self) -> dict[str, str]:
        """All that is noted: O(n)."""
        lines = (line for number in range(self._buckets) for line in self._read(number * BUCKET).splitlines())
        pairs = (line.decode(errors="replace").partition(" ") for line in lines)
        return {name: text for name, _, text in pairs}

    def fill(self, entries: Mapping[str, str]) -> None:
        """Makes the table anew, with this in it and nothing else; killed half-way, the old one stays."""
        self._write(entries, 1)

    def _open(self) -> None:
        if self._store.private_fd < 0:
            return
        try:
            self._fd, self._refusal = _open_file(self._store.private_fd)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(self._fd).st_size
        except OSError:
            self.close()
            raise
        buckets = size // BUCKET
        self._buckets = buckets if size == buckets * BUCKET and buckets & (buckets - 1) == 0 else 0

    def _place(self, name: str) -> int:
        return (zlib.crc32(name.encode()) & (self._buckets - 1)) * BUCKET

    def _bucket(self, name: str) -> bytes:
        if name not in self._known:
            self._known[name] = self._read(self._place(name))
        return self._known[name]

    def _read(self, at: int) -> bytes:
        return os.pread(self._fd, BUCKET, at).rstrip(b"\0")

    def _write(self, entries: Mapping[str, str], buckets: int) -> None:
        table = _table(entries, buckets)
        self._store.write_temporary(b"".join(each.ljust(BUCKET, b"\0") for each in table))
        private = self._store.private_fd
        try:
            os.rename(TEMPORARY, NAME, src_dir_fd=private, dst_dir_fd=private)
        except OSError:
            self._store.discard_temporary()
            raise
        self.close()
        self._open()


def _open_file(private_fd: int) -> tuple[int, int]:
    """The file, and why it cannot be written to, as an errno: finding must work there, too."""
    try:
        return open_own(NAME, os.O_RDWR, private_fd), 0
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=private_fd), error.errno


def _table(entries: Mapping[str, str], buckets: int) -> list[bytes]:
    """At least so many buckets, none of them more than half full, unless a single line is longer than that."""
    lines = [(zlib.crc32(name.encode()), _line(name, text)) for name, text in entries.items()]
    while buckets <= _MOST:
        table: list[list[bytes]] = [[] for _ in range(buckets)]
        for number, line in lines:
            table[number & (buckets - 1)].append(line)
        joined = [b"".join(each) for each in table]
        if all(len(text) <= _ROOMY or len(each) == 1 for text, each in zip(joined, table, strict=True)):
            return joined
        buckets *= 2
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(name: str, text: str) -> bytes:
    """Raises OSError for what a bucket cannot hold."""
    line = f"{name} {text}\n".encode() if text else b""
    if len(line) > BUCKET:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return line
