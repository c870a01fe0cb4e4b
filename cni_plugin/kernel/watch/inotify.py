"""Files and folders of operators: the kernel says when one may be another than it was, wherever its path leads.

A path is walked as the kernel walks it, link by link, and each directory on the way is watched for the next name. So
what is renamed over, removed and made anew, or swapped by a link (a ConfigMap's `..data`) is seen like what is written
in place, and what does not exist yet is waited for at its nearest existing parent. Promise: a change after `watch` is
told by a later `drain`, at the writer's close(2) if it was written in place. Not seen: mounts over a path, and what
other machines do on a network file system.

    events.watch(["/etc/tulle/cluster.json"])     # in /: etc, in /etc: tulle, in /etc/tulle: cluster.json, and itself
    mv new.json /etc/tulle/cluster.json           # drain() == {"/etc/tulle/cluster.json"}

Source of numbers and layout: include/uapi/linux/inotify.h, inotify(7).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Iterator

from cni_plugin.kernel.host.libc import checked, libc

_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR = 0x01000000
_WANTED = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF
_EVENT = struct.Struct("iIII")
_ROOM = 1 << 16
_MOST_LINKS = 40
"""As many as the kernel follows (include/linux/namei.h, MAXSYMLINKS)."""
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
_ANY = ""
"""Stands for every name in a directory, and for the watched thing itself."""


class Inotify:
    """Watches a set of paths. One thread at a time. Raises OSError, EMFILE beyond fs.inotify.max_user_instances."""

    def __init__(self) -> None:
        self._fd = checked(libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        self._steps: dict[str, set[tuple[int, str]]] = {}
        self._waiting: dict[int, dict[str, set[str]]] = {}

    def fileno(self) -> int:
        """Readable when something may have changed."""
        return self._fd

    def filenos(self) -> tuple[int, ...]:
        """The same, for those who wait for several."""
        return (self._fd,)

    def watch(self, paths: Iterable[str]) -> None:
        """These from now on, and no others. Raises OSError, ENOSPC beyond fs.inotify.max_user_watches."""
        wanted = set(paths)
        for path in self._steps.keys() - wanted:
            self._take(path)
        for path in wanted - self._steps.keys():
            self._place(path)
        self._tidy()

    def drain(self) -> set[str]:
        """Those of the watched paths that may have changed since the last time. Waits for nothing. Raises OSError."""
        changed: set[str] = set()
        for descriptor, mask, name in self._events():
            changed |= self._concerned(descriptor, mask, name)
        for path in changed:  # it may lead elsewhere now
            self._take(path)
            self._place(path)
        if changed:
            self._tidy()
        return changed

    def close(self) -> None:
        """Let go of the descriptor and so of all watches."""
        os.close(self._fd)

    def _events(self) -> Iterator[tuple[int, int, str]]:
        while True:
            try:
                data = os.read(self._fd, _ROOM)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                descriptor, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                yield descriptor, mask, os.fsdecode(data[at - length : at].rstrip(b"\0"))

    def _concerned(self, descriptor: int, mask: int, name: str) -> set[str]:
        if mask & _OVERFLOW:
            return set(self._steps)
        names = self._waiting.get(descriptor, {})
        if mask & _IGNORED:  # the thing is gone, and its number will not come back soon
            self._waiting.pop(descriptor, None)
        if not name:
            return set().union(*names.values())
        return names.get(name, set()) | names.get(_ANY, set())

    def _place(self, path: str) -> None:
        """Watch first and look then, so that nothing happens unseen in between."""
        steps = self._steps[path] = set()
        for place, name in _walk(path):
            try:
                kind = _ONLYDIR if name else 0
                descriptor = checked(libc().inotify_add_watch(self._fd, os.fsencode(place), _WANTED | kind), place)
            except OSError as error:
                if error.errno in _NOTHING_THERE:
                    return
                self._take(path)  # so that the next call tries again
                raise
            steps.add((descriptor, name))
            self._waiting.setdefault(descriptor, {}).setdefault(name, set()).add(path)

    def _take(self, path: str) -> None:
        for descriptor, name in self._steps.pop(path, ()):
            self._waiting.get(descriptor, {}).get(name, set()).discard(path)

    def _tidy(self) -> None:
        for descriptor in [each for each, names in self._waiting.items() if not any(names.values())]:
            del self._waiting[descriptor]
            libc().inotify_rm_watch(self._fd, descriptor)  # EINVAL: the thing is gone already


def _walk(path: str) -> Iterator[tuple[str, str]]:
    """Each directory on a path with the name that is looked up in it; at last what is there, with no name."""
    whole = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    here, todo, links = "/", whole.split("/"), 0
    while todo:
        name = todo.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            here = os.path.dirname(here)  # no part of it is a link
            continue
        yield here, name
        here = os.path.join(here, name)
        try:
            target = os.readlink(here)
        except OSError:
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        todo = [*target.split("/"), *todo]
        here = "/" if target.startswith("/") else os.path.dirname(here)
    yield here, _ANY
