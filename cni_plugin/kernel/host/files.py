"""Files as the rest of the plugin may use them: whole or not at all, never through a symbolic link.

A write is a temporary file and a rename, so that no reader sees half of it and a kill at any instant leaves at worst
a temporary file, which goes with its folder. Nothing is synced to the disk: state of an earlier boot is void
(`boot_id`).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from functools import cache

_CHUNK = 1 << 20
_TEMPORARY = ".tmp."
_PAGE = 4096
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
"""What open(2) says where files without a name are not known."""
_CURES = {
    errno.ENOSPC: "free some space or inodes on that file system",
    errno.EDQUOT: "raise the disk quota",
    errno.EROFS: "mount that file system read-write",
    errno.EACCES: "look at its owner and mode, and whether a security module (AppArmor, SELinux) forbids it",
    errno.EPERM: "give us the capabilities of root, and see whether a security module (AppArmor, SELinux) forbids it",
    errno.ELOOP: "replace the symbolic link by a real file or folder, or have root make it",
    errno.ENOTDIR: "move away what stands where a folder is needed",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "free some memory",
}
DAMAGED = f"{_TEMPORARY}damaged."
"""What the name of a file begins with that `set_aside` has renamed."""
TICK = 50_000_000
"""Nanoseconds within which two changes of a file or folder may bear the same time (a jiffy, before Linux 6.13)."""
MOST_BYTES = 64 << 20
"""Of one file, where nothing smaller is said: what we write for 5,000 nodes is 3 MiB."""
ODD = frozenset({
    errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ENODEV, errno.EFBIG,
})
"""What `read` meets where something stands that is no file of ours: a folder, a link, a socket, a huge file."""
MISNAMED = ODD | {errno.ENOENT, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM}
"""What `follow` meets where a configuration names what is not there, no file, or not ours to read."""
_LEADS_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP, errno.EEXIST)
"""What a call says of something else in the place of a folder, or above it."""
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@cache
def boot_id() -> str:
    """What tells this boot of the machine from every other (Documentation/admin-guide/sysctl/kernel.rst)."""
    return (read(BOOT_ID) or b"").decode().strip()


def same(one: str, other: str) -> bool:
    """Whether two paths lead to one thing; not where either leads nowhere. Raises OSError where that is not known."""
    try:
        return os.path.samefile(one, other)
    except ValueError:  # a path holds no NUL
        return False
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE:
            raise
        return False


def here() -> str:
    """The folder that this process stands in, "" when it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def read(path: str) -> bytes | None:
    """The whole of a file of ours, None when there is none. Raises OSError as `follow`, ELOOP for a symbolic link."""
    try:
        return _contents(path, MOST_BYTES, os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def note(path: str) -> bytes | None:
    """A file of ours in which something is noted; None for what is not there, and for what is none. Raises OSError."""
    try:
        return read(path)
    except OSError as error:
        if error.errno not in ODD:
            raise
        return None


def follow(path: str, most: int = MOST_BYTES) -> bytes:
    """The whole of a file of at most `most` bytes that somebody else keeps; links may lead there.

    Raises OSError: EISDIR for a folder, EINVAL for what is no file either or a path that cannot be one, EFBIG.
    """
    return _contents(path, most, 0)


def _contents(path: str, most: int, flags: int) -> bytes:
    """Nothing but a file is read, for the rest may have no end, and opening a FIFO waits for its writer."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    except ValueError:  # Python's own, before the kernel is asked
        raise OSError(errno.EINVAL, "a path holds no NUL", path) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            code = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
            raise OSError(code, "it is a folder" if code == errno.EISDIR else "it is not a file", path)
        size, chunks = found.st_size, list[bytes]()
        asked = size + 1 if size else _CHUNK
        while size <= most and (chunk := os.read(fd, asked)):
            chunks.append(chunk)
            had = sum(map(len, chunks))
            if had == found.st_size and len(chunk) < asked:
                break  # there was no more, so it need not be asked for again
            size = max(size, had)  # what grows while it is read, and /proc, whose files have none
    finally:
        os.close(fd)
    if size > most:
        raise OSError(errno.EFBIG, f"it is larger than {_readable(most)}", path)
    return b"".join(chunks)


def _readable(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


def write(path: str, data: bytes, mode: int = 0) -> None:
    """Put a file in place, mode 0600 or this one, over an earlier one; a folder there is set aside. Raises OSError.

    Writers of one file take turns.
    """
    _put(path, data, _temporary(path), mode)


def publish(path: str, data: bytes) -> None:
    """As `write`, for all to read (mode 0644), in a folder that others watch for files of a suffix. Raises OSError.

    It is filled in a folder of its own below that one, on the same mount, so that no watcher is told before it is
    there: containerd logs an error for each look that finds nothing. It does not heed that something was made, and so
    it is the end of the inner folder that has it look (cri/server/cni_conf_syncer.go).
    """
    inner = _inner(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with suppress(FileExistsError):  # of a writer that was killed
        os.mkdir(inner, 0o700)
    try:
        _put(path, data, os.path.join(inner, os.path.basename(path)), mode=0o644)
    finally:
        os.rmdir(inner)


def finish(path: str) -> None:
    """Do what a writer that was killed in `publish` had still to do: nobody was told of the file. Raises OSError."""
    remove_folder(_inner(path))


def _inner(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.d")


def _put(path: str, data: bytes, temporary: str, mode: int = 0) -> None:
    try:
        _fill(temporary, data)
        if mode:
            os.chmod(temporary, mode)  # whatever the umask is
        try:
            os.rename(temporary, path)
        except IsADirectoryError:
            set_aside(path)
            os.rename(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            error.filename = path  # write(2) knows descriptors only
        _discard(temporary)
        raise


def remove(path: str) -> bool:
    """Remove a file; whether there was one. Raises OSError."""
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, *_NO_FOLDER):
            raise
        return False
    return True


def remove_with_leftover(path: str) -> bool:
    """Remove a file, and what a killed writer of it may have left; whether there was one. Raises OSError.

    A folder that somebody put in its place is set aside.
    """
    _discard(_temporary(path))
    return _discard(path)


def _discard(path: str) -> bool:
    try:
        return remove(path)
    except IsADirectoryError:
        set_aside(path)
        return True


def make_root(path: str) -> None:
    """As `make_folder`, for one that an administrator may have put elsewhere: a link that root made, or who we are.

    Raises OSError, ELOOP for anybody else's link, which may lead anywhere.
    """
    try:
        make_folder(path)
    except NotADirectoryError:
        if not os.path.islink(path):
            raise
        if os.lstat(path).st_uid not in (0, os.geteuid()):
            why = "a symbolic link that neither root nor we have made is not followed"
            raise OSError(errno.ELOOP, why, path) from None
        make_folder(os.path.realpath(path))


def make_folder(path: str) -> None:
    """Make a folder and those above it, all that are missing with mode 0700. Raises OSError, ENOTDIR for a link.

    os.makedirs gives its mode to the last one only, and calls itself for each, of which a path may have thousands.
    """
    if _is_folder(path):  # as for every pod but the first: one call, where to make it takes three
        return
    try:
        _make_folder(path)
    except FileNotFoundError:
        for end, letter in enumerate(path):
            if end and letter == "/":
                _make_folder(path[:end], on_the_way=True)
        _make_folder(path)  # where there are those above it, this may be a place for no folder, as /proc is


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _make_folder(path: str, *, on_the_way: bool = False) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not is_folder(path) or (os.path.islink(path) and not on_the_way):
            raise OSError(errno.ENOTDIR, "not a folder", path) from None


def is_folder(path: str) -> bool:
    """Whether a folder is there, be it by a link. Raises OSError where that is not known."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno not in _LEADS_NOWHERE:
            raise
        return False


def make_own(root: str, *names: str) -> None:
    """Make a folder of ours below one that others may have put elsewhere. Raises OSError.

    What stands in the place of one of `names` and is none is set aside.
    """
    path = os.path.join(root, *names)
    try:
        make_folder(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        for each in (os.path.join(root, *names[:count]) for count in range(1, len(names) + 1)):
            if os.path.lexists(each) and (os.path.islink(each) or not is_folder(each)):
                set_aside(each)
        make_folder(path)


def remove_folder(path: str) -> bool:
    """Remove a folder that holds nothing but leftovers; whether there is nothing else in it. Raises OSError."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):  # somebody's file or link has its place, and stays
            return not names(path)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _is_used(path):
            return False
        for name in os.listdir(path):
            _discard(os.path.join(path, name))
        with suppress(OSError):  # somebody's folder, set aside, keeps this one from going, and nothing else
            os.rmdir(path)
    return True


def _is_used(path: str) -> bool:
    """Whether a folder holds more than leftovers; not all of a thousand entries is looked at to see one."""
    with os.scandir(path) as entries:
        return any(not each.name.startswith(_TEMPORARY) for each in entries)


def sweep(path: str) -> None:
    """Remove what killed writers left in a folder; what was set aside stays. Raises OSError."""
    if is_folder(path):
        for name in os.listdir(path):
            if name.startswith(_TEMPORARY) and not name.startswith(DAMAGED):
                _discard(os.path.join(path, name))


def names(path: str) -> list[str]:
    """The entries of a folder of ours in order, temporary ones left out; what is no folder has none. Raises OSError."""
    try:
        return listed(path)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        return []


def listed(path: str) -> list[str]:
    """The same of somebody else's: [] when nothing is there. Raises OSError, ENOTDIR for what is no folder."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith(_TEMPORARY))
    except FileNotFoundError:
        return []


def obstacle(path: str) -> OSError | None:
    """Why no file can be written in this folder, or in the first existing one above it; None where one can.

    It is tried: a file without a name (O_TMPFILE) takes an inode and a block, and leaves nothing behind.
    """
    while not os.path.isdir(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    try:
        fd = os.open(path or "/", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, bytes(_PAGE))
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            return error
        return None if writable(path) else OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    return None


def cure(error: OSError) -> str:
    """What is to be done about it."""
    if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0:
        return "run as root"
    return _CURES.get(error.errno or 0, "check that the disk is not full and the folder can be written to")


def writable(path: str) -> bool:
    """Whether files can be made in this folder, or in the first existing one above it."""
    while not os.path.isdir(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    return os.access(path or "/", os.W_OK | os.X_OK) and not os.statvfs(path or "/").f_flag & os.ST_RDONLY


def _fill(path: str, data: bytes) -> None:
    """A new file, whatever a killed writer or anybody else left in its place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        _discard(path)
        fd = os.open(path, flags, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def set_aside(path: str) -> None:
    """Rename what cannot be read, so that it is neither used nor lost. Raises OSError."""
    folder, name = os.path.split(path)
    try:
        os.rename(path, os.path.join(folder, f"{DAMAGED}{name[-64:]}"))
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR):
            raise  # else an earlier one stands there, and one of the two is a folder
        os.rename(path, os.path.join(folder, f"{DAMAGED}{os.lstat(path).st_ino}.{name[-64:]}"))


def _temporary(path: str) -> str:
    """Named after its target, so that it is found again."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_TEMPORARY}{name[-64:]}")
