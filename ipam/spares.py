"""Files of leases that were given back, kept so that a later lease needs no new inode: `.tulle/spare.0` to `.255`.

A new inode is what an address costs most. ext4 without a journal passes over those freed within the last minute, one
look-up each (recently_deleted in fs/ext4/ialloc.c): after some hundred pods that is 0.25 ms and more a file, and to
free a block 0.09 ms, while to write an old file anew takes 0.01 ms and a rename 0.015 ms. Where a file is kept follows
from its address: nothing must be counted, and addresses, given out in turn, soon find a file at their own place.

The caller holds the network's lock. Killed at any point, what is left is a lease that is whole, or none; a spare file
that is also a lease, by the second name that a kill left, is never written to. Whatever else may have come of a kill, a
loss of power or a full disk, `drop` ends it: kept files are worth little, and go when the directory is settled anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from stat import S_ISREG

from ipam.ranges import IP

PLACES = 256
"""At most so many files, of one block each: 1 MiB, and 3 ms more for a reference that comes after us and reads them."""
_PREFIX = "spare."
_MODE = 0o600
_LARGEST = 4096


def name_of(ip: IP) -> str:
    """Where the file of this address is kept, in the private directory; a pod's two families mostly have one number."""
    return f"{_PREFIX}{(int(ip) + (PLACES // 2 if ip.version == 6 else 0)) % PLACES}"


def keep(ip: IP, fd: int, private_fd: int) -> bool:
    """Takes the lease of an address away by keeping its file; False if it may still be there, and is to be removed.

    Only a plain file without a second name: rename(2) of one onto its own other name does nothing and reports success.
    And only if its place is free: a rename over a file makes ext4 write the new one to the disk (auto_da_alloc).
    """
    name = name_of(ip)
    try:
        if not _is_plain(os.stat(str(ip), dir_fd=fd, follow_symlinks=False)) or _is_there(name, private_fd):
            return False
        os.rename(str(ip), name, src_dir_fd=fd, dst_dir_fd=private_fd)
        _unsign(name, private_fd)
        return not _is_there(str(ip), fd)
    except OSError:
        return False


def write(ip: IP, text: bytes, private_fd: int) -> str:
    """Has a file hold this, that of this address if one is kept, else any; its name, "" if none can be used."""
    name = name_of(ip)
    fd = _open(name, private_fd)
    if fd < 0:
        name = next(_names(private_fd), "")
        fd = _open(name, private_fd) if name else -1
    if fd < 0:
        return ""
    try:
        if _rewrite(fd, text):
            return name
    except OSError:  # a new file may do, and if not it says why
        pass
    return _forget(name, private_fd)


def drop(private_fd: int) -> int:
    """Removes all that are kept; how many."""
    names = list(_names(private_fd))
    for name in names:
        _forget(name, private_fd)
    return len(names)


def _rewrite(fd: int, text: bytes) -> bool:
    """Whether the file is one of ours and now holds this. Closing it may fail as well: on NFS it writes."""
    try:
        found = os.fstat(fd)
        if not _is_plain(found):
            return False
        if found.st_size > len(text):
            os.ftruncate(fd, len(text))
        return os.pwrite(fd, text, 0) == len(text)
    finally:
        os.close(fd)


def _unsign(name: str, private_fd: int) -> None:
    """The reference's CHECK walks all files, subdirectories too: none of ours may say whose lease it was.

    No container ID begins like this (SPEC.md, CNI_CONTAINERID).
    """
    try:
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW, dir_fd=private_fd)
        try:
            os.pwrite(fd, b"-", 0)
        finally:
            os.close(fd)
    except OSError:
        _forget(name, private_fd)


def _is_there(name: str, fd: int) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _names(private_fd: int) -> Iterator[str]:
    return (each for each in os.listdir(private_fd) if each.startswith(_PREFIX))


def _open(name: str, private_fd: int) -> int:
    """A descriptor to write by, -1 if there is none."""
    try:
        # O_NONBLOCK: a FIFO that somebody put here must not make us wait for a reader
        return os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=private_fd)
    except FileNotFoundError:
        return -1
    except OSError:
        _forget(name, private_fd)
        return -1


def _is_plain(found: os.stat_result) -> bool:
    return S_ISREG(found.st_mode) and found.st_mode & 0o7777 == _MODE and found.st_nlink == 1 and (
        found.st_size <= _LARGEST and found.st_uid == os.geteuid()
    )


def _forget(name: str, private_fd: int) -> str:
    """One that cannot be used goes, so that nobody looks at it again; whatever it is, it is in nobody's way."""
    try:
        os.unlink(name, dir_fd=private_fd)
    except OSError:
        pass
    return ""
