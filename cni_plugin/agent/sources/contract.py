"""Where the agent learns its cluster from: what each file of this room promises, and how one is found.

A source speaks to somebody who may be away for an hour, so it lives on threads of its own and never holds the agent's
loop. It puts whole snapshots into a `Mailbox`, never changes; only the newest is of interest. In the other direction
it is told what this node has to announce, and makes that true as soon as it can and for as long as it lives. What one
has behind it, in a folder, is that one's alone.

    open_source({"type": "file", "path": "/etc/tulle/cluster.json"}, "n1", mailbox)   ->   a Source
    mailbox.take()   ->   Snapshot(conf, nodes, me), ""
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple, Protocol, cast

from cni_plugin import rooms
from cni_plugin.cluster import Node
from cni_plugin.conf.reading import Conf as Keys
from cni_plugin.conf.reading import refuse_strangers, typed
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.keys import near
from cni_plugin.network import Address, Network, NetworkConf


class Snapshot(NamedTuple):
    """All that a source knows at one moment.

    `conf` is None as long as the source has no network configuration. `nodes` are all that can be reached, valid and
    without conflict (`cluster.settled`), this one among them if the source has it complete. `me` is this node as far as
    the source knows it: the subnets it was given, () until it has some, and the addresses it is known to have, () if
    the source leaves that to the node. `cni` is the CNI configuration that the source keeps for its nodes, None where
    each has its own. `problems` are told to people; they stop nothing.
    """

    conf: NetworkConf | None
    nodes: tuple[Node, ...] = ()
    me: Node | None = None
    cni: Mapping[str, object] | None = None
    problems: tuple[str, ...] = ()


class Announcement(NamedTuple):
    """What peers must know of this node. `data` tells what the backend adds once the node's subnets are known."""

    addresses: tuple[Address, ...]
    backend: str
    data: Callable[[tuple[Network, ...]], Mapping[str, str]]


class Mailbox:
    """Between a source's threads and the loop: the newest snapshot, what is wrong with the source, and a bell.

    All methods may be called by any thread. `close` it after the source.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._newest: Snapshot | None = None
        self._problem = ""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable when there is something new."""
        return self._bell

    def put(self, snapshot: Snapshot) -> None:
        """The source is there, and this is what it says. One that was not taken yet is forgotten."""
        with self._lock:
            self._newest, self._problem = snapshot, ""
        self._ring()

    def trouble(self, problem: str) -> None:
        """The source cannot be reached or understood, and why; what it said last stays true. "" when it is over."""
        with self._lock:
            changed, self._problem = problem != self._problem, problem
        if changed:
            self._ring()

    def take(self) -> tuple[Snapshot | None, str]:
        """The newest snapshot if there is one that was not taken yet, and what is wrong with the source now."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        with self._lock:
            newest, self._newest = self._newest, None
            return newest, self._problem

    def close(self) -> None:
        """Let go of the descriptor; a thread that still speaks is not heard."""
        with self._lock:
            os.close(self._bell)
            self._bell = -1

    def _ring(self) -> None:
        with self._lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)


class Source(Protocol):
    """A source that was opened: its threads run. No method waits for anybody outside, none raises.

    A source is derived from this; what it leaves out, it has no use for.
    """

    def publish(self, said: Announcement) -> None:
        """Make this known to the peers, and keep it so; what was said before holds no longer."""
        del said

    def ready(self) -> None:
        """This node's network works: take away the mark that says otherwise, where the source has one."""
        return

    def close(self) -> None:
        """End the threads, within a second or two. What was published stays."""


class Module(Protocol):
    """A file of this room, by the name that `source.type` calls it.

    `BESIDE`: files that lie in the folder of the agent's settings where this is their source, by names that
    `tulled --check` knows.
    """

    BESIDE: tuple[str, ...]

    @property
    def Conf(self) -> type[Keys]:
        """The source's own keys, beside `type`."""

    def check(self, conf: Any) -> None:
        """Raises CniError 7 for a setting that cannot be used. Asks nobody."""

    def open_source(self, conf: Any, node: str, mailbox: Mailbox) -> Source:
        """Begin, with settings that were checked. `node` is this node's name."""


def names() -> list[str]:
    """The sources there are, as `source.type` calls them."""
    return rooms.names("agent.sources")


def find(name: str) -> Module:
    """The file of a source there is."""
    _reach_libraries()
    found = rooms.tenant("agent.sources", name)
    assert found is not None, name
    return cast(Module, found)


def open_source(options: Mapping[str, object], node: str, mailbox: Mailbox) -> Source:
    """The source that the agent's settings describe. Raises CniError 7."""
    module, conf = _configured(options)
    return module.open_source(conf, node, mailbox)


def check(options: Mapping[str, object]) -> None:
    """Raises CniError 7 for settings that no source could be opened with."""
    _configured(options)


def beside(options: Mapping[str, object]) -> tuple[str, ...]:
    """The files that lie in the folder of these settings for the source's sake."""
    kind = options.get("type")
    return find(str(kind)).BESIDE if kind in names() else ()


def _configured(options: Mapping[str, object]) -> tuple[Module, Keys]:
    kind = options.get("type")
    if kind not in names():
        wrong = near("type", options) if kind is None else ""
        meant = f"; write type where you wrote {wrong}" if wrong else ""
        raise CniError(INVALID_CONFIG, f"invalid source.type {kind!r}: use one of {', '.join(names())}{meant}")
    module = find(str(kind))
    keys = {key: each for key, each in options.items() if key != "type"}
    conf = typed(keys, module.Conf, "source")
    refuse_strangers(keys, conf, "source")
    module.check(conf)
    return module, conf


def _reach_libraries() -> None:
    """Make importable what only sources need: a bundle keeps it apart, where it costs nobody else anything."""
    inside = getattr(sys, "_MEIPASS", "")
    if inside and f"{inside}/sources" not in sys.path:
        sys.path.append(f"{inside}/sources")
