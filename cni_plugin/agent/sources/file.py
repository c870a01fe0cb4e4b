"""The cluster as people write it down: one file with all of it, or a folder with a file a node.

    {"type": "file", "path": "/etc/tulle/cluster.json"}     the `cluster` object of a network configuration
    {"type": "file", "path": "/etc/tulle/nodes.d"}          net-conf.json, and anything else .json is a node:
                                                            {"name": "n1", "address": "192.0.2.1", "podCIDRs": [...]}

In a folder, `cni-conf.json` may be the nodes' CNI configuration, and names that begin with a dot are nobody's. Changes
are seen by inotify and told once 20 ms have brought no further one, 60 ms after the first at the latest. Promises: what
cannot be read or understood changes nothing, the last that could stays true and the reason is told, file by file; a
folder counts while it has a net-conf.json, so that one being emptied or filled does not. A node leaves when its file is
removed. People keep these files, so nothing is written to them: what this node would announce, its address and what its
backend adds, stands there already or is derived by the peers.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterable, Iterator, Mapping
from threading import Thread
from typing import NamedTuple

import msgspec

from cni_plugin import doubts, flannel
from cni_plugin.agent import conflist
from cni_plugin.agent.sources.contract import Mailbox, Snapshot, Source
from cni_plugin.cluster import Node, parse, same_name, settled, used
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.conf.reading import decode
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.errors import PASSING, UNTOLD
from cni_plugin.kernel.host import files
from cni_plugin.kernel.watch.inotify import Inotify
from cni_plugin.network import NetworkConf
from cni_plugin.network import parse as parse_network

BESIDE = ()
QUIET, LONGEST = 0.020, 0.060
"""Seconds without a change after which the files are read, and seconds after the first change when they are anyway."""
PATROL = 2.0
"""Seconds between two looks where the machine has no inotify left to give, or could not be told what stands there."""
MOST_BYTES = 16 << 20
"""Of one file: 5,000 nodes take one."""
NET_CONF, CNI_CONF = "net-conf.json", "cni-conf.json"
_FRESH = 100_000_000
"""ns: a file may change once more without another time stamp, so one that is younger is read again next time."""
_BROKEN = (CniError, OSError, msgspec.MsgspecError)


class Conf(Keys, frozen=True):
    """`path`: of a file with the whole cluster, or of a folder with a file a node."""

    path: str = "/etc/tulle/cluster.json"


def check(conf: Conf) -> None:
    """Raises CniError 7 for a path that cannot be one."""
    if not conf.path.startswith("/") or "\0" in conf.path:
        remedy = "write the whole path of a file or a folder, from / on"
        raise CniError(INVALID_CONFIG, f"invalid source.path {conf.path!r}: {remedy}")


def open_source(conf: Conf, node: str, mailbox: Mailbox) -> FileSource:
    """Begin to watch."""
    return FileSource(conf.path, node, mailbox)


class FileSource(Source):
    """Watches on a thread of its own until it is closed."""

    def __init__(self, path: str, node: str, mailbox: Mailbox) -> None:
        self._reader = Reader(path, node)
        self._path = path
        self._mailbox = mailbox
        self._told: Snapshot | None = None
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = Thread(target=self._live, name="source-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.eventfd_write(self._end, 1)
        self._thread.join(timeout=2)  # it may hang on a file of another machine
        if not self._thread.is_alive():
            os.close(self._end)

    def _live(self) -> None:
        over = False
        while not over:
            try:
                events = Inotify()
            except OSError as error:
                self._look(None, _no_inotify(error))
                over = self._wait(None, PATROL)
                continue
            try:
                over = self._follow(events)
            except OSError as error:
                self._look(None, _no_inotify(error))
                over = self._wait(None, PATROL)
            finally:
                events.close()

    def _follow(self, events: Inotify) -> bool:
        """Look after each change; True when it is the end. Raises OSError when the kernel cannot watch all there is."""
        while True:
            self._look(events)
            if self._wait(events, PATROL if self._reader.untold else None):
                return True
            if not events.drain():
                continue
            last = time.monotonic() + LONGEST
            while (now := time.monotonic()) < last and self._wait(events, min(QUIET, last - now)) is False:
                if not events.drain():
                    break

    def _wait(self, events: Inotify | None, seconds: float | None) -> bool:
        """Until something happens, or for so long; whether this is the end."""
        waiting = select.poll()
        for fd in (self._end, *(events.filenos() if events else ())):
            waiting.register(fd, select.POLLIN)
        return self._end in dict(waiting.poll(None if seconds is None else seconds * 1000))

    def _look(self, events: Inotify | None, blind: str = "") -> None:
        """Read what changed and tell it. Watched first and read then, so that nothing is missed in between."""
        if events is not None:
            events.watch([self._path, *_links(self._path)])
        snapshot, problem = self._reader.read()
        if snapshot is not None and snapshot != self._told:
            self._told = snapshot
            self._mailbox.put(snapshot)
        self._mailbox.trouble("; ".join(filter(None, (problem, blind))))


class _Entry(NamedTuple):
    """What a file held when it was last good, and what is wrong with it now, or probably is."""

    stamp: tuple[int, ...]
    good: object = None
    problem: str = ""


class Reader:
    """What the files say, and what they said when they were last good. Pure but for reading."""

    def __init__(self, path: str, node: str) -> None:
        self._path = path
        self._node = node
        self._entries: dict[str, _Entry] = {}
        self._last: Snapshot | None = None
        self.untold = False
        """Whether something could not be read for a reason that passes, of whose end no event will tell."""

    def read(self) -> tuple[Snapshot | None, str]:
        """What is true now, None before anything was, and why that is not what the files say, "" when it is."""
        self.untold = False
        try:
            if files.is_folder(self._path):
                self._last = self._of_folder()
            else:
                self._last = self._of_file()
        except Exception as error:  # also one that nobody foresaw: a thread that ended would never tell anything again
            self._note(error)
            return self._last, _words(self._path, error, known=self._last is not None)
        return self._last, ""

    def _of_file(self) -> Snapshot:
        raw = decode(files.follow(self._path, MOST_BYTES), "in the file")
        cluster = parse(raw)
        me = _named(cluster.nodes, self._node)
        me = me or _named(cluster.nodes, cluster.node)  # a file for one node alone may say which one that is
        others = tuple(each for each in cluster.nodes if each != me)
        return Snapshot(
            conf=parse_network(raw),
            nodes=cluster.nodes if me is None or same_name(me.name, self._node) else others,
            me=me,
            problems=tuple(f"{self._path}: {each}" for each in doubts.of_cluster(raw)),
        )

    def _of_folder(self) -> Snapshot:
        names = _names(self._path)
        if NET_CONF not in names:
            raise OSError(errno.ENOENT, f"the folder has no {NET_CONF}: write the network configuration there")
        self._entries = {name: self._entry(name) for name in names}
        conf = self._entries[NET_CONF].good
        cni = self._entries.get(CNI_CONF, _Entry(())).good
        given = [each.good for each in self._entries.values() if isinstance(each.good, Node)]
        if not given:
            raise OSError(errno.ENOENT, "the folder has no node: write a file for each, such as n1.json")
        if not isinstance(conf, NetworkConf):
            conf = None
        nodes, complaints = settled((used(each, conf) for each in given), conf.networks if conf else ())
        problems = (each.problem for each in self._entries.values())
        return Snapshot(
            conf=conf,
            nodes=nodes,
            me=_named(nodes, self._node),
            cni=cni if isinstance(cni, dict) else None,
            problems=(
                *filter(None, problems),
                *(f"{self._path}/{NET_CONF}: {each}" for each in (conf.doubts if conf else ())),
                *(f"{self._path}: {each}" for each in complaints),
            ),
        )

    def _entry(self, name: str) -> _Entry:
        """A file of the folder; not read again if it is the same as before.

        Raises OSError for one that the kernel cannot read now and never did: a node that is left out loses its pods.
        """
        path = os.path.join(self._path, name)
        known = self._entries.get(name, _Entry(()))
        try:
            stamp = _stamp(path)
            if stamp and stamp == known.stamp:
                return known
            raw = decode(files.follow(path, MOST_BYTES), "in the file")
            meaning = _meaning(name, raw)
            doubtful = doubts.of_node(raw) if isinstance(meaning, Node) else ()
            return _Entry(stamp, meaning, "; ".join(f"{path}: {each}" for each in doubtful))
        except _BROKEN as error:
            self._note(error)
            if known.good is None and isinstance(error, OSError) and error.errno in PASSING:
                raise
            return _Entry((), known.good, _words(path, error, known=known.good is not None))

    def _note(self, error: Exception) -> None:
        self.untold = self.untold or (isinstance(error, OSError) and error.errno in UNTOLD)


def _named(nodes: Iterable[Node], name: str) -> Node | None:
    return next((each for each in nodes if same_name(each.name, name)), None)


def _meaning(name: str, raw: Mapping[str, object]) -> object:
    """What a file of that name says. Raises CniError 7."""
    if name == NET_CONF:
        return flannel.parse(raw)
    if name == CNI_CONF:
        return conflist.ours(raw)
    try:
        return parse({"nodes": [raw]}).nodes[0]
    except CniError as error:  # of a list of one, of which its writer knows nothing
        said = error.msg.replace("cluster.nodes[0].", "").replace("cluster.nodes[0]", "node")
        raise CniError(error.code, said) from error


def _names(folder: str) -> list[str]:
    return [name for name in files.names(folder) if name.endswith(".json") and not name.startswith(".")]


def _links(folder: str) -> Iterator[str]:
    """Entries that lead out of the folder. A ConfigMap's lead through its `..data`, an entry of the folder itself.

    Raises OSError where the kernel cannot tell now.
    """
    try:
        for entry in os.scandir(folder):
            if entry.is_symlink() and not os.readlink(entry.path).startswith("..data/"):
                yield entry.path
    except OSError as error:
        if error.errno in UNTOLD:
            raise


def _stamp(path: str) -> tuple[int, ...]:
    """What changes with a file's contents; () while that is not certain."""
    found = os.stat(path)
    fresh = abs(time.time_ns() - found.st_ctime_ns) < _FRESH
    return () if fresh else (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _words(path: str, error: Exception, *, known: bool) -> str:
    if isinstance(error, CniError):
        why = error.msg
    else:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{path}: {why}{'; what it said last stays true' if known else ''}"


def _no_inotify(error: OSError) -> str:
    knob = "fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else "fs.inotify.max_user_instances"
    return f"cannot be told of changes ({error.strerror}), so the files are read every {PATROL:g} s: raise {knob}"
