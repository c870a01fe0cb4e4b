"""What can go wrong with addresses, as sentences that name the thing, the value and the remedy.

Every error of the `ipam` package is an `IpamError`, and its text is whole: a caller shows it as it is and
adds nothing. The classes are what a caller may want to tell apart, no more.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

_REMEDIES = {
    errno.ENOSPC: "free some space or inodes on that file system",
    errno.EDQUOT: "raise the disk quota",
    errno.EROFS: "make that file system writable, or point ipam.dataDir to one that is",
    errno.EACCES: "run as root, and look at the owner and mode of that directory (0755, root)",
    errno.EPERM: "run as root, and look at the attributes of that directory (lsattr)",
    errno.ENOTDIR: "move away the file that stands where a directory is needed",
    errno.EEXIST: "move away the file that stands where a directory is needed",
    errno.ELOOP: "replace the symbolic link by a real file or directory, or have root make it",
    errno.ENAMETOOLONG: "give the network a name of at most 255 bytes: a directory is called by it",
    errno.EIO: "look for disk errors in the kernel log (dmesg)",
    **dict.fromkeys((errno.ENOMEM, errno.ENOBUFS), "free some memory and try again"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n), and try again"),
}


class IpamError(Exception):
    """Any error of this package; its text is a full sentence."""


class RangeError(IpamError):
    """The configured ranges make no sense.

    `key` is the dotted path of the setting (`ranges[0][1].rangeStart`), `value` what stood there.
    """

    def __init__(self, key: str, value: object, problem: str, remedy: str) -> None:
        self.key, self.value = key, value
        super().__init__(f"{key}: {problem}: {remedy}" if value is None else f"{key}: {value!r} {problem}: {remedy}")


class PoolExhausted(IpamError):
    """A range set has no free address."""


class AddressTaken(IpamError):
    """A requested address is held by somebody else, or is reserved (gateway, network, broadcast)."""


class AddressOutside(IpamError):
    """Requested addresses lie in no range set that could serve them."""


class DuplicateAllocation(IpamError):
    """This owner already holds an address of that range set."""


class StoreError(IpamError):
    """The disk did not do what was asked; `path` says where, `errno` why (0: not known)."""

    def __init__(self, path: str, error: OSError) -> None:
        self.path, self.errno = path, error.errno or 0
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(self.errno, "put that right and try again")
        super().__init__(f"the address store at {path} cannot be used: {reason}: {remedy}")


class CollectError(IpamError):
    """Some leases could not be released; `errors` holds one error for each, and all others are released."""

    def __init__(self, errors: Sequence[StoreError]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{len(errors)} leases could not be released: " + "; ".join(map(str, errors)))
