"""Files of leases that were given back, kept so that a later lease needs no new inode: `.tulle/spare.0` to `.511`.

A new inode is what an address costs most. ext4 without a journal passes over those freed within the last minute, one
look-up each (recently_deleted in fs/ext4/ialloc.c): after some hundred pods that is 0.25 ms and more a file, and to
free a block 0.09 ms, while to write an old file anew takes 0.01 ms and a rename 0.015 ms. Where a file is kept follows
from its address: nothing must be counted, and addresses, given out in turn, soon find a file at their own place.

The caller holds the network's lock. Killed at any point, what is left is a lease that is whole, or none; a spare file
that is also a lease, by the second name that a kill left, is never written to.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from stat import S_ISREG

from ipam.ranges import IP

PLACES = 512
"""At most so many files, of one block each: 2 MiB."""
_PREFIX = "spare."
_MODE = 0o600
_LARGEST = 4096


def name_of(ip: IP) -> str:
    """Where the file of this address is kept, in the private directory; a pod's two families mostly have one number."""
    half = PLACES // 2
    return f"{_PREFIX}{int(ip) % half + (half if ip.version == 6 else 0)}"


def keep(ip: IP, fd: int, private_fd: int) -> bool:
    """Takes the lease of an address away by keeping its file; False if that cannot be, and nothing was done.

    Only a plain file without a second name: rename(2) of one onto its own other name does nothing and reports success.
    """
    name = name_of(ip)
    try:
        if not _is_plain(os.stat(str(ip), dir_fd=fd, follow_symlinks=False)):
            return False
        os.rename(str(ip), name, src_dir_fd=fd, dst_dir_fd=private_fd)
    except OSError:
        return False
    _unsign(name, private_fd)
    return True


def write(ip: IP, text: bytes, private_fd: int) -> str:
    """Has a file hold this, that of this address if one is kept, else any; its name, "" if none can be used.

    Raises OSError when it cannot be written: it is kept no longer then.
    """
    name = name_of(ip)
    fd = _open(name, private_fd)
    if fd < 0:
        name = next(_names(private_fd), "")
        fd = _open(name, private_fd) if name else -1
    if fd < 0:
        return ""
    try:
        found = os.fstat(fd)
        if not _is_plain(found):
            return _forget(name, private_fd)
        if found.st_size > len(text):
            os.ftruncate(fd, len(text))
        if os.pwrite(fd, text, 0) != len(text):
            return _forget(name, private_fd)
    except OSError:
        _forget(name, private_fd)
        raise
    finally:
        os.close(fd)
    return name


def drop(private_fd: int) -> int:
    """Removes all that are kept; how many."""
    names = list(_names(private_fd))
    for name in names:
        _forget(name, private_fd)
    return len(names)


def _unsign(name: str, private_fd: int) -> None:
    """The reference's CHECK walks all files, subdirectories too: none of ours may say whose lease it was.

    No container ID begins like this (SPEC.md, CNI_CONTAINERID).
    """
    fd = _open(name, private_fd)
    try:
        if fd >= 0:
            os.pwrite(fd, b"-", 0)
    except OSError:
        _forget(name, private_fd)
    finally:
        if fd >= 0:
            os.close(fd)


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
