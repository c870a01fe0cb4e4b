"""The leases on disk: one small file an address, in the layout of the reference host-local.

    <dataDir>/<network>/10.22.0.5            "<container id> CR LF <interface>", mode 0600
    <dataDir>/<network>/last_reserved_ip.0   the address that range set 0 gave out last
    <dataDir>/<network>/lock                 whoever holds its flock(2) may change the rest
    <dataDir>/<network>/.tulle/              ours alone, see `ipam.hints`

A node can change from the reference to this and back with its pods running: both read and write the same
files under the same lock. These files are the truth; whatever else is on disk is a hint.

Promises: a lease appears whole or not at all (a file of another name and link(2)); it is never overwritten; no
symbolic link is followed but root's own to a network's directory; a file that cannot be understood is held against its
address, never read as free; what stands in the place of a file of ours and is of another kind is moved out of the way,
for it can be nobody's lease.
All methods raise OSError as the kernel gave it; `ipam.allocator` makes sentences of them.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address

import msgspec

from ipam import spares
from ipam.own import ODD, clear, ensure_directory, open_directory, open_own, open_own_directory, write_whole
from ipam.ranges import IP

_LOCK = "lock"
_CURSOR = "last_reserved_ip."
_PRIVATE = ".tulle"
TEMPORARY = "tmp"
"""The one temporary name: only the holder of the lock uses it, so a crash leaves at most this."""

_PASSING = (errno.EINTR, errno.EAGAIN, errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE)
"""The kernel is short of something now, which says nothing of a file."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)
"""What link(2) says where there are none, and where somebody mounted another file system in between."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_ROOM = 4096
"""What is read at once: more than nearly any lease has, a container ID and an interface name."""
_LARGEST = 1 << 18
"""More than any lease has: a variable of an environment has 128 KiB at most (MAX_ARG_STRLEN, linux/binfmts.h)."""
_TELLING = (*ODD, errno.EACCES, errno.EPERM, errno.ENODEV, errno.EINVAL)
"""What is said of a thing, not of the kernel or the disk: it will be said again."""


class Owner(msgspec.Struct, frozen=True, order=True):
    """Whose an address is. Early versions of the reference stored no interface: `ifname` is then empty."""

    container: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container} ({self.ifname})" if self.ifname else self.container


class Lease(msgspec.Struct, frozen=True):
    """A lease file as found: `owner` is None when it cannot be understood, and `flaw` then says why.

    `unread`: the errno with which the disk refused to tell what is in it, which may be anybody's name.
    """

    ip: IP
    owner: Owner | None
    written_ns: int
    flaw: str = ""
    unread: int = 0

    def known(self) -> Lease:
        """Itself. Raises OSError where nobody knows whose it is."""
        if self.unread:
            raise OSError(self.unread, os.strerror(self.unread), str(self.ip))
        return self


class Store:
    """One locked hold on the directory of a network. Use `Store.open`, then `close`.

    `fd` is the directory, `private_fd` the subdirectory that the reference does not know (-1: not there).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = self.private_fd = self._lock_fd = -1

    @classmethod
    def open(cls, path: str, *, create: bool) -> Store | None:
        """Waits for the lock. None if the directory is not there and `create` is not asked for."""
        if create:
            _make_network(path)
        store = cls(path)
        store.fd = _open_network(path)
        if store.fd < 0:
            return None
        try:
            store._lock_fd = _open_lock(store.fd)
            fcntl.flock(store._lock_fd, fcntl.LOCK_EX)
            store.private_fd = open_own_directory(_PRIVATE, store.fd)
        except BaseException:
            store.close()
            raise
        return store

    def ensure_private(self) -> None:
        """Makes the private directory unless it is there."""
        if self.private_fd < 0:
            ensure_directory(_PRIVATE, self.fd)
            self.private_fd = open_directory(_PRIVATE, self.fd)

    def close(self) -> None:
        """Gives the lock back."""
        for fd in (self.private_fd, self.fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self.private_fd = self._lock_fd = -1

    def exists(self, ip: IP) -> bool:
        """Whether anything stands at the place of this lease, whole or not."""
        try:
            os.stat(str(ip), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read(self, ip: IP) -> Lease | None:
        """The lease of an address; None if there is none. One that cannot be read now is not one of nobody's."""
        try:
            text, written_ns = self._text(str(ip))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in _PASSING:
                raise
            unread = 0 if error.errno in _TELLING else error.errno or errno.EIO
            return Lease(ip, None, 0, f"cannot be read: {error.strerror}", unread)
        owner = _owner(text)
        return Lease(ip, owner, written_ns, "" if owner else "does not name a container")

    def add(self, ip: IP, owner: Owner) -> None:
        """Makes a lease. FileExistsError if the address is taken."""
        text = f"{owner.container}\r\n{owner.ifname}".encode()
        self._with_room(lambda: self._add(ip, text))

    def _add(self, ip: IP, text: bytes) -> None:
        name = spares.write(ip, text, self.private_fd)
        if not name:
            name = TEMPORARY
            self._write_temporary(text)
        try:
            os.link(name, str(ip), src_dir_fd=self.private_fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create(ip, text)
        finally:
            os.unlink(name, dir_fd=self.private_fd)

    def _create(self, ip: IP, text: bytes) -> None:
        """As the reference does, where a file system has no hard links (FAT, some network file systems).

        A kill between two calls leaves a file that names nobody, which is held against its address.
        """
        fd = os.open(str(ip), _NEW, 0o600, dir_fd=self.fd)
        try:
            write_whole(fd, text)
        except OSError:
            os.unlink(str(ip), dir_fd=self.fd)
            raise
        finally:
            os.close(fd)

    def remove(self, ip: IP) -> None:
        """Removes a lease; that there is none is fine."""
        if self.private_fd < 0 or not spares.keep(ip, self.fd, self.private_fd):
            self.discard(ip)

    def discard(self, ip: IP) -> None:
        """Removes a lease, and keeps nothing of it."""
        try:
            os.unlink(str(ip), dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def addresses(self) -> Iterator[IP]:
        """Every address that has a lease file, in no order, without reading one."""
        for name in os.listdir(self.fd):
            if name[0].isalnum() and ("." in name or ":" in name):
                try:
                    ip = ip_address(name)
                except ValueError:
                    continue
                if str(ip) == name:
                    yield ip

    def leases(self) -> Iterator[Lease]:
        """Every lease, in no order: O(n)."""
        return filter(None, map(self.read, self.addresses()))

    def cursor(self, index: int) -> IP | None:
        """The address that this range set gave out last, if that is known."""
        try:
            return ip_address(self._text(f"{_CURSOR}{index}")[0].decode("ascii"))
        except (OSError, ValueError):
            return None

    def set_cursor(self, index: int, ip: IP) -> None:
        """Remembers the address given out last, for both implementations.

        In place: a rename over a file makes ext4 write that file to the disk first (auto_da_alloc in ext4(5)), 1.8 ms
        each time. A kill between the two calls leaves some other address or none: round robin starts there, once.
        """
        text = str(ip).encode()
        fd = open_own(f"{_CURSOR}{index}", os.O_RDWR | os.O_CREAT, self.fd)
        try:
            write_whole(fd, text)
            os.ftruncate(fd, len(text))
        finally:
            os.close(fd)

    def _text(self, name: str) -> tuple[bytes, int]:
        # O_NONBLOCK: opening a FIFO that somebody put here must not wait for a writer.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.fd)
        try:
            text = os.read(fd, _ROOM)
            if len(text) == _ROOM:
                text += os.read(fd, _LARGEST)
            return text, os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)

    def discard_temporary(self) -> None:
        """Removes what a killed or refused writer may have left."""
        if self.private_fd >= 0:
            clear(TEMPORARY, self.private_fd)

    def drop_spares(self) -> None:
        """Removes the files that are kept for later leases."""
        if self.private_fd >= 0:
            spares.drop(self.private_fd)

    def _with_room(self, write: Callable[[], None]) -> None:
        """Do it; what is kept for later goes before there is no room for what is needed."""
        try:
            write()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not spares.drop(self.private_fd):
                raise
            write()

    def write_temporary(self, text: bytes) -> None:
        """A new file: one that a crash left may be a second name of a lease, so it is never written to."""
        self._with_room(lambda: self._write_temporary(text))

    def _write_temporary(self, text: bytes) -> None:
        try:
            fd = os.open(TEMPORARY, _NEW, 0o600, dir_fd=self.private_fd)
        except FileExistsError:
            clear(TEMPORARY, self.private_fd)
            fd = os.open(TEMPORARY, _NEW, 0o600, dir_fd=self.private_fd)
        try:
            write_whole(fd, text)
        except OSError:
            os.unlink(TEMPORARY, dir_fd=self.private_fd)
            raise
        finally:
            os.close(fd)


def holder(path: str, ip: IP) -> Owner | None:
    """Whose an address is in the network at this path; None if nobody is known to have it.

    For who wants to know and changes nothing: nothing is locked, and nothing made where no leases are. Raises OSError
    when that cannot be found out, now or on this disk.
    """
    store = Store(path)
    try:
        store.fd = _open_network(path)
        lease = store.read(ip) if store.fd >= 0 else None
    except OSError as error:
        if error.errno not in _TELLING:
            raise
        return None
    finally:
        store.close()
    return lease.known().owner if lease else None


def _make_network(path: str) -> None:
    """As os.makedirs, which calls itself for each directory: a path may have more of them than Python goes deep."""
    if not os.path.isdir(path):
        for end, letter in enumerate(f"{path}/"):
            if end and letter == "/":
                with suppress(FileExistsError):
                    os.mkdir(path[:end], 0o755)


def _open_network(path: str) -> int:
    """The directory of a network, -1 if it is not there.

    It may be a link that root made, or who we are: to another disk. Anybody else's may lead anywhere.
    """
    try:
        return open_directory(path)
    except OSError as error:
        if not os.path.islink(path):
            raise
        if os.lstat(path).st_uid not in (0, os.geteuid()):
            raise OSError(errno.ELOOP, "it is a symbolic link that neither root nor we have made", path) from error
        return os.open(path, os.O_DIRECTORY)


def _open_lock(dir_fd: int) -> int:
    """Read-write, for NFS turns flock into a lock that needs it; read-only where nothing can be written anyway."""
    try:
        return open_own(_LOCK, os.O_RDWR | os.O_CREAT, dir_fd)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES):
            raise
        return os.open(_LOCK, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)


def _owner(text: bytes) -> Owner | None:
    """What a lease file says, as the reference reads it: white space at its end does not count."""
    try:
        container, _, ifname = text.decode().rstrip().partition("\r\n")
    except UnicodeDecodeError:
        return None
    owner = Owner(container, ifname)
    return owner if is_storable(owner) and len(text) < _LARGEST else None


def is_storable(owner: Owner) -> bool:
    """Whether a lease file can hold this owner and be read back: visible characters without white space."""
    both = owner.container + owner.ifname
    return bool(owner.container) and both.isprintable() and " " not in both
