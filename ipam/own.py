"""Files and directories that are ours alone: what else stands in their place can be nobody's lease, and makes room.

No symbolic link is followed, and nothing is waited for. All raise OSError as the kernel gave it.
"""

from __future__ import annotations

import errno
import os
import stat

ODD = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What open(2) says of a directory, of none where one is wanted, of a symbolic link, of a socket or a FIFO."""
DAMAGED = ".damaged."
"""How the name begins that a directory gets which stood where a file belongs."""


def ensure_directory(name: str, parent_fd: int) -> None:
    """Makes a private directory unless it is there."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        pass


def open_directory(name: str, parent_fd: int | None = None) -> int:
    """A file descriptor of a directory that is no symbolic link, or -1 if it is not there."""
    try:
        return os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
    except FileNotFoundError:
        return -1


def open_own_directory(name: str, parent_fd: int) -> int:
    """The same for one that is ours alone: what stands there and is none is moved out of the way."""
    try:
        return open_directory(name, parent_fd)
    except OSError as error:
        if error.errno not in ODD:
            raise
        clear(name, parent_fd)
        return -1


def open_own(name: str, flags: int, dir_fd: int) -> int:
    """A file descriptor of a file that is ours alone, no symbolic link; whatever else stands there goes before."""
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK  # to open a FIFO must not wait for who reads or writes it
    try:
        fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
        if _is_file(fd):
            return fd
        os.close(fd)
    except OSError as error:
        if error.errno not in ODD:
            raise
    clear(name, dir_fd)
    return os.open(name, flags, 0o600, dir_fd=dir_fd)


def _is_file(fd: int) -> bool:
    """Closes it when it cannot tell."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        os.close(fd)
        raise


def clear(name: str, dir_fd: int) -> None:
    """Takes away whatever stands there; a directory, which may hold what somebody needs, loses but its name."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        inode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino
        os.rename(name, f"{DAMAGED}{inode}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def replace(name: str, target: str, from_fd: int, to_fd: int) -> None:
    """rename(2), also where a directory has taken the target's place."""
    try:
        os.rename(name, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)
    except IsADirectoryError:
        clear(target, to_fd)
        os.rename(name, target, src_dir_fd=from_fd, dst_dir_fd=to_fd)


def write_whole(fd: int, text: bytes) -> None:
    """write(2) until all is written: near the end of the space it writes less than it was given."""
    while text:
        text = text[os.write(fd, text) :]
