"""Files as the rest of the plugin may use them: whole or not at all, never through a symbolic link.

A write is a temporary file and a rename, so that no reader sees half of it and a kill at any instant leaves at worst
a temporary file, which goes with its folder. Nothing is synced to the disk: state of an earlier boot is void
(`boot_id`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TEMPORARY = ".tmp."
_DAMAGED = f"{_TEMPORARY}damaged."
BOOT_ID = "/proc/sys/kernel/random/boot_id"


@cache
def boot_id() -> str:
    """What tells this boot of the machine from every other (Documentation/admin-guide/sysctl/kernel.rst)."""
    return (read(BOOT_ID) or b"").decode().strip()


def read(path: str) -> bytes | None:
    """The whole file, None when there is none. Raises OSError, ELOOP for a symbolic link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 20):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)


def follow(path: str) -> bytes:
    """The whole of a file that the operator named; links may lead there. Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def regular(path: str, most: int) -> bytes:
    """A file of at most `most` bytes that somebody else keeps; links may lead there, a FIFO holds nobody up.

    Raises OSError: EISDIR for a folder, EINVAL for what is no file either, EFBIG.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(code, "it is a folder" if code == errno.EISDIR else "it is not a file", path)
        with open(fd, "rb", closefd=False) as file:
            data = file.read(most + 1)
    finally:
        os.close(fd)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MiB", path)
    return data


def write(path: str, data: bytes) -> None:
    """Put a file in place, mode 0600, over an earlier one. Writers of one file take turns. Raises OSError."""
    _put(path, data, _temporary(path))


def publish(path: str, data: bytes) -> None:
    """As `write`, for all to read (mode 0644), in a folder where others take files by their suffix. Raises OSError."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    _put(path, data, os.path.join(folder, f".{name}.new"), mode=0o644)


def _put(path: str, data: bytes, temporary: str, mode: int = 0) -> None:
    try:
        _fill(temporary, data)
        if mode:
            os.chmod(temporary, mode)  # whatever the umask is
        os.rename(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def remove(path: str) -> bool:
    """Remove a file; whether there was one. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_with_leftover(path: str) -> bool:
    """Remove a file, and what a killed writer of it may have left; whether there was one. Raises OSError."""
    remove(_temporary(path))
    return remove(path)


def make_folder(path: str) -> None:
    """Make a folder and those above it, all that are missing with mode 0700. Raises OSError, ENOTDIR for a link."""
    try:
        os.mkdir(path, 0o700)
    except FileNotFoundError:
        above = os.path.dirname(path.rstrip("/"))  # os.makedirs gives its mode to the last one only
        if not above:
            raise
        make_folder(above)
        make_folder(path)
    except FileExistsError:
        if os.path.islink(path) or not os.path.isdir(path):
            raise OSError(errno.ENOTDIR, "not a folder", path) from None


def remove_folder(path: str) -> bool:
    """Remove a folder that holds nothing but leftovers; whether it is gone. Raises OSError."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if names(path):
            return False
        for name in os.listdir(path):
            remove(os.path.join(path, name))
        os.rmdir(path)
    return True


def sweep(path: str) -> None:
    """Remove what killed writers left in a folder; what was set aside stays. Raises OSError."""
    if os.path.isdir(path):
        for name in os.listdir(path):
            if name.startswith(_TEMPORARY) and not name.startswith(_DAMAGED):
                remove(os.path.join(path, name))


def names(path: str) -> list[str]:
    """The entries of a folder in order, temporary ones left out; [] when there is none."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith(_TEMPORARY))
    except FileNotFoundError:
        return []


def writable(path: str) -> bool:
    """Whether files can be made in this folder, or in the first existing one above it."""
    while not os.path.isdir(path) and path not in ("", "/"):
        path = os.path.dirname(path)
    return os.access(path or "/", os.W_OK | os.X_OK) and not os.statvfs(path or "/").f_flag & os.ST_RDONLY


@contextmanager
def locked(path: str, *, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel lets go of it when the holder dies.

    Raises OSError; BlockingIOError when somebody else holds it and it is not to be waited for.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def _fill(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def set_aside(path: str) -> None:
    """Rename a file that cannot be read, so that it is neither used nor lost. Raises OSError."""
    folder, name = os.path.split(path)
    os.rename(path, os.path.join(folder, f"{_DAMAGED}{name[-64:]}"))


def _temporary(path: str) -> str:
    """Named after its target, so that it is found again."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{_TEMPORARY}{name[-64:]}")
